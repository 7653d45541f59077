"""Chains in two: callbacks that are called as they are, because they ask the model or run over all parameters, and behind them a graph."""

from functools import partial
import pytest,torch
from torch import nn
import genopt
from genopt import Optimizer,rename,zeros
from genopt.blocks import average_grad,clip_grad_norm,sgd_step
from genopt.run import compiler
from genopt.blocks import add_decayed_weights,centralize,hutchinson,momentum_step,polyak_rate,sharpness_aware,step_stat
from genopt.blocks.transforms import weight_decay
from helpers import difference

way = pytest.mark.parametrize('kw', [dict(foreach=True), dict(fused=True)], ids=['foreach', 'fused'])
muon = dict(ns_dtype='float32')


def train(make, dtype=torch.float64, n_steps=6, graph=False, reload_at=None, **way):
    "Parameters after some steps by closure, and the optimizer; which is made anew at step `reload_at`, and loads its state"
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3)).to(dtype)
    x,y = torch.randn(20, 5).to(dtype),torch.randn(20, 3).to(dtype)
    opt = make([*net.parameters()], **way)
    def closure():
        opt.zero_grad()
        loss = (net(x)-y).square().mean()
        loss.backward(create_graph=graph)
        return loss
    for i in range(n_steps):
        if i==reload_at:
            saved,opt = opt.state_dict(),make([*net.parameters()], **way)
            opt.load_state_dict(saved)
        torch.manual_seed(1)
        opt.step(closure)
    return {str(i): p.detach() for i,p in enumerate(net.parameters())},opt

def of_list(*cbs, **hypers): return lambda ps, **way: Optimizer(ps, [*cbs], **dict(lr=.01) | hypers, **way)
def matrices_and_others(ps, **way):
    return Optimizer([dict(params=[p for p in ps if p.ndim>1], cbs=[clip_grad_norm, genopt.Muon], lr=.01, **muon),
                      dict(params=[p for p in ps if p.ndim<2], cbs=[clip_grad_norm, genopt.AdamW], lr=.01)], **way)
def curved(update, curvature): return update/(curvature.abs()+1.)
def sometimes(grads, evaluate, params, steps, period=2):
    "Makes a number that the others read"
    fresh = max(steps)%period==0
    return dict(grads=evaluate([p*.9 for p in params])[1] if fresh else grads, fresh=fresh)
def doubled(grad, fresh): return grad*2 if fresh else grad
def carried(updates, params, evaluate):
    "Changes the update itself"
    return dict(updates=[u+g for u,g in zip(updates, evaluate(params)[1])])
def now_and_then(grads, evaluate, params, steps): return dict(grads=evaluate([p*.9 for p in params])[1]) if max(steps)%3==0 else {}
def later_a_tensor(grads, evaluate, params, steps): return dict(ratios=[g.abs()+1 for g in evaluate(params)[1]]) if max(steps)>3 else {}
def scaled_by(grad, ratio=1.): return dict(grad=grad*ratio)
def later_a_rate(grads, evaluate, params, steps, lr): return dict(lr=lr/2) if max(steps)>3 else {}
def scaled(update, p): return update*p.abs()
def shaped(grad): return dict(grad=grad - grad.mean(-1, keepdim=True) if grad.ndim>1 else grad)

chains = dict(
    one_kernel      = of_list(sharpness_aware, genopt.AdamW),
    norms_behind    = of_list(sharpness_aware, clip_grad_norm, genopt.AdamW, max_norm=.1),
    decay_before    = of_list(rename(add_decayed_weights, wd='added'), sharpness_aware, genopt.SGD, wd=.1, added=.1),
    shapes_behind   = of_list(sharpness_aware, centralize, average_grad, momentum_step),
    shapes_before   = of_list(shaped, sharpness_aware, average_grad, momentum_step),
    numbers         = of_list(step_stat, sometimes, average_grad, momentum_step, doubled),
    updates         = of_list(scaled, carried, scaled),
    now_and_then    = of_list(step_stat, now_and_then, average_grad, momentum_step),
    later_a_tensor  = of_list(step_stat, later_a_tensor, scaled_by, average_grad, momentum_step),
    later_a_rate    = of_list(step_stat, later_a_rate, average_grad, momentum_step),
    twice           = of_list(sharpness_aware, shaped, sharpness_aware, genopt.Adam),
    maximized       = of_list(sharpness_aware, genopt.Adam, maximize=True),
    curvature       = (of_list(step_stat, hutchinson, sgd_step, curved), True),
    matrices        = lambda ps, **way: Optimizer([p for p in ps if p.ndim>1], [clip_grad_norm, genopt.Muon], lr=.1, max_norm=.1, **muon, **way),
    groups          = matrices_and_others,
)

@way
@pytest.mark.parametrize('dtype', [torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize('name', chains)
def test_equals_the_loop(name, dtype, kw):
    "Nothing goes through the reference"
    make,graph = chains[name] if isinstance(chains[name], tuple) else (chains[name], False)
    (ours,opt),(loop,_) = train(make, dtype, graph=graph, **kw),train(make, dtype, graph=graph, foreach=False)
    assert difference(ours, loop) <= (1e-6 if name in ('matrices','groups') else 1e-13 if dtype==torch.float64 else 1e-2)
    assert not opt._plan.fallback

def unlike(grads): return dict(grads=[g*(i+1) for i,g in enumerate(grads)])
def drawn(grads): return dict(grads=[g*torch.randn(()) for g in grads])

@way
@pytest.mark.parametrize('cb', [unlike, drawn], ids=lambda c: c.__name__)
def test_parameters_come_in_their_order(cb, kw):
    "Whatever buckets they are in, and of a row and in the loop: some learn otherwise, some have gaps in memory"
    def run(**way):
        rand = torch.Generator().manual_seed(0)
        ps = [torch.randn(6, 2*n, generator=rand, dtype=torch.float64)[:,::1+n%2].requires_grad_() for n in range(1, 8)]
        opt = Optimizer([dict(params=ps[:3], lr=.1), dict(params=ps[3:])], [step_stat, cb, average_grad, momentum_step], lr=.2, **way)
        torch.manual_seed(0)
        for _ in range(3):
            for p in ps: p.grad = torch.randn(p.shape, generator=rand, dtype=torch.float64)
            opt.step()
        return {str(i): p.detach() for i,p in enumerate(ps)},opt
    (ours,opt),(loop,_) = run(**kw),run(foreach=False)
    assert not opt._plan.fallback and difference(ours, loop)<=1e-13 and {s['step'] for s in opt.state.values()}=={3}

@way
def test_what_is_called_before_is_called_once_in_a_step(kw):
    "Also at step 4, where it hands on another tensor and there is another plan in the midst of the step"
    ps,calls = [torch.ones(3, 2, requires_grad=True), torch.ones(4, requires_grad=True)],[]
    opt = Optimizer(ps, [step_stat, later_a_tensor, scaled_by, average_grad, momentum_step], lr=.01, **kw)
    def closure():
        calls[-1] += 1
        opt.zero_grad()
        loss = sum(p.square().sum() for p in ps)
        loss.backward()
        return loss
    for _ in range(6):
        calls.append(0)
        opt.step(closure)
    assert calls==[1, 1, 1, 2, 2, 2] and {s['step'] for s in opt.state.values()}=={6}

@pytest.mark.slow
def test_compiles_nothing_anew():
    train(chains['numbers'], fused=True)
    before = len(compiler.compilations)
    train(chains['numbers'], n_steps=9, fused=True)
    assert len(compiler.compilations)==before

def test_a_norm_of_all_is_of_all():
    "Matrices and others, in two groups that run other algorithms"
    (ours,_),(loop,_) = [train(matrices_and_others, **kw) for kw in ({}, dict(foreach=False))]
    assert difference(ours, loop)<=1e-15

def test_a_counter_is_found():
    "Between steps counters are in a clock; what is called before must find them"
    seen = []
    def look(steps, grads, evaluate):
        seen.append(max(steps))
        return dict(grads=grads)
    train(of_list(step_stat, look, average_grad, momentum_step))
    assert seen[-6:]==[*range(1, 7)]

@pytest.mark.parametrize('make,graph', [(partial(genopt.SAM, lr=.1, momentum=.9), False), (genopt.AdaHessian, True),
                                        (partial(genopt.Sophia, update_period=2), True), (partial(genopt.LBFGS, max_iter=3), False)])
def test_state_goes_on(make, graph):
    "A run that is saved and loaded in the middle is the same"
    assert difference(train(make, graph=graph, reload_at=3)[0], train(make, graph=graph)[0])==0

def keeps(grads, evaluate, avgs=zeros): return dict(grads=[a+g for a,g in zip(avgs, grads)], avgs=grads)
def moves(params, grads, evaluate): return dict(new_ps=[p-g for p,g in zip(params, grads)])
def reshapes(params, evaluate): return dict(tables=[p.new_zeros(3) for p in params])
def reads(grad, table): return grad+table.sum()

@pytest.mark.parametrize('cbs,words', [
    ([weight_decay, sharpness_aware, sgd_step],       "sharpness_aware asks the model for 'evaluate'; weight_decay before it changes 'p'"),
    ([average_grad, momentum_step, carried],          "carried asks the model for 'evaluate'; average_grad before it keeps the state 'grad_avg'"),
    ([keeps, sgd_step],                               "keeps asks the model for 'evaluate'; it keeps the state 'avg'"),
    ([moves],                                         "moves asks the model for 'evaluate'; it changes 'new_p'"),
    ([reshapes, reads],                               "reshapes asks the model for 'evaluate'; it returns 'table' in another shape"),
    ([polyak_rate, sgd_step],                         "polyak_rate asks the model for 'loss'; it returns 'lr' as a tensor"),
], ids=lambda x: x if isinstance(x, str) else '')
def test_what_cannot_be_compiled_says_why_and_runs_otherwise(cbs, words):
    with pytest.raises(ValueError, match=words): train(of_list(*cbs), fused=True)
    assert difference(train(of_list(*cbs))[0], train(of_list(*cbs), foreach=False)[0])==0

def test_a_callback_that_errs_leaves_all_as_it_was():
    def cut_off(params, evaluate, grads): return dict(grads=[g[:1] for g in grads])
    ps  = [torch.ones(3, 2, requires_grad=True)]
    opt = Optimizer(ps, [sgd_step], lr=.1)
    with pytest.raises(ValueError, match="cut_off returned 'grad' of shape"): Optimizer(ps, [cut_off, average_grad, momentum_step], lr=.1)
    ready = []
    def late(params, evaluate, grads): return dict(grads=[g[:1] for g in grads] if ready else grads)
    opt = Optimizer(ps, [late, average_grad, momentum_step], lr=.1)
    def closure():
        opt.zero_grad()
        (loss := ps[0].square().sum()).backward()
        return loss
    for _ in range(2): opt.step(closure)
    before = ps[0].detach().clone(),opt.state[ps[0]]['grad_avg'].clone()
    assert before[1].all()
    ready.append(1)
    with pytest.raises(ValueError, match=r"late changed grad from a tensor of shape \(3, 2\) to a tensor of shape \(1, 2\)"): opt.step(closure)
    assert torch.equal(ps[0], before[0]) and torch.equal(opt.state[ps[0]]['grad_avg'], before[1])

def test_explain_says_what_is_called():
    _,opt = train(chains['one_kernel'])
    assert 'run: sharpness_aware as it is, then one launch for all parameters' in str(opt.explain())
    _,opt = train(chains['curvature'][0], graph=True)
    assert 'run: hutchinson as it is, then' in str(opt.explain())

"""Weights to train and weights to evaluate."""

import copy,pickle,warnings
from functools import partial
import pytest,torch
import genopt,schedulefree
from genopt import AdamW,Optimizer,SGD,copy_of_p,rename
from genopt.blocks import ema_weights,polynomial_average,sgd_step,step_stat
from helpers import gradients,awkward


def trained(opt, ps, steps=range(8)):
    for i in steps:
        for n,g in gradients(i).items():
            if n in ps: ps[n].grad = g
        opt.step()
    return opt
def params(): return {n: p for n,p in awkward().items() if n in ('bias','scalar','strided')}
def values(ps): return {n: p.detach().clone() for n,p in ps.items()}

@pytest.mark.parametrize('name', ['SGDScheduleFree', 'AdamWScheduleFree'])
@pytest.mark.parametrize('kw', [{}, dict(foreach=False), dict(fused=True)])
def test_evaluation_weights_are_those_of_the_authors_package(name, kw):
    ps,qs = params(),params()
    opt,ref = getattr(genopt, name)(ps.values(), lr=.1, **kw),getattr(schedulefree, name)(qs.values(), lr=.1)
    ref.train()
    trained(opt, ps); trained(ref, qs)
    before = values(ps)
    opt.eval(); ref.eval()
    for n in ps: torch.testing.assert_close(ps[n], qs[n], rtol=1e-12, atol=1e-12)
    assert not torch.equal(ps['bias'], before['bias'])
    opt.train()
    for n in ps: assert torch.equal(ps[n], before[n])
    trained(opt, ps, range(8, 12)); ref.train(); trained(ref, qs, range(8, 12))
    for n in ps: torch.testing.assert_close(ps[n], qs[n], rtol=1e-12, atol=1e-12)

@pytest.mark.parametrize('kw', [dict(foreach=False), dict(foreach=True), dict(fused=True)])
def test_the_step_after_an_evaluation_needs_no_new_plan(kw):
    ps  = params()
    opt = trained(genopt.AdamWScheduleFree(ps.values(), lr=.1, **kw), ps)
    plan = opt._plan
    opt.eval(); opt.train()
    trained(opt, ps, [8])
    assert opt._plan is plan

def test_average_is_that_of_torchs_averaged_model():
    model = torch.nn.Linear(3, 2)
    opt   = Optimizer(model.parameters(), [SGD, ema_weights], lr=.1, decay=.9)
    swa   = torch.optim.swa_utils.AveragedModel(model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(.9))
    swa.update_parameters(model)                                           # its first update is a copy
    for i in range(6):
        for p in model.parameters(): p.grad = torch.randn(p.shape, generator=torch.Generator().manual_seed(i))
        opt.step()
        swa.update_parameters(model)
    opt.eval()
    for p,q in zip(model.parameters(), swa.module.parameters()): torch.testing.assert_close(p, q)

def test_polynomial_average():
    "Its weights are those of its formula, added up"
    p   = torch.tensor([1.], dtype=torch.float64, requires_grad=True)
    opt = Optimizer([p], [sgd_step, step_stat, polynomial_average], lr=.1, gamma=2.)
    xs  = []
    for i in range(5):
        p.grad = torch.tensor([1.+i], dtype=torch.float64)
        opt.step()
        xs.append(p.item())
    avg = 0.
    for t,x in enumerate(xs, 1): avg = (1-3/(t+2))*avg + 3/(t+2)*x
    opt.eval()
    assert p.item()==pytest.approx(avg, rel=1e-14)

def test_a_step_needs_the_weights_to_train():
    ps  = params()
    opt = trained(genopt.AdamWScheduleFree(ps.values()), ps)
    opt.eval()
    before,state = values(ps),copy.deepcopy(opt.state_dict())
    with pytest.raises(RuntimeError, match=r'AdamWScheduleFree: the parameters have the weights that opt.eval.. sets; call opt.train\(\)'): opt.step()
    opt.eval()                                                             # twice is once
    assert all(torch.equal(ps[n], before[n]) for n in ps) and not opt.training
    for k,s in state['state'].items():
        for n,v in s.items(): assert torch.equal(v, opt.state_dict()['state'][k][n]) if torch.is_tensor(v) else v==opt.state_dict()['state'][k][n]
    opt.train(); opt.train()
    opt.step()

@pytest.mark.parametrize('how', ['file', 'pickle', 'deepcopy'])
def test_a_checkpoint_of_evaluation_weights_goes_on(how, tmp_path):
    ps   = params()
    opt  = trained(genopt.AdamWScheduleFree(ps.values()), ps)
    want = values(ps)
    opt.eval()
    if how=='file':
        torch.save(dict(ps=ps, opt=opt.state_dict()), tmp_path/'c.pt')
        saved,qs = torch.load(tmp_path/'c.pt', weights_only=True),params()
        for n,q in qs.items(): q.data.copy_(saved['ps'][n].data)
        other = genopt.AdamWScheduleFree(qs.values())
        other.load_state_dict(saved['opt'])
    else:
        other = pickle.loads(pickle.dumps(opt)) if how=='pickle' else copy.deepcopy(opt)
        qs = dict(zip(ps, (p for g in other.param_groups for p in g['params'])))
    assert not other.training and torch.equal(qs['bias'], ps['bias'])
    with pytest.raises(RuntimeError, match='opt.train'): other.step()
    other.train()
    assert all(torch.equal(qs[n], want[n]) for n in ps) and not any('train_p' in s for s in other.state.values())
    opt.train()
    trained(opt, ps, range(8, 11)); trained(other, qs, range(8, 11))
    assert all(torch.equal(ps[n], qs[n]) for n in ps)

def test_one_set_of_weights_is_both():
    ps  = params()
    opt = trained(AdamW(ps.values()), ps)
    before = values(ps)
    opt.eval()
    assert opt.training and all(torch.equal(ps[n], before[n]) for n in ps)
    opt.train()
    opt.step()

def test_untrained_and_low_precision_parameters():
    "What has no state yet stays; what is trained in bfloat16 comes back to the bit"
    a,b = torch.ones(3, dtype=torch.bfloat16, requires_grad=True),torch.ones(2, requires_grad=True)
    opt = Optimizer([a, b], [SGD, ema_weights], lr=.1, decay=.5)
    for g in (.3, .7):
        a.grad = torch.full_like(a, g)
        opt.step()
    want = a.detach().clone()
    opt.eval()
    assert torch.equal(b, torch.ones(2)) and a.dtype==torch.bfloat16 and not torch.equal(a, want)
    opt.train()
    assert torch.equal(a, want)

def looks_at_grad(grad, p): return dict(eval_p=p-grad)
def two_things(p, mom=.9): return dict(eval_p=p, other=p)
def wrong_shape(p): return dict(eval_p=p.sum())
def average_of_grads(grad, eval_p=copy_of_p): return dict(eval_p=eval_p+grad)

@pytest.mark.parametrize('cb,words', [(looks_at_grad, "looks_at_grad returns eval_p, so opt.eval.. runs it, outside of a step, and it cannot read 'grad'"),
                                      (two_things, 'two_things returned eval_p, other'), (wrong_shape, "wrong_shape returned eval_p; opt.eval.. needs eval_p alone")])
def test_what_cannot_be_evaluated_is_refused(cb, words):
    with pytest.raises(ValueError, match=words): Optimizer([torch.ones(3, requires_grad=True)], [sgd_step, cb], lr=.1)

def test_explain_says_when_it_is_run():
    opt = genopt.SGDScheduleFree([torch.ones(3, requires_grad=True)])
    assert 'opt.eval()' in next(line for line in repr(opt.explain()).split('\n') if line.startswith('schedule_free_eval'))

# -- What a callback returns is learned by running it --

def lerp_to(p, z, mom): return dict(eval_p=p + (z-p)*(1-1/mom))
def keep(p, grad, z=copy_of_p): return dict(z=z-.1*grad)
def through_a_helper(p, z, mom): return lerp_to(p, z, mom)
def by_unpacking(p, z, mom):
    out = dict(lerp_to(p, z, mom))
    return dict(**out)
def by_a_name(p, z, mom, key='eval_p'): return {key: lerp_to(p, z, mom)['eval_p']}

@pytest.mark.parametrize('evals', [lerp_to, through_a_helper, by_unpacking, by_a_name, partial(through_a_helper), rename(through_a_helper, mom='mom')])
def test_weights_to_evaluate_are_found_however_they_are_returned(evals):
    p   = torch.full((3,), 2., dtype=torch.float64, requires_grad=True)
    opt = Optimizer([p], [keep, evals, sgd_step], lr=.5, mom=.5)
    p.grad = torch.ones_like(p)
    opt.step()
    assert p.tolist()==[1.5]*3
    opt.eval()
    assert p.tolist()==[1.5 + (1.9-1.5)*(1-1/.5)]*3
    opt.train()
    assert p.tolist()==[1.5]*3 and 'opt.eval()' in str(opt.explain())


# -- Weights that somebody writes between eval() and train() --

def half_way(name='AdamWScheduleFree', dtype=torch.float32, **kw):
    "Parameters, one of them with two sets of weights, and their optimizer, which has trained"
    g  = torch.Generator().manual_seed(0)
    ps = [torch.nn.Parameter(torch.randn(s, generator=g).to(dtype)) for s in ((4, 3), (3,), (0,))]
    if name=='ema': opt = Optimizer(ps, [AdamW, ema_weights], lr=.1, decay=.9, **kw)
    else: opt = getattr(genopt, name)(ps, lr=.1, **kw)
    steps_of(ps, opt)
    return ps,opt
def steps_of(ps, opt, n=3):
    for i in range(n):
        for p in ps: p.grad = torch.randn(p.shape, generator=torch.Generator().manual_seed(i)).to(p.dtype)
        opt.step()

def by_data(p):
    p.data.clamp_(-.1, .1)
def by_no_grad(p):
    with torch.no_grad(): p.clamp_(-.1, .1)
def in_inference_mode(p):
    with torch.inference_mode(): p.clamp_(-.1, .1)
def other_memory(p): p.data = p.data.flip(0)
def loading(p):
    m = torch.nn.ParameterList([p])
    m.load_state_dict({'0': torch.zeros_like(p)})
writers = pytest.mark.parametrize('write', [by_data, by_no_grad, in_inference_mode, other_memory, loading], ids=lambda f: f.__name__)

@writers
@pytest.mark.parametrize('name,dtype', [('AdamWScheduleFree', torch.float32), ('ema', torch.float32), ('ema', torch.bfloat16), ('ema', torch.complex64)], ids=str)
@pytest.mark.parametrize('kw', [{}, dict(foreach=False), dict(fused=True)], ids=str)
def test_what_is_written_while_evaluating_is_not_undone_in_silence(kw, name, dtype, write):
    if dtype.is_complex and 'clamp' in str(write.__code__.co_names): pytest.skip('there is no clamp of complex numbers')
    ps,opt = half_way(name, dtype, **kw)
    trained = [p.detach().clone() for p in ps]
    opt.eval()
    write(ps[0])
    written = [p.detach().clone() for p in ps]
    state = copy.deepcopy(opt.state_dict())
    with pytest.raises(RuntimeError, match=r"parameter 0 in param group 0 was written after opt.eval\(\).*written='keep'"): opt.train()
    assert not opt.training and all(map(torch.equal, ps, written)) and str(opt.state_dict())==str(state)
    other = copy.deepcopy(opt)
    other.train(written='undo')
    assert all(map(torch.equal, (p for g in other.param_groups for p in g['params']), trained))
    opt.train(written='keep')
    assert torch.equal(ps[0], written[0]) and torch.equal(ps[1], trained[1]) and opt.training
    assert not any({'train_p', 'eval_bits'}&s.keys() for s in opt.state.values())
    steps_of(ps, opt, 1)
    with pytest.raises(ValueError, match="written must be one of 'raise', 'keep', 'undo'; got 'no'"): opt.train(written='no')

def test_what_was_not_written_raises_nothing():
    "Rates that are scheduled, a state that is loaded and weights to train that are put back by hand are no writes"
    ps,opt = half_way()
    trained = [p.detach().clone() for p in ps]
    opt.eval()
    opt.param_groups[0].update(lr=.5, betas=(.5, .9))
    opt.load_state_dict(opt.state_dict())
    opt.train()
    assert all(map(torch.equal, ps, trained))
    opt.eval()
    for p,t in zip(ps, trained): p.data.copy_(t)
    opt.train()
    assert all(map(torch.equal, ps, trained))

def test_a_file_of_other_weights_goes_by_names():
    "Parameters in another order: what the file says of each goes with its name"
    def named(order):
        ps  = {n: torch.nn.Parameter(torch.full((3,), float(ord(n)))) for n in order}
        opt = genopt.AdamWScheduleFree(ps.items(), lr=.1)
        for i in range(3):
            for n,p in ps.items(): p.grad = torch.full_like(p, ord(n)-97.5+i)
            opt.step()
        return ps,opt
    (ps,opt),(qs,other) = named('ab'),named('ba')
    other.load_state_dict(opt.state_dict())
    opt.eval()
    for n in 'ab': qs[n].data.copy_(ps[n].data)
    with pytest.raises(RuntimeError, match='b in param group 0 .and 1 more. has the weights that opt.eval.. sets'): other.step()

@pytest.mark.parametrize('first', ['model','optimizer'])
@pytest.mark.parametrize('model,optimizer', [('eval','train'), ('train','eval'), ('eval','eval'), ('train','train')])
@pytest.mark.parametrize('name', ['AdamWScheduleFree', 'ema'])
def test_a_model_and_an_optimizer_that_were_saved_in_different_modes(name, model, optimizer, first, tmp_path):
    ps,opt = half_way(name)
    def save(what):
        getattr(opt, what)()
        return [p.detach().clone() for p in ps],copy.deepcopy(opt.state_dict())
    weights,state = save(model)[0],save(optimizer)[1]
    opt.train()
    want = [p.detach().clone() for p in ps]
    torch.save((weights, state), tmp_path/'c.pt')
    weights,state = torch.load(tmp_path/'c.pt', weights_only=True)
    qs,other = half_way(name)
    def load_model():
        for q,w in zip(qs, weights): q.data.copy_(w)
    if first=='model': load_model()
    other.load_state_dict(state)
    if first!='model': load_model()
    if (model,optimizer)==('eval','train'):
        for again in (other, copy.deepcopy(other)):
            with pytest.raises(RuntimeError, match='parameter 0 in param group 0 .and 1 more. has the weights that opt.eval.. sets.*saved in training'): again.step()
            with pytest.raises(RuntimeError, match='has the weights that opt.eval.. sets'): again.eval()
        assert all(map(torch.equal, qs, weights))
        other.train(written='keep')
        steps_of(qs, other, 1)
    else:
        other.train()
        assert all(map(torch.equal, qs, want))
        steps_of(qs, other, 1)
        steps_of(ps, opt, 1)
        assert all(map(torch.equal, qs, ps))

def test_a_parameter_of_another_shape_is_saved_all_the_same():
    ps,opt = half_way()
    assert [*opt.state_dict()['weights']]==[0, 1, 2]
    ps[0].data = torch.ones(7)
    assert 'weights' not in opt.state_dict()

@pytest.mark.parametrize('kw', [{}, dict(foreach=False), dict(fused=True)], ids=str)
@pytest.mark.parametrize('apart', [True, False], ids=['functions','one'])
def test_a_compiled_loop_evaluates_and_goes_on(kw, apart):
    "torch.compile goes around eval(), train(), init_state() and explain(), as around a step. It would warn of what it traces"
    def run(compiled):
        torch._dynamo.reset()
        torch.manual_seed(0)
        model = torch.nn.Linear(3, 2)
        opt = genopt.AdamWScheduleFree(model.parameters(), lr=.1, **kw)
        def train(x):
            opt.init_state()
            opt.train()
            opt.zero_grad()
            model(x).square().mean().backward()
            opt.step()
        def evaluate(x):
            opt.eval()
            opt.explain()
            return model(x).sum().detach()
        def both(x):
            train(x)
            return evaluate(x)
        if compiled: train,evaluate,both = (torch.compile(f, backend='eager') for f in (train, evaluate, both))
        out = []
        for i in range(3):
            x = torch.ones(4, 3)*(i+1)
            if apart:
                train(x)
                out.append((opt.training, evaluate(x), opt.training))
            else: out.append((both(x), opt.training))
        return out
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert run(True)==run(False)

"Gradient release: parameters move during backward, and their gradients are freed"

import copy,gc,pickle,re,warnings
from pathlib import Path
import pytest,torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR
from torch.profiler import ProfilerActivity,profile
from torch.utils.checkpoint import checkpoint
import genopt
from genopt import AdamW,Optimizer,SGD,release_gradients
from genopt.blocks import clip_grad_norm,clip_grad_value,clip_tensor_norm,lazy_rows
from genopt.optim import optimizer
from genopt.run import choose,compiler,plan
from helpers import awkward,catalogue,gpu,gradients,two_groups

way  = dict(default={}, foreach=dict(foreach=True), loop=dict(foreach=False))
ways = pytest.mark.parametrize('kw', way.values(), ids=way)
alone = [a for a in catalogue if not a.closure and not a.joint]         # a parameter has no say in another's step

def backward(ps, gs):
    "A backward in which the parameters `ps` get the gradients `gs`, by name. Those that are frozen, or have None, get none"
    sum((ps[n]*g).sum() for n,g in gs.items() if n in ps and g is not None and ps[n].requires_grad).backward()

def trained(a, kw, release, steps=20, **more):
    "The parameters, and what is in the state of each, after steps with a schedule, missing gradients, and a frozen parameter"
    ps  = {n: p for n,p in awkward().items() if not a.names or n in a.names}
    kw  = copy.deepcopy(kw)|more
    opt = a.cls(two_groups(ps, float(kw.get('lr', 1e-3)), **a.second), **kw)
    if release: release_gradients(opt)
    schedule = LambdaLR(opt, lambda i: .97**i)
    torch.manual_seed(0)
    for i in range(steps):
        next(iter(ps.values())).requires_grad_(i not in (5, 6))
        backward(ps, gradients(i))
        if release: assert all(p.grad is None for p in ps.values())
        opt.step()
        opt.zero_grad()
        schedule.step()
    return ps,{n: dict(opt.state[p]) for n,p in ps.items()}

def same(a, b):
    if torch.is_tensor(a): return torch.equal(a, b)
    if isinstance(a, dict): return a.keys()==b.keys() and all(same(a[k], b[k]) for k in a)
    return len(a)==len(b) and all(map(same, a, b)) if isinstance(a, (tuple,list)) else a==b


# -- Equal to the ordinary step --

@pytest.mark.parametrize('a', alone, ids=lambda a: a.name)
def test_bits_are_those_of_ordinary_steps(a):
    for kw in [{}, *a.settings(2)]:
        usual,released = [trained(a, kw, release) for release in (False, True)]
        assert same(released, usual), kw

@ways
@pytest.mark.parametrize('name', ['AdamW', 'RAdam', 'LAMB', 'Adafactor', 'Rprop', 'SOAP'])
def test_in_all_ways_to_run(name, kw):
    a = next(a for a in alone if a.name==name)
    assert same(*(trained(a, a.settings(1)[0], release, **kw) for release in (False, True)))

def net(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(10, 33), nn.LayerNorm(33), nn.ReLU(), nn.Linear(33, 3))

def batch(i): return torch.randn(8, 10, generator=torch.Generator().manual_seed(i))
def loss(m, i): return (m(batch(i)) - 1).square().mean()

def fit(m, opt, steps=range(5)):
    for i in steps:
        loss(m, i).backward()
        opt.step()
        opt.zero_grad()
    return [p.detach().clone() for p in m.parameters()]

@pytest.mark.filterwarnings('ignore::RuntimeWarning')                   # the interpreter computes lanes that are not in use
@pytest.mark.parametrize('name', ['AdamW', 'LAMB'])
def test_by_kernels_of_a_gpu_in_the_interpreter(name, monkeypatch):
    pytest.importorskip('triton', minversion='3.6')
    monkeypatch.setitem(choose.dialects, 'cpu', 'triton')
    res = []
    for release in (False, True):
        m   = net()
        opt = getattr(genopt, name)(m.parameters(), lr=.01)
        if release: release_gradients(opt)
        res.append(fit(m, opt, range(3)))
    assert same(*res) and {w.program.request.backend for one in opt._release._ones.values() for w in one.plan.works}=={'triton'}

def pair(make=lambda ps: AdamW(ps, lr=.01), **kw):
    "Two models with optimizers, of which the second releases its gradients"
    usual,m = net(),net()
    opt = make(m.parameters())
    return usual,make(usual.parameters()),m,opt,release_gradients(opt, **kw)

clipped = dict(value=[clip_grad_value, AdamW], norm=[clip_tensor_norm, AdamW])
@pytest.mark.parametrize('cbs', clipped.values(), ids=clipped)
def test_clips_each_gradient(cbs):
    usual,opt0,m,opt,_ = pair(lambda ps: Optimizer(ps, cbs, lr=.01))
    assert same(tuple(fit(m, opt)), tuple(fit(usual, opt0)))

@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize('store', ['bfloat16', 'int8', {'p': 'stochastic'}, None], ids=str)
def test_what_is_rounded_at_random(store, dtype):
    "The bits are those of an ordinary step, because they depend on the step and on the place of a parameter among all"
    store = {'*_avg': dict(dtype=store, smallest=0)} if isinstance(store, str) else store
    res = []
    for release in (False, True):
        m   = net().to(dtype)
        opt = AdamW(m.parameters(), lr=.01, store=store)
        if release: release_gradients(opt)
        torch.manual_seed(release)
        for i in range(5):
            m(torch.linspace(-1, 1, 20).view(2, 10).to(dtype)*(i+1)).square().sum().backward()
            opt.step()
            opt.zero_grad()
        res.append([*m.parameters(), *(v for p in m.parameters() for v in opt.state[p].values() if torch.is_tensor(v))])
    assert all(map(torch.equal, *res))

def test_rows_of_a_sparse_gradient():
    res = []
    for release in (False, True):
        torch.manual_seed(0)
        m = nn.Sequential(nn.Embedding(20, 4, sparse=True), nn.Linear(4, 2))
        opt = Optimizer(m.parameters(), [lazy_rows, AdamW], lr=.1)
        if release: release_gradients(opt)
        for i in range(5):
            m(torch.tensor([i, i+3])).square().sum().backward()
            opt.step()
            opt.zero_grad()
        res.append(tuple(p.detach() for p in m.parameters()))
    assert same(*res)


# -- Within a step --

def test_a_tied_parameter_moves_once_for_both_uses():
    "also where it is used several times, and under a checkpoint"
    res = []
    for release in (False, True):
        torch.manual_seed(0)
        a,b = nn.Linear(6, 6),nn.Linear(6, 6)
        b.weight = a.weight
        opt = AdamW([*a.parameters(), b.bias], lr=.1)
        if release: release_gradients(opt)
        for i in range(4):
            x = batch(i)[:,:6]
            (b(a(a(x))) + checkpoint(a, x, use_reentrant=False)).square().sum().backward()
            assert (a.weight.grad is None)==release
            opt.step()
            opt.zero_grad()
        res.append((a.weight.detach(), a.bias.detach(), b.bias.detach()))
    assert same(*res)

def test_a_second_gradient_in_a_step_is_an_error():
    usual,opt0,m,opt,_ = pair()
    loss(m, 0).backward()
    with pytest.raises(RuntimeError, match=r"AdamW: parameter \d in param group 0 has moved in this step already.*opt.step\(\).*every=n"): loss(m, 0).backward()
    opt.zero_grad()
    opt.step()                                                          # ends the step
    assert same(tuple(fit(m, opt, range(1, 4))), tuple(fit(usual, opt0, range(4))))

def test_weights_that_a_graph_still_needs_are_an_error():
    "and are not taken as they are after the move: torch counts how often they are written"
    _,_,m,opt,_ = pair()
    x = loss(m, 0)
    x.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match='modified by an inplace operation'): x.backward()

def test_a_graph_that_is_kept_may_be_used_in_the_next_step():
    w   = torch.ones(3, requires_grad=True)
    opt = SGD([w], lr=.1)
    release_gradients(opt)
    x = (w*2).sum()
    for _ in range(2):
        x.backward(retain_graph=True)
        opt.step()
    assert torch.equal(w, torch.full((3,), 1-.2-.2))

def accumulated_by_every(m, opt, released, i): loss(m, i).backward()
def accumulated_by_context(m, opt, released, i):
    if i%3==2: return loss(m, i).backward()
    with released.accumulate(): loss(m, i).backward()

@pytest.mark.parametrize('kw,micro', [(dict(every=3), accumulated_by_every), ({}, accumulated_by_context)], ids=['every', 'context'])
def test_gradients_add_up(kw, micro):
    usual,opt0,m,opt,released = pair(**kw)
    for i in range(9):
        loss(usual, i).backward()
        micro(m, opt, released, i)
        assert all((p.grad is None)==(i%3==2) for p in m.parameters())
        if i%3==2:
            for o in (opt0, opt):
                o.step()
                o.zero_grad()
    assert same(tuple(m.parameters()), tuple(usual.parameters()))

def test_a_last_round_may_be_short():
    usual,opt0,m,opt,_ = pair(every=4)
    for n in (4, 3, 4):
        for i in range(n):
            loss(usual, i).backward()
            loss(m, i).backward()
        for o in (opt0, opt):
            o.step()
            o.zero_grad()
    assert same(tuple(m.parameters()), tuple(usual.parameters()))

def test_a_step_has_one_set_of_values():
    "What is set between two parameters of a step holds from the next step on, and so does what is set between backward and step"
    a,b = [torch.zeros(2).requires_grad_() for _ in range(2)]
    opt = SGD([a, b], lr=1.)
    release_gradients(opt)
    a.register_post_accumulate_grad_hook(lambda p: opt.param_groups[0].update(lr=.1))
    b.register_post_accumulate_grad_hook(lambda p: opt.param_groups[0].update(lr=.1))
    for moved in (-1., -1.1):
        (a+b).sum().backward()
        opt.step()
        assert a.tolist()==b.tolist()==pytest.approx([moved]*2)

def test_a_gradient_set_by_hand_is_taken_in_step():
    usual,opt0,m,opt,_ = pair()
    for i in range(3):
        for mm,o in ((usual, opt0), (m, opt)):
            mm[3](torch.ones(33)).sum().backward()
            mm[0].bias.grad = torch.full((33,), i+1.)
            o.step()
            assert (mm[0].bias.grad is None)==(mm is m)
            o.zero_grad()
    assert same(tuple(m.parameters()), tuple(usual.parameters()))

def test_a_closure_and_hooks_of_the_step():
    usual,opt0,m,opt,_ = pair()
    seen = []
    opt.register_step_post_hook(lambda *_: seen.append('post'))
    def closure(m=m, opt=opt):
        opt.zero_grad()
        res = loss(m, 0)
        res.backward()
        return res
    for _ in range(3):
        assert torch.equal(opt.step(closure), opt0.step(lambda: closure(usual, opt0)))
    assert same(tuple(m.parameters()), tuple(usual.parameters())) and seen==['post']*3

def test_schedulers_find_their_step():
    m   = net()
    opt = AdamW(m.parameters(), lr=.01)
    release_gradients(opt)
    schedule = LambdaLR(opt, lambda i: .5**i)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        for i in range(3):
            fit(m, opt, [i])
            schedule.step()
    assert opt.param_groups[0]['lr']==.01*.5**3

@pytest.mark.filterwarnings('ignore:Using backward:UserWarning')
def test_what_is_on_around_backward_does_not_matter():
    "autocast would make products of matrices in bfloat16, and with `create_graph` torch would record what the callbacks do"
    res = []
    for on in (False, True):
        m   = nn.Sequential(nn.Linear(16, 16, bias=False), nn.Linear(16, 16, bias=False))
        for i,p in enumerate(m.parameters()): p.data = torch.randn(16, 16, generator=torch.Generator().manual_seed(i))
        opt = Optimizer(m.parameters(), [lambda update: update@update], lr=.01)
        release_gradients(opt)
        for _ in range(3):
            x = sum((p**2).sum() for p in m.parameters())
            with torch.autocast('cpu', torch.bfloat16, enabled=on): x.backward(create_graph=on)
            opt.step()
        res.append(tuple(p.detach() for p in m.parameters()))
    assert same(*res)

def test_a_gradient_that_is_not_finite_is_told():
    m   = net()
    opt = AdamW(m.named_parameters(), lr=.01, nonfinite='raise')
    release_gradients(opt)
    fit(m, opt, [0])
    with pytest.raises(FloatingPointError, match='the gradient of 3.* has .*NaN.*has not moved; those with earlier'): (loss(m, 1)*float('nan')).backward()
    assert all(p.isfinite().all() for p in m.parameters())


def test_low_precision_that_moves_nothing_is_told():
    m   = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 100)).bfloat16()
    opt = AdamW(m.named_parameters(), lr=1e-6, store={'p': 'nearest'})
    release_gradients(opt)
    def step():
        m(torch.ones(1, 8).bfloat16()).sum().backward()
        opt.step()
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        for _ in range(10): step()
    with pytest.warns(UserWarning, match='changed hardly any element of 1.weight in param group 0'): step()


# -- Which parameters --

def test_frozen_and_thawed():
    usual,opt0,m,opt,_ = pair()
    for mm,o in ((usual, opt0), (m, opt)):
        mm[0].requires_grad_(False)
        fit(mm, o, range(3))
        mm[0].requires_grad_(True)
        mm[3].requires_grad_(False)
        fit(mm, o, range(3, 6))
    assert same(tuple(m.parameters()), tuple(usual.parameters()))

def test_frozen_from_the_start():
    "It moves in `step` once, and during backward from then on"
    usual,m = net(),net()
    for mm in (usual, m): mm[0].requires_grad_(False)
    opt0,opt = AdamW(usual.parameters(), lr=.01),AdamW(m.parameters(), lr=.01)
    release_gradients(opt)
    for mm,o in ((usual, opt0), (m, opt)):
        fit(mm, o, [0])
        mm[0].requires_grad_(True)
        fit(mm, o, [1, 2])
    loss(m, 3).backward()
    assert all(p.grad is None for p in m.parameters())
    opt.step()
    fit(usual, opt0, [3])
    assert same(tuple(m.parameters()), tuple(usual.parameters()))

def test_a_group_that_is_added_and_one_that_goes():
    usual,m,res = net(),net(),[]
    for mm,release in ((usual, False), (m, True)):
        opt = AdamW(mm[3].parameters(), lr=.01)
        if release: release_gradients(opt)
        fit(mm, opt, range(2))
        opt.add_param_group(dict(params=[*mm[0].parameters()], lr=.1))
        fit(mm, opt, range(2, 5))
        del opt.param_groups[0]
        fit(mm, opt, range(5, 8))
        res.append(tuple(p.detach() for p in mm.parameters()))
    assert same(*res)
    assert not m[3].weight._post_accumulate_grad_hooks and m[0].weight._post_accumulate_grad_hooks

def test_errors_name_the_parameter_in_its_group():
    m   = net()
    opt = AdamW([dict(params=m[0].parameters()), dict(params=[m[3].bias, m[3].weight])], lr=.01)
    release_gradients(opt)
    fit(m, opt, [0])
    with torch.no_grad(): m[3].weight.data = torch.zeros(4, 33)
    m[3].bias.data = torch.zeros(4)
    with pytest.raises(RuntimeError, match='parameter [01] in param group 1 has shape'): (m(batch(0))**2).sum().backward()


# -- What cannot be --

def fp32(): return [torch.ones(3, requires_grad=True)]
refused = dict(
    clip_grad_norm = (lambda: Optimizer(fp32(), [clip_grad_norm, AdamW], lr=.1), "param group 0: clip_grad_norm reads 'grads', of all parameters.*clip_tensor_norm"),
    Prodigy        = (lambda: genopt.Prodigy(fp32()), "param group 0: .* reads '.*', of all parameters"),
    LBFGS          = (lambda: genopt.LBFGS(fp32()), "lbfgs_step reads 'loss', which belongs to a whole step"),
    SAM            = (lambda: Optimizer(fp32(), [genopt.blocks.sharpness_aware, SGD], lr=.1), "reads 'evaluate'"),
    skip           = (lambda: AdamW(fp32(), nonfinite='skip'), "nonfinite='skip' does not work with release_gradients"),
    capturable     = (lambda: AdamW(fp32(), capturable=True), "capturable=True does not work with release_gradients"),
)
@pytest.mark.parametrize('make,match', refused.values(), ids=refused)
def test_what_cannot_move_alone_is_refused(make, match):
    opt = make()
    with pytest.raises(ValueError, match=match): release_gradients(opt)
    assert opt._release is None and not opt.param_groups[0]['params'][0]._post_accumulate_grad_hooks

def test_wrong_arguments():
    opt = AdamW(fp32())
    with pytest.raises(TypeError, match=r'an optimizer of genopt, got torch.optim.adamw.AdamW'): release_gradients(torch.optim.AdamW(fp32()))
    for every in (0, 1.5, True):
        with pytest.raises(ValueError, match='every must be a whole number'): release_gradients(opt, every=every)
    release_gradients(opt)
    with pytest.raises(ValueError, match='releases its gradients already'): release_gradients(opt)

def test_a_group_that_cannot_move_alone_is_refused_in_its_first_backward():
    p,q = torch.ones(3, requires_grad=True),torch.ones(3, requires_grad=True)
    opt = AdamW([p])
    release_gradients(opt)
    opt.add_param_group(dict(params=[q], cbs=[clip_grad_norm, SGD], lr=.1))
    opt.step()
    with pytest.raises(ValueError, match='param group 1: clip_grad_norm'): q.sum().backward()
    opt.zero_grad()
    opt.step()
    opt.nonfinite = 'skip'
    with pytest.raises(ValueError, match='does not work with release_gradients'): p.sum().backward()

@pytest.mark.parametrize('enabled', [True, False])
def test_a_grad_scaler_is_refused(enabled):
    m   = net()
    opt = AdamW(m.parameters())
    release_gradients(opt)
    scaler = torch.amp.GradScaler('cpu', enabled=enabled)
    scaler.scale(loss(m, 0)).backward()
    if not enabled: return scaler.step(opt)
    with pytest.raises(RuntimeError, match='release_gradients does not work with a GradScaler.*bfloat16'): scaler.step(opt)

def test_two_optimizers_of_one_parameter():
    p = torch.ones(3, requires_grad=True)
    opts = [SGD([p], lr=.1) for _ in range(2)]
    for o in opts: release_gradients(o)
    with pytest.raises(RuntimeError, match='the gradient of parameter 0 in param group 0 has been freed by another hook'): p.sum().backward()

def test_weights_to_evaluate_wait():
    usual,opt0,m,opt,_ = pair(lambda ps: genopt.AdamWScheduleFree(ps, lr=.01))
    for mm,o in ((usual, opt0), (m, opt)):
        fit(mm, o, range(3))
        o.eval()
        loss(mm, 3).backward()
        with pytest.raises(RuntimeError, match='call opt.train'): o.step()
        o.train()
        o.step()
        o.zero_grad()
        fit(mm, o, range(4, 6))
    assert same(tuple(m.parameters()), tuple(usual.parameters()))


# -- What outlives it --

def test_state_dicts_and_copies_in_the_middle():
    "Hooks do not travel: copies take ordinary steps"
    usual,opt0,m,opt,_ = pair()
    fit(usual, opt0, range(3))
    fit(m, opt, range(3))
    m2,m3 = copy.deepcopy(m),copy.deepcopy(m)
    assert not any(p._post_accumulate_grad_hooks for p in m2.parameters())
    assert same(opt.state_dict(), opt0.state_dict()) and same(opt.torch_state_dict(), opt0.torch_state_dict())
    m4,o4 = copy.deepcopy((m, opt))
    m5,o5 = pickle.loads(pickle.dumps((m, opt)))
    o2,o3 = AdamW(m2.parameters(), lr=.01),AdamW(m3.parameters(), lr=.01)
    release_gradients(o3)
    for o in (o2, o3): o.load_state_dict(opt.state_dict())
    assert o4._release is None and o5._release is None
    end = tuple(fit(usual, opt0, range(3, 6)))
    for mm,o in ((m2, o2), (m3, o3), (m4, o4), (m5, o5), (m, opt)): assert same(tuple(fit(mm, o, range(3, 6))), end)

def test_loading_into_one_that_releases():
    usual,opt0,m,opt,_ = pair()
    fit(usual, opt0, range(3))
    fit(m, opt, range(2))
    m.load_state_dict(usual.state_dict())
    opt.load_state_dict(opt0.state_dict())
    assert same(tuple(fit(m, opt, range(3, 6))), tuple(fit(usual, opt0, range(3, 6))))

def test_the_user_may_write_state():
    usual,opt0,m,opt,_ = pair()
    for mm,o in ((usual, opt0), (m, opt)):
        fit(mm, o, range(2))
        o.state[mm[0].weight]['step'] = 7
        o.state[mm[0].bias]['grad_avg'] = torch.ones(33)
        fit(mm, o, range(2, 4))
    assert same(tuple(m.parameters()), tuple(usual.parameters())) and opt.state[m[0].weight]['step']==9

def test_removed_and_released_again():
    usual,opt0,m,opt,released = pair()
    with released: fit(m, opt, range(2))
    assert opt._release is None and not any(p._post_accumulate_grad_hooks for p in m.parameters())
    fit(m, opt, range(2, 4))
    with release_gradients(opt): fit(m, opt, range(4, 6))                # the plan of the ordinary steps is not used behind it
    released.remove()
    with pytest.raises(RuntimeError, match='this release has ended'), released: pass
    fit(m, opt, range(6, 8))
    assert same(tuple(m.parameters()), tuple(fit(usual, opt0, range(8)))) and same(opt.state_dict(), opt0.state_dict())

def test_an_optimizer_that_is_dropped_moves_nothing():
    m   = net()
    opt = AdamW(m.parameters())
    release_gradients(opt)
    before = [p.detach().clone() for p in m.parameters()]
    del opt
    loss(m, 0).backward()
    assert same(before, [p.detach() for p in m.parameters()]) and not any(p._post_accumulate_grad_hooks for p in m.parameters())

def test_the_first_step_of_a_distributed_checkpoint_does_not_count():
    m   = net()
    opt = AdamW(m.parameters(), lr=0.)
    release_gradients(opt)
    for p in m.parameters(): p.grad = torch.zeros_like(p)
    opt.step()
    assert {s['step'] for s in opt.state.values()}=={0}


# -- Time and memory --

@ways
def test_nothing_is_planned_or_compiled_again(kw, monkeypatch):
    plans = []
    class Counted(plan.Plan):
        def __init__(self, *args, **kw): plans.append(super().__init__(*args, **kw))
    monkeypatch.setattr(optimizer, 'Plan', Counted)
    m   = net()
    opt = AdamW(m.parameters(), lr=.01, **kw)
    release_gradients(opt)
    schedule = LambdaLR(opt, lambda i: .99**i)
    fit(m, opt, [0])
    assert len(plans)==6
    compiled = compiler.compilations
    for i in range(100):
        fit(m, opt, [i])
        schedule.step()
        opt.state_dict()
    assert len(plans)==6 and compiler.compilations==compiled

def peak(run):
    "The most bytes that are allocated at once while `run()` is, beyond those that were before"
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen: run()
    events = sorted((e for e in seen.profiler.kineto_results.events() if e.name()=='[memory]'), key=lambda e: e.start_ns())
    total,most = 0,0
    for e in events:
        total += e.nbytes()
        most = max(most, total)
    return most

layers,width = 8,256
@ways
@pytest.mark.parametrize('cls', [AdamW, genopt.LAMB, genopt.Muon, genopt.SOAP])
def test_gradients_are_hardly_there(cls, kw):
    "Those of all layers but one are not there at once, nor what a step needs for them"
    peaks = []
    for release in (False, True):
        m   = nn.Sequential(*[nn.Linear(width, width, bias=False) for _ in range(layers)])
        opt = cls(m.parameters(), **kw)
        if release: release_gradients(opt)
        def step(m=m, opt=opt):
            m(torch.ones(1, width)).sum().backward()
            opt.step()
            opt.zero_grad()
        for _ in range(4): step()
        peaks.append(peak(step)/(4*width*width))
    usual,released = peaks
    assert usual>=layers and released<usual-layers+1.1                  # in layers
    if not kw and cls in (AdamW, genopt.LAMB): assert released<1.1

def test_no_scratch_memory_stays():
    "nor gradients: what is allocated during training is parameters and states"
    def bytes_of(xs): return sum(x.nbytes for x in xs if torch.is_tensor(x))
    for cls,kw in ((AdamW, {}), (AdamW, dict(foreach=False)), (genopt.Muon, {}), (genopt.Shampoo, {})):
        gc.collect()
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
            m   = nn.Sequential(*[nn.Linear(width, width, bias=False) for _ in range(4)])
            opt = cls(m.parameters(), lr=.01, **kw)
            release_gradients(opt)
            for _ in range(4):
                m(torch.ones(1, width)).sum().backward()
                opt.step()
        there = sum(e.nbytes() for e in seen.profiler.kineto_results.events() if e.name()=='[memory]')
        assert there<1.01*(bytes_of(m.parameters()) + sum(bytes_of(s.values()) for s in opt.state.values()))

@gpu
@pytest.mark.parametrize('cls', [AdamW, genopt.LAMB, genopt.Muon])
def test_on_a_gpu(cls):
    "The same bits, and the gradients are hardly there. `backward` runs hooks in a thread of its own there"
    weights,peaks = [],[]
    for release in (False, True):
        torch.manual_seed(0)
        m   = nn.Sequential(*[nn.Linear(1024, 1024, bias=False) for _ in range(layers)]).cuda()
        opt = cls(m.parameters(), lr=1e-3)
        if release: release_gradients(opt)
        schedule = LambdaLR(opt, lambda i: .9**i)
        for _ in range(4):
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            m(torch.ones(1, 1024, device='cuda')).square().sum().backward()
            opt.step()
            opt.zero_grad()
            schedule.step()
        torch.cuda.synchronize()
        peaks.append((torch.cuda.max_memory_allocated()-before)/(4*1024*1024))
        weights.append([p.detach().cpu() for p in m.parameters()])
        del m,opt,schedule
    assert same(*weights) or all(torch.allclose(a, b, atol=1e-6) for a,b in zip(*weights)) and cls is genopt.Muon
    assert peaks[0]>=layers and peaks[1]<peaks[0]-layers+1.2, peaks

def test_code_about_memory_runs():
    blocks = re.findall(r'```python\n(.*?)```', (Path(__file__).parent.parent/'docs/memory.md').read_text(encoding='utf-8'), re.S)
    scope = {}
    for code in blocks: exec(compile(code, 'memory.md', 'exec'), scope)
    assert len(blocks)==7

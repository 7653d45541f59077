"""Gradients that are not finite: propagated, told, or the step left out."""

import copy,math
import pytest,torch
import genopt
from helpers import algorithms,awkward,gradients,two_groups

each = pytest.mark.parametrize('a', algorithms, ids=lambda a: a.name)
ways = pytest.mark.parametrize('kw', [dict(foreach=False), {}, pytest.param(dict(fused=True), marks=pytest.mark.slow)], ids=['loop','default','fused'])


def poisoned(gs, i):
    "The gradients `gs` with one bad value: another place and another kind for each `i`"
    n = ['matrix','bias','scalar','strided'][i%4]
    gs = {k: g if g is None else g.clone() for k,g in gs.items()}
    g = gs[n] if gs[n] is not None else gs['bias']
    g[(-1,)*g.ndim] = [math.nan, math.inf, -math.inf][i%3]
    return gs

def snapshot(opt): return copy.deepcopy(dict(opt.state_dict()))
def equal(a, b):
    if isinstance(a, torch.Tensor): return torch.equal(a, b)
    if isinstance(a, dict): return a.keys()==b.keys() and all(equal(a[k], b[k]) for k in a)
    return len(a)==len(b) and all(map(equal, a, b)) if isinstance(a, (list,tuple)) else a==b

@ways
@each
def test_a_run_with_bad_steps_is_the_run_without_them(a, kw):
    "Two bad steps in the middle; also large enough parameters to go in chunks, which `awkward` has not, in the next test"
    runs = []
    for bad in [], [7, 12]:
        ps,base = awkward(),a.cases()[-1] | dict(foreach=None)
        opt = a.cls(two_groups(ps, base['lr']), **base|kw, nonfinite='skip')
        for i in range(20):
            for k in bad:
                if i!=k: continue
                for n,g in poisoned(gradients(i), k).items(): ps[n].grad = g
                before = snapshot(opt)
                opt.step()
                assert opt.last_step_skipped and equal(before, snapshot(opt))
            for n,g in gradients(i).items(): ps[n].grad = g
            opt.step()
            assert not opt.last_step_skipped
        assert opt.skipped_steps==len(bad)
        runs.append((ps, snapshot(opt)))
    (ps, s),(qs, t) = runs
    assert all(torch.equal(ps[n], qs[n]) for n in ps) and equal(s, t)

@ways
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16, *(pytest.param(d, marks=pytest.mark.slow) for d in (torch.float16, torch.complex64))])
@pytest.mark.parametrize('bad', [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize('where', ['large', 'small', 'transposed'])
def test_one_bad_element_anywhere_is_seen(kw, dtype, bad, where):
    torch.manual_seed(0)
    shapes = dict(large=(300,300), small=(40,), transposed=(30,400))
    ps = {n: torch.nn.Parameter(torch.randn(*s).to(dtype)) for n,s in shapes.items()}
    opt = genopt.Adam(ps.items(), lr=.1, nonfinite='skip', **kw)
    def give(zero):
        for n,p in ps.items():
            g = torch.randn(p.shape).to(dtype)
            if n=='transposed': g = g.t().contiguous().t()
            if zero and p.grad is not None: p.grad.copy_(g)
            else: p.grad = g
    give(True); opt.step()
    give(True); opt.step()
    give(True)
    ps[where].grad[(-1,)*ps[where].ndim] = bad
    before,state = {n: p.detach().clone() for n,p in ps.items()},snapshot(opt)
    opt.step()
    assert opt.last_step_skipped and all(torch.equal(before[n], p) for n,p in ps.items()) and equal(state, snapshot(opt))
    left = ps[where].grad[(-1,)*ps[where].ndim]
    assert left.isnan() if math.isnan(bad) else left==bad                        # the gradient itself is the user's
    give(True); opt.step()
    assert not opt.last_step_skipped and not any(torch.equal(before[n], p) for n,p in ps.items())

@ways
def test_looking_changes_nothing(kw):
    "What was gathered to be looked at is used again, unless something else came into its place: here gradients that lie otherwise than their parameters"
    runs = []
    for policy in ('propagate', 'skip'):
        rand = torch.Generator().manual_seed(0)
        ps = [torch.nn.Parameter(torch.randn(s, generator=rand)) for s in [(40,), (300,300), (50,), (90,80), (60,)]]
        opt = genopt.Adam(ps, nonfinite=policy, **kw)
        for _ in range(3):
            for p in ps: p.grad = torch.randn(p.shape[::-1], generator=rand).t() if p.ndim==2 else torch.randn(p.shape, generator=rand)
            opt.step()
        runs.append(ps)
    assert all(torch.equal(p, q) for p,q in zip(*runs))

@ways
def test_sums_that_overflow_are_no_reason_and_squares_are(kw):
    p = torch.nn.Parameter(torch.zeros(1000))
    opt = genopt.SGD([p], lr=1e-20, nonfinite='skip', **kw)
    p.grad = torch.full((1000,), 1.5e19)                                   # the squares are finite, their sum is not
    opt.step()
    assert not opt.last_step_skipped and p.all()
    p.grad[3] = 2e19
    opt.step()
    assert opt.last_step_skipped

@ways
def test_raise_names_the_parameter_and_what_it_has(kw):
    net = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.Linear(2, 1))
    opt = genopt.Adam(net.named_parameters(), nonfinite='raise', **kw)
    net(torch.ones(1, 3)).sum().backward()
    opt.step()
    net[1].weight.grad[0,0],before = math.nan,snapshot(opt)
    with pytest.raises(FloatingPointError, match="Adam: the gradient of 1.weight in param group 0 has 1 NaN among 2 elements.*Nothing has changed"):
        opt.step()
    assert equal(before, snapshot(opt))
    net[1].weight.grad[:] = torch.tensor([math.inf, 3e19])
    with pytest.raises(FloatingPointError, match="has 1 infinite, 1 with a square that overflows among 2 elements"): opt.step()
    net[1].weight.grad.zero_()
    opt.step()

@ways
def test_propagate_is_the_default_and_can_be_changed(kw):
    p = torch.nn.Parameter(torch.ones(3))
    opt = genopt.SGD([p], lr=.1, **kw)
    p.grad = torch.tensor([1., math.nan, 1.])
    opt.nonfinite = 'skip'; opt.step()
    assert torch.equal(p, torch.ones(3)) and opt.skipped_steps==1 and copy.deepcopy(opt).nonfinite=='skip'
    opt.nonfinite = 'propagate'; opt.step()
    assert p.isnan().tolist()==[False, True, False] and not opt.last_step_skipped
    for bad in ('ignore', None, True):
        with pytest.raises(ValueError, match="nonfinite must be one of 'propagate', 'raise', 'skip'; got"): opt.nonfinite = bad
    with pytest.raises(ValueError, match='nonfinite must be one of'): genopt.Adam([p], nonfinite='no')
    with pytest.raises(ValueError, match="capturable=True cannot look at gradients"): genopt.Adam([p], nonfinite='skip', capturable=True)
    with pytest.raises(ValueError, match="capturable=True cannot look at gradients"): genopt.Adam([p], capturable=True).nonfinite = 'raise'

def test_a_closure_is_evaluated_and_its_loss_returned():
    p = torch.nn.Parameter(torch.ones(2))
    opt = genopt.Adam([p], nonfinite='skip')
    def closure():
        opt.zero_grad()
        (loss := (p*math.inf).sum()).backward()
        return loss
    assert opt.step(closure).isinf() and opt.last_step_skipped and torch.equal(p, torch.ones(2)) and not opt.state

@pytest.mark.parametrize('make', [genopt.Adam, genopt.Muon], ids=lambda a: a.__name__)
@pytest.mark.parametrize('policy', ['propagate', 'skip', 'raise'])
def test_no_policy_plans_anew(make, policy, monkeypatch):
    "The first steps make a plan; the others use it, and those of one launch take the quick way"
    from genopt.optim import optimizer
    made,long = [],[]
    plan,slow = optimizer.Plan,genopt.Optimizer._long_step
    monkeypatch.setattr(optimizer, 'Plan', lambda *args, **kw: made.append(1) or plan(*args, **kw))
    monkeypatch.setattr(genopt.Optimizer, '_long_step', lambda self, *args: long.append(1) or slow(self, *args))
    p = torch.ones(4, 3, requires_grad=True)
    opt = make([p], lr=.1, nonfinite=policy)
    for _ in range(8):
        p.grad = torch.ones_like(p)
        opt.step()
    assert len(made)<=2 and (not opt._plan.simple or len(long)<=2)

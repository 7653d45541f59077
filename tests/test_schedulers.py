"""Every scheduler of torch.optim.lr_scheduler, beside torch's own optimizer with the same scheduler: rates, momenta, and the numbers they lead to."""

import copy,pickle,warnings
import pytest,torch
from torch import nn
from torch.optim import lr_scheduler as ls
import genopt
from helpers import algorithms

way = dict(loop=dict(foreach=False), default={}, fused=dict(fused=True))
by_name = {a.name: a for a in algorithms}
settings = dict(SGD=dict(momentum=.7, weight_decay=.01), RMSprop=dict(momentum=.7), AdamW=dict(betas=(.7, .95)), RAdam=dict(betas=(.7, .95)), NAdam=dict(betas=(.7, .95)))

schedulers = dict(
    LambdaLR          = lambda o: ls.LambdaLR(o, [lambda i: .9**i, lambda i: 1/(i+1)]),
    MultiplicativeLR  = lambda o: ls.MultiplicativeLR(o, lambda i: .95),
    StepLR            = lambda o: ls.StepLR(o, 3, .5),
    MultiStepLR       = lambda o: ls.MultiStepLR(o, [2, 5, 6], .3),
    ConstantLR        = lambda o: ls.ConstantLR(o, .25, 4),
    LinearLR          = lambda o: ls.LinearLR(o, .1, 1., 6),
    ExponentialLR     = lambda o: ls.ExponentialLR(o, .8),
    PolynomialLR      = lambda o: ls.PolynomialLR(o, 10, 2.),
    CosineAnnealingLR = lambda o: ls.CosineAnnealingLR(o, 5, 1e-4),
    CosineAnnealingWarmRestarts = lambda o: ls.CosineAnnealingWarmRestarts(o, 3, 2),
    SequentialLR      = lambda o: ls.SequentialLR(o, [ls.LinearLR(o, .1, 1., 4), ls.ExponentialLR(o, .8)], [4]),
    ChainedScheduler  = lambda o: ls.ChainedScheduler([ls.LinearLR(o, .1, 1., 4), ls.ExponentialLR(o, .9)]),
    ReduceLROnPlateau = lambda o: ls.ReduceLROnPlateau(o, factor=.5, patience=1),
    CyclicLR          = lambda o: ls.CyclicLR(o, .001, [.05, .02], step_size_up=3, base_momentum=.5, max_momentum=.9),
    CyclicLR_exp      = lambda o: ls.CyclicLR(o, .001, .05, step_size_up=3, mode='exp_range', gamma=.9, cycle_momentum=False),
    OneCycleLR        = lambda o: ls.OneCycleLR(o, [.05, .02], total_steps=14, base_momentum=.5, max_momentum=.9, three_phase=True),
    OneCycleLR_still  = lambda o: ls.OneCycleLR(o, .05, total_steps=14, cycle_momentum=False),
)
cycled = {'CyclicLR', 'OneCycleLR'}

def test_none_is_missing():
    public = {n for n in ls.__all__ if isinstance(getattr(ls, n), type)}-{'LRScheduler'}
    assert public<={n.partition('_')[0] for n in schedulers}

def made(cls, name, scheduler, lr=.02, **kw):
    "Two groups of two kinds, their optimizer and scheduler"
    g  = torch.Generator().manual_seed(0)
    ps = [nn.Parameter(torch.randn(s, generator=g, dtype=torch.float64)) for s in ((3, 2), (4,), (700,))]
    opt = cls([dict(params=ps[:2]), dict(params=ps[2:], lr=lr/2)], lr=lr, **settings.get(name, {}), **kw)
    return ps,opt,scheduler(opt)

def advance(i, ps, opt, s):
    g = torch.Generator().manual_seed(100+i)
    for p in ps: p.grad = torch.randn(p.shape, generator=g, dtype=torch.float64)
    opt.step()
    s.step(*[[1., .5, .6, .7, .8, .4][i%6]] if isinstance(s, ls.ReduceLROnPlateau) else [])

def momentum(g): return g['betas'][0] if 'betas' in g else g['momentum']

@pytest.mark.parametrize('name', ['SGD', 'AdamW', *(pytest.param(n, marks=pytest.mark.slow) for n in ('RMSprop', 'RAdam', 'NAdam'))])
@pytest.mark.parametrize('scheduler', schedulers)
def test_rates_momenta_and_parameters_are_torchs(scheduler, name):
    with warnings.catch_warnings():
        warnings.filterwarnings('ignore', message='.*epoch parameter in `scheduler.step|To get the last learning rate')
        ref = made(by_name[name].reference, name, schedulers[scheduler])
        own = {k: made(by_name[name].cls, name, schedulers[scheduler], **kw) for k,kw in way.items() if k!='fused' or name=='AdamW'}
        seen = set()
        for i in range(12):
            for k,run in own.items():
                for g,r in zip(run[1].param_groups, ref[1].param_groups):
                    assert g['lr']==r['lr'] and momentum(g)==momentum(r) and g.get('initial_lr')==r.get('initial_lr'), (k, i)
            seen.add((ref[1].param_groups[0]['lr'], momentum(ref[1].param_groups[0])))
            for run in (ref, *own.values()): advance(i, *run)
            for k,run in own.items():
                for p,q in zip(run[0], ref[0]): torch.testing.assert_close(p, q, rtol=1e-12, atol=1e-13, msg=lambda m: f'{k}, step {i}: {m}')
    assert len(seen)>1 and (len({m for _,m in seen})>1)==(scheduler in cycled)

@pytest.mark.parametrize('scheduler', sorted(cycled))
def test_a_cycled_momentum_is_the_one_used(scheduler):
    "With momentum that stays, the parameters are others"
    runs = [made(genopt.AdamW, 'AdamW', schedulers[scheduler]) for _ in range(2)]
    for i in range(6):
        for g in runs[1][1].param_groups: g['betas'] = (.7, .95)
        for r in runs: advance(i, *r)
    assert not torch.allclose(runs[0][0][0], runs[1][0][0], rtol=1e-3)

@pytest.mark.parametrize('kw', way.values(), ids=way)
@pytest.mark.parametrize('scheduler', ['OneCycleLR', 'SequentialLR', 'ReduceLROnPlateau', 'CosineAnnealingWarmRestarts'])
def test_a_run_goes_on_with_its_schedule(scheduler, kw):
    "Saved in the middle, loaded into fresh ones"
    a,b = [made(genopt.AdamW, 'AdamW', schedulers[scheduler], **kw) for _ in range(2)]
    for i in range(5): advance(i, *a)
    saved = copy.deepcopy(([p.detach() for p in a[0]], a[1].state_dict(), a[2].state_dict()))
    for p,q in zip(b[0], saved[0]): p.data.copy_(q)
    b[1].load_state_dict(saved[1]); b[2].load_state_dict(saved[2])
    for i in range(5, 10):
        for r in (a, b): advance(i, *r)
    assert all(torch.equal(p, q) for p,q in zip(a[0], b[0])) and a[1].param_groups[0]['lr']==b[1].param_groups[0]['lr']

@pytest.mark.parametrize('kw', way.values(), ids=way)
@pytest.mark.parametrize('scheduler', ['StepLR', 'LinearLR', 'CosineAnnealingLR', 'ReduceLROnPlateau'])
def test_a_rate_in_a_tensor_is_scheduled(scheduler, kw):
    runs = [made(genopt.AdamW, 'AdamW', schedulers[scheduler], lr=lr, **kw) for lr in (.02, torch.tensor(.02, dtype=torch.float64))]
    for i in range(8):
        for r in runs: advance(i, *r)
    assert torch.is_tensor(runs[1][1].param_groups[0]['lr']) or scheduler=='ReduceLROnPlateau'           # which in older torch puts a number there
    for p,q in zip(runs[0][0], runs[1][0]): torch.testing.assert_close(p, q, rtol=1e-9, atol=1e-12)    # the scheduler's own arithmetic is in float32

def test_a_group_that_is_added_has_a_schedule_of_its_own():
    p = nn.Parameter(torch.ones(2))
    opt = genopt.AdamW([p], lr=.1)
    s = ls.LambdaLR(opt, lambda i: .5**i)
    opt.step(); s.step()
    opt.add_param_group(dict(params=[nn.Parameter(torch.ones(3))], lr=.3))
    t = ls.ExponentialLR(opt, .5)                                                              # torch's schedulers know the groups of their beginning
    opt.step(); t.step()
    assert [g['lr'] for g in opt.param_groups]==[pytest.approx(.025), pytest.approx(.15)]

def test_a_scheduler_goes_with_its_optimizer():
    "Copied and pickled together, one steers the other"
    ps,opt,s = made(genopt.AdamW, 'AdamW', schedulers['ExponentialLR'])
    advance(0, ps, opt, s)
    for qs,o,t in (copy.deepcopy((ps, opt, s)), pickle.loads(pickle.dumps((ps, opt, s)))):
        advance(1, qs, o, t)
        assert t.optimizer is o and o.param_groups[0]['lr']==pytest.approx(.02*.64) and opt.param_groups[0]['lr']==pytest.approx(.02*.8)

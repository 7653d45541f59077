"""What comes with torch around an optimizer: averaged weights, mixed precision, `torch.compile` of a whole train step, hooks on state dicts."""

import copy,subprocess,sys,warnings
from collections import Counter
from pathlib import Path
import pytest,torch
from torch import nn
from torch.optim import swa_utils
import genopt
from helpers import algorithms

way  = dict(loop=dict(foreach=False), default={}, fused=dict(fused=True))
ways = pytest.mark.parametrize('kw', way.values(), ids=way)
each = pytest.mark.parametrize('a', algorithms, ids=lambda a: a.name)

def net(seed=0, norm=False):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8) if norm else nn.Tanh(), nn.Linear(8, 2))
def batch(i): return torch.randn(6, 4, generator=torch.Generator().manual_seed(i))
def equal(m, n): return all(torch.equal(p, q) for p,q in zip(m.parameters(), n.parameters()))


# -- Averaged weights --

@ways
@pytest.mark.parametrize('kind', ['mean','exponential','exponential on copies'])
def test_averaged_weights_follow_every_step(kind, kw):
    "Against averages by hand; also when small parameters lie side by side, where an average must not lie with them"
    m = net()
    opt = genopt.AdamW(m.parameters(), lr=.05, **kw)
    more = {} if kind=='mean' else dict(multi_avg_fn=swa_utils.get_ema_multi_avg_fn(.75))
    average,seen = swa_utils.AveragedModel(m, **more),[]
    for i in range(5):
        opt.zero_grad(); m(batch(i)).square().sum().backward(); opt.step()
        average.update_parameters(m)
        seen.append([p.detach().clone() for p in m.parameters()])
    by_hand = [torch.stack(ps).mean(0) for ps in zip(*seen)]
    if kind!='mean':
        by_hand = seen[0]
        for ps in seen[1:]: by_hand = [.75*a+.25*p for a,p in zip(by_hand, ps)]
    for p,q in zip(average.parameters(), by_hand): torch.testing.assert_close(p.detach(), q, rtol=1e-5, atol=1e-7)
    assert not any(p.data_ptr()==q.data_ptr() for p,q in zip(m.parameters(), average.parameters()))

@ways
def test_a_run_of_swa_is_torchs(kw):
    "SWALR anneals the rates of the groups, update_bn goes over the data"
    runs = []
    for cls,more in ((torch.optim.SGD, {}), (genopt.SGD, kw)):
        m = net(norm=True).double()
        opt = cls([dict(params=m[0].parameters()), dict(params=[*m[1].parameters(), *m[2].parameters()], lr=.01)], lr=.05, momentum=.9, **more)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(opt, 8)
        swa,average,rates = swa_utils.SWALR(opt, swa_lr=.02, anneal_epochs=3),swa_utils.AveragedModel(m),[]
        for i in range(8):
            opt.zero_grad(); m(batch(i).double()).square().sum().backward(); opt.step()
            if i>3: average.update_parameters(m)
            (swa if i>3 else schedule).step()
            rates.append([g['lr'] for g in opt.param_groups])
        swa_utils.update_bn([batch(i).double() for i in range(4)], average)
        runs.append((rates, average.state_dict()))
    assert runs[0][0]==runs[1][0] and len({r for r,_ in rates})>4
    for n in runs[0][1]: torch.testing.assert_close(runs[1][1][n], runs[0][1][n], rtol=1e-9, atol=1e-12)


# -- Mixed precision --

counting,counts = ('Adam','AdamW','NAdam','RAdam','LAMB'),[1., 2., 2., 3., 4., 4., 5., 6.]            # who keeps a counter, and how it goes below

@ways
@each
def test_a_scaled_run_with_infinite_gradients_is_torchs(a, kw):
    "On a CPU, scale by scale: what the scaler skips is no step, its counter stays"
    if kw.get('fused') and a.name not in ('SGD','AdamW'): pytest.skip('compiled once for all')
    runs = []
    for cls,more in ((a.reference, {}), (a.cls, kw)):
        m,steps = net().double(),[]
        opt,scaler = cls(m.parameters(), lr=.01, **more),torch.amp.GradScaler('cpu', init_scale=2.**8, growth_interval=2)
        for i in range(8):
            opt.zero_grad()
            scaler.scale(m(batch(i).double()).square().mean()*(float('inf') if i in (2, 5) else 1.)).backward()
            scaler.unscale_(opt)
            before = copy.deepcopy(([*m.parameters()], opt.state_dict()))
            scaler.step(opt); scaler.update()
            if i in (2, 5): assert all(torch.equal(p, q) for p,q in zip(m.parameters(), before[0])) and repr(before[1])==repr(opt.state_dict())
            steps += [float(s['step']) for s in opt.state.values() if 'step' in s][:1]
        runs.append((m, scaler.get_scale(), steps))
    (m, scale, steps),(n, other, counted) = runs
    assert scale==other and steps in ([], counts) and counted==(counts if a.name in counting else [])
    for p,q in zip(m.parameters(), n.parameters()): torch.testing.assert_close(p, q, rtol=1e-11, atol=1e-13)

@ways
def test_autocast_to_bfloat16(kw):
    "Parameters, gradients and state are float32; the run is torch's"
    runs = []
    for cls,more in ((torch.optim.AdamW, {}), (genopt.AdamW, kw)):
        m = net()
        opt = cls(m.parameters(), lr=.01, **more)
        for i in range(5):
            opt.zero_grad()
            with torch.autocast('cpu', dtype=torch.bfloat16):
                (out := m(batch(i))).float().square().mean().backward()
                opt.step()                                                                      # within autocast, too, all is float32
        assert out.dtype==torch.bfloat16 and all(p.dtype==p.grad.dtype==torch.float32 for p in m.parameters())
        runs.append(m)
    assert all(v.dtype==torch.float32 for s in opt.state.values() for v in s.values() if torch.is_tensor(v))
    for p,q in zip(runs[0].parameters(), runs[1].parameters()): torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-6)


# -- torch.compile around the optimizer --

def train_step(m, opt):
    def one(x):
        opt.zero_grad()
        loss = m(x).square().mean()
        loss.backward()
        opt.step()
        return loss.detach()
    return one

@ways
@pytest.mark.parametrize('cls', [genopt.SGD, genopt.AdamW, genopt.LAMB])
def test_a_compiled_train_step_gives_the_uncompiled_numbers_and_is_compiled_once(cls, kw):
    "The compiler goes around the step: it finds few graphs, and none anew when rates change"
    if kw.get('fused') and cls is not genopt.AdamW: pytest.skip('compiled once for all')
    import torch._dynamo as dynamo
    from torch._dynamo.utils import counters
    dynamo.reset(); counters.clear()
    (m, opt),(n, ref) = [(m, cls(m.parameters(), lr=.01, **kw)) for m in (net(), net())]
    one,plain = torch.compile(train_step(m, opt), backend='aot_eager'),train_step(n, ref)
    for i in range(6):
        for o in (opt, ref): o.param_groups[0]['lr'] = .01/(i+1)
        with dynamo.config.patch(error_on_recompile=i>0): torch.testing.assert_close(one(batch(i)), plain(batch(i)), rtol=1e-6, atol=1e-7)
    assert counters['stats']['unique_graphs']<=3 and sum(counters['graph_break'].values())<=4, counters['graph_break']
    for p,q in zip(m.parameters(), n.parameters()): torch.testing.assert_close(p, q, rtol=1e-6, atol=1e-7)
    assert all(type(s['step']) is int and s['step']==6 for s in opt.state.values() if 'step' in s)

def test_importing_genopt_imports_no_compiler():
    "It would take seconds; torch itself does it when an optimizer is made"
    code = "import sys,genopt; print([m for m in ('torch._dynamo', 'torch._inductor', 'torch.distributed.tensor') if m in sys.modules and m not in before])"
    res = subprocess.run([sys.executable, '-c', 'import sys,torch; before = {*sys.modules}; ' + code], capture_output=True, text=True, cwd=Path(genopt.__file__).parent.parent)
    assert res.stdout.strip()=='[]', res.stdout+res.stderr


# -- Hooks --

@each
def test_hooks_on_state_dicts(a):
    "Before and after, of saving and of loading; they see it, may change it, and may be taken off"
    p,q,seen = [nn.Parameter(torch.ones(3)) for _ in range(2)]+[[]]
    opt,other = a.cls([p], lr=.1),a.cls([q], lr=.1)
    p.grad = torch.ones(3)
    opt.step()
    handles = [opt.register_state_dict_pre_hook(lambda o: seen.append('pre')), opt.register_state_dict_post_hook(lambda o, sd: sd | dict(note=len(seen))),
               other.register_load_state_dict_pre_hook(lambda o, sd: seen.append(sorted(sd))), other.register_load_state_dict_pre_hook(lambda o, sd: seen.append('first'), prepend=True),
               other.register_load_state_dict_post_hook(lambda o: seen.append('loaded'))]
    saved = opt.state_dict()
    assert saved['note']==1
    other.load_state_dict(saved)
    assert seen==['pre', 'first', ['note', 'param_groups', 'state'], 'loaded']
    for h in handles: h.remove()
    other.load_state_dict(opt.state_dict())
    assert 'note' not in opt.state_dict() and len(seen)==4

def test_a_hook_may_take_off_a_step():
    "Step hooks see the optimizer before and after, change arguments, and gradients"
    p = nn.Parameter(torch.ones(2))
    opt,counts = genopt.SGD([p], lr=1.),Counter()
    def clip(o, args, kwargs):
        nn.utils.clip_grad_norm_([x for g in o.param_groups for x in g['params']], 1.)
        counts['pre'] += 1
    opt.register_step_pre_hook(clip)
    opt.register_step_post_hook(lambda o, args, kwargs: counts.update(post=1))
    p.grad = torch.tensor([30., 40.])
    opt.step()
    torch.testing.assert_close(p.detach(), torch.tensor([.4, .2]), rtol=1e-5, atol=1e-6)
    assert counts==dict(pre=1, post=1)

@ways
def test_the_profiler_sees_a_step(kw):
    p = nn.Parameter(torch.ones(2))
    opt = genopt.Adam([p], **kw)
    p.grad = torch.ones(2)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as prof: opt.step()
    assert any('Optimizer.step#Adam.step' in e.key for e in prof.key_averages())

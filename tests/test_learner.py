"""fastai's side of an optimizer, and fastai's Learner itself where it is installed."""

from functools import partial
import pytest,torch
import genopt
from genopt.tools.bench import one_thread

ways = pytest.mark.parametrize('kw', [dict(foreach=False), {}, dict(fused=True)], ids=['loop','default','fused'])


def three_groups(cls=genopt.Adam, **kw):
    ps = [torch.ones(n, requires_grad=True) for n in (2, 3, 4)]
    return ps,cls([[p] for p in ps], **kw)

def test_hypers_are_set_for_all_groups_or_for_each():
    opt = three_groups()[1]
    opt.set_hypers(lr=.1, mom=.8)
    assert [g['lr'] for g in opt.param_groups]==[.1]*3 and opt.param_groups[2]['betas']==(.8, .999)
    for v,lrs in (slice(.001, .1), [.001, .01, .1]),(slice(.1), [.01, .01, .1]),([.1, .2, .3], [.1, .2, .3]):
        opt.set_hyper('lr', v)
        assert [g['lr'] for g in opt.param_groups]==pytest.approx(lrs)
    import numpy as np
    opt.set_hyper('mom', np.float64(.7))
    assert type(opt.param_groups[0]['betas'][0]) is float
    with pytest.raises(ValueError, match="Adam has 3 groups, got 2 values for 'lr'"): opt.set_hyper('lr', [.1, .2])
    with pytest.raises(KeyError, match="no hyper-parameter 'lrr', did you mean 'lr'"): opt.set_hyper('lrr', .1)
    no_mom = genopt.Optimizer([torch.ones(2, requires_grad=True)], [genopt.blocks.sgd_step], lr=.1)
    no_mom.set_hyper('mom', .9)                                         # one-cycle schedules it for everybody
    assert no_mom.hypers[0]['mom']==.9 and 'mom' not in repr(no_mom)    # and its recorder asks what it was

def test_layers_are_frozen_and_what_is_forced_goes_on():
    ps,opt = three_groups()
    opt.state[ps[0]]['force_train'] = True
    opt.freeze()
    assert [p.requires_grad for p in ps]==[True, False, True] and opt.frozen_idx==2
    opt.freeze_to(1)
    assert [p.requires_grad for p in ps]==[True, True, True] and opt.frozen_idx==1
    opt.state[ps[0]]['force_train'] = False
    opt.freeze_to(-1); opt.unfreeze()
    assert all(p.requires_grad for p in ps)
    with pytest.warns(UserWarning, match='freeze_to.3. freezes all 3 groups'): opt.freeze_to(3)
    with pytest.raises(ValueError, match='Adam has one group'): genopt.Adam(ps).freeze()

@ways
@pytest.mark.parametrize('cls', [genopt.SGD, genopt.Adam, genopt.AdamW])
def test_marked_parameters_do_not_decay(cls, kw):
    "In whatever way, also when marked after steps, and without forgetting the mark"
    p,q,r = [torch.full((3,), 2., requires_grad=True) for _ in range(3)]
    opt,ref = cls([p, q], lr=.1, weight_decay=.1, **kw),cls([r], lr=.1, weight_decay=0., foreach=False)
    s = torch.full((3,), 2., requires_grad=True)
    decays = cls([s], lr=.1, weight_decay=.1, foreach=False)
    opt.state[p]['do_wd'] = False
    for i in range(4):
        for x in (p, q, r, s): x.grad = torch.full_like(x, i-1.)
        for o in (opt, ref, decays): o.step()
    assert torch.allclose(p, r, rtol=1e-6) and torch.allclose(q, s, rtol=1e-6) and not torch.allclose(p, q)
    assert opt.state[p]['do_wd'] is False
    opt.state[q]['do_wd'] = False
    before = q.detach().clone()
    q.grad = p.grad = torch.zeros(3)
    opt.step()
    if cls is genopt.SGD: assert torch.equal(q, before)                     # the others go on by their averages
    opt.clear_state()
    assert opt.state[p]=={'do_wd': False}


# -- fastai's Learner itself: each feature with genopt's AdamW and with fastai's own Adam, which must do the same --

nn = torch.nn
def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 50, bias=False), nn.BatchNorm1d(50), nn.ReLU(), nn.Linear(50, 10))
def splitter(m): return [[*m[0].parameters()], [*m[1].parameters()], [*m[3].parameters()]]

class Items(list):
    "What export asks of a data set: itself without its items"
    def new_empty(self): return Items()

@pytest.fixture(scope='module')
def digits():
    x,y = pytest.importorskip('sklearn.datasets').load_digits(return_X_y=True)
    items = [*zip(torch.tensor(x/16, dtype=torch.float32), torch.tensor(y))]
    with one_thread(): yield Items(items[:1280]),Items(items[1280:])        # for models this small, threads wait for each other

@pytest.fixture
def learner(digits, tmp_path):
    basics = pytest.importorskip('fastai.basics')
    import fastai.callback.all                                  # noqa: F401, which adds its methods to Learner
    def make(opt_func=genopt.AdamW, **kw):
        dls = basics.DataLoaders(*[basics.DataLoader(ds, bs=64) for ds in digits])
        return basics.Learner(dls, net(), nn.CrossEntropyLoss(), opt_func, splitter=splitter, metrics=basics.accuracy, path=tmp_path, **kw)
    return make

@pytest.fixture
def fastais():
    "fastai's own, with the numbers of torch's AdamW"
    return partial(pytest.importorskip('fastai.optimizer').Adam, sqr_mom=.999, eps=1e-8)

def weights(l): return torch.cat([v.detach().double().flatten() for v in l.model.state_dict().values()])
def state(l): return l.opt.state[l.model[3].weight]
def steps(l): return state(l)['step']

def fit(l):
    l.fit(2, 1e-2)
    assert steps(l)==40 and [h['lr'] for h in l.opt.hypers]==[1e-2]*3

def fit_one_cycle(l):
    l.fit_one_cycle(2, 1e-2)
    lrs,moms = (l.recorder.hps[k] for k in ('lr', 'mom'))
    assert len(lrs)==40 and max(lrs)==pytest.approx(1e-2, rel=.01) and lrs[-1]<1e-4
    assert moms[0]==pytest.approx(.95) and min(moms)==pytest.approx(.85, rel=.01) and l.opt.hypers[0]['mom']==moms[-1]

def fit_flat_cos(l):
    l.fit_flat_cos(2, 1e-2)
    lrs = l.recorder.hps['lr']
    assert lrs[:30]==[1e-2]*30 and lrs[-1]<1e-3 and l.opt.hypers[0]['lr']==lrs[-1]

def lr_find(l):
    "It restores model and optimizer from the file that it wrote"
    l.fit(1, 1e-2)
    before,had = weights(l),{n: v.clone() for n,v in state(l).items() if torch.is_tensor(v)}
    found = l.lr_find(show_plot=False, num_it=60)
    assert 1e-4<found.valley<1 and len(l.recorder.lrs)>20
    assert torch.equal(weights(l), before) and had and all(torch.equal(state(l)[n], v) for n,v in had.items())
    l.fit(1, float(found.valley)/10)

def freezing(l):
    "Norm layers go on"
    first,norm = l.model[0].weight,l.model[1].weight
    def trained(f):
        was = first.detach().clone(),norm.detach().clone()
        f()
        l.fit(1, 1e-2)
        return not torch.equal(was[0], first),not torch.equal(was[1], norm)
    assert trained(l.freeze)==(False, True) and l.opt.frozen_idx==2
    assert trained(lambda: l.freeze_to(1))==(False, True) and trained(lambda: l.freeze_to(-3))==(True, True)
    l.freeze()
    assert trained(l.unfreeze)==(True, True)

def slices(l):
    "One rate for each group, in each of the schedules"
    l.fit(1, slice(1e-4, 1e-2))
    assert [h['lr'] for h in l.opt.hypers]==pytest.approx([1e-4, 1e-3, 1e-2])
    l.fit_one_cycle(1, slice(1e-2))
    l.fit_flat_cos(1, slice(1e-3, 1e-2))
    lrs = [h['lr'] for h in l.opt.hypers]
    assert lrs[1]/lrs[0]==pytest.approx(10**.5) and lrs[2]/lrs[1]==pytest.approx(10**.5)

def save_and_load(l):
    l.fit(1, 1e-2)
    l.save('half')
    l.fit(1, 1e-2)
    whole,n = weights(l),steps(l)
    l.load('half')
    assert steps(l)==20
    l.fit(1, 1e-2)
    assert torch.equal(weights(l), whole) and steps(l)==n==40

def export(l):
    "The optimizer is made anew from the class that is in the file, and the one at hand goes on as if nothing had been"
    from fastai.learner import load_learner
    l.fit(1, 1e-2)
    l.export('digits.pkl')
    other,dls = load_learner(l.path/'digits.pkl'),l.dls
    assert torch.equal(weights(other), weights(l)) and steps(l)==20
    assert torch.equal(other.get_preds(dl=dls.valid)[0], l.get_preds()[0])
    other.dls = dls
    other.fit(1, 1e-2)
    assert type(other.opt) is type(l.opt) and steps(other)==20
    l.fit(1, 1e-2)
    assert steps(l)==40

def half_precision(l, name):
    """fastai asks CUDA for autocast and a scaler, and without it trains in float32. What it does with them is seen here with those of the CPU,
    and a scale that overflows at first"""
    from fastai.callback.all import Callback,MixedPrecision
    class OnCPU(Callback):
        order = MixedPrecision.order+1
        def before_fit(self):
            mixed,fp16 = l.mixed_precision,name=='to_fp16'
            mixed.autocast = torch.autocast('cpu', torch.float16 if fp16 else torch.bfloat16)
            l.scaler = torch.amp.GradScaler('cpu', init_scale=2.**40, growth_interval=10, enabled=fp16)
        def after_pred(self): self.dtype = torch.is_autocast_enabled('cpu') and torch.get_autocast_dtype('cpu')
    getattr(l, name)()
    l.add_cb(OnCPU())
    l.fit(3, 1e-2)
    assert l.on_cpu.dtype is (torch.float16 if name=='to_fp16' else torch.bfloat16)
    assert l.model[0].weight.dtype==torch.float32 and (20<steps(l)<60 if name=='to_fp16' else steps(l)==60)      # float16 skips the steps that overflow
    l.remove_cb(OnCPU)
    l.to_fp32()
    l.fit(1, 1e-2)
def to_fp16(l): half_precision(l, 'to_fp16')
def to_bf16(l): half_precision(l, 'to_bf16')

def accumulation(l):
    from fastai.callback.all import GradientAccumulation
    l.fit(2, 1e-2, cbs=GradientAccumulation(256))
    assert steps(l)==10

def clipping(l):
    from fastai.callback.all import Callback,GradientClip
    class Norms(Callback):
        order,norms = 90,[]
        def before_step(self): self.norms.append(torch.stack([p.grad.norm() for p in l.model.parameters()]).norm().item())
    l.fit(2, 1e-2, cbs=[GradientClip(.1), Norms()])
    assert len(Norms.norms)==40 and .0999<max(Norms.norms)<.1001

def plateau(l):
    from fastai.callback.all import ReduceLROnPlateau
    lrs = []
    class Rates(ReduceLROnPlateau):
        def after_epoch(self):
            lrs.append(l.opt.hypers[-1]['lr'])
            super().after_epoch()
    l.fit(4, 1e-2, cbs=Rates(monitor='valid_loss', patience=1, factor=4, min_delta=10))       # nothing is good enough
    assert lrs==pytest.approx([1e-2, 1e-2, 2.5e-3, 6.25e-4])

features = [fit, fit_one_cycle, fit_flat_cos, lr_find, freezing, slices, save_and_load, export, to_fp16, to_bf16, accumulation, clipping, plateau]

@pytest.mark.slow
@pytest.mark.parametrize('kw', [{}, dict(fused=True)], ids=['default','fused'])
@pytest.mark.parametrize('feature', features, ids=lambda f: f.__name__)
def test_learner(feature, kw, learner, fastais):
    ours,theirs = learner(partial(genopt.AdamW, **kw) if kw else genopt.AdamW),learner(fastais)
    for l in ours,theirs:
        with l.no_bar(), l.no_logging(): feature(l)
    tol = .02 if feature in (to_fp16, to_bf16) else 1e-4
    assert (weights(ours)-weights(theirs)).abs().max()<tol*weights(theirs).abs().max()
    assert ours.validate()[1]>.75

@pytest.mark.slow
@pytest.mark.parametrize('bn_bias', [False, True])
def test_learner_decays_norm_and_bias_or_not(bn_bias, learner, fastais):
    "Also after its flags went through a file"
    ls = [learner(f, wd=.5, wd_bn_bias=bn_bias) for f in (genopt.AdamW, fastais)]
    for l in ls:
        with l.no_bar(), l.no_logging():
            l.fit(1, 1e-2)
            l.save('half')
            l.load('half')
            l.fit(1, 1e-2)
    flags = [ls[0].opt.state[p].get('do_wd', True) for p in ls[0].model.parameters()]
    assert flags==[True, bn_bias, bn_bias, True, bn_bias]
    assert (weights(ls[0])-weights(ls[1])).abs().max()<1e-4*weights(ls[1]).abs().max()

@pytest.mark.slow
@pytest.mark.parametrize('opt_func', [partial(genopt.RMSprop, momentum=.9), genopt.SGD, genopt.Lion, genopt.LAMB], ids=['RMSprop','SGD','Lion','LAMB'])
def test_learner_takes_the_others(opt_func, learner):
    "One cycle schedules momentum for those, too, that have none"
    l = learner(opt_func)
    with l.no_bar(), l.no_logging(): l.fit_one_cycle(4, {genopt.SGD: .1, genopt.Lion: 1e-3, genopt.LAMB: .03}.get(opt_func, slice(1e-3, 1e-2)))
    assert l.validate()[1]>.75

@pytest.mark.slow
def test_one_cycle_without_a_momentum_to_schedule(learner):
    l = learner(partial(genopt.Optimizer, cbs=[genopt.blocks.sgd_step]))
    with l.no_bar(), l.no_logging(): l.fit_one_cycle(2, .1)
    assert len(l.recorder.hps['mom'])==40 and l.recorder.hps['mom'][0]==pytest.approx(.95)

rates = dict(SGD=.1, RMSProp=1e-3, Adam=1e-2, RAdam=1e-2, QHAdam=1e-2, Larc=1., Lamb=.05, ranger=1e-2)
@pytest.mark.slow
@pytest.mark.parametrize('kw', [{}, dict(fused=True)], ids=['default','fused'])
@pytest.mark.parametrize('name', rates)
def test_learner_with_fastais_names(name, kw, learner):
    "`from genopt.fastai import ...` instead of `from fastai.optimizer import ...`: the same losses, with schedules of lr and mom, and frozen layers"
    import fastai.optimizer
    import genopt.fastai
    ls = [learner(partial(getattr(genopt.fastai, name), **kw)),learner(getattr(fastai.optimizer, name))]
    def losses(l):
        with l.no_bar(), l.no_logging():
            l.fit_one_cycle(3, slice(rates[name]/4, rates[name]), wd=0. if name=='Larc' else .01)      # its ratio: test_fastai
            yield from l.recorder.losses
            if name!='ranger': l.freeze()                       # fastai's Lookahead pulls frozen parameters, too
            l.fit_flat_cos(2, rates[name])
            yield from l.recorder.losses
    a,b = [torch.tensor([*losses(l)]) for l in ls]
    assert len(a)==100 and b[-1]<.6*b[0], b
    assert (a-b).abs().max()<1e-3 and (weights(ls[0])-weights(ls[1])).abs().max()<1e-3*weights(ls[1]).abs().max()

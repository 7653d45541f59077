"""fastai's side of an optimizer, and fastai's Learner itself where it is installed."""

from functools import partial
import pytest,torch
import genopt

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
    no_mom = genopt.Optimizer([torch.ones(2, requires_grad=True)], [genopt.sgd_step], lr=.1)
    no_mom.set_hyper('mom', .9)                                         # one-cycle schedules it for everybody
    assert 'mom' not in no_mom.hypers[0]

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
    with pytest.warns(UserWarning, match='all 3 groups are frozen'): opt.freeze_to(3)
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
    before,unmoved = q.detach().clone(),cls is genopt.SGD
    q.grad = p.grad = torch.zeros(3)
    opt.step()
    assert torch.equal(q, before) or not unmoved
    opt.clear_state()
    assert opt.state[p]=={'do_wd': False}

@pytest.mark.slow
def test_learner_trains_with_it(tmp_path):
    basics = pytest.importorskip('fastai.basics')
    from fastai.callback.all import GradientAccumulation,GradientClip,ReduceLROnPlateau
    from sklearn.datasets import load_digits
    x,y = load_digits(return_X_y=True)
    items = [*zip(torch.tensor(x/16, dtype=torch.float32), torch.tensor(y))]
    nn = torch.nn
    def learner(opt_func=genopt.Adam, **kw):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(64, 50), nn.BatchNorm1d(50), nn.ReLU(), nn.Linear(50, 10))
        dls = basics.DataLoaders(basics.DataLoader(items[:1400], bs=64, shuffle=True), basics.DataLoader(items[1400:], bs=64))
        splitter = lambda m: [[*m[0].parameters()], [*m[1].parameters(), *m[3].parameters()]]
        return basics.Learner(dls, net, opt_func=opt_func, loss_func=nn.CrossEntropyLoss(), metrics=basics.accuracy, splitter=splitter, path=tmp_path, **kw)
    def good(l): return l.validate()[1]>.85
    for opt_func in (genopt.Adam, partial(genopt.AdamW, eps=1e-6, fused=True), partial(genopt.RMSprop, momentum=.9)):
        l = learner(opt_func)
        with l.no_bar(), l.no_logging(): l.fit_one_cycle(4, 1e-2 if opt_func is genopt.Adam else slice(1e-3, 1e-2))
        assert good(l)
    l = learner(cbs=[GradientAccumulation(128), GradientClip(.5), ReduceLROnPlateau(monitor='valid_loss', patience=0, min_delta=10)], wd=.01, wd_bn_bias=False)
    with l.no_bar(), l.no_logging():
        l.fit(2, 1e-2); l.fit_flat_cos(2, 1e-2)
        assert good(l) and l.opt.hypers[-1]['lr']<1e-2
        assert sum(s.get('do_wd') is False for s in l.opt.state.values())==4
        l.freeze(); l.fit(1, 1e-3); l.unfreeze(); l.fit(1, slice(1e-4, 1e-3)); l.freeze_to(1)
        l.save('digits'); l.lr_find(show_plot=False, num_it=30)
        other = learner()
        other.load('digits')
        assert other.opt is not None and len(other.opt.state)==len(l.opt.state)
        other.fit(1, 1e-3)
    assert good(other)

"""Settings of a group: what a schedule costs, and that a shortcut leads where the long way does."""

import math,re
from functools import partial
import numpy as np
import pytest,torch
import genopt
from genopt import Optimizer,algorithm
from genopt.blocks import average_grad,clip_grad_norm,momentum_step,sgd_step,transforms
from genopt.contract.chain import chain_of
from genopt.optim.settings import Settings,Watched
from helpers import algorithms

each = pytest.mark.parametrize('a', algorithms, ids=lambda a: a.name)

def made(cls, **kw): return cls([torch.ones(4, 3, requires_grad=True)], **kw)
def setting(opt):
    g = opt.param_groups[0]
    return opt._recipe(g).settings(g)
def the_long_way(opt):
    "The settings, by the algorithm itself"
    g = opt.param_groups[0]
    r = opt._recipe(g)
    return Settings.of(r, g, r.values_of(g))
def same(opt):
    a,b = setting(opt),the_long_way(opt)
    return a.chain is b.chain and a.numbers==b.numbers and a.types==b.types and a.asked==b.asked

def number(v): return type(v) in (int,float)

@each
def test_a_shortcut_leads_where_the_long_way_does(a):
    "Each number, alone, changed a little, set to zero, and set to what it was: the same chain, the same numbers, or the same error"
    opt = made(a.cls)
    g,start = opt.param_groups[0],dict(opt.param_groups[0])
    assert same(opt)
    for k,v in start.items():
        if not number(v) and not (isinstance(v, tuple) and v and all(map(number, v))): continue
        for new in (lambda x: x*.9, lambda x: 0*x, lambda x: .5, lambda x: x):
            g[k] = new(v) if number(v) else tuple(map(new, v))
            try: expected = the_long_way(opt)
            except (TypeError, ValueError) as e:
                with pytest.raises(type(e), match=f'^{re.escape(str(e))}$'): setting(opt)
                continue
            got = setting(opt)
            assert got.chain is expected.chain and got.numbers==expected.numbers, (k, g[k])
        g[k] = v

@each
def test_a_schedule_does_not_call_the_algorithm(a, monkeypatch):
    opt = made(a.cls)
    g,calls,build = opt.param_groups[0],[],a.cls.build
    setting(opt)
    monkeypatch.setattr(a.cls, 'build', staticmethod(lambda **kw: (calls.append(1), build(**kw))[1]))
    for _ in range(5):
        g['lr'] *= .9
        setting(opt)
    assert not calls

def test_the_same_values_are_checked_once(monkeypatch):
    opt,checks = made(genopt.AdamW),[]
    g = opt.param_groups[0]
    r = opt._recipe(g)
    check = type(r).check_values_anew
    monkeypatch.setattr(type(r), 'check_values_anew', lambda *args: (checks.append(1), check(*args)))
    for lr,n in ((.1, 1), (.1, 1), (.2, 2), (.1, 2), (.2, 2)):
        g['lr'] = lr
        r.check_values(g, 'AdamW')
        assert len(checks)==n, (lr, n)


# -- Algorithms that decide by a number: the chain is theirs at each step --

@algorithm
def Threshold(lr=.1): return [lr>.05 and clip_grad_norm, sgd_step]
@algorithm
def ByRoot(lr=.1): return [math.sqrt(lr)>.25 and clip_grad_norm, sgd_step]
@algorithm
def ByMaximum(lr=.1): return [max(lr, .05)>.05 and clip_grad_norm, sgd_step]
@algorithm
def ByText(lr=.1): return [f'{lr:.1f}'=='0.1' and clip_grad_norm, sgd_step]
@algorithm
def ByKind(lr=.1): return [isinstance(lr, float) and clip_grad_norm, sgd_step]
@algorithm
def Holds(lr=.1): return [partial(clip_grad_norm, max_norm=lr), sgd_step]
@algorithm
def ByPair(lr=.1, betas=(.9, .99)): return [betas[1] and average_grad, momentum_step if betas[1] else sgd_step]
@algorithm
def ByArithmetic(lr=.1): return [2*lr-.1 and clip_grad_norm, sgd_step]

@pytest.mark.parametrize('cls', [Threshold, ByRoot, ByMaximum, ByText, ByKind, Holds, ByArithmetic])
def test_what_an_algorithm_looks_at_decides(cls):
    opt = made(cls)
    for lr in (.1, .09, .06, .04, .05, .01, .3, 1, .1):
        opt.param_groups[0]['lr'] = lr
        assert same(opt), lr
        built = opt._recipe(opt.param_groups[0]).build(opt.param_groups[0])
        assert setting(opt).chain is chain_of(built.cbs, built.weights)

def test_a_member_of_a_tuple_decides_by_itself(monkeypatch):
    opt,calls = made(ByPair),[]
    setting(opt)
    build = ByPair.build
    monkeypatch.setattr(ByPair, 'build', staticmethod(lambda **kw: (calls.append(1), build(**kw))[1]))
    g = opt.param_groups[0]
    for betas in ((.8, .9), (.0, .5)):
        g['betas'] = betas
        setting(opt)
    assert not calls
    g['betas'] = (.9, 0.)
    assert same(opt) and [b.name for b in setting(opt).chain.blocks]==['sgd_step']

def test_a_watched_number_notes_who_looks():
    for ask,how in ((bool, 'truth'), (float, 'value'), (lambda x: x>1, 'value'), (lambda x: 1-x, 'value'), (hash, 'value'), (lambda x: x==2, 'value'),
                    (lambda x: isinstance(x, float), None), (lambda x: (x, 1), None), (math.exp, 'value'), (str, 'value')):
        looks = {}
        ask(Watched(.5, ('lr', None), looks))
        assert looks=={} if how is None else looks=={('lr', None): how}, ask

# -- What a schedule may set --

@pytest.mark.parametrize('v', [True, np.float64(.01), np.float32(.5), 1, 2.5, torch.tensor(.02)], ids=repr)
def test_values_of_other_kinds_go_the_long_way(v):
    opt = made(genopt.AdamW)
    setting(opt)
    opt.param_groups[0]['lr'] = v
    if v is True:
        with pytest.raises(TypeError, match='lr must be a real number'): setting(opt)
    else: assert setting(opt).numbers['lr']==float(v) and type(setting(opt).numbers['lr']) in (int,float)

def test_values_out_of_range_are_refused():
    opt = made(genopt.AdamW)
    setting(opt)
    for k,v,words in (('lr', -1., 'learning rate'), ('betas', (.9, 1.5), 'beta parameter at index 1'), ('lr', math.nan, 'learning rate'), ('eps', -1., 'eps')):
        old,opt.param_groups[0][k] = opt.param_groups[0][k],v
        with pytest.raises(ValueError, match=words): setting(opt)
        opt.param_groups[0][k] = old
        setting(opt)

@pytest.mark.parametrize('kw', [dict(foreach=False), dict(foreach=True), dict(fused=True)], ids=['loop', 'foreach', 'fused'])
def test_a_schedule_through_zero_equals_torch(kw):
    "weight_decay, momentum and lr go through zero and back: the chain changes, and the numbers are torch's"
    outs = []
    for cls,more in ((genopt.SGD, kw), (torch.optim.SGD, dict(foreach=False))):
        g   = torch.Generator().manual_seed(0)
        p   = torch.ones(5, dtype=torch.float64, requires_grad=True)
        opt = cls([p], lr=.1, momentum=.9, weight_decay=.1, **more)
        for wd,lr in ((.1, .1), (0., .05), (.2, 0.), (.1, .01), (0., .1)):
            opt.param_groups[0].update(weight_decay=wd, lr=lr)
            p.grad = torch.randn(5, generator=g, dtype=torch.float64)
            opt.step()
        outs.append(p.detach())
    torch.testing.assert_close(*outs, rtol=1e-14, atol=0)

def test_lists_without_an_algorithm_take_a_schedule():
    opt = Optimizer([torch.ones(3, requires_grad=True)], [average_grad, momentum_step, transforms.weight_decay], lr=.1, mom=.9, wd=.01)
    a = setting(opt)
    opt.param_groups[0]['lr'] = .05
    b = setting(opt)
    assert b is not a and b.chain is a.chain and b.numbers==a.numbers|dict(lr=.05) and same(opt)

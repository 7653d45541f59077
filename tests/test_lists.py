"""Lists as people write them: any callable as a callback, an algorithm among blocks, a name that two of them have. Such a list comes to the right
values in all ways of running, or is refused by name, and the remedy that the error gives is one that works."""

import functools,math
from functools import partial
import pytest,torch
from torch import nn
from genopt import Optimizer,rename,zeros
from genopt.contract.names import name_of

way  = dict(loop=dict(foreach=False), foreach=dict(foreach=True), fused=dict(fused=True))
ways = pytest.mark.parametrize('kw', way.values(), ids=way)

def P(*shape, v=1.): return nn.Parameter(torch.full(shape or (3,), v))
def took(ps, opt, gs=(1.,)):
    "Steps with these gradients; returns the optimizer"
    for g in gs:
        for p in ps: p.grad = torch.full_like(p, g)
        opt.step()
    return opt
def moved(cbs, gs=(1., 1.), **kw):
    "What a parameter of ones has lost after steps with these gradients"
    p = P()
    took([p], Optimizer([p], cbs, **dict(lr=.1) | kw), gs)
    return 1-p[0].item()
def refused(error, words, make):
    with pytest.raises(error, match=f'(?s){words}') as e: make()
    assert type(e.value) is error and len(str(e.value))<500
def called(o): return '-'.join(map(name_of, o)) if isinstance(o, list) else name_of(o) if callable(o) else ''


# -- Names that look like lists --

def scales(grad, rate=.5): return dict(grad=grad*rate, rate=rate)
def keeps(grad, rate=zeros): return dict(rate=rate+grad)
def plural_hyper(grad, rates=.5): return grad*rates
def plural_without_default(grad, rate, rates): return grad*rates
def plural_of_all(grads, rates=.5): return [g*rates for g in grads]
def plural_of_given(grad, ps=.5): return grad*ps
def list_of_rates(grads, rates): return [g*r for g,r in zip(grads, rates)]

@ways
@pytest.mark.parametrize('cbs,lost', [
    ([scales, plural_hyper], .05), ([scales, plural_of_all], .05), ([keeps, plural_hyper], .1), ([plural_of_given], .1),
    ([scales, plural_without_default], .1)], ids=called)
def test_a_plural_hyper_is_a_hyper(cbs, lost, kw):
    "`rates` beside a `rate`, which an earlier callback returns or keeps, is no list over all parameters"
    more = dict(rates=1.) if plural_without_default in cbs else {}
    assert math.isclose(moved(cbs, **kw, **more), lost, rel_tol=1e-5)
    opt = Optimizer([P()], cbs, lr=.1, **kw, **more)
    assert len({'rates','ps'}&{*opt.param_groups[0]})==1

@ways
def test_a_plural_without_default_is_still_the_list(kw):
    assert math.isclose(moved([keeps, list_of_rates], **kw), .3, rel_tol=1e-5)                 # the state is 1, then 2

def test_a_list_beside_a_gradient_is_refused(): refused(ValueError, "reads 'rates', which nothing before it provides, did you mean 'rate'",
                                                        lambda: Optimizer([P()], [keeps, plural_without_default_of_its_own], lr=.1))
def plural_without_default_of_its_own(grad, rates): return grad


# -- Whatever can be called --

class Scale:
    def __init__(self, by=2.): self.by = by
    def method(self, grad): return grad*self.by
    def closure(self): return lambda grad: grad*self.by
    @classmethod
    def of_class(cls, grad, by=2.): return grad*by
    @staticmethod
    def static(grad, by=2.): return grad*by
class Callable(Scale):
    def __call__(self, grad): return grad*self.by
class Equal(Callable):
    "Two are equal while they scale alike, and none can be hashed"
    def __eq__(self, other): return isinstance(other, Equal) and self.by==other.by
    __hash__ = None
shared = Scale()
def reads_an_object(grad): return grad*shared.by
def passed_on(f):
    @functools.wraps(f)
    def g(**kw): return f(**kw)
    return g
def narrowed(f):
    "Its wrapper has a signature of its own, which is what is called"
    @functools.wraps(f)
    def g(grad): return f(grad)
    return g
def by_position(f):
    @functools.wraps(f)
    def g(*args): return f(*args)
    return g
def twice(grad, by=2.): return grad*by

plain = dict(of_class=Scale.of_class, static=Scale.static, function=twice, lambda_=lambda grad, by=2.: grad*by, wrapped=passed_on(twice), narrowed=narrowed(twice),
             cached=functools.lru_cache(twice), no_grad=torch.no_grad()(twice), renamed=rename(passed_on(twice), by='times'), partial_=partial(passed_on(twice), by=2.))
holders = dict(method=lambda o: o.method, closure=lambda o: o.closure(), object=lambda o: o, wrapped=lambda o: passed_on(o.method), narrowed=lambda o: narrowed(o.method),
               partial_=lambda o: partial(o.method), renamed=lambda o: rename(o.method, other='grad'))

@ways
@pytest.mark.parametrize('cb', plain.values(), ids=plain)
def test_whatever_can_be_called(cb, kw): assert math.isclose(moved([cb], **kw), .4, rel_tol=1e-5)

@ways
@pytest.mark.parametrize('make', holders.values(), ids=holders)
@pytest.mark.parametrize('cls', [Callable, Equal])
def test_what_a_callback_holds_may_change(cls, make, kw):
    "An object is looked at in every step, also one that another function closes over; two objects that are equal now stay two"
    a,b,p,q = cls(),cls(),P(),P()
    opts = [Optimizer([x], [make(o)], lr=.1, **kw) for x,o in ((p,a), (q,b))]
    for x,opt in zip((p,q), opts): took([x], opt, (1., 1.))
    a.by = 0.
    for x,opt in zip((p,q), opts): took([x], opt)
    assert torch.allclose(p, torch.full((3,), .6)) and torch.allclose(q, torch.full((3,), .4))

@ways
def test_an_object_outside_may_change(kw):
    p = P()
    opt = took([p], Optimizer([p], [reads_an_object], lr=.1, **kw), (1., 1.))
    shared.by = 0.
    try: took([p], opt)
    finally: shared.by = 2.
    assert torch.allclose(p, torch.full((3,), .6))

@pytest.mark.parametrize('cb,words', [
    (Scale.method,              r'method is a method without its object; give that of an object: Scale\(\.\.\.\)\.method'),
    (by_position(twice),        r'twice takes \*args; name each value'),
    (nn.Linear(2, 2),           r'Linear takes \*args'),
    (torch.mul,                 'mul: no signature found'),
    (Scale,                     'Scale is a class'),
    (partial(torch.optim.SGD, lr=.1), 'SGD is a class, and no algorithm of genopt'),
], ids=called)
def test_what_cannot_be_called_by_names_is_refused_by_name(cb, words): refused(TypeError, words, lambda: Optimizer([P()], [cb], lr=.1))

def test_a_class_is_not_renamed():
    refused(TypeError, r'rename\(SGD\): SGD is a class; only a callback can be renamed', lambda: rename(torch.optim.SGD, lr='rate'))

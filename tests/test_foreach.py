"""Operations on lists as an accelerator runs them, on CPU tensors: how much they do beside torch's own optimizers with `foreach=True`, and that
the numbers are the reference's."""

import weakref
import pytest,torch
from torch.utils._pytree import tree_leaves
import genopt
from genopt import Optimizer
from genopt._torch import TorchDispatchMode
from genopt.blocks import average_grad
from genopt.lower.values import aten
from genopt.run.rewrite import Factor
from helpers import Tape,catalogue,difference,run

def given(*sizes, dtype=torch.float32):
    "Parameters of these sizes"
    rand = torch.Generator().manual_seed(0)
    return [torch.randn(n, generator=rand).to(dtype).requires_grad_() for n in sizes]

def give(ps, i):
    rand = torch.Generator().manual_seed(i)
    for p in ps: p.grad = torch.randn(p.shape, generator=rand, dtype=torch.float64).to(p.dtype)


# -- No more work than torch --

views = {'detach', 'view', 'alias', 'unbind', 'expand', 'as_strided', 'select', 'view_as_real', 'empty', 'empty_like'}

class Work(TorchDispatchMode):
    """What the operations within it do. `calls`: how many there are, on lists or on a tensor. `moved`: elements read and written. `peak`: elements of
    what they make that live at once. What is on numbers alone does not count, as torch's counters"""
    def __init__(self):
        super().__init__()
        self.calls,self.moved,self.live,self.peak = [],0,0,0
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        res  = func(*args, **kwargs or {})
        read = [x for x in tree_leaves((args, kwargs)) if torch.is_tensor(x)]
        made = [x for x in tree_leaves(res) if torch.is_tensor(x) and not any(x is y for y in read)]
        name = func.overloadpacket.__name__
        if not any(x.ndim for x in read): return res
        if name not in views or name.startswith('empty'): self.allocate(made)
        if name in views: return res
        self.calls.append(name)
        first = args[0] if isinstance(args[0], (list, tuple)) else read[:1]
        self.moved += size(read) + size(made or first) - ('copy_' in name)*size(first)
        return res
    def allocate(self, made):
        for x in made: weakref.finalize(x, self.free, size([x]))
        self.live += size(made)
        self.peak = max(self.peak, self.live)
    def free(self, n): self.live -= n

def size(xs): return sum(x.numel()*x.element_size()/4 for x in xs)

def work(cls, steps=8, sizes=(32,32,32,32), **kw):
    "What the last of `steps` steps does: by then RAdam has gone over to its second formula"
    ps  = given(*sizes)
    opt = cls(ps, foreach=True, **kw)
    for i in range(steps):
        give(ps, i)
        if i<steps-1: opt.step()
    with Work() as done: opt.step()
    return done

momentum = dict(lr=.1, momentum=.9)
decay    = dict(weight_decay=.1)
table = dict(
    SGD      = [dict(lr=.1), momentum, momentum|dict(nesterov=True), momentum|decay, momentum|decay|dict(nesterov=True), momentum|decay|dict(maximize=True, dampening=.2)],
    Adam     = [{}, decay, decay|dict(maximize=True), dict(amsgrad=True)],
    AdamW    = [{}, dict(maximize=True), dict(amsgrad=True)],
    RMSprop  = [{}, decay, dict(centered=True), dict(momentum=.9), decay|dict(centered=True, momentum=.9)],
    Adagrad  = [{}, decay|dict(lr_decay=.1)],
    NAdam    = [{}, decay, decay|dict(decoupled_weight_decay=True)],
    RAdam    = [{}, decay],
    Adamax   = [{}, decay],
    Adadelta = [{}, decay|dict(lr=.5)],
    ASGD     = [{}, decay],
    Rprop    = [{}, dict(maximize=True)])

@pytest.mark.parametrize('name,kw', [pytest.param(n, kw, id=f"{n}-{'-'.join(kw)}") for n,settings in table.items() for kw in settings])
def test_a_step_does_no_more_than_torchs(name, kw, accelerator):
    "No more operations on lists, no more elements moved, no more memory. But torch runs Rprop tensor by tensor, and so needs less"
    ours,torchs = work(getattr(genopt, name), **kw),work(getattr(torch.optim, name), **kw)
    assert len(ours.calls)<=len(torchs.calls), (ours.calls, torchs.calls)
    assert ours.moved<=torchs.moved, (ours.calls, torchs.calls)
    assert ours.peak<=torchs.peak or name=='Rprop', (ours.calls, torchs.calls)

def test_the_operations_are_those_one_would_write_by_hand(accelerator):
    adam = ['lerp_', 'mul_', 'addcmul_', 'sqrt', 'add_', 'addcdiv_']
    assert work(genopt.Adam).calls==[f'_foreach_{n}' for n in adam]
    assert work(genopt.SGD, **momentum, nesterov=True).calls==[f'_foreach_{n}' for n in ('add_', 'mul_', 'add_', 'add_')]

on_lists = 'SGD RMSprop Adam AdamW Lion NAdam AdaBelief QHAdam AdEMAMix AggMo Adagrad Adadelta Adamax'.split()
on_host  = 'RAdam Adan AdaBound ADOPT'.split()                               # torch has no choice and no limit on the device for lists

@pytest.mark.parametrize('name,capturable', [(n, c) for n in on_lists+on_host for c in (False, True) if not (c and n in on_host)])
def test_the_number_of_calls_does_not_grow_with_that_of_tensors(name, capturable, accelerator):
    few,many = [len(work(getattr(genopt, name), sizes=[16]*n, capturable=capturable).calls) for n in (2, 9)]
    assert few==many

def test_parts_are_large(accelerator, monkeypatch):
    "All parameters are one part, unless what is in between goes over a share of `scratch_bytes`"
    def parts(scratch_bytes):
        monkeypatch.setattr(genopt.Adam, 'scratch_bytes', scratch_bytes)
        ps  = given(*[1000]*20)
        opt = genopt.Adam(ps, foreach=True)
        give(ps, 0); opt.step()
        batch, = opt._plan.works[0].batches
        return [len(part.places) for part in batch.parts[0]],ps
    (one,ps),(some,qs) = parts(64*2**20),parts(1000)
    assert one==[20] and some==[4]*5 and all(map(torch.equal, ps, qs))


# -- The same numbers --

def settings(a): return [{k: v for k,v in kw.items() if k not in ('foreach','fused','capturable','differentiable')} for kw in (a.cases()[0], *a.settings(3))]

@pytest.mark.parametrize('a', [a for a in catalogue if not a.closure], ids=lambda a: a.name)
def test_algorithms_are_the_reference(a, accelerator):
    "On awkward parameters in two groups: one joins late, one is without a gradient in every fourth step"
    for kw in settings(a):
        assert difference(a.ran(a.cls, kw, steps=12, foreach=True)[0], a.ran(a.cls, kw, steps=12, foreach=False)[0])<=1e-12, kw

@pytest.mark.parametrize('cls', [genopt.SGD, genopt.Adam, genopt.RMSprop], ids=lambda c: c.__name__)
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16, torch.float16, torch.complex64])
def test_dtypes(cls, dtype, accelerator):
    a,b = [run(cls, dict(lr=.01), dtype, steps=4, foreach=w)[0] for w in (True, False)]
    eps = torch.finfo(dtype).eps
    for n in a: torch.testing.assert_close(a[n], b[n], rtol=4*eps, atol=4*eps)

def test_gradients_stay_as_they_are(accelerator):
    for name,all_settings in table.items():
        for kw in all_settings:
            ps = given(5, 7)
            give(ps, 0)
            before = [p.grad.clone() for p in ps]
            getattr(genopt, name)(ps, foreach=True, **kw).step()
            assert all(torch.equal(p.grad, g) for p,g in zip(ps, before)), (name, kw)

def quotient(grad, k=2.): return grad + 3*(grad*grad/k + 1)
def root(grad, k=2.): return grad*(grad*grad*k).sqrt()
def root_of_square(grad, k=2.): return (grad.abs()*k*k).sqrt() + (grad.abs()/k*k).sqrt()
def two_roots(grad, p, k=2.): return (grad*k).sqrt()*(p*k).sqrt() + grad/k*k
def shift(grad, k=2.): return 1/(grad.abs()*k + 1)
def below(grad, k=2.): return k - grad*k
def twice(grad, p, k=2.):
    a = grad*k
    return dict(update=a+p, p=p-a)
def swapped(p, a=genopt.zeros, b=genopt.full(1.)): return dict(a=b, b=a*.5+b, update=a)
def clamped(grad, k=2.): return grad.clamp(-k, k).clamp(max=.5) - grad.square().neg()
def sums(grad, grad_avg, p, mom): return (grad*mom).add(grad_avg, alpha=1-mom)/(p*p+1) - (grad_avg*.3+p*.7)

@pytest.mark.parametrize('k', [2., -1., 0., 1e-30, 1e30, 1], ids=str)
@pytest.mark.parametrize('cb', [quotient, root, root_of_square, two_roots, shift, below, twice, swapped, clamped, sums], ids=lambda f: f.__name__)
def test_factors_that_are_not_finite(cb, k, accelerator):
    "There the identities do not hold, and the operations run as they are written"
    runs = []
    for w in (True, False):
        ps  = given(5, 40, dtype=torch.float64)
        hypers = dict(k=k) if 'k' in cb.__code__.co_varnames[:cb.__code__.co_argcount] else {}
        opt = Optimizer(ps, [average_grad, cb] if cb is sums else [cb], lr=.1, foreach=w, **hypers)
        for i in range(3): give(ps, i); opt.step()
        runs.append(ps)
    for p,q in zip(*runs): torch.testing.assert_close(p, q, rtol=1e-12, atol=1e-12, equal_nan=True)

def test_a_factor():
    lr,d = Factor(powers=(('lr', 1),)),Factor(powers=(('d', 1),))
    f = -lr/d * d.root()
    assert f.value(dict(lr=3., d=4.))==-1.5 and (lr/lr).powers==() and (Factor(2.)*Factor(.5))==Factor()
    pytest.raises(ArithmeticError, (lr/lr).value, dict(lr=0.))
    for bad in dict(lr=1., d=0.),dict(lr=1., d=-1.),dict(lr=float('nan'), d=1.),dict(lr=1e300, d=1e-300): pytest.raises((ArithmeticError, ValueError), f.value, bad)


# -- Captured --

@pytest.mark.parametrize('name', ['Adam', 'ADOPT', 'AdaBound', 'RAdam', 'LAMB', 'LARS'])
def test_a_captured_step_on_lists_does_not_wait(name, accelerator):
    "Torch looks for an overload by printing tensors, which the tape refuses"
    ps,qs = given(300, 7, 64),given(300, 7, 64)
    opt,ref = getattr(genopt, name)(ps, lr=torch.tensor(.01), capturable=True, foreach=True),getattr(genopt, name)(qs, lr=.01, foreach=False)
    for i in range(4):
        give(ps, i); give(qs, i); ref.step()
        if i<2: opt.step()
        else:
            with Tape(): opt.step()
    for p,q in zip(ps, qs): torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-6)

def test_the_tape_refuses_to_print():
    x,bound = torch.ones(3),torch.tensor(.5)
    with Tape(), pytest.raises(RuntimeError, match='printed'): aten.clamp(x, -bound, bound)

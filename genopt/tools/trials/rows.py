"The rows of the matrix: optimizers by name, and how each has to be run."

import importlib,os,sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache,cached_property,partial
import torch
from ... import algorithms
from ..compare.specs import Spec,call,source_of

__all__ = ['Manner', 'Row', 'manner_of', 'row']


@dataclass
class Row:
    """An optimizer under its name: `make(groups)` returns it over param groups, each with its `lr`. `family` is that of the catalogue, or
    'compositions'. `source`: a checksum of a user's own code, without which results of an earlier version would count"""
    name: str
    family: str
    make: Callable
    source: int|None = None

    @cached_property
    def manner(self): return manner_of(self.make)

@cache
def row(text: str) -> Row:
    """The row for an algorithm with settings, such as 'SGD(momentum=0.9)', or for 'my_module:MyOptimizer(momentum=0.9)', a class of optimizers or a
    function of params and these settings that returns one. The algorithms of the catalogue run without weight decay, which would move the minimum,
    unless the settings have it"""
    node,settings = call(text)
    if 'lr' in settings:
        raise ValueError(f"{text!r}: the trials try a grid of rates, so leave out lr")
    if ':' in (own := getattr(node, 'value', '')):
        make = imported(own)
        return Row(text, 'compositions', partial(make, **settings) if settings else make, source_of([make]))
    spec = Spec(text)
    name = str(spec)
    if 'weight_decay' in getattr(algorithms, spec.name).arguments:
        spec.settings.setdefault('weight_decay', 0)
    family = next(f for f in algorithms.families if spec.name in f.__all__)
    return Row(name, family.__name__.rpartition('.')[2].replace('_', ' '), spec.ours, spec.source)

def imported(text):
    "What 'my_module:MyOptimizer' names; the module may lie in the current folder"
    module,_,name = text.partition(':')
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as e:
        raise ValueError(f"cannot import {text!r} ({e}); give a module and what is in it, as in my_module:MyOptimizer") from e
    if not callable(found):
        raise ValueError(f"{text!r} is no optimizer class and no function that returns an optimizer")
    return found


# -- How to run it --

@dataclass(frozen=True)
class Manner:
    """Whether a step needs a `closure`; whether gradients need a `graph`; and whether runs need an optimizer each, kept `apart`, because one run in
    an optimizer changes another, as under a norm over all parameters"""
    closure: bool
    graph: bool
    apart: bool

def manner_of(make) -> Manner:
    "Find by trial how to run what `make(groups)` returns. Raises the error of the plain call, where no way works"
    errors = []
    for graph in (False, True):
        for closure in (graph, True):
            try:
                alone = walk(make, closure, graph, None)
            except Exception as e:
                errors.append(e)
                continue
            return Manner(closure, graph, not independent(make, closure, graph, alone))
    raise errors[0]

def independent(make, closure, graph, alone):
    """Whether a matrix moves the same whatever values another has in the same optimizer, and at another rate. The other has gradients of usual size,
    and then of a million times that size; what an optimizer draws at random is the same for both"""
    try:
        usual,large = (walk(make, closure, graph, scale) for scale in (1., 1e6))
    except Exception:
        return False
    return torch.allclose(usual, large, rtol=1e-9, atol=0) and len(usual)==len(alone)

def walk(make, closure, graph, other):
    "The path of a small matrix over ten steps. `other`: the scale of the gradients of a second one in the same optimizer; None for no second one"
    torch.manual_seed(0)
    scales = [1.] if other is None else [1.,other]
    ws  = [torch.nn.Parameter(torch.tensor([[1.,-2.],[.5,3.],[-1.,.2]], dtype=torch.float64)) for _ in scales]
    opt = make([dict(params=[w], lr=lr) for w,lr in zip(ws, (.3,1.))])
    def evaluate():
        loss = sum(s*((w-1)**2 + w.roll(1, 0)*w).sum() for w,s in zip(ws, scales))
        for w,g in zip(ws, torch.autograd.grad(loss, ws, create_graph=graph)):
            w.grad = g
        return loss
    path = []
    for _ in range(10):
        if closure:
            opt.step(evaluate)
        else:
            evaluate()
            opt.step()
        path.append(ws[0].detach().clone())
    return torch.stack(path)

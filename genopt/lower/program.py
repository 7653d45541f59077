"""A program: how a chain is run for parameters of one layout, as a value that everybody reads.
`decide.lower` makes it.

A program is a sequence of stages. A stage runs three parts, in this order:

    flat                operations on elements, and reductions of them, over all parameters
    cross_reductions    reductions over all parameters, and the arithmetic on their results
    calls               of callbacks that cannot be part of a launch

The flat part of the last stage writes the parameters and their states. So all that can fail comes
before all that is written. Muon, for instance, has a call, because its matrix needs a shape:

    stage 0    flat     v10, Nesterov's average of the gradients, is written to scratch memory
               calls    newton_schulz, scale_by_shape
    stage 1    flat     p and grad_avg are written

A chain that cannot be taken apart has no stages: its callbacks are called for each parameter, as
the reference does. The program says why."""

from dataclasses import dataclass, field, replace
from functools import cached_property
import torch
from torch import Tensor
from ..contract.stand_ins import shape_class
from ..contract.tensors import wide
from .reasons import Why
from .scalars import ScalarProgram

__all__ = [
    'Flat',
    'Layout',
    'Program',
    'Request',
    'Round',
    'Stage',
    'fallback',
    'layout_of',
]


# -- What is asked --


@dataclass(frozen=True)
class Layout:
    """What decides how a parameter is run. `shape` is its shape class. The dtypes are those of the
    parameter, its gradient, its states and what is stored beside it, all of them real"""

    shape: tuple
    dtype: torch.dtype
    grad_dtype: torch.dtype
    state_dtypes: tuple
    device: torch.device

    @property
    def compute_dtype(self):
        "The dtype in which callbacks see it"
        return wide(self.dtype)

    def example(self):
        return torch.ones(self.shape, dtype=self.compute_dtype, device=self.device)

    def behind(self, prefix):
        "The layout that the rest of a chain sees. The prefix hands on what callbacks see"
        called = prefix.whole.state.keys() - prefix.rest.state.keys()
        states = tuple((n, t) for n, t in self.state_dtypes if n not in called)
        return replace(self, grad_dtype=self.compute_dtype, state_dtypes=states)


@dataclass(frozen=True)
class Request:
    """What the user asks for. `backend`: `'c'` or `'triton'`, which launch kernels, `'foreach'` or
    `'reference'`. `capturable`: numbers may be on the device, so that the step can be captured in a
    CUDA graph. `call_globals`: callbacks over all parameters are called, because for some other
    parameter they must be. `gated`: kernels look whether they may write"""

    backend: str
    capturable: bool = False
    call_globals: bool = False
    gated: bool = False

    @property
    def launches(self):
        "Whether kernels run over a table of addresses"
        return self.backend in ('c', 'triton')


def layout_of(p, grad_dtype, states, chain):
    """The layout of `p`, which is real. `states`: those that it has, by name, and what is stored
    beside it"""
    names = *chain.state, *chain.weights.beside('p', p.dtype)
    dtypes = tuple(
        (n, states[n].dtype) for n in names if isinstance(states.get(n), Tensor)
    )
    return Layout(shape_class(p.shape), p.dtype, grad_dtype, dtypes, p.device)


# -- What is decided --


@dataclass(frozen=True, eq=False)
class Round:
    """One pass over the elements. First comes arithmetic on `singles`, single numbers. Then come
    `elements`, from which `reduced` are reduced; in the last round they end in what is written"""

    singles: tuple
    elements: tuple
    reduced: tuple


@dataclass(frozen=True, eq=False)
class Flat:
    """Operations on elements, in rounds. `loads`: the names of what is read from memory. `stores`:
    what is written there, name -> value. `single_loads` and `single_stores`: the same of single
    numbers. `leaves`: single numbers that are handed out, to cross reductions and calls"""

    rounds: tuple
    loads: tuple
    stores: dict
    single_loads: tuple
    single_stores: dict
    leaves: tuple

    @property
    def names(self):
        return tuple(dict.fromkeys([*self.loads, *self.stores]))

    @property
    def single_names(self):
        return tuple(dict.fromkeys([*self.single_loads, *self.single_stores]))

    @property
    def reduces(self):
        return len(self.rounds) > 1


@dataclass(frozen=True, eq=False)
class Stage:
    """A flat part, or None; then `cross_reductions`, and `cross_arithmetic` on what these come to;
    then `calls` of callbacks"""

    flat: Flat
    cross_reductions: tuple
    cross_arithmetic: tuple
    calls: tuple


@dataclass(frozen=True, eq=False)
class Program:
    """How `chain` is run, behind its `prefix` if it has one. A row of scalars has what `scalars`
    computes, then the reciprocals of those named in `reciprocals`, then the cross values `crosses`.

    `call_outs`: states with a shape of their own, name -> value that a call gives. `runs_on`: what
    each callback runs on, in words. `why`: which callbacks are not part of a launch. `instead`: why
    it runs on another backend than the request's, or None. `one_call`: a kernel can run all stages
    in one call. `for_one_shape`: it holds for the shape class of its layout alone. `kernels`:
    compiled code, kept for all who run the program"""

    chain: object
    prefix: object
    layout: Layout
    request: Request
    stages: tuple
    scalars: ScalarProgram
    reciprocals: tuple
    crosses: tuple
    call_outs: dict
    runs_on: dict
    why: tuple
    one_call: bool = True
    for_one_shape: bool = False
    instead: Why = None
    kernels: dict = field(default_factory=dict)

    @property
    def whole(self):
        "The chain with its prefix"
        return self.prefix.whole if self.prefix else self.chain

    @property
    def falls_back(self):
        "Whether the callbacks are called for each parameter"
        return not self.stages

    @property
    def elementwise(self):
        return len(self.stages) == 1 and not self.stages[0].flat.reduces

    @cached_property
    def draws(self):
        "Whether kernels draw random numbers, beside those by which states are rounded"
        rounds = (r for s in self.stages if s.flat for r in s.flat.rounds)
        return any(
            v.draw is not None for r in rounds for v in (*r.singles, *r.elements)
        )

    @property
    def holds_whole(self):
        """Whether calls of all parameters come before anything is written: one of them may fail,
        or a cross reduction lies behind one"""
        may_fail = any(c.may_fail for s in self.stages for c in s.calls)
        return may_fail or any(s.cross_reductions for s in self.stages[1:])

    @property
    def names_in_memory(self):
        "The names of what its stages read and write"
        flats = [s.flat for s in self.stages if s.flat]
        names = [n for f in flats for n in (*f.names, *f.single_names)]
        handed_in = [v.args[0] for s in self.stages for v in s.cross_reductions]
        return tuple(
            dict.fromkeys([*names, *(v.name for v in handed_in if v.in_memory)])
        )

    def holds(self, numbers):
        """Whether the program is right for these numbers: callbacks decide by them as they did when
        it was recorded"""
        return self.falls_back or self.scalars(dict(numbers)) is not None

    def names_of_scalars(self):
        "What a row of scalars has, in order"
        reciprocals = (f'r_{n}' for n in self.reciprocals)
        return *self.scalars.names, *reciprocals, *(v.name for v in self.crosses)

    def __repr__(self):
        if self.falls_back:
            return f'Program: each parameter by itself; {"; ".join(map(str, self.why))}'
        lines = []
        for i, s in enumerate(self.stages):
            lines.append(f'stage {i}')
            if s.flat:
                lines += [f'    round {k}: {r}' for k, r in enumerate(s.flat.rounds)]
            parts = *s.cross_reductions, *s.cross_arithmetic, *s.calls
            lines += [f'    {part}' for part in parts]
        return '\n'.join(lines)


def fallback(chain, layout, request, why):
    "The program without stages"
    return Program(
        chain,
        None,
        layout,
        request,
        stages=(),
        scalars=None,
        reciprocals=(),
        crosses=(),
        call_outs={},
        runs_on={},
        why=(why,),
        for_one_shape=True,
    )

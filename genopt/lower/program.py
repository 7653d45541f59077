"""A program: how a chain is run for parameters of one layout, as a value that everybody reads. `lower` in `decide.py` makes it.

A program is a sequence of stages. A stage first runs its `flat` part, operations on elements and reductions, over all parameters; then what joins
them (`joins`, and the arithmetic on that); then its calls. The flat part of the last stage writes the parameter and its states. So all that can
fail comes before all that is written. Muon, for instance:

    stage 0   flat   v4 = average of averages     into scratch memory
              calls  newton_schulz, scale_to_shape
    stage 1   flat   p, grad_avg                  written

A chain that cannot be taken apart has no stages: its callbacks are called for each parameter, as the reference does. The program says why."""

from dataclasses import dataclass, field, replace
import torch
from torch import Tensor
from ..contract.stand_ins import small
from ..contract.tensors import wide
from .scalars import ScalarProgram

__all__ = ['Flat', 'Layout', 'Program', 'Request', 'Round', 'Stage', 'Why', 'fallback', 'layout_of']


# -- What is asked --


@dataclass(frozen=True)
class Layout:
    "All that matters of a parameter: `shape`, its shape class; the dtypes of the parameter, its gradient and its states, all real; the device"

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
        "The layout that the rest of a chain sees, to which the prefix hands gradients as callbacks see them"
        states = tuple((n, t) for n, t in self.state_dtypes if n in prefix.rest.state)
        return replace(self, grad_dtype=self.compute_dtype, state_dtypes=states)


@dataclass(frozen=True)
class Request:
    """What is asked for: `backend`, `'launch'`, `'foreach'` or `'reference'`; `capturable`; `call_globals`: callbacks over all parameters are to be
    called, because for some other parameter they must be"""

    backend: str
    capturable: bool = False
    call_globals: bool = False


def layout_of(p, grad_dtype, states, chain):
    "The layout of `p`, which is real; `states` are those that are there"
    dtypes = tuple((n, states[n].dtype) for n in chain.state if isinstance(states.get(n), Tensor))
    return Layout(small(p.shape), p.dtype, grad_dtype, dtypes, p.device)


# -- What is decided --


@dataclass(frozen=True)
class Why:
    "Why a callback is not run as part of one launch"

    callback: str
    reason: str

    def __str__(self):
        return (
            self.reason
            if self.reason.startswith(self.callback)
            else f'{self.callback} {self.reason}'
        )


@dataclass(frozen=True, eq=False)
class Round:
    "One pass over the elements: first arithmetic on `singles`, then `elements`, which end in `reduced`; in the last round in what is written"

    singles: tuple
    elements: tuple
    reduced: tuple


@dataclass(frozen=True, eq=False)
class Flat:
    """Operations on elements, in rounds. `loads`: the names of what is read; `stores`: name -> value, what is written; `single_loads` and
    `single_stores`: likewise of single numbers. `leaves`: single numbers that are handed out, for joins and calls"""

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
    "A flat part or None; `joins`, what joins all parameters, and `cross`, the arithmetic on that; `calls` of callbacks"

    flat: Flat
    joins: tuple
    cross: tuple
    calls: tuple


@dataclass(frozen=True, eq=False)
class Program:
    """How `chain` is run, behind its `prefix` if it has one. `scalars` computes numbers by name; behind these come the reciprocals of some, and the
    values of `crosses`. `call_outs`: states with a shape of their own, name -> value that a call gives. `runs_on`: for each callback what it runs
    on, in words. `why`: which callbacks are not launched. `one_call`: a kernel can run all stages in one call"""

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
    kernels: dict = field(default_factory=dict)  # compiled code, kept for all who run the program

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

    @property
    def holds_whole(self):
        "Whether calls of all parameters come before anything is written: one may fail, or something joins parameters behind a call"
        return any(c.may_fail for s in self.stages for c in s.calls) or any(
            s.joins for s in self.stages[1:]
        )

    @property
    def names_in_memory(self):
        "The names of what its stages read and write"
        flats = [s.flat for s in self.stages if s.flat]
        joined = [v.args[0] for s in self.stages for v in s.joins]
        names = [n for f in flats for n in (*f.names, *f.single_names)]
        return tuple(dict.fromkeys([*names, *(v.name for v in joined if v.in_memory)]))

    def holds(self, numbers):
        "Whether the program is right for these numbers: every decision that a callback takes by them is taken as when it was recorded"
        return self.falls_back or self.scalars(dict(numbers)) is not None

    def names_of_scalars(self):
        return (
            *self.scalars.names,
            *(f'r_{n}' for n in self.reciprocals),
            *(v.name for v in self.crosses),
        )

    def __repr__(self):
        if self.falls_back:
            return f'Program: each parameter by itself; {"; ".join(map(str, self.why))}'
        lines = []
        for i, s in enumerate(self.stages):
            lines.append(f'stage {i}')
            if s.flat:
                lines += [f'    round {k}: {r}' for k, r in enumerate(s.flat.rounds)]
            lines += [f'    {what}' for what in (*s.joins, *s.cross, *s.calls)]
        return '\n'.join(lines)


def fallback(chain, layout, request, why):
    "The program without stages"
    return Program(chain, None, layout, request, (), None, (), (), {}, {}, (why,))

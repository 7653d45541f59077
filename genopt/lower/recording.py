"""A recording: what the callbacks of a chain do to a parameter, as values and calls."""

from dataclasses import dataclass
from functools import cached_property
from .families import form_of
from .scalars import ScalarRecorder
from .values import in_order

__all__ = ['Call', 'Recording']


@dataclass(eq=False)
class Call:
    """`block` is called with the values `reads`, and with `numbers`: traced scalars and plain
    flags. It gives the values `gives`. For names that it may leave out in some step,
    `old_values` has their values from before. `of_use`: the names that a program would need if
    the callback returned them.

    `stacked`: one call takes several parameters of one shape. `may_fail`: it may fail on some
    values of tensors, so nothing may be written before it. `place`: its place in the chain. `draws`: whether it draws random numbers"""

    block: object
    reads: dict
    numbers: dict
    gives: dict
    old_values: dict
    of_use: frozenset
    stacked: bool
    may_fail: bool
    place: int = 0
    draws: bool = False

    @property
    def needs(self):
        "The values that must lie in memory before the call"
        return *self.reads.values(), *self.old_values.values()

    def __repr__(self):
        return f"{', '.join(self.gives)} = {self.block}({', '.join(self.reads)})"


@dataclass
class Recording:
    """What a chain does to a parameter. `outs`: the new values of the parameter and of the states
    that change. `calls`: the callbacks that are called, and `why`, for each. `scalars`: the recorder that has the lines
    of the scalar program. `counters`: the states that are numbers. `for_one_shape`: the recording
    holds for one shape class alone. `runs_on`: what each callback runs on, in words"""

    outs: dict
    calls: list
    why: tuple
    scalars: ScalarRecorder
    counters: tuple
    for_one_shape: bool
    runs_on: dict

    @property
    def results(self):
        "The values that are written or that calls read"
        return [*self.outs.values(), *(v for c in self.calls for v in c.needs)]

    @cached_property
    def values(self):
        "These, and what they are made of, in order"
        return in_order(self.results)

    @property
    def form(self):
        "What does not depend on the number of families"
        return form_of(dict(enumerate(self.results))), self.scalars.lines

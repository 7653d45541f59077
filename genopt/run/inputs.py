"""What a step starts from, and what all plans of an optimizer have in common."""

from dataclasses import dataclass
from functools import cached_property
from .gate import Gate
from .gradients import gradients
from .rounding import Seeds
from .store import StateStore

__all__ = ['Context', 'Inputs']


@dataclass(frozen=True)
class Context:
    """What all plans of an optimizer have in common. `store`: `opt.state`; `who`: its name, for
    messages; `scratch_bytes`: the memory that a step may use; `late`: what prefixes have begun to
    change after they were made, by name, to which plans add; `seeds`: of the steps; `gate`: for
    steps that may be left out without a wait, else None"""

    store: StateStore
    who: str
    scratch_bytes: int
    late: dict
    seeds: Seeds
    gate: Gate = None


class Inputs:
    """What a step starts from: parameters and gradients in order; the settings of each group; the
    groups themselves, for messages. `grads`: None if they are to be looked up, when somebody asks;
    `first`: the place of the first parameter in the optimizer"""

    def __init__(self, params, grads, settings, groups, first=0):
        self.params, self.settings, self.groups = params, settings, groups
        self.first = first
        if grads is not None:
            self.grads = grads

    @cached_property
    def grads(self):
        return gradients(self.params)

    def group_of(self):
        "The number of the group of each parameter"
        return [i for i, g in enumerate(self.groups) for _ in g['params']]

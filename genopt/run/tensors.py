"""The tensors of the parameters that one program runs, real and local; the gradients of a step; batches of parameters."""

import weakref
from collections import defaultdict
from operator import attrgetter, is_
import torch
from torch import Tensor
from ..contract.sharded import local
from .memory import Memory, aligned, as_strided_like, real

__all__ = ['Batch', 'Gradients', 'Tensors', 'batches', 'parts']

stack_limit = 2**16  # elements: a larger matrix is as quick by itself
dtype_of = attrgetter('dtype')


class Tensors:
    "`ps` and `states` (for each parameter by name); `grads` of this step; `extra`, by name what a prefix hands on"

    def __init__(self):
        self.ps, self.states = [], []
        self.grads, self.extra = None, {}

    def has(self, name):
        return name in ('p', 'grad') or name in self.extra or name in self.states[0]

    def named(self, name, at):
        "Those called `name` of the parameters `at`; None where the name is none of theirs"
        if name == 'p':
            return [self.ps[k] for k in at]
        if name == 'grad':
            return [self.grads[k] for k in at]
        if name in self.extra:
            return [self.extra[name][k] for k in at]
        if name in self.states[0]:
            return [self.states[k][name] for k in at]


# -- Gradients --


class Gradients:
    """Takes the gradients of each step. `indices`: which of all `n_all` are ours. `by_address`: a launch needs no tensors, only addresses; then the
    user's gradients are not kept alive, and are known again by identity and memory. `pointed`: the launch has the addresses"""

    def __init__(self, ps, indices, n_all, dtype, launched, by_address, users):
        self.ps, self.indices, self.dtype, self.launched = ps, indices, dtype, launched
        self.by_address, self.users = by_address, users
        self.all_in_order = users and indices == [*range(n_all)]
        self.plain_params = all(p.is_contiguous() for p in ps)
        self.tensors, self.addresses, self.pointed = None, None, False
        self.known, self.memory = None, None

    def take(self, grads):
        "The gradients of this step; False if one is of another dtype than before"
        mine = grads if self.all_in_order else [grads[i] for i in self.indices]
        if self.same(mine):
            return True
        plain = self.plain(mine)
        taken = mine if plain else [self.fitted(g, p) for g, p in zip(mine, self.ps)]
        if any(g is None for g in taken):
            return False
        self.tensors, self.pointed, self.known, self.memory = taken, False, None, None
        if self.by_address:
            self.addresses = [*map(Tensor.data_ptr, taken)]
            if plain and self.users:  # nothing of ours may keep the user's alive
                self.known = [*map(weakref.ref, mine)]
                self.tensors = None
        return True

    def same(self, mine):
        "Whether these are the tensors of the step before, and lie where they lay"
        if not self.known or not all(map(is_, [ref() for ref in self.known], mine)):
            return False
        if self.memory is None:
            self.memory = Memory(mine, borrowed=True)
        return self.memory.holds(mine)

    def plain(self, mine):
        "Whether they can be taken as they are"
        return (
            self.plain_params
            and {*map(type, mine)} == {Tensor}
            and {*map(dtype_of, mine)} == {self.dtype}
            and all(map(Tensor.is_contiguous, mine))
        )

    def fitted(self, g, p):
        "The gradient `g` of `p`, real, and as the parameter lies; None if it is of another dtype than before"
        g = real(local(g).detach())
        if g.dtype != self.dtype:
            return None
        return g if aligned(g, p) or not self.launched else as_strided_like(p, g)


# -- Batches --


class Batch:
    """Parameters that go through the stages together: `at`, their places in the work. `stacked`: they have one shape and one row, and calls get a
    stack. `values`: what calls and joins have given in this step; `scratch`: memory for what one stage hands to the next, by name. `tapes`: of
    calls on the stack; `numbers`: with which they were called last"""

    def __init__(self, at, stacked, tensors, dtype):
        self.at, self.stacked, self.of, self.dtype = at, stacked, tensors, dtype
        self.launch, self.values, self.scratch, self.parts = None, {}, {}, None
        self.tapes, self.numbers = {}, {}

    def tensors(self, name):
        found = self.of.named(name, self.at)
        return found if found is not None else [*self.scratch[name]]

    def addresses(self, name):
        stack = self.scratch.get(name)
        if not isinstance(stack, Tensor):
            return [x.data_ptr() for x in self.tensors(name)]
        first, step = stack.data_ptr(), stack.stride(0) * stack.element_size()
        return [first + k * step for k in range(len(self.at))]

    def room(self, name):
        "Scratch memory for `name`: a tensor like each parameter; of a stack one beside the other"
        if name in self.scratch:
            return
        p, n = self.of.ps[self.at[0]], len(self.at)
        if self.stacked:
            whole = torch.empty(n * p.numel(), dtype=self.dtype, device=p.device)
            self.scratch[name] = whole.as_strided((n, *p.shape), (p.numel(), *p.stride()))
        else:
            self.scratch[name] = [
                torch.empty_like(self.of.ps[k], dtype=self.dtype) for k in self.at
            ]


def batches(program, tensors, row_of, scratch_bytes):
    "Batches: all, where nothing is called; else stacks of those that are alike, and large ones by themselves"
    calls, dtype = [c for s in program.stages for c in s.calls], program.layout.compute_dtype
    if not calls:
        return [Batch([*range(len(tensors.ps))], False, tensors, dtype)]
    alike = defaultdict(list)
    for k, (p, states) in enumerate(zip(tensors.ps, tensors.states)):
        alike[(p.shape, p.stride(), row_of[k], *(s.shape for s in states.values()))].append(k)
    res, stackable = [], all(c.stacked for c in calls)
    for (shape, *_), ks in alike.items():
        n = (
            max(1, scratch_bytes // 64 // max(1, shape.numel()))
            if stackable and shape.numel() <= stack_limit
            else 1
        )
        for i in range(0, len(ks), n):
            members = ks[i : i + n]
            res.append(Batch(members, len(members) > 1, tensors, dtype))
    return res


def parts(batch, row_of, scratch_bytes):
    """Parts of `batch` that have one row of scalars, and whose values in between fit into the memory of a step: pairs of the row and places in the
    batch"""
    by_row = defaultdict(list)
    for j, k in enumerate(batch.at):
        by_row[row_of[k]].append(j)
    limit, res = max(1, scratch_bytes // (6 * batch.dtype.itemsize)), []
    for r, places in by_row.items():
        part, size = [], 0
        for j in places:
            n = batch.of.ps[batch.at[j]].numel()
            if part and size + n > limit:
                res.append((r, part))
                part, size = [], 0
            part.append(j)
            size += n
        res.append((r, part))
    return res

"""The tensors of a work, and how its parameters are grouped.

    batch    parameters that go through the stages together. Where nothing is called there is one.
             Where callbacks are called, parameters that are alike are one batch, and are stacked
    part     parameters of a batch that an operation on lists takes at once: they have one row of
             scalars, and what is computed on the way fits into `scratch_bytes`
    scratch  memory for what one stage hands to the next. Where callbacks are called, a batch
             borrows it, and the next batch gets the same memory

Six matrices of one shape and a bias, with Muon:    batches [0 1 2 3 4 5] stacked, [6]
Adam on the same, of which the first has its own lr: batch [0 1 2 3 4 5 6], parts [0], [1 ... 6]"""

from collections import defaultdict
from functools import cached_property
import torch
from torch import Tensor
from .foreach import on_accelerator
from .names import moves
from .stacks import stack_size

__all__ = ['Batch', 'Part', 'Tensors', 'batches', 'parts']


class Tensors:
    """What the backends see of the parameters of a work, real and local: `ps`, `states` (for each
    parameter by name), `grads` of this step, and `extra`, by name, which a prefix hands on"""

    def __init__(self):
        self.ps, self.states = [], []
        self.grads, self.extra = None, {}

    def make_extra(self, names, dtype):
        for n in names:
            if n not in self.extra:
                self.extra[n] = [torch.empty_like(p, dtype=dtype) for p in self.ps]

    def has(self, name):
        return name in ('p', 'grad') or name in self.extra or name in self.states[0]

    def named(self, name, at):
        "Those called `name` of the parameters `at`"
        if name in self.states[0]:
            return [self.states[k][name] for k in at]
        if name in self.extra:
            return [self.extra[name][k] for k in at]
        xs = self.ps if name == 'p' else self.grads
        return [xs[k] for k in at]


class Scratch:
    """Memory that batches borrow. `kept`: what they give back serves the next one that needs as much
    or less. On an accelerator torch's own allocator does that, for other users too"""

    def __init__(self, dtype, kept):
        self.dtype, self.kept, self.free = dtype, kept, []

    def take(self, n, device):
        "Memory for `n` elements or more"
        fitting = [x for x in self.free if x.numel() >= n]
        if not fitting:
            return torch.empty(n, dtype=self.dtype, device=device)
        # Among equals the address decides, so that each step takes the same
        found = min(fitting, key=lambda x: (x.numel(), x.data_ptr()))
        self.free = [x for x in self.free if x is not found]
        return found

    def give_back(self, x):
        if self.kept:
            self.free.append(x)


class Batch:
    """Parameters that go through the stages together: `at`, their places in the work. `stacked`:
    they have one shape and one row, and calls get a stack. `values`: what the stages have computed
    in this step. `scratch`: what one stage hands to the next, by name. It lies in memory that the
    batch has `borrowed` from `memory`; without `memory`, in memory of its own. `tapes`: of calls;
    `last_numbers`: with which each was called last. `tried`: its stages have been run before
    `commit`, but for the last"""

    def __init__(self, at, stacked, tensors, dtype, memory=None):
        self.at, self.stacked, self.of, self.dtype = at, stacked, tensors, dtype
        self.memory, self.borrowed = memory, {}
        self.launch, self.values, self.scratch, self.parts = None, {}, {}, {}
        self.tapes, self.last_numbers = {}, {}
        self.tried = False

    @cached_property
    def stack_strides(self):
        "The strides of a stack whose members lie as the parameters, but without gaps"
        p = self.of.ps[self.at[0]]
        return p.numel(), *torch.empty_like(p, device='meta').stride()

    def tensors(self, name):
        return (
            self.of.named(name, self.at) if self.of.has(name) else [*self.scratch[name]]
        )

    def singles(self, v):
        "The single number `v` of each parameter"
        return self.values[v].reshape(-1) if v in self.values else self.tensors(v.name)

    def moves(self, name):
        "Whether the tensors called `name` may lie elsewhere in each step"
        return moves(name) or name in self.borrowed

    def addresses(self, name):
        stack = self.scratch.get(name)
        if not isinstance(stack, Tensor):
            return [x.data_ptr() for x in self.tensors(name)]
        first, step = stack.data_ptr(), stack.stride(0) * stack.element_size()
        return [first + k * step for k in range(len(self.at))]

    def make_room(self, name):
        "Scratch memory for `name`: a tensor like each parameter, or a stack of such tensors"
        if name in self.scratch:
            return
        if self.memory is None:
            members = [self.of.ps[k] for k in self.at]
            self.scratch[name] = [
                torch.empty_like(p, dtype=self.dtype) for p in members
            ]
            return
        p, n = self.of.ps[self.at[0]], len(self.at)
        self.borrowed[name] = self.memory.take(n * p.numel(), p.device)
        stack = self.borrowed[name].as_strided((n, *p.shape), self.stack_strides)
        self.scratch[name] = stack if self.stacked else [stack[0]]

    def forget(self, v):
        """Let the value `v` go, which is not needed in this step any more. What is kept for the next
        batch stays, because a callback may have returned it as another value"""
        self.values.pop(v, None)
        self.scratch.pop(v.name, None)
        if not self.memory.kept:
            self.borrowed.pop(v.name, None)

    def finish(self):
        "Let go what has been computed in this step"
        self.values.clear()
        if self.memory is None:
            return
        self.scratch.clear()
        for x in self.borrowed.values():
            self.memory.give_back(x)
        self.borrowed.clear()

    def let_go(self):
        "Free scratch memory, and forget where it lay"
        self.finish()
        if self.memory is not None:
            self.memory.free.clear()
        if self.launch is not None:
            self.launch.pointed -= self.scratch.keys()
        self.scratch.clear()
        self.parts.clear()


class Part:
    """The parameters at `places` of `batch`, which have the row `row` of scalars. Their tensors of
    each name are one list, which is made once where they stay from step to step"""

    def __init__(self, batch, row, places):
        self.batch, self.row, self.places = batch, row, places
        self.whole = places == [*range(len(batch.at))]
        self.kept = {}

    def tensors(self, name):
        if name in self.kept:
            return self.kept[name]
        xs = self.batch.tensors(name)
        if not self.whole:
            xs = [xs[j] for j in self.places]
        if not self.batch.moves(name):
            self.kept[name] = xs
        return xs


def batches(program, tensors, row_of, scratch_bytes):
    """All parameters as one batch; if callbacks are called, those that are alike. The largest comes
    first, so that its memory is enough for all others"""
    dtype = program.layout.compute_dtype
    if not any(s.calls for s in program.stages):
        return [Batch([*range(len(tensors.ps))], False, tensors, dtype)]
    alike = defaultdict(list)
    for k, (p, states) in enumerate(zip(tensors.ps, tensors.states)):
        alike[
            (p.shape, p.stride(), row_of[k], *(s.shape for s in states.values()))
        ].append(k)
    members = []
    for ks in alike.values():
        p, states = tensors.ps[ks[0]], tensors.states[ks[0]]
        members += evenly(ks, stack_size(program, p, states, scratch_bytes))
    members.sort(key=lambda at: -len(at) * tensors.ps[at[0]].numel())
    memory = Scratch(dtype, kept=not on_accelerator(program))
    return [Batch(at, len(at) > 1, tensors, dtype, memory) for at in members]


def evenly(xs, most):
    "`xs` in pieces of at most `most`, of which none is longer than another by more than one"
    n = -(-len(xs) // most)
    ends = [-(-i * len(xs) // n) for i in range(n + 1)]
    return [xs[a:b] for a, b in zip(ends, ends[1:])]


def parts(batch, row_of, scratch_bytes, lists=6):
    """The parts of `batch`: pairs of a row of scalars and of places in the batch. `lists`: how many
    lists of values in between an operation needs"""
    by_row = defaultdict(list)
    for j, k in enumerate(batch.at):
        by_row[row_of[k]].append(j)
    limit, res = max(1, scratch_bytes // (lists * batch.dtype.itemsize)), []
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

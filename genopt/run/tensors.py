"""The tensors of a work, and how its parameters are grouped.

    batch    parameters that go through the stages together. Where nothing is called there is one.
             Where callbacks are called, parameters that are alike are one batch, and are stacked
    part     parameters of a batch that an operation on lists takes at once: they have one row of
             scalars, and what is computed on the way fits into `scratch_bytes`

Six matrices of one shape and a bias, with Muon:    batches [0 1 2 3 4 5] stacked, [6]
Adam on the same, of which the first has its own lr: batch [0 1 2 3 4 5 6], parts [0], [1 ... 6]"""

from collections import defaultdict
import torch
from torch import Tensor
from .names import moves

__all__ = ['Batch', 'Part', 'Tensors', 'batches', 'parts']

stack_limit = 2**16  # elements: a larger matrix is as quick by itself


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
        xs = (
            self.ps
            if name == 'p'
            else self.grads
            if name == 'grad'
            else self.extra[name]
        )
        return [xs[k] for k in at]


class Batch:
    """Parameters that go through the stages together: `at`, their places in the work. `stacked`:
    they have one shape and one row, and calls get a stack. `values`: what the stages have computed
    in this step; `scratch`: memory for what one stage hands to the next, by name. `tapes`: of calls
    on the stack; `last_numbers`: with which each was called last. `tried`: its stages have been run
    before `commit`, but for the last"""

    def __init__(self, at, stacked, tensors, dtype):
        self.at, self.stacked, self.of, self.dtype = at, stacked, tensors, dtype
        self.launch, self.values, self.scratch, self.parts = None, {}, {}, {}
        self.tapes, self.last_numbers = {}, {}
        self.tried = False

    def tensors(self, name):
        return (
            self.of.named(name, self.at) if self.of.has(name) else [*self.scratch[name]]
        )

    def singles(self, v):
        "The single number `v` of each parameter"
        return self.values[v].reshape(-1) if v in self.values else self.tensors(v.name)

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
        p, n = self.of.ps[self.at[0]], len(self.at)
        if self.stacked:
            whole = torch.empty(n * p.numel(), dtype=self.dtype, device=p.device)
            self.scratch[name] = whole.as_strided(
                (n, *p.shape), (p.numel(), *p.stride())
            )
        else:
            members = [self.of.ps[k] for k in self.at]
            self.scratch[name] = [
                torch.empty_like(p, dtype=self.dtype) for p in members
            ]


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
        if not moves(name):
            self.kept[name] = xs
        return xs


def batches(program, tensors, row_of, scratch_bytes):
    "All parameters as one batch; if callbacks are called, those that are alike"
    calls, dtype = (
        [c for s in program.stages for c in s.calls],
        program.layout.compute_dtype,
    )
    if not calls:
        return [Batch([*range(len(tensors.ps))], False, tensors, dtype)]
    alike = defaultdict(list)
    for k, (p, states) in enumerate(zip(tensors.ps, tensors.states)):
        alike[
            (p.shape, p.stride(), row_of[k], *(s.shape for s in states.values()))
        ].append(k)
    stackable, res = all(c.stacked for c in calls), []
    for (shape, *_), ks in alike.items():
        n = stack_size(shape.numel(), scratch_bytes) if stackable else 1
        members = [ks[i : i + n] for i in range(0, len(ks), n)]
        res += [Batch(at, len(at) > 1, tensors, dtype) for at in members]
    return res


def stack_size(numel, scratch_bytes):
    "How many parameters of `numel` elements are stacked"
    return max(1, scratch_bytes // 64 // max(1, numel)) if numel <= stack_limit else 1


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

"""Cross reductions: what joins all parameters, such as the norm of all gradients.

Works with different programs may share one. It then waits until all of them have come to it, each
at a stage of its own. Two groups that both clip by the norm of all gradients, for instance; in the
second a callback that needs a shape lies before that:

    work 0    stage 0: a norm of each gradient ------------------------------+
                                                                              +--> the norm of all
    work 1    stage 0: centralize is called --> stage 1: norms of gradients --+

Work 0 runs stage 0 and waits; work 1 runs stages 0 and 1; then both get the norm and go on.

A work that shares with no other, and calls nothing between, does all this within one call of C
(`emit_cross.py`)."""

import torch
from torch import Tensor
from ..lower.values import Value, tree_map
from .foreach import on_tensors
from .reference import out_of_order

__all__ = ['check_shared_numbers', 'run_before_commit']


def run_before_commit(works):
    """Run the stages that come before `commit`, of all `works`. False if a callback has returned
    other names than before"""
    progress = Progress(works)
    moved = [*progress.at]
    while progress.at:
        if not all(w.run_stage(progress.at[w]) for w in moved):
            return False
        moved = progress.advance()
    return True


class Progress:
    """How far `works` are. `at`: work -> its stage, of those before `commit`, that is run now.
    `vectors`: place of a cross reduction -> the vector that it has come to"""

    def __init__(self, works):
        self.works = works
        self.at = {w: 0 for w in works if w.before_commit}
        self.vectors = {}

    def advance(self):
        "Let all works go on that wait for nothing. Returns those that have another stage to run"
        ready = [
            w for w in self.at if all(self.computed(v, w) for v in self.reductions(w))
        ]
        if not ready:
            raise out_of_order(
                next(v.block for w in self.at for v in self.reductions(w))
            )
        for w in ready:
            self.go_on(w)
        return [w for w in ready if w in self.at]

    def go_on(self, w):
        take_over(
            w, self.at[w], {v: self.vectors[place(v, w)] for v in self.reductions(w)}
        )
        self.at[w] += 1
        if self.at[w] == w.before_commit:
            del self.at[w]

    def reductions(self, w):
        "The cross reductions behind the stage at which work `w` is"
        return w.program.stages[self.at[w]].cross_reductions

    def computed(self, v, w):
        "Compute the cross reduction `v` of work `w`. False if a work that shares it is not there"
        here = place(v, w)
        if here in self.vectors:
            return True
        sharing = [
            (o, k, u)
            for o in self.works
            for k, u in all_reductions(o)
            if place(u, o) == here
        ]
        if any(self.at.get(o) != k for o, k, _ in sharing):
            return False
        pairs = [
            pair
            for o, _, u in sharing
            for pair in zip(o.indices, o.handed_out(u.args[0]))
        ]
        singles = [x for _, x in sorted(pairs, key=lambda pair: pair[0])]
        self.vectors[here] = v.kwargs['how'](vector(singles))
        return True


def all_reductions(w):
    "All cross reductions of work `w`, each with its stage"
    return [
        (k, v)
        for k, stage in enumerate(w.program.stages)
        for v in stage.cross_reductions
    ]


def place(v, w):
    """What tells the cross reduction `v` of work `w` from others: the callback that makes it, and
    which of that one's it is. The callback may stand in the chain twice"""
    same_block = [u for _, u in all_reductions(w) if u.block == v.block]
    return v.block, same_block.index(v)


def vector(singles):
    "Single numbers of all parameters as a vector, where the first is and in the widest dtype"
    widest = max((x.dtype for x in singles), key=lambda t: t.itemsize)
    return torch.stack([x.reshape(()).to(singles[0].device, widest) for x in singles])


def take_over(work, k, vectors):
    """Give `work` the cross reductions behind its stage `k`, and do the arithmetic on them.
    `vectors`: what they have come to"""
    scalars = work.scalars.named(
        0
    )  # all rows have the same of what a callback over all reads
    work.cross |= {v: x.to(work.compute_dtype) for v, x in vectors.items()}

    def operand(a):
        if not isinstance(a, Value):
            return a
        return work.cross[a] if a in work.cross else scalars[a.name]

    arithmetic = work.program.stages[k].cross_arithmetic
    for v in arithmetic:
        args, kwargs = tree_map(v.args, operand), tree_map(v.kwargs, operand)
        work.cross[v] = on_tensors(v, args, kwargs)
    if work.launched and (vectors or arithmetic):
        work.scalars.fill_crosses([work.cross.get(v) for v in work.program.crosses])


# -- What a callback over all parameters reads --


def check_shared_numbers(works, settings):
    "Refuse numbers that a callback over all parameters reads, if they differ between parameters"
    seen = {}
    for w in works:
        for block in w.global_blocks:
            for row in w.rows:
                check_row(block, row.numbers(settings), seen)


def check_row(block, numbers, seen):
    "Compare the numbers of one row with those `seen`"
    for n in {*block.reads} & numbers.keys() - block.lists.keys():
        first = seen.setdefault((block, n), numbers[n])
        if differ(first, numbers[n]):
            raise ValueError(block.one_value(n, first, numbers[n]))


def differ(a, b):
    return a is not b if isinstance(b, Tensor) else a != b

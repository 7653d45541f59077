"""What joins all parameters, such as the norm of all gradients. Groups may have different programs; a join waits until each has come to it.

work 0:  squared norms of its gradients --+
                                          +--> the norm of all --> both go on
work 1:  squared norms of its gradients --+
"""

import torch
from torch import Tensor

__all__ = ['check_joins', 'run_before']


def run_before(works):
    "Run the stages before those that write. False if a callback has returned other names than before"
    at, done = (
        {w: 0 for w in works if w.before_commit},
        {},
    )  # work -> its stage; place of a join -> its vector
    ran = set()
    while at:
        for w in at:
            if (w, at[w]) in ran:
                continue
            if not w.before(at[w]):
                return False
            ran.add((w, at[w]))
        ready = [
            w
            for w in at
            if all(joined(v, w, works, at, done) for v in w.program.stages[at[w]].joins)
        ]
        if not ready:
            raise out_of_order(at)
        for w in ready:
            pass_on(w, at[w], done)
        for w in ready:
            at[w] += 1
            if at[w] >= w.before_commit:
                del at[w]
    return True


def pass_on(w, k, done):
    "Give work `w` the joins behind its stage `k`"
    stage = w.program.stages[k]
    if stage.joins or stage.cross:
        w.cross_values(k, {v: done[place(v, w)] for v in stage.joins})


def joined(v, w, works, at, done):
    "Compute the join `v` of work `w`, if all works that have it have come there"
    here = place(v, w)
    if here in done:
        return True
    same = [
        (o, k, u)
        for o in works
        for k, s in enumerate(o.program.stages)
        for u in s.joins
        if place(u, o) == here
    ]
    if any(at.get(o) != k for o, k, _ in same):
        return False
    each = [pair for o, _, u in same for pair in zip(o.indices, o.leaves(u.args[0]))]
    each = [
        x if isinstance(x, Tensor) else torch.tensor(x)
        for _, x in sorted(each, key=lambda pair: pair[0])
    ]  # in the parameters' order
    widest = max((x.dtype for x in each), key=lambda t: t.itemsize)
    done[here] = v.kwargs['how'](
        torch.stack([x.reshape(()).to(each[0].device, widest) for x in each])
    )
    return True


def place(v, w):
    "What tells a join of one program from others: the callback, and which of its joins it is"
    mine = [u for s in w.program.stages for u in s.joins if u.block is v.block]
    return v.block, mine.index(v)


def out_of_order(at):
    block = next(v.block for w in at for v in w.program.stages[at[w]].joins if v.block)
    return ValueError(
        f"{block} and another callback over all parameters come in different orders in two groups"
    )


def check_joins(works, settings):
    "Refuse values of which a callback over all parameters needs one, and that differ"
    seen = {}
    for w in works:
        for b in w.program.chain.blocks:
            for row in w.rows if b.is_global else ():
                check_one(b, row.numbers(settings), seen)


def check_one(block, numbers, seen):
    for n in {*block.reads} - block.lists.keys():
        if n in numbers and different(seen.setdefault((block, n), numbers[n]), numbers[n]):
            raise ValueError(block.one_value(n, seen[block, n], numbers[n]))


def different(a, b):
    return a is not b if isinstance(b, Tensor) else a != b

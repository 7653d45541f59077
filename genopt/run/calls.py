"""Calling callbacks that cannot be part of a launch. A call gets the tensors of one parameter, or a stack of those of a batch. What it gives is
brought to where the launch behind it reads. `work` holds the tensors, `batch` says which of them go together."""

from contextlib import nullcontext
import torch
from torch import Tensor
from ..contract.tensors import describe, storage, wide
from ..lower.chain import OWN
from ..lower.decide import note_change
from ..lower.record import CROSS, ELEMENTS, SINGLE
from .foreach import DeviceNumbers
from .memory import aligned, as_strided_like
from .reference import wrote_in_place
from .tape import Tape

__all__ = ['call', 'write_own']

most_tapes = 32  # of one stack; numbers that change often have none


def call(work, batch, c):
    "Run the call `c`. False if the callback has returned other names than before"
    values = work.scalars_of(batch)
    reads = {n: read(work, batch, v) for n, v in c.reads.items()}
    shared = {n: values[x.name] if hasattr(x, 'recorder') else x for n, x in c.numbers.items()}
    shared.update((n, x) for n, x in reads.items() if c.reads[n].kind == CROSS)
    each = {n: x for n, x in reads.items() if c.reads[n].kind != CROSS}
    before = versions(each)
    with DeviceNumbers() if work.program.request.capturable else nullcontext():
        out = result(batch, c, shared, each)
    if versions(each) != before:
        raise wrote_in_place(work.who, work.program.chain)
    if out.keys() - c.gives.keys() or c.gives.keys() - out.keys() - c.else_.keys():
        note_change(work.program.chain, c.block, out)
        return False
    for n, v in c.gives.items():
        x = out[n] if n in out else read(work, batch, c.else_[n])
        check_shape(work, batch, c, n, v, x)
        batch.values[v] = x
    for v in c.gives.values():
        if v.kind != OWN:
            give(work, batch, v)
    return True


def versions(tensors):
    "How often each has been written, as autograd counts"
    return [x._version for x in tensors.values() if not x.is_inference()]


def result(batch, c, shared, each):
    "What call `c` returns. On a stack it is a tape, if its numbers are those of the step before"
    if not batch.stacked:
        return c.block(shared | each)
    key = (*shared.values(),)
    if (c, key) in batch.tapes:
        names, run = batch.tapes[c, key]
        return dict(zip(names, run(*each.values())))
    one = torch.func.vmap(lambda *xs: c.block(shared | dict(zip(each, xs))), randomness='different')
    if batch.numbers.get(c) != key or any(isinstance(x, Tensor) for x in key):
        batch.numbers[c] = key
        return one(*each.values())
    with Tape([*each.values()]) as tape:
        out = one(*each.values())
    if len(batch.tapes) > most_tapes:
        batch.tapes.clear()
    batch.tapes[c, key] = [*out], tape.function([*out.values()])
    return out


def read(work, batch, v):
    "The value `v` as a tensor, or as a stack of them"
    if v.kind == CROSS:
        return work.cross[v]
    if v in batch.values:
        return (
            batch.values[v]
            if batch.stacked or v.op == 'given' or v.kind != SINGLE
            else batch.values[v][0]
        )
    if v.name in batch.scratch:
        return batch.scratch[v.name] if batch.stacked else batch.scratch[v.name][0]
    xs = [x.to(wide(x.dtype)) for x in batch.tensors(v.name)]
    if not batch.stacked:
        return xs[0]
    batch.values[v] = torch.stack(xs)  # for the calls that come after
    return batch.values[v]


def check_shape(work, batch, c, n, v, x):
    "Refuse what call `c` has given for `n`, if it is not of the shape of the parameter or the state"
    first = batch.at[0]
    like = work.tensors.states[first].get(n, work.tensors.ps[first] if v.kind == ELEMENTS else None)
    shape = like.shape if like is not None else () if v.kind == SINGLE else None
    if isinstance(x, Tensor) and (shape is None or x.shape[batch.stacked :] == shape):
        return
    raise ValueError(
        f"{work.who}: {c.block} made {n} {describe(x)}; it was of shape {tuple(shape)}"
    )


def give(work, batch, v):
    "Bring what a call has given into memory as the parameter lies, for the launches that read it"
    x, p = batch.values[v].to(work.compute), work.tensors.ps[batch.at[0]]
    if not batch.stacked:
        fits = v.kind != ELEMENTS or aligned(x, p) and not x.is_neg()
        batch.scratch[v.name] = [x if fits else as_strided_like(p, x)]
    elif v.kind != ELEMENTS:
        batch.scratch[v.name] = x.contiguous()
    else:
        layout = p.numel(), *p.stride()
        if x.stride() != layout:
            x = (
                torch.empty(x.numel(), dtype=x.dtype, device=x.device)
                .as_strided(x.shape, layout)
                .copy_(x)
            )
        batch.scratch[v.name] = x


def write_own(work, batch):
    "Write the states with a shape of their own that calls have made"
    for n, v in work.program.call_outs.items():
        new = batch.values[v] if v in batch.values else read(work, batch, v)
        news = [*new.unbind()] if batch.stacked else [new]
        pairs = [
            (y, x)
            for x, y in zip(news, batch.tensors(n))
            if x.data_ptr() != y.data_ptr() or x.stride() != y.stride()
        ]
        held = {
            storage(s) for k in batch.at for s in work.tensors.states[k].values()
        }  # a state that is another's old value
        if pairs:
            torch._foreach_copy_(
                [y for y, _ in pairs], [x.clone() if storage(x) in held else x for _, x in pairs]
            )

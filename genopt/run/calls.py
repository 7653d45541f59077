"""Calling callbacks that cannot be part of a launch. A call gets the tensors of one parameter, or a
stack of those of a batch. What it gives is brought to where the launch behind it reads.

Muon on three matrices of shape (8, 4), for instance:

    read      update    the launch before has written it to scratch memory, a stack (3, 8, 4)
    call      newton_schulz, by `vmap` over the stack; from the third step on by a `Tape` of that
    give      update    as a stack whose members lie as the parameters do

`work` holds the tensors, `batch` says which of them go together, `c` is the call."""

from contextlib import nullcontext
import torch
from torch import Tensor
from .._torch import foreach_copy, times_written
from ..contract.tensors import describe, storage, wide
from ..lower.decide import note_change
from ..lower.values import CROSS, ELEMENTS, OWN_SHAPE, SINGLE
from .foreach import DeviceFactorMode
from .memory import aligned, as_strided_like
from .random import Drawing
from .reference import wrote_in_place
from .tape import Tape

__all__ = ['run_call', 'write_call_outs']

most_tapes = 32  # of one stack; numbers that change often have none


def run_call(work, batch, c):
    "Run the call `c`. False if the callback has returned other names than before"
    shared, each = arguments(work, batch, c)
    before = versions(each)
    with DeviceFactorMode() if work.program.request.capturable else nullcontext():
        out = result(work, batch, c, shared, each)
    if versions(each) != before:
        raise wrote_in_place(work.who, work.program.chain)
    new = (out.keys() & c.of_use) - c.gives.keys()
    if new or c.gives.keys() - out.keys() - c.old_values.keys():
        note_change(work.program.chain, c.block, out)
        return False
    for n, v in c.gives.items():
        x = out[n] if n in out else read(work, batch, c.old_values[n])
        check_shape(work, batch, c, n, v, x)
        batch.values[v] = x
        if v.kind != OWN_SHAPE:
            give(work, batch, v)
    return True


def arguments(work, batch, c):
    "What the callback reads, by name: what all parameters share, and tensors of each"
    scalars = work.scalars.named(work.row_of[batch.at[0]])
    shared = {
        n: scalars[x.name] if hasattr(x, 'recorder') else x
        for n, x in c.numbers.items()
    }
    each = {}
    for n, v in c.reads.items():
        (shared if v.kind == CROSS else each)[n] = read(work, batch, v)
    return shared, each


def versions(tensors):
    "How often each has been written, as autograd counts"
    return [*map(times_written, tensors.values())]


def result(work, batch, c, shared, each):
    """What the callback returns. A callback that `vmap` can run does not look at values, so the tape
    of a single tensor is right as well. A tape runs if the numbers are those of last time"""
    if not c.stacked:
        with drawing(work, batch, c) or nullcontext():
            return c.block(shared | each)
    numbers = (*shared.values(),)
    if any(isinstance(x, Tensor) for x in numbers):
        return untaped(work, batch, c, shared, each)
    key = c, numbers, *(x.stride() for x in each.values())
    if key in batch.tapes:
        names, run = batch.tapes[key]
        return dict(zip(names, run(*each.values())))
    if batch.last_numbers.get(c) != numbers:
        batch.last_numbers[c] = numbers
        return untaped(work, batch, c, shared, each)
    with Tape([*each.values()]) as tape:
        out = untaped(work, batch, c, shared, each)
    if len(batch.tapes) > most_tapes:
        batch.tapes.clear()
    batch.tapes[key] = [*out], tape.function([*out.values()])
    return out


def drawing(work, batch, c):
    "What is to be on while a callback that draws random numbers is called"
    if not c.draws:
        return None
    k, capturable = batch.at[0], work.program.request.capturable
    return Drawing(
        work.seeds.drawn, work.keys[k], c.place, work.tensors.ps[k], capturable
    )


def untaped(work, batch, c, shared, each):
    "What the callback returns, called on the stack or on the only tensor of each name"

    def one(*xs):
        return only_tensors(work, batch, c, c.block(shared | dict(zip(each, xs))))

    run = torch.func.vmap(one, randomness='different') if batch.stacked else one
    return run(*each.values())


def only_tensors(work, batch, c, out):
    "What the callback returns, without numbers, which neither `vmap` nor a tape takes"
    for n, x in out.items():
        if n in c.gives and not isinstance(x, Tensor):
            raise misfit(work, batch, c, n, c.gives[n], x)
    # of a name that is new `run_call` looks at the name only
    return {n: x if isinstance(x, Tensor) else torch.zeros(()) for n, x in out.items()}


def read(work, batch, v):
    "The value `v` as a tensor, or as a stack of them"
    if v.kind == CROSS:
        return work.cross[v]
    if v in batch.values:
        x = batch.values[v]
        one_of_vector = not batch.stacked and v.op != 'given' and v.kind == SINGLE
        return x[0] if one_of_vector else x
    if v.name in batch.scratch:
        return batch.scratch[v.name] if batch.stacked else batch.scratch[v.name][0]
    xs = values(work, batch, v.name)
    x = torch.stack(xs) if batch.stacked else xs[0]
    gated = work.gate and v.name == 'grad'
    if gated:
        x = work.gate.let_through(x)
    if batch.stacked or gated:
        batch.values[v] = x  # for the calls that come after
    return x


def values(work, batch, n):
    "The tensors called `n` as callbacks see them"
    how = work.program.chain.stores.get(n)
    if how is None:
        return [x.to(wide(x.dtype)) for x in batch.tensors(n)]
    tensors = work.tensors
    return [how.seen(n, {'p': tensors.ps[k]} | tensors.states[k]) for k in batch.at]


def check_shape(work, batch, c, n, v, x):
    "Refuse what the callback gives for `n`, if that is not of the shape of parameter or state"
    shape = expected_shape(work, batch, n, v)
    if (
        not isinstance(x, Tensor)
        or shape is not None
        and x.shape[batch.stacked :] != shape
    ):
        raise misfit(work, batch, c, n, v, x)


def expected_shape(work, batch, n, v):
    "The shape of what a call gives for `n`, of one parameter. None if any will do"
    states, p = work.tensors.states[batch.at[0]], work.tensors.ps[batch.at[0]]
    if n in states:
        return states[n].shape
    return p.shape if v.kind == ELEMENTS else () if v.kind == SINGLE else None


def misfit(work, batch, c, n, v, x):
    shape = expected_shape(work, batch, n, v)
    was = 'a tensor' if shape is None else f'a tensor of shape {tuple(shape)}'
    return ValueError(
        f"{work.who}: {c.block} changed {n} from {was} to {describe(x)}; return the same kind and shape in every step"
    )


def give(work, batch, v):
    "Bring what a call has given into memory as the parameters lie, for the launches that read it"
    x, p = batch.values[v].to(work.compute_dtype), work.tensors.ps[batch.at[0]]
    if not batch.stacked:
        fits = v.kind != ELEMENTS or aligned(x, p) and not x.is_neg()
        batch.scratch[v.name] = [x if fits else as_strided_like(p, x)]
    elif v.kind != ELEMENTS:
        batch.scratch[v.name] = x.contiguous()
    else:
        batch.scratch[v.name] = as_stack(x, batch.stack_strides)


def as_stack(x, strides):
    "The stack `x`, or a copy of it, with these strides"
    if x.stride() == strides:
        return x
    room = torch.empty(x.numel(), dtype=x.dtype, device=x.device)
    return room.as_strided(x.shape, strides).copy_(x)


# -- States with a shape of their own --


def write_call_outs(work, batch):
    """Write the states with a shape of their own that calls have given. A callback may return one
    state as the new value of another, `dict(a=b, b=a)`: all are read before one is written"""
    call_outs, pairs = work.program.call_outs, []
    if not call_outs:
        return
    held = {storage(s) for k in batch.at for s in work.tensors.states[k].values()}
    for n, v in call_outs.items():
        new = read(work, batch, v)
        init = work.program.chain.state[n]
        for k, x in zip(batch.at, new.unbind() if batch.stacked else [new]):
            olds = work.tensors.states[k]
            with work.rounding(n, [k]):
                written = init.written(n, x, olds)
            for name, y in written.items():
                if not same_memory(y, olds[name]):
                    if work.gate:
                        y = torch.where(work.gate.flag == 0, y, olds[name])
                    y = y.clone() if storage(y) in held else y
                    pairs.append((olds[name], y))
    if pairs:
        foreach_copy(*map(list, zip(*pairs)))


def same_memory(x, y):
    return x.data_ptr() == y.data_ptr() and x.stride() == y.stride()

"""The flat part of a stage, on one of the backends. `work` holds the tensors; `batch` says for
which of its parameters the part is run.

launch     one call of C, or a few kernels of Triton. The launch has a table of addresses: of
           parameters, states and scratch memory it is written once, of gradients and what calls
           give before each launch
foreach    operations on lists of tensors, for one part of the batch after the other"""

from operator import itemgetter
import torch
from .._torch import foreach_copy
from .foreach import foreach_of, on_accelerator, rewrites
from .launch import Kernel, Launch
from .names import as_it_is, moves, with_beside
from .random import of_part
from .tensors import Part, parts
from .triton_launch import TritonKernel, TritonLaunch

__all__ = ['launches', 'only_launch', 'run_flat']


def run_flat(work, k, batch):
    "Run the flat part of stage `k`. What it hands out is then in `batch.values`"
    stages = work.program.stages
    flat = stages[k].flat
    if flat is None:
        return
    if k < len(stages) - 1:
        for n in flat.stores:
            batch.make_room(n)
    run = run_launch if work.launched else run_foreach
    run(work, k, batch, flat)


# -- Launch --


def only_launch(work):
    "The launch of a work whose program is one call, with the gradients of this step"
    launch = launch_of(work, work.batches[0])
    if not work.gradients.pointed and launch.reads('grad'):
        launch.point('grad', work.gradients.addresses)
    work.gradients.pointed = True
    return launch


def launches(work):
    "The launches of all batches of `work`, with the gradients of this step"
    if work.simple:
        return [only_launch(work)]
    for b in work.batches:
        launch_of(work, b).point('grad', b.addresses('grad'))
    return [b.launch for b in work.batches]


def launch_of(work, batch):
    if batch.launch is None:
        batch.launch = bound_launch(work, batch)
    return batch.launch


def run_launch(work, k, batch, flat):
    launch = launch_of(work, batch)
    for n in (*flat.names, *flat.single_names):
        if batch.moves(n) or n not in launch.pointed:
            launch.point(n, batch.addresses(n))
    launch(k)
    for v in flat.leaves:
        batch.values[v] = launch.leaf(v)


def bound_launch(work, batch):
    "A launch for `batch`, with the addresses of all that stays where it is"
    program, names = work.program, work.program.names_in_memory
    dtypes = {n: work.dtypes.get(n, work.compute_dtype) for n in names}
    dtypes = with_beside(names, dtypes, program.chain.stores)
    key = (*dtypes.items(),)
    on_device = program.request.backend == 'triton'
    if key not in program.kernels:
        make = TritonKernel if on_device else Kernel
        made = make(program, work.scalars.names, dtypes, str(program.chain))
        program.kernels[key] = made
    kernel = program.kernels[key]
    numels = [work.tensors.ps[i].numel() for i in batch.at]
    row_of = [work.row_of[i] for i in batch.at]
    keys = [work.keys[i] for i in batch.at]
    if on_device:
        launch = TritonLaunch(
            kernel, numels, work.scalars, row_of, work.gate, work.seeds, keys
        )
    else:
        launch = Launch(kernel, numels, work.scalars.array, row_of, work.seeds, keys)
    for n in dtypes:
        if not moves(n) and work.tensors.has(n):
            launch.point(n, batch.addresses(n))
    return launch


# -- Foreach --

# A launch on an accelerator is fast where it has many elements: torch's operations on lists take up
# to 21 million at once. torch's own optimizers keep a list of values in between for all parameters.
# So a part may be this many times as large there. That is 1 GiB if `scratch_bytes` is not set: Adam
# on GPT-2 is one part, and takes the 500 MB that torch takes; on eight billion parameters it takes
# 1 GiB, and torch 32
accelerator_share = 16


def run_foreach(work, k, batch, flat):
    program = work.program
    key = k, rewrites(program)
    if key not in program.kernels:
        program.kernels[key] = foreach_of(flat, rewrites(program))
    kernel = program.kernels[key]
    if k not in batch.parts:
        batch.parts[k] = parts_of(work, batch, kernel)
    cross = {v.name: x for v, x in work.cross.items()}
    found = [
        (part, run_part(work, part, kernel, work.scalars.named(part.row) | cross))
        for part in batch.parts[k]
    ]
    for v in flat.leaves:
        batch.values[v] = joined([(part, leaves[v]) for part, leaves in found])


def parts_of(work, batch, kernel):
    "The parts of `batch` that `kernel` takes"
    if on_accelerator(work.program):
        limit = accelerator_share * work.scratch_bytes
        pairs = parts(batch, work.row_of, limit, lists_between(work, kernel))
    else:
        pairs = parts(batch, work.row_of, work.scratch_bytes)
    return [Part(batch, r, places) for r, places in pairs]


def lists_between(work, kernel):
    "How many lists `kernel` makes that live at once, with those in another dtype than is stored"
    dtypes = [work.dtypes.get(n, work.compute_dtype) for n in kernel.flat.names]
    wide = sum(t != work.compute_dtype for t in dtypes)
    return max(1, kernel.lists + wide + work.program.request.capturable)


def joined(pairs):
    "The vectors of all parts as one, in the order of the batch"
    if len(pairs) == 1:
        return pairs[0][1]
    members = [m for part, xs in pairs for m in zip(part.places, xs.unbind())]
    return torch.stack([x for _, x in sorted(members, key=itemgetter(0))])


def run_part(work, part, kernel, scalars):
    "Run `kernel` for one part, in the dtype of the arithmetic"
    flat, stores = kernel.flat, work.program.chain.stores
    stored = {n: part.tensors(n) for n in (*flat.names, *flat.single_names)}
    how = {n: stores.get(n, as_it_is) for n in stored}
    split = {n for n, xs in stored.items() if xs and how[n].beside(n, xs[0].dtype)}
    wide = {
        n: joined_with_beside(how[n], n, part, work.compute_dtype)
        if n in split
        else widened(xs, work.compute_dtype)
        for n, xs in stored.items()
    }
    leaves = kernel(wide, scalars, of_part(part, work))
    for n in (*flat.stores, *flat.single_stores):
        if n in split:
            write_with_beside(work, how[n], n, wide[n], part)
        elif wide[n] is not stored[n]:
            news = rounded(work, how[n], n, wide[n], stored[n], part)
            foreach_copy(stored[n], news)
    return leaves


def joined_with_beside(how, n, part, dtype):
    """The values called `n` in `dtype`. Beside them are the scales of codes, or the second tensor of a
    pair; `how` they are stored"""
    xs = part.tensors(n)
    if code := how.code_of(xs[0].dtype):
        found = code.seen_all(xs, part.tensors(code.beside(n)))
    else:
        found = [how.seen(n, x) for x in stored_members(how, n, part)]
    return [x.to(dtype) for x in found]


def write_with_beside(work, how, n, news, part):
    xs = part.tensors(n)
    if code := how.code_of(xs[0].dtype):
        sizes = [code.n_blocks(x) * code.block for x in xs]
        with work.rounding(n, members(part), sizes):
            new_codes, new_scales = code.stored_all(news, xs, how.stochastic)
        foreach_copy(xs, new_codes)
        foreach_copy(part.tensors(code.beside(n)), new_scales)
        return
    for k, new, olds in zip(members(part), news, stored_members(how, n, part)):
        with work.rounding(n, [k]):
            written = how.written(n, new, olds)
        for name, x in written.items():
            olds[name].copy_(x)


def members(part):
    "The places of the parameters of `part` in its work"
    return [part.batch.at[j] for j in part.places]


def stored_members(how, n, part):
    "What each parameter of `part` stores of `n`: tensors by name"
    names = how.names(n, part.tensors(n)[0])
    return [dict(zip(names, xs)) for xs in zip(*map(part.tensors, names))]


def rounded(work, how, n, news, olds, part):
    "The values `news` for the tensors `olds`. `how` they are stored"
    if not how.stochastic:
        return news
    res = []
    for k, new, old in zip(members(part), news, olds):
        with work.rounding(n, [k]):
            res.append(how.rounded(new, old))
    return res


def widened(xs, dtype):
    if xs[0].dtype == dtype:
        return xs
    wide = [torch.empty_like(x, dtype=dtype) for x in xs]
    foreach_copy(wide, xs)
    return wide

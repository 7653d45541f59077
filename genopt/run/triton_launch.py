"""A launch in Triton: kernels, bound to the memory of their parameters. Beside parameters and states
a kernel reads what a launch makes once on the device:

    table       addresses of each name, for each parameter; the numbers of elements; the row of
                scalars of each parameter
    tiles       of each tile its parameter and its place in that
    segments    runs of tiles of one parameter, which reduce to one partial result each. No parameter
                has its segments on both sides of a multiple of `lanes`, so one program can join them

From step to step scalars change, and addresses of gradients. The launch has a copy of both on the
host, and sends what has changed, in one piece; if nothing has, it sends nothing. With
`capturable=True` scalars are on the device from the start, and a captured step sends all addresses:
whenever the graph is replayed it writes those with which it was captured."""

import ctypes
import torch
from . import triton_runtime as runtime
from .memory import is_capturing
from .names import with_beside
from .triton import Triton
from .triton_emit import look, sequence
from .triton_names import TritonNames

__all__ = ['Mirror', 'TritonKernel', 'TritonLaunch', 'kernel_for']

all_stages = -1


class TritonKernel:
    """The kernels of a program. All that run the program on the same `dtypes` share them. Kernels
    for all stages, or for one, are made when they are first asked for"""

    def __init__(self, program, scalars, dtypes, name):
        self.program, self.name = program, name
        self.dtype, self.device = program.layout.compute_dtype, program.layout.device
        self.interpreted = runtime.interprets(self.device)
        self.names = TritonNames(program, scalars, dtypes, Triton(self.dtype))
        largest = max((c.block for c in self.names.codes), default=0)
        self.sizes = runtime.sizes_for(self.device, largest)
        self.slots, self.dtypes = self.names.slots, dtypes
        self.draws = program.draws
        self.rounds_at_random = any(map(self.names.stochastic, dtypes))
        self.sequences, self.look = {}, None

    def source(self, stage=all_stages):
        "The source of the kernels for all stages, or for one, and their calls in order"
        every = range(len(self.program.stages))
        stages = every if stage == all_stages else [stage]
        prefix = 'step' if stage == all_stages else f'stage{stage}'
        return sequence(self.program, self.names, [*stages], prefix)

    def sequence(self, stage):
        "Pairs of a function and its `KernelCall`"
        if stage not in self.sequences:
            source, calls = self.source(stage)
            names = [c.name for c in calls]
            found = runtime.functions(source, names, self.interpreted)
            self.sequences[stage] = [*zip(found, calls)]
            runtime.compilations.append(self.name)
        return self.sequences[stage]

    def looking(self):
        "The kernel that looks at gradients, and what it takes"
        if self.look is None:
            source, takes = look(self.names)
            self.look = *runtime.functions(source, ['look'], self.interpreted), takes
        return self.look

    def calls(self, stage=all_stages):
        return self.source(stage)[1]

    def stages(self):
        "What is launched in a step: all stages at once, or one after the other around calls"
        if self.program.one_call:
            return [all_stages]
        return [k for k, s in enumerate(self.program.stages) if s.flat]

    def bytes_of(self, call):
        "The bytes that a kernel moves for each element"
        names = (*call.reads, *call.writes)
        codes = [c for n in names if (c := self.names.code(n))]
        scales = sum(4 / c.block for c in codes)
        pairs = [m for n in names if self.names.pair(n) for m in self.names.beside(n)]
        moved = sum(self.dtypes[n].itemsize for n in (*names, *pairs)) + scales
        return moved if scales else int(moved)


def kernel_for(program):
    "The kernels of `program`, for states in the dtypes of its layout"
    layout = program.layout
    dtypes = dict(p=layout.dtype, grad=layout.grad_dtype) | dict(layout.state_dtypes)
    stored = {n: dtypes.get(n, layout.compute_dtype) for n in program.names_in_memory}
    stored = with_beside(stored, stored, program.chain.stores)
    return TritonKernel(program, program.names_of_scalars(), stored, str(program.chain))


class TritonLaunch:
    """`kernel` for parameters of `numels` elements. `scalars`: their `ScalarTable`; `row_of`: which
    row each parameter has. `pointed`: the names whose addresses are in the table. `gate`: at which
    the kernels look. `seeds`: of random numbers, and of rounding at random; `keys`: what tells those
    of a parameter from those of others"""

    def __init__(self, kernel, numels, scalars, row_of, gate=None, seeds=None, keys=()):
        self.kernel, self.scalars, self.n = kernel, scalars, len(numels)
        self.seeds = seeds
        self.device, names = kernel.device, kernel.names
        self.block, self.lanes = kernel.sizes.block, kernel.sizes.lanes
        places = segments_of(numels, kernel.sizes) if kernel.names.most_reduced else []
        on_host = scalars.on_device is None
        n_segments = len(places)  # what lies behind the last one is never read
        places += [(-1, 0, 0, 0)] * (-len(places) % self.lanes)
        self.chunks = len(places) // self.lanes
        self.sent = Sent(
            scalars.array,
            [*numels, *row_of, *keys],
            len(kernel.slots) * self.n,
            self.device,
        )
        new = lambda n: torch.zeros(max(1, n), dtype=kernel.dtype, device=self.device)
        self.singles = new(self.n * names.width)
        self.partials = new(len(places) * names.most_reduced)
        tiles = tiles_of(numels, self.block)
        integers = lambda x: x.to(self.device, torch.int32).reshape(-1)
        self.values = dict(
            table=self.sent.table,
            scalars=self.sent.rows(kernel.dtype) if on_host else scalars.on_device,
            tiles=integers(tiles),
            segments=integers(torch.tensor(places)),
            crosses=scalars.crosses,
            singles=self.singles,
            partials=self.partials,
            n=self.n,
            chunks=self.chunks,
            BLOCK=self.block,
            LANES=self.lanes,
        )
        if gate:
            self.values |= dict(flag=gate.flag, scale=gate.scale)
        if kernel.draws:
            self.values |= dict(seed=seeds.drawn.on(self.device))
        if kernel.rounds_at_random:
            self.values |= dict(rounding=seeds.rounding.cell(self.device))
        self.grids = dict(
            tiles=len(tiles),
            segments=n_segments,
            chunks=self.chunks,
            lanes=-(-self.n // self.lanes),
            one=1,
        )
        self.steps = {}  # stage -> bound kernels in order
        self.looking, self.marks = None, None  # for looks at gradients
        self.pointed = set()

    def point(self, name, addresses):
        "Say where `name` of each parameter lies"
        self.sent.write(self.sent.start + self.kernel.slots[name] * self.n, addresses)
        self.pointed.add(name)

    def __call__(self, stage=all_stages):
        if self.kernel.draws:
            self.seeds.drawn.on(self.device)
        if self.kernel.rounds_at_random:
            self.seeds.rounding.on(self.device)
        self.sent.send()
        runtime.launch(self.steps.get(stage) or self.bind(stage), self.device)

    def bind(self, stage):
        "What is run for a stage. Kernels without anything to do are left out"
        self.steps[stage] = [
            self.bound(f, self.grids[c.grid], c.takes)
            for f, c in self.kernel.sequence(stage)
            if self.grids[c.grid]
        ]
        return self.steps[stage]

    def bound(self, function, grid, takes, **others):
        "`function` with the arguments called `takes`, of which `others` are not those of all kernels"
        args = [(self.values | others)[a] for a in takes]
        return runtime.BoundKernel(function, grid, args, self.device)

    def look(self):
        """The first parameter with a gradient that is not finite, or its square; None if none is so.
        This waits for the device, once"""
        self.look_into_gate()
        return self.first_marked()

    def look_into_gate(self):
        """Mark the tiles of gradients in which an element is not finite, or its square. If there is a
        gate, close it. This does not wait"""
        self.sent.send()
        tiles = self.grids['tiles']
        if not tiles:
            return
        if self.looking is None:
            self.marks = torch.zeros(tiles, dtype=self.kernel.dtype, device=self.device)
            function, takes = self.kernel.looking()
            self.looking = self.bound(function, tiles, takes, partials=self.marks)
        runtime.launch([self.looking], self.device)

    def first_marked(self):
        "The first parameter with a marked tile, or None. This waits for the device"
        if self.marks is None:
            return None
        parameters = self.values['tiles'][::2]
        first = int(torch.where(self.marks == 0, self.n, parameters).amin())
        return first if first < self.n else None

    def reads(self, name):
        return name in self.kernel.slots

    def leaf(self, v):
        "What is handed out as `v`, a vector with an entry for each parameter"
        names = self.kernel.names
        return self.singles.view(self.n, names.width)[:, names.kept[v]]


class Mirror:
    """Words of 64 bits on the host, and `there`, on the device. `send` copies what has changed on
    the host since the last time, from the first change to the last. If a graph is being captured it
    copies all: whenever the graph is replayed, it writes what it was captured with"""

    def __init__(self, size, device):
        self.size, self.device = size, device
        self.memory = (ctypes.c_int64 * max(1, size))()
        self.there = torch.empty(max(1, size), dtype=torch.int64, device=device)
        self.first, self.end = 0, size  # what has changed
        self.captured = []  # memory from which graphs copy when they are replayed

    def note(self, first, end):
        self.first, self.end = min(first, self.first), max(end, self.end)

    def write(self, first, words):
        end = first + len(words)
        if self.memory[first:end] != words:
            self.memory[first:end] = words
            self.note(first, end)

    def send(self):
        if is_capturing(self.device):
            self.captured.append(self.copy(0, self.size))
            return
        if self.captured:  # a replay may have written others
            self.note(0, self.size)
        if self.first < self.end:
            self.copy(self.first, self.end)
            self.first, self.end = self.size, 0

    def copy(self, first, end):
        """Copy to the device, which may be far behind. `memory` is written again before this copy
        has run, so each copy has pinned memory of its own. torch's allocator lends that to nobody
        else before, because it records an event on the stream of a copy that does not wait"""
        on_host = self.device.type == 'cpu'
        here = torch.empty(end - first, dtype=torch.int64, pin_memory=not on_host)
        source = ctypes.addressof(self.memory) + 8 * first
        ctypes.memmove(here.data_ptr(), source, 8 * (end - first))
        self.there[first:end].copy_(here, non_blocking=True)
        return here


class Sent(Mirror):
    """Scalars and addresses side by side: rows of scalars, which are a copy of `array`, then the
    table, which ends with `facts`"""

    def __init__(self, array, facts, n_addresses, device):
        # the table begins at a multiple of 16 bytes
        self.start = -(-ctypes.sizeof(array) // 16) * 2
        super().__init__(self.start + n_addresses + len(facts), device)
        self.array, self.last = array, None
        self.memory[self.start + n_addresses :] = facts
        self.table = self.there[self.start :]

    def rows(self, dtype):
        "The rows of scalars on the device"
        return self.there[: self.start].view(dtype)

    def send(self):
        now = bytes(self.array)
        if now != self.last:
            ctypes.memmove(self.memory, self.array, len(now))
            self.note(0, -(-len(now) // 8))
            self.last = now
        super().send()


# -- Tiles and segments --


def tiles_of(numels, block):
    "Pairs of a parameter and a place in it, for each tile of at most `block` elements"
    counts = torch.tensor([-(-n // block) for n in numels])
    parameter = torch.repeat_interleave(torch.arange(len(numels)), counts)
    first = torch.cumsum(counts, 0) - counts
    place = torch.arange(len(parameter)) - first[parameter]
    return torch.stack([parameter, place], 1)


def segments_of(numels, sizes):
    """Parameter, first tile, number of tiles, and 1 for the last one of its parameter, of each
    segment. Places that stay empty have the parameter -1. With `lanes` 4, and parameters of 1, 5
    and 5 tiles:

        0,0,1,1    1,0,4,0    1,4,1,1    -1,0,0,0    |    2,0,4,0    2,4,1,1

    A model has about `sizes.segments` of them: enough for all of a GPU, few enough for the one
    program that joins them if there is a cross reduction"""
    tiles = [-(-n // sizes.block) for n in numels]
    length = max(4, -(-sum(tiles) // sizes.segments))
    places = []
    for t, n in enumerate(tiles):
        mine = segments_of_one(t, n, max(length, -(-n // sizes.lanes)))
        room = -len(places) % sizes.lanes
        if len(mine) > room:
            places += [(-1, 0, 0, 0)] * room
        places += mine
    return places


def segments_of_one(t, tiles, length):
    "The segments of parameter `t`; one if it has no elements"
    firsts = [*range(0, tiles, length)] or [0]
    return [(t, k, min(length, tiles - k), int(k == firsts[-1])) for k in firsts]

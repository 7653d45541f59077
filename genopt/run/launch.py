"""A launch: a kernel, bound to the memory of its parameters. The table of addresses, the tiles and the arrays of single numbers
are made once; between steps only addresses of gradients move."""

import ctypes
from array import array
import torch
from . import compiler
from .c import block
from .emit import look_source, source

__all__ = ['Kernel', 'Launch']

serial = 32_768  # elements: below, starting threads takes longer than the work
all_stages = -1


fields = 'table n numel tile_parameter tile_place tiles scalars width row singles leaves partials sums rows stage parallel'
order = fields.split()
integers = 'n', 'tiles', 'width', 'rows', 'stage', 'parallel'
kinds = [ctypes.c_int64 if n in integers else ctypes.c_void_p for n in order]


class Args(ctypes.Structure):
    "As `Args` in the C source: pointers, and 64-bit integers"

    _fields_ = [*zip(order, kinds)]


class Kernel:
    "The compiled code of a program; shared by all that run the program on the same dtypes. `dtypes`: of what lies in memory, by name"

    def __init__(self, program, scalars, dtypes, name):
        flats = [s.flat for s in program.stages if s.flat]
        rounds = [r for f in flats for r in f.rounds]
        self.dtype, self.dtypes = program.layout.compute_dtype, dtypes
        self.slots = {n: i for i, n in enumerate(program.names_in_memory)}
        self.leaves = {
            v: i for i, v in enumerate(dict.fromkeys(v for f in flats for v in f.leaves))
        }
        self.width = max(1, len(scalars))
        self.n_singles = len({v for r in rounds for v in (*r.singles, *r.reduced)})
        self.n_reduced = max((len(r.reduced) for r in rounds), default=0)
        self.run = compiler.library(source(program, scalars, dtypes), name)


class Launch:
    """A kernel for parameters of `numels` elements. `scalars`: the array of rows of scalars; `row`: for each parameter its row
    there"""

    def __init__(self, kernel, numels, scalars, row):
        self.kernel, self.n, self.numels = kernel, len(numels), numels
        tiles = [(t, k) for t, size in enumerate(numels) for k in range(-(-size // block))]
        self.table = (ctypes.c_int64 * max(1, len(kernel.slots) * self.n))()
        self.numel, self.row = array('q', numels), array('i', row)
        self.tile_parameter, self.tile_place = (
            array('i', [t for t, _ in tiles]),
            array('i', [k for _, k in tiles]),
        )
        self.singles = torch.zeros(self.n, max(1, kernel.n_singles), dtype=kernel.dtype)
        self.leaves = torch.zeros(self.n, max(1, len(kernel.leaves)), dtype=kernel.dtype)
        self.partials = array('d', bytes(8 * max(1, len(tiles) * kernel.n_reduced)))
        self.sums = array('d', bytes(8 * max(1, self.n * kernel.n_reduced)))
        self.scalars = scalars
        self.args = Args(
            table=ctypes.addressof(self.table),
            n=self.n,
            tiles=len(tiles),
            scalars=ctypes.addressof(scalars),
            width=kernel.width,
            rows=len(scalars) // kernel.width,
            singles=self.singles.data_ptr(),
            leaves=self.leaves.data_ptr(),
            **{
                n: address(getattr(self, n))
                for n in ('numel', 'row', 'tile_parameter', 'tile_place', 'partials', 'sums')
            },
        )
        self.at = ctypes.addressof(self.args)
        self.run = kernel.run
        self.parallel = sum(numels) > serial
        self.looks = None
        self.pointed = set()

    def point(self, name, addresses):
        "Say where `name` of each parameter lies"
        i = self.kernel.slots[name] * self.n
        self.table[i : i + self.n] = addresses
        self.pointed.add(name)

    def __call__(self, stage=all_stages):
        self.args.stage = stage
        self.args.parallel = self.parallel and compiler.parallel_may()
        self.run(self.at)

    def look(self):
        "The first parameter with a gradient that is not finite, or whose square is not; None if there is none"
        if self.looks is None:
            self.flags = array('d', bytes(8 * max(1, self.args.tiles))), array('d', [0.0])
            self.looks = Args(*(getattr(self.args, n) for n in order))
            self.looks.table += 8 * self.n * self.kernel.slots['grad']
            self.looks.partials, self.looks.sums = map(address, self.flags)
            self.look_run = compiler.library(look_source(self.kernel.dtypes['grad']))
        self.looks.parallel = self.parallel and compiler.parallel_may()
        self.look_run(ctypes.addressof(self.looks))
        return int(self.flags[1][0]) if self.flags[1][0] >= 0 else None

    def reads(self, name):
        return name in self.kernel.slots

    def leaf(self, v):
        return self.leaves[:, self.kernel.leaves[v]]


def address(xs):
    return xs.buffer_info()[0]

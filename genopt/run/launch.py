"""One launch: a compiled flat part, bound to the memory of its parameters. The table of addresses, the tiles and the arrays of single numbers are
made once; between steps only addresses of gradients move."""

import ctypes
from array import array
import torch
from . import c, compiler

__all__ = ['Kernel', 'Launch']

serial = 32_768  # elements: below, starting threads takes longer than the work


class Args(ctypes.Structure):
    "As `Args` in the C source"

    _fields_ = [
        *(
            (n, ctypes.c_void_p if k == '*' else ctypes.c_int64)
            for n, k in dict(
                table='*',
                n='',
                numel='*',
                tile_parameter='*',
                tile_place='*',
                tiles='',
                scalars='*',
                width='',
                row='*',
                singles='*',
                leaves='*',
                partials='*',
                sums='*',
                parallel='',
            ).items()
        )
    ]


class Kernel:
    "The compiled code of one flat part; shared by all that run the same program on the same dtypes"

    def __init__(self, flat, scalars, dtypes, compute_dtype, name):
        self.flat, self.dtype, self.dtypes = flat, compute_dtype, dtypes
        self.slots = {n: i for i, n in enumerate((*flat.names, *flat.single_names))}
        self.width = max(1, len(scalars))
        self.n_singles = max(1, len({v for r in flat.rounds for v in (*r.singles, *r.reduced)}))
        self.n_reduced = max((len(r.reduced) for r in flat.rounds), default=0)
        self.run = compiler.library(c.source(flat, scalars, dtypes, compute_dtype), name)


class Launch:
    "A kernel for parameters of `numels` elements. `scalars`: the array of rows of scalars; `row`: for each parameter its row there"

    def __init__(self, kernel, numels, scalars, row):
        self.kernel, self.n, self.numels = kernel, len(numels), numels
        self.total = sum(numels)
        tiles = [(t, k) for t, size in enumerate(numels) for k in range(-(-size // c.block))]
        self.table = (ctypes.c_int64 * (len(kernel.slots) * self.n))()
        self.arrays = [
            array('q', numels),
            array('i', [t for t, _ in tiles]),
            array('i', [k for _, k in tiles]),
            array('i', row),
        ]
        self.singles = torch.zeros(self.n, kernel.n_singles, dtype=kernel.dtype)
        self.leaves = torch.zeros(self.n, max(1, len(kernel.flat.leaves)), dtype=kernel.dtype)
        self.partials = array('d', bytes(8 * max(1, len(tiles) * kernel.n_reduced)))
        self.sums = array('d', bytes(8 * max(1, self.n * kernel.n_reduced)))
        self.scalars = scalars
        numel, tile_parameter, tile_place, row = (a.buffer_info()[0] for a in self.arrays)
        partials, sums = (a.buffer_info()[0] for a in (self.partials, self.sums))
        self.args = Args(
            ctypes.addressof(self.table),
            self.n,
            numel,
            tile_parameter,
            tile_place,
            len(tiles),
            ctypes.addressof(scalars),
            kernel.width,
            row,
            self.singles.data_ptr(),
            self.leaves.data_ptr(),
            partials,
            sums,
            0,
        )
        self.at = ctypes.addressof(self.args)
        self.run = kernel.run
        self.parallel = self.total > serial
        self.looks = None

    def point(self, name, addresses):
        "Say where `name` of each parameter lies"
        i = self.kernel.slots[name] * self.n
        self.table[i : i + self.n] = addresses

    def __call__(self):
        self.args.parallel = self.parallel and compiler.parallel_may()
        self.run(self.at)

    def look(self):
        "The first parameter with a gradient that is not finite, or whose square is not; None if there is none"
        if self.looks is None:
            self.flags = array('d', bytes(8 * max(1, self.args.tiles))), array('d', [0.0])
            self.looks = Args(*(getattr(self.args, n) for n, _ in Args._fields_))
            self.looks.table += 8 * self.n * self.kernel.slots['grad']
            self.looks.partials, self.looks.sums = (f.buffer_info()[0] for f in self.flags)
            self.look_run = compiler.library(c.look_source(self.kernel.dtypes['grad']))
        self.looks.parallel = self.parallel and compiler.parallel_may()
        self.look_run(ctypes.addressof(self.looks))
        return int(self.flags[1][0]) if self.flags[1][0] >= 0 else None

    def reads(self, name):
        return name in self.kernel.slots

    def leaf(self, v):
        return self.leaves[:, self.kernel.flat.leaves.index(v)]

"""A launch: compiled code, bound to the memory of its parameters. What the code reads beside that
is made once: the table of addresses, the tiles, arrays of single numbers. Two parameters of Adam,
for instance, with 5000 and 10 elements:

    table      p         address of 0, of 1          tiles    parameter 0, place 0
               grad      address of 0, of 1                   parameter 0, place 1
               grad_avg  address of 0, of 1                   parameter 0, place 2
               sqr_avg   address of 0, of 1                   parameter 1, place 0

From step to step only addresses of gradients change."""

import ctypes
from array import array
import torch
from . import compiler
from .c_names import CNames
from .c_prelude import Args, block
from .emit import source
from .look import Look

__all__ = ['Kernel', 'Launch']

serial = 32_768  # elements: below, starting threads takes longer than the work
all_stages = -1


class Kernel:
    """The compiled code of a program. All that run the program on the same `dtypes` share it.
    `dtypes`: of what lies in memory, by name; `slots` and `leaves`: which row of the table, and
    which column of what is handed out, is whose"""

    def __init__(self, program, scalars, dtypes, name):
        names = CNames(program, scalars, dtypes)
        self.dtype, self.dtypes = names.compute_dtype, dtypes
        self.slots, self.leaves = names.slots, names.leaves
        self.width, self.n_singles = max(1, len(scalars)), names.width
        rounds = [r for s in program.stages if s.flat for r in s.flat.rounds]
        self.n_reduced = max((len(r.reduced) for r in rounds), default=0)
        self.draws = program.draws
        self.rounds_at_random = any(map(names.stochastic, dtypes))
        self.run = compiler.library(source(program, names), name)


class Launch:
    """`kernel` for parameters of `numels` elements. `scalars`: the array of all rows of scalars;
    `row_of`: which row each parameter has. `seeds`: of random numbers, and of rounding at random;
    `keys`: what tells those of a parameter from those of others. `pointed`: the names whose
    addresses are in the table"""

    def __init__(self, kernel, numels, scalars, row_of, seeds=None, keys=()):
        self.kernel, self.run, self.n = kernel, kernel.run, len(numels)
        self.seeds = seeds
        tiles = [
            (t, k) for t, size in enumerate(numels) for k in range(-(-size // block))
        ]
        self.table = (ctypes.c_int64 * max(1, len(kernel.slots) * self.n))()
        self.leaves = torch.zeros(
            self.n, max(1, len(kernel.leaves)), dtype=kernel.dtype
        )
        self.singles = torch.zeros(self.n, kernel.n_singles, dtype=kernel.dtype)
        arrays = dict(
            numel=array('q', numels),
            row=array('i', row_of),
            keys=array('q', keys),
            tile_parameter=array('i', [t for t, _ in tiles]),
            tile_place=array('i', [k for _, k in tiles]),
            partials=array('d', bytes(8 * max(1, len(tiles) * kernel.n_reduced))),
            sums=array('d', bytes(8 * max(1, self.n * kernel.n_reduced))),
        )
        self.alive = arrays, scalars  # `args` has their addresses
        self.args = Args(
            table=ctypes.addressof(self.table),
            n=self.n,
            tiles=len(tiles),
            scalars=ctypes.addressof(scalars),
            width=kernel.width,
            rows=len(scalars) // kernel.width,
            singles=self.singles.data_ptr(),
            leaves=self.leaves.data_ptr(),
            **{n: xs.buffer_info()[0] for n, xs in arrays.items()},
        )
        self.at = ctypes.addressof(self.args)
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
        if self.kernel.draws:
            self.args.seed = self.seeds.drawn.number()
        if self.kernel.rounds_at_random:
            self.args.rounding = self.seeds.rounding.number()
        self.run(self.at)

    def look(self):
        "The first parameter with a gradient that is not finite, or its square; None if none is so"
        if self.looks is None:
            self.looks = Look(
                self.args, self.kernel.slots['grad'], self.kernel.dtypes['grad']
            )
        return self.looks(self.parallel and compiler.parallel_may())

    def reads(self, name):
        return name in self.kernel.slots

    def leaf(self, v):
        "What is handed out as `v`, a vector with an entry for each parameter"
        return self.leaves[:, self.kernel.leaves[v]]

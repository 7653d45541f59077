"""A look at gradients: is one of them not finite, or its square? It goes over the tiles of a
launch, and finds the first parameter of which it is so."""

import ctypes
from array import array
from . import compiler
from .c import types
from .c_prelude import block, prelude

__all__ = ['Look']


class Look:
    "A look at the gradients of a launch. `args`: those of the launch; `slot`: of the gradients"

    def __init__(self, args, slot, dtype):
        self.bad = array('d', bytes(8 * max(1, args.tiles)))
        self.first = array('d', [0.0])
        self.args = type(args).from_buffer_copy(args)
        self.args.table += 8 * args.n * slot
        self.args.partials = self.bad.buffer_info()[0]
        self.args.sums = self.first.buffer_info()[0]
        self.run = compiler.library(source(dtype))

    def __call__(self, parallel):
        "The first parameter with such a gradient; None if there is none"
        self.args.parallel = parallel
        self.run(ctypes.addressof(self.args))
        first = int(self.first[0])
        return first if first >= 0 else None


def source(dtype):
    "C that sets `sums[0]` to the first parameter with an element whose square is not finite, or -1"
    stored = types[dtype]
    T, largest = ('double', 'DBL_MAX') if stored == 'double' else ('float', 'FLT_MAX')
    return f"""{prelude}
#define BLOCK {block}
static void tile(const Args* a, int64_t k) {{
  const int64_t t = a->tile_parameter[k], o = (int64_t)a->tile_place[k]*BLOCK;
  const int64_t rest = a->numel[t] - o, n = rest < BLOCK ? rest : BLOCK;
  const {stored}* m = (const {stored}*)a->table[t] + o;
  int bad = 0;
  #pragma omp simd reduction(|:bad)
  for (int64_t i = 0; i < n; i++) {{
    const {T} x = load_{stored}(m[i]);
    bad |= !(x*x <= {largest});
  }}
  a->partials[k] = bad;
}}
void run(const Args* a) {{
  over_tiles(a, tile);
  a->sums[0] = -1;
  for (int64_t k = 0; k < a->tiles; k++) {{
    if (a->partials[k] != 0) {{ a->sums[0] = a->tile_parameter[k]; return; }}
  }}
}}
"""

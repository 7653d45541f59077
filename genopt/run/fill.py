"""Random numbers in memory, made by C. `random.py` says which numbers these are, and has the same as
operations of torch, of which it takes a hundred."""

import ctypes
from array import array
from . import compiler
from .c_prelude import prelude
from .c_struct import structure

__all__ = ['fill']

Draw = structure(
    'Draw',
    x='void*',
    sizes='const int64_t*',
    keys='const int64_t*',
    n='int64_t',
    draw='int64_t',
    seed='int64_t',
    kind='int64_t',
)
source = f"""{prelude}
{Draw.source}
#define FILL(name, T) \\
static void all_##name##_##T(const Draw* d) {{ \\
  T* x = (T*)d->x, some[RANDOM]; \\
  for (int64_t t = 0; t < d->n; t++) {{ \\
    const int64_t n = d->sizes[t]; \\
    for (int64_t b = 0; b < n; b += RANDOM) {{ \\
      const int64_t rest = n - b; \\
      fill_##name##_##T(rest < RANDOM ? some : x + b, b, (uint32_t)d->draw, d->keys[t], d->seed); \\
      if (rest < RANDOM) for (int64_t i = 0; i < rest; i++) x[b + i] = some[i]; \\
    }} \\
    x += n; \\
  }} \\
}}
FILL(uniform, float)
FILL(uniform, double)
FILL(normal, float)
FILL(normal, double)
void run(const Draw* d) {{
  void (*all[])(const Draw*) = {{ all_uniform_float, all_uniform_double, all_normal_float, all_normal_double }};
  all[d->kind](d);
}}
"""


def fill(x, sizes, keys, draw, seed, normal):
    """Fill `x`, float32 or float64 on the CPU, with the numbers of draw `draw` for one tensor of
    `sizes` after the other. `keys`: of each of them"""
    sizes, keys = array('q', sizes), array('q', keys)
    at = [x.data_ptr(), sizes.buffer_info()[0], keys.buffer_info()[0]]
    kind = 2 * normal + (x.element_size() == 8)
    draw = Draw(*at, len(sizes), draw, seed, kind)
    compiler.library(source)(ctypes.addressof(draw))

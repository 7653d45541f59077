"""Random numbers in memory, made by C. `random.py` says which numbers these are, and has the same as
operations of torch, of which it takes a hundred."""

import ctypes
from array import array
from . import compiler
from .c import prelude

__all__ = ['fill']

source = f"""{prelude}
typedef struct {{ void* x; const int64_t* sizes; const int64_t* keys; int64_t n, draw, seed, kind; }} Draw;
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


class Draw(ctypes.Structure):
    "As `Draw` in the C source"

    _fields_ = [(n, ctypes.c_void_p) for n in ('x', 'sizes', 'keys')]
    _fields_ += [(n, ctypes.c_int64) for n in ('n', 'draw', 'seed', 'kind')]


def fill(x, sizes, keys, draw, seed, normal):
    """Fill `x`, float32 or float64 on the CPU, with the numbers of draw `draw` for one tensor of
    `sizes` after the other. `keys`: of each of them"""
    sizes, keys = array('q', sizes), array('q', keys)
    at = [x.data_ptr(), sizes.buffer_info()[0], keys.buffer_info()[0]]
    kind = 2 * normal + (x.element_size() == 8)
    draw = Draw(*at, len(sizes), draw, seed, kind)
    compiler.library(source)(ctypes.addressof(draw))

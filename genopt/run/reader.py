"""Where the gradients are now, read in C. Python takes 0.1 us to look up `p.grad` and to look at it.
That is most of the host's time in a step of a thousand small parameters. In the steps that follow
one another, gradients are like those before: at most they lie elsewhere.

    step 1    Python looks up each gradient and looks at it, and notes its address
    step 2    a `Reader` compares: alike, and in the same places       nothing to do
    step 3    alike, in other places                                   it writes the new addresses
    step 4    one is missing, of another dtype, sparse, or the
              negative of what lies in memory (`imag` of a conjugate)  Python looks again

Where torch has no such interface, Python looks in each step."""

import ctypes
from .._torch import gradient_functions
from . import compiler
from .memory import array, layout_of

__all__ = ['reader_of']

source = """
#include <stdint.h>
#include <stdbool.h>
typedef struct {
  void* const* handles; int64_t* addresses; const int64_t* layout; const void* undefined;
  void* const* (*grad)(const void*); bool (*requires_grad)(const void*);
  int32_t (*data)(void*, void**); int32_t (*dim)(void*, int64_t*);
  int32_t (*sizes)(void*, int64_t**); int32_t (*strides)(void*, int64_t**);
  int32_t (*dtype_of)(void*, int32_t*); int32_t (*layout_of)(void*, int32_t*);
  bool (*negated)(const void*);
  int64_t n; int64_t dtype; int64_t strided; int64_t found;
} Reader;
enum { OTHER, SAME, MOVED };
static bool lies_as(const Reader* r, void* grad, const int64_t* at) {
  int64_t dim, *sizes, *strides;
  r->dim(grad, &dim);
  if (dim != at[0]) return false;
  r->sizes(grad, &sizes); r->strides(grad, &strides);
  for (int64_t d = 0; d < dim; d++) {
    if (sizes[d] != at[1+d]) return false;
    if (sizes[d] != 1 && strides[d] != at[1+dim+d]) return false;
  }
  return true;
}
void run(Reader* r) {
  const int64_t* at = r->layout;
  bool moved = false;
  r->found = OTHER;
  for (int64_t i = 0; i < r->n; i++) {
    if (i + 12 < r->n) {
      const char* ahead = *(const char* const*)r->handles[i+12];
      __builtin_prefetch(ahead); __builtin_prefetch(ahead + 64);
    }
    const void* parameter = *(void* const*)r->handles[i];
    void* grad = (void*)r->grad(parameter);
    if (!r->addresses) {
      if (*(void**)grad != r->undefined) return;
      continue;
    }
    if (*(void**)grad == r->undefined || !r->requires_grad(parameter)) return;
    int32_t dtype, layout;
    r->dtype_of(grad, &dtype); r->layout_of(grad, &layout);
    if (dtype != r->dtype || layout != r->strided || !lies_as(r, grad, at)) return;
    if (r->negated(grad)) return;
    void* address;
    if (r->data(grad, &address)) return;
    if (r->addresses[i] != (int64_t)address) { r->addresses[i] = (int64_t)address; moved = true; }
    at += 1 + 2*at[0];
  }
  r->found = moved ? MOVED : SAME;
}
"""
integers = 'n', 'dtype', 'strided', 'found'
names = 'handles addresses layout undefined grad requires_grad data dim sizes strides'
fields = [*names.split(), 'dtype_of', 'layout_of', 'negated', *integers]


with_lock = ctypes.PYFUNCTYPE(None, ctypes.c_void_p)


class Struct(ctypes.Structure):
    "As `Reader` in the C source"

    _fields_ = [
        (n, ctypes.c_int64 if n in integers else ctypes.c_void_p) for n in fields
    ]


class Reader:
    """Reads the gradients of `params`, whose `handles` somebody keeps; `functions`: by which.
    `addresses`: an array that has the address of each gradient, or None if there must be no
    gradients. `dtype`: theirs"""

    results = None, 'same', 'moved'

    def __init__(self, params, handles, functions, dtype=None, addresses=None):
        layout = [] if addresses is None else layout_of(params)
        self.alive = array(handles), array(layout), addresses
        self.struct = Struct(
            handles=ctypes.addressof(self.alive[0]),
            layout=ctypes.addressof(self.alive[1]),
            addresses=None if addresses is None else ctypes.addressof(addresses),
            n=len(params),
            dtype=-1 if dtype is None else functions.dtypes[dtype],
            strided=functions.strided,
            **functions.addresses,
        )
        self.at = ctypes.addressof(self.struct)
        # this one keeps the interpreter's lock, so that no other thread frees a gradient
        self.run = with_lock(
            ctypes.cast(compiler.library(source), ctypes.c_void_p).value
        )

    def read(self):
        "'same'; 'moved', and the new addresses are in the array; None if Python has to look"
        self.run(self.at)
        return self.results[self.struct.found]


def reader_of(params, handles, dtype=None, addresses=None):
    "A `Reader` of the gradients of `params`, or False. `handles`: of these, and perhaps of others"
    functions = gradient_functions()
    if handles is None or functions is None:
        return False
    pointers = handles.pointers[: len(params)]
    return Reader(params, pointers, functions, dtype, addresses)

"""How tensors lie in memory, and whether they still do."""

import ctypes
import torch
from .._torch import addresses_hold, handles
from ..contract.tensors import real
from . import compiler
from .c_struct import structure

__all__ = [
    'Memory',
    'aligned',
    'array',
    'as_strided_like',
    'is_capturing',
    'layout_of',
    'real_dtype',
    'resolved',
]


def resolved(x):
    "`x` as real numbers that are in memory as they are, without torch's lazy conjugation and negation"
    return real(x).resolve_neg()


def real_dtype(dtype):
    return dtype.to_real() if dtype.is_complex else dtype


def aligned(x, y):
    "Whether the elements of `x` lie as those of `y`"
    return x.shape == y.shape and (
        x.stride() == y.stride()
        or all(a == b or n == 1 for a, b, n in zip(x.stride(), y.stride(), x.shape))
    )


def is_capturing(device):
    "Whether what is done on `device` now is recorded in a CUDA graph, and not done"
    return device.type == 'cuda' and torch.cuda.is_current_stream_capturing()


def as_strided_like(p, x):
    "A copy of `x` whose elements lie as those of `p`"
    return torch.empty_like(p, dtype=x.dtype).copy_(x)


# -- Memory that may move between steps: `p.data = ...`, `model.to()`, `resize_()` --

Struct = structure(
    'Memory',
    handles='void* const*',
    addresses='const int64_t*',
    n='int64_t',
    shaped='int64_t',
    layout='const int64_t*',  # of each shaped one its number of dimensions, sizes and strides
    data='Address*',
    dim='Number*',
    sizes='Numbers*',
    strides='Numbers*',
    moved='int64_t',
)
functions = """
typedef int32_t Address(void*, void**), Number(void*, int64_t*), Numbers(void*, int64_t**);
"""
run = """
void run(Memory* m) {
  const int64_t* at = m->layout;
  m->moved = 1;
  for (int64_t i = 0; i < m->n; i++) {
    void* address;
    if (i + 12 < m->n) {
      const char* ahead = *(const char* const*)m->handles[i+12];
      __builtin_prefetch(ahead); __builtin_prefetch(ahead + 64); __builtin_prefetch(ahead + 128);
    }
    m->data(m->handles[i], &address);
    if ((int64_t)address != m->addresses[i]) return;
    if (i >= m->shaped) continue;
    int64_t dim, *sizes, *strides;
    m->dim(m->handles[i], &dim);
    m->sizes(m->handles[i], &sizes); m->strides(m->handles[i], &strides);
    if (dim != at[0]) return;
    for (int64_t d = 0; d < dim; d++) {
      if (sizes[d] != at[1+d] || strides[d] != at[1+dim+d]) return;
    }
    at += 1 + 2*dim;
  }
  m->moved = 0;
}
"""
source = ''.join(['#include <stdint.h>', functions, Struct.source, run])


def layout_of(tensors):
    "Of each of `tensors` its number of dimensions, sizes and strides"
    return [n for x in tensors for n in (x.ndim, *x.shape, *x.stride())]


def array(values):
    return (ctypes.c_int64 * max(1, len(values)))(*values)


class Memory:
    """Where `tensors` lie, and the shapes and strides of the first `shaped` ones. `borrowed`: they
    are not kept alive"""

    def __init__(self, tensors, shaped=0, borrowed=False):
        self.shaped = shaped
        self.addresses = [x.data_ptr() for x in tensors]
        self.layouts = [(*x.shape, *x.stride()) for x in tensors[:shaped]]
        self.handles = handles(tensors, borrowed) if compiler.available() else None
        if self.handles is None:
            return
        self.run = compiler.library(source)
        self.arrays = [
            array(self.handles.pointers),
            array(self.addresses),
            array(layout_of(tensors[:shaped])),
        ]
        self.struct = Struct(
            *map(ctypes.addressof, self.arrays[:2]),
            len(tensors),
            shaped,
            ctypes.addressof(self.arrays[2]),
            *self.handles.functions,
        )
        self.at = ctypes.addressof(self.struct)

    def holds(self, tensors):
        "Whether `tensors`, the same as before, still lie there"
        if self.handles is not None:
            self.run(self.at)
            return not self.struct.moved
        return (
            addresses_hold(tensors, self.addresses, range(len(tensors)))
            and [(*x.shape, *x.stride()) for x in tensors[: self.shaped]]
            == self.layouts
        )

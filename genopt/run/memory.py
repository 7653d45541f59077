"""How tensors lie in memory."""

import torch

__all__ = ['addresses_hold', 'aligned', 'as_strided_like', 'dense', 'real', 'real_dtype']


def real(x): return torch.view_as_real(x.resolve_conj()) if x.is_complex() else x.resolve_neg()
def real_dtype(dtype): return dtype.to_real() if dtype.is_complex else dtype

def dense(x):
    "Whether the elements of `x` lie in one piece of memory without gaps, in any order"
    if x.is_contiguous(): return True
    expected = 1
    for step,size in sorted(zip(x.stride(), x.shape)):
        if size!=1 and step!=expected: return False
        expected *= size
    return True

def aligned(x, y):
    "Whether the elements of `x` lie as those of `y`"
    return x.shape==y.shape and (x.stride()==y.stride() or all(a==b or n==1 for a,b,n in zip(x.stride(), y.stride(), x.shape)))

def as_strided_like(p, x):
    "A copy of `x` whose elements lie as those of `p`"
    return torch.empty_like(p, dtype=x.dtype).copy_(x)

try: from torch._C import _tensors_data_ptrs_at_indices_equal as addresses_hold                # where this build of torch has it
except ImportError:
    def addresses_hold(xs, addresses, indices): return all(xs[i].data_ptr()==addresses[i] for i in indices)

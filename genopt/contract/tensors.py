"""How callbacks see a stored tensor, and what a message says of one."""

import torch
from torch import Tensor
from numbers import Integral,Real
from .sharded import local

__all__ = ['compute', 'describe', 'fit', 'is_finite', 'number', 'plain', 'real', 'storage', 'wide']


def wide(dtype):
    "The dtype in which callbacks see what is stored in `dtype`: low precision as float32"
    return torch.float32 if dtype.is_floating_point and dtype.itemsize<4 else dtype

def real(x): return torch.view_as_real(x.resolve_conj()) if x.is_complex() else x

def compute(x):
    "What callbacks see of a stored tensor: complex as pairs of reals, low precision as float32"
    x = real(x.detach())
    return x.to(wide(x.dtype))

def is_finite(grad):
    "Where a gradient is finite, and so is its square, in the precision in which callbacks see it"
    x = grad.to(wide(grad.dtype))
    return (x*x.conj()).isfinite()


# -- Plain values --

def plain(v):
    "Python's own numbers (NumPy's break `torch.load(weights_only=True)`), tuples of them, and tensors of our own"
    if isinstance(v, (tuple,list)): return tuple(map(plain, v))
    if isinstance(v, Tensor): return v.detach().clone()
    return v if isinstance(v, bool) or not isinstance(v, Real) else int(v) if isinstance(v, Integral) else float(v)

def number(v): return v.item() if isinstance(v, Tensor) else v


# -- For messages and checks --

def fit(x): return x.shape if isinstance(x, Tensor) else None              # a number fits a number
def describe(x): return f'of shape {tuple(x.shape)}' if isinstance(x, Tensor) else f'a {type(x).__name__}'
def storage(x): return local(x).untyped_storage().data_ptr()

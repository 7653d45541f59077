"""Tensors and numbers as callbacks see them, as state dicts store them, and as messages describe them."""

import torch
from torch import Tensor
from numbers import Integral,Real
from .sharded import local

__all__ = ['compute', 'describe', 'fit', 'is_finite', 'number', 'plain', 'real', 'storage', 'wide']


def wide(dtype):
    "The dtype in which callbacks see a tensor that is stored in `dtype`: float32 for what is of lower precision"
    return torch.float32 if dtype.is_floating_point and dtype.itemsize<4 else dtype

def real(x):
    "`x` as real numbers: a complex tensor as pairs of them"
    return torch.view_as_real(x.resolve_conj()) if x.is_complex() else x

def compute(x):
    "The stored tensor `x` as callbacks see it: complex numbers as pairs of real ones, low precision as float32"
    x = real(x.detach())
    return x.to(wide(x.dtype))

def is_finite(grad):
    "For each element of `grad` whether it and its square are finite, in the precision in which callbacks see it"
    x = grad.to(wide(grad.dtype))
    return (x*x.conj()).isfinite()


# -- Plain values --

def plain(v):
    "`v` as it can be stored: a Python number (NumPy's break `torch.load(weights_only=True)`), a tuple of them, or a copy of a tensor"
    if isinstance(v, (tuple,list)): return tuple(map(plain, v))
    if isinstance(v, Tensor): return v.detach().clone()
    return v if isinstance(v, bool) or not isinstance(v, Real) else int(v) if isinstance(v, Integral) else float(v)

def number(v):
    "The number in a tensor of one; a plain number is itself"
    return v.item() if isinstance(v, Tensor) else v


# -- For messages and checks --

def fit(x):
    "What is equal for two values of which one can take the place of the other: tensors of one shape, or two numbers"
    return x.shape if isinstance(x, Tensor) else None
def describe(x): return f'of shape {tuple(x.shape)}' if isinstance(x, Tensor) else f'a {type(x).__name__}'
def storage(x):
    "The address of the memory that `x` lies in, or its local part. Two views of one tensor have the same"
    return local(x).untyped_storage().data_ptr()

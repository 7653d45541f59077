"""Tensors and numbers as callbacks see them, as state dicts store them, and as messages describe them."""

from collections.abc import Sequence
import torch
from torch import Tensor
from numbers import Integral,Real
from .sharded import local

__all__ = ['compute', 'dense', 'describe', 'fit', 'is_finite', 'is_plain', 'number', 'plain', 'random_below', 'real', 'round_stochastically',
           'shared', 'storage', 'wide']


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

def dense(x):
    "Whether the elements of `x` lie in one piece of memory without gaps, in any order"
    if x.is_contiguous(): return True
    expected = 1
    for step,size in sorted(zip(x.stride(), x.shape)):
        if size!=1 and step!=expected: return False
        expected *= size
    return True

def is_finite(grad):
    "For each element of `grad` whether it and its square are finite, in the precision in which callbacks see it"
    x = grad.to(wide(grad.dtype))
    return (x*x.conj()).isfinite()


def random_below(n, x):
    """Random whole numbers, at least 0 and less than `n`, for the elements of the float32 tensor `x`. They come from `torch.rand_like`, so
    `genopt.run.rounding` can say which they are"""
    return (torch.rand_like(x)*n).to(torch.int32)

def round_stochastically(x):
    """`x` in bfloat16, rounded up or down with probabilities that make the mean `x`. Rounding to the nearest would lose every change that is smaller
    than half a unit in the last place"""
    x    = x.to(torch.float32)
    bits = x.view(torch.int32) + random_below(2**16, x)                    # bfloat16 is the upper half of a float32
    return torch.where(x.isfinite(), (bits & -2**16).view(torch.float32), x).to(torch.bfloat16)


# -- Plain values --

def is_sequence(v): return isinstance(v, Sequence) and not isinstance(v, (str,bytes))

def shared(v):
    """Python's own numbers (NumPy's break `torch.load(weights_only=True)`), flags, words and tuples of them, whatever kind of sequence or array they
    come in. A tensor is the caller's: what is written into it counts, as in torch"""
    if isinstance(v, Tensor): return v.detach() if v.requires_grad else v
    dims = getattr(v, 'ndim', None)
    if dims==0 and hasattr(v, 'item'): v = v.item()
    if dims==1 and hasattr(v, 'tolist'): v = v.tolist()
    if is_sequence(v): return tuple(map(shared, v))
    return v if isinstance(v, bool) or not isinstance(v, Real) else int(v) if isinstance(v, Integral) else float(v)

def plain(v):
    "The same, with tensors of our own"
    v = shared(v)
    if isinstance(v, tuple): return tuple(map(plain, v))
    return v.detach().clone() if isinstance(v, Tensor) else v

own_types = int,float,bool,str,type(None)
def is_plain(v):
    "Whether `v` is as `shared` makes it; a list may be one"
    if type(v) in (tuple,list): return all(map(is_plain, v))
    return type(v) in own_types or isinstance(v, Tensor) and v.numel()==1

def number(v):
    "The number in a tensor of one; a plain number is itself"
    return v.item() if isinstance(v, Tensor) else v


# -- For messages and checks --

def fit(x):
    "What is equal for two values of which one can take the place of the other: tensors of one shape, or two numbers"
    return x.shape if isinstance(x, Tensor) else None
def describe(x): return f'a tensor of shape {tuple(x.shape)}' if isinstance(x, Tensor) else f'a {type(x).__name__}'
def storage(x):
    "The address of the memory that `x` lies in, or its local part. Two views of one tensor have the same"
    return local(x).untyped_storage().data_ptr()

"""How callbacks see a stored tensor, and what a message says of one."""

from collections.abc import Sequence
import torch
from torch import Tensor
from numbers import Integral,Real
from .sharded import local

__all__ = ['compute', 'describe', 'fit', 'is_finite', 'is_plain', 'number', 'plain', 'real', 'shared', 'storage', 'wide']


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

def number(v): return v.item() if isinstance(v, Tensor) else v


# -- For messages and checks --

def fit(x): return x.shape if isinstance(x, Tensor) else None              # a number fits a number
def describe(x): return f'of shape {tuple(x.shape)}' if isinstance(x, Tensor) else f'a {type(x).__name__}'
def storage(x): return local(x).untyped_storage().data_ptr()

"""State: what an initializer makes for a parameter."""

import torch
from torch import Tensor
from .names import name_of
from .tensors import compute

__all__ = ['Init', 'as_declared', 'copy_of_p', 'count', 'first', 'full', 'ones', 'scalar', 'single', 'zeros']


class Init:
    """First value of a state: `make(p, *args)`, called once for each parameter; a tensor, or a plain number, which stays on the host.
    `p` is seen as callbacks see it: complex as pairs of reals, low precision as float32."""
    def __init__(self, make, *args): self.make,self.args = make,args
    def __call__(self, p):
        res = self.make(p, *self.args)
        if isinstance(res, Tensor): return res.clone()           # a view of `p` would follow it, an expanded one cannot be written
        if isinstance(res, (bool,int,float)): return res
        raise TypeError(f"the initializer {self} made a {type(res).__name__}; a state is a tensor or a number")
    def __eq__(self, o): return isinstance(o, Init) and (self.make,self.args)==(o.make,o.args)
    def __hash__(self): return hash((self.make, self.args))
    def __repr__(self):
        name = name_of(self.make).removesuffix('_like').strip('_')
        return f'{name}({", ".join(map(str, self.args))})' if self.args else name

def _scalar(p, v): return v
def _single(p, v): return p.new_full((), v)
def _count(p): return 0
def _copy_of_p(p): return p

zeros,ones,copy_of_p,count = map(Init, (torch.zeros_like, torch.ones_like, _copy_of_p, _count))
def full(v):
    "A state that starts as a tensor like `p`, filled with `v`"
    return Init(torch.full_like, v)
def single(v):
    "A state that is one number for each parameter, a 0-dim tensor where the parameter is; starts at `v`. What a norm is averaged in"
    return Init(_single, v)
def scalar(v):
    "A state that is one Python number for each parameter, exact, kept on the host; starts at `v`"
    return Init(_scalar, v)


# -- What is made for a parameter --

def first(init, p):
    "What `init` makes for the parameter `p`: its shape and dtype, and its values only if it looks at those of `p`"
    try: return init(compute(torch.empty_like(p, device='meta')))
    except Exception: return init(compute(p))

def as_declared(v, init, p):
    "A state as its initializer has it: a counter that comes in a tensor, as torch keeps it, is a number"
    if not isinstance(v, Tensor) or v.ndim or isinstance(number := first(init, p), Tensor): return v
    return type(number)(v.item())

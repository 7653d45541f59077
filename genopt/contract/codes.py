"""States in 8 bits, in blocks, after Dettmers et al. 2021 (https://arxiv.org/abs/2110.02861).

A tensor is cut into blocks of 256 elements, in the order in which they lie in memory. Each block has a scale in float32, the largest magnitude in it.
An element is kept as one of 256 codes, which stand for parts of the scale:

    a block without negative elements      code 0 ... 255        scale * (code/255)**4
    a block with negative elements         code 1 ... 255        scale * s*abs(s), where s = (code-128)/127; the scale is kept as a negative number

So each block tells how it is to be read. An average of squares has the finer code, without anybody saying that it is one. Small elements have small
steps, as in the paper's dynamic map. The formulas need no table, and their error is smaller than that of the map, or near it.

In a block without negative elements a positive element never becomes zero, because optimizers divide by the root of such states. If an element is not
finite, the whole block becomes NaN. If the scale would be less than the smallest normal float32, the whole block becomes zero."""

from typing import Any
import torch
import torch.nn.functional as F
from torch import Tensor
from .tensors import dense

__all__ = ['block', 'decode', 'encode', 'n_blocks', 'scale_of', 'write_at']

block = 256
smallest_scale,largest_scale = torch.finfo(torch.float32).tiny,torch.finfo(torch.float32).max

def scale_of(name: str) -> str:
    "The name under which the scales of the state `name` are kept"
    return f'{name}.scale'

def n_blocks(x: Tensor) -> int: return -(-x.numel()//block)

def decode(codes: Tensor, scale: Tensor) -> Tensor:
    "The float32 tensor that `codes` stand for, which lies in memory as they do. `scale`: of each block"
    res  = torch.empty_like(codes, dtype=torch.float32)
    q    = in_blocks(codes).to(torch.float32)
    s    = scale[:,None]
    part = value(torch.where(s<0, q-128, q)*step(s<0), s<0)*s.abs()
    in_memory(res).copy_(part.flatten()[:res.numel()])
    return res

def encode(x: Tensor, like: Tensor | None = None, stochastic: bool = False) -> tuple[Tensor, Tensor]:
    """The codes and the scales of the float32 tensor `x`. The codes lie in memory as `like` does, or as `x`.

    `stochastic`: an element that lies between two codes becomes one of them at random, so that its mean stays. Otherwise it becomes the nearest,
    measured in steps of the code."""
    codes = torch.empty_like(x if like is None else like, dtype=torch.uint8)
    if x.stride()!=codes.stride() or x.dtype!=torch.float32: x = torch.empty_like(codes, dtype=torch.float32).copy_(x)
    x     = in_blocks(x)
    scale = scales(x)
    s     = scale[:,None]
    in_memory(codes).copy_(codes_for(x, s, stochastic).flatten()[:codes.numel()])
    return codes,scale

def write_at(at: Any, new: Tensor, codes: Tensor, scale: Tensor, stochastic: bool) -> None:
    "Write `new` at the indices `at` of what is stored as `codes` and `scale`. A block in which nothing is written stays as it is"
    x,there = decode(codes, scale),torch.zeros_like(codes, dtype=torch.bool)
    x[at],there[at] = new.to(x.dtype),True
    news,new_scale = encode(x, codes, stochastic)
    changed = in_blocks(there).any(1)
    scale.copy_(torch.where(changed, new_scale, scale))
    in_memory(codes).copy_(torch.where(changed[:,None], in_blocks(news), in_blocks(codes)).flatten()[:codes.numel()])

def scales(x: Tensor) -> Tensor:
    "The scales of blocks, which are the rows of `x`"
    if not len(x): return x.new_empty(0)
    top   = x.abs().amax(1)
    scale = torch.where(x.amin(1)<0, -top, top)
    scale = torch.where(top<smallest_scale, 0., scale)
    return torch.where(top<=largest_scale, scale, torch.nan)

def codes_for(x: Tensor, s: Tensor, stochastic: bool) -> Tensor:
    "The codes of blocks `x` that have the scales `s`, as whole numbers in float32"
    signed  = s<0
    inverse = torch.where(s.abs()>0, 1/s.abs(), 0.)              # of NaN it is zero too
    y    = x.abs()*inverse
    y    = torch.where(y>0, y, 0.)
    root = torch.where(signed, y.sqrt(), y.sqrt().sqrt())
    most = torch.where(signed, 127., 255.)
    q    = between(y, root*most, signed) if stochastic else (root*most).round()
    q    = q.clamp(max=most)
    return torch.where(signed, torch.where(x<0, 128-q, 128+q), torch.where(x>0, q.clamp(min=1), q))

def between(y: Tensor, t: Tensor, signed: Tensor) -> Tensor:
    "The code below or above `t`, at random, so that the mean of the values is `y`"
    q       = t.floor()
    low,top = (value(c*step(signed), signed) for c in (q, q+1))
    return torch.where(torch.rand_like(y)*(top-low) < y-low, q+1, q)

def step(signed: Tensor) -> Tensor: return torch.where(signed, 1/127, 1/255)
def value(y: Tensor, signed: Tensor) -> Tensor:
    "What a code stands for, which is the part `y` of the largest code"
    w = y*torch.where(signed, y.abs(), y)
    return torch.where(signed, w, w*w)


# -- Blocks --

def in_memory(x: Tensor) -> Tensor:
    "The elements of `x` in the order in which they lie in memory, as a view"
    if x.is_contiguous(): return x.view(-1)
    if not dense(x): raise ValueError("a state in 8 bits must lie in memory in one piece")
    return x.as_strided((x.numel(),), (1,))

def in_blocks(x: Tensor) -> Tensor:
    "The elements in that order, a block in each row. The last row may end with zeros"
    x = in_memory(x)
    return F.pad(x, (0, -len(x)%block)).view(-1, block)

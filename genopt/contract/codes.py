"""States in 8 bits, in blocks, after Dettmers et al. 2021 (https://arxiv.org/abs/2110.02861).

A tensor is cut into blocks of 256 elements, in the order in which they lie in memory. Each block has a scale in float32, the largest magnitude in it.
An element is kept as one of 256 codes, which stand for parts of the scale:

    a block without negative elements      code 0 ... 255        scale * (code/255)**4
    a block with negative elements         code 1 ... 255        scale * s*abs(s), where s = (code-128)/127; the scale is kept as a negative number

So each block tells how it is to be read. An average of squares has the finer code, without anybody saying that it is one. Small elements have small
steps, as in the paper's dynamic map. The formulas need no table, and their error is smaller than that of the map, or near it.

In a block without negative elements a positive element never becomes zero, because optimizers divide by the root of such states. If an element is not
finite, the whole block becomes NaN. If the scale would be less than the smallest normal float32, the whole block becomes zero."""

from collections.abc import Sequence
from typing import Any
import torch
import torch.nn.functional as F
from torch import Tensor
from .tensors import dense

__all__ = ['block', 'decode', 'decode_all', 'encode', 'encode_all', 'n_blocks', 'scale_of', 'write_at']

block = 256
smallest_scale,largest_scale = torch.finfo(torch.float32).tiny,torch.finfo(torch.float32).max

def scale_of(name: str) -> str:
    "The name under which the scales of the state `name` are kept"
    return f'{name}.scale'

def n_blocks(x: Tensor) -> int: return -(-x.numel()//block)

def decode(codes: Tensor, scale: Tensor) -> Tensor:
    "The float32 tensor that `codes` stand for, which lies in memory as they do. `scale`: of each block"
    return decode_all([codes], [scale])[0]

def decode_all(codes: Sequence[Tensor], scales: Sequence[Tensor]) -> list[Tensor]:
    "The same for several tensors of codes on one device"
    q,s  = torch.cat([*map(in_blocks, codes)]).to(torch.float32),torch.cat([*scales])[:,None]
    part = value(torch.where(s<0, q-128, q)*step(s), s)*s.abs()
    return [put(torch.empty_like(x, dtype=torch.float32), b) for x,b in zip(codes, part.split([*map(len, scales)]))]

def encode(x: Tensor, like: Tensor | None = None, stochastic: bool = False) -> tuple[Tensor, Tensor]:
    """The codes and the scales of the float32 tensor `x`. The codes lie in memory as `like` does, or as `x`.

    `stochastic`: an element that lies between two codes becomes one of them at random, so that its mean stays. Otherwise it becomes the nearest,
    measured in steps of the code."""
    codes,scales = encode_all([x], [x if like is None else like], stochastic)
    return codes[0],scales[0]

def encode_all(xs: Sequence[Tensor], likes: Sequence[Tensor], stochastic: bool = False) -> tuple[list[Tensor], list[Tensor]]:
    "The same for several tensors on one device: the codes of each, and the scales of each"
    codes = [torch.empty_like(x, dtype=torch.uint8) for x in likes]
    x     = torch.cat([in_blocks(lying_as(x, c)) for x,c in zip(xs, codes)])
    scale = scales_for(x)
    sizes = [*map(n_blocks, xs)]
    parts = codes_for(x, scale[:,None], stochastic).split(sizes)
    return [*map(put, codes, parts)],[*scale.split(sizes)]

def lying_as(x: Tensor, y: Tensor) -> Tensor:
    "`x` in float32, as `y` lies in memory"
    same = x.stride()==y.stride() and x.dtype==torch.float32
    return x if same else torch.empty_like(y, dtype=torch.float32).copy_(x)

def write_at(at: Any, new: Tensor, codes: Tensor, scale: Tensor, stochastic: bool) -> None:
    "Write `new` at the indices `at` of what is stored as `codes` and `scale`. A block in which nothing is written stays as it is"
    x,there = decode(codes, scale),torch.zeros_like(codes, dtype=torch.bool)
    x[at],there[at] = new.to(x.dtype),True
    news,new_scale = encode(x, codes, stochastic)
    changed = in_blocks(there).any(1)
    scale.copy_(torch.where(changed, new_scale, scale))
    put(codes, torch.where(changed[:,None], in_blocks(news), in_blocks(codes)))

def scales_for(x: Tensor) -> Tensor:
    "The scales of blocks, which are the rows of `x`"
    top   = x.abs().amax(1)
    scale = torch.where(x.amin(1)<0, -top, top)
    scale = scale.masked_fill(top<smallest_scale, 0.)
    return torch.where(top<=largest_scale, scale, torch.nan)

def codes_for(x: Tensor, s: Tensor, stochastic: bool) -> Tensor:
    "The codes of blocks `x` that have the scales `s`, as whole numbers in float32"
    negatives = s<0
    inverse   = torch.where(s.abs()>0, 1/s.abs(), 0.)            # of NaN it is zero too
    y    = x.abs()*inverse
    y    = torch.where(y>0, y, 0.)
    most = torch.full_like(s, 255).masked_fill(negatives, 127)
    root = torch.where(negatives, y.sqrt(), y.sqrt().sqrt())*most
    q    = between(y, root, s) if stochastic else root.round()
    q    = torch.minimum(q, most)
    return torch.where(negatives, torch.where(x<0, 128-q, 128+q), torch.where(x>0, q.clamp(min=1), q))

def between(y: Tensor, root: Tensor, s: Tensor) -> Tensor:
    "The code below or above `root`, at random, so that the mean of the values is `y`"
    q       = root.floor()
    low,top = (value(c*step(s), s) for c in (q, q+1))
    return torch.where(torch.rand_like(y)*(top-low) < y-low, q+1, q)

def step(s: Tensor) -> Tensor: return torch.full_like(s, 1/255).masked_fill(s<0, 1/127)
def value(y: Tensor, s: Tensor) -> Tensor:
    "What a code stands for, in a block with the scale `s`, as a part of that. `y`: the code as a part of the largest code"
    w = y*torch.where(s<0, y.abs(), y)
    return torch.where(s<0, w, w*w)


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

def put(x: Tensor, blocks: Tensor) -> Tensor:
    "Write `blocks` into `x`. Returns `x`"
    in_memory(x).copy_(blocks.flatten()[:x.numel()])
    return x

"""Codes: states in few bits, in blocks that have a scale each.

A `Code` is three functions in plain PyTorch. A tensor is cut into blocks, in the order in which its elements lie in memory. `scale` gives one number
for each block, `encode` says which code an element comes to, `decode` is the element that a code stands for. The functions are written once. The
kernels in C and Triton run what `lower.codes` records of them.

`encode` gives a real number, such as 41.3. It is rounded to a whole number here: to the nearest, or at random to 41 or 42 so that the mean of the
elements stays. That is why a larger code must stand for a larger element."""

from collections.abc import Callable,Sequence
from dataclasses import dataclass,field
from typing import Any
import torch
import torch.nn.functional as F
from torch import Tensor
from .code_trial import try_code
from .tensors import dense,random_below

__all__ = ['Code']


@dataclass(frozen=True, repr=False)
class Code:
    """A code in which states can be stored: `store={'sqr_avg': my_code}`, `kept(zeros, my_code)`.

        linear = Code('linear', scale=lambda x: x.abs().amax(-1), encode=lambda x, scale: x/scale*127, decode=lambda code, scale: code/127*scale,
                      dtype=torch.int8)

    `name`: an identifier. The scales of a state `sqr_avg` are stored as `sqr_avg.linear`, so a checkpoint says which code it is in.
    `scale(x)`: a number for each block. `x` is float32 of shape `(blocks, block)`, the result of shape `(blocks,)`. The last block of a tensor is
        filled up with zeros. If a scale is not finite, its block becomes NaN.
    `encode(x, scale)`: for each element the code as a real number, which is then rounded. `scale` is of shape `(blocks, 1)`. A larger element must
        get no smaller code. An element may only depend on itself and the scale. What becomes NaN or infinite here gets the code 0.
    `decode(code, scale)`: for each code, a whole number in float32, the element that it stands for. A block of zeros must stay zero.
    `dtype`: in which codes are stored, `torch.uint8` (0 ... 255) or `torch.int8` (-128 ... 127).
    `block`: elements of a block, a power of 2 from 16 to 1024.
    `signed`: whether elements may be negative. If not, a negative element makes its block NaN.
    `error`: how far the element that comes back may be from the element, as a part of the largest in its block.

    In a step the functions run in the kernel if they consist of operations that kernels know, else on lists of tensors; `opt.explain()` says which.
    Raises `TypeError` or `ValueError` if the functions are not such functions. They are tried on random blocks."""
    name: str
    scale: Callable[[Tensor], Tensor]
    encode: Callable[[Tensor, Tensor], Tensor]
    decode: Callable[[Tensor, Tensor], Tensor]
    dtype: torch.dtype = torch.uint8
    block: int = 256
    signed: bool = True
    error: float = .1

    # What trying the functions shows: whether `encode` gives numbers between codes, and whether codes lie on straight lines
    rounds: bool = field(init=False, compare=False)
    straight: bool = field(init=False, compare=False)

    def __post_init__(self) -> None:
        found = try_code(self)
        object.__setattr__(self, 'rounds', found.rounds)
        object.__setattr__(self, 'straight', found.straight)
    def __repr__(self) -> str: return self.name

    @property
    def limits(self) -> tuple[int, int]:
        "The smallest and the largest code"
        return (info := torch.iinfo(self.dtype)).min,info.max
    def beside(self, name: str) -> str:
        "The name under which the scales of the state `name` are stored"
        return f'{name}.{self.name}'
    def n_blocks(self, x: Tensor) -> int: return -(-x.numel()//self.block)

    # -- What backends run, or record --

    def scales(self, x: Tensor) -> Tensor:
        "The scale of each block, which is a row of `x`"
        s = self.scale(x)
        if not self.signed: s = torch.where(x.amin(-1)<0, torch.nan, s)
        return torch.where(s.isfinite(), s, torch.nan)
    def nearest(self, x: Tensor, scale: Tensor) -> Tensor:
        "The codes of `x`, rounded to the nearest, as whole numbers in float32 that `as_codes` takes"
        return self.encode(x, scale).round()
    def at_random(self, x: Tensor, scale: Tensor, noise: Tensor) -> Tensor:
        "The same, rounded at random so that the mean stays. `noise`: random multiples of 2^-16, at least 0 and less than 1"
        r = self.encode(x, scale)
        if self.straight: return (r+noise).floor()
        q = self.below(r)
        below,above = self.decode(q, scale),self.decode(q+1, scale)
        return torch.where(noise*(above-below) < x-below, q+1, q)
    def below(self, r: Tensor) -> Tensor:
        "The code below `r`, which has a code above"
        low,high = self.limits
        return r.floor().clamp(low, high-1)
    def as_codes(self, q: Tensor) -> Tensor:
        "Whole numbers as codes, in their dtype. NaN, and what is far too large, becomes 0"
        return torch.where(q.abs()<2**30, q, 0.).clamp(*self.limits).to(self.dtype)

    # -- Tensors --

    def stored(self, x: Tensor, like: Tensor | None = None, stochastic: bool = False) -> tuple[Tensor, Tensor]:
        "The codes and the scales of the float32 tensor `x`. The codes lie in memory as `like` does, or as `x`. `stochastic`: rounded at random"
        codes,scales = self.stored_all([x], [x if like is None else like], stochastic)
        return codes[0],scales[0]
    def stored_all(self, xs: Sequence[Tensor], likes: Sequence[Tensor], stochastic: bool = False) -> tuple[list[Tensor], list[Tensor]]:
        "The same for several tensors on one device: the codes of each, and the scales of each"
        codes = [torch.empty_like(x, dtype=self.dtype) for x in likes]
        x     = torch.cat([in_blocks(lying_as(x, c), self.block) for x,c in zip(xs, codes)])
        scale = self.scales(x)
        sizes = [*map(self.n_blocks, xs)]
        q     = self.at_random(x, scale[:,None], random_below(2**16, x)*2**-16) if stochastic else self.nearest(x, scale[:,None])
        return [*map(put, codes, self.as_codes(q).split(sizes))],[*scale.split(sizes)]
    def seen(self, codes: Tensor, scale: Tensor) -> Tensor:
        "The float32 tensor that is stored as `codes` and `scale`, the scales of its blocks. It lies in memory as the codes do"
        return self.seen_all([codes], [scale])[0]
    def seen_all(self, codes: Sequence[Tensor], scales: Sequence[Tensor]) -> list[Tensor]:
        "The same for several tensors of codes on one device"
        q = torch.cat([in_blocks(c, self.block) for c in codes]).to(torch.float32)
        x = self.decode(q, torch.cat([*scales])[:,None])
        return [put(torch.empty_like(c, dtype=torch.float32), b) for c,b in zip(codes, x.split([*map(len, scales)]))]
    def write_at(self, at: Any, new: Tensor, codes: Tensor, scale: Tensor, stochastic: bool) -> None:
        "Write `new` at the indices `at` of what is stored as `codes` and `scale`. A block in which nothing is written stays as it is"
        x,there = self.seen(codes, scale),torch.zeros_like(codes, dtype=torch.bool)
        x[at],there[at] = new.to(x.dtype),True
        news,new_scale = self.stored(x, codes, stochastic)
        changed = in_blocks(there, self.block).any(1)
        scale.copy_(torch.where(changed, new_scale, scale))
        put(codes, torch.where(changed[:,None], in_blocks(news, self.block), in_blocks(codes, self.block)))


# -- Blocks --

def in_memory(x: Tensor) -> Tensor:
    "The elements of `x` in the order in which they lie in memory, as a view"
    if x.is_contiguous(): return x.view(-1)
    if not dense(x): raise ValueError("a state in a code must lie in memory in one piece")
    return x.as_strided((x.numel(),), (1,))

def in_blocks(x: Tensor, block: int) -> Tensor:
    "The elements in that order, a block in each row. The last row may end with zeros"
    x = in_memory(x)
    return F.pad(x, (0, -len(x)%block)).view(-1, block)

def put(x: Tensor, blocks: Tensor) -> Tensor:
    "Write `blocks` into `x`. Returns `x`"
    in_memory(x).copy_(blocks.flatten()[:x.numel()])
    return x

def lying_as(x: Tensor, y: Tensor) -> Tensor:
    "`x` in float32, as `y` lies in memory"
    same = x.stride()==y.stride() and x.dtype==torch.float32
    return x if same else torch.empty_like(y, dtype=torch.float32).copy_(x)

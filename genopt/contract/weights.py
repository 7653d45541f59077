"""How a parameter of low precision keeps what rounding loses.

A step computes a parameter in float32. A bfloat16 has 8 bits of precision, so a parameter that is rounded to the nearest stands still if a step
changes it by less than 1/512. A policy says what becomes of the rest:

    policy         kept beside the parameter p        what callbacks see as p
    nearest        nothing                            p
    stochastic     nothing                            p. The result x is rounded up or down at random, so that the mean is x
    kahan          p.compensation, of p's dtype       p + p.compensation, which is x in 16 bits of precision
    master         p.master, float32                  p.master, which is x
    extra_bits     p.low, int16                       x: its 32 bits are those of p, and 16 more beside p

Under all of them p is x, rounded. `stochastic` and `extra_bits` are for bfloat16, `kahan` and `master` for bfloat16 and float16. A parameter of
another dtype is stored as it is.

Kahan's sum as in https://github.com/warner-benjamin/optimi; bits beside a bfloat16 as in FlashOptim (https://arxiv.org/abs/2602.23349).

If somebody writes a parameter between two steps, what is beside it belongs to the old value. `master` notices that, and goes on from p. Under
`kahan` and `extra_bits` the next step starts from a value that differs from p by at most half a unit in the last place: of the old value under
`kahan`, of p under `extra_bits`."""

from collections.abc import Mapping
from typing import Any
import torch
from torch import Tensor
from .state import Stored
from .tensors import compute

__all__ = ['Weights', 'nearest', 'weights_of']


class Weights(Stored):
    "A policy for parameters: `name`; `dtypes`: of the parameters of which it keeps more than rounding to the nearest does"
    def __init__(self, name: str, *dtypes: torch.dtype) -> None: self.name,self.dtypes = name,dtypes
    def __repr__(self) -> str: return self.name
    def keeps(self, dtype: torch.dtype) -> bool:
        "Whether it keeps what rounding loses of a parameter of `dtype`"
        return dtype in self.dtypes
    def first(self, p: Tensor) -> dict[str, Tensor]:
        "What is beside the parameter `p` at first, by name"
        names = self.beside('p', p.dtype)
        return {n: x for n,x in self.written('p', compute(p), {'p': p.detach()}).items() if n in names}

class AtRandom(Weights):
    "Rounded at random"
    stochastic = True

class Pair(Weights):
    "Stored as two tensors: the parameter, and one beside it, `p.suffix`"
    suffix = ''
    def dtype_beside(self, dtype: torch.dtype) -> torch.dtype: return dtype
    def beside(self, n: str, dtype: torch.dtype) -> dict[str, torch.dtype]:
        return {f'{n}.{self.suffix}': self.dtype_beside(dtype)} if self.keeps(dtype) else {}
    def join(self, p: Tensor, rest: Tensor) -> Tensor:
        "The float32 tensor that is stored as `p` and `rest`"
        raise NotImplementedError
    def split(self, x: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        "What the float32 tensor `x` is stored as: a tensor of `dtype`, and what is beside it"
        raise NotImplementedError
    def seen(self, n: str, stored: Mapping[str, Any]) -> Any:
        if not self.keeps(stored[n].dtype): return super().seen(n, stored)
        return self.join(*(stored[m].detach() for m in self.names(n, stored[n])))
    def written(self, n: str, new: Tensor, olds: Mapping[str, Any]) -> dict[str, Tensor]:
        if not self.keeps(olds[n].dtype): return super().written(n, new, olds)
        return dict(zip(self.names(n, olds[n]), self.split(new.to(torch.float32), olds[n].dtype)))
    def write_at(self, at: Any, n: str, new: Tensor, olds: Mapping[str, Any]) -> None:
        for name,x in self.written(n, new, olds).items(): olds[name].detach()[at] = x.to(olds[name].dtype)

class Kahan(Pair):
    suffix = 'compensation'
    def join(self, p: Tensor, rest: Tensor) -> Tensor: return p.to(torch.float32) + rest.to(torch.float32)
    def split(self, x: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        p    = x.to(dtype)
        rest = x - p.to(torch.float32)
        return p,torch.where(rest.isfinite(), rest, 0.).to(dtype)                 # p may be infinite where x is not

class Master(Pair):
    suffix = 'master'
    def dtype_beside(self, dtype: torch.dtype) -> torch.dtype: return torch.float32
    def join(self, p: Tensor, rest: Tensor) -> Tensor: return torch.where(rest.to(p.dtype)==p, rest, p.to(torch.float32))
    def split(self, x: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]: return x.to(dtype),x

class ExtraBits(Pair):
    """The bits of x, as an integer, are 2**16 times the bits of p, plus p.low, which lies between -2**15 and 2**15-1. So p is the bfloat16 nearest to
    x. If two are as near, p is the larger in magnitude, because 2**15 has no room in p.low"""
    suffix = 'low'
    def dtype_beside(self, dtype: torch.dtype) -> torch.dtype: return torch.int16
    def join(self, p: Tensor, rest: Tensor) -> Tensor:
        bits = p.to(torch.float32).view(torch.int32)
        rest = torch.where((bits & 0x7fffffff)==0, rest.clamp(min=0), rest)       # below zero are no bits, if somebody has set p to zero
        return (bits + rest).view(torch.float32)
    def split(self, x: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        bits = torch.where(x.isnan(), 0x7fc00000, x.view(torch.int32))            # any other NaN might round to a number
        return ((bits + 2**15) & -2**16).view(torch.float32).to(dtype),bits.to(torch.int16)

nearest  = Weights('nearest')
policies = {w.name: w for w in (nearest, AtRandom('stochastic', torch.bfloat16), Kahan('kahan', torch.bfloat16, torch.float16),
                                Master('master', torch.bfloat16, torch.float16), ExtraBits('extra_bits', torch.bfloat16))}

def weights_of(name: str) -> Weights:
    "The policy called `name`. Raises `ValueError` for another name"
    if name not in policies: raise ValueError(f"a parameter cannot be kept as {name!r}; choose from {', '.join(policies)}")
    return policies[name]

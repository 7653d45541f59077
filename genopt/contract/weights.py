"""How a parameter of low precision keeps what rounding loses.

A step computes a parameter in float32. A bfloat16 has 8 bits of precision, so a parameter that is rounded to the nearest stands still if a step
changes it by less than 1/512. A policy says what becomes of the rest:

    policy         kept beside the parameter p        what callbacks see as p
    extra_bits     p.low, int8                        x in 24 bits: the 16 bits of p, and 8 more beside p. The default for bfloat16
    exact_bits     p.low, int16                       x: its 32 bits are those of p, and 16 more beside p
    master         p.master, float32                  p.master, which is x
    kahan          p.compensation, of p's dtype       p + p.compensation, which is x in 16 bits of precision
    stochastic     nothing                            p. The result x is rounded up or down at random, so that the mean is x
    nearest        nothing                            p

Under all of them p is x, rounded. `kahan` and `master` are for bfloat16 and float16, `extra_bits`, `exact_bits` and `stochastic` for bfloat16. A
parameter of another dtype is stored as it is.

`extra_bits` rounds x to 24 bits at random. Rounded to the nearest, a weight would stand still if a step changed it by less than 1/131072: a weight of
1 does so at a learning rate of 7e-6. `genopt.run.rounding` says which random numbers these are: the same in all processes and in all ways to run.

Kahan's sum as in https://github.com/warner-benjamin/optimi; 8 bits beside a bfloat16 as in FlashOptim (https://arxiv.org/abs/2602.23349), which
rounds to the nearest.

If somebody writes a parameter between two steps, what is beside it belongs to the old value. `master` notices that, and goes on from p. Under the
others the next step starts from a value that differs from p by at most half a unit in the last place: of the old value under `kahan`, of p under
`extra_bits` and `exact_bits`."""

from collections.abc import Mapping
from typing import Any
import torch
from torch import Tensor
from .sharded import is_sharded
from .state import Stored
from .tensors import compute,random_below

__all__ = ['Weights', 'default', 'nearest', 'value_in', 'weights_of']


class Weights(Stored):
    "A policy for parameters: `name`; `dtypes`: of the parameters of which it keeps more than rounding to the nearest does"
    def __init__(self, name: str, *dtypes: torch.dtype) -> None: self.name,self.dtypes = name,dtypes
    def __repr__(self) -> str: return self.name
    def keeps(self, dtype: torch.dtype) -> bool:
        "Whether it keeps what rounding loses of a parameter of `dtype`"
        return dtype in self.dtypes
    def first(self, p: Tensor, x: Tensor | None = None) -> dict[str, Tensor]:
        "What is beside the parameter `p`, by name, if its value is the float32 tensor `x`; by default `p` itself"
        return {}

class AtRandom(Weights):
    "Rounded at random"
    stochastic = True

class Pair(Weights):
    "Stored as two tensors: the parameter, and one beside it, `p.suffix`"
    suffix = ''
    def dtype_beside(self, dtype: torch.dtype) -> torch.dtype: return dtype
    def beside(self, n: str, dtype: torch.dtype | None) -> dict[str, torch.dtype]:
        return {f'{n}.{self.suffix}': self.dtype_beside(dtype)} if dtype is not None and self.keeps(dtype) else {}
    def first(self, p: Tensor, x: Tensor | None = None) -> dict[str, Tensor]:
        return {n: self.rest(p.detach(), compute(p) if x is None else x) for n in self.beside('p', p.dtype)}
    def join(self, p: Tensor, rest: Tensor) -> Tensor:
        "The float32 tensor that is stored as `p` and `rest`"
        raise NotImplementedError
    def rest(self, p: Tensor, x: Tensor) -> Tensor:
        "What is beside `p`, if that is the float32 tensor `x`, rounded to the nearest"
        raise NotImplementedError
    def split(self, x: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        "What the float32 tensor `x` is stored as: a tensor of `dtype`, and what is beside it"
        return (p := x.to(dtype)),self.rest(p, x)
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
    def rest(self, p: Tensor, x: Tensor) -> Tensor:
        lost = x - p.to(torch.float32)
        return torch.where(lost.isfinite(), lost, 0.).to(p.dtype)                  # p may be infinite where x is not

class Master(Pair):
    suffix = 'master'
    def dtype_beside(self, dtype: torch.dtype) -> torch.dtype: return torch.float32
    def join(self, p: Tensor, rest: Tensor) -> Tensor: return torch.where(rest.to(p.dtype)==p, rest, p.to(torch.float32))
    def rest(self, p: Tensor, x: Tensor) -> Tensor:                                # between two p, x is rounded otherwise under `extra_bits`
        return torch.where(x.to(p.dtype)==p, x, torch.nextafter(x, p.to(torch.float32)))
    def split(self, x: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]: return x.to(dtype),x

class ExactBits(Pair):
    """The bits of x, as an integer, are 2**16 times the bits of p, plus p.low, which lies between -2**15 and 2**15-1. So p is the bfloat16 nearest to
    x. If two are as near, p is the larger in magnitude, because 2**15 has no room in p.low"""
    suffix,unit,low = 'low',1,torch.int16                                         # unit: what 1 in p.low stands for
    def dtype_beside(self, dtype: torch.dtype) -> torch.dtype: return self.low
    def join(self, p: Tensor, rest: Tensor) -> Tensor:
        bits,rest = bits_of(p),rest.to(torch.int32)*self.unit
        rest = torch.where((bits & 0x7fffffff)==0, rest.clamp(min=0), rest)       # below zero are no bits, if somebody has set p to zero
        return (bits + rest).view(torch.float32)
    def rest(self, p: Tensor, x: Tensor) -> Tensor:
        info = torch.iinfo(self.low)
        return ((bits_of(x) - bits_of(p) + self.unit//2) // self.unit).clamp(info.min, info.max).to(self.low)
    def split(self, x: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        bits = self.rounded_bits(x)
        p = (bits + 2**15) & -2**16
        return p.view(torch.float32).to(dtype),((bits - p) // self.unit).to(self.low)
    def rounded_bits(self, x: Tensor) -> Tensor:
        "The bits of `x`, a multiple of `unit`"
        return bits_of(x)

class ExtraBits(ExactBits):
    "The same with the upper 24 bits of x, rounded up or down at random so that the mean is x. p.low lies between -2**7 and 2**7-1"
    unit,low = 2**8,torch.int8
    def rounds_at_random(self, dtype: torch.dtype | None) -> bool: return dtype is not None and self.keeps(dtype)
    def rounded_bits(self, x: Tensor) -> Tensor:
        noise = self.unit//2 if is_sharded(x) else random_below(self.unit, x)      # of a sharded tensor at random only in a program
        return torch.where(x.isfinite(), bits_of(x) + noise, bits_of(x)) & -self.unit

def bits_of(x: Tensor) -> Tensor:
    "The bits of `x` in float32, as integers. A NaN has those that stay NaN when they are rounded"
    x = x.to(torch.float32)
    return torch.where(x.isnan(), 0x7fc00000, x.view(torch.int32))

nearest  = Weights('nearest')
default  = ExtraBits('extra_bits', torch.bfloat16)                                 # docs/memory.md says why
policies = {w.name: w for w in (default, ExactBits('exact_bits', torch.bfloat16), Master('master', torch.bfloat16, torch.float16),
                                Kahan('kahan', torch.bfloat16, torch.float16), AtRandom('stochastic', torch.bfloat16), nearest)}

def weights_of(name: str) -> Weights:
    "The policy called `name`. Raises `ValueError` for another name"
    if name not in policies: raise ValueError(f"the policy of a parameter must be one of {', '.join(policies)}; got {name!r}")
    return policies[name]

def value_in(p: Tensor, state: Mapping[str, Any]) -> Tensor | None:
    "The value of the parameter `p` that is stored as `p` and what some policy has put beside it in `state`, of the right dtype; None if none has"
    for policy in policies.values():
        beside = policy.beside('p', p.dtype)
        if beside and all(isinstance(v := state.get(n), Tensor) and v.dtype==dtype for n,dtype in beside.items()):
            value: Tensor = policy.seen('p', {'p': p.detach()} | {n: state[n] for n in beside})
            return value
    return None

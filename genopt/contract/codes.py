"""Codes: states in few bits, in blocks that have a scale each.

A `Code` is three functions in plain PyTorch. A tensor is cut into blocks, in the order in which its elements lie in memory. `scale` gives one number
for each block, `encode` says which code an element comes to, `decode` is the element that a code stands for. The functions are written once. The
kernels in C and Triton run what `lower.codes` records of them.

`encode` gives a real number, such as 41.3. It is rounded to a whole number here: to the nearest, or at random to 41 or 42 so that the mean of the
elements stays. That is why a larger code must stand for a larger element.

The codes that come with genopt, with blocks of 256. A block with negative elements has a negative scale:

    int8    a block without negative elements      code 0 ... 255        about scale * (code/256)**4
            a block with negative elements         code 1 ... 255        about abs(scale) * s*abs(s), where s = (code-128)/128
    fp8     code -126 ... 126, the numbers of e4m3 counted from zero     abs(scale) * (-448 ... 448)

`int8` is after Dettmers et al. 2021 (https://arxiv.org/abs/2110.02861). Each block tells how it is to be read, so an average of squares has the finer
code without anybody saying that it is one. Small elements have small steps, as in the paper's dynamic map; the error is smaller than that of the map,
or near it. If the scale would be less than the smallest normal float32, the whole block becomes zero.

The roots and powers of `int8` are shifts of the bits of a float32, which halve the exponent, and the mantissa with it. So the codes lie on straight
lines, where exact roots would lie on a curve. A kernel shifts faster than it takes roots. And between two codes on a straight line a number can be
rounded at random without a bias. Only below code 4 lines meet between two codes.

`fp8` has the values of e4m3, Micikevicius et al. 2022 (https://arxiv.org/abs/2209.05433): 3 bits behind the leading one, exponents from -6 to 8, and
smaller numbers below. The largest element of a block becomes 448, the largest number of e4m3. A byte is the place of the number in their order, and
not its bits in e4m3.

In a block without negative elements a positive element never becomes zero, because optimizers divide by the root of such states."""

from collections.abc import Callable,Sequence
from dataclasses import dataclass,field
from functools import cached_property
from typing import Any
import torch
import torch.nn.functional as F
from torch import Tensor
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

    straight: bool = field(init=False, compare=False)                # whether codes lie on straight lines, as `is_straight` has it

    def __post_init__(self) -> None: check(self)
    def __repr__(self) -> str: return self.name

    @property
    def limits(self) -> tuple[int, int]:
        "The smallest and the largest code"
        return (info := torch.iinfo(self.dtype)).min,info.max
    def beside(self, name: str) -> str:
        "The name under which the scales of the state `name` are stored"
        return f'{name}.{self.name}'
    def n_blocks(self, x: Tensor) -> int: return -(-x.numel()//self.block)

    @cached_property
    def rounds(self) -> bool:
        "Whether `encode` gives numbers between codes. A search in a table does not, and cannot be rounded at random"
        x = examples(self)
        r = self.encode(x, self.scales(x)[:,None])
        return not torch.equal(r.nan_to_num(), r.round().nan_to_num())

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


# -- What a code is checked for --

def check(code: Code) -> None:
    "Raise `TypeError` or `ValueError` unless `code` has functions that can be run"
    if not isinstance(code.name, str) or not code.name.isidentifier():
        raise ValueError(f"Code: name must be an identifier, such as 'linear'; got {code.name!r}")
    who = f"Code {code.name!r}"
    for n in ('scale','encode','decode'):
        if not callable(f := getattr(code, n)): raise TypeError(f"{who}: {n} must be a function, got {f!r}")
    if code.dtype not in (torch.uint8, torch.int8): raise ValueError(f"{who}: dtype must be torch.uint8 or torch.int8, got {code.dtype!r}")
    if type(code.block) is not int or not 16<=code.block<=1024 or code.block&(code.block-1):
        raise ValueError(f"{who}: block must be a power of 2 from 16 to 1024, got {code.block!r}")
    if not 0<code.error<1: raise ValueError(f"{who}: error must be between 0 and 1, a part of the largest element; got {code.error!r}")
    with torch.random.fork_rng([]), torch.inference_mode(False), torch.no_grad():
        try_on_blocks(code, who)
        object.__setattr__(code, 'straight', is_straight(code))

def try_on_blocks(code: Code, who: str) -> None:
    x = examples(code)
    s = result(who, 'scale', code.scale, x)
    if s.shape!=(len(x),):
        raise ValueError(f"{who}: scale must give one number for each block, of shape ({len(x)},) for blocks of shape {tuple(x.shape)}; it gave "
                         f"{tuple(s.shape)}. Reduce the last dimension: x.abs().amax(-1)")
    if not s.isfinite().all(): raise ValueError(f"{who}: scale gives {s[~s.isfinite()][0]:g} for a block of finite elements; it must be finite")
    s = code.scales(x)[:,None]
    r = result(who, 'encode', code.encode, x, s)
    same_shape(who, 'encode', r, x)
    check_codes(code, who, x, s, r)
    q = code.as_codes(code.nearest(x, s)).to(torch.float32)
    y = result(who, 'decode', code.decode, q, s)
    same_shape(who, 'decode', y, q)
    check_elements(code, who, x, y)
    bad = x.clone()
    bad[0,3],bad[1,5] = torch.nan,torch.inf
    s = code.scales(bad)[:,None]
    y = code.decode(code.as_codes(code.nearest(bad, s)).to(torch.float32), s)
    if not y[:2].isfinite().any(): return
    what = 'a NaN' if y[0].isfinite().any() else 'an infinite element'
    raise ValueError(f"{who}: a block with {what} comes back as numbers; scale must see every element of its block, and decode must use the scale")

def is_straight(code: Code) -> bool:
    "Whether the mean stays, up to 2^-14 of the largest in its block, if what `encode` gives is rounded up or down at random"
    x = examples(code)
    s = code.scales(x)[:,None]
    r = code.encode(x, s).nan_to_num()                               # zeros may become NaN
    q = code.below(r)
    mean = torch.lerp(code.decode(q, s), code.decode(q+1, s), r-q)
    return bool(((mean-x).abs() <= 2**-14*x.abs().amax(-1, keepdim=True)).all())

def examples(code: Code) -> Tensor:
    "Blocks: normal elements, of other sizes, of many sizes, of one sign, zeros"
    x = torch.randn(8, code.block, generator=torch.Generator('cpu').manual_seed(0), device='cpu')
    x[1],x[2],x[3] = x[1]*1e-6,x[2]*1e4,x[3]**9
    x[4],x[5] = x[4].abs(),-x[5].abs()
    x[6],x[7,1:] = 0.,0.
    return x if code.signed else x.abs()

def result(who: str, name: str, f: Callable[..., Tensor], *args: Tensor) -> Tensor:
    "What the function of a code gives for `args`, which it must leave as they are"
    given = [x.clone() for x in args]
    try: y = f(*given)
    except Exception as e:
        shapes = ' and '.join(str(tuple(x.shape)) for x in args)
        raise ValueError(f"{who}: {name} fails on tensors of shape {shapes}: {e}") from e
    if not isinstance(y, Tensor): raise TypeError(f"{who}: {name} must return a tensor, got {y!r}")
    if not all(map(torch.equal, args, given)): raise ValueError(f"{who}: {name} writes into its arguments; return a new tensor instead")
    return y

def same_shape(who: str, name: str, y: Tensor, x: Tensor) -> None:
    if y.shape==x.shape and y.dtype==torch.float32: return
    raise ValueError(f"{who}: {name} must give a float32 tensor of shape {tuple(x.shape)}, as its argument; it gave {str(y.dtype)[6:]} of shape "
                     f"{tuple(y.shape)}")

def check_codes(code: Code, who: str, x: Tensor, s: Tensor, r: Tensor) -> None:
    "Refuse codes `r` of the blocks `x` that are out of range, that depend on other elements, or are not in order"
    low,high = code.limits
    whole    = r.round()
    if (out := (whole<low) | (whole>high)).any():
        raise ValueError(f"{who}: encode gives {r[out][0].item():g}, where {str(code.dtype)[6:]} holds {low} ... {high}; scale it, or clamp it")
    order  = x.argsort(-1)
    sorted_x,sorted_r = x.gather(1, order),r.gather(1, order)
    some   = torch.arange(code.block, device=x.device)%2==0
    if not torch.equal(code.encode(torch.where(some, sorted_x, 0.), s)[:,some].nan_to_num(), sorted_r[:,some].nan_to_num()):
        raise ValueError(f"{who}: encode gives an element another code if other elements of its block change; it may only depend on the element and "
                         "the scale")
    if (sorted_r.diff(dim=-1)<-1e-3).any():
        raise ValueError(f"{who}: encode gives a larger element a smaller code; number the codes from the smallest element to the largest")

def check_elements(code: Code, who: str, x: Tensor, y: Tensor) -> None:
    "Refuse elements `y` that came back of blocks `x` and are too far from these"
    if y[6].any():
        raise ValueError(f"{who}: a block of zeros comes back as {y[6].abs().max().item():g}; decode must give 0 there, since states start at zero")
    far = ((y-x).abs()/x.abs().amax(-1, keepdim=True).clamp(min=1e-30)).nan_to_num(torch.inf)
    if (worst := far.max().item())<=code.error: return
    was,now = (z.flatten()[far.argmax()].item() for z in (x, y))
    raise ValueError(f"{who}: {was:g} comes back as {now:g}, off by {worst:.3g} of the largest element in its block; error allows {code.error:g}. "
                     "decode must undo encode; if the code is that coarse, give it a larger error")


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


# -- The codes that come with genopt --

smallest_scale = torch.finfo(torch.float32).tiny
one            = 0x3f800000                                          # the bits of 1.
def bits_of(x: Tensor) -> Tensor: return x.view(torch.int32)
def with_bits(i: Tensor) -> Tensor: return i.view(torch.float32)

def int8_scale(x: Tensor) -> Tensor:
    low,high = x.amin(-1),x.amax(-1)
    top = torch.maximum(high, -low)
    top = torch.where(top<smallest_scale, 0., top)
    return torch.where(low<0, -top, top)

def int8_root(scale: Tensor) -> tuple[Tensor, Tensor]:
    """How codes are roots: `k`, 1 for a square root or 2 for a fourth root, which is how far bits are shifted; and what is added to shifted bits, so
    that 1 becomes 128 or 256. `k` is 1 if the scale is negative"""
    k = 2 + (bits_of(scale)>>31)
    return k, one - (one>>k) + ((6+k)<<23)

def int8_encode(x: Tensor, scale: Tensor) -> Tensor:
    k,start = int8_root(scale)
    top     = scale.abs()
    part    = x.abs()*torch.where(top>0, 63/64/top, 0.)              # 63/64 is where the codes end, at 127 or 255
    root    = with_bits((bits_of(part)>>k) + start)
    return torch.where(scale<0, 128+torch.copysign(root, x), torch.where(x>0, root.clamp(min=1), 0.))

def int8_decode(code: Tensor, scale: Tensor) -> Tensor:
    k,start = int8_root(scale)
    root    = code-torch.where(scale<0, 128., 0.)
    part    = with_bits((bits_of(root.abs())-start).clamp(min=0)<<k)
    return torch.copysign(part, root)*(64/63)*scale.abs()            # in this order the largest element comes back as it was

def fp8_scale(x: Tensor) -> Tensor:
    low,high = x.amin(-1),x.amax(-1)
    scale = torch.maximum(high, -low)/448
    return torch.where(low<0, -scale, scale)

e4m3_start = 120<<23                                                 # what the exponents of a float32 are ahead of those of e4m3, in bits
def fp8_encode(x: Tensor, scale: Tensor) -> Tensor:
    y = x.abs()/scale.abs()
    q = torch.where(y<2**-6, y*2**9, (bits_of(y)-e4m3_start).to(torch.float32)*2**-20).clamp(max=126)
    return torch.where(scale<0, torch.copysign(q, x), torch.where(x>0, q.clamp(min=1), 0.))

def fp8_decode(code: Tensor, scale: Tensor) -> Tensor:
    q = code.abs()
    y = torch.where(q<8, q*2**-9, with_bits((q*2**20).to(torch.int32)+e4m3_start))
    return torch.copysign(y, code)*scale.abs()

codes = {c.name: c for c in (Code('int8', int8_scale, int8_encode, int8_decode), Code('fp8', fp8_scale, fp8_encode, fp8_decode, dtype=torch.int8))}

"""The codes that come with genopt, in blocks of 256. A block with negative elements has a negative scale:

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

import torch
from torch import Tensor
from .code import Code

__all__ = ['codes']


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

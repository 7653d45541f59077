"""What a code is tried for when it is made: that its functions can be run, that they take each element by itself, that they come near enough to what
went in. The blocks on which they are tried are `examples`."""

from collections.abc import Callable
from typing import Any,NamedTuple
import torch
from torch import Tensor

__all__ = ['try_code']

Code = Any                                                           # a `code.Code`; its module imports this one


class Trial(NamedTuple):
    """What trying a code has shown. `rounds`: `encode` gives numbers between codes. A search in a table does not, and cannot be rounded at random.
    `straight`: rounded at random by how far they are from the code below, these keep the mean, up to 2^-14 of the largest element in the block"""
    rounds: bool
    straight: bool


def try_code(code: Code) -> Trial:
    "Try the functions of `code` on random blocks. Raises `TypeError` or `ValueError` unless they can be run"
    who = check_fields(code)
    with torch.random.fork_rng([]), torch.inference_mode(False), torch.no_grad():
        try_on_blocks(code, who)
        x = examples(code)
        s = code.scales(x)[:,None]
        return Trial(is_between(code, x, s), is_straight(code, x, s))

def check_fields(code: Code) -> str:
    "Refuse fields that no code can have. Returns what messages call the code"
    if not isinstance(code.name, str) or not code.name.isidentifier():
        raise ValueError(f"Code: name must be an identifier, such as 'linear'; got {code.name!r}")
    who = f"Code {code.name!r}"
    for n in ('scale','encode','decode'):
        if not callable(f := getattr(code, n)): raise TypeError(f"{who}: {n} must be a function, got {f!r}")
    if code.dtype not in (torch.uint8, torch.int8): raise ValueError(f"{who}: dtype must be torch.uint8 or torch.int8, got {code.dtype!r}")
    if type(code.block) is not int or not 16<=code.block<=1024 or code.block&(code.block-1):
        raise ValueError(f"{who}: block must be a power of 2 from 16 to 1024, got {code.block!r}")
    if not 0<code.error<1: raise ValueError(f"{who}: error must be between 0 and 1, a part of the largest element; got {code.error!r}")
    return who

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

def is_between(code: Code, x: Tensor, s: Tensor) -> bool:
    "Whether `encode` gives numbers between codes for the blocks `x` with scales `s`"
    r = code.encode(x, s)
    return not torch.equal(r.nan_to_num(), r.round().nan_to_num())

def is_straight(code: Code, x: Tensor, s: Tensor) -> bool:
    "Whether codes lie on straight lines; see `Trial`"
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

"""State: what an initializer makes for a parameter."""

from collections.abc import Callable,Mapping
from copy import copy
from typing import TYPE_CHECKING,Any
import torch
from torch import Tensor
from .code import Code
from .codes import codes
from .names import name_of
from .sharded import is_sharded
from .tensors import compute,fit,round_stochastically

__all__ = ['Init', 'Kept', 'Stored', 'as_declared', 'copy_of_p', 'count', 'dtypes', 'exact', 'first', 'full', 'history', 'kept', 'ones', 'scalar',
           'scalar_tensor', 'seen', 'stored_states', 'torch_names', 'zeros']

if TYPE_CHECKING: from typing import Any as Anything             # a type checker takes `grad_avg: Tensor = zeros`, and `steps: list[int] = count`
else: Anything = object


class Stored(Anything):
    "How a value is stored: by itself, or as codes and the scales of their blocks, or as a pair. `n` is its name"
    stochastic = False                                           # whether it is rounded at random; of a sharded tensor only in a program
    def rounds_at_random(self, dtype: torch.dtype | None) -> bool:
        "Whether values are rounded at random where the value is stored in `dtype`"
        return self.stochastic and dtype==torch.bfloat16
    def rounded(self, new: Tensor, old: Tensor) -> Tensor:
        "The value `new`, for a tensor that is stored as `old` is"
        random = self.rounds_at_random(old.dtype) and new.dtype!=old.dtype and not is_sharded(new)
        return round_stochastically(new) if random else new
    def code_of(self, dtype: torch.dtype | None) -> Code | None:
        "The code in which it is, if it is stored in `dtype`; None if it is in no code"
        return None
    def beside(self, n: str, dtype: torch.dtype | None) -> dict[str, torch.dtype]:
        "What is stored beside `n`, if `n` itself is stored in `dtype`: name -> dtype"
        return {}
    def names(self, n: str, v: Any) -> tuple[str, ...]:
        "Under which names it is stored. `v`: its own entry"
        return (n, *self.beside(n, v.dtype)) if isinstance(v, Tensor) else (n,)
    def written(self, n: str, new: Tensor, olds: Mapping[str, Any]) -> dict[str, Tensor]:
        "What the value `new` is stored as, by name, where `olds` are stored now"
        return {n: self.rounded(new, olds[n])}
    def write_at(self, at: Any, n: str, new: Tensor, olds: Mapping[str, Any]) -> None:
        "Write `new` at the indices `at`. `olds`: the stored tensors, by name"
        old = olds[n].detach()
        old[at] = self.rounded(new, old).to(old.dtype)
    def seen(self, n: str, stored: Mapping[str, Any]) -> Any:
        "The value as callbacks see it. `stored`: tensors and numbers, by name"
        return compute(v) if isinstance(v := stored[n], Tensor) else v

class Init(Stored):
    """First value of a state: `make(p, *args)`, called once for each parameter; a tensor, or a plain number, which stays on the host.
    `p` is seen as callbacks see it: complex as pairs of reals, low precision as float32."""
    def __init__(self, make: Callable[..., Any], *args: Any) -> None: self.make,self.args = make,args
    def __call__(self, p: Tensor) -> Tensor | float:
        res = self.make(p, *self.args)
        if isinstance(res, Tensor): return res.clone()           # a view of `p` would follow it, an expanded one cannot be written
        if isinstance(res, (bool,int,float)): return res
        raise TypeError(f"the initializer {self} made a {type(res).__name__}; it must make a tensor or a number")
    def __eq__(self, o: object) -> bool: return isinstance(o, Init) and (self.make,self.args,self.exact)==(o.make,o.args,o.exact)
    def __hash__(self) -> int: return hash((self.make, self.args))
    def __repr__(self) -> str:
        name = name_of(self.make).removesuffix('_like').strip('_')
        return f'{name}({", ".join(map(str, self.args))})' if self.args else name
    def fits(self, new: Any, old: Any) -> bool:
        "Whether `new` can take the place of `old` as the value of this state"
        return bool(fit(new)==fit(old))
    grows: bool = False                                          # whether its shape may change from step to step
    exact: bool = False                                          # whether it must keep its precision; see the function `exact`
    def largest(self, p: Tensor) -> Tensor | float:
        "The state of the parameter `p` at its largest, for its shape and dtype"
        return first(self, p)

    def code_for(self, v: Any) -> Code | None:
        "The code in which a first value like `v` is stored; None if it is stored in none"
        return None
    def why_wide(self, v: Any) -> str:
        "Why a first value like `v` stays in float32, although it should be stored in another dtype; '' if nothing is wrong"
        return ''
    def room(self, n: str, v: Any) -> dict[str, Any]:
        "What a first value like `v` of the state `n` is stored in, by name; without its values if these are not `v` itself"
        return {n: v}
    def stored(self, n: str, v: Any) -> dict[str, Any]:
        "What the first value `v` of the state `n` is stored as, by name"
        return {n: v}

class History(Init):
    "A state that grows: `most` rows like `p` at most. See `history`"
    grows = True
    def __init__(self, most: int) -> None:
        super().__init__(_history, most := int(most))
        if most<1: raise ValueError(f"history must keep at least 1 row, got {most}")
        self.most = most
    def fits(self, new: Any, old: Any) -> bool:
        return isinstance(new, Tensor) and isinstance(old, Tensor) and new.shape[1:]==old.shape[1:] and 0<new.ndim==old.ndim and len(new)<=self.most
    def largest(self, p: Tensor) -> Tensor:
        one = compute(p)
        return torch.empty(self.most, *one.shape, dtype=one.dtype, device='meta')

class Kept(Init):
    "What `init` makes, stored in another dtype or in a code. See `kept`"
    def __init__(self, init: Init, dtype: str | Code, rounding: str, smallest: int) -> None:
        super().__init__(_kept, init, dtype, rounding, smallest)
        self.init,self.dtype,self.smallest,self.stochastic,self.grows = init,dtype,smallest,rounding=='stochastic',init.grows
        self.code = dtype if isinstance(dtype, Code) else codes.get(dtype)
    def fits(self, new: Any, old: Any) -> bool: return self.init.fits(new, old)
    def largest(self, p: Tensor) -> Tensor | float:
        res: Tensor | float = as_dtype(x := self.init.largest(p), self.dtype, self.smallest, x)
        return res
    def __repr__(self) -> str: return f'{self.init} as {self.dtype}'
    def rounds_at_random(self, dtype: torch.dtype | None) -> bool:
        return super().rounds_at_random(dtype) or self.stochastic and self.code_of(dtype) is not None
    def code_of(self, dtype: torch.dtype | None) -> Code | None: return self.code if self.code and dtype==self.code.dtype else None
    def beside(self, n: str, dtype: torch.dtype | None) -> dict[str, torch.dtype]:
        return {code.beside(n): torch.float32} if (code := self.code_of(dtype)) else {}
    def code_for(self, v: Any) -> Code | None:
        return self.code if self.code and is_storable(v, v, self.smallest) and not self.why_wide(v) else None
    def why_wide(self, v: Any) -> str:
        if not self.code or not isinstance(v, Tensor): return ''
        return 'it grows' if self.grows else 'it is sharded' if is_sharded(v) else ''
    def room(self, n: str, v: Any) -> dict[str, Any]:
        if not (code := self.code_for(v)): return {n: v}
        return {n: torch.empty_like(v, dtype=code.dtype), code.beside(n): v.new_empty(code.n_blocks(v))}
    def stored(self, n: str, v: Any) -> dict[str, Any]:
        return dict(zip((n, code.beside(n)), code.stored(v))) if (code := self.code_for(v)) else {n: v}
    def written(self, n: str, new: Tensor, olds: Mapping[str, Any]) -> dict[str, Tensor]:
        if not (code := self.code_of(olds[n].dtype)): return super().written(n, new, olds)
        return dict(zip((n, code.beside(n)), code.stored(new, olds[n], self.stochastic)))
    def write_at(self, at: Any, n: str, new: Tensor, olds: Mapping[str, Any]) -> None:
        if not (code := self.code_of(olds[n].dtype)): return super().write_at(at, n, new, olds)
        return code.write_at(at, new, olds[n], olds[code.beside(n)], self.stochastic)
    def seen(self, n: str, stored: Mapping[str, Any]) -> Any:
        v = stored[n]
        code = self.code_of(v.dtype) if isinstance(v, Tensor) else None
        return code.seen(v, stored[code.beside(n)]) if code else super().seen(n, stored)

def is_storable(x: Any, largest: Any, smallest: int) -> bool:
    "Whether the state `x` may be stored in another dtype: a float32 tensor that has at least `smallest` elements when it is `largest`"
    return isinstance(x, Tensor) and x.ndim>0 and x.dtype==torch.float32 and largest.numel()>=smallest

def as_dtype(x: Any, dtype: str | Code, smallest: int, largest: Any) -> Any:
    "The state `x` in `dtype`, if it may be stored so. What will be in a code stays as it is here"
    return x.to(getattr(torch, dtype)) if dtype in floats and is_storable(x, largest, smallest) else x

def _kept(p: Tensor, init: Init, dtype: str | Code, rounding: str, smallest: int) -> Any:
    x = init(p)
    return as_dtype(x, dtype, smallest, init.largest(p) if init.grows else x)
def _scalar(p: Tensor, v: float) -> float: return v
def _scalar_tensor(p: Tensor, v: float) -> Tensor: return p.new_full((), v)
def _count(p: Tensor) -> int: return 0
def _copy_of_p(p: Tensor) -> Tensor: return p
def _history(p: Tensor, most: int) -> Tensor: return p.new_zeros(0, *p.shape)

zeros,ones,copy_of_p,count = Init(torch.zeros_like),Init(torch.ones_like),Init(_copy_of_p),Init(_count)
def full(v: float) -> Init:
    "A state that starts as a tensor like `p`, filled with `v`"
    return Init(torch.full_like, v)
def scalar_tensor(v: float) -> Init:
    "A state that is one number for each parameter, a 0-dim tensor on the parameter's device; starts at `v`. For example the average of a norm"
    return Init(_scalar_tensor, v)
def scalar(v: float) -> Init:
    "A state that is one Python number for each parameter, exact, kept on the host; starts at `v`"
    return Init(_scalar, v)
def history(most: int) -> History:
    """A state of rows like the parameter, of shape `(n, *p.shape)`: none at first. A callback may return more of them, or fewer, up to `most`.
    genopt calls the callbacks for each parameter with such a state, outside of the kernel"""
    return History(most)

def exact(init: Init) -> Init:
    """The state that `init` makes, which must keep its precision. No pattern in `store`, such as `'*'`, matches it, only its exact name. Use it for a
    state whose rounding errors grow in what is computed from it, such as a matrix whose root is taken: `left=exact(Init(gram))`.

    Raises `TypeError` for another initializer."""
    if not isinstance(init, Init) or isinstance(init, Kept): raise TypeError(f"exact takes an initializer such as zeros, got {init!r}")
    init = copy(init)
    init.exact = True
    return init

floats = 'float32','bfloat16','float16'
dtypes = *floats,*codes                                           # those in which a state can be stored, by name
def kept(init: Init, dtype: str | torch.dtype | Code, rounding: str | None = None, smallest: int = 4096) -> Kept:
    """The state that `init` makes, stored in `dtype`. Callbacks see it in float32 all the same.

    `dtype`: `'float32'`, `'bfloat16'`, `'float16'`; the name of a code, `'int8'`: 8 bits for each element, and a float32 scale for each 256; or a
        `Code` of your own. The scales of a state `sqr_avg` are stored beside it, as `sqr_avg.int8`. `genopt.contract.codes` describes the codes.
    `rounding`: `'nearest'`, or `'stochastic'`, which is for bfloat16 and codes, and their default. In most steps an average changes by less than
        the distance of two bfloat16 numbers or codes, so rounding to the nearest would leave it where it is. torch's generator makes the random
        bits.
    `smallest`: states with fewer elements stay as `init` makes them, since they save little. So do single numbers, integers and float64, and under
        a code also sharded tensors and states that grow.

    Raises `TypeError` or `ValueError` for another initializer, dtype, rounding or size."""
    if not isinstance(init, Init): raise TypeError(f"kept takes an initializer such as zeros, got {init!r}")
    if isinstance(smallest, bool) or not isinstance(smallest, int) or smallest<0:
        raise ValueError(f"smallest must be a number of elements, 0 or more; got {smallest!r}")
    stored = name_or_code(dtype)
    return Kept(init, stored, checked_rounding(stored, rounding), smallest)

def name_or_code(dtype: str | torch.dtype | Code) -> str | Code:
    "The name of a dtype or code that comes with genopt, or a `Code` of the user's. Raises `ValueError` for another"
    if isinstance(dtype, Code):
        if dtype.name not in dtypes: return dtype
        if codes.get(dtype.name)!=dtype: raise ValueError(f"genopt has another code called {dtype.name!r}; give yours a name of its own")
        return dtype.name
    name = str(dtype).removeprefix('torch.')
    if name not in dtypes:
        raise ValueError(f"dtype={dtype!r} is unknown; choose from {', '.join(dtypes)}, or give a genopt.Code")
    return name

def checked_rounding(stored: str | Code, rounding: str | None) -> str:
    "How what is `stored` so is rounded: `rounding`, or by default at random where that can be. Raises `ValueError` where it cannot"
    code      = stored if isinstance(stored, Code) else codes.get(stored)
    at_random = code.rounds if code else stored=='bfloat16'
    rounding  = rounding or ('stochastic' if at_random else 'nearest')
    if rounding not in ('nearest','stochastic'): raise ValueError(f"rounding must be 'nearest' or 'stochastic', got {rounding!r}")
    if rounding=='stochastic' and not at_random:
        why = "; the encode of this code returns whole numbers, but must return 41.3 for a value between those of 41 and 42" if code else ''
        raise ValueError(f"rounding='stochastic' works for bfloat16 and codes, not for {stored}{why}; leave rounding out")
    return rounding


# -- What is made for a parameter --

def first(init: Init, p: Tensor) -> Tensor | float:
    "What `init` makes for the parameter `p`: its shape and dtype, and its values only if it looks at those of `p`"
    try: return init(compute(torch.empty_like(p, device='meta')))
    except Exception: return init(compute(p))

def stored_states(inits: Mapping[str, Init], state: Mapping[str, Any], p: Tensor) -> dict[str, Any]:
    "The states that `inits` declare for the parameter `p`, as they are stored: tensors and numbers by name. What `state` lacks is new"
    res: dict[str, Any] = {}
    for n,init in inits.items():
        if n not in state: res |= init.stored(n, init(p))
        else: res |= {name: as_declared(state[name], init, p) for name in init.names(n, state[n])}
    return res

def seen(inits: Mapping[str, Init], stored: Mapping[str, Any]) -> dict[str, Any]:
    "The states that `inits` declare, as callbacks see them. `stored`: as they are stored"
    return {n: init.seen(n, stored) for n,init in inits.items()}

def as_declared(v: Any, init: Init, p: Tensor) -> Any:
    "A state as its initializer has it: a counter that comes in a tensor, as torch keeps it, is a number"
    if not isinstance(v, Tensor) or v.ndim or isinstance(number := first(init, p), Tensor): return v
    return type(number)(v.item())


# torch's name of a state = ours
torch_names = dict(exp_avg='grad_avg', exp_avg_sq='sqr_avg', max_exp_avg_sq='max_sqr_avg', square_avg='sqr_avg', momentum_buffer='grad_avg',
                   sum='sqr_sum', acc_delta='sqr_update_avg', exp_inf='grad_max', ax='eval_p', prev='prev_grad',
                   row_var='row_avg', col_var='col_avg', variance='row_avg')

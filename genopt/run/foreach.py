"""The foreach backend: the operations of a flat part as `torch._foreach_*` over the tensors of many parameters. It needs no compiler, and runs on any
device. An operation writes in place where the old value is not needed again, so that it allocates as little as torch's own foreach."""

from operator import is_not
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from ..lower.record import CROSS, ELEMENTS, SCALAR, SINGLE, Value, aten, needed

__all__ = ['DeviceNumbers', 'Foreach']

# the operation on lists, and which of its operands may be plain numbers
lists = {
    aten.add: '_foreach_add',
    aten.sub: '_foreach_sub',
    aten.mul: '_foreach_mul',
    aten.div: '_foreach_div',
    aten.sqrt: '_foreach_sqrt',
    aten.rsqrt: '_foreach_rsqrt',
    aten.neg: '_foreach_neg',
    aten.abs: '_foreach_abs',
    aten.exp: '_foreach_exp',
    aten.log: '_foreach_log',
    aten.log2: '_foreach_log2',
    aten.sign: '_foreach_sign',
    aten.reciprocal: '_foreach_reciprocal',
    aten.addcmul: '_foreach_addcmul',
    aten.addcdiv: '_foreach_addcdiv',
    aten.lerp: '_foreach_lerp',
    aten.maximum: '_foreach_maximum',
    aten.minimum: '_foreach_minimum',
    aten.clamp_min: '_foreach_clamp_min',
    aten.clamp_max: '_foreach_clamp_max',
}
on_device = {
    aten.add: lambda x, y, alpha: y * alpha + x,
    aten.addcmul: lambda x, a, b, value: value * a * b + x,  # with a factor that is a tensor
    aten.sub: lambda x, y, alpha: y * -alpha + x,
    aten.addcdiv: lambda x, a, b, value: value * (a / b) + x,
}


def lerp(x, y, weight):
    return torch.lerp(
        x, y, weight.to(x.dtype) if isinstance(weight, Tensor) else weight
    )  # torch 2.6 takes no other dtype


class DeviceNumbers(TorchFunctionMode):
    "Lets a callback that is called use numbers on the device where torch wants plain ones, as `alpha=` and `value=`, and would look at them"

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs, name = kwargs or {}, getattr(func, '__name__', '')
        if any(isinstance(kwargs.get(k), Tensor) for k in ('alpha', 'value')):
            if op := on_device.get(getattr(aten, name.rstrip('_'), None)):
                res = op(*args, **kwargs)
                return args[0].copy_(res) if name.endswith('_') else res
        return lerp(*args, **kwargs) if name == 'lerp' else func(*args, **kwargs)


class Foreach:
    """A flat part as a sequence of operations on lists; it is made once for a program and run on any tensors. A value of
    elements is a list with a tensor for each parameter. A value of single numbers is one vector with an entry for each, so
    its arithmetic is one operation for all parameters"""

    def __init__(self, flat):
        self.flat = flat
        kept = [*flat.stores.values(), *flat.single_stores.values(), *flat.leaves]
        self.order = needed(kept, stop=self.is_given)
        self.last_use = {o: i for i, v in enumerate(self.order) for o in (v, *v.operands)}
        self.last_use |= dict.fromkeys(kept, len(self.order))
        self.in_place = set()  # places of operations that write into their first operand
        self.lies_in = {}  # value -> name of the stored tensors that it overwrites
        for i, v in enumerate(self.order):
            if self.may_write(i, v):
                self.in_place.add(i)

    def is_given(self, v):
        return v.kind in (SCALAR, CROSS) or v.name in (*self.flat.loads, *self.flat.single_loads)

    # -- which operations may write in place --

    def may_write(self, i, v):
        """Whether operation `i` may write into its first operand: nobody reads that again, and if it is a stored tensor, the
        result ends up there"""
        x = v.args[0] if v.args else None
        if (
            not isinstance(x, Value)
            or x.kind != ELEMENTS
            or v.kind != ELEMENTS
            or x.dtype != v.dtype
        ):
            return False
        if self.last_use[x] > i or any(o is x for o in v.args[1:]):
            return False
        stored = x.name if self.is_given(x) else self.lies_in.get(x)
        if stored is None:
            return x.packet not in (aten.clone, aten._to_copy)
        if not self.ends_in(v, stored):
            return False
        self.lies_in[v] = stored
        return True

    def ends_in(self, v, name):
        "Whether `v` is what is stored as `name`, or is gone by the time that this is computed"
        new = self.flat.stores.get(name)
        if new is None or new is v:
            return new is v and new is not None
        return not self.is_given(new) and self.last_use[v] <= self.order.index(new)

    # -- a run --

    def __call__(self, tensors, scalars):
        """Write what is stored, and return the leaves, each a vector. `tensors`: lists by name, in the dtype in which they are
        computed; `scalars`: numbers by name"""
        env = {}

        def value(v):
            if v in env:
                return env[v]
            if v.kind in (SCALAR, CROSS):
                return scalars[v.name]
            return tensors[v.name] if v.kind == ELEMENTS else torch.stack(tensors[v.name])

        for i, v in enumerate(self.order):
            env[v] = self.run(i, v, value)
            for o in v.operands:
                if self.last_use[o] <= i:
                    env.pop(o, None)
        self.store({n: value(v) for n, v in self.flat.stores.items()}, tensors)
        for n, v in self.flat.single_stores.items():
            torch._foreach_copy_(tensors[n], members(value(v), tensors[n]))
        n = len(next(iter(tensors.values()), ()))
        return {v: torch.as_tensor(value(v)).expand(n) for v in self.flat.leaves}

    def store(self, news, tensors):
        "Write elements, but for what has been written in place. One stored tensor may be the new value of another"
        news = {n: members(xs, tensors[n]) for n, xs in news.items()}
        late = {n: xs for n, xs in news.items() if any(map(is_not, xs, tensors[n]))}
        held = {id(x) for n in news for x in tensors[n]} if late else ()
        late = {n: [x.clone() if id(x) in held else x for x in xs] for n, xs in late.items()}
        for n, xs in late.items():
            torch._foreach_copy_(tensors[n], xs)

    def run(self, i, v, value):
        "One operation"
        args = [value(a) if isinstance(a, Value) else a for a in v.args]
        kwargs = {k: value(a) if isinstance(a, Value) else a for k, a in v.kwargs.items()}
        factor = kwargs.get('alpha', kwargs.get('value', 1))
        if v.reduces:
            return reduced(v, args, kwargs)
        if v.kind != ELEMENTS:
            return operation(v, factor)(*args, **kwargs)
        n = next(len(a) for a in args if isinstance(a, list))
        args = [[*a.unbind()] if is_vector(a) else a for a in args]
        kwargs = {k: [*a.unbind()] if is_vector(a) else a for k, a in kwargs.items()}
        if self.fits(v, args, factor):
            f = getattr(torch, f'{lists[v.packet]}_' if i in self.in_place else lists[v.packet])
            given = dict(value=factor) if v.packet in (aten.addcmul, aten.addcdiv) else kwargs
            out = f(*args, **given)
            return args[0] if out is None else [*out]
        f = operation(v, factor)
        return [
            f(*(member(a, j) for a in args), **{k: member(a, j) for k, a in kwargs.items()})
            for j in range(n)
        ]

    def fits(self, v, args, factor):
        "Whether an operation on lists takes these operands: lists of tensors of one shape, or a plain number in the second place"
        if v.packet not in lists or not isinstance(args[0], list) or isinstance(factor, Tensor):
            return False
        if any(o.kind == SINGLE for o in v.args if isinstance(o, Value)):
            return v.packet in (aten.mul, aten.div, aten.add, aten.sub) and not v.kwargs
        if any(isinstance(a, Tensor) for a in args):  # others than these would look into it
            return v.packet in (aten.mul, aten.div) and not v.kwargs and len(args) == 2
        return v.packet not in (aten.maximum, aten.minimum) or all(
            isinstance(a, list) for a in args
        )


def operation(v, factor):
    "The operation for one tensor; its overload depends on what is a plain number"
    if v.packet is aten.lerp:
        return lerp
    return on_device[v.packet] if isinstance(factor, Tensor) else v.packet


def reduced(v, args, kwargs):
    "A reduction of each parameter's elements, as a vector"
    if v.packet is aten.linalg_vector_norm and not kwargs and not args[0][0].is_complex():
        return torch.stack(torch._foreach_norm(args[0], *args[1:2]))
    n = next(len(a) for a in args if isinstance(a, list))
    return torch.stack([v.packet(*(member(a, j) for a in args), **kwargs) for j in range(n)])


def is_vector(a):
    return isinstance(a, Tensor) and a.ndim == 1


def member(a, j):
    return a[j] if isinstance(a, list) else a


def members(x, like):
    "The new values of the tensors `like`: a list, or what is the same for all"
    if isinstance(x, list):
        return x
    if is_vector(x):
        return [*x.unbind()]
    return [torch.as_tensor(x, dtype=like[0].dtype, device=like[0].device)] * len(like)

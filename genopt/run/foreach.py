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
    "A flat part as a sequence of operations on lists. Made once for a program, run on any tensors"

    def __init__(self, flat):
        self.flat = flat
        self.order = needed(
            [*flat.stores.values(), *flat.single_stores.values(), *flat.leaves], stop=self.given
        )
        self.last = {
            o: i for i, v in enumerate(self.order) for o in (v, *v.operands)
        }  # its last use
        self.last |= dict.fromkeys(
            [*flat.stores.values(), *flat.single_stores.values(), *flat.leaves], len(self.order)
        )
        self.in_place, self.lies_in = (
            set(),
            {},
        )  # operations that write into their first operand; values that lie in a row, and in which
        for i, v in enumerate(self.order):
            self.choose(i, v)

    def choose(self, i, v):
        "Whether operation `i` may write into its first operand: nobody reads that again; and the result is gone when the row is written"
        x = v.args[0] if v.args and isinstance(v.args[0], Value) else None
        if (
            x is None
            or (x.kind, v.kind) != (ELEMENTS,) * 2
            or x.dtype != v.dtype
            or self.last[x] > i
            or any(o is x for o in v.args[1:])
        ):
            return
        row = x.name if self.given(x) else self.lies_in.get(x)
        if not self.given(x) and row is None and x.packet in (aten.clone, aten._to_copy):
            return
        if row is not None:
            stored = self.flat.stores.get(row)
            if (
                stored is None
                or v is not stored
                and (self.given(stored) or self.last[v] > self.order.index(stored))
            ):
                return
            self.lies_in[v] = row
        self.in_place.add(i)

    def given(self, v):
        return (
            v.kind in (SCALAR, CROSS)
            or v.name in self.flat.loads
            or v.name in self.flat.single_loads
        )

    def __call__(self, tensors, scalars):
        """Write the stores, and return the leaves, each a list of 0-d tensors. `tensors`: lists by name, in the dtype in which they are computed;
        `scalars`: numbers by name"""
        env = {}

        def value(v):
            if v in env:
                return env[v]
            return scalars[v.name] if v.kind in (SCALAR, CROSS) else tensors[v.name]

        for i, v in enumerate(self.order):
            env[v] = self.run(i, v, value)
            for o in v.operands:
                if self.last[o] <= i:
                    env.pop(o, None)
        news = {n: value(v) for n, v in (self.flat.stores | self.flat.single_stores).items()}
        news = {
            n: xs
            if isinstance(xs, list)
            else [torch.as_tensor(xs, dtype=tensors[n][0].dtype)] * len(tensors[n])
            for n, xs in news.items()
        }
        late = {
            n: xs for n, xs in news.items() if any(map(is_not, xs, tensors[n]))
        }  # the others have been written in place
        held = {id(x) for n in news for x in tensors[n]} if late else ()
        late = {n: [x.clone() if id(x) in held else x for x in xs] for n, xs in late.items()}
        for n, xs in late.items():
            torch._foreach_copy_(tensors[n], xs)
        return {v: value(v) for v in self.flat.leaves}

    def run(self, i, v, value):
        of = lambda a: value(a) if isinstance(a, Value) else a
        args, kwargs = [*map(of, v.args)], {k: of(a) for k, a in v.kwargs.items()}
        name = lists.get(v.packet)
        rows = [isinstance(a, list) for a in args]
        n = next((len(a) for a in args if isinstance(a, list)), 0)
        factor = kwargs.get('alpha', kwargs.get('value', 1))
        if not n:
            return v.packet(*args, **kwargs)  # of scalars alone: one for all
        if (
            v.kind == ELEMENTS
            and name
            and rows[0]
            and not isinstance(factor, Tensor)
            and self.fits(v, args, rows)
        ):
            f = getattr(torch, f'{name}_' if i in self.in_place else name)
            if v.packet in (aten.addcmul, aten.addcdiv):
                res = f(*args, value=factor)
            else:
                res = f(*args, **kwargs)
            return args[0] if res is None else [*res]
        if (
            v.packet is aten.linalg_vector_norm
            and v.reduces
            and not kwargs
            and all(not x.is_complex() for x in args[0])
        ):
            return [*torch._foreach_norm(args[0], *args[1:2])]
        op = (
            on_device.get(v.packet) if isinstance(factor, Tensor) else v.packet
        )  # the overload depends on what is a plain number
        if v.packet is aten.lerp:
            op = lerp
        member = lambda a, j: a[j] if isinstance(a, list) else a
        return [
            op(*(member(a, j) for a in args), **{k: member(a, j) for k, a in kwargs.items()})
            for j in range(n)
        ]

    def fits(self, v, args, rows):
        "Whether the operation on lists takes these operands: lists of tensors of one shape, or a plain number in the second place"
        operands = [a for a in v.args if isinstance(a, Value)]
        if any(o.kind == SINGLE for o in operands):
            return v.packet in (aten.mul, aten.div, aten.add, aten.sub) and not v.kwargs
        if any(isinstance(a, Tensor) for a in args):  # others than these would look into it
            return v.packet in (aten.mul, aten.div) and not v.kwargs and len(args) == 2
        return v.packet not in (aten.maximum, aten.minimum) or all(rows)

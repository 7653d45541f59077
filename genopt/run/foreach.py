"""The foreach backend: the operations of a flat part as `torch._foreach_*`, on lists with a tensor
for each parameter. It needs no compiler, and runs on any device. SGD with momentum, for instance:

    v5 = grad * 0.1                  _foreach_mul                       the gradient stays as it is
    v7 = v5 + 0.9 * grad_avg         _foreach_add_(v5, ..., alpha)      v5 is not needed again
    v9 = p - lr * v7                 _foreach_sub_(p, ..., alpha)       v9 is stored as p
                                     _foreach_copy_(grad_avg, v7)

An operation writes in place where the old value is not needed again. So it allocates as little as
torch's own optimizers do."""

from functools import partial
from operator import is_not
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from .._torch import foreach_copy, foreach_norm, foreach_operation
from ..lower.values import CROSS, ELEMENTS, SCALAR, Value, aten, in_order

__all__ = ['DeviceScalars', 'Foreach']

# the operation on lists
lists = {
    aten.add: 'add',
    aten.sub: 'sub',
    aten.mul: 'mul',
    aten.div: 'div',
    aten.sqrt: 'sqrt',
    aten.rsqrt: 'rsqrt',
    aten.neg: 'neg',
    aten.abs: 'abs',
    aten.exp: 'exp',
    aten.log: 'log',
    aten.log2: 'log2',
    aten.sign: 'sign',
    aten.reciprocal: 'reciprocal',
    aten.addcmul: 'addcmul',
    aten.addcdiv: 'addcdiv',
    aten.lerp: 'lerp',
    aten.maximum: 'maximum',
    aten.minimum: 'minimum',
    aten.clamp_min: 'clamp_min',
    aten.clamp_max: 'clamp_max',
}
arithmetic = (
    aten.add,
    aten.sub,
    aten.mul,
    aten.div,
)  # these take a list of 0-dim tensors as well

# the same with a factor that is a tensor
by_tensor = {
    aten.add: lambda x, y, alpha: y * alpha + x,
    aten.sub: lambda x, y, alpha: y * -alpha + x,
    aten.addcmul: lambda x, a, b, value: value * a * b + x,
    aten.addcdiv: lambda x, a, b, value: value * (a / b) + x,
}


def lerp(x, y, weight):
    "torch 2.6 takes no weight of another dtype"
    return torch.lerp(
        x, y, weight.to(x.dtype) if isinstance(weight, Tensor) else weight
    )


class DeviceScalars(TorchFunctionMode):
    """Lets a callback that is called use scalars on the device as `alpha=` and `value=`. Torch
    wants plain numbers there, and would wait for the device to look at them"""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs, name = kwargs or {}, getattr(func, '__name__', '')
        if name == 'lerp':
            return lerp(*args, **kwargs)
        if any(isinstance(kwargs.get(k), Tensor) for k in ('alpha', 'value')):
            if op := by_tensor.get(getattr(aten, name.rstrip('_'), None)):
                res = op(*args, **kwargs)
                return args[0].copy_(res) if name.endswith('_') else res
        return func(*args, **kwargs)


# -- A flat part --


class Foreach:
    """A flat part as operations on lists. It is made once for a program, and runs on any tensors. A
    value of elements is a list with a tensor for each parameter. A value of single numbers is a
    vector with an entry for each, so its arithmetic is one operation for all parameters"""

    def __init__(self, flat):
        self.flat = flat
        kept = [*flat.stores.values(), *flat.single_stores.values(), *flat.leaves]
        self.order = in_order(kept, stop=self.is_given)
        self.last_use = {
            o: i for i, v in enumerate(self.order) for o in (v, *v.operands)
        }
        self.last_use |= dict.fromkeys(kept, len(self.order))
        self.lies_in = {}  # value -> name of the stored tensors that it overwrites
        # of each operation: whether it writes into its first operand, and what it reads last
        self.in_place = [self.may_write(i, v) for i, v in enumerate(self.order)]
        self.read_last = [
            [o for o in v.operands if self.last_use[o] <= i]
            for i, v in enumerate(self.order)
        ]

    def is_given(self, v):
        return v.kind in (SCALAR, CROSS) or v.name in (
            *self.flat.loads,
            *self.flat.single_loads,
        )

    # -- Which operations may write in place --

    def may_write(self, i, v):
        """Whether operation `i` may write into its first operand: nothing reads that again, and if
        it is a stored tensor, the result ends up there"""
        x = v.args[0] if v.args else None
        if not isinstance(x, Value) or (x.kind, v.kind) != (ELEMENTS, ELEMENTS):
            return False
        if (
            x.dtype != v.dtype
            or self.last_use[x] > i
            or any(o is x for o in v.args[1:])
        ):
            return False
        stored = x.name if self.is_given(x) else self.lies_in.get(x)
        if stored is None:
            return x.packet not in (aten.clone, aten._to_copy)
        if not self.ends_in(v, stored):
            return False
        self.lies_in[v] = stored
        return True

    def ends_in(self, v, name):
        "Whether `v` is what is stored as `name`, or is not needed any more once that is computed"
        new = self.flat.stores.get(name)
        if new is None or new is v:
            return new is v
        return not self.is_given(new) and self.last_use[v] <= self.order.index(new)

    # -- A run --

    def __call__(self, tensors, scalars):
        """Write what is stored, and return the leaves, each a vector. `tensors`: lists by name, in
        the dtype of the arithmetic; `scalars`: by name, values of cross reductions among them"""
        computed = {}

        def value(v):
            if not isinstance(v, Value):
                return v
            if v in computed:
                return computed[v]
            if v.kind in (SCALAR, CROSS):
                return scalars[v.name]
            return (
                tensors[v.name] if v.kind == ELEMENTS else torch.stack(tensors[v.name])
            )

        for v, in_place, read_last in zip(self.order, self.in_place, self.read_last):
            args, kwargs = (
                [*map(value, v.args)],
                {k: value(a) for k, a in v.kwargs.items()},
            )
            computed[v] = run_operation(v, args, kwargs, in_place)
            for o in read_last:
                computed.pop(o, None)
        self.store({n: value(v) for n, v in self.flat.stores.items()}, tensors)
        for n, v in self.flat.single_stores.items():
            foreach_copy(tensors[n], members(value(v), tensors[n]))
        n = len(next(iter(tensors.values()), ()))
        return {v: torch.as_tensor(value(v)).expand(n) for v in self.flat.leaves}

    def store(self, news, tensors):
        """Write elements, but for what has been written in place. One stored tensor may be the new
        value of another, as in dict(a=b, b=a)"""
        news = {n: members(xs, tensors[n]) for n, xs in news.items()}
        late = {n: xs for n, xs in news.items() if any(map(is_not, xs, tensors[n]))}
        held = {id(x) for n in news for x in tensors[n]} if late else ()
        late = {
            n: [x.clone() if id(x) in held else x for x in xs] for n, xs in late.items()
        }
        for n, xs in late.items():
            foreach_copy(tensors[n], xs)


# -- One operation --


def run_operation(v, args, kwargs, in_place):
    "The operation of `v` on its operands: lists of tensors, vectors, numbers"
    factor = kwargs.get('alpha', kwargs.get('value', 1))
    if v.reduces:
        return reduced(v, args, kwargs)
    if v.kind != ELEMENTS:
        return operation(v, factor)(*args, **kwargs)
    vectors = any(map(is_vector, args))
    if vectors:
        args = [*map(unbound, args)]
    if not takes_lists(v, args, factor, vectors):
        return for_each(
            operation(v, factor), args, {k: unbound(a) for k, a in kwargs.items()}
        )
    f = foreach_operation(f'{lists[v.packet]}_' if in_place else lists[v.packet])
    named = dict(value=factor) if v.packet in (aten.addcmul, aten.addcdiv) else kwargs
    res = f(*args, **named)
    return args[0] if res is None else [*res]


def takes_lists(v, args, factor, vectors):
    """Whether torch's operation on lists takes these operands: lists of tensors of one shape, or a
    plain number in the second place. `vectors`: some are lists of single numbers"""
    if (
        v.packet not in lists
        or not isinstance(args[0], list)
        or isinstance(factor, Tensor)
    ):
        return False
    if vectors:
        return v.packet in arithmetic and not v.kwargs
    if any(isinstance(a, Tensor) for a in args):  # others than these would look into it
        return v.packet in (aten.mul, aten.div) and not v.kwargs
    return v.packet not in (aten.maximum, aten.minimum) or isinstance(args[1], list)


def operation(v, factor):
    "The operation on one tensor. A factor that is a tensor needs another"
    if v.packet is aten.lerp:
        return lerp
    return by_tensor[v.packet] if isinstance(factor, Tensor) else v.packet


def reduced(v, args, kwargs):
    "A reduction of the elements of each parameter, as a vector"
    if (
        v.packet is aten.linalg_vector_norm
        and not kwargs
        and not args[0][0].is_complex()
    ):
        return torch.stack(foreach_norm(args[0], *args[1:2]))
    return torch.stack(for_each(partial(v.packet, **kwargs), args, {}))


def for_each(f, args, kwargs):
    "`f` for one parameter after the other"
    n = next(len(a) for a in args if isinstance(a, list))
    return [
        f(*(member(a, j) for a in args), **{k: member(a, j) for k, a in kwargs.items()})
        for j in range(n)
    ]


def unbound(a):
    return [*a.unbind()] if is_vector(a) else a


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

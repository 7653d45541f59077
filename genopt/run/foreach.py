"""The foreach backend: the operations of a flat part as `torch._foreach_*`, on lists with a tensor
for each parameter. It needs no compiler, and runs on any device. SGD with momentum, for instance:

    v5 = grad * 0.1                  _foreach_mul                       the gradient stays as it is
    v7 = v5 + 0.9 * grad_avg         _foreach_add_(v5, ..., alpha)      v5 is not needed again
    v9 = p - lr * v7                 _foreach_sub_(p, ..., alpha)       v9 is stored as p
                                     _foreach_copy_(grad_avg, v7)

An operation writes in place where the old value is not needed again (`schedule.py`). On an
accelerator `rewrite.py` first replaces the operations by others that move less memory."""

import sys
from operator import is_not
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from .._torch import foreach_add_number, foreach_copy, foreach_norm, foreach_operation
from ..lower.values import CROSS, ELEMENTS, SCALAR, Value, aten, tree_leaves
from .rewrite import Factor, rewritten
from .schedule import MIX, Schedule

__all__ = [
    'DeviceFactorMode',
    'Foreach',
    'foreach_of',
    'on_accelerator',
    'on_tensors',
    'rewrites',
]

# The operation on lists
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
# These take a list of 0-dim tensors as well
arithmetic = aten.add, aten.sub, aten.mul, aten.div

# The same with a factor that is a tensor
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


class DeviceFactorMode(TorchFunctionMode):
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

# Kinds of devices that are no accelerators. The tests take the CPU out
hosts = {'cpu'}


def on_accelerator(program):
    return program.layout.device.type not in hosts


def rewrites(program):
    """Whether `rewrite.py` replaces the operations. Not on a CPU, where the bits are those of the
    reference; nor where scalars are on the device, because the host computes factors"""
    return on_accelerator(program) and not program.request.capturable


def foreach_of(flat, rewrite):
    "`flat` as operations on lists, rewritten or not"
    plain = Foreach(Schedule(flat), flat.leaves)
    return Foreach(rewritten(flat), flat.leaves, plain) if rewrite else plain


class Foreach:
    """A flat part as operations on lists, in the order of `schedule`. It is made once for a
    program, and runs on any tensors. A value of elements is a list with a tensor for each
    parameter. A value of single numbers is a vector with an entry for each, so its arithmetic is
    one operation for all parameters. `leaves`: what the part calls its leaves. `otherwise`: what
    runs in its place when a factor of a rewritten part is not finite"""

    def __init__(self, schedule, leaves, otherwise=None):
        self.flat, self.lists, self.leaves = schedule.flat, schedule.lists, leaves
        self.order, self.otherwise = schedule.order, otherwise
        self.operations = [*map(Operation, self.order, schedule.in_place)]
        self.read_last = schedule.read_last
        arguments = tree_leaves(*((v.args, v.kwargs) for v in self.order))
        self.factors = {a for a in arguments if isinstance(a, Factor)}

    def __call__(self, tensors, scalars, draw=None):
        """Write what is stored, and return the leaves, each a vector. `tensors`: lists by name, in
        the dtype of the arithmetic; `scalars`: by name, values of cross reductions among them.
        `draw(v)`: the random numbers `v`"""
        try:
            numbers = {f: f.value(scalars) for f in self.factors}
        except (ArithmeticError, ValueError):
            return self.otherwise(tensors, scalars, draw)
        computed = {}

        def value(v):
            if not isinstance(v, Value):
                return numbers[v] if isinstance(v, Factor) else v
            if v in computed:
                return computed[v]
            if v.kind in (SCALAR, CROSS):
                return scalars[v.name]
            return (
                tensors[v.name] if v.kind == ELEMENTS else torch.stack(tensors[v.name])
            )

        for operation, read_last in zip(self.operations, self.read_last):
            v = operation.v
            computed[v] = operation(value) if v.draw is None else draw(v)
            for o in read_last:
                computed.pop(o, None)
        self.store({n: value(v) for n, v in self.flat.stores.items()}, tensors)
        for n, v in self.flat.single_stores.items():
            foreach_copy(tensors[n], members(value(v), tensors[n]))
        n = len(next(iter(tensors.values()), ()))
        return {
            leaf: torch.as_tensor(value(v)).expand(n)
            for leaf, v in zip(self.leaves, self.flat.leaves)
        }

    def store(self, news, tensors):
        """Write elements, but for what has been written in place. One stored tensor may be the new
        value of another, as in dict(a=b, b=a)"""
        news = {n: xs for n, xs in news.items() if xs is not tensors[n]}
        news = {n: members(xs, tensors[n]) for n, xs in news.items()}
        late = {n: xs for n, xs in news.items() if any(map(is_not, xs, tensors[n]))}
        held = {id(x) for n in self.flat.stores for x in tensors[n]} if late else ()
        late = {
            n: [x.clone() if id(x) in held else x for x in xs] for n, xs in late.items()
        }
        for n, xs in late.items():
            foreach_copy(tensors[n], xs)


# -- An operation --


class Operation:
    "The operation of `v` on lists of tensors, vectors and numbers"

    def __init__(self, v, in_place):
        self.v, self.in_place = v, in_place
        self.packet, self.reduces = v.packet, v.reduces
        self.named = self.packet in (aten.addcmul, aten.addcdiv)

    def __call__(self, value):
        "The result. `value(a)`: what the argument `a` is"
        v = self.v
        args = [*map(value, v.args)]
        kwargs = {k: value(a) for k, a in v.kwargs.items()}
        if v.op == MIX:
            return mixed(*args, self.in_place)
        if self.reduces:
            return reduced(v, args, kwargs)
        if v.kind != ELEMENTS:
            return on_tensors(v, args, kwargs)
        factor = kwargs.get('alpha', kwargs.get('value', 1))
        vectors = any(map(is_vector, args))
        if vectors:
            args = [*map(unbound, args)]
        if not takes_lists(v, args, factor, vectors):
            return for_each(v, args, {k: unbound(a) for k, a in kwargs.items()})
        if isinstance(factor, Tensor):
            return with_factor(self.packet, self.in_place, factor, *args)
        if self.named:
            kwargs = dict(value=factor)
        return on_lists(lists[self.packet], self.in_place, *args, **kwargs)


def takes_lists(v, args, factor, vectors):
    """Whether torch's operation on lists takes these operands: lists of tensors of one shape, or a
    number in the second place, which may be on the device. `vectors`: some are lists of single
    numbers"""
    packet, (x, *others) = v.packet, args
    if packet not in lists or not isinstance(x, list):
        return False
    if isinstance(factor, Tensor):
        return not vectors and factor.ndim == 0 and all_lists(others)
    if vectors:
        return packet in arithmetic and not v.kwargs
    if any(isinstance(a, Tensor) for a in others):
        return packet in arithmetic and not v.kwargs
    return packet not in (aten.maximum, aten.minimum) or all_lists(others)


def all_lists(args):
    return all(isinstance(a, list) for a in args)


# -- On lists --


def on_lists(name, in_place, xs, *others, **kwargs):
    "The operation on lists called `name`, which writes into `xs` or not"
    f = foreach_operation(f'{name}_' if in_place else name)
    if len(others) == 1 and isinstance(others[0], Tensor):
        x = others[0].to(xs[0].dtype)  # otherwise it would be a launch for each tensor
        others = (-x if name == 'sub' else x,)
        f = foreach_add_number(in_place) if name in ('add', 'sub') else f
    res = f(xs, *others, **kwargs)
    return xs if in_place else [*res]


def mixed(xs, f, ys, g, in_place):
    "The lists `xs*f + g*ys`"
    if abs(f + g - 1) <= 4 * sys.float_info.epsilon:
        return on_lists('lerp', in_place, xs, ys, g)
    xs = on_lists('mul', in_place, xs, f)
    return on_lists('add', True, xs, ys, alpha=g)


# What is added, times a factor that is on the device
terms = {
    aten.add: lambda f, ys: on_lists('mul', False, ys, f),
    aten.sub: lambda f, ys: on_lists('mul', False, ys, -f),
    aten.addcmul: lambda f, a, b: on_lists(
        'mul', True, on_lists('mul', False, a, f), b
    ),
    aten.addcdiv: lambda f, a, b: on_lists(
        'mul', True, on_lists('div', False, a, b), f
    ),
}


def with_factor(packet, in_place, factor, xs, *others):
    "The operation with a factor on the device, where torch wants one on the host"
    term = terms[packet](factor, *others)
    if in_place:
        return on_lists('add', True, xs, term)
    return on_lists('add', True, term, xs)


# -- On tensors --


def on_tensors(v, args, kwargs):
    "The operation of `v` on tensors and numbers"
    f, args = operation(v, args, kwargs)
    return f(*args, **kwargs)


def for_each(v, args, kwargs):
    "The operation of `v` for one parameter after the other"
    n = next(len(a) for a in args if isinstance(a, list))
    f, args = operation(v, args, kwargs)
    return [
        f(*(member(a, j) for a in args), **{k: member(a, j) for k, a in kwargs.items()})
        for j in range(n)
    ]


def operation(v, args, kwargs):
    """The operation of `v` on one tensor, and its arguments. A factor that is a tensor needs another
    operation. Where plain numbers take the place of recorded tensors, torch finds the overload for
    them. To find one for tensors it would print them, so it gets the recorded one"""
    if v.packet is aten.lerp:
        return lerp, args
    if any(isinstance(kwargs.get(k), Tensor) for k in ('alpha', 'value')):
        return by_tensor[v.packet], args
    places = [i for i, a in enumerate(v.args) if isinstance(a, Value)]
    if all(is_number(args[i]) for i in places[1:]):
        return v.packet, args
    numbers = {i for i in places if is_number(args[i])}
    return v.op, [as_tensor(a, v) if i in numbers else a for i, a in enumerate(args)]


def is_number(a):
    return isinstance(a, (int, float))


def as_tensor(x, like):
    "The number `x` as a tensor, which is filled on the device and not copied there"
    return torch.full((), x, dtype=like.example.dtype, device=like.example.device)


def reduced(v, args, kwargs):
    "A reduction of the elements of each parameter, as a vector"
    x, *others = args
    if v.packet is aten.linalg_vector_norm and not kwargs and not x[0].is_complex():
        return torch.stack(foreach_norm(x, *others[:1]))
    return torch.stack(for_each(v, args, kwargs))


# -- Lists, vectors, numbers --


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

"""A number on its way through a callback. Its arithmetic becomes lines of the scalar program, and
where it meets a tensor a 0-d tensor takes its place. See `scalars` for an example."""

import operator
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from .reasons import NotRecorded, by_sizes, plain_number_only

__all__ = ['FactorMode', 'TracedScalar', 'untraced']


class TracedScalar(torch.SymFloat):
    """A number: its `value` now, and the `name` that the scalar program has for it. It is a
    `SymFloat` because torch takes one as `alpha=`. With `capturable=True` the value is a tensor on
    the device, and nobody may ask what it holds"""

    def __init__(self, recorder, name, value):
        self.recorder = recorder
        self.name = name
        self.value = value

    @property
    def shown(self):
        "What torch is shown while it traces: the value, or any number for one on the device"
        return 0.5 if isinstance(self.value, Tensor) else self.value

    @property
    def node(self):
        "torch asks a `SymFloat` for its node when it wants a plain number"
        raise NotRecorded(plain_number_only)

    # Python asks for the number itself. The recorder answers with a guard, or refuses

    def __bool__(self):
        return self.recorder.decide(self)

    def __float__(self):
        return self.recorder.as_float(self)

    def __int__(self):
        return self.recorder.fix(self, int)

    def __index__(self):
        return self.recorder.fix(self, operator.index)

    def __hash__(self):
        return self.recorder.fix(self, hash)

    def __round__(self, n=None):
        return self.recorder.fix(self, lambda v: round(v, n))

    def __repr__(self):
        return f'{self.value!r}'

    def __format__(self, spec):
        return format(self.value, spec)

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        "A traced scalar has met a tensor"
        kwargs = kwargs or {}
        if func is torch.where and isinstance(args[0], TracedScalar):
            return args[0].recorder.choose(*args)
        args = [as_tensors(a) for a in args]
        if factor := factor_of(kwargs):
            return factor[1].recorder.scale(func, args, kwargs, *factor)
        return func(*args, **{k: as_tensors(v) for k, v in kwargs.items()})


def untraced(v):
    "The value of a traced scalar; anything else is itself"
    return v.value if isinstance(v, TracedScalar) else v


# -- Where a traced scalar meets tensors --


def as_tensors(a):
    "`a` with the tensor that stands for each traced scalar in it"
    if isinstance(a, TracedScalar):
        return a.recorder.input(a)
    return type(a)(map(as_tensors, a)) if isinstance(a, (list, tuple)) else a


def factor_of(kwargs):
    "The keyword `alpha` or `value` that has a traced scalar, where torch wants a plain number"
    factors = ((k, kwargs[k]) for k in ('alpha', 'value') if k in kwargs)
    return next(((k, v) for k, v in factors if isinstance(v, TracedScalar)), None)


class FactorMode(TorchFunctionMode):
    "Passes a call with a traced factor to `TracedScalar`, which torch does not ask about keywords"

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if factor_of(kwargs or {}):
            return TracedScalar.__torch_function__(func, types, args, kwargs)
        return func(*args, **(kwargs or {}))


# -- Arithmetic --


def define_operator(name, sign, reflected):
    """Give `TracedScalar` the operator `name` of Python, which the program writes as `sign`.
    `reflected`: also where it stands on the right, as in `1 - mom`"""
    f = getattr(operator, name)

    def on_the_left(self, *others):
        if all(map(is_number, others)):
            return self.recorder.compute(sign, f, self, *others)
        return NotImplemented

    def on_the_right(self, other):
        return (
            self.recorder.compute(sign, f, other, self)
            if is_number(other)
            else NotImplemented
        )

    setattr(TracedScalar, f'__{name}__', on_the_left)
    if reflected:
        setattr(TracedScalar, f'__r{name}__', on_the_right)


def is_number(x):
    "Whether arithmetic with `x` can be a line of the program. A number made of sizes cannot"
    if isinstance(x, (torch.SymInt, torch.SymFloat)) and not isinstance(
        x, TracedScalar
    ):
        raise NotRecorded(by_sizes)
    return isinstance(x, (TracedScalar, int, float))


binary = dict(add='+', sub='-', mul='*', truediv='/', floordiv='//', mod='%', pow='**')
others = dict(
    lt='<', le='<=', gt='>', ge='>=', eq='==', ne='!=', neg='-', pos='+', abs='abs'
)
for name, sign in binary.items():
    define_operator(name, sign, reflected=True)
for name, sign in others.items():
    define_operator(name, sign, reflected=False)

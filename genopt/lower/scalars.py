"""Scalars: the plain numbers of a chain (hyper-parameters, counters, and what is computed from them), traced apart from its tensors.

While a chain is recorded, every number goes through the callbacks as a `TracedScalar`. Its arithmetic becomes lines of a small Python function, the
`ScalarProgram`, which is run once a step in double precision, as the callbacks themselves would. Where a traced scalar meets a tensor it becomes an
input of the kernel. So a schedule changes an array of numbers, never the kernel.

    def average(avg, grad, mom): return avg*mom + grad*(1-mom)

has the tensor operations `avg*s0`, `grad*s1` and the sum, and the scalar program

    def program(ns):
        x0 = ns['mom']
        x1 = 1 - x0
        return [x0, x1], {}

An `if` on a number is a guard: a line that returns None where the decision would turn out otherwise. The chain is then recorded again."""

import math
import operator
from contextlib import contextmanager
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import _disable_current_modes as outside_of_the_recording
from ..contract.choice import where
from .words import NotRecorded, plain_number_only

__all__ = ['FactorMode', 'ScalarProgram', 'ScalarRecorder', 'TracedScalar']

by_float = "takes a hyper-parameter through float() or a function of math, which would fix it; use operators, or a callback without tensors"
by_sizes = (
    "computes with a hyper-parameter and a number made of sizes; bring the tensor in first: "
    "(update*scale)*(m/n)**.5, not update*(scale*(m/n)**.5)"
)
by_counter = (
    "decides by the value of a number, which capturable=True keeps on the device; use genopt.where"
)


class MustBeCalled(Exception):
    "A callback without tensors decides by a number, or needs it as it is: its arithmetic cannot stand in the program, so the program calls it"


# -- A number on its way through a callback --


class TracedScalar(torch.SymFloat):
    """A number with its `value` now, and the `name` that the scalar program gives it. It is a `SymFloat` because torch takes one as `alpha=`.
    With `capturable=True` the value is a tensor on the device, at which nobody may look"""

    def __init__(self, recorder, name, value):
        self.recorder = recorder
        self.name = name
        self.value = value

    @property
    def shown(self):
        "A plain number for torch to see while it traces: the value, or any number where the value is on the device"
        return 0.5 if isinstance(self.value, Tensor) else self.value

    @property
    def node(self):
        raise NotRecorded(
            plain_number_only
        )  # torch asks a SymFloat for its node when it wants a plain number

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
        "A scalar that meets a tensor is an input of the kernel"
        kwargs = kwargs or {}
        if func is torch.where and isinstance(args[0], TracedScalar):
            return args[0].recorder.choose(*args)
        args = [as_inputs(a) for a in args]
        if factor := factor_of(kwargs):
            return factor[1].recorder.scale(func, args, kwargs, *factor)
        return func(*args, **{k: as_inputs(v) for k, v in kwargs.items()})


def as_inputs(a):
    "`a` with the tensor that stands for each traced scalar in it"
    if isinstance(a, TracedScalar):
        return a.recorder.input(a)
    return type(a)(map(as_inputs, a)) if isinstance(a, (list, tuple)) else a


def factor_of(kwargs):
    "The keyword `alpha` or `value` that holds a traced scalar; torch wants a plain number there"
    return next(
        (
            (k, v)
            for k, v in kwargs.items()
            if k in ('alpha', 'value') and isinstance(v, TracedScalar)
        ),
        None,
    )


class FactorMode(TorchFunctionMode):
    "Passes a call with a traced factor on to `TracedScalar`; torch itself does not ask a SymFloat what to do"

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if factor_of(kwargs or {}):
            return TracedScalar.__torch_function__(func, types, args, kwargs)
        return func(*args, **(kwargs or {}))


def define_arithmetic(name, sign, unary=False):
    f = getattr(operator, name)

    def of_sizes(x):
        return isinstance(x, (torch.SymInt, torch.SymFloat)) and not isinstance(x, TracedScalar)

    def op(self, *other):
        if other and of_sizes(other[0]):
            raise NotRecorded(by_sizes)
        if other and not isinstance(other[0], (TracedScalar, int, float)):
            return NotImplemented
        return self.recorder.compute(sign, f, self, *other)

    def reflected(self, other):
        if of_sizes(other):
            raise NotRecorded(by_sizes)
        return (
            self.recorder.compute(sign, f, other, self)
            if isinstance(other, (int, float))
            else NotImplemented
        )

    setattr(TracedScalar, f'__{name.strip("_")}__', op)
    if not unary:
        setattr(TracedScalar, f'__r{name}__', reflected)


for name, sign in dict(
    add='+', sub='-', mul='*', truediv='/', floordiv='//', mod='%', pow='**'
).items():
    define_arithmetic(name, sign)
for name, sign in dict(
    lt='<', le='<=', gt='>', ge='>=', eq='==', ne='!=', neg='-', pos='+', abs='abs'
).items():
    define_arithmetic(name, sign, True)


# -- The program --


class ScalarProgram:
    """A function from a namespace of numbers to `(values, counters)`: the value of each input in `names`, and the new value of each counter.
    None where a guard does not hold. `source`: its lines, to read and to compare. `steady`: it gives the same for the same numbers"""

    def __init__(self, lines, names, counters, bound):
        self.names = names
        self.steady = not bound
        self.source = ''.join(f'    {line}\n' for line in lines)
        new = ', '.join(f"{n!r}: ns[{n!r}]" for n in counters)
        scope = dict(bound, where=where)
        exec(f"def program(ns):\n{self.source}    return [{', '.join(names)}], {{{new}}}\n", scope)
        self.run = scope['program']

    def __call__(self, ns):
        return self.run(ns)

    def __repr__(self):
        return f'ScalarProgram:\n{self.source}'


class ScalarRecorder:
    "Writes the scalar program while callbacks run on traced scalars; `dtype` and `device` are those of the tensors that the scalars meet"

    def __init__(self, dtype, device, on_device=False):
        self.dtype = dtype
        self.device = device
        self.on_device = on_device  # numbers come as tensors on the device
        self.lines = []
        self.names = 0  # given so far
        self.bound = {}  # what the lines refer to, by name
        self.computed = {}  # source -> scalar, so that the same is computed once
        self.decided = set()  # guards that stand already
        self.seen = {}  # name in the namespace -> what was read
        self.met = {}  # name of a scalar that tensors meet -> the scalar
        self.inputs = {}  # name of a scalar -> the 0-d tensor that stands for it in the recording
        self.factors = {}  # keyword -> 0-d tensor, of the operation that torch is about to dispatch
        self.calling = False  # a callback without tensors is tried: nothing may be decided

    # -- lines --

    def new(self, source, value):
        name, self.names = f'x{self.names}', self.names + 1
        self.lines.append(f'{name} = {source}')
        return TracedScalar(self, name, value)

    def text(self, v):
        "`v` as a line of the program writes it"
        if isinstance(v, TracedScalar):
            return v.name
        if isinstance(v, float) and not math.isfinite(v):
            return f"float('{v}')"
        if isinstance(v, (bool, int, float, str, type(None))):
            return f'({v!r})'
        self.bound[name := f'c{len(self.bound)}'] = v
        return name

    def compute(self, sign, f, *args):
        "The scalar `f(*args)`, with its line"
        try:
            with outside_of_the_recording():
                value = f(*(a.value if isinstance(a, TracedScalar) else a for a in args))
        except ArithmeticError as e:
            raise NotRecorded(f"{type(e).__name__}: {e}") from e
        texts = [*map(self.text, args)]
        source = f' {sign} '.join(texts) if len(texts) == 2 else f'{sign}({", ".join(texts)})'
        if source not in self.computed:
            self.computed[source] = self.new(source, value)
        return self.computed[source]

    # -- the namespace --

    def read(self, n, v):
        "Name `n` of the namespace, with value `v`. A number may change from step to step; a flag, a string or None is a guard"
        if n in self.seen:
            return self.seen[n]
        if isinstance(v, Tensor) and not v.ndim:
            v = self.new(f'ns[{n!r}]', v)
        elif isinstance(v, (bool, str, type(None))):
            self.guard(f'ns[{n!r}] {"==" if isinstance(v, str) else "is"} {v!r}')
        elif isinstance(v, (int, float)):
            v = self.new(f'ns[{n!r}]', v)
            self.guard(f'{v.name}.__class__ is not bool')
        else:
            raise NotRecorded(f"reads {n!r}, which is a {type(v).__name__}, not a number")
        self.seen[n] = v
        return v

    def put(self, n, v):
        "A callback has changed name `n` to the number `v`"
        self.lines.append(f'ns[{n!r}] = {self.text(v)}')
        if isinstance(v, TracedScalar):
            self.seen[n] = v
        else:
            self.seen.pop(n, None)

    def call(self, i, block, names):
        "The program calls the `i`-th callback, which changes `names`"
        self.bound[f'callback{i}'] = block
        self.lines.append(f'ns.update(callback{i}(ns))')
        for n in names:
            self.seen.pop(n, None)

    @contextmanager
    def attempt(self, inline=False):
        "Lines that are taken back where the block raises. `inline`: it may decide nothing by a number"
        n, seen, computed, decided, self.calling = (
            len(self.lines),
            dict(self.seen),
            dict(self.computed),
            set(self.decided),
            inline,
        )
        try:
            yield
        except BaseException:
            del self.lines[n:]
            self.seen, self.computed, self.decided = seen, computed, decided
            raise
        finally:
            self.calling = False

    # -- decisions --

    def guard(self, condition):
        self.lines.append(f'if not ({condition}): return None')

    def guard_once(self, condition):
        if self.calling:
            raise MustBeCalled
        if condition not in self.decided:
            self.guard(condition)
        self.decided.add(condition)

    def decide(self, x):
        "What an `if` on `x` sees"
        outcome = bool(on_host(x))
        self.guard_once(f'bool({x.name}) is {outcome}')
        return outcome

    def is_small(self, name):
        "Whether the scalar of that name is between -1/2 and 1/2, with a guard; None where it is on the device"
        x = self.met[name]
        if isinstance(x.value, Tensor):
            return None
        outcome = abs(x.value) < 0.5
        self.guard_once(f'(abs({name})<.5) is {outcome}')
        return outcome

    def fix(self, x, f):
        "The callback needs the value itself: the recording holds for this value alone"
        self.guard_once(f'{x.name}=={self.text(on_host(x))}')
        return f(x.value)

    def as_float(self, x):
        if self.calling:
            raise MustBeCalled
        raise NotRecorded(by_float)

    def choose(self, condition, a, b):
        "`where` by a number: between numbers a line of the program; between tensors a guard or, on the device, an operation"
        tensors = isinstance(a, Tensor) or isinstance(b, Tensor)
        if isinstance(condition.value, Tensor):
            if tensors:
                return torch.where(self.input(condition) != 0, a, b)
            return self.compute('where', where, condition, a, b)
        if tensors:
            return where(bool(condition), a, b)
        texts = [*map(self.text, (a, condition, b))]
        value = a if condition.value else b
        return self.new(
            '{} if {} else {}'.format(*texts),
            value.value if isinstance(value, TracedScalar) else value,
        )

    # -- where scalars meet tensors --

    def input(self, x):
        "The 0-d tensor that stands for `x` in the recording"
        if x.name not in self.inputs:
            self.met[x.name] = x
            self.inputs[x.name] = torch.tensor(float(x.shown), dtype=self.dtype, device=self.device)
        return self.inputs[x.name]

    def scale(self, func, args, kwargs, keyword, x):
        "An operation with the factor `x`: torch is shown a plain number, the recorder finds the scalar in `factors`"
        self.factors = {keyword: self.input(x)}
        try:
            return func(*args, **kwargs | {keyword: x.shown})
        finally:
            self.factors = {}

    def program(self, names, counters):
        return ScalarProgram(self.lines, names, counters, self.bound)


def on_host(x):
    if isinstance(x.value, Tensor):
        raise NotRecorded(by_counter)
    return x.value

"""Scalars: the plain numbers of a chain, traced apart from its tensors. They are hyper-parameters,
counters, and what callbacks compute from these.

While a chain is recorded, every number goes through the callbacks as a `TracedScalar`. Its
arithmetic becomes lines of a small Python function, the `ScalarProgram`. A step runs that function
once, in double precision, as the callbacks themselves would. Where a traced scalar meets a tensor
it becomes an input of the kernel. So a schedule changes an array of numbers and never the kernel.

    def average(avg, grad, mom): return avg*mom + grad*(1-mom)

has the tensor operations `avg*x0`, `grad*x1` and the sum of the two, and the scalar program

    def program(ns):
        x0 = ns['mom']
        if not (x0.__class__ is not bool): return None
        x1 = (1) - x0
        return [x0, x1], {}

An `if` on a number becomes a guard: a line that returns None where the `if` would turn out
otherwise. The program is not right then, and the chain is recorded again."""

import math
from contextlib import contextmanager
import torch
from torch import Tensor
from .._torch import outside_of_modes
from ..contract.choice import where
from .reasons import MustBeCalled, NotRecorded, by_counter, by_float
from .traced import TracedScalar, untraced

__all__ = ['ScalarProgram', 'ScalarRecorder']


class ScalarProgram:
    """A function of a namespace of numbers. It returns the value of each of `names`, and the new
    value of each of `counters` by name; or None where a guard does not hold. `source` has its
    lines, to read and to compare. `steady`: for the same numbers it returns the same"""

    def __init__(self, lines, names, counters, objects):
        self.names = names
        self.steady = not objects
        self.source = ''.join(f'    {line}\n' for line in lines)
        new = ', '.join(f"{n!r}: ns[{n!r}]" for n in counters)
        scope = dict(objects, where=where)
        exec(
            f"def program(ns):\n{self.source}    return [{', '.join(names)}], {{{new}}}\n",
            scope,
        )
        self.run = scope['program']

    def __call__(self, ns):
        return self.run(ns)

    def __repr__(self):
        return f'ScalarProgram:\n{self.source}'


class ScalarRecorder:
    """Writes the lines of a scalar program while callbacks run on traced scalars. `dtype` and
    `device` are those of the tensors that the scalars meet"""

    def __init__(self, dtype, device):
        self.dtype, self.device = dtype, device
        self.lines = []
        self.n_names = 0  # given so far
        self.objects = {}  # what the lines refer to, by name
        self.computed = {}  # source -> scalar, so that the same is computed once
        self.guarded = set()  # conditions that have a guard
        self.current = {}  # name in the namespace -> the scalar that it is now
        self.inputs = {}  # name of a scalar that tensors meet -> the scalar and its 0-d tensor
        self.constants = {}  # name of a scalar -> its value, the same in each step
        self.factors = {}  # keyword -> 0-d tensor, of the operation that torch is about to do
        self.may_guard = True

    # -- lines --

    def new(self, source, value):
        "The scalar that a new line computes from `source`"
        name, self.n_names = f'x{self.n_names}', self.n_names + 1
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
        self.objects[name := f'c{len(self.objects)}'] = v
        return name

    def compute(self, sign, f, *args):
        "The scalar `f(*args)`, and its line. `sign` is how the program writes `f`"
        try:
            with outside_of_modes():
                value = f(*map(untraced, args))
        except ArithmeticError as e:
            raise NotRecorded(f"{type(e).__name__}: {e}") from e
        texts = [*map(self.text, args)]
        source = (
            f' {sign} '.join(texts)
            if len(texts) == 2
            else f'{sign}({", ".join(texts)})'
        )
        if source not in self.computed:
            self.computed[source] = self.new(source, value)
        return self.computed[source]

    # -- the namespace --

    def read(self, n, v):
        """What a callback gets for the name `n` of the namespace, whose value is `v` now: a traced
        scalar for a number, which may change from step to step; itself for a flag, a string or
        None, for which there is a guard"""
        if n not in self.current:
            self.current[n] = self.first_read(n, v)
        return self.current[n]

    def first_read(self, n, v):
        if isinstance(v, (bool, str, type(None))):
            self.guard(f'ns[{n!r}] {"==" if isinstance(v, str) else "is"} {v!r}')
            return v
        if isinstance(v, Tensor) and not v.ndim:
            return self.new(f'ns[{n!r}]', v)
        if not isinstance(v, (int, float)):
            raise NotRecorded(
                f"reads {n!r}, which is a {type(v).__name__}, not a number"
            )
        x = self.new(f'ns[{n!r}]', v)
        self.guard(f'{x.name}.__class__ is not bool')
        return x

    def put(self, n, v):
        "A callback has changed the name `n` to the number `v`"
        self.lines.append(f'ns[{n!r}] = {self.text(v)}')
        self.current.pop(n, None)
        if isinstance(v, TracedScalar):
            self.current[n] = v

    def call(self, i, block, names):
        "The program calls `block`, the `i`-th callback, which changes `names`"
        self.objects[f'callback{i}'] = block
        self.lines.append(f'ns.update(callback{i}(ns))')
        for n in names:
            self.current.pop(n, None)

    @contextmanager
    def attempt(self, may_guard=True):
        """What is written within is taken back if an exception comes. Without `may_guard` whatever
        needs a guard raises `MustBeCalled`"""
        n = len(self.lines)
        before = dict(self.current), dict(self.computed), set(self.guarded)
        self.may_guard = may_guard
        try:
            yield
        except BaseException:
            del self.lines[n:]
            self.current, self.computed, self.guarded = before
            raise
        finally:
            self.may_guard = True

    # -- a callback needs a number itself --

    def guard(self, condition):
        self.lines.append(f'if not ({condition}): return None')

    def guard_once(self, condition):
        if not self.may_guard:
            raise MustBeCalled
        if condition not in self.guarded:
            self.guard(condition)
        self.guarded.add(condition)

    def decide(self, x):
        "What an `if` on `x` sees"
        outcome = bool(on_host(x))
        self.guard_once(f'bool({x.name}) is {outcome}')
        return outcome

    def below_half(self, x):
        "Whether `x` lies between -1/2 and 1/2; None where it is on the device"
        if isinstance(x.value, Tensor):
            return None
        outcome = abs(x.value) < 0.5
        self.guard_once(f'(abs({x.name})<.5) is {outcome}')
        return outcome

    def fix(self, x, f):
        "`f` of the value itself: the recording holds for this value alone"
        self.guard_once(f'{x.name}=={self.text(on_host(x))}')
        return f(x.value)

    def as_float(self, x):
        if not self.may_guard:
            raise MustBeCalled
        raise NotRecorded(by_float)

    def choose(self, condition, a, b):
        """`where(condition, a, b)` by a traced scalar. Between numbers it is a line of the program;
        between tensors a guard, or an operation where the condition is on the device"""
        of_tensors = isinstance(a, Tensor) or isinstance(b, Tensor)
        if isinstance(condition.value, Tensor):
            if of_tensors:
                return torch.where(self.input(condition) != 0, a, b)
            return self.compute('where', where, condition, a, b)
        if of_tensors:
            return where(bool(condition), a, b)
        source = f'{self.text(a)} if {self.text(condition)} else {self.text(b)}'
        return self.new(source, untraced(a if condition.value else b))

    # -- where scalars meet tensors --

    def input(self, x):
        "The 0-d tensor that stands for `x` in the recording"
        if x.name not in self.inputs:
            stand_in = torch.tensor(
                float(x.shown), dtype=self.dtype, device=self.device
            )
            self.inputs[x.name] = x, stand_in
        return self.inputs[x.name][1]

    def met_by(self, tensor):
        "The scalar for which `tensor` stands, or None"
        return next(
            (x for x, stand_in in self.inputs.values() if stand_in is tensor), None
        )

    def scale(self, func, args, kwargs, keyword, x):
        """The operation `func` with the factor `x`. torch wants a plain number there and is shown
        one; the recorder of tensors finds the scalar in `factors`"""
        self.factors = {keyword: self.input(x)}
        try:
            return func(*args, **kwargs | {keyword: x.shown})
        finally:
            self.factors = {}


def on_host(x):
    if isinstance(x.value, Tensor):
        raise NotRecorded(by_counter)
    return x.value

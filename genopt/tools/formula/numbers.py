"""Numbers while a formula is recorded. Beside what `ScalarRecorder` writes down there are two more:

    max(mom, 0.5), math.exp(-lr)     min, max and functions of math, where they meet a traced number
    if step>3: ...                   either case, as the caller of the recording asks"""

import math,operator
from contextlib import contextmanager
from unittest.mock import patch
from ..._torch import outside_of_modes
from ...contract.names import inside
from ...lower.scalars import ScalarRecorder,on_host
from ...lower.traced import TracedScalar,untraced
from .operations import scalar_functions

__all__ = ['Counted', 'NumberRecorder', 'is_number', 'traced_functions', 'uncounted']


class NumberRecorder(ScalarRecorder):
    "Writes down numbers. `flip`: the name of the traced number of which an `if` is to see the other outcome"
    def __init__(self, dtype, device, flip=None):
        super().__init__(dtype, device)
        self.flip = flip
    def decide(self, x):
        result = bool(on_host(x)) != (x.name==self.flip)
        self.guard_once(f'bool({x.name}) is {result}')
        return result
    def function(self, name, f, *args):
        "The traced number `f(*args)`, which the lines write as `name`"
        source = f"{name}({', '.join(map(self.text, args))})"
        if source not in self.computed:
            with outside_of_modes(): self.computed[source] = self.new(source, f(*map(untraced, args)))
        return self.computed[source]


# -- Lengths --

class Counted(int):
    "A length, and the traced number that stands for it in arithmetic"
    def __new__(cls, value, traced):
        self = int.__new__(cls, value)
        self.traced = traced
        return self
    def __hash__(self): return int.__hash__(self)

def uncounted(x): return x.traced if isinstance(x, Counted) else x
def is_number(x): return isinstance(x, (int,float,TracedScalar))


def define(name, reflected):
    "Give `Counted` the operator `name` of Python. `reflected`: also where it stands on the right, as in `1/rows`"
    f = getattr(operator, name)
    setattr(Counted, f'__{name}__', lambda self, x: f(self.traced, uncounted(x)) if is_number(x) else NotImplemented)
    if reflected: setattr(Counted, f'__r{name}__', lambda self, x: f(uncounted(x), self.traced) if is_number(x) else NotImplemented)
for name in ('add', 'sub', 'mul', 'truediv', 'floordiv', 'mod', 'pow'): define(name, True)
for name in ('lt', 'le', 'gt', 'ge'): define(name, False)


# -- Functions of Python --

@contextmanager
def traced_functions(cb):
    "Within, the module of the callback `cb` has a `min`, a `max` and functions of math that trace numbers"
    names = getattr(inside(cb), '__globals__', {})
    others = {n: Math() if v is math else traced(v) for n,v in names.items() if v is math or v in (math.exp, math.log, math.sqrt, math.pow)}
    with patch.dict(names, dict(max=chosen(max), min=chosen(min)) | others): yield

class Math:
    "The module math, whose functions trace numbers"
    def __getattr__(self, n): return traced(getattr(math, n))

def traced(f):
    "`f` of math, which traces numbers if formulas have it"
    name = getattr(f, '__name__', '')
    if name not in scalar_functions: return f
    def of_numbers(*args):
        x = next((a for a in args if isinstance(a, TracedScalar)), None)
        return f(*args) if x is None else x.recorder.function(name, f, *args)
    return of_numbers

def chosen(f):
    "`max` or `min`, which traces numbers"
    def of_numbers(*args, **kwargs):
        xs = [*(args if len(args)>1 else args[0])]
        numbers = [uncounted(x) for x in xs]
        some = next((x for x in numbers if isinstance(x, TracedScalar)), None)
        if some is None or kwargs or not all(map(is_number, numbers)): return f(xs, **kwargs)
        distinct = [*{getattr(x, 'name', x): x for x in numbers}.values()]
        result   = distinct[0] if len(distinct)==1 else some.recorder.function(f.__name__, f, *distinct)
        return Counted(f(xs), result) if all(isinstance(x, Counted) for x in xs) else result
    return of_numbers

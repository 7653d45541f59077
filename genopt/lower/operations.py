"""The table of operations: how each operation of aten is written as an expression. It stands once
for all languages. A `Dialect` says how a language writes a constant, a function, a choice and a
fused multiply-add; `genopt.run` has the one for C, and this file one for Python.

To add an operation, add a line to `elementwise`. The arguments of its function are the dialect `d`,
and texts of expressions in the order of aten's schema; keywords come only where the call has them.
A callback with an operation that is not here, or whose arguments do not fit, is called as it is."""

import math
from collections.abc import Callable
from dataclasses import dataclass
import torch
from .values import CROSS, ELEMENTS, SCALAR, SINGLE, Value, aten

__all__ = [
    'Dialect',
    'Reduction',
    'can_write',
    'can_write_bits',
    'can_write_cross',
    'cross_kind',
    'divisor',
    'operand_dtype',
    'reduction',
    'write',
]


class Dialect:
    """What the table asks of a language. This one writes Python, to try whether an operation can be
    written at all"""

    zero, half, one, infinity = '0.', '.5', '1.', 'inf'

    def constant(self, v, dtype):
        return repr(v)

    def number(self, condition):
        "A condition as 0 or 1"
        return f'float({condition})'

    def function(self, name, *args):
        "`name` is sqrt, exp, log, pow, atan2, abs ..."
        return f'{name}({", ".join(args)})'

    def choose(self, condition, a, b):
        return f'({a} if {condition} else {b})'

    def negate(self, condition):
        return f'(not {condition})'

    def cast(self, x, dtype):
        "The number `x` in `dtype`, torch.int32 or that of the arithmetic"
        return f'cast({x}, {dtype})'

    def bits(self, x, dtype):
        "The bits of `x` as a number of `dtype`, torch.float32 or torch.int32"
        return f'bits({x}, {dtype})'

    def divide(self, a, b):
        return f'({a}/{b})'

    def fma(self, a, b, c):
        "`a*b + c`, rounded once"
        return f'({a}*{b} + {c})'


# The table holds formulas, laid out by hand.
# fmt: off

def add(d, x, y, alpha=None): return f'({x} + {y})' if alpha is None else d.fma(alpha, y, x)
def sub(d, x, y, alpha=None): return f'({x} - {y})' if alpha is None else d.fma(f'(-{alpha})', y, x)
def addcmul(d, x, a, b, value=None): return d.fma(a if value is None else f'({value}*{a})', b, x)
def addcdiv(d, x, a, b, value=None):
    ratio = d.divide(a, b)
    return f'({x} + {ratio})' if value is None else d.fma(value, ratio, x)
def maximum(d, x, y): return d.choose(f'({x} > {y}) | ({x} != {x})', x, y)    # torch keeps a NaN
def minimum(d, x, y): return d.choose(f'({x} < {y}) | ({x} != {x})', x, y)
def clamp(d, x, low=None, high=None):
    if low is not None: x = d.choose(f'({x} < {low})', low, x)
    return x if high is None else d.choose(f'({x} > {high})', high, x)
def lerp(d, x, y, weight, below_half=None):
    "Start from the end that is nearer, as torch does"
    way, rest = f'({y} - {x})', f'({weight} - {d.one})'
    if below_half is None:
        near_x = f'({weight} < {d.half}) & ({weight} > -{d.half})'
        return d.fma(d.choose(near_x, weight, rest), way, d.choose(near_x, x, y))
    return d.fma(weight, way, x) if below_half else d.fma(rest, way, y)
def power(d, x, y):
    if isinstance(y, str): return d.function('pow', x, y)
    known = {1: x, 2: f'({x}*{x})', 3: f'({x}*{x}*{x})', .5: d.function('sqrt', x),
             -1: d.divide(d.one, x)}
    return known.get(y) or d.function('pow', x, d.constant(y, None))
def sigmoid(d, x): return d.divide(d.one, f'({d.one} + {d.function("exp", f"(-{x})")})')
def sign(d, x): return f'({d.number(f"{x} > {d.zero}")} - {d.number(f"{x} < {d.zero}")})'
def named(name): return lambda d, *args: d.function(name, *args)
def infix(symbol): return lambda d, x, y: f'({x} {symbol} {y})'

elementwise = {
    # arithmetic
    aten.add: add,
    aten.sub: sub,
    aten.rsub: lambda d, x, y, alpha=None: sub(d, y, x, alpha),
    aten.mul: infix('*'),
    aten.div: lambda d, x, y: d.divide(x, y),
    aten.neg: lambda d, x: f'(-{x})',
    aten.reciprocal: lambda d, x: d.divide(d.one, x),
    aten.square: lambda d, x: f'({x}*{x})',
    aten.pow: power,
    aten.addcmul: addcmul,
    aten.addcdiv: addcdiv,
    aten.lerp: lerp,
    # functions
    aten.sqrt: named('sqrt'),
    aten.rsqrt: lambda d, x: d.divide(d.one, d.function('sqrt', x)),
    aten.exp: named('exp'),
    aten.exp2: named('exp2'),
    aten.expm1: named('expm1'),
    aten.log: named('log'),
    aten.log2: named('log2'),
    aten.log1p: named('log1p'),
    aten.sin: named('sin'),
    aten.cos: named('cos'),
    aten.atan: named('atan'),
    aten.atan2: named('atan2'),
    aten.tanh: named('tanh'),
    aten.sigmoid: sigmoid,
    aten.erf: named('erf'),
    aten.abs: named('abs'),
    aten.floor: named('floor'),
    aten.ceil: named('ceil'),
    aten.trunc: named('trunc'),
    aten.round: named('rint'),
    aten.sign: sign,
    aten.copysign: named('copysign'),
    # choices
    aten.maximum: maximum,
    aten.minimum: minimum,
    aten.clamp: clamp,
    aten.clamp_min: lambda d, x, low: clamp(d, x, low),
    aten.clamp_max: lambda d, x, high: clamp(d, x, None, high),
    aten.relu: lambda d, x: clamp(d, x, d.zero),
    aten.where: lambda d, c, x, y: d.choose(c, x, y),
    # comparisons
    aten.gt: infix('>'),
    aten.ge: infix('>='),
    aten.lt: infix('<'),
    aten.le: infix('<='),
    aten.eq: infix('=='),
    aten.ne: infix('!='),
    aten.isnan: lambda d, x: f'({x} != {x})',
    aten.isfinite: lambda d, x: f'({x} - {x} == {d.zero})',
    aten.isinf: lambda d, x: f'({d.function("abs", x)} == {d.infinity})',
    # logic
    aten.logical_and: infix('&'),
    aten.logical_or: infix('|'),
    aten.logical_xor: infix('!='),
    aten.logical_not: lambda d, x: d.negate(x),
    aten.bitwise_and: infix('&'),
    aten.bitwise_or: infix('|'),
    aten.bitwise_xor: infix('!='),
    aten.bitwise_not: lambda d, x: d.negate(x),
    # tensors like another
    aten.zeros_like: lambda d, x: d.zero,
    aten.ones_like: lambda d, x: d.one,
    aten.full_like: lambda d, x, v: v,
    aten.empty_like: lambda d, x: d.zero,
    aten.clone: lambda d, x: x,
    aten._to_copy: lambda d, x: x,
    aten.copy: lambda d, x, y: y,
}

# The bits of a float32, which are an int32: in codes alone
of_bits = {
    aten.view: lambda d, x, dtype: d.bits(x, dtype),
    aten.bitwise_left_shift: infix('<<'),
    aten.bitwise_right_shift: infix('>>'),
    aten.__lshift__: infix('<<'),
    aten.__rshift__: infix('>>'),
}
on_bits = {*of_bits, aten.add, aten.sub, aten.rsub, aten.mul, aten.neg, aten.clone, aten._to_copy,
           aten.bitwise_and, aten.bitwise_or, aten.where, aten.maximum, aten.minimum,
           aten.clamp, aten.clamp_min, aten.clamp_max}
compares = {aten.gt, aten.ge, aten.lt, aten.le, aten.eq, aten.ne,
            aten.isnan, aten.isfinite, aten.isinf}
# fmt: on

# Keywords that only say how the result is stored
ignored = (
    'dtype',
    'layout',
    'device',
    'pin_memory',
    'memory_format',
    'non_blocking',
    'implicit',
)


def operand_dtype(v, compute_dtype):
    "The dtype in which the operands of `v` meet"
    if v.packet is aten.view:
        return v.args[0].dtype
    if v.packet not in compares:
        return v.dtype
    is_float = lambda a: (
        a.dtype.is_floating_point if isinstance(a, Value) else type(a) is float
    )
    return compute_dtype if any(map(is_float, v.args)) else v.args[0].dtype


def write(v, d, text, compute_dtype):
    """`v` as an expression of the dialect `d`; `text(value, dtype)` is that of an operand. Raises
    `KeyError` or `TypeError` where the table cannot"""
    dtype = operand_dtype(v, compute_dtype)

    def one(i, a):
        "The argument `a` at place `i`"
        if isinstance(a, Value):
            is_condition = v.packet is aten.where and i == 0
            return text(a, torch.bool if is_condition else dtype)
        if a is None or isinstance(a, torch.dtype) or v.packet is aten.pow and i == 1:
            return a
        if isinstance(a, (bool, int, float)):
            return d.constant(a, dtype)
        raise TypeError(f"{v.packet.__name__} with {a!r}")

    args = [one(i, a) for i, a in enumerate(v.args)]
    if v.weight_below_half is not None:
        return lerp(d, *args, below_half=v.weight_below_half)
    keywords = {k: one(1, a) for k, a in v.kwargs.items() if k not in ignored}
    rule = elementwise.get(v.packet) or of_bits[v.packet]
    return rule(d, *args, **keywords)


def divisor(v):
    """The scalar by which `v` divides elements, or None. Multiplying them by its reciprocal takes a
    fraction of the time"""
    if v.op is not aten.div.Tensor or v.kind != ELEMENTS:
        return None
    by = v.args[1]
    return by if isinstance(by, Value) and by.kind == SCALAR else None


# -- Reductions --


@dataclass(frozen=True)
class Reduction:
    """How a row is reduced to one number. `element(d, x)` is taken of each element; these are
    joined by `sign`: '+', 'max' or 'min'; `end(d, acc, n)` is the result for `n` elements"""

    element: Callable = lambda d, x: x
    sign: str = '+'
    end: Callable = lambda d, acc, n: acc


total = Reduction()
mean = Reduction(end=lambda d, acc, n: d.divide(acc, n))
largest = Reduction(sign='max')
smallest = Reduction(sign='min')
dot = Reduction(lambda d, x, y: f'({x}*{y})')
norms = {
    1: Reduction(named('abs')),
    2: Reduction(
        lambda d, x: f'({x}*{x})', end=lambda d, acc, n: d.function('sqrt', acc)
    ),
    math.inf: Reduction(named('abs'), 'max'),
}
row_reductions = {
    aten.sum: total,
    aten.mean: mean,
    aten.amax: largest,
    aten.max: largest,
    aten.amin: smallest,
    aten.min: smallest,
}


def reduction(v):
    "How `v` reduces; None if the table does not say"
    if v.packet is aten.dot:
        return dot
    if any(isinstance(a, Value) for a in v.args[1:]):
        return None
    if v.packet in (aten.linalg_vector_norm, aten.norm):
        order = v.args[1] if len(v.args) > 1 else None
        return norms.get(2 if order is None else order)
    return row_reductions.get(v.packet)


# -- What the table can write --


def can_write(v, compute_dtype):
    "Whether the table can write `v`, an operation on elements or on single numbers"
    if v.draw is not None:
        return v.dtype == compute_dtype
    of_elements = any(o.kind == ELEMENTS for o in v.operands)
    if v.kind == ELEMENTS and of_elements or v.kind == SINGLE and not v.reduces:
        return can_write_expression(v, compute_dtype)
    known = reduction(v) is not None and not v.kwargs.get('dtype')
    dtypes = compute_dtype, torch.bool
    return (
        known
        and v.dtype == compute_dtype
        and all(o.dtype in dtypes for o in v.operands)
    )


def can_write_expression(v, compute_dtype):
    if v.dtype not in (compute_dtype, torch.bool):
        return False
    return has_expression(v, compute_dtype)


def can_write_bits(v):
    "Whether the table can write `v`, an operation on float32 numbers and their bits, an int32"
    if v.dtype is torch.int32:
        return v.packet in on_bits and has_expression(v, torch.float32)
    return can_write(v, torch.float32)


def has_expression(v, compute_dtype):
    try:
        write(v, Dialect(), lambda operand, dtype: 'x', compute_dtype)
    except (KeyError, TypeError):
        return False
    return True


# -- Cross values, of all parameters together --

signs = {torch.sum: '+', torch.amax: 'max', torch.amin: 'min'}


def cross_kind(v):
    """What a cross value is: `'vector'`, with a member for each parameter; `'scalar'`, arithmetic on
    numbers; `'reduction'` of a vector; or the sign by which what all parameters hand in is folded
    into one number, `'+'`, `'max'` or `'min'`"""
    if v.is_cross_reduction:
        return signs.get(v.kwargs['how'], 'vector')
    if v.example.ndim:
        return 'vector'
    of_vector = any(o.kind == CROSS and cross_kind(o) == 'vector' for o in v.operands)
    return 'reduction' if of_vector else 'scalar'


def can_write_cross(v, compute_dtype):
    "Whether a kernel can compute the cross value `v`"
    if v.is_cross_reduction:
        return v.args[0].dtype == compute_dtype
    if v.in_memory:
        return False
    if cross_kind(v) != 'reduction':
        return can_write_expression(v, compute_dtype)
    return (
        reduction(v) is not None
        and v.dtype == compute_dtype
        and not v.kwargs.get('dtype')
    )

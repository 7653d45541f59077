"""The table of operations: how each operation of aten is written as an expression. It stands once for all dialects. A dialect says how it writes a
constant, a function, a choice and a fused multiply-add; see `genopt.run.c`.

To add an operation, add a line. The arguments are texts of expressions, in the order of aten's schema; `d` is the dialect. Keywords are given
where the call has them. An operation that is not here, or whose arguments do not fit, is called as it is."""

import math
import torch
from .record import CROSS, ELEMENTS, SINGLE, Value, aten

__all__ = [
    'Dialect',
    'Reduction',
    'can_write',
    'can_write_cross',
    'cross_kind',
    'operand_dtype',
    'reduction',
    'write',
]


class Dialect:
    "What the table asks of a language. This one writes readable Python, to try whether an operation can be written at all"

    zero, half, one, infinity = '0.', '.5', '1.', 'inf'

    def constant(self, v, dtype):
        return repr(v)

    def number(self, condition):
        return f'float({condition})'

    def function(self, name, *args):
        return f'{name}({", ".join(args)})'  # sqrt, exp, log, pow, atan2, abs ...

    def choose(self, condition, a, b):
        return f'({a} if {condition} else {b})'

    def negate(self, condition):
        return f'(not {condition})'

    def fma(self, a, b, c):
        return f'({a}*{b} + {c})'  # rounded once


# The table holds formulas, laid out by hand.
# fmt: off

def add(d, x, y, alpha=None): return f'({x} + {y})' if alpha is None else d.fma(alpha, y, x)
def sub(d, x, y, alpha=None): return f'({x} - {y})' if alpha is None else d.fma(f'(-{alpha})', y, x)
def addcmul(d, x, a, b, value=None): return d.fma(a if value is None else f'({value}*{a})', b, x)
def addcdiv(d, x, a, b, value=None): return f'({x} + {a}/{b})' if value is None else d.fma(value, f'({a}/{b})', x)
def maximum(d, x, y): return d.choose(f'({x} > {y}) | ({x} != {x})', x, y)              # NaN stays, as in torch
def minimum(d, x, y): return d.choose(f'({x} < {y}) | ({x} != {x})', x, y)
def clamp(d, x, low=None, high=None):
    if low is not None: x = d.choose(f'({x} < {low})', low, x)
    return x if high is None else d.choose(f'({x} > {high})', high, x)
def lerp(d, x, y, weight, near=None):
    if near is None:
        near = f'({weight} < {d.half}) & ({weight} > -{d.half})'                        # from the nearer end, as torch does it
        return d.fma(d.choose(near, weight, f'({weight} - {d.one})'), f'({y} - {x})', d.choose(near, x, y))
    return d.fma(weight, f'({y} - {x})', x) if near else d.fma(f'({weight} - {d.one})', f'({y} - {x})', y)
def power(d, x, y):
    if isinstance(y, str): return d.function('pow', x, y)
    known = {1: x, 2: f'({x}*{x})', 3: f'({x}*{x}*{x})', .5: d.function('sqrt', x), -1: f'({d.one}/{x})'}
    return known.get(y) or d.function('pow', x, d.constant(y, None))
def unary(name): return lambda d, x: d.function(name, x)
def infix(sign): return lambda d, x, y: f'({x} {sign} {y})'
def clamp_min(d, x, low): return clamp(d, x, low)
def clamp_max(d, x, high): return clamp(d, x, None, high)

elementwise = {
    aten.add: add, aten.sub: sub, aten.mul: infix('*'), aten.div: infix('/'), aten.neg: lambda d, x: f'(-{x})',
    aten.rsub: lambda d, x, y, alpha=None: sub(d, y, x, alpha),
    aten.addcmul: addcmul, aten.addcdiv: addcdiv, aten.lerp: lerp,
    aten.maximum: maximum, aten.minimum: minimum, aten.clamp: clamp, aten.clamp_min: clamp_min, aten.clamp_max: clamp_max,
    aten.where: lambda d, c, x, y: d.choose(c, x, y),
    aten.sqrt: unary('sqrt'), aten.exp: unary('exp'), aten.log: unary('log'), aten.exp2: unary('exp2'), aten.log2: unary('log2'),
    aten.log1p: unary('log1p'), aten.expm1: unary('expm1'), aten.tanh: unary('tanh'), aten.sin: unary('sin'), aten.cos: unary('cos'),
    aten.erf: unary('erf'), aten.floor: unary('floor'), aten.ceil: unary('ceil'), aten.trunc: unary('trunc'), aten.abs: unary('abs'),
    aten.atan2: lambda d, x, y: d.function('atan2', x, y), aten.atan: unary('atan'),
    aten.rsqrt: lambda d, x: f'({d.one}/{d.function("sqrt", x)})', aten.reciprocal: lambda d, x: f'({d.one}/{x})',
    aten.sigmoid: lambda d, x: f'({d.one}/({d.one} + {d.function("exp", f"(-{x})")}))', aten.square: lambda d, x: f'({x}*{x})',
    aten.pow: power, aten.sign: lambda d, x: f'({d.number(f"{x} > {d.zero}")} - {d.number(f"{x} < {d.zero}")})',
    aten.relu: lambda d, x: d.choose(f'({x} < {d.zero})', d.zero, x),
    aten.zeros_like: lambda d, x: d.zero, aten.ones_like: lambda d, x: d.one, aten.full_like: lambda d, x, v: v,
    aten.clone: lambda d, x: x, aten._to_copy: lambda d, x: x, aten.copy: lambda d, x, y: y,
    aten.gt: infix('>'), aten.ge: infix('>='), aten.lt: infix('<'), aten.le: infix('<='), aten.eq: infix('=='), aten.ne: infix('!='),
    aten.logical_and: infix('&'), aten.logical_or: infix('|'), aten.bitwise_and: infix('&'), aten.bitwise_or: infix('|'),
    aten.logical_not: lambda d, x: d.negate(x), aten.bitwise_not: lambda d, x: d.negate(x),
    aten.logical_xor: infix('!='), aten.bitwise_xor: infix('!='),
    aten.isnan: lambda d, x: f'({x} != {x})', aten.isfinite: lambda d, x: f'({x} - {x} == {d.zero})',
    aten.isinf: lambda d, x: f'({d.function("abs", x)} == {d.infinity})',
}
compares = {aten.gt, aten.ge, aten.lt, aten.le, aten.eq, aten.ne, aten.isnan, aten.isfinite, aten.isinf}
# fmt: on
ignored = 'dtype', 'layout', 'device', 'pin_memory', 'memory_format', 'non_blocking', 'implicit'


def arguments(v):
    "What `v` is made of, by position and by keyword; without what only says how the result is stored"
    return v.args, {k: a for k, a in v.kwargs.items() if k not in ignored}


def operand_dtype(v, compute_dtype):
    "The dtype in which the operands of `v` meet"
    if v.packet not in compares:
        return v.dtype
    return (
        compute_dtype
        if any(
            isinstance(a, float) or isinstance(a, Value) and a.dtype.is_floating_point
            for a in v.args
        )
        else v.args[0].dtype
    )


def write(v, d, text, compute_dtype):
    "`v` as an expression of the dialect `d`; `text(value, dtype)` gives that of an operand. Raises `KeyError` or `TypeError` where the table cannot"
    args, kwargs = arguments(v)
    dtype = operand_dtype(v, compute_dtype)

    def one(i, a):
        if isinstance(a, Value):
            return text(a, torch.bool if v.packet is aten.where and not i else dtype)
        if a is None or v.packet is aten.pow and i == 1:
            return a
        if isinstance(a, (bool, int, float)):
            return d.constant(a, dtype)
        raise TypeError(f"{v.packet.__name__} with {a!r}")

    if v.near is not None:
        return lerp(d, *map(one, range(3), args), near=v.near)
    return elementwise[v.packet](
        d, *(one(i, a) for i, a in enumerate(args)), **{k: one(1, a) for k, a in kwargs.items()}
    )


# -- Reductions --


class Reduction:
    """How a whole row is reduced: `element(d, x)` of each, joined by `sign`: '+', 'max' or 'min', from `start` on; `end(d, acc, n)` is the result for
    `n` elements"""

    def __init__(self, start, element, sign='+', end=lambda d, acc, n: acc):
        self.start, self.element, self.sign, self.end = start, element, sign, end


def norm(order):
    if order == 2:
        return Reduction(
            0, lambda d, x: f'({x}*{x})', end=lambda d, acc, n: d.function('sqrt', acc)
        )
    if order == 1:
        return Reduction(0, lambda d, x: d.function('abs', x))
    if order == math.inf:
        return Reduction(0, lambda d, x: d.function('abs', x), 'max')


def reduction(v):
    "How `v` is reduced; None if the table does not say"
    packet, args = v.packet, v.args
    if any(isinstance(a, Value) for a in args[1:]) and packet is not aten.dot:
        return None
    if packet is aten.dot:
        return Reduction(0, lambda d, x, y: f'({x}*{y})')
    if packet is aten.sum:
        return Reduction(0, lambda d, x: x)
    if packet is aten.mean:
        return Reduction(0, lambda d, x: x, end=lambda d, acc, n: f'({acc}/{n})')
    if packet in (aten.amax, aten.max):
        return Reduction(-math.inf, lambda d, x: x, 'max')
    if packet in (aten.amin, aten.min):
        return Reduction(math.inf, lambda d, x: x, 'min')
    if packet in (aten.linalg_vector_norm, aten.norm):
        order = args[1] if len(args) > 1 and args[1] is not None else 2
        return norm(order) if not isinstance(order, str) else None


def can_write(v, compute_dtype):
    "Whether the table knows how to write `v`, an operation on elements or on single numbers"
    if (
        v.kind == ELEMENTS
        and any(o.kind == ELEMENTS for o in v.operands)
        or v.kind == SINGLE
        and not v.reduces
    ):
        return is_written(v, compute_dtype)
    if reduction(v) is None or v.dtype != compute_dtype or v.kwargs.get('dtype'):
        return False
    return all(o.dtype in (compute_dtype, torch.bool) for o in v.operands)


def is_written(v, compute_dtype):
    if v.dtype not in (compute_dtype, torch.bool):
        return False
    try:
        write(v, Dialect(), lambda a, dtype: 'x', compute_dtype)
    except (KeyError, TypeError):
        return False
    return True


# -- Cross values, of all parameters together --

folds = {torch.sum: '+', torch.amax: 'max', torch.amin: 'min'}


def cross_kind(v):
    """What a cross value is: `'vector'`, with a member for each parameter; `'scalar'`, arithmetic on numbers; `'reduction'` of a
    vector; or the sign by which what all parameters have is folded into one number, `'+'`, `'max'` or `'min'`"""
    if v.op == 'join':
        return folds.get(v.kwargs['how'], 'vector')
    if v.example.ndim:
        return 'vector'
    of_vector = any(o.kind == CROSS and cross_kind(o) == 'vector' for o in v.operands)
    return 'reduction' if of_vector else 'scalar'


def can_write_cross(v, compute_dtype):
    "Whether a kernel can compute the cross value `v`"
    if v.op == 'join':
        return v.args[0].dtype == compute_dtype
    if cross_kind(v) != 'reduction':
        return is_written(v, compute_dtype)
    return reduction(v) is not None and v.dtype == compute_dtype and not v.kwargs.get('dtype')

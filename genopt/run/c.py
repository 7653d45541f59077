"""C as a dialect: how it writes what the table of operations asks for. Beside that the pieces that
kernels are made of. `emit.py` writes kernels; `c_prelude.py` has the lines with which all start."""

import math
import torch
from ..lower.operations import Dialect

__all__ = [
    'C',
    'each_outcome',
    'each_parameter',
    'folded',
    'function',
    'indent',
    'starts',
    'types',
]

types = {
    torch.float32: 'float',
    torch.float64: 'double',
    torch.bfloat16: 'bf16',
    torch.float16: 'f16',
    torch.uint8: 'uint8_t',
    torch.int8: 'int8_t',
    torch.int16: 'int16_t',
}


class C(Dialect):
    "How C writes what the table of operations asks for; `T` is float or double"

    fast = 'exp', 'exp2', 'log', 'log2'
    names = dict(abs='fabs')
    types = short = types  # `short` stands in the names of functions
    number_types = {torch.bool: 'int', torch.int32: 'int32_t', torch.float32: 'float'}
    infinity = 'INFINITY'

    def __init__(self, T):
        self.T = T
        self.suffix = 'f' if T == 'float' else ''
        self.zero, self.half, self.one = [f'{v}{self.suffix}' for v in (0.0, 0.5, 1.0)]

    def let(self, name, text, is_bool):
        "The statement that names the value of `text`"
        return f'const {"int" if is_bool else "T"} {name} = {text};'

    def constant(self, v, dtype):
        if dtype is torch.bool:
            return str(int(v))
        if dtype is torch.int32:
            return f'((int32_t){v})'
        v = float(v)
        if math.isfinite(v):
            return f'(({self.T}){v!r})'
        return 'NAN' if math.isnan(v) else 'INFINITY' if v > 0 else '(-INFINITY)'

    def number(self, condition):
        return f'({self.T})({condition})'

    def function(self, name, *args):
        fast = 'fast_' if self.suffix and name in self.fast else ''
        return f'{fast}{self.names.get(name, name)}{self.suffix}({", ".join(args)})'

    def choose(self, condition, a, b):
        return f'(({condition}) ? {a} : {b})'

    def negate(self, condition):
        return f'(!{condition})'

    def cast(self, x, dtype):
        return f'(({self.number_types[dtype]}){x})'

    def bits(self, x, dtype):
        if dtype is torch.int32:
            return f'((int32_t)float_as_bits({x}))'
        return f'bits_as_float((uint32_t){x})'

    def fma(self, a, b, c):
        return f'FMA_{self.T}({a}, {b}, {c})'


# -- Pieces of C --

starts = {
    '+': '0',
    'max': '-INFINITY',
    'min': 'INFINITY',
}  # what a reduction begins with


def function(head, body):
    return [f'{head} {{', *indent(body), '}']


def indent(lines):
    return [f'  {line}' for line in lines]


def each_parameter(body):
    return function('for (int64_t t = 0; t < a->n; t++)', body) if body else []


def each_outcome(flags, call):
    """Statements that call with each outcome of the conditions `flags`, so that each call is compiled
    by itself. `call(values)`: the call with these outcomes, which are texts. Of more than two
    conditions the others stay as they are"""

    def branch(i, values):
        if i == min(len(flags), 2):
            return [call(''.join(f', {v}' for v in [*values, *flags[i:]]))]
        yes, no = (branch(i + 1, [*values, outcome]) for outcome in '10')
        return [*function(f'if ({flags[i]})', yes), *function('else', no)]

    return branch(0, [])


better = dict(max='>', min='<')


def joined(total, x, sign):
    """The statement of a vectorized loop that takes `x` into the result `total` of a reduction. A NaN is
    lost in a maximum; who wants to keep it looks for it"""
    if sign == '+':
        return f'{total} += {x};'
    return f'{total} = {x} {better[sign]} {total} ? {x} : {total};'


def folded(total, x, sign):
    "The same in other loops, where NaN stays"
    if sign == '+':
        return joined(total, x, sign)
    return f'{total} = ({x} {better[sign]} {total}) | ({x} != {x}) ? {x} : {total};'

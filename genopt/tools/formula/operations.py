"""What each operation of torch is in a formula, as the table of `genopt.lower.operations` says for kernels. A callback with an operation that is not
here has no formula."""

import ast
from ...lower.values import aten
from .expressions import add,call,cases,compare,div,mul,neg,norm,num,pow_,root,sub,symbol

__all__ = ['choice', 'ignored', 'outcome', 'scalar_operators', 'scalar_signs', 'table']


def clamp(x, low=None, high=None):
    if low is None: return call(r'\min', x, high)
    return call(r'\max', x, low) if high is None else call(r'\operatorname{clip}', x, low, high)

def power_of_2(x):
    "2^x; the logarithm to 2 over n makes it a root"
    if x.op=='div' and x.args[0].op=='call' and x.args[0].args[0]==r'\log_2' and x.args[1].op=='num':
        return pow_(x.args[0].args[1], div(num(1), x.args[1]))
    return pow_(num(2), x)

def sum_of(x):
    "The sum of all elements: a squared norm, an inner product, or a sum"
    if x.op=='pow' and x.args[1]==num(2): return pow_(norm(x.args[0]), num(2))
    if x.op=='call' and x.args[0]=='|': return norm(x.args[1], 1)
    tensors = [a for a in x.args if a.tensor] if x.op=='mul' else []
    if len(tensors)==2: return mul(*(a for a in x.args if not a.tensor), call('<', *tensors, tensor=False))
    return single(r'\operatorname{sum}')(x)

def unequal(a, b):
    "`a != b`; a condition that torch compares with 0 is the condition"
    return a if a.op=='compare' and b==num(0) else compare(r'\neq', a, b)

def choice(c, a, b):
    "A choice between numbers; the larger or the smaller of two is written as such"
    if c.op=='compare' and {*c.args[1:]}=={a, b} and c.args[0] in '<>':
        return call(r'\max' if (c.args[0]=='>')==(c.args[1]==a) else r'\min', a, b)
    return cases(c, a, b)

def outcome(c, holds):
    "That a condition holds, or does not; of a number, that it is not 0, or is"
    opposite = {'=': r'\neq', '>': r'\leq', '<': r'\geq', r'\leq': '>', r'\geq': '<', r'\neq': '='}
    if c.op!='compare': return compare(r'\neq' if holds else '=', c, num(0))
    return c if holds else compare(opposite[c.args[0]], *c.args[1:])

def function(name): return lambda *args: call(name, *args)
def single(name): return lambda x: call(name, x, tensor=False)
def relation(sign): return lambda a, b: compare(sign, a, b)
def scaled(x, alpha): return x if alpha is None else mul(alpha, x)

table = {
    # arithmetic
    aten.add:        lambda x, y, alpha=None: add(x, scaled(y, alpha)),
    aten.sub:        lambda x, y, alpha=None: sub(x, scaled(y, alpha)),
    aten.rsub:       lambda x, y, alpha=None: sub(y, scaled(x, alpha)),
    aten.mul:        mul,
    aten.div:        div,
    aten.neg:        neg,
    aten.reciprocal: lambda x: div(num(1), x),
    aten.square:     lambda x: mul(x, x),
    aten.pow:        pow_,
    aten.addcmul:    lambda x, a, b, value=None: add(x, scaled(mul(a, b), value)),
    aten.addcdiv:    lambda x, a, b, value=None: add(x, scaled(div(a, b), value)),
    aten.lerp:       lambda x, y, w: add(mul(sub(num(1), w), x), mul(w, y)),
    # functions
    aten.sqrt:       root,
    aten.rsqrt:      lambda x: div(num(1), root(x)),
    aten.exp:        lambda x: pow_(symbol('e'), x),
    aten.exp2:       power_of_2,
    aten.log:        function(r'\log'),
    aten.log2:       function(r'\log_2'),
    aten.log1p:      lambda x: call(r'\log', add(num(1), x)),
    aten.abs:        function('|'),
    aten.sign:       function(r'\operatorname{sign}'),
    aten.sigmoid:    function(r'\operatorname{sigmoid}'),
    aten.tanh:       function(r'\tanh'),
    aten.atan2:      function(r'\operatorname{atan2}'),
    # choices
    aten.maximum:    function(r'\max'),
    aten.minimum:    function(r'\min'),
    aten.clamp:      clamp,
    aten.clamp_min:  lambda x, low: clamp(x, low),
    aten.clamp_max:  lambda x, high: clamp(x, None, high),
    aten.where:      cases,
    # comparisons and logic
    aten.gt: relation('>'), aten.ge: relation(r'\geq'), aten.lt: relation('<'), aten.le: relation(r'\leq'), aten.eq: relation('='), aten.ne: unequal,
    aten.logical_and: relation(r'\wedge'), aten.bitwise_and: relation(r'\wedge'), aten.bitwise_or: relation(r'\vee'),
    # tensors like another
    aten.zeros_like: lambda x: num(0),
    aten.ones_like:  lambda x: num(1),
    aten.full_like:  lambda x, v: v,
    aten.clone:      lambda x: x,
    aten._to_copy:   lambda x: x,
    aten.copy:       lambda x, y: y,
    # reductions
    aten.sum: sum_of, aten.mean: single(r'\operatorname{mean}'),
    aten.amax: single(r'\max'), aten.max: single(r'\max'), aten.amin: single(r'\min'), aten.min: single(r'\min'),
    aten.linalg_vector_norm: lambda x, order=None: norm(x, 2 if order is None else order.args[0]),
    aten.norm:               lambda x, order=None: norm(x, 2 if order is None else order.args[0]),
}

# Keywords that only say how the result is stored
ignored = {'dtype', 'layout', 'device', 'pin_memory', 'memory_format', 'non_blocking', 'implicit'}

# Python's, in the lines of a scalar program
scalar_operators = {ast.Add: add, ast.Sub: sub, ast.Mult: mul, ast.Div: div, ast.Pow: pow_}
scalar_signs     = {ast.Lt: '<', ast.LtE: r'\leq', ast.Gt: '>', ast.GtE: r'\geq', ast.Eq: '=', ast.NotEq: r'\neq'}

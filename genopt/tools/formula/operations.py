"""What each operation of torch is in a formula, as the table of `genopt.lower.operations` says for kernels. A callback with an operation that is not
here has no formula."""

import ast
from ...lower.values import aten
from .expressions import (add,call,cases,compare,div,eigenvalues,eigenvectors,matmul,mul,neg,norm,num,pow_,root,sub,symbol,
                          transpose)

__all__ = ['choice', 'ignored', 'matrix_table', 'outcome', 'scalar_operators', 'scalar_signs', 'table']


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
scalar_operators = {ast.Add: add, ast.Sub: sub, ast.Mult: mul, ast.Div: div, ast.Pow: pow_,
                    ast.Mod: lambda a, b: call(r'\operatorname{mod}', a, b)}
scalar_signs     = {ast.Lt: '<', ast.LtE: r'\leq', ast.Gt: '>', ast.GtE: r'\geq', ast.Eq: '=', ast.NotEq: r'\neq'}


# -- Of matrices --

def along(name):
    "A reduction of each row or of each column; of a single row or column it is that of all elements, and None: `table` has that"
    def reduced(expr, v):
        x,*rest = v.args
        dims = v.kwargs.get('dim') or next((a for a in rest if isinstance(a, list)), None)
        if not dims or v.example.numel()==1: return reduction_of_all(name)(expr(x)) if dims else None
        side = 'row' if dims[0] in (-1, 1) else 'column'
        return call(rf'\operatorname{{{name}}}_{{\text{{{side}}}}}', expr(x), tensor=True)
    return reduced

def reduction_of_all(name): return single({'max': r'\max', 'min': r'\min'}.get(name, rf'\operatorname{{{name}}}'))

def product(expr, v):
    "Element by element. Of two matrices it has a sign of its own, to tell it from their product"
    e  = mul(*map(expr, v.args))
    of = [a for a in v.operands if a.example.ndim==2 and min(a.example.shape)>1]
    if e.op!='mul' or len(of)<2 or of[0] is of[1]: return e
    return mul(*(a for a in e.args if not a.tensor), call(r'\odot', *(a for a in e.args if a.tensor)))

def same_elements(expr, v):
    "Another shape of the same numbers: a vector as a row or a column"
    x = v.args[0].example
    return expr(v.args[0]) if max(x.shape, default=1)==max(v.example.shape, default=1)==x.numel() else None

def of_eigh(expr, v): return eigenvectors(expr(v.args[0])) if v.kwargs['#'] else eigenvalues(expr(v.args[0]))
def of_qr(expr, v):   return call(r'\operatorname{qr}', expr(v.args[0])) if not v.kwargs['#'] else None

def weight(v, name): return num(v.kwargs.get(name, 1.))

# operation -> a function of `expr`, which gives the expression of a value, and of the value. It returns None where there is no formula
matrix_table = {
    aten.mm:  lambda expr, v: matmul(*map(expr, v.args)),
    aten.mv:  lambda expr, v: matmul(*map(expr, v.args)),
    aten.addmm: lambda expr, v: add(mul(weight(v, 'beta'), expr(v.args[0])), mul(weight(v, 'alpha'), matmul(*map(expr, v.args[1:])))),
    aten.t: lambda expr, v: transpose(expr(v.args[0])), aten.transpose: lambda expr, v: transpose(expr(v.args[0])),
    aten.permute: lambda expr, v: transpose(expr(v.args[0])), aten.numpy_T: lambda expr, v: transpose(expr(v.args[0])),
    aten.mul: product,
    aten.unsqueeze: same_elements, aten.view: same_elements, aten._unsafe_view: same_elements, aten.squeeze: same_elements,
    aten.sum: along('sum'), aten.mean: along('mean'), aten.amax: along('max'), aten.amin: along('min'),
    aten._linalg_eigh: of_eigh, aten.linalg_eigh: of_eigh, aten.linalg_qr: of_qr,
    aten.argsort: lambda expr, v: call(r'\operatorname{argsort}', expr(v.args[0])) if v.kwargs.get('descending', v.args[-1]) is True else None,
    aten.sort:    lambda expr, v: call(r'\operatorname{argsort}', expr(v.args[0])) if v.kwargs['#'] else None,
    aten.index:   lambda expr, v: call(r'\operatorname{columns}' if v.args[1][0] is None else r'\operatorname{rows}', *(expr(a) for a in v.operands)),
}

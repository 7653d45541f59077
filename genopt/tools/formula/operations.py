"""What each operation of torch is in a formula, as the table of `genopt.lower.operations` says for kernels. A callback with an operation that is not
here has no formula."""

import ast,math
from ...lower.values import ELEMENTS,aten
from .expressions import (Expression,add,call,cases,compare,div,draw,eigenvalues,eigenvectors,inverse,is_of_all,matmul,mul,neg,norm,num,over_all,
                          part,pow_,root,sub,sum_of,symbol,transpose,xor)

__all__ = ['choice', 'draws', 'ignored', 'matrix_table', 'opposite', 'outcome', 'scalar_functions', 'scalar_operators', 'scalar_signs', 'table']


def clamp(x, low=None, high=None):
    if low is None: return call(r'\min', x, high)
    return call(r'\max', x, low) if high is None else call(r'\operatorname{clip}', x, low, high)

def power_of_2(x):
    "2^x; the logarithm to 2 over n makes it a root"
    if x.op=='div' and x.args[0].op=='call' and x.args[0].args[0]==r'\log_2' and x.args[1].op=='num':
        return pow_(x.args[0].args[1], div(num(1), x.args[1]))
    return pow_(num(2), x)

def unequal(a, b):
    "`a != b`; a condition that torch compares with 0 is the condition"
    return a if a.op=='compare' and b==num(0) else compare(r'\neq', a, b)

def choice(c, a, b):
    "A choice between numbers; the larger or the smaller of two is written as such"
    if c.op=='compare' and {*c.args[1:]}=={a, b} and c.args[0] in '<>':
        return call(r'\max' if (c.args[0]=='>')==(c.args[1]==a) else r'\min', a, b)
    return cases(c, a, b)

opposites = {'=': r'\neq', '>': r'\leq', '<': r'\geq', r'\leq': '>', r'\geq': '<', r'\neq': '='}

def outcome(c, holds):
    "That a condition holds, or does not; of a number, that it is not 0, or is"
    if c.op!='compare': return compare(r'\neq' if holds else '=', c, num(0))
    return c if holds else opposite(c)

def opposite(c): return compare(opposites[c.args[0]], *c.args[1:])

def bits(a, b):
    "`a and b`; the lowest n bits are the remainder of a division by 2^n"
    n = b.args[0]+1 if b.op=='num' else 0
    return call(r'\operatorname{mod}', a, num(n)) if n>2 and math.log2(n).is_integer() else compare(r'\wedge', a, b)

def function(name): return lambda *args: call(name, *args)

def reduction(how):
    "The reduction `how` of all elements; of what each parameter has, that over all parameters"
    return lambda x: over_all(how, x) if is_of_all(x) else reduced(how, x)

def reduced(how, x): return sum_of(x) if how=='sum' else call({'max': r'\max', 'min': r'\min'}.get(how, rf'\operatorname{{{how}}}'), x, tensor=False)

def norm_of(x, order=None):
    "The norm of all elements; of what each parameter has, that over all parameters"
    if is_of_all(x) and order in (None, num(2)): return over_all('norm', x)
    return norm(x, 2 if order is None else order.args[0])
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
    aten.sin:        function(r'\sin'),
    aten.cos:        function(r'\cos'),
    aten.floor:      function(r'\operatorname{floor}'),
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
    aten.logical_and: relation(r'\wedge'), aten.bitwise_and: bits, aten.bitwise_or: relation(r'\vee'),
    # tensors like another
    aten.zeros_like: lambda x: num(0),
    aten.ones_like:  lambda x: num(1),
    aten.full_like:  lambda x, v: v,
    aten.clone:      lambda x: x,
    aten._to_copy:   lambda x: x,
    aten.copy:       lambda x, y: y,
    aten.new_zeros:  lambda x: num(0),
    aten.new_ones:   lambda x: num(1),
    aten.triu:       function(r'\operatorname{triu}'),
    aten.tril:       function(r'\operatorname{tril}'),
    aten.argmax:     lambda x: call(r'\operatorname{argmax}', x, tensor=False),
    # whole numbers
    aten.bitwise_xor: xor,
    aten.__rshift__:  lambda x, n: call(r'\operatorname{floor}', div(x, pow_(num(2), n))),
    # reductions
    aten.sum: reduction('sum'), aten.mean: reduction('mean'),
    aten.amax: reduction('max'), aten.max: reduction('max'), aten.amin: reduction('min'), aten.min: reduction('min'),
    aten.linalg_vector_norm: norm_of, aten.norm: norm_of,
}

# Keywords that only say how the result is stored
ignored = {'dtype', 'layout', 'device', 'pin_memory', 'memory_format', 'non_blocking', 'implicit'}


# -- Random numbers --

def integers(low, high): return draw('integers', low, sub(high, num(1)))
def normal(mean, std): return draw('normal', mean, pow_(std, num(2)))

# operation -> a function of the expressions of its arguments, by their names in aten's schema
draws = {
    aten.rand_like:    lambda a: draw('uniform', num(0), num(1)),
    aten.randn_like:   lambda a: draw('normal', num(0), num(1)),
    aten.rand:         lambda a: draw('uniform', num(0), num(1)),
    aten.randn:        lambda a: draw('normal', num(0), num(1)),
    aten.randint_like: lambda a: integers(a.get('low', num(0)), a['high']),
    aten.random_:      lambda a: integers(a.get('from', num(0)), a['to']),
    aten.uniform_:     lambda a: draw('uniform', a.get('from', num(0)), a.get('to', num(1))),
    aten.normal_:      lambda a: normal(a.get('mean', num(0)), a.get('std', num(1))),
    aten.bernoulli:    lambda a: draw('bernoulli', a.get('p', a['self'])),
    aten.bernoulli_:   lambda a: draw('bernoulli', a.get('p', num(.5))),
    aten.exponential_: lambda a: draw('exponential', a.get('lambd', num(1))),
}


# -- Numbers --

# Python's, in the lines of a scalar program
scalar_operators = {ast.Add: add, ast.Sub: sub, ast.Mult: mul, ast.Div: div, ast.Pow: pow_,
                    ast.Mod: lambda a, b: call(r'\operatorname{mod}', a, b)}
scalar_functions = dict(max=function(r'\max'), min=function(r'\min'), abs=function('|'), exp=lambda x: pow_(symbol('e'), x), log=function(r'\log'),
                        sqrt=root, pow=pow_)
scalar_signs     = {ast.Lt: '<', ast.LtE: r'\leq', ast.Gt: '>', ast.GtE: r'\geq', ast.Eq: '=', ast.NotEq: r'\neq'}


# -- Of matrices --

def along(name):
    "A reduction of each row or of each column; of a single row or column it is that of all elements, and None: `table` has that"
    def of_value(expr, v):
        side,e = side_of(v),expr(v.args[0])
        if not side or side=='all': return side and reduced(name, e)
        if name=='sum' and e.op=='call' and e.args[0]==r'\odot' and len(e.args)==3: return call(f'<{side}', *e.args[1:])
        return call(rf'\operatorname{{{name}}}_{{\text{{{side}}}}}', e, tensor=True)
    return of_value

def side_of(v):
    "What a reduction is of: each 'row', each 'column', or 'all' elements; None if it names no dimension"
    dims = v.kwargs.get('dim') or next((a for a in v.args[1:] if isinstance(a, list)), None)
    return dims and ('all' if v.example.numel()==1 else 'row' if dims[0] in (-1, 1) else 'column')

wide,tall = (5, 7),(7, 5)                                  # lengths of the stand-in for a matrix; no others are likely in a callback

def norm_along(expr, v):
    side = side_of(v)
    return side and norm(expr(v.args[0]), v.args[1] if len(v.args)>1 else 2, None if side=='all' else side)

def product(expr, v):
    "Element by element. Of two matrices it has a sign of its own, to tell it from their product"
    e  = mul(*map(expr, v.args))
    of = [a for a in v.operands if a.example.ndim==2 and min(a.example.shape)>1]
    if e.op!='mul' or len(of)<2 or of[0] is of[1]: return e
    return mul(*(a for a in e.args if not a.tensor), call(r'\odot', *(a for a in e.args if a.tensor)))

def is_flat(x): return max(x.shape, default=1)==x.numel()

def same_elements(expr, v):
    "Another shape of the same numbers: a vector as a row or a column; the elements of the parameter as one vector, and back"
    a,x,y = v.args[0],v.args[0].example,v.example
    if is_flat(x) and is_flat(y): return turned(expr(a), lies(a), lies(v))
    return expr(a) if a.kind==ELEMENTS and is_flat(y) or v.kind==ELEMENTS and is_flat(x) else None

def turned(e, before, after): return transpose(e) if {before, after}=={'row', 'column'} else e

def lies(v):
    "How a vector lies: as a 'row' or as a 'column'. One that has a number for each row of a matrix is a column"
    shape = v.example.shape
    if len(shape)==2: return 'row' if shape[0]==1<shape[1] else 'column' if shape[1]==1<shape[0] else None
    if len(shape)!=1 or v.example.numel()==1: return None
    if v.packet in (aten.sum, aten.mean, aten.amax, aten.amin, aten.linalg_vector_norm): return 'row' if side_of(v)=='column' else 'column'
    if v.packet in reshaping: return lies(v.args[0])
    if v.packet is aten.split_with_sizes: return 'row' if v.kwargs['#'] else 'column'
    if v.packet is aten.mv: return 'column'
    of = [way for a in v.operands if (way := lies(a))]
    return of[0] if of else 'row' if v.is_input and len(v.example)==wide[1] else 'column'

reshaping = {aten.unsqueeze, aten.view, aten._unsafe_view, aten.reshape, aten.squeeze}

def matrix_product(expr, v):
    "The product of matrices. A vector on the right is a column; elements that lie as one vector are no matrix"
    if any(is_flat(a.example) and a.example.numel()>max(wide) for a in v.operands): return None
    a,b = v.args
    return matmul(expr(a), turned(expr(b), lies(b), 'column') if b.example.ndim==1 else expr(b))

def part_of(expr, v):
    "A part of a vector with a number for each row and then for each column"
    return part(expr(v.args[0]), ('row', 'column')[v.kwargs['#']]) if tuple(v.args[1]) in (wide, tall) else None

def joined(expr, v):
    "Such a vector"
    lengths = tuple(a.example.numel() for a in v.args[0])
    return call(',', *map(expr, v.args[0]), tensor=True) if lengths in (wide, tall) and len(v.args)==1 else None

def solution(expr, v): return matmul(inverse(expr(v.args[0])), expr(v.args[1])) if v.kwargs.get('left', True) is True else None

def of_eigh(expr, v): return eigenvectors(expr(v.args[0])) if v.kwargs['#'] else eigenvalues(expr(v.args[0]))
def of_qr(expr, v):   return call(r'\operatorname{qr}', expr(v.args[0])) if not v.kwargs['#'] else None

def index_of(n): return {wide[0]: 'row', wide[1]: 'column'}.get(n, 'all')

def weight(v, name): return num(v.kwargs.get(name, 1.))

# operation -> a function of `expr`, which gives the expression of a value, and of the value. It returns None where there is no formula
matrix_table = {
    aten.mm: matrix_product, aten.mv: matrix_product,
    aten.addmm: lambda expr, v: add(mul(weight(v, 'beta'), expr(v.args[0])), mul(weight(v, 'alpha'), matmul(*map(expr, v.args[1:])))),
    aten.t: lambda expr, v: transpose(expr(v.args[0])), aten.transpose: lambda expr, v: transpose(expr(v.args[0])),
    aten.permute: lambda expr, v: transpose(expr(v.args[0])), aten.numpy_T: lambda expr, v: transpose(expr(v.args[0])),
    aten.mul: product,
    **dict.fromkeys(reshaping, same_elements),
    aten.linalg_vector_norm: norm_along, aten.split_with_sizes: part_of, aten.cat: joined, aten.linalg_solve_triangular: solution,
    aten.arange: lambda expr, v: Expression('index', (index_of(v.args[0]),), True),
    aten.sum: along('sum'), aten.mean: along('mean'), aten.amax: along('max'), aten.amin: along('min'),
    aten._linalg_eigh: of_eigh, aten.linalg_eigh: of_eigh, aten.linalg_qr: of_qr,
    aten.argsort: lambda expr, v: call(r'\operatorname{argsort}', expr(v.args[0])) if v.kwargs.get('descending', v.args[-1]) is True else None,
    aten.sort:    lambda expr, v: call(r'\operatorname{argsort}', expr(v.args[0])) if v.kwargs['#'] else None,
    aten.index:   lambda expr, v: call(r'\operatorname{columns}' if v.args[1][0] is None else r'\operatorname{rows}', *(expr(a) for a in v.operands)),
}

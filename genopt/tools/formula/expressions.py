r"""Expressions: small trees of symbols, numbers and operations. Sums and products are put into the order in which people write them: numbers first,
then scalars, then tensors. `writing` writes them as TeX.

    add(mul(m, beta), mul(sub(num(1), beta), g))      ->      \beta_1 \, m_{t-1} + \left(1 - \beta_1\right) \, g_t"""

from collections import Counter
from dataclasses import dataclass

__all__ = ['Expression', 'add', 'call', 'cases', 'compare', 'div', 'draw', 'eigenvalues', 'eigenvectors', 'gradient', 'hessian_product',
           'inverse', 'is_num', 'is_of_all', 'is_sum_over_all', 'iterated', 'leaves', 'loops', 'loss', 'made', 'mapped', 'matmul', 'mul', 'neg',
           'norm', 'num', 'operations_in', 'over_all', 'part', 'parts', 'pow_', 'replaced', 'root', 'size', 'skeleton', 'sub', 'sum_of',
           'symbol', 'transpose', 'vector', 'with_letters', 'xor']


@dataclass(frozen=True)
class Expression:
    "`op`: 'num', 'symbol', 'add', 'mul', 'div', 'pow' ... `tensor`: whether it has a number for each element of a parameter"
    op: str
    args: tuple
    tensor: bool = False

def num(v): return Expression('num', (float(v),))
def symbol(text, tensor=False): return Expression('symbol', (text,), tensor)
def made(op, *args): return Expression(op, args, any(isinstance(a, Expression) and a.tensor for a in args))

def is_num(e, v=None): return e.op=='num' and (v is None or e.args[0]==v)

def parts(e):
    "The expressions of which `e` is made"
    if e.op=='add': return [t for _,t in e.args]
    if e.op=='iterated': return [e.args[0], *(right for _,right in e.args[2])]
    return [a for a in e.args if isinstance(a, Expression)]

def leaves(e):
    "The symbols and numbers of an expression, from left to right"
    return [e] if e.op in ('num', 'symbol', 'index') else [leaf for a in parts(e) for leaf in leaves(a)]

def mapped(e, f):
    "`e` with `f(part)` in place of each of its parts, in the order of `leaves`"
    if e.op=='add': args = tuple((s, f(t)) for s,t in e.args)
    elif e.op=='iterated': args = (f(e.args[0]), e.args[1], tuple((left, f(right)) for left,right in e.args[2]), e.args[3])
    else: args = tuple(f(a) if isinstance(a, Expression) else a for a in e.args)
    return Expression(e.op, args, e.tensor)

def operations_in(e): return {e.op}.union(*map(operations_in, parts(e)))
def size(e): return len(leaves(e))


# -- Sums --

def signed(e):
    "The terms of a sum, each with its sign"
    if e.op=='add': return [*e.args]
    if e.op=='neg': return [(-s, t) for s,t in signed(e.args[0])]
    if is_num(e) and e.args[0]<0: return [(-1, num(-e.args[0]))]
    return [(1, e)]

def total(terms):
    "The sum of signed terms: numbers are added up, and what cancels is left out"
    constant,left = 0.,[]
    for s,t in terms:
        if is_num(t): constant += s*t.args[0]
        elif (-s, t) in left: left.remove((-s, t))
        else: left.append((s, t))
    if constant:
        place = 0 if not left or left[0][0]<0 else len(left)
        left.insert(place, (1 if constant>0 else -1, num(abs(constant))))
    if not left: return num(0)
    if len(left)==1: return left[0][1] if left[0][0]>0 else neg(left[0][1])
    if left[0][0]<0 and (i := next((i for i,(s,_) in enumerate(left) if s>0), None)): left.insert(0, left.pop(i))
    return Expression('add', tuple(left), any(t.tensor for _,t in left))

def add(*es): return total([st for e in es for st in signed(e)])
def sub(a, b): return total([*signed(a), *((-s, t) for s,t in signed(b))])
def neg(e):
    if e.op=='neg': return e.args[0]
    if is_num(e): return num(-e.args[0])
    if e.op=='add': return total([(-s, t) for s,t in e.args])
    return made('neg', e)


# -- Products --

def mul(*es):
    top,below,sign,factor = [],[],1,1.
    def take(e, into):
        nonlocal sign,factor
        if e.op=='neg': sign = -sign; take(e.args[0], into)
        elif e.op=='mul': [take(a, into) for a in e.args]
        elif e.op=='div': take(e.args[0], into); take(e.args[1], below if into is top else top)
        elif is_num(e) and into is top: factor *= e.args[0]
        else: into.append(e)
    for e in es: take(e, top)
    if factor<0: sign,factor = -sign,-factor
    if not factor: return num(0)
    top,below = powers(top),powers(below)
    for e in [*top]:
        if e in below: top.remove(e); below.remove(e)
    if factor!=1: top.insert(0, num(factor))
    over = product(top)
    res  = made('div', over, product(below)) if below else over
    return neg(res) if sign<0 else res

def powers(factors):
    "Equal factors as powers, in the order numbers, scalars, tensors"
    count = Counter()
    for f in factors:
        base,n = (f.args[0], f.args[1].args[0]) if f.op=='pow' and is_num(f.args[1]) else (f, 1.)
        count[base] += n
    found = [b if n==1 else pow_(b, num(n)) for b,n in count.items() if n]
    return sorted(found, key=lambda e: 0 if is_num(e) else 3 if e.tensor else 2 if is_sum_over_all(e) else 1)

def product(factors):
    if not factors: return num(1)
    return factors[0] if len(factors)==1 else made('mul', *factors)

def div(a, b):
    if is_num(b, 1): return a
    if a.op=='root' and b.op=='root': return root(div(a.args[0], b.args[0]))
    if is_num(b) and is_num(a): return made('div', a, b)
    if b.op=='div': return mul(a, b.args[1], made('div', num(1), b.args[0]))
    if a.op=='div': return made('div', a, b)                                        # a fraction within a fraction stays, as in Adam's step
    if b.op=='neg': return neg(div(a, b.args[0]))
    return mul(a, made('div', num(1), b)) if not is_num(a) else made('div', a, b)

def root(e):
    "The square root. That of the square of a norm is the norm"
    return e.args[0] if e.op=='pow' and is_num(e.args[1], 2) and is_norm(e.args[0]) else made('root', e)

def is_sum_over_all(e): return e.op=='over_all' and e.args[0]!='norm'
def is_norm(e): return e.op=='norm' or e.op=='over_all' and e.args[0]=='norm'

def pow_(a, b):
    if is_num(b):
        n = b.args[0]
        if n==1: return a
        if n==0: return num(1)
        if n==.5: return root(a)
        if n==2 and a.op=='root': return a.args[0]
        if n<0: return div(num(1), pow_(a, num(-n)))
        if is_num(a): return num(a.args[0]**n)
        if a.op=='pow' and is_num(a.args[1]): return pow_(a.args[0], num(n*a.args[1].args[0]))
    return made('pow', a, b)


# -- Others --

def norm(e, order=2, side=None):
    "The norm of all elements; with a `side`, of each 'row' or 'column'"
    return Expression('norm', (e, order, side), side is not None)
def call(name, *args, tensor=None):
    "`name` is TeX, such as `\\max`. `tensor`: whether the result has a number for each element; by default, if an argument has"
    if name in (r'\max', r'\min') and len(args)>1:                          # max(max(a, b), c) is max(a, b, c)
        args = [b for a in args for b in (a.args[1:] if a.op=='call' and a.args[0]==name and len(a.args)>2 else [a])]
    e = made('call', name, *args)
    return e if tensor is None else Expression(e.op, e.args, tensor)
def compare(sign, a, b): return made('compare', sign, a, b)
def xor(a, b): return made('xor', a, b)                                     # of the bits of whole numbers
def cases(condition, a, b): return a if a==b else made('cases', condition, a, b)


def sum_of(x):
    "The sum of all elements: a squared norm, an inner product, or a sum"
    if x.op=='pow' and x.args[1]==num(2): return pow_(norm(x.args[0]), num(2))
    if x.op=='call' and x.args[0]=='|': return norm(x.args[1], 1)
    tensors = [a for a in x.args if a.tensor] if x.op=='mul' else []
    if len(tensors)==2: return mul(*(a for a in x.args if not a.tensor), call('<', *tensors, tensor=False))
    return call(r'\operatorname{sum}', x, tensor=False)


# -- Of all parameters, of the model, of chance --

def vector(e): return made('vector', e)                                     # of what each parameter has; only reductions of it can be written
def is_of_all(e): return e.op=='vector' or any(map(is_of_all, parts(e)))
def without_vectors(e): return e.args[0] if e.op=='vector' else mapped(e, without_vectors)

def over_all(how, e):
    """The 'sum', 'max', 'min', 'mean' or 'norm' over all parameters, of which each has `e`. The norm of all norms, and the root of the sum of their
    squares, are the norm of all parameters as one vector"""
    e = without_vectors(e)
    if e.tensor: e = norm(e) if how=='norm' else sum_of(e) if how=='sum' else call({'max': r'\max', 'min': r'\min'}[how], e, tensor=False)
    if how=='norm' and e.op=='norm' and e.args[1:]==(2, None): return Expression('over_all', ('norm', e.args[0]))
    if how=='norm': return root(over_all('sum', pow_(e, num(2))))
    if how=='sum' and e.op=='pow' and is_num(e.args[1], 2) and e.args[0].op=='norm': return pow_(over_all('norm', e.args[0]), num(2))
    return Expression('over_all', (how, e))

def loss(p):               return Expression('loss', (p,))
def gradient(p):           return Expression('gradient', (p,), True)        # of the loss
def hessian_product(p, z): return Expression('hessian', (p, z), True)       # the Hessian of the loss at `p`, times `z`

def draw(distribution, *numbers, tensor=True):
    "Random numbers. `distribution`: 'normal' with mean and variance, 'uniform' with its ends, 'integers' likewise, 'bernoulli' or 'exponential'"
    return Expression('draw', (distribution, *numbers), tensor)


# -- Matrices --

def transpose(e):
    if e.op=='transpose': return e.args[0]
    if e.op=='matmul': return matmul(*(transpose(a) for a in reversed(e.args)))
    if e.op=='neg': return neg(transpose(e.args[0]))
    if e.op=='inverse': return inverse(transpose(e.args[0]))
    if e.op=='mul' and sum(a.tensor for a in e.args)==1: return mul(*(transpose(a) if a.tensor else a for a in e.args))
    return made('transpose', e) if e.tensor else e

def matmul(*es):
    "The product of matrices; scalars come to the front. `V f(S) V'`, with the eigenvalues S and the eigenvectors V of L, is the function f of L"
    scalars,factors = [],[]
    for e in es:
        if e.op=='neg': scalars.append(num(-1)); e = e.args[0]
        if e.op=='mul' and sum(a.tensor for a in e.args)==1:
            scalars += [a for a in e.args if not a.tensor]
            e = next(a for a in e.args if a.tensor)
        factors += e.args if e.op=='matmul' else [e]
    if len(factors)==2 and factors[1].op=='transpose' and (f := without(factors[0], factors[1].args[0])) is not None:
        product = made('function', factors[1].args[0].args[1], f)
    else: product = made('matmul', *factors)
    return mul(*scalars, product)

def inverse(e): return made('inverse', e)
def part(e, side): return Expression('part', (e, side), True)               # of a vector with a number for each row and then for each column

def eigenvalues(e): return call(r'\operatorname{eigvals}', e)
def eigenvectors(e): return call(r'\operatorname{eigvecs}', e)

def without(e, vectors):
    "What the eigenvectors are multiplied by in `e`; None if it is no product with them"
    if vectors.op!='call' or vectors.args[0]!=r'\operatorname{eigvecs}': return None
    if e==vectors: return num(1)
    if e.op=='div' and (over := without(e.args[0], vectors)) is not None: return made('div', over, e.args[1])
    return mul(*(a for a in e.args if a!=vectors)) if e.op=='mul' and vectors in e.args else None

def replaced(e, old, new): return new if e==old else mapped(e, lambda a: replaced(a, old, new))


# -- Loops --

def iterated(start, count, body, series=()):
    """The end of a loop from `start`, `X_0`, with `count` turns. `body`: symbols and their expressions in `X_k`; the last is the next `X`. `series`:
    letters, each with its numbers from turn to turn"""
    return Expression('iterated', (start, count, tuple(body), tuple(series)), True)

def loops(e): return [e] if e.op=='iterated' else [x for a in parts(e) for x in loops(a)]

def skeleton(e): return num(0) if e.op=='num' else mapped(e, skeleton)

def with_letters(e, letter):
    "`e` with `letter()` in place of each of its numbers, from left to right; None keeps the number"
    return letter() or e if e.op=='num' else mapped(e, lambda a: with_letters(a, letter))

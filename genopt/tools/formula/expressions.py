r"""Expressions: small trees of symbols, numbers and operations that write themselves as TeX. Sums and products are put into the order in which people
write them: numbers first, then scalars, then tensors.

    add(mul(m, beta), mul(sub(num(1), beta), g))      ->      \beta_1 \, m_{t-1} + \left(1 - \beta_1\right) \, g_t"""

import math
from collections import Counter
from dataclasses import dataclass

__all__ = ['Expression', 'add', 'call', 'cases', 'compare', 'div', 'eigenvalues', 'eigenvectors', 'iterated', 'leaves', 'loops', 'mapped',
           'matmul', 'mul', 'neg', 'norm', 'num', 'number', 'pow_', 'root', 'size', 'skeleton', 'sub', 'symbol', 'tex', 'transpose',
           'with_letters']


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
    return [e] if e.op in ('num', 'symbol') else [leaf for a in parts(e) for leaf in leaves(a)]

def mapped(e, f):
    "`e` with `f(part)` in place of each of its parts, in the order of `leaves`"
    if e.op=='add': args = tuple((s, f(t)) for s,t in e.args)
    elif e.op=='iterated': args = (f(e.args[0]), e.args[1], tuple((left, f(right)) for left,right in e.args[2]), e.args[3])
    else: args = tuple(f(a) if isinstance(a, Expression) else a for a in e.args)
    return Expression(e.op, args, e.tensor)

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
    return sorted(found, key=lambda e: 0 if is_num(e) else 1 if not e.tensor else 2)

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
    return e.args[0] if e.op=='pow' and is_num(e.args[1], 2) and e.args[0].op=='norm' else made('root', e)

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

def norm(e, order=2): return Expression('norm', (e, order))
def call(name, *args, tensor=None):
    "`name` is TeX, such as `\\max`. `tensor`: whether the result has a number for each element; by default, if an argument has"
    if name in (r'\max', r'\min') and len(args)>1:                          # max(max(a, b), c) is max(a, b, c)
        args = [b for a in args for b in (a.args[1:] if a.op=='call' and a.args[0]==name and len(a.args)>2 else [a])]
    e = made('call', name, *args)
    return e if tensor is None else Expression(e.op, e.args, tensor)
def compare(sign, a, b): return made('compare', sign, a, b)
def cases(condition, a, b): return a if a==b else made('cases', condition, a, b)


# -- Matrices --

def transpose(e):
    if e.op=='transpose': return e.args[0]
    if e.op=='matmul': return matmul(*(transpose(a) for a in reversed(e.args)))
    if e.op=='neg': return neg(transpose(e.args[0]))
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


# -- TeX --

strength = dict(compare=0, cases=4, function=1, add=1, neg=1, mul=2, div=2, matmul=2.2, pow=3)

def number(v):
    if v==math.inf: return r'\infty'
    if abs(v-math.e)<1e-12: return 'e'
    if v and (abs(v)<1e-3 or abs(v)>=1e5):
        digits,exponent = f'{v:.6e}'.split('e')
        digits = digits.rstrip('0').rstrip('.')
        factor = '' if digits=='1' else digits + r'{\cdot}'
        return f'{factor}10^{{{int(exponent)}}}'
    return f'{v:.6g}'

def is_mean_square(e): return e.op=='call' and 'mean' in e.args[0] and e.args[1].op=='pow' and is_num(e.args[1].args[1], 2)

def atomic(text): return text if len(text)==1 else f'{{{text}}}'

def tex(e, above=0, deep=False):
    """`e` as TeX. It is put in parentheses if it binds less than `above`. `deep`: it stands within a fraction, where a fraction is written with a
    slash"""
    text = write(e, deep)
    if strength.get(e.op, 5)>=above: return text
    return rf'\left[{text}\right]' if e.op=='compare' else rf'\left({text}\right)'

def write(e, deep):
    match e.op:
        case 'num':    return number(e.args[0])
        case 'symbol': return e.args[0]
        case 'neg':    return '-' + tex(e.args[0], 2, deep)
        case 'add':
            first,*rest = e.args
            parts = [('-' if first[0]<0 else '') + tex(first[1], 2 if first[0]<0 else 1, deep)]
            return ' '.join(parts + [f"{'+' if s>0 else '-'} {tex(t, 2, deep)}" for s,t in rest])
        case 'mul':
            texts = [tex(a, 2.5 if a.op=='div' and deep else 2, deep) for a in e.args]
            return texts[0] + ''.join((r' \cdot ' if t[0].isdigit() else r' \, ') + t for t in texts[1:])
        case 'div':
            a,b = e.args
            if deep: return f'{tex(a, 2, True)} / {tex(b, 2.5, True)}'
            return rf'\frac{{{tex(a, 0, True)}}}{{{tex(b, 0, True)}}}'
        case 'pow':
            base = tex(e.args[0], 4, True)
            return f"{atomic(base) if chr(39) in base or '^' in base else base}^{{{tex(e.args[1], 0, True)}}}"
        case 'root' if is_mean_square(e.args[0]): return rf'\operatorname{{rms}}\left({tex(e.args[0].args[1].args[0], 0, True)}\right)'
        case 'root':   return rf'\sqrt{{{tex(e.args[0], 0, True)}}}'
        case 'norm':
            x,order = e.args
            return rf'\lVert {tex(x, 0, True)} \rVert' + ('' if order==2 else '_{\\infty}' if order==math.inf else f'_{{{order:g}}}')
        case 'call':
            name,*args = e.args
            if name==r'\operatorname{mod}': return rf'{tex(args[0], 4, True)} \, {name} \, {tex(args[1], 4, True)}'
            if name==r'\odot': return r' \odot '.join(tex(a, 3, deep) for a in args)
            if name=='|': return rf'\lvert {tex(args[0], 0, True)} \rvert'
            if name=='<': return rf"\langle {', '.join(tex(a, 0, True) for a in args)} \rangle"
            return rf"{name}\left({', '.join(tex(a, 0, True) for a in args)}\right)"
        case 'compare' if e.args[0] in (r'\wedge', r'\vee'): return f'{tex(e.args[1], 0, True)} {e.args[0]} {tex(e.args[2], 0, True)}'
        case 'compare': return f'{tex(e.args[1], 1, True)} {e.args[0]} {tex(e.args[2], 1, True)}'
        case 'matmul':    return r' \, '.join(tex(a, 2.5, deep) for a in e.args)
        case 'transpose': return f"{atomic(tex(e.args[0], 4, True))}^{{\\top}}"
        case 'function':  return write(replaced(e.args[1], eigenvalues(e.args[0]), e.args[0]), True)
        case 'iterated':  return f'X_{{{e.args[1]}}}'
        case 'cases':
            rows = []
            while e.op=='cases':                                            # the other case may have cases in turn
                c,a,e = e.args
                rows.append(rf'{tex(a, 0, True)} & \text{{if }} {tex(c, 0, True)}')
            rows.append(rf'{tex(e, 0, True)} & \text{{otherwise}}')
            return r'\begin{cases} ' + r' \\ '.join(rows) + r' \end{cases}'
    raise KeyError(e.op)

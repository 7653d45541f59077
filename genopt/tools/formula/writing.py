"""Expressions as TeX. Each kind of expression has a function in the table `writers`."""

import math
from .expressions import eigenvalues,is_num,is_sum_over_all,replaced

__all__ = ['number', 'tex']


strength = dict(compare=0, xor=.9, cases=4, function=1, add=1, neg=1, mul=2, div=2, over_all=2, hessian=2, matmul=2.2, pow=3, inverse=4, part=4)

def tex(e, above=0, deep=False):
    """`e` as TeX. It is put in parentheses if it binds less than `above`. `deep`: it stands within a fraction, where a fraction is written with a
    slash"""
    text = writers[e.op](e, deep)
    if strength_of(e)>=above: return text
    return rf'\left[{text}\right]' if e.op=='compare' else rf'\left({text}\right)'

def strength_of(e):
    if e.op=='call' and e.args[0]==r'\operatorname{mod}': return 1.5
    return 5 if e.op=='over_all' and not is_sum_over_all(e) else strength.get(e.op, 5)

def number(v):
    if v==math.inf: return r'\infty'
    if abs(v-math.e)<1e-12: return 'e'
    if abs(v-math.pi)<1e-12: return r'\pi'
    if abs(v-2*math.pi)<1e-12: return r'2 \pi'
    if v>=1024 and math.log2(v).is_integer(): return f'2^{{{math.log2(v):.0f}}}'
    if v==round(v) and float(f'{v:.6e}')!=v: return f'{v:.0f}'              # with all of its digits
    if v and (abs(v)<1e-3 or abs(v)>=1e5): return scientific(v)
    return f'{v:.6g}'

def scientific(v):
    digits,exponent = f'{v:.6e}'.split('e')
    digits = digits.rstrip('0').rstrip('.')
    factor = '' if digits=='1' else digits + r'{\cdot}'
    return f'{factor}10^{{{int(exponent)}}}'

def atomic(text): return text if len(text)==1 else f'{{{text}}}'
def inner(e): return tex(e, 0, True)                                       # what brackets or a fraction enclose
def listed(es): return ', '.join(map(inner, es))


# -- Arithmetic --

def write_sum(e, deep):
    (sign,term),*rest = e.args
    first = ('-' if sign<0 else '') + tex(term, 2 if sign<0 else 1, deep)
    return ' '.join([first, *(f"{'+' if s>0 else '-'} {tex(t, 2, deep)}" for s,t in rest)])

def write_product(e, deep):
    *others,last = e.args
    texts = [tex(a, 2.5 if a.op=='div' and deep or is_sum_over_all(a) else 2, deep) for a in others]
    if last.op=='hessian': return rf"{' '.join(texts)} \odot {tex(last, 2.5, deep)}"         # a product of each element with an element
    texts.append(tex(last, 2.5 if last.op=='div' and deep else 2, deep))
    return texts[0] + ''.join((r' \cdot ' if t[0].isdigit() else r' \, ') + t for t in texts[1:])

def write_fraction(e, deep):
    a,b = e.args
    return f'{tex(a, 2, True)} / {tex(b, 2.5, True)}' if deep else rf'\frac{{{inner(a)}}}{{{inner(b)}}}'

def write_power(e, deep):
    base = tex(e.args[0], 4, True)
    return f"{atomic(base) if chr(39) in base or '^' in base else base}^{{{inner(e.args[1])}}}"

def write_root(e, deep):
    x = e.args[0]
    return rf'\operatorname{{rms}}\left({inner(x.args[1].args[0])}\right)' if is_mean_square(x) else rf'\sqrt{{{inner(x)}}}'

def is_mean_square(e): return e.op=='call' and 'mean' in e.args[0] and e.args[1].op=='pow' and is_num(e.args[1].args[1], 2)


# -- Functions and choices --

def write_norm(e, deep):
    x,order,side = e.args
    which = [] if order==2 else [r'\infty' if order==math.inf else f'{order:g}']
    which+= [rf'\text{{{side}}}'] if side else []
    return rf'\lVert {inner(x)} \rVert' + (f"_{{{', '.join(which)}}}" if which else '')

notations = {                                                               # of functions that are not written as f(x, y)
    r'\operatorname{mod}':   lambda args, deep: rf'{tex(args[0], 4, True)} \, \operatorname{{mod}} \, {tex(args[1], 4, True)}',
    r'\operatorname{floor}': lambda args, deep: rf'\lfloor {inner(args[0])} \rfloor',
    r'\odot':   lambda args, deep: r' \odot '.join(tex(a, 3, deep) for a in args),
    '|':        lambda args, deep: rf'\lvert {inner(args[0])} \rvert',
    '<':        lambda args, deep: rf'\langle {listed(args)} \rangle',
    '<row':     lambda args, deep: rf'\langle {listed(args)} \rangle_{{\text{{row}}}}',
    '<column':  lambda args, deep: rf'\langle {listed(args)} \rangle_{{\text{{column}}}}',
    ',':        lambda args, deep: rf'\left({listed(args)}\right)'}

def write_call(e, deep):
    name,*args = e.args
    if name in notations: return notations[name](args, deep)
    return rf"{name}\left({', '.join(tex(a, 0, deep) for a in args)}\right)"

def write_comparison(e, deep):
    sign,a,b = e.args
    above = 0 if sign in (r'\wedge', r'\vee') else 1
    return f'{tex(a, above, deep)} {sign} {tex(b, above, deep)}'

def write_cases(e, deep):
    rows = []
    while e.op=='cases':                                                    # the other case may have cases in turn
        c,a,e = e.args
        rows.append(rf'{tex(a, 0, deep)} & \text{{if }} {inner(c)}')
    rows.append(rf'{tex(e, 0, deep)} & \text{{otherwise}}')
    return r'\begin{cases} ' + r' \\ '.join(rows) + r' \end{cases}'


# -- Of all parameters, of the model, of chance --

def write_over_all(e, deep):
    how,x = e.args
    if how=='norm': return rf'\lVert {inner(x)} \rVert_{{\text{{all}}}}'
    sign = dict(sum=r'\sum', max=r'\max', min=r'\min', mean=r'\operatorname{mean}')[how]
    return rf'{sign}_{{\text{{all}}}} {tex(x, 2, deep)}'

distributions = dict(
    normal      = lambda mean, variance: rf'\mathcal{{N}}\left({mean}, {variance}\right)',
    uniform     = lambda low, high: rf'\mathcal{{U}}\left[{low}, {high}\right)',
    integers    = lambda low, last: rf'\mathcal{{U}}\left\{{{low}, {last}\right\}}' if float(last)-float(low)==1
                               else rf'\mathcal{{U}}\left\{{{low}, \ldots, {last}\right\}}',
    bernoulli   = lambda p: rf'\operatorname{{Bernoulli}}\left({p}\right)',
    exponential = lambda rate: rf'\operatorname{{Exp}}\left({rate}\right)')

def write_draw(e, deep): return distributions[e.args[0]](*map(inner, e.args[1:]))


# -- Matrices --

def write_product_of_matrices(e, deep): return r' \, '.join(tex(a, 2.5, deep) for a in e.args)
def write_transpose(e, deep): return f"{atomic(tex(e.args[0], 4, True))}^{{\\top}}"
def write_inverse(e, deep):
    x = e.args[0]
    base,sign = (x.args[0], r'-\top') if x.op=='transpose' else (x, '-1')
    return f"{atomic(tex(base, 4, True))}^{{{sign}}}"
def write_part(e, deep): return f"{atomic(tex(e.args[0], 4, True))}^{{\\text{{{e.args[1]}s}}}}"
def write_function(e, deep): return tex(replaced(e.args[1], eigenvalues(e.args[0]), e.args[0]), 0, True)


writers = dict(
    num       = lambda e, deep: number(e.args[0]),
    symbol    = lambda e, deep: e.args[0],
    neg       = lambda e, deep: '-' + tex(e.args[0], 2, deep),
    add       = write_sum,
    mul       = write_product,
    div       = write_fraction,
    pow       = write_power,
    root      = write_root,
    norm      = write_norm,
    call      = write_call,
    compare   = write_comparison,
    xor       = lambda e, deep: r' \oplus '.join(tex(a, 2, True) for a in e.args),
    cases     = write_cases,
    over_all  = write_over_all,
    loss      = lambda e, deep: rf'f\left({inner(e.args[0])}\right)',
    gradient  = lambda e, deep: rf'\nabla f\left({tex(e.args[0], 0, deep)}\right)',
    hessian   = lambda e, deep: rf'\nabla^{{2}} f\left({inner(e.args[0])}\right) \, {tex(e.args[1], 2.5, deep)}',
    draw      = write_draw,
    matmul    = write_product_of_matrices,
    transpose = write_transpose,
    inverse   = write_inverse,
    part      = write_part,
    index     = lambda e, deep: 'i' if e.args[0]=='all' else 'j',
    function  = write_function,
    iterated  = lambda e, deep: f'X_{{{e.args[1]}}}')

"""The catalogue as text: every algorithm by family, and every block, for `genopt list` and for the page `docs/catalogue.md`, which the site shows.
It is made of docstrings and chains. `parity.json` beside the page says how well an algorithm agrees with other libraries; `tests/measure.py`
writes it."""

import inspect,math,re,warnings
from functools import cache,partial
import torch
import genopt
from ..contract.names import name_of,rename
from ..optim.tables import table as aligned
from .. import algorithms,blocks
from .compare.specs import Spec,Stored

__all__ = ['listing', 'page', 'sizes', 'uses']


# -- Docstrings and signatures --

def module_of(m): return m.__name__.rpartition('.')[2]
def family_name(m): return module_of(m).replace('_', ' ')
def text(o): return ' '.join((inspect.getdoc(o) or '').split())
def in_short(o): return text(o).split(' (')[0].split('. ')[0].rstrip('.')                    # up to the paper

def families():
    "The modules with algorithms"
    return [m for m in algorithms.families if m.__all__]

def first_sentence(doc):
    "The first sentence of `doc`. A full stop in backticks does not end it"
    masked = re.sub(r'`[^`]*`', lambda m: '_'*len(m[0]), doc)
    end = re.search(r'\.(?= [A-Z_]| https?:|$)', masked)
    return doc[:end.start()] if end else doc

def papers(cls):
    "The links in a docstring, in order"
    return dict.fromkeys(u.rstrip('.,;') for u in re.findall(r'https?://[^\s)]+', text(cls)))


# -- Callbacks --

def named(pattern):
    "The names of algorithms that fit `pattern`. Raises `ValueError` if none does"
    names = genopt.list_algorithms(pattern)
    if not names:
        raise ValueError(f"no algorithm fits {pattern!r}; write * for any letters, as in '*adam*'")
    return names

def make(name, **hypers):
    "The algorithm `name` over two matrices of 64x32 in float32"
    return getattr(genopt, name)([torch.ones(64, 32, requires_grad=True) for _ in range(2)], **hypers)

def chain(cbs): return ' > '.join(map(name_of, cbs))

def chains(name):
    """The callbacks of an algorithm by setting: `''` has those at the default settings, `'amsgrad=True'` those with another value of an argument.
    It tries flags, and numbers that are 0 by default, and returns those that change the callbacks"""
    base = make(name).cbs
    res  = {'': base}
    for arg,default in getattr(genopt, name).arguments.items():
        if isinstance(default, bool):
            other = not default
        elif isinstance(default, (int,float)) and not default:
            other = .1
        else: continue
        try:
            with warnings.catch_warnings():
                warnings.simplefilter('ignore')                                              # an argument may have no effect by itself
                cbs = make(name, **{arg: other}).cbs
        except (ValueError, TypeError):
            continue                                                                         # or need another beside it
        if chain(cbs)!=chain(base):
            res[f'{arg}={other}'] = cbs
    return res

def unwrapped(cb):
    "The function of a callback; the values that `partial` gives it; the names that `rename` gives it"
    values,names = {},{}
    while isinstance(cb, (partial,rename)):
        if isinstance(cb, partial):
            values = cb.keywords | values
        else:
            names = cb.names | names
        cb = cb.func
    return cb,values,names

@cache
def bytes_per_element(name):
    "Bytes of state, and bytes that a step reads and writes, for each element of a matrix in float32"
    opt = make(name)
    n   = sum(p.numel() for p in opt.param_groups[0]['params'])
    explained = opt.explain()
    return explained.state/n,explained.traffic/n


# -- In a terminal --

def listing(width: int|None=None, pattern: str='*') -> str:
    "One line for each algorithm whose name fits `pattern`, by family, cut at `width` characters. Raises `ValueError` if none fits"
    names = named(pattern)
    shorts = {n: in_short(getattr(genopt, n)) for n in names}
    left   = max(map(len, shorts))
    middle = min(max(map(len, shorts.values())), 80)
    lines  = []
    for m in families():
        here   = [n for n in m.__all__ if n in shorts]
        lines += ['', f'{family_name(m)}: {first_sentence(text(m))}']*bool(here)
        lines += [f'  {n:{left}}  {shorts[n]:{middle}}  {chain(make(n).cbs)}' for n in here]
    if width:
        lines = [line if len(line)<=width else line[:width-1]+'…' for line in lines]
    return '\n'.join(lines[1:])


def sizes(store: str, pattern: str='*') -> str:
    """A table of bytes for each element of a matrix of 128x64, for each algorithm whose name fits `pattern`: of weights and state, and what a step
    moves, in float32 and under the policy `store`, such as 'int8'. An algorithm without such a state has a dash. Raises `ValueError` for a policy
    that cannot be or that is for none of the algorithms"""
    names = named(pattern)
    found = {n: bytes_under(n, store) for n in names}
    if bad := [e for e in found.values() if isinstance(e, ValueError)]:
        if len(bad)==len(names):
            raise ValueError(f"--store {store}: {bad[0]}")
    rows  = []
    for n in names:
        new = ['-', '-'] if isinstance(found[n], ValueError) else [f'{x:.2f}' for x in found[n]]
        (held,moved),(held_new,moved_new) = [f'{x:.2f}' for x in bytes_under(n)],new
        rows.append([n, held, held_new, moved, moved_new])
    head = ['algorithm', 'weights and state, B', f'as {store}', 'a step moves, B', f'as {store}']
    return aligned(head, rows, right=range(1, 5))

def bytes_under(name, store=None):
    """Bytes of weights and state, and bytes that a step moves, for each element of a matrix, under the policy `store`. Where a state that it names is
    missing, the error that says so"""
    spec = Stored(Spec(name), store) if store else Spec(name)
    p    = torch.ones(128, 64, dtype=torch.bfloat16 if spec.narrow else torch.float32, requires_grad=True)
    try:
        explained = spec.ours([p]).explain()
    except ValueError as e:
        return e
    return (p.nbytes + explained.state)/p.numel(),explained.traffic/p.numel()


# -- As a page --

intro = """# The catalogue

{count} algorithms; each is a short list of [blocks](#the-blocks). An algorithm takes the arguments of the library that people know it from.
`genopt.fastai` has fastai's nine optimizers under fastai's names.

*State* is the bytes that the algorithm keeps for each element of a matrix in float32. *Traffic* is the bytes that a step reads and writes for each
element. *Agrees* compares the parameters with those of another library, or of the paper in NumPy, after {steps} steps in float64.

`genopt site` builds a site. It has a page for each algorithm and each block: formula, code, papers, all libraries compared, and how these differ.
`genopt list --page docs/catalogue.md` writes this page from the code.
"""

paths = """## Paths

`genopt gallery` draws the path of each algorithm over functions of two variables, at the learning rate that brings it lowest.

![Paths of the algorithms over functions of two variables](gallery.png)
"""

def page(parity: dict) -> str:
    "The page in Markdown. `parity`: what `tests/measure.py` measured, by algorithm"
    steps = sorted({e['steps'] for e in parity.values()} or {100})
    out   = [intro.format(count=len(algorithms.__all__), steps=' or '.join(map(str, steps)))]
    for m in families():
        out += [f'## {family_name(m).capitalize()}', '', text(m), '']
        out += [table(['algorithm', 'in short', 'state', 'traffic', 'compared with', 'agrees'], [row(n, parity.get(n)) for n in m.__all__]), '']
    out += [paths, '# The blocks', '', f"{len(blocks.__all__)} blocks: functions for one parameter. Algorithms are lists of them. Put them into a "
            "list of your own, before or after an algorithm: `Optimizer(params, [clip_grad_norm, AdamW, cautious], lr=1e-3)`.", '']
    for m in blocks.modules:
        if m.__all__:
            rows = [[f'`{n}`', first_sentence(text(getattr(m, n))), used_by(n)] for n in m.__all__]
            out += [f'## {module_of(m).capitalize()}', '', text(m), '', table(['block', 'what it does', 'used by'], rows), '']
    return '\n'.join(out)

def row(name, measured):
    "The line of an algorithm"
    size,moved = bytes_per_element(name)
    ref = (measured or {}).get('reference', {})
    return [f'`{name}`', in_short(getattr(genopt, name)), f'{size:.3g} B', f'{moved:.3g} B', ref.get('name', ''),
            digits(ref['difference']) if ref else 'not measured']

def used_by(block):
    found = [f'`{a}`' for a in uses().get(block, [])]
    return ', '.join(found[:3]) + (f' and {len(found)-3} more' if len(found)>3 else '')

@cache
def uses():
    "block -> the algorithms that run it, at their default settings or with another"
    found = {}
    for n in algorithms.__all__:
        for cbs in chains(n).values():
            for cb in cbs: found.setdefault(name_of(cb), {})[n] = True
    return {b: [*ns] for b,ns in found.items()}

def digits(difference):
    "How many digits agree, given the largest relative difference"
    return f'to {min(math.floor(-math.log10(difference)), 16)} digits' if difference else 'bit for bit'

def cell(x): return str(x).replace('|', r'\|').replace('\n', ' ')

def table(head, rows):
    "A table in Markdown"
    return '\n'.join([f"| {' | '.join(head)} |", '|' + '---|'*len(head), *(f"| {' | '.join(map(cell, r))} |" for r in rows)])

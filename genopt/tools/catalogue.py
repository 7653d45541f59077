"""The catalogue as text: every algorithm by family, for `genopt list` and for the page `docs/catalogue.md`. It is made of docstrings, signatures and
chains. How well an algorithm agrees with other libraries is in `parity.json` beside the page, which `tests/measure.py` writes."""

import inspect,math,re,warnings
from functools import partial
import torch
import genopt
from ..contract.names import name_of,rename
from ..optim.hypers import engine_flags
from ..optim.tables import table
from .. import algorithms,blocks
from .compare.specs import Spec,Stored

__all__ = ['listing', 'page', 'sizes']


# -- Docstrings and signatures --

def module_of(m): return m.__name__.rpartition('.')[2]
def family_name(m): return module_of(m).replace('_', ' ')
def text(o): return ' '.join((inspect.getdoc(o) or '').split())
def in_short(o): return text(o).split(' (')[0].split('. ')[0].rstrip('.')                    # up to the paper

def families():
    "The modules with algorithms"
    return [m for m in algorithms.families if m.__all__]

def signature(cls):
    "The signature of an algorithm, without the arguments that all have"
    sig = inspect.signature(cls)
    own = [p for n,p in sig.parameters.items() if n not in engine_flags and n!='nonfinite']
    return f"{cls.__name__}{sig.replace(parameters=own)}"

def first_sentence(doc):
    "The first sentence of `doc`. A full stop in backticks does not end it"
    masked = re.sub(r'`[^`]*`', lambda m: '_'*len(m[0]), doc)
    end = re.search(r'\.(?= [A-Z_]| https?:|$)', masked)
    return doc[:end.start()] if end else doc

def formulas(f):
    """The formulas in the first sentence of a docstring: what is in backticks and has an operator, or the first that has none. Names of arguments
    and settings such as `mom=0.9` are left out"""
    quoted = re.findall(r'`([^`]*)`', first_sentence(text(f)))
    args   = inspect.signature(f).parameters
    found  = [q for q in quoted if q not in args and not re.fullmatch(r'\w+=[\w.]+', q)]
    return [q for q in found if re.search(r'[-+*/^(=<]', q)] or found[:1]

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
    return table(head, rows, right=range(1, 5))

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

{count} algorithms, each a short list of blocks. `genopt list --page docs/catalogue.md` writes this page from the code, and `tests/measure.py` what
is measured. Symbols: parameter p, gradient g, its average m (`grad_avg`), that of its square v (`sqr_avg`), update u, step t, learning rate `lr`,
decay `wd`; at last the parameter moves, `p <- p - lr*u`. Digits are counted by the largest relative difference of any parameter from the other
library's, or from the paper's pseudocode in NumPy, after {steps} steps in float64, with random settings, two groups, and gradients that are
missing now and then. Many libraries count the steps of a whole group, so theirs is an optimizer for each parameter. Where its defaults are other
than ours, the arguments that make it do what ours does by default stand behind its name; where its code is changed for the comparison, what is
changed. State is counted for float32 matrices of 64x32. `genopt.fastai` has fastai's nine under fastai's names.

![Ways of the catalogue over functions of the plane](gallery.png)
"""

def page(parity: dict) -> str:
    "The page in Markdown. `parity`: what `tests/measure.py` measured, by algorithm"
    steps = sorted({e['steps'] for e in parity.values()} or {100})
    out   = [intro.format(count=len(algorithms.__all__), steps=' or '.join(map(str, steps)))]
    for m in families():
        out.append(f"- {link(family_name(m))}: {', '.join(map(link, m.__all__))}")
    out.append('- [the blocks](#the-blocks)')
    for m in families():
        out += ['', f'## {family_name(m)}', '', text(m)]
        for n in m.__all__:
            out += ['', *entry(n, parity.get(n))]
    out += ['', '## the blocks', '', 'Every block with its formula, in the order of the files.']
    for m in blocks.modules:
        if m.__all__:
            out += ['', f'### {module_of(m)}', '', text(m), '']
            out += [f'- <a id="{n}"></a>`{n}`: {text(getattr(m, n))}' for n in m.__all__]
    return '\n'.join(out) + '\n'

def link(title): return f"[{title}](#{title.lower().replace(' ', '-')})"

def entry(name, measured):
    "The lines about one algorithm"
    cls = getattr(genopt, name)
    (_,base),*others = chains(name).items()
    yield from (f'### {name}', '', text(cls), '', '```python', signature(cls), '```', '')
    yield from (f'{i}. {line(cb)}' for i,cb in enumerate(base, 1))
    if others:
        yield ''
    yield from (f'- with `{setting}`: {chain(cbs)}' for setting,cbs in others)
    size,moved = bytes_per_element(name)
    state = f"{size:.3g} bytes for each element" if size else 'none'
    links = ', '.join(f"[paper{f' {i}' if i>1 else ''}]({url})" for i,url in enumerate(papers(cls), 1))
    yield from ('', f"State: {state}; a step moves {moved:.3g}. {agreement(measured)} {links}".rstrip())

def line(cb):
    "A callback: its name, its formulas, and the values and names that it is given"
    f,values,names = unwrapped(cb)
    name  = f'[{name_of(f)}](#{name_of(f)})' if name_of(f) in blocks.__all__ else name_of(f)
    what  = ', '.join(f'`{x}`' for x in formulas(f)) or first_sentence(text(f))
    given = [*(f'`{k}={v}`' for k,v in values.items()), *(f'`{v}` for `{k}`' for k,v in names.items())]
    return f'{name}: {what}' + (f", with {', '.join(given)}" if given else '')

def digits(difference):
    "How many digits agree, given the largest relative difference"
    return f'to {min(math.floor(-math.log10(difference)), 16)} digits' if difference else 'bit for bit'

def agreement(measured):
    "What was measured, in words"
    if not measured:
        return 'Not measured.'
    libraries = []
    for o in (measured['reference'], *measured['peers']):
        version = f" {o['version']}" if o['version'] else ''
        given   = f" with `{o['given']}`" if o.get('given') else ''
        patched = f" (patched: {o['patched']})" if o.get('patched') else ''
        why     = f" but for this: {o['why']}" if o.get('why') else ''
        libraries.append(f"{o['name']}{version}{given}{patched} {digits(o['difference'])}{why}")
    return f"Equals {'; '.join(libraries)}."

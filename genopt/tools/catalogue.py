"""The catalogue as text: every algorithm by family, for `genopt list` and for the page `docs/catalogue.md`, from what the code says of itself.

How well an algorithm agrees with others is measured, by `tests/measure.py`, which keeps it beside the page in `parity.json`."""

import inspect,math,re
from functools import partial
import torch
import genopt
from ..contract.names import name_of,rename
from ..optim.hypers import engine_flags
from .. import algorithms,blocks

__all__ = ['listing', 'page']


# -- What the code says --

def module_of(m): return m.__name__.rpartition('.')[2]
def family_name(m): return module_of(m).replace('_', ' ')
def text(o): return ' '.join((inspect.getdoc(o) or '').split())
def in_short(o): return text(o).split(' (')[0].split('. ')[0].rstrip('.')                    # up to the paper
def make(name, **kw): return getattr(genopt, name)([torch.ones(64, 32, requires_grad=True) for _ in range(2)], **kw)
def signature(cls):
    "As it is called, without the flags that all have"
    sig = inspect.signature(cls)
    return f"{cls.__name__}{sig.replace(parameters=[p for n,p in sig.parameters.items() if n not in (*engine_flags, 'nonfinite')])}"

def chain(cbs): return ' > '.join(map(name_of, cbs))
def chains(name):
    "The callbacks at the default settings; and those of each argument that brings others, when it is switched to the contrary or on"
    cls,base = getattr(genopt, name),[*make(name).cbs]
    res = {'': base}
    for n,d in cls.arguments.items():
        if not isinstance(d, (bool,int,float)) or not isinstance(d, bool) and d: continue
        v = not d if isinstance(d, bool) else .1
        try: cbs = [*make(name, **{n: v}).cbs]
        except (ValueError, TypeError): continue                                            # it needs others beside it
        if chain(cbs)!=chain(base): res[f'{n}={v}'] = cbs
    return res

def shown(cb):
    "What is said of a callback: its function, and what a `partial` gives it or a `rename` calls otherwise"
    given,named = {},{}
    while isinstance(cb, (partial,rename)):
        if isinstance(cb, partial): given = cb.keywords | given
        else: named = cb.names | named
        cb = cb.func
    return name_of(cb),', '.join([*(f'`{k}={v}`' for k,v in given.items()), *(f'`{v}` for `{k}`' for k,v in named.items())]),cb

def first_sentence(doc):
    "Of `doc`, where a full stop within backticks ends nothing"
    masked = re.sub(r'`[^`]*`', lambda m: '_'*len(m[0]), doc)
    end = re.search(r'\.(?= [A-Z_]| https?:|$)', masked)
    return doc[:end.start()] if end else doc

def formulas(f):
    "The formulas in the first sentence of its docstring: what is in backticks, but for names and settings of arguments"
    parts,args = re.findall(r'`([^`]*)`', first_sentence(text(f))),inspect.signature(f).parameters
    parts = [p for p in parts if p not in args and not re.fullmatch(r'\w+=[\w.]+', p)]
    return [p for p in parts if re.search(r'[-+*/^(=<]', p)] or parts[:1]

def bytes_per_element(name):
    "Of state, and of all that a step moves, for two matrices of 64x32 in float32"
    opt = make(name)
    n,told = sum(p.numel() for p in opt.param_groups[0]['params']),opt.explain()
    return told.state/n,told.traffic/n


# -- In a terminal --

def listing(width=None):
    "One line for each algorithm, by family; cut at `width`"
    cut,out = lambda line: line if not width or len(line)<=width else line[:width-1]+'…',[]
    names = max(map(len, algorithms.__all__))
    whats = {n: in_short(getattr(genopt, n)) for n in algorithms.__all__}
    wide  = min(max(map(len, whats.values())), 80)
    for m in algorithms.families:
        if not m.__all__: continue
        out += ['', cut(f'{family_name(m)}: {first_sentence(text(m))}')]
        out += [cut(f'  {n:{names}}  {whats[n]:{wide}}  {chain(make(n).cbs)}') for n in m.__all__]
    return '\n'.join(out[1:])


# -- As a page --

intro = """# The catalogue

{count} algorithms, each a short list of blocks. `genopt list --page docs/catalogue.md` writes this page from the code, and `tests/measure.py` what
is measured. Symbols: parameter p, gradient g, its average m (`grad_avg`), that of its square v (`sqr_avg`), update u, step t, learning rate `lr`,
decay `wd`; at last the parameter moves, `p <- p - lr*u`. Digits are counted by the largest relative difference of any parameter from the other
library's, or from the paper's pseudocode in NumPy, after {steps} steps in float64, with random settings, two groups, and gradients that are
missing now and then. State is counted for float32 matrices of 64x32. `genopt.fastai` has fastai's nine under fastai's names.

![Ways of the catalogue over functions of the plane](gallery.png)
"""

def page(parity):
    "The page, in Markdown; `parity`: what `tests/measure.py` measured, by algorithm"
    steps = {e['steps'] for e in parity.values()} or {100}
    out = [intro.format(count=len(algorithms.__all__), steps=' or '.join(map(str, sorted(steps))))]
    for m in algorithms.families:
        if m.__all__: out.append(f"- [{family_name(m)}](#{slug(family_name(m))}): " + ', '.join(f'[{n}](#{slug(n)})' for n in m.__all__))
    out.append('- [the blocks](#the-blocks)')
    for m in algorithms.families:
        if not m.__all__: continue
        out += ['', f'## {family_name(m)}', '', text(m)]
        for n in m.__all__: out += ['', *entry(n, parity.get(n))]
    out += ['', '## the blocks', '', 'Every block with its formula, in the order of the files.']
    for m in blocks.modules:
        if m.__all__: out += ['', f'### {module_of(m)}', '', text(m), '', *(f'- <a id="{n}"></a>`{n}`: {text(getattr(m, n))}' for n in m.__all__)]
    return '\n'.join(out) + '\n'

def slug(title): return title.lower().replace(' ', '-')

def entry(name, measured):
    "The part of one algorithm"
    cls,(_,base),*others = getattr(genopt, name),*chains(name).items()
    yield from (f'### {name}', '', text(cls), '', '```python', signature(cls), '```', '')
    for i,cb in enumerate(base): yield f'{i+1}. {line(cb)}'
    if others: yield ''
    for setting,cbs in others: yield f'- with `{setting}`: {chain(cbs)}'
    size,moved = bytes_per_element(name)
    links = ', '.join(f'[{title(i)}]({u})' for i,u in enumerate(papers(cls)))
    state = f"{size:.3g} bytes for each element" if size else 'none'
    yield from ('', f"State: {state}; a step moves {moved:.3g}. {agreement(measured)} {links}".rstrip())

def line(cb):
    name,how,f = shown(cb)
    said = ', '.join(f'`{x}`' for x in formulas(f)) or first_sentence(text(f))
    return (f'[{name}](#{name})' if name in blocks.__all__ else name) + f': {said}' + (f', with {how}' if how else '')

def papers(cls):
    "Links in its docstring, in order"
    return dict.fromkeys(u.rstrip('.,;') for u in re.findall(r'https?://[^\s)]+', text(cls)))
def title(i): return 'paper' if not i else f'paper {i+1}'

def digits(difference):
    return 'bit for bit' if not difference else f'to {min(math.floor(-math.log10(difference)), 16)} digits'

def agreement(measured):
    "What was measured, in words"
    if not measured: return 'Not measured.'
    def who(o): return f"{o['name']}{' '+o['version'] if o['version'] else ''}"
    ref   = measured['reference']
    words = [f"{who(ref)} {digits(ref['difference'])}"]
    words+= [f"{who(p)} {digits(p['difference'])}{f' but for this: {own}' if (own := p['why']) else ''}" for p in measured['peers']]
    return f"Equals {'; '.join(words)}."

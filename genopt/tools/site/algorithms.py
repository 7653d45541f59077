"""A page for each algorithm, made of the code, of `docs/parity.json` and `docs/trials.json`, and of what is measured meanwhile."""

import hashlib,inspect,io,json,math,warnings
from dataclasses import dataclass
from functools import cache
from pathlib import Path
import torch
import genopt
from .. import gallery
from ..catalogue import bytes_per_element,chains,digits,families,family_name,first_sentence,make,name_of,papers,table,text,unwrapped
from ..formula import formula
from ... import algorithms as all_algorithms
from ...contract.block import Block,of_model
from ...contract.names import inside
from . import html,trials
from .html import code,prose,signature_code,source

__all__ = ['made']

planes = 'rosenbrock', 'himmelblau', 'saddle'


def made(docs: Path, kept: Path):
    "Every page and picture about algorithms: its place, and what it holds. Paths over functions are kept in the folder `kept`"
    parity = json.loads((docs/'parity.json').read_text(encoding='utf-8'))
    tried  = trials.load(docs)
    paths  = paths_of_all(kept)
    for n in all_algorithms.__all__:
        yield f'catalogue/{n}.md', '\n'.join(page(n, parity.get(n), tried, paths))
        yield f'images/paths/{n}.png', picture(n, paths)


# -- One page --

def page(n, measured, tried, paths):
    cls = getattr(genopt, n)
    opt = make(n)
    family = next(m for m in families() if n in m.__all__)
    yield from (f'# {n}', '', prose(cls), '', f'*Family: [{family_name(family)}](index.md#{family_name(family).replace(" ", "-")})*', '')
    sig = inspect.signature(cls)
    own = sig.replace(parameters=[p for k,p in sig.parameters.items() if k in cls.arguments or k=='params'])
    yield from (code(f'from genopt import {n}\n\n' + signature_code(n, own)), '')
    yield from ('## Formula', '', *formulas(opt), '')
    yield from ('## As blocks', '', *as_blocks(n, opt), '')
    yield from ('## What runs', '', *what_runs(n, opt), '')
    yield from ('## Agreement', '', *agreement(measured), '')
    yield from ('## Learning rates', '', *rates(n), '')
    if tried: yield from ('## Trials', '', *trials.rows_of(n, tried), '')
    yield from ('## Its path', '', f"![Paths of {n} over {', '.join(planes)}](../images/paths/{n}.png)", '')
    yield from ('', f"{steps} steps, at the learning rate that brings it lowest: {rates_found(n, paths)}. Ring: start; star: minimum. "
                "`genopt gallery` draws all algorithms side by side.", '')
    links = [*papers(cls)]
    if links: yield from ('## Papers', '', *(f'- [{html.shown(u)}]({u})' for u in links), '')

def link_of(b):
    if b is None: return 'the move'
    n = b.name
    return html.tag(n, f'../../blocks/{n}/') if html.page_of(n) else f'<code>{n}</code>'

def formulas(opt):
    "The formulas of a chain, made from its recording, then what the symbols stand for, then the source of what is not written out"
    lines = formula(opt)
    shown = ''.join(html.equations(line, link_of(line.block)) for line in lines if line.tex or line.rows)
    yield f'<div class="formula">{shown}</div>'
    yield ''
    yield from (html.symbols(lines), '')
    for line in {line.name: line for line in lines if line.why}.values():
        yield from (f'{html.reason(line)} Its code:', '')
        yield from (code(source(inside(line.block.cb))), '')

def as_blocks(n, opt):
    yield from (code(source(getattr(genopt, n).build)), '')
    (_,base),*others = chains(n).items()
    yield from ('At the default settings it runs:', '')
    yield from (f'{i}. {in_words(cb)}' for i,cb in enumerate(base, 1))
    if others:
        yield from ('', 'An argument may change the list:', '')
        yield table(['with', 'it runs'], [[f'`{setting}`', ' > '.join(linked_name(cb) for cb in cbs)] for setting,cbs in others])

def linked_name(cb):
    n = name_of(cb)
    return f'[{n}](../blocks/{n}.md)' if html.page_of(n) else n

def in_words(cb):
    f,values,names = unwrapped(cb)
    given = [*(f'`{k}={v}`' for k,v in values.items()), *(f'`{v}` for `{k}`' for k,v in names.items())]
    return f"{linked_name(cb)}: {first_sentence(text(f))}" + (f" (with {', '.join(given)})" if given else '')

def what_runs(n, opt):
    "The table of `opt.explain()`, and its numbers in words"
    explained = opt.explain()
    size,moved = bytes_per_element(n)
    yield (f"State: **{size:.3g} bytes** for each element of a matrix in float32. A step moves **{moved:.3g} bytes** for each: it reads parameter, "
           "gradient and state, and writes parameter and state.")
    for rows,note,_ in explained.parts:
        yield from ('', '`opt.explain()` for two matrices of 64x32: ' + note.split('run: ')[-1] + '.', '')
        yield table(['callback', 'reads', 'changes', 'state', 'hypers', 'runs on'], [[f'`{r[0]}`', *r[1:]] for r in rows])

def agreement(measured):
    "How far other libraries agree, and where they differ"
    if not measured:
        yield 'Not measured.'
        return
    yield (f"Largest relative difference of a parameter after {measured['steps']} steps in float64, with random settings, two groups, and gradients "
           "that are missing now and then:")
    yield ''
    yield table(['library', 'version', 'agrees', 'difference', 'but for this'],
                [[of_library(o), o['version'], digits(o['difference']), f"{o['difference']:.0e}" if o['difference'] else '0', o.get('why', '')]
                 for o in (measured['reference'], *measured['peers'])])
    if any(o.get('given') for o in (measured['reference'], *measured['peers'])):
        yield from ('', "*With*: the library has other defaults, and these arguments make it do what genopt does by default.")
    if any(o.get('patched') for o in (measured['reference'], *measured['peers'])):
        yield from ('', "*Patched*: the comparison changes the library's code, as said.")
    if any(o.get('why') for o in measured['peers']):
        yield from ('', "*But for this*: the library differs in what the last column says. The digits are those of the same list of blocks with just "
                    "that difference.")

def of_library(measured):
    "A library's name, the arguments that it was given, and what was changed in its code"
    given   = f" with `{measured['given']}`" if measured.get('given') else ''
    patched = f" (patched: {measured['patched']})" if measured.get('patched') else ''
    return measured['name'] + given + patched


# -- Learning rates --

def rates(n):
    "Defaults, how far a step moves, and what follows for the rate"
    cls = getattr(genopt, n)
    yield table(['argument', 'default'], [[f'`{k}`', f'`{v!r}`'] for k,v in cls.arguments.items()])
    far = steps_of(n)
    if far is None:
        yield from ('', 'It asks the model for more than a gradient, so how far a step moves depends on the model.')
        return
    yield ''
    yield (f"With gradients of pure noise of size 1, and weights of size 0.1, a step moves an element by **{far.early:.2g} lr** (root mean square, "
           f"of steps 11 to 30). With gradients a hundred times smaller it is {far.small_gradients:.2g} lr, with weights ten times smaller "
           f"{far.small_weights:.2g} lr, and around step 200 {far.late:.2g} lr.")
    yield from ('', advice(n, far))

@dataclass
class Far:
    "Root mean square of a step over `lr`: of steps 11 to 30, also with smaller gradients and weights, and of steps 191 to 210"
    early: float
    small_gradients: float
    small_weights: float
    late: float

def advice(n, far):
    "What it says of the rate"
    by_gradient,by_weight,change = far.early/far.small_gradients,far.early/far.small_weights,far.late/far.early
    if far.early<1e-4:
        return "Its first steps are tiny, and grow as it learns the distance to go: leave `lr` at its default, and change only its schedule."
    if by_gradient>30:
        return ("Its steps are in proportion to the gradients, so a good rate depends on the model, the loss and the batch size: search powers of "
                "ten, then factors of three, and warm up or clip if the first steps diverge.")
    if by_gradient>3: return "Its steps depend on the size of the gradients to some degree, so search the rate anew for another model."
    if by_weight>3:
        return ("Its steps are in proportion to the weights of a tensor, whatever the size of the gradients: `lr` sets the relative change that a "
                "step makes, the same for all layers.")
    scale = "Its steps do not depend on the size of the gradients, so the rate need not follow their scale."
    if not .67<change<1.5: return f"{scale} They {'grow' if change>1 else 'shrink'} over the first hundreds of steps."
    ratio = steps_of('AdamW').late/far.late
    if n=='AdamW': return scale
    if .9<ratio<1.1: return f"{scale} It moves as far as AdamW at the same rate."
    return f"{scale} To move as far as a tuned AdamW, begin with {ratio:.2g} times its rate."

@cache
def steps_of(n):
    "How far the algorithm `n` moves. None where it asks the model"
    if any(of_model & {*Block(cb).reads} for cb in make(n).cbs): return None
    return Far(distance(n, 1., .1, 30), distance(n, .01, .1, 30), distance(n, 1., .01, 30), distance(n, 1., .1, 210))

def distance(n, gradient, weight, until):
    "Root mean square over `lr` of the 20 steps up to step `until`, with gradients and weights of noise of these sizes"
    torch.manual_seed(0)
    p = torch.nn.Parameter(torch.randn(64, 32)*weight)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        opt,moved = getattr(genopt, n)([p]),[]
        for _ in range(until):
            p.grad = torch.randn(64, 32)*gradient
            before = p.detach().clone()
            opt.step()
            moved.append((p.detach()-before).square().mean().item())
    return math.sqrt(sum(moved[-20:])/20)/opt.param_groups[0]['lr']


# -- Paths --

steps = 200

def paths_of_all(kept):
    "What `genopt gallery` finds, kept in a file by what the code is, because it takes a minute"
    root = Path(genopt.__file__).parent
    text = b''.join(f.read_bytes() for f in sorted(root.rglob('*.py')) if 'tools' not in f.parts or f.name=='gallery.py')
    path = kept/f"paths-{hashlib.sha256(text).hexdigest()[:16]}.json"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(gallery.gallery(', '.join(planes), None, steps)))
    return gallery.by_pair(json.loads(path.read_text()))

def rates_found(n, paths): return ', '.join(f"{paths[n,f]['lr']:g} on {f}" for f in planes if (n,f) in paths) or 'none was found'

def picture(n, paths):
    "The paths of one algorithm, a function beside the other"
    from matplotlib.figure import Figure
    fig = Figure(figsize=(9, 3.3), layout='constrained')
    for name,ax in zip(planes, fig.subplots(1, len(planes))):
        gallery.draw_function(ax, gallery.functions[name])
        ax.set_title(f"{name}\n{gallery.functions[name].formula}", fontsize=9)
        if (n,name) in paths: gallery.draw_path(ax, paths[n,name]['path'], gallery.colors[0])
        else: ax.text(.5, .5, 'not defined here', transform=ax.transAxes, ha='center')
    out = io.BytesIO()
    fig.savefig(out, format='png', dpi=100)
    return out.getvalue()


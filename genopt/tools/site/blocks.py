"""A page for each block: its formula, its declaration, and which algorithms use it."""

from functools import cache
from ..catalogue import make,module_of,table,uses
from ..formula import formula_of_block,kinds_of
from ... import algorithms,blocks
from ...contract.block import Block
from . import html
from .html import code,prose,source

__all__ = ['made']


def made(docs, kept):
    "Every page about blocks: its place, and what it holds"
    for m in blocks.modules:
        for n in m.__all__: yield f'blocks/{n}.md', '\n'.join(page(n, m))

@cache
def kinds():
    "What the names of the whole catalogue are, to record a block by itself"
    return kinds_of(*map(make, algorithms.__all__))

def page(n, m):
    f = getattr(m, n)
    yield from (f'# {n}', '', prose(f), '', f'*One of the [{module_of(m)}](index.md#{module_of(m)}).*', '')
    line = formula_of_block(f, kinds())
    if (line.tex or line.rows) and not line.why:
        yield from ('## Formula', '', f'<div class="formula">{html.equations(line, "")}</div>', '')
        yield from (html.symbols([line]), '', "A prime marks the new value of what is read.", '')
    yield from ('## Code', '')
    if line.why: yield from (html.reason(line), '')
    yield from (code(source(f)), '')
    yield from ('## Declaration', '', *declaration(f), '')
    yield from ('## Used by', '')
    found = uses().get(n, [])
    links = [f'[{a}](../catalogue/{a}.md)' for a in found]
    yield ', '.join(links) or 'No algorithm of the catalogue uses it; it is there for lists of your own.'

def declaration(f):
    "What the signature says: what the block reads, its hyper-parameters with their ranges, its states"
    b = Block(f)
    rows = [[f'`{n}`', 'is read', ''] for n in b.reads if n not in b.hypers and b.lists.get(n, n) not in b.state]
    rows+= [[f'`{n}`', 'hyper-parameter', f"`{v!r}`" + (f", in `{b.ranges[n]}`" if n in b.ranges else '')] for n,v in b.hypers.items()]
    rows+= [[f'`{n}`', 'state', f'starts as `{init}`'] for n,init in b.state.items()]
    if rows: yield table(['name', 'is', 'default'], rows)
    else: yield 'It reads nothing.'

"""One round on one tile, in Triton: where its elements lie, how they are loaded and stored, and the
arithmetic between. `triton_emit.py` makes kernels of it, and has an example."""

import re
from ..lower.operations import reduction
from ..lower.values import ELEMENTS
from .names import operands
from .rounding import word_of
from .triton import indented

__all__ = ['Tile', 'row_of', 'unscaled', 'unscaling']

# What a tile has of blocks that join several of its rows
of_joined = 'row', 'i', 'inside', 'rows'


def row_of(names, text, mask=''):
    "The statement that finds the row of scalars of parameter `t`, if `text` reads it"
    if not re.search(r'\bs\b', text):
        return []
    row = names.slot_at(names.row, mask)
    return [f's = scalars + {row}*{names.row_width}']


class Tile:
    """The arithmetic of one round on one tile: what it loads, computes, reduces and stores. `codes`:
    the writers of codes"""

    def __init__(self, names, flat, scope, elements, reduced, stores, codes):
        self.names, self.scope, self.codes = names, scope, codes
        self.elements, self.reduced, self.stores = elements, reduced, stores
        read = [*operands([*elements, *reduced]), *stores.values()]
        self.loads = {
            v.name: v for v in read if v.kind == ELEMENTS and v.name in flat.loads
        }
        moved = [*dict.fromkeys([*self.loads, *stores])]
        self.pointers = [*moved, *(b for n in moved for b in names.beside(n))]
        self.find_blocks(moved)
        for v in (*elements, *reduced):
            scope.prepare(v)
        for v in stores.values():
            scope.need(v)
        self.unscaling = unscaling(names) if 'grad' in self.loads else []
        self.salts = [self.salt(n) for n in stores if names.stochastic(n)]
        draws = [v for v in elements if v.draw is not None]
        self.draws = [f'{names.drawn(v)} = {names.fill(v)}' for v in draws]

    def find_blocks(self, moved):
        """Find how the tile is cut into the blocks of codes. `sizes`: of blocks; `joined`: those that
        join several rows; `in_rows`: a row is a block; `places`: the names of what `tile` computes"""
        blocks = {n: c.block for n in moved if (c := self.names.code(n))}
        written = {size for n, size in blocks.items() if n in self.stores}
        self.sizes = sorted({*blocks.values()})
        self.joined = sorted(written - {*self.sizes[:1]})
        self.in_rows = bool(written)
        self.places = ['i', 'inside', *['rows'] * bool(self.sizes)]
        self.places += [f'j{size}' for size in self.sizes]
        self.places += [f'{x}_{size}' for size in self.joined for x in of_joined]

    def salt(self, n):
        "The statement that computes what the random bits for `n` come from"
        names = self.names
        given = f'tl.load(rounding), {word_of(n)}, {names.slot_at(names.key)}'
        return f'h{names.slots[n]} = salt({given})'

    def body(self):
        "The lines of the function for one tile, and what it is given"
        names, slots = self.names, self.names.slots
        define = [names.define(v) for v in self.elements]
        define += self.results()
        stores = {n: names.text(v, names.compute_dtype) for n, v in self.stores.items()}

        def moves(mask, fill):
            load = [
                f'{names.of(v)} = {self.load(n, mask + fill)}'
                for n, v in self.loads.items()
            ]
            store = [self.store(n, text, mask) for n, text in stores.items()]
            return load, flattened(store)

        full, partial = moves('', ''), moves(', inside', ', other=0.0')
        lines = []
        if self.loads:
            lines += ['if FULL:', *indented(full[0]), 'else:', *indented(partial[0])]
        lines += define
        if stores:
            lines += ['if FULL:', *indented(full[1]), 'else:', *indented(partial[1])]
        else:
            lines.append(
                f'return {", ".join(f"x{j}" for j in range(len(self.reduced)))}'
            )
        given = *self.salts, *self.unscaling, *self.draws, *self.scope.lines
        known = assigned(given)
        self.inner = [n for n in known if uses(lines, n)]
        return lines, [
            *self.places,
            *(f'm{slots[n]}' for n in self.pointers),
            *self.inner,
        ]

    def results(self):
        names = self.names
        return [
            f'x{j} = {reduction(v).element(names.d, *(names.text(o, names.compute_dtype) for o in v.operands))}'
            for j, v in enumerate(self.reduced)
        ]

    def load(self, n, mask):
        names = self.names
        if code := names.code(n):
            i, j = names.slots[n], names.scale_slot(n)
            rows = mask.replace('inside', 'rows')
            q, scale = (
                f'tl.load(m{i} + i{mask.replace("0.0", "0")})',
                f'tl.load(m{j} + j{code.block}{rows})',
            )
            text = self.codes[code].load(q, scale)
            return text if names.d.single else f'{text}.to({names.d.T})'
        text = names.d.load(names.dtypes[n], f'm{names.slots[n]} + i', mask)
        if names.pair(n):
            function, rest = names.pair_function('load', n), names.beside(n)[0]
            other = names.d.load(names.dtypes[rest], f'm{names.slots[rest]} + i', mask)
            return f'{function}({text}, {other})'
        return unscaled(names, n, text)

    def store(self, n, text, mask):
        names, i = self.names, self.names.slots[n]
        if names.code(n):
            return self.store_codes(n, text, mask)
        if names.pair(n):
            return self.store_pair(n, text, mask)
        if names.stochastic(n):
            return f'tl.store(m{i} + i, at_random(tl.cast({text}, tl.float32), h{i}, i){mask})'
        return names.d.store(names.dtypes[n], f'm{i} + i', text, mask)

    def store_pair(self, n, text, mask):
        "The statements that write a parameter and what is beside it"
        names, i, lines = self.names, self.names.slots[n], []
        x, random = f'x{i}', [f'r{i}'] * names.stochastic(n)
        for part, m in zip(('first', 'rest'), (n, *names.beside(n))):
            value = f'{names.pair_function(part, n)}({", ".join([x, *random])})'
            place = f'm{names.slots[m]} + i'
            lines.append(names.d.store(names.dtypes[m], place, value, mask))
        words = [f'{r} = word(h{i}, i)' for r in random]
        return [f'{x} = tl.cast({text}, tl.float32)', *words, *lines]

    def store_codes(self, n, text, mask):
        "The statements that write a block of codes in each row, and their scales"
        names, i, j = self.names, self.names.slots[n], self.names.scale_slot(n)
        code = self.codes[names.code(n)]
        size = code.code.block
        end = f'_{size}' if size in self.joined else ''
        at, inside, rows = f'i{end}', f'inside{end}', f'rows{end}'
        block = f'row{end}' if end else f'j{size}'
        x = f'tl.cast({text}, tl.float32)'
        if mask:
            x = f'tl.where(inside, {x}, 0.0)'
        if end:
            x = f'tl.reshape({x}, {at}.shape)'
        noise = f'random_part(h{i}, {at})' if names.stochastic(n) else ''
        return [
            f'x{i} = {x}',
            f'c{i} = {code.scale(f"x{i}")}',
            f'tl.store(m{i} + {at}, {code.store(f"x{i}", f"c{i}", noise)}{mask.replace("inside", inside)})',
            f'tl.store(m{j} + {block}, c{i}{mask.replace("inside", rows)})',
        ]

    def outer(self):
        "What a program loads before it comes to the elements"
        names, lines = self.names, [*self.salts, *self.unscaling]
        for n in self.pointers:
            j = names.slots[n]
            lines.append(f'a{j} = {names.slot_at(j)}')
        return [*row_of(names, '\n'.join(self.scope.lines)), *lines, *self.scope.lines]

    def tile(self, place):
        """The elements `i` of the tile. If states are in codes, also which block `j256` of 256 elements
        each is in. Where codes are written, a row of the tile is a block: the smallest, if there
        are blocks of several sizes. The larger ones join some rows"""
        start = f'start = {place}.to(tl.int64)*BLOCK'
        inside = 'inside = i < size'
        flat = 'i = start + tl.arange(0, BLOCK)'
        if not self.sizes:
            return [start, flat, inside, *self.draws]
        if not self.in_rows:
            blocks = [f'j{n} = i // {n}' for n in self.sizes]
            return [start, flat, *blocks, inside, 'rows = inside', *self.draws]
        width = self.sizes[0]
        first = f'first = start + tl.arange(0, BLOCK // {width})[:, None] * {width}'
        lines = [
            start,
            first,
            f'i = first + tl.arange(0, {width})[None, :]',
            *(f'j{n} = first // {n}' for n in self.sizes),
            inside,
            'rows = first < size',
            *self.draws,
        ]
        for n in self.joined:
            lines += [
                f'row_{n} = start // {n} + tl.arange(0, BLOCK // {n})[:, None]',
                f'i_{n} = row_{n} * {n} + tl.arange(0, {n})[None, :]',
                f'inside_{n} = i_{n} < size',
                f'rows_{n} = row_{n} * {n} < size',
            ]
        return lines

    def both(self, body):
        """The statement that calls `body` for a full tile whose addresses can all be divided by 16,
        or for another. The hint makes accesses of 128 bits; it stands where the pointer is made,
        because a function forgets the hints of its arguments"""
        names = self.names
        pointers = [names.pointer(n, f'a{names.slots[n]}') for n in self.pointers]
        hinted = [f'tl.multiple_of({x}, 16)' for x in pointers]
        addresses = ' | '.join(f'a{names.slots[n]}' for n in self.pointers)

        def call(pointers, full):
            given = [f'    {x},' for x in (*pointers, ', '.join([*self.inner, full]))]
            places = f'    {", ".join(self.places)},'
            return indented([f'{body}(', places, *given, ')'])

        aligned = f' & (({addresses}) % 16 == 0)' if addresses else ''
        return [
            f'if (start + BLOCK <= size){aligned}:',
            *call(hinted, 'True'),
            'else:',
            *call(pointers, 'False'),
        ]


def unscaling(names):
    """What gradients are multiplied by, if there is a gate. A GradScaler has a power of 2. 0 if the
    gate is closed and the stage hands on: calls get what gradients of zero come to, because some
    callbacks raise an error if a value is not finite"""
    u = '1.0 / tl.load(scale)'
    if names.hands_on:
        u = f'tl.where(tl.load(flag) == 0.0, {u}, 0.0)'
    return [f'u = ({u}).to({names.d.T})'] * names.gated


def unscaled(names, n, text):
    if not names.gated or n != 'grad':
        return text
    return f'tl.where(u == 0.0, 0.0, {text} * u)' if names.hands_on else f'({text} * u)'


def flattened(lines):
    "The same with those in lists"
    return [x for line in lines for x in (line if isinstance(line, list) else [line])]


def assigned(lines):
    return [line.split(' = ')[0] for line in lines]


def uses(lines, name):
    return any(re.search(rf'\b{name}\b', line) for line in lines)

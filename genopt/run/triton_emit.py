"""Kernels in Triton: a stage, or all stages of a program, as a few functions that go over all
parameters of a program, wherever they lie in memory. The table has a row of addresses for each
name, as in C. There are two kinds of kernels. SGD with momentum needs one of the first kind:

    a tile kernel      a program of it takes one tile of one parameter, or some tiles that reduce

    @jit
    def body_0(i, inside, m0, m1, m2, s0, s1, s2, FULL: tl.constexpr):
        if FULL:                                    # all addresses can be divided by 16
            m0 = tl.multiple_of(m0, 16)
            e0 = tl.load(m0 + i)                    # 128 bits at once
            ...
        else:
            e0 = tl.load(m0 + i, inside, other=0.0)
            ...
        v5 = (e2 * s0)
        v7 = tl.fma(s1, e1, v5)
        v9 = tl.fma((-s2), v7, e0)
        tl.store(m0 + i, v9)
        ...

    a single kernel    a program of it takes many parameters, one in each lane: it adds up what
                       tiles have reduced, does the arithmetic on single numbers, and reduces over
                       all parameters

For LAMB, whose step is scaled by the ratio of two norms, these alternate:

    tile kernel      partial sums of the squares of weights and updates, one for each segment
    single kernel    the sums in order, the norms, their ratio
    tile kernel      the move

What one kernel hands to the next lies in memory: `partials` of segments, `singles` of parameters,
`crosses` of all. A kernel ends before the next begins, and within a single kernel there is a
barrier between its parts. Nothing is atomic, and sums have a fixed order, so bits repeat."""

import re
from dataclasses import dataclass
from ..lower.operations import reduction
from ..lower.values import CROSS, ELEMENTS, SCALAR, SINGLE
from .emit_cross import computed, name_of
from .names import operands
from .rounding import word_of
from .triton import arguments, prelude, starts
from .triton_codes import TritonCode
from .triton_names import Scope, singles_of_elements

__all__ = ['KernelCall', 'look', 'sequence']

# What a tile has of blocks that join several of its rows
of_joined = 'row', 'i', 'inside', 'rows'
joins = {'+': 'add', 'max': 'max', 'min': 'min'}
in_lanes = ', here, other=0.0'
own_lane = ['t = b + tl.arange(0, LANES)', 'here = t < n']


@dataclass(frozen=True)
class KernelCall:
    """A kernel of a sequence. `name`: of its function; `takes`: its arguments, of those in
    `triton.arguments`; `grid`: how many programs run it: `'tiles'`, `'segments'`, `'chunks'`,
    `'lanes'` (as many as take all parameters) or `'one'`. `reads` and `writes`: the names of the
    elements that it moves"""

    name: str
    takes: tuple
    grid: str
    reads: tuple = ()
    writes: tuple = ()


def sequence(program, names, stages, prefix):
    """The source of kernels that run `stages`, numbers of stages of `program`, and the list of
    `KernelCall`s in order. `prefix`: of the names of the functions. All stages run with the cross
    reductions between; one stage leaves these to whoever launches it"""
    writer = SequenceWriter(program, names, prefix)
    one_call = len(stages) == len(program.stages)
    for k in stages:
        stage = program.stages[k]
        if stage.flat:
            writer.flat(stage.flat)
        if one_call:
            writer.cross(stage)
    writer.close()
    code = '\n'.join(writer.code)
    for c in reversed(writer.codes.values()):
        code = '\n'.join([*c.source(code), code])
    legend = [f'm{i}: {n}' for n, i in names.slots.items()]
    legend += [f's{i}: {n}' for n, i in names.scalars.items()]
    return f'# {", ".join(legend)}\n{prelude(code)}\n{code}', writer.calls


def look(names):
    """The source of a kernel, called `look`, that marks the tiles of gradients that have an element
    whose square is not finite, and then closes the gate, if there is one. Also what it takes"""
    slot, T = names.slots['grad'], names.d.T
    bad = f'all_max(tl.where(bad, 1.0, 0.0).to({T}))'
    tell = [f'found = {bad}', 'tl.store(partials + k, found)']
    if names.gated:
        tell += ['if found != 0.0:', '    tl.store(flag, 1.0)']
    element = names.d.load(names.dtypes['grad'], 'm + i', ', inside, other=0.0')
    main = [
        'k = tl.program_id(0)',
        't = tl.load(tiles + 2*k)',
        'i = tl.load(tiles + 2*k + 1).to(tl.int64)*BLOCK + tl.arange(0, BLOCK)',
        f'inside = i < {names.slot_at(names.numel)}',
        f'm = {names.pointer("grad", names.slot_at(slot))}',
        *unscaling(names),
        f'x = {unscaled(names, "grad", element)}',
        'bad = ((x*x - x*x) == 0.0) == False',
        *tell,
    ]
    gate = ['flag', 'scale'] * names.gated
    takes = ['table', 'tiles', 'partials', *gate, 'n', 'BLOCK']
    head = f'def look({", ".join(takes)}: tl.constexpr):'
    code = '\n'.join(['@jit', head, *indented(main)])
    return f'{prelude(code)}\n{code}\n', takes


class SequenceWriter:
    """Writes one kernel after the other. `kept`: the single numbers that the kernels so far have
    written to `singles`. `parts`: the single kernel that is being written"""

    def __init__(self, program, names, prefix):
        self.program, self.names, self.prefix = program, names, prefix
        self.code, self.calls, self.kept, self.parts = [], [], {}, []
        self.codes = {c: TritonCode(c, k) for k, c in enumerate(names.codes)}

    def function(self, name, body, extra=()):
        "Write a function with those arguments that its body uses. Returns these"
        text = '\n'.join(body)
        takes = tuple(a for a in arguments if re.search(rf'\b{a}\b', text))
        given = [
            f'{a}: tl.constexpr' if arguments[a] == 'constexpr' else a for a in takes
        ]
        head = f'def {name}({", ".join([*extra, *given])}):'
        self.code += ['@jit', head, *indented(body), '']
        return takes

    def flat(self, flat):
        "Write the rounds of a flat part"
        names, last = self.names.of_stage(flat), len(flat.rounds) - 1
        for k, r in enumerate(flat.rounds):
            new = [v for v in r.reduced if v not in self.kept]
            if new:
                self.reducing(names, flat, r, new)
            elif k == last:
                self.hand_out(names, flat)
                if flat.stores:
                    self.close()
                    self.tiles(names, flat, r)

    # -- Tile kernels --

    def tiles(self, names, flat, r):
        "The kernel that goes over the tiles of all parameters, and writes"
        name = self.name()
        scope = Scope(names, self.kept)
        tile = Tile(names, flat, scope, r.elements, (), flat.stores, self.codes)
        self.body(name, tile)
        main = [
            'k = tl.program_id(0)',
            't = tl.load(tiles + 2*k)',
            f'size = {names.slot_at(names.numel)}',
            *tile.outer(),
            *tile.tile('tl.load(tiles + 2*k + 1)'),
            *tile.both(f'body_{name}'),
        ]
        if names.gated and not names.hands_on:
            main = ['if tl.load(flag) == 0.0:', *indented(main)]
        self.call(name, main, 'tiles', tile)

    def reducing(self, names, flat, r, new):
        "The kernel that leaves a partial result for each segment, and the part that joins them"
        self.keep_for(names, operands([*r.elements, *new]))
        self.close()
        name = self.name()
        elements = needed(r.elements, new)
        scope = Scope(names, self.kept)
        tile = Tile(names, flat, scope, elements, new, {}, self.codes)
        self.body(name, tile)
        signs = [reduction(v).sign for v in new]
        results = ', '.join(f'x{j}' for j in range(len(new)))
        loop = [*tile.tile('(first + j)'), *tile.both(f'{results} = body_{name}')]
        loop += [
            f'acc{j} = join_{joins[s]}(acc{j}, tl.where(inside, x{j}, {starts[s]}))'
            for j, s in enumerate(signs)
        ]
        main = [
            'k = tl.program_id(0)',
            't = tl.maximum(tl.load(segments + 4*k), 0)',
            'first = tl.load(segments + 4*k + 1)',
            f'size = {names.slot_at(names.numel)}',
            *tile.outer(),
            *(
                f'acc{j} = tl.full((BLOCK,), {starts[s]}, {names.d.T})'
                for j, s in enumerate(signs)
            ),
            'for j in tl.range(0, tl.load(segments + 4*k + 2)):',
            *indented(loop),
            *(
                f'tl.store(partials + {j}*chunks*LANES + k, all_{joins[s]}(acc{j}))'
                for j, s in enumerate(signs)
            ),
        ]
        self.call(name, main, 'segments', tile)
        self.parts.append(self.join(names, new, signs))

    def body(self, name, tile):
        "The function for the elements of one tile"
        code, extra = tile.body()
        self.code += [
            '@jit',
            f'def body_{name}({", ".join([*extra, "FULL: tl.constexpr"])}):',
            *indented(code),
            '',
        ]

    # -- Single kernels --

    def join(self, names, new, signs):
        "The part that joins the partial results of each parameter, in the lane of its last segment"
        head = [
            'j = c*LANES + tl.arange(0, LANES)',
            'parameter = tl.load(segments + 4*j)',
            'here = tl.load(segments + 4*j + 3) != 0',
            't = tl.maximum(parameter, 0)',
        ]
        size = names.slot_at(names.numel, ', here, other=1')
        lines = [f'size = {size}.to({names.d.T})']
        for j, (v, sign) in enumerate(zip(new, signs)):
            partial = f'tl.load(partials + {j}*chunks*LANES + j)'
            lines += [
                f'x{j} = running_{joins[sign]}(parameter, {partial})',
                f'{names.of(v)} = {reduction(v).end(names.d, f"x{j}", "size")}',
                f'tl.store({names.kept_at(v)}, {names.of(v)}, here)',
            ]
            self.kept[v] = True
        loop = 'for c in tl.range(tl.program_id(0), chunks, tl.num_programs(0)):'
        return Part(loop, head, lines, {*new}, 'chunks')

    def lanes(self):
        """The part in which each lane has a parameter: that which joins, if it is the last one, or
        a new one"""
        if not self.parts or self.parts[-1].grid == 'one':
            steps = 'tl.program_id(0)*LANES, n, tl.num_programs(0)*LANES'
            loop = f'for b in tl.range({steps}):'
            self.parts.append(Part(loop, own_lane, [], set(), 'lanes'))
        return self.parts[-1]

    def keep_for(self, names, values):
        "Let the single kernel that is being written, if there is one, keep those of `values`"
        if self.parts:
            self.keep(names, [v for v in values if v.kind == SINGLE])

    def keep(self, names, values, also=()):
        """Write `values` to `singles`, and what `also` says, pairs of a pointer and a value, behind
        all that is read"""
        new = [v for v in dict.fromkeys(values) if v not in self.kept]
        if not new and not also:
            return
        part = self.lanes()
        scope = Scope(names, self.kept, in_lanes)
        scope.known |= part.known
        for v in (*new, *(v for _, v in also)):
            scope.need(v)
        part.lines += scope.lines
        part.lines += [
            f'tl.store({at}, {names.text(v, names.compute_dtype)}, here)'
            for at, v in [(names.kept_at(v), v) for v in new]
        ]
        # a load of lanes, because Triton's interpreter joins no lanes with a single bool
        may = 'here & (tl.load(flag + 0*t) == 0.0)' if names.gated else 'here'
        part.lines += [
            f'tl.store({at}, {names.text(v, names.compute_dtype)}, {may})'
            for at, v in also
        ]
        part.known |= scope.known
        self.kept |= dict.fromkeys(new, True)

    def hand_out(self, names, flat):
        "Hand out leaves, write single numbers that are states, and keep what the last tiles read"
        written = []
        for n, v in flat.single_stores.items():
            address = names.slot_at(names.slots[n], ', here, other=0')
            written.append((names.pointer(n, address), v))
        if flat.leaves or written:
            self.keep(names, [*flat.leaves, *singles_of_elements(flat)], written)
        else:
            self.keep_for(names, singles_of_elements(flat))

    def cross(self, stage):
        "The part that reduces over all parameters, and does the arithmetic on that"
        values = [*stage.cross_reductions, *stage.cross_arithmetic]
        if not values:
            return
        names, here = self.names, {*values}
        lines = []
        for o in operands(values):
            if o.kind == SCALAR:
                lines.append(
                    f'{names.of(o)} = tl.load(scalars + {names.scalars[o.name]})'
                )
            elif o.kind == CROSS and o not in here:
                lines.append(
                    f'{name_of(o, names)} = tl.load(crosses + {names.crosses[o.name]})'
                )
        for v in values:
            lines += computed(v, names, self.reduced)
        for v in values:
            if v.name in names.crosses:
                text = names.d.number(name_of(v, names))
                lines.append(f'tl.store(crosses + {names.crosses[v.name]}, {text})')
        self.parts.append(Part(None, [], lines, set(), 'one'))

    def reduced(self, v, sign, members, element, end):
        "The statements that reduce over all parameters"
        T, start = self.names.d.T, starts[sign]
        total = f'total_{v.name}'
        take = [
            *own_lane,
            *members,
            f'{total} = join_{joins[sign]}({total}, tl.where(here, {element}, {start}))',
        ]
        joined = f'all_{joins[sign]}({total})'
        return [
            f'{total} = tl.full((LANES,), {start}, {T})',
            'for b in tl.range(0, n, LANES):',
            *indented(take),
            f'c_{v.name} = {end(self.names.d, joined, f"n.to({T})")}',
        ]

    def close(self):
        "Write the single kernel whose parts are there"
        if not self.parts:
            return
        name, main, grids = self.name(), [], [p.grid for p in self.parts]
        for j, part in enumerate(self.parts):
            takes = self.function(f'part_{name}_{j}', part.body(self.names))
            # a part reads what other threads of this program have written before the barrier
            main += ['tl.debug_barrier()'] * (j > 0)
            main.append(f'part_{name}_{j}({", ".join(takes)})')
        self.parts = []
        self.call(name, main, grids[0] if len(grids) == 1 else 'one')

    # -- Both --

    def name(self):
        return f'{self.prefix}_{len(self.calls)}'

    def call(self, name, main, grid, tile=None):
        moved = ((*tile.loads,), (*tile.stores,)) if tile else ()
        self.calls.append(KernelCall(name, self.function(name, main), grid, *moved))


@dataclass
class Part:
    """A part of a single kernel. `loop`: over parameters, or None. `head` says of each lane which
    parameter it has; then come `lines`. `known`: what they have loaded or computed"""

    loop: str
    head: list
    lines: list
    known: set
    grid: str

    def body(self, names):
        if not self.loop:
            return self.lines
        row = row_of(names, '\n'.join(self.lines), ', here, other=0')
        return [self.loop, *indented([*self.head, *row, *self.lines])]


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
        self.sizes = sorted({c.block for n in moved if (c := names.code(n))})
        written = {c.block for n in stores if (c := names.code(n))}
        self.joined = sorted(written - {*self.sizes[:1]})
        self.in_rows = bool(written)
        self.places = ['i', 'inside', *['rows'] * bool(self.sizes)]
        self.places += [f'j{size}' for size in self.sizes]
        self.places += [f'{x}_{size}' for size in self.joined for x in of_joined]
        self.pointers = [*moved, *(b for n in moved for b in names.beside(n))]
        for v in (*elements, *reduced):
            scope.prepare(v)
        for v in stores.values():
            scope.need(v)
        self.unscaling = unscaling(names) if 'grad' in self.loads else []
        # what the random bits for a name come from
        key = names.slot_at(names.key)
        self.salts = [
            f'h{names.slots[n]} = salt(tl.load(rounding), {word_of(n)}, {key})'
            for n in stores
            if names.stochastic(n)
        ]
        draws = [v for v in elements if v.draw is not None]
        self.draws = [f'{names.drawn(v)} = {names.fill(v)}' for v in draws]

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


def needed(elements, reduced):
    "Those of `elements`, in order, that `reduced` are made of"
    found, waiting = set(), [*operands(reduced)]
    while waiting:
        v = waiting.pop()
        if v in elements and v not in found:
            found.add(v)
            waiting += v.operands
    return [v for v in elements if v in found]


def flattened(lines):
    "The same with those in lists"
    return [x for line in lines for x in (line if isinstance(line, list) else [line])]


def assigned(lines):
    return [line.split(' = ')[0] for line in lines]


def uses(lines, name):
    return any(re.search(rf'\b{name}\b', line) for line in lines)


def indented(lines):
    return [f'    {line}' for line in lines]

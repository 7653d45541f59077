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
barrier between its parts. Nothing is atomic, and sums have a fixed order, so bits repeat.

`triton_tile.py` writes what a tile kernel does with one tile."""

import re
from dataclasses import dataclass
from ..lower.operations import reduction
from ..lower.values import CROSS, SCALAR, SINGLE
from .emit_cross import computed, name_of
from .names import operands
from .triton import arguments, indented, prelude, starts
from .triton_codes import TritonCode
from .triton_names import Scope, singles_of_elements
from .triton_tile import Tile, row_of, unscaled, unscaling

__all__ = ['KernelCall', 'look', 'sequence']

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


def needed(elements, reduced):
    "Those of `elements`, in order, that `reduced` are made of"
    found, waiting = set(), [*operands(reduced)]
    while waiting:
        v = waiting.pop()
        if v in elements and v not in found:
            found.add(v)
            waiting += v.operands
    return [v for v in elements if v in found]

"""What the values of a program are called in Triton, and where they lie in memory. Names are those
of `names.py`. A function has its parameter `t`: one number, or a number for each lane. Of lanes
`here` says which are in use."""

import torch
from ..lower.operations import cross_kind, divisor
from ..lower.values import CROSS, ELEMENTS, SCALAR, SINGLE
from .names import Names, moves, numbered, operands
from .random import kind_of

__all__ = ['Scope', 'TritonNames']


class TritonNames(Names):
    """`gated`: kernels write only where a gate lets them, and divide gradients by its scale.
    `hands_on`: the stage writes scratch memory, which it does behind a closed gate too. `kept`: the
    places of single numbers that kernels hand to later kernels, and of those that are handed
    out. `numel`, `row` and `key`: the rows of the table behind those of addresses"""

    def __init__(self, program, scalars, dtypes, d):
        super().__init__(program, scalars, dtypes, d)
        flats = [s.flat for s in program.stages if s.flat]
        read = [o for f in flats for o in singles_of_elements(f)]
        for v in (*self.leaves, *read):
            self.kept.setdefault(v, len(self.kept))
        self.width = max(1, len(self.kept))
        self.gated = program.request.gated
        self.last, self.hands_on = program.stages[-1].flat, False
        self.most_reduced = max(
            (len(r.reduced) for f in flats for r in f.rounds), default=0
        )
        # what moves comes first, next to the scalars, so that one short copy has all that changes
        self.slots = numbered(sorted(self.slots, key=lambda n: not moves(n)))
        self.row_width = max(1, len(scalars))
        self.crosses = numbered(
            v.name
            for s in program.stages
            for v in (*program.crosses, *s.cross_reductions, *s.cross_arithmetic)
            if cross_kind(v) != 'vector'
        )
        self.numel, self.row, self.key = (len(self.slots) + i for i in range(3))

    def of_stage(self, flat):
        names = super().of_stage(flat)
        names.hands_on = flat is not self.last
        return names

    def slot_at(self, slot, mask=''):
        "The entry of parameter `t` in a row of the table"
        return f'tl.load(table + {slot}*n + t{mask})'

    def pointer(self, name, address):
        return f'{address}.to(tl.pointer_type({self.stored(name)}))'

    def fill(self, v):
        "The random numbers `v` of the elements `i` of a tile"
        given = f'{v.draw}, {self.slot_at(self.key)}, tl.load(seed), start, i'
        return f'draw_{kind_of(v)}_{self.d.number_type}({given})'

    def drawn(self, v):
        "The random numbers `v`: of a tile, or one of each parameter"
        if v.kind == ELEMENTS:
            return f'u_{v.name}'
        return f'one_{kind_of(v)}_{self.d.number_type}({v.draw}, key & 0xffffffff, tl.load(seed))'

    def kept_at(self, v):
        return f'singles + t*{self.width} + {self.kept[v]}'

    def leaf_at(self, v):
        return f'tl.load({self.kept_at(v)}, here, other=0.0)'

    def single_at(self, v):
        "A single number that lies in memory, of each lane"
        if v in self.kept and not v.in_memory:
            return self.leaf_at(v)
        address = self.slot_at(self.slots[v.name], ', here, other=0')
        return self.d.load(
            self.dtypes[v.name], self.pointer(v.name, address), ', here, other=0.0'
        )


def singles_of_elements(flat):
    "The single numbers that the last round of `flat` reads as it goes over elements"
    read = [*operands(flat.rounds[-1].elements), *flat.stores.values()]
    return [o for o in dict.fromkeys(read) if o.kind == SINGLE]


class Scope:
    """What a function has of scalars and single numbers: `lines` load or compute it. `kept`: single
    numbers that a kernel before has kept. `mask`: what a load of lanes needs beside the pointer"""

    def __init__(self, names, kept, mask=''):
        self.names, self.kept, self.mask = names, kept, mask
        self.lines, self.known = [], set()

    def need(self, v):
        "Make `v` known, unless it is a value of elements or a plain number"
        if v in self.known or getattr(v, 'kind', ELEMENTS) == ELEMENTS:
            return
        self.known.add(v)
        if v.kind in (SCALAR, CROSS):
            self.add(v, f'tl.load({self.scalar_at(v)})')
        elif v in self.kept:
            self.add(v, f'tl.load({self.names.kept_at(v)}{self.mask})')
        elif v.in_memory:
            self.add(v, self.from_memory(v))
        else:
            self.compute(v)

    def add(self, v, text):
        "A bool is kept as a number"
        truth = ' != 0.0' if v.dtype is torch.bool else ''
        self.lines.append(self.names.let(v, text + truth))

    def compute(self, v):
        self.prepare(v)
        self.lines.append(self.names.define(v))

    def prepare(self, v):
        "Make known all that the statement that computes `v` reads, but for elements"
        if v.draw is not None and v.kind == SINGLE and 'key' not in self.known:
            self.known.add('key')
            mask = self.mask.replace('0.0', '0')
            self.lines.append(f'key = {self.names.slot_at(self.names.key, mask)}')
        inverse = self.names.reciprocal(divisor(v))
        for o in v.args[:1] if inverse is not None else v.operands:
            self.need(o)
        if inverse is not None and ('r', inverse) not in self.known:
            self.known.add(('r', inverse))
            self.lines.append(f'r{inverse} = tl.load(s + {inverse}{self.mask})')

    def scalar_at(self, v):
        if v.name in self.names.crosses:
            return f'crosses + {self.names.crosses[v.name]}'
        return f's + {self.names.scalars[v.name]}{self.mask}'

    def from_memory(self, v):
        names = self.names
        integers = self.mask.replace('0.0', '0')
        address = names.slot_at(names.slots[v.name], integers)
        return names.d.load(
            names.dtypes[v.name], names.pointer(v.name, address), self.mask
        )

"""How a kernel in C reads and writes what is stored under a name. In a tile, where `i` is an element
and slot 3 of the table has the address:

    Elements    m3[i]               a tensor; what is written may be rounded at random
    Pair        m3[i], m4[i]        a parameter, and the tensor beside it
    Coded       m3[i], m4[i/256]    codes, and the scales of their blocks

Elements that will be in codes wait in an array x3 until their block is complete: the scale needs
all of them."""

from .c import function
from .rounding import word_of

__all__ = ['stored_as']


def stored_as(name, names, writers):
    "How what is called `name` is stored. `writers`: of the codes, by code"
    if code := names.code(name):
        return Coded(name, names, writers[code])
    return Pair(name, names) if names.pair(name) else Elements(name, names)


class Elements:
    "The elements of a tensor, as they are. `i`: the row of the table that has their addresses"

    def __init__(self, name, names):
        self.name, self.names, self.i = name, names, names.slots[name]
        self.at_random = names.stochastic(name)

    def pointer(self, name, offset):
        stored, i = self.names.stored(name), self.names.slots[name]
        return (
            f'{stored}* restrict m{i} = ({stored}*)a->table[{i}*a->n + t] + {offset};'
        )

    def pointers(self):
        "Where its elements in this tile lie, and what is beside them"
        return [self.pointer(self.name, 'o')]

    def salt(self):
        "What the random bits come from by which it is rounded in this tile"
        if not self.at_random:
            return []
        given = f'a->rounding, {word_of(self.name)}u, a->keys[t], o'
        return [f'const uint32_t h{self.i} = salt({given});']

    def bits(self):
        "The random bits of an element"
        return f'mixed(h{self.i} + (uint32_t)i * 0x9e3779b9u)'

    def load(self):
        "One element, in the type of the arithmetic"
        return f'load_{self.names.stored(self.name)}(m{self.i}[i])'

    def store(self, text):
        "The statement that stores `text` as one element"
        if self.at_random:
            return f'm{self.i}[i] = store_bf16_stochastic({text}, {self.bits()});'
        return f'm{self.i}[i] = store_{self.names.stored(self.name)}({text});'


class Pair(Elements):
    "A parameter that is stored as two tensors"

    def __init__(self, name, names):
        super().__init__(name, names)
        (self.beside,) = names.beside(name)
        self.j = names.slots[self.beside]

    def pointers(self):
        return [*super().pointers(), self.pointer(self.beside, 'o')]

    def load(self):
        f = self.names.pair_function('load', self.name)
        return f'{f}(m{self.i}[i], m{self.j}[i])'

    def store(self, text):
        f = self.names.pair_function('store', self.name)
        random = f', {self.bits()}' if self.at_random else ''
        return f'{f}({text}, m{self.i} + i, m{self.j} + i{random});'


class Coded(Elements):
    """Codes and the scales of their blocks. `writer`: of the functions of the code. In a loop over
    blocks, of this or of a smaller size, `b` is where one begins and `end` where it ends"""

    def __init__(self, name, names, writer):
        super().__init__(name, names)
        self.writer, self.block = writer, writer.code.block
        self.beside = writer.code.beside(name)
        self.j = names.slots[self.beside]

    def pointers(self):
        return [*super().pointers(), self.pointer(self.beside, f'o/{self.block}')]

    def load(self):
        return self.writer.load(f'm{self.i}[i]', f'c{self.i}')

    def load_scale(self):
        "The scale of this block, as it was before"
        return f'const float c{self.i} = m{self.j}[b/{self.block}];'

    def store(self, text):
        return f'x{self.i}[i - b{self.i}] = (float)({text});'

    def array(self):
        "Where elements wait until their block is complete"
        return f'float x{self.i}[{self.block}];'

    def block_start(self):
        "Where in its tile the block begins"
        return f'const int64_t b{self.i} = b & -{self.block};'

    def store_block(self, size):
        "Store the block, if it is complete after `size` more elements"
        i, start = self.i, f'b{self.i}'
        salt = f'h{i} + (uint32_t){start}/2*0x9e3779b9u' if self.at_random else '0'
        places = f'm{i} + {start}, m{self.j} + {start}/{self.block}'
        lines = [
            f'for (int64_t i = end - {start}; i < {self.block}; i++) x{i}[i] = 0.0f;',
            f'{self.writer.store_function(self.at_random)}(x{i}, end - {start}, {places}, {salt});',
        ]
        if self.block == size:
            return lines
        return function(f'if (end == n || end % {self.block} == 0)', lines)

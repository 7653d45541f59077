"""What the values of a program are called in C, and where they lie in memory. Names are those of
`names.py`."""

import torch
from ..lower.values import CROSS, ELEMENTS, SCALAR, SINGLE
from .c import C, types
from .names import Names, operands
from .random import kind_of

__all__ = ['CNames']


class CNames(Names):
    "`scalars`: the names in a row of scalars; `dtypes`: of what lies in memory, by name"

    def __init__(self, program, scalars, dtypes):
        super().__init__(
            program, scalars, dtypes, C(types[program.layout.compute_dtype])
        )

    def drawn(self, v):
        "The random numbers `v`: of a block of elements, or one of the parameter"
        if v.kind == ELEMENTS:
            return f'u_{v.name}[i - b]'
        return (
            f'one_{kind_of(v)}_{self.d.T}({v.draw}, a->keys[t] & 0xffffffff, a->seed)'
        )

    def kept_at(self, v):
        return f'w[t*{self.width} + {self.kept[v]}]'

    def leaf_at(self, v):
        return f'((T*)a->leaves)[t*{max(1, len(self.leaves))} + {self.leaves[v]}]'

    def single_at(self, v):
        "Where a single number of parameter `t` is kept"
        if v in self.kept:
            return self.kept_at(v)
        return f'*(T*)a->table[{self.slots[v.name]}*a->n + t]'

    def load_scalars(self, values):
        "Statements that load the scalars that `values` read"
        used = [o for o in operands(values) if o.kind in (SCALAR, CROSS)]
        inverse = [i for o in used if (i := self.reciprocal(o)) is not None]
        lines = [f'const T {self.of(o)} = (T)s[{self.scalars[o.name]}];' for o in used]
        return lines + [f'const T r{i} = (T)s[{i}];' for i in inverse]

    def load_singles(self, values, made=()):
        "Statements that load the single numbers that `values` read, but for those `made` there"
        used = [o for o in operands(values) if o.kind == SINGLE and o not in made]
        return [self.let(o, f'{self.single_at(o)}{truth(o)}') for o in used]


def truth(v):
    "What turns a single number in memory into the bool that it is"
    return ' != 0' if v.dtype is torch.bool else ''

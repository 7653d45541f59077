"""What the values of a program are called in a kernel, in any language:

    m3    where the elements of slot 3 lie in memory: `p`, `grad`, a state, scratch memory
    e3    one of these elements, loaded
    s3    a scalar                  r3    the reciprocal of another scalar
    w3    a single number of the parameter, kept from round to round
    v3    a value that is computed, by its own name
    u_v3  random numbers v3 of some elements

The lines at the start of `emit.py` show them together. `c_names.py` and `triton_names.py` say how a
language reads what lies in memory."""

from copy import copy
import torch
from ..contract.state import Stored
from ..lower.operations import divisor, write
from ..lower.values import CROSS, SCALAR

__all__ = [
    'Names',
    'as_it_is',
    'as_operand',
    'moves',
    'numbered',
    'operands',
    'with_beside',
]


as_it_is = Stored()  # how gradients are stored, and scratch memory


class Names:
    """What the values of a program are called in the dialect `d`. `dtypes`: of what lies in memory,
    by name, as `with_beside` makes it. `slots`: the rows of the table, by name; `scalars`: the
    places in a row of scalars, by name; `kept`: the places of single numbers, which are kept for
    each parameter from round to round; `leaves`: those of what is handed out"""

    def __init__(self, program, scalars, dtypes, d):
        flats = [s.flat for s in program.stages if s.flat]
        self.dtypes, self.compute_dtype = dtypes, program.layout.compute_dtype
        self.stores = program.chain.stores
        self.d = d
        self.slots = numbered(dtypes)
        self.scalars = numbered(scalars)
        self.kept = numbered(
            v for f in flats for r in f.rounds for v in (*r.singles, *r.reduced)
        )
        self.leaves = numbered(v for f in flats for v in f.leaves)
        self.width = max(1, len(self.kept))
        self.codes = [*dict.fromkeys(c for n in dtypes if (c := self.code(n)))]
        self.loaded = frozenset()

    def of_stage(self, flat):
        "The same in a stage, which may load what another has computed"
        names = copy(self)
        names.loaded = frozenset((*flat.loads, *flat.single_loads))
        return names

    def of(self, v):
        "What the value `v` is called"
        if v.kind in (SCALAR, CROSS):
            return f's{self.scalars[v.name]}'
        if v in self.kept:
            return f'w{self.kept[v]}'
        return f'e{self.slots[v.name]}' if v.name in self.loaded else v.name

    def text(self, v, dtype):
        return as_operand(self.d, v, self.of(v), dtype)

    def stored(self, name):
        "The type of what is stored as `name`"
        return self.d.types[self.dtypes[name]]

    def how(self, name):
        "How `name` is stored"
        return self.stores.get(name, as_it_is)

    def stochastic(self, name):
        "Whether what is stored as `name` is rounded at random"
        return self.how(name).rounds_at_random(self.dtypes[name])

    def code(self, name):
        "The code in which `name` is stored, with scales beside it; None if it is in no code"
        return self.how(name).code_of(self.dtypes[name])

    def beside(self, name):
        "The names of what is stored beside `name`"
        return (*self.how(name).beside(name, self.dtypes[name]),)

    def pair(self, name):
        "Whether `name` is a parameter that is stored as two tensors"
        return bool(self.beside(name)) and not self.code(name)

    def pair_function(self, verb, name):
        "The function that does `verb` with such a parameter"
        return f'{verb}_{self.stores[name].name}_{self.d.short[self.dtypes[name]]}'

    def scale_slot(self, name):
        "The row of the table that has the scales of `name`"
        return self.slots[self.code(name).beside(name)]

    def reciprocal(self, by):
        "The place in its row of the reciprocal of the scalar `by`; None if it has none"
        return None if by is None else self.scalars.get(f'r_{by.name}')

    def define(self, v):
        "The statement that computes `v`"
        if v.draw is not None:
            return self.let(v, self.drawn(v))
        by = divisor(v)
        if by is not None:
            x = self.text(v.args[0], v.dtype)
            return self.let(v, f'{x} * r{self.reciprocal(by)}')
        return self.let(v, write(v, self.d, self.text, self.compute_dtype))

    def let(self, v, text):
        "The statement that gives `v` the value `text`"
        return self.d.let(self.of(v), text, v.dtype is torch.bool)


def moves(name):
    "Whether the tensors called `name` are others in each step: gradients, and what calls give"
    return name == 'grad' or '@' in name


def with_beside(names, dtypes, stores):
    """The dtypes of `names` in memory, and of what is stored beside them: scales of codes, the second
    tensor of a parameter. `stores`: those of the chain"""
    res = {n: dtypes[n] for n in names}
    for n in names:
        res |= stores.get(n, as_it_is).beside(n, dtypes[n])
    return res


def numbered(xs):
    return {x: i for i, x in enumerate(dict.fromkeys(xs))}


def operands(values):
    return [*dict.fromkeys(o for v in values for o in v.operands)]


def as_operand(d, v, name, dtype):
    "`v`, which is called `name`, where an operand of `dtype` is wanted"
    if dtype is torch.bool:
        return name if v.dtype is torch.bool else f'({name} != {d.zero})'
    if v.dtype is torch.bool:
        return d.number(name)
    return (
        name
        if v.dtype == dtype or torch.int32 not in (v.dtype, dtype)
        else d.cast(name, dtype)
    )

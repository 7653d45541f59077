"""What joins all parameters. A chain with a callback over all parameters is recorded on two stand-in parameters at once, the families, which have
rows of different sizes. If both are treated alike, the first stands for all; and what the callback made of both is a join:

    norm0 = grad0.norm()                 norm  = grad.norm()          SINGLE: one for each parameter
    norm1 = grad1.norm()            ->   all   = join(norm)           CROSS:  the vector of all of them
    both  = stack([norm0, norm1])        total = all.norm()           CROSS
    total = both.norm()

It is recorded once more on three: what differs then counts the parameters, and is refused."""

import torch
from .record import CROSS, Value, aten, leaves, mapped, needed
from .words import NotRecorded

__all__ = ['listing', 'merge_families']

joiners = {
    aten.stack: lambda xs: xs,
    aten.cat: lambda xs: xs,
    aten.add: torch.sum,
    aten.maximum: torch.amax,
    aten.minimum: torch.amin,
}


def merge_families(values, sizes, outs):
    "Find joins among `values`; raise `NotRecorded` unless the families come to `outs` in the same way. `outs`: for each family values by name"
    assign_families(values, sizes)
    if len(sizes) == 1:
        return
    form = Forms()
    if any(form(v) != form(outs[0][n]) for other in outs for n, v in other.items()):
        raise NotRecorded("does not treat all parameters alike")
    for v in values:
        if not v.leaf_values:
            continue
        if [o.family for o in v.leaf_values] != [*range(len(v.leaf_values))] or len(
            {*map(form, v.leaf_values)}
        ) > 1:
            raise NotRecorded(
                f"joins what it has of the parameters in a way that is not known ({v.packet.__name__})"
            )
        if len(v.leaf_values) == len(sizes):
            v.args, v.kwargs, v.op = (v.leaf_values[0],), dict(how=joiners[v.packet]), 'join'


def assign_families(values, sizes):
    "Say of each value to which family it belongs; a value of all is CROSS"
    for v in values:
        if isinstance(v.op, str):
            continue
        of = {o.family for o in v.operands if o.family is not None}
        size = v.example.numel() if v.example.ndim == 1 else 0
        joins = len(of - {'all'}) > 1 or any(
            0 < len(o.leaf_values) < len(sizes) for o in v.operands
        )
        if size in sizes:
            v.family = sizes.index(size)
        elif joins:
            v.family, v.leaf_values = 'all', joined(v)
        else:
            v.family = next(iter(of - {'all'}), 'all' if of else None)
        if v.family == 'all':
            v.kind = CROSS


class Forms:
    "What a value is, whichever family it is of"

    def __init__(self):
        self.known, self.numbers = {}, {}

    def __call__(self, v):
        if not isinstance(v, Value):
            return repr(v)
        for o in needed([v], stop=self.known.__contains__):
            self.known[o] = self.of(o)
        return self.known[v]

    def of(self, v):
        if v.family == 'all':
            return v
        if isinstance(v.op, str):
            return v.op, what(v)
        known = lambda a: (
            self.numbers.setdefault(self.known[a], len(self.numbers))
            if isinstance(a, Value)
            else repr(a)
        )
        return v.op, repr(mapped((v.args, v.kwargs), known))


def joined(v):
    "What `v` joins: the list of a `stack`, the terms of a sum"
    if v.packet in (aten.stack, aten.cat) and v.args[1:] in ((), (0,)) and not v.kwargs:
        return [*v.args[0]]
    if v.packet in joiners and len(v.args) == 2 and not v.kwargs:
        return [t for a in v.args for t in a.leaf_values or [a]]
    raise NotRecorded(f"joins what it has of the parameters with {v.packet.__name__}")


def listing(values):
    "What two recordings of the same chain have in common"
    place = {v: i for i, v in enumerate(values)}
    placed = lambda a: place.get(a, a) if isinstance(a, Value) else a
    return [(what(v), mapped(v.args, placed), [*map(placed, leaves(v.kwargs))]) for v in values]


def what(v):
    "An operation, or what is given: a constant by its value"
    if v.op != 'input' and v.op != 'given':
        return v.op
    return repr(v.example) if v.name.startswith('constant') else v.name

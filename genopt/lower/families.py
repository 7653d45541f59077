"""Cross reductions: how a callback over all parameters combines a value of each into one.

Such a callback is recorded on two parameters at once, the families, whose rows have different
lengths. If it treats both alike, the first stands for every parameter, and what it made of the two
is a reduction over all:

    norm0 = grad0.norm()                norm  = grad.norm()             SINGLE, for each parameter
    norm1 = grad1.norm()          ->    norms = cross_reduction(norm)   CROSS, the vector of all
    norms = stack([norm0, norm1])       total = norms.norm()            CROSS
    total = norms.norm()

The chain is recorded once more, on three parameters. If the recording differs then, the callback
depends on the number of parameters, and no program can hold it.

A sum over a list comes as additions, one after the other. `terms` of each has what it adds up:

    s1 = norm0 + norm1       terms [norm0, norm1]             a cross reduction, on two families
    s2 = s1 + norm2          terms [norm0, norm1, norm2]      a cross reduction, on three"""

import torch
from .reasons import NotRecorded
from .values import CROSS, Value, aten, in_order, tree_map

__all__ = ['form_of', 'merge_families']

ALL = 'all'  # the family of a value of all parameters together

# What is done to the vector of the values of all parameters
cross_reductions = {
    aten.stack: lambda vector: vector,
    aten.cat: lambda vector: vector,
    aten.add: torch.sum,
    aten.maximum: torch.amax,
    aten.minimum: torch.amin,
}


def merge_families(values, sizes, outs):
    """Turn what joins families, among `values`, into cross reductions. `outs`: for each family the
    values that are written, by name. Raises `NotRecorded` unless all families come to these in the
    same way"""
    if len(sizes) == 1:
        return
    assign_families(values, sizes)
    if not alike(outs):
        raise NotRecorded("does not treat all parameters alike")
    for v in values:
        if v.terms:
            merge_terms(v)


def assign_families(values, sizes):
    "Set `family` of each value; of what joins several families also `terms`"
    for v in values:
        if isinstance(v.op, str):
            continue
        of = {o.family for o in v.operands} - {None}
        size = v.example.numel() if v.example.ndim == 1 else 0
        if size in sizes:
            v.family = sizes.index(size)
        elif joins(v, of, len(sizes)):
            v.family, v.terms = ALL, terms_of(v)
        else:
            v.family = next(iter(of - {ALL}), ALL if of else None)
        if v.family == ALL:
            v.kind = CROSS


def joins(v, of, n):
    "Whether `v`, whose operands are `of` these families, joins several, or goes on with a sum"
    return len(of - {ALL}) > 1 or any(0 < len(o.terms) < n for o in v.operands)


def terms_of(v):
    "What `v` joins: the list of a `stack`, the terms of a sum"
    if v.packet in (aten.stack, aten.cat) and v.args[1:] in ((), (0,)) and not v.kwargs:
        return [*v.args[0]]
    if v.packet in cross_reductions and len(v.args) == 2 and not v.kwargs:
        return [term for a in v.args for term in a.terms or [a]]
    raise NotRecorded(f"combines values of all parameters by {v.packet.__name__}")


def merge_terms(v):
    """Make `v` a cross reduction, if its terms are one of each family, in order and alike. So does
    the part of a sum become one, which nothing reads"""
    in_turn = [o.family for o in v.terms] == [*range(len(v.terms))]
    if not in_turn or not alike([{0: term} for term in v.terms]):
        how = f"by {v.packet.__name__} in an unknown order"
        raise NotRecorded(f"combines values of all parameters {how}")
    v.args, v.kwargs = (v.terms[0],), dict(how=cross_reductions[v.packet])
    v.op = 'cross_reduction'


# -- What two recordings, or two families of one, have in common --


def alike(families):
    """Whether the results of each family, values by name, are made in the same way, and of nothing
    that another family has: `grads[0].norm()` is the same for all, but it is of the first alone"""
    of_all = lambda v: v.family == ALL
    for i, results in enumerate(families):
        made_of = in_order(results.values(), stop=of_all)
        if any(v.family not in (i, None) for v in made_of):
            return False
    forms = [form_of(results, stop=of_all) for results in families]
    return all(form == forms[0] for form in forms)


def form_of(results, stop=lambda v: False):
    """How `results`, values by name, are made of what is given, and of values at which to `stop`.
    It has nothing that tells two families apart, or two recordings of one chain"""
    order = in_order(results.values(), stop=lambda v: v.in_memory or stop(v))
    places = {v: i for i, v in enumerate(order)}

    def place(a):
        if not isinstance(a, Value):
            return repr(a)
        return given_name(a) if a.in_memory else places.get(a, a)

    made = [(v.op, tree_map((v.args, v.kwargs), place)) for v in order]
    return made, {n: place(v) for n, v in results.items()}


def given_name(v):
    "The name of what the chain or a call gives; of a number that a callback holds its value"
    return repr(v.example) if v.is_constant else v.name

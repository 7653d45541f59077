"""What an operation of aten may be in a recording.

A stand-in of a parameter is a row of elements, of a length that stands for any shape. So an
operation can be recorded in three cases: it works on each element, it reduces a whole row to one
number, or it is arithmetic on such numbers."""

import torch
from .reasons import NeedsShape
from .values import ELEMENTS, SINGLE, aten

__all__ = ['aliases', 'factored', 'kind_of']

# The result is the same tensor
aliases = {aten.detach, aten.alias, aten.lift_fresh}

# They work on each element, though torch does not tag them as pointwise
also_elementwise = {
    aten.clone,
    aten._to_copy,
    aten.copy,
    aten.zeros_like,
    aten.ones_like,
    aten.full_like,
    aten.empty_like,
}

reductions = {
    aten.sum,
    aten.mean,
    aten.amax,
    aten.max,
    aten.amin,
    aten.min,
    aten.any,
    aten.all,
    aten.prod,
    aten.var,
    aten.std,
    aten.dot,
    aten.linalg_vector_norm,
    aten.norm,
}

# Their keyword `alpha` or `value` may be a traced scalar
factored = {aten.add, aten.sub, aten.addcmul, aten.addcdiv}


def kind_of(func, args, kwargs, tensors, result, row_sizes):
    """ELEMENTS or SINGLE: what the operation `func` makes, which took `tensors` among its
    arguments. Raises `NeedsShape` where it is none of the three cases"""
    row = next(
        (t.shape for t in tensors if t.ndim == 1 and t.numel() in row_sizes), None
    )
    if row is None:
        return SINGLE  # `families` makes it CROSS where it is of several parameters
    if is_elementwise(func, tensors, row) and result.shape == row:
        return ELEMENTS
    if reduces_whole_row(func, args, kwargs, result):
        return SINGLE
    raise NeedsShape(f"calls {func.overloadpacket.__name__}, which is not elementwise")


def is_elementwise(func, tensors, row):
    "Whether `func` works on each element of rows, perhaps with numbers beside"
    known = (
        torch.Tag.pointwise in func.tags
        or func.overloadpacket in also_elementwise
        or func is aten.view.dtype
    )
    return known and all(t.shape == row or t.ndim == 0 for t in tensors)


def reduces_whole_row(func, args, kwargs, result):
    "A reduction along `dim` gives a number too, but only because the stand-in has one dimension"
    if result.ndim or func.overloadpacket not in reductions:
        return False
    named = {a.name: v for a, v in zip(func._schema.arguments, args)} | kwargs
    return named.get('dim') in (None, [], ())

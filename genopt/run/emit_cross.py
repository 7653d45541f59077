"""All stages of a program in one call of C, with the cross reductions between. Clipping by the norm
of all gradients, for instance:

    stage_0(a);                                   // leaf 0 of each parameter: the norm of its grad
    double total_v7 = 0;                          // v7: the norm of the vector of these norms
    for (t = 0; t < a->n; t++) {
      const double x = leaves[t]*leaves[t];
      total_v7 += x;
    }
    const T c_v7 = (T)(sqrt(total_v7));
    const T c_v8 = (c_v7 + ((float)1e-06));       // arithmetic: the factor for all gradients
    ...
    for (r = 0; r < a->rows; r++) a->scalars[r*a->width + 2] = (double)c_v12;
    stage_1(a);                                   // reads the factor as a scalar

A vector, with a member for each parameter, is not kept: whoever reduces it computes its members."""

import torch
from ..lower.operations import cross_kind, reduction, write
from ..lower.values import CROSS, SCALAR
from .c import C, each_parameter, folded, starts
from .names import as_operand, operands

__all__ = ['all_stages', 'computed', 'name_of']


def all_stages(program, names):
    "The body of a function that runs all stages of `program`"
    lines = ['const double* s = a->scalars; (void)s;']
    loaded = set()
    for k, stage in enumerate(program.stages):
        if stage.flat:
            lines.append(f'stage_{k}(a);')
        values = [*stage.cross_reductions, *stage.cross_arithmetic]
        scalars = [o for o in operands(values) if o.kind == SCALAR and o not in loaded]
        lines += [
            f'const T {names.of(o)} = (T)s[{names.scalars[o.name]}];' for o in scalars
        ]
        loaded |= {*scalars}
        lines += [line for v in values for line in computed(v, names, reduced)]
        lines += [saved(v, names) for v in values if v.name in names.scalars]
    return lines


def computed(v, names, reduced):
    """The statements that compute the cross value `v`. `reduced` writes those that reduce over all
    parameters, in one language"""
    kind = cross_kind(v)
    if kind == 'vector':
        return []
    if kind == 'scalar':
        return [defined(v, names)]
    if v.is_cross_reduction:  # the sign of a sum, maximum or minimum
        return reduced(v, kind, [], member(v, names), lambda d, total, n: total)
    red = reduction(v)
    element = red.element(names.d, *(text(o, names) for o in v.operands))
    members = [defined(o, names) for o in vectors(v)]
    return reduced(v, red.sign, members, element, red.end)


def reduced(v, sign, members, element, end):
    """The statements of C that reduce over all parameters. `members`: statements before an
    `element` is taken into the total; `end`: what the total comes to"""
    total = f'total_{v.name}'
    take = [*members, f'const double x = {element};', folded(total, 'x', sign)]
    return [
        f'double {total} = {starts[sign]};',
        *each_parameter(take),
        f'const T c_{v.name} = (T)({end(C("double"), total, "(double)a->n")});',
    ]


def defined(v, names):
    "The statement that does the arithmetic of `v`"
    expression = write(
        v, names.d, lambda o, dtype: text(o, names, dtype), names.compute_dtype
    )
    return names.d.let(f'c_{v.name}', expression, v.dtype is torch.bool)


def text(v, names, dtype=None):
    return as_operand(names.d, v, name_of(v, names), dtype or names.compute_dtype)


def name_of(v, names):
    "A cross value in a kernel; of a vector, its member of parameter `t`"
    if v.kind == SCALAR:
        return names.of(v)
    if v.is_cross_reduction and cross_kind(v) == 'vector':
        return member(v, names)
    return f'c_{v.name}'


def member(v, names):
    "What parameter `t` hands to the cross reduction `v`"
    single = v.args[0]
    return names.leaf_at(single) if single in names.leaves else names.single_at(single)


def vectors(v):
    "The vectors that `v` is made of, each after its operands, but for what parameters hand out"
    found = []
    for o in v.operands:
        if o.kind == CROSS and not o.is_cross_reduction and cross_kind(o) == 'vector':
            found += [*vectors(o), o]
    return [*dict.fromkeys(found)]


def saved(v, names):
    "The statement that writes a cross value to each row of scalars, for the stages behind it"
    at = f'a->scalars[r*a->width + {names.scalars[v.name]}]'
    return f'for (int64_t r = 0; r < a->rows; r++) {at} = (double){name_of(v, names)};'

"""From a recording to the stages and rounds of a program.

A stage ends where values must lie in memory: for a call, or for a cross reduction. A round of a
flat part ends where elements are reduced, because what is reduced is known behind the last element
only. For LAMB, whose step is scaled by the ratio of two norms:

    round 0    elements   update, weight decay      reduced    their norms
    round 1    singles    ratio of the norms        elements   the move, which is written"""

from .operations import can_write_cross, cross_kind, divisor
from .program import Flat, Program, Round, Stage
from .scalars import ScalarProgram
from .traced import TracedScalar
from .values import CROSS, ELEMENTS, OWN_SHAPE, SCALAR, SINGLE, in_order

__all__ = ['program_of']


def program_of(recording, chain, prefix, layout, request):
    "The recording as a program"
    r, order = recording, recording.values
    names, lines = scalar_names(order, r, request.capturable)
    divisors = (by.name for v in order if (by := divisor(v)) is not None)
    return Program(
        chain,
        prefix,
        layout,
        request,
        stages=stages_of(order, r),
        scalars=ScalarProgram(
            r.scalars.lines + lines, names, r.counters, r.scalars.objects
        ),
        reciprocals=unique(divisors),
        crosses=crosses(order, r.outs.values()),
        one_call=fits_one_call(order, r, layout.compute_dtype),
        call_outs={n: v for n, v in r.outs.items() if v.kind == OWN_SHAPE},
        runs_on=r.runs_on,
        why=r.why,
        for_one_shape=r.for_one_shape,
    )


def unique(xs):
    return tuple(dict.fromkeys(xs))


# -- Stages --


def stage_of_each(order, calls):
    """The stage of each value and of each call: how many calls and cross reductions lie before it. A
    call may read at once what the one before it gives"""
    call_of = {v: c for c in calls for v in c.gives.values()}
    stage = {}

    def of_call(c):
        return max((stage[call_of.get(v, v)] for v in c.needs), default=0)

    for v in order:
        if v in call_of:
            c = call_of[v]
            stage[c] = of_call(c)
            stage[v] = stage[c] + 1
        else:
            last = max((stage[o] for o in v.operands), default=0)
            stage[v] = last + v.is_cross_reduction
    for c in calls:  # also those that give nothing that anybody reads
        stage[c] = of_call(c)
    return stage


def stages_of(order, r):
    "All stages but the last hand on; the last one writes the parameter and its states"
    stage = stage_of_each(order, r.calls)
    last = max(
        [0, *(stage[v] for v in r.outs.values()), *(stage[c] + 1 for c in r.calls)]
    )
    stages, in_scratch = [], set()
    for k in range(last):
        calls = tuple(c for c in r.calls if stage[c] == k)
        behind = [v for v in of_kind(order, CROSS) if stage[v] == k + 1]
        stages.append(stage_of(calls, behind, in_scratch))
        if stages[-1].flat:
            in_scratch |= {*stages[-1].flat.stores.values()}
    stores = {n: v for n, v in r.outs.items() if v.kind != OWN_SHAPE}
    return (*stages, Stage(flat_of(stores, [], in_scratch), (), (), ()))


def stage_of(calls, behind, in_scratch):
    """A stage that hands on, to `calls` and to the cross values `behind` it. `in_scratch`: the values
    that earlier stages have written"""
    reductions = tuple(v for v in behind if v.is_cross_reduction)
    arithmetic = tuple(v for v in behind if not v.is_cross_reduction)
    return Stage(
        flat_before(calls, reductions, in_scratch), reductions, arithmetic, calls
    )


def flat_before(calls, reductions, in_scratch):
    "What calls and cross reductions read: elements go to scratch memory, single numbers are leaves"
    read = [v for c in calls for v in c.needs] + [v.args[0] for v in reductions]
    made = [v for v in read if not v.in_memory and v not in in_scratch]
    stores = {v.name: v for v in of_kind(made, ELEMENTS)}
    leaves = of_kind(made, SINGLE)
    return flat_of(stores, leaves, in_scratch) if stores or leaves else None


# -- The flat part of a stage --


def flat_of(stores, leaves, in_scratch):
    "The rounds that make `stores` and `leaves`"
    outside = lambda v: v.in_memory or v in in_scratch or v.kind in (CROSS, SCALAR)
    results = [*stores.values(), *leaves]
    order = in_order(results, stop=outside)
    read = [v for v in (*operands(order), *results) if outside(v)]
    return Flat(
        rounds_of(order, stores.values()),
        loads=unique(v.name for v in of_kind(read, ELEMENTS)),
        stores={n: v for n, v in stores.items() if v.kind == ELEMENTS},
        single_loads=unique(v.name for v in of_kind(read, SINGLE)),
        single_stores={n: v for n, v in stores.items() if v.kind != ELEMENTS},
        leaves=unique(leaves),
    )


def rounds_of(order, written):
    "The rounds that make the values in `order`; the last one ends in those that are `written`"
    level = {}  # of each value how many reductions lie before it
    for v in order:
        level[v] = max((level.get(o, 0) for o in v.operands), default=0) + v.reduces
    depth = max(level.values(), default=0)
    return tuple(round_of(k, level, written) for k in range(depth + 1))


def round_of(k, level, written):
    "Round `k`. It reduces, unless it is the last"
    singles = of_kind([v for v in level if level[v] == k and not v.reduces], SINGLE)
    reduced = tuple(v for v in level if level[v] == k + 1 and v.reduces)
    ends = operands(reduced) if reduced else written
    elsewhere = lambda v: v not in level or v.kind != ELEMENTS
    return Round(
        singles, tuple(in_order(of_kind(ends, ELEMENTS), stop=elsewhere)), reduced
    )


def operands(values):
    return [o for v in values for o in v.operands]


def of_kind(values, kind):
    return tuple(v for v in values if v.kind == kind)


# -- Scalars --


def scalar_names(order, r, on_device):
    """The names of what the scalar program returns: scalars that tensors meet, and numbers that
    calls read. And lines that it gets for these: a tensor that a callback holds is read anew at
    each step"""
    met = of_kind(order, SCALAR)
    names, lines = [v.name for v in met], []
    for v in met:
        if v.name in r.scalars.constants:
            lines.append(f'{v.name} = {r.scalars.text(r.scalars.constants[v.name])}')
        elif v.is_constant:
            r.scalars.objects[f'tensor_{v.name}'] = v.example
            lines.append(f'{v.name} = tensor_{v.name}{"" if on_device else ".item()"}')
    numbers = (x for c in r.calls for x in c.numbers.values())
    return unique(
        [*names, *(x.name for x in numbers if isinstance(x, TracedScalar))]
    ), lines


def crosses(order, outs):
    "The cross values that operations on one parameter read, or that are written"
    of_one = [v for v in order if v.kind in (ELEMENTS, SINGLE)]
    read = {*operands(of_one), *outs}
    return tuple(v for v in of_kind(order, CROSS) if v in read)


def fits_one_call(order, r, compute_dtype):
    """Whether a kernel can run all stages in one call: no callback is called, and the kernel can
    compute the cross values"""
    single = all(cross_kind(v) != 'vector' for v in crosses(order, r.outs.values()))
    cross = [v for v in order if v.kind == CROSS]
    return (
        not r.calls and single and all(can_write_cross(v, compute_dtype) for v in cross)
    )

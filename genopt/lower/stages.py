"""From a recording to the stages of a program."""

from .chain import OWN
from .operations import can_write_cross, cross_kind
from .program import Flat, Program, Round, Stage, Why
from .record import CROSS, ELEMENTS, SCALAR, SINGLE, Value, aten, needed
from .scalars import ScalarProgram

__all__ = ['program_of']


def program_of(recording, chain, prefix, layout, request):
    "The recording as a program"
    r, order = recording, recording.needed()
    set_stages(order, r.calls)
    names, lines = scalar_names(order, r, request.capturable)
    return Program(
        chain,
        prefix,
        layout,
        request,
        stages=stages(order, r),
        scalars=ScalarProgram(r.scalars.lines + lines, names, r.counters, r.scalars.bound),
        reciprocals=tuple(dict.fromkeys(d.name for v in order if (d := divisor(v)) is not None)),
        crosses=crosses(order, r),
        one_call=fits_one_call(order, r, layout.compute_dtype),
        call_outs={n: v for n, v in r.outs.items() if v.kind == OWN},
        runs_on=r.runs_on,
        why=tuple(Why(c.block.name, c.why) for c in r.calls),
    )


# -- In which stage --


def set_stages(order, calls):
    "Set `stage` of each value and of each call: how many calls and joins lie before it"
    giver = {v: c for c in calls for v in c.gives.values()}
    for v in order:
        set_stage(v, giver)
    for c in calls:  # what a call gives, the next one may read at once
        c.stage = max((giver[v].stage if v in giver else v.stage for v in c.needs), default=0)
        for v in order:
            set_stage(v, giver)


def set_stage(v, giver):
    if v in giver:
        v.stage = giver[v].stage + 1
    else:
        v.stage = max((o.stage for o in v.operands), default=0) + (v.op == 'join')


def stages(order, r):
    last = max([0, *(v.stage for v in r.outs.values()), *(c.stage + 1 for c in r.calls)])
    made, res = set(), []  # `made`: the values that an earlier stage has written to scratch memory
    for k in range(last + 1):
        calls = tuple(c for c in r.calls if c.stage == k)
        later = [v for v in order if v.kind == CROSS and v.stage == k + 1]
        joins = tuple(v for v in later if v.op == 'join')
        cross = tuple(v for v in later if v.op != 'join')
        if k < last:
            stores, leaves = handed_on(calls, joins, made)
        else:
            stores, leaves = (
                {'p' if n == 'new_p' else n: v for n, v in r.outs.items() if v.kind != OWN},
                [],
            )
        res.append(
            Stage(flat(stores, leaves, made) if stores or leaves else None, joins, cross, calls)
        )
        if k < last:
            made |= {*stores.values()}
    return tuple(res)


def handed_on(calls, joins, made):
    "What a stage writes for its calls and joins: elements to scratch memory, by name, and single numbers"
    read = [v for c in calls for v in c.needs]
    stores = {v.name: v for v in read if v.kind == ELEMENTS and not v.in_memory and v not in made}
    leaves = [
        v for v in [*read, *(j.args[0] for j in joins)] if v.kind == SINGLE and not v.in_memory
    ]
    return stores, leaves


# -- A flat part --


def flat(stores, leaves, made):
    "The rounds that make `stores` and `leaves`"

    def given(v):
        return v in made or v.kind in (CROSS, SCALAR) or v.op == 'given' or v.is_input

    order = needed([*stores.values(), *leaves], stop=given)
    inner = {*order}
    for v in order:
        v.level = max((o.level for o in v.operands if o in inner), default=0) + v.reduces
    depth = max((v.level for v in order), default=0)
    rounds = tuple(round_of(k, depth, order, inner, stores) for k in range(depth + 1))
    read = [o for v in order for o in v.operands if o not in inner] + [
        v for v in [*stores.values(), *leaves] if v not in inner
    ]

    def loads(kind):
        return tuple(dict.fromkeys(v.name for v in read if v.kind == kind))

    rows = {n: v for n, v in stores.items() if v.kind == ELEMENTS}
    singles = {n: v for n, v in stores.items() if v.kind != ELEMENTS}
    return Flat(rounds, loads(ELEMENTS), rows, loads(SINGLE), singles, tuple(dict.fromkeys(leaves)))


def round_of(k, depth, order, inner, stores):
    "Round `k` of `depth`, the last of which makes what is written"
    reduced = [v for v in order if v.reduces and v.level == k + 1]
    singles = [v for v in order if v.kind == SINGLE and not v.reduces and v.level == k]
    targets = [o for v in reduced for o in v.operands] if k < depth else stores.values()
    targets = [v for v in targets if v.kind == ELEMENTS]
    return Round(
        tuple(singles),
        tuple(needed(targets, stop=lambda v: v not in inner or v.kind != ELEMENTS)),
        tuple(reduced),
    )


# -- Scalars --


def scalar_names(order, r, on_device):
    "What the scalar program returns: the scalars that tensors meet, and the numbers that calls read; and lines for tensors that callbacks hold"
    names, lines = [], []
    for v in order:
        if v.kind != SCALAR:
            continue
        names.append(v.name)
        if not v.name.startswith('constant'):
            continue
        r.scalars.bound[f'tensor_{v.name}'] = v.example
        lines.append(f'{v.name} = tensor_{v.name}' + ('' if on_device else '.item()'))
    names += [x.name for c in r.calls for x in c.numbers.values() if hasattr(x, 'recorder')]
    return [*dict.fromkeys(names)], lines


def divisor(v):
    "The scalar by which `v` divides elements: multiplying by its reciprocal takes a fraction of the time"
    if v.op is not aten.div.Tensor or v.kind != ELEMENTS:
        return None
    x, by = v.args
    return by if isinstance(by, Value) and by.kind == SCALAR and x is not by else None


def crosses(order, r):
    "The values of all parameters together that operations on one parameter read"
    read = {o for v in order if v.kind in (ELEMENTS, SINGLE) for o in v.operands} | {
        *r.outs.values()
    }
    return tuple(v for v in order if v.kind == CROSS and v in read)


def fits_one_call(order, r, compute_dtype):
    "Whether a kernel can run all stages in one call: no callback is called, and what joins all parameters can be computed there"
    joined = [v for v in order if v.kind == CROSS]
    single = all(cross_kind(v) != 'vector' for v in crosses(order, r))
    return not r.calls and single and all(can_write_cross(v, compute_dtype) for v in joined)

"""How many parameters of one shape a call gets at once, as a stack.

On a CPU a stack saves the time that a call takes, so it is of use for small matrices. On an
accelerator the product of one matrix leaves most of the device idle, so a stack is as large as its
memory may be. Muon, for instance, with a matrix of n elements in float32:

    read by newton_schulz     update        4n bytes
    given                     update@0      4n
    made on the way                         4n       two matrices in bfloat16
    read by scale_by_shape    update@0               `update` has been let go before
    given                     update@1      4n

This is 12n bytes at once."""

from ..lower.values import ELEMENTS, OWN_SHAPE
from .foreach import on_accelerator

__all__ = ['read_last', 'stack_size']

stack_limit = 2**16  # elements: on a CPU a larger matrix gains nothing from a stack

# A stack on an accelerator may need this many times `scratch_bytes`: 384 MiB if that is not set.
# On an H100 a step of Muon on GPT-2's matrices takes 6.1 ms with 2, 5.9 with 4 and 5.6 with 6, where
# all twelve matrices of a shape are one stack, and 284 MB more memory are in use
stack_share = 6

# Each stack has a launch before its calls and one behind. One for all stacks would have to hold at
# once what all calls read and give: 340 MB on GPT-2's matrices. It would save little. These are four
# stacks, with 8 launches beside 90 kernels of torch. On an H100 a captured step, in which launches
# cost nothing, takes 5.52 ms, and one that is launched 5.65. Nor would it be one launch: Muon scales
# tall matrices by another factor than wide ones, so these are two programs


def stack_size(program, p, states, scratch_bytes):
    "How many parameters like `p`, with states like `states`, are stacked"
    if not all(c.stacked for c in calls_of(program)):
        return 1
    if on_accelerator(program):
        return max(1, stack_share * scratch_bytes // most_bytes(program, p, states))
    numel = max(1, p.numel())
    return max(1, scratch_bytes // 64 // numel) if numel <= stack_limit else 1


def most_bytes(program, p, states):
    """The most bytes that one parameter needs while callbacks are called: for what is handed on and
    read later, for what a call reads and gives, and as much as the largest of these for what the
    callback makes on the way"""
    last, live, most = read_last(program), {}, 1
    for stage in program.stages[:-1]:
        for v in stage.flat.stores.values() if stage.flat else ():
            live[v] = p.numel()
        for c in stage.calls:
            here = {
                v: numel_of(n, v, p, states)
                for n, v in (*c.reads.items(), *c.gives.items())
            }
            live |= here
            most = max(most, sum(live.values()) + max(here.values(), default=0))
            for v in last[c]:
                live.pop(v, None)
    return most * program.layout.compute_dtype.itemsize


def numel_of(name, v, p, states):
    "The elements of the value `v`, which a call reads or gives as `name`"
    if v.kind == OWN_SHAPE and name in states:
        return states[name].numel()
    return p.numel() if v.kind in (ELEMENTS, OWN_SHAPE) else 1


def read_last(program):
    "Of each call the values that nothing reads after it"
    stages, last = program.stages, {}
    for k, stage in enumerate(stages):
        for c in stage.calls:
            last |= dict.fromkeys((v.name for v in c.needs), c)
        if k + 1 < len(stages) and (flat := stages[k + 1].flat):
            last |= dict.fromkeys((*flat.loads, *flat.single_loads))
    later = [v.args[0] for s in stages for v in s.cross_reductions]
    last |= dict.fromkeys(v.name for v in (*later, *program.call_outs.values()))
    return {c: [v for v in c.needs if last[v.name] is c] for c in calls_of(program)}


def calls_of(program):
    return [c for s in program.stages for c in s.calls]

"""`lower` decides how a chain is run. Nobody else does: the optimizer's checks, `explain()` and the
plan read the program that it returns. Where something is not possible, the program says why."""

from collections import defaultdict
from dataclasses import replace
from torch import Tensor
from ..contract.chain import learned_of
from .chain import record
from .codes import recorded_code
from .operations import can_write
from .prefix import prefix_of
from .program import Why, fallback
from .reasons import NotRecorded
from .recorder import lacking
from .stages import program_of

__all__ = ['lower', 'note_change', 'programs']

# For all optimizers of the process: a key, which has all that decides -> its programs
programs = defaultdict(list)

# Recordings of one chain. A chain that needs more uses a number in Python, as `range(k)` does
most_programs = 16
most_keys = 10_000  # a bound for a process that makes new callbacks without end


def lower(chain, layout, numbers, request, late=None, handed=None):
    """The program of `chain` for parameters of `layout` that is right for `numbers`:
    hyper-parameters, and states that are numbers. `late`: what the prefix has begun to change after
    it was made, by name. `handed`: the numbers that it has computed in this step"""
    if why := growing(chain):
        return fallback(chain, layout, request, why)
    prefix = None
    if not request.capturable:
        prefix = prefix_of(chain, layout, numbers, request, late or {})
    if isinstance(prefix, Why):
        return fallback(chain, layout, request, prefix)
    if prefix:
        chain, layout = prefix.rest, layout.behind(prefix)
        numbers = numbers | {
            n: (handed or {}).get(n, v) for n, v in prefix.numbers.items()
        }
    key = key_of(chain, prefix, layout, numbers, request)
    of_shape = *key, layout.shape
    known = [*programs.get(key, ()), *programs.get(of_shape, ())]
    for program in known:
        if program.holds(numbers):
            return program
    program, for_one_shape = decide_or_use_lists(
        chain, prefix, layout, numbers, request, len(known)
    )
    if len(programs) > most_keys:
        del programs[next(iter(programs))]  # the oldest; plans keep those that they run
    programs[of_shape if for_one_shape else key].append(program)
    return program


def growing(chain):
    "Why `chain` can be no program, if one of its states grows. A program keeps memory of one size"
    for b in chain.blocks:
        for n, init in b.state.items():
            if init.grows:
                return Why(b.name, f"{b.name} keeps the state {n!r}, which grows")
    return None


def key_of(chain, prefix, layout, numbers, request):
    """All that decides which program a chain gets, except two things: the shape class, which matters
    for some chains only, and the values of `numbers`, for which a program has guards"""
    counters = tuple(n for n in chain.state if n in numbers)
    on_device = tuple(n for n, v in numbers.items() if isinstance(v, Tensor))
    of_layout = layout.dtype, layout.grad_dtype, layout.state_dtypes, layout.device
    return chain.key, id(prefix), of_layout, request, counters, on_device


def decide_or_use_lists(chain, prefix, layout, numbers, request, n_known):
    """A new program, and whether it holds for this shape class alone. The program uses operations on
    lists if a state is in a code that no kernel can read. On a GPU it also does so if the table lacks
    an operation of a callback, because calling that callback for each parameter would take longer"""
    unknown = []
    if request.launches and (why := why_no_kernel(chain, layout)):
        on_lists = replace(request, backend='foreach')
        program, for_one_shape = decide(
            chain, prefix, layout, numbers, on_lists, n_known, unknown
        )
        return replace(program, instead=why), for_one_shape
    program, for_one_shape = decide(
        chain, prefix, layout, numbers, request, n_known, unknown
    )
    texts = tuple(lacking(v.op) for v in unknown)
    lacked = [w for w in program.why if w.reason.endswith(texts)]
    if request.backend != 'triton' or not texts or not lacked:
        return program, for_one_shape
    on_lists = replace(request, backend='foreach')
    other, for_one_shape = decide(
        chain, prefix, layout, numbers, on_lists, n_known, unknown
    )
    return replace(other, instead=lacked[0]), for_one_shape


def why_no_kernel(chain, layout):
    "Why no kernel can load or store a state of `chain`, which is in a code; None if kernels can"
    for n, dtype in layout.state_dtypes:
        code = chain.stores[n].code_of(dtype) if n in chain.stores else None
        found = recorded_code(code) if code else None
        if isinstance(found, Why):
            return found
    return None


def decide(chain, prefix, layout, numbers, request, n_known, unknown):
    """A new program, and whether it holds for this shape class alone. `unknown` gets the values whose
    operations the table lacks"""

    def known_operation(v):
        known = request.backend == 'foreach' or can_write(v, layout.compute_dtype)
        if not known:
            unknown.append(v)
        return known

    try:
        if n_known >= most_programs:
            raise NotRecorded(
                f"{chain} computes something else for each of {most_programs} values of a hyper-parameter; "
                "use int() and range() on it in a callback that reads no tensors"
            )
        recording = record(chain, layout, numbers, known_operation)
        program = program_of(recording, chain, prefix, layout, request)
        return program, recording.for_one_shape
    except NotRecorded as e:
        return fallback(chain, layout, request, Why(str(e).split()[0], str(e))), True


def note_change(chain, block, names):
    """A callback that is called has returned other `names` than when the chain was recorded. The
    programs of the chain are forgotten, so that they are made anew"""
    learned = learned_of(chain)
    learned.saw(block, names)
    learned.varying.add(block)
    for key in [k for k in programs if k[0] == chain.key]:
        del programs[key]

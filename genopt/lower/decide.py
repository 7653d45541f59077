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
from .program import fallback
from .reasons import Why
from .stages import program_of

__all__ = ['lower', 'note_change', 'programs']

# For all optimizers of the process: a key, which has all that decides -> its programs
programs = defaultdict(list)

# Recordings of one chain. A chain that needs more uses a number in Python, as `range(k)` does
most_programs = 16
too_many = (
    f"computes something else for each of {most_programs} values of a hyper-parameter; "
    "use int() and range() on it in a callback that reads no tensors"
)
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
    if len(known) < most_programs:
        program = decide(chain, prefix, layout, numbers, request)
    else:
        program = fallback(chain, layout, request, Why(str(chain), too_many))
    if len(programs) > most_keys:
        del programs[next(iter(programs))]  # the oldest; plans keep those that they run
    programs[of_shape if program.for_one_shape else key].append(program)
    return program


def growing(chain):
    "Why `chain` can be no program, if one of its states grows. A program keeps memory of one size"
    for b in chain.blocks:
        for n, init in b.state.items():
            if init.grows:
                return Why(b.name, f"keeps the state {n!r}, which grows")
    return None


def key_of(chain, prefix, layout, numbers, request):
    """All that decides which program a chain gets, except two things: the shape class, which matters
    for some chains only, and the values of `numbers`, for which a program has guards"""
    counters = tuple(n for n in chain.state if n in numbers)
    on_device = tuple(n for n, v in numbers.items() if isinstance(v, Tensor))
    of_layout = layout.dtype, layout.grad_dtype, layout.state_dtypes, layout.device
    return chain.key, id(prefix), of_layout, request, counters, on_device


def decide(chain, prefix, layout, numbers, request):
    """A new program. It uses operations on lists if a state is in a code that no kernel can read. On a
    GPU it also does so if the table lacks an operation of a callback, because calling that callback
    for each parameter would take longer"""
    on_lists = replace(request, backend='foreach')
    if request.launches and (why := why_no_kernel(chain, layout)):
        program = new_program(chain, prefix, layout, numbers, on_lists)
        return replace(program, instead=why)
    program = new_program(chain, prefix, layout, numbers, request)
    why = next((w for w in program.why if w.lacks_operation), None)
    if request.backend != 'triton' or not why:
        return program
    program = new_program(chain, prefix, layout, numbers, on_lists)
    return replace(program, instead=why)


def why_no_kernel(chain, layout):
    "Why no kernel can load or store a state of `chain`, which is in a code; None if kernels can"
    for n, dtype in layout.state_dtypes:
        code = chain.stores[n].code_of(dtype) if n in chain.stores else None
        found = recorded_code(code) if code else None
        if isinstance(found, Why):
            return found
    return None


def new_program(chain, prefix, layout, numbers, request):
    "The program for the backend of `request`"
    on_lists = request.backend == 'foreach'
    known = lambda v: on_lists or can_write(v, layout.compute_dtype)
    recording = record(chain, layout, numbers, known)
    if isinstance(recording, Why):
        return fallback(chain, layout, request, recording)
    return program_of(recording, chain, prefix, layout, request)


def note_change(chain, block, names):
    """A callback that is called has returned other `names` than when the chain was recorded. The
    programs of the chain are forgotten, so that they are made anew"""
    learned = learned_of(chain)
    learned.saw(block, names)
    learned.varying.add(block)
    for key in [k for k in programs if k[0] == chain.key]:
        del programs[key]

"""`lower` decides how a chain is run. It is the only place that does; the optimizer's checks, `explain()` and the plan read the program that it
returns. A reason that something cannot be is a `Why` in the program, and no exception."""

from collections import defaultdict
from ..contract.chain import learned_of
from .chain import record
from .operations import can_write
from .prefix import prefix_of
from .program import Why, fallback
from .stages import program_of
from .words import NotRecorded
from torch import Tensor

__all__ = ['lower', 'note_change', 'programs']

programs = defaultdict(list)  # what was decided, for all optimizers of the process
most = 16  # recordings of one chain: one that needs more takes a number into its Python code


def lower(chain, layout, numbers, request, late={}, arrived={}):  # noqa: B006
    """The program of `chain` for parameters of `layout` that is right for `numbers`: hyper-parameters, and states that are numbers. `late`: what a
    prefix was seen to change late; `arrived`: to what it has come in this step"""
    prefix = None if request.capturable else prefix_of(chain, layout, numbers, request, late)
    if isinstance(prefix, Why):
        return fallback(chain, layout, request, prefix)
    if prefix:
        chain, layout = prefix.rest, layout.behind(prefix)
        numbers = numbers | {n: arrived.get(n, v) for n, v in prefix.numbers.items()}
    key = key_of(chain, prefix, layout, numbers, request)
    known = [*programs[key], *programs[key, layout.shape]]
    for program in known:
        if program.holds(numbers):
            return program
    program, shaped = recorded(chain, prefix, layout, numbers, request, len(known))
    programs[(key, layout.shape) if shaped else key].append(program)
    return program


def key_of(chain, prefix, layout, numbers, request):
    "All that decides, but for the shape class, which matters for some chains, and the values of numbers, for which a program has guards"
    counters = tuple(n for n in chain.state if n in numbers)
    on_device = tuple(n for n, v in numbers.items() if isinstance(v, Tensor))
    return (
        chain.key,
        id(prefix),
        layout.dtype,
        layout.grad_dtype,
        layout.state_dtypes,
        layout.device,
        request,
        counters,
        on_device,
    )


def recorded(chain, prefix, layout, numbers, request, n_known):
    "A new program, and whether it holds for this shape class alone"

    def known_operation(v):
        return request.backend == 'foreach' or can_write(v, layout.compute_dtype)

    try:
        if n_known >= most:
            raise NotRecorded(
                f"{chain} becomes another graph for too many values of a hyper-parameter; leave int() and range() of it to a callback "
                "without tensors"
            )
        recording = record(chain, layout, numbers, known_operation)
        return program_of(recording, chain, prefix, layout, request), recording.shaped
    except NotRecorded as e:
        return fallback(chain, layout, request, Why(str(e).split()[0], str(e))), True


def note_change(chain, block, names):
    "A callback that is called has returned other `names` than when the chain was recorded: its programs are to be made anew"
    learned = learned_of(chain)
    learned.saw(block, names)
    learned.varying.add(block)
    for key in [k for k in programs if chain.key in (k[0], k[0][0])]:
        del programs[key]

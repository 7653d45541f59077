"""Choices that come before a plan: the backend of a chain, and whether it can do what the user asks."""

from dataclasses import replace
import torch
from torch import Tensor
from ..contract.chain import chain_of
from ..contract.stand_ins import shape_class
from ..contract.tensors import compute
from ..lower.decide import lower
from ..lower.program import Request, layout_of
from . import compiler, triton_runtime
from .memory import resolved
from .sparse import why_not
from .triton_launch import kernel_for
from .triton_offline import report

__all__ = [
    'backend_of',
    'check_asked',
    'how',
    'kernels',
    'on_device',
    'plain_types',
    'program_for',
    'program_on_gpu',
    'why_not_sparse',
]

plain_types = torch.Tensor, torch.nn.Parameter

# The backend that launches kernels, for each kind of device. ROCm's devices are of the kind cuda.
# The tests give CPUs Triton, which is then interpreted
dialects = dict(cpu='c', cuda='triton', xpu='triton')
compiler_of = dict(c=compiler, triton=triton_runtime)


def backend_of(asked, device, capturable=False):
    """The backend for parameters on `device`. The user has `asked` for `'launch'`, `'foreach'` or
    `'reference'`, or for none"""
    if asked == 'reference':
        return asked
    dialect = dialects.get(device.type)
    launches = dialect and asked != 'foreach'
    if capturable and dialect == 'c':  # C has no scalars on a device
        launches = False
    return dialect if launches and compiler_of[dialect].available() else 'foreach'


def on_device(v, device):
    "The number `v` as a tensor on `device`"
    return (
        v
        if isinstance(v, Tensor)
        else torch.tensor(v, dtype=torch.float64, device=device)
    )


def program_for(chain, numbers, p, asked, capturable=False):
    "The program for `chain` and a parameter like `p`, with states as they are at first"
    return program_and_why(chain, numbers, p, asked, capturable)[0]


def program_and_why(chain, numbers, p, asked, capturable=False):
    """The same, and why it calls a callback over all parameters first; None if it does not, or does
    so because that one asks the model"""
    layout, counters = at_first(chain, p)
    if capturable:
        counters = {n: on_device(v, p.device) for n, v in counters.items()}
    request = Request(backend_of(asked, p.device, capturable), capturable)
    program = lower(chain, layout, numbers | counters, request)
    if not program.falls_back or not any(b.is_global for b in chain.blocks):
        return program, None
    request = replace(request, call_globals=True)
    other = lower(chain, layout, numbers | counters, request)
    return (program, None) if other.falls_back else (other, program.why[0])


def at_first(chain, p):
    """The layout of a parameter like `p` with states as they are at first, and its counters: states
    that are numbers"""
    x, q = compute(p), resolved(p.detach())
    values = {n: init(x) for n, init in chain.state.items()}
    stored = {n: init.room(n, values[n])[n] for n, init in chain.state.items()}
    for n, dtype in chain.weights.beside('p', q.dtype).items():
        stored[n] = torch.empty_like(q, dtype=dtype, device='meta')
    counters = {n: v for n, v in values.items() if not isinstance(v, Tensor)}
    return layout_of(q, q.dtype, stored, chain), counters


def check_asked(chain, numbers, params, who, fused, capturable):
    """Raise `ValueError` if `chain` cannot be launched (`fused`), or captured, for one of `params`.
    The error says which callback is the reason, and why"""
    flag = 'capturable=True' if capturable else 'fused=True'
    if fused and not capturable:
        check_compilers(params, who)
    plain = [p for p in params if type(p) in plain_types]
    for p in {(p.dtype, p.device, shape_class(p.shape)): p for p in plain}.values():
        program = program_for(chain, numbers, p, 'launch', capturable)
        why = program.why[0] if program.falls_back else None
        if fused and not on_gpu(program):
            why = why or program.instead
        if why:
            name = flag.partition('=')[0]
            raise ValueError(f"{who}: {flag} is not possible: {why}; leave {name} out")


def check_compilers(params, who):
    "Raise `ValueError` if the compiler for a device of `params` is not there"
    for kind in dict.fromkeys(p.device.type for p in params):
        found = compiler_of.get(dialects.get(kind))
        if found and not found.available():
            raise ValueError(
                f"{who}: fused=True is not possible: {found.missing()}; or leave fused out"
            )


def how(chain, numbers, params, asked):
    "How `chain` is run for `params`, in words. Also of each callback what it runs on"
    if asked == 'reference' or not params:
        return 'each parameter by itself (foreach=False)', {}
    program, why = program_and_why(chain, numbers, params[0], asked)
    if program.falls_back:
        return f'each parameter by itself; {program.why[0]}', {}
    words = (
        f'{launches_of(program)} for all parameters'
        if program.request.launches
        else 'operations on lists of parameters (foreach)'
    )
    if program.instead:
        words = f'{words}, because {program.instead}'
    if program.why:
        words = f'{words}, around {", ".join(w.callback for w in program.why)}'
    words = before(program.prefix) + words + (f'; {why}' if why else '')
    return words, program.runs_on | dict(move='elements')


def program_on_gpu(chain, numbers, p, steps=100):
    """The program that a GPU would run for a parameter like `p`, wherever it is. Counters are at
    `steps`: in its first steps an algorithm may do something else"""
    layout, counters = at_first(chain, p)
    counters |= {n: v + steps for n, v in counters.items() if type(v) is int}
    return lower(chain, layout, numbers | counters, Request('triton'))


def kernels(chain, numbers, params, target):
    """What the GPU `target` would run for `params`, wherever they are: the source of the kernels, with
    what their compiler says. One text for each program"""
    alike = {(p.dtype, shape_class(p.shape)): p for p in params}.values()
    made = dict.fromkeys(program_on_gpu(chain, numbers, p) for p in alike)
    return [
        f'# {chain}: no kernel on a GPU; {program.instead or program.why[0]}\n'
        if program.falls_back or program.instead
        else report(program, target)
        for program in made
    ]


def launches_of(program):
    "How many launches a step takes, in words. A program with calls makes one launch at a time"
    if program.why:
        return 'one launch'
    if program.one_call:
        n = len(kernel_for(program).calls()) if on_gpu(program) else 1
    else:
        n = max(1, sum(s.flat is not None for s in program.stages))
    return 'one launch' if n == 1 else f'{n} launches'


def on_gpu(program):
    return program.request.backend == 'triton'


def before(prefix):
    "What is called first, in words"
    called = prefix.called if prefix else []
    if not called:
        return ''
    return (
        f'{" > ".join(called)} as {"they are" if len(called) > 1 else "it is"}, then '
    )


def why_not_sparse(chain, numbers, p):
    "Why `chain` cannot take a sparse gradient of `p`, in words; None if it can"
    x = compute(p if p.numel() else p.new_zeros(1))
    first = {n: init(x[:1]) for n, init in chain.state.items()}
    numbers = numbers | {n: v for n, v in first.items() if not isinstance(v, Tensor)}
    rest = chain_of([b.cb for b in chain.every if 'rows' not in b.reads])
    program = program_for(rest, numbers, x, 'foreach')
    elementwise = not program.falls_back and program.elementwise
    return why_not(chain, numbers, elementwise, p)

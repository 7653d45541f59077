"""How a chain is run, before there is a plan: on which backend, what is called before its program, whether it can be what the user asked for."""

import torch
from torch import Tensor
from ..contract.chain import chain_of
from ..contract.stand_ins import small
from ..contract.tensors import compute
from ..lower.prefix import cut
from ..lower.program import Request,layout_of,lower
from ..lower.words import NotRecorded
from . import compiler
from .memory import real
from .sparse import why_not

__all__ = ['backend_of', 'check_way', 'decide', 'how', 'on_device', 'plain_types', 'why_not_sparse']

plain_types = torch.Tensor,torch.nn.Parameter

def backend_of(way, device, capturable=False):
    "Which backend runs a group of parameters on `device`; `way` is what the user asked for, `'launch'`, `'foreach'`, `'reference'` or None"
    if way=='reference': return way
    launches = device.type=='cpu' and not capturable and way!='foreach'
    return 'launch' if launches and compiler.available() else 'foreach'

def on_device(v, device): return v if isinstance(v, Tensor) else torch.tensor(v, dtype=torch.float64, device=device)

def decide(chain, numbers, p, way, capturable=False):
    """The program for `chain` and a parameter like `p`, with states as they are at first, and what is called before it. The program has no stages
    where the callbacks are called for each parameter"""
    x,q = compute(p),real(p.detach())
    values = {n: init(x) for n,init in chain.state.items()}
    hosts  = {n: v for n,v in values.items() if not isinstance(v, Tensor)}
    if capturable: hosts = {n: on_device(v, p.device) for n,v in hosts.items()}
    request,tried = Request(backend_of(way, p.device, capturable), capturable),[]
    for joins in (False, True):
        try: before = cut(chain, numbers|hosts, x, joins) if not capturable else None
        except NotRecorded as e:
            tried.append(str(e))
            continue
        rest = before.rest if before else chain
        program,_ = lower(rest, layout_of(q, q.dtype, values, rest), numbers | hosts | (before.numbers if before else {}), request)
        if not program.called: return program,before
        tried.append(str(program.why[0]))
        if not any(b.is_global for b in chain.blocks): break
    return None,tried[0]

def check_way(chain, numbers, params, who, fused, capturable):
    "Raise `ValueError` if `chain` cannot be launched, or captured, for one of `params`; says which callback, and why"
    flag = 'capturable=True' if capturable else 'fused=True'
    if fused and not capturable and not compiler.available():
        raise ValueError(f"{who}: fused=True cannot be: {compiler.missing()}; or leave fused out")
    for p in {(p.dtype, p.device, small(p.shape)): p for p in params if type(p) in plain_types}.values():
        program,why = decide(chain, numbers, p, 'launch', capturable)
        if program is None: raise ValueError(f"{who}: {flag} cannot be: {why}; leave {flag.partition('=')[0]} out")

def how(chain, numbers, params, way):
    "How `chain` is run for `params`, in words, and for each callback what it runs on"
    if way=='reference' or not params: return 'each parameter by itself (foreach=False)',{}
    program,before = decide(chain, numbers, params[0], way)
    if program is None: return f'each parameter by itself; {before}',{}
    launches = max(1, sum(s.flat is not None for s in program.stages))
    number   = 'one launch' if launches==1 or program.why else f'{launches} launches'
    words    = f'{number} for all parameters' if program.request.backend=='launch' else 'operations on lists of parameters (foreach)'
    if program.why: words = f'{words}, around {", ".join(w.callback for w in program.why)}'
    return (before.words if before else '') + words,program.runs_on | dict(move='elements')

def why_not_sparse(chain, numbers, p):
    "Why `chain` cannot take a sparse gradient of `p`, in words; None if it can"
    x    = compute(p if p.numel() else p.new_zeros(1))
    host = {n: v for n,init in chain.state.items() if not isinstance(v := init(x[:1]), Tensor)}
    rest = chain_of([b.cb for b in chain.every if 'rows' not in b.reads])
    program,_ = decide(rest, numbers|host, x, 'foreach')
    return why_not(chain, numbers|host, program is not None and program.elementwise, p)

"""`lower`: how a chain is run for parameters of one layout. The only place that decides; what it decides is a `Program`, which everybody reads.

A program is a sequence of stages. A stage first runs its `flat` part, operations on elements and reductions, over all parameters; then what joins
them (`joins`, and the arithmetic on that); then its calls. The flat part of the last stage writes the parameter and its states. So all that can
fail comes before all that is written. Muon, for instance:

    stage 0   flat   v4 = average of averages     into scratch memory
              calls  newton_schulz, scale_to_shape
    stage 1   flat   p, grad_avg                  written

A chain that cannot be so taken apart has no stages: its callbacks are called for each parameter, the reference. The program says why."""

from collections import defaultdict
from dataclasses import dataclass,field
import torch
from torch import Tensor
from ..contract.chain import learned_of
from ..contract.stand_ins import small
from ..contract.tensors import wide
from .chain import OWN,record
from .operations import can_write
from .record import CROSS,ELEMENTS,SCALAR,SINGLE,Value,aten,needed
from .scalars import ScalarProgram
from .words import NotRecorded

__all__ = ['Flat', 'Layout', 'Program', 'Request', 'Round', 'Stage', 'Why', 'layout_of', 'lower', 'note_change']


# -- What is asked --

@dataclass(frozen=True)
class Layout:
    "All that matters of a parameter: `shape`, its shape class; the dtypes of the parameter, its gradient and its states, all real; the device"
    shape: tuple
    dtype: torch.dtype
    grad_dtype: torch.dtype
    state_dtypes: tuple
    device: torch.device
    @property
    def compute_dtype(self):
        "The dtype in which callbacks see it"
        return wide(self.dtype)
    def example(self): return torch.ones(self.shape, dtype=self.compute_dtype, device=self.device)

@dataclass(frozen=True)
class Request:
    "What the user asked for: `backend`, `'launch'`, `'foreach'` or `'reference'`; `capturable`"
    backend: str
    capturable: bool = False

def layout_of(p, grad_dtype, states, chain):
    "The layout of `p`, as callbacks see it; `states` are those that are there"
    dtypes = tuple((n, states[n].dtype) for n in chain.state if isinstance(states.get(n), Tensor))
    return Layout(small(p.shape), p.dtype, grad_dtype, dtypes, p.device)


# -- What is decided --

@dataclass(frozen=True)
class Why:
    "Why a callback is not run as part of one launch; `remedy`, what would change that"
    callback: str
    reason: str
    def __str__(self): return self.reason if self.reason.startswith(self.callback) else f'{self.callback} {self.reason}'

@dataclass(frozen=True, eq=False)
class Round:
    "One pass over the elements: first arithmetic on `singles`, then `elements`, which end in `reduced`; in the last round in what is written"
    singles: tuple
    elements: tuple
    reduced: tuple

@dataclass(frozen=True, eq=False)
class Flat:
    """Operations on elements, in rounds. `loads`: the names of what is read; `stores`: name -> value, what is written; `single_loads` and
    `single_stores`: likewise of single numbers. `leaves`: single numbers that are handed out, for joins and calls"""
    rounds: tuple
    loads: tuple
    stores: dict
    single_loads: tuple
    single_stores: dict
    leaves: tuple
    @property
    def names(self): return tuple(dict.fromkeys([*self.loads, *self.stores]))
    @property
    def single_names(self): return tuple(dict.fromkeys([*self.single_loads, *self.single_stores]))
    @property
    def reduces(self): return len(self.rounds)>1

@dataclass(frozen=True, eq=False)
class Stage:
    flat: Flat
    joins: tuple
    cross: tuple
    calls: tuple

@dataclass(frozen=True, eq=False)
class Program:
    """How `chain` is run. `scalars` computes the numbers named `numbers`; behind them come the reciprocals of some and the values of `crosses`.
    `runs_on`: for each callback what it runs on, in words; `why`: which callbacks are not launched"""
    chain: object
    layout: Layout
    request: Request
    stages: tuple
    scalars: ScalarProgram
    reciprocals: tuple
    crosses: tuple
    call_outs: dict
    runs_on: dict
    why: tuple
    kernels: dict = field(default_factory=dict)          # compiled code, kept for all who run the program
    @property
    def called(self): return not self.stages
    @property
    def elementwise(self): return len(self.stages)==1 and not self.stages[0].flat.reduces
    @property
    def holds_whole(self):
        "Whether calls of all parameters come before anything is written: one may fail, or something joins parameters behind a call"
        return any(c.may_fail for s in self.stages for c in s.calls) or any(s.joins for s in self.stages[1:])
    def names_of_scalars(self): return (*self.scalars.names, *(f'r_{n}' for n in self.reciprocals), *(v.name for v in self.crosses))
    def __repr__(self):
        if self.called: return f'Program: each parameter by itself; {"; ".join(map(str, self.why))}'
        lines = []
        for i,s in enumerate(self.stages):
            lines.append(f'stage {i}')
            if s.flat: lines += [f'    round {k}: {r}' for k,r in enumerate(s.flat.rounds)]
            lines += [f'    {what}' for what in (*s.joins, *s.cross, *s.calls)]
        return '\n'.join(lines)


# -- The decision --

programs = defaultdict(list)                 # what was decided, for all optimizers of the process
most = 16                                    # recordings of one chain: one that needs more takes a number into its Python code

def kinds(chain, numbers):
    "Which states are numbers, and which numbers come as tensors on the device"
    return tuple(n for n in chain.state if n in numbers),tuple(n for n,v in numbers.items() if isinstance(v, Tensor))

def lower(chain, layout, numbers, request):
    """The program of `chain` for parameters of `layout`, that is right for `numbers`, and what its scalar program makes of them. `numbers` has the
    hyper-parameters, and the states that are numbers"""
    key = chain.key,layout.dtype,layout.grad_dtype,layout.state_dtypes,layout.device,request,kinds(chain, numbers)
    known = [*programs[key], *programs[key, layout.shape]]
    for p in known:
        if p.called: return p,None
        if (ready := p.scalars(dict(numbers))) is not None: return p,ready
    try:
        if len(known)>=most:
            raise NotRecorded(f"{chain} becomes another graph for too many values of a hyper-parameter; leave int() and range() of it to a callback "
                              "without tensors")
        recording = record(chain, layout, numbers, lambda v: request.backend=='foreach' or can_write(v, layout.compute_dtype))
        program = staged(chain, layout, request, recording)
        programs[key, layout.shape].append(program) if recording.shaped else programs[key].append(program)
        return program,program.scalars(dict(numbers))
    except NotRecorded as e:
        program = Program(chain, layout, request, (), None, (), (), {}, {}, (Why(str(e).split()[0], str(e)),))
        programs[key, layout.shape].append(program)
        return program,None


def note_change(chain, block, names):
    "A callback that is called has returned other `names` than when the chain was recorded: its programs are to be made anew"
    learned = learned_of(chain)
    learned.saw(block, names)
    learned.varying.add(block)
    for key in [k for k in programs if chain.key in (k[0], k[0][0])]: del programs[key]


# -- Stages --

def staged(chain, layout, request, r):
    "The recording `r` as a program"
    order,of = r.needed(),{v: c for c in r.calls for v in c.gives.values()}
    for v in order: set_stage(v, of)
    for c in r.calls:                                    # what a call gives, the next one may read at once
        c.stage = max((of[v].stage if v in of else v.stage for v in (*c.reads.values(), *c.else_.values())), default=0)
        for v in order: set_stage(v, of)
    last = max([0, *(v.stage for v in r.outs.values()), *(c.stage+1 for c in r.calls)])
    stages,materialized = [],set()
    for k in range(last+1):
        calls = tuple(c for c in r.calls if c.stage==k)
        joins = tuple(v for v in order if v.op=='join' and v.stage==k+1)
        cross = tuple(v for v in order if v.kind==CROSS and v.op!='join' and v.stage==k+1)
        wanted = [v for c in calls for v in (*c.reads.values(), *c.else_.values())] if k<last else []
        stores = {v.name: v for v in wanted if v.kind==ELEMENTS and not in_memory(v) and v not in materialized}
        leaves = [v for v in [*wanted, *(j.args[0] for j in joins)] if v.kind==SINGLE and not in_memory(v)]
        if k==last: stores = {'p' if n=='new_p' else n: v for n,v in r.outs.items() if v.kind!=OWN}
        flat = flattened(stores, leaves, materialized) if stores or leaves else None
        if k<last: materialized |= {*stores.values()}
        stages.append(Stage(flat, joins, cross, calls))
    names,lines = scalar_names(order, r, request.capturable)
    program = ScalarProgram(r.scalars.lines + lines, names, r.counters, r.scalars.bound)
    read_by = {o for v in order if v.kind in (ELEMENTS, SINGLE) for o in v.operands}|{*r.outs.values()}
    crosses = tuple(v for v in order if v.kind==CROSS and v in read_by)
    divisors = tuple(dict.fromkeys(d.name for v in order if (d := divisor(v)) is not None))
    own = {n: v for n,v in r.outs.items() if v.kind==OWN}
    whys = tuple(Why(c.block.name, c.why) for c in r.calls)
    return Program(chain, layout, request, tuple(stages), program, divisors, crosses, own, r.runs_on, whys)

def in_memory(v): return isinstance(v.op, str) and v.op!='join'

def set_stage(v, of):
    "How many calls and joins lie before `v`; `of`: the calls that give values"
    v.stage = of[v].stage+1 if v in of else max((o.stage for o in v.operands), default=0) + (v.op=='join')

def divisor(v):
    "The scalar by which `v` divides elements: multiplying by its reciprocal takes a fraction of the time"
    if v.op is not aten.div.Tensor or v.kind!=ELEMENTS or not isinstance(v.args[1], Value): return None
    return v.args[1] if v.args[1].kind==SCALAR and v.args[0] is not v.args[1] else None

def scalar_names(order, r, on_device):
    "What the scalar program returns: the scalars that tensors meet, and the numbers that calls read; and lines for tensors that callbacks hold"
    names,lines = [],[]
    for v in order:
        if v.kind!=SCALAR: continue
        names.append(v.name)
        if v.name.startswith('constant'):
            r.scalars.bound[f'tensor_{v.name}'] = v.example
            lines.append(f'{v.name} = tensor_{v.name}' + ('' if on_device else '.item()'))
    names += [x.name for c in r.calls for x in c.numbers.values() if hasattr(x, 'recorder')]
    return [*dict.fromkeys(names)],lines

def flattened(stores, leaves, materialized):
    "The rounds that make `stores` and `leaves`"
    stop  = lambda v: v in materialized or v.kind in (CROSS, SCALAR)
    order = needed([*stores.values(), *leaves], stop=lambda v: stop(v) or v.op=='given' or v.is_input)
    for v in order:
        inner = [o for o in v.operands if o in order]
        v.level = max((o.level for o in inner), default=0) + bool(v.reduces)
    depth  = max((v.level for v in order), default=0)
    final  = [v for v in stores.values()]
    rounds = []
    for k in range(depth+1):
        reduced  = [v for v in order if v.reduces and v.level==k+1]
        singles  = [v for v in order if v.kind==SINGLE and not v.reduces and v.level==k]
        targets  = [o for v in reduced for o in v.operands if o.kind==ELEMENTS] if k<depth else [v for v in final if v.kind==ELEMENTS]
        elements = needed(targets, stop=lambda v: v not in order or v.kind!=ELEMENTS)
        rounds.append(Round(tuple(singles), tuple(elements), tuple(reduced)))
    read = [o for v in order for o in v.operands if o not in order] + [v for v in [*final, *leaves] if v not in order]
    memory = [v for v in dict.fromkeys(read) if v.kind in (ELEMENTS, SINGLE)]
    names  = lambda kind: tuple(v.name for v in memory if v.kind==kind)
    rows    = {n: v for n,v in stores.items() if v.kind==ELEMENTS}
    singles = {n: v for n,v in stores.items() if v.kind!=ELEMENTS}
    return Flat(tuple(rounds), names(ELEMENTS), rows, names(SINGLE), singles, tuple(dict.fromkeys(leaves)))

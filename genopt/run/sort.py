"""Which parameters are run together. `lower` finds the program for the chain and the layout of each parameter; all parameters of a program are one
`Work`. Parameters that can be in none are called one by one."""

from dataclasses import dataclass, replace
import torch
from torch import Tensor
from ..contract.messages import name_in
from ..contract.sharded import alike, is_sharded, local
from ..contract.state import as_declared, first
from ..contract.tensors import compute
from ..lower.decide import lower
from ..lower.program import Request, layout_of
from .choose import backend_of, on_device, plain_types, why_not_sparse
from .memory import aligned, dense, real, real_dtype
from .store import Clock, SharedClock, cells
from .scalars import Row
from .work import Work

__all__ = ['Inputs', 'Sort', 'check_shapes']


@dataclass
class Inputs:
    "What a step starts from: parameters and gradients in order, the settings of each group, and the groups themselves, for messages"

    params: list
    grads: list
    settings: list
    groups: list

    def group_of(self):
        "The number of the group of each parameter"
        return [i for i, g in enumerate(self.groups) for _ in g['params']]


class Sort:
    """Gives each parameter that has a gradient to one of `works`, or to `called`. `parts`: of sharded parameters the local part. A callback over all
    parameters is called for all of them or for none: so if it must be for one, sorting starts again, with `call_globals`.

    `late`: what prefixes have been seen to change late, by name. `arrived`: what they have come to in this step already, by parameter"""

    def __init__(self, inputs, store, who, scratch_bytes, late, arrived):
        self.inputs, self.store, self.who, self.scratch_bytes, self.late, self.arrived = (
            inputs,
            store,
            who,
            scratch_bytes,
            late,
            arrived,
        )
        self.group_of = inputs.group_of()
        self.parts = {}
        self.again = False
        self.sort(call_globals=False)
        if self.again or any(has_globals(inputs.settings[g].chain) for _, g in self.called):
            self.sort(call_globals=True)
        joined = [w for w in self.works.values() if w.joins]
        for w in joined:
            w.alone = len(joined) == 1
        for (*_, grad_dtype), work in self.works.items():
            work.bind(len(inputs.grads), grad_dtype)

    def sort(self, call_globals):
        self.works, self.called, self.call_globals, self.rows = {}, [], call_globals, {}
        params = self.inputs.params
        first_place = {
            id(p): i for i, p in reversed([*enumerate(params)])
        }  # a parameter given twice is moved once
        for i, (p, grad) in enumerate(zip(params, self.inputs.grads)):
            if grad is not None and first_place[id(p)] == i:
                self.give(i, p, grad)

    def give(self, i, p, grad):
        "Give parameter `i` to a work, or to those that are called"
        group = self.group_of[i]
        settings = self.inputs.settings[group]
        check_shapes(self.who, self.inputs.groups, i, p, self.store.of(p), settings.chain, grad)
        if grad.is_sparse:
            self.check_sparse(i, p, settings)
        if grad.is_sparse:
            why = "its gradient is sparse"
        elif settings.way == 'reference':
            why = 'foreach=False'
        else:
            why = self.place(i, p, grad, group, settings)
        if why is None:
            return
        if settings.capturable:
            raise ValueError(f"{self.who}: capturable=True cannot be: {why}")
        self.called.append((i, group))

    def check_sparse(self, i, p, settings):
        "Refuse a sparse gradient of a parameter whose chain cannot take one"
        if not p.ndim:
            raise RuntimeError(
                f"{self.who} does not support sparse gradients of {name_in(self.inputs.groups, i)}: it has no dimensions, "
                "and so no rows. Let p.grad = p.grad.to_dense()"
            )
        if why := why_not_sparse(settings.chain, settings.numbers, p):
            raise RuntimeError(
                f"{self.who} does not support sparse gradients of {name_in(self.inputs.groups, i)}: {why}. "
                "Or use a dense layer (sparse=False), or p.grad = p.grad.to_dense()"
            )
        if settings.capturable:
            raise RuntimeError(f"{self.who}: capturable=True cannot take sparse gradients")

    def place(self, i, p, grad, group, settings):
        "Give parameter `i` to the work of its program. Returns in words why it can be in none, or None"
        sharded = is_sharded(p) and is_sharded(grad) and alike(grad, p)
        plain = type(p) in plain_types and type(grad) is Tensor
        if not (sharded or plain) or p.layout != torch.strided:
            return f"it is a {type(p).__name__}"
        x = real(local(p).detach())
        hosts, kept = self.states(p, x, settings)
        if sharded and not all(is_sharded(v) and alike(v, p) for v in kept.values()):
            return "its state is not sharded as it is"
        tensors = {n: real(local(s).detach()) for n, s in kept.items()}
        program = self.program(
            i, x, tensors, real_dtype(grad.dtype), settings.numbers | hosts, settings
        )
        if program.falls_back:
            return self.refused(settings, program.why[0])
        if sharded and not program.elementwise:
            return "it is sharded, and a callback needs the whole of it"
        work = self.works.setdefault(
            (program, p.dtype, program.layout.grad_dtype),
            Work(program, self.scratch_bytes, self.who),
        )
        work.add(i, x, tensors, local(p), kept, self.row(group, p, hosts))
        if sharded:
            self.parts[i] = local(p)
        return None

    def states(self, p, x, settings):
        "The state of `p`, new where it has none: counters by name, and tensors by name. `x`: the parameter, real and local"
        state, values, like = self.store.of(p), {}, None
        for n, init in settings.chain.state.items():
            if n not in state and like is None:
                like = compute(p)
            values[n] = as_declared(state[n], init, x) if n in state else init(like)
        hosts = {n: v for n, v in values.items() if not isinstance(v, Tensor)}
        if settings.capturable:
            hosts = {n: on_device(v, p.device) for n, v in hosts.items()}
        return hosts, {n: v for n, v in values.items() if isinstance(v, Tensor)}

    def program(self, i, x, tensors, grad_dtype, numbers, settings):
        "The program for parameter `i`: a launch if the states lie in memory as the parameter does, else operations on lists"
        backend = backend_of(settings.way, x.device, settings.capturable)
        if backend == 'launch' and not dense(x):
            backend = 'foreach'
        layout = layout_of(x, grad_dtype, tensors, settings.chain)
        request = Request(backend, settings.capturable, self.call_globals)
        arrived = self.arrived[i].ns if i in self.arrived else {}
        program = lower(settings.chain, layout, numbers, request, self.late, arrived)
        elements = {n for s in program.stages if s.flat for n in s.flat.names}
        if backend != 'launch' or all(aligned(tensors[n], x) for n in {*tensors} & elements):
            return program
        return lower(
            settings.chain, layout, numbers, replace(request, backend='foreach'), self.late, arrived
        )

    def refused(self, settings, why):
        "A parameter goes to those that are called, unless the user asked for one launch"
        if has_globals(settings.chain) and not self.call_globals:
            self.again = True
        elif settings.way == 'launch':
            raise ValueError(f"{self.who}: fused=True cannot be: {why}; leave fused out")
        return str(why)

    # -- rows of scalars --

    def row(self, group, p, hosts):
        "The row of scalars for a parameter of `group` with counters `hosts`: it shares one with those that count alike"
        state = self.store.of(p)
        undecayed = state.get('do_wd') is False
        if hosts and len(mine := cells(state, hosts)) == len(hosts):
            return Row(group, SharedClock(mine), undecayed)
        on_host = not any(isinstance(v, Tensor) for v in hosts.values())
        key = group, undecayed, *((n, v if on_host else float(v)) for n, v in hosts.items())
        if key not in self.rows:
            self.rows[key] = Row(group, self.clock(getattr(state, 'clock', None), hosts), undecayed)
        return self.rows[key]

    def clock(self, old, hosts):
        "The clock for a new row: the one that its parameters have, if they have it for themselves; else a new one"
        mine = (
            old is not None
            and old.values.keys() == hosts.keys()
            and not any(r.clock is old for r in self.rows.values())
        )
        if mine and old.parameters == self.sharing(old):
            return old
        return Clock({n: v.clone() if isinstance(v, Tensor) else v for n, v in hosts.items()})

    def sharing(self, clock):
        "How many parameters that move now have this clock"
        pairs = zip(self.inputs.params, self.inputs.grads)
        return sum(
            getattr(self.store.of(p), 'clock', None) is clock for p, g in pairs if g is not None
        )


def has_globals(chain):
    return any(b.is_global for b in chain.blocks)


def check_shapes(who, groups, i, p, state, chain, grad=None):
    "Refuse parameter `i` if it has got another shape than its gradient or its state"
    told = None
    if grad is not None and grad.shape != p.shape:
        told = f"its gradient is of {tuple(grad.shape)}. Nothing has changed"
    for n, v in state.items():
        if (
            n in chain.state
            and isinstance(v, Tensor)
            and v.ndim
            and v.shape != p.shape
            and v.shape != (like := first(chain.state[n], p)).shape
        ):
            told = told or (
                f"its state {n!r} is of {tuple(v.shape)} and would be of {tuple(like.shape)}. Nothing has changed; "
                "`del opt.state[p]` gives it a new state"
            )
    if told:
        raise RuntimeError(f"{who}: {name_in(groups, i)} has shape {tuple(p.shape)} now, {told}")

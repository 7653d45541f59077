"""Which parameters are run together. `lower` finds the program for the chain and the layout of each
parameter. All parameters of a program are one `Work`; those that no program can take are the
`fallback`. Two groups, for instance:

    AdamW    weight (64, 32)                  program A
             bias (64,)                       program A: no callback asks for a shape
             embedding, a sparse gradient     no program
    Muon     weight (128, 64)                 program B

    works       A: weight, bias | B: weight
    fallback    embedding"""

from dataclasses import replace
from functools import cached_property
import torch
from torch import Tensor
from ..contract.messages import name_in
from ..contract.sharded import alike, is_sharded, local
from ..contract.state import first, stored_states
from ..contract.tensors import dense
from ..lower.decide import lower
from ..lower.program import Request, layout_of
from .choose import backend_of, on_device, plain_types, why_not_sparse
from .gradients import gradients
from .memory import aligned, real, real_dtype
from .random import key_of
from .store import Clock, DeviceClock, OptimisticClock, SharedClock, cells
from .scalars import Row
from .work import Work

__all__ = ['Inputs', 'Sort', 'check_shapes']


class Inputs:
    """What a step starts from: parameters and gradients in order; the settings of each group; the
    groups themselves, for messages. `grads`: None if they are to be looked up, when somebody asks;
    `first`: the place of the first parameter in the optimizer"""

    def __init__(self, params, grads, settings, groups, first=0):
        self.params, self.settings, self.groups = params, settings, groups
        self.first = first
        if grads is not None:
            self.grads = grads

    @cached_property
    def grads(self):
        return gradients(self.params)

    def group_of(self):
        "The number of the group of each parameter"
        return [i for i, g in enumerate(self.groups) for _ in g['params']]


class Sort:
    """Gives each parameter that has a gradient to one of `works`, or to the `fallback`, as pairs of
    its place and its group. `parts`: of sharded parameters the local part, by place.

    A callback over all parameters is called for all of them or for none. If it must be called for
    one, sorting starts again with `call_globals`.

    `late`: what prefixes have begun to change after they were made, by name. `finished`: items that have gone
    through their chains or prefixes already in this step, by place. `gate`: that of the optimizer, if
    the kernels of a GPU are to look at it. Then sorting refuses nothing, because a plan without a
    gate may work. `seeds`: of the steps"""

    def __init__(
        self, inputs, store, who, scratch_bytes, late, finished, gate=None, seeds=None
    ):
        self.inputs, self.store, self.who = inputs, store, who
        self.scratch_bytes, self.late, self.finished = scratch_bytes, late, finished
        self.gate, self.seeds = gate, seeds
        self.group_of = inputs.group_of()
        self.parts = {}
        self.again = False
        self.sort(call_globals=False)
        if self.again or any(
            has_globals(inputs.settings[g].chain) for _, g in self.fallback
        ):
            self.sort(call_globals=True)
        sharing = [w for w in self.works.values() if w.global_blocks]
        for work in sharing:
            work.alone = len(sharing) == 1
        for work in self.works.values():
            work.sole = len(self.works) == 1
            work.bind(len(inputs.grads))

    def sort(self, call_globals):
        self.works, self.fallback, self.call_globals, self.rows = (
            {},
            [],
            call_globals,
            {},
        )
        seen = set()
        for i, (p, grad) in enumerate(zip(self.inputs.params, self.inputs.grads)):
            if grad is not None and id(p) not in seen:
                self.give(i, p, grad)
            seen.add(id(p))  # a parameter that is given twice is moved once

    def give(self, i, p, grad):
        "Give parameter `i` to a work, or to the fallback"
        group = self.group_of[i]
        settings = self.inputs.settings[group]
        check_shapes(
            self.who, self.inputs.groups, i, p, self.store.of(p), settings.chain, grad
        )
        if grad.is_sparse:
            self.check_sparse(i, p, settings)
            why = f"the gradient of {name_in(self.inputs.groups, i)} is sparse"
        elif settings.asked == 'reference':
            why = 'foreach=False is set'
        else:
            why = self.place(i, p, grad, group, settings)
        if why is None:
            return
        if settings.capturable and self.gate is None:
            raise ValueError(
                f"{self.who}: capturable=True is not possible: {why}; leave capturable out"
            )
        self.fallback.append((i, group))

    def check_sparse(self, i, p, settings):
        "Refuse a sparse gradient of a parameter whose chain cannot take one"
        if not p.ndim:
            raise RuntimeError(
                f"{self.who} does not support sparse gradients of {name_in(self.inputs.groups, i)}: it has no dimensions, "
                "so it has no rows. Set p.grad = p.grad.to_dense()"
            )
        if why := why_not_sparse(settings.chain, settings.numbers, p):
            name = name_in(self.inputs.groups, i)
            raise RuntimeError(
                f"{self.who} does not support sparse gradients of {name}: {why}. "
                "Or use a dense layer (sparse=False), or set p.grad = p.grad.to_dense()"
            )
        if settings.capturable:
            raise RuntimeError(
                f"{self.who}: capturable=True does not work with sparse gradients; "
                "leave it out, or use a dense layer (sparse=False)"
            )

    def place(self, i, p, grad, group, settings):
        "Give parameter `i` to the work of its program. Returns why no program can take it, or None"
        kind = kind_of(p, grad)
        if kind is None:
            return f"{name_in(self.inputs.groups, i)} is a {type(p).__name__}"
        x = real(local(p).detach())
        hosts, kept = self.states(p, x, settings)
        if kind == 'sharded' and not all(
            is_sharded(v) and alike(v, p) for v in kept.values()
        ):
            return "its state is not sharded as it is"
        tensors = {n: real(local(s).detach()) for n, s in kept.items()}
        program = self.program(i, x, tensors, real_dtype(grad.dtype), hosts, settings)
        if program.falls_back:
            return self.refused(settings, program.why[0])
        if kind == 'sharded':
            if not program.elementwise:
                return "it is sharded, and a callback needs the whole of it"
            self.parts[i] = local(p)
        key = program, p.dtype
        if key not in self.works:
            self.works[key] = Work(
                program, self.scratch_bytes, self.who, self.gate, self.seeds
            )
        work, row = self.works[key], self.row(group, p, hosts, program.request)
        key = key_of(self.inputs.first + i, p)
        work.add(i, x, tensors, local(p), kept, row, key)
        return None

    def states(self, p, x, settings):
        """The states of `p` and what is stored beside it, new where it has none: counters by name, and
        tensors by name. `x`: the parameter, real and local"""
        state, chain = self.store.of(p), settings.chain
        known = all(n in state for n in chain.state)
        like = x if known else chain.seen(p, state)
        values = stored_states(chain.state, state, like) | chain.beside(p, state)
        hosts = {n: v for n, v in values.items() if not isinstance(v, Tensor)}
        if settings.capturable:
            hosts = {n: on_device(v, p.device) for n, v in hosts.items()}
        tensors = {n: v for n, v in values.items() if isinstance(v, Tensor)}
        return hosts, {n: resolved(v) for n, v in tensors.items()}

    def program(self, i, x, tensors, grad_dtype, hosts, settings):
        """The program for parameter `i` with counters `hosts`. If kernels may leave a step out, they
        count as well. If a callback must know a counter to branch on it, the host counts"""
        backend = backend_of(settings.asked, x.device, settings.capturable)
        gated = backend == 'triton' and self.gate is not None
        asked = Request(backend, settings.capturable, self.call_globals, gated)
        args = (
            i,
            x,
            layout_of(x, grad_dtype, tensors, settings.chain),
            tensors,
            settings,
        )
        if gated:
            counters = {n: on_device(v, x.device) for n, v in hosts.items()}
            program = self.laid_out(*args, counters, replace(asked, capturable=True))
            if settings.capturable or not program.falls_back:
                return program
        return self.laid_out(*args, hosts, asked)

    def laid_out(self, i, x, layout, tensors, settings, counters, request):
        """The program for `request`. It is launched if the elements of parameter and states lie side
        by side in one order; else it is operations on lists"""
        chain, numbers = settings.chain, settings.numbers | counters
        if request.launches and not dense(x):
            request = replace(request, backend='foreach')
        handed = self.finished[i].ns if i in self.finished else {}
        program = lower(chain, layout, numbers, request, self.late, handed)
        elements = {n for s in program.stages if s.flat for n in s.flat.names}
        elements |= chain.weights.beside('p', x.dtype).keys()
        if not program.request.launches or all(
            aligned(tensors[n], x) for n in {*tensors} & elements
        ):
            return program
        request = replace(request, backend='foreach')
        return lower(chain, layout, numbers, request, self.late, handed)

    def refused(self, settings, why):
        "Why a parameter goes to the fallback. Refuses that if the user asked for one launch"
        if has_globals(settings.chain) and not self.call_globals:
            self.again = True
        elif settings.asked == 'launch' and self.gate is None:
            raise ValueError(
                f"{self.who}: fused=True is not possible: {why}; leave fused out"
            )
        return str(why)

    # -- rows of scalars --

    def row(self, group, p, hosts, request):
        """The row of scalars for a parameter of `group` with counters `hosts`, whose program is for
        `request`. Parameters of one group that count alike share it"""
        state = self.store.of(p)
        undecayed = state.get('do_wd') is False
        if hosts and len(mine := cells(state, hosts)) == len(hosts):
            return Row(group, SharedClock(mine), undecayed)
        on_host = not any(isinstance(v, Tensor) for v in hosts.values())
        kind = self.kind_of_clock(on_host, request)
        counters = ((n, v if on_host else float(v)) for n, v in hosts.items())
        key = group, undecayed, kind, *counters
        if key not in self.rows:
            clock = self.clock(getattr(state, 'clock', None), hosts, kind)
            self.rows[key] = Row(group, clock, undecayed)
        return self.rows[key]

    def kind_of_clock(self, on_host, request):
        "Who counts. `on_host`: whether counters are plain numbers to the user"
        if not (request.gated and on_host):
            return Clock
        return DeviceClock if request.capturable else OptimisticClock

    def clock(self, old, hosts, kind):
        """The clock of this `kind` for a new row: `old`, which a parameter of the row has, if all that
        have it are of this row; else a new one"""
        mine = (
            type(old) is kind
            and getattr(old, 'gate', self.gate) is self.gate
            and old.values.keys() == hosts.keys()
            and not any(r.clock is old for r in self.rows.values())
        )
        if mine and old.parameters == self.sharing(old):
            return old
        if kind is DeviceClock:
            there = {n: on_device(v, self.gate.device) for n, v in hosts.items()}
            return DeviceClock(there, hosts)
        if kind is OptimisticClock:
            return OptimisticClock(hosts, self.gate)
        return Clock(
            {n: v.clone() if isinstance(v, Tensor) else v for n, v in hosts.items()}
        )

    def sharing(self, clock):
        "How many parameters that move now have this clock"
        pairs = zip(self.inputs.params, self.inputs.grads)
        return sum(
            getattr(self.store.of(p), 'clock', None) is clock
            for p, g in pairs
            if g is not None
        )


def resolved(x):
    "`x` itself, or a copy if the user has set a state to a lazy conjugate or negative, as `z.conj()` is"
    return x if is_sharded(x) else x.resolve_conj().resolve_neg()


def has_globals(chain):
    return any(b.is_global for b in chain.blocks)


def kind_of(p, grad):
    "`'plain'`, `'sharded'`, or None if no program can take such tensors"
    if p.layout != torch.strided:
        return None
    if is_sharded(p) and is_sharded(grad) and alike(grad, p):
        return 'sharded'
    return 'plain' if type(p) in plain_types and type(grad) is Tensor else None


def check_shapes(who, groups, i, p, state, chain, grad):
    "Refuse parameter `i` if it has another shape than its gradient or a state"
    told = None
    if grad.shape != p.shape:
        told = f"but its gradient has shape {tuple(grad.shape)}. The step has changed nothing"
    elif odd := next((n for n, v in state.items() if outgrown(chain, n, v, p)), None):
        told = (
            f"but its state {odd!r} has shape {tuple(state[odd].shape)} in place of "
            f"{tuple(first(chain.state[odd], p).shape)}. The step has changed nothing; "
            "`del opt.state[p]` gives the parameter a new state"
        )
    if told:
        raise RuntimeError(
            f"{who}: {name_in(groups, i)} has shape {tuple(p.shape)} now, {told}"
        )


def outgrown(chain, name, value, p):
    "Whether the state has another shape than its initializer would make for `p` now"
    if name not in chain.state or not isinstance(value, Tensor):
        return False
    if value.ndim == 0 or value.shape == p.shape:
        return False
    init = chain.state[name]
    return not init.fits(value, first(init, p))

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
from functools import partial
import torch
from torch import Tensor
from ..contract.messages import name_in
from ..contract.sharded import alike, is_sharded, local
from ..contract.state import first, stored_states
from ..contract.tensors import dense
from ..lower.decide import lower
from ..lower.program import Request, layout_of
from .choose import backend_of, on_device, plain_types, why_not_sparse
from .memory import aligned, real_dtype, resolved
from .random import key_of
from .rows import RowMaker
from .work import Members, Work

__all__ = ['check_shapes', 'sorted_parameters']


def sorted_parameters(inputs, context, finished):
    """The `Sort` of the parameters of `inputs`, for a plan with this `context`. `finished`: items that
    have gone through their chains or prefixes already in this step, by place.

    A callback over all parameters is called for all of them or for none. If it must be called for
    one, sorting starts again with `call_globals`"""
    sort = Sort(inputs, context, finished, call_globals=False)
    return Sort(inputs, context, finished, call_globals=True) if sort.again else sort


class Sort:
    """Gives each parameter that has a gradient to one of `works`, or to the `fallback`, as pairs of
    its place and its group. `local_parts`: those of sharded parameters, by place. `again`: a
    callback over all parameters must be called.

    With a gate sorting refuses nothing, because a plan without one may work"""

    def __init__(self, inputs, context, finished, call_globals):
        self.inputs, self.context, self.finished = inputs, context, finished
        self.store, self.who, self.gate = context.store, context.who, context.gate
        self.call_globals, self.again = call_globals, False
        self.group_of = inputs.group_of()
        self.row_maker = RowMaker(inputs, context)
        self.members, self.fallback, self.local_parts = {}, [], {}
        seen = set()
        for i, (p, grad) in enumerate(zip(inputs.params, inputs.grads)):
            if grad is not None and id(p) not in seen:
                self.give(i, p, grad)
            seen.add(id(p))  # a parameter that is given twice is moved once
        if not call_globals:
            chains = [inputs.settings[g].chain for _, g in self.fallback]
            self.again |= any(map(has_globals, chains))
        self.works = [] if self.again else self.made_works()

    def made_works(self):
        "A work for each program and its members"
        sharing = [key for key in self.members if has_globals(key[0].chain)]
        return [
            Work(
                program,
                members,
                self.context,
                n_all=len(self.inputs.grads),
                alone=sharing == [(program, dtype)],
                sole=len(self.members) == 1,
            )
            for (program, dtype), members in self.members.items()
        ]

    def give(self, i, p, grad):
        "Give parameter `i` to the members of a work, or to the fallback"
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
        "Let the program of parameter `i` have it. Returns why no program can take it, or None"
        kind = kind_of(p, grad)
        if kind is None:
            return f"{name_in(self.inputs.groups, i)} is a {type(p).__name__}"
        x = resolved(local(p).detach())
        hosts, kept = self.states(p, x, settings)
        if kind == 'sharded' and not all(
            is_sharded(v) and alike(v, p) for v in kept.values()
        ):
            return "its state is not sharded as it is"
        tensors = {n: resolved(local(s).detach()) for n, s in kept.items()}
        program = self.program(i, x, tensors, real_dtype(grad.dtype), hosts, settings)
        if program.falls_back:
            return self.refused(settings, program.why[0])
        if kind == 'sharded':
            if not program.elementwise:
                return "it is sharded, and a callback needs the whole of it"
            self.local_parts[i] = local(p)
        row = self.row_maker.row(group, p, hosts, program.request)
        key = key_of(self.inputs.first + i, p)
        members = self.members.setdefault((program, p.dtype), Members())
        members.add(i, x, tensors, local(p), kept, row, key)
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
        return hosts, {n: materialized(v) for n, v in tensors.items()}

    def program(self, i, x, tensors, grad_dtype, hosts, settings):
        """The program for parameter `i` with counters `hosts`. If kernels may leave a step out, they
        count as well. If a callback must know a counter to branch on it, the host counts"""
        backend = backend_of(settings.asked, x.device, settings.capturable)
        gated = backend == 'triton' and self.gate is not None
        asked = Request(backend, settings.capturable, self.call_globals, gated)
        layout = layout_of(x, grad_dtype, tensors, settings.chain)
        program_with = partial(self.laid_out, i, x, layout, tensors, settings)
        if gated:
            counters = {n: on_device(v, x.device) for n, v in hosts.items()}
            program = program_with(counters, replace(asked, capturable=True))
            if settings.capturable or not program.falls_back:
                return program
        return program_with(hosts, asked)

    def laid_out(self, i, x, layout, tensors, settings, counters, request):
        """The program for `request`. It is launched if the elements of parameter and states lie side
        by side in one order; else it is operations on lists"""
        chain, numbers = settings.chain, settings.numbers | counters
        handed = self.finished[i].ns if i in self.finished else {}
        lowered = lambda request: lower(
            chain, layout, numbers, request, self.context.late, handed
        )
        on_lists = replace(request, backend='foreach')
        if request.launches and not dense(x):
            return lowered(on_lists)
        program = lowered(request)
        elements = {n for s in program.stages if s.flat for n in s.flat.names}
        elements |= chain.weights.beside('p', x.dtype).keys()
        lie_alike = all(aligned(tensors[n], x) for n in tensors.keys() & elements)
        launched = program.request.launches
        return lowered(on_lists) if launched and not lie_alike else program

    def refused(self, settings, why):
        "Why a parameter goes to the fallback. Refuses that if the user asked for one launch"
        if has_globals(settings.chain) and not self.call_globals:
            self.again = True
        elif settings.asked == 'launch' and self.gate is None:
            raise ValueError(
                f"{self.who}: fused=True is not possible: {why}; leave fused out"
            )
        return str(why)


def materialized(x):
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

"""Prefixes. Some callbacks cannot be part of a program: those that ask the model, and those over all parameters that cannot be recorded. They are
called first, with all callbacks before them. What they come to is handed to the program of the rest. SAM, for instance:

    prefix     sharpness                          is called; it evaluates the model again, and returns other gradients
    program    add_decayed_weights > sgd_step     reads the gradient to which the prefix has come

A prefix hands on the gradient, other tensors (`rest.extra`), and numbers. It may not change the parameter or its states: the program writes these."""

from copy import copy
from dataclasses import dataclass
import torch
from torch import Tensor
from ..contract.block import of_model
from ..contract.chain import Chain, learned_of
from ..contract.stand_ins import StandIn, stand_in
from .program import Why
from .words import NotRecorded

__all__ = ['Prefix', 'prefix_of']


@dataclass(frozen=True, eq=False)
class Prefix:
    """`whole` is cut into `chain`, whose callbacks are called and make no move, and `rest`. `numbers`: those that it hands on, with values like
    theirs. `watched`: the names that the rest reads of those that a callback may change"""

    whole: Chain
    chain: Chain
    rest: Chain
    numbers: dict
    watched: frozenset

    @property
    def called(self):
        return [b.name for b in self.chain.blocks if b not in self.rest.blocks]

    @property
    def handed(self):
        return ['grad', *self.rest.extra, *self.numbers]

    def late(self, begun, ns):
        "What the prefix has changed in the namespace `ns`, which began as `begun`, but did not change when it was tried"
        names = self.watched - {*self.handed}
        return {n: v for n, v in ns.items() if n in names and v is not begun.get(n)}


prefixes = {}  # of all optimizers of the process: what decides -> `Prefix`, or `Why` there can be none


def prefix_of(chain, layout, numbers, request, late):
    """The prefix of `chain` for parameters of `layout`; None if it needs none. With `request.call_globals` the callbacks over all parameters are
    called. `late`: what the prefix has been seen to change late, name -> value. Returns `Why` where what is called cannot be handed on"""
    last = last_called(chain, request)
    if last is None:
        return None
    kinds = tuple((n, isinstance(v, Tensor)) for n, v in late.items())
    key = chain.key, last, layout.shape, layout.dtype, layout.device, kinds
    if key not in prefixes:
        with (
            torch.random.fork_rng([layout.device] if layout.device.type == 'cuda' else []),
            torch.inference_mode(False),
            torch.no_grad(),
        ):
            try:
                new = Tried(chain, last, layout, numbers).prefix(late)
            except NotRecorded as e:
                new = Why(chain.blocks[last].name, str(e))
        alike = (
            o for k, o in prefixes.items() if k[:2] == key[:2] and form(o) == form(new)
        )  # one for all shapes, if they are alike
        prefixes[key] = next(alike, new)
    return prefixes[key]


def last_called(chain, request):
    "The place of the last callback that must be called"
    calls = [
        i
        for i, b in enumerate(chain.blocks)
        if {*b.reads} & of_model or request.call_globals and b.is_global
    ]
    return calls[-1] if calls else None


def form(prefix):
    return (prefix.rest.key, *prefix.numbers) if isinstance(prefix, Prefix) else prefix


class Tried:
    """The callbacks of `chain` up to the `last` one that is called, tried on a stand-in. `hosts`: those that read numbers alone, which the program
    runs as well; `changed`: what the others change, name -> callback"""

    def __init__(self, chain, last, layout, numbers):
        self.chain, self.last = chain, chain.blocks[last]
        self.blocks, self.behind = chain.blocks[: last + 1], chain.blocks[last + 1 :]
        self.ns = stand_in(layout.shape, chain, layout.example(), numbers, self.last)
        self.hosts, self.changed = [], {}
        for b in self.blocks:
            self.run(b)

    def run(self, b):
        host = not {*b.names} & of_model and not any(
            isinstance(self.ns.get(n), Tensor) for n in b.names
        )
        if not host and b.state:
            self.refuse(b, f"keeps {next(iter(b.state))!r}")
        try:
            out = b.call_all([self.ns], StandIn())[0] if b.is_global else b(self.ns)
        except Exception as e:
            self.refuse(b, f"fails on small values: {type(e).__name__}: {e}")
        self.ns.update(out)
        if host:
            self.hosts.append(b)
        else:
            self.changed |= dict.fromkeys(out, b)

    def refuse(self, b, why):
        asked = next((n for n in self.last.reads if n in of_model), None)
        what = (
            f'asks the model for {asked!r}'
            if asked
            else 'runs over all parameters, and cannot be recorded'
        )
        who = 'it' if b is self.last else f'{b} before it'
        raise NotRecorded(f"{self.last} {what}; {who} {why}, so all are called for each parameter")

    def prefix(self, late):
        for n, v in late.items():
            if n in self.changed:
                continue
            self.changed[n] = self.last
            self.ns[n] = self.ns['p'] if isinstance(v, Tensor) else v
        for n, b in self.changed.items():
            self.check(n, b)
        watched = self.watched()
        tensors = [n for n in self.changed if n in watched and isinstance(self.ns[n], Tensor)]
        numbers = {n: self.ns[n] for n in self.changed if n in watched and n not in tensors}
        rest = part(self.chain, self.hosts + self.behind, [n for n in tensors if n != 'grad'])
        return Prefix(
            self.chain, part(self.chain, self.blocks, moves=False), rest, numbers, watched
        )

    def check(self, n, b):
        "Refuse `n`, which callback `b` changes, if it cannot be handed on"
        if n in ('p', 'new_p') or n in self.chain.state or any(n in o.reads for o in self.hosts):
            self.refuse(b, f"changes {n!r}")
        x = self.ns[n]
        if isinstance(x, Tensor) and (n == 'lr' or x.shape != self.ns['p'].shape):
            self.refuse(b, f"makes {n!r} a tensor of another shape")

    def watched(self):
        "The names that the rest reads, but for those that the hosts make anew"
        returns = learned_of(self.chain).returns
        made = {n for b in self.hosts for n in (*b.state, *returns.get(b, ()))}
        read = {n for b in self.behind for n in b.names}
        return frozenset((read | {'p', 'new_p', 'lr', 'update', *self.chain.state}) - made)


def part(chain, blocks, extra=(), moves=True):
    "`chain` with some of its `blocks`, which find the tensors `extra` beside parameter, gradient and states"
    res = copy(chain)
    res.blocks, res.extra, res.moves = blocks, tuple(extra), moves
    res.key = *(k for b, k in zip(chain.every, chain.key) if any(b is o for o in blocks)), res.extra
    res.state = {n: init for n, init in chain.state.items() if any(n in b.state for b in blocks)}
    return res

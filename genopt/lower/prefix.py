"""Prefixes. Some callbacks cannot be part of a program: those that ask the model, and those over
all parameters that cannot be recorded. They are called first, and with them all callbacks before
them. The rest of the chain becomes the program, and reads what they return. For SAM before SGD:

    prefix     sharpness_aware                    is called: it evaluates the model once more,
                                                  and returns other gradients
    program    add_decayed_weights > sgd_step     reads the gradient that the prefix hands on

A prefix hands on the gradient, other tensors (`rest.extra`), and numbers. It may change neither the
parameter nor its states, because the program writes these."""

from copy import copy
from dataclasses import dataclass
from torch import Tensor
from ..contract.block import of_model
from ..contract.chain import Chain, learned_of
from ..contract.stand_ins import StandIn, set_apart, stand_in
from .reasons import NotRecorded, Why

__all__ = ['Prefix', 'prefix_of']


@dataclass(frozen=True, eq=False)
class Prefix:
    """`whole` is cut in two: the callbacks of `chain` are called, without the move; `rest` becomes
    the program. `numbers`: those that are handed on, by name, with values like theirs. `watched`:
    the names that the rest reads and that a callback of the prefix might change"""

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
        "The names that are handed on"
        return ['grad', *self.rest.extra, *self.numbers]

    def late(self, begun, ns):
        """What the prefix changed in the namespace `ns`, which began as `begun`, and had not
        changed when it was tried"""
        names = self.watched - {*self.handed}
        return {n: v for n, v in ns.items() if n in names and v is not begun.get(n)}


# Of all optimizers of the process: what decides -> `Prefix`, or `Why` there can be none
prefixes = {}
most_prefixes = 1000


def prefix_of(chain, layout, numbers, request, late):
    """The prefix of `chain` for parameters of `layout`; None if it needs none; `Why` where what is
    called cannot be handed on. `late`: what the prefix has begun to change after it was made, name -> value"""
    last = last_called(chain, request)
    if last is None:
        return None
    kinds = tuple((n, isinstance(v, Tensor)) for n, v in late.items())
    key = chain.key, last, layout.shape, layout.dtype, layout.device, kinds
    if key not in prefixes:
        new = tried(chain, last, layout, numbers, late)
        same = (
            o for k, o in prefixes.items() if k[:2] == key[:2] and form(o) == form(new)
        )
        new = next(same, new)  # shapes that are cut alike have one
        if len(prefixes) > most_prefixes:
            del prefixes[next(iter(prefixes))]
        prefixes[key] = new
    return prefixes[key]


def last_called(chain, request):
    "The place of the last callback that must be called; None if none must be"
    must_be = lambda b: {*b.reads} & of_model or request.call_globals and b.is_global
    return max((i for i, b in enumerate(chain.blocks) if must_be(b)), default=None)


def tried(chain, last, layout, numbers, late):
    with set_apart(layout.device):
        try:
            return Trial(chain, last, layout, numbers).prefix(late)
        except NotRecorded as e:
            return Why.of(chain.blocks[last], e)


def form(prefix):
    return (prefix.rest.key, *prefix.numbers) if isinstance(prefix, Prefix) else prefix


class Trial:
    """The callbacks of `chain` up to the one at `last`, tried on a stand-in. `hosts`: those that
    read numbers alone; the program runs them as well. `changed`: what the others change, name ->
    callback"""

    def __init__(self, chain, last, layout, numbers):
        self.chain, self.last = chain, chain.blocks[last]
        self.before, self.behind = chain.blocks[: last + 1], chain.blocks[last + 1 :]
        self.ns = stand_in(layout.shape, chain, layout.example(), numbers, self.last)
        self.hosts, self.changed = [], {}
        for b in self.before:
            self.run(b)

    def run(self, b):
        of_tensors = any(isinstance(self.ns.get(n), Tensor) for n in b.names)
        host = not {*b.names} & of_model and not of_tensors
        if not host and b.state:
            self.refuse(b, f"keeps the state {next(iter(b.state))!r}")
        try:
            out = b.call_all([self.ns], StandIn())[0] if b.is_global else b(self.ns)
        except Exception as e:
            self.refuse(b, f"raises on small random tensors: {type(e).__name__}: {e}")
        self.ns.update(out)
        if host:
            self.hosts.append(b)
        else:
            self.changed |= dict.fromkeys(out, b)

    def refuse(self, b, why):
        "Raise `NotRecorded`: because of callback `b` there can be no prefix"
        what = 'runs over all parameters, and cannot be recorded'
        if asked := [n for n in self.last.reads if n in of_model]:
            what = f'asks the model for {asked[0]!r}'
        who = 'it' if b is self.last else f'{b} before it'
        raise NotRecorded(
            f"{what}; {who} {why}, so genopt calls all callbacks for each parameter"
        )

    def prefix(self, late):
        "The chain cut in two, if what the callbacks changed can be handed on"
        for n, v in late.items():
            if n not in self.changed:
                self.changed[n] = self.last
                self.ns[n] = self.ns['p'] if isinstance(v, Tensor) else v
        for n, b in self.changed.items():
            self.check(n, b)
        watched = self.watched()
        handed = {n: self.ns[n] for n in self.changed if n in watched}
        numbers = {n: x for n, x in handed.items() if not isinstance(x, Tensor)}
        extra = [n for n in handed if n not in numbers and n != 'grad']
        called = part(self.chain, self.before, moves=False)
        rest = part(self.chain, self.hosts + self.behind, extra)
        return Prefix(self.chain, called, rest, numbers, watched)

    def check(self, n, b):
        "Refuse the name `n`, which callback `b` changes, if it cannot be handed on"
        read_by_host = any(n in host.reads for host in self.hosts)
        if n in ('p', 'new_p') or n in self.chain.state or read_by_host:
            self.refuse(b, f"changes {n!r}")
        x = self.ns[n]
        if isinstance(x, Tensor) and (n == 'lr' or x.shape != self.ns['p'].shape):
            self.refuse(
                b,
                f"returns {n!r} as a tensor"
                if n == 'lr'
                else f"returns {n!r} in another shape",
            )

    def watched(self):
        "The names that the rest reads, but for those that the hosts make anew"
        returns = learned_of(self.chain).returns
        made = {n for b in self.hosts for n in (*b.state, *returns.get(b, ()))}
        read = {n for b in self.behind for n in b.names}
        return frozenset(
            (read | {'p', 'new_p', 'lr', 'update', *self.chain.state}) - made
        )


def part(chain, blocks, extra=(), moves=True):
    """`chain` with `blocks` alone, some of its own. `extra`: tensors that these find beside
    parameter, gradient and states"""
    res = copy(chain)
    res.blocks, res.extra, res.moves = blocks, tuple(extra), moves
    place_of = {id(b): k for b, k in zip(chain.blocks, chain.places)}
    res.places = [place_of[id(b)] for b in blocks]
    res.key = (
        *(k for b, k in zip(chain.every, chain.key) if any(b is o for o in blocks)),
        res.extra,
        res.weights,
    )
    res.state = {
        n: init for n, init in chain.state.items() if any(n in b.state for b in blocks)
    }
    return res

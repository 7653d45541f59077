"""Calls. A callback that cannot be recorded is called as it is, between two stages of the program.

For a callback that needs a shape, the names have another stand-in: the `Example`, small tensors in
the parameter's shape class. The callback runs on these once, which shows what it returns. What it
reads must then lie in memory before the call, and what it returns are values that the call gives.

    def centered(grad): return grad - grad.mean(-1, keepdim=True)

becomes a `Call` that reads the value `grad` and gives the value `update@0`. Where torch knows how
(`vmap`), one call takes a stack of parameters of one shape."""

from contextlib import nullcontext
import torch
from torch import Tensor
from .._torch import TorchDispatchMode, outside_of_modes
from ..contract.block import given
from ..contract.chain import Namespace, learned_of
from ..contract.tensors import compute
from .questions import NoValueMode
from .reasons import NotRecorded
from .recording import Call

__all__ = ['Example', 'record_call']


class Example:
    """`ns`: small tensors in the parameter's shape class, by name. They are made for the first
    callback that needs them: the callbacks before it then run on them, as do all that follow.
    `symbols` is the symbolic namespace of the same names"""

    def __init__(self, symbols):
        self.symbols, self.chain = symbols, symbols.chain
        self.numbers = dict(symbols.numbers)
        self.on_device = any(isinstance(v, Tensor) for v in self.numbers.values())
        self.ns = None

    def before(self, block):
        "The namespace as `block` finds it"
        if self.ns is None:
            self.ns = self.begin()
            for b in self.chain.blocks:
                if b is block:
                    break
                self.advance(b)
        return self.ns

    def begin(self):
        q, like = self.symbols.layout.example(), self.symbols.stand_ins.like
        tensors = {n: like(q) for n in ('p', 'grad', *self.chain.extra)}
        for n, init in self.chain.state.items():
            if n not in self.symbols.counters:
                tensors[n] = like(compute(init(q)))
        return Namespace(self.numbers | tensors, rows=None)

    def advance(self, block):
        "Run `block`, which could be recorded, so that the example stays abreast of the recording"
        if self.ns is None:
            return
        with outside_of_modes():
            self.ns.update(
                block.call_all([self.ns])[0] if block.is_global else block(self.ns)
            )

    def returned(self, block, run):
        """What `block` returns. A callback that keeps account of its calls is not to `run` for
        this, if a rehearsal has seen what it returns"""
        seen = learned_of(self.chain).results.get((block, self.ns['p'].shape))
        if not run and seen is not None:
            return seen
        with NoValueMode() if self.on_device else nullcontext():
            return block(self.ns)

    def can_stack(self, block, returned, of_use):
        """Whether torch can run `block` on a stack of parameters, with the same result for each.
        `vmap` refuses one that draws random numbers"""
        shared = {n: self.ns[n] for n in block.reads}
        of_each = [n for n, x in shared.items() if isinstance(x, Tensor)]
        each = {n: shared.pop(n) for n in of_each if n not in self.symbols.numbers}

        def on_one(*xs):
            out = block(shared | dict(zip(each, xs)))
            return {n: x for n, x in out.items() if n in of_use}

        try:
            with outside_of_modes():
                pair = torch.func.vmap(on_one)(
                    *(torch.stack([x, x]) for x in each.values())
                )
        except Exception:
            return False
        return pair.keys() <= returned.keys() and all(
            close(pair[n][1].double(), returned[n].double()) for n in pair
        )


def close(x, y):
    "A tenth is allowed: on a stack bfloat16 is rounded in another order"
    return x.shape == y.shape and (x - y).norm() <= 0.1 * y.norm()


def record_call(ns, example, block, why, stack, place):
    """The call of `block`, which is the one at `place` among the calls. It changes the symbolic
    namespace `ns` and the `example`. `why`: the reason that it cannot be recorded. Without `stack`
    it is called for each parameter"""
    small = example.before(block)
    numbers, reads = what_is_read(ns, block)
    with outside_of_modes(), Watch() as watch:
        returned = example.returned(block, run=stack)
    of_use = names_of_use(ns.chain, block)
    returned = {n: x for n, x in returned.items() if n in of_use}
    gives, old_values = what_is_given(ns, small, block, returned, of_use)
    if number := next((n for n, v in gives.items() if not isinstance(v, Tensor)), None):
        raise NotRecorded(f"{why}, and returns the number {number!r}")
    stacked = stack and bool(gives) and example.can_stack(block, gives, of_use)
    values = {n: ns.give(n, x, block, f'{n}@{place}') for n, x in gives.items()}
    small.update(gives)
    may_fail = watch.may_fail or not stacked
    call = Call(block, reads, numbers, values, old_values, of_use, stacked, may_fail)
    for v in values.values():
        v.args = call.needs
    return call


def what_is_read(ns, block):
    "The numbers that `block` reads, traced, and the values, by name"
    if 'new_p' in block.reads:
        ns.move()
    numbers = ns.read_numbers(block.reads)
    return numbers, {n: ns.value(n) for n in block.reads if n not in numbers}


def names_of_use(chain, block):
    "The names that matter if `block` returns them: what is kept, and what is read later"
    later = chain.blocks[chain.blocks.index(block) + 1 :]
    return frozenset({'lr', *given, *chain.state}.union(*(b.names for b in later)))


def what_is_given(ns, small, block, returned, of_use):
    """What `block` gives, by name, where it has `returned` this on the `small` tensors; and the old
    values of the names that it may leave out"""
    learned = learned_of(ns.chain)
    known = [n for n in learned.returns.get(block, ()) if n in of_use]
    left_out = [n for n in known if n not in returned]
    if not left_out and block not in learned.varying:
        return returned, {}
    refuse_to_keep(ns, block, {*returned, *left_out})
    gives = returned | {n: small[n] for n in left_out if ns.has_value(n)}
    return gives, {n: ns.value(n) for n in gives if ns.has_value(n)}


def refuse_to_keep(ns, block, names):
    """Raise `NotRecorded` if one of `names` that `block` may leave out has no old value to keep:
    without it `new_p` follows the update to come, and `update` the gradient to come"""
    if 'new_p' in names and not ns.has_value('new_p'):
        raise NotRecorded("returns 'new_p' in some steps only; return it in every step")
    if 'update' not in names or 'update' in ns.tensors[0] or 'update' in ns.own_shape:
        return
    returns = learned_of(ns.chain).returns
    blocks = ns.chain.blocks
    later = [
        b for b in blocks[blocks.index(block) + 1 :] if 'grad' in returns.get(b, ())
    ]
    if 'grad' in names or later:
        who = 'it' if 'grad' in names else later[0]
        what = f"in the others the update is the gradient, which {who} changes"
        raise NotRecorded(
            f"returns 'update' in some steps only; {what}. Return it in every step"
        )


class Watch(TorchDispatchMode):
    "Sees whether a callback does an operation that may fail on some values"

    _should_skip_dynamo = classmethod(lambda cls: False)
    may_fail = False
    failing = (
        'linalg_eig',
        'linalg_inv',
        'inverse',
        'cholesky',
        'solve_ex',
        'svd',
        'lu_factor',
        'lstsq',
    )

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.may_fail |= any(word in func.__name__ for word in self.failing)
        return func(*args, **(kwargs or {}))

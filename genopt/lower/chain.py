"""A chain as values and calls. The callbacks are folded over a symbolic namespace, one after the other. What becomes of a callback:

    it reads numbers alone             lines of the scalar program
    its operations can be recorded     values
    it needs a shape                   a `Call` of the callback as it is, on tensors stacked by shape where torch knows how (`vmap`)
    it does what cannot be recorded    a `Call` for each parameter: it looks at what a tensor holds, keeps a list, or only looks on

A call reads values, which must lie in memory by then, and gives values to what comes after it."""

from contextlib import nullcontext
from dataclasses import dataclass
import torch
from torch import Tensor
from torch.utils._python_dispatch import (
    TorchDispatchMode,
    _disable_current_modes as outside_of_the_recording,
)
from ..contract.block import given, of_model
from ..contract.chain import Namespace, learned_of
from ..contract.names import held
from ..contract.tensors import compute
from .families import listing, merge_families
from .record import ELEMENTS, SINGLE, NoLookingMode, Recorder, Value, needed
from .scalars import MustBeCalled, ScalarRecorder, TracedScalar
from .words import NeedsShape, NotRecorded

__all__ = ['Call', 'OWN', 'Recording', 'record']

OWN = 'own'  # the kind of a value with a shape of its own: neither the parameter's nor a single number
row_sizes = 37, 41, 43  # of the stand-ins; no other size is likely in a callback


@dataclass(eq=False)
class Call:
    """`block` is called as it is, with the values `reads` and with `numbers`: traced scalars, or plain flags. It gives the values `gives`; for those
    that it does not return in some step, `else_` has the values from before. `stacked`: for several parameters of one shape at once. `may_fail`: on
    some values of tensors, so nothing may be written before"""

    block: object
    reads: dict
    numbers: dict
    gives: dict
    else_: dict
    stacked: bool
    may_fail: bool
    why: str  # it is called
    stage: int = 0

    @property
    def needs(self):
        "The values that must lie in memory before the call"
        return *self.reads.values(), *self.else_.values()

    def __repr__(self):
        return f"{', '.join(self.gives)} = {self.block}({', '.join(self.reads)})"


@dataclass
class Recording:
    """What a chain does to a parameter: `outs`, the new values of the parameter and of the states that change, made of `values` in order, with
    `calls` between. `scalars` writes the numbers, `counters` are the states that are numbers. `shaped`: it holds for one shape class alone.
    `runs_on`: for each callback what it runs on, in words"""

    values: list
    calls: list
    outs: dict
    scalars: ScalarRecorder
    counters: tuple
    shaped: bool
    runs_on: dict

    def needed(self):
        "The values that are written or called with, and what they are made of, in order"
        return needed([*self.outs.values(), *(v for c in self.calls for v in c.needs)])


def record(chain, layout, numbers, known_operation):
    """`chain` for parameters of `layout`, and numbers like `numbers` (hyper-parameters, and states that are numbers). Raises `NotRecorded`, with the
    callback and the reason, where a callback over all parameters cannot be recorded, or one makes a number that depends on tensors"""
    joins, refused = any(b.is_global for b in chain.blocks), {}

    def families(sizes):
        while True:
            res = ChainRecorder(chain, layout, numbers, known_operation, sizes, refused).run()
            operations = [
                v
                for v in res.needed()
                if v.kind in (ELEMENTS, SINGLE) and not isinstance(v.op, str)
            ]
            odd = next((v for v in operations if not known_operation(v)), None)
            if odd is None:
                return res
            why = f"calls {odd.packet.__name__}, which the table of operations lacks"
            if not odd.block or odd.block.is_global:
                raise NotRecorded(f"{odd.block} {why}")
            refused[odd.block] = NotRecorded(why)

    with (
        torch.random.fork_rng([layout.device] if layout.device.type == 'cuda' else []),
        torch.no_grad(),
    ):
        res = families(row_sizes[:2] if joins else row_sizes[:1])
        if joins and same_for_all(families(row_sizes)) != same_for_all(res):
            raise NotRecorded(
                f"{', '.join(b.name for b in chain.blocks if b.is_global)} counts the parameters"
            )
    return res


def same_for_all(recording):
    return listing(recording.needed()), recording.scalars.lines


class ChainRecorder:
    """Folds the callbacks of one chain over the symbolic namespace: `spaces`, for each family the stand-in tensors by name; `own`, the values with a
    shape of their own; `numbers`, plain ones; and `example`, small tensors in their own shape, once a callback needs one"""

    def __init__(self, chain, layout, numbers, known_operation, sizes, refused):
        self.chain, self.layout, self.sizes, self.refused = chain, layout, sizes, refused
        self.learned = learned_of(chain)
        self.scalars = ScalarRecorder(layout.compute_dtype, layout.device)
        self.recorder = Recorder(self.scalars, sizes, len(layout.shape), known_operation)
        self.random = torch.Generator().manual_seed(0)
        self.initial, self.numbers = dict(numbers), dict(numbers)
        self.counters = tuple(n for n in chain.state if n in numbers)
        self.spaces, self.own, self.example = [{} for _ in sizes], {}, None
        self.calls, self.runs_on = [], {}

    def run(self):
        b = None
        try:
            self.begin()
            for i, b in enumerate(self.chain.blocks):
                self.fold(i, b)
            b = 'the move'
            self.move()
            outs = self.outs()
        except NotRecorded as e:
            raise type(e)(f"{b or 'the state'} {e}") from e
        except Exception as e:
            raise NotRecorded(
                f"{b or 'the state'} fails on small values: {type(e).__name__}: {e}"
            ) from e
        try:
            merge_families(self.recorder.values, self.sizes, outs)
        except NotRecorded as e:
            raise NotRecorded(
                f"{', '.join(b.name for b in self.chain.blocks if b.is_global) or self.chain} {e}"
            ) from e
        shaped = bool(self.calls or self.own) or self.recorder.asked_rank
        return Recording(
            self.recorder.values,
            self.calls,
            outs[0],
            self.scalars,
            self.counters,
            shaped,
            self.runs_on,
        )

    # -- what the chain is given --

    def begin(self):
        "Stand-ins for the parameter, its gradient and its states"
        for family, (space, size) in enumerate(zip(self.spaces, self.sizes)):
            p = self.stand_in(size)
            space |= dict(p=p, grad=self.stand_in(size)) | {
                n: self.stand_in(size) for n in self.chain.extra
            }
            for n in self.chain.state:
                if n in self.counters:
                    continue
                kind, x = self.state(n, p)
                if kind == OWN:
                    self.own[n] = Value('input', name=n, kind=OWN, example=x)
                else:
                    space[n] = x
            for n, x in space.items():
                self.recorder.input(n, x, family)

    def stand_in(self, shape, dtype=None):
        "Positive values, such as a state may have in mid-training"
        return (torch.rand(shape, generator=self.random) + 0.5).to(
            self.layout.device, dtype or self.layout.compute_dtype
        )

    def state(self, n, p):
        "The kind of the state `n` of the row `p`, and a stand-in"
        init, small = self.chain.state[n], self.layout.example()
        like = compute(init(small))
        try:
            x = compute(init(p))
        except Exception:
            return OWN, like  # it needs the parameter's shape
        kind = (
            OWN
            if x.shape not in (p.shape, ()) or like.shape != (small.shape if x.ndim else ())
            else ELEMENTS
            if x.ndim
            else SINGLE
        )
        if kind == OWN:
            return kind, like
        if kind == SINGLE and x.dtype != p.dtype:
            raise NotRecorded(f"{n!r} is a single {x.dtype}, where {p.dtype} is computed")
        return kind, self.stand_in(x.shape, x.dtype) if x.is_floating_point() else x

    def example_before(self, b):
        "The small tensors in their own shape, as they are before callback `b`"
        if self.example is None:
            q = self.layout.example()
            alike = lambda x: self.stand_in(x.shape, x.dtype) if x.is_floating_point() else x
            ns = Namespace(
                self.initial,
                p=alike(q),
                grad=alike(q),
                rows=None,
                **{n: alike(q) for n in self.chain.extra},
            )
            ns.update(
                {
                    n: alike(compute(init(q)))
                    for n, init in self.chain.state.items()
                    if n not in self.counters
                }
            )
            self.example = ns
            for o in self.chain.blocks:
                if o is b:
                    break
                self.follow(o)
        return self.example

    def follow(self, b):
        "Run callback `b` on the small tensors"
        with outside_of_the_recording():
            self.example.update(b.call_all([self.example])[0] if b.is_global else b(self.example))

    # -- one callback --

    def fold(self, i, b):
        if asked := [n for n in b.reads if n in of_model]:
            raise NotRecorded(f"asks the model for {asked[0]!r}")
        if 'rows' in b.reads:
            raise NotRecorded("asks for the rows of a sparse gradient")
        if own := [n for n in b.lists.values() if n in self.numbers]:
            raise NotRecorded(f"asks for {own[0]!r} of each parameter, which is a number")
        reads = {b.lists.get(n, n) for n in b.reads}
        if not reads & (given | self.spaces[0].keys() | self.own.keys()):
            return self.on_numbers(i, b)
        why = (
            NeedsShape("reads a tensor that is not of the parameter's shape")
            if reads & self.own.keys()
            else None
        )
        why = why or self.refused.get(b)
        if what := held(b.cb):
            why = NotRecorded(
                f"holds {what!r}, which may change outside of the step (a tuple cannot)"
            )
        if not why:
            try:
                with self.scalars.attempt():
                    outs, spaces = self.tried(b)
            except NotRecorded as e:
                why = e
            except (TypeError, ValueError, RuntimeError, IndexError) as e:
                why = NeedsShape(f"fails on a row of elements: {type(e).__name__}: {e}")
        if not why:
            return self.recorded(b, outs, spaces)
        if b.is_global:
            raise why
        self.called(b, why, stack=not what)

    def on_numbers(self, i, b):
        "A callback without tensors: its arithmetic stands in the scalar program, or the program calls it"
        on_device = any(isinstance(self.numbers.get(n), Tensor) for n in b.reads)
        with NoLookingMode() if on_device else nullcontext(), outside_of_the_recording():
            out = b(Namespace(self.numbers))
        if any(isinstance(v, Tensor) and (v.ndim or not on_device) for v in out.values()):
            raise NotRecorded("makes a tensor without reading one")
        try:
            if on_device or held(b.cb):
                raise MustBeCalled
            with self.scalars.attempt(inline=True):
                for n, v in b(
                    Namespace({n: self.scalars.read(n, self.numbers[n]) for n in b.reads})
                ).items():
                    self.scalars.put(n, v)
        except (MustBeCalled, NotRecorded, TypeError, ArithmeticError):
            self.scalars.call(i, b, out)
        for n in out:
            self.forget(n)
        self.numbers |= out
        self.runs_on[b] = 'host'
        if self.example is not None:
            self.example.update(out)

    def forget(self, n):
        for names in (*self.spaces, self.own, self.numbers):
            names.pop(n, None)

    def tried(self, b):
        "What callback `b` returns on the stand-ins, and the namespaces in which it ran; raises `NotRecorded`"
        moves = 'lr' in b.reads or 'new_p' in b.reads
        seen = {
            n: self.scalars.read(n, self.numbers[n])
            for n in [*b.reads, *['lr'] * moves]
            if n in self.numbers
        }
        spaces, decided = [Namespace(seen | s) for s in self.spaces], set(self.scalars.decided)
        with self.recorder.watching(b):
            outs = b.call_all(spaces) if b.is_global else [b(ns) for ns in spaces]
        if not outs[0] and self.scalars.decided == decided:
            raise NotRecorded("only looks at what it is given")  # no number has told it to
        odd = [
            n
            for out, size in zip(outs, self.sizes)
            for n, v in out.items()
            if isinstance(v, Tensor) and tuple(v.shape) not in ((), (size,))
        ]
        if odd:
            raise NeedsShape(f"makes {odd[0]!r}, which is not of the parameter's shape")
        return outs, spaces

    def recorded(self, b, outs, spaces):
        "Take over what `b` has returned"
        made = [v for v in self.recorder.values if v.block is b]
        self.runs_on[b] = (
            'all parameters'
            if b.is_global
            else 'each parameter'
            if any(v.reduces for v in made)
            else 'elements'
        )
        for n, v in outs[0].items():
            self.forget(n)
            if isinstance(v, Tensor):
                continue
            self.scalars.put(n, v)
            self.numbers[n] = v.value if isinstance(v, TracedScalar) else v
        for space, ns, out in zip(self.spaces, spaces, outs):
            space |= {n: ns[n] for n in ('new_p',) if n in ns} | {
                n: v for n, v in out.items() if isinstance(v, Tensor)
            }
        if self.example is not None:
            self.follow(b)

    # -- a call --

    def called(self, b, why, stack):
        ns = self.example_before(b)
        if 'new_p' in b.reads:
            self.move()
        numbers = {n: self.scalars.read(n, self.numbers[n]) for n in b.reads if n in self.numbers}
        here = {'update': self.spaces[0]['grad']} | self.spaces[0]
        value = lambda n: self.own[n] if n in self.own else self.recorder.value(here[n])
        reads = {n: value(n) for n in b.reads if n not in numbers}
        with outside_of_the_recording(), Watch() as watch:
            out = self.returned(b, ns, stack)
        known = here.keys() | self.own.keys()
        later = {
            n: ns[n] for n in self.learned.returns.get(b, ()) if n not in out and n in known
        }  # what it returns in other steps
        if 'new_p' in later:
            self.move()
        else_ = (
            {n: value(n) for n in [*out, *later] if n in known}
            if later or b in self.learned.varying
            else {}
        )
        out = out | later
        if odd := [n for n, v in out.items() if not isinstance(v, Tensor)]:
            raise NotRecorded(f"{why}, and makes the number {odd[0]!r}")
        stacked = stack and not watch.random and bool(out) and self.stackable(b, ns, out)
        for n in out:
            self.forget(n)
        gives = [
            {n: self.given_value(n, x, b, family) for n, x in out.items()}
            for family in range(len(self.sizes))
        ]
        for v in gives[0].values():
            v.args = tuple(dict.fromkeys([*reads.values(), *else_.values()]))
        self.calls.append(
            Call(
                b, reads, numbers, gives[0], else_, stacked, watch.may_fail or not stacked, str(why)
            )
        )
        ns.update(out)
        self.runs_on[b] = 'tensors of one shape, stacked' if stacked else 'each tensor'

    def returned(self, b, ns, run):
        "What `b` returns on the small tensors. A callback that keeps account of its calls is not run for this; a rehearsal has seen what it returns"
        seen = self.learned.results.get((b, ns['p'].shape))
        if not run and seen is not None:
            return seen
        with (
            NoLookingMode()
            if any(isinstance(v, Tensor) for v in self.initial.values())
            else nullcontext()
        ):
            return b(Namespace({n: ns[n] for n in b.reads}))

    def given_value(self, n, x, b, family):
        "The value for what a call gives under the name `n`; its name is of this call alone"
        if n in self.own:
            return self.own[n]
        name = f'{n}@{len(self.calls)}'
        kind = ELEMENTS if x.shape == self.layout.shape else SINGLE if not x.ndim else OWN
        if kind == OWN or x.dtype != self.layout.compute_dtype:
            self.own[n] = Value('given', name=name, kind=OWN, example=x, block=b)
            return self.own[n]
        self.spaces[family][n] = y = self.stand_in(self.sizes[family] if kind == ELEMENTS else ())
        self.recorder.block = b
        return self.recorder.input(name, y, family, op='given')

    def stackable(self, b, ns, out):
        "Whether torch can run `b` for a stack of parameters as for each"
        tensors = {n: ns[n] for n in b.reads if isinstance(ns[n], Tensor) and n not in self.numbers}
        rest = {n: ns[n] for n in b.reads if n not in tensors}

        def on_one(*xs):
            return b(Namespace(rest | dict(zip(tensors, xs))))

        try:
            with outside_of_the_recording():
                both = torch.func.vmap(on_one)(*(torch.stack([x, x]) for x in tensors.values()))
        except Exception:
            return False
        near = lambda x, y: (
            x.shape == y.shape and (x - y).norm() <= 0.1 * y.norm()
        )  # bfloat16 is rounded in another order
        return both.keys() <= out.keys() and all(
            near(both[n][1].double(), out[n].double()) for n in both
        )

    # -- the move, and where it comes to --

    def move(self):
        "The move `p - lr*update`, unless a callback has made it"
        if 'new_p' in self.spaces[0] or 'new_p' in self.own or not self.chain.moves:
            return
        seen = {'lr': self.scalars.read('lr', self.numbers['lr'])} if 'lr' in self.numbers else {}
        odd = [n for n in ('p', 'update', 'lr') if n in self.own]
        if odd:
            raise NotRecorded(f"reads {odd[0]!r}, which is not of the parameter's shape and dtype")
        for space in self.spaces:
            ns = Namespace(seen | space)
            with self.recorder.watching(None):
                space['new_p'] = ns['new_p']

    def outs(self):
        "For each family the values that are to be written, by name"
        for n in self.chain.state:
            if (n in self.numbers) != (n in self.counters):
                raise NotRecorded(f"the state {n!r} changes between tensor and number")
        names = [n for n in ('new_p', *self.chain.state) if n not in self.counters]
        res = [
            {
                n: self.own[n] if n in self.own else self.recorder.value(s[n])
                for n in names
                if n in self.own or n in s
            }
            for s in self.spaces
        ]
        return [
            {
                n: v
                for n, v in out.items()
                if not (v.is_input and v.name == ('p' if n == 'new_p' else n))
            }
            for out in res
        ]


class Watch(TorchDispatchMode):
    "Sees whether a callback draws random numbers, or calls what may fail on some values"

    _should_skip_dynamo = classmethod(lambda cls: False)
    random = may_fail = False
    words = (
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
        self.random |= torch.Tag.nondeterministic_seeded in func.tags
        self.may_fail |= any(w in func.__name__ for w in self.words)
        return func(*args, **(kwargs or {}))

"""Recording of a chain. The callbacks are folded over a symbolic namespace, one after the other.
What becomes of a callback:

    it reads numbers alone             lines of the scalar program
    its operations can be recorded     values
    it needs a shape                   a call, on parameters of one shape stacked where torch can
    it does what cannot be recorded    a call for each parameter: it asks what a tensor holds,
                                       keeps a list, or returns nothing

For AdamW behind `centralize`, which subtracts a mean along dimensions:

    centralize                                       a call, which reads `grad` and gives another
    step_stat, debias                                lines of the scalar program
    weight_decay, average_grad ... adam_step         values"""

from contextlib import nullcontext
from torch import Tensor
from .._torch import outside_of_modes
from ..contract.block import given, of_model
from ..contract.chain import Namespace, learned_of
from ..contract.names import held as changeable_object
from ..contract.stand_ins import set_apart
from .calls import Example, record_call
from .families import merge_families
from .namespace import SymbolicNamespace
from .questions import NoValueMode
from .reasons import LacksOperation, MustBeCalled, NeedsShape, NotRecorded, Why
from .recording import Recording
from .values import SINGLE

__all__ = ['record']

# Lengths of the rows that stand for parameters; no other size is likely in a callback
row_sizes = 37, 41, 43


def record(chain, layout, numbers, known_operation):
    """The `Recording` of `chain` for parameters of `layout`, and for numbers like `numbers`:
    hyper-parameters, and states that are numbers. Or `Why` no program can hold the chain: a callback
    over all parameters cannot be recorded, for instance, or a callback that must be called returns
    a number"""
    over_all, refused = [b.name for b in chain.blocks if b.is_global], {}

    def on(n_families):
        sizes = row_sizes[:n_families]
        return record_known(chain, layout, numbers, known_operation, sizes, refused)

    with set_apart(layout.device):
        recording = on(2 if over_all else 1)
        if isinstance(recording, Why) or not over_all:
            return recording
        larger = on(3)
    if isinstance(larger, Why):
        return larger
    if larger.form == recording.form:
        return recording
    return Why(', '.join(over_all), "depends on the number of parameters")


def record_known(chain, layout, numbers, known_operation, sizes, refused):
    """Record until the backend knows every operation on single numbers. A callback with one that it
    does not know is added to `refused`, and is called in the next recording. An operation on
    elements that it does not know has been refused by the recorder already"""
    while True:
        recording = ChainRecorder(
            chain, layout, numbers, known_operation, sizes, refused
        ).run()
        if isinstance(recording, Why):
            return recording
        singles = (
            v
            for v in recording.values
            if v.kind == SINGLE and not isinstance(v.op, str)
        )
        unknown = next((v for v in singles if not known_operation(v)), None)
        if unknown is None:
            return recording
        error = LacksOperation(unknown.op)
        if not unknown.block or unknown.block.is_global:
            return Why.of(unknown.block or 'the move', error)
        refused[unknown.block] = error


class ChainRecorder:
    """Folds the callbacks of one chain over the symbolic namespace `ns`. `refused`: callbacks that
    are to be called, and why"""

    def __init__(self, chain, layout, numbers, known_operation, sizes, refused):
        self.chain, self.refused = chain, refused
        self.ns = SymbolicNamespace(chain, layout, numbers, known_operation, sizes)
        self.scalars, self.recorder = self.ns.scalars, self.ns.recorder
        self.example = Example(self.ns)
        self.calls, self.why, self.runs_on = [], [], {}
        self.here = 'the state'  # where it is in the chain, for messages
        self.place = 0  # the same as a number, in the whole chain

    def run(self):
        "The `Recording`; or `Why` there is none"
        try:
            outs = self.fold()
        except NotRecorded as e:
            return Why.of(self.here, e)
        except Exception as e:
            text = f"raises on small random tensors: {type(e).__name__}: {e}"
            return Why(str(self.here), text)
        try:
            merge_families(self.recorder.values, self.ns.sizes, outs)
        except NotRecorded as e:
            over_all = ', '.join(b.name for b in self.chain.blocks if b.is_global)
            return Why.of(over_all or self.chain, e)
        asks_for_shape = self.calls or self.ns.own_shape or self.recorder.asked_rank
        return Recording(
            outs=outs[0],
            calls=self.calls,
            why=tuple(self.why),
            scalars=self.scalars,
            counters=self.ns.counters,
            for_one_shape=bool(asks_for_shape),
            runs_on=self.runs_on,
        )

    def fold(self):
        self.ns.begin()
        for i, b in enumerate(self.chain.blocks):
            self.here, self.place = b, self.chain.places[i]
            self.decide(i, b)
        self.here = 'the move'
        self.ns.move()
        return self.ns.outs()

    # -- one callback --

    def decide(self, i, block):
        "Record `block`, the `i`-th callback, in one of the ways that there are"
        self.refuse(block)
        of_tensors = given | self.ns.tensors[0].keys() | self.ns.own_shape.keys()
        if not of_tensors & {*block.names}:
            return self.record_arithmetic(i, block)
        changeable = changeable_object(block.cb)
        why = self.why_untried(block, changeable) or self.why_unrecorded(block)
        if why and block.is_global:
            raise why
        if why:
            self.record_call(block, why, stack=not changeable)

    def record_call(self, block, why, stack):
        call = record_call(self.ns, self.example, block, why, stack, len(self.calls))
        call.place, call.draws = self.place, block in learned_of(self.chain).draws
        self.calls.append(call)
        self.why.append(Why.of(block, why))
        self.runs_on[block] = (
            'tensors of one shape, stacked' if call.stacked else 'each tensor'
        )

    def refuse(self, block):
        "Raise `NotRecorded` for a callback that no program can hold"
        if asked := [n for n in block.reads if n in of_model]:
            raise NotRecorded(f"asks the model for {asked[0]!r}")
        if 'rows' in block.reads:
            raise NotRecorded("reads 'rows', the rows of a sparse gradient")
        if listed := [n for n in block.lists.values() if n in self.ns.numbers]:
            raise NotRecorded(
                f"reads the numbers {listed[0]!r} of all parameters as a list"
            )

    def why_untried(self, block, changeable):
        "Why the callback is called without an attempt to record it; None if there is to be one"
        if changeable:
            text = (
                f"holds {changeable!r}, which may change between steps (a tuple cannot)"
            )
            return NotRecorded(text)
        if {*block.names} & self.ns.own_shape.keys():
            return NeedsShape("reads a tensor that is not of the parameter's shape")
        return self.refused.get(block)

    def why_unrecorded(self, block):
        "Record the callback. Returns why that cannot be, or None when it is done"
        try:
            with self.scalars.attempt():
                outs, spaces = self.try_on_rows(block)
        except NotRecorded as e:
            return e
        except (TypeError, ValueError, RuntimeError, IndexError) as e:
            return NeedsShape(f"fails on a row of elements: {type(e).__name__}: {e}")
        self.take_over(block, outs, spaces)

    # -- a callback without tensors --

    def record_arithmetic(self, i, block):
        "Its arithmetic becomes lines of the scalar program, or the program calls it"
        on_device = any(isinstance(self.ns.numbers.get(n), Tensor) for n in block.reads)
        out = self.run_on_numbers(block, on_device)
        if on_device or changeable_object(block.cb) or not self.inlined(block):
            self.scalars.call(i, block, out)
        for n in out:
            self.ns.forget(n)
        self.ns.numbers |= out
        self.runs_on[block] = 'host'
        if self.example.ns is not None:
            self.example.ns.update(out)

    def run_on_numbers(self, block, on_device):
        "What `block` returns for the numbers as they are"
        with NoValueMode() if on_device else nullcontext(), outside_of_modes():
            out = block(self.ns.numbers)
        if any(
            isinstance(v, Tensor) and (v.ndim or not on_device) for v in out.values()
        ):
            raise NotRecorded("returns a tensor but reads none")
        return out

    def inlined(self, block):
        "Write the arithmetic of `block` into the program. False if it needs a number itself"
        try:
            with self.scalars.attempt(may_guard=False):
                for n, v in block(self.ns.read_numbers(block.reads)).items():
                    self.scalars.put(n, v)
        except (MustBeCalled, NotRecorded, TypeError, ArithmeticError):
            return False
        return True

    # -- a callback that can be recorded --

    def try_on_rows(self, block):
        "What `block` returns for each family, and the namespaces in which it ran"
        reads_lr = 'lr' in block.reads or 'new_p' in block.reads
        numbers = self.ns.read_numbers([*block.reads, *['lr'] * reads_lr])
        spaces = [Namespace(numbers | names) for names in self.ns.tensors]
        decided = {*self.scalars.guarded}
        with self.recorder.recording(block, self.place):
            outs = (
                block.call_all(spaces)
                if block.is_global
                else [block(ns) for ns in spaces]
            )
        if not outs[0] and self.scalars.guarded == decided:  # no number has told it to
            raise NotRecorded("returns nothing, so it is called for what else it does")
        for out, size in zip(outs, self.ns.sizes):
            for n, v in out.items():
                if isinstance(v, Tensor) and tuple(v.shape) not in ((), (size,)):
                    raise NeedsShape(
                        f"returns {n!r} in another shape than the parameter's"
                    )
        return outs, spaces

    def take_over(self, block, outs, spaces):
        "Put what `block` has returned into the symbolic namespace"
        self.runs_on[block] = self.words_for(block)
        for n, v in outs[0].items():
            self.ns.forget(n)
            if not isinstance(v, Tensor):
                self.ns.put_number(n, v)
        for names, space, out in zip(self.ns.tensors, spaces, outs):
            if 'new_p' in space:
                names['new_p'] = space['new_p']
            names |= {n: v for n, v in out.items() if isinstance(v, Tensor)}
        self.example.advance(block)

    def words_for(self, block):
        "What a recorded callback runs on"
        if block.is_global:
            return 'all parameters'
        made = [v for v in self.recorder.values if v.block is block]
        return 'each parameter' if any(v.reduces for v in made) else 'elements'

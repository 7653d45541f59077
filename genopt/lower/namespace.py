"""What each name of the namespace stands for while a chain is recorded. A name is in one place:

    tensors      it is a stand-in, a row of elements or one number    p, grad, update, grad_avg
    own_shape    it has another shape, and only calls may read it     Shampoo's matrices
    numbers      it is a number                                       mom, step

A chain with a callback over all parameters is recorded on several parameters at once, the
families; see `families`. `tensors` has the names of each family; all families have `own_shape`
and `numbers` in common."""

import torch
from ..contract.chain import Namespace
from ..contract.tensors import compute
from .reasons import NotRecorded
from .recorder import Recorder
from .scalars import ScalarRecorder
from .traced import untraced
from .values import OWN_SHAPE, Value

__all__ = ['StandIns', 'SymbolicNamespace']


class StandIns:
    "Random positive tensors, such as a state may hold in mid-training"

    def __init__(self, layout):
        self.dtype, self.device = layout.compute_dtype, layout.device
        self.generator = torch.Generator().manual_seed(0)

    def tensor(self, shape, dtype=None):
        x = torch.rand(shape, generator=self.generator) + 0.5
        return x.to(self.device, dtype or self.dtype)

    def like(self, x):
        return self.tensor(x.shape, x.dtype) if x.is_floating_point() else x


class SymbolicNamespace:
    """The names of `chain` for parameters of `layout`. `sizes` has the length of the row of each
    family. `scalars` and `recorder` write down what is done to numbers and tensors"""

    def __init__(self, chain, layout, numbers, known_operation, sizes):
        self.chain, self.layout, self.sizes = chain, layout, sizes
        self.scalars = ScalarRecorder(layout.compute_dtype, layout.device)
        self.recorder = Recorder(
            self.scalars, sizes, len(layout.shape), known_operation
        )
        self.stand_ins = StandIns(layout)
        self.tensors = [Namespace() for _ in sizes]
        self.own_shape, self.numbers = {}, dict(numbers)
        self.counters = tuple(n for n in chain.state if n in numbers)

    # -- what the chain is given --

    def begin(self):
        "Stand-ins for the parameter, its gradient and its states"
        for family, (names, size) in enumerate(zip(self.tensors, self.sizes)):
            for n in ('p', 'grad', *self.chain.extra):
                names[n] = self.stand_ins.tensor(size)
            for n in self.chain.state:
                if n not in self.counters:
                    self.begin_state(n, names)
            for n, x in names.items():
                self.recorder.input(n, x, family)

    def begin_state(self, n, names):
        "A stand-in like what its initializer makes, for the state `n` of the family `names`"
        init, p, example = self.chain.state[n], names['p'], self.layout.example()
        first = compute(init(example))
        try:
            x = compute(init(p))
        except Exception:  # the initializer needs the parameter's shape
            x = None
        if x is None or not same_kind(x, p, first, example):
            self.own_shape[n] = Value('input', name=n, kind=OWN_SHAPE, example=first)
        elif not x.ndim and (dtype := self.stored_dtype(n, x)) != p.dtype:
            raise NotRecorded(
                f"{n!r} is a number in {dtype}, but the parameter is computed in {p.dtype}"
            )
        else:
            names[n] = self.stand_ins.like(x)

    def stored_dtype(self, n, x):
        "The dtype in which the state `n` is stored; that of `x`, what callbacks see, if none is yet"
        return dict(self.layout.state_dtypes).get(n, x.dtype)

    # -- reading --

    def read_numbers(self, names):
        "The traced scalars of those `names` that are numbers; flags and strings as they are"
        return {
            n: self.scalars.read(n, self.numbers[n]) for n in names if n in self.numbers
        }

    def has_value(self, n):
        "Whether the name `n` stands for a tensor; `update` is `grad` until a callback returns it"
        return n in self.tensors[0] or n in self.own_shape or n == 'update'

    def value(self, n, family=0):
        "The value that the name `n` has now"
        if n in self.own_shape:
            return self.own_shape[n]
        return self.recorder.value(self.tensors[family][n])

    # -- changing --

    def forget(self, n):
        for names in (*self.tensors, self.own_shape, self.numbers):
            names.pop(n, None)

    def put_number(self, n, v):
        "A callback has changed the name `n` to the number `v`, a traced scalar or a plain one"
        self.forget(n)
        self.scalars.put(n, v)
        self.numbers[n] = untraced(v)

    def give(self, n, x, block, name):
        """A call of `block` gives a tensor like `x` for the name `n`. Returns its value, which
        `name` tells from what other calls give"""
        self.forget(n)
        whole = x.shape == self.layout.shape
        if x.ndim and not whole or x.dtype != self.layout.compute_dtype:
            self.own_shape[n] = Value(
                'given', name=name, kind=OWN_SHAPE, example=x, block=block
            )
            return self.own_shape[n]
        self.recorder.block = block
        values = []
        for family, (names, size) in enumerate(zip(self.tensors, self.sizes)):
            names[n] = self.stand_ins.tensor(size if whole else ())
            values.append(self.recorder.input(name, names[n], family, op='given'))
        return values[0]

    def move(self):
        "Make the move `p - lr*update`, unless a callback has made it"
        if 'new_p' in self.tensors[0] or 'new_p' in self.own_shape:
            return
        if odd := [n for n in ('p', 'update', 'lr') if n in self.own_shape]:
            raise NotRecorded(
                f"reads {odd[0]!r}, which has another shape or dtype than the parameter"
            )
        lr = self.read_numbers(['lr'])
        for names in self.tensors:
            with self.recorder.recording(None):
                names['new_p'] = Namespace(lr | names)['new_p']

    # -- what it comes to --

    def outs(self):
        "For each family the values that are to be written, by the name of what they replace"
        for n in self.chain.state:
            if (n in self.numbers) != (n in self.counters):
                raise NotRecorded(
                    f"needs the state {n!r} to be a tensor in every step, or a number in every step"
                )
        return [self.changed(family) for family in range(len(self.sizes))]

    def changed(self, family):
        "The new values, but for those that lie in their place already"
        new = dict(p=self.value('new_p', family))
        new |= {
            n: self.value(n, family) for n in self.chain.state if n not in self.counters
        }
        return {n: v for n, v in new.items() if not (v.is_input and v.name == n)}


def same_kind(x, p, first, example):
    """Whether a state has a number for each element, or one for the parameter, whatever the shape:
    its initializer makes `x` for the row `p`, and `first` for the `example` in its own shape"""
    return (x.shape, first.shape) in ((p.shape, example.shape), ((), ()))

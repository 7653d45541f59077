"""Recording of tensor operations. A callback runs once, on stand-ins; torch passes every operation
that it does to the `Recorder`, which does it and writes it down as a `Value`."""

from collections import Counter
from contextlib import contextmanager
import torch
from torch import Tensor
from .._torch import TorchDispatchMode, outside_of_modes, without_overrides
from .draws import UNIFORM, drawn, is_drawn, most_draws
from .kinds import aliases, factored, kind_of
from .questions import QuestionMode
from .reasons import (
    LacksOperation,
    NeedsShape,
    NotRecorded,
    by_value,
    plain_number_only,
)
from .values import ELEMENTS, SCALAR, SINGLE, Value, aten, tree_leaves, tree_map

__all__ = ['Recorder']


class Recorder(TorchDispatchMode):
    """Writes down operations as `values`, in order. `sizes` are the lengths of the rows that stand
    for parameters, one for each family. `rank` is how many dimensions the parameters have.
    `known_operation(value)` says whether the backend can do an operation"""

    # Otherwise torch imports its compiler, which takes a second
    _should_skip_dynamo = classmethod(lambda cls: False)

    def __init__(self, scalars, sizes, rank, known_operation):
        super().__init__()
        self.scalars, self.sizes, self.rank = scalars, sizes, rank
        self.known_operation = known_operation
        self.values = []
        self.value_of_id = {}  # of each tensor by its id
        self.alive = []  # these tensors: the id of a dead one might be given to another
        self.recorded = {}  # operation and operands -> value, so that the same twice is one
        self.fresh = {}  # constants that callbacks make anew in each step, by their ids
        self.asked_rank = False
        self.block, self.place = None, 0  # the callback that runs, and its place
        self.n_draws = Counter()  # of this callback, for each family

    @contextmanager
    def recording(self, block, place=0):
        "While this lasts, operations are written down as made by `block`, number `place` in its chain"
        self.block, self.place = block, place
        self.n_draws.clear()
        with QuestionMode(self), self:
            yield

    def rank_of(self, x):
        "The number of dimensions of what `x` stands for"
        if x.ndim == 0:
            return 0
        self.asked_rank = True
        return self.rank

    # -- tensors and values --

    def add(self, value, x):
        "Write down `value`, for which the tensor `x` stands"
        self.values.append(value)
        return self.bind(value, x)

    def bind(self, value, x):
        self.value_of_id[id(x)] = value
        self.alive.append(x)
        return x

    def input(self, name, x, family, op='input'):
        "The value of a tensor `x` that the chain has from the start, or that a call gives it"
        kind = ELEMENTS if x.ndim else SINGLE
        value = Value(
            op, name=name, kind=kind, example=x, block=self.block, family=family
        )
        self.add(value, x)
        return value

    def knows(self, x):
        return id(x) in self.value_of_id or self.scalars.met_by(x) is not None

    def value(self, x):
        "The value of the tensor `x`; anything else is itself"
        if not isinstance(x, Tensor):
            return x
        if id(x) not in self.value_of_id:
            self.add(self.scalar(x), x)
        return self.value_of_id[id(x)]

    def scalar(self, x):
        "The value of a traced scalar that meets tensors, or of a number that the callback holds"
        met = self.scalars.met_by(x)
        if met is None and x.ndim:
            raise NeedsShape(f"uses a tensor of its own, of shape {tuple(x.shape)}")
        if met is None:
            op, name = 'constant', f'constant{len(self.values)}'
        else:
            op, name = 'input', met.name
        if id(x) in self.fresh:
            self.scalars.constants[name] = x.item()
        return Value(op, name=name, kind=SCALAR, example=x)

    # -- operations --

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        with without_overrides():  # the recorder's own questions are not the callback's
            return self.dispatch(func, args, kwargs or {})

    def dispatch(self, func, args, kwargs):
        "Do the operation `func`, and write it down if it is one on stand-ins"
        factors, self.scalars.factors = self.scalars.factors, {}
        name = func.overloadpacket.__name__
        if func.overloadpacket is aten._local_scalar_dense:
            of_scalar = self.scalars.met_by(args[0]) is not None
            raise NotRecorded(plain_number_only if of_scalar else by_value)
        if name.startswith('_foreach_') and not factors:  # with one it is refused below
            return self.on_each(name, args, kwargs)
        if torch.Tag.nondeterministic_seeded in func.tags:
            return self.random(func, args, kwargs)
        tensors = [a for a in tree_leaves(args, kwargs) if isinstance(a, Tensor)]
        if not (factors or any(map(self.knows, tensors))):
            return self.constant(func(*args, **kwargs), tensors)
        pure = self.functional(func, args)
        if factors and pure.overloadpacket not in factored:
            raise NotRecorded(plain_number_only)
        if starts_a_sum(func, args):
            return args[0]
        if func.overloadpacket in aliases:
            return self.bind(self.value(args[0]), func(*args, **kwargs))
        return self.record(func, pure, args, kwargs, tensors, factors)

    def constant(self, x, tensors):
        """`x` is the result of an operation on `tensors`, which are the callback's own. If the
        callback makes these in each step, `x` is the same in each step: the 1 in
        `torch.where(condition, ratio, 1.)`, which torch makes a tensor"""
        if not isinstance(x, Tensor):
            return x
        anew = all(id(t) in self.fresh for t in tensors)
        # What writes in place returns what it was given
        self.fresh.pop(id(x), None)
        if anew:
            self.fresh[id(x)] = x  # alive, so that the id stays its own
        return x

    def record(self, func, pure, args, kwargs, tensors, factors):
        "Do the operation `func`, and write it down as `pure`, which does not write in place"
        operands, named = tree_map((args, kwargs | factors), self.value)
        key = (pure, *named, *tree_leaves(operands, named))
        result = pure(*args, **kwargs)
        if pure is not func:
            result = args[0].copy_(result)
        if not isinstance(result, Tensor):
            raise NeedsShape(
                f"calls {func.overloadpacket.__name__}, which returns several tensors"
            )
        if key not in self.recorded:
            kind = kind_of(pure, args, kwargs, tensors, result, self.sizes)
            value = Value(
                pure, operands, named, f'v{len(self.values)}', kind, result, self.block
            )
            if func.overloadpacket is aten.lerp:
                value.weight_below_half = self.below_half(args[2])
            if kind == ELEMENTS and not self.known_operation(value):
                raise LacksOperation(func)
            self.recorded[key] = value
            self.values.append(value)
        bind = self.bind if pure is func else self.write
        return bind(self.recorded[key], result)

    def random(self, func, args, kwargs):
        "A random operation, as draws and operations on these, which are dispatched in turn"
        name = func.overloadpacket.__name__
        if self.block is None or self.block.is_global:
            raise NotRecorded(
                f"draws random numbers for all parameters at once ({name}); "
                "draw them in a callback of one parameter"
            )
        if not is_drawn(func, args, kwargs):
            raise NotRecorded(f"draws random numbers with {name}; {only_these}")
        if func._schema.is_mutable:
            self.check_written(args[0], name)
        with self:
            result = drawn(func, args, kwargs, self.draw)
        if not func._schema.is_mutable:
            return result
        return self.write(self.value(result), args[0].copy_(result))

    def draw(self, kind, x, dtype):
        "A draw of numbers like `x`, which stands for a parameter or for a single number"
        family = x.numel() if len(self.sizes) > 1 else 0
        if x.ndim and (x.ndim > 1 or x.numel() not in self.sizes):
            raise NeedsShape(
                "draws random numbers in another shape than the parameter's"
            )
        if family and not x.ndim:
            raise NotRecorded(
                "draws a single random number, in a list with a callback for all parameters"
            )
        if self.n_draws[family] == most_draws:
            raise NotRecorded(
                f"draws random numbers more than {most_draws} times in a step"
            )
        like = torch.rand_like if kind == UNIFORM else torch.randn_like
        with outside_of_modes():
            example = like(x, dtype=dtype)
        value = Value(
            aten.rand_like.default if kind == UNIFORM else aten.randn_like.default,
            name=f'v{len(self.values)}',
            kind=ELEMENTS if x.ndim else SINGLE,
            example=example,
            block=self.block,
            draw=self.place * most_draws + self.n_draws[family],
        )
        if x.ndim and not self.known_operation(value):
            raise NotRecorded(f"draws random numbers in {value.dtype}")
        self.n_draws[family] += 1
        return self.add(value, example)

    def functional(self, func, args):
        """`func` itself, or what it writes in place, as an operation that does not. It may write
        into a tensor that the callback has made"""
        arguments = func._schema.arguments
        written = [
            a for a, s in zip(args, arguments) if s.alias_info and s.alias_info.is_write
        ]
        if not written and not any(s.is_out for s in arguments):
            return func
        name = func.overloadpacket.__name__
        pure = getattr(aten, name.removesuffix('_'), None)
        into_first = len(written) == 1 and written[0] is args[0]
        if not (pure and into_first):
            raise NotRecorded(f"writes in place ({name}); return the new value")
        self.check_written(args[0], name)
        return getattr(pure, func._overloadname)

    def check_written(self, x, name):
        "Refuse to write into `x`, unless an operation of the recording has made it"
        value = self.value_of_id.get(id(x))
        if value is None or isinstance(value.op, str):
            raise NotRecorded(f"writes in place ({name}); return the new value")

    def write(self, value, x):
        """Let `x`, which has been written in place, stand for `value`, and with it what `detach` has
        made of it. No other view can be recorded"""
        address = x.untyped_storage().data_ptr()
        for t in self.alive:
            if t.untyped_storage().data_ptr() == address:
                self.value_of_id[id(t)] = value
        return self.bind(value, x)

    def below_half(self, weight):
        """Whether the weight of a lerp is below a half, where it is known: torch starts from the
        nearer end then"""
        if isinstance(weight, (int, float)):
            return abs(weight) < 0.5
        met = self.scalars.met_by(weight)
        return None if met is None else self.scalars.below_half(met)

    def on_each(self, name, args, kwargs):
        "An operation on lists, as one on each of their members, which is dispatched in turn"
        n = len(args[0])
        if name == '_foreach_norm':
            one = torch.linalg.vector_norm
        else:
            one = getattr(aten, name.removeprefix('_foreach_'))
        member = lambda a, i: (
            a[i] if isinstance(a, (list, tuple)) and len(a) == n else a
        )
        with self:
            return [one(*(member(a, i) for a in args), **kwargs) for i in range(n)]


only_these = (
    "write it with rand_like, randn_like, bernoulli, uniform_, normal_ or exponential_, "
    "in float32 or float64 and without a generator"
)


def starts_a_sum(func, args):
    "Whether this adds the 0 from which Python's `sum` starts"
    added = args[1] if func.overloadpacket is aten.add and len(args) == 2 else None
    return type(added) is int and added == 0

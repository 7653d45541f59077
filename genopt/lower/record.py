"""Recording: a chain is run once on small stand-ins, and every tensor operation is written down as a `Value`.

A stand-in of a parameter is one row of elements. So only what may be done to any tensor, whatever its shape, can be recorded: an operation on each
element, a reduction of the whole to one number, arithmetic on such numbers. There are four kinds of values:

    ELEMENTS  a number for each element of the parameter           grad, grad_avg*mom
    SINGLE    a number for each parameter                          grad.norm()
    CROSS     one for all parameters: a vector with an entry for each, or what is made of it       torch.stack(norms).norm()
    SCALAR    a number that the scalar program computes            mom, 1-mom**step

A callback that asks for a shape, or does something else to a tensor, raises `NeedsShape` or `NotRecorded`; `chain.py` decides what becomes of it."""

from contextlib import contextmanager
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from .scalars import FactorMode
from .words import NeedsShape, NotRecorded, by_value, no_looking, plain_number_only

__all__ = [
    'CROSS',
    'ELEMENTS',
    'SCALAR',
    'SINGLE',
    'NoLookingMode',
    'Recorder',
    'Value',
    'aten',
    'leaves',
    'mapped',
    'needed',
]

aten = torch.ops.aten
ELEMENTS, SINGLE, CROSS, SCALAR = 'elements', 'single', 'cross', 'scalar'

aliases = {aten.detach, aten.alias, aten.lift_fresh}  # the result is the same tensor
like = {
    aten.clone,
    aten._to_copy,
    aten.copy,
    aten.zeros_like,
    aten.ones_like,
    aten.full_like,
    aten.empty_like,
    aten.rand_like,
    aten.randn_like,
    aten.randint_like,
    aten.bernoulli,
}  # of each element, but not tagged so
reductions = {
    aten.sum,
    aten.mean,
    aten.amax,
    aten.max,
    aten.amin,
    aten.min,
    aten.any,
    aten.all,
    aten.prod,
    aten.var,
    aten.std,
    aten.dot,
    aten.linalg_vector_norm,
    aten.norm,
}
factored = {
    aten.add,
    aten.sub,
    aten.addcmul,
    aten.addcdiv,
}  # operations whose factor may be a traced scalar

ranks = {'ndim', 'dim', 'ndimension'}
shapes = {
    'shape',
    'size',
    'numel',
    'nelement',
    'stride',
    '__len__',
    'storage_offset',
    'nbytes',
    'T',
    'mT',
    'H',
    'mH',
}
peeks = {'tolist', 'numpy', '__array__', '__dlpack__', 'data_ptr'}
looks = {'item', '__bool__', '__float__', '__int__', '__index__'}


# -- Values --


class Value:
    """What one operation makes. `op`: an operation of aten, `'input'`, `'given'` by a call, or `'join'` of what all parameters have.
    `example`: the stand-in, which tells shape and dtype. `family`: of which stand-in parameter, where a chain joins several. `stage`: how many
    calls and joins lie before it. `level`: how many reductions, within its stage. `near`: of a lerp, whether its weight is below a half"""

    __slots__ = (
        'op',
        'args',
        'kwargs',
        'name',
        'kind',
        'example',
        'block',
        'family',
        'stage',
        'level',
        'leaf_values',
        'near',
    )

    def __init__(self, op, args=(), kwargs=None, name=None, kind=None, example=None, block=None):
        self.op, self.args, self.kwargs = op, args, kwargs or {}
        self.name, self.kind, self.example, self.block = name, kind, example, block
        self.family, self.stage, self.level, self.leaf_values, self.near = None, 0, 0, (), None

    @property
    def dtype(self):
        return self.example.dtype

    @property
    def packet(self):
        return getattr(self.op, 'overloadpacket', self.op)

    @property
    def operands(self):
        "The values that it is made of"
        return [a for a in leaves(self.args, self.kwargs) if isinstance(a, Value)]

    @property
    def is_input(self):
        return self.op == 'input'

    @property
    def in_memory(self):
        "Whether it lies in memory before any operation: an input, or what a call has given"
        return isinstance(self.op, str) and self.op != 'join'

    @property
    def reduces(self):
        return (
            self.kind == SINGLE
            and any(v.kind == ELEMENTS for v in self.operands)
            and self.op != 'given'
        )

    def __repr__(self):
        if isinstance(self.op, str):
            return f'{self.name}'
        show = lambda a: (a.name or '...') if isinstance(a, Value) else repr(a)
        args = [*map(show, self.args), *(f'{k}={show(v)}' for k, v in self.kwargs.items())]
        return f'{self.name} = {self.packet.__name__}({", ".join(args)})'


def leaves(*xs):
    "The leaves of nested lists, tuples and dicts"
    for x in xs:
        if isinstance(x, (list, tuple)):
            yield from leaves(*x)
        elif isinstance(x, dict):
            yield from leaves(*x.values())
        else:
            yield x


def mapped(x, f):
    "The same nesting, with `f` of every leaf"
    if isinstance(x, (list, tuple)):
        return type(x)(mapped(o, f) for o in x)
    if isinstance(x, dict):
        return {k: mapped(v, f) for k, v in x.items()}
    return f(x)


def needed(values, stop=lambda v: False):
    "`values` and what they are made of, each after its operands; without those at which to `stop`, and what lies behind them"
    res, done, stack = [], set(), [*reversed([*values])]
    while stack:
        v = stack[-1]
        later = (
            [o for o in v.operands if o not in done and not stop(o)]
            if v not in done and not stop(v)
            else []
        )
        if later:
            stack += reversed(later)
            continue
        stack.pop()
        if v not in done and not stop(v):
            done.add(v)
            res.append(v)
    return res


# -- Modes that see what a callback asks --


class NoLookingMode(TorchFunctionMode):
    "Refuses to take a value out of a tensor"

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if getattr(func, '__name__', '') in peeks | looks:
            raise NotRecorded(no_looking)
        return func(*args, **(kwargs or {}))


class QuestionMode(FactorMode):
    "Answers for the number of dimensions, which `rank` tells; refuses a callback that asks for another shape, or takes values out of a tensor"

    def __init__(self, recorder):
        super().__init__()
        self.recorder = recorder

    def __torch_function__(self, func, types, args=(), kwargs=None):
        name = getattr(func, '__name__', '')
        if name == '__get__':
            name = getattr(func.__self__, '__name__', '')
        if name in ranks:
            return self.recorder.rank_of(args[0])
        if name in shapes:
            raise NeedsShape(f"asks for the {name.strip('_')} of a tensor")
        if name in peeks:
            raise NotRecorded(f"takes values out of a tensor ({name})")
        return super().__torch_function__(func, types, args, kwargs)


# -- The recorder --


class Recorder(TorchDispatchMode):
    _should_skip_dynamo = classmethod(
        lambda cls: False
    )  # torch would import its compiler, which takes a second
    """Writes down what is done to tensors. `sizes`: of the rows that stand for parameters, one for each family. `rank`: how many dimensions the
    parameters have. `known_operation`: whether the backend can do an operation"""

    def __init__(self, scalars, sizes, rank, known_operation):
        super().__init__()
        self.scalars, self.sizes, self.rank, self.known_operation = (
            scalars,
            sizes,
            rank,
            known_operation,
        )
        self.values = []  # in the order in which they were made
        self.of = {}  # id of a tensor -> its value
        self.alive = []  # tensors whose ids are in use
        self.made = {}  # operation and operands -> value, so that the same twice is one
        self.asked_rank = False
        self.block = None

    @contextmanager
    def watching(self, block):
        self.block = block
        with QuestionMode(self), self:
            yield

    def rank_of(self, x):
        if x.ndim == 0:
            return 0
        self.asked_rank = True
        return self.rank

    # -- tensors and values --

    def add(self, value, x):
        self.values.append(value)
        self.bind(value, x)
        return value

    def bind(self, value, x):
        self.of[id(x)] = value
        self.alive.append(x)
        return x

    def input(self, name, x, family=None, op='input'):
        "A tensor that the chain is given, or that a call gives it"
        value = Value(
            op, name=name, kind=ELEMENTS if x.ndim else SINGLE, example=x, block=self.block
        )
        value.family = family
        return self.add(value, x)

    def scalar(self, name, x):
        return self.add(Value('input', name=name, kind=SCALAR, example=x), x)

    def knows(self, x):
        return id(x) in self.of or any(x is t for t in self.scalars.inputs.values())

    def value(self, x):
        "The value of the tensor `x`; a leaf of another kind is itself"
        if not isinstance(x, Tensor):
            return x
        if id(x) in self.of:
            return self.of[id(x)]
        name = next((n for n, t in self.scalars.inputs.items() if t is x), None)
        if name:
            self.scalar(name, x)
        elif x.numel() != 1 or x.ndim:
            raise NeedsShape(f"uses a tensor of its own, of shape {tuple(x.shape)}")
        else:
            self.scalar(f'constant{len(self.values)}', x)
        return self.of[id(x)]

    # -- operations --

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        with torch._C.DisableTorchFunction():
            return self.record(
                func, args, kwargs or {}
            )  # what is asked here is not the callback's question

    def record(self, func, args, kwargs):
        packet, factors, self.scalars.factors = func.overloadpacket, self.scalars.factors, {}
        name = packet.__name__
        if packet is aten._local_scalar_dense:
            raise NotRecorded(
                plain_number_only
                if any(t is args[0] for t in self.scalars.inputs.values())
                else by_value
            )
        if name.startswith('_foreach_') and not factors:
            return self.each(name, args, kwargs)
        tensors = [a for a in leaves(args, kwargs) if isinstance(a, Tensor)]
        if torch.Tag.nondeterministic_seeded in func.tags:
            raise NotRecorded("draws random numbers")
        if not (factors or any(map(self.knows, tensors))):
            return func(*args, **kwargs)  # a constant of the callback's own
        written = [
            a
            for a, s in zip(args, func._schema.arguments)
            if s.alias_info and s.alias_info.is_write
        ]
        if written or any(s.is_out for s in func._schema.arguments):
            func = self.functional(func, args, written)
        if factors and func.overloadpacket not in factored:
            raise NotRecorded(plain_number_only)
        if packet is aten.add and len(args) == 2 and type(args[1]) is int and args[1] == 0:
            return args[0]  # what sum() of a list starts with
        if packet in aliases:
            return self.bind(self.value(args[0]), func(*args, **kwargs))
        operands, named = mapped((args, kwargs | factors), self.value)
        key = (func, *named, *leaves(operands, named))
        out = args[0].copy_(func(*args, **kwargs)) if written else func(*args, **kwargs)
        if not isinstance(out, Tensor):
            raise NeedsShape(f"calls {name}, which makes several tensors")
        if key not in self.made:
            value = Value(
                func,
                operands,
                named,
                f'v{len(self.values)}',
                self.kind(func, tensors, out, args, kwargs),
                out,
                self.block,
            )
            if packet is aten.lerp:
                value.near = self.near(args[2])
            if value.kind == ELEMENTS and not self.known_operation(value):
                raise NotRecorded(f"calls {name}, which the table of operations lacks")
            self.made[key] = self.add(value, out)
        return self.bind(self.made[key], out)

    def functional(self, func, args, written):
        "The operation that `func` does in place, on a tensor which the callback made itself and at which nobody looks otherwise"
        x, packet = written[0] if written else None, func.overloadpacket
        pure = getattr(aten, packet.__name__.removesuffix('_'), None)
        if (
            len(written) != 1
            or x is not args[0]
            or id(x) not in self.of
            or isinstance(self.of[id(x)].op, str)
            or not pure
        ):
            raise NotRecorded(f"writes in place ({packet.__name__})")
        sharing = {
            id(t)
            for t in self.alive
            if t.untyped_storage().data_ptr() == x.untyped_storage().data_ptr()
        }
        if len(sharing) > 1:
            raise NotRecorded(f"writes in place into a view ({packet.__name__})")
        return getattr(pure, func._overloadname)

    def near(self, weight):
        "Whether the weight of a lerp is below a half: torch starts from the nearer end then. None where that is not known"
        if isinstance(weight, (int, float)):
            return abs(weight) < 0.5
        name = next((n for n, t in self.scalars.inputs.items() if t is weight), None)
        return self.scalars.is_small(name) if name else None

    def each(self, name, args, kwargs):
        "An operation on lists is one on each of their members"
        n = len(args[0])
        one = (
            torch.linalg.vector_norm
            if name == '_foreach_norm'
            else getattr(aten, name.removeprefix('_foreach_'))
        )
        member = lambda a, i: a[i] if isinstance(a, (list, tuple)) and len(a) == n else a
        with self:
            return [one(*(member(a, i) for a in args), **kwargs) for i in range(n)]

    def kind(self, func, tensors, out, args, kwargs):
        "ELEMENTS or SINGLE; refuses what is neither elementwise, nor a reduction of a whole row, nor arithmetic on what was reduced"
        packet = func.overloadpacket
        row = next((t.shape for t in tensors if t.ndim == 1 and t.numel() in self.sizes), None)
        if not tensors:
            raise NeedsShape(f"makes a tensor of its own ({packet.__name__})")
        if row is None:
            return SINGLE  # or CROSS; `merge_families` knows
        each = torch.Tag.pointwise in func.tags or packet in like
        if each and out.shape == row and all(t.shape == row or t.ndim == 0 for t in tensors):
            return ELEMENTS
        named = {a.name: v for a, v in zip(func._schema.arguments, args)} | kwargs
        along = [v for n in ('dim', 'keepdim') if (v := named.get(n)) or v == 0 and v is not False]
        if out.ndim == 0 and packet in reductions and not along:
            return SINGLE
        raise NeedsShape(f"calls {packet.__name__}, which is not elementwise")

r"""The recording of a callback that takes a parameter as a matrix. Its stand-in has rows and columns, where `recording` has a row of elements.

    def whitened(update, left): return left @ update @ update.T

is recorded as `u' = L \, u \, u^{\top}`. A loop that does the same again and again, such as a Newton-Schulz iteration, becomes one step of it and
a count. A length is `Counted`: torch takes it as a length, and arithmetic with it is traced."""

from contextlib import contextmanager
import torch
from ...contract.names import inside
from ...contract.state import first
from ...lower.questions import asked
from ...lower.reasons import NotRecorded
from ...lower.recorder import Recorder
from ...lower.traced import FactorMode
from ...lower.values import ELEMENTS,OWN_SHAPE,SINGLE,Value,aten,tree_leaves,tree_map
from .expressions import Expression,leaves,symbol
from .loops import loop_of
from .numbers import Counted
from .operations import matrix_table,wide
from .recording import Entry,Recorded,WithDraws

__all__ = ['RecordedMatrix', 'lengths']

lengths = {'#rows': r'\text{rows}', '#columns': r'\text{columns}'}


# -- Lengths --

arithmetic = {'add', 'sub', 'mul', 'div', 'true_divide', 'pow', 'rsub'}
shapes     = {'shape', 'size', 'numel', 'nelement'}


class ShapeMode(FactorMode):
    "Gives `Counted` for the lengths of a tensor, and traces those that meet one in arithmetic"
    def __init__(self, recorder):
        super().__init__()
        self.recorder = recorder
    def __torch_function__(self, func, types, args=(), kwargs=None):
        name = asked(func)
        if name in shapes: return self.recorder.lengths_of(func(*args, **(kwargs or {})))
        if name.strip('_').removeprefix('r') in arithmetic and any(isinstance(a, Counted) for a in args):
            return func(*(self.recorder.scalars.input(a.traced) if isinstance(a, Counted) else a for a in args), **(kwargs or {}))
        return super().__torch_function__(func, types, args, kwargs)


# -- Operations --

same_shape = {aten.view, aten._unsafe_view, aten.reshape, aten.expand, aten.squeeze, aten.contiguous}
turned_in_place = {aten.squeeze_: aten.squeeze, aten.unsqueeze_: aten.unsqueeze, aten.t_: aten.t}


class MatrixRecorder(WithDraws, Recorder):
    "Writes down operations on tensors of any shape. `shape`: of the stand-in for a parameter"
    def __init__(self, scalars, shape):
        super().__init__(scalars, (), len(shape), lambda value: True)
        self.shape = shape
        self.counted = [Counted(n, scalars.read(name, float(n))) for n,name in zip(shape, lengths)]
    @contextmanager
    def recording(self, block):
        self.block = block
        with ShapeMode(self), self: yield

    def lengths_of(self, n):
        "The length or the shape `n` with those of the parameter as `Counted`"
        if isinstance(n, tuple): return tuple(map(self.lengths_of, n))
        if n in self.shape: return self.counted[self.shape.index(n)]
        rows,columns = self.counted
        return Counted(n, rows*columns) if n==int(rows)*int(columns) else n

    def dispatch(self, func, args, kwargs):
        if func.overloadpacket in same_shape and self.knows(args[0]):
            result = func(*args, **kwargs)
            if result.shape==args[0].shape: return self.bind(self.value(args[0]), result)
        if func.overloadpacket in turned_in_place and self.knows(args[0]): return self.turn_in_place(func, args)
        if func.overloadpacket is aten.arange and len(args)==1: return self.record(func, func, (int(args[0]),), kwargs, [], {})
        return super().dispatch(func, args, kwargs)

    def turn_in_place(self, func, args):
        "Write down a view in place. torch makes one of a product that nobody else has"
        x,before = args[0],self.value(args[0])
        before.example = x.clone()                         # in its own shape
        pure = getattr(turned_in_place[func.overloadpacket], func._overloadname)
        func(*args)
        value = Value(pure, (before, *args[1:]), {}, f'v{len(self.values)}', self.kind(x), x, self.block)
        self.values.append(value)
        return self.bind(value, x)

    def record(self, func, pure, args, kwargs, tensors, factors):
        "Do the operation, and write down each tensor that it makes; `#` says which of several"
        operands,named = tree_map((args, kwargs|factors), self.value)
        key    = pure,*named,*tree_leaves(operands, named)
        result = pure(*args, **kwargs)
        if pure is not func: result = args[0].copy_(result)
        several = isinstance(result, (tuple,list))
        if key not in self.recorded:
            made = [Value(pure, operands, named | ({'#': i} if several else {}), f'v{len(self.values)+i}', self.kind(x), x, self.block)
                    for i,x in enumerate(result if several else [result])]
            self.recorded[key] = made
            self.values += made
        bound = [self.bind(v, x) for v,x in zip(self.recorded[key], result if several else [result])]
        return type(result)(bound) if several else bound[0]

    def kind(self, x): return SINGLE if not x.ndim else ELEMENTS if x.shape==self.shape else OWN_SHAPE


class RecordedMatrix(Recorded):
    "The recording of a callback, as in `Recorded`, over a matrix of the lengths `shape`. `start`: what the counter of steps is"
    matrix = True
    def __init__(self, b, entries, flip=None, start=5, shape=wide):
        self.shape,self.start = shape,start
        self.history = {}                                  # a call of a function and its variable -> the nodes that it has held, in order
        self.loops,self.starts = {},{}                     # the end of a loop -> its `Expression`, and the node from which it starts
        numbers = {n: Entry(symbol(t), 'number', 1.) for n,t in lengths.items()}
        super().__init__(b, entries | numbers, flip)
        found = [x for nodes in self.history.values() if (x := loop_of(self, nodes))]
        self.history.clear()
        self.loops  = {end: e for _,end,e in found}
        self.starts = {end: start for start,end,_ in found}
        self.forget_expressions()

    def new_recorder(self): return MatrixRecorder(self.scalars, torch.Size(self.shape))

    def stand_in(self, n, e):
        if n in lengths: return None                       # the recorder has read them
        if e.kind=='flag': return e.value
        if e.kind=='number': return self.scalars.read(n, self.start if n=='step' else e.value)
        x = self.example(n, e)
        self.recorder.input(n, x, 0)
        return x

    def example(self, n, e):
        "A tensor for the name `n`; a square matrix is symmetric and positive definite"
        like  = torch.ones(self.shape, dtype=torch.float64)
        if e.kind=='shaped' and e.init is None: raise NotRecorded(f"reads {n!r}, whose shape is not known")
        shape = like.shape if e.kind=='elements' else () if e.kind=='single' else first(e.init, like).shape
        x = torch.rand(shape, generator=torch.Generator().manual_seed(len(n)), dtype=torch.float64) + .5
        return x@x.T + torch.eye(len(x), dtype=x.dtype) if x.ndim==2 and x.shape[0]==x.shape[1] else x

    def is_watched(self, frame): return frame.f_globals is getattr(inside(self.b.cb), '__globals__', None)

    def note(self, frame, n, v):
        super().note(frame, n, v)
        node = self.node(v)
        held = self.history.setdefault((frame, n), [])
        if node is not None and node not in held[-1:]: held.append(node)

    def operands(self, node): return [self.starts[node]] if node in self.starts else super().operands(node)

    @property
    def by_lengths(self):
        "Whether conditions on the lengths of the matrix are taken for granted"
        return any(leaf.args[0] in lengths.values() for c in self.taken for leaf in leaves(c))

    @property
    def is_plain(self): return super().is_plain and not self.loops

    def check(self):
        for v in self.outs.values():
            if not isinstance(v, (str,bool)): self.expr(v)

    def kind(self, v):
        node = self.node(v)
        return 'shaped' if isinstance(node, Value) and node.example.ndim and node.example.shape!=self.recorder.shape else super().kind(v)

    # -- expressions --

    def of_value(self, v):
        if v in self.loops: return self.loops[v]
        e = None if v.is_input or v.packet not in matrix_table else matrix_table[v.packet](self.expr, v)
        if e is None: e = super().of_value(v)
        return Expression(e.op, e.args, bool(v.example.ndim))

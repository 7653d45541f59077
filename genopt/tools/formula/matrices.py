r"""The recording of a callback that takes a parameter as a matrix. Its stand-in has rows and columns, where `recording` has a row of elements.

    def whitened(update, left): return left @ update @ update.T

is recorded as `u' = L \, u \, u^{\top}`. A loop that does the same again and again, such as a Newton-Schulz iteration, becomes one step of it and
a count. A length is `Counted`: torch takes it as a length, and arithmetic with it is traced."""

import operator,sys
from contextlib import contextmanager
from itertools import count
import torch
from ...contract.names import inside
from ...contract.state import first
from ...lower.questions import asked
from ...lower.reasons import NotRecorded
from ...lower.recorder import Recorder
from ...lower.traced import FactorMode,TracedScalar
from ...lower.values import ELEMENTS,OWN_SHAPE,SINGLE,Value,aten,tree_leaves,tree_map
from .expressions import Expression,iterated,leaves,skeleton,symbol,with_letters
from .operations import matrix_table
from .recording import Entry,Recorded

__all__ = ['RecordedMatrix', 'tall', 'wide']

wide,tall = (5, 7),(7, 5)                                  # lengths of the stand-in; no others are likely in a callback
lengths = {'#rows': r'\text{rows}', '#columns': r'\text{columns}'}


# -- Lengths --

class Counted(int):
    "A length, and the traced scalar that stands for it in arithmetic"
    def __new__(cls, value, traced):
        self = int.__new__(cls, value)
        self.traced = traced
        return self
    def __hash__(self): return int.__hash__(self)

def uncounted(x): return x.traced if isinstance(x, Counted) else x
def is_number(x): return isinstance(x, (int,float,TracedScalar))

def define(name, reflected):
    "Give `Counted` the operator `name` of Python. `reflected`: also where it stands on the right, as in `1/rows`"
    f = getattr(operator, name)
    setattr(Counted, f'__{name}__', lambda self, x: f(self.traced, uncounted(x)) if is_number(x) else NotImplemented)
    if reflected: setattr(Counted, f'__r{name}__', lambda self, x: f(uncounted(x), self.traced) if is_number(x) else NotImplemented)
for name in ('add', 'sub', 'mul', 'truediv', 'floordiv', 'mod', 'pow'): define(name, True)
for name in ('lt', 'le', 'gt', 'ge'): define(name, False)

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


class MatrixRecorder(Recorder):
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
        return super().dispatch(func, args, kwargs)

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
    def __init__(self, b, entries, start=5, shape=wide):
        self.shape,self.start = shape,start
        self.history = {}                                  # code and variable -> the nodes that it has held, in order
        self.loops,self.starts = {},{}                     # the end of a loop -> its `Expression`, and the node from which it starts
        numbers = {n: Entry(symbol(t), 'number', 1.) for n,t in lengths.items()}
        super().__init__(b, entries | numbers)
        found = [x for x in map(self.loop, self.history.values()) if x]
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

    @contextmanager
    def watched(self):
        "Within, the variables are noted that the callback sets, and those that functions of its module set"
        module = getattr(inside(self.b.cb), '__globals__', None)
        def look(frame, event, arg):
            for n,v in frame.f_locals.items():
                node = self.node(v)
                if node is None: continue
                self.locals.setdefault(node, n)
                held = self.history.setdefault((frame.f_code, n), [])
                if node not in held[-1:]: held.append(node)
            return look
        before = sys.gettrace()
        sys.settrace(lambda frame, event, arg: look if frame.f_globals is module else None)
        try: yield
        finally: sys.settrace(before)

    def operands(self, node): return [self.starts[node]] if node in self.starts else super().operands(node)

    @property
    def by_lengths(self):
        "Whether conditions on the lengths of the matrix are taken for granted"
        return any(leaf.args[0] in lengths.values() for c in self.taken for leaf in leaves(c))

    def check(self):
        for v in self.outs.values():
            if not isinstance(v, (str,bool)): self.expr(v)

    def kind(self, v):
        node = self.node(v)
        return 'shaped' if isinstance(node, Value) and node.kind==OWN_SHAPE else super().kind(v)

    # -- loops --

    def loop(self, nodes):
        """The start and the end of a loop, and its expression, if the last of `nodes` are each made in one way of the one before. A number that
        changes from turn to turn gets a letter"""
        steps = [self.turn(a, b) for a,b in zip(nodes, nodes[1:])]
        if not steps or not steps[-1]: return None
        alike = [bool(turn) and [skeleton(e) for _,e in turn]==[skeleton(e) for _,e in steps[-1]] for turn in reversed(steps)]
        n = [*alike, False].index(False)
        if n<2: return None
        numbers = [[leaf.args[0] for _,e in turn for leaf in leaves(e) if leaf.op=='num'] for turn in steps[-n:]]
        changes = [i for i,column in enumerate(zip(*numbers)) if len({*column})>1]
        letters = {i: symbol(f'{letter}_k') for i,letter in zip(changes, 'abcdefgh')}
        place   = count()
        body    = [(left, with_letters(e, lambda: letters.get(next(place)))) for left,e in steps[-1]]
        series  = [(sign.args[0], tuple(turn[i] for turn in numbers)) for i,sign in letters.items()]
        self.forget_expressions()
        return nodes[-1-n],nodes[-1],iterated(self.expr(nodes[-1-n]), n, body, series)

    def turn(self, a, b):
        """What makes the node `b` of the node `a`, which is `X_k`: symbols and expressions of what is used more than once between them, `A_k` and
        so on, and of `b`"""
        if not isinstance(a, Value) or not isinstance(b, Value) or not a.example.ndim: return None
        self.exprs = {a: symbol('X_k', True)}
        found,letters = [],iter('ABCDEFGH')
        for node in self.used_twice([b], [a]):
            if isinstance(node, Value) and node.example.ndim:
                sign = symbol(f'{next(letters)}_k', True)
                found.append((sign, self.expr(node)))
                self.exprs[node] = sign
        found.append((symbol('X_{k+1}', True), self.expr(b)))
        return found if any(leaf.args[0]=='X_k' for _,e in found for leaf in leaves(e)) else None

    # -- expressions --

    def of_value(self, v):
        if v in self.loops: return self.loops[v]
        e = None if v.is_input or v.packet not in matrix_table else matrix_table[v.packet](self.expr, v)
        if e is None: e = super().of_value(v)
        return Expression(e.op, e.args, bool(v.example.ndim))

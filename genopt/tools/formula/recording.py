"""The recording of one callback, and the expressions of what it returns."""

import ast,re,sys
from contextlib import contextmanager
from dataclasses import dataclass
import torch
from torch import Tensor
from ...contract.chain import Namespace
from ...contract.names import inside
from ...lower.draws import arguments,is_drawn
from ...lower.reasons import NotRecorded
from ...lower.recorder import Recorder
from ...lower.traced import TracedScalar
from ...lower.values import CROSS,ELEMENTS,SCALAR,SINGLE,Value,aten,tree_map
from .expressions import Expression,cases,compare,leaves,neg,num,symbol
from .numbers import NumberRecorder,traced_functions
from .operations import choice,draws,ignored,outcome,scalar_functions,scalar_operators,scalar_signs,table

__all__ = ['Entry', 'Recorded', 'WithDraws']

n_elements = 37                                            # of the row that stands for a parameter; no other size is likely in a callback


@dataclass
class Entry:
    """What a name of the namespace stands for. `kind`: 'elements' or 'single' for a tensor that can be recorded, 'shaped' for another, 'number' or
    'flag'; 'model' for what is asked of the model. `open`: where the callback chooses by the number, both cases are recorded. `init`: the initializer
    of a tensor that is 'shaped'"""
    expr: Expression
    kind: str
    value: object = None
    open: bool = True
    init: object = None


class WithDraws:
    "Of a recorder: it writes down random numbers as what the callback asked for, where the engine makes them of uniform and normal ones"
    def random(self, func, args, kwargs):
        name = func.overloadpacket.__name__
        if not is_drawn(func, args, kwargs) or func.overloadpacket not in draws: raise NotRecorded(f"draws random numbers with {name}")
        if func._schema.is_mutable: self.check_written(args[0], name)
        operands,named = tree_map((args, kwargs), self.value)
        result = func(*args, **kwargs)
        value  = Value(func, operands, named, f'v{len(self.values)}', ELEMENTS if result.ndim else SINGLE, result, self.block, draw=len(self.values))
        self.values.append(value)
        return self.write(value, result) if func._schema.is_mutable else self.bind(value, result)

class RowRecorder(WithDraws, Recorder):
    "Writes down operations on rows. A row may be flattened, and the rows of all parameters joined to one vector"
    def dispatch(self, func, args, kwargs):
        if func.overloadpacket in flattening and args[0].ndim==1 and self.knows(args[0]):
            result = func(*args, **kwargs)
            if result.shape==args[0].shape: return self.bind(self.value(args[0]), result)
        return super().dispatch(func, args, kwargs)

    def record(self, func, pure, args, kwargs, tensors, factors):
        if func.overloadpacket is not aten.cat or not all(t.ndim==1 and t.numel() in self.sizes for t in tensors):
            return super().record(func, pure, args, kwargs, tensors, factors)
        value = Value(pure, tree_map(args, self.value), {}, f'v{len(self.values)}', CROSS, pure(*args, **kwargs), self.block)
        return self.add(value, value.example)

flattening = {aten.view, aten._unsafe_view, aten.reshape}


class Recorded:
    """The recording of the callback `b`, which reads `entries`, as a graph. A node of it is a `Value`, or the name of a traced number, which is a
    line of the scalar program. `flip`: the traced number whose `if` sees the other outcome.

    `outs`: what `b` has returned, by name. `locals`: node -> the variable of the callback that has held it. `decisions`: the outcomes of each `if`
    that the recording takes for granted, by the name of the traced number. `taken`: those among them that stand beside the formula. `settings`: whole
    numbers that are what they are, such as a count of turns. `otherwise`: the name of the number by which a single `if` decides, its outcome, and by
    name what other results there are for the other outcome; None if that is not written. `choices`: the results by name, where they are a choice by
    the shape. Raises `NotRecorded`"""
    matrix,by_lengths,otherwise,choices = False,False,None,None
    def __init__(self, b, entries, flip=None):
        self.b,self.entries = b,dict(entries)
        self.locals,self.lines,self.exprs,self.fixed_numbers = {},{},{},{}
        self.scalars  = NumberRecorder(torch.float64, torch.device('cpu'), flip)
        self.recorder = self.new_recorder()
        with traced_functions(b.cb): self.outs = self.run()
        self.lines  = dict(line.split(' = ', 1) for line in self.scalars.lines if re.match(r'x\d+ = ', line))
        self.inputs = {v for v in self.recorder.values if v.is_input} | {x for x,text in self.lines.items() if text.startswith('ns[')}
        self.decisions = self.decided()
        self.taken,self.settings = [*self.decisions.values()],self.fixed()
        self.check()

    def new_recorder(self): return RowRecorder(self.scalars, (n_elements,), 2, lambda value: True)

    def run(self):
        ns = Namespace({n: self.stand_in(n, e) for n,e in self.entries.items()})
        with self.recorder.recording(self.b), self.watched(): return self.b(ns)

    def stand_in(self, n, e):
        "What the callback gets for the name `n`. A number that is open comes as if it were on a device, where nobody may look at it"
        if e.kind=='flag':   return e.value
        if e.kind=='shaped': raise NotRecorded(f"reads {n!r}, which is not of the parameter's shape")
        if e.kind=='number': return self.scalars.read(n, torch.tensor(float(e.value), dtype=torch.float64) if e.open else float(e.value))
        return self.tensor(n, n_elements if e.kind=='elements' else (), 0)

    def tensor(self, n, shape, family):
        "A stand-in of this shape for the name `n`"
        x = torch.rand(shape, generator=torch.Generator().manual_seed(len(n)), dtype=torch.float64) + .5
        self.recorder.input(n, x, family)
        return x

    # -- the variables of a callback --

    @contextmanager
    def watched(self):
        "Within, the variables that the callback sets are noted. They name what is used more than once"
        def look(frame, event, arg):
            for n,v in frame.f_locals.items(): self.note(frame, n, v)
            return look
        before = sys.gettrace()
        sys.settrace(lambda frame, event, arg: look if self.is_watched(frame) else None)
        try: yield
        finally: sys.settrace(before)

    def is_watched(self, frame): return frame.f_code is getattr(inside(self.b.cb), '__code__', None)

    def note(self, frame, n, v):
        "The variable `n` holds `v`. A list has one member for each parameter, or for each side of a matrix"
        if isinstance(v, (list,tuple)) and v: n,v = n.removesuffix('s') if len(n)>1 else n,v[0]
        node = self.node(v)
        if node is not None: self.locals.setdefault(node, n)

    # -- what it refuses, and what it takes for granted --

    def check(self):
        "Refuse what has no formula"
        for n,v in self.outs.items():
            if isinstance(v, Tensor) and v.ndim and v.shape!=(n_elements,): raise NotRecorded(f"makes {n!r}, which is not of the parameter's shape")
            if not isinstance(v, (str,bool)): self.expr(v)

    def guards(self, pattern): return [m for c in sorted(self.scalars.guarded) if (m := re.fullmatch(pattern, c))]

    def decided(self):
        "The outcome of each `if` on a number, by the name of the number; but for numbers that are always the same"
        self.outcomes = {m[1]: m[2]=='True' for m in self.guards(r'bool\((x\d+)\) is (True|False)')}
        found = {x: outcome(self.expr(x), holds) for x,holds in self.outcomes.items()}
        return {x: c for x,c in found.items() if any(leaf.op=='symbol' for leaf in leaves(c))}

    def fixed(self):
        "Conditions that numbers have the values that they have: the callback used them as whole numbers. The formula has the value in their place"
        self.fixed_numbers = {m[1]: num(float(m[2])) for m in self.guards(r'(x\d+)==\((.*)\)')}
        self.forget_expressions()
        settings = [(self.of_line(x), value) for x,value in self.fixed_numbers.items()]
        return [compare('=', e, value) for e,value in settings if e!=value]

    @property
    def of_rank(self):
        "The condition that the parameter is a matrix, where the callback has asked how many dimensions it has"
        return [symbol(r'\text{the parameter is a matrix}')] if self.recorder.asked_rank else []

    # -- the graph --

    def node(self, v):
        "The node of a tensor, a value or a traced number; None for anything else. A node is its own"
        if isinstance(v, str): return v if v in self.lines else None
        if isinstance(v, TracedScalar): return v.name
        if isinstance(v, Tensor): v = self.recorder.value_of_id.get(id(v)) or self.scalar_input(v)
        if not isinstance(v, Value): return None
        return v.name if v.is_input and v.kind==SCALAR and not v.name.startswith('constant') else v

    def scalar_input(self, x):
        met = self.scalars.met_by(x)
        return met and self.recorder.value(x)

    def operands(self, node):
        if isinstance(node, Value): return [o for o in map(self.node, node.operands) if o is not None]
        return [x.id for x in ast.walk(ast.parse(self.lines[node])) if isinstance(x, ast.Name) and x.id in self.lines]

    def worth_a_name(self, roots=None, known=()):
        """The nodes that several others, or several of `roots`, are made of, and random numbers; each after those that it is made of. `roots` are the
        results by default. What `known` nodes are made of does not count"""
        uses,order = {},[]
        known = {*self.inputs, *known}
        def visit(node):
            uses[node] = uses.get(node, 0)+1
            if uses[node]>1 or node in known: return
            for o in self.operands(node): visit(o)
            order.append(node)
        if roots is None: roots = [*self.outs.values(), *(self.otherwise[:1]*len(self.otherwise[2]) if self.otherwise else ())]
        for v in roots:
            if (node := self.node(v)) is not None: visit(node)
        return [n for n in order if n not in known and (uses[n]>1 or is_draw(n))]

    def kind(self, v):
        "The kind of a result, as in `Entry`"
        node = self.node(v)
        if not isinstance(node, Value): return 'flag' if isinstance(v, (bool,str)) else 'number'
        return 'number' if node.kind==SCALAR else 'single' if not node.example.ndim else 'elements'

    # -- expressions --

    def name(self, node, symbol):
        "From now on `symbol` stands for the node"
        self.exprs[node] = symbol

    def forget_expressions(self): self.exprs = dict(self.fixed_numbers)

    @property
    def is_plain(self):
        "Whether the results can be written without an equation for what lies between"
        return not any(is_draw(v) for v in self.recorder.values)

    def add_other_case(self, others):
        "Write the results `others`, by name, beside those that the one `if` has taken for granted"
        x, = self.decisions
        self.taken,self.otherwise = [],(x,self.outcomes[x],others)

    def result(self, n):
        "The expression of the result `n`"
        expr = self.expr(self.outs[n])
        if not self.otherwise or n not in self.otherwise[2]: return expr
        x,holds,others = self.otherwise
        return cases(outcome(self.expr(x), holds), expr, others[n])

    def results(self):
        "The expression of each result, by name, without names for what lies between"
        self.forget_expressions()
        return {n: self.expr(v) for n,v in self.outs.items() if not isinstance(v, (bool,str))}

    def expr(self, v):
        "The expression of a result, a node or a number"
        if isinstance(v, (bool,int,float)) and not isinstance(v, TracedScalar): return num(v)
        node = self.node(v)
        if node is None: raise NotRecorded(f"computes with {v!r}")
        if node not in self.exprs: self.exprs[node] = self.of_line(node) if isinstance(node, str) else self.of_value(node)
        return self.exprs[node]

    def of_value(self, v):
        if v.is_input: return num(v.example) if v.kind==SCALAR else self.entries[v.name].expr
        if is_draw(v): return self.of_draw(v)
        if v.packet not in table: raise NotRecorded(f"calls {v.packet.__name__}, for which there is no formula")
        args   = [None if a is None or isinstance(a, (list,tuple)) else self.expr(a) for a in v.args]
        kwargs = {k: self.expr(a) for k,a in v.kwargs.items() if k not in ignored}
        while args and args[-1] is None: args.pop()
        try: e = table[v.packet](*args, **kwargs)
        except TypeError as err: raise NotRecorded(f"calls {v.packet.__name__} in a way for which there is no formula") from err
        return Expression(e.op, e.args, False) if v.kind==SINGLE else e

    def of_draw(self, v):
        named = arguments(v.op, v.args, v.kwargs)
        probability = 'self' if v.packet is aten.bernoulli and 'p' not in named else 'p'
        given = {n: self.expr(a) for n,a in named.items() if isinstance(a, (int,float)) or n==probability and a is not None}
        e = draws[v.packet](given)
        return Expression(e.op, e.args, bool(v.example.ndim))

    def of_line(self, name): return self.parsed(ast.parse(self.lines[name], mode='eval').body)

    def parsed(self, node):
        "The expression of a line of the scalar program, as Python has parsed it"
        match node:
            case ast.Constant():                          return num(node.value)
            case ast.Name():                              return self.expr(node.id)
            case ast.Subscript():                         return self.entries[node.slice.value].expr                   # ns['mom']
            case ast.UnaryOp(op=ast.USub()):              return neg(self.parsed(node.operand))
            case ast.IfExp():                             return choice(*map(self.parsed, (node.test, node.body, node.orelse)))
            case ast.Call(func=ast.Name(id='where')):     return choice(*map(self.parsed, node.args))
            case ast.Call(func=ast.Name(id='float')):     return num(node.args[0].value)                               # float('inf')
            case ast.Call(func=ast.Name(id=name)) if name in scalar_functions: return scalar_functions[name](*map(self.parsed, node.args))
            case ast.BinOp() if type(node.op) in scalar_operators:
                return scalar_operators[type(node.op)](self.parsed(node.left), self.parsed(node.right))
            case ast.Compare():
                return compare(scalar_signs[type(node.ops[0])], self.parsed(node.left), self.parsed(node.comparators[0]))
        raise NotRecorded(f"computes {ast.unparse(node)}, for which there is no formula")

def is_draw(node): return isinstance(node, Value) and node.draw is not None

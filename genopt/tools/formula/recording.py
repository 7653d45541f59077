"""The recording of one callback, and the expressions of what it returns."""

import ast,re,sys
from contextlib import contextmanager
from dataclasses import dataclass
import torch
from torch import Tensor
from ...contract.chain import Namespace
from ...contract.names import inside
from ...lower.reasons import NotRecorded
from ...lower.recorder import Recorder
from ...lower.scalars import ScalarRecorder
from ...lower.traced import TracedScalar
from ...lower.values import SCALAR,SINGLE,Value
from .expressions import Expression,cases,compare,leaves,neg,num
from .operations import choice,ignored,outcome,scalar_operators,scalar_signs,table

__all__ = ['Entry', 'Recorded']

n_elements = 37                                            # of the row that stands for a parameter; no other size is likely in a callback


@dataclass
class Entry:
    """What a name of the namespace stands for. `kind`: 'elements' or 'single' for a tensor that can be recorded, 'shaped' for another, 'number' or
    'flag'. `open`: where the callback chooses by the number, both cases are recorded. `init`: the initializer of a tensor that is 'shaped'"""
    expr: Expression
    kind: str
    value: object = None
    open: bool = True
    init: object = None


class Recorded:
    """The recording of the callback `b`, which reads `entries`, as a graph. A node of it is a `Value`, or the name of a traced scalar, which is a
    line of the scalar program. `outs`: what `b` has returned, by name. `locals`: node -> the variable of the callback that has held it. `taken`:
    conditions that the recording takes for granted. Raises `NotRecorded`"""
    def __init__(self, b, entries):
        self.b,self.entries = b,entries
        self.locals,self.exprs = {},{}
        self.scalars  = ScalarRecorder(torch.float64, torch.device('cpu'))
        self.recorder = self.new_recorder()
        ns = Namespace({n: self.stand_in(n, e) for n,e in entries.items()})
        with self.recorder.recording(b), self.watched(): outs = b(ns)
        self.outs   = outs
        self.lines  = dict(line.split(' = ', 1) for line in self.scalars.lines if re.match(r'x\d+ = ', line))
        self.inputs = {v for v in self.recorder.values if v.is_input} | {x for x,text in self.lines.items() if text.startswith('ns[')}
        self.check()
        self.taken = self.conditions()

    def new_recorder(self): return Recorder(self.scalars, (n_elements,), 2, lambda value: True)

    def stand_in(self, n, e):
        "What the callback gets for the name `n`. A number that is open comes as if it were on a device, where nobody may look at it"
        if e.kind=='flag':   return e.value
        if e.kind=='shaped': raise NotRecorded(f"reads {n!r}, which is not of the parameter's shape")
        if e.kind=='number': return self.scalars.read(n, torch.tensor(float(e.value), dtype=torch.float64) if e.open else float(e.value))
        x = torch.rand(n_elements if e.kind=='elements' else (), generator=torch.Generator().manual_seed(len(n)), dtype=torch.float64) + .5
        self.recorder.input(n, x, 0)
        return x

    @contextmanager
    def watched(self):
        "Within, the variables that the callback sets are noted. They name what is used more than once"
        code = getattr(inside(self.b.cb), '__code__', None)
        def look(frame, event, arg):
            for n,v in frame.f_locals.items():
                node = self.node(v)
                if node is not None: self.locals.setdefault(node, n)
            return look
        before = sys.gettrace()
        sys.settrace(lambda frame, event, arg: look if frame.f_code is code else None)
        try: yield
        finally: sys.settrace(before)

    def check(self):
        "Refuse what has no formula"
        for n,v in self.outs.items():
            if isinstance(v, Tensor) and v.ndim and v.shape!=(n_elements,): raise NotRecorded(f"makes {n!r}, which is not of the parameter's shape")
            if not isinstance(v, (str,bool)): self.expr(v)

    # -- the graph --

    def node(self, v):
        "The node of a tensor, a value or a traced scalar; None for anything else"
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

    def used_twice(self, roots=None, known=()):
        """The nodes that several others, or several of `roots`, are made of; each after those that it is made of. `roots` are the results by default.
        What `known` nodes are made of does not count"""
        uses,order = {},[]
        known = {*self.inputs, *known}
        def visit(node):
            uses[node] = uses.get(node, 0)+1
            if uses[node]>1 or node in known: return
            for o in self.operands(node): visit(o)
            order.append(node)
        for v in self.outs.values() if roots is None else roots:
            if (node := self.node(v)) is not None: visit(node)
        return [n for n in order if uses[n]>1 and n not in known]

    def kind(self, v):
        "The kind of a result, as in `Entry`"
        node = self.node(v)
        if not isinstance(node, Value): return 'flag' if isinstance(v, (bool,str)) else 'number'
        return 'number' if node.kind==SCALAR else 'single' if node.kind==SINGLE else 'elements'

    def conditions(self):
        "Outcomes of an `if` on a number, but for numbers that are always the same"
        found = [re.fullmatch(r'bool\((x\d+)\) is (True|False)', c) for c in sorted(self.scalars.guarded)]
        taken = [outcome(self.expr(m[1]), m[2]=='True') for m in found if m]
        return [c for c in taken if any(leaf.op=='symbol' for leaf in leaves(c))]

    # -- expressions --

    def name(self, node, symbol):
        "From now on `symbol` stands for the node"
        self.exprs[node] = symbol

    def forget_expressions(self): self.exprs.clear()

    def expr(self, v):
        "The expression of a result, a node or a number"
        if isinstance(v, (bool,int,float)): return num(v)
        node = v if isinstance(v, str) else self.node(v)
        if node is None: raise NotRecorded(f"computes with {v!r}")
        if node not in self.exprs: self.exprs[node] = self.of_line(node) if isinstance(node, str) else self.of_value(node)
        return self.exprs[node]

    def of_value(self, v):
        if v.is_input: return num(v.example) if v.kind==SCALAR else self.entries[v.name].expr
        if v.packet not in table: raise NotRecorded(f"calls {v.packet.__name__}, for which there is no formula")
        args   = [None if a is None or isinstance(a, (list,tuple)) else self.expr(a) for a in v.args]
        kwargs = {k: self.expr(a) for k,a in v.kwargs.items() if k not in ignored}
        while args and args[-1] is None: args.pop()
        try: e = table[v.packet](*args, **kwargs)
        except TypeError as err: raise NotRecorded(f"calls {v.packet.__name__} in a way for which there is no formula") from err
        return Expression(e.op, e.args, False) if v.kind==SINGLE else e

    def of_line(self, name): return self.parsed(ast.parse(self.lines[name], mode='eval').body)

    def parsed(self, node):
        "The expression of a line of the scalar program, as Python has parsed it"
        match node:
            case ast.Constant():                          return num(node.value)
            case ast.Name():                              return self.expr(node.id)
            case ast.Subscript():                         return self.entries[node.slice.value].expr                   # ns['mom']
            case ast.UnaryOp(op=ast.USub()):              return neg(self.parsed(node.operand))
            case ast.IfExp():                             return cases(*map(self.parsed, (node.test, node.body, node.orelse)))
            case ast.Call(func=ast.Name(id='where')):     return choice(*map(self.parsed, node.args))
            case ast.Call(func=ast.Name(id='float')):     return num(node.args[0].value)                               # float('inf')
            case ast.BinOp() if type(node.op) in scalar_operators:
                return scalar_operators[type(node.op)](self.parsed(node.left), self.parsed(node.right))
            case ast.Compare():
                return compare(scalar_signs[type(node.ops[0])], self.parsed(node.left), self.parsed(node.comparators[0]))
        raise NotRecorded(f"computes {ast.unparse(node)}, for which there is no formula")

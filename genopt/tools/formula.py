r"""The formulas of a chain as TeX, made from the recording of its callbacks. A rule of your own gets its formula in the same way as Adam:

    for line in formula(opt): print(line.block, line.tex)

    average_grad        m_t = \beta_1 \, m_{t-1} + \left(1 - \beta_1\right) \, g_t
    ...
    the move            p_t = p_{t-1} - \eta \, u_t

Each callback is recorded by itself, on stand-ins, so that its lines stay short. A callback that cannot be recorded, because it needs a shape or asks
the model, becomes a function of what it reads, and `why` says the reason: show its source code beside it."""

import ast,re,sys,warnings
from contextlib import contextmanager
from dataclasses import dataclass,field
import torch
from torch import Tensor
from ..contract.block import Block,of_model
from ..contract.chain import Namespace,chain_of,learned_of
from ..contract.names import inside
from ..contract.stand_ins import set_apart
from ..contract.state import count,first
from ..lower.reasons import MustBeCalled,NotRecorded
from ..lower.recorder import Recorder
from ..lower.scalars import ScalarRecorder
from ..lower.traced import TracedScalar
from ..lower.values import SCALAR,SINGLE,Value,aten
from .expressions import (Expression,add,call,cases,compare,div,leaves,mul,neg,norm,num,pow_,root,size,sub,symbol,tex)

__all__ = ['Line', 'formula', 'formula_of_block', 'kinds_of', 'letters', 'name_in_tex']


# -- Symbols --

# Names of the namespace as the literature writes them. Any other name is written out
letters = dict(
    p='p', grad='g', update='u', lr=r'\eta', wd=r'\lambda', eps=r'\epsilon', eps2=r'\epsilon_2', step='t', mom=r'\beta_1', sqr_mom=r'\beta_2',
    mom3=r'\beta_3', beta3=r'\beta_3', grad_avg='m', sqr_avg='v', max_sqr_avg=r'v^{\max}', sqr_hat=r'\hat v', grad_var=r'\sigma^2', slow_avg=r'm^{\text{slow}}',
    change='d', change_avg=r'\bar d', sqr_sum='s', grad_sum='z', grad_max='w', p0='p_0', first_p='p_0', update_avg='b', alpha=r'\alpha', beta=r'\beta',
    gamma=r'\gamma', delta=r'\delta', nu=r'\nu', nu1=r'\nu_1', nu2=r'\nu_2', rho=r'\rho', d='D', d_hat=r'\hat D', d_max=r'D^{\max}', d0='D_0', rect='r',
    mu='\\mu', lambd=r'\lambda', eval_p=r'\bar p', prev_grad=r'g^{\text{prev}}', step_size='s', max_lr=r'\eta_{\max}', dampening=r'\tau', far='r',
    sqr_update_avg=r'\bar u', sqr_norm_avg='v', momentum=r'\mu', eta=r'\hat\eta', rho_inf=r'\rho_\infty', mu_product=r'\bar\mu', mu_next=r"\mu^{\text{next}}", weight='w', low=r'\ell', high='h', row_avg='R', col_avg='C', turn=r'\theta',
    ahead=r'\tilde g', max_norm=r'c', debias1='c_1', debias2='c_2', debias3='c_3')

def name_in_tex(n):
    "The symbol of a name. One that has no letter is written out; `z` and `b1` are letters already"
    if n in letters: return letters[n]
    if m := re.fullmatch(r'([A-Za-z])(\d*)', n): return f'{m[1]}_{{{m[2]}}}' if m[2] else n
    return r'\text{' + n.replace('_', r'\_') + '}'

def primed(text, n): return f'{{{text}}}' + "'"*n if n and '^' in text else text + "'"*n


# -- One callback --

table = {
    aten.add: lambda x, y, alpha=None: add(x, y if alpha is None else mul(alpha, y)),
    aten.sub: lambda x, y, alpha=None: sub(x, y if alpha is None else mul(alpha, y)),
    aten.rsub: lambda x, y, alpha=None: sub(y, x if alpha is None else mul(alpha, x)),
    aten.mul: mul, aten.div: div, aten.neg: neg,
    aten.reciprocal: lambda x: div(num(1), x), aten.square: lambda x: mul(x, x), aten.pow: pow_,
    aten.addcmul: lambda x, a, b, value=None: add(x, mul(a, b) if value is None else mul(value, a, b)),
    aten.addcdiv: lambda x, a, b, value=None: add(x, div(a, b) if value is None else mul(value, div(a, b))),
    aten.lerp: lambda x, y, w: add(mul(sub(num(1), w), x), mul(w, y)),
    aten.sqrt: root, aten.rsqrt: lambda x: div(num(1), root(x)),
    aten.exp: lambda x: pow_(symbol('e'), x), aten.exp2: lambda x: pow_(num(2), x) if not is_log2(x) else pow_(x.args[0].args[1], div(num(1), x.args[1])), aten.atan2: lambda a, b: call(r'\operatorname{atan2}', a, b),
    aten.log: lambda x: call(r'\log', x), aten.log2: lambda x: call(r'\log_2', x), aten.log1p: lambda x: call(r'\log', add(num(1), x)),
    aten.abs: lambda x: call('|', x), aten.sign: lambda x: call(r'\operatorname{sign}', x), aten.sigmoid: lambda x: call(r'\sigma', x),
    aten.maximum: lambda a, b: call(r'\max', a, b), aten.minimum: lambda a, b: call(r'\min', a, b),
    aten.clamp: lambda x, low=None, high=None: clamp(x, low, high), aten.clamp_min: lambda x, low: clamp(x, low, None),
    aten.clamp_max: lambda x, high: clamp(x, None, high), aten.where: cases,
    aten.logical_and: lambda a, b: compare(r'\wedge', a, b), aten.bitwise_and: lambda a, b: compare(r'\wedge', a, b),
    aten.bitwise_or: lambda a, b: compare(r'\vee', a, b),
    aten.zeros_like: lambda x: num(0), aten.ones_like: lambda x: num(1), aten.full_like: lambda x, v: v,
    aten.clone: lambda x: x, aten._to_copy: lambda x: x, aten.copy: lambda x, y: y,
    aten.sum: lambda x: sum_of(x), aten.mean: lambda x: call(r'\operatorname{mean}', x, tensor=False),
    aten.amax: lambda x: call(r'\max', x, tensor=False), aten.amin: lambda x: call(r'\min', x, tensor=False),
    aten.max: lambda x: call(r'\max', x, tensor=False), aten.min: lambda x: call(r'\min', x, tensor=False),
    aten.linalg_vector_norm: lambda x, order=None: norm(x, 2 if order is None else getattr(order, 'args', [order])[0]),
    aten.gt: lambda a, b: compare('>', a, b), aten.ge: lambda a, b: compare(r'\geq', a, b), aten.lt: lambda a, b: compare('<', a, b),
    aten.le: lambda a, b: compare(r'\leq', a, b), aten.eq: lambda a, b: compare('=', a, b), aten.ne: lambda a, b: unequal(a, b),
}
table[aten.norm] = table[aten.linalg_vector_norm]
ignored = {'dtype', 'layout', 'device', 'pin_memory', 'memory_format', 'non_blocking', 'implicit'}

def is_log2(e):
    "Whether `e` is a logarithm over a number: 2 to its power is a root"
    return e.op=='div' and e.args[0].op=='call' and e.args[0].args[0]==r'\log_2' and e.args[1].op=='num'

def clamp(x, low, high):
    if low is None: return call(r'\min', x, high)
    return call(r'\max', x, low) if high is None else call(r'\operatorname{clip}', x, low, high)

def sum_of(x):
    "The sum of all elements: a squared norm, an inner product, or a sum"
    if x.op=='pow' and x.args[1]==num(2): return pow_(norm(x.args[0]), num(2))
    if x.op=='call' and x.args[0]=='|': return norm(x.args[1], 1)
    tensors = [a for a in x.args if a.tensor] if x.op=='mul' else []
    if len(tensors)==2: return mul(*(a for a in x.args if not a.tensor), call('<', *tensors, tensor=False))
    return call(r'\operatorname{sum}', x, tensor=False)

operators = {ast.Add: add, ast.Sub: sub, ast.Mult: mul, ast.Div: div, ast.Pow: pow_}
signs     = {ast.Lt: '<', ast.LtE: r'\leq', ast.Gt: '>', ast.GtE: r'\geq', ast.Eq: '=', ast.NotEq: r'\neq'}

class Recorded:
    """The recording of the callback `b` for the values in `entries`. `outs`: name -> a value of the recording, a traced scalar or a number. `locals`:
    value -> name, of the variables of the callback. Raises `NotRecorded`"""
    def __init__(self, b, entries):
        self.b,self.entries,self.locals = b,entries,{}
        self.scalars  = ScalarRecorder(torch.float64, torch.device('cpu'))
        self.recorder = Recorder(self.scalars, (37,), 2, lambda value: True)
        ns = Namespace({n: self.stand_in(n, e) for n,e in entries.items()})
        with self.recorder.recording(b), self.watched(): out = b(ns)
        self.lines = dict(line.split(' = ', 1) for line in self.scalars.lines if ' = ' in line and not line.startswith('if '))
        self.exprs = {}
        self.outs  = {n: self.recorder.value(v) if isinstance(v, Tensor) else v for n,v in out.items()}
        self.locals = {node: n for node,n in self.locals.items() if node not in self.inputs()}
        bad = [v for v in self.outs.values() if isinstance(v, Value) and v.example.ndim and v.example.shape!=(37,)]
        if bad: raise NotRecorded("makes a tensor of another shape")
        self.values = [v for v in self.recorder.values if not v.is_input]

    def inputs(self):
        return {v for v in self.recorder.values if v.is_input} | {x for x,text in self.lines.items() if text.startswith('ns[')}

    def stand_in(self, n, e):
        "What the callback gets for the name `n`: a flag as it is, a traced scalar on a device, so that choices stay open, or a tensor"
        if e.kind=='flag': return e.value
        if e.kind=='number': return self.scalars.read(n, torch.tensor(float(e.value), dtype=torch.float64) if e.open else float(e.value))
        if e.kind=='shaped': raise NotRecorded(f"reads {n!r}, which is not of the parameter's shape")
        x = torch.rand(37 if e.kind=='elements' else (), generator=torch.Generator().manual_seed(len(n)), dtype=torch.float64) + .5
        self.recorder.input(n, x, 0)
        return x

    @contextmanager
    def watched(self):
        "Within, the variables that the callback sets are noted, to name what is used more than once"
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

    # -- the graph --

    def node(self, v):
        "What stands for `v` in the graph: a value of the recording, or the name of a traced scalar. None for anything else"
        if isinstance(v, TracedScalar): return v.name
        if isinstance(v, Tensor): v = self.recorder.value_of_id.get(id(v))
        if not isinstance(v, Value): return None
        return v.name if v.is_input and v.kind==SCALAR and not v.name.startswith('constant') else v

    def operands(self, node):
        if isinstance(node, Value): return [o for o in map(self.node, node.operands) if o is not None]
        return [x.id for x in ast.walk(ast.parse(self.lines[node])) if isinstance(x, ast.Name) and x.id in self.lines]

    def used_twice(self):
        "The nodes that several others or several results are made of, each after those that it is made of"
        uses,order = {},[]
        def visit(node):
            uses[node] = uses.get(node, 0)+1
            if uses[node]>1: return
            for o in self.operands(node): visit(o)
            order.append(node)
        for v in self.outs.values():
            if (node := self.node(v)) is not None: visit(node)
        return [n for n in order if uses[n]>1]

    def conditions(self):
        "What the recording takes for granted, as expressions: outcomes of an `if` on a number"
        found = [re.fullmatch(r'bool\((x\d+)\) is (True|False)', c) for c in sorted(self.scalars.guarded)]
        return [outcome(self.scalar(m[1]), m[2]=='True') for m in found if m]

    # -- expressions --

    def expr(self, v):
        "The expression of a value, a traced scalar or a number"
        if isinstance(v, (bool,int,float)): return num(v)
        node = v if isinstance(v, str) else self.node(v)
        if node is None: raise NotRecorded(f"computes with {v!r}")
        if node not in self.exprs: self.exprs[node] = self.scalar(node) if isinstance(node, str) else self.made(node)
        return self.exprs[node]

    def made(self, v):
        if v.is_input: return num(v.example) if v.kind==SCALAR else self.entries[v.name].expr
        if v.packet not in table: raise NotRecorded(f"calls {v.packet.__name__}, for which there is no formula")
        kwargs = {k: self.expr(a) for k,a in v.kwargs.items() if k not in ignored}
        args   = [self.expr(a) if not (a is None or isinstance(a, (list,tuple))) else None for a in v.args]
        while args and args[-1] is None: args.pop()
        if v.weight_below_half is not None: kwargs.pop('weight', None)
        try: e = table[v.packet](*args, **kwargs)
        except TypeError as err: raise NotRecorded(f"calls {v.packet.__name__} in a way for which there is no formula") from err
        return e if v.kind!=SINGLE or not e.tensor else Expression(e.op, e.args, False)

    def scalar(self, name):
        "The expression of a line of the scalar program"
        if name not in self.exprs: self.exprs[name] = self.parsed(ast.parse(self.lines[name], mode='eval').body)
        return self.exprs[name]

    def parsed(self, node):
        "A line of the scalar program, as Python has it"
        match node:
            case ast.Constant(): return num(node.value)
            case ast.Name(): return self.scalar(node.id)
            case ast.Subscript(): return self.entries[node.slice.value].expr                          # ns['mom']
            case ast.BinOp() if type(node.op) in operators: return operators[type(node.op)](self.parsed(node.left), self.parsed(node.right))
            case ast.UnaryOp(op=ast.USub()): return neg(self.parsed(node.operand))
            case ast.Compare(): return compare(signs[type(node.ops[0])], self.parsed(node.left), self.parsed(node.comparators[0]))
            case ast.IfExp(): return cases(*map(self.parsed, (node.test, node.body, node.orelse)))
            case ast.Call(func=ast.Name(id='where')): return choice(*map(self.parsed, node.args))
            case ast.Call(func=ast.Name(id='float')): return num(node.args[0].value)                    # float('inf')
            case ast.Call(func=ast.Name(id='-')): return neg(self.parsed(node.args[0]))
        raise NotRecorded(f"computes {ast.unparse(node)}, for which there is no formula")

    def kind(self, v):
        if not isinstance(v, Value): return 'flag' if isinstance(v, (bool,str)) else 'number'
        return 'number' if v.kind==SCALAR else 'single' if v.kind==SINGLE else 'elements'

def outcome(c, holds):
    "That a condition holds, or does not; of a number, that it is not 0, or is"
    opposite = {'=': r'\neq', '>': r'\leq', '<': r'\geq', r'\leq': '>', r'\geq': '<', r'\neq': '='}
    if c.op!='compare': return compare(r'\neq' if holds else '=', c, num(0))
    return c if holds else compare(opposite[c.args[0]], *c.args[1:])

def unequal(a, b):
    "`a != b`; a condition that torch compares with 0 is the condition"
    return a if a.op=='compare' and b==num(0) else compare(r'\neq', a, b)

def choice(c, a, b):
    "A choice between numbers; the larger or the smaller of two is written as such"
    if c.op=='compare' and {*c.args[1:]}=={a, b} and c.args[0] in '<>':
        return call(r'\max' if (c.args[0]=='>')==(c.args[1]==a) else r'\min', a, b)
    return cases(c, a, b)


# -- A chain --

@dataclass
class Entry:
    "What a name stands for. `kind`: elements, single, shaped, number or flag. `open`: a choice by the number is written with both cases"
    expr: Expression
    kind: str
    value: object = None
    open: bool = True

@dataclass
class Line:
    """The formulas of one callback. `block` is None for the move. `tex`: an equation each. `symbols`: name -> TeX, of what stands in them. `why`: the
    reason for which the callback is not written out; None if it is"""
    block: object
    tex: list
    symbols: dict = field(default_factory=dict)
    why: str = None
    when: list = field(default_factory=list)

    @property
    def name(self): return 'the move' if self.block is None else self.block.name

class Writer:
    """Folds the callbacks of `chain` and writes a `Line` for each. `hypers`: values by name. `whole`: the callbacks are an algorithm, so states have
    an index of time, short scalars are put in where they are used, and the move is made"""
    def __init__(self, chain, hypers, whole=True):
        self.chain,self.whole = chain,whole
        self.learned = learned_of(chain)
        self.read    = {n for b in chain.blocks for n in b.names}
        self.written = {}                                                   # name -> how often it has been written
        self.uses    = {}                                                   # symbol -> name
        self.lines   = []
        self.needed  = set()                                                # symbols that callbacks read which are not written out
        self.moved   = False
        self.entries = {n: self.number(n, v) for n,v in hypers.items()}
        for n in ('p', 'grad'): self.entries[n] = Entry(self.sign(n, True), 'elements')
        for n,init in chain.state.items(): self.entries[n] = self.state(n, init)

    # -- symbols --

    def writers(self, n): return [b for b in self.chain.blocks if n in self.learned.returns.get(b, ())]

    def sign(self, n, tensor):
        "The symbol of the name `n` as it stands now"
        k,base,place = self.written.get(n, 0),name_in_tex('p' if n=='new_p' else n),'p' if n in ('p', 'new_p') else n
        if n=='new_p' and not self.whole and 'new_p' in self.read: base = r'p^{\text{new}}'
        counts = self.chain.state.get(n)==count
        if counts: text = base
        elif not self.whole: text = primed(base, k if n in self.read else k-1)
        elif place in self.chain.state and not self.writers(n): text = base
        elif place in self.chain.state: text = f'{base}_{{t-1}}' if not k else primed(f'{base}_t', len(self.writers(n))-k)
        elif place=='p': text = primed(f'{base}_{{t-1}}', self.written.get('p', 0)) if not self.moved else primed(f'{base}_t', self.last_moves())
        elif place=='grad': text = primed(f'{base}_t', k)
        elif n in ('update',): text = primed(f'{base}_t', k-1)
        else: text = primed(base, k if n in self.entries_at_start() else k-1)
        self.uses[text] = n
        return symbol(text, tensor)

    def entries_at_start(self): return self.chain.asks
    def last_moves(self): return len(self.writers('new_p')) - self.written.get('new_p', 0)

    def number(self, n, v):
        if isinstance(v, Tensor) and not v.ndim: v = v.item()
        if isinstance(v, (int,float)) and not isinstance(v, bool): return Entry(self.sign(n, False), 'number', v)
        return Entry(symbol(name_in_tex(n)), 'flag', v)

    def state(self, n, init):
        p = torch.ones(6, 4)
        s = first(init, p)
        if not isinstance(s, Tensor): return Entry(self.sign(n, False), 'number', 5. if init==count else s)
        kind = 'elements' if s.shape==p.shape else 'single' if not s.ndim else 'shaped'
        return Entry(self.sign(n, kind in ('elements', 'shaped')), kind)

    # -- the fold --

    def run(self):
        for b in self.chain.blocks:
            if self.whole and 'new_p' in b.names and not self.moved: self.move()
            self.write(b)
        if not self.moved and self.whole: self.move()
        self.leave_out_unused()
        return self.lines

    def entry(self, n):
        if n=='update' and n not in self.entries: return self.entries['grad'] if self.whole else Entry(self.first_sign(n), 'elements')
        if n=='new_p' and n not in self.entries: return Entry(self.sign(n, True), 'elements')
        if n not in self.entries: self.entries[n] = Entry(self.first_sign(n), 'elements')
        return self.entries[n]

    def first_sign(self, n):
        text = name_in_tex(n)
        self.uses[text] = n
        return symbol(text, True)

    def move(self):
        self.moved = True
        p,lr,u = (self.entry(n) for n in ('p', 'lr', 'update'))
        self.written['new_p'] = 0 if not self.writers('new_p') else self.written.get('new_p', 0)
        new = Entry(self.sign('new_p', True), 'elements')
        self.lines.append(self.line(None, [(new.expr, sub(p.expr, mul(lr.expr, u.expr)))]))
        self.entries['new_p'] = new

    def write(self, b):
        if b.is_global or {*b.names}&of_model or 'rows' in b.names: return self.apply(b, self.reason(b))
        try: rec = self.recorded(b)
        except (NotRecorded, MustBeCalled, TypeError, ValueError, RuntimeError, IndexError, KeyError, ArithmeticError) as e:
            return self.apply(b, f'{b} {e}' if isinstance(e, NotRecorded) else f'{b} needs the shape of the parameter')
        if not rec.outs: return self.apply(b, f'{b} only looks')
        flags = [e.expr for n,e in rec.entries.items() if e.kind=='flag' and e.value is True and n not in self.chain.asks]
        self.lines.append(self.line(b, self.equations(b, rec)))
        self.lines[-1].when = [*map(tex, rec.taken+flags)]

    def recorded(self, b):
        "The recording with choices open; with choices made by the values, where the callback needs them"
        entries = {n: self.entry(n) for n in b.names}
        with set_apart(torch.device('cpu')), warnings.catch_warnings():
            warnings.simplefilter('ignore')
            try: rec = self.expressed(b, entries)
            except (NotRecorded, MustBeCalled):
                rec = self.expressed(b, {n: Entry(e.expr, e.kind, e.value, False) for n,e in entries.items()})
        return rec

    def expressed(self, b, entries):
        rec = Recorded(b, entries)
        for v in rec.outs.values():
            if not isinstance(v, (str, bool)): rec.expr(v)
        rec.taken = rec.conditions()
        return rec

    def reason(self, b):
        asked = [n for n in b.reads if n in of_model]
        if asked: return f"{b} asks the model for {asked[0]!r}"
        return f"{b} asks for the rows of a sparse gradient" if 'rows' in b.names else f"{b} runs over all parameters"

    def equations(self, b, rec):
        """The equations of a callback that has been recorded: its variables that are used more than once and are long enough to deserve a name, and
        what it returns, in the order in which they need each other"""
        outs  = {n: v for n,v in rec.outs.items() if not isinstance(v, (bool,str))}
        nodes = {n: rec.node(v) for n,v in outs.items()}
        inputs,after,eqs = rec.inputs(),{},[]
        rec.exprs.clear()
        def put(n):
            expr = rec.expr(outs[n])
            after[n] = self.returned(n, expr, rec.kind(outs[n]))
            eqs.append((self.shown[n], expr))
            if nodes[n] not in inputs and nodes[n] is not None and size(expr)>1: rec.exprs[nodes[n]] = after[n].expr
        self.shown = {}
        for node in rec.used_twice():
            n = next((n for n in outs if nodes[n]==node and n not in after), None)
            if node in inputs: continue
            if n: put(n); continue
            expr = rec.expr(node)
            if size(expr)<=(2 if expr.tensor else 3) or expr.op=='compare': continue
            rec.exprs[node] = self.variable(rec.locals.get(node), expr.tensor)
            eqs.append((rec.exprs[node], expr))
        for n in outs:
            if n not in after: put(n)
        self.entries |= after
        return eqs

    def returned(self, n, expr, kind):
        "The entry of the name `n`, which a callback has returned as `expr`. A short scalar is put in where it is used"
        self.written[n] = self.written.get(n, 0)+1
        if n=='new_p': self.moved = True
        self.shown[n] = self.sign(n, expr.tensor)
        short = self.whole and kind=='number' and size(expr)<=4 and expr.op!='cases' and n not in self.chain.state and n not in self.chain.asks
        value = self.entries[n].value if n in self.entries and self.entries[n].kind=='number' else .5
        return Entry(expr if short else self.shown[n], kind, value)

    def variable(self, n, tensor):
        "A new symbol for a variable of a callback"
        text = name_in_tex(n) if n else 'x'
        while text in self.uses: text += "'"
        self.uses[text] = None
        return symbol(text, tensor)

    def apply(self, b, why):
        "The callback as a function of the tensors that it reads"
        reads = [self.entry(n) for n in b.names if n not in of_model and n!='rows']
        args  = [e.expr for e in reads if e.kind not in ('number', 'flag')] or [e.expr for e in reads]
        outs  = [*self.learned.returns.get(b, ())]
        results = next((r for (o,_),r in self.learned.results.items() if o==b), {})
        signs = []
        for n in outs:
            self.written[n] = self.written.get(n, 0)+1
            if n=='new_p': self.moved = True
            v = results.get(n)
            kind = 'flag' if isinstance(v, bool) else 'number' if isinstance(v, (int,float)) else 'single' if isinstance(v, Tensor) and not v.ndim else 'elements'
            if isinstance(v, Tensor) and n in self.entries and self.entries[n].kind=='shaped': kind = 'shaped'
            elif isinstance(v, Tensor) and v.ndim and n not in ('grad', 'update', 'p', 'new_p') and n not in self.entries: kind = self.kind_of(results, n)
            s = self.sign(n, kind in ('elements', 'shaped'))
            signs.append(s)
            self.entries[n] = Entry(s, kind, True if kind=='flag' else v if kind=='number' else None)
        name = r'\operatorname{' + b.name.replace('_', r'\_') + '}'
        left = ', '.join(s.args[0] for s in signs)
        text = [f"{left} = {tex(call(name, *args))}"] if signs else []      # by itself it is not known what it returns
        self.lines.append(Line(b, text, self.legend([*signs, *args]), why))
        self.needed |= {leaf for e in args for leaf in leaves(e)}

    def kind_of(self, results, n):
        like = next((v.shape for m,v in results.items() if m in ('grad', 'update', 'p') and isinstance(v, Tensor)), None)
        return 'elements' if like is None or results[n].shape==like else 'shaped'

    # -- lines --

    def line(self, b, equations):
        line = Line(b, [*map(equation, equations)], self.legend([e for pair in equations for e in pair]))
        line.equations = equations
        return line

    def legend(self, exprs):
        texts = dict.fromkeys(leaf.args[0] for e in exprs for leaf in leaves(e) if leaf.op=='symbol')
        return {self.uses[t]: name_in_tex(self.uses[t]) for t in texts if self.uses.get(t) and self.uses[t]!='new_p'}

    def leave_out_unused(self):
        "Short scalars stand where they are used, so their own equations go"
        if not self.whole: return
        used = self.needed | {leaf for line in self.lines for _,right in getattr(line, 'equations', ()) for leaf in leaves(right)}
        state = {n for n in self.chain.state}
        for line in self.lines:
            eqs = getattr(line, 'equations', None)
            if not eqs or line.block is None: continue
            kept = [(left,right) for left,right in eqs
                    if left.tensor or right.tensor or left in used or self.uses.get(left.args[0]) in state or self.uses.get(left.args[0]) in self.chain.asks]
            if len(kept)<len(eqs):
                line.tex = [*map(equation, kept)]
                line.symbols = self.legend([e for pair in kept for e in pair])


def equation(pair):
    left,right = pair
    sign = r'\leftarrow' if left in leaves(right) else '='
    return f'{tex(left)} {sign} {tex(right)}'


# -- What users call --

def formula(opt, group: int=0) -> list:
    "The `Line`s of the chain that the optimizer `opt` runs for a param group, in order"
    return writer_of(opt, group).run()

def writer_of(opt, group):
    g = opt.param_groups[group]
    recipe = opt._recipe(g)
    chain  = recipe.chain(g)
    return Writer(chain, recipe.hypers(g, chain))

def formula_of_block(cb, kinds: dict|None=None) -> Line:
    """The `Line` of one callback by itself, without indices of time: `x'` is the new value of `x`. `kinds` says of names that it reads and does not
    declare what they are, 'number' or 'flag'; `kinds_of` finds that in an optimizer. Any other is a tensor."""
    chain = chain_of((cb,))
    b     = Block(cb)
    known = dict(lr='number', step='number') | (kinds or {})
    given = {n: True if known[n]=='flag' else .5 for n in b.names if n in known and n not in b.state}
    return Writer(chain, given | b.hypers, whole=False).run()[0]

def kinds_of(opt, group: int=0) -> dict:
    "The names of the chain of a param group that stand for numbers or flags: name -> 'number' or 'flag'"
    writer = writer_of(opt, group)
    writer.run()
    return {n: e.kind for n,e in writer.entries.items() if e.kind in ('number', 'flag')}

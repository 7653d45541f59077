"""The equations of a chain: its callbacks one after the other, with the symbols as they change from one to the next."""

import torch
from torch import Tensor
from ...contract.block import Block,of_model
from ...contract.chain import Chain,learned_of
from ...contract.state import count,first
from ...optim.hypers import aliases,names_in
from .attempts import record
from .expressions import call,leaves,loss,mul,num,size,sub,symbol
from .letters import name_in_tex
from .lines import Line
from .recording import Entry
from .symbols import Symbols

__all__ = ['Line', 'formula', 'formula_of_block', 'kinds_of']


class Writer:
    "Folds the callbacks of `chain` and writes a `Line` for each. `hypers`: values by name. `whole`: as for `Symbols`"
    def __init__(self, chain, hypers, whole=True):
        self.chain,self.whole = chain,whole
        self.learned = learned_of(chain)
        self.symbols = Symbols(chain, self.learned.returns, whole)
        self.lines   = []
        self.entries = {n: self.hyper(n, v) for n,v in hypers.items()}
        self.entries|= {n: Entry(self.symbols.now(n, True), 'elements') for n in ('p', 'grad')}
        self.entries|= {n: self.state(n, init) for n,init in chain.state.items()}
        start = self.entries['p'].expr                                      # where the model has computed loss and gradients
        self.entries|= dict(loss=Entry(loss(start), 'single'), evaluate=Entry(start, 'model'), hvp=Entry(start, 'model'))

    # -- what names stand for --

    def hyper(self, n, v):
        if isinstance(v, Tensor) and not v.ndim: v = v.item()
        if isinstance(v, (int,float)) and not isinstance(v, bool): return Entry(self.symbols.now(n, False), 'number', v)
        return Entry(symbol(name_in_tex(n)), 'flag', v)

    def state(self, n, init):
        p = torch.ones(6, 4)
        s = first(init, p)
        if not isinstance(s, Tensor): return Entry(self.symbols.now(n, False), 'number', 5. if init==count else s)      # a step in mid-training
        kind = 'elements' if s.shape==p.shape else 'single' if not s.ndim else 'shaped'
        return Entry(self.symbols.now(n, kind!='single'), kind, init=init)

    def fix(self, names):
        "Write the hyper-parameters `names`, which an algorithm sets beside its signature, as the numbers that they are"
        for n in names:
            e = self.entries[n]
            if e.kind=='number': self.entries[n] = Entry(num(e.value), 'number', e.value, False)

    def entry(self, n):
        "What the name `n` stands for now; a name that nothing before provides is a tensor"
        if n=='update' and n not in self.entries and self.whole: return self.entries['grad']
        if n not in self.entries: self.entries[n] = Entry(self.new(n), 'elements')
        return self.entries[n]

    def new(self, n, tensor=True):
        if n=='new_p': return self.symbols.now(n, True)
        self.symbols.names[name_in_tex(n)] = n
        return symbol(name_in_tex(n), tensor)

    # -- the fold --

    def run(self):
        for b in self.chain.blocks:
            if self.whole and 'new_p' in b.names and not self.symbols.moved: self.move()
            self.write(b)
        if self.whole and not self.symbols.moved: self.move()
        return self.lines

    def add(self, b, equations, why=None, when=(), **kind):
        self.lines.append(Line(b, equations, self.symbols.names, why, [*when], **kind))

    def move(self):
        self.symbols.move()
        p,lr,u = (self.entry(n).expr for n in ('p', 'lr', 'update'))
        new = Entry(self.symbols.now('new_p', True), 'elements')
        self.add(None, [((new.expr,), sub(p, mul(lr, u)))])
        self.entries['new_p'] = new

    def write(self, b):
        "Write the line of a callback: written out if it can be recorded"
        if 'rows' in b.names and not self.returned_by(b): return self.add(b, [], rows=True)
        rec,why = record(b, {n: self.entry(n) for n in b.names}, self.is_setting)
        if why: return self.add(b, self.as_function(b), why)
        flags = [e.expr for n,e in rec.entries.items() if e.kind=='flag' and e.value is True and n not in self.chain.asks]
        self.add(b, self.equations(rec), when=rec.taken+rec.settings+rec.of_rank+flags, matrix=rec.matrix)

    def returned_by(self, b):
        "The names that a callback which reads the rows of a sparse gradient returns; of one by itself, 'something' unless it needs nothing else"
        if b in self.learned.returns: return {*self.learned.returns[b]}
        return {*b(dict(rows=torch.zeros(1, 2, dtype=torch.int64)))} if b.names==['rows'] else {'something'}

    def is_setting(self, condition):
        "Whether a condition is on hyper-parameters alone. Of a callback by itself it is not known who provides what it does not declare"
        names    = {self.symbols.names.get(leaf.args[0]) for leaf in leaves(condition) if leaf.op=='symbol'}
        declared = {n for b in self.chain.blocks for n in b.hypers}
        return names <= (self.chain.asks if self.whole else declared)

    # -- a callback that is written out --

    def equations(self, rec):
        "The equations of a recording"
        outs = {n: v for n,v in rec.outs.items() if not isinstance(v, (bool,str))}
        if rec.choices: return [self.choice(n, rec.choices[n], rec.kind(v)) for n,v in outs.items()]
        return Equations(self, rec, outs).run()

    def symbols_in_use(self): return {leaf.args[0] for e in self.entries.values() for leaf in leaves(e.expr) if leaf.op=='symbol'}

    def choice(self, n, expr, kind):
        sign,self.entries[n] = self.returned(n, expr, kind)
        return (sign,),expr

    def returned(self, n, expr, kind):
        "The symbol of the name `n`, which a callback has returned as `expr`, and its entry from now on"
        self.symbols.wrote(n)
        sign  = self.symbols.now(n, expr.tensor)
        short = self.whole and kind=='number' and size(expr)<=4 and expr.op!='cases' and n not in self.chain.state and n not in self.chain.asks
        value = self.entries[n].value if n in self.entries and self.entries[n].kind=='number' else .5
        return sign,Entry(expr if short else sign, kind, value, init=self.chain.state.get(n))

    # -- one that is not --

    def as_function(self, b):
        "The callback as a function of the tensors that it reads. By itself, it is not known what it returns"
        reads   = [self.entry(n) for n in b.names if n not in of_model and n!='rows']
        args    = [e.expr for e in reads if e.kind not in ('number', 'flag')] or [e.expr for e in reads]
        results = next((r for (o,_),r in self.learned.results.items() if o==b), {})
        signs   = [self.given(n, results) for n in self.learned.returns.get(b, ())]
        return [(tuple(signs), call(r'\operatorname{' + b.name.replace('_', r'\_') + '}', *args))] if signs else []

    def given(self, n, results):
        "The symbol of the name `n`, which a callback has given. `results`: what it returned in a rehearsal"
        self.symbols.wrote(n)
        kind  = self.kind_of(n, results)
        sign  = self.symbols.now(n, kind in ('elements', 'shaped'))
        value = True if kind=='flag' else results[n] if kind=='number' else None
        self.entries[n] = Entry(sign, kind, value, init=self.chain.state.get(n))
        return sign

    def kind_of(self, n, results):
        v = results.get(n)
        if isinstance(v, bool): return 'flag'
        if isinstance(v, (int,float)): return 'number'
        if isinstance(v, Tensor) and not v.ndim: return 'single'
        if n in self.entries: return self.entries[n].kind
        like = next((v.shape for m,v in results.items() if m in ('grad', 'update', 'p') and isinstance(v, Tensor)), None)
        return 'elements' if like is None or v is None or v.shape==like else 'shaped'


class Equations:
    """The equations of a recording: its variables that are used more than once and are long enough to deserve a name, and its results `outs`, in the
    order in which they need each other"""
    def __init__(self, writer, rec, outs):
        self.writer,self.rec,self.outs = writer,rec,outs
        self.nodes  = {n: rec.node(v) for n,v in outs.items()}
        self.in_use = writer.symbols_in_use()
        self.after,self.found = {},[]                                      # entries of the results; equations
        rec.forget_expressions()

    def run(self):
        for node in self.rec.worth_a_name():
            if n := self.result_of(node): self.add_result(n)
            else: self.add_variable(node)
        for n in sorted(self.outs, key=self.is_counter):                   # a counter last: it has one symbol before and after
            if n not in self.after: self.add_result(n)
        self.writer.entries |= self.after
        return self.found

    def is_counter(self, n): return self.writer.chain.state.get(n)==count

    def result_of(self, node): return next((n for n,of in self.nodes.items() if of==node and n not in self.after and not self.is_counter(n)), None)

    def add_result(self, n):
        expr = self.rec.result(n)
        sign,self.after[n] = self.writer.returned(n, expr, self.rec.kind(self.outs[n]))
        if sign is not self.after[n].expr: return                           # a short scalar stands where it is used
        self.found.append(((sign,), expr))
        if self.nodes[n] is not None and self.nodes[n] not in self.rec.inputs: self.rec.name(self.nodes[n], sign)

    def add_variable(self, node):
        expr   = self.rec.expr(node)
        enough = 0 if expr.op=='draw' else 7 if expr.op=='compare' else 3 if expr.tensor else 4
        if size(expr)<enough: return
        name     = self.rec.locals.get(node) or ('noise' if expr.op=='draw' else 'x')
        variable = self.writer.symbols.variable(name, expr.tensor, self.in_use)
        self.in_use.add(variable.args[0])
        self.found.append(((variable,), expr))
        self.rec.name(node, variable)


# -- What users call --

def formula(opt, group: int=0) -> list:
    "The `Line`s of the chain that the optimizer `opt` runs for a param group, in order"
    return writer_of(opt, group).run()

def writer_of(opt, group):
    g = opt.param_groups[group]
    recipe = opt._recipe(g)
    chain  = recipe.chain(g)
    hypers = recipe.hypers(g, chain)
    writer = Writer(chain, hypers)
    if recipe.arguments:
        of_signature = {n for k,v in recipe.arguments.items() for n in (k, *(names_in(k, v) if k in aliases else ()))}
        writer.fix(hypers.keys()-of_signature)
    return writer

def formula_of_block(cb, kinds: dict|None=None) -> Line:
    """The `Line` of one callback by itself, without indices of time: `x'` is the new value of `x`. `kinds` says what those names are that it reads
    and does not declare, as `kinds_of` finds it in optimizers; a name that it leaves out is a tensor like the parameter."""
    line = line_of_block(cb, kinds)
    numbers = {n: 'number' if kind=='single' else kind for n,kind in (kinds or {}).items()}
    return line_of_block(cb, Kinds(numbers, getattr(kinds, 'inits', {}))) if line.why else line

def line_of_block(cb, kinds):
    known = dict(lr='number', step='number') | (kinds or {})
    b     = Block(cb, known)
    known = {n: known[n] for n in b.names if n in known and n not in b.state and n not in b.hypers}
    plain = {n: True if kind=='flag' else .5 for n,kind in known.items() if kind in ('flag', 'number')}
    writer = Writer(Chain((cb,), known=known), plain | b.hypers, whole=False)
    inits  = getattr(kinds, 'inits', {})
    for n,kind in known.items():
        if n not in plain and n not in writer.entries: writer.entries[n] = Entry(writer.new(n, kind!='single'), kind, init=inits.get((b.name, n)))
    return writer.run()[0]

order = 'flag', 'number', 'elements', 'single', 'shaped'

class Kinds(dict):
    "name -> kind, as in `Entry`. `inits`: block and name -> the initializer of a state that the block reads and another declares"
    def __init__(self, kinds=(), inits=()):
        super().__init__(kinds)
        self.inits = dict(inits)

def kinds_of(*opts) -> Kinds:
    "What the names of the chains of optimizers are. Of several kinds of one name it is the last in `order`"
    found = Kinds()
    for opt in opts:
        writer = writer_of(opt, 0)
        writer.run()
        for b in writer.chain.blocks: found.inits |= {(b.name, n): init for n,init in writer.chain.state.items() if n in b.names}
        for n,e in writer.entries.items():
            if e.kind in order: found[n] = max(found.get(n, e.kind), e.kind, key=order.index)
    return found

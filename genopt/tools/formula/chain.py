"""The equations of a chain: its callbacks one after the other, with the symbols as they change from one to the next."""

import itertools,warnings
from contextlib import contextmanager
from dataclasses import dataclass,field,replace
from functools import partial
import torch
from torch import Tensor
from ...contract.block import Block,of_model
from ...contract.chain import Chain,learned_of
from ...contract.stand_ins import set_apart
from ...contract.state import count,first
from ...lower.reasons import MustBeCalled,NotRecorded
from ...optim.hypers import aliases,names_in
from .expressions import call,cases,leaves,loops,loss,mul,num,operations_in,size,sub,symbol
from .letters import name_in_tex,primed
from .matrices import RecordedMatrix,lengths
from .operations import tall
from .over_all import RecordedOverAll
from .recording import Entry,Recorded
from .writing import number,tex

__all__ = ['Line', 'formula', 'formula_of_block', 'kinds_of']


@dataclass
class Line:
    """The equations of one callback; `block` is None for the move. An equation has the symbols on its left, and the expression on its right. `names`:
    the names that symbols stand for. `why`: the reason for which the callback is not written out, so that it stands as a function of what it reads;
    None if it is. `conditions`: under which the equations hold; `when` has them as TeX. `matrix`: whether the equations are of a matrix, so that
    products without a sign are products of matrices. `rows`: whether the callback restricts the step to the rows of a sparse gradient"""
    block: object
    equations: list
    names: dict
    why: str = None
    conditions: list = field(default_factory=list)
    matrix: bool = False
    rows: bool = False

    @property
    def when(self) -> list: return [*map(tex, self.conditions)]

    @property
    def name(self): return 'the move' if self.block is None else self.block.name

    @property
    def tex(self) -> list:
        "The equations"
        return [line for pair in self.equations for line in written(*pair)]

    @property
    def operations(self) -> set:
        "The kinds of expression that the equations have, as in `Expression`"
        return {op for left,right in self.equations for op in operations_in(right)}

    @property
    def symbols(self) -> dict:
        "name -> TeX, of what stands in the equations"
        found = [leaf.args[0] for left,right in self.equations for e in (*left, right) for leaf in leaves(e) if leaf.op=='symbol']
        return {self.names[t]: name_in_tex(self.names[t]) for t in found if self.names.get(t) and self.names[t]!='new_p'}

def written(left, right):
    "The lines of an equation: first those of the loops in it"
    for e in loops(right):
        start,count,body,series = e.args
        yield equation((symbol('X_0'),), start)
        for n,(sign,expr) in enumerate(body, 1): yield equation((sign,), expr) + (rf', \quad k = 0, \ldots, {count-1}' if n==len(body) else '')
        for letter,values in series: yield f"{letter} = {', '.join(map(number, values))}"
    yield equation(left, right)

def equation(left, right):
    sign = r'\sim' if right.op=='draw' else r'\leftarrow' if {*left}&{*leaves(right)} else '='
    return f"{', '.join(map(tex, left))} {sign} {tex(right, 1 if right.op=='compare' else 0)}"


reserved = {*lengths.values(), 'i', 'j', 'f'}                              # lengths, places of elements, the loss


class Symbols:
    """The symbols of names, as the fold of a chain goes on. `whole`: the chain is an algorithm, so that states have an index of time. `names` has the
    name of each symbol that was given.

        m_{t-1}, m_t      a state before and after it is written; one that is never written, and a counter, has no index
        p_{t-1}, p_t      the parameter before and after the move
        g_t, g_t', ...    the gradient, as callbacks change it; so with the update and with hyper-parameters
        x, x'             of a callback by itself: what it reads, and what it makes of that"""
    def __init__(self, chain, returns, whole):
        self.chain,self.whole = chain,whole
        self.read   = {n for b in chain.blocks for n in b.names}
        self.writes = {}                                                    # name -> how often callbacks write it, in all
        for b in chain.blocks:
            for n in returns.get(b, ()): self.writes[n] = self.writes.get(n, 0)+1
        self.done  = {}                                                     # and up to now
        self.names = {}

    @property
    def moved(self): return 'new_p' in self.done

    def wrote(self, n): self.done[n] = self.done.get(n, 0)+1
    def move(self): self.done.setdefault('new_p', 0)

    def now(self, n, tensor):
        "The symbol of the name `n` as it stands now"
        text = self.text(n)
        self.names[text] = n
        return symbol(text, tensor)

    def text(self, n):
        letter,k = name_in_tex('p' if n=='new_p' else n),self.done.get(n, 0)
        left = self.writes.get(n, 0)-k                                      # how often it is still written
        if self.chain.state.get(n)==count: return letter
        if not self.whole: return self.by_itself(n, letter, k)
        if n in self.chain.state: return letter if not self.writes.get(n) else primed(f'{letter}_t', left) if k else f'{letter}_{{t-1}}'
        if n=='new_p': return primed('p_t', left)
        if n=='p': return primed('p_{t-1}', k)
        if n=='grad': return primed('g_t', k)
        if n=='update': return primed('u_t', k-1)
        return primed(letter, k if n in self.chain.asks else k-1)

    def by_itself(self, n, letter, k):
        if n=='new_p' and n in self.read: letter = r'p^{\text{new}}'
        return primed(letter, k if n in self.read or n=='new_p' and 'p' in self.read else k-1)

    def variable(self, n, tensor, in_use):
        "A new symbol for a variable of a callback. `in_use`: symbols of variables that mean something still"
        letter = name_in_tex(n)
        others = (primed(letter, k) if '_' in letter or '^' in letter else f'{letter}_{{{k+1}}}' for k in itertools.count(1))
        taken  = {t for t,name in self.names.items() if name} | in_use | reserved
        text   = next(t for t in itertools.chain([letter], others) if t not in taken)
        self.names[text] = None
        return symbol(text, tensor)


longest_choice = 12                         # symbols and numbers of the other case of a formula. A longer one is not shown
failures = NotRecorded,MustBeCalled,TypeError,ValueError,RuntimeError,IndexError,AttributeError

@contextmanager
def quiet():
    "Within, callbacks can be tried"
    with set_apart(torch.device('cpu')), warnings.catch_warnings():
        warnings.simplefilter('ignore')
        yield


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
        if 'rows' in b.names and not self.learned.returns.get(b): return self.add(b, [], rows=True)
        rec,why = self.recorded(b)
        if why: return self.add(b, self.as_function(b), why)
        flags = [e.expr for n,e in rec.entries.items() if e.kind=='flag' and e.value is True and n not in self.chain.asks]
        self.add(b, self.equations(rec), when=rec.taken+rec.settings+rec.of_rank+flags, matrix=rec.matrix)

    def recorded(self, b):
        "The recording of a callback and None, or None and why there is none. Choices stay open if they can; else they are made by the values"
        if 'rows' in b.names: return None,f"{b} computes with the rows of a sparse gradient"
        entries = {n: self.entry(n) for n in b.names}
        closed  = {n: replace(e, open=False) for n,e in entries.items()}
        ways    = [partial(RecordedOverAll if b.is_global else Recorded, b, es) for es in (entries, closed)]
        why     = []
        for way in ways:
            try:
                with quiet(): rec = self.checked(way) if b.is_global else way()
            except failures as e: why.append(e)
            else: return (self.with_both_cases(rec, way),None) if rec.outs else (None,f'{b} only looks')
        return (None,self.reason(b, why[-1])) if b.is_global else self.recorded_on_a_matrix(b, closed)

    def reason(self, b, e): return f'{b} {e}' if isinstance(e, NotRecorded) else f'{b} cannot be recorded'

    def checked(self, way):
        "The recording over all parameters, if it is the same for another number of them"
        rec = way()
        if rec.results()!=way(n=3).results(): raise NotRecorded("counts the parameters")
        return rec

    def recorded_on_a_matrix(self, b, entries):
        "As `recorded`, of a callback that needs the shape of the parameter. It counts steps so that one that works every few steps does something"
        every = [n for e in entries.values() if type(e.value) is int and e.value>1 for n in (e.value, e.value+1)]
        why   = f'{b} cannot be recorded on a matrix'
        for start in (5, *every):
            way = partial(RecordedMatrix, b, entries, start=start)
            try:
                with quiet():
                    rec   = way()
                    other = way(shape=tall) if rec.by_lengths and not rec.loops else None
            except NotRecorded as e: return None,f'{b} {e}'
            except failures: return None,why
            if other: self.merge(rec, other)
            if other or any(rec.node(v) not in rec.inputs for v in rec.outs.values()): return self.with_both_cases(rec, way),None
        return None,why

    def merge(self, rec, other):
        "Make of two recordings, of a wide and of a tall matrix, one with a choice by the lengths, where these are all that they take for granted"
        if len(rec.taken)!=1 or len(other.taken)!=1: return
        choices = {n: cases(other.taken[0], other.expr(other.outs[n]), rec.expr(v)) for n,v in rec.outs.items()}
        if sum(map(size, choices.values()))<=longest_choice: rec.choices,rec.taken = choices,[]

    def with_both_cases(self, rec, way):
        """The recording, with the other case beside it where a single `if` decides, one of the two is short, and steps may differ: a choice by
        hyper-parameters alone stays as it is. `way(flip=name)` records the other case. The longer one is written out"""
        if len(rec.decisions)!=1 or not rec.taken or rec.by_lengths or self.is_setting(rec.taken[0]): return rec
        try:
            with quiet(): other = way(flip=next(iter(rec.decisions)))
        except failures: return rec
        if len(other.decisions)!=1 or other.outs.keys()!=rec.outs.keys(): return rec
        long,short = sorted((rec, other), key=lambda r: -sum(map(size, r.results().values())))
        mine    = long.results()
        results = {n: e for n,e in short.results().items() if e!=mine[n]}
        long.forget_expressions()
        if sum(map(size, results.values()))>longest_choice or not short.is_plain or not self.alike(long, short): return rec
        x = next(iter(long.decisions))
        long.taken,long.otherwise = [],(x,long.outcomes[x],results)
        return long

    def is_setting(self, condition):
        "Whether a condition is on hyper-parameters alone. Of a callback by itself it is not known who provides what it does not declare"
        names    = {self.symbols.names.get(leaf.args[0]) for leaf in leaves(condition) if leaf.op=='symbol'}
        declared = {n for b in self.chain.blocks for n in b.hypers}
        return names <= (self.chain.asks if self.whole else declared)

    def alike(self, a, b):
        "Whether the results of two recordings are of the same kinds, and equal where they are flags"
        return all(a.kind(v)==b.kind(b.outs[n]) and (a.kind(v)!='flag' or v==b.outs[n]) for n,v in a.outs.items())

    # -- a callback that is written out --

    def equations(self, rec):
        """The equations of a recording: its variables that are used more than once and are long enough to deserve a name, and what it returns, in the
        order in which they need each other"""
        outs  = {n: v for n,v in rec.outs.items() if not isinstance(v, (bool,str))}
        if rec.choices: return [self.choice(n, rec.choices[n], rec.kind(v)) for n,v in outs.items()]
        nodes = {n: rec.node(v) for n,v in outs.items()}
        after,equations = {},[]
        in_use = {leaf.args[0] for e in self.entries.values() for leaf in leaves(e.expr) if leaf.op=='symbol'}
        rec.forget_expressions()
        def put(n):
            expr = rec.result(n)
            sign,after[n] = self.returned(n, expr, rec.kind(outs[n]))
            if sign is not after[n].expr: return                            # a short scalar stands where it is used
            equations.append(((sign,), expr))
            if nodes[n] is not None and nodes[n] not in rec.inputs: rec.name(nodes[n], sign)
        for node in rec.worth_a_name():
            n = next((n for n in outs if nodes[n]==node and n not in after and self.chain.state.get(n)!=count), None)
            if n: put(n); continue
            expr = rec.expr(node)
            if expr.op!='draw' and size(expr)<=(6 if expr.op=='compare' else 2 if expr.tensor else 3): continue
            variable = self.symbols.variable(rec.locals.get(node) or ('noise' if expr.op=='draw' else 'x'), expr.tensor, in_use)
            in_use.add(variable.args[0])
            equations.append(((variable,), expr))
            rec.name(node, variable)
        for n in sorted(outs, key=lambda n: self.chain.state.get(n)==count):   # a counter last: it has one symbol before and after
            if n not in after: put(n)
        self.entries |= after
        return equations

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

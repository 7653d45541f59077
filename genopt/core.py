"""The contract, in one sentence:

A callback is a plain function for one parameter: **its argument names say what it reads, its defaults say what it
declares, and what it returns says what it changes.**

    def average_grad(grad, mom=0.9, grad_avg=zeros):         # reads grad, declares the hyper mom and the state grad_avg
        return dict(grad_avg = grad_avg*mom + grad*(1-mom))  # changes grad_avg

An algorithm is a list of callbacks. A step folds that list over a `Namespace` that starts as the parameter `p`, its `grad`,
its state and its hypers: each callback is given the names it asks for, and what it returns is put back. Nothing is written
in place. At the end, or as soon as a callback asks for `new_p`, the parameter moves: `new_p = p - lr*update`.

A callback is a pure function. All ways but `foreach=False` run the operations that `lower` has recorded, and not its Python code. One that returns
`{}`, that holds a list or dict from outside, or that looks at what a tensor holds is called for each parameter at each step.

This file only says what a chain of callbacks *is*; `lower` and `run` run it, `check` refuses what cannot work, `optimizer` owns
parameters and state. Order here: initializers, ranges, a choice, one callback, the namespace, the chain."""

from torch import Tensor
import torch
from .naming import name_of,returned_names,same,signature

__all__ = ['Init', 'zeros', 'ones', 'full', 'single', 'scalar', 'count', 'copy_of_p', 'Range', 'nonneg', 'positive', 'fraction',
           'where', 'maximum', 'minimum', 'Block', 'Namespace', 'Chain']

def wide(dtype):
    "The dtype in which callbacks see what is stored in `dtype`: low precision as float32"
    return torch.float32 if dtype.is_floating_point and dtype.itemsize<4 else dtype


# -- What a default may be: an initializer (state), or a number, bool or string (a hyper-parameter) --

class Init:
    """First value of a state: `make(p, *args)`, called once for each parameter; a tensor, or a plain number, which stays on the host.
    `p` is seen as callbacks see it: complex as pairs of reals, low precision as float32."""
    def __init__(self, make, *args): self.make,self.args = make,args
    def __call__(self, p):
        res = self.make(p, *self.args)
        if isinstance(res, Tensor): return res.clone()           # a view of `p` would follow it, an expanded one cannot be written
        if isinstance(res, (bool,int,float)): return res
        raise TypeError(f"the initializer {self} made a {type(res).__name__}; a state is a tensor or a number")
    def __eq__(self, o): return isinstance(o, Init) and (self.make,self.args)==(o.make,o.args)
    def __hash__(self): return hash((self.make, self.args))
    def __repr__(self):
        name = name_of(self.make).removesuffix('_like').strip('_')
        return f'{name}({", ".join(map(str, self.args))})' if self.args else name

def _scalar(p, v): return v
def _single(p, v): return p.new_full((), v)
def _count(p): return 0
def _copy_of_p(p): return p

zeros,ones,copy_of_p,count = map(Init, (torch.zeros_like, torch.ones_like, _copy_of_p, _count))
def full(v):
    "A state that starts as a tensor like `p`, filled with `v`"
    return Init(torch.full_like, v)
def single(v):
    "A state that is one number for each parameter, a 0-dim tensor where the parameter is; starts at `v`. What a norm is averaged in"
    return Init(_single, v)
def scalar(v):
    "A state that is one Python number for each parameter, exact, kept on the host; starts at `v`"
    return Init(_scalar, v)


class Range:
    "Values a hyper-parameter may take, written as an interval: `mom:Range('[0,1)')=0.9`"
    def __init__(self, s):
        try: self.s,(self.lo,self.hi) = s,map(float, s[1:-1].split(','))
        except ValueError: raise ValueError(f"a Range is written as an interval, '[0,1)' or '(0,inf)'; got {s!r}") from None
        self.lo_closed,self.hi_closed = s[0]=='[',s[-1]==']'
    def __contains__(self, v):
        return (self.lo<=v if self.lo_closed else self.lo<v) and (v<=self.hi if self.hi_closed else v<self.hi)
    def __repr__(self): return self.s

nonneg,positive,fraction,finite = map(Range, ('[0,inf)', '(0,inf)', '[0,1)', '(-inf,inf)'))


# -- What a callback may do with a number that may be on the device --

def where(condition, a, b):
    """`a` if `condition`, else `b`: torch.where, also where the condition is on a number, such as a counter, which is on the host or, with
    `capturable=True`, on the device. Both are computed, so neither may raise; beside a tensor a number becomes one"""
    tensors = [x for x in (a, b) if isinstance(x, Tensor)]
    if isinstance(condition, (Tensor,torch.SymFloat)):
        if isinstance(condition, Tensor) and not tensors: a = condition.new_full((), a, dtype=torch.float64)    # as exact as a counter
        return torch.where(condition, a, b)
    res = a if condition else b
    return torch.zeros_like(tensors[0]) + res if tensors and not isinstance(res, Tensor) else res

def maximum(a, b):
    "The larger of two numbers, on the host or on the device, where Python's `max` would look at them"
    return where(a>b, a, b)
def minimum(a, b):
    "The smaller, likewise"
    return where(a<b, a, b)


# -- One callback --

plurals  = dict(params='p', grads='grad', updates='update', new_ps='new_p')      # what a global callback reads and returns: lists over all parameters
of_model = {'loss', 'evaluate', 'hvp'}                            # what a callback may ask of the model
given    = {'p', 'grad', 'rows', 'update', 'new_p', *plurals, *of_model}          # names that the engine provides

class Block:
    """One callback, read from its signature: what it `reads`, the `state` and `hypers` it declares, the `ranges` of those. A global one reads `lists`
    over all parameters: `grads`, and of any name that is `known` before it in the chain its plural"""
    def __init__(self, cb, known=()):
        self.cb,self.name = cb,name_of(cb)
        self.state,self.hypers,self.ranges = {},{},{}
        if not callable(cb) or isinstance(cb, (type,Init)):
            raise TypeError(f"a callback is a function of names like p, grad, update; {no_callback(cb)}")
        try: ps = signature(cb).parameters.values()
        except ValueError as e: raise TypeError(f"{self.name}: {e}; wrap it in a function whose arguments say what it reads") from None
        self.reads = [p.name for p in ps]
        self.lists = {n: plurals.get(n, n[:-1]) for n in self.reads if n in plurals or n[-1]=='s' and n[:-1] in known and n not in known}
        self.is_global = bool(self.lists)
        for p in ps: self._declare(p)
        if self.is_global and (bad := [n for n in self.reads if n in given-of_model and n not in plurals]):
            raise TypeError(f"{self.name} reads {bad[0]!r} beside lists over all parameters; such a callback reads "
                            f"{', '.join(plurals)}, lists of other names, and hyper-parameters")
        if not self.is_global and (bad := [n for n in self.reads if n in ('evaluate','hvp')]):
            raise TypeError(f"{self.name} reads {bad[0]!r}, which takes all parameters; ask for the lists params, grads")

    def _declare(self, p):
        n,d = p.name,p.default
        if p.kind in (p.VAR_KEYWORD, p.VAR_POSITIONAL):
            raise TypeError(f"{self.name} takes {'*' if p.kind==p.VAR_POSITIONAL else '**'}{n}; name each value it reads instead. "
                            "A fastai callback is rewritten by naming its arguments and returning what it changes")
        if p.kind==p.POSITIONAL_ONLY: raise TypeError(f"{self.name}: {n!r} is positional-only; callbacks are called by name")
        if isinstance(p.annotation, Range): self.ranges[n] = p.annotation
        if d is p.empty: return
        if n in given: raise TypeError(f"{self.name}: {n!r} is given by the optimizer and takes no default; got {n}={d!r}")
        if isinstance(d, Init):
            if n=='lr': raise TypeError(f"{self.name}: 'lr' is a hyper-parameter, it cannot be a state")
            if self.is_global:
                if len(n)<2 or n[-1]!='s':
                    raise TypeError(f"{self.name}: the state {n!r} is declared over all parameters, and comes as a list: call it '{n}s'")
                self.lists[n] = n[:-1]
            self.state[self.lists.get(n,n)] = d
        elif isinstance(d, (bool, int, float, str)): self.hypers[n] = d
        else:
            hint = "; Init(f) makes an initializer of a function, full and scalar are given their value" if callable(d) else ''
            raise TypeError(f"{self.name}: the default of {n!r} is {d!r}; a state has an initializer (zeros, ones, full(v), count, "
                            f"copy_of_p ...), a hyper-parameter a number, bool or string{hint}")

    def __call__(self, ns):
        "What this callback changes, as a `dict`, when it reads from `ns`"
        return self._changes(self.cb(**{n: ns[n] for n in self.reads}), Tensor, 'update')

    def call_all(self, spaces, model=None, items=()):
        "The same for a global callback: one call over all `spaces`, one `dict` for each. `model` is asked for what is of the model, at `items`"
        args = {}
        for n in self.reads:
            if n in of_model:
                args[n] = getattr(model, n)(items, self)
                continue
            vs = [s[self.lists.get(n,n)] for s in spaces]
            if n not in self.lists and any(v is not vs[0] for v in vs):
                if any(isinstance(v, Tensor) for v in vs):
                    raise TypeError(f"{self.name} reads {n!r}, of which each parameter has its own; ask for {n}s")
                if any(v!=vs[0] for v in vs): raise ValueError(self.one_value(n, vs[0], next(v for v in vs if v!=vs[0])))
            args[n] = vs if n in self.lists else vs[0]
        out   = self._changes(self.cb(**args), list, 'updates')
        lists = {n: plurals.get(n, n[:-1]) for n,v in out.items() if n in plurals or n in self.lists or n[-1]=='s' and isinstance(v, (list,tuple))}
        for n in lists:
            if not isinstance(out[n], (list,tuple)): raise TypeError(f"{self.name} returned a {type(out[n]).__name__} for {n}; it must be a list")
            if len(out[n])!=len(spaces): raise ValueError(f"{self.name} returned {len(out[n])} {n} for {len(spaces)} parameters")
        return [{lists.get(n,n): v[i] if n in lists else v for n,v in out.items()} for i in range(len(spaces))]

    def one_value(self, n, a, b): return f"{self.name} runs once over all parameters, so {n!r} must be the same for every parameter; got {a} and {b}"

    def _changes(self, out, bare, name):
        if isinstance(out, dict): return out
        if isinstance(out, bare): return {name: out}
        raise TypeError(f"{self.name} returned {type(out).__name__}; return the new {name} ({bare.__name__}) or a dict of what it "
                        "changes, {} for a callback that only looks")

    def provides(self):
        "A guess at the names that it returns"
        names = returned_names(self.cb)
        return names|{n[:-1] for n in names if n[-1:]=='s'} if self.is_global else names

    def __eq__(self, o): return isinstance(o, Block) and same(self.cb)==same(o.cb)
    def __hash__(self): return hash(self.name)
    def __repr__(self): return self.name


def no_callback(cb):
    "What `cb` is instead of a callback"
    if isinstance(cb, Init): return f"{cb} is an initializer, the default of a state: def f(grad, s={cb})"
    if isinstance(cb, type): return f"{cb.__name__} is a class, and no algorithm of genopt"
    if isinstance(cb, (int,float)): return f"got {cb!r}, a number; does an argument hide the callback of its name? say transforms.weight_decay"
    return f"got {cb!r}"


# -- The chain --

def hashable(x):
    "`x`, with dicts in it as tuples"
    if isinstance(x, dict): return tuple((k, type(v), hashable(v)) for k,v in sorted(x.items()))
    return tuple(map(hashable, x)) if isinstance(x, (tuple,list)) else x

class Namespace(dict):
    "What the callbacks of one parameter read and change. `update` is `grad` until it is returned; asking for `new_p` makes the move"
    def __missing__(self, n):
        if n=='update': return self['grad']
        if n!='new_p': raise KeyError(n)
        lr = self['lr']
        if isinstance(lr, Tensor): self['new_p'] = self['p'] - lr*self['update']
        else: self['new_p'] = torch.sub(self['p'], self['update'], alpha=lr)               # the same, rounded once
        return self['new_p']

class Chain:
    """The callbacks of an algorithm, in order, and what they declare together. Knows nothing of parameters or groups. A step runs `blocks`; those
    that return `eval_p`, the weights to evaluate, are `evals`, run when these are asked for"""
    fed,moves = (),True                                          # tensors that it is given beside the gradient; whether it makes the move
    def __init__(self, cbs):
        self.cbs,self.every,self.key,self.state,known = cbs,[],tuple(hashable(same(cb)) for cb in cbs),{},set(given)
        for cb in cbs:
            self.every.append(b := Block(cb, known))
            known |= b.state.keys()|b.provides()
        self.evals  = [b for b in self.every if 'eval_p' in b.provides() and not any('eval_p' in o.state for o in self.every)]
        self.blocks = [b for b in self.every if b not in self.evals]
        self.writes,self.where,self.rehearsed = {},{},set()      # block -> names it returned, where it ran; filled by `check.rehearse`
        self.learned = {}                                        # block and shape -> what it returned, in a rehearsal
        self.varying = set()                                     # blocks that return other names at times
        for b in self.every:
            for n,init in b.state.items():
                if self.state.setdefault(n, init)!=init:
                    raise ValueError(f"{b} declares the state {n}={init}, but {self._who('state', n)} declares {n}={self.state[n]}; "
                                     f"rename one: rename({b}, {n}='...')")
        for b in self.every:
            if bad := [n for n in b.hypers if n in self.state]:
                raise ValueError(f"{b} declares {bad[0]!r} a hyper-parameter, but in {self._who('state', bad[0])} it is a state; rename one")

        self.asks,provided = {'lr'},given|self.state.keys()      # names that are looked for in the param group
        for b in self.every:
            self.asks |= b.hypers.keys() | {b.lists.get(n,n) for n in b.reads}-provided
            provided = provided|b.provides()

    def given(self, p):
        "Room for the tensors that it is given beside the gradient of `p`"
        return {n: torch.empty_like(p, dtype=wide(p.dtype)) for n in self.fed}

    def _who(self, kind, n): return next(b for b in self.every if n in getattr(b, kind))

    def default(self, n, other): return next((b.hypers[n] for b in self.every if n in b.hypers), other)
    def hypers(self, known=()):
        "Hyper-parameters not in `known`, with their defaults; two callbacks that disagree about one are an error"
        res = {}
        for b in self.every:
            for n,v in b.hypers.items():
                if n not in known and res.setdefault(n, v)!=v:
                    raise ValueError(f"{b} has the default {n}={v}, but {self._who('hypers', n)} has {n}={res[n]}; say which: {n}=...")
        return res

    def fold(self, ns):
        "Run on one namespace. A generator, because a global callback must wait for all parameters: yields it, is sent what it changed"
        for b in self.blocks: ns.update((yield b) if b.is_global else b(ns))
        if self.moves: ns['new_p']

    def __repr__(self): return ' > '.join(map(str, self.blocks)) or 'grad'

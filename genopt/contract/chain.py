"""The chain: callbacks in order, what they declare together, and how they are folded over a namespace.

What a callback returns stands nowhere in its signature. Running the chain on small stand-ins shows it (`genopt.optim.rehearsal`); what has been
seen is kept beside the chain, in `Learned`, for all optimizers of the process."""

from dataclasses import dataclass,field
import torch
from torch import Tensor
from .block import Block,given
from .names import same
from .state import stored_states
from .tensors import wide
from .weights import nearest,value_in

__all__ = ['Chain', 'Learned', 'Namespace', 'chain_of', 'fold', 'hashable', 'interpret', 'learned_of']


class Namespace(dict):
    "What the callbacks of one parameter read and change. `update` is `grad` until it is returned; asking for `new_p` makes the move"
    def __missing__(self, n):
        if n=='update': return self['grad']
        if n!='new_p': raise KeyError(n)
        lr = self['lr']
        if isinstance(lr, Tensor): self['new_p'] = self['p'] - lr*self['update']
        else: self['new_p'] = torch.sub(self['p'], self['update'], alpha=lr)               # the same, rounded once
        return self['new_p']


def fold(chain, ns):
    "Fold `chain` over the namespace `ns`. A generator: it yields each callback and is sent what that changes"
    for b in chain.blocks: ns.update((yield b))
    if chain.moves: ns['new_p']

def interpret(chain, ns, call):
    "Fold `chain` over `ns`, where `call(block, ns)` says what a callback changes. Returns `ns`"
    run,out = fold(chain, ns),None
    try:
        while True: out = call(run.send(out), ns)
    except StopIteration: return ns


class Chain:
    """The callbacks `cbs` of an algorithm, in order, and what they declare together. It is never changed once it is made, and knows nothing of
    parameters or groups. `returned`: for each callback the names that it is known to return. `known`: names that are provided before the first.

    `every` has a `Block` for each callback. `evals` are those that return `eval_p`, the weights to evaluate; `opt.eval()` runs them. `blocks` are the
    others, which a step runs. `places`: the place of each of them; a part of a chain keeps those of the whole. `extra`: names of tensors that the
    chain is given beside the gradient; `moves`: whether it makes the move; `weights`: the policy by which parameters of low precision are stored"""
    extra,moves = (),True
    def __init__(self, cbs, returned=(), weights=nearest, known=()):
        self.cbs,self.weights = tuple(cbs),weights
        self.returned = tuple(map(tuple, returned)) or ((),)*len(self.cbs)
        self.every,known = [],{*given, *known}
        for cb,names in zip(self.cbs, self.returned):
            self.every.append(b := Block(cb, known))
            known |= b.state.keys()|{*names}
        self.state  = self._state()
        self.evals  = [b for b,names in zip(self.every, self.returned) if 'eval_p' in names and 'eval_p' not in self.state]
        self.blocks = [b for b in self.every if b not in self.evals]
        self.places = [*range(len(self.blocks))]
        self.key    = (*((hashable(same(b.cb)), *b.lists.items(), b in self.evals) for b in self.every), weights)
        self.asks   = self._asks()

    def _state(self):
        "The states that the callbacks declare: name -> initializer"
        state = {}
        for b in self.every:
            for n,init in b.state.items():
                if state.setdefault(n, init)==init: continue
                raise ValueError(f"{b} declares the state {n}={init}, but {self._who('state', n)} declares {n}={state[n]}; "
                                 f"rename one: rename({b}, {n}='...')")
        for b in self.every:
            if bad := [n for n in b.hypers if n in state]:
                raise ValueError(f"{b} declares {bad[0]!r} a hyper-parameter, but in {self._who('state', bad[0])} it is a state; rename one")
        return state

    def _asks(self):
        "Names that are looked for in the param group: hyper-parameters, and what no callback before the reader is known to provide"
        asks,provided = {'lr'},given|self.state.keys()
        for b,names in zip(self.every, self.returned):
            asks |= b.hypers.keys() | {*b.names}-provided
            provided = provided|{*names}
        return asks

    def _who(self, kind, n): return next(b for b in self.every if n in getattr(b, kind))

    def default(self, n, other): return next((b.hypers[n] for b in self.every if n in b.hypers), other)
    def hypers(self, known=()):
        "Hyper-parameters not in `known`, with their defaults; two callbacks that disagree about one are an error"
        res = {}
        for b in self.every:
            for n,v in b.hypers.items():
                if n in known or res.setdefault(n, v)==v: continue
                raise ValueError(f"{b} has the default {n}={v}, but {self._who('hypers', n)} has {n}={res[n]}; "
                                 f"give one value for both, {n}=..., or rename one: rename({b}, {n}='{b}_{n}')")
        return res

    def given(self, p):
        "Room for the tensors that it is given beside the gradient of `p`"
        return {n: torch.empty_like(p, dtype=wide(p.dtype)) for n in self.extra}

    # How a parameter and its states are stored

    @property
    def stores(self):
        "How each value in memory is stored, by name: the states, and `p`"
        return self.state | {'p': self.weights}
    def beside(self, p, state):
        "What is stored beside the parameter `p` itself, by name. What `state` lacks is new. What another policy has put there is converted"
        dtypes = self.weights.beside('p', p.dtype)
        if all(n in state and state[n].dtype==t for n,t in dtypes.items()): return {n: state[n] for n in dtypes}
        return self.weights.first(p, value_in(p, state))
    def seen(self, p, state):
        "The parameter `p` as callbacks see it"
        return self.weights.seen('p', {'p': p} | self.beside(p, state))
    def stored(self, p, state):
        "All that is stored for the parameter `p`, by name: its states, and what is beside it. What `state` lacks is new"
        return stored_states(self.state, state, self.seen(p, state)) | self.beside(p, state)

    def __repr__(self): return ' > '.join(map(str, self.blocks)) or 'grad'


def hashable(x):
    "`x`, with dicts in it as tuples"
    if isinstance(x, dict): return tuple((k, type(v), hashable(v)) for k,v in sorted(x.items()))
    return tuple(map(hashable, x)) if isinstance(x, (tuple,list)) else x


# -- Of all optimizers of the process --

@dataclass
class Learned:
    """What running the callbacks of a chain has shown. `returns`: block -> names it has returned; `advances`: block -> names that it has given
    another value; `where`: block -> what it runs on, in words; `results`: block and shape -> what it returned in a rehearsal; `varying`: blocks that
    do not always return the same names; `draws`: blocks that have drawn random numbers; `rehearsed`: shapes, dtypes, devices and flags with which the
    chain has been run"""
    returns: dict = field(default_factory=dict)
    advances: dict = field(default_factory=dict)
    where: dict = field(default_factory=dict)
    results: dict = field(default_factory=dict)
    varying: set = field(default_factory=set)
    rehearsed: set = field(default_factory=set)
    draws: set = field(default_factory=set)

    def saw(self, block, names):
        "Note that `block` has returned `names`. True if some are new"
        known = self.returns.setdefault(block, {})
        new = [n for n in names if n not in known]
        known.update(dict.fromkeys(new))
        return bool(new)


chains = {}                                  # what makes the callbacks equal, and `weights` -> the chain, with all that is known of it by now
learned = {}                                 # what makes the callbacks equal -> `Learned`
most = 1000

def key_of(cbs): return tuple(hashable(same(cb)) for cb in cbs)

def learned_of(chain):
    "What has been learned of the callbacks of `chain`"
    return learned.setdefault(key_of(chain.cbs), Learned())

def chain_of(cbs, weights=nearest):
    "The chain of the callbacks `cbs`, with what is known of their results: the same object for equal callbacks, until more is known"
    key = key_of(cbs)
    known = learned.setdefault(key, Learned())
    chain = chains.get((key, weights))
    if chain is None:
        if len(chains)>=most: forget_oldest()
        chain = chains[key, weights] = Chain(cbs, weights=weights)
    returned = tuple(tuple(known.returns.get(b, ())) for b in chain.every)
    if returned!=chain.returned: chain = chains[key, weights] = Chain(cbs, returned, weights)
    return chain

def forget_oldest():
    oldest = next(iter(chains))
    del chains[oldest]
    learned.pop(oldest[0], None)

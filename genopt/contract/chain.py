"""The chain: callbacks in order, and what they declare together."""

import torch
from torch import Tensor
from .block import Block,given
from .names import same
from .tensors import wide

__all__ = ['Chain', 'Namespace', 'hashable']


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

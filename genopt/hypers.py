"""Hyper-parameters: where they are kept, how they are spelled, which values they may take.

`param_groups` is the only store, and it speaks torch (`betas`, `momentum`, `weight_decay`), so that torch's schedulers and
checkpoints understand it. Callbacks and fastai say `mom`, `sqr_mom`, `wd`. `aliases` is the one place that knows both."""

import difflib
from collections.abc import MutableMapping
from numbers import Real
from torch import Tensor
import torch
from .core import finite,nonneg

__all__ = ['aliases', 'Hypers']

aliases = dict(betas=('mom','sqr_mom'), momentum=('mom',), alpha=('sqr_mom',), weight_decay=('wd',))   # torch's spelling = ours
engine_flags = dict(maximize=False, foreach=None, capturable=False, differentiable=False, fused=None)  # every optimizer has these


# -- Two spellings --

class Hypers(MutableMapping):
    "A live view on one param group that knows both spellings: `h['mom']` reads and writes `betas[0]` or `momentum`"
    def __init__(self, group, more=None): self.group,self.more = group,more or {}   # `more`: defaults of names the group lacks
    def find(self, n):
        "Where `n` is kept: the group's key, and the place in its tuple"
        if n in self.group: return n,None
        for key,short in aliases.items():
            if key in self.group and n in short: return key,(short.index(n) if isinstance(self.group[key], (tuple,list)) else None)
        raise KeyError(n)
    def __getitem__(self, n):
        try: key,i = self.find(n)
        except KeyError: return self.more[n]
        return self.group[key] if i is None else self.group[key][i]
    def __setitem__(self, n, v):
        key,i = self.find(n)
        self.group[key] = v if i is None else (*self.group[key][:i], v, *self.group[key][i+1:])
    def __delitem__(self, n): raise TypeError("a hyper-parameter cannot be removed")
    def __iter__(self):
        for k,v in self.group.items():
            if k not in ('params', 'param_names', *engine_flags):
                yield from aliases[k] if k in aliases and isinstance(v, (tuple,list)) else aliases.get(k, (k,))
    def __len__(self): return sum(1 for _ in self)
    def __repr__(self): return repr(dict(self))

def to_torch(hypers):
    "In torch's spelling: `mom` and `sqr_mom` together are `betas`, alone `momentum` and `alpha`; `wd` is `weight_decay`"
    res = dict(hypers)
    for key,short in aliases.items():
        if key not in res and all(n in res for n in short):
            vs = tuple(res.pop(n) for n in short)
            res[key] = vs if len(vs)>1 else vs[0]
    return res

def to_short(hypers, names):
    "In the spelling of callbacks that read `names`; a tuple is taken apart"
    res = {}
    for k,v in hypers.items():
        short = (k,) if k in names else aliases.get(k, (k,))
        if len(short)>1: check_kind(k, v, (0.,)*len(short), 'Optimizer')
        res.update(zip(short, v if len(short)>1 else (v,)))
    return res

def assign(hypers, values, who):
    "Set `values`, in either spelling, in the view `hypers`; names it lacks and names given twice are an error"
    seen = {}
    for k,v in values.items():
        try: key,i = hypers.find(k)
        except KeyError:
            known = [n for n in dict.fromkeys([*hypers, *hypers.group]) if n!='params']
            raise TypeError(f"{who} got an unexpected hyper-parameter {k!r}{did_you_mean(k, known)}; it has {', '.join(known)}") from None
        for j,other in seen.get(key, []):
            if None in (i,j) or i==j: raise TypeError(f"{who} got both {other!r} and {k!r}, which are the same thing; give one")
        seen.setdefault(key, []).append((i,k))
        hypers[k] = v

def did_you_mean(k, known):
    near = difflib.get_close_matches(k, [*known], 1)
    return f", did you mean {near[0]!r}?" if near else ''

def typo(k, hypers):
    "The hyper-parameter of which `k` is a likely misspelling; not one that merely contains it, such as a scheduler's `max_lr`"
    known = [*hypers.group, *hypers]
    near = difflib.get_close_matches(k, known, 1, cutoff=0.75) if isinstance(k, str) else []
    return near[0] if near and f'_{near[0]}_' not in f'_{k}_' else None


# -- Values --

def plain(v):
    "Python's own numbers (NumPy's break `torch.load(weights_only=True)`), tuples of them, and tensors of our own"
    if isinstance(v, (tuple,list)): return tuple(map(plain, v))
    if isinstance(v, Tensor): return v.detach().clone()
    return float(v) if isinstance(v, Real) and not isinstance(v, int) else v

def number(v): return v.item() if isinstance(v, Tensor) else v

def check_flags(group, who):
    "Refuse what torch has and genopt not yet"
    for k in ('foreach', 'fused', 'capturable', 'differentiable'):
        if group[k]:
            raise ValueError(f"{who}: {k}={group[k]} is not available yet: each parameter is run by itself, as with foreach=False; leave {k} out")

def check_kinds(group, declared, strict, who):
    "Refuse values of another kind than declared. Beyond the names in `strict`, a callback's number may be a bool and its bool a number"
    for k,like in declared.items():
        loose = k not in strict and isinstance(like, (bool,int,float))
        if not (loose and isinstance(group[k], bool)): check_kind(k, group[k], 0. if loose else like, who)

def check_kind(k, v, like, who):
    "Refuse a value of another kind than its default `like`: number (or 1-element tensor), flag, string, or tuple of these"
    wrong = lambda kind: f"{who}: {k} must be {kind}, got {v!r} ({type(v).__name__})"
    if isinstance(like, tuple):
        n = len(like)
        if not isinstance(v, (tuple,list)): raise TypeError(wrong(f'{n} numbers'))
        if len(v)!=n: raise ValueError(wrong(f'{n} numbers'))
        for i,x in enumerate(v): check_kind(f'{k}[{i}]', x, like[i], who)
        if 0<sum(isinstance(x, Tensor) for x in v)<n: raise ValueError(f"{who}: {k} must be either both floats or both Tensors; got {v!r}")
    elif like is None or isinstance(like, bool):
        if not isinstance(v, (bool, type(like))): raise TypeError(wrong('True or False'))
    elif isinstance(like, str):
        if not isinstance(v, str): raise TypeError(wrong('a string'))
    elif isinstance(v, Tensor):
        if v.numel()!=1: raise ValueError(f"{who}: Tensor {k} must be 1-element; got shape {tuple(v.shape)}")
        if v.is_complex() or v.dtype==torch.bool: raise TypeError(wrong('a real number'))
    elif isinstance(v, bool) or not isinstance(v, Real): raise TypeError(wrong('a real number or a 1-element Tensor'))

def check_ranges(group, chain, who):
    "Refuse a value outside the range that a callback declares for it, or, where none does, one that is not finite"
    hypers = Hypers(group)
    ranges = [('lr', nonneg, 'the move')] + [(n,r,b) for b in chain.blocks for n,r in b.ranges.items() if n in hypers]
    ranges+= [(n, finite, who) for n in hypers if n not in {n for n,_,_ in ranges}]
    for n,r,by in ranges:
        key,i = hypers.find(n)
        v = number(hypers[n])
        if isinstance(v, Real) and v not in r:
            what = dict(lr='learning rate', eps='epsilon value', betas=f'beta parameter at index {i}').get(key, f'{key} value')
            raise ValueError(f"Invalid {what}: {v}; {who} needs it in {r}, as {by} declares")

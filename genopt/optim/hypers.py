"""Hyper-parameters: where they are kept, how they are spelled, which values they may take.

`param_groups` is the only store, and it speaks torch (`betas`, `momentum`, `weight_decay`), so that torch's schedulers and
checkpoints understand it. Callbacks and fastai say `mom`, `sqr_mom`, `wd`. `aliases` is the one place that knows both."""

import difflib,inspect,math
from collections.abc import MutableMapping
from functools import lru_cache
from itertools import takewhile
from numbers import Real
from torch import Tensor
import torch
from ..contract.messages import did_you_mean
from ..contract.ranges import finite,nonneg
from ..contract.tensors import number

__all__ = ['aliases', 'Hypers']

# torch's spelling = ours; a tuple has a name for each of its members
aliases      = dict(betas=('mom','sqr_mom',*(f'mom{i}' for i in range(3,10))), momentum=('mom',), alpha=('sqr_mom',), weight_decay=('wd',),
                    eps=('eps','eps2'), etas=('eta_minus','eta_plus'), step_sizes=('min_step','max_step'), nus=('nu1','nu2'))
additive     = {'wd', 'mom'}                   # of which 0 is none, also for an algorithm that has no such thing
ambiguous    = {'alpha'}                       # spellings that mean something else where a callback asks for them: a lookahead's alpha
engine_flags = dict(maximize=False, foreach=None, capturable=False, differentiable=False, fused=None)      # every optimizer has these
reserved     = {*engine_flags, 'nonfinite', 'cbs', 'params', 'param_names'}                                  # what a callback cannot declare


# -- Two spellings --

class Hypers(MutableMapping):
    """A live view on one param group that knows both spellings: `h['mom']` reads and writes `betas[0]` or `momentum`.
    `own`: names that callbacks read themselves, such as an `alpha` of lookahead, and that so are no other's spelling."""
    def __init__(self, group, own=()): self.group,self.aliases = group,{k: short for k,short in aliases.items() if k not in own}
    def find(self, n):
        "Where `n` is kept: the group's key, and the place in its tuple"
        keys = [k for k in self.aliases if k in self.group and n in names_in(k, self.group[k])]
        if keys and n in self.group and n not in keys: raise ValueError(f"a group has both {keys[0]!r} and {n!r}, which are the same thing; keep one")
        if not keys and n not in self.group: raise KeyError(n)
        if not keys: return n,None
        return keys[0],(self.aliases[keys[0]].index(n) if isinstance(self.group[keys[0]], (tuple,list)) else None)
    def place(self, n, v):
        "Where `v` for `n` goes: the first of a tuple may have the name of all"
        key,i = self.find(n)
        return key,(None if n==key and isinstance(v, (tuple,list)) else i)
    def __getitem__(self, n):
        key,i = self.find(n)
        return self.group[key] if i is None else self.group[key][i]
    def __setitem__(self, n, v):
        if n not in self: raise KeyError(f"no hyper-parameter {n!r}{did_you_mean(n, self)}; there is {', '.join(self)}")
        key,i = self.place(n, v)
        self.group[key] = v if i is None else (*self.group[key][:i], v, *self.group[key][i+1:])
    def __delitem__(self, n): raise TypeError("a hyper-parameter cannot be removed")
    def __iter__(self):
        for k,v in self.group.items():
            if k in ('params', 'param_names', 'cbs', *engine_flags): continue
            yield from names_in(k, v) if k in self.aliases else (k,)
    def __len__(self): return sum(1 for _ in self)
    def __repr__(self): return repr(dict(self))

def names_in(key, v):
    "What callbacks call that which a group keeps as `key`: one name for each member of a tuple"
    return aliases[key][:len(v) if isinstance(v, (tuple,list)) else 1]

def to_torch(hypers, own=()):
    "In torch's spelling: `mom` and `sqr_mom` together are `betas`, alone `momentum` and `alpha`; `wd` is `weight_decay`"
    res = dict(hypers)
    for key,short in aliases.items():
        here = [*takewhile(res.__contains__, short)]
        if key not in own and key not in res and len(here)>=min(len(short), 2):
            vs = tuple(res.pop(n) for n in here)
            res[key] = vs if len(short)>1 else vs[0]
    return res

def to_short(hypers, asks):
    "In the spelling of callbacks that ask for the names `asks`; a tuple is taken apart"
    res = {}
    for k,v in hypers.items():
        short = names_in(k, v) if k in aliases else ()
        if k in ambiguous&asks or not short or not asks.issuperset(short): short = k,
        if len(short)>1: check_kind(k, v, (0.,)*len(short), 'Optimizer')
        for n,x in zip(short, v if isinstance(v, (tuple,list)) and short!=(k,) else (v,)):
            if n in res: raise TypeError(f"Optimizer got {n!r} twice, also as {k!r}; give it once")
            res[n] = x
    return res

def assign(hypers, values, who):
    "Set `values`, in either spelling, in the view `hypers`; names it lacks and names given twice are an error"
    seen = {}
    for k,v in values.items():
        try: key,i = hypers.place(k, v)
        except KeyError:
            known = [n for n in dict.fromkeys([*hypers, *hypers.group]) if n!='params']
            raise TypeError(f"{who} got an unexpected hyper-parameter {k!r}{did_you_mean(k, known)}; it has {', '.join(known)}") from None
        for j,other in seen.get(key, []):
            if None in (i,j) or i==j: raise TypeError(f"{who} got both {other!r} and {k!r}, which are the same thing; give one")
        seen.setdefault(key, []).append((i,k))
        hypers[k] = v


def lacks(k, v, hypers):
    "Whether `v` for `k` asks for nothing of what the algorithm with `hypers` lacks: no weight decay, which every helper sets for biases and norms"
    names = {k, *aliases.get(k, ())}
    v     = number(v)
    return not names.isdisjoint(additive) and not any(n in hypers for n in names) and isinstance(v, Real) and v==0

def misplaced(k, hypers):
    "Why `k` is probably no note of the user's: a misspelling, or a hyper-parameter of other algorithms. Not a scheduler's `max_lr`"
    if not isinstance(k, str): return
    near = difflib.get_close_matches(k, [*hypers.group, *hypers], 1, cutoff=0.76)
    if near and f'_{near[0]}_' not in f'_{k}_': return f', did you mean {near[0]!r}?'
    if k in aliases or any(k in short for short in aliases.values()): return f"; it has {', '.join(hypers)}"


# -- Values --


no_tensors = 'Adam','AdamW'                   # with foreach=True: torch refuses them so in these algorithms, and in no other

def check_flags(group, who, algorithm=''):
    "Refuse flags that contradict each other, as torch does, and what torch has and genopt not yet"
    if group['differentiable']: raise ValueError(f"{who}: differentiable=True is not available yet; leave it out")
    tensors = [(name,x) for k,v in group.items() if k!='params'
               for name,x in ([(f'{k}[{i}]', x) for i,x in enumerate(v)] if isinstance(v, tuple) else [(k, v)]) if isinstance(x, Tensor)]
    if group['fused'] and group['foreach']: raise RuntimeError(f"{who}: `fused` and `foreach` cannot be `True` together.")
    if group['capturable']:
        if group['foreach'] is False: raise ValueError(f"{who}: capturable=True runs the default way or fused=True; leave foreach=False out")
        for name,x in tensors:
            if (p := next((p for p in group.get('params', ()) if p.device!=x.device), None)) is not None:
                raise ValueError(f"{who}: capturable=True reads {name} where the parameters are, on {p.device}; it is on {x.device}, move it there")
        return
    for name,_ in tensors if group['foreach'] and algorithm in no_tensors else ():
        raise ValueError(f"{who}: {name} as a Tensor is not supported for capturable=False and foreach=True; leave foreach out, or pass a number")

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
    elif isinstance(like, bool) or k in engine_flags:
        if not isinstance(v, (bool, type(like))): raise TypeError(wrong('True or False'))
    elif like is None:
        if not isinstance(v, (bool, str, Real, Tensor, type(None))): raise TypeError(wrong('a number, a flag, a string or None'))
    elif isinstance(like, str):
        if not isinstance(v, str): raise TypeError(wrong('a string'))
    elif isinstance(v, Tensor):
        if v.numel()!=1: raise ValueError(f"{who}: Tensor {k} must be 1-element; got shape {tuple(v.shape)}")
        if v.is_complex() or v.dtype==torch.bool: raise TypeError(wrong('a real number'))
    elif isinstance(v, bool) or not isinstance(v, Real): raise TypeError(wrong('a real number or a 1-element Tensor'))

def ranges(hypers, declared, chain):
    "Where each number is kept, `(key, place)`, its range, and who declares that; a number without a range is finite, unless its default is not"
    res  = [('lr', nonneg, 'the move')] + [(n,r,b) for b in chain.every for n,r in b.ranges.items() if n in hypers]
    free = [n for n in hypers if n not in {o[0] for o in res} and (n in chain.asks or hypers.find(n)[0] in declared)]
    infinite = lambda n: isinstance(like := declared.get(hypers.find(n)[0]), float) and math.isinf(like)
    return [(*hypers.find(n), r, by) for n,r,by in [*res, *((n, finite, None) for n in free if not infinite(n))]]

def at(group, key, i):
    "A number of `group`, in a tuple if there is an `i`"
    return number(group[key] if i is None else group[key][i])

def check_ranges(hypers, declared, chain, who, algorithm):
    """Refuse a value outside the range that a callback declares for it or, where none does, a number that is not finite. Where torch.optim has the
    `algorithm`, what that takes is taken"""
    for key,i,r,by in ranges(hypers, declared, chain):
        if isinstance(v := at(hypers.group, key, i), Real) and v not in r and not torch_takes(algorithm, key, frozen(hypers.group[key])):
            what = dict(lr='learning rate', eps='epsilon value', betas=f'beta parameter at index {i}').get(key, f'{key} value')
            why = f'in {r}, as {by} declares' if by else "finite; a callback that takes infinity declares it: Range('(0,inf]')"
            raise ValueError(f"Invalid {what}: {v}; {who} needs it {why}")

def frozen(v):
    "A value as plain numbers, which can be compared"
    return tuple(map(number, v)) if isinstance(v, (tuple,list)) else number(v)

@lru_cache(4096)
def torch_takes(algorithm, key, v):
    "Whether torch.optim has an algorithm of that name, and it takes the finite value `v` for its argument `key`"
    cls = getattr(torch.optim, algorithm, None)
    if not isinstance(cls, type) or key not in inspect.signature(cls).parameters: return False
    if not all(math.isfinite(x) for x in (v if isinstance(v, tuple) else (v,)) if isinstance(x, Real)): return False
    try: cls([torch.zeros(1, 1, requires_grad=True)], **{key: v})
    except (TypeError, ValueError): return False
    return True

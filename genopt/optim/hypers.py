"""This module spells hyper-parameters, finds them in a param group, and checks their values.

Hyper-parameters are kept in `param_groups` and nowhere else. There they have torch's names (`betas`, `momentum`, `weight_decay`), so that torch's
schedulers and checkpoints understand them. Callbacks and fastai use other names: `mom`, `sqr_mom`, `wd`. Only `aliases` maps one to the other."""

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
from .storage import policies

__all__ = ['aliases', 'Hypers']

# torch's name of a hyper-parameter, and the callbacks' names for it. A tuple has one name for each member.
aliases      = dict(betas=('mom','sqr_mom',*(f'mom{i}' for i in range(3,10))), momentum=('mom',), alpha=('sqr_mom',), weight_decay=('wd',),
                    eps=('eps','eps2'), etas=('eta_minus','eta_plus'), step_sizes=('min_step','max_step'), nus=('nu1','nu2'))
additive     = {'wd', 'mom'}                   # 0 turns these off, so an algorithm that lacks them accepts a 0
ambiguous    = {'alpha'}                       # a callback may use this name for something else: lookahead has an alpha of its own
engine_flags = dict(maximize=False, foreach=None, capturable=False, differentiable=False, fused=None,
                    store=None, offload=False) # every optimizer has these
reserved     = {*engine_flags, 'nonfinite', 'cbs', 'params', 'param_names'}                                # a callback cannot declare these


# -- Two spellings --

class Hypers(MutableMapping):
    """A live view on one param group that accepts both spellings: `h['mom']` reads and writes `betas[0]` or `momentum`.
    `own` holds names that callbacks declare for themselves, such as the `alpha` of lookahead. The view does not translate those."""
    def __init__(self, group, own=()):
        self.group = group
        self.aliases = {k: short for k,short in aliases.items() if k not in own}
    def find(self, n):
        "Return the group's key for `n` and the index in its tuple. The index is None if `n` names the whole value."
        keys = [k for k in self.aliases if k in self.group and n in names_in(k, self.group[k])]
        if keys and n in self.group and n not in keys: raise ValueError(f"a group has both {keys[0]!r} and {n!r}, which are the same thing; keep one")
        if not keys and n not in self.group: raise KeyError(n)
        if not keys: return n,None
        return keys[0],(self.aliases[keys[0]].index(n) if isinstance(self.group[keys[0]], (tuple,list)) else None)
    def place(self, n, v):
        """Return the key and the index where the value `v` of `n` is to be written. `eps` may name both a tuple and its first member; if `v` is a
        tuple, it replaces the whole tuple."""
        key,i = self.find(n)
        return key,(None if n==key and isinstance(v, (tuple,list)) else i)
    def __getitem__(self, n):
        key,i = self.find(n)
        return self.group[key] if i is None else self.group[key][i]
    def __setitem__(self, n, v):
        if n not in self: raise KeyError(f"no hyper-parameter {n!r}{did_you_mean(n, self)}; choose from {', '.join(self)}")
        key,i = self.place(n, v)
        self.group[key] = v if i is None else (*self.group[key][:i], v, *self.group[key][i+1:])
    def __delitem__(self, n): raise TypeError("del: no hyper-parameter can be removed; set it to another value")
    def __iter__(self):
        for k,v in self.group.items():
            if k in ('params', 'param_names', 'cbs', *engine_flags): continue
            yield from names_in(k, v) if k in self.aliases else (k,)
    def __len__(self): return sum(1 for _ in self)
    def __repr__(self): return repr(dict(self))

def names_in(key, v):
    "The callbacks' names for the value `v` of `key`: one for each member of a tuple"
    return aliases[key][:len(v) if isinstance(v, (tuple,list)) else 1]

def spellings(keys):
    "Return the names of `keys` in either spelling."
    return {n for k in keys for n in (k, *aliases.get(k, ()))}

def to_torch(hypers, own=()):
    """Return `hypers` with torch's names. `mom` and `sqr_mom` become `betas` if both are there. Else `mom` becomes `momentum` and `sqr_mom` becomes
    `alpha`. `wd` becomes `weight_decay`."""
    res = dict(hypers)
    for key,short in aliases.items():
        here = [*takewhile(res.__contains__, short)]
        if key not in own and key not in res and len(here)>=min(len(short), 2):
            vs = tuple(res.pop(n) for n in here)
            res[key] = vs if len(short)>1 else vs[0]
    return res

def to_short(hypers, asks):
    "Return `hypers` with the names in `asks`, which are those that the callbacks ask for. It splits a tuple into its members."
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
    """Write `values` into the view `hypers`. The names may have either spelling. Raises `TypeError` for a name that `hypers` lacks and for a value
    that is given twice."""
    seen = {}
    for k,v in values.items():
        try: key,i = hypers.place(k, v)
        except KeyError:
            near = did_you_mean(k, [n for n in (*hypers, *hypers.group) if n!='params'])
            raise TypeError(f"{who} got an unexpected hyper-parameter {k!r}{near}; it has {', '.join(spelt(hypers))}") from None
        for j,other in seen.get(key, []):
            if None in (i,j) or i==j: raise TypeError(f"{who} got both {other!r} and {k!r}, which are the same thing; give one")
        seen.setdefault(key, []).append((i,k))
        hypers[k] = v

def lacks(k, v, hypers):
    """Whether the algorithm has no `k`, and `v` turns `k` off. Helper functions set a weight decay of 0 for biases and norms, whatever the algorithm.
    `hypers` are those of the algorithm."""
    names = spellings([k])
    v     = number(v)
    return not names.isdisjoint(additive) and not any(n in hypers for n in names) and isinstance(v, Real) and v==0

def misplaced(k, hypers):
    """Say why the unknown key `k` of a group is probably a mistake: a misspelled name, or a hyper-parameter of other algorithms. Returns None for a
    key that users may add, such as a scheduler's `max_lr`."""
    if not isinstance(k, str): return
    near = difflib.get_close_matches(k, [*hypers.group, *hypers], 1, cutoff=0.76)
    if near and f'_{near[0]}_' not in f'_{k}_': return f', did you mean {near[0]!r}?'
    if k in aliases or any(k in short for short in aliases.values()): return f"; it has {', '.join(spelt(hypers))}"

def spelt(hypers):
    "The names of hyper-parameters in the group's spelling, which is torch's"
    return [n for n in hypers.group if n not in reserved]


# -- Flags --

no_tensors = 'Adam','AdamW'                   # torch refuses tensor hyper-parameters with foreach=True in these two algorithms only

def check_flags(group, who, algorithm=''):
    "Raise if two flags contradict each other, as torch does. Raises for `differentiable`, which torch has and genopt does not have yet."
    if group['differentiable']: raise ValueError(f"{who}: differentiable=True is not available yet; leave it out")
    if group['fused'] and group['foreach']: raise RuntimeError(f"{who}: `fused` and `foreach` cannot be `True` together.")
    if group['capturable'] and group.get('offload'):
        raise ValueError(f"{who}: offload=True computes the step on the host, and no CUDA graph can record that; leave capturable or offload out")
    if group['capturable']: check_capturable(group, who)
    elif group['foreach'] and algorithm in no_tensors: check_no_tensors(group, who)

def check_capturable(group, who):
    "Raise unless a captured step can read all tensor hyper-parameters: they must be on the device of the parameters."
    if group['foreach'] is False: raise ValueError(f"{who}: capturable=True does not work with foreach=False; leave foreach out")
    for name,x in tensors_in(group):
        for p in group.get('params', ()):
            if p.device!=x.device:
                raise ValueError(f"{who}: capturable=True needs {name} on {p.device}, where the parameters are; it is on {x.device}")

def check_no_tensors(group, who):
    for name,_ in tensors_in(group):
        raise ValueError(f"{who}: {name} as a Tensor is not supported for capturable=False and foreach=True; leave foreach out, or pass a number")

def tensors_in(group):
    "Yield the name and value of each hyper-parameter that is a tensor. A member of a tuple has a name such as `betas[0]`."
    for k,v in group.items():
        members = [(f'{k}[{i}]', x) for i,x in enumerate(v)] if isinstance(v, tuple) else [(k, v)]
        yield from ((name, x) for name,x in members if isinstance(x, Tensor))


# -- Kinds of values --

def check_kinds(group, declared, strict, who):
    """Raise if a value in `group` is of another kind than its default in `declared`. For a callback's own hyper-parameter a flag may replace a
    number, and a number may replace a flag. The names in `strict` have no such freedom."""
    for k,like in declared.items():
        loose = k not in strict and isinstance(like, (bool,int,float))
        if not (loose and isinstance(group[k], bool)): check_kind(k, group[k], 0. if loose else like, who)

def check_kind(k, v, like, who):
    "Raise if the value `v` of `k` is of another kind than its default `like`. A number may also be a 1-element tensor."
    if k=='store': return policies(v)
    if isinstance(like, tuple): return check_tuple(k, v, like, who)
    if isinstance(like, bool) or k in engine_flags: kinds,words = (bool, type(like)),'True or False'
    elif like is None: kinds,words = (bool, str, Real, Tensor, type(None)),'a number, a flag, a string or None'
    elif isinstance(like, str): kinds,words = str,'a string'
    else: return check_number(k, v, who)
    if not isinstance(v, kinds): raise TypeError(wrong_kind(k, v, words, who))

def check_tuple(k, v, like, who):
    n = len(like)
    if not isinstance(v, (tuple,list)): raise TypeError(wrong_kind(k, v, f'{n} numbers', who))
    if len(v)!=n: raise ValueError(wrong_kind(k, v, f'{n} numbers', who))
    for i,x in enumerate(v): check_kind(f'{k}[{i}]', x, like[i], who)
    if 0<sum(isinstance(x, Tensor) for x in v)<n: raise ValueError(f"{who}: {k} must be either both floats or both Tensors; got {v!r}")

def check_number(k, v, who):
    if isinstance(v, Tensor):
        if v.numel()!=1: raise ValueError(f"{who}: Tensor {k} must be 1-element; got shape {tuple(v.shape)}")
        if v.is_complex() or v.dtype==torch.bool: raise TypeError(wrong_kind(k, v, 'a real number', who))
    elif isinstance(v, bool) or not isinstance(v, Real): raise TypeError(wrong_kind(k, v, 'a real number or a 1-element Tensor', who))

def wrong_kind(k, v, kind, who): return f"{who}: {k} must be {kind}, got {v!r} ({type(v).__name__})"


# -- Ranges of values --

def ranges(hypers, declared, chain):
    """Return `(key, index, range, by)` for each number that has a range. `by` is the block that declares the range, 'the move' for `lr`, or None if
    no block declares one. A number without a declared range must be finite, unless its default is infinity."""
    ranged = [('lr', nonneg, 'the move')] + [(n, r, block) for block in chain.every for n,r in block.ranges.items() if n in hypers]
    names  = {n for n,_,_ in ranged}
    others = [(n, finite, None) for n in hypers if n not in names and must_be_finite(n, hypers, declared, chain)]
    return [(*hypers.find(n), r, by) for n,r,by in ranged+others]

def must_be_finite(n, hypers, declared, chain):
    "Whether `n` is a hyper-parameter of the optimizer and its default is not infinity"
    key     = hypers.find(n)[0]
    default = declared.get(key)
    return (n in chain.asks or key in declared) and not (isinstance(default, float) and math.isinf(default))

def at(group, key, i):
    "The value of `key` in `group` as a number, or that of its member `i` if `i` is not None"
    return number(group[key] if i is None else group[key][i])

def check_ranges(hypers, declared, chain, who, algorithm):
    """Raise if a value is outside the range that a callback declares for it. Raises if a value without a declared range is not finite. Accepts each
    value that torch.optim accepts for the same `algorithm`."""
    for key,i,r,by in ranges(hypers, declared, chain):
        if isinstance(v := at(hypers.group, key, i), Real) and v not in r and not torch_takes(algorithm, key, frozen(hypers.group[key])):
            what = dict(lr='learning rate', eps='epsilon value', betas=f'beta parameter at index {i}').get(key, f'{key} value')
            if key=='lr': why = f'in {r}'
            else: why = f'in {r}, as {by} declares' if by else "finite; a callback that takes infinity declares it: Range('(0,inf]')"
            raise ValueError(f"Invalid {what}: {v}; {who} needs it {why}")

def frozen(v):
    "Return `v` with numbers in place of tensors, so that it can be hashed and compared."
    return tuple(map(number, v)) if isinstance(v, (tuple,list)) else number(v)

@lru_cache(4096)
def torch_takes(algorithm, key, v):
    "Whether torch.optim has this algorithm, and its argument `key` accepts the finite value `v`"
    cls = getattr(torch.optim, algorithm, None)
    if not isinstance(cls, type) or key not in inspect.signature(cls).parameters: return False
    if not all(math.isfinite(x) for x in (v if isinstance(v, tuple) else (v,)) if isinstance(x, Real)): return False
    try: cls([torch.zeros(1, 1, requires_grad=True)], **{key: v})
    except (TypeError, ValueError): return False
    return True

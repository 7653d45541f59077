"""This module reads lists of callbacks. A list holds callbacks, nested lists, and at most one algorithm: its class or a `partial` of the class."""

import warnings
from functools import partial
import torch
from fastcore.basics import is_iter
from ..blocks.transforms import maximize
from ..contract.block import Block
from ..contract.chain import hashable,key_of
from ..contract.names import inside,name_of,rename,same,shown
from ..contract.state import count,zeros
from .hypers import Hypers,assign,check_kinds
from .storage import weights_in,with_storage

__all__ = ['Built', 'algorithm_of', 'algorithms', 'arguments_of', 'bound_in', 'callbacks_in', 'check_advances', 'check_apart', 'check_built',
           'check_repeats', 'flatten', 'once', 'warn_of_idle']


def callbacks_in(cbs, who):
    """Return the callbacks of `cbs`, which is an algorithm, a callback, or a nested list of them, in order.

    Raises `TypeError` for anything else: an optimizer, a class of torch.optim, the name of an algorithm. The error says what to give."""
    if not callable(cbs) and (not is_iter(cbs) or isinstance(cbs, (str,dict))):
        raise TypeError(f"{who}: cbs must be a list of callbacks or an algorithm of genopt, got {described(cbs)}{instead_of(cbs)}")
    items = flatten(cbs)
    for item in items:
        if advice := instead_of(item): raise TypeError(f"{who}: cbs has {described(item)}, which is no callback{advice}")
    return items

def flatten(cbs):
    "Return the callbacks of a nested list, in order. It leaves out falsy items, so that users can write `flag and callback`."
    if callable(cbs) or isinstance(cbs, (str,torch.Tensor)): return cbs,
    if is_iter(cbs): return tuple(c for cb in cbs for c in flatten(cb))
    return (cbs,) if cbs else ()

def described(o):
    "What `o` is, in few words: an optimizer's own `repr` has many lines"
    if isinstance(o, torch.optim.Optimizer): return f"the optimizer {type(o).__name__}(...)"
    if isinstance(o, torch.Tensor): return f"a tensor of shape {tuple(o.shape)}"
    return f"the class {o.__module__}.{o.__name__}" if isinstance(o, type) else repr(o)

def instead_of(o):
    """The words that advise what to give instead of `o`: an optimizer that is made already, a class of torch.optim, the name of an algorithm, or a
    parameter. Empty for anything else, so for a callback."""
    if algorithm_of(o): return ''
    if isinstance(o, torch.Tensor): return '; the parameters come first, and then the callbacks'
    cls = o if isinstance(o, type) else type(o)
    if not isinstance(o, str) and not issubclass(cls, torch.optim.Optimizer): return ''
    name  = o if isinstance(o, str) else cls.__name__
    if found := next((c for c in algorithms() if c.__name__.lower()==name.lower()), None):
        n = f"{'genopt.' if found.__module__.startswith('genopt.') else ''}{found.__name__}"
        return f"; give the algorithm, {n}, or partial({n}, lr=0.1) with settings"
    made_here = not isinstance(o, type) and hasattr(o, 'cbs')
    return '; give its callbacks, opt.cbs' if made_here else '; genopt.list_algorithms() returns the names of the algorithms'


# -- The algorithm in a list --

def algorithm_of(item):
    "Return the algorithm that `item` stands for, or None if `item` is a callback."
    cls = inside(item)
    return cls if isinstance(cls, type) and getattr(cls, 'arguments', None) else None

def algorithms(base=torch.optim.Optimizer):
    "All algorithms of this process: genopt's and the user's"
    for cls in base.__subclasses__():
        if algorithm_of(cls): yield cls
        yield from algorithms(cls)

def arguments_of(items, who):
    "Return the arguments of the algorithm in a list, with their defaults. Raises if the list has two algorithms."
    found = [*filter(algorithm_of, items)]
    if len(found)>1:
        raise TypeError(f"{who}: {name_of(found[0])} and {name_of(found[1])} in one list would each move every parameter; "
                        "give each a group of its own: dict(params=..., cbs=...)")
    return with_defaults(found[0]) if found else {}

def with_defaults(item):
    "Return the arguments of an algorithm with their defaults. A `partial` replaces defaults, and may use either spelling."
    cls = algorithm_of(item)
    values = dict(cls.arguments)
    if isinstance(item, partial):
        if item.args: raise TypeError(f"{cls.__name__}: partial gives {item.args[0]!r} by position; name the argument")
        assign(Hypers(values), item.keywords, f"partial({cls.__name__})")
        check_kinds(values, cls.arguments, cls.arguments, f"partial({cls.__name__})")
    return values

def bound_in(items):
    "Return the names that a `partial` of the algorithm in a list sets."
    return {k for item in items if algorithm_of(item) and isinstance(item, partial) for k in item.keywords}

def build(cls, values):
    "Call the algorithm `cls` with its arguments, and return its callbacks."
    cbs = cls.build(**{n: values[n] for n in cls.arguments})
    if callable(cbs) or is_iter(cbs) and not isinstance(cbs, (str,dict)): return flatten(cbs)
    raise TypeError(f"{cls.__name__} returned {type(cbs).__name__}; it must return a list of callbacks. Adam.build() is the list of Adam")


# -- The callbacks of a list --

class Built:
    """The callbacks of a list. The algorithm in the list, if there is one, is called with `values`. `flipped` puts `maximize` before all callbacks.
    `store` says in which dtypes states are stored.

    `cbs`: all callbacks, in order.
    `weights`: the policy for parameters that `store` has.
    `algorithm`: the name of the algorithm.
    `inner`: the callbacks of the algorithm.
    `outer`: the other callbacks.
    `repeats`: the repeated callbacks that `once` has left out."""
    def __init__(self, items, values, flipped=False, store=None):
        self.algorithm = ''
        self.weights = weights_in(store)
        self.inner = []
        self.outer = [maximize] if flipped else []
        cbs = [*self.outer]
        stored = (lambda cb: with_storage(cb, store)) if store else (lambda cb: cb)
        for item in items:
            if cls := algorithm_of(item):
                self.algorithm = cls.__name__
                self.inner = [stored(cb) for cb in build(cls, values)]
                cbs += self.inner
            else:
                self.outer.append(stored(item))
                cbs.append(self.outer[-1])
        self.cbs,self.repeats = once(cbs)
        self.key = key_of(self.cbs)

    def has_inside(self, cb):
        "Whether only the algorithm has `cb`. A user can neither move nor rename such a callback."
        return among(cb, self.inner) and not among(cb, self.outer)

def among(cb, cbs): return any(same(cb)==same(o) for o in cbs)

def once(cbs):
    """Return `cbs` without repeated callbacks, and a list of the repeats. A callback is repeated if it keeps a state and the same callback with the
    same names stands before it. It must run only once, because a step advances a state once. A repeat is a pair of indices into the returned `cbs`:
    that of the callback that stays, and that of the place where the repeated one stood."""
    res,repeats,first = [],[],{}
    for cb in cbs:
        key = hashable(same(cb))
        if key in first and Block(cb).state: repeats.append((first[key], len(res)))
        else:
            first.setdefault(key, len(res))
            res.append(cb)
    return res,repeats


# -- Checks --

def check_built(built, again, declared, who):
    """Raise if the algorithm makes a new function as a callback each time it is called: `again` is the result of a second call. Raises if a
    `partial` of a callback sets an argument of the algorithm, one of `declared`."""
    who = built.algorithm or who
    for a,b in zip(built.inner, again.inner):
        if same(a)!=same(b):
            raise TypeError(f"{who} defines {name_of(a)} anew at each call; define it outside, so that all groups have the same function")
    for cb in built.inner:
        for k in fixed(cb):
            if k in declared: raise TypeError(f"{who}: partial({name_of(cb)}, {k}=...) gives {k!r}, which {who} has as an argument; leave one out")

def fixed(cb):
    "Return the names that a `partial` sets, as the chain calls them."
    if isinstance(cb, rename): return {cb.names.get(n,n) for n in fixed(cb.func)}
    return cb.keywords.keys()|fixed(cb.func) if isinstance(cb, partial) else set()

def check_apart(inner, outer, arguments, algorithm, who):
    """Raise if the algorithm and a callback in `outer` both have a hyper-parameter of one name, with different defaults. These are two things, but a
    group keeps only one value for a name. The algorithm has its `arguments` and the hyper-parameters of its callbacks `inner`. A callback in `outer`
    that is also in `inner` shares the algorithm's hyper-parameters."""
    if not outer: return
    further = {}                                                            # defaults that the algorithm's callbacks declare
    for b in map(Block, inner):
        for n,v in b.hypers.items(): further.setdefault(n, []).append(v)
    for b in [Block(cb) for cb in outer if not among(cb, inner)]:
        for n,v in b.hypers.items():
            others = [arguments[n]] if n in arguments else further.get(n, [])
            for other in others:
                if other!=v: raise ValueError(f"{who}: {b} has {n}={v!r} and {algorithm} has {n}={other!r}: two hyper-parameters with one name; "
                                              f"rename that of {b}: {apart(b.cb, n)}")

def check_repeats(chain, repeats, returns, who):
    """Raise if a callback stands twice in the list and what it reads changes between the two places. It would then advance its state twice.
    `returns`: the names that each callback returns."""
    for i,j in repeats:
        b = chain.every[i]
        reads = what_makes(b.names)-b.state.keys()
        for o in chain.every[i:j]:
            if changed := reads&{*returns.get(o, ())}:
                by = 'it' if o==b else o
                raise ValueError(f"{who}: the list has {b} twice, and {by} changes {min(changed)!r} in between, so each step would update "
                                 f"{min(b.state)!r} twice; leave one out, or give one a state of its own: {apart(b.cb, min(b.state))}")

def what_makes(names):
    "Return `names` and the names from which the engine computes them if no callback returns them."
    names = {*names}
    if 'new_p' in names: names |= {'p', 'lr', 'update'}
    if 'update' in names: names |= {'grad'}
    return names

def check_advances(chain, advances, built, who):
    "Raise if two callbacks declare the same state and both give it a new value in each step."
    for n in chain.state:
        both = [b for b in chain.every if n in b.state and n in advances.get(b, ())]
        if len(both)<2: continue
        b = next((b for b in both if built and not built.has_inside(b.cb)), both[-1])
        other = next(o for o in both if o is not b)
        raise ValueError(f"{who}: {b} and {other} both update the state {n!r}, so each step would update it twice; leave one out, or give one a "
                         f"state of its own: {apart(b.cb, n)}")

def warn_of_idle(chain, returns, who):
    "Warn of a state that starts at zero, and that no callback has returned in the rehearsal."
    returned = {n for names in returns.values() for n in names}
    for b in chain.every:
        for n,init in b.state.items():
            if n in returned or init not in (zeros, count): continue
            # stacklevel: the line that makes the optimizer
            warnings.warn(f"{who}: {b} declares the state {n}={init} and has not returned it in three trial steps, so it stays 0. A state changes "
                          f"only if a callback returns it: let {b} return dict({n}=...) as well, or add a callback that does", stacklevel=10)

def apart(cb, n):
    "Return the `rename` with which a user gives the `n` of `cb` a name of its own."
    return f"rename({shown(cb)}, {n}='{name_of(cb)}_{n}')"

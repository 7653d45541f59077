"""What stands in a list: callbacks, nested lists of them, and at most one algorithm, as its class or as a `partial` of that."""

from functools import partial
from fastcore.basics import is_iter
from ..blocks.transforms import maximize
from ..contract.block import Block
from ..contract.chain import hashable,key_of
from ..contract.names import inside,name_of,rename,same,shown
from .hypers import Hypers,assign,check_kinds

__all__ = ['Built', 'algorithm_of', 'arguments_of', 'check_advances', 'check_apart', 'check_built', 'check_repeats', 'flatten', 'once']


def flatten(cbs):
    "The callbacks of a nested list, in order; what is falsy is left out, so that `flag and callback` works"
    if callable(cbs) or isinstance(cbs, str): return cbs,
    if is_iter(cbs): return tuple(c for cb in cbs for c in flatten(cb))
    return (cbs,) if cbs else ()


# -- The algorithm in a list --

def algorithm_of(item):
    "The algorithm that `item` stands for, None for a callback"
    cls = inside(item)
    return cls if isinstance(cls, type) and getattr(cls, 'arguments', None) else None

def arguments_of(items, who):
    "The arguments of the algorithm in a list, if there is one, with defaults"
    found = [*filter(algorithm_of, items)]
    if len(found)>1:
        raise TypeError(f"{who}: {name_of(found[0])} and {name_of(found[1])} in one list would each move every parameter; "
                        "give each a group of its own: dict(params=..., cbs=...)")
    return with_defaults(found[0]) if found else {}

def with_defaults(item):
    "The arguments of an algorithm; what a `partial` of it gives, in either spelling, are their defaults"
    cls = algorithm_of(item)
    values = dict(cls.arguments)
    if isinstance(item, partial):
        if item.args: raise TypeError(f"{cls.__name__}: partial gives {item.args[0]!r} by position; name the argument")
        assign(Hypers(values), item.keywords, f"partial({cls.__name__})")
        check_kinds(values, cls.arguments, cls.arguments, f"partial({cls.__name__})")
    return values

def build(cls, values):
    "The callbacks of the algorithm `cls`"
    cbs = cls.build(**{n: values[n] for n in cls.arguments})
    if callable(cbs) or is_iter(cbs) and not isinstance(cbs, (str,dict)): return flatten(cbs)
    raise TypeError(f"{cls.__name__} returned {type(cbs).__name__}; an algorithm returns the list of its callbacks, another's are Adam.build()")


# -- The callbacks of a list --

class Built:
    """The callbacks `cbs` of a list whose algorithm has its arguments at `values`. `inner` are those of the algorithm, which is called `algorithm`,
    and `outer` the others. `repeats`: callbacks that are left out because they stand before as well, see `once`"""
    def __init__(self, items, values, flipped=False):
        self.inner,self.outer,self.algorithm = [],[maximize] if flipped else [],''
        cbs = [*self.outer]
        for item in items:
            cls = algorithm_of(item)
            if cls: self.inner,self.algorithm = [*build(cls, values)],cls.__name__
            else: self.outer.append(item)
            cbs += self.inner if cls else [item]
        self.cbs,self.repeats = once(cbs)
        self.key = key_of(self.cbs)

    def has_inside(self, cb):
        "Whether `cb` comes from the algorithm alone, where a user can neither move nor rename it"
        return among(cb, self.inner) and not among(cb, self.outer)

def among(cb, cbs): return any(same(cb)==same(o) for o in cbs)

def once(cbs):
    """`cbs` without those that keep a state and stand before as well: the same callback under the same names is one, because a state is advanced
    once a step. And those, each as the index of the one that stays and the index before which it stood"""
    res,repeats,first = [],[],{}
    for cb in cbs:
        key = hashable(same(cb))
        if key in first and Block(cb).state: repeats.append((first[key], len(res)))
        else:
            first.setdefault(key, len(res))
            res.append(cb)
    return res,repeats


# -- What is refused --

def check_built(built, again, declared, who):
    "Refuse callbacks that an algorithm makes anew whenever it is asked, and `partial`s that give what the algorithm has as an argument"
    who = built.algorithm or who
    for a,b in zip(built.inner, again.inner):
        if same(a)!=same(b): raise TypeError(f"{who} makes {name_of(a)} anew at each call; define it outside, so that it is the same for all groups")
    for cb in built.inner:
        for k in fixed(cb):
            if k in declared: raise TypeError(f"{who}: partial({name_of(cb)}, {k}=...) gives {k!r}, which {who} has as an argument; leave one out")

def fixed(cb):
    "Names that a `partial` gives a value, under what it is called in the chain"
    if isinstance(cb, rename): return {cb.names.get(n,n) for n in fixed(cb.func)}
    return cb.keywords.keys()|fixed(cb.func) if isinstance(cb, partial) else set()

def check_apart(inner, outer, arguments, algorithm, who):
    """Refuse a hyper-parameter that the `algorithm`, or one of its callbacks `inner`, and one of the callbacks `outer` beside it both have, with
    different defaults: they are two things, and a group keeps one value of a name. A callback that is one of the algorithm's has the algorithm's"""
    if not outer: return
    further = {}                                                            # what the algorithm's callbacks have besides its `arguments`
    for b in map(Block, inner):
        for n,v in b.hypers.items(): further.setdefault(n, []).append(v)
    for b in [Block(cb) for cb in outer if not among(cb, inner)]:
        for n,v in b.hypers.items():
            others = [arguments[n]] if n in arguments else further.get(n, [])
            for other in others:
                if other!=v: raise ValueError(f"{who}: {b} has {n}={v!r} and {algorithm} has {n}={other!r}, which are two things of one name; "
                                              f"give that of {b} another: {apart(b.cb, n)}")

def check_repeats(chain, repeats, returns, who):
    "Refuse a callback that stands twice if both would not come to the same, because what it reads has changed in between"
    for i,j in repeats:
        b = chain.every[i]
        reads = what_makes(b.names)-b.state.keys()
        for o in chain.every[i:j]:
            if changed := reads&{*returns.get(o, ())}:
                by = 'it' if o==b else o
                raise ValueError(f"{who}: {b} stands twice in the list, and {by} changes {min(changed)!r} in between, so it would advance "
                                 f"{min(b.state)!r} twice; leave one out, or give one a state of its own: {apart(b.cb, min(b.state))}")

def what_makes(names):
    "`names`, and those that they are made of where no callback has returned them"
    names = {*names}
    if 'new_p' in names: names |= {'p', 'lr', 'update'}
    if 'update' in names: names |= {'grad'}
    return names

def check_advances(chain, advances, built, who):
    "Refuse two callbacks that both declare a state and give it a new value in each step"
    for n in chain.state:
        both = [b for b in chain.every if n in b.state and n in advances.get(b, ())]
        if len(both)<2: continue
        b = next((b for b in both if built and not built.has_inside(b.cb)), both[-1])
        other = next(o for o in both if o is not b)
        raise ValueError(f"{who}: {b} and {other} both advance the state {n!r}, which would be advanced twice a step; leave one out, or give one a "
                         f"state of its own: {apart(b.cb, n)}")

def apart(cb, n):
    "How to give what `cb` calls `n` a name of its own"
    return f"rename({shown(cb)}, {n}='{name_of(cb)}_{n}')"

"""What a group of parameters runs: callbacks, which may depend on its hyper-parameters, and how those are spelled. An optimizer has one recipe;
a group that brings `cbs` of its own has another."""

from operator import itemgetter
from fastcore.basics import is_iter
from torch import Tensor
from torch.nn.parameter import is_lazy
from ..contract.chain import chain_of,hashable,learned_of
from ..contract.names import name_of,same
from ..contract.tensors import is_plain,number,plain,shared
from ..run.choose import on_device
from ..blocks.transforms import maximize
from .hypers import Hypers,aliases,ambiguous,assign,at,check_flags,check_kinds,check_ranges,engine_flags,names_in,ranges,reserved,to_short,to_torch
from .rehearsal import check_built,rehearse,unexpected

__all__ = ['Recipe', 'entered', 'flatten', 'keep_plain', 'taken']


def is_algorithm(c): return isinstance(c, type) and bool(getattr(c, 'arguments', None))
def arguments(items, who):
    "The arguments of the algorithm in a list, if there is one, with defaults"
    found = [*filter(is_algorithm, items)]
    if len(found)>1:
        raise TypeError(f"{who}: {found[0].__name__} and {found[1].__name__} in one list would each move every parameter; "
                        "give each a group of its own: dict(params=..., cbs=...)")
    return found[0].arguments if found else {}
def expand(items, values):
    "The callbacks of a list, with those of an algorithm in it at `values`"
    def built(cls):
        cbs = cls.build(**{n: values[n] for n in cls.arguments})
        if callable(cbs) or is_iter(cbs) and not isinstance(cbs, (str,dict)): return cbs
        raise TypeError(f"{cls.__name__} returned {type(cbs).__name__}; an algorithm returns the list of its callbacks, another's are Adam.build()")
    return flatten([built(c) if is_algorithm(c) else c for c in items])

def taken(items, group, who):
    "The values of `group` that the callbacks `items` take as hyper-parameters"
    args = arguments(items, who)
    asks = chain_of(expand(items, args)).asks
    return {k: v for k,v in group.items() if k in args or k in asks or k in aliases and asks.issuperset(names_in(k, v))}

def flatten(cbs):
    "The callbacks of a nested list, in order; what is falsy is left out, so that `flag and callback` works"
    if callable(cbs) or isinstance(cbs, str): return cbs,
    if is_iter(cbs): return tuple(c for cb in cbs for c in flatten(cb))
    return (cbs,) if cbs else ()

def of_callbacks(cbs, hypers, who):
    "The hyper-parameters that the callbacks `cbs` declare or are given, with defaults; and those given, in the spelling of callbacks"
    chain = chain_of(cbs)
    short = to_short(hypers, chain.asks)
    declared = {n: chain.default(n, 0. if n=='lr' else None) for n in ('lr', *short) if n in short and n in chain.asks}
    declared|= chain.hypers(known=short)
    if bad := [n for n in short if n not in declared]: raise TypeError(unexpected(bad[0], declared, who))
    if 'lr' not in declared: raise TypeError(f"{who} needs a learning rate: lr=...")
    return declared,short

def entered(k, v):
    "The value `v` for `k` as a group keeps it. A tensor may hold all members of a tuple"
    several = isinstance(v, Tensor) and v.ndim==1 and len(v)>1 and len(aliases.get(k, ()))>1
    return shared(tuple(v.unbind()) if several else v)

def keep_plain(group, keys):
    "Bring the values of `keys` in `group` into that form: a schedule may have set NumPy's, which a checkpoint would carry"
    for k in keys:
        if not is_plain(group[k]): group[k] = entered(k, group[k])


class Settings:
    "What the groups that are alike have in common: the chain, the numbers that it reads, the way it is to be run"
    def __init__(self, recipe, group, key):
        self.types = [*map(type, key)]
        self.chain = recipe.chain(group, rehearsed=False)
        self.capturable = bool(group['capturable'])
        if not self.capturable: recipe.check_set(group, key, self.chain)
        self.numbers = recipe.hypers(group, self.chain, (lambda v: v) if self.capturable else number)
        if self.capturable and group['params']: self.numbers['lr'] = on_device(self.numbers['lr'], group['params'][0].device)
        self.way = 'launch' if group['fused'] else 'reference' if group['foreach'] is False else 'foreach' if group['foreach'] else None

class Recipe:
    """The callbacks `cbs`: a flat list, in which an algorithm's class stands for its callbacks, or the class of an algorithm. `arguments`: those of
    such classes. `defaults`: the hyper-parameters of a group that says nothing, in torch's spelling, with `hypers` set. `own`: names that
    callbacks read themselves and that so are no other's spelling"""
    def __init__(self, name, cbs, hypers):
        self.name,self.cbs,self.items = name,cbs,cbs if isinstance(cbs, tuple) else (cbs,)
        self.arguments = arguments(self.items, name)
        self.built,self.fine,self.known,self.seen,self.own = set(),set(),{},{},None
        hypers = {k: entered(k, v) for k,v in hypers.items()}
        flags = {k: v for k,v in hypers.items() if k in engine_flags}
        given = {k: v for k,v in hypers.items() if k not in engine_flags}
        declared = self.arguments
        if not self.arguments: declared,given = of_callbacks(cbs, given, name)
        elif len(self.items)>1:                                 # beside an algorithm other callbacks, with hyper-parameters of their own
            chain,view = chain_of(expand(self.items, declared|given)),Hypers(to_torch(declared))
            declared = declared | chain.hypers(known=view) | {n: chain.default(n, None) for n in given if n in chain.asks and n not in view}
        if bad := declared.keys()&reserved: raise TypeError(f"{name} has {min(bad)!r} itself; a callback cannot declare it")
        own = {k for k in ambiguous if k in declared and declared.keys()&{*aliases[k]}}
        while own!=self.own:                                    # whose spelling an ambiguous name is depends on the chain, and that on the values
            self.own = own
            self.declared = to_torch(declared, own)|engine_flags
            values = dict(self.declared)
            assign(Hypers(values, own), given|flags, name)
            check_kinds(values, self.declared, self.strict, name)
            own = own|self.chain(values, rehearsed=False).asks&ambiguous
        more = self.check(values, name).hypers(known=Hypers(values, own))                 # of callbacks that say more than the signature
        self.defaults = {k: shared(v) for k,v in (values|to_torch(more, own)).items()}
        self.values_of = itemgetter(*self.defaults)                                       # what a group says, as a tuple

    @property
    def strict(self): return {'lr', *self.arguments, *engine_flags}
    def view(self, group):
        "The hyper-parameters of `group` in either spelling, live"
        return Hypers(group, self.own)
    def check(self, group, who):
        "The chain of `group`, if that and its values can work"
        self.check_values(group, who)
        return self.chain(group)
    def check_values(self, group, who):
        "Refuse values that cannot work; what has been checked once is not checked again"
        values = [group[k] for k in self.declared]
        key = tuple((type(v), v) for v in values) if not any(isinstance(v, (Tensor,list)) for v in values) else None
        try:
            if key is not None and key in self.fine: return
        except TypeError: key = None                                        # a value that has no hash
        self.check_values_anew(group, who)
        if key is not None: self.fine.add(key)
    def check_values_anew(self, group, who):
        check_flags(group, who, self.name)
        check_kinds(group, self.declared, self.strict, who)
        check_ranges(self.view(group), self.declared, self.chain(group, rehearsed=False), who)

    def check_set(self, group, key, chain):
        "The same for values that were set since, by a schedule perhaps: quick if only numbers have changed, and are in their ranges"
        seen = chain,*(v for v in key if type(v) not in (int,float,tuple))
        plain = lambda v: type(v) in (int,float)
        if seen in self.seen and all(plain(v := at(group, k, i)) and v in r for k,i,r in self.seen[seen]): return
        self.check_values(group, self.name)
        self.seen[seen] = [(k, i, r) for k,i,r,_ in ranges(self.view(group), self.declared, chain) if plain(at(group, k, i))]

    def build(self, group):
        "The callbacks of `group`"
        hypers = self.view(group)
        return flatten([group['maximize'] and maximize, expand(self.items, {n: group[n] if n in group else hypers[n] for n in self.arguments})])
    def chain(self, group, rehearsed=True):
        "The chain of `group`, which may depend on its hyper-parameters; the same object for the same callbacks"
        cbs = self.build(group)
        key = tuple(hashable(same(cb)) for cb in cbs)
        if key not in self.built:
            check_built(cbs, self.build(group), self.view(self.declared) if self.arguments else (), self.name)
            self.built.add(key)
        chain = chain_of(cbs)
        if not rehearsed or not group.get('params'): return chain
        known = learned_of(chain).rehearsed
        hypers = self.hypers(group, chain)
        kind   = tuple((n, v) for n,v in hypers.items() if not isinstance(v, float))               # flags and names; a number may be another
        for p in group['params']:
            if not is_lazy(p) and (p.shape, p.dtype, p.device, kind) not in known: rehearse(chain, p, hypers, kind, self.name)
        chain = chain_of(cbs)
        if not self.arguments and (bad := [n for n in hypers if n not in chain.asks]): raise TypeError(unexpected(bad[0], chain.asks, self.name))
        return chain
    def hypers(self, group, chain, read=number):
        "The values of `group` that `chain` reads, as plain numbers"
        hypers = Hypers(group, self.own|chain.asks&ambiguous)
        return chain.hypers(known=hypers) | {n: read(hypers[n]) for n in chain.asks if n in hypers}
    def settings(self, group):
        "Chain, numbers and way of running of `group`: one object for all groups that are alike"
        key = tuple([group[k] for k in self.defaults])
        if group['capturable']: key = *key,*dict.fromkeys(p.device for p in group['params'])           # where the numbers are; a group may be empty
        try: found = self.known.get(key)
        except TypeError: found = None                                      # a list in it
        if not found or found.types!=[*map(type, key)]:
            if not group['capturable']: key = tuple(number(plain(v)) if not isinstance(v, (tuple,list)) else tuple(map(number, v)) for v in key)
            found = self.known.get(key)
            if not found or found.types!=[*map(type, key)]:
                if len(self.known)>100: self.known,self.seen = {},{}
                self.known[key] = found = Settings(self, group, key)
        return found

    def same(self, other):
        "Whether `other` runs the same callbacks with the same hyper-parameters declared"
        cbs = lambda r: [*map(same, r.items)]
        return cbs(self)==cbs(other) and self.declared==other.declared and self.own==other.own
    def __getstate__(self): return vars(self)|dict(built=set(), fine=set(), known={}, seen={})
    def __repr__(self): return self.name if isinstance(self.cbs, type) else ' > '.join(map(name_of, self.cbs)) or 'grad'

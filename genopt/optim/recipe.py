"""What a group of parameters runs: callbacks, which may depend on its hyper-parameters, and how those are spelled. An optimizer has one recipe;
a group that brings `cbs` of its own has another."""

from operator import itemgetter
from torch import Tensor
from torch.nn.parameter import is_lazy
from ..contract.chain import chain_of,learned_of
from ..contract.names import name_of,same
from ..contract.tensors import is_plain,number,plain,shared
from ..run.choose import on_device
from .hypers import Hypers,aliases,ambiguous,assign,at,check_flags,check_kinds,check_ranges,engine_flags,names_in,ranges,reserved,to_short,to_torch
from .lists import Built,algorithm_of,arguments_of,check_advances,check_apart,check_built,check_repeats,flatten
from .rehearsal import Unprovided,rehearse,remedy,unexpected

__all__ = ['Recipe', 'entered', 'flatten', 'keep_plain', 'taken']


def taken(items, group, who):
    "The values of `group` that the callbacks `items` take as hyper-parameters"
    args = arguments_of(items, who)
    asks = chain_of(Built(items, args).cbs).asks
    return {k: v for k,v in group.items() if k in args or asked(k, v, asks)}

def asked(k, v, asks):
    "Whether callbacks that ask for the names `asks` take the value `v` of `k`, in either spelling"
    return k in asks or k in aliases and asks.issuperset(names_in(k, v))

def of_callbacks(cbs, hypers, who):
    "The hyper-parameters that the callbacks `cbs` declare or are given, with defaults; and those given, in the spelling of callbacks"
    chain = chain_of(cbs)
    short = to_short(hypers, chain.asks)
    declared = {n: chain.default(n, 0. if n=='lr' else None) for n in ('lr', *short) if n in short and n in chain.asks}
    declared|= chain.hypers(known=short)
    if bad := [n for n in short if n not in declared]: raise TypeError(unexpected(bad[0], declared, chain, who))
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
    """The callbacks `cbs`: a flat list, in which an algorithm's class, or a `partial` of it, stands for its callbacks, or the class of an algorithm.
    `arguments`: those of that class, with defaults. `defaults`: the hyper-parameters of a group that says nothing, in torch's spelling, with `hypers`
    set. `own`: names that callbacks read themselves and that so are no other's spelling"""
    def __init__(self, name, cbs, hypers):
        self.name,self.cbs,self.items = name,cbs,cbs if isinstance(cbs, tuple) else (cbs,)
        self.arguments = arguments_of(self.items, name)
        self.algorithm    = next((cls.__name__ for cls in map(algorithm_of, self.items) if cls), '')
        self.of_algorithm = Hypers(to_torch(self.arguments))
        self.built,self.fine,self.known,self.seen,self.own = set(),set(),{},{},None
        hypers = {k: entered(k, v) for k,v in hypers.items()}
        flags = {k: v for k,v in hypers.items() if k in engine_flags}
        given = {k: v for k,v in hypers.items() if k not in engine_flags}
        if self.arguments: declared = self._declared(given)
        else: declared,given = of_callbacks(cbs, given, name)
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

    def _declared(self, given):
        "The hyper-parameters of the algorithm, those of the callbacks beside it, and any that its callbacks have and that is among the `given`"
        values = to_torch(self.arguments)
        view   = Hypers(values)
        assign(view, {k: v for k,v in given.items() if k in view}, self.name)
        check_kinds(values, to_torch(self.arguments), self.strict, self.name)
        chain  = chain_of(self.together(values|engine_flags).cbs)
        more   = {k: v for k,v in given.items() if asked(k, v, chain.asks) and not any(n in view for n in (k, *aliases.get(k, ())))}
        names  = [*to_short(more, chain.asks)]
        beside = chain.hypers(known={*view, *names}) if len(self.items)>1 else {}
        return self.arguments | beside | {n: chain.default(n, None) for n in names}

    @property
    def strict(self): return {'lr', *self.arguments, *engine_flags}
    def view(self, group):
        "The hyper-parameters of `group` in either spelling, live"
        return Hypers(group, self.own or ())
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
        check_ranges(self.view(group), self.declared, self.chain(group, rehearsed=False), who, self.algorithm)

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
        return Built(self.items, {n: group[n] if n in group else hypers[n] for n in self.arguments}, group['maximize'])
    def together(self, group):
        "The callbacks of `group`, if they can stand together"
        built = self.build(group)
        if built.key not in self.built:
            check_built(built, self.build(group), self.of_algorithm, self.name)
            check_apart(built.inner, built.outer, self.of_algorithm, self.algorithm, self.name)
            self.built.add(built.key)
        return built
    def chain(self, group, rehearsed=True):
        "The chain of `group`, which may depend on its hyper-parameters; the same object for the same callbacks"
        built = self.together(group)
        chain = chain_of(built.cbs)
        if not rehearsed or not group.get('params'): return chain
        hypers = self.hypers(group, chain)
        self.rehearse(chain, group['params'], hypers, built)
        chain,named = chain_of(built.cbs),{*self.arguments, *self.of_algorithm}
        if bad := [n for n in hypers if n not in chain.asks and n not in named]: raise TypeError(unexpected(bad[0], chain.asks, chain, self.name))
        return chain
    def rehearse(self, chain, params, hypers, built):
        "Try the callbacks on each kind of parameter that they have not been tried on"
        kind    = tuple((n, v) for n,v in hypers.items() if not isinstance(v, float))              # flags and names; a number may be another
        learned = learned_of(chain)
        for p in params:
            if is_lazy(p) or (p.shape, p.dtype, p.device, kind) in learned.rehearsed: continue
            try: rehearse(chain, p, hypers, kind, self.name)
            except Unprovided as e: raise ValueError(f"{e}{remedy(e, built, self.of_algorithm)}") from None
        check_repeats(chain, built.repeats, learned.returns, self.name)
        check_advances(chain, learned.advances, built, self.name)
    def hypers(self, group, chain, read=number):
        "The values of `group` that `chain` reads, as plain numbers"
        hypers = Hypers(group, self.own|chain.asks&ambiguous)
        return chain.hypers(known=hypers) | {n: read(hypers[n]) for n in chain.asks if n in hypers}
    def in_common(self, group, chain=None):
        "What callbacks that run once over all parameters read of `group`, and so must find the same in all groups: (callback, name) -> value"
        chain = chain or self.chain(group)
        if not group['params'] or not any(b.is_global for b in chain.blocks): return {}
        res,provided,hypers = {},set(),self.hypers(group, chain)
        for b in chain.blocks:
            if b.is_global: res |= {(b, n): hypers[n] for n in b.reads if n in hypers and n not in b.lists and n not in provided}
            provided |= {*learned_of(chain).returns.get(b, ())}
        return res
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

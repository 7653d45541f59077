"""A `Recipe` makes the chain of callbacks that a param group runs. The chain may depend on the group's hyper-parameters.

An optimizer has one recipe. A group with `cbs` of its own has another."""

from operator import itemgetter
from torch import Tensor
from torch.nn.parameter import is_lazy
from ..contract.chain import chain_of,learned_of
from ..contract.names import name_of,same
from ..contract.tensors import is_plain,number,shared
from .hypers import (Hypers,aliases,ambiguous,assign,at,check_flags,check_kinds,check_ranges,engine_flags,frozen,names_in,ranges,reserved,
                     to_short,to_torch)
from .lists import Built,algorithm_of,arguments_of,check_advances,check_apart,check_built,check_repeats,flatten,warn_of_idle
from .rehearsal import Unprovided,rehearse,remedy,unexpected
from .settings import Settings,Shortcut,looked_at
from .storage import policies

__all__ = ['Recipe', 'entered', 'flatten', 'keep_plain', 'taken']


def taken(items, group, who):
    "Those values of `group` that are hyper-parameters of the callbacks `items`"
    args = arguments_of(items, who)
    asks = chain_of(Built(items, args).cbs).asks
    return {k: v for k,v in group.items() if k in args or asked(k, v, asks)}

def asked(k, v, asks):
    "Whether callbacks that ask for the names `asks` read the value `v` of `k`, in either spelling"
    return k in asks or k in aliases and asks.issuperset(names_in(k, v))

def of_callbacks(cbs, hypers, who):
    """Return the hyper-parameters of the callbacks `cbs` with their defaults, and the given `hypers` with the callbacks' names. A callback may read
    a given hyper-parameter that no callback declares."""
    chain = chain_of(cbs)
    short = to_short(hypers, chain.asks)
    declared = {n: chain.default(n, 0. if n=='lr' else None) for n in ('lr', *short) if n in short and n in chain.asks}
    declared|= chain.hypers(known=short)
    if bad := [n for n in short if n not in declared]: raise TypeError(unexpected(bad[0], declared, chain, who))
    if 'lr' not in declared: raise TypeError(f"{who} needs a learning rate: lr=..., for groups that give none")
    return declared,short

def entered(k, v):
    "Return the value `v` of `k` in the form that a group keeps. It splits a tensor that holds all members of a tuple."
    if k=='store': return policies(v)
    several = isinstance(v, Tensor) and v.ndim==1 and len(v)>1 and len(aliases.get(k, ()))>1
    return shared(tuple(v.unbind()) if several else v)

def keep_plain(group, keys):
    "Bring the values of `keys` in `group` into that form. A schedule may have set NumPy numbers, and a checkpoint must not contain them."
    for k in keys:
        if not is_plain(group[k]): group[k] = entered(k, group[k])


class Recipe:
    """Makes the callbacks of a group from `cbs`, which is the class of an algorithm or a flat list. In a list, the class of an algorithm, or a
    `partial` of the class, stands for the algorithm's callbacks.

    `arguments`: the arguments of that algorithm, with their defaults.
    `defaults`: the hyper-parameters of a group that sets none, with torch's names. They include the `hypers` given here.
    `declared`: the same hyper-parameters with the values that the callbacks declare.
    `own`: names that callbacks declare for themselves. The recipe does not translate those."""
    def __init__(self, name, cbs, hypers):
        self.name,self.cbs = name,cbs
        self.items        = cbs if isinstance(cbs, tuple) else (cbs,)
        self.arguments    = arguments_of(self.items, name)
        self.algorithm    = next((cls.__name__ for cls in map(algorithm_of, self.items) if cls), '')
        self.of_algorithm = Hypers(to_torch(self.arguments))
        self.built,self.fine = set(),set()
        self.forget_settings()
        self.own = None
        values = self._given_values({k: entered(k, v) for k,v in hypers.items()})
        more   = self.check(values, name).hypers(known=Hypers(values, self.own))          # callbacks may declare more than the signature shows
        self.defaults  = {k: shared(v) for k,v in (values|to_torch(more, self.own)).items()}
        self.values_of = itemgetter(*self.defaults)                                       # reads these values of a group, as a tuple

    def _given_values(self, hypers):
        "Return the declared hyper-parameters and the flags with the values in `hypers`. Sets `declared` and `own`."
        flags = {k: v for k,v in hypers.items() if k in engine_flags}
        given = {k: v for k,v in hypers.items() if k not in engine_flags}
        if self.arguments: declared = self._declared(given)
        else: declared,given = of_callbacks(self.cbs, given, self.name)
        if bad := declared.keys()&reserved: raise TypeError(f"{self.name} has an argument {min(bad)!r} of its own; rename that of the callback")
        return self._settle_own(declared, given|flags)

    def _settle_own(self, declared, given):
        """Find `own` and return the values. The chain decides what an ambiguous name means, the values decide the chain, and that meaning decides
        where the values are kept. So this repeats until `own` stays the same."""
        own = {k for k in ambiguous if k in declared and declared.keys()&{*aliases[k]}}
        while own!=self.own:
            self.own = own
            self.declared = to_torch(declared, own)|engine_flags
            values = dict(self.declared)
            assign(Hypers(values, own), given, self.name)
            check_kinds(values, self.declared, self.strict, self.name)
            own = own|self.chain(values, rehearsed=False).asks&ambiguous
        return values

    def _declared(self, given):
        """Return the hyper-parameters of the algorithm and of the callbacks beside it, with defaults. A callback of the algorithm may have further
        ones; those are included if they are `given`."""
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
    def strict(self):
        "The names whose values must be of the declared kind"
        return {'lr', *self.arguments, *engine_flags}
    def view(self, group):
        "A live view on the hyper-parameters of `group`, which accepts either spelling"
        return Hypers(group, self.own or ())
    def check(self, group, who):
        "Return the chain of `group`. Raises if the chain or a value cannot work."
        self.check_values(group, who)
        return self.chain(group)
    def check_values(self, group, who):
        "Raise if a value cannot work. It does not check the same values twice."
        values = [group[k] for k in self.declared]
        key = tuple((type(v), v) for v in values) if not any(isinstance(v, (Tensor,list)) for v in values) else None
        try:
            if key is not None and key in self.fine: return
        except TypeError: key = None                                        # some value has no hash
        self.check_values_anew(group, who)
        if key is not None: self.fine.add(key)
    def check_values_anew(self, group, who):
        check_flags(group, who, self.name)
        check_kinds(group, self.declared, self.strict, who)
        check_ranges(self.view(group), self.declared, self.chain(group, rehearsed=False), who, self.algorithm)

    def check_set(self, group, key, chain):
        """Check values that were set after construction, for example by a schedule. If only numbers have changed, it checks only that they are in
        their ranges."""
        seen = chain,*(v for v in key if type(v) not in (int,float,tuple))
        is_number = lambda v: type(v) in (int,float)
        if seen in self.seen and all(is_number(v := at(group, k, i)) and v in r for k,i,r in self.seen[seen]): return
        self.check_values(group, self.name)
        self.seen[seen] = [(k, i, r) for k,i,r,_ in ranges(self.view(group), self.declared, chain) if is_number(at(group, k, i))]

    def build(self, group):
        "Make the callbacks of `group`."
        hypers = self.view(group)
        return self.build_with({n: group[n] if n in group else hypers[n] for n in self.arguments}, group)
    def build_with(self, values, group):
        "Make the callbacks of `group` with `values` for the arguments of the algorithm."
        return Built(self.items, values, group['maximize'], group['store'])
    def together(self, group):
        "Make the callbacks of `group`. Raises if they cannot stand in one list."
        built = self.build(group)
        if built.key not in self.built:
            check_built(built, self.build(group), self.of_algorithm, self.name)
            check_apart(built.inner, built.outer, self.of_algorithm, self.algorithm, self.name)
            self.built.add(built.key)
        return built
    def chain(self, group, rehearsed=True):
        """Return the chain of `group`, which is one object for the same callbacks. If `rehearsed`, it first tries the callbacks on the group's
        parameters."""
        built = self.together(group)
        chain = chain_of(built.cbs, built.weights)
        if not rehearsed or not group.get('params'): return chain
        hypers = self.hypers(group, chain)
        self.rehearse(chain, group['params'], hypers, built)
        chain,named = chain_of(built.cbs, built.weights),{*self.arguments, *self.of_algorithm}
        if bad := [n for n in hypers if n not in chain.asks and n not in named]: raise TypeError(unexpected(bad[0], chain.asks, chain, self.name))
        return chain
    def rehearse(self, chain, params, hypers, built):
        "Try the callbacks on each kind of parameter on which they have not been tried."
        kind    = tuple((n, v) for n,v in hypers.items() if not isinstance(v, float))              # a rehearsal holds for all floats
        learned,tried = learned_of(chain),bool(learned_of(chain).rehearsed)
        for p in params:
            if is_lazy(p) or (p.shape, p.dtype, p.device, kind) in learned.rehearsed: continue
            try: rehearse(chain, p, hypers, kind, self.name)
            except Unprovided as e: raise ValueError(f"{e}{remedy(e, built, self.of_algorithm)}") from None
        check_repeats(chain, built.repeats, learned.returns, self.name)
        check_advances(chain, learned.advances, built, self.name)
        if learned.rehearsed and not tried: warn_of_idle(chain, learned.returns, self.name)
    def hypers(self, group, chain, read=number):
        "The values of `group` that `chain` reads. `read` converts each value that the group holds."
        hypers = Hypers(group, self.own|chain.asks&ambiguous)
        return chain.hypers(known=hypers) | {n: read(hypers[n]) for n in chain.asks if n in hypers}
    def in_common(self, group, chain=None):
        """Return `{(callback, name): value}` for the hyper-parameters of callbacks that run once over all parameters. These values must be the same
        in all groups."""
        chain = chain or self.chain(group)
        if not group['params'] or not any(b.is_global for b in chain.blocks): return {}
        res,provided,hypers = {},set(),self.hypers(group, chain)
        for b in chain.blocks:
            if b.is_global: res |= {(b, n): hypers[n] for n in b.reads if n in hypers and n not in b.lists and n not in provided}
            provided |= {*learned_of(chain).returns.get(b, ())}
        return res
    def settings(self, group):
        "Return the `Settings` of `group`, one object for all groups with equal values. It brings the values into the form that a group keeps."
        key = self.values_of(group)
        if found := self._kept(key): return found
        for shortcut in self.shortcuts:
            if found := shortcut.take(group, key): return self._keep(key, found)
        keep_plain(group, self.defaults)
        key = tuple([group[k] for k in self.defaults])
        if group['capturable']: key = *key,*dict.fromkeys(p.device for p in group['params'])           # a captured step reads its numbers there
        else: key = tuple(map(frozen, key))
        return self._kept(key) or self._keep(key, self._new_settings(group, key))
    def _kept(self, key):
        try: found = self.known.get(key)
        except TypeError: return None                                       # a list has no hash
        return found if found and found.types==[*map(type, key)] else None  # 1 and True are equal, and differ as settings
    def _keep(self, key, settings):
        if len(self.known)>1000: self.known,self.seen = {},{}
        self.known[key] = settings
        return settings
    def _new_settings(self, group, key):
        settings = Settings.of(self, group, key)
        odd = any(isinstance(x, (Tensor,list)) for v in self.values_of(group) for x in (v if isinstance(v, tuple) else (v,)))
        if not odd and not settings.capturable: self._add_shortcut(group, settings)
        return settings
    def _add_shortcut(self, group, settings):
        "Keep how `group` came to `settings`, for groups that differ from it in numbers alone."
        looks = looked_at(self, group)
        if looks is not None: self.shortcuts = [*self.shortcuts[-20:], Shortcut(self, group, settings, looks)]
    def forget_settings(self):
        "Forget all settings: more has been learned of what the callbacks return."
        self.known,self.seen,self.shortcuts = {},{},[]

    def same(self, other):
        "Whether `other` runs the same callbacks and declares the same hyper-parameters"
        cbs = lambda r: [*map(same, r.items)]
        return cbs(self)==cbs(other) and self.declared==other.declared and self.own==other.own
    def __getstate__(self): return vars(self)|dict(built=set(), fine=set(), known={}, seen={}, shortcuts=[])
    def __setstate__(self, state): self.__dict__ |= dict(shortcuts=[])|state                # of a pickle that knows no shortcuts
    def __repr__(self): return self.name if isinstance(self.cbs, type) else ' > '.join(map(name_of, self.cbs)) or 'grad'

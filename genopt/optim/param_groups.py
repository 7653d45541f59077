"""Param groups: how an optimizer adds one, which callbacks each runs, and what is checked before a step."""

from torch.nn.parameter import is_lazy
from .._torch import add_param_group,quiet
from ..contract.messages import did_you_mean
from ..contract.names import name_of
from ..contract.stand_ins import shape_class
from ..contract.tensors import plain,shared
from ..run.choose import check_asked
from .group import Group
from .hypers import assign,lacks,misplaced,spellings,spelt
from .lists import algorithm_of,bound_in,callbacks_in
from .parameters import check_complex,check_form,check_moves,check_params,homes
from .recipe import Recipe,entered,taken
from .storage import check_matches,check_weights

__all__ = ['ParamGroups']


class ParamGroups:
    """The part of `Optimizer` that adds param groups, and knows the recipe of each: the callbacks that it runs.

    `_recipes` has the recipes by the name that a group keeps as its `cbs`, and the optimizer's own as that of `None`."""
    _common = {}                                                        # values that groups with `cbs` of their own have as defaults, too

    def _recipe(self, group):
        "Return the recipe that `group` runs: that of the `cbs` it came with, or else the optimizer's own"
        return self._recipes[group.get('cbs')]

    def add_param_group(self, param_group):
        """Add a group of parameters, a dict with `params`, and with values and `cbs` of its own if you like.

        The optimizer copies the dict and checks it as the constructor does. If a check fails, the optimizer stays as it was.
        `cbs` is a list of callbacks or an algorithm such as `genopt.Lion`; the group then has the defaults of that algorithm, and the `lr` that the
        optimizer was given. The group and its state dict keep the name of the `cbs`.

        Raises `TypeError` or `ValueError` for a group that cannot work."""
        n = len(self.param_groups)
        who = f'{self.name}, param group {n}'
        check_form(param_group, who)
        recipe,label = self._recipe_for(param_group, who)
        group = self._with_defaults(param_group, recipe, who)
        if label: group['cbs'] = label
        known,defaults = self._recipes,self.defaults
        self._recipes = known | {label: recipe}
        common = defaults if n else recipe.defaults|defaults
        self.defaults = {k: v for k,v in common.items() if k in group}      # schedulers read `defaults`, so it has only keys of all groups
        try:
            add_param_group(self, group)
            self._wrap_groups()
            self._known = []
            with quiet(): self._check_group(group, recipe, n, who)
        except BaseException:
            del self.param_groups[n:]
            self._recipes,self.defaults = known,defaults
            raise

    def _wrap_groups(self):
        "Make each param group a `Group` that finds states in the present store"
        groups,store = self.param_groups,self.state
        groups[:] = [g if isinstance(g, Group) and g.store is store else Group(g, store) for g in groups]

    # -- the callbacks of a group --

    def _recipe_for(self, group, who):
        """Return the recipe of `group`, and the name under which the group keeps it.

        The name of the optimizer's own recipe is `None`. If another group has brought the same callbacks, this group shares its recipe."""
        cbs = group.get('cbs')
        if cbs is None or isinstance(cbs, str): return self._recipe_named(cbs, who),cbs
        new = self._new_recipe(cbs, group, who)
        for label,old in self._recipes.items():
            if label and old.same(new): return old,label
        return new,self._free_name(new)

    def _recipe_named(self, name, who):
        "Return the recipe that is kept under `name`, which is `None` for the optimizer's own"
        if name in self._recipes: return self._recipes[name]
        if name is None:
            raise ValueError(f"{who} has no cbs: give {self.name} a list of callbacks, or each group its own: dict(params=..., cbs=genopt.AdamW)")
        raise ValueError(f"{who}: cbs={name!r} names no algorithm of another group; give a list of callbacks or an algorithm")

    def _new_recipe(self, cbs, group, who):
        "Make a recipe of `cbs`, an algorithm or a list of callbacks that `group` has brought"
        if isinstance(cbs, type) and algorithm_of(cbs): return Recipe(cbs.__name__, cbs, {})
        items = callbacks_in(cbs, who)
        names = ' > '.join(map(name_of, items))
        given = spellings(group)|spellings(bound_in(items))
        common = {k: v for k,v in self._common.items() if given.isdisjoint(spellings([k]))}
        return Recipe(f'{self.name} ({names})', items, taken(items, common|group, who))

    def _free_name(self, recipe):
        "Return a name for `recipe` that no other recipe has: its `repr`, with a number if need be"
        name,n = repr(recipe),2
        while name in self._recipes:
            name = f'{recipe!r} ({n})'
            n += 1
        return name

    # -- the values of a group --

    def _with_defaults(self, param_group, recipe, who):
        "Return a new group: the defaults of `recipe`, overridden by what `param_group` gives"
        group = {k: shared(v) for k,v in (recipe.defaults|self._flags).items()}
        view  = recipe.view(group)
        assign(view, self._common_to(param_group, view, recipe.items), who)
        given = {}
        for k,v in param_group.items():
            if k=='cbs': continue
            if k in view: given[k] = entered(k, v)
            elif k in ('params', 'param_names'): group[k] = v
            elif lacks(k, plain(v), view): group[k] = plain(v)
            elif why := misplaced(k, recipe.view(recipe.defaults)): raise TypeError(f"{who} has an unexpected key {k!r}{why}")
            else: group[k] = v                                              # a note of the user's, such as a name
        assign(view, given, who)
        return group

    def _common_to(self, group, hypers, items):
        """Return the values given to the optimizer that are defaults of `group`, if it has brought its own callbacks `items`.

        They are those that these callbacks read, which have the `hypers`, and that no `partial` in `items` sets."""
        if group.get('cbs') is None: return {}
        bound = spellings(bound_in(items))
        return {k: shared(v) for k,v in self._common.items() if k in hypers and bound.isdisjoint(spellings([k]))}

    # -- checks --

    def _check_group(self, group, recipe, n, who):
        "Refuse a group whose parameters cannot be optimized, or whose callbacks cannot run on them"
        check_params(group, who)
        check_weights(group, who)
        chain = recipe.check(group, who)
        if group['store'] and group['store']!=self._flags['store']: check_matches(group['store'], chain.state, who)
        self._check_common(recipe.in_common(group, chain), n, who)
        self._check_complex(group, recipe, chain, who)
        if any(flags := (group['fused'], group['capturable'])): check_asked(chain, recipe.settings(group).numbers, homes(group), who, *flags)
        if group.get('offload'): check_moves(group, who)
        if group['capturable'] and (why := self._cannot_look(group['params'])): raise ValueError(f"{who}: capturable=True {why}")

    def _check_complex(self, group, recipe, chain, who):
        "Refuse `group` if a parameter is complex and `chain` would mistake its pairs of numbers for a dimension"
        seen = {}
        for i,p in enumerate(group['params']):
            if p.is_complex() and not is_lazy(p): seen.setdefault(shape_class(p.shape), (i, p))
        names = group.get('param_names')
        for i,p in seen.values(): check_complex(chain, p, recipe.hypers(group, chain), f"{who}: {names[i] if names else f'parameter {i}'}")

    def _check_common(self, mine, n, who):
        """Refuse values of a group that its global callbacks share with the first `n` groups, if they differ.

        `mine` maps `(callback, name)` to the value in the group."""
        for i,g in enumerate(self.param_groups[:n]):
            if not mine: return
            for (b,k),v in self._recipe(g).in_common(g).items():
                other = mine.pop((b,k), v)
                if other!=v: raise ValueError(f"{who}: {b.one_value(k, v, other)}; the first is that of param group {i}")

    def _check_store(self):
        "Refuse a pattern of the optimizer's `store` that matches no state in any group"
        if store := self._flags['store']:
            chains = [self._recipe(g).chain(g, rehearsed=False) for g in self.param_groups]
            check_matches(store, {n: init for chain in chains for n,init in chain.state.items()}, self.name)

    def _check_read(self):
        "Refuse a hyper-parameter that the callbacks of no group read"
        for k in self._common:
            views = [self._recipe(g).view(g) for g in self.param_groups]
            if any(k in view for view in views): continue
            known = [*dict.fromkeys(n for view in views for n in spelt(view))]
            near  = did_you_mean(k, [*dict.fromkeys([*known, *(n for view in views for n in view)])])
            raise TypeError(f"{self.name} got an unexpected hyper-parameter {k!r}{near}; its groups have {', '.join(known)}")

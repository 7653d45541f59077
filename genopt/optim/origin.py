"""Which algorithm has saved a param group, and whether another one may load it. genopt's files name the algorithm. In a file of torch.optim the names
of the hyper-parameters tell: torch's SGD has `dampening`, its Adam `amsgrad`.

An algorithm loads the file of another if both keep the same states, made in the same way. `made` finds this in the callbacks:

    made(AdamW, group)['sqr_avg']          # (average_sqr_grad, 'grad', 'sqr_mom')
    made(AdaBelief, group)['sqr_avg']      # (average_belief, 'grad', (average_grad, 'grad', 'mom', 'dampening=True'), 'sqr_mom', 'eps')"""

import inspect
from functools import cache
import torch
from ..contract.names import inside
from .hypers import Hypers,aliases,engine_flags,to_torch
from .lists import algorithm_of,algorithms
from .recipe import Recipe,keep_plain

__all__ = ['check_origin', 'sign', 'unsign', 'without_foreign']

remedy = ("Load it into that algorithm. Or give strict=False, which loads the states of the same name and starts the others anew")
key    = 'saved_by'                                                         # of a saved group: the name of the algorithm


def sign(recipe, group, saved: dict):
    "Write the name of the algorithm in `recipe` into `saved`, which is a copy of `group`. A note of this key that `group` itself has stays"
    cls = algorithm_in(recipe)
    if cls and key not in group: saved[key] = builder(cls).__name__

def unsign(group, saved: dict):
    "Remove what `sign` wrote for `group`"
    if key not in group: saved.pop(key, None)

def check_origin(recipe, group, saved: dict, who: str):
    """Refuse the group `saved` if another algorithm has saved it than `group` runs, which `recipe` makes, unless both keep the same states. Where
    neither a name nor the names of hyper-parameters tell, it does nothing.

    Raises `ValueError`, which names both algorithms."""
    if ours := algorithm_in(recipe):
        name = saved.get(key) if key not in group else None
        if isinstance(name, str): check_same({name}, name, ours, group, saved, who)
        if names := algorithms_of_torch(saved): check_same(names, f"torch.optim.{' or '.join(sorted(names))}", ours, group, saved, who)
    for here,there in spelt_apart(recipe.view(group), Hypers(saved, recipe.own or ())):
        raise ValueError(f"{who}: the saved group has {there!r}, where {recipe!r} has {here!r}: another algorithm has saved it. {remedy}")

def without_foreign(recipe, group, saved: dict) -> dict:
    """The group `saved` without the hyper-parameters that only the algorithm has which saved it, and not that of `group`. Otherwise Muon, which loads
    what AdamW has saved, would have `betas` beside its `momentum`, and Adam would sum gradients with the `dampening` of SGD."""
    names  = {saved.get(key)} | algorithms_of_torch(saved)
    theirs = {n for cls in algorithms() if cls.__name__ in names for n in to_torch(cls.arguments)}
    ours   = algorithm_in(recipe)
    own    = to_torch(ours.arguments) if ours else group
    return {k: v for k,v in saved.items() if k in own or k not in theirs}

def check_same(names, shown, ours, group, saved, who):
    "Refuse the group `saved` of an algorithm with one of `names`, if `ours` keeps other states. `shown`: the names in words"
    if not names.isdisjoint(c.__name__ for c in ours.__mro__): return
    args   = to_torch(ours.arguments).keys()
    mine   = made(ours, group | {k: v for k,v in saved.items() if k in args})
    theirs = [made(cls, saved | dict(params=group['params'])) for cls in algorithms() if cls.__name__ in names]
    if mine and mine in theirs: return
    why = difference(mine, theirs[0]) if theirs else f", and this process has no {shown} to compare it with"
    runs = 'the group runs' if 'cbs' in group else 'the optimizer is'
    raise ValueError(f"{who}: {shown} has saved it, and {runs} {ours.__name__}{why}. {remedy}")

def difference(mine, theirs):
    "In words how states differ, each as `made` gives them"
    if apart := [n for n in mine if n in theirs and mine[n]!=theirs[n]]: return f", which makes {', '.join(apart)} in another way"
    return ', which keeps other states' if mine.keys()!=theirs.keys() else ''


# -- Algorithms --

def algorithm_in(recipe):
    "The algorithm that `recipe` has; None for a list without one"
    return next(filter(None, map(algorithm_of, recipe.items)), None)

def builder(cls):
    "The class from which the algorithm `cls` has its callbacks. A user's subclass of Adam has them from Adam, if it does not make its own"
    return next(c for c in cls.__mro__ if 'build' in vars(c))


# -- How states are made --

def made(cls, group) -> dict:
    """How the algorithm `cls` makes each of its states with the values of `group`: the function of the callback that returns it, and what it reads.
    That is a name, a name with the value of a flag, or, where a callback before it has made the value, how that one did. None for a state that no
    callback changes.

    Weight decay may add to the gradient, which does not change what the states mean. So the ways are those without it. Empty for values with which
    `cls` cannot run."""
    try:
        recipe = Recipe(cls.__name__, cls, {})
        values = recipe.defaults | {k: group[k] for k in recipe.defaults.keys()&group.keys()-engine_flags.keys()} | dict(params=group['params'])
        keep_plain(values, recipe.defaults)
        kept   = recipe.check(values, recipe.name).state
        if 'wd' in (view := recipe.view(values)): view['wd'] = 0.
        chain  = recipe.chain(values)
        ways   = ways_in(chain, recipe.hypers(values, chain))
    except (TypeError, ValueError):
        return {}
    return {n: ways.get(n) for n in kept}

def ways_in(chain, hypers):
    "How the callbacks of `chain` make each state, by name"
    made,states = {},{}
    for b,returned in zip(chain.every, chain.returned):
        how = inside(b.cb),*(way(n, made, hypers) for n in b.names if n not in b.state)
        states |= {n: how for n in returned if n in chain.state}
        made   |= dict.fromkeys(returned, how)
    return states

def way(n, made, hypers):
    "How the value `n` is made that a callback reads. `made`: values of callbacks before it"
    if n=='update' and n not in made: n = 'grad'
    if n in made: return made[n]
    return f'{n}={hypers[n]}' if isinstance(hypers.get(n), (bool,str)) else n


# -- torch's algorithms --

@cache
def hypers_in_torch():
    "The names in a group of each algorithm of torch.optim: `{'SGD': {'lr', 'momentum', ...}}`. A class may leave some of its base's to the base"
    base = torch.optim.Optimizer
    res  = {}
    for name,cls in vars(torch.optim).items():
        if isinstance(cls, type) and issubclass(cls, base) and cls is not base:
            res[name] = {n for c in cls.__mro__[:cls.__mro__.index(base)] for n in inspect.signature(c).parameters} - {'params'}
    return res

def algorithms_of_torch(group) -> set:
    """The names of the algorithms of torch.optim that may have saved `group`; an empty set if none has. A user's own notes do not count.

        algorithms_of_torch(torch.optim.Adam(params).state_dict()['param_groups'][0])    # {'Adam', 'AdamW'}, which have the same

    An older torch had fewer hyper-parameters, so `group` may lack some. Then its flag `differentiable` tells it from a group of another library."""
    if 'store' in group: return set()                                       # every group of genopt has it
    known = hypers_in_torch()
    names = group.keys()&set().union(*known.values())
    exact = {a for a,own in known.items() if own==names}
    older = {a for a,own in known.items() if own>names and 'differentiable' in names}
    return exact or older


# -- Spellings --

def spelt_apart(ours, theirs):
    "Pairs of names under which two groups have one hyper-parameter: the `momentum` of SGD is the first of Lion's `betas`"
    for n in dict.fromkeys(n for short in aliases.values() for n in short):
        if n not in ours or n not in theirs: continue
        here,there = ours.find(n)[0],theirs.find(n)[0]
        if here!=there and here in aliases and there in aliases: yield here,there

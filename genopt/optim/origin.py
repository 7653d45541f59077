"""Which algorithm has saved a param group. The names of its hyper-parameters tell: torch's SGD has `dampening`, its Adam `amsgrad`."""

import inspect
from functools import cache
import torch
from .hypers import Hypers,aliases
from .lists import algorithm_of

__all__ = ['check_origin']

remedy = ("Load it into that algorithm. Or give strict=False, which loads the states of the same name and starts the others anew")


def check_origin(recipe, group, saved: dict, who: str):
    """Refuse the group `saved` if another algorithm has saved it than `group` runs, which `recipe` makes. Where the names of hyper-parameters do not
    tell, it does nothing.

    Raises `ValueError`, which names both algorithms."""
    theirs = algorithms_of_torch(saved)
    ours   = next(filter(None, map(algorithm_of, recipe.items)), None)
    if ours and theirs and theirs.isdisjoint(c.__name__ for c in ours.__mro__):
        raise ValueError(f"{who}: torch.optim.{' or '.join(sorted(theirs))} has saved it, and the optimizer is {ours.__name__}. {remedy}")
    for here,there in spelt_apart(recipe.view(group), Hypers(saved, recipe.own or ())):
        raise ValueError(f"{who}: the saved group has {there!r}, where {recipe!r} has {here!r}: another algorithm has saved it. {remedy}")


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

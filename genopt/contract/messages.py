"""What errors and tables call parameters and names."""

import difflib

__all__ = ['did_you_mean', 'name_in', 'names_of']


def did_you_mean(k, known):
    near = difflib.get_close_matches(k, [*known], 1)
    return f", did you mean {near[0]!r}?" if near else ''

def names_of(group, n):
    "What the parameters of group `n` are called in messages. A group that stands for a part of another has the `number` of that"
    n = getattr(group, 'number', n)
    return [f"{name} in param group {n}" for name in group.get('param_names') or [f"parameter {i}" for i in range(len(group['params']))]]

def name_in(groups, i):
    "The same for the `i`-th of all parameters"
    return [name for n,g in enumerate(groups) for name in names_of(g, n)][i]

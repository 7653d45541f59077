"A param group: the dict of torch, in which one also finds what its parameters keep as single numbers."

from numbers import Real
from torch import Tensor

__all__ = ['Group']


class Group(dict):
    """A param group. Libraries keep some numbers there that genopt keeps as states: Prodigy's `d`, which trainers log as `group['d']*group['lr']`. So
    a key that the group lacks gives the number of that name in the state of its parameters, that of the first parameter that has it. `in` and `get`
    see the dict alone, and so do state dicts and copies."""
    __slots__ = ('store',)
    def __init__(self, group, store):
        super().__init__(group)
        self.store = store
    def __missing__(self, n):
        for p in self['params']:
            v = self.store.of(p).get(n)
            if isinstance(v, Real) or isinstance(v, Tensor) and not v.ndim: return v
        raise KeyError(n)
    def __reduce__(self): return dict, (dict(self),)

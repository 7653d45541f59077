"""What is kept for each parameter: `opt.state`, a dict of dicts as torch's. Tensors lie in it. Counters do not: between steps those of many
parameters are in one `Clock`, and are read when somebody looks. Whoever writes bumps `version`, so that the plan is made anew."""

import torch
from torch import Tensor
from ..contract.state import torch_names
from ..contract.tensors import plain

__all__ = ['Clock', 'ParameterState', 'SharedClock', 'StateStore', 'cells', 'shared_cell']


class Clock:
    "The counters of parameters that count alike: `values` by name, plain numbers or, with `capturable=True`, tensors on the device"

    __slots__ = 'values', 'parameters'

    def __init__(self, values):
        self.values, self.parameters = values, 0

    def advance(self, new):
        "Take over the counters of a step. One on the device stays in its tensor"
        for n, v in new.items():
            old = self.values[n]
            if isinstance(old, Tensor):
                old.copy_(v)
            else:
                self.values[n] = v if type(v) in (int, float) else plain(v)

    def kept(self):
        "What the state of its parameters has of it"
        return self.values


class SharedClock(Clock):
    "The counters of one parameter, in shared memory: `cells`, 0-dim tensors. Other processes count there as well, so it remembers no value"

    __slots__ = ('cells',)

    def __init__(self, cells):
        self.cells, self.parameters = cells, 0

    @property
    def values(self):
        return {n: c.item() for n, c in self.cells.items()}

    def advance(self, new):
        for n, v in new.items():
            self.cells[n].fill_(v)

    def kept(self):
        return self.cells


def shared_cell(v):
    "The number `v` as a tensor in shared memory, as exact as it is"
    return torch.tensor(
        v, dtype=None if isinstance(v, (bool, int)) else torch.float64
    ).share_memory_()


def cells(state, counters):
    "Those of `counters` that `state` has in shared memory, by name"
    found = {n: state.get(n) for n in counters}
    return {n: v for n, v in found.items() if isinstance(v, Tensor) and v.is_cpu and v.is_shared()}


class Version:
    "A number that is another after each write. An object of its own, so that what is kept for a parameter need not know the store"

    __slots__ = ('number',)

    def __init__(self):
        self.number = 0

    def bump(self):
        self.number += 1


class ParameterState(dict):
    "What is kept for one parameter. Made by itself it is a plain dict; in a store it bumps the store's `version`"

    __slots__ = 'version', 'clock'

    def __init__(self, *args, **kw):
        super().__init__(*args, **kw)
        self.version = self.clock = None

    def read(self):
        "Bring the counters up to date"
        if self.clock is not None:
            dict.update(self, self.clock.kept())

    def written(self):
        "Somebody writes: what is here counts, and the store has another version"
        self.read()
        self.leave()
        if self.version is not None:
            self.version.bump()

    def join(self, clock):
        self.leave()
        self.clock = clock
        clock.parameters += 1

    def leave(self):
        if self.clock is not None:
            self.clock.parameters -= 1
        self.clock = None

    def __missing__(self, n):
        known = f'; here are {", ".join(map(repr, self))}' if len(self) else ''
        ours = torch_names.get(n)
        raise KeyError(
            f"{n!r}, which torch.optim keeps, is {ours!r} here" if ours in self else f'{n!r}{known}'
        )

    def __reduce__(self):
        return dict, (dict(self),)

    def __repr__(self):
        self.read()
        return dict.__repr__(self)


def reading(name):
    method = getattr(dict, name)

    def read(self, *args):
        self.read()
        return method(self, *args)

    read.__name__ = name
    return read


def writing(name):
    method = getattr(dict, name)

    def write(self, *args, **kw):
        self.written()
        return method(self, *args, **kw)

    write.__name__ = name
    return write


for name in (
    '__getitem__',
    '__iter__',
    '__eq__',
    '__ne__',
    '__or__',
    '__ror__',
    '__reversed__',
    'get',
    'items',
    'values',
    'keys',
    'copy',
):
    setattr(ParameterState, name, reading(name))
for name in (
    '__setitem__',
    '__delitem__',
    '__ior__',
    'clear',
    'pop',
    'popitem',
    'setdefault',
    'update',
):
    setattr(ParameterState, name, writing(name))


class StateStore(dict):
    "`opt.state`. `version` is another after each write, also into what is kept for one parameter"

    def __init__(self, state=()):
        super().__init__()
        self.writes = Version()
        for p, s in dict(state).items():
            self[p] = s

    @property
    def version(self):
        return self.writes.number

    def __missing__(self, p):
        res = ParameterState()
        res.version = self.writes
        dict.__setitem__(self, p, res)
        return res

    def __setitem__(self, p, s):
        if isinstance(p, Tensor) and not isinstance(s, dict):
            raise TypeError(
                f"the state of a parameter is a dict, got {s!r}; a note of yours goes under a name: opt.state['note']"
            )
        self.writes.bump()
        if isinstance(s, dict):
            s = ParameterState(s)
            s.version = self.writes
        super().__setitem__(p, s)

    def of(self, p):
        return dict.get(self, p) or {}

    def keep(self, p, tensors, clock):
        "The engine's own way to write: new states of `p`, and its clock. No new version"
        if not tensors and not clock.kept() and p not in self:
            return  # as torch's SGD without momentum
        state = self[p]
        for n, v in (tensors | clock.kept()).items():
            dict.__setitem__(state, n, v)
        if state.clock is not clock:
            state.join(clock)

    def count(self, p, tensors, counters):
        "The same for a parameter that is called: its new counters go where the old ones are"
        clock = Clock(counters)
        if counters and len(found := cells(self.of(p), counters)) == len(counters):
            clock = SharedClock(found)
            clock.advance(counters)
        self.keep(p, tensors, clock)

    def __reduce__(self):
        return dict, (dict(self),)


def bumping(name):
    method = getattr(dict, name)

    def write(self, *args, **kw):
        self.writes.bump()
        return method(self, *args, **kw)

    write.__name__ = name
    return write


for name in ('__delitem__', 'clear', 'pop', 'popitem'):
    setattr(StateStore, name, bumping(name))


def update(self, *args, **kw):
    for p, s in dict(*args, **kw).items():
        self[p] = s


StateStore.update = update
StateStore.setdefault = lambda self, p, s=None: self[p]

"""What an optimizer keeps for each parameter: `opt.state`, a dict of dicts as in torch.

The dict of a parameter holds its tensors. Between steps it does not hold the current counters: one
`Clock` counts for all parameters that count alike. When the user reads the dict of a parameter,
the dict first copies the counters from the clock. When the user writes, the store gets another
`version`, so that the next step makes a new plan."""

import torch
from torch import Tensor
from ..contract.state import torch_names
from ..contract.tensors import plain

__all__ = [
    'Clock',
    'DeviceClock',
    'OptimisticClock',
    'ParameterState',
    'SharedClock',
    'StateStore',
    'cells',
    'shared_cell',
]


class Clock:
    """The counters of parameters that count alike.

    `values` maps a name to a counter. A counter is a plain number, or a tensor on the device under
    `capturable=True`. `parameters` is the number of parameters that use this clock."""

    __slots__ = 'values', 'parameters'

    def __init__(self, values):
        self.values, self.parameters = values, 0

    def advance(self, new):
        "Take the counters `new` of a step. A counter on the device stays in its tensor"
        for n, v in new.items():
            old = self.values[n]
            if isinstance(old, Tensor):
                old.copy_(v)
            else:
                self.values[n] = v if type(v) in (int, float) else plain(v)

    def kept(self):
        "Return the counters as the state of a parameter shows them"
        return self.values

    def names(self):
        "Return the same, or older values of the same names. This does not wait"
        return self.kept()


class DeviceClock(Clock):
    """Counters that kernels count, because the host does not know whether a step was left out.

    `values` has 0-dim tensors. `start` has the counters as plain numbers, as they were at first. Who
    reads the counters waits for the device."""

    __slots__ = ('start',)

    def __init__(self, values, start):
        super().__init__(values)
        self.start = start

    def kept(self):
        return {n: type(v)(self.values[n].item()) for n, v in self.start.items()}

    def names(self):
        return self.start


class OptimisticClock(Clock):
    """Counters that the host counts, because callbacks branch on them, where the kernels of a GPU may
    leave a step out.

    A step counts as taken until the counters are read for the next one. By then `gate` has told the
    host of it, and a step that was left out is taken back. So the counters are exact, and the host is
    at most one step ahead of the device:

        step 7     advance     now 7, before 6     the answer is on its way
        step 8     values      it was left out     now 6"""

    __slots__ = 'gate', 'now', 'before', 'answer'

    def __init__(self, values, gate):
        self.gate, self.now, self.before, self.answer = gate, values, None, None
        self.parameters = 0

    @property
    def values(self):
        if self.answer is not None:
            self.now = self.before if self.answer.left_out else self.now
            self.answer = None
        return self.now

    def advance(self, new):
        self.before = self.values
        self.now = self.before | {n: plain(v) for n, v in new.items()}
        self.answer = self.gate.tell()

    def names(self):
        return self.now


class SharedClock(Clock):
    """The counters of one parameter in shared memory, as 0-dim tensors: `cells`.

    Other processes count there too. So the clock reads the tensors each time and keeps no value."""

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
    "Return the number `v` as a tensor in shared memory, of a dtype that loses no digit of it"
    return torch.tensor(
        v, dtype=None if isinstance(v, (bool, int)) else torch.float64
    ).share_memory_()


def cells(state, counters):
    "Return those of `counters` that `state` has in shared memory, by name"
    found = {n: state.get(n) for n in counters}
    return {
        n: v
        for n, v in found.items()
        if isinstance(v, Tensor) and v.is_cpu and v.is_shared()
    }


class Version:
    """A number that each write changes.

    It is an object of its own, so that the state of a parameter needs no reference to the store."""

    __slots__ = ('number',)

    def __init__(self):
        self.number = 0

    def bump(self):
        self.number += 1


class ParameterState(dict):
    """What an optimizer keeps for one parameter.

    Alone it is a plain dict. In a store, each write to it changes the store's `version`."""

    __slots__ = 'version', 'clock'

    def __init__(self, *args, **kw):
        super().__init__(*args, **kw)
        self.version = self.clock = None

    def read(self):
        "Copy the current counters from the clock into this dict"
        if self.clock is not None:
            dict.update(self, self.clock.kept())

    def written(self):
        "Prepare a write by the user: copy the counters here, leave the clock, change the version"
        self.read()
        self.leave()
        if self.version is not None:
            self.version.bump()

    def join(self, clock):
        "Let `clock` count for this parameter"
        self.leave()
        self.clock = clock
        clock.parameters += 1

    def leave(self):
        "Leave the clock; the counters in this dict are then the parameter's own"
        if self.clock is not None:
            self.clock.parameters -= 1
        self.clock = None

    def put_aside(self, **values):
        "Keep `values` here that no chain reads, for the optimizer alone; `version` stays"
        dict.update(self, values)

    def take_back(self, n):
        "Remove and return what was put aside as `n`, or None; `version` stays"
        return dict.pop(self, n, None)

    def __missing__(self, n):
        known = f'; here are {", ".join(map(repr, self))}' if len(self) else ''
        ours = torch_names.get(n)
        raise KeyError(
            f"{n!r}, which torch.optim keeps, is {ours!r} here"
            if ours in self
            else f'{n!r}{known}'
        )

    def __reduce__(self):
        return dict, (dict(self),)

    def __repr__(self):
        self.read()
        return dict.__repr__(self)


def reading(name):
    "Return the dict method `name`, which first copies the counters from the clock"
    method = getattr(dict, name)

    def read(self, *args):
        self.read()
        return method(self, *args)

    read.__name__ = name
    return read


def writing(name):
    "Return the dict method `name`, which first prepares a write by the user"
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
    """`opt.state`: a dict from a parameter to what the optimizer keeps for it.

    Each write changes `version`, whether into the store or into the state of one parameter."""

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
                f"the state of a parameter is a dict, got {s!r}; "
                "keep a note of your own under a name: opt.state['note'] = ..."
            )
        self.writes.bump()
        if isinstance(s, dict):
            s = ParameterState(s)
            s.version = self.writes
        super().__setitem__(p, s)

    def of(self, p):
        "Return the state of `p`, or an empty dict. Unlike `store[p]` it adds nothing to the store"
        return dict.get(self, p) or {}

    def keep(self, p, tensors, clock):
        "Store new state `tensors` of `p`, and its clock, for the engine alone; `version` stays"
        counters = clock.names()
        if not tensors and not counters and p not in self:
            return  # torch's SGD without momentum has no state either
        state = self[p]
        for n, v in (tensors | counters).items():
            dict.__setitem__(state, n, v)
        if state.clock is not clock:
            state.join(clock)

    def count(self, p, tensors, counters):
        """Store new state of a parameter whose callbacks were called on it alone; `version` stays.

        `counters` go into shared memory if the old counters are there."""
        clock = Clock(counters)
        if counters and len(found := cells(self.of(p), counters)) == len(counters):
            clock = SharedClock(found)
            clock.advance(counters)
        self.keep(p, tensors, clock)

    def __reduce__(self):
        return dict, (dict(self),)


def bumping(name):
    "Return the dict method `name`, which first changes the version"
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

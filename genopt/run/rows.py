"""Which row of scalars each parameter has, and which clock counts for the row. Parameters of one group
that count alike share a row. `scalars.py` has an example."""

from torch import Tensor
from .choose import on_device
from .scalars import Row, is_exempt
from .store import Clock, DeviceClock, OptimisticClock, SharedClock, cells

__all__ = ['RowMaker']


class RowMaker:
    "Makes the rows for parameters that start from `inputs`. `context`: of the plan"

    def __init__(self, inputs, context):
        self.inputs, self.store, self.gate = inputs, context.store, context.gate
        self.rows = {}

    def row(self, group, p, counters, request):
        "The row of parameter `p` in `group`, with these counters, whose program is for `request`"
        state = self.store.of(p)
        undecayed = is_exempt(state)
        shared = cells(state, counters)
        if counters and len(shared) == len(counters):
            return Row(group, SharedClock(shared), undecayed)
        on_host = not any(isinstance(v, Tensor) for v in counters.values())
        kind = kind_of_clock(on_host, request)
        values = ((n, v if on_host else float(v)) for n, v in counters.items())
        key = group, undecayed, kind, *values
        if key not in self.rows:
            clock = self.clock(getattr(state, 'clock', None), counters, kind)
            self.rows[key] = Row(group, clock, undecayed)
        return self.rows[key]

    def clock(self, old, counters, kind):
        """The clock of this `kind` for a new row: `old`, which a parameter of the row has, if all that
        have it are of this row; else a new one"""
        if self.can_keep(old, counters, kind):
            return old
        if kind is DeviceClock:
            there = {n: on_device(v, self.gate.device) for n, v in counters.items()}
            return DeviceClock(there, counters)
        if kind is OptimisticClock:
            return OptimisticClock(counters, self.gate)
        return Clock(
            {n: v.clone() if isinstance(v, Tensor) else v for n, v in counters.items()}
        )

    def can_keep(self, old, counters, kind):
        return (
            type(old) is kind
            and getattr(old, 'gate', self.gate) is self.gate
            and old.values.keys() == counters.keys()
            and not any(r.clock is old for r in self.rows.values())
            and old.parameters == self.sharing(old)
        )

    def sharing(self, clock):
        "How many parameters that move now have this clock"
        pairs = zip(self.inputs.params, self.inputs.grads)
        return sum(
            getattr(self.store.of(p), 'clock', None) is clock
            for p, g in pairs
            if g is not None
        )


def kind_of_clock(on_host, request):
    "Who counts. `on_host`: whether counters are plain numbers to the user"
    if not (request.gated and on_host):
        return Clock
    return DeviceClock if request.capturable else OptimisticClock

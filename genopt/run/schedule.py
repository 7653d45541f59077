"""The order in which operations on lists run, and which of them write in place. A list has a tensor
for each parameter. SGD with momentum, for instance:

    v5 = grad_avg * 0.9              mul_(grad_avg)              is stored as grad_avg
    v7 = v5 + 0.1 * grad             add_(grad_avg, grad)        likewise
    v9 = p - lr * v7                 sub_(p, grad_avg)           is stored as p

An operation writes into its first operand where nothing reads that again. A stored tensor may be
overwritten only where what is stored there in the end is made of the result."""

from ..lower.values import CROSS, ELEMENTS, SCALAR, Value, aten, in_order

__all__ = ['MIX', 'Schedule']

# The operation x*f + g*y with factors f and g. Where they add up to 1 it is a lerp, which the host
# knows when it runs; a schedule counts it as two operations
MIX = 'mix'


class Schedule:
    """The schedule of a flat part. `order`: its operations. Of each, `in_place` says whether it
    writes into its first operand, and `read_last` which operands nothing reads again.

    `moves`: how many lists all operations read and write, each counted as often as it is named.
    `lists`: how many lists of values in between there are at once, at most"""

    def __init__(self, flat):
        self.flat = flat
        self.given = {*flat.loads, *flat.single_loads}
        kept = [*flat.stores.values(), *flat.single_stores.values(), *flat.leaves]
        self.order = in_order(kept, stop=self.is_given)
        self.place = {v: i for i, v in enumerate(self.order)}
        self.last_use = {
            o: i for i, v in enumerate(self.order) for o in (v, *v.operands)
        }
        self.last_use |= dict.fromkeys(kept, len(self.order))
        self.lies_in = {}  # value -> name of the stored tensors that it overwrites
        self.in_place = [self.may_write(i, v) for i, v in enumerate(self.order)]
        self.read_last = [
            [o for o in v.operands if self.last_use[o] <= i]
            for i, v in enumerate(self.order)
        ]
        self.moves, self.lists = self.count()

    def is_given(self, v):
        return v.kind in (SCALAR, CROSS) or v.name in self.given

    def is_temporary(self, v):
        "Whether `v` is a list of its own: computed, and not written into a stored tensor"
        return v.kind == ELEMENTS and not self.is_given(v) and v not in self.lies_in

    # -- Which operations may write in place --

    def may_write(self, i, v):
        """Whether operation `i` may write into its first operand: nothing reads that again, and if
        it is a stored tensor, the result ends up there"""
        x = v.args[0] if v.args else None
        if not isinstance(x, Value) or (x.kind, v.kind) != (ELEMENTS, ELEMENTS):
            return False
        if (
            x.dtype != v.dtype
            or self.last_use[x] > i
            or any(o is x for o in v.args[1:])
        ):
            return False
        stored = x.name if self.is_given(x) else self.lies_in.get(x)
        if stored is None:
            return x.packet not in (aten.clone, aten._to_copy)
        if not self.ends_in(v, stored):
            return False
        self.lies_in[v] = stored
        return True

    def ends_in(self, v, name):
        "Whether `v` is what is stored as `name`, or is not needed any more once that is computed"
        new = self.flat.stores.get(name)
        if new is None or new is v:
            return new is v
        return not self.is_given(new) and self.last_use[v] <= self.place[new]

    # -- What it costs --

    def count(self):
        "How many lists are read and written, and how many live at once"
        moves, live, most = 0, 0, 0
        for v, in_place, read_last in zip(self.order, self.in_place, self.read_last):
            moves += sum(o.kind == ELEMENTS for o in v.operands)
            moves += (v.kind == ELEMENTS) + 2 * (v.op == MIX)
            live += v.kind == ELEMENTS and not in_place
            most = max(most, live)
            live -= sum(map(self.is_temporary, {*read_last})) - (
                in_place and self.is_temporary(v)
            )
        copied = [n for n, v in self.flat.stores.items() if self.lies_in.get(v) != n]
        return moves + 2 * len(copied), most

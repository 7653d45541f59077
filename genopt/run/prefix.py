"""Prefixes: callbacks that are called before a program, because they ask the model or cannot be
recorded. The program reads what they return. SAM, for instance:

    prefix     sharpness_aware                    evaluates the model again
               hands on                           another gradient
    program    add_decayed_weights > sgd_step     reads that gradient

`lower.prefix` cuts the chain. Here an item of the reference goes through the prefix, for each
parameter of a work, and the work takes over what it comes to."""

from .._torch import foreach_copy
from ..contract.sharded import local
from ..contract.tensors import describe, fit
from .reference import Item

__all__ = ['hand_over', 'late_changes', 'prefix_items']


class PrefixItem(Item):
    "A parameter on its way through the prefix of its program. `begun`: the namespace at the start"

    def __init__(self, *args):
        super().__init__(*args)
        self.begun = dict(self.ns)


def prefix_items(work, params, store, settings):
    "An item for each parameter of `work`, by the place of the parameter"
    items = {}
    for i, r, key in zip(work.indices, work.row_of, work.keys):
        row = work.rows[r]
        state = dict(store.of(params[i])) | row.clock.values
        numbers = row.numbers(settings)
        random = work.seeds, key
        chain = work.program.prefix.chain
        items[i] = PrefixItem(params[i], state, chain, numbers, random)
    return items


def late_changes(prefix, items):
    """What callbacks have changed now, and did not change when `prefix` was made: name -> value.
    This prefix cannot hand it on; a new one can"""
    return next((late for it in items if (late := prefix.late(it.begun, it.ns))), {})


def hand_over(work, items):
    """Give `work` the tensors that its prefix has returned beside the gradients. Returns the
    gradients, by the place of the parameter, and the numbers, by name"""
    prefix = work.program.prefix
    for it in items:
        check_handed(prefix, it, work.who)
    for n in prefix.rest.extra:
        foreach_copy(work.tensors.extra[n], [local(it.ns[n]) for it in items])
    grads = {i: local(it.ns['grad']) for i, it in zip(work.indices, items)}
    return grads, {n: items[0].ns[n] for n in prefix.numbers}


def check_handed(prefix, item, who):
    "Refuse what the program cannot take: a name without a value, another shape than expected"
    for n in prefix.handed:
        made, expected = item.ns.get(n), prefix.numbers.get(n, item.ns['p'])
        if n not in item.ns or fit(made) != fit(expected):
            told = f"changed {n} from {describe(expected)} to {describe(made)}; return the same kind and shape in every step"
            raise ValueError(f"{who}: {prefix.chain} {told}")

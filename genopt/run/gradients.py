"""The gradients of a step. They are other tensors in each step, or the same in the same memory:
`zero_grad(set_to_none=False)` and gradients that are views of a bucket leave them where they were.

`Gradients` knows gradients again, without keeping the user's tensors alive:

    step 1    take([g0, g1])    other tensors: their addresses are read; weak references are kept
    step 2    take([g0, g1])    the same tensors (`is`), which lie where they lay: nothing to do
    step 3    take([g0, h1])    another tensor: all addresses are read again"""

import ctypes
import weakref
from operator import attrgetter, is_
from torch import Tensor
from torch.nn import Parameter
from ..contract.sharded import local
from .memory import Memory, aligned, as_strided_like, resolved

__all__ = ['Gradients', 'gradients']

dtype_of, requires_grad = attrgetter('dtype'), attrgetter('requires_grad')


def gradients(params):
    """The gradient of each tensor, and None for a frozen `Parameter`. A plain tensor may have a
    gradient that the user has set"""
    grads = [p.grad for p in params]
    if all(map(requires_grad, params)):
        return grads
    return [
        g if p.requires_grad or not isinstance(p, Parameter) else None
        for p, g in zip(params, grads)
    ]


class Gradients:
    """Takes the gradients of each step, for the parameters `ps`, which are number `indices` of all
    `n_all`. `launched`: they must lie as the parameters do. `by_address`: the launch needs no
    tensors, only their addresses, which are in `array`. `of_users`: they come from the user, and not
    from a prefix. `pointed`: the launch has the addresses. `known`: weak references to the gradients
    that were taken last, and `memory`, where these lie"""

    def __init__(self, ps, indices, n_all, dtype, launched, by_address, of_users):
        self.ps, self.indices, self.dtype, self.launched = ps, indices, dtype, launched
        self.by_address, self.of_users = by_address, of_users
        self.all_in_order = of_users and indices == [*range(n_all)]
        self.plain_params = all(p.is_contiguous() for p in ps)
        self.array = (ctypes.c_int64 * len(ps))() if by_address else None
        self.forget()

    @property
    def addresses(self):
        "Where they lie, if the launch needs to know"
        return self.array and self.array[:]

    def take(self, grads):
        "Take those of this step. False if one has another dtype than before, or is sparse"
        mine = grads if self.all_in_order else [grads[i] for i in self.indices]
        if self.same(mine):
            return True
        plain = self.plain(mine)
        taken = mine if plain else [self.fitted(g, p) for g, p in zip(mine, self.ps)]
        if any(g is None for g in taken):
            return False
        self.forget()
        self.tensors = taken
        if self.by_address:
            self.array[:] = [*map(Tensor.data_ptr, taken)]
            if plain and self.of_users:  # nothing of ours may keep the user's alive
                self.known = [*map(weakref.ref, mine)]
                self.tensors = None
        return True

    def read(self, reader):
        "Let `reader` find out where the gradients lie now. False if Python has to look at them"
        found = reader.read()
        if found == 'moved':
            self.forget()
        return found is not None

    def forget(self):
        "The gradients of the step before are no longer those of this one"
        self.tensors, self.pointed, self.known, self.memory = None, False, None, None

    def same(self, mine):
        "Whether these are the tensors that were taken last, and lie where they lay"
        if not self.known or not all(map(is_, [ref() for ref in self.known], mine)):
            return False
        if self.memory is None:
            self.memory = Memory(mine, borrowed=True)
        return self.memory.holds(mine)

    def plain(self, mine):
        "Whether they can be taken as they are"
        return (
            self.plain_params
            and {*map(type, mine)} == {Tensor}
            and {*map(dtype_of, mine)} == {self.dtype}
            and all(map(Tensor.is_contiguous, mine))
            and not any(map(Tensor.is_neg, mine))
        )

    def fitted(self, g, p):
        "The gradient `g` of `p`, real, and for a launch lying as `p` does. None if it is refused"
        if g.is_sparse:
            return None
        g = resolved(local(g).detach())
        if g.dtype != self.dtype:
            return None
        return g if aligned(g, p) or not self.launched else as_strided_like(p, g)

"""Sparse gradients, such as those of `nn.Embedding(sparse=True)`.

A step runs the chain on the rows that the gradient has. It reads and writes no other rows. For
many chains (SGD, Adagrad) a gradient of zero changes nothing, so a dense gradient would do the
same. For other chains it would not. If such a chain reads `rows`, it asks to leave rows without
gradient alone (`lazy_rows`, as in SparseAdam). `why_not` refuses any other such chain."""

from torch import Tensor
import torch
from ..contract.chain import Namespace, interpret
from ..contract.state import seen
from ..contract.tensors import compute, plain, real
from .reference import Item

__all__ = ['Rows', 'why_not']


class Rows(Item):
    """The rows of a parameter that its sparse gradient has, while a step runs the chain on them. `at`:
    the indices of these rows"""

    def seen(self):
        grad = self.p.grad.coalesce()
        at = self.at = tuple(grad.indices())
        kept = {
            n: v[at] if isinstance(v, Tensor) else v
            for n, v in seen(self.chain.state, self.state).items()
        }
        beside = self.chain.beside(self.p, self.state)
        x = self.chain.seen(self.p.detach()[at], {n: v[at] for n, v in beside.items()})
        return x, kept, dict(grad=compute(grad.values()), rows=grad.indices())

    def write(self):
        "Write the new rows into the parameter and its state tensors, and return the whole state"
        stores = {n: real(v.detach()) for n, v in self.stores.items()}
        with self.rounding('p'):
            self.chain.weights.write_at(self.at, 'p', self.ns['new_p'], stores)
        for n in self.kept:
            if n in stores:
                with self.rounding(n):
                    self.chain.state[n].write_at(self.at, n, self.ns[n], stores)
        return self.state | {
            n: plain(self.ns[n]) for n in self.state if n not in self.stores
        }


def why_not(chain, numbers, elementwise, p):
    """Say why `chain` cannot take a sparse gradient of `p`; return `None` if it can.

    `elementwise` says whether the chain computes each element from that element alone."""
    if not elementwise:
        return "a callback needs more than one element of the gradient at a time"
    if any('rows' in b.reads for b in chain.blocks):
        return None
    x = torch.linspace(0.5, 1.5, 7, dtype=torch.float64)
    rand = torch.linspace(0.1, 0.9, 7, dtype=torch.float64)
    state = {
        n: s if not isinstance(s := init(x), Tensor) else rand.to(s.dtype)
        for n, init in chain.state.items()
    }
    ns = Namespace(numbers, p=x, grad=torch.zeros_like(x), rows=None, **state)
    interpret(chain, ns, lambda b, ns: b(ns))
    moved = [
        n
        for n, old in dict(new_p=x, **state).items()
        if isinstance(old, Tensor) and not torch.equal(ns[n], old)
    ]
    if not moved:
        return None
    what = 'the parameter' if moved == ['new_p'] else moved[-1]
    return (
        f"{what} changes where the gradient is zero; "
        "SparseAdam, or `lazy_rows` in the list, leaves such rows as they are"
    )

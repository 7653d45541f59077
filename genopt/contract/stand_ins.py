"""Stand-ins: small tensors and a small model, on which a chain is tried before it meets the user's."""

from contextlib import contextmanager
import torch
from torch import Tensor
from .chain import Namespace
from .tensors import compute

__all__ = ['StandIn', 'add_states', 'set_apart', 'shape_class', 'stand_in']


def shape_class(shape):
    """A shape of few elements that stands for all with the pattern of `shape`. Sizes up to 4 stay, equal ones stay equal, and a larger one stays
    larger: (768, 50257, 3, 768) becomes (5, 6, 3, 5)"""
    sizes = sorted({d for d in shape if d>4})
    return tuple(d if d<=4 else 5+sizes.index(d) for d in shape)

@contextmanager
def set_apart(device):
    "While callbacks are tried, they draw from the user's random numbers without advancing them, and have no gradients"
    with torch.random.fork_rng([device] if device.type=='cuda' else []), torch.inference_mode(False), torch.no_grad(): yield

def stand_in(shape, chain, p, hypers, who):
    "A namespace like that of `p`, with fixed random values for `p` and `grad`, of `shape`"
    rand = torch.Generator().manual_seed(0)
    dtype = torch.float64 if p.dtype in (torch.float64, torch.complex128) else torch.float32
    shape = [*shape] + [2]*p.is_complex()
    q,grad = [torch.rand(shape, generator=rand, dtype=dtype, device='cpu').add_(0.5).to(p.device) for _ in range(2)]
    ns = Namespace(hypers, p=q, grad=grad, rows=None, loss=torch.tensor(1.))
    add_states(ns, chain, p.ndim, who)
    return ns

def add_states(ns, chain, rank, who):
    "Give `ns` the states of `chain` that it lacks, as they are at first. `rank`: of the parameter, and `who`: the optimizer, for messages"
    for n,init in chain.state.items():
        if n in ns: continue
        try: ns[n] = compute(s) if isinstance(s := init(ns['p']), Tensor) else s
        except Exception as e:
            raise ValueError(f"{who}: the initializer of state {n!r} fails in a trial on a small {rank}-dimensional parameter: "
                             f"{type(e).__name__}: {e}") from e


class StandIn:
    "The model of a rehearsal. Its loss is half the sum of all squares, so a gradient is the parameter, and the Hessian is one"
    def loss(self, items, by): return torch.tensor(1.)
    def evaluate(self, items, by): return lambda values: (sum(v.square().sum() for v in values)/2,[v.clone() for v in values])
    def hvp(self, items, by): return lambda vectors: [v.clone() for v in vectors]

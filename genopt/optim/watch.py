"""What an optimizer tells the user about a run: a gradient that is not finite, and updates that low precision loses."""

import warnings
from .._torch import sparse_values
from ..contract.messages import name_in
from ..contract.sharded import local
from ..contract.tensors import is_finite,number,wide
from ..contract.weights import default
from .storage import weights_in

__all__ = ['Lost', 'nonfinite']


untouched = "Nothing has changed; nonfinite='skip' leaves such steps out"

def nonfinite(groups, i, grads, what_now=untouched):
    """Return the message that the gradient of the `i`-th parameter is not finite, and in what way.

    `i` is `None` if only another process has such a gradient. `what_now`: what has changed, and what the user can do."""
    if i is None: return f"a gradient is not finite in another process. {what_now}"
    grad  = sparse_values(grads[i]) if grads[i].is_sparse else local(grads[i])
    kinds = {'NaN': grad.isnan(), 'infinite': grad.isinf(), 'with a square that overflows': grad.isfinite() & ~is_finite(grad)}
    found = ', '.join(f'{n} {what}' for what,k in kinds.items() if (n := k.sum().item())) or 'something not finite in another process'
    return f"the gradient of {name_in(groups, i)} has {found} among {grad.numel():,} element{'s'*(grad.numel()!=1)}. {what_now}"


def few(x): return local(x).detach().flatten()[:1000].clone()

class Lost:
    "A few elements of the largest low-precision parameter, from before a step. After the step `warn` warns if hardly any has moved"
    @classmethod
    def watch(cls, groups, params, grads):
        """Return a `Lost`. Return `None` if all parameters of low precision have a policy that keeps what rounding loses, or if a group is
        `capturable`, so that nothing may be read"""
        keeps = {id(p) for g in groups for p in g['params'] if weights_in(g['store']).keeps(p.dtype)}
        low = [i for i,(p,g) in enumerate(zip(params, grads))
               if g is not None and wide(p.dtype)!=p.dtype and not p.is_meta and id(p) not in keeps]
        return cls(groups, params, grads, max(low, key=lambda i: params[i].numel())) if low and not any(g['capturable'] for g in groups) else None
    def __init__(self, groups, params, grads, i):
        self.groups,self.i,self.p,self.grad,self.old = groups,i,params[i],few(grads[i]),few(params[i])
    def warn(self, who):
        lr    = next(number(g['lr']) for g in self.groups if any(p is self.p for p in g['params']))
        there = (self.grad!=0) & (self.old!=0)
        if lr>0 and there.any() and (few(self.p)!=self.old)[there].float().mean()<.1:
            warnings.warn(f"{who}: a step with lr={lr} has changed hardly any element of {name_in(self.groups, self.i)}: rounding to "
                          f"{self.p.dtype} loses such small updates. {advice(self.p.dtype)}. Or train float32 parameters under "
                          "torch.autocast, or take a larger lr", stacklevel=5)

def advice(dtype):
    "How to keep what rounding loses of parameters of `dtype`"
    if default.keeps(dtype): return "Leave out store={'p': 'nearest'}: by default genopt keeps what rounding loses"
    return "Give store={'p': 'master'}, which keeps what rounding loses"

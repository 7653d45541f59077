"""What callbacks over all parameters may ask of the model during a step.

They may ask for the `loss`, for loss and gradients at other values (`evaluate`), and for products with the Hessian (`hvp`). Sharpness-aware
steps, line searches and second-order methods are callbacks that use these."""

from contextlib import contextmanager
import torch
from ..contract.tensors import compute,real
from ..blocks.transforms import maximize

__all__ = ['Model']


class Model:
    """The model behind a step.

    `closure` evaluates the model. `returned` is the loss it returned at the values from which the step starts. `around` holds the user's
    settings, such as autocast, which a step turns off; `evaluate` turns them on again for the closure. `who` names the optimizer in errors."""
    def __init__(self, closure, returned, who, around): self.closure,self.returned,self.who,self.around = closure,returned,who,around

    def loss(self, items, by):
        "Return the loss at the start of the step, as a 0-dim tensor. `by` is the callback that asks"
        if self.returned is None: raise RuntimeError(f"{self.who}: {by} reads the loss; call step(closure), where closure returns it")
        return signed(items, as_tensor(self.returned))

    def evaluate(self, items, by):
        """Return a function `evaluate(values)`, which computes loss and gradients with the parameters at `values`.

        `values` is a list of tensors like `params`. After the call the parameters and their `grad` are as before. `by` is the callback that asks."""
        if self.closure is None:
            raise RuntimeError(f"{self.who}: {by} evaluates the model; call step(closure), where closure clears gradients, computes the loss, "
                               "calls backward and returns the loss")
        ps = [it.p for it in items]
        def evaluate(values):
            with kept(ps, items):
                for p,v in zip(ps, values, strict=True): real(p.detach()).copy_(v)
                with self.around.on(), torch.enable_grad(): loss = self.closure()
                grads = [compute(torch.zeros_like(p) if p.grad is None else p.grad).clone() for p in ps]
            return signed(items, as_tensor(loss).clone()),[signed(items, g) for g in grads]
        return evaluate

    def hvp(self, items, by):
        """Return a function `hvp(vectors)`, which multiplies the Hessian of the loss by `vectors`, a list of tensors like `params`.

        A gradient without a graph, beside others that have one, is a constant: the loss is linear in that parameter."""
        ps = [it.p for it in items]
        if not any(p.grad.requires_grad for p in ps):
            raise RuntimeError(f"{self.who}: {by} needs second derivatives, but no gradient has a graph; call loss.backward(create_graph=True). "
                               "A loss that is linear in every parameter has no graph either: its second derivatives are zero")
        def hvp(vectors):
            curved = [(p.grad, torch.view_as_complex(v.contiguous()) if p.is_complex() else v.to(p.grad.dtype))
                      for p,v in zip(ps, vectors, strict=True) if p.grad.requires_grad]
            grads,vs = zip(*curved, strict=True)
            with torch.enable_grad(): res = torch.autograd.grad(grads, ps, vs, retain_graph=True, allow_unused=True)
            return [signed(items, compute(torch.zeros_like(p) if r is None else r)) for p,r in zip(ps, res)]
        return hvp


def as_tensor(loss): return loss.detach() if isinstance(loss, torch.Tensor) else torch.as_tensor(loss)

def signed(items, x):
    "Return `x`, or `-x` where the chain maximizes"
    return -x if items and maximize in items[0].chain.cbs else x

@contextmanager
def kept(ps, items):
    "Restore the values of the parameters `ps` and their gradients at the end of a `with` block, also after an error"
    before = [(real(p.detach()).clone(), p.grad) for p in ps]
    for p in ps: p.grad = None                                             # a closure may fill `grad` with zeros, and must not reach these
    try: yield
    finally:
        for p,(value,grad) in zip(ps, before):
            real(p.detach()).copy_(value)
            p.grad = grad
        for it in items: it.versions = it.versions_now()

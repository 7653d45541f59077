"""What callbacks over all parameters may ask of the model itself: the `loss`, what loss and gradients are at other values (`evaluate`), products
with the Hessian (`hvp`). Sharpness-aware steps, line searches and curvature are blocks because of it."""

from contextlib import contextmanager
import torch
from ..contract.tensors import compute,real
from ..blocks.transforms import maximize

__all__ = ['Model']


class Model:
    """The model behind a step: `closure` evaluates it, and has `returned` the loss at the values from which the step starts. `around`: what is on
    around the step, and so was when it did"""
    def __init__(self, closure, returned, who, around): self.closure,self.returned,self.who,self.around = closure,returned,who,around

    def loss(self, items, by):
        "The loss at the start of the step, a 0-dim tensor"
        if self.returned is None: raise RuntimeError(f"{self.who}: {by} reads the loss; call step(closure), where closure returns it")
        return signed(items, as_tensor(self.returned))

    def evaluate(self, items, by):
        """`evaluate(values)`: loss and gradients with the parameters at `values`, a list of tensors like `params`. Parameters and their `grad` are
        then as before"""
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
        "`hvp(vectors)`: the Hessian of the loss times `vectors`, a list of tensors like `params`"
        ps = [it.p for it in items]
        if any(not p.grad.requires_grad for p in ps):
            raise RuntimeError(f"{self.who}: {by} asks for the curvature, and the gradients have no graph; call loss.backward(create_graph=True)")
        def hvp(vectors):
            vs = [torch.view_as_complex(v.contiguous()) if p.is_complex() else v.to(p.grad.dtype) for p,v in zip(ps, vectors, strict=True)]
            with torch.enable_grad(): res = torch.autograd.grad([p.grad for p in ps], ps, vs, retain_graph=True, allow_unused=True)
            return [signed(items, compute(torch.zeros_like(p) if r is None else r)) for p,r in zip(ps, res)]
        return hvp


def as_tensor(loss): return loss.detach() if isinstance(loss, torch.Tensor) else torch.as_tensor(loss)

def signed(items, x):
    "`x`, or with the other sign where a chain goes up instead of down"
    return -x if items and maximize in items[0].chain.cbs else x

@contextmanager
def kept(ps, items):
    "Parameters and gradients, as they were before, when all is done or fails"
    before = [(real(p.detach()).clone(), p.grad) for p in ps]
    for p in ps: p.grad = None                                             # so that a closure which fills gradients with zeros leaves them alone
    try: yield
    finally:
        for p,(value,grad) in zip(ps, before):
            real(p.detach()).copy_(value)
            p.grad = grad
        for it in items: it.versions = it.versions_now()



"""Transforms: what changes a gradient before the statistics see it, an update after the step made it, or the parameter itself.

All shapes are that of the parameter p. Symbols: gradient g, update u, decay `wd`, learning rate `lr`; `|x|` is the root of the sum of squares."""

from math import inf
import torch
from ..core import Range,fraction,nonneg,zeros

__all__ = ['maximize', 'lazy', 'clip_grad_norm', 'l2_reg', 'weight_decay', 'add_decayed_weights', 'heavy_ball', 'trust_ratio', 'larc_ratio',
           'rectified']


def maximize(grad):
    "Go up instead of down: `g <- -g`"
    return dict(grad=-grad)

def lazy(rows):
    """Of a sparse gradient (`nn.Embedding(sparse=True)`) the rows that it lacks rest, and so does their state, whatever the other callbacks would do
    with a gradient of zero. As in torch.optim.SparseAdam"""
    return {}

def clip_grad_norm(grads, max_norm:Range('[0,inf]')=1.):
    """All gradients together, as one vector, no longer than `max_norm`: `g <- g*min(1, max_norm/(|all g| + 1e-6))`, as
    torch.nn.utils.clip_grad_norm_, which it replaces; `p.grad` stays. Pascanu et al. 2013, https://arxiv.org/abs/1211.5063"""
    norms = [g.norm() for g in grads]
    norm  = torch.stack([n.to(norms[0].device) for n in norms]).norm()
    scale = (max_norm/(norm + 1e-6)).clamp(max=1)
    return dict(grads = [g*scale.to(g) for g in grads])

def l2_reg(p, grad, wd:nonneg=0.01):
    "Gradient of the penalty `wd/2 * |p|^2`: `g <- g + wd*p`"
    return dict(grad = grad.add(p, alpha=wd))

def weight_decay(p, lr, wd:nonneg=0.01):
    "Shrink the parameter itself, whatever the gradient: `p <- p*(1 - lr*wd)`. Loshchilov and Hutter 2019, https://arxiv.org/abs/1711.05101"
    return dict(p = p*(1-lr*wd))

def decay(wd, decoupled):
    "The block for weight decay: in the gradient (L2), or of the parameter itself (`decoupled`); none if there is no decay"
    return wd and (weight_decay if decoupled else l2_reg)

def add_decayed_weights(p, update, wd:nonneg=0.01):
    "Decay as a part of the update, for what scales the whole of it later: `u <- u + wd*p`. In LAMB, https://arxiv.org/abs/1904.00962"
    return dict(update = update.add(p, alpha=wd))

def heavy_ball(update, mom:fraction=0.9, update_avg=zeros):
    "Momentum of the update, whatever made it: `b <- mom*b + u; u <- b`. Polyak 1964"
    ball = update.add(update_avg, alpha=mom)
    return dict(update=ball, update_avg=ball)

def trust_ratio(p, update, max_ratio:Range('(0,inf]')=inf):
    """Steps in proportion to the parameter, one ratio for each tensor: `u <- u * min(|p|/|u|, max_ratio)`, or `u` as it is if either norm is 0.
    You et al. 2020, https://arxiv.org/abs/1904.00962, with `phi(x) = x`: not clipped, unless there is a `max_ratio`"""
    p_norm,u_norm = p.norm(),update.norm()
    ratio = p_norm/u_norm if max_ratio==inf else torch.clamp(p_norm/u_norm, max=max_ratio)
    return dict(update = update*torch.where((p_norm>0) & (u_norm>0), ratio, 1.))

def larc_ratio(p, grad, update, wd:nonneg=0., trust_coeff:nonneg=0.02, clip=True, eps:nonneg=1e-8):
    """Steps in proportion to the parameter and against its gradient: `u <- u * r`, `r = trust_coeff*|p| / (|g| + wd*|p| + eps)`, which is LARS
    (You et al. 2017, https://arxiv.org/abs/1708.03888); LARC, `clip`, takes `min(r, 1)`, so that no step is longer than without"""
    p_norm = p.norm()
    ratio  = p_norm*trust_coeff / (grad.norm() + p_norm*wd + eps)
    return dict(update = update * (ratio.clamp(max=1) if clip else ratio))

def rectified(update, grad_avg, debias1, rect):
    """Any step of Adam's kind as far as its second moment can be trusted, `u <- rect*u`, or momentum's while it cannot: `m/(1-mom^t)`.
    After `rectify`. Liu et al. 2020, https://arxiv.org/abs/1908.03265"""
    return update*rect if rect else grad_avg/debias1

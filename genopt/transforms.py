"""Transforms: what changes a gradient before the statistics see it, an update after the step made it, or the parameter itself.

All shapes are that of the parameter p. Symbols: gradient g, update u, decay `wd`, learning rate `lr`."""

from .core import fraction,nonneg,zeros

__all__ = ['maximize', 'l2_reg', 'weight_decay', 'heavy_ball']


def maximize(grad):
    "Go up instead of down: `g <- -g`"
    return dict(grad=-grad)

def l2_reg(p, grad, wd:nonneg=0.01):
    "Gradient of the penalty `wd/2 * |p|^2`: `g <- g + wd*p`"
    return dict(grad = grad + p*wd)

def weight_decay(p, lr, wd:nonneg=0.01):
    "Shrink the parameter itself, whatever the gradient: `p <- p*(1 - lr*wd)`. Loshchilov and Hutter 2019, https://arxiv.org/abs/1711.05101"
    return dict(p = p*(1-lr*wd))

def heavy_ball(update, mom:fraction=0.9, update_avg=zeros):
    "Momentum of the update, whatever made it: `b <- mom*b + u; u <- b`. Polyak 1964"
    ball = update_avg*mom + update
    return dict(update=ball, update_avg=ball)

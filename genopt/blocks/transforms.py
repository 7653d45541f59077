"""Transforms: what changes a gradient before the statistics see it, an update after the step made it, or the parameter itself.

All shapes are that of the parameter p. Symbols: gradient g, update u, decay `wd`, learning rate `lr`; `|x|` is the root of the sum of squares."""

import torch
from ..core import Range,copy_of_p,fraction,nonneg,positive,zeros
from .stats import average_grad

__all__ = ['maximize', 'sign', 'clip_value', 'clip_norm', 'clip_grad_norm', 'adaptive_clip', 'normalize', 'centralize', 'noise', 'grokfast',
           'add_change', 'l2_reg', 'l1_reg', 'weight_decay', 'fixed_decay', 'corrected_decay', 'cautious_decay', 'decay_to_start',
           'add_decayed_weights', 'heavy_ball', 'cautious', 'grams', 'clip_update_rms', 'clip_lr_rms', 'trust_ratio']


def maximize(grad):
    "Go up instead of down: `g <- -g`"
    return dict(grad=-grad)

def sign(grad):
    "The sign alone: `g <- sign(g)`. Bernstein et al. 2018, signSGD, https://arxiv.org/abs/1802.04434"
    return dict(grad=grad.sign())

def clip_value(grad, max_value:nonneg=1.):
    "Each element between two bounds: `g <- clip(g, -max_value, max_value)`, as torch.nn.utils.clip_grad_value_"
    return dict(grad=grad.clamp(-max_value, max_value))

def clip_norm(grad, max_norm:positive=1.):
    "Each tensor by itself no longer than `max_norm`: `g <- g / max(1, |g|/max_norm)`. Pascanu et al. 2013, https://arxiv.org/abs/1211.5063"
    return dict(grad = grad / (grad.norm()/max_norm).clamp(min=1))

def clip_grad_norm(grads, max_norm:Range('[0,inf]')=1.):
    """All gradients together, as one vector, no longer than `max_norm`: `g <- g*min(1, max_norm/(|all g| + 1e-6))`, as
    torch.nn.utils.clip_grad_norm_, which it replaces; `p.grad` stays. Pascanu et al. 2013, https://arxiv.org/abs/1211.5063"""
    norms = [g.norm() for g in grads]
    norm  = torch.stack([n.to(norms[0].device) for n in norms]).norm()
    scale = (max_norm/(norm + 1e-6)).clamp(max=1)
    return dict(grads = [g*scale.to(g) for g in grads])

def unit_norm(x):
    "The norm of each unit's weights: over all dimensions but the first; of a vector, the absolute value of each element"
    return x.abs() if x.ndim<2 else x.norm(dim=[*range(1, x.ndim)], keepdim=True)

def adaptive_clip(p, grad, clip_factor:nonneg=0.01, clip_eps:nonneg=1e-3):
    """No unit's gradient longer than a fraction of its weights: `g <- g * min(1, clip_factor*max(|w|, clip_eps)/|g|)`, for each unit. Biases are units
    of one, as in the authors' code. Brock et al. 2021, https://arxiv.org/abs/2102.06171"""
    longest = unit_norm(p).clamp(min=clip_eps) * clip_factor
    return dict(grad = grad * (longest / unit_norm(grad).clamp(min=1e-6)).clamp(max=1))

def normalize(grad, norm_eps:nonneg=1e-8):
    "Each tensor of length 1: `g <- g / (|g| + norm_eps)`. You et al. 2017, https://arxiv.org/abs/1708.03888, and before them Hazan et al. 2015"
    return dict(grad = grad / (grad.norm() + norm_eps))

def centralize(grad):
    """Each unit's gradient without its mean: `g <- g - mean(g)` over all dimensions but the first; vectors stay.
    Yong et al. 2020, https://arxiv.org/abs/2004.01461"""
    return dict(grad = grad if grad.ndim<2 else grad - grad.mean(dim=[*range(1, grad.ndim)], keepdim=True))

def noise(grad, step, noise_eta:nonneg=0.01, noise_gamma:nonneg=0.55):
    """Noise that fades: `g <- g + N(0, s)`, `s^2 = noise_eta/t^noise_gamma`. Neelakantan et al. 2015, https://arxiv.org/abs/1511.06807, with the
    first step as `t=1`; `noise_eta` is 0.01, 0.3 or 1 in the paper"""
    return dict(grad = grad.add(torch.randn_like(grad), alpha=(noise_eta/step**noise_gamma)**0.5))

def grokfast(grad, slow_mom:fraction=0.98, slow_gain:nonneg=2., slow_grad_avg=zeros):
    """Slow gradients made louder: `h <- slow_mom*h + (1-slow_mom)*g; g <- g + slow_gain*h`.
    Lee et al. 2024, https://arxiv.org/abs/2405.20233, the form with an exponential average"""
    slow = average_grad(grad, slow_mom, grad_avg=slow_grad_avg)['grad_avg']
    return dict(grad=grad.add(slow, alpha=slow_gain), slow_grad_avg=slow)

def add_change(grad, change, mom, gamma:nonneg=0.025):
    """Less variance by how the gradient has changed, `g <- g + gamma*mom/(1-mom)*d`: approximate, because `d` is between two batches.
    Yuan et al. 2024, MARS, https://arxiv.org/abs/2411.10438"""
    return dict(grad = grad.add(change, alpha=gamma*mom/(1-mom)))

def l2_reg(p, grad, wd:nonneg=0.01):
    "Gradient of the penalty `wd/2 * |p|^2`: `g <- g + wd*p`"
    return dict(grad = grad.add(p, alpha=wd))

def weight_decay(p, lr, wd:nonneg=0.01):
    "Shrink the parameter itself, whatever the gradient: `p <- p*(1 - lr*wd)`. Loshchilov and Hutter 2019, https://arxiv.org/abs/1711.05101"
    return dict(p = p*(1-lr*wd))

def l1_reg(p, grad, l1:nonneg=1e-4):
    "Gradient of the penalty `l1*sum|p|`: `g <- g + l1*sign(p)`. Tibshirani 1996, the lasso"
    return dict(grad = grad.add(p.sign(), alpha=l1))

def fixed_decay(p, wd:nonneg=1e-4):
    "Shrink the parameter at every step alike, whatever the rate: `p <- p*(1 - wd)`. As `fixed_decay` elsewhere"
    return weight_decay(p, 1, wd)

def corrected_decay(p, lr, max_lr, wd:nonneg=0.01):
    """Decay that falls with the square of the rate, so that norms stay even: `p <- p*(1 - wd*lr^2/max_lr)`.
    Defazio 2025, https://arxiv.org/abs/2506.02285"""
    return weight_decay(p, lr*lr/max_lr, wd)

def cautious_decay(p, update, lr, wd:nonneg=0.01):
    """Decay only where the update goes towards zero as well: `p <- p*(1 - lr*wd)` where `u*p > 0`; after the step that makes `u`.
    Chen et al. 2025, https://arxiv.org/abs/2510.12402"""
    return dict(p = torch.where(update*p>0, weight_decay(p, lr, wd)['p'], p))

def decay_to_start(p, lr, wd:nonneg=0.01, first_p=copy_of_p):
    "Back towards the weights at the beginning: `p <- p - lr*wd*(p - p_0)`. Li et al. 2018, L2-SP, https://arxiv.org/abs/1802.01483, decoupled"
    return dict(p = p.lerp(first_p, lr*wd))

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

def agreement(update, grad):
    "Where the update goes with the gradient"
    return (update*grad>0).to(update.dtype)

def cautious(grad, update):
    """Only where the update goes with the gradient, and there by so much more: `u <- u*mask/max(mean(mask), 1e-3)`, `mask = u*g > 0`; behind any
    step. Liang et al. 2024, https://arxiv.org/abs/2411.16085, scaled as in timm; the bound is the authors' too"""
    mask = agreement(update, grad)
    return dict(update = update * (mask / mask.mean().clamp(min=1e-3)))

def grams(grad, update):
    "The update's length for each element, the gradient's sign: `u <- |u|*sign(g)`. Cao et al. 2024, https://arxiv.org/abs/2412.17107"
    return dict(update = update.abs()*grad.sign())

def clip_update_rms(update, max_rms:positive=1.):
    """No update larger than `max_rms` in the mean: `u <- u / max(1, rms(u)/max_rms)`, for each tensor.
    Shazeer and Stern 2018, Adafactor, section 6, https://arxiv.org/abs/1804.04235"""
    return dict(update = update / (update.square().mean().sqrt()/max_rms).clamp(min=1))

def clip_lr_rms(grad, sqr_avg, debias2, lr, eps:nonneg=1e-8):
    """A smaller rate for a tensor whose gradients are larger than their average says, `lr <- lr / max(1, sqrt(mean(g^2 / max(v, eps^2))))`, v
    debiased. Wortsman et al. 2023, StableAdamW, https://arxiv.org/abs/2304.13013"""
    return dict(lr = lr / (grad*grad / (sqr_avg/debias2).clamp(min=eps*eps)).mean().sqrt().clamp(min=1))

def trust_ratio(p, update):
    """Steps in proportion to the parameter, one ratio for each tensor: `u <- u * |p|/|u|`, or `u` as it is if either norm is 0.
    You et al. 2020, https://arxiv.org/abs/1904.00962, with `phi(x) = x`: not clipped"""
    p_norm,u_norm = p.norm(),update.norm()
    return dict(update = update*torch.where((p_norm>0) & (u_norm>0), p_norm/u_norm, 1.))

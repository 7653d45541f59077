"""Transforms: changes of a gradient before the statistics see it, of an update after a step has made it, of a learning rate, or of the parameter
itself.

Symbols as in `stats`; update u, weight decay `wd`. A unit is one index of the first dimension, such as an output of a layer or a channel."""

from math import inf
import torch
from ..contract import Range,copy_of_p,fraction,minimum,nonneg,positive,where,zeros
from .stats import average

__all__ = ['maximize', 'lazy_rows', 'sign_grad', 'clip_grad_value', 'clip_tensor_norm', 'clip_grad_norm', 'adaptive_grad_clip', 'normalize_grad',
           'centralize', 'orthograd', 'add_noise', 'grokfast', 'mars_correction', 'l2_reg', 'l1_reg', 'weight_decay', 'fixed_decay',
           'fully_decoupled_decay', 'corrected_decay', 'cautious_weight_decay', 'decay_to_start', 'add_decayed_weights', 'heavy_ball', 'cautious',
           'grams_sign', 'clip_update_rms', 'fixed_update_rms', 'stable_adamw_lr', 'scale_by_param_rms', 'inverse_sqrt_lr', 'rectify_update',
           'scale_by_trust_ratio', 'lars_ratio', 'clip_lars_ratio', 'scale_grad_by_lars', 'scale_update_by_larc', 'sgdp_decay',
           'adamp_projection']


def maximize(grad):
    "Reverses the gradient, so that the optimizer maximizes: `g <- -g`. As the flag `maximize` of torch.optim."
    return dict(grad=-grad)

def lazy_rows(rows):
    """Leaves the rows that a sparse gradient lacks, and their state, as they are, whatever the other callbacks do with a gradient of 0. For
    `nn.Embedding(sparse=True)`, as torch.optim.SparseAdam."""
    return {}

def sign_grad(grad):
    "Takes the sign of the gradient: `g <- sign(g)`. signSGD, Bernstein et al. 2018, https://arxiv.org/abs/1802.04434"
    return dict(grad=grad.sign())

def clip_grad_value(grad, max_value:nonneg=1.):
    "Clips each element of the gradient: `g <- clip(g, -max_value, max_value)`. As torch.nn.utils.clip_grad_value_."
    return dict(grad=grad.clamp(-max_value, max_value))

def clip_tensor_norm(grad, max_norm:positive=1.):
    "Clips the norm of each gradient tensor by itself: `g <- g / max(1, |g|/max_norm)`. Pascanu et al. 2013, https://arxiv.org/abs/1211.5063"
    return dict(grad = grad / (grad.norm()/max_norm).clamp(min=1))

def clip_grad_norm(grads, max_norm:Range('[0,inf]')=1.):
    """Clips the norm of all gradients together, as one vector: `g <- g*min(1, max_norm/(|all g| + 1e-6))`. It replaces
    torch.nn.utils.clip_grad_norm_, and does not change `p.grad`. Pascanu et al. 2013, https://arxiv.org/abs/1211.5063"""
    norms = [g.norm() for g in grads]
    norm  = torch.stack([n.to(norms[0].device) for n in norms]).norm()
    scale = (max_norm/(norm + 1e-6)).clamp(max=1)
    return dict(grads = [g*scale.to(g) for g in grads])

def unit_norm(x):
    "The norm of each unit, over all dimensions but the first. A vector is one unit"
    return x.norm() if x.ndim<2 else torch.linalg.vector_norm(x, dim=[*range(1, x.ndim)], keepdim=True)

def adaptive_grad_clip(p, grad, clip_factor:nonneg=0.01, clip_eps:nonneg=1e-3):
    """Clips the gradient of each unit to a fraction of the norm of its weights: `g <- g * min(1, clip_factor*max(|w|, clip_eps)/|g|)`. A vector is
    one unit, as in the authors' code. Adaptive gradient clipping, Brock et al. 2021, https://arxiv.org/abs/2102.06171"""
    longest = unit_norm(p).clamp(min=clip_eps) * clip_factor
    return dict(grad = grad * (longest / unit_norm(grad).clamp(min=1e-6)).clamp(max=1))

def normalize_grad(grad, norm_eps:nonneg=1e-8):
    """Divides each gradient tensor by its norm: `g <- g / (|g| + norm_eps)`. Normalized gradient descent, Hazan et al. 2015,
    https://arxiv.org/abs/1507.02030"""
    return dict(grad = grad / (grad.norm() + norm_eps))

def centralize(grad):
    """Subtracts its mean from the gradient of each unit: `g <- g - mean(g)`. Vectors stay as they are. Gradient centralization, Yong et al. 2020,
    https://arxiv.org/abs/2004.01461"""
    return dict(grad = grad if grad.ndim<2 else grad - grad.mean(dim=[*range(1, grad.ndim)], keepdim=True))

def orthograd(p, grad):
    """Removes the part of the gradient along the weights, and restores its norm: `h = g - p*<p, g>/|p|^2; g <- h*|g|/|h|`. If `h` is nothing but
    rounding, the gradient becomes 0. Prieto et al. 2025, https://arxiv.org/abs/2501.04697"""
    across = grad - p*((p*grad).sum() / (p*p).sum().clamp(min=torch.finfo(p.dtype).tiny))
    before,after = grad.norm(),across.norm()
    return dict(grad = across*torch.where(after > before*(4*torch.finfo(p.dtype).eps), before/after, 0.))

def add_noise(grad, step, noise_eta:nonneg=0.01, noise_gamma:nonneg=0.55):
    """Adds Gaussian noise that decays with the steps: `g <- g + N(0, s)`, `s^2 = noise_eta/t^noise_gamma`. The paper has `noise_eta` of 0.01, 0.3 or
    1; its first step is `t=1` here. `torch.manual_seed` determines the noise: copies of a model, as under DDP, need the same seed.
    Neelakantan et al. 2015, https://arxiv.org/abs/1511.06807"""
    return dict(grad = grad.add(torch.randn_like(grad), alpha=(noise_eta/step**noise_gamma)**0.5))

def grokfast(grad, slow_mom:fraction=0.98, slow_gain:nonneg=2., slow_grad_avg=zeros):
    """Amplifies the slow part of the gradient: `h <- slow_mom*h + (1-slow_mom)*g; g <- g + slow_gain*h`. State: `slow_grad_avg`, like p.
    Grokfast-EMA, Lee et al. 2024, https://arxiv.org/abs/2405.20233"""
    slow = average(slow_grad_avg, grad, slow_mom)
    return dict(grad=grad.add(slow, alpha=slow_gain), slow_grad_avg=slow)

def mars_correction(grad, change, mom, gamma:nonneg=0.025):
    """Reduces the variance of the gradient by its last change: `g <- g + gamma*mom/(1-mom)*d`. `grad_change` computes `d`. The two gradients come
    from different batches, which the paper calls the approximate form. MARS, Yuan et al. 2024, https://arxiv.org/abs/2411.10438"""
    return dict(grad = grad.add(change, alpha=gamma*mom/(1-mom)))

def l2_reg(p, grad, wd:nonneg=0.01):
    "Adds the gradient of the penalty `wd/2 * |p|^2`: `g <- g + wd*p`. L2 regularization, the `weight_decay` of torch.optim.SGD and torch.optim.Adam."
    return dict(grad = grad.add(p, alpha=wd))

def l1_reg(p, grad, l1:nonneg=1e-4):
    "Adds the gradient of the penalty `l1*sum|p|`: `g <- g + l1*sign(p)`. The lasso, Tibshirani 1996."
    return dict(grad = grad.add(p.sign(), alpha=l1))

def weight_decay(p, lr, wd:nonneg=0.01):
    """Shrinks the parameter, whatever the gradient: `p <- p*(1 - lr*wd)`. Decoupled weight decay, Loshchilov and Hutter 2019,
    https://arxiv.org/abs/1711.05101"""
    return dict(p = p*(1-lr*wd))

def fixed_decay(p, wd:nonneg=1e-4):
    """Shrinks the parameter by the same factor at every step, whatever the learning rate: `p <- p*(1 - wd)`. As the flag `fixed_decay` of
    pytorch_optimizer."""
    return weight_decay(p, 1, wd)

def fully_decoupled_decay(p, lr, max_lr, wd:nonneg=1e-5):
    """Shrinks the parameter in proportion to a schedule, but not to its largest rate: `p <- p*(1 - wd*lr/max_lr)`. The best `wd` then does not depend
    on the learning rate. Give `max_lr`, or put `largest_lr` before this block. Loshchilov and Hutter 2019, https://arxiv.org/abs/1711.05101,
    algorithm 2; optimi's `decouple_lr`"""
    return weight_decay(p, lr/max_lr, wd)

def corrected_decay(p, lr, max_lr, wd:nonneg=0.01):
    """Shrinks the parameter in proportion to the square of the learning rate: `p <- p*(1 - wd*lr^2/max_lr)`. The norms of weights then stay steady
    while a schedule lowers the rate. AdamC, Defazio 2025, https://arxiv.org/abs/2506.02285"""
    return weight_decay(p, lr*lr/max_lr, wd)

def cautious_weight_decay(p, update, lr, wd:nonneg=0.01):
    """Shrinks an element only where the update moves it towards zero as well: `p <- p*(1 - lr*wd)` where `u*p > 0`. It comes after the step. Chen et
    al. 2025, https://arxiv.org/abs/2510.12402"""
    return dict(p = torch.where(update*p>0, weight_decay(p, lr, wd)['p'], p))

def decay_to_start(p, lr, wd:nonneg=0.01, first_p=copy_of_p):
    """Pulls the parameter towards its initial value: `p <- p - lr*wd*(p - p_0)`. State: `first_p`, like p. L2-SP, Li et al. 2018,
    https://arxiv.org/abs/1802.01483, here decoupled from the gradient"""
    return dict(p = p.lerp(first_p, lr*wd))

def decay(wd, decoupled):
    "The block that decays weights: `weight_decay` if `decoupled`, `l2_reg` otherwise. A `wd` of 0 gives none"
    return wd and (weight_decay if decoupled else l2_reg)

def add_decayed_weights(p, update, wd:nonneg=0.01):
    """Adds weight decay to the update: `u <- u + wd*p`. Blocks that scale the update later scale the decay too. LAMB, You et al. 2020,
    https://arxiv.org/abs/1904.00962"""
    return dict(update = update.add(p, alpha=wd))

def heavy_ball(update, mom:fraction=0.9, update_avg=zeros):
    "Adds momentum to the update of any step: `b <- mom*b + u; u <- b`. State: `update_avg`, like p. Polyak 1964."
    ball = update.add(update_avg, alpha=mom)
    return dict(update=ball, update_avg=ball)

def agreement(update, grad):
    "1 where the update and the gradient have the same sign, 0 elsewhere"
    return (update*grad>0).to(update.dtype)

def cautious(grad, update):
    """Drops the elements of the update whose sign is not the gradient's, and scales up the others: `u <- u*mask/max(mean(mask), 1e-3)`, `mask = u*g >
    0`. It comes after any step. Cautious optimizers, Liang et al. 2024, https://arxiv.org/abs/2411.16085, scaled as in timm"""
    mask = agreement(update, grad)
    return dict(update = update * (mask / mask.mean().clamp(min=1e-3)))

def grams_sign(grad, update):
    "Gives each element of the update the sign of the gradient: `u <- |u|*sign(g)`. Grams, Cao et al. 2024, https://arxiv.org/abs/2412.17107"
    return dict(update = update.abs()*grad.sign())

def rms(x):
    "The root of the mean square"
    return (x*x).mean().sqrt()

def clip_update_rms(update, max_rms:positive=1.):
    """Clips the root mean square of the update of each tensor: `u <- u / max(1, rms(u)/max_rms)`. Adafactor, Shazeer and Stern 2018,
    https://arxiv.org/abs/1804.04235, section 6"""
    return update / (rms(update)/max_rms).clamp(min=1)

def fixed_update_rms(update, eps:nonneg=1e-10, target_rms:positive=0.2):
    """Scales the update of each tensor to a fixed root mean square: `u <- u * target_rms*sqrt(n)/(|u| + eps)`, with n elements. The default is about
    the root mean square of AdamW's updates. Liu et al. 2025, https://arxiv.org/abs/2502.16982"""
    return update/(update.norm() + eps) * update.numel()**0.5 * target_rms

def stable_adamw_lr(grad, sqr_avg, debias2, lr, eps:nonneg=1e-8):
    """Lowers the learning rate of a tensor whose gradients exceed their second moment: `lr <- lr / max(1, sqrt(mean(g^2 / max(v, eps^2))))`, with v
    debiased. StableAdamW, Wortsman et al. 2023, https://arxiv.org/abs/2304.13013"""
    return dict(lr = lr / (grad*grad / (sqr_avg/debias2).clamp(min=eps*eps)).mean().sqrt().clamp(min=1))

def scale_by_param_rms(p, update, eps2:nonneg=1e-3):
    """Multiplies the update by the root mean square of the parameter: `u <- u * max(eps2, rms(p))`. Adafactor, Shazeer and Stern 2018,
    https://arxiv.org/abs/1804.04235, section 8; optax's `scale_by_param_block_rms`"""
    return update * rms(p).clamp(min=eps2)

def inverse_sqrt_lr(lr, step):
    """Bounds the learning rate by the inverse square root of the step: `lr <- min(lr, 1/sqrt(t))`. On the host. Adafactor, Shazeer and Stern 2018,
    https://arxiv.org/abs/1804.04235, algorithm 4"""
    return dict(lr = minimum(lr, step**-0.5))

def rectify_update(update, grad_avg, debias1, rect):
    """Multiplies the update of any Adam-like step by the rectification term: `u <- rect*u`. While the term is 0, the update becomes `m/(1-mom^t)`. It
    comes after `rectification_term` and the step. RAdam, Liu et al. 2020, https://arxiv.org/abs/1908.03265"""
    return where(rect>0, update*rect, grad_avg/debias1)

def scale_by_trust_ratio(p, update, max_ratio:Range('(0,inf]')=inf):
    """Multiplies the update of each tensor by the trust ratio: `u <- u * min(|p|/|u|, max_ratio)`. The ratio is 1 if either norm is 0. LAMB, You et
    al. 2020, https://arxiv.org/abs/1904.00962, with `phi(x) = x`: only `max_ratio` clips the ratio"""
    p_norm,u_norm = p.norm(),update.norm()
    ratio = p_norm/u_norm if max_ratio==inf else torch.clamp(p_norm/u_norm, max=max_ratio)
    return dict(update = update*torch.where((p_norm>0) & (u_norm>0), ratio, 1.))

def lars_ratio(p, grad, wd:nonneg=0., trust_coeff:nonneg=1e-3, eps:nonneg=1e-8):
    """Computes the trust ratio of LARS for each tensor: `r = trust_coeff*|p| / (|g| + wd*|p| + eps)`. The ratio is 1 if either norm is 0.
    `scale_grad_by_lars` applies it. You et al. 2017, https://arxiv.org/abs/1708.03888"""
    p_norm,g_norm = p.norm(),grad.norm()
    return dict(layer_ratio = torch.where((p_norm>0) & (g_norm>0), lars_formula(p_norm, g_norm, wd, trust_coeff, eps), 1.))

def lars_formula(p_norm, g_norm, wd, trust_coeff, eps): return p_norm*trust_coeff / (g_norm.add(p_norm, alpha=wd) + eps)

def clip_lars_ratio(layer_ratio, lr):
    "Clips the ratio of LARS, so that the rate of each tensor is at most the learning rate: `r <- min(r/lr, 1)`. LARC, https://github.com/NVIDIA/apex"
    return dict(layer_ratio = (layer_ratio/lr).clamp(max=1))

def scale_grad_by_lars(grad, layer_ratio):
    """Multiplies the gradient of each tensor by the ratio of LARS: `g <- r*g`. `lars_ratio` computes the ratio. You et al. 2017,
    https://arxiv.org/abs/1708.03888"""
    return dict(grad = grad*layer_ratio)

def scale_update_by_larc(p, grad, update, wd:nonneg=0., trust_coeff:nonneg=0.02, clip=True, eps:nonneg=1e-8):
    """Multiplies the update of each tensor by the ratio of LARS: `u <- r*u`, or `u <- min(r, 1)*u` with `clip`. The ratio of a tensor of zeros is 0,
    so it stays at zero. As fastai, https://docs.fast.ai/optimizer.html#larc"""
    ratio = lars_formula(p.norm(), grad.norm(), wd, trust_coeff, eps)
    return dict(update = update * (ratio.clamp(max=1) if clip else ratio))

def sgdp_decay(wd:nonneg, mom:fraction):
    """Multiplies weight decay by the factor by which a momentum sum multiplies a gradient: `wd <- wd/(1 - mom)`. On the host. SGDP, Heo et al. 2021,
    https://arxiv.org/abs/2006.08217"""
    return dict(wd = wd/(1-mom))

def adamp_projection(p, grad, update, wd, delta:positive=0.1, wd_ratio:nonneg=0.1, eps:nonneg=1e-8):
    """Removes the part of the update that only changes the norm of scale-invariant weights: `u <- u - n*<n, u>` with `n = p/|p|`. Weights before a
    normalization layer are scale-invariant. The block takes weights for such where the gradient is nearly orthogonal to them, `max |cos(g, p)| <
    delta/sqrt(size)`, for each output channel or for the whole tensor. There it lowers the decay too, `wd <- wd*wd_ratio`. Vectors stay as they are.
    AdamP, Heo et al. 2021, https://arxiv.org/abs/2006.08217"""
    if p.ndim<2: return dict(update=update, wd=wd)
    p_rows,g_rows,u_rows = [x.flatten(1) for x in (p, grad, update)]
    off_rows,by_row = projected(p_rows, g_rows, u_rows, delta, eps)
    off_whole,whole = projected(*[x.reshape(1, -1) for x in (p_rows, g_rows, u_rows)], delta, eps)
    done = (by_row|whole).to(p.dtype)
    off  = torch.where(by_row, off_rows, torch.where(whole, off_whole.reshape(u_rows.shape), u_rows))
    return dict(update=off.reshape(p.shape), wd=wd*(1 + done*(wd_ratio-1)))

def projected(p, grad, update, delta, eps):
    "`update` without its part along `p`, row by row, and whether the gradients of all rows are nearly orthogonal to `p`"
    dot,(p_norm,g_norm) = (p*grad).sum(1),[x.norm(dim=1) for x in (p, grad)]
    n = p/(p_norm + eps)[:,None]
    return update - n*(n*update).sum(1, keepdim=True),(dot/(p_norm.clamp(min=eps)*g_norm.clamp(min=eps))).abs().amax()*p.shape[1]**0.5 < delta

"""Transforms: what changes a gradient before the statistics see it, an update after the step made it, or the parameter itself.

All shapes are that of the parameter p. Symbols: gradient g, update u, decay `wd`, learning rate `lr`; `|x|` is the root of the sum of squares."""

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
    "Go up instead of down: `g <- -g`"
    return dict(grad=-grad)

def lazy_rows(rows):
    """Of a sparse gradient the rows that it lacks rest, and so does their state, whatever the other callbacks would do with a gradient of zero.
    For `nn.Embedding(sparse=True)`, as in torch.optim.SparseAdam"""
    return {}

def sign_grad(grad):
    "The sign alone: `g <- sign(g)`. Bernstein et al. 2018, signSGD, https://arxiv.org/abs/1802.04434"
    return dict(grad=grad.sign())

def clip_grad_value(grad, max_value:nonneg=1.):
    "Each element between two bounds: `g <- clip(g, -max_value, max_value)`, as torch.nn.utils.clip_grad_value_"
    return dict(grad=grad.clamp(-max_value, max_value))

def clip_tensor_norm(grad, max_norm:positive=1.):
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
    "The norm of each unit's weights: over all dimensions but the first; a vector is one unit"
    return x.norm() if x.ndim<2 else torch.linalg.vector_norm(x, dim=[*range(1, x.ndim)], keepdim=True)

def adaptive_grad_clip(p, grad, clip_factor:nonneg=0.01, clip_eps:nonneg=1e-3):
    """No unit's gradient longer than a fraction of its weights: `g <- g * min(1, clip_factor*max(|w|, clip_eps)/|g|)`, for each unit, a
    vector being one, as in the authors' code. Brock et al. 2021, https://arxiv.org/abs/2102.06171"""
    longest = unit_norm(p).clamp(min=clip_eps) * clip_factor
    return dict(grad = grad * (longest / unit_norm(grad).clamp(min=1e-6)).clamp(max=1))

def normalize_grad(grad, norm_eps:nonneg=1e-8):
    "Each tensor of length 1: `g <- g / (|g| + norm_eps)`. You et al. 2017, https://arxiv.org/abs/1708.03888, and before them Hazan et al. 2015"
    return dict(grad = grad / (grad.norm() + norm_eps))

def centralize(grad):
    """Each unit's gradient without its mean: `g <- g - mean(g)` over all dimensions but the first; vectors stay.
    Yong et al. 2020, https://arxiv.org/abs/2004.01461"""
    return dict(grad = grad if grad.ndim<2 else grad - grad.mean(dim=[*range(1, grad.ndim)], keepdim=True))

def orthograd(p, grad):
    """The gradient at a right angle to the weights, as long as before: `h = g - p*<p, g>/|p|^2; g <- h*|g|/|h|`, for each tensor; nothing where only
    rounding is left of it. Prieto et al. 2025, https://arxiv.org/abs/2501.04697"""
    across = grad - p*((p*grad).sum() / (p*p).sum().clamp(min=torch.finfo(p.dtype).tiny))
    before,after = grad.norm(),across.norm()
    return dict(grad = across*torch.where(after > before*(4*torch.finfo(p.dtype).eps), before/after, 0.))

def add_noise(grad, step, noise_eta:nonneg=0.01, noise_gamma:nonneg=0.55):
    """Noise that fades: `g <- g + N(0, s)`, `s^2 = noise_eta/t^noise_gamma`. Neelakantan et al. 2015, https://arxiv.org/abs/1511.06807, with the
    first step as `t=1`; `noise_eta` is 0.01, 0.3 or 1 in the paper"""
    return dict(grad = grad.add(torch.randn_like(grad), alpha=(noise_eta/step**noise_gamma)**0.5))

def grokfast(grad, slow_mom:fraction=0.98, slow_gain:nonneg=2., slow_grad_avg=zeros):
    """Slow gradients made louder: `h <- slow_mom*h + (1-slow_mom)*g; g <- g + slow_gain*h`.
    Lee et al. 2024, https://arxiv.org/abs/2405.20233, the form with an exponential average"""
    slow = average(slow_grad_avg, grad, slow_mom)
    return dict(grad=grad.add(slow, alpha=slow_gain), slow_grad_avg=slow)

def mars_correction(grad, change, mom, gamma:nonneg=0.025):
    """Less variance by how the gradient has changed, `g <- g + gamma*mom/(1-mom)*d`: approximate, because `d` is between two batches.
    Yuan et al. 2024, MARS, https://arxiv.org/abs/2411.10438"""
    return dict(grad = grad.add(change, alpha=gamma*mom/(1-mom)))

def l2_reg(p, grad, wd:nonneg=0.01):
    "Gradient of the penalty `wd/2 * |p|^2`: `g <- g + wd*p`"
    return dict(grad = grad.add(p, alpha=wd))

def l1_reg(p, grad, l1:nonneg=1e-4):
    "Gradient of the penalty `l1*sum|p|`: `g <- g + l1*sign(p)`. Tibshirani 1996, the lasso"
    return dict(grad = grad.add(p.sign(), alpha=l1))

def weight_decay(p, lr, wd:nonneg=0.01):
    "Shrink the parameter itself, whatever the gradient: `p <- p*(1 - lr*wd)`. Loshchilov and Hutter 2019, https://arxiv.org/abs/1711.05101"
    return dict(p = p*(1-lr*wd))

def fixed_decay(p, wd:nonneg=1e-4):
    "Shrink the parameter at every step alike, whatever the rate: `p <- p*(1 - wd)`. As `fixed_decay` elsewhere"
    return weight_decay(p, 1, wd)

def fully_decoupled_decay(p, lr, max_lr, wd:nonneg=1e-5):
    """Decay that a schedule scales, but not its largest rate: `p <- p*(1 - wd*lr/max_lr)`, so that a search for `lr` does not move the best `wd`.
    Loshchilov and Hutter 2019, https://arxiv.org/abs/1711.05101, algorithm 2; optimi's `decouple_lr`. Give `max_lr`, or `largest_lr` before it"""
    return weight_decay(p, lr/max_lr, wd)

def corrected_decay(p, lr, max_lr, wd:nonneg=0.01):
    """Decay that falls with the square of the rate, so that norms stay even: `p <- p*(1 - wd*lr^2/max_lr)`.
    Defazio 2025, https://arxiv.org/abs/2506.02285"""
    return weight_decay(p, lr*lr/max_lr, wd)

def cautious_weight_decay(p, update, lr, wd:nonneg=0.01):
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

def grams_sign(grad, update):
    "The update's length for each element, the gradient's sign: `u <- |u|*sign(g)`. Cao et al. 2024, https://arxiv.org/abs/2412.17107"
    return dict(update = update.abs()*grad.sign())

def rms(x):
    "Root of the mean square"
    return (x*x).mean().sqrt()

def clip_update_rms(update, max_rms:positive=1.):
    """The update of each tensor no longer than `max_rms`, in root mean square: `u <- u / max(1, rms(u)/max_rms)`.
    Shazeer and Stern 2018, https://arxiv.org/abs/1804.04235, section 6"""
    return update / (rms(update)/max_rms).clamp(min=1)

def fixed_update_rms(update, eps:nonneg=1e-10, target_rms:positive=0.2):
    """The update of each tensor of always the same root mean square, by default about that of AdamW's: `u <- u * target_rms*sqrt(n)/(|u| + eps)`,
    of n elements. Liu et al. 2025, https://arxiv.org/abs/2502.16982"""
    return update/(update.norm() + eps) * update.numel()**0.5 * target_rms

def stable_adamw_lr(grad, sqr_avg, debias2, lr, eps:nonneg=1e-8):
    """A smaller rate for a tensor whose gradients are larger than their average says, `lr <- lr / max(1, sqrt(mean(g^2 / max(v, eps^2))))`, v
    debiased. Wortsman et al. 2023, StableAdamW, https://arxiv.org/abs/2304.13013"""
    return dict(lr = lr / (grad*grad / (sqr_avg/debias2).clamp(min=eps*eps)).mean().sqrt().clamp(min=1))

def scale_by_param_rms(p, update, eps2:nonneg=1e-3):
    """Steps in proportion to the root mean square of the parameter, or to `eps2` if that is more: `u <- u * max(eps2, rms(p))`.
    Shazeer and Stern 2018, https://arxiv.org/abs/1804.04235, section 8"""
    return update * rms(p).clamp(min=eps2)

def inverse_sqrt_lr(lr, step):
    "A rate that falls with the steps: `lr <- min(lr, 1/sqrt(t))`. On the host. https://arxiv.org/abs/1804.04235, algorithm 4"
    return dict(lr = minimum(lr, step**-0.5))

def rectify_update(update, grad_avg, debias1, rect):
    """Any step of Adam's kind as far as its second moment can be trusted, `u <- rect*u`, or momentum's while it cannot: `m/(1-mom^t)`.
    After `rectify`. Liu et al. 2020, https://arxiv.org/abs/1908.03265"""
    return where(rect>0, update*rect, grad_avg/debias1)

def scale_by_trust_ratio(p, update, max_ratio:Range('(0,inf]')=inf):
    """Steps in proportion to the parameter, one ratio for each tensor: `u <- u * min(|p|/|u|, max_ratio)`, or `u` as it is if either norm is 0.
    You et al. 2020, https://arxiv.org/abs/1904.00962, with `phi(x) = x`: not clipped, unless there is a `max_ratio`"""
    p_norm,u_norm = p.norm(),update.norm()
    ratio = p_norm/u_norm if max_ratio==inf else torch.clamp(p_norm/u_norm, max=max_ratio)
    return dict(update = update*torch.where((p_norm>0) & (u_norm>0), ratio, 1.))

def lars_ratio(p, grad, wd:nonneg=0., trust_coeff:nonneg=1e-3, eps:nonneg=1e-8):
    """How much of its own norm a tensor may move in units of the gradient's: `r = trust_coeff*|p| / (|g| + wd*|p| + eps)`, or 1 if either norm
    is 0. You et al. 2017, LARS, https://arxiv.org/abs/1708.03888"""
    p_norm,g_norm = p.norm(),grad.norm()
    return dict(layer_ratio = torch.where((p_norm>0) & (g_norm>0), lars_formula(p_norm, g_norm, wd, trust_coeff, eps), 1.))

def lars_formula(p_norm, g_norm, wd, trust_coeff, eps): return p_norm*trust_coeff / (g_norm.add(p_norm, alpha=wd) + eps)

def clip_lars_ratio(layer_ratio, lr):
    "So that the layer's own rate is at most `lr`: `r <- min(r/lr, 1)`. LARC, https://github.com/NVIDIA/apex"
    return dict(layer_ratio = (layer_ratio/lr).clamp(max=1))

def scale_grad_by_lars(grad, layer_ratio):
    "The gradient in proportion to the layer: `g <- r*g`"
    return dict(grad = grad*layer_ratio)

def scale_update_by_larc(p, grad, update, wd:nonneg=0., trust_coeff:nonneg=0.02, clip=True, eps:nonneg=1e-8):
    """The same for an update, as fastai has it: `u <- r*u` or, with `clip`, `u <- min(r, 1)*u`, so that no step is longer than without; a tensor of
    zeros stays at zero"""
    ratio = lars_formula(p.norm(), grad.norm(), wd, trust_coeff, eps)
    return dict(update = update * (ratio.clamp(max=1) if clip else ratio))

def sgdp_decay(wd:nonneg, mom:fraction):
    "As much decay as momentum, a plain sum, makes of a gradient: `wd <- wd/(1 - mom)`. On the host. https://arxiv.org/abs/2006.08217"
    return dict(wd = wd/(1-mom))

def adamp_projection(p, grad, update, wd, delta:positive=0.1, wd_ratio:nonneg=0.1, eps:nonneg=1e-8):
    """Take away what only changes the length of weights to which the output is indifferent, as those before a normalization are:
    `u <- u - n*<n, u>` with `n = p/|p|`, for each output channel or for the whole tensor, where the gradient is about at a right angle to the
    weights, `max |cos(g, p)| < delta/sqrt(size)`; then `wd <- wd*wd_ratio`. Not for vectors. Heo et al. 2021, https://arxiv.org/abs/2006.08217"""
    if p.ndim<2: return dict(update=update, wd=wd)
    p_rows,g_rows,u_rows = [x.flatten(1) for x in (p, grad, update)]
    off_rows,rows  = projected(p_rows, g_rows, u_rows, delta, eps)
    off_whole,whole = projected(*[x.reshape(1, -1) for x in (p_rows, g_rows, u_rows)], delta, eps)
    done = (rows|whole).to(p.dtype)
    off  = torch.where(rows, off_rows, torch.where(whole, off_whole.reshape(u_rows.shape), u_rows))
    return dict(update=off.reshape(p.shape), wd=wd*(1 + done*(wd_ratio-1)))

def projected(p, grad, update, delta, eps):
    "`update` without its part along `p`, in each row, and whether gradients are so nearly at a right angle to `p` that it is meant to be so"
    dot,(p_norm,g_norm) = (p*grad).sum(1),[x.norm(dim=1) for x in (p, grad)]
    n = p/(p_norm + eps)[:,None]
    return update - n*(n*update).sum(1, keepdim=True),(dot/(p_norm.clamp(min=eps)*g_norm.clamp(min=eps))).abs().amax()*p.shape[1]**0.5 < delta

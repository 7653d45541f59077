"""Rates: estimates of the learning rate from the distance that the parameters have covered. From simple to complex.

Distances and sums are 0-dim tensors, one for each parameter. Where all parameters count as one vector, a block joins them. Symbols as in `stats`; x
is the parameter, x_0 (`p0`) its initial value, D (`d`) the estimated distance from x_0 to the solution."""

from math import inf
import torch
from ..contract import Init,Range,copy_of_p,fraction,nonneg,positive,scalar_tensor,zeros

__all__ = ['distance_from_start', 'global_norms', 'dog_rate', 'dowg_rate', 'scale_lr_by_distance', 'debias_lr', 'root_of_sqr_mom',
           'd_adapt_distance', 'prodigy_distance', 'estimate_distance', 'd_adapt_growth', 'prodigy_growth', 'scale_grad_by_distance',
           'scale_grad_by_lr', 'unit_lr', 'scale_eps_by_distance']

norm_of_p = Init(torch.linalg.vector_norm)
def farthest(far, dist, start, reps_rel): return torch.maximum(far, torch.maximum(dist, reps_rel*(1+start)))


def distance_from_start(p, grad, p0=copy_of_p, p0_norm=norm_of_p):
    """Computes the distance and the norms that DoG needs: `|x - x_0|`, `|g|^2` and `|x_0|`. State: `p0`, like p, and `p0_norm`, 0-dim. Ivgi et al.
    2023, https://arxiv.org/abs/2302.12022"""
    return dict(dist=(p-p0).norm(), sqr_norm=grad.square().sum(), start=p0_norm)

def global_norms(dists, sqr_norms, starts):
    "Joins the distances and norms of all parameters, as if they were one vector. Ivgi et al. 2023, https://arxiv.org/abs/2302.12022"
    return dict(dist=torch.stack(dists).norm(), sqr_norm=torch.stack(sqr_norms).sum(), start=torch.stack(starts).norm())

def dog_rate(lr, dist, sqr_norm, start, reps_rel:positive=1e-6, eps:positive=1e-8, far=scalar_tensor(0.), sqr_sum=scalar_tensor(0.)):
    """Sets the learning rate to distance over gradients: `lr <- lr * r/sqrt(G + eps)`, `G <- G + |g|^2`. `r` is the largest distance so far, at least
    `reps_rel*(1+|x_0|)`. State: `far` and `sqr_sum`, 0-dim. DoG, Ivgi et al. 2023, https://arxiv.org/abs/2302.12022"""
    far,sqr_sum = farthest(far, dist, start, reps_rel),sqr_sum+sqr_norm
    return dict(far=far, sqr_sum=sqr_sum, lr=lr*far/(sqr_sum+eps).sqrt())

def dowg_rate(lr, dist, sqr_norm, start, reps_rel:positive=1e-6, eps:positive=1e-8, far=scalar_tensor(0.), weighted_sum=scalar_tensor(0.)):
    """Sets the learning rate to distance over weighted gradients: `lr <- lr * r^2/sqrt(V + eps)`, `V <- V + r^2*|g|^2`. `r` is that of `dog_rate`.
    State: `far` and `weighted_sum`, 0-dim. DoWG, Khaled et al. 2023, https://arxiv.org/abs/2305.16284"""
    far = farthest(far, dist, start, reps_rel)
    weighted_sum = weighted_sum + far.square()*sqr_norm
    return dict(far=far, weighted_sum=weighted_sum, lr=lr*far.square()/(weighted_sum+eps).sqrt())

def scale_lr_by_distance(lr, d=scalar_tensor(1e-6)):
    """Multiplies the learning rate by the estimated distance: `lr <- lr*D`. State: `d`, 0-dim. D-Adaptation, Defazio and Mishchenko 2023,
    https://arxiv.org/abs/2301.07733"""
    return dict(lr=lr*d)

def debias_lr(lr, debias1, debias2):
    """Puts Adam's bias corrections into the learning rate: `lr <- lr * sqrt(1-sqr_mom^t)/(1-mom^t)`. Kingma and Ba 2015, section 2,
    https://arxiv.org/abs/1412.6980"""
    return dict(lr=lr*(debias2**0.5/debias1))

def root_of_sqr_mom(sqr_mom:fraction):
    """Derives the decay rate of the distance estimate from that of the second moment: `beta3 = sqrt(sqr_mom)`. On the host. Defazio and Mishchenko
    2023, https://arxiv.org/abs/2301.07733"""
    return dict(beta3=sqr_mom**0.5)

def d_adapt_distance(grad, lr, beta3:fraction, eps:nonneg=1e-8, sqr_avg=zeros, grad_sum=zeros, num=scalar_tensor(0.)):
    """Computes what each parameter adds to D-Adaptation's estimate: `num <- c*num + lr*<g, s/(sqrt(v)+eps)>; s <- c*s + (1-c)*lr*g; den = |s|_1`. `c`
    is `beta3`, and v is that of the last step. State: `sqr_avg` and `grad_sum`, like p, and `num`, 0-dim. Defazio and Mishchenko 2023,
    https://arxiv.org/abs/2301.07733, algorithm 5"""
    num      = num*beta3 + lr*(grad*grad_sum/(sqr_avg.sqrt() + eps)).sum()
    grad_sum = grad_sum*beta3 + grad*(lr*(1-beta3))
    return dict(num=num, grad_sum=grad_sum, den=grad_sum.abs().sum())

def prodigy_distance(p, grad, lr, d, d0:positive, beta3:fraction, safeguard_warmup=False, p0=copy_of_p, grad_sum=zeros, num=scalar_tensor(0.)):
    """Computes what each parameter adds to Prodigy's estimate: `num <- b*num + D/d0*lr*<g, x_0-x>; s <- b*s + D/d0*lr*g; den = |s|_1`. `b` is
    `beta3`. With `safeguard_warmup`, D takes the place of lr in `s`. State: `p0` and `grad_sum`, like p, and `num`, 0-dim. Mishchenko and Defazio
    2024, https://arxiv.org/abs/2306.06101"""
    weight   = d/d0
    num      = num*beta3 + weight*lr*(grad*(p0-p)).sum()
    grad_sum = grad_sum*beta3 + grad*(weight*(d if safeguard_warmup else lr))
    return dict(num=num, grad_sum=grad_sum, den=grad_sum.abs().sum())

def estimate_distance(nums, dens, ds, d_coef:positive=1.):
    """Estimates the distance from what all parameters add: `Dhat = d_coef * sum(num)/sum(den)`. It is 0 while all gradients are 0. All parameters
    continue with the largest D among them. Defazio and Mishchenko 2023, https://arxiv.org/abs/2301.07733"""
    num,den = torch.stack(nums).sum(),torch.stack(dens).sum()
    return dict(d_hat=torch.where(den>0, d_coef*num/den, 0.), d=torch.stack(ds).amax())

def d_adapt_growth(d, d_hat, growth_rate:Range('(1,inf]')=inf):
    """Raises D to the new estimate, by at most a factor of `growth_rate`: `D <- max(D, min(Dhat, growth_rate*D))`. D-Adaptation, Defazio and
    Mishchenko 2023, https://arxiv.org/abs/2301.07733"""
    return dict(d=torch.maximum(d, torch.minimum(d_hat, d*growth_rate)))

def prodigy_growth(d, d_hat, d0:positive, growth_rate:Range('(1,inf]')=inf, d_max=scalar_tensor(0.)):
    """Raises D towards the largest estimate so far, by at most a factor of `growth_rate`: `D <- min(Dmax, growth_rate*D)`. The first estimate is
    taken whole. State: `d_max`, 0-dim. Prodigy, Mishchenko and Defazio 2024, https://arxiv.org/abs/2306.06101"""
    d_max = torch.maximum(torch.maximum(d_max, d), d_hat)
    return dict(d=torch.minimum(d_max, torch.where(d==d0, torch.maximum(d, d_hat), d)*growth_rate), d_max=d_max)

def scale_grad_by_distance(grad, d):
    "Multiplies the gradient by the estimated distance: `g <- D*g`. Prodigy, Mishchenko and Defazio 2024, https://arxiv.org/abs/2306.06101"
    return dict(grad=grad*d)

def scale_grad_by_lr(grad, lr):
    """Multiplies the gradient by the learning rate: `g <- lr*g`. The rate is then part of the averages, and `unit_lr` removes it from the move.
    D-Adaptation, Defazio and Mishchenko 2023, https://arxiv.org/abs/2301.07733"""
    return dict(grad=grad*lr)

def unit_lr():
    "Sets the learning rate to 1, so that the update is the whole move: `lr <- 1`."
    return dict(lr=1.)

def scale_eps_by_distance(d, eps:nonneg=1e-8):
    "Multiplies Adam's eps by the estimated distance: `eps <- D*eps`. Prodigy, Mishchenko and Defazio 2024, https://arxiv.org/abs/2306.06101"
    return dict(eps=eps*d)

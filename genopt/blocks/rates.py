"""How far the parameters have come, and what learning rate that suggests. Simplest first.

Distances and sums are single numbers, kept for each tensor (`single`) and, where all parameters count as one vector, joined over all. Symbols: x_0
(`p0`) where a parameter started, D (`d`) the estimate of its distance to the solution."""

from math import inf
import torch
from ..contract import Init,Range,copy_of_p,fraction,nonneg,positive,single,zeros

__all__ = ['distance_from_start', 'global_norms', 'dog_rate', 'dowg_rate', 'scale_lr_by_distance', 'debias_lr', 'root_of_sqr_mom',
           'd_adapt_distance', 'prodigy_distance', 'estimate_distance', 'd_adapt_growth', 'prodigy_growth', 'scale_grad_by_distance',
           'scale_grad_by_lr', 'unit_lr', 'scale_eps_by_distance']

norm_of_p = Init(torch.linalg.vector_norm)
def farthest(far, dist, start, reps_rel): return torch.maximum(far, torch.maximum(dist, reps_rel*(1+start)))


def distance_from_start(p, grad, p0=copy_of_p, p0_norm=norm_of_p):
    "What DoG looks at: `|x - x_0|`, the gradient's `|g|^2`, and `|x_0|`. Ivgi et al. 2023, https://arxiv.org/abs/2302.12022"
    return dict(dist=(p-p0).norm(), sqr_norm=grad.square().sum(), start=p0_norm)

def global_norms(dists, sqr_norms, starts):
    "The same of all parameters together, as one vector"
    return dict(dist=torch.stack(dists).norm(), sqr_norm=torch.stack(sqr_norms).sum(), start=torch.stack(starts).norm())

def dog_rate(lr, dist, sqr_norm, start, reps_rel:positive=1e-6, eps:positive=1e-8, far=single(0.), sqr_sum=single(0.)):
    """Distance over gradients: `lr <- lr * r/sqrt(G + eps)`, `G <- G + |g|^2`, with `r = max(|x - x_0| so far, reps_rel*(1+|x_0|))`.
    Ivgi et al. 2023, https://arxiv.org/abs/2302.12022"""
    far,sqr_sum = farthest(far, dist, start, reps_rel),sqr_sum+sqr_norm
    return dict(far=far, sqr_sum=sqr_sum, lr=lr*far/(sqr_sum+eps).sqrt())

def dowg_rate(lr, dist, sqr_norm, start, reps_rel:positive=1e-6, eps:positive=1e-8, far=single(0.), weighted_sum=single(0.)):
    """Distance over weighted gradients: `lr <- lr * r^2/sqrt(V + eps)`, `V <- V + r^2*|g|^2`, with `r` as DoG's.
    Khaled et al. 2023, https://arxiv.org/abs/2305.16284"""
    far = farthest(far, dist, start, reps_rel)
    weighted_sum = weighted_sum + far.square()*sqr_norm
    return dict(far=far, weighted_sum=weighted_sum, lr=lr*far.square()/(weighted_sum+eps).sqrt())

def scale_lr_by_distance(lr, d=single(1e-6)):
    "The rate in proportion to the distance as estimated so far: `lr <- lr*D`. Defazio and Mishchenko 2023, https://arxiv.org/abs/2301.07733"
    return dict(lr=lr*d)

def debias_lr(lr, debias1, debias2):
    "Adam's debiasing in the rate: `lr <- lr * sqrt(1-sqr_mom^t)/(1-mom^t)`"
    return dict(lr=lr*(debias2**0.5/debias1))

def root_of_sqr_mom(sqr_mom:fraction):
    "How fast estimates of the distance forget, beside Adam's second moment: `sqrt(sqr_mom)`"
    return dict(beta3=sqr_mom**0.5)

def d_adapt_distance(grad, lr, beta3:fraction, eps:nonneg=1e-8, sqr_avg=zeros, grad_sum=zeros, num=single(0.)):
    """Of each parameter what D-Adaptation's estimate is made of, in Adam's norm, with the `v` of the step before and `c = beta3`:
    `num <- c*num + lr*<g, s/(sqrt(v)+eps)>; s <- c*s + (1-c)*lr*g; den = |s|_1`. https://arxiv.org/abs/2301.07733, Algorithm 5"""
    num      = num*beta3 + lr*(grad*grad_sum/(sqr_avg.sqrt() + eps)).sum()
    grad_sum = grad_sum*beta3 + grad*(lr*(1-beta3))
    return dict(num=num, grad_sum=grad_sum, den=grad_sum.abs().sum())

def prodigy_distance(p, grad, lr, d, d0:positive, beta3:fraction, safeguard_warmup=False, p0=copy_of_p, grad_sum=zeros, num=single(0.)):
    """Of each parameter what Prodigy's estimate is made of: `num <- b*num + D/d0*lr*<g, x_0-x>; s <- b*s + D/d0*lr*g; den = |s|_1`, with
    `b = beta3`; `safeguard_warmup`: D instead of lr in `s`. Mishchenko and Defazio 2024, https://arxiv.org/abs/2306.06101"""
    weight   = d/d0
    num      = num*beta3 + weight*lr*(grad*(p0-p)).sum()
    grad_sum = grad_sum*beta3 + grad*(weight*(d if safeguard_warmup else lr))
    return dict(num=num, grad_sum=grad_sum, den=grad_sum.abs().sum())

def estimate_distance(nums, dens, ds, d_coef:positive=1.):
    "The estimate over all parameters: `Dhat = d_coef * sum(num)/sum(den)`, 0 while there is no gradient; `D` is the largest that one of them has"
    num,den = torch.stack(nums).sum(),torch.stack(dens).sum()
    return dict(d_hat=torch.where(den>0, d_coef*num/den, 0.), d=torch.stack(ds).amax())

def d_adapt_growth(d, d_hat, growth_rate:Range('(1,inf]')=inf):
    "`D <- max(D, min(Dhat, growth_rate*D))`. https://arxiv.org/abs/2301.07733"
    return dict(d=torch.maximum(d, torch.minimum(d_hat, d*growth_rate)))

def prodigy_growth(d, d_hat, d0:positive, growth_rate:Range('(1,inf]')=inf, d_max=single(0.)):
    "`D <- min(Dmax, growth_rate*D)`, with the largest estimate so far, `Dmax`, taken at once the first time. https://arxiv.org/abs/2306.06101"
    d_max = torch.maximum(torch.maximum(d_max, d), d_hat)
    return dict(d=torch.minimum(d_max, torch.where(d==d0, torch.maximum(d, d_hat), d)*growth_rate), d_max=d_max)

def scale_grad_by_distance(grad, d):
    "The gradient in units of the distance: `g <- D*g`. https://arxiv.org/abs/2306.06101"
    return dict(grad=grad*d)

def scale_grad_by_lr(grad, lr):
    "The rate within the average of gradients: `g <- lr*g`; `unit_rate` then takes it out of the move. As in LaProp and D-Adaptation"
    return dict(grad=grad*lr)

def unit_lr():
    "The update is the whole move: `lr <- 1`"
    return dict(lr=1.)

def scale_eps_by_distance(d, eps:nonneg=1e-8):
    "`eps` in units of the distance: `eps <- D*eps`"
    return dict(eps=eps*d)

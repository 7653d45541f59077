"""Around the move: what makes it in its own way, or looks at the parameter after it, `new_p`. Simplest first."""

from ..core import nonneg,zeros

__all__ = ['proximal_decay', 'decay_after', 'average_p']


def proximal_decay(new_p, lr, wd:nonneg=0.):
    "Shrink the parameter after it has moved: `p <- p/(1 + lr*wd)`. Xie et al. 2022, Adan, https://arxiv.org/abs/2208.06677"
    return dict(new_p = new_p/(1+lr*wd))

def decay_after(p, new_p, lr, wd:nonneg=0.):
    "Shrink by what the parameter was before, after it has moved: `p <- p - lr*wd*p_before`. For moves that are no step by `lr`"
    return dict(new_p = new_p.add(p, alpha=-lr*wd))

def average_p(new_p, avg_weight, p_avg=zeros):
    """An average of the parameter on its way, `a <- a + avg_weight*(p - a)`; with the weight `1/t` it is the mean of all.
    Polyak and Juditsky 1992, https://doi.org/10.1137/0330046"""
    return dict(p_avg = p_avg.lerp(new_p, avg_weight))

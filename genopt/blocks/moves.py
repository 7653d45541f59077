"""Around the move: what makes it in its own way, or looks at the parameter after it, `new_p`. Simplest first."""

from ..core import zeros

__all__ = ['average_p']


def average_p(new_p, avg_weight, p_avg=zeros):
    """An average of the parameter on its way, `a <- a + avg_weight*(p - a)`; with the weight `1/t` it is the mean of all.
    Polyak and Juditsky 1992, https://doi.org/10.1137/0330046"""
    return dict(p_avg = p_avg.lerp(new_p, avg_weight))

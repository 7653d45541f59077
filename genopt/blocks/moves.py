"""Around the move: what makes it in its own way, or looks at the parameter after it, `new_p`. Simplest first."""

from ..core import Range,copy_of_p,count,positive

__all__ = ['lookahead']


def lookahead(new_p, alpha:Range('[0,1]')=0.5, k:positive=6, slow_p=copy_of_p, fast_steps=count):
    """Slow weights s that follow every `k` steps, and from which the fast ones go on: `s <- s + alpha*(p - s); p <- s`. Behind any algorithm.
    Zhang et al. 2019, https://arxiv.org/abs/1907.08610"""
    fast_steps = (fast_steps+1) % k
    if not fast_steps: new_p = slow_p = slow_p.add(new_p-slow_p, alpha=alpha)
    return dict(new_p=new_p, slow_p=slow_p, fast_steps=fast_steps)

"""Around the move: what makes it in its own way, or looks at the parameter after it, `new_p`. Simplest first."""

__all__ = ['shrink_back']


def shrink_back(new_p, lr):
    "After a step of length `lr*|p|` at a right angle, the length from before: `p <- p / sqrt(1 + lr^2)`. Fromage, https://arxiv.org/abs/2002.03432"
    return dict(new_p = new_p/(1+lr*lr)**0.5)

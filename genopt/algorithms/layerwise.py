"""A step for each tensor in proportion to its norm. From simple to complex."""

from ..blocks import transforms
from ..blocks.stats import average_grad,average_sqr_grad,debias,step_stat
from ..blocks.steps import adam_step
from ..optimizer import algorithm

__all__ = ['LAMB']


@algorithm
def LAMB(lr=1e-3, betas=(0.9,0.999), eps=1e-6, weight_decay=0.):
    """Adam for large batches, with a step for each tensor in proportion to its norm (You et al. 2020, https://arxiv.org/abs/1904.00962).
    The paper's: decay within the trust ratio, which is not clipped, and no clipping of gradients."""
    return [average_grad, average_sqr_grad, step_stat, debias, adam_step, weight_decay and transforms.add_decayed_weights, transforms.trust_ratio]

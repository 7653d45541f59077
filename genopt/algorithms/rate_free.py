"""Algorithms that estimate the learning rate from the distance that the parameters have covered. From simple to complex.

`lr` is a factor of the estimate, and stays at 1. All parameters count as one vector, except in LDoG, so one optimizer must have them all."""

from functools import partial
from math import inf
from ..blocks.rates import (d_adapt_distance,d_adapt_growth,debias_lr,distance_from_start,dog_rate,dowg_rate,estimate_distance,global_norms,
                            prodigy_distance,prodigy_growth,root_of_sqr_mom,scale_eps_by_distance,scale_grad_by_distance,scale_grad_by_lr,
                            scale_lr_by_distance,unit_lr)
from ..blocks.stats import average_grad,average_sqr_grad,debias,step_stat
from ..blocks.steps import rms_prop_step,sgd_step
from ..blocks.transforms import l2_reg,weight_decay as decoupled_decay
from ..contract import scalar_tensor
from ..contract.names import rename
from ..optim.algorithm import algorithm

__all__ = ['DoG', 'LDoG', 'DoWG', 'DAdaptAdam', 'Prodigy']


@algorithm
def DoG(lr=1., reps_rel=1e-6, weight_decay=0., eps=1e-8):
    """Distance over gradients, an estimate of SGD's rate (Ivgi et al. 2023, https://arxiv.org/abs/2302.12022), as the authors' package. The rate is
    the largest distance from the start over the root of the sum of squared gradients. The authors evaluate an average of the weights: `[DoG,
    polynomial_average]`."""
    return [weight_decay and l2_reg, distance_from_start, global_norms, dog_rate, sgd_step]

@algorithm
def LDoG(lr=1., reps_rel=1e-6, weight_decay=0., eps=1e-8):
    "DoG for each tensor by itself (Ivgi et al. 2023, https://arxiv.org/abs/2302.12022)."
    return [weight_decay and l2_reg, distance_from_start, dog_rate, sgd_step]

@algorithm
def DoWG(lr=1., reps_rel=1e-6, weight_decay=0., eps=1e-8):
    "DoG with each gradient weighted by the distance where it was taken (Khaled et al. 2023, https://arxiv.org/abs/2305.16284)."
    return [weight_decay and l2_reg, distance_from_start, global_norms, dowg_rate, sgd_step]

@algorithm
def DAdaptAdam(lr=1., betas=(0.9,0.999), eps=1e-8, weight_decay=0., decouple=False, use_bias_correction=False, d0=1e-6, growth_rate=inf):
    """Adam with an estimate of the distance to the solution as its rate (Defazio and Mishchenko 2023, https://arxiv.org/abs/2301.07733), as the
    authors' package."""
    return [weight_decay and not decouple and l2_reg, partial(scale_lr_by_distance, d=scalar_tensor(d0)),
            use_bias_correction and [step_stat, debias, debias_lr],
            root_of_sqr_mom, d_adapt_distance, average_sqr_grad, scale_grad_by_lr, average_grad, estimate_distance, d_adapt_growth,
            weight_decay and decouple and decoupled_decay, rename(rms_prop_step, grad='grad_avg'), unit_lr]

@algorithm
def Prodigy(lr=1., betas=(0.9,0.999), beta3=None, eps=1e-8, weight_decay=0., decouple=True, use_bias_correction=False, safeguard_warmup=False,
            d0=1e-6, d_coef=1., growth_rate=inf):
    """D-Adaptation with a faster estimate (Mishchenko and Defazio 2024, https://arxiv.org/abs/2306.06101), as the authors' package with `slice_p=1`:
    every element counts."""
    return [weight_decay and not decouple and l2_reg, partial(scale_lr_by_distance, d=scalar_tensor(d0)),
            use_bias_correction and [step_stat, debias, debias_lr],
            beta3 is None and root_of_sqr_mom, prodigy_distance, scale_grad_by_distance, average_grad, average_sqr_grad,
            estimate_distance, prodigy_growth,
            weight_decay and decouple and decoupled_decay, scale_eps_by_distance, rename(rms_prop_step, grad='grad_avg')]

"""Without a learning rate to choose: it is estimated from how far the parameters have come. `lr` is a factor of the estimate, and stays 1. From
simple to complex. All parameters count as one, so steps of one depend on the others; give all of them to one optimizer."""

from functools import partial
from math import inf
from ..blocks.rates import (adapted_rate,as_one,d_adapt_distance,debiased_rate,dog_rate,dowg_rate,estimate_distance,grow,grow_to_largest,
                            prodigy_distance,root_of_sqr_mom,scale_by_distance,scale_by_rate,scaled_eps,travelled,unit_rate)
from ..blocks.stats import average_grad,average_sqr_grad,debias,step_stat
from ..blocks.steps import rms_prop_step,sgd_step
from ..blocks.transforms import l2_reg,weight_decay as decoupled_decay
from ..contract import single
from ..contract.names import rename
from ..optim.algorithm import algorithm

__all__ = ['DoG', 'LDoG', 'DoWG', 'DAdaptAdam', 'Prodigy']


@algorithm
def DoG(lr=1., reps_rel=1e-6, weight_decay=0., eps=1e-8):
    """Distance over gradients: SGD at the rate (largest distance from the start)/(root of all squared gradients) (Ivgi et al. 2023,
    https://arxiv.org/abs/2302.12022). As the authors' package; they evaluate an average of the weights: `[DoG, polynomial_average]`."""
    return [weight_decay and l2_reg, travelled, as_one, dog_rate, sgd_step]

@algorithm
def LDoG(lr=1., reps_rel=1e-6, weight_decay=0., eps=1e-8):
    "DoG for each tensor by itself (Ivgi et al. 2023, https://arxiv.org/abs/2302.12022)."
    return [weight_decay and l2_reg, travelled, dog_rate, sgd_step]

@algorithm
def DoWG(lr=1., reps_rel=1e-6, weight_decay=0., eps=1e-8):
    "DoG with gradients weighted by the distance at which they were seen (Khaled et al. 2023, https://arxiv.org/abs/2305.16284)."
    return [weight_decay and l2_reg, travelled, as_one, dowg_rate, sgd_step]

@algorithm
def DAdaptAdam(lr=1., betas=(0.9,0.999), eps=1e-8, weight_decay=0., decouple=False, use_bias_correction=False, d0=1e-6, growth_rate=inf):
    """Adam whose rate is an estimate of the distance to the solution (Defazio and Mishchenko 2023, https://arxiv.org/abs/2301.07733), as the
    authors' package."""
    return [weight_decay and not decouple and l2_reg, partial(adapted_rate, d=single(d0)),
            use_bias_correction and [step_stat, debias, debiased_rate],
            root_of_sqr_mom, d_adapt_distance, average_sqr_grad, scale_by_rate, average_grad, estimate_distance, grow,
            weight_decay and decouple and decoupled_decay, rename(rms_prop_step, grad='grad_avg'), unit_rate]

@algorithm
def Prodigy(lr=1., betas=(0.9,0.999), beta3=None, eps=1e-8, weight_decay=0., decouple=True, use_bias_correction=False, safeguard_warmup=False,
            d0=1e-6, d_coef=1., growth_rate=inf):
    """D-Adaptation with a faster estimate (Mishchenko and Defazio 2024, https://arxiv.org/abs/2306.06101), as the authors' package with
    `slice_p=1`: every element counts."""
    return [weight_decay and not decouple and l2_reg, partial(adapted_rate, d=single(d0)),
            use_bias_correction and [step_stat, debias, debiased_rate],
            beta3 is None and root_of_sqr_mom, prodigy_distance, scale_by_distance, average_grad, average_sqr_grad,
            estimate_distance, grow_to_largest,
            weight_decay and decouple and decoupled_decay, scaled_eps, rename(rms_prop_step, grad='grad_avg')]

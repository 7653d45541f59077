"""A step for each element, by what its own gradients have been: RMSprop, Adam and their descendants. From simple to complex."""

from functools import partial
from ..blocks.stats import (average_grad,average_sqr_grad,center_sqr_grad,debias,decayed_lr,max_grad,max_sqr_grad,nesterov_debias,rectify,step_stat,
                            sum_sqr_grad)
from ..blocks.steps import adadelta_step,adagrad_step,adam_step,adamax_step,nadam_step,radam_step,rms_prop_step
from ..blocks.transforms import decay,heavy_ball,l2_reg
from ..core import full
from ..naming import rename
from ..optimizer import algorithm

__all__ = ['Adagrad', 'RMSprop', 'Adadelta', 'Adam', 'AdamW', 'Adamax', 'NAdam', 'RAdam']


@algorithm
def Adagrad(lr=1e-2, lr_decay=0, weight_decay=0, initial_accumulator_value=0, eps=1e-10):
    """The gradient over the root of the sum of all its squares (Duchi et al. 2011, https://jmlr.org/papers/v12/duchi11a.html), the sum from
    `initial_accumulator_value` on; the rate falls by `lr_decay`. As torch.optim.Adagrad: `eps` outside the root, the sum from 0 on."""
    if not initial_accumulator_value>=0: raise ValueError(f"Invalid initial_accumulator_value value: {initial_accumulator_value}")
    sums = partial(sum_sqr_grad, sqr_sum=full(initial_accumulator_value)) if initial_accumulator_value else sum_sqr_grad
    return [weight_decay and l2_reg, lr_decay and [step_stat, decayed_lr], sums, adagrad_step]

@algorithm
def RMSprop(lr=1e-2, alpha=0.99, eps=1e-8, weight_decay=0, momentum=0, centered=False):
    """The gradient over the root of its mean square (Hinton 2012, http://www.cs.toronto.edu/~tijmen/csc321/slides/lecture_slides_lec6.pdf)
    or, `centered`, its standard deviation (Graves 2013, https://arxiv.org/abs/1308.0850). `momentum` is of the scaled gradient."""
    center = [rename(average_grad, mom='sqr_mom'), center_sqr_grad, rename(rms_prop_step, sqr_avg='grad_var')]
    return [weight_decay and l2_reg, average_sqr_grad, center if centered else rms_prop_step, momentum and heavy_ball]

@algorithm
def Adadelta(lr=1.0, rho=0.9, eps=1e-6, weight_decay=0):
    """RMSprop with updates in units of the parameter: times the root of the mean square of updates before, so the rate needs no tuning
    (Zeiler 2012, https://arxiv.org/abs/1212.5701)."""
    average_sqr = rename(average_sqr_grad, sqr_mom='rho')
    return [weight_decay and l2_reg, average_sqr, adadelta_step, rename(average_sqr, grad='update', sqr_avg='sqr_update_avg')]

@algorithm
def Adam(lr=1e-3, betas=(0.9,0.999), eps=1e-8, weight_decay=0, amsgrad=False, *, decoupled_weight_decay=False):
    """Adaptive moments: momentum's average over RMSprop's, both debiased (Kingma and Ba 2015, https://arxiv.org/abs/1412.6980).
    `amsgrad` divides by the largest second moment so far (Reddi et al. 2018, https://arxiv.org/abs/1904.09237)."""
    return [decay(weight_decay, decoupled_weight_decay), average_grad, average_sqr_grad, amsgrad and max_sqr_grad, step_stat, debias,
            rename(adam_step, sqr_avg='max_sqr_avg') if amsgrad else adam_step]

@algorithm
def AdamW(lr=1e-3, betas=(0.9,0.999), eps=1e-8, weight_decay=1e-2, amsgrad=False):
    "Adam with decoupled weight decay (Loshchilov and Hutter 2019, https://arxiv.org/abs/1711.05101)."
    return Adam.build(lr, betas, eps, weight_decay, amsgrad, decoupled_weight_decay=True)

@algorithm
def Adamax(lr=2e-3, betas=(0.9,0.999), eps=1e-8, weight_decay=0):
    "Adam with the largest gradient of late instead of the root of the mean square (Kingma and Ba 2015, section 7.1, https://arxiv.org/abs/1412.6980)."
    return [weight_decay and l2_reg, average_grad, max_grad, step_stat, debias, adamax_step]

@algorithm
def NAdam(lr=2e-3, betas=(0.9,0.999), eps=1e-8, weight_decay=0, momentum_decay=4e-3, decoupled_weight_decay=False):
    "Adam with Nesterov momentum, which warms up with `momentum_decay` (Dozat 2016, https://openreview.net/forum?id=OM0jvwB8jIp57ZJjtNEZ)."
    return [decay(weight_decay, decoupled_weight_decay), average_grad, average_sqr_grad, step_stat, debias, nesterov_debias, nadam_step]

@algorithm
def RAdam(lr=1e-3, betas=(0.9,0.999), eps=1e-8, weight_decay=0, decoupled_weight_decay=False):
    "Rectified Adam: momentum at first, Adam once its second moment can be trusted (Liu et al. 2020, https://arxiv.org/abs/1908.03265)."
    return [decay(weight_decay, decoupled_weight_decay), average_grad, average_sqr_grad, step_stat, debias, rectify, radam_step]

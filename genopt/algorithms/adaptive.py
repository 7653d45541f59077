"""A step for each element, by what its own gradients have been: RMSprop, Adam and their descendants. From simple to complex."""

from ..blocks.rates import debiased_rate
from ..blocks.stats import average_grad,average_sqr_grad,center_sqr_grad,debias,max_sqr_grad,nesterov_debias,rectify,step_stat
from ..blocks.steps import adam_step,nadam_step,radam_step,rms_prop_step
from ..blocks.transforms import decay,heavy_ball,l2_reg,lazy
from ..naming import rename
from ..optimizer import algorithm

__all__ = ['RMSprop', 'Adam', 'AdamW', 'NAdam', 'RAdam', 'SparseAdam']


@algorithm
def RMSprop(lr=1e-2, alpha=0.99, eps=1e-8, weight_decay=0, momentum=0, centered=False):
    """The gradient over the root of its mean square (Hinton 2012, http://www.cs.toronto.edu/~tijmen/csc321/slides/lecture_slides_lec6.pdf)
    or, `centered`, its standard deviation (Graves 2013, https://arxiv.org/abs/1308.0850). `momentum` is of the scaled gradient."""
    center = [rename(average_grad, mom='sqr_mom'), center_sqr_grad, rename(rms_prop_step, sqr_avg='grad_var')]
    return [weight_decay and l2_reg, average_sqr_grad, center if centered else rms_prop_step, momentum and heavy_ball]

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
def NAdam(lr=2e-3, betas=(0.9,0.999), eps=1e-8, weight_decay=0, momentum_decay=4e-3, decoupled_weight_decay=False):
    "Adam with Nesterov momentum, which warms up with `momentum_decay` (Dozat 2016, https://openreview.net/forum?id=OM0jvwB8jIp57ZJjtNEZ)."
    return [decay(weight_decay, decoupled_weight_decay), average_grad, average_sqr_grad, step_stat, debias, nesterov_debias, nadam_step]

@algorithm
def RAdam(lr=1e-3, betas=(0.9,0.999), eps=1e-8, weight_decay=0, decoupled_weight_decay=False):
    "Rectified Adam: momentum at first, Adam once its second moment can be trusted (Liu et al. 2020, https://arxiv.org/abs/1908.03265)."
    return [decay(weight_decay, decoupled_weight_decay), average_grad, average_sqr_grad, step_stat, debias, rectify, radam_step]

@algorithm
def SparseAdam(lr=1e-3, betas=(0.9,0.999), eps=1e-8):
    """Adam for sparse gradients, as torch.optim.SparseAdam: rows without gradient rest, their averages too (Kingma and Ba 2015,
    https://arxiv.org/abs/1412.6980); `eps` is not debiased. Dense gradients are taken as well."""
    return [lazy, average_grad, average_sqr_grad, step_stat, debias, debiased_rate, rename(rms_prop_step, grad='grad_avg')]

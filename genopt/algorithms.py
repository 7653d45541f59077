"""Algorithms, each a short list of callbacks, with the signature, defaults and argument names of torch.optim. From simple to complex."""

from . import transforms
from .naming import rename
from .optimizer import algorithm
from .stats import (average_grad,average_sqr_grad,center_sqr_grad,debias,max_sqr_grad,nesterov_debias,rectify,step_stat,
                    undamped_start)
from .steps import adam_step,lion_step,momentum_step,nadam_step,nesterov_step,radam_step,rms_prop_step,sgd_step

__all__ = ['SGD', 'RMSprop', 'Adam', 'AdamW', 'Lion', 'NAdam', 'RAdam', 'LAMB']


def decay(wd, decoupled):
    "Weight decay in the gradient (L2) or of the parameter itself (`decoupled`), if there is any"
    return wd and (transforms.weight_decay if decoupled else transforms.l2_reg)


@algorithm
def SGD(lr=1e-3, momentum=0, dampening=0, weight_decay=0, nesterov=False):
    """Stochastic gradient descent, with momentum (Polyak 1964) or Nesterov's (Sutskever et al. 2013,
    http://proceedings.mlr.press/v28/sutskever13.html), as torch.optim.SGD: the buffer is a sum, and starts at the first gradient."""
    if nesterov and (momentum<=0 or dampening!=0):
        raise ValueError(f"Nesterov momentum requires a momentum and zero dampening; got {momentum=}, {dampening=}")
    heavy = [dampening and [step_stat, undamped_start], average_grad, nesterov_step if nesterov else momentum_step]
    return [weight_decay and transforms.l2_reg, heavy if momentum else sgd_step]

@algorithm
def RMSprop(lr=1e-2, alpha=0.99, eps=1e-8, weight_decay=0, momentum=0, centered=False):
    """The gradient over the root of its mean square (Hinton 2012, http://www.cs.toronto.edu/~tijmen/csc321/slides/lecture_slides_lec6.pdf)
    or, `centered`, its standard deviation (Graves 2013, https://arxiv.org/abs/1308.0850). `momentum` is of the scaled gradient."""
    center = [rename(average_grad, mom='sqr_mom'), center_sqr_grad, rename(rms_prop_step, sqr_avg='grad_var')]
    return [weight_decay and transforms.l2_reg, average_sqr_grad, center if centered else rms_prop_step, momentum and transforms.heavy_ball]

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
def Lion(lr=1e-4, betas=(0.9,0.99), weight_decay=0.):
    """The sign of an average, and so half of AdamW's state (Chen et al. 2023, https://arxiv.org/abs/2302.06675). `betas`: for the sign,
    and for the average kept. Every element moves by `lr`, so `lr` is 3 to 10 times smaller than AdamW's, `weight_decay` as much larger."""
    return [weight_decay and transforms.weight_decay, lion_step, rename(average_grad, mom='sqr_mom')]

@algorithm
def NAdam(lr=2e-3, betas=(0.9,0.999), eps=1e-8, weight_decay=0, momentum_decay=4e-3, decoupled_weight_decay=False):
    "Adam with Nesterov momentum, which warms up with `momentum_decay` (Dozat 2016, https://openreview.net/forum?id=OM0jvwB8jIp57ZJjtNEZ)."
    return [decay(weight_decay, decoupled_weight_decay), average_grad, average_sqr_grad, step_stat, debias, nesterov_debias, nadam_step]

@algorithm
def RAdam(lr=1e-3, betas=(0.9,0.999), eps=1e-8, weight_decay=0, decoupled_weight_decay=False):
    "Rectified Adam: momentum at first, Adam once its second moment can be trusted (Liu et al. 2020, https://arxiv.org/abs/1908.03265)."
    return [decay(weight_decay, decoupled_weight_decay), average_grad, average_sqr_grad, step_stat, debias, rectify, radam_step]

@algorithm
def LAMB(lr=1e-3, betas=(0.9,0.999), eps=1e-6, weight_decay=0.):
    """Adam for large batches, with a step for each tensor in proportion to its norm (You et al. 2020, https://arxiv.org/abs/1904.00962).
    The paper's: decay within the trust ratio, which is not clipped, and no clipping of gradients."""
    return [average_grad, average_sqr_grad, step_stat, debias, adam_step, weight_decay and transforms.add_decayed_weights, transforms.trust_ratio]

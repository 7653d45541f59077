"""Algorithms, each a short list of callbacks, with the signature, defaults and argument names of torch.optim. From simple to complex."""

from . import transforms
from .naming import rename
from .optimizer import algorithm
from .stats import average_grad,average_sqr_grad,center_sqr_grad,debias,max_sqr_grad,step_stat,undamped_start
from .steps import adam_step,momentum_step,nesterov_step,rms_prop_step,sgd_step

__all__ = ['SGD', 'RMSprop', 'Adam', 'AdamW']


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
    return [weight_decay and (transforms.weight_decay if decoupled_weight_decay else transforms.l2_reg),
            average_grad, average_sqr_grad, amsgrad and max_sqr_grad, step_stat, debias,
            rename(adam_step, sqr_avg='max_sqr_avg') if amsgrad else adam_step]

@algorithm
def AdamW(lr=1e-3, betas=(0.9,0.999), eps=1e-8, weight_decay=1e-2, amsgrad=False):
    "Adam with decoupled weight decay (Loshchilov and Hutter 2019, https://arxiv.org/abs/1711.05101)."
    return Adam.build(lr, betas, eps, weight_decay, amsgrad, decoupled_weight_decay=True)

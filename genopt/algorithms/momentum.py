"""Down the gradient, along an average of gradients, or along its sign. From simple to complex."""

from ..blocks import transforms
from ..blocks.stats import average_grad,step_stat,undamped_start
from ..blocks.steps import lion_step,momentum_step,nesterov_step,sgd_step
from ..naming import rename
from ..optimizer import algorithm

__all__ = ['SGD', 'Lion']


@algorithm
def SGD(lr=1e-3, momentum=0, dampening=0, weight_decay=0, nesterov=False):
    """Stochastic gradient descent, with momentum (Polyak 1964) or Nesterov's (Sutskever et al. 2013,
    http://proceedings.mlr.press/v28/sutskever13.html), as torch.optim.SGD: the buffer is a sum, and starts at the first gradient."""
    if nesterov and (momentum<=0 or dampening!=0):
        raise ValueError(f"Nesterov momentum requires a momentum and zero dampening; got {momentum=}, {dampening=}")
    heavy = [dampening and [step_stat, undamped_start], average_grad, nesterov_step if nesterov else momentum_step]
    return [weight_decay and transforms.l2_reg, heavy if momentum else sgd_step]

@algorithm
def Lion(lr=1e-4, betas=(0.9,0.99), weight_decay=0.):
    """The sign of an average, and so half of AdamW's state (Chen et al. 2023, https://arxiv.org/abs/2302.06675). `betas`: for the sign,
    and for the average kept. Every element moves by `lr`, so `lr` is 3 to 10 times smaller than AdamW's, `weight_decay` as much larger."""
    return [weight_decay and transforms.weight_decay, lion_step, rename(average_grad, mom='sqr_mom')]

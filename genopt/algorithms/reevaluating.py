"""Algorithms that evaluate the model more than once in a step, or ask for its curvature. From simple to complex.

They need `opt.step(closure)`. The closure clears the gradients, computes the loss, calls backward and returns the loss."""

from functools import partial
from ..blocks.evaluations import (adahessian_step,average_curvature,average_sqr_curvature,hutchinson,lbfgs_step,sharpness_aware,sophia_step,
                                  spatial_average)
from ..blocks.stats import average_grad,debias,step_stat
from ..blocks.transforms import weight_decay as decoupled_decay
from ..contract import history
from ..optim.algorithm import algorithm
from .momentum import SGD

__all__ = ['SAM', 'ASAM', 'AdaHessian', 'Sophia', 'LBFGS']


@algorithm
def SAM(lr=1e-3, momentum=0, dampening=0, weight_decay=0, nesterov=False, rho=0.05):
    """SGD with the gradient from the nearby point where the loss is about highest (Foret et al. 2021, https://arxiv.org/abs/2010.01412). A step
    evaluates the model twice. `[sharpness_aware, AdamW]` does the same for another algorithm."""
    return [sharpness_aware, SGD.build(lr, momentum, dampening, weight_decay, nesterov)]

@algorithm
def ASAM(lr=1e-3, momentum=0, dampening=0, weight_decay=0, nesterov=False, rho=0.5, eta=0.01):
    "SAM with a neighbourhood in proportion to each weight, `|x| + eta` (Kwon et al. 2021, https://arxiv.org/abs/2102.11600). Biases count too."
    return [partial(sharpness_aware, adaptive=True), SGD.build(lr, momentum, dampening, weight_decay, nesterov)]

@algorithm
def AdaHessian(lr=0.1, betas=(0.9,0.999), eps=1e-8, weight_decay=0., hessian_power=1., update_period=1, n_samples=1, avg_conv_kernel=False):
    """Adam with the second moment of the Hessian's diagonal (Yao et al. 2021, https://arxiv.org/abs/2006.00719). Weight decay is decoupled. The
    closure must call `loss.backward(create_graph=True)`. The authors average over each kernel of a convolution: `avg_conv_kernel=True`."""
    return [step_stat, hutchinson, avg_conv_kernel and spatial_average, weight_decay and decoupled_decay, average_grad, average_sqr_curvature,
            debias, adahessian_step]

@algorithm
def Sophia(lr=1e-4, betas=(0.965,0.99), rho=0.04, weight_decay=0.1, eps=1e-12, update_period=10, n_samples=1):
    """Clipped Newton steps with a running estimate of the Hessian's diagonal (Liu et al. 2024, https://arxiv.org/abs/2305.14342). Hutchinson's method
    makes the estimate, as in the paper's Sophia-H. The closure must call `loss.backward(create_graph=True)`, at least every `update_period` steps."""
    return [step_stat, partial(hutchinson, distribution='gaussian'), weight_decay and decoupled_decay, average_grad, average_curvature, sophia_step]

@algorithm
def LBFGS(lr=1., max_iter=20, max_eval=None, tolerance_grad=1e-7, tolerance_change=1e-9, history_size=100, line_search_fn=None):
    """Quasi-Newton steps with the curvature of the last `history_size` steps (Liu and Nocedal 1989, https://doi.org/10.1007/BF01589116), as
    torch.optim.LBFGS. One `step` makes up to `max_iter` of them. `line_search_fn='strong_wolfe'` searches for the length of each. The loss must be
    without noise."""
    if line_search_fn not in (None, 'strong_wolfe'): raise ValueError(f"line_search_fn must be 'strong_wolfe' or None, got {line_search_fn!r}")
    if history_size<1: raise ValueError(f"history_size must be at least 1, got {history_size}")
    memory = history(history_size)
    return [partial(lbfgs_step, y_hists=memory, s_hists=memory)]

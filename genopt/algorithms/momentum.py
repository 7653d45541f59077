"""Down the gradient, along an average of gradients, or along its sign. From simple to complex."""

from functools import partial
from ..blocks import transforms
from ..blocks.moves import polyak_average
from ..blocks.stats import asgd_rates,average_grad,rprop_sizes,step_stat,undamped_start
from ..blocks.steps import aggmo_step,lion_step,momentum_step,nesterov_step,qhm_step,rprop_step,sgd_step
from ..contract.names import rename
from ..optim.algorithm import algorithm

__all__ = ['SGD', 'SGDW', 'QHM', 'AggMo', 'ASGD', 'Rprop', 'Signum', 'Tiger', 'Lion']


@algorithm
def SGD(lr=1e-3, momentum=0, dampening=0, weight_decay=0, nesterov=False):
    """Stochastic gradient descent, with momentum (Polyak 1964) or Nesterov's (Sutskever et al. 2013,
    http://proceedings.mlr.press/v28/sutskever13.html), as torch.optim.SGD: the buffer is a sum, and starts at the first gradient."""
    if nesterov and (momentum<=0 or dampening!=0):
        raise ValueError(f"Nesterov momentum requires a momentum and zero dampening; got {momentum=}, {dampening=}")
    heavy = [dampening and [step_stat, undamped_start], average_grad, nesterov_step if nesterov else momentum_step]
    return [weight_decay and transforms.l2_reg, heavy if momentum else sgd_step]

@algorithm
def SGDW(lr=1e-3, momentum=0, dampening=0, weight_decay=0, nesterov=False):
    "SGD with decoupled weight decay (Loshchilov and Hutter 2019, https://arxiv.org/abs/1711.05101), the rate outside of the buffer, as in timm."
    return [weight_decay and transforms.weight_decay, SGD.build(momentum=momentum, dampening=dampening, nesterov=nesterov)]

@algorithm
def QHM(lr=1e-3, momentum=0.999, nu=0.7, weight_decay=0, decoupled_weight_decay=False):
    """Quasi-hyperbolic momentum: between the gradient and its average (Ma and Yarats 2019, https://arxiv.org/abs/1810.06801). The paper's momentum
    and `nu`; it takes a rate 10 times SGD's with momentum 0.9, because the average is no sum. `nu=momentum` is Nesterov's."""
    return [transforms.decay(weight_decay, decoupled_weight_decay), average_grad, qhm_step]

@algorithm
def AggMo(lr=1e-3, betas=(0.,0.9,0.99), weight_decay=0):
    "Along three sums of gradients of different length (Lucas et al. 2019, https://arxiv.org/abs/1804.00325), with the paper's damping."
    sums = [partial(average_grad, dampening=0), rename(partial(average_grad, dampening=0), mom='sqr_mom', grad_avg='grad_avg2'),
            rename(partial(average_grad, dampening=0), mom='mom3', grad_avg='grad_avg3')]
    return [weight_decay and transforms.l2_reg, sums, aggmo_step]

@algorithm
def ASGD(lr=1e-2, lambd=1e-4, alpha=0.75, t0=1e6, weight_decay=0):
    """Averaged descent (Polyak and Juditsky 1992, https://doi.org/10.1137/0330046), as torch.optim.ASGD: plain descent whose rate falls with the
    power `alpha`, decay by `lambd`, and `p_avg` in the state, torch's `ax`: the parameter itself, and from step `t0` on its mean."""
    return [weight_decay and transforms.l2_reg, step_stat, asgd_rates, rename(transforms.weight_decay, wd='lambd'), sgd_step, polyak_average]

@algorithm
def Rprop(lr=1e-2, etas=(0.5,1.2), step_sizes=(1e-6,50)):
    """A step size for each element, which grows while the gradient keeps its sign; for full batches (Riedmiller and Braun 1993,
    https://doi.org/10.1109/ICNN.1993.298623). As torch.optim.Rprop, without going back; `lr` is the first size."""
    if not 0<etas[0]<1<etas[1]: raise ValueError(f"Invalid eta values: {etas[0]}, {etas[1]}; the first is between 0 and 1, the second above 1")
    return [step_stat, rprop_sizes, rprop_step]

@algorithm
def Signum(lr=1e-3, momentum=0.9, weight_decay=0):
    """The sign of the average, or with `momentum=0` of the gradient, signSGD (Bernstein et al. 2018, https://arxiv.org/abs/1802.04434). Weight decay
    is decoupled, as in the paper."""
    return [weight_decay and transforms.weight_decay, momentum and [average_grad, momentum_step], rename(transforms.sign_grad, grad='update')]

@algorithm
def Tiger(lr=1e-3, beta=0.965, weight_decay=0.01):
    "Lion with one beta for both, and so Signum with decay (Su 2023, https://kexue.fm/archives/9512), without its rule for the rate of each tensor."
    return [weight_decay and transforms.weight_decay, rename(average_grad, mom='beta'), momentum_step, rename(transforms.sign_grad, grad='update')]

@algorithm
def Lion(lr=1e-4, betas=(0.9,0.99), weight_decay=0.):
    """The sign of an average, and so half of AdamW's state (Chen et al. 2023, https://arxiv.org/abs/2302.06675). `betas`: for the sign,
    and for the average kept. Every element moves by `lr`, so `lr` is 3 to 10 times smaller than AdamW's, `weight_decay` as much larger."""
    return [weight_decay and transforms.weight_decay, lion_step, rename(average_grad, mom='sqr_mom')]

"Steps along the gradient, along an average of the gradients, or along its sign. From simple to complex."

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
    """Stochastic gradient descent, with momentum (Polyak 1964) or Nesterov momentum (Sutskever et al. 2013,
    http://proceedings.mlr.press/v28/sutskever13.html). As in torch.optim.SGD, the momentum buffer is a sum and starts at the first gradient."""
    if nesterov and (momentum<=0 or dampening!=0):
        raise ValueError(f"Nesterov momentum requires a momentum and zero dampening; got {momentum=}, {dampening=}")
    heavy = [dampening and [step_stat, undamped_start], average_grad, nesterov_step if nesterov else momentum_step]
    return [weight_decay and transforms.l2_reg, heavy if momentum else sgd_step]

@algorithm
def SGDW(lr=1e-3, momentum=0, dampening=0, weight_decay=0, nesterov=False):
    """SGD with decoupled weight decay (Loshchilov and Hutter 2019, https://arxiv.org/abs/1711.05101). As in timm, the momentum buffer does not
    contain the learning rate."""
    return [weight_decay and transforms.weight_decay, SGD.build(momentum=momentum, dampening=dampening, nesterov=nesterov)]

@algorithm
def QHM(lr=1e-3, momentum=0.999, nu=0.7, weight_decay=0, decoupled_weight_decay=False):
    """Quasi-hyperbolic momentum, between the gradient and its average (Ma and Yarats 2019, https://arxiv.org/abs/1810.06801). `momentum` and `nu` are
    the paper's. The average is not a sum, so `lr` is 10 times that of SGD with momentum 0.9. `nu=momentum` gives Nesterov momentum."""
    return [transforms.decay(weight_decay, decoupled_weight_decay), average_grad, qhm_step]

@algorithm
def AggMo(lr=1e-3, betas=(0.,0.9,0.99), weight_decay=0):
    """Aggregated momentum, the mean of three sums with different decay rates (Lucas et al. 2019, https://arxiv.org/abs/1804.00325). `betas` are the
    paper's."""
    sums = [partial(average_grad, dampening=0), rename(partial(average_grad, dampening=0), mom='sqr_mom', grad_avg='grad_avg2'),
            rename(partial(average_grad, dampening=0), mom='mom3', grad_avg='grad_avg3')]
    return [weight_decay and transforms.l2_reg, sums, aggmo_step]

@algorithm
def ASGD(lr=1e-2, lambd=1e-4, alpha=0.75, t0=1e6, weight_decay=0):
    """Averaged SGD (Polyak and Juditsky 1992, https://doi.org/10.1137/0330046), as torch.optim.ASGD. The learning rate falls with the power `alpha`
    of the step, and `lambd` decays the weights. The state `eval_p`, torch's `ax`, is the parameter itself before step `t0`, and the mean from then
    on."""
    return [weight_decay and transforms.l2_reg, step_stat, asgd_rates, rename(transforms.weight_decay, wd='lambd'), sgd_step, polyak_average]

@algorithm
def Rprop(lr=1e-2, etas=(0.5,1.2), step_sizes=(1e-6,50)):
    """A step size for each element, which grows while the gradient keeps its sign (Riedmiller and Braun 1993,
    https://doi.org/10.1109/ICNN.1993.298623). It needs full batches. As torch.optim.Rprop, it does not backtrack. `lr` is the first step size."""
    if not 0<etas[0]<1<etas[1]: raise ValueError(f"Invalid eta values: {etas[0]}, {etas[1]}; the first is between 0 and 1, the second above 1")
    return [step_stat, rprop_sizes, rprop_step]

@algorithm
def Signum(lr=1e-3, momentum=0.9, weight_decay=0):
    """The sign of the average of the gradients (Bernstein et al. 2018, https://arxiv.org/abs/1802.04434). `momentum=0` gives signSGD, the sign of the
    gradient. As in the paper, weight decay is decoupled."""
    return [weight_decay and transforms.weight_decay, momentum and [average_grad, momentum_step], rename(transforms.sign_grad, grad='update')]

@algorithm
def Tiger(lr=1e-3, beta=0.965, weight_decay=0.01):
    """Lion with one beta for both averages, which is Signum with weight decay (Su 2023, https://kexue.fm/archives/9512). It leaves out the author's
    rule for the learning rate of each tensor."""
    return [weight_decay and transforms.weight_decay, rename(average_grad, mom='beta'), momentum_step, rename(transforms.sign_grad, grad='update')]

@algorithm
def Lion(lr=1e-4, betas=(0.9,0.99), weight_decay=0.):
    """The sign of an average of the gradients, which halves AdamW's state (Chen et al. 2023, https://arxiv.org/abs/2302.06675). The first of `betas`
    is for the sign, the second for the average that the state keeps. Every element moves by `lr`, so `lr` is 3 to 10 times smaller than AdamW's, and
    `weight_decay` as many times larger."""
    return [weight_decay and transforms.weight_decay, lion_step, rename(average_grad, mom='sqr_mom')]

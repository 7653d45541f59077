"A step for each tensor in proportion to its norm. From simple to complex."

from math import inf
from ..blocks import transforms
from ..blocks.moves import fromage_rescale
from ..blocks.stats import average_grad,average_sqr_grad,average_sqr_norm,debias,step_stat,undamped_start
from ..blocks.steps import adam_step,momentum_step,nesterov_average_step,nesterov_step,rms_prop_step,sgd_step
from ..blocks.transforms import adamp_projection,clip_grad_norm,clip_lars_ratio,l2_reg,lars_ratio,scale_grad_by_lars,sgdp_decay
from ..contract.names import rename
from ..optim.algorithm import algorithm
from .momentum import SGD

__all__ = ['Fromage', 'LARS', 'LARC', 'NovoGrad', 'LAMB', 'SGDP', 'AdamP']


@algorithm
def Fromage(lr=1e-2):
    """A step of relative length `lr` for each tensor (Bernstein et al. 2020, https://arxiv.org/abs/2002.03432). It is then scaled back to its former
    norm. A tensor of zeros steps along its gradient."""
    return [sgd_step, transforms.scale_by_trust_ratio, fromage_rescale]

@algorithm
def LARS(lr=1., momentum=0.9, dampening=0, weight_decay=0., nesterov=False, trust_coeff=1e-3, eps=1e-8, *, clip=False,
         always_adapt=True):
    """SGD for large batches, with a step for each tensor in proportion to its norm (You et al. 2017, https://arxiv.org/abs/1708.03888). It scales the
    gradient of each tensor to `trust_coeff` times the tensor's norm. As in the paper, timm and Apex, the momentum contains the ratio. timm has
    `momentum=0` and `always_adapt=False`: no ratio where nothing decays. `clip` gives LARC."""
    adapts = always_adapt or weight_decay
    return [adapts and [lars_ratio, clip and clip_lars_ratio], weight_decay and l2_reg, adapts and scale_grad_by_lars,
            SGD.build(lr, momentum, dampening, 0, nesterov)]

@algorithm
def LARC(lr=1e-3, momentum=0.9, dampening=0, weight_decay=0., nesterov=False, trust_coeff=0.02, eps=1e-8):
    """LARS that only slows down: the rate of each tensor is at most `lr` (https://github.com/NVIDIA/apex/blob/master/apex/parallel/LARC.py). The
    defaults are Apex's `trust_coeff`, and `lr` and `momentum` for small models."""
    return LARS.build(lr, momentum, dampening, weight_decay, nesterov, trust_coeff, eps, clip=True)

@algorithm
def NovoGrad(lr=1e-3, betas=(0.95,0.98), eps=1e-8, weight_decay=0., grad_averaging=False):
    """Momentum of gradients that are scaled by one second moment per tensor (Ginsburg et al. 2019, https://arxiv.org/abs/1905.11286). The state is
    half of Adam's. As in the paper, the first gradient is its own second moment, and the momentum contains weight decay. `grad_averaging` scales each
    gradient by `1-betas[0]`, the first as well."""
    return [step_stat, rename(undamped_start, dampening='sqr_mom'), average_sqr_norm, rename(rms_prop_step, sqr_avg='sqr_norm_avg', update='grad'),
            weight_decay and l2_reg, rename(average_grad, dampening='grad_averaging'), momentum_step]

@algorithm
def LAMB(lr=1e-3, betas=(0.9,0.999), eps=1e-6, weight_decay=0., *,
         max_ratio=inf, decoupled_weight_decay=False, always_adapt=True, max_grad_norm=None):
    """Adam for large batches, with a step for each tensor in proportion to its norm (You et al. 2020, https://arxiv.org/abs/1904.00962). The defaults
    are the paper's: the trust ratio contains weight decay and is not clipped, nor are the gradients. fastai has `max_ratio=10` and
    `decoupled_weight_decay=True`. NVIDIA and timm have `max_grad_norm=1`, and `always_adapt=False`: no ratio where nothing decays."""
    ratio = (always_adapt or weight_decay) and transforms.scale_by_trust_ratio
    return [max_grad_norm and rename(clip_grad_norm, max_norm='max_grad_norm'), weight_decay and decoupled_weight_decay and transforms.weight_decay,
            average_grad, average_sqr_grad, step_stat, debias, adam_step,
            weight_decay and not decoupled_weight_decay and transforms.add_decayed_weights, ratio]

@algorithm
def SGDP(lr=1e-1, momentum=0, dampening=0, weight_decay=0., nesterov=False, eps=1e-8, delta=0.1, wd_ratio=0.1):
    """SGD without steps that only increase the norm of normalized weights (Heo et al. 2021, https://arxiv.org/abs/2006.08217). As in the authors'
    code, the average starts at zero, and decay is multiplied by `1/(1-momentum)`."""
    return [average_grad, nesterov_step if nesterov else momentum_step, sgdp_decay, adamp_projection, weight_decay and transforms.weight_decay]

@algorithm
def AdamP(lr=1e-3, betas=(0.9,0.999), eps=1e-8, weight_decay=0., delta=0.1, wd_ratio=0.1, nesterov=False):
    "Adam without steps that only increase the norm of normalized weights (Heo et al. 2021, https://arxiv.org/abs/2006.08217)."
    ahead = [rename(nesterov_average_step, update='next_avg'), rename(adam_step, grad_avg='next_avg')]
    return [average_grad, average_sqr_grad, step_stat, debias, ahead if nesterov else adam_step, adamp_projection,
            weight_decay and transforms.weight_decay]

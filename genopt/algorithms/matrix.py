"""A parameter as a matrix: orthogonal updates, and preconditioners of its two sides. From simple to complex."""

from functools import partial
from ..blocks import transforms
from ..blocks.matrices import (average_shampoo_factors,average_sqr_rows,gaussian_probe,linear_minimization_oracle,newton_schulz,newton_schulz_with,
                               normalize_rows,psgd_balance_factors,psgd_precondition,psgd_update_factors,psgd_update_schedule,
                               rotate_from_eigenbasis,rotate_to_eigenbasis,scale_by_shape,shampoo_inverse_roots,shampoo_precondition,
                               soap_first_step,sum_shampoo_factors,update_eigenbasis)
from ..blocks.stats import average_grad,average_sqr_grad,debias,debias_mom3,step_stat
from ..blocks.steps import debiased_momentum_step,momentum_step,nesterov_average_step,radam_step,rms_prop_step
from ..blocks.transforms import clip_update_rms,fixed_update_rms,l2_reg
from ..contract.names import rename
from ..optim.algorithm import algorithm

__all__ = ['Muon', 'NorMuon', 'AdaMuon', 'Scion', 'Shampoo', 'SOAP', 'Kron']

eps_last_step = partial(radam_step, rect=1.)                     # Adam's, with an `eps` that is not debiased


@algorithm
def Muon(lr=1e-3, weight_decay=0.1, momentum=0.95, nesterov=True, ns_coefficients=(3.4445,-4.7750,2.0315), eps=1e-7, ns_steps=5, adjust_lr_fn=None,
         *, ns_dtype='bfloat16'):
    """Momentum, made orthogonal: all directions of a matrix get a step of the same length (Jordan 2024, https://kellerjordan.github.io/posts/muon).
    torch.optim's, and for tensors of more dimensions, as one matrix of the first and the others. `ns_dtype`: that of the iteration."""
    return [weight_decay and transforms.weight_decay, average_grad, nesterov_average_step if nesterov else momentum_step,
            newton_schulz_with(*ns_coefficients), scale_by_shape]

@algorithm
def NorMuon(lr=2e-2, betas=(0.95,0.95), eps=1e-10, weight_decay=0., nesterov=True, ns_steps=5, *, ns_dtype='bfloat16'):
    """Muon with rows of equal length: a second moment for each output (Li et al. 2025, https://arxiv.org/abs/2510.05491). The paper's scale, a root
    mean square of 0.2 whatever the shape; `nesterov=False` is the paper's, True its authors'."""
    return [weight_decay and transforms.weight_decay, average_grad, nesterov_average_step if nesterov else momentum_step,
            rename(newton_schulz, eps='ns_eps'), average_sqr_rows, normalize_rows, fixed_update_rms]

@algorithm
def AdaMuon(lr=1e-3, betas=(0.95,0.95), eps=1e-8, weight_decay=0.1, nesterov=False, ns_steps=5, *, ns_dtype='bfloat16'):
    """Muon with Adam's second moment, of the orthogonal update (Si et al. 2025, https://arxiv.org/abs/2507.11005). As timm has it: of the momentum
    itself and not of its sign."""
    return [weight_decay and transforms.weight_decay, average_grad, nesterov_average_step if nesterov else momentum_step,
            rename(newton_schulz, eps='ns_eps'), rename(average_sqr_grad, grad='update'), rename(rms_prop_step, grad='update'), fixed_update_rms]

@algorithm
def Scion(lr=1e-3, momentum=0.9, norm='auto', scale=1.0, unconstrained=False, *, ns_dtype='bfloat16'):
    """Momentum, and then the steepest step of length `scale` in a norm that suits the layer (Pethick et al. 2025, https://arxiv.org/abs/2502.07529).
    Constrained, parameters stay within a ball of that size, `p <- (1-lr)*p - lr*u`, a decay of 1. `momentum` is what the average keeps, where the
    authors give the weight of what is new; all else as they have it. `norm='sign'` is for the last layer."""
    return [not unconstrained and partial(transforms.weight_decay, wd=1.), average_grad, momentum_step, linear_minimization_oracle]

@algorithm
def Shampoo(lr=1e-1, momentum=0., eps=1e-4, weight_decay=0., precondition_frequency=1):
    """Adagrad with a full matrix for each side of a parameter (Gupta et al. 2018, https://arxiv.org/abs/1802.09568): sums, as in the paper, and the
    exact roots of both sides, each `precondition_frequency` steps. `momentum` is of preconditioned gradients; decay is L2."""
    return [weight_decay and l2_reg, sum_shampoo_factors, step_stat, shampoo_inverse_roots, shampoo_precondition, momentum and transforms.heavy_ball]

@algorithm
def SOAP(lr=3e-3, betas=(0.95,0.95), shampoo_beta=None, eps=1e-8, weight_decay=0.01, precondition_frequency=10):
    """Adam in the basis in which Shampoo's preconditioner is diagonal (Vyas et al. 2024, https://arxiv.org/abs/2409.11321). As its authors have it:
    the first gradient only makes the basis, decay comes after the step, vectors have Adam. `shampoo_beta=None` is `betas[1]`."""
    factors = rename(average_shampoo_factors, gram_mom='sqr_mom' if shampoo_beta is None else 'shampoo_beta')
    rotated = [rotate_to_eigenbasis, rename(average_sqr_grad, grad='rotated'), rename(rotate_to_eigenbasis, grad='grad_avg', rotated='rotated_avg')]
    step    = [rename(debias, step='turn'), rename(eps_last_step, grad_avg='rotated_avg'), rotate_from_eigenbasis]
    return [factors, step_stat, soap_first_step, average_grad, rotated, step, update_eigenbasis,
            weight_decay and rename(transforms.weight_decay, p='new_p')]

@algorithm
def Kron(lr=3e-4, b1=0.9, weight_decay=0., min_probability=0.03, precond_lr=0.1):
    """Momentum made white by a preconditioner that is fitted on the way, a triangular factor for each side (Li 2018, PSGD,
    https://arxiv.org/abs/1512.04202). As kron_torch has it: fitted to the momentum, at each step at first, later with `min_probability`; an update's
    root mean square is at most 1.1. `weight_decay` is of all parameters, where kron_torch leaves out vectors; `probe` stands for random numbers."""
    momentum = [rename(average_grad, mom='b1'), step_stat, rename(debias_mom3, mom3='b1', debias3='debias1'), debiased_momentum_step]
    fit = [psgd_update_schedule, gaussian_probe, psgd_balance_factors, psgd_update_factors]
    return [momentum, fit, psgd_precondition, partial(clip_update_rms, max_rms=1.1), weight_decay and transforms.add_decayed_weights]

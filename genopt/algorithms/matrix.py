"A parameter as a matrix: orthogonal updates, and preconditioners of both sides. From simple to complex."

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

eps_last_step = partial(radam_step, rect=1.)                     # `m/(1-mom^t) * sqrt(1-sqr_mom^t)/(sqrt(v) + eps)`: Adam's, but for where `eps` is


@algorithm
def Muon(lr=1e-3, weight_decay=0.1, momentum=0.95, nesterov=True, ns_coefficients=(3.4445,-4.7750,2.0315), eps=1e-7, ns_steps=5, adjust_lr_fn=None,
         *, ns_dtype='bfloat16'):
    """Momentum made orthogonal, for steps of equal length in all directions (Jordan 2024, https://kellerjordan.github.io/posts/muon), as
    torch.optim.Muon. A tensor of more than two dimensions counts as the matrix of its first dimension and all others. The Newton-Schulz iteration
    runs in `ns_dtype`."""
    return [weight_decay and transforms.weight_decay, average_grad, nesterov_average_step if nesterov else momentum_step,
            newton_schulz_with(*ns_coefficients), scale_by_shape]

@algorithm
def NorMuon(lr=2e-2, betas=(0.95,0.95), eps=1e-10, weight_decay=0., nesterov=True, ns_steps=5, *, ns_dtype='bfloat16'):
    """Muon with a second moment for each output, which gives all rows the same length (Li et al. 2025, https://arxiv.org/abs/2510.05491). As in the
    paper, the root mean square of the update is 0.2 for all shapes. `nesterov=False` is the paper's, True the authors' code."""
    return [weight_decay and transforms.weight_decay, average_grad, nesterov_average_step if nesterov else momentum_step,
            rename(newton_schulz, eps='ns_eps'), average_sqr_rows, normalize_rows, fixed_update_rms]

@algorithm
def AdaMuon(lr=1e-3, betas=(0.95,0.95), eps=1e-8, weight_decay=0.1, nesterov=False, ns_steps=5, *, ns_dtype='bfloat16'):
    """Muon with Adam's second moment of the orthogonal update (Si et al. 2025, https://arxiv.org/abs/2507.11005). As in timm, the momentum itself is
    made orthogonal, and not its sign. `lr`, `weight_decay` and `eps` are not timm's, whose AdaMuon has those of its Muon."""
    return [weight_decay and transforms.weight_decay, average_grad, nesterov_average_step if nesterov else momentum_step,
            rename(newton_schulz, eps='ns_eps'), rename(average_sqr_grad, grad='update'), rename(rms_prop_step, grad='update'), fixed_update_rms]

@algorithm
def Scion(lr=1e-3, momentum=0.9, norm='auto', scale=1.0, unconstrained=False, *, ns_dtype='bfloat16'):
    """Momentum, and then the steepest step in a norm that suits the layer (Pethick et al. 2025, https://arxiv.org/abs/2502.07529). The step has the
    length `scale`. Unless `unconstrained`, parameters stay within a ball of that size, `p <- (1-lr)*p - lr*u`, a weight decay of 1. `momentum` is the
    weight of the old average; the authors give that of the new gradient. All else is as in their code. `norm='sign'` is for the last layer."""
    return [not unconstrained and partial(transforms.weight_decay, wd=1.), average_grad, momentum_step, linear_minimization_oracle]

@algorithm
def Shampoo(lr=1e-1, momentum=0., eps=1e-4, weight_decay=0., precondition_frequency=1):
    """Adagrad with a full matrix for each side of a parameter (Gupta et al. 2018, https://arxiv.org/abs/1802.09568). As in the paper, the matrices
    are sums, and their roots are exact; they are computed every `precondition_frequency` steps, from the first on. `momentum` sums preconditioned
    gradients; other libraries mix the last one into the next gradient. Weight decay is L2 regularization. `lr` and `eps` are torch_optimizer's."""
    return [weight_decay and l2_reg, sum_shampoo_factors, step_stat, shampoo_inverse_roots, shampoo_precondition, momentum and transforms.heavy_ball]

@algorithm
def SOAP(lr=3e-3, betas=(0.95,0.95), shampoo_beta=None, eps=1e-8, weight_decay=0.01, precondition_frequency=10):
    """Adam in the eigenbasis of Shampoo's preconditioner (Vyas et al. 2024, https://arxiv.org/abs/2409.11321). As in the authors' code, the first
    gradient only makes the basis, weight decay comes after the step, and vectors have Adam. `shampoo_beta=None` stands for `betas[1]`."""
    factors = rename(average_shampoo_factors, gram_mom='sqr_mom' if shampoo_beta is None else 'shampoo_beta')
    rotated = [rotate_to_eigenbasis, rename(average_sqr_grad, grad='rotated'), rename(rotate_to_eigenbasis, grad='grad_avg', rotated='rotated_avg')]
    step    = [rename(debias, step='turn'), rename(eps_last_step, grad_avg='rotated_avg'), rotate_from_eigenbasis]
    return [factors, step_stat, soap_first_step, average_grad, rotated, step, update_eigenbasis,
            weight_decay and rename(transforms.weight_decay, p='new_p')]

@algorithm
def Kron(lr=3e-4, b1=0.9, weight_decay=0., min_probability=0.03, precond_lr=0.1):
    """Momentum whitened by a preconditioner that is fitted during training (PSGD, Li 2018, https://arxiv.org/abs/1512.04202), as kron_torch. Each
    side has a triangular factor. The factors are fitted to the momentum, at each step at first, later with `min_probability`. The root mean square of
    an update is at most 1.1. `weight_decay` is for all parameters; kron_torch leaves out vectors. `gaussian_probe` takes the place of random
    numbers."""
    momentum = [rename(average_grad, mom='b1'), step_stat, rename(debias_mom3, mom3='b1', debias3='debias1'), debiased_momentum_step]
    fit = [psgd_update_schedule, gaussian_probe, psgd_balance_factors, psgd_update_factors]
    return [momentum, fit, psgd_precondition, partial(clip_update_rms, max_rms=1.1), weight_decay and transforms.add_decayed_weights]

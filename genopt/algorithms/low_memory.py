"Less state than a number for each element: sums over rows and columns stand for the whole matrix. From simple to complex."

from ..blocks import transforms
from ..blocks.matrices import (adagrad_eps_root_step,average_padded_sqr_factors,average_residual_factors,average_sqr_factors,came_step,dtype_eps,
                               factored_step,growing_sqr_mom,padded_factored_step,sm3_sqr_sum)
from ..blocks.stats import average_grad,step_stat
from ..blocks.steps import momentum_step
from ..blocks.transforms import clip_update_rms,inverse_sqrt_lr,scale_by_param_rms
from ..contract.names import rename
from ..optim.algorithm import algorithm

__all__ = ['SM3', 'Adafactor', 'CAME']


average_update = rename(average_grad, grad='update', grad_avg='update_avg')

@algorithm
def SM3(lr=1e-1, momentum=0., beta=0., eps=1e-30):
    """Adagrad with one number for each row and each column (Anil et al. 2019, https://arxiv.org/abs/1901.11150, SM3-II). `momentum` keeps an
    exponential average of the updates. `beta` turns the sum of squares into an average, as in the authors' later code."""
    return [sm3_sqr_sum, adagrad_eps_root_step, momentum and [average_update, rename(momentum_step, grad_avg='update_avg')]]

@algorithm
def Adafactor(lr=1e-2, beta2_decay=-0.8, eps=(None,1e-3), d=1.0, weight_decay=0.):
    """RMSprop with a factored second moment, and steps relative to the parameter (Shazeer and Stern 2018, https://arxiv.org/abs/1804.04235). The
    factors are averages over rows and columns. As in torch.optim.Adafactor, `eps[0]` bounds the second moment from below, and `d` the root mean
    square of the update from above."""
    if eps[0] is not None and not eps[0]>=0: raise ValueError(f"epsilon1 should be >= 0 but is: {eps[0]}")
    if not beta2_decay<=0: raise ValueError(f"beta2_decay should be <= 0 but is: {beta2_decay}")
    if not d>=1: raise ValueError(f"Clipping threshold d should be >= 1 but is: {d}")
    return [step_stat, growing_sqr_mom, average_sqr_factors, eps[0] is None and dtype_eps, factored_step, rename(clip_update_rms, max_rms='d'),
            scale_by_param_rms, weight_decay and transforms.weight_decay, inverse_sqrt_lr]

@algorithm
def CAME(lr=2e-4, betas=(0.9,0.999,0.9999), eps=(1e-30,1e-16), clip_threshold=1.0, weight_decay=0.):
    """Adafactor with momentum, and with longer steps where updates are steady (Luo et al. 2023, https://arxiv.org/abs/2307.02047). As in the authors'
    code, weight decay is decoupled. `betas` are for the updates, the squared gradients, and the squared distance of updates from their average."""
    return [average_padded_sqr_factors, padded_factored_step, rename(clip_update_rms, max_rms='clip_threshold'), average_update,
            average_residual_factors, came_step, weight_decay and transforms.weight_decay]

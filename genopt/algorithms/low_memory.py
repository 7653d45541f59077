"""Less state than a number for each element: sums over rows and columns stand for the whole. From simple to complex."""

from ..blocks import transforms
from ..blocks.matrices import average_sqr_factors,factored_step,growing_sqr_mom
from ..blocks.stats import step_stat
from ..blocks.transforms import clip_update_rms,relative_lr,relative_to_param
from ..naming import rename
from ..optimizer import algorithm

__all__ = ['Adafactor']


@algorithm
def Adafactor(lr=1e-2, beta2_decay=-0.8, eps=(None,1e-3), d=1.0, weight_decay=0.):
    """RMSprop with a second moment in two factors, of rows and columns, and a step relative to the parameter (Shazeer and Stern 2018,
    https://arxiv.org/abs/1804.04235). torch.optim's: `eps[0]` bounds the second moment from below, `d` the update's root mean square."""
    if eps[0] is not None and not eps[0]>=0: raise ValueError(f"epsilon1 should be >= 0 but is: {eps[0]}")
    if not beta2_decay<=0: raise ValueError(f"beta2_decay should be <= 0 but is: {beta2_decay}")
    if not d>=1: raise ValueError(f"Clipping threshold d should be >= 1 but is: {d}")
    return [step_stat, growing_sqr_mom, average_sqr_factors, factored_step, rename(clip_update_rms, max_rms='d'), relative_to_param,
            weight_decay and transforms.weight_decay, relative_lr]

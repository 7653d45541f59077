"""Algorithms that train one set of weights and evaluate another, their average: `opt.train()` and `opt.eval()` switch between them. From simple to
complex."""

from ..blocks.moves import schedule_free_eval,schedule_free_move,schedule_free_weight,warmup_lr
from ..blocks.stats import average_sqr_grad,debias,debias_sqr_avg,step_stat
from ..blocks.steps import rms_prop_step,sgd_step
from ..blocks.transforms import add_decayed_weights
from ..contract.names import rename
from ..optim.algorithm import algorithm

__all__ = ['SGDScheduleFree', 'AdamWScheduleFree']

schedule_free = [schedule_free_weight, schedule_free_move, schedule_free_eval]


@algorithm
def SGDScheduleFree(lr=1., momentum=0.9, weight_decay=0., warmup_steps=0, r=0., weight_lr_power=2.):
    """SGD with an average of the weights in place of momentum and a schedule (Defazio et al. 2024, https://arxiv.org/abs/2405.15682), as the authors'
    package. Weight decay is taken at the point of the gradient."""
    return [step_stat, warmup_steps and warmup_lr, sgd_step, weight_decay and add_decayed_weights, schedule_free]

@algorithm
def AdamWScheduleFree(lr=0.0025, betas=(0.9,0.999), eps=1e-8, weight_decay=0., warmup_steps=0, r=0., weight_lr_power=2.):
    """AdamW with an average of the weights in place of momentum and a schedule (Defazio et al. 2024, https://arxiv.org/abs/2405.15682), as the
    authors' package. Weight decay is taken at the point of the gradient."""
    return [step_stat, warmup_steps and warmup_lr, average_sqr_grad, debias, debias_sqr_avg, rename(rms_prop_step, sqr_avg='sqr_hat'),
            weight_decay and add_decayed_weights, schedule_free]

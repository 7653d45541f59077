"""Compositions that stand in the matrix beside the catalogue, as yours would: `genopt trials genopt.tools.trials.compositions:OptimisticSGD`."""

from ...algorithms import SGD,Adam
from ...blocks.moves import lookahead
from ...blocks.stats import grad_change,step_stat
from ...optim.algorithm import algorithm

__all__ = ['LookaheadSGD', 'OptimisticSGD', 'LookaheadAdam', 'OptimisticAdam']


def optimism(grad, change):
    "Expects the gradient to change once more as it did in the last step: `g + d`. Daskalakis et al. 2018, https://arxiv.org/abs/1711.00141"
    return dict(grad=grad+change)

@algorithm
def LookaheadSGD(lr=1e-3, alpha=0.5, k=6):
    "SGD with slow weights that follow it (Zhang et al. 2019, https://arxiv.org/abs/1907.08610)."
    return [SGD.build(), lookahead]

@algorithm
def OptimisticSGD(lr=1e-3):
    "SGD with optimism, which converges in bilinear games (Daskalakis et al. 2018, https://arxiv.org/abs/1711.00141)."
    return [step_stat, grad_change, optimism, SGD.build()]

@algorithm
def LookaheadAdam(lr=1e-3, betas=(0.9,0.999), eps=1e-8, alpha=0.5, k=6):
    "Adam with slow weights that follow it (Zhang et al. 2019, https://arxiv.org/abs/1907.08610)."
    return [Adam.build(), lookahead]

@algorithm
def OptimisticAdam(lr=1e-3, betas=(0.9,0.999), eps=1e-8):
    "Adam with optimism (Daskalakis et al. 2018, https://arxiv.org/abs/1711.00141)."
    return [step_stat, grad_change, optimism, Adam.build()]

"""Steps: which way to go. Each returns the `update`, of the shape of `p`, which is then subtracted, times `lr`. In the order of history.

Symbols as in `stats`: gradient g, first moment m (`grad_avg`), second moment v (`sqr_avg`), step t."""

from torch.nn.functional import softplus
from ..core import fraction,nonneg,zeros
from .stats import average_grad

__all__ = ['sgd_step', 'momentum_step', 'nesterov_step', 'rms_prop_step', 'adam_step', 'nadam_step', 'radam_step', 'lion_step', 'sadam_step',
           'qhadam_step', 'nesterov_average_step']


def sgd_step(grad):
    "Down the gradient: `g`. Robbins and Monro 1951"
    return grad

def momentum_step(grad_avg):
    "Along the average: `m`. Polyak 1964, the heavy ball, when the average is a plain sum"
    return grad_avg

def nesterov_step(grad, grad_avg, mom):
    "Where the average will be: `g + mom*m`. Nesterov 1983, in the form of Sutskever et al. 2013, http://proceedings.mlr.press/v28/sutskever13.html"
    return grad.add(grad_avg, alpha=mom)

def nesterov_average_step(grad, grad_avg, mom):
    "The same where the average is exponential: `mom*m + (1-mom)*g`, one step of it ahead"
    return average_grad(grad, mom, True, grad_avg)['grad_avg']

def rms_prop_step(grad, sqr_avg, eps:nonneg=1e-8):
    "Scaled by the root of the mean square: `g / (sqrt(v) + eps)`. Hinton 2012, lecture 6e"
    return grad / (sqr_avg.sqrt() + eps)

def adam_step(grad_avg, sqr_avg, debias1, debias2, eps:nonneg=1e-8):
    "Both averages, debiased: `m/(1-mom^t) / (sqrt(v/(1-sqr_mom^t)) + eps)`. Kingma and Ba 2015, https://arxiv.org/abs/1412.6980"
    return (grad_avg/debias1) / ((sqr_avg/debias2).sqrt() + eps)

def nadam_step(grad, grad_avg, sqr_avg, grad_weight, avg_weight, debias2, eps:nonneg=1e-8):
    """Adam's step with Nesterov's look ahead: `(grad_weight*g + avg_weight*m) / (sqrt(v/(1-sqr_mom^t)) + eps)`.
    Dozat 2016, https://openreview.net/forum?id=OM0jvwB8jIp57ZJjtNEZ"""
    return (grad*grad_weight).add(grad_avg, alpha=avg_weight) / ((sqr_avg/debias2).sqrt() + eps)

def radam_step(grad_avg, sqr_avg, debias1, debias2, rect, eps:nonneg=1e-8):
    """Adam's step, rectified, or momentum's while there is no `rect`: `m/(1-mom^t) * rect*sqrt(1-sqr_mom^t) / (sqrt(v) + eps)`.
    Liu et al. 2020, https://arxiv.org/abs/1908.03265; `eps` where torch has it"""
    if not rect: return grad_avg/debias1
    return grad_avg*(rect*debias2**0.5/debias1) / (sqr_avg.sqrt() + eps)

def lion_step(grad, mom:fraction=0.9, grad_avg=zeros):
    """Sign of a mix of gradient and average: `sign(mom*m + (1-mom)*g)`, with the `m` of the step before, so `average_grad` comes after it.
    Chen et al. 2023, https://arxiv.org/abs/2302.06675"""
    return (grad_avg*mom).add(grad, alpha=1-mom).sign()

def sadam_step(grad_avg, sqr_avg, debias1, debias2, beta:nonneg=50., eps:nonneg=1e-8):
    """Adam's step, smooth where the denominator is small: `m/(1-mom^t) / softplus(sqrt(v/(1-sqr_mom^t)) + eps)`, where
    `softplus(x) = log(1 + exp(beta*x))/beta`; with `beta=0` Adam's own. Tong et al. 2019, SAdam, https://arxiv.org/abs/1908.00700"""
    if not beta: return adam_step(grad_avg, sqr_avg, debias1, debias2, eps)
    return (grad_avg/debias1)*beta / softplus(((sqr_avg/debias2).sqrt() + eps)*beta)

def qhadam_step(grad, grad_avg, sqr_avg, debias1, debias2, nu1=0.7, nu2=1., eps:nonneg=1e-8):
    """Adam's step with averages that weigh the newest gradient more, `m' = (1-nu1)*g + nu1*m/(1-mom^t)` and `v'` of `g^2` alike with `nu2`:
    `m' / (sqrt(v') + eps)`. Ma and Yarats 2019, quasi-hyperbolic Adam, https://arxiv.org/abs/1810.06801"""
    avg,sqr = (grad*(1-nu1)).add(grad_avg/debias1, alpha=nu1),(grad*grad*(1-nu2)).add(sqr_avg/debias2, alpha=nu2)
    return avg / (sqr.sqrt() + eps)

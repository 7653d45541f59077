"""Steps: which way to go. Each returns the `update`, of the shape of `p`, which is then subtracted, times `lr`. In the order of history.

Symbols as in `stats`: gradient g, first moment m (`grad_avg`), second moment v (`sqr_avg`), step t."""

from ..core import fraction,nonneg,zeros

__all__ = ['sgd_step', 'momentum_step', 'nesterov_step', 'rprop_step', 'adagrad_step', 'rms_prop_step', 'adadelta_step', 'adam_step', 'adamax_step',
           'nadam_step', 'radam_step', 'lion_step']


def sgd_step(grad):
    "Down the gradient: `g`. Robbins and Monro 1951"
    return grad

def momentum_step(grad_avg):
    "Along the average: `m`. Polyak 1964, the heavy ball, when the average is a plain sum"
    return grad_avg

def nesterov_step(grad, grad_avg, mom):
    "Where the average will be: `g + mom*m`. Nesterov 1983, in the form of Sutskever et al. 2013, http://proceedings.mlr.press/v28/sutskever13.html"
    return grad.add(grad_avg, alpha=mom)

def rprop_step(p, grad, step_size):
    """The sign alone, by each element's own step size, whatever `lr` is now: `p <- p - step_size*sign(g)`.
    Riedmiller and Braun 1993, https://doi.org/10.1109/ICNN.1993.298623"""
    return dict(new_p = p.addcmul(grad.sign(), step_size, value=-1))

def adagrad_step(grad, sqr_sum, eps:nonneg=1e-10):
    "Scaled by the root of all squares so far: `g / (sqrt(s) + eps)`. Duchi et al. 2011, https://jmlr.org/papers/v12/duchi11a.html"
    return grad / (sqr_sum.sqrt() + eps)

def rms_prop_step(grad, sqr_avg, eps:nonneg=1e-8):
    "Scaled by the root of the mean square: `g / (sqrt(v) + eps)`. Hinton 2012, lecture 6e"
    return grad / (sqr_avg.sqrt() + eps)

def adadelta_step(grad, sqr_avg, eps:nonneg=1e-6, sqr_update_avg=zeros):
    """In units of the parameter: `g * sqrt(d + eps) / sqrt(v + eps)`, with `d` the mean square of updates up to the step before, so their average
    comes after it. Zeiler 2012, https://arxiv.org/abs/1212.5701"""
    return dict(update = grad * ((sqr_update_avg+eps).sqrt() / (sqr_avg+eps).sqrt()))

def adam_step(grad_avg, sqr_avg, debias1, debias2, eps:nonneg=1e-8):
    "Both averages, debiased: `m/(1-mom^t) / (sqrt(v/(1-sqr_mom^t)) + eps)`. Kingma and Ba 2015, https://arxiv.org/abs/1412.6980"
    return (grad_avg/debias1) / ((sqr_avg/debias2).sqrt() + eps)

def adamax_step(grad_avg, grad_max, debias1):
    "Scaled by the largest gradient of late: `m/(1-mom^t) / u`. Kingma and Ba 2015, section 7.1, https://arxiv.org/abs/1412.6980"
    return (grad_avg/debias1) / grad_max

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

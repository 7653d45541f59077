"""Steps: which way to go. Each returns the `update`, of the shape of `p`, which is then subtracted, times `lr`. In the order of history.

Symbols as in `stats`: gradient g, first moment m (`grad_avg`), second moment v (`sqr_avg`), step t."""

from ..contract import copy_of_p,fraction,nonneg,where,zeros
from .stats import average

__all__ = ['sgd_step', 'momentum_step', 'nesterov_step', 'nesterov_average_step', 'qhm_step', 'aggmo_step', 'rprop_step', 'adagrad_step',
           'rms_prop_step', 'adadelta_step', 'adam_step', 'adamax_step', 'nadam_step', 'qhadam_step', 'radam_step', 'sadam_step',
           'adam_clamped_step', 'adam_eps_root_step', 'adam_atan2_step', 'debiased_momentum_step', 'debiased_rms_step', 'adabound_step',
           'adan_step', 'adopt_step', 'ademamix_step', 'madgrad_step', 'lion_step']


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
    return average(grad_avg, grad, mom)

def qhm_step(grad, grad_avg, nu:nonneg=0.7):
    "Between the gradient and the average: `(1-nu)*g + nu*m`. Ma and Yarats 2019, https://arxiv.org/abs/1810.06801"
    return grad.lerp(grad_avg, nu)

def aggmo_step(grad_avg, grad_avg2, grad_avg3):
    "Along three averages of different length: `(m1 + m2 + m3)/3`. Lucas et al. 2019, AggMo, https://arxiv.org/abs/1804.00325"
    return (grad_avg+grad_avg2+grad_avg3)/3

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

def root(sqr_avg, debias, eps):
    "Root of a debiased mean square, to divide by: `sqrt(v/(1-sqr_mom^t)) + eps`"
    return (sqr_avg/debias).sqrt() + eps

def adam_step(grad_avg, sqr_avg, debias1, debias2, eps:nonneg=1e-8):
    "Both averages, debiased: `m/(1-mom^t) / (sqrt(v/(1-sqr_mom^t)) + eps)`. Kingma and Ba 2015, https://arxiv.org/abs/1412.6980"
    return (grad_avg/debias1) / root(sqr_avg, debias2, eps)

def adamax_step(grad_avg, grad_max, debias1):
    "Scaled by the largest gradient of late: `m/(1-mom^t) / u`. Kingma and Ba 2015, section 7.1, https://arxiv.org/abs/1412.6980"
    return (grad_avg/debias1) / grad_max

def nadam_step(grad, grad_avg, sqr_avg, grad_weight, avg_weight, debias2, eps:nonneg=1e-8):
    """Adam's step with Nesterov's look ahead: `(grad_weight*g + avg_weight*m) / (sqrt(v/(1-sqr_mom^t)) + eps)`.
    Dozat 2016, https://openreview.net/forum?id=OM0jvwB8jIp57ZJjtNEZ"""
    return (grad*grad_weight).add(grad_avg, alpha=avg_weight) / root(sqr_avg, debias2, eps)

def qhadam_step(grad, grad_avg, sqr_avg, debias1, debias2, nu1:nonneg=0.7, nu2:nonneg=1., eps:nonneg=1e-8):
    """Adam's step with both averages mixed with what is new, `((1-nu1)*g + nu1*m) / (sqrt((1-nu2)*g^2 + nu2*v) + eps)`, m and v debiased.
    Ma and Yarats 2019, https://arxiv.org/abs/1810.06801"""
    return qhm_step(grad, grad_avg/debias1, nu1) / (qhm_step(grad*grad, sqr_avg/debias2, nu2).sqrt() + eps)

def radam_step(grad_avg, sqr_avg, debias1, debias2, rect, eps:nonneg=1e-8):
    """Adam's step, rectified, or momentum's while there is no `rect`: `m/(1-mom^t) * rect*sqrt(1-sqr_mom^t) / (sqrt(v) + eps)`.
    Liu et al. 2020, https://arxiv.org/abs/1908.03265; `eps` where torch has it"""
    return where(rect>0, grad_avg*(rect*debias2**0.5/debias1) / (sqr_avg.sqrt() + eps), grad_avg/debias1)

def sadam_step(grad_avg, sqr_avg, debias1, debias2, beta:nonneg=50., eps:nonneg=0.):
    """Adam's step, smooth where the denominator is small: `m/(1-mom^t) / softplus(sqrt(v/(1-sqr_mom^t)) + eps)`, where
    `softplus(x) = log(1 + exp(beta*x))/beta`; with `beta=0` Adam's own. Tong et al. 2019, SAdam, https://arxiv.org/abs/1908.00700"""
    if not beta: return adam_step(grad_avg, sqr_avg, debias1, debias2, eps)
    x = root(sqr_avg, debias2, eps)
    return (grad_avg/debias1) / (x + (1 + (x*-beta).exp()).log()/beta)              # softplus of what is not negative, at half its cost

def adam_clamped_step(grad_avg, sqr_avg, debias1, debias2, eps:nonneg=1e-8):
    "Adam's step whose denominator is at least `eps`: `m / max(sqrt(v), eps)`, m and v debiased. As in HeavyBall"
    return (grad_avg/debias1) / root(sqr_avg, debias2, 0.).clamp(min=eps)

def adam_eps_root_step(grad_avg, sqr_avg, debias1, debias2, eps:nonneg=1e-8):
    "Adam's step with `eps` inside the root: `m / sqrt(v + eps)`, m and v debiased. As optax's `eps_root`"
    return (grad_avg/debias1) / (sqr_avg/debias2 + eps).sqrt()

def adam_atan2_step(grad_avg, sqr_avg, debias1, debias2):
    "Adam's step without an `eps`, never longer than pi/2: `atan2(m, sqrt(v))`, m and v debiased. Everett et al. 2024, https://arxiv.org/abs/2407.05872"
    return (grad_avg/debias1).atan2(root(sqr_avg, debias2, 0.))

def debiased_momentum_step(grad_avg, debias1):
    "Along the average, debiased: `m/(1-mom^t)`"
    return grad_avg/debias1

def debiased_rms_step(grad, sqr_avg, debias2, eps:nonneg=1e-8):
    "RMSprop's step with the mean square debiased: `g / (sqrt(v/(1-sqr_mom^t)) + eps)`"
    return grad / root(sqr_avg, debias2, eps)

def adabound_step(grad_avg, sqr_avg, debias1, debias2, low, high, eps:nonneg=1e-8):
    """Adam's step, each element's factor between two bounds: `m * clip(sqrt(1-sqr_mom^t)/(1-mom^t) / (sqrt(v) + eps), low, high)`.
    Luo et al. 2019, https://arxiv.org/abs/1902.09843"""
    return grad_avg * (debias2**0.5/debias1 / (sqr_avg.sqrt() + eps)).clamp(low, high)

def adan_step(grad_avg, change_avg, sqr_avg, sqr_mom, debias1, debias2, debias3, eps:nonneg=1e-8):
    """Nesterov's look ahead from how gradients change: `(m/(1-mom^t) + sqr_mom*d/(1-sqr_mom^t)) / (sqrt(n/(1-mom3^t)) + eps)`, with `d` the average
    change. Xie et al. 2022, https://arxiv.org/abs/2208.06677, as in their code: the factor of `d` is their 1-beta2, written `sqr_mom` here"""
    return (grad_avg/debias1).add(change_avg, alpha=sqr_mom/debias2) / root(sqr_avg, debias3, eps)

def adopt_step(grad, step, eps:nonneg=1e-6, clip_exp:nonneg=0.25, sqr_avg=zeros):
    """The gradient by a mean square that has not seen it, clipped: `clip(g / max(sqrt(v), eps), (t-1)^clip_exp)`, nothing at the first step.
    Taniguchi et al. 2024, https://arxiv.org/abs/2411.02853, so the average of squares comes after it"""
    bound = where(step>1, (step-1)**clip_exp, 0.)
    return (grad / sqr_avg.sqrt().clamp(min=eps)).clamp(-bound, bound)

def ademamix_step(grad_avg, slow_avg, sqr_avg, debias1, debias2, alpha:nonneg=5., eps:nonneg=1e-8):
    """Adam's step with a second, slow average: `(m/(1-mom^t) + alpha*m_slow) / (sqrt(v/(1-sqr_mom^t)) + eps)`.
    Pagliardini et al. 2024, https://arxiv.org/abs/2409.03137"""
    return (grad_avg/debias1).add(slow_avg, alpha=alpha) / root(sqr_avg, debias2, eps)

def madgrad_step(p, grad_sum, sqr_sum, mom:fraction=0.9, eps:nonneg=1e-6, first_p=copy_of_p):
    """Dual averaging: from where it began, `z = p_0 - s/(cbrt(v) + eps)`, and the parameter is an average of that, `p <- mom*p + (1-mom)*z`.
    Defazio and Jelassi 2021, https://arxiv.org/abs/2101.11075"""
    cbrt = (sqr_sum.log2()/3).exp2()                                                  # half the cost of a power
    return dict(new_p = p.lerp(first_p - grad_sum/(cbrt + eps), 1-mom))

def lion_step(grad, mom:fraction=0.9, grad_avg=zeros):
    """Sign of a mix of gradient and average: `sign(mom*m + (1-mom)*g)`, with the `m` of the step before, so `average_grad` comes after it.
    Chen et al. 2023, https://arxiv.org/abs/2302.06675"""
    return average(grad_avg, grad, mom).sign()

"""Steps: formulas that turn statistics into the `update` u, of the shape of p. The optimizer then makes the move, `p <- p - lr*u`. In the order of
history.

Symbols as in `stats`. "Debiased" means divided by the bias correction: m by `1-mom^t`, v by `1-sqr_mom^t`."""

from ..contract import copy_of_p,fraction,nonneg,where,zeros
from .stats import average

__all__ = ['sgd_step', 'momentum_step', 'nesterov_step', 'nesterov_average_step', 'qhm_step', 'aggmo_step', 'rprop_step', 'adagrad_step',
           'rms_prop_step', 'adadelta_step', 'adam_step', 'adamax_step', 'nadam_step', 'qhadam_step', 'radam_step', 'sadam_step',
           'adam_clamped_step', 'adam_eps_root_step', 'adam_atan2_step', 'debiased_momentum_step', 'debiased_rms_step', 'adabound_step',
           'adan_step', 'adopt_step', 'ademamix_step', 'madgrad_step', 'lion_step']


def sgd_step(grad):
    "Takes the gradient as the update: `g`. Robbins and Monro 1951, https://doi.org/10.1214/aoms/1177729586"
    return grad

def momentum_step(grad_avg):
    "Takes the average of the gradients as the update: `m`. If the average is a plain sum, this is Polyak's heavy ball (1964)."
    return grad_avg

def nesterov_step(grad, grad_avg, mom):
    """Looks one step ahead along a sum of the gradients: `g + mom*m`. Nesterov 1983, in the form of Sutskever et al. 2013,
    http://proceedings.mlr.press/v28/sutskever13.html"""
    return grad.add(grad_avg, alpha=mom)

def nesterov_average_step(grad, grad_avg, mom):
    """Looks one step ahead along an exponential average of the gradients: `mom*m + (1-mom)*g`. Dozat 2016,
    https://openreview.net/forum?id=OM0jvwB8jIp57ZJjtNEZ"""
    return average(grad_avg, grad, mom)

def qhm_step(grad, grad_avg, nu:nonneg=0.7):
    """Interpolates between the gradient and its average: `(1-nu)*g + nu*m`. Quasi-hyperbolic momentum, Ma and Yarats 2019,
    https://arxiv.org/abs/1810.06801"""
    return grad.lerp(grad_avg, nu)

def aggmo_step(grad_avg, grad_avg2, grad_avg3):
    """Takes the mean of three averages with different decay rates: `(m1 + m2 + m3)/3`. Aggregated momentum, Lucas et al. 2019,
    https://arxiv.org/abs/1804.00325"""
    return (grad_avg+grad_avg2+grad_avg3)/3

def rprop_step(p, grad, step_size):
    """Moves each element by its own step size, against the sign of its gradient: `p <- p - step_size*sign(g)`. The block makes the move itself,
    whatever `lr` is. Rprop, Riedmiller and Braun 1993, https://doi.org/10.1109/ICNN.1993.298623"""
    return dict(new_p = p.addcmul(grad.sign(), step_size, value=-1))

def adagrad_step(grad, sqr_sum, eps:nonneg=1e-10):
    """Divides the gradient by the root of the sum of its squares: `g / (sqrt(s) + eps)`. Adagrad, Duchi et al. 2011,
    https://jmlr.org/papers/v12/duchi11a.html"""
    return grad / (sqr_sum.sqrt() + eps)

def rms_prop_step(grad, sqr_avg, eps:nonneg=1e-8):
    """Divides the gradient by its root mean square: `g / (sqrt(v) + eps)`. RMSprop, Hinton 2012, lecture 6e,
    http://www.cs.toronto.edu/~tijmen/csc321/slides/lecture_slides_lec6.pdf"""
    return grad / (sqr_avg.sqrt() + eps)

def adadelta_step(grad, sqr_avg, eps:nonneg=1e-6, sqr_update_avg=zeros):
    """Scales the gradient to the units of the parameter: `g * sqrt(d + eps) / sqrt(v + eps)`. `d` is the mean square of the updates up to the last
    step, so the block that averages them comes later. State: `sqr_update_avg`, like p. Adadelta, Zeiler 2012, https://arxiv.org/abs/1212.5701"""
    return dict(update = grad * ((sqr_update_avg+eps).sqrt() / (sqr_avg+eps).sqrt()))

def root(sqr_avg, debias, eps):
    "The denominator of Adam's step: `sqrt(v/(1-sqr_mom^t)) + eps`"
    return (sqr_avg/debias).sqrt() + eps

def adam_step(grad_avg, sqr_avg, debias1, debias2, eps:nonneg=1e-8):
    """Divides the debiased first moment by the root of the debiased second moment: `m/(1-mom^t) / (sqrt(v/(1-sqr_mom^t)) + eps)`. Adam, Kingma and Ba
    2015, https://arxiv.org/abs/1412.6980"""
    return (grad_avg/debias1) / root(sqr_avg, debias2, eps)

def adamax_step(grad_avg, grad_max, debias1):
    """Divides the debiased first moment by the decaying maximum of the gradients: `m/(1-mom^t) / u`. `decayed_max_grad` keeps the maximum. Adamax,
    Kingma and Ba 2015, section 7.1, https://arxiv.org/abs/1412.6980"""
    return (grad_avg/debias1) / grad_max

def nadam_step(grad, grad_avg, sqr_avg, grad_weight, avg_weight, debias2, eps:nonneg=1e-8):
    """Takes Adam's step with Nesterov momentum: `(grad_weight*g + avg_weight*m) / (sqrt(v/(1-sqr_mom^t)) + eps)`. `nadam_weights` computes the
    weights. NAdam, Dozat 2016, https://openreview.net/forum?id=OM0jvwB8jIp57ZJjtNEZ"""
    return (grad*grad_weight).add(grad_avg, alpha=avg_weight) / root(sqr_avg, debias2, eps)

def qhadam_step(grad, grad_avg, sqr_avg, debias1, debias2, nu1:nonneg=0.7, nu2:nonneg=1., eps:nonneg=1e-8):
    """Takes Adam's step with both averages interpolated to the newest value: `((1-nu1)*g + nu1*m) / (sqrt((1-nu2)*g^2 + nu2*v) + eps)`, with m and v
    debiased. QHAdam, Ma and Yarats 2019, https://arxiv.org/abs/1810.06801"""
    return qhm_step(grad, grad_avg/debias1, nu1) / (qhm_step(grad*grad, sqr_avg/debias2, nu2).sqrt() + eps)

def radam_step(grad_avg, sqr_avg, debias1, debias2, rect, eps:nonneg=1e-8):
    """Multiplies Adam's step by the rectification term: `m/(1-mom^t) * rect*sqrt(1-sqr_mom^t) / (sqrt(v) + eps)`. While the term is 0, the update is
    `m/(1-mom^t)`. `eps` is where torch has it. RAdam, Liu et al. 2020, https://arxiv.org/abs/1908.03265"""
    return where(rect>0, grad_avg*(rect*debias2**0.5/debias1) / (sqr_avg.sqrt() + eps), grad_avg/debias1)

def sadam_step(grad_avg, sqr_avg, debias1, debias2, beta:nonneg=50., eps:nonneg=0.):
    """Takes Adam's step with the softplus of its denominator: `m/(1-mom^t) / softplus(sqrt(v/(1-sqr_mom^t)) + eps)`. `softplus(x) = log(1 +
    exp(beta*x))/beta`, and `beta=0` gives Adam's step. SAdam, Tong et al. 2019, https://arxiv.org/abs/1908.00700"""
    if not beta: return adam_step(grad_avg, sqr_avg, debias1, debias2, eps)
    x = root(sqr_avg, debias2, eps)
    return (grad_avg/debias1) / (x + (1 + (x*-beta).exp()).log()/beta)              # softplus of x >= 0, at half its cost

def adam_clamped_step(grad_avg, sqr_avg, debias1, debias2, eps:nonneg=1e-8):
    "Takes Adam's step with a denominator of at least `eps`: `m / max(sqrt(v), eps)`, with m and v debiased. As HeavyBall."
    return (grad_avg/debias1) / root(sqr_avg, debias2, 0.).clamp(min=eps)

def adam_eps_root_step(grad_avg, sqr_avg, debias1, debias2, eps:nonneg=1e-8):
    "Takes Adam's step with `eps` inside the root: `m / sqrt(v + eps)`, with m and v debiased. `eps` is the `eps_root` of optax."
    return (grad_avg/debias1) / (sqr_avg/debias2 + eps).sqrt()

def adam_atan2_step(grad_avg, sqr_avg, debias1, debias2):
    """Takes Adam's step with the arctangent of the quotient, which needs no `eps`: `atan2(m, sqrt(v))`, with m and v debiased. An element of the
    update is at most pi/2. Everett et al. 2024, https://arxiv.org/abs/2407.05872"""
    return (grad_avg/debias1).atan2(root(sqr_avg, debias2, 0.))

def debiased_momentum_step(grad_avg, debias1):
    "Takes the debiased average as the update: `m/(1-mom^t)`. Kingma and Ba 2015, section 3, https://arxiv.org/abs/1412.6980"
    return grad_avg/debias1

def debiased_rms_step(grad, sqr_avg, debias2, eps:nonneg=1e-8):
    """Divides the gradient by the root of the debiased second moment: `g / (sqrt(v/(1-sqr_mom^t)) + eps)`. LaProp, Ziyin et al. 2020,
    https://arxiv.org/abs/2002.04839"""
    return grad / root(sqr_avg, debias2, eps)

def adabound_step(grad_avg, sqr_avg, debias1, debias2, low, high, eps:nonneg=1e-8):
    """Clips the factor by which Adam multiplies each element: `m * clip(sqrt(1-sqr_mom^t)/(1-mom^t) / (sqrt(v) + eps), low, high)`. `adabound_bounds`
    computes the bounds. AdaBound, Luo et al. 2019, https://arxiv.org/abs/1902.09843"""
    return grad_avg * (debias2**0.5/debias1 / (sqr_avg.sqrt() + eps)).clamp(low, high)

def adan_step(grad_avg, change_avg, sqr_avg, sqr_mom, debias1, debias2, debias3, eps:nonneg=1e-8):
    """Takes Adam's step with Nesterov momentum, from the average change of the gradient: `(m/(1-mom^t) + sqr_mom*d/(1-sqr_mom^t)) /
    (sqrt(n/(1-mom3^t)) + eps)`. `d` is the average of the changes, `n` that of the squared, extrapolated gradients. `sqr_mom` is the paper's 1-beta2.
    Adan, Xie et al. 2022, https://arxiv.org/abs/2208.06677, as in the authors' code"""
    return (grad_avg/debias1).add(change_avg, alpha=sqr_mom/debias2) / root(sqr_avg, debias3, eps)

def adopt_step(grad, step, eps:nonneg=1e-6, clip_exp:nonneg=0.25, sqr_avg=zeros):
    """Divides the gradient by the root of a second moment that has not seen it, and clips the result: `clip(g / max(sqrt(v), eps), (t-1)^clip_exp)`.
    At the first step the update is 0. The block that averages the squares comes later. State: `sqr_avg`, like p. ADOPT, Taniguchi et al. 2024,
    https://arxiv.org/abs/2411.02853"""
    bound = where(step>1, (step-1)**clip_exp, 0.)
    return (grad / sqr_avg.sqrt().clamp(min=eps)).clamp(-bound, bound)

def ademamix_step(grad_avg, slow_avg, sqr_avg, debias1, debias2, alpha:nonneg=5., eps:nonneg=1e-8):
    """Takes Adam's step with a second, slow average in the numerator: `(m/(1-mom^t) + alpha*m_slow) / (sqrt(v/(1-sqr_mom^t)) + eps)`. AdEMAMix,
    Pagliardini et al. 2024, https://arxiv.org/abs/2409.03137"""
    return (grad_avg/debias1).add(slow_avg, alpha=alpha) / root(sqr_avg, debias2, eps)

def madgrad_step(p, grad_sum, sqr_sum, mom:fraction=0.9, eps:nonneg=1e-6, first_p=copy_of_p):
    """Moves by dual averaging from the initial parameter, with momentum: `z = p_0 - s/(cbrt(v) + eps)`, `p <- mom*p + (1-mom)*z`. The block makes the
    move itself. State: `first_p`, like p. MADGRAD, Defazio and Jelassi 2021, https://arxiv.org/abs/2101.11075"""
    cbrt = (sqr_sum.log2()/3).exp2()                                                  # cube root, at half the cost of a power
    return dict(new_p = p.lerp(first_p - grad_sum/(cbrt + eps), 1-mom))

def lion_step(grad, mom:fraction=0.9, grad_avg=zeros):
    """Takes the sign of a mix of the gradient and its average: `sign(mom*m + (1-mom)*g)`. m is that of the last step, so `average_grad` comes later.
    State: `grad_avg`, like p. Lion, Chen et al. 2023, https://arxiv.org/abs/2302.06675"""
    return average(grad_avg, grad, mom).sign()

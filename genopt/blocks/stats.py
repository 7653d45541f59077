"""Statistics: what an algorithm remembers of the gradients it has seen. Simplest first; each keeps one state.

Shapes are those of the parameter `p` everywhere. Symbols of the papers: gradient g, decay rate beta (`mom`, `sqr_mom`),
first moment m (`grad_avg`), second moment v (`sqr_avg`), step t (`step`)."""

import math,torch
from ..contract import count,fraction,full,maximum,minimum,nonneg,positive,scalar,single,where,zeros

__all__ = ['step_stat', 'debias', 'debiased_betas', 'debias_mom3', 'debias_sqr_avg', 'average_grad', 'undamped_start', 'average_sqr_grad',
           'average_belief', 'yogi_sqr_grad', 'average_sqr_norm', 'sum_sqr_grad', 'dual_averaging_sums', 'decayed_max_grad', 'max_sqr_grad',
           'center_sqr_grad', 'grad_change', 'extrapolate_grad', 'nadam_weights', 'rectification_term', 'warmup_alpha', 'warmup_mom3',
           'skip_first_step', 'decayed_lr', 'largest_lr', 'dual_averaging_weight', 'adabound_bounds', 'asgd_rates', 'rprop_sizes']


def average(avg, x, mom, damp=None):
    "The formula of every running average: `mom*avg + (1-damp)*x`, with `damp = mom` if there is none. Rounded as torch does it"
    return (avg*mom).add(x, alpha=1-(mom if damp is None else damp))

def step_stat(step=count):
    "Count the steps, for each parameter by itself: `t <- t + 1`, so the first step sees 1"
    return dict(step=step+1)

def debias(step, mom:fraction, sqr_mom:fraction):
    """What the averages, started at zero, lack after `step` steps: `1 - mom^t` and `1 - sqr_mom^t`, to divide by.
    On the host, in double precision. Kingma and Ba 2015, section 3, https://arxiv.org/abs/1412.6980"""
    return dict(debias1=1-mom**step, debias2=1-sqr_mom**step)

def debiased_betas(step, mom:fraction, sqr_mom:fraction):
    """Decay rates with which averages lack nothing, because the zeros that they start at never count: `mom <- (mom - mom^t)/(1 - mom^t)`, `sqr_mom`
    likewise, so states are what `debias` makes of them. On the host, before the averages. As optimi and HeavyBall keep Adam's"""
    return dict(mom=debiased_beta(mom, step), sqr_mom=debiased_beta(sqr_mom, step))

def debiased_beta(beta, step): return (beta - beta**step)/(1 - beta**step)

def debias_sqr_avg(sqr_avg, debias2):
    "The second moment itself, debiased: `vhat = v/(1-sqr_mom^t)`"
    return dict(sqr_hat=sqr_avg/debias2)

def debias_mom3(step, mom3:fraction):
    "The same for a third average: `1 - mom3^t`"
    return dict(debias3=1-mom3**step)

def average_grad(grad, mom:fraction=0.9, dampening=True, grad_avg=zeros):
    """Running average of gradients, `m <- mom*m + (1-dampening)*g`. `dampening=True` means `mom`, the exponential average of Adam;
    0 the plain sum of Polyak's momentum; any number between is torch's SGD. https://arxiv.org/abs/1412.6980"""
    damp = mom if dampening is True else dampening
    return dict(grad_avg = average(grad_avg, grad, mom, damp))

def undamped_start(step, dampening):
    "No dampening at the first step, so the average starts at the gradient itself, as in torch's SGD"
    return dict(dampening = where(step==1, 0., dampening))

def average_sqr_grad(grad, sqr_mom:fraction=0.99, sqr_avg=zeros):
    "Exponential average of squared gradients, `v <- sqr_mom*v + (1-sqr_mom)*g^2`. Hinton 2012, RMSprop, lecture 6e"
    return dict(sqr_avg = (sqr_avg*sqr_mom).addcmul(grad, grad, value=1-sqr_mom))

def average_belief(grad, grad_avg, sqr_mom:fraction=0.999, eps:nonneg=1e-16, sqr_avg=zeros):
    """How far gradients are from their average, `s <- sqr_mom*s + (1-sqr_mom)*(g - m)^2 + eps`, instead of their squares.
    Zhuang et al. 2020, AdaBelief, https://arxiv.org/abs/2010.07468"""
    return dict(sqr_avg = average_sqr_grad(grad-grad_avg, sqr_mom, sqr_avg)['sqr_avg'] + eps)

def yogi_sqr_grad(grad, sqr_mom:fraction=0.999, sqr_avg=full(1e-6)):
    """Squared gradients, followed by steps that do not depend on how far away they are: `v <- v - (1-sqr_mom)*sign(v - g^2)*g^2`.
    Zaheer et al. 2018, https://papers.nips.cc/paper/8186-adaptive-methods-for-nonconvex-optimization"""
    sqr = grad*grad
    return dict(sqr_avg = sqr_avg.addcmul((sqr_avg-sqr).sign(), sqr, value=sqr_mom-1))

def average_sqr_norm(grad, sqr_mom:fraction=0.98, sqr_norm_avg=single(0.)):
    """One second moment for the whole tensor: `v <- sqr_mom*v + (1-sqr_mom)*|g|^2`. NovoGrad, Ginsburg et al. 2019,
    https://arxiv.org/abs/1905.11286"""
    return dict(sqr_norm_avg = average(sqr_norm_avg, (grad*grad).sum(), sqr_mom))

def sum_sqr_grad(grad, sqr_sum=zeros):
    "Sum of squared gradients, `s <- s + g^2`. Duchi et al. 2011, https://jmlr.org/papers/v12/duchi11a.html"
    return dict(sqr_sum = sqr_sum.addcmul(grad, grad))

def dual_averaging_sums(grad, weight, grad_sum=zeros, sqr_sum=zeros):
    """Weighted sums of gradients and of their squares, `s <- s + weight*g`, `v <- v + weight*g^2`.
    Defazio and Jelassi 2021, MADGRAD, https://arxiv.org/abs/2101.11075"""
    return dict(grad_sum = grad_sum.add(grad, alpha=weight), sqr_sum = sqr_sum.addcmul(grad, grad, value=weight))

def decayed_max_grad(grad, sqr_mom:fraction=0.999, eps:nonneg=1e-8, grad_max=zeros):
    """Largest gradient of late, `u <- max(sqr_mom*u, |g| + eps)`, the mean of p-th powers for p without end.
    Kingma and Ba 2015, section 7.1, https://arxiv.org/abs/1412.6980; `eps` as in torch"""
    return dict(grad_max = torch.maximum(grad_max*sqr_mom, grad.abs()+eps))

def max_sqr_grad(sqr_avg, max_sqr_avg=zeros):
    "Largest `v` so far, `vmax <- max(vmax, v)`. AMSGrad, Reddi et al. 2018, https://arxiv.org/abs/1904.09237"
    return dict(max_sqr_avg=torch.maximum(max_sqr_avg, sqr_avg))

def center_sqr_grad(grad_avg, sqr_avg):
    "Variance instead of second moment, `v - m^2`. Graves 2013, https://arxiv.org/abs/1308.0850, equation 40"
    return dict(grad_var = sqr_avg.addcmul(grad_avg, grad_avg, value=-1))

def grad_change(grad, step, prev_grad=zeros):
    "What the gradient has changed by since the step before: `d = g - g_prev`; nothing at the first step"
    return dict(change = where(step==1, 0., grad-prev_grad), prev_grad=grad)

def extrapolate_grad(grad, change, sqr_mom):
    "The gradient one step ahead, if it goes on as it has changed: `g + sqr_mom*d`. Xie et al. 2022, Adan, https://arxiv.org/abs/2208.06677"
    return dict(ahead = grad.add(change, alpha=sqr_mom))

def nadam_weights(step, mom:fraction, momentum_decay:nonneg=4e-3, mu_product=scalar(1.)):
    """Weights of `g` and of `m` one step ahead, `(1-mu_t)/(1-mu_1..mu_t)` and `mu_(t+1)/(1-mu_1..mu_(t+1))`, for a momentum that warms up,
    `mu_t = mom*(1 - 0.96^(t*momentum_decay)/2)`; with a `momentum_decay` of 1e6 it is `mom` from the start, as in optax. On the host. Dozat 2016,
    https://openreview.net/forum?id=OM0jvwB8jIp57ZJjtNEZ"""
    mu,mu_next = [mom*(1 - 0.5*0.96**(t*momentum_decay)) for t in (step,step+1)]
    prod = mu_product*mu
    return dict(mu_product=prod, grad_weight=(1-mu)/(1-prod), avg_weight=mu_next/(1-prod*mu_next))

def rectification_term(step, sqr_mom:fraction, debias2):
    """How far to trust `v` after so few gradients: `r_t = sqrt((rho-4)*(rho-2)*rho_inf / ((rho_inf-4)*(rho_inf-2)*rho))`, where `v` is as
    good as the mean of `rho` squares, in the end `rho_inf`; 0 while `rho <= 5`. On the host. Liu et al. 2020, https://arxiv.org/abs/1908.03265"""
    rho_inf = 2/(1-sqr_mom) - 1
    rho     = rho_inf - 2*step*sqr_mom**step/debias2
    trusted = rho>5
    rho,rho_inf = [where(trusted, x, 6.) for x in (rho, rho_inf)]                      # there may be no such root, or quotient
    return dict(rect = where(trusted, ((rho-4)*(rho-2)*rho_inf / ((rho_inf-4)*(rho_inf-2)*rho))**0.5, 0.))

def warmup_alpha(step, alpha:nonneg=5., alpha_warmup:positive=1.):
    """A weight that grows evenly for `alpha_warmup` steps: `alpha <- alpha*min(1, t/alpha_warmup)`. On the host.
    Pagliardini et al. 2024, https://arxiv.org/abs/2409.03137"""
    return dict(alpha = alpha*minimum(1., step/alpha_warmup))

def warmup_mom3(step, mom:fraction, mom3:fraction=0.9999, beta3_warmup:positive=1.):
    """An average that grows longer for `beta3_warmup` steps, evenly in its half-life: `1/log(mom3_t) = (1-x)/log(mom) + x/log(mom3)`, with
    `x = min(1, t/beta3_warmup)`. On the host. Pagliardini et al. 2024, https://arxiv.org/abs/2409.03137, in the form of their appendix"""
    if not mom or not mom3: return dict(mom3=mom3)
    short,long,done = math.log(mom),math.log(mom3),minimum(1., step/beta3_warmup)
    return dict(mom3 = where(done<1, math.e**(1/((1-done)/short + done/long)), mom3))

def skip_first_step(step, lr):
    "The first step only looks, and moves nothing: `lr <- 0`"
    return dict(lr = where(step==1, 0., lr))

def decayed_lr(step, lr, lr_decay:nonneg=0.):
    "A rate that falls with the steps of each parameter: `lr <- lr / (1 + (t-1)*lr_decay)`. On the host. As in torch's Adagrad"
    return dict(lr = lr/(1 + (step-1)*lr_decay))

def largest_lr(lr, lr_seen=scalar(0.)):
    "The largest rate so far, of a schedule for instance: `max_lr <- max(max_lr, lr)`. On the host"
    top = maximum(lr_seen, lr)
    return dict(lr_seen=top, max_lr=where(top>0, top, 1.))

def dual_averaging_weight(step, lr, eps:nonneg=1e-6):
    """The weight of the newest gradient in dual averaging, `weight = lr*sqrt(t)`, with `lr <- lr + eps`. On the host.
    Defazio and Jelassi 2021, MADGRAD, https://arxiv.org/abs/2101.11075; `eps` as in their code"""
    lr = where(lr>0, lr+eps, 0.)
    return dict(lr=lr, weight=lr*step**0.5)

def adabound_bounds(step, lr, final_lr:nonneg=0.1, gamma:positive=1e-3, first_lr=scalar(0.)):
    """Between what each element's factor must be, `low = f*(1 - 1/(gamma*t + 1))` and `high = f*(1 + 1/(gamma*t))`: both come to `final_lr`, for the
    first rate; when `lr` falls, it falls with it. On the host. Luo et al. 2019, AdaBound, https://arxiv.org/abs/1902.09843"""
    first = where(first_lr>0, first_lr, lr)
    final = final_lr/where(first>0, first, 1.)
    return dict(first_lr=first, low=final*(1 - 1/(gamma*step+1)), high=final*(1 + 1/(gamma*step)))

def asgd_rates(step, lr, lambd:nonneg=1e-4, alpha:nonneg=0.75, t0=1e6, eta=scalar(0.), mu=scalar(1.)):
    """The rate of averaged descent, `lr <- eta_t = lr / (1 + lambd*lr*(t-1))^alpha`, and the weight of the newest in the average,
    `avg_weight = 1/max(1, t-1-t0)`. On the host; kept a step ahead, as torch keeps them. Bottou 2012, section 5,
    https://leon.bottou.org/papers/bottou-tricks-2012"""
    return dict(lr = where(step==1, lr, eta), avg_weight = mu, eta = lr/(1 + lambd*lr*step)**alpha, mu = 1/maximum(1, step-t0))

def rprop_sizes(grad, lr, step, eta_minus:fraction=0.5, eta_plus:positive=1.2, min_step:nonneg=1e-6, max_step:nonneg=50.,
                prev_grad=zeros, step_size=zeros):
    """A step size for each element, from `lr` on: `s <- s*eta_plus if g*g_prev>0; s <- s*eta_minus, g <- 0 if g*g_prev<0`, by whether the gradient
    keeps its sign. Riedmiller and Braun 1993, https://doi.org/10.1109/ICNN.1993.298623, without going back, as in torch"""
    turn,size = grad*prev_grad,where(step==1, step_size+lr, step_size)
    size = torch.where(turn>0, size*eta_plus, torch.where(turn<0, size*eta_minus, size))
    grad = torch.where(turn<0, 0., grad)
    return dict(grad=grad, prev_grad=grad, step_size=size.clamp(min_step, max_step))

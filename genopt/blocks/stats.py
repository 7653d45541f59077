"""Statistics: what an algorithm remembers of the gradients it has seen. Simplest first; each keeps one state.

Shapes are those of the parameter `p` everywhere. Symbols of the papers: gradient g, decay rate beta (`mom`, `sqr_mom`),
first moment m (`grad_avg`), second moment v (`sqr_avg`), step t (`step`)."""

import torch
from ..core import count,fraction,nonneg,scalar,single,zeros

__all__ = ['step_stat', 'debias', 'debias_sqr_avg', 'average_grad', 'undamped_start', 'average_sqr_grad', 'max_sqr_grad', 'center_sqr_grad',
           'nesterov_debias', 'rectify', 'average_sqr_norm']


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

def debias_sqr_avg(sqr_avg, debias2):
    "The second moment itself, debiased: `vhat = v/(1-sqr_mom^t)`"
    return dict(sqr_hat=sqr_avg/debias2)

def average_grad(grad, mom:fraction=0.9, dampening=True, grad_avg=zeros):
    """Running average of gradients, `m <- mom*m + (1-dampening)*g`. `dampening=True` means `mom`, the exponential average of Adam;
    0 the plain sum of Polyak's momentum; any number between is torch's SGD. https://arxiv.org/abs/1412.6980"""
    damp = mom if dampening is True else dampening
    return dict(grad_avg = average(grad_avg, grad, mom, damp))

def undamped_start(step, dampening):
    "No dampening at the first step, so the average starts at the gradient itself, as in torch's SGD"
    return dict(dampening=0. if step==1 else dampening)

def average_sqr_grad(grad, sqr_mom:fraction=0.99, sqr_avg=zeros):
    "Exponential average of squared gradients, `v <- sqr_mom*v + (1-sqr_mom)*g^2`. Hinton 2012, RMSprop, lecture 6e"
    return dict(sqr_avg = (sqr_avg*sqr_mom).addcmul(grad, grad, value=1-sqr_mom))

def max_sqr_grad(sqr_avg, max_sqr_avg=zeros):
    "Largest `v` so far, `vmax <- max(vmax, v)`. AMSGrad, Reddi et al. 2018, https://arxiv.org/abs/1904.09237"
    return dict(max_sqr_avg=torch.maximum(max_sqr_avg, sqr_avg))

def center_sqr_grad(grad_avg, sqr_avg):
    "Variance instead of second moment, `v - m^2`. Graves 2013, https://arxiv.org/abs/1308.0850, equation 40"
    return dict(grad_var = sqr_avg.addcmul(grad_avg, grad_avg, value=-1))

def nesterov_debias(step, mom:fraction, momentum_decay:nonneg=4e-3, mu_product=scalar(1.)):
    """Weights of `g` and of `m` one step ahead, `(1-mu_t)/(1-mu_1..mu_t)` and `mu_(t+1)/(1-mu_1..mu_(t+1))`, for a momentum that warms up,
    `mu_t = mom*(1 - 0.96^(t*momentum_decay)/2)`. On the host. Dozat 2016, https://openreview.net/forum?id=OM0jvwB8jIp57ZJjtNEZ"""
    mu,mu_next = [mom*(1 - 0.5*0.96**(t*momentum_decay)) for t in (step,step+1)]
    prod = mu_product*mu
    return dict(mu_product=prod, grad_weight=(1-mu)/(1-prod), avg_weight=mu_next/(1-prod*mu_next))

def rectify(step, sqr_mom:fraction, debias2):
    """How far to trust `v` after so few gradients: `r_t = sqrt((rho-4)*(rho-2)*rho_inf / ((rho_inf-4)*(rho_inf-2)*rho))`, where `v` is as
    good as the mean of `rho` squares, in the end `rho_inf`; 0 while `rho <= 5`. On the host. Liu et al. 2020, https://arxiv.org/abs/1908.03265"""
    rho_inf = 2/(1-sqr_mom) - 1
    rho = rho_inf - 2*step*sqr_mom**step/debias2
    return dict(rect = ((rho-4)*(rho-2)*rho_inf / ((rho_inf-4)*(rho_inf-2)*rho))**0.5 if rho>5 else 0.)

def average_sqr_norm(grad, sqr_mom:fraction=0.98, sqr_norm_avg=single(0.)):
    """One second moment for the whole tensor: `v <- sqr_mom*v + (1-sqr_mom)*|g|^2`. NovoGrad, Ginsburg et al. 2019,
    https://arxiv.org/abs/1905.11286"""
    return dict(sqr_norm_avg = (sqr_norm_avg*sqr_mom).add((grad*grad).sum(), alpha=1-sqr_mom))

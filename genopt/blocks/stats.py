"""Statistics: what an algorithm remembers of the gradients, and numbers that follow from the step. From simple to complex.

Symbols: parameter p, gradient g, decay rates beta1 (`mom`) and beta2 (`sqr_mom`), first moment m (`grad_avg`), second moment v (`sqr_avg`), step t
(`step`), learning rate `lr`. `x <- y` sets x to y, and `|x|` is the Euclidean norm of a tensor. "State" names what a block remembers of each
parameter: "like p" is a tensor of the shape of p, "0-dim" a tensor without dimensions, "a number" a Python number. "On the host" means that a block
computes with Python numbers, in double precision."""

import math,torch
from ..contract import count,fraction,full,maximum,minimum,nonneg,positive,scalar,scalar_tensor,where,zeros

__all__ = ['step_stat', 'debias', 'debiased_betas', 'debias_mom3', 'debias_sqr_avg', 'average_grad', 'undamped_start', 'average_sqr_grad',
           'average_belief', 'yogi_sqr_grad', 'average_sqr_norm', 'sum_sqr_grad', 'dual_averaging_sums', 'decayed_max_grad', 'max_sqr_grad',
           'center_sqr_grad', 'grad_change', 'extrapolate_grad', 'nadam_weights', 'rectification_term', 'warmup_alpha', 'warmup_mom3',
           'skip_first_step', 'decayed_lr', 'largest_lr', 'dual_averaging_weight', 'adabound_bounds', 'asgd_rates', 'rprop_sizes']


def average(avg, x, mom, damp=None):
    """The formula of all running averages: `mom*avg + (1-damp)*x`. `damp=None` stands for `mom`. The operations are in torch's order, for equal
    rounding"""
    return (avg*mom).add(x, alpha=1-(mom if damp is None else damp))

def step_stat(step=count):
    "Counts the steps of each parameter: `t <- t + 1`. At the first step t is 1. State: `step`, a number."
    return dict(step=step+1)

def debias(step, mom:fraction, sqr_mom:fraction):
    """Computes Adam's bias corrections, `1 - mom^t` and `1 - sqr_mom^t`. An average that starts at zero is too small by this factor, so a step
    divides by it. On the host. Kingma and Ba 2015, section 3, https://arxiv.org/abs/1412.6980"""
    return dict(debias1=1-mom**step, debias2=1-sqr_mom**step)

def debiased_betas(step, mom:fraction, sqr_mom:fraction):
    """Replaces the decay rates so that the averages need no bias correction: `mom <- (mom - mom^t)/(1 - mom^t)`, and `sqr_mom` likewise. It comes
    before the averages, which then equal the debiased ones. On the host. optimi and HeavyBall keep Adam's averages in this way."""
    return dict(mom=debiased_beta(mom, step), sqr_mom=debiased_beta(sqr_mom, step))

def debiased_beta(beta, step): return (beta - beta**step)/(1 - beta**step)

def debias_sqr_avg(sqr_avg, debias2):
    "Divides the second moment by its bias correction: `vhat = v/(1-sqr_mom^t)`. Kingma and Ba 2015, section 3, https://arxiv.org/abs/1412.6980"
    return dict(sqr_hat=sqr_avg/debias2)

def debias_mom3(step, mom3:fraction):
    "Computes the bias correction of a third average: `1 - mom3^t`. On the host."
    return dict(debias3=1-mom3**step)

def average_grad(grad, mom:fraction=0.9, dampening=True, grad_avg=zeros):
    """Keeps a running average of the gradients: `m <- mom*m + (1-dampening)*g`. `dampening=True` stands for `mom`, and gives Adam's exponential
    average. `dampening=0` gives the sum of Polyak's momentum, any other number the average of torch.optim.SGD. State: `grad_avg`, like p. Kingma and
    Ba 2015, https://arxiv.org/abs/1412.6980"""
    damp = mom if dampening is True else dampening
    return dict(grad_avg = average(grad_avg, grad, mom, damp))

def undamped_start(step, dampening):
    "Turns dampening off at the first step, so that the average starts at the gradient itself. As torch.optim.SGD."
    return dict(dampening = where(step==1, 0., dampening))

def average_sqr_grad(grad, sqr_mom:fraction=0.99, sqr_avg=zeros):
    """Keeps an exponential average of the squared gradients: `v <- sqr_mom*v + (1-sqr_mom)*g^2`. State: `sqr_avg`, like p. RMSprop, Hinton 2012,
    lecture 6e, http://www.cs.toronto.edu/~tijmen/csc321/slides/lecture_slides_lec6.pdf"""
    return dict(sqr_avg = (sqr_avg*sqr_mom).addcmul(grad, grad, value=1-sqr_mom))

def average_belief(grad, grad_avg, sqr_mom:fraction=0.999, eps:nonneg=1e-16, sqr_avg=zeros):
    """Keeps an exponential average of the squared distance of gradients from their average: `s <- sqr_mom*s + (1-sqr_mom)*(g - m)^2 + eps`. It takes
    the place of the second moment. State: `sqr_avg`, like p. AdaBelief, Zhuang et al. 2020, https://arxiv.org/abs/2010.07468"""
    return dict(sqr_avg = average_sqr_grad(grad-grad_avg, sqr_mom, sqr_avg)['sqr_avg'] + eps)

def yogi_sqr_grad(grad, sqr_mom:fraction=0.999, sqr_avg=full(1e-6)):
    """Moves the second moment towards the squared gradient, by an amount that does not depend on their distance: `v <- v - (1-sqr_mom)*sign(v -
    g^2)*g^2`. State: `sqr_avg`, like p, 1e-6 at first. Yogi, Zaheer et al. 2018,
    https://papers.nips.cc/paper/8186-adaptive-methods-for-nonconvex-optimization"""
    sqr = grad*grad
    return dict(sqr_avg = sqr_avg.addcmul((sqr_avg-sqr).sign(), sqr, value=sqr_mom-1))

def average_sqr_norm(grad, sqr_mom:fraction=0.98, sqr_norm_avg=scalar_tensor(0.)):
    """Keeps one second moment for the whole tensor: `v <- sqr_mom*v + (1-sqr_mom)*|g|^2`. State: `sqr_norm_avg`, 0-dim. NovoGrad, Ginsburg et al.
    2019, https://arxiv.org/abs/1905.11286"""
    return dict(sqr_norm_avg = average(sqr_norm_avg, (grad*grad).sum(), sqr_mom))

def sum_sqr_grad(grad, sqr_sum=zeros):
    "Sums the squared gradients: `s <- s + g^2`. State: `sqr_sum`, like p. Adagrad, Duchi et al. 2011, https://jmlr.org/papers/v12/duchi11a.html"
    return dict(sqr_sum = sqr_sum.addcmul(grad, grad))

def dual_averaging_sums(grad, weight, grad_sum=zeros, sqr_sum=zeros):
    """Sums the gradients and their squares, with a weight for each step: `s <- s + weight*g`, `v <- v + weight*g^2`. `dual_averaging_weight` computes
    the weight. State: `grad_sum` and `sqr_sum`, like p. MADGRAD, Defazio and Jelassi 2021, https://arxiv.org/abs/2101.11075"""
    return dict(grad_sum = grad_sum.add(grad, alpha=weight), sqr_sum = sqr_sum.addcmul(grad, grad, value=weight))

def decayed_max_grad(grad, sqr_mom:fraction=0.999, eps:nonneg=1e-8, grad_max=zeros):
    """Keeps a decaying maximum of the gradient's magnitude: `u <- max(sqr_mom*u, |g| + eps)`. The paper derives it as the infinity norm of past
    gradients. `eps` is where torch has it. State: `grad_max`, like p. Adamax, Kingma and Ba 2015, section 7.1, https://arxiv.org/abs/1412.6980"""
    return dict(grad_max = torch.maximum(grad_max*sqr_mom, grad.abs()+eps))

def max_sqr_grad(sqr_avg, max_sqr_avg=zeros):
    """Keeps the largest second moment so far: `vmax <- max(vmax, v)`. State: `max_sqr_avg`, like p. AMSGrad, Reddi et al. 2018,
    https://arxiv.org/abs/1904.09237"""
    return dict(max_sqr_avg=torch.maximum(max_sqr_avg, sqr_avg))

def center_sqr_grad(grad_avg, sqr_avg):
    "Computes the variance of the gradients from both moments: `v - m^2`. Graves 2013, https://arxiv.org/abs/1308.0850, equation 40"
    return dict(grad_var = sqr_avg.addcmul(grad_avg, grad_avg, value=-1))

def grad_change(grad, step, prev_grad=zeros):
    """Computes the change of the gradient since the last step: `d = g - g_prev`. At the first step it is 0. State: `prev_grad`, like p. Adan, Xie et
    al. 2022, https://arxiv.org/abs/2208.06677"""
    return dict(change = where(step==1, 0., grad-prev_grad), prev_grad=grad)

def extrapolate_grad(grad, change, sqr_mom):
    """Extrapolates the gradient to the next step, by its last change: `g + sqr_mom*d`. `grad_change` computes `d`. Adan, Xie et al. 2022,
    https://arxiv.org/abs/2208.06677"""
    return dict(ahead = grad.add(change, alpha=sqr_mom))

def nadam_weights(step, mom:fraction, momentum_decay:nonneg=4e-3, mu_product=scalar(1.)):
    """Computes the weights of g and of m in NAdam's step, `(1-mu_t)/(1-mu_1..mu_t)` and `mu_(t+1)/(1-mu_1..mu_(t+1))`. The momentum warms up: `mu_t =
    mom*(1 - 0.96^(t*momentum_decay)/2)`. `momentum_decay=1e6` gives `mom` from the start, as optax does. On the host. State: `mu_product`, a number.
    Dozat 2016, https://openreview.net/forum?id=OM0jvwB8jIp57ZJjtNEZ"""
    mu,mu_next = [mom*(1 - 0.5*0.96**(t*momentum_decay)) for t in (step,step+1)]
    prod = mu_product*mu
    return dict(mu_product=prod, grad_weight=(1-mu)/(1-prod), avg_weight=mu_next/(1-prod*mu_next))

def rectification_term(step, sqr_mom:fraction, debias2):
    """Computes RAdam's rectification term: `r_t = sqrt((rho-4)*(rho-2)*rho_inf / ((rho_inf-4)*(rho_inf-2)*rho))`. It is 0 while `rho <= 5`. v is as
    reliable as the mean of `rho` squares, and `rho` tends to `rho_inf`. On the host. Liu et al. 2020, https://arxiv.org/abs/1908.03265"""
    rho_inf = 2/(1-sqr_mom) - 1
    rho     = rho_inf - 2*step*sqr_mom**step/debias2
    trusted = rho>5
    rho,rho_inf = [where(trusted, x, 6.) for x in (rho, rho_inf)]                      # 6 stands where the root below does not exist
    return dict(rect = where(trusted, ((rho-4)*(rho-2)*rho_inf / ((rho_inf-4)*(rho_inf-2)*rho))**0.5, 0.))

def warmup_alpha(step, alpha:nonneg=5., alpha_warmup:positive=1.):
    """Raises `alpha` linearly over the first steps: `alpha <- alpha*min(1, t/alpha_warmup)`. On the host. AdEMAMix, Pagliardini et al. 2024,
    https://arxiv.org/abs/2409.03137"""
    return dict(alpha = alpha*minimum(1., step/alpha_warmup))

def warmup_mom3(step, mom:fraction, mom3:fraction=0.9999, beta3_warmup:positive=1.):
    """Raises the decay rate `mom3` over the first steps, so that the average's half-life grows linearly: `1/log(mom3_t) = (1-x)/log(mom) +
    x/log(mom3)`. Here `x = min(1, t/beta3_warmup)`. On the host. AdEMAMix, Pagliardini et al. 2024, https://arxiv.org/abs/2409.03137, in the form of
    the appendix"""
    if not mom or not mom3: return dict(mom3=mom3)
    short,long,done = math.log(mom),math.log(mom3),minimum(1., step/beta3_warmup)
    return dict(mom3 = where(done<1, math.e**(1/((1-done)/short + done/long)), mom3))

def skip_first_step(step, lr):
    """Makes no move at the first step, which only starts the statistics: `lr <- 0`. On the host. ADOPT, Taniguchi et al. 2024,
    https://arxiv.org/abs/2411.02853"""
    return dict(lr = where(step==1, 0., lr))

def decayed_lr(step, lr, lr_decay:nonneg=0.):
    "Lowers the learning rate with the steps of each parameter: `lr <- lr / (1 + (t-1)*lr_decay)`. On the host. As torch.optim.Adagrad."
    return dict(lr = lr/(1 + (step-1)*lr_decay))

def largest_lr(lr, lr_seen=scalar(0.)):
    """Remembers the largest learning rate so far, such as the peak of a schedule: `max_lr <- max(max_lr, lr)`. On the host. State: `lr_seen`, a
    number."""
    top = maximum(lr_seen, lr)
    return dict(lr_seen=top, max_lr=where(top>0, top, 1.))

def dual_averaging_weight(step, lr, eps:nonneg=1e-6):
    """Computes the weight of this step's gradient in dual averaging, `weight = lr*sqrt(t)`, after `lr <- lr + eps`. A learning rate of 0 stays 0.
    `eps` is where the authors' code has it. On the host. MADGRAD, Defazio and Jelassi 2021, https://arxiv.org/abs/2101.11075"""
    lr = where(lr>0, lr+eps, 0.)
    return dict(lr=lr, weight=lr*step**0.5)

def adabound_bounds(step, lr, final_lr:nonneg=0.1, gamma:positive=1e-3, first_lr=scalar(0.)):
    """Computes the bounds of AdaBound's factor for each element: `low = f*(1 - 1/(gamma*t + 1))` and `high = f*(1 + 1/(gamma*t))`. Both tend to `f =
    final_lr/first_lr`, so the rate of each element, `lr` times the factor, tends to `final_lr` and follows a schedule of `lr`. On the host. State:
    `first_lr`, a number. Luo et al. 2019, https://arxiv.org/abs/1902.09843"""
    first = where(first_lr>0, first_lr, lr)
    final = final_lr/where(first>0, first, 1.)
    return dict(first_lr=first, low=final*(1 - 1/(gamma*step+1)), high=final*(1 + 1/(gamma*step)))

def asgd_rates(step, lr, lambd:nonneg=1e-4, alpha:nonneg=0.75, t0=1e6, eta=scalar(0.), mu=scalar(1.)):
    """Computes the learning rate of averaged SGD, `lr <- eta_t = lr / (1 + lambd*lr*(t-1))^alpha`, and the weight of the newest parameter in the
    average, `avg_weight = 1/max(1, t-1-t0)`. On the host. State: `eta` and `mu`, numbers, one step ahead as in torch. Bottou 2012, section 5,
    https://leon.bottou.org/papers/bottou-tricks-2012"""
    return dict(lr = where(step==1, lr, eta), avg_weight = mu, eta = lr/(1 + lambd*lr*step)**alpha, mu = 1/maximum(1, step-t0))

def rprop_sizes(grad, lr, step, eta_minus:fraction=0.5, eta_plus:positive=1.2, min_step:nonneg=1e-6, max_step:nonneg=50.,
                prev_grad=zeros, step_size=zeros):
    """Adapts a step size for each element to the sign of its gradient: `s <- s*eta_plus if g*g_prev>0; s <- s*eta_minus, g <- 0 if g*g_prev<0`. The
    sizes start at `lr`, and stay between `min_step` and `max_step`. State: `prev_grad` and `step_size`, like p. Rprop, Riedmiller and Braun 1993,
    https://doi.org/10.1109/ICNN.1993.298623, without backtracking, as in torch"""
    turn,size = grad*prev_grad,where(step==1, step_size+lr, step_size)
    size = torch.where(turn>0, size*eta_plus, torch.where(turn<0, size*eta_minus, size))
    grad = torch.where(turn<0, 0., grad)
    return dict(grad=grad, prev_grad=grad, step_size=size.clamp(min_step, max_step))

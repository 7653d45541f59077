"""Moves: blocks that make the move themselves, or change the parameter after it, `new_p`. From simple to complex.

Symbols as in `stats`. Blocks with `eval_p` keep weights for evaluation: `opt.eval()` puts them into the model, `opt.train()` takes them out."""

import torch
from ..contract import Range,copy_of_p,count,fraction,maximum,nonneg,positive,scalar,where

__all__ = ['proximal_decay', 'decay_after', 'fromage_rescale', 'langevin_noise', 'lookahead', 'polyak_average', 'ema_weights', 'polynomial_average',
           'warmup_lr', 'schedule_free_weight', 'schedule_free_move', 'schedule_free_eval']


def proximal_decay(new_p, lr, wd:nonneg=0.):
    "Shrinks the parameter after the move: `p <- p/(1 + lr*wd)`. Adan, Xie et al. 2022, https://arxiv.org/abs/2208.06677"
    return dict(new_p = new_p/(1+lr*wd))

def decay_after(p, new_p, lr, wd:nonneg=0.):
    """Shrinks the parameter after the move, in proportion to its value before: `p <- p - lr*wd*p_before`. For blocks that make the move themselves.
    MADGRAD, Defazio and Jelassi 2021, https://arxiv.org/abs/2101.11075"""
    return dict(new_p = new_p.add(p, alpha=-lr*wd))

def fromage_rescale(new_p, lr):
    """Restores the norm of the parameter after a step of relative length lr: `p <- p / sqrt(1 + lr^2)`. The norm is exact if the step is orthogonal
    to the parameter. Fromage, Bernstein et al. 2020, https://arxiv.org/abs/2002.03432"""
    return dict(new_p = new_p/(1+lr*lr)**0.5)

def langevin_noise(new_p, lr, temperature:nonneg=1.):
    """Adds Gaussian noise to the parameter after the move: `p <- p + sqrt(2*lr*temperature)*N(0,1)`. Behind SGD this is stochastic gradient Langevin
    dynamics: weights become samples of `exp(-loss/temperature)`. If the loss is a mean over N examples, the posterior has `temperature=1/N`.
    `torch.manual_seed` determines the noise: copies of a model, as under DDP, need the same seed. Welling and Teh 2011,
    https://www.stats.ox.ac.uk/~teh/research/compstats/WelTeh2011a.pdf, with `lr` for half of its step size"""
    return dict(new_p = new_p.add(torch.randn_like(new_p), alpha=(2*lr*temperature)**0.5))

def lookahead(new_p, alpha:Range('[0,1]')=0.5, k:positive=6, slow_p=copy_of_p, fast_steps=count):
    """Moves slow weights towards the parameter every `k` steps, and continues from there: `s <- s + alpha*(p - s); p <- s`. It comes after any
    algorithm. State: `slow_p`, like p, and `fast_steps`, a number. Zhang et al. 2019, https://arxiv.org/abs/1907.08610"""
    fast_steps = (fast_steps+1) % k
    slow_p = where(fast_steps==0, slow_p.add(new_p-slow_p, alpha=alpha), slow_p)
    return dict(new_p=where(fast_steps==0, slow_p, new_p), slow_p=slow_p, fast_steps=fast_steps)

def polyak_average(new_p, avg_weight, eval_p=copy_of_p):
    """Averages the weights, for evaluation: `a <- a + avg_weight*(p - a)`. The weight `1/t` gives the mean of all steps. State: `eval_p`, like p.
    Polyak and Juditsky 1992, https://doi.org/10.1137/0330046"""
    return dict(eval_p = eval_p.lerp(new_p, avg_weight))

def ema_weights(new_p, decay:fraction=0.999, eval_p=copy_of_p):
    """Keeps an exponential average of the weights, for evaluation: `a <- decay*a + (1-decay)*p`. State: `eval_p`, like p. Tarvainen and Valpola 2017,
    https://arxiv.org/abs/1703.01780"""
    return polyak_average(new_p, 1-decay, eval_p)

def polynomial_average(new_p, step, gamma:nonneg=8., eval_p=copy_of_p):
    """Keeps an average that forgets the early weights, for evaluation: `a <- a + (1+gamma)/(t+gamma) * (p - a)`. State: `eval_p`, like p.
    Polynomial-decay averaging, Shamir and Zhang 2013, https://arxiv.org/abs/1212.1824"""
    return polyak_average(new_p, (1+gamma)/(step+gamma), eval_p)

def warmup_lr(step, lr, warmup_steps:nonneg=0):
    "Raises the learning rate linearly over the first steps: `lr <- lr*min(1, t/warmup_steps)`. On the host."
    return dict(lr = where(step<warmup_steps, lr*step/(warmup_steps or 1), lr))

def schedule_free_weight(step, lr, r:nonneg=0., weight_lr_power:nonneg=2., lr_max=scalar(0.), weight_sum=scalar(0.)):
    """Computes the weight of this step in the average: `c = w_t/(w_1+..+w_t)` with `w_t = t^r * lr_max^weight_lr_power`. On the host. State: `lr_max`
    and `weight_sum`, numbers. Defazio et al. 2024, https://arxiv.org/abs/2405.15682"""
    lr_max = maximum(lr, lr_max)
    weight = step**r * lr_max**weight_lr_power
    total  = weight_sum+weight
    return dict(lr_max=lr_max, weight_sum=total, avg_weight=weight/where(total>0, total, 1.))

def schedule_free_move(p, update, lr, avg_weight, mom:Range('(0,1)')=0.9, z=copy_of_p):
    """Makes the move that needs no schedule: `z <- z - lr*u; x <- (1-c)*x + c*z; y = mom*x + (1-mom)*z`. The parameter is `y`, and `c` is
    `avg_weight`. `x` is not stored, because it follows from `y` and `z`. Without it the move is `y <- y + c*(z - y) + lr*(mom*(1-c) - 1)*u`, with the
    old `z`. State: `z`, like p. Defazio et al. 2024, https://arxiv.org/abs/2405.15682"""
    return dict(new_p=p.add(z-p, alpha=avg_weight).add(update, alpha=lr*(mom*(1-avg_weight)-1)), z=z.sub(update, alpha=lr))

def schedule_free_eval(p, z, mom):
    "Computes the average of the weights, for evaluation: `x = y + (1-1/mom)*(z-y)`. Defazio et al. 2024, https://arxiv.org/abs/2405.15682"
    return dict(eval_p=p.add(z-p, alpha=1-1/mom))

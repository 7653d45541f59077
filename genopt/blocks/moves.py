"""Around the move: what makes it in its own way, or looks at the parameter after it, `new_p`. Simplest first.

With `eval_p`, the weights to evaluate, come `opt.eval()` and `opt.train()`."""

from ..contract import Range,copy_of_p,count,fraction,maximum,nonneg,positive,scalar,where

__all__ = ['proximal_decay', 'decay_after', 'fromage_rescale', 'lookahead', 'polyak_average', 'ema_weights', 'polynomial_average', 'warmup_lr',
           'schedule_free_weight', 'schedule_free_move', 'schedule_free_eval']


def proximal_decay(new_p, lr, wd:nonneg=0.):
    "Shrink the parameter after it has moved: `p <- p/(1 + lr*wd)`. Xie et al. 2022, Adan, https://arxiv.org/abs/2208.06677"
    return dict(new_p = new_p/(1+lr*wd))

def decay_after(p, new_p, lr, wd:nonneg=0.):
    "Shrink by what the parameter was before, after it has moved: `p <- p - lr*wd*p_before`. For moves that are no step by `lr`"
    return dict(new_p = new_p.add(p, alpha=-lr*wd))

def fromage_rescale(new_p, lr):
    "The length from before: `p <- p / sqrt(1 + lr^2)`, after a step of length lr*|p| at a right angle. Fromage, https://arxiv.org/abs/2002.03432"
    return dict(new_p = new_p/(1+lr*lr)**0.5)

def lookahead(new_p, alpha:Range('[0,1]')=0.5, k:positive=6, slow_p=copy_of_p, fast_steps=count):
    """Slow weights s that follow every `k` steps, and from which the fast ones go on: `s <- s + alpha*(p - s); p <- s`. Behind any algorithm.
    Zhang et al. 2019, https://arxiv.org/abs/1907.08610"""
    fast_steps = (fast_steps+1) % k
    slow_p = where(fast_steps==0, slow_p.add(new_p-slow_p, alpha=alpha), slow_p)
    return dict(new_p=where(fast_steps==0, slow_p, new_p), slow_p=slow_p, fast_steps=fast_steps)

def polyak_average(new_p, avg_weight, eval_p=copy_of_p):
    """An average of the weights, to evaluate: `a <- a + avg_weight*(p - a)`. With the weight `1/t` it is the mean of all.
    Polyak and Juditsky 1992, https://doi.org/10.1137/0330046"""
    return dict(eval_p = eval_p.lerp(new_p, avg_weight))

def ema_weights(new_p, decay:fraction=0.999, eval_p=copy_of_p):
    """An exponential average of the weights, to evaluate: `a <- decay*a + (1-decay)*p`. Tarvainen and Valpola 2017,
    https://arxiv.org/abs/1703.01780"""
    return polyak_average(new_p, 1-decay, eval_p)

def polynomial_average(new_p, step, gamma:nonneg=8., eval_p=copy_of_p):
    """An average that forgets the early weights, to evaluate: `a <- a + (1+gamma)/(t+gamma) * (p - a)`.
    Shamir and Zhang 2013, https://arxiv.org/abs/1212.1824"""
    return polyak_average(new_p, (1+gamma)/(step+gamma), eval_p)

def warmup_lr(step, lr, warmup_steps:nonneg=0):
    "The rate rises over the first steps: `lr <- lr*min(1, t/warmup_steps)`"
    return dict(lr = where(step<warmup_steps, lr*step/(warmup_steps or 1), lr))

def schedule_free_weight(step, lr, r:nonneg=0., weight_lr_power:nonneg=2., lr_max=scalar(0.), weight_sum=scalar(0.)):
    "How much a step counts in the average, `c = w_t/(w_1+..+w_t)` with `w_t = t^r * lr_max^weight_lr_power`. Defazio et al. 2024, https://arxiv.org/abs/2405.15682"
    lr_max = maximum(lr, lr_max)
    weight = step**r * lr_max**weight_lr_power
    total  = weight_sum+weight
    return dict(lr_max=lr_max, weight_sum=total, avg_weight=weight/where(total>0, total, 1.))

def schedule_free_move(p, update, lr, avg_weight, mom:Range('(0,1)')=0.9, z=copy_of_p):
    """The move without a schedule: `z <- z - lr*u; x <- (1-c)*x + c*z; y = mom*x + (1-mom)*z`, of which the parameter is `y`, and `x` follows from
    `y` and `z`. Defazio et al. 2024, https://arxiv.org/abs/2405.15682"""
    return dict(new_p=p.add(z-p, alpha=avg_weight).add(update, alpha=lr*(mom*(1-avg_weight)-1)), z=z.sub(update, alpha=lr))

def schedule_free_eval(p, z, mom):
    "The average, `x = y + (1-1/mom)*(z-y)`, to evaluate. https://arxiv.org/abs/2405.15682"
    return dict(eval_p=p.add(z-p, alpha=1-1/mom))

"""Evaluations: blocks that evaluate the model at other values of the parameters (`evaluate`), or ask for products with its Hessian (`hvp`). From
simple to complex.

They need `opt.step(closure)`. The closure clears the gradients, computes the loss, calls backward and returns the loss. A block that asks the model
runs once, over all parameters. Symbols as in `stats`; x is the parameter, f the loss, H its Hessian, h the diagonal of H."""

import torch
from .._torch import strong_wolfe
from ..contract import Range,count,fraction,history,nonneg,positive,scalar,zeros
from .stats import average

__all__ = ['polyak_rate', 'sharpness_aware', 'hutchinson', 'spatial_average', 'average_curvature', 'average_sqr_curvature', 'adahessian_step',
           'sophia_step', 'lbfgs_step']


def polyak_rate(grads, loss, lr, f_min=0., eps:nonneg=1e-8, max_lr:Range('(0,inf]')=1.):
    """Sets the learning rate by the distance of the loss from its known minimum: `lr <- lr*min(max_lr, (f - f_min)/(|all g|^2 + eps))`. Stochastic
    Polyak step size, Loizou et al. 2021, https://arxiv.org/abs/2002.10542"""
    sqr_norm = torch.stack([g.square().sum() for g in grads]).sum()
    return dict(lr=lr*((loss-f_min)/(sqr_norm+eps)).clamp(max=max_lr))

def sharpness_aware(params, grads, evaluate, rho:nonneg=0.05, adaptive=False, eta:nonneg=0.):
    """Takes the gradient from the nearby point where the loss is about highest: `g <- g(x + rho*T^2*g/|T*g|)`. The norm is over all parameters. `T`
    is 1, or `|x| + eta` if `adaptive`. SAM, Foret et al. 2021, https://arxiv.org/abs/2010.01412; ASAM, Kwon et al. 2021,
    https://arxiv.org/abs/2102.11600"""
    scaled = [g*(p.abs()+eta) if adaptive else g for p,g in zip(params, grads)]
    scale  = rho/(torch.stack([s.norm() for s in scaled]).norm() + 1e-12)
    return dict(grads=evaluate([p + s*((p.abs()+eta)*scale if adaptive else scale) for p,s in zip(params, scaled)])[1])

def hutchinson(params, hvp, steps, update_period:Range('[1,inf)')=1, distribution='rademacher', n_samples:Range('[1,inf)')=1):
    """Estimates the diagonal of the Hessian: `h = mean of z*(H z)` over `n_samples` random vectors z. `distribution` draws z: signs for
    `'rademacher'`, normal numbers for `'gaussian'`. There is a new estimate every `update_period` steps; `fresh` tells when. The closure must call
    `loss.backward(create_graph=True)`. `torch.manual_seed` determines the vectors: copies of a model, as under DDP, need the same seed. Hutchinson
    1989; Yao et al. 2021, https://arxiv.org/abs/2006.00719"""
    if distribution not in ('rademacher', 'gaussian'): raise ValueError(f"distribution must be 'rademacher' or 'gaussian', got {distribution!r}")
    total,fresh = [torch.zeros_like(p) for p in params],(max(steps)-1)%update_period==0
    for _ in range(int(n_samples) if fresh else 0):
        zs    = [torch.randint_like(p, 0, 2)*2-1 if distribution=='rademacher' else torch.randn_like(p) for p in params]
        total = [t.addcmul(z, h, value=1/n_samples) for t,z,h in zip(total, zs, hvp(zs))]
    return dict(curvatures=total, fresh=fresh)

def spatial_average(curvature):
    """Averages the size of the estimate over each kernel of a convolution. The paper averages the estimate itself, in which signs cancel. The
    authors' code does as here. AdaHessian, Yao et al. 2021, https://arxiv.org/abs/2006.00719, section 3.2"""
    return dict(curvature=curvature.abs().mean((2,3), keepdim=True).expand_as(curvature).contiguous() if curvature.ndim==4 else curvature)

def average_curvature(curvature, fresh, sqr_mom:fraction=0.99, curvature_avg=zeros):
    """Keeps an exponential average of the Hessian's diagonal: `h <- sqr_mom*h + (1-sqr_mom)*h_new`. It changes only when there is a new estimate.
    State: `curvature_avg`, like p. Sophia, Liu et al. 2024, https://arxiv.org/abs/2305.14342"""
    return dict(curvature_avg=average(curvature_avg, curvature, sqr_mom) if fresh else curvature_avg)

def average_sqr_curvature(curvature, fresh, sqr_mom:fraction=0.999, sqr_avg=zeros):
    """Keeps an exponential average of the squared diagonal of the Hessian: `v <- sqr_mom*v + (1-sqr_mom)*h^2`. It changes only when there is a new
    estimate. State: `sqr_avg`, like p. AdaHessian, Yao et al. 2021, https://arxiv.org/abs/2006.00719"""
    return dict(sqr_avg=average(sqr_avg, curvature.square(), sqr_mom) if fresh else sqr_avg)

def adahessian_step(grad_avg, sqr_avg, debias1, debias2, hessian_power:Range('(0,1]')=1., eps:nonneg=1e-8):
    """Takes Adam's step with the second moment of the Hessian's diagonal: `m/(1-mom^t) / ((v/(1-sqr_mom^t))^(hessian_power/2) + eps)`. AdaHessian,
    Yao et al. 2021, https://arxiv.org/abs/2006.00719"""
    return (grad_avg/debias1) / ((sqr_avg/debias2)**(hessian_power/2) + eps)

def sophia_step(grad_avg, curvature_avg, rho:positive=0.04, eps:nonneg=1e-12):
    "Takes Newton's step for each element, and clips it: `clip(m / max(rho*h, eps), 1)`. Sophia, Liu et al. 2024, https://arxiv.org/abs/2305.14342"
    return (grad_avg/(curvature_avg*rho).clamp(min=eps)).clamp(-1, 1)


# -- L-BFGS --

def flat(xs): return torch.cat([x.reshape(-1) for x in xs])
def parts(v, like): return [x.reshape(p.shape) for x,p in zip(v.split([p.numel() for p in like]), like)]

def remembered(hists, n, params, rested):
    "The last `n` vectors of a history, oldest first. Zeros stand for a parameter that `rested`, and for one whose own history is shorter"
    def member(p, hist, rests, i): return torch.zeros_like(p) if rests or len(hist)<-i else hist[i]
    return [flat([member(*of_p, i) for of_p in zip(params, hists, rested)]) for i in range(-n, 0)]

def to_remember(vectors, params, hists):
    "The history of each parameter that holds these `vectors`. If there are none, the old `hists`"
    return [torch.stack(rows) for rows in zip(*(parts(v, params) for v in vectors))] if vectors else hists

def pair(y, s): return y,s,y.dot(s).reciprocal()

def with_pair(pairs, h_diag, y, s, size):
    "The last `size` pairs, with `y` and `s` at the end, and `y's / y'y`, the scale of H. If the curvature `y's` is not positive, all as it was"
    if not (y_s := y.dot(s))>1e-10: return pairs,h_diag
    return [*pairs, pair(y, s)][-size:],(y_s/y.dot(y)).item()

def two_loops(grad, pairs, h_diag):
    """The direction `-H*g` by the two-loop recursion. The inverse Hessian `H` starts at `h_diag`, and fits the differences of gradients, `y`, and of
    parameters, `s`, in `pairs`; `rho = 1/y's`. Nocedal and Wright 2006, algorithm 7.4"""
    q,alphas = grad.neg(),[]
    for y,s,rho in reversed(pairs):
        alphas.append(s.dot(q)*rho)
        q = q.add(y, alpha=-alphas[-1].item())
    r = q*h_diag
    for (y,s,rho),alpha in zip(pairs, reversed(alphas)): r = r.add(s, alpha=(alpha - y.dot(r)*rho).item())
    return r

def wolfe(at, x, d, t, f, g, left):
    "A length that meets the strong Wolfe conditions along `d`, searched from `t`; loss and gradient there; and how many evaluations are `left`"
    f,g,t,n = strong_wolfe(lambda x, t, d: at(x.add(d, alpha=float(t))), x, t, d, f, g, g.dot(d), max_ls=left)
    return float(t),f,g,left-n

def lbfgs_step(params, grads, loss, evaluate, lr, max_iter, max_eval, tolerance_grad:nonneg, tolerance_change:nonneg, line_search_fn, history_size,
               directions=zeros, last_grads=zeros, y_hists=history(100), s_hists=history(100), n_keeps=count, n_iters=count, ts=scalar(0.),
               h_diags=scalar(1.)):
    """Makes up to `max_iter` quasi-Newton steps: `x <- x + t*d` along `d = -H*g`. The inverse Hessian `H` fits the last `history_size` differences of
    gradients `y` and of parameters `s`. All parameters count as one vector. The length `t` is `lr`, at the very first step `lr*min(1, 1/|g|_1)`; with
    `line_search_fn`, a search from there finds one that meets the strong Wolfe conditions. The steps end where no element of `g` exceeds
    `tolerance_grad`, where the step or the change of the loss is below `tolerance_change`, or after `max_eval` evaluations, 1.25*`max_iter` by
    default. The block makes the move itself. State: `direction` and `last_grad`, like p; `y_hist` and `s_hist`, the last `n_keep` vectors like p;
    `n_keep`, `n_iter`, `t` and `h_diag`, numbers. Liu and Nocedal 1989, https://doi.org/10.1007/BF01589116"""
    x,f,g = flat(params),loss.item(),flat(grads)
    if not g.numel() or g.abs().max()<=tolerance_grad: return dict(new_ps=params)
    def at(x):
        loss,grads = evaluate(parts(x, params))
        return loss.item(),flat(grads)
    n_keep,n_iter,t,h_diag = [max(v) for v in (n_keeps, n_iters, ts, h_diags)]
    rested   = [n<n_iter for n in n_iters]                                  # these had no gradient: they did not move, and what they keep is old
    d,last_g = flat([x*(not r) for x,r in zip(directions, rested)]),flat(last_grads)
    pairs    = [*map(pair, *(remembered(hists, n_keep, params, rested) for hists in (y_hists, s_hists)))]
    left     = (max_iter*5//4 if max_eval is None else max_eval) - 1        # evaluations; the step began with one
    for i in range(1, int(max_iter)+1):
        n_iter += 1
        pairs,h_diag = with_pair(pairs, h_diag, g-last_g, d*t, int(history_size))
        d = two_loops(g, pairs, h_diag)
        t = lr*min(1., (1/g.abs().sum()).item()) if n_iter==1 else lr
        last_f,last_g = f,g
        if g.dot(d)>-tolerance_change: break                                # `d` hardly descends
        if line_search_fn: t,f,g,left = wolfe(at, x, d, t, f, g, left)
        elif i<max_iter:   f,g,left = *at(x.add(d, alpha=t)),left-1         # nothing reads an evaluation after the last step
        x = x.add(d, alpha=t)
        if left<=0 or g.abs().max()<=tolerance_grad: break
        if (d*t).abs().max()<=tolerance_change or abs(f-last_f)<tolerance_change: break
    ys,ss = [[v[i] for v in pairs] for i in (0, 1)]
    return dict(new_ps=parts(x, params), directions=parts(d, params), last_grads=parts(last_g, params), y_hists=to_remember(ys, params, y_hists),
                s_hists=to_remember(ss, params, s_hists), n_keep=len(pairs), n_iter=n_iter, t=t, h_diag=h_diag)

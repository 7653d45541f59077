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
    `loss.backward(create_graph=True)`. Hutchinson 1989; Yao et al. 2021, https://arxiv.org/abs/2006.00719"""
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

def two_loops(grad, ys, ss, h_diag):
    """The direction `-H*g` by the two-loop recursion. The inverse Hessian `H` starts at `h_diag`, and fits the differences `ys` of gradients and `ss`
    of parameters. Nocedal and Wright 2006, algorithm 7.4"""
    q,rhos,alphas = grad.neg(),[1/y.dot(s) for y,s in zip(ys, ss)],[]
    for y,s,rho in zip(ys[::-1], ss[::-1], rhos[::-1]):
        alphas.insert(0, s.dot(q)*rho)
        q = q.add(y, alpha=-alphas[0].item())
    r = q*h_diag
    for y,s,rho,alpha in zip(ys, ss, rhos, alphas): r = r.add(s, alpha=(alpha - y.dot(r)*rho).item())
    return r

def lbfgs_step(params, grads, loss, evaluate, lr, max_iter, max_eval, tolerance_grad:nonneg, tolerance_change:nonneg, line_search_fn, history_size,
               directions=zeros, last_grads=zeros, y_hists=history(100), s_hists=history(100), n_keeps=count, n_iters=count, ts=scalar(0.),
               h_diags=scalar(1.)):
    """Makes up to `max_iter` quasi-Newton steps, along `-H*g` with an inverse Hessian `H` that fits the last steps. All parameters count as one
    vector. `lr` scales each step; with `line_search_fn`, a search finds a length that meets the strong Wolfe conditions. The block makes the move
    itself. State: `direction` and `last_grad`, like p; `y_hist` and `s_hist`, the last `n_keep` vectors like p; `n_keep`, `n_iter`, `t` and `h_diag`,
    numbers. Liu and Nocedal 1989, https://doi.org/10.1007/BF01589116"""
    x,g,f = flat(params),flat(grads),loss.item()
    n_keep,n_iter,t,h_diag = [max(v) for v in (n_keeps, n_iters, ts, h_diags)]
    if not g.numel() or g.abs().max()<=tolerance_grad: return dict(new_ps=params)
    def at(x):
        loss,grads = evaluate(parts(x, params))
        return loss.item(),flat(grads)
    rested   = [n<n_iter for n in n_iters]                                  # these had no gradient: they did not move, and what they keep is old
    d,last_g = flat([x*(not r) for x,r in zip(directions, rested)]),flat(last_grads)
    def row(hists, i): return flat([torch.zeros_like(p) if r or len(h)<-i else h[i] for p,h,r in zip(params, hists, rested)])
    ys,ss = [[row(hists, i) for i in range(-n_keep, 0)] for hists in (y_hists, s_hists)]
    n_evals,n_evals_at_most = 1,max_iter*5//4 if max_eval is None else max_eval
    for i in range(1, int(max_iter)+1):
        n_iter += 1
        if n_iter==1: d = g.neg()
        else:
            y,s = g-last_g,d*t
            if (y_s := y.dot(s))>1e-10:
                ys,ss  = [*ys, y][-int(history_size):],[*ss, s][-int(history_size):]
                h_diag = (y_s/y.dot(y)).item()
            d = two_loops(g, ys, ss, h_diag)
        last_g,last_f = g,f
        t = min(1., (1/g.abs().sum()).item())*lr if n_iter==1 else lr
        slope = g.dot(d)
        if slope>-tolerance_change: break
        if line_search_fn:
            f,g,t,n = strong_wolfe(lambda x, t, d: at(x.add(d, alpha=float(t))), x, t, d, f, g, slope, max_ls=n_evals_at_most-n_evals)
            t,n_evals = float(t),n_evals+n
            x = x.add(d, alpha=t)
        else:
            x = x.add(d, alpha=t)
            if i<max_iter:                                                  # nothing reads an evaluation after the last step
                f,g = at(x)
                n_evals += 1
        if i==max_iter or n_evals>=n_evals_at_most or g.abs().max()<=tolerance_grad: break
        if (d*t).abs().max()<=tolerance_change or abs(f-last_f)<tolerance_change: break
    def stored(vs, hists): return [torch.stack(k) for k in zip(*(parts(v, params) for v in vs))] if vs else hists
    return dict(new_ps=parts(x, params), directions=parts(d, params), last_grads=parts(last_g, params), y_hists=stored(ys, y_hists),
                s_hists=stored(ss, s_hists), n_keep=len(ys), n_iter=n_iter, t=t, h_diag=h_diag)

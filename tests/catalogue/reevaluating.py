"""Rows: genopt.algorithms.reevaluating. They take their steps by a closure, on a function that ties all parameters together."""

import genopt,torch
import pytorch_optimizer as kozistr
from .momentum import sgd
from .row import Algorithm,log


class Sharp(torch.optim.Optimizer):
    """SAM, https://arxiv.org/abs/2010.01412, Algorithm 1, and ASAM, https://arxiv.org/abs/2102.11600, Algorithm 1, over torch's SGD: T is 1, or |w| + eta.
    pytorch_optimizer's takes the norm of all gradients in float32, so it cannot be the reference"""
    def __init__(self, params, rho=0.05, eta=None, **kw):
        super().__init__(params, dict(rho=rho, eta=eta))
        self.sgd = torch.optim.SGD(self.param_groups[0]['params'], **dict(lr=1e-3) | kw)
    def step(self, closure):
        closure()
        ps,(rho,eta) = self.param_groups[0]['params'],[self.param_groups[0][k] for k in ('rho','eta')]
        with torch.no_grad():
            old = [p.clone() for p in ps]
            T   = [torch.ones_like(p) if eta is None else p.abs()+eta for p in ps]
            size = sum(((t*p.grad)**2).sum() for t,p in zip(T, ps))**.5 + 1e-12
            for t,p in zip(T, ps): p += rho*t**2*p.grad/size
        closure()
        with torch.no_grad():
            for o,p in zip(old, ps): p.copy_(o)
        self.sgd.step()

def sam(r):  return {k: v for k,v in sgd(r).items() if k!='maximize'} | dict(rho=log(r,-2,-.5))
def asam(r): return sam(r) | dict(eta=log(r,-3,-1))
def hessian(r): return dict(lr=log(r,-3,-1), betas=(r.random(), r.uniform(.5,.999)), weight_decay=r.choice([0., log(r,-3,-1)]), eps=log(r,-8,-3))
def adahessian(r): return hessian(r) | dict(hessian_power=r.choice([1., .5]), update_period=r.choice([1, 3]), n_samples=r.choice([1, 2]))
def sophia(r):
    "Slow, because fast ones are chaotic: one unit in the last place of a parameter is a twentieth of it after 100 steps of `lr=.04`"
    return hessian(r) | dict(lr=log(r,-4,-2.5), rho=r.uniform(.01,.1), update_period=r.choice([1, 10]), n_samples=r.choice([1, 2]))
def lbfgs(r):
    return dict(lr=r.uniform(.1,1.), max_iter=r.choice([1, 4, 20]), history_size=r.choice([3, 100]), line_search_fn=r.choice([None, 'strong_wolfe']),
                max_eval=r.choice([None, 3]), tolerance_grad=r.choice([1e-7, 1e-2]), tolerance_change=r.choice([1e-9, 1e-3]))

def asam_ref(params, rho=.5, eta=.01, **kw): return Sharp(params, rho, eta, **kw)
def adahessian_ref(params, lr=.1, betas=(.9,.999), eps=1e-8, weight_decay=0., hessian_power=1., update_period=1, n_samples=1):
    return kozistr.AdaHessian(params, lr, betas, weight_decay=weight_decay, hessian_power=hessian_power, update_period=update_period,
                              num_samples=n_samples, eps=eps, foreach=False)
def sophia_ref(params, lr=1e-4, betas=(.965,.99), rho=.04, weight_decay=.1, eps=1e-12, update_period=10, n_samples=1):
    "Its `p` is the paper's gamma, `rho` here, and its rate is in other units: `clip(m/h, gamma)` for `clip(m/(gamma*h), 1)`"
    return kozistr.SophiaH(params, lr/rho, betas, weight_decay=weight_decay*rho, p=rho, update_period=update_period, num_samples=n_samples,
                           hessian_distribution='gaussian', eps=eps/rho, foreach=False)

tied  = dict(closure=True, joint=True, second={}, own=[{}])
peer  = dict(source='pytorch_optimizer')
whole = 'matrix','bias','scalar','strided','late'                       # a norm of nothing is no norm
rows = [
    Algorithm(genopt.SAM,  Sharp,    sam,  lr=2e-3, more=dict(momentum=.9, rho=.001), digits=.995, names=whole, **tied, source='paper'),
    Algorithm(genopt.ASAM, asam_ref, asam, lr=2e-3, more=dict(momentum=.9, rho=.001), digits=.995, names=whole, **tied, source='paper'),
    Algorithm(genopt.AdaHessian, adahessian_ref, adahessian, lr=1., more=dict(betas=(.9,.99)), near=.3, graph=True, **tied, **peer),
    Algorithm(genopt.Sophia, sophia_ref, sophia, lr=.1, more=dict(weight_decay=0.), graph=True, digits=.95, **tied, **peer),
    Algorithm(genopt.LBFGS, torch.optim.LBFGS, lbfgs, lr=1., more=dict(line_search_fn='strong_wolfe'), fused=False,
              batch=1437, alone="lbfgs_step keeps the state 'y_hist', which grows", names=('matrix','bias','scalar','empty','late'), **tied),
]

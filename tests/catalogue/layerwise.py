"""Rows: genopt.algorithms.layerwise."""

import adamp,genopt,pytorch_optimizer,timm.optim
import references
from apart import apart
from .row import Algorithm,Peer,common_setting,eps_setting,log


def lr_setting(r): return dict(lr=log(r,-4,-1), maximize=r.random()<.3)
def sgd_setting(r):
    nesterov = r.random()<.4
    return common_setting(r) | dict(momentum=r.uniform(.1,.95) if nesterov else r.choice([0, r.random()]), nesterov=nesterov, eps=log(r,-10,-3),
                                    dampening=0 if nesterov else r.choice([0, r.random()]))
def lars(r): return sgd_setting(r) | dict(trust_coeff=log(r,-3,0))
def sgdp(r): return sgd_setting(r) | projection(r)
def novograd(r): return eps_setting(r) | dict(grad_averaging=False)
def adamp_setting(r): return eps_setting(r) | projection(r) | dict(nesterov=r.random()<.5)
def projection(r): return dict(delta=r.choice([.1, 1., 4.]), wd_ratio=r.random())

def timm_lars(params, *, clip=False, **kw): return timm.optim.Lars(params, always_adapt=True, trust_clip=clip, foreach=False, **kw)
def timm_larc(params, **kw): return timm_lars(params, clip=True, **kw)
def timm_lamb(params, **kw): return timm.optim.Lamb(params, max_grad_norm=None, foreach=False, **dict(weight_decay=0) | kw)
def novograd_peer(params, **kw): return pytorch_optimizer.NovoGrad(params, foreach=False, weight_decouple=False, **kw)

class SGDP(adamp.SGDP):
    "The authors', which would project the momentum itself, in place, where it is not Nesterov's"
    def _projection(self, p, grad, perturb, *args): return super()._projection(p, grad, perturb.clone(), *args)

full = 'matrix', 'bias', 'scalar', 'strided', 'late'                         # of empty ones others' norms make errors
whole = 'matrix', 'bias', 'scalar', 'late'                                   # the authors' cannot view a strided one
defaults = [{}, dict(lr=.01)]

rows = [
    Algorithm(genopt.Fromage, apart(lambda ps, lr=.01: pytorch_optimizer.Fromage(ps, lr=lr, foreach=False)), lr_setting, own=defaults, lr=.1,
              second=dict(maximize=False), source='pytorch_optimizer', names=full),
    Algorithm(genopt.LARS, apart(lambda ps, **kw: timm_lars(ps, **dict(momentum=.9)|kw)), lars, own=defaults, lr=10., source='timm', names=full),
    Algorithm(genopt.LARC, apart(lambda ps, **kw: timm_larc(ps, **dict(lr=1e-3, momentum=.9, trust_coeff=.02)|kw)), lars, own=defaults,
              lr=.01, source='timm', names=full),
    Algorithm(genopt.NovoGrad, apart(novograd_peer), novograd, own=defaults, lr=.1, source='pytorch_optimizer', names=full),
    Algorithm(genopt.LAMB, references.LAMB, eps_setting, fused=False, own=references.lamb_inputs, core=True, source='paper', digits=.9,
              peers=[Peer('timm', apart(lambda ps, **kw: timm_lamb(ps, always_adapt=True, **kw))),
                     Peer('timm, as it is', apart(timm_lamb), why='no ratio where nothing decays', ours=lambda ps, **kw: genopt.LAMB(ps, always_adapt=False, **kw)),
                     Peer('timm, LAMBC', apart(lambda ps, **kw: timm_lamb(ps, always_adapt=True, trust_clip=True, **kw)), why='a ratio of at most 1',
                          ours=lambda ps, **kw: genopt.LAMB(ps, max_ratio=1., **kw))]),
    Algorithm(genopt.SGDP, apart(lambda ps, **kw: SGDP(ps, **dict(lr=.1)|kw)), sgdp, own=defaults, lr=1e-3, more=dict(momentum=.9),
              source='the authors', names=whole),
    Algorithm(genopt.AdamP, apart(adamp.AdamP), adamp_setting, own=defaults, source='the authors', names=whole),
]

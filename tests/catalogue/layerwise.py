"""Rows: genopt.algorithms.layerwise."""

import math
import adamp,genopt,pytorch_optimizer,timm.optim,torch,torch_optimizer
import references
from genopt import rename
from genopt.algorithms.momentum import SGD
from genopt.blocks.stats import average_grad,average_sqr_grad,debias,step_stat,undamped_start
from genopt.blocks.steps import rms_prop_step
from genopt.blocks.transforms import add_decayed_weights,l2_reg,lars_ratio,scale_by_trust_ratio,scale_grad_by_lars
from .adaptive import altered
from .row import Algorithm,Peer,apart,common_setting,eps_setting,log


def lr_setting(r): return dict(lr=log(r,-4,-1), maximize=r.random()<.3)
def sgd_setting(r):
    nesterov = r.random()<.4
    return common_setting(r) | dict(momentum=r.uniform(.1,.95) if nesterov else r.choice([0, r.random()]), nesterov=nesterov, eps=log(r,-10,-3),
                                    dampening=0 if nesterov else r.choice([0, r.random()]))
def larc(r): return sgd_setting(r) | dict(trust_coeff=log(r,-3,0))
def lars(r): return larc(r) | dict(clip=r.random()<.5, always_adapt=r.random()<.7)
def sgdp(r): return sgd_setting(r) | projection(r)
def novograd(r): return eps_setting(r) | dict(grad_averaging=r.random()<.5)
def adamp_setting(r): return eps_setting(r) | projection(r) | dict(nesterov=r.random()<.5)
def projection(r): return dict(delta=r.choice([.1, 1., 4.]), wd_ratio=r.random())

def timm_lars(params, *, clip=False, always_adapt=True, **kw):
    return timm.optim.Lars(params, always_adapt=always_adapt, trust_clip=clip, foreach=False, **dict(momentum=.9)|kw)
def timm_larc(params, **kw): return timm_lars(params, clip=True, **kw)
def timm_lamb(params, **kw): return timm.optim.Lamb(params, max_grad_norm=None, foreach=False, **dict(weight_decay=0) | kw)
def novograd_peer(params, **kw): return pytorch_optimizer.NovoGrad(params, foreach=False, weight_decouple=False, **kw)

def kozistr_lars(params, trust_coeff=1e-3, dampening=0, eps=0, **kw):
    return pytorch_optimizer.LARS(params, trust_coefficient=trust_coeff, foreach=False, **dict(lr=1., momentum=.9) | kw)
def matrix_ratio(p, grad, wd, trust_coeff):
    "Of matrices, with no eps; vectors have no ratio and no decay"
    return lars_ratio(p, grad, wd, trust_coeff, 0.) if p.ndim>1 else dict(layer_ratio=1., wd=0.)
def matrix_lars(params, momentum=.9, nesterov=False, dampening=0, eps=0, **kw):
    cbs = [matrix_ratio, l2_reg, scale_grad_by_lars, SGD.build(1., momentum, 0, 0, nesterov)]
    return genopt.Optimizer(params, cbs, **dict(lr=1., weight_decay=0., trust_coeff=1e-3) | kw | (dict(momentum=momentum, dampening=0) if momentum else {}))

class Lamb(pytorch_optimizer.Lamb):
    "Theirs, but a norm above 10 does not count as 10"
    clamp = math.inf
def kozistr_lamb(params, **kw): return Lamb(params, pre_norm=False, weight_decouple=False, foreach=False, **kw)
def jettify_lamb(params, **kw): return torch_optimizer.Lamb(params, clamp_value=math.inf, **kw)
def plain_lamb(*blocks):
    "LAMB of averages as they are, and what else"
    cbs = [average_grad, average_sqr_grad, rename(rms_prop_step, grad='grad_avg'), add_decayed_weights, *blocks]
    return lambda params, **kw: genopt.Optimizer(params, cbs, **dict(lr=1e-3, betas=(.9,.999), eps=1e-6, weight_decay=0.)|kw)
def eps_ratio(p, update, eps): return update*torch.where((p.norm()>0) & (update.norm()>0), p.norm()/(update.norm() + eps), 1.)
def longer(lr, debias1): return dict(lr=lr/debias1)

class SGDP(adamp.SGDP):
    "The authors', which would project the momentum itself, in place, where it is not Nesterov's"
    def _projection(self, p, grad, perturb, *args): return super()._projection(p, grad, perturb.clone(), *args)

full = 'matrix', 'bias', 'scalar', 'strided', 'late'                         # of empty ones others' norms make errors
whole = 'matrix', 'bias', 'scalar', 'late'                                   # the authors' cannot view a strided one
defaults = [{}, dict(lr=.01)]
in_float64 = 'its second moment in float64'

rows = [
    Algorithm(genopt.Fromage, apart(lambda ps, lr=.01: pytorch_optimizer.Fromage(ps, lr=lr, foreach=False)), lr_setting, own=defaults, lr=.1,
              second=dict(maximize=False), source='pytorch_optimizer', names=full),
    Algorithm(genopt.LARS, apart(timm_lars), lars, own=defaults, lr=10., source='timm', names=full,
              peers=[Peer('pytorch_optimizer', apart(kozistr_lars), why='vectors have no ratio and no decay; no eps', ours=matrix_lars,
                          without=('clip', 'always_adapt'))]),
    Algorithm(genopt.LARC, apart(lambda ps, **kw: timm_larc(ps, **dict(lr=1e-3, momentum=.9, trust_coeff=.02)|kw)), larc, own=defaults,
              lr=.01, digits=.95, source='timm', names=full),
    Algorithm(genopt.NovoGrad, apart(references.in_double(timm.optim.NvNovoGrad)), novograd, own=defaults, lr=.1, source='timm', patched=in_float64, names=full,
              peers=[Peer('pytorch_optimizer', apart(novograd_peer), why='`grad_averaging` does not scale the first gradient',
                          ours=altered(genopt.NovoGrad, lambda cbs: [*cbs[:-2], rename(undamped_start, dampening='grad_averaging'), *cbs[-2:]])),
                     Peer('torch_optimizer', apart(references.in_double(torch_optimizer.NovoGrad)), patched=in_float64)]),
    Algorithm(genopt.LAMB, references.LAMB, eps_setting, fused=False, own=references.lamb_inputs, core=True, source='paper', digits=.9,
              peers=[Peer('timm', apart(lambda ps, **kw: timm_lamb(ps, always_adapt=True, **kw))),
                     Peer('timm', apart(timm_lamb), why='no ratio where nothing decays', ours=lambda ps, **kw: genopt.LAMB(ps, always_adapt=False, **kw)),
                     Peer('timm, LAMBC', apart(lambda ps, **kw: timm_lamb(ps, always_adapt=True, trust_clip=True, **kw)), why='a ratio of at most 1',
                          ours=lambda ps, **kw: genopt.LAMB(ps, max_ratio=1., **kw)),
                     Peer('torch_optimizer', apart(jettify_lamb), why='averages are not debiased',
                          ours=plain_lamb(scale_by_trust_ratio)),
                     Peer('pytorch_optimizer', apart(kozistr_lamb), why='of both averages none is debiased in the ratio, the first in the rate; eps in the ratio',
                          ours=plain_lamb(eps_ratio, step_stat, debias, longer), patched='norms above 10 do not count as 10')]),
    Algorithm(genopt.SGDP, apart(lambda ps, **kw: SGDP(ps, **dict(lr=.1)|kw)), sgdp, own=defaults, lr=1e-3, more=dict(momentum=.9),
              source='adamp', patched='it projects a copy of the momentum', names=whole, peers=[Peer('timm', apart(lambda ps, **kw: timm.optim.SGDP(ps, **dict(lr=.1)|kw)))]),
    Algorithm(genopt.AdamP, apart(adamp.AdamP), adamp_setting, own=defaults, source='adamp', names=whole, peers=[Peer('timm', apart(timm.optim.AdamP))]),
]

"""Rows: genopt.algorithms.low_memory."""

import came_pytorch,genopt,pytorch_optimizer,timm.optim
import references
from genopt import rename
from genopt.blocks.matrices import average_padded_sqr_factors,growing_sqr_mom,padded_factored_step
from genopt.blocks.stats import step_stat
from genopt.blocks.transforms import clip_update_rms,weight_decay
from .row import Algorithm,Peer,apart,common_setting,log


def adafactor(r):
    return common_setting(r) | dict(beta2_decay=-r.random(), eps=(r.choice([None, log(r,-10,-2)]), log(r,-4,-1)), d=1+r.random())

def sm3(r):  return dict(lr=log(r,-4,-1), maximize=r.random()<.3, momentum=r.choice([0., r.random()]), beta=r.choice([0., r.random()]), eps=log(r,-30,-4))
def came(r):
    betas = r.random(),r.uniform(.5,.9999),r.uniform(.5,.9999)
    return common_setting(r) | dict(betas=betas, eps=(log(r,-30,-4), log(r,-16,-4)), clip_threshold=1+r.random())
def sm3_peer(params, **kw):
    "A number as a vector of one, because of a number theirs would keep no maximum"
    p, = params
    q  = p.detach().reshape(1) if not p.ndim else p
    opt = pytorch_optimizer.SM3([q], foreach=False, **kw)
    step = opt.step
    def with_vector():
        q.grad = p.grad.reshape(q.shape)
        step()
    opt.step = with_vector
    return opt
def kozistr_came(params, eps=(1e-30,1e-16), **kw): return pytorch_optimizer.CAME(params, eps1=eps[0], eps2=eps[1], foreach=False, **kw)
def timm_adafactor(params, eps=None, d=1., beta2_decay=-.8, **kw):
    return timm.optim.Adafactor(params, clip_threshold=d, decay_rate=beta2_decay, min_dim_size_to_factor=0, **kw)
def unscaled(params, eps=None, **kw):
    cbs = [step_stat, growing_sqr_mom, average_padded_sqr_factors, padded_factored_step, rename(clip_update_rms, max_rms='d'), weight_decay]
    return genopt.Optimizer(params, cbs, **dict(weight_decay=0.)|kw)
def came_peer(params, **kw): return came_pytorch.CAME(params, **dict(lr=2e-4)|kw)


names = 'matrix', 'bias', 'scalar', 'strided', 'late'
rows = [
    Algorithm(genopt.SM3, apart(sm3_peer), sm3, own=[{}, dict(lr=.01, momentum=.9)], lr=.5, near=.15, source='pytorch_optimizer', patched='numbers are vectors of one',
              names=names, second=dict(maximize=True)),
    Algorithm(genopt.Adafactor, references.Adafactor, adafactor, lr=.04, digits=.3, fused=False, patched='it passes over empty parameters',
              names=('matrix', 'bias', 'empty', 'strided', 'late'),
              peers=[Peer('timm', apart(timm_adafactor), why='with an lr steps are not relative to the parameter, and do not fall; 1e-30 is added to squares', ours=unscaled)]),
    Algorithm(genopt.CAME, apart(came_peer), came, own=[{}, dict(lr=.01, weight_decay=.1)], lr=.02, source='came_pytorch', names=names,
              peers=[Peer('pytorch_optimizer', apart(kozistr_came))]),
]

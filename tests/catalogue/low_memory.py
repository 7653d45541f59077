"""Rows: genopt.algorithms.low_memory."""

import came_pytorch,genopt,pytorch_optimizer
import references
from apart import apart
from .row import Algorithm,common_setting,log


def adafactor(r):
    return common_setting(r) | dict(beta2_decay=-r.random(), eps=(r.choice([None, log(r,-10,-2)]), log(r,-4,-1)), d=1+r.random())

def sm3(r):  return dict(lr=log(r,-4,-1), maximize=r.random()<.3, momentum=r.choice([0., r.random()]), beta=r.choice([0., r.random()]), eps=log(r,-30,-4))
def came(r):
    betas = r.random(),r.uniform(.5,.9999),r.uniform(.5,.9999)
    return common_setting(r) | dict(betas=betas, eps=(log(r,-30,-4), log(r,-16,-4)), clip_threshold=1+r.random())
def sm3_peer(params, **kw): return pytorch_optimizer.SM3(params, foreach=False, **kw)
def came_peer(params, **kw): return came_pytorch.CAME(params, **dict(lr=2e-4)|kw)

# A 0-dim parameter of float64 cannot be compiled in its own shape yet (it is compared in test_parity)
names = 'matrix', 'bias', 'strided', 'late'
rows = [
    Algorithm(genopt.SM3, apart(sm3_peer), sm3, own=[{}, dict(lr=.01, momentum=.9)], source='pytorch_optimizer', names=names, second=dict(maximize=True)),
    Algorithm(genopt.Adafactor, references.Adafactor, adafactor, lr=.04, digits=.3, fused=False,
              names=('matrix', 'bias', 'empty', 'strided', 'late')),
    Algorithm(genopt.CAME, apart(came_peer), came, own=[{}, dict(lr=.01, weight_decay=.1)], lr=.02, source='the authors', names=names),
]

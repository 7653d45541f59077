"""Rows: genopt.algorithms.momentum."""

import genopt,lion_pytorch,optimi,pytorch_optimizer,qhoptim.pyt,timm.optim,torch,torch_optimizer
import references
from .row import Algorithm,Peer,betas_setting,common_setting,log,other


def sgd(r):
    nesterov = r.random()<.3
    return common_setting(r) | dict(momentum=r.uniform(.1,.99) if nesterov else r.choice([0, r.random()]),
                                    dampening=0 if nesterov else r.choice([0, r.random()]), nesterov=nesterov)
def asgd(r):  return common_setting(r) | dict(lambd=r.choice([0, log(r,-5,-2)]), alpha=r.uniform(0,1), t0=r.choice([0, 30, 1e6]))
def rprop(r): return dict(lr=log(r,-4,-1), etas=(r.uniform(.2,.9), r.uniform(1.05,1.5)), step_sizes=(log(r,-7,-4), log(r,-1,2)), maximize=r.random()<.3)
def qhm(r):   return common_setting(r) | dict(momentum=r.uniform(.5,.999), nu=r.random(), decoupled_weight_decay=r.random()<.5)
def aggmo(r): return common_setting(r) | dict(betas=(r.choice([0, r.random()]), r.uniform(.3,.95), r.uniform(.9,.999)))
def signum(r): return common_setting(r) | dict(momentum=r.choice([0, r.uniform(.5,.999)]))
def tiger(r): return common_setting(r) | dict(beta=r.uniform(.5,.999))

def authors_qhm(params, decoupled_weight_decay=False, **kw):
    return other(qhoptim.pyt.QHM, dict(weight_decay_type='direct' if decoupled_weight_decay else 'grad'))(params, **dict(lr=1e-3, momentum=.999, nu=.7)|kw)

po = dict(foreach=False)
lions = [Peer('lion_pytorch', other(lion_pytorch.Lion)), Peer('timm', other(timm.optim.Lion, po)), Peer('pytorch_optimizer', other(pytorch_optimizer.Lion, po)),
         Peer('optimi', other(optimi.Lion, po))]

rows = [
    Algorithm(genopt.SGD,    torch.optim.SGD, sgd, lr=1e-3, more=dict(momentum=.9), core=True, digits=.995,
              peers=[Peer('optimi', other(optimi.SGD, po), without=('nesterov', 'dampening'))]),
    Algorithm(genopt.SGDW,   other(timm.optim.SGDW, po), sgd, lr=1e-3, more=dict(momentum=.9), own=[{}], source='timm', digits=.995,
              peers=[Peer('pytorch_optimizer', other(pytorch_optimizer.SGDW, po))]),
    Algorithm(genopt.QHM,    authors_qhm, qhm, lr=1e-2, more=dict(momentum=.9),
              own=[{}, dict(weight_decay=.1), dict(weight_decay=.1, decoupled_weight_decay=True)], source='qhoptim', digits=.999,
              peers=[Peer('pytorch_optimizer', other(pytorch_optimizer.QHM, po, decoupled_weight_decay='weight_decouple'))]),
    Algorithm(genopt.AggMo,  other(torch_optimizer.AggMo), aggmo, lr=1e-3, own=[{}], source='torch_optimizer', digits=.8,
              peers=[Peer('pytorch_optimizer', other(pytorch_optimizer.AggMo, po))]),
    Algorithm(genopt.ASGD,   references.ASGD, asgd, lr=3.8e-3, more=dict(lambd=0), near=.1, fused=False, digits=.95, patched='its rates in float64'),
    Algorithm(genopt.Rprop,  torch.optim.Rprop, rprop, lr=1e-2, fused=False, second=dict(etas=(.6,1.3))),
    Algorithm(genopt.Signum, other(pytorch_optimizer.SignSGD, po), signum, lr=2e-2, own=[{}], source='pytorch_optimizer'),
    Algorithm(genopt.Tiger,  other(pytorch_optimizer.Tiger, po), tiger, lr=2e-2, more=dict(weight_decay=0), own=[{}], source='pytorch_optimizer'),
    Algorithm(genopt.Lion,   references.Lion, betas_setting, lr=2e-2, fused=False, own=references.lion_inputs, core=True, source='paper', digits=.9, peers=lions),
]

"""Rows: genopt.algorithms.momentum."""

import genopt,torch
import references
from .row import Algorithm,betas_setting,common_setting,log


def sgd(r):
    nesterov = r.random()<.3
    return common_setting(r) | dict(momentum=r.uniform(.1,.99) if nesterov else r.choice([0, r.random()]),
                                    dampening=0 if nesterov else r.choice([0, r.random()]), nesterov=nesterov)

def asgd(r):  return common_setting(r) | dict(lambd=r.choice([0, log(r,-5,-2)]), alpha=r.uniform(0,1), t0=r.choice([0, 30, 1e6]))
def rprop(r): return dict(lr=log(r,-4,-1), etas=(r.uniform(.2,.9), r.uniform(1.05,1.5)), step_sizes=(log(r,-7,-4), log(r,-1,2)), maximize=r.random()<.3)

rows = [
    Algorithm(genopt.SGD,  torch.optim.SGD, sgd, lr=1e-3, more=dict(momentum=.9), core=True, digits=.995),
    Algorithm(genopt.ASGD, references.ASGD, asgd, lr=3.8e-3, more=dict(lambd=0), near=.1, fused=False, digits=.95),
    Algorithm(genopt.Rprop, torch.optim.Rprop, rprop, lr=1e-2, fused=False, second=dict(etas=(.6,1.3))),
    Algorithm(genopt.Lion, references.Lion, betas_setting, lr=2e-2, fused=False, own=references.lion_inputs, core=True, source='paper', digits=.9),
]

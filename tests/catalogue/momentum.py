"""Rows: genopt.algorithms.momentum."""

import genopt,torch
import references
from .row import Algorithm,betas_setting,common_setting


def sgd(r):
    nesterov = r.random()<.3
    return common_setting(r) | dict(momentum=r.uniform(.1,.99) if nesterov else r.choice([0, r.random()]),
                                    dampening=0 if nesterov else r.choice([0, r.random()]), nesterov=nesterov)

rows = [
    Algorithm(genopt.SGD,  torch.optim.SGD, sgd, lr=1e-3, more=dict(momentum=.9), core=True, digits=.995),
    Algorithm(genopt.Lion, references.Lion, betas_setting, lr=2e-2, fused=False, own=references.lion_inputs, core=True, source='paper', digits=.9),
]

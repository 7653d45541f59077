"""Rows: genopt.algorithms.adaptive."""

import genopt,torch
import references
from .row import Algorithm,common_setting,eps_setting,log


def adagrad(r):
    return common_setting(r) | dict(eps=log(r,-12,-3), lr_decay=r.choice([0, log(r,-4,-1)]), initial_accumulator_value=r.choice([0, log(r,-3,0)]))
def adadelta(r): return common_setting(r) | dict(rho=r.uniform(.5,.999), eps=log(r,-8,-3))
def rmsprop(r):
    return common_setting(r) | dict(alpha=r.uniform(.5,.999), eps=log(r,-10,-3), momentum=r.choice([0, r.random()]), centered=r.random()<.5)
def adam(r):  return eps_setting(r) | dict(amsgrad=r.random()<.5)
def radam(r): return eps_setting(r) | dict(decoupled_weight_decay=r.random()<.5)
def nadam(r): return radam(r) | dict(momentum_decay=r.choice([0, log(r,-4,-1)]))

rows = [
    Algorithm(genopt.Adagrad, torch.optim.Adagrad, adagrad, lr=.5, near=.15),
    Algorithm(genopt.RMSprop, torch.optim.RMSprop, rmsprop, lr=1e-2, fused=False, core=True),
    Algorithm(genopt.Adadelta, torch.optim.Adadelta, adadelta, lr=1., fused=False),
    Algorithm(genopt.Adam,    torch.optim.Adam,    adam,  core=True),
    Algorithm(genopt.AdamW,   torch.optim.AdamW,   adam,  core=True),
    Algorithm(genopt.Adamax,  torch.optim.Adamax,  eps_setting, fused=False),
    Algorithm(genopt.NAdam,   references.NAdam,    nadam, fused=False, core=True),
    Algorithm(genopt.RAdam,   torch.optim.RAdam,   radam, lr=5e-3, fused=False, more=dict(betas=(.9,.99)), core=True, digits=.6),
]

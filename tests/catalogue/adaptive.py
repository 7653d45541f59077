"""Rows: genopt.algorithms.adaptive."""

import genopt,torch
import references
from .row import Algorithm,common_setting,eps_setting,log


def rmsprop(r):
    return common_setting(r) | dict(alpha=r.uniform(.5,.999), eps=log(r,-10,-3), momentum=r.choice([0, r.random()]), centered=r.random()<.5)
def adam(r):  return eps_setting(r) | dict(amsgrad=r.random()<.5)
def radam(r): return eps_setting(r) | dict(decoupled_weight_decay=r.random()<.5)
def nadam(r): return radam(r) | dict(momentum_decay=r.choice([0, log(r,-4,-1)]))

class SparseAdam(torch.optim.SparseAdam):
    "torch's own, which takes sparse gradients only"
    def step(self):
        for g in self.param_groups:
            for p in g['params']: p.grad = None if p.grad is None else p.grad.to_sparse(1)
        super().step()
def sparse_ref(params, **kw): return SparseAdam(params, **kw)
def sparse_adam(r): return {k: v for k,v in eps_setting(r).items() if k!='weight_decay'}

rows = [
    Algorithm(genopt.RMSprop, torch.optim.RMSprop, rmsprop, lr=1e-2, fused=False, core=True),
    Algorithm(genopt.Adam,    torch.optim.Adam,    adam,  core=True),
    Algorithm(genopt.AdamW,   torch.optim.AdamW,   adam,  core=True),
    Algorithm(genopt.NAdam,   references.NAdam,    nadam, fused=False, core=True),
    Algorithm(genopt.RAdam,   torch.optim.RAdam,   radam, lr=5e-3, fused=False, more=dict(betas=(.9,.99)), core=True, digits=.6),
    Algorithm(genopt.SparseAdam, sparse_ref, sparse_adam, lr=.1, own=[{}], names=('matrix','bias','strided','late'), second=dict(eps=1e-6),
              alone='asks for the rows'),
]

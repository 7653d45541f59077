"""Rows: genopt.algorithms.rate_free. The references estimate one rate for all parameters; of those that have no gradient in a step they still decay
what they know, so parameters whose gradients come late or now and then are left out."""

import math,warnings
import genopt,pytorch_optimizer,torch
import numpy as np
import references
from .row import Algorithm,Peer,betas_setting,log

steady = 'bias','scalar','strided'
with warnings.catch_warnings():
    warnings.simplefilter('ignore')
    import dadaptation,dog,prodigyopt

def quiet(f):
    "Without what the packages print and log"
    def make(params, **kw):
        import contextlib,io,logging
        logging.getLogger('dog.dog').setLevel(logging.ERROR)
        with contextlib.redirect_stdout(io.StringIO()): return f(params, **{k: v for k,v in kw.items() if k not in ('maximize','foreach')})
    return make
def dog_setting(r): return dict(lr=r.choice([1., r.uniform(.3, 2)]), reps_rel=log(r,-6,-2), weight_decay=r.choice([0., log(r,-4,-1)]), eps=log(r,-10,-5))
def d_setting(r):
    return {k: v for k,v in betas_setting(r).items() if k!='maximize'} | dict(
        lr=r.choice([1., r.uniform(.3, 2)]), eps=log(r,-10,-5), decouple=r.random()<.5, use_bias_correction=r.random()<.5, d0=log(r,-6,-3),
        growth_rate=r.choice([math.inf, 1.02]))
def prodigy_setting(r): return d_setting(r) | dict(beta3=r.choice([None, r.uniform(.5,.99)]), safeguard_warmup=r.random()<.5, d_coef=r.uniform(.5,2))

class DoWG(torch.optim.Optimizer):
    "Khaled et al. 2023, https://arxiv.org/abs/2305.16284, Algorithm 1, in NumPy: all parameters one vector; r_0 and eps as DoG's package has them"
    def __init__(self, params, lr=1., reps_rel=1e-6, weight_decay=0., eps=1e-8):
        super().__init__(params, dict(lr=lr))
        self.decay,self.v,self.eps,self.reps_rel,self.start = weight_decay,0.,eps,reps_rel,None
    def step(self):
        ps = [p for p in self.param_groups[0]['params'] if p.grad is not None]
        x  = np.concatenate([p.detach().numpy().ravel() for p in ps])
        g  = np.concatenate([p.grad.numpy().ravel() for p in ps]) + self.decay*x
        if self.start is None: self.start,self.r = x,self.reps_rel*(1+np.linalg.norm(x))
        self.r = max(self.r, np.linalg.norm(x-self.start))
        self.v+= self.r**2*(g@g)
        x = x - self.param_groups[0]['lr']*self.r**2/np.sqrt(self.v+self.eps)*g
        for p,part in zip(ps, np.split(x, np.cumsum([p.numel() for p in ps])[:-1])): p.data.copy_(torch.tensor(part.reshape(p.shape)))

def kozistr(cls):
    "pytorch_optimizer's, in double precision, where it would sum in single"
    names = dict(decouple='weight_decouple', use_bias_correction='bias_correction')
    return quiet(lambda params, **kw: references.in_double(cls)(params, foreach=False, **{names.get(k,k): v for k,v in kw.items()}))

common = dict(names=steady, joint=True, second={})
rows = [
    Algorithm(genopt.DoG,  quiet(dog.DoG),  dog_setting, lr=2., near=.4, own=[{}], source='dog', **common),
    Algorithm(genopt.LDoG, quiet(dog.LDoG), dog_setting, lr=2., near=.4, own=[{}], source='dog', **common),
    Algorithm(genopt.DoWG, DoWG, dog_setting, lr=1., near=.1, digits=1.1, own=[{}], source='paper', **common),      # chaotic there: rounding decides
                                                                                                  # whether it learns, in float64 as well
    Algorithm(genopt.DAdaptAdam, quiet(dadaptation.DAdaptAdam), d_setting, lr=1., own=[{}], source='dadaptation',
              peers=[Peer('pytorch_optimizer', kozistr(pytorch_optimizer.DAdaptAdam), patched='its sums in float64')], **common),
    Algorithm(genopt.Prodigy, quiet(prodigyopt.Prodigy), prodigy_setting, lr=1., own=[{}], source='prodigyopt',
              peers=[Peer('pytorch_optimizer', kozistr(pytorch_optimizer.Prodigy), without=('growth_rate',), patched='its sums in float64')], **common),
]

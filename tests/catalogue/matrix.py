"""Rows: genopt.algorithms.matrix."""

from functools import partial
from unittest import mock
import genopt,kron_torch,pytorch_optimizer,timm.optim.muon,torch
from apart import apart
from genopt.blocks.matrices import probe
from pytorch_optimizer.optimizer.utils.matrix import zero_power_via_newton_schulz_5
from .row import Algorithm,common_setting,eps_setting,log

names    = 'matrix', 'bias', 'strided', 'late'                          # a 0-dim parameter of float64 cannot be compiled in its own shape yet
matrices = dict(matrix=True, names=('matrix', 'strided', 'late'), params=lambda model: [p for p in model.parameters() if p.ndim>1])


class Muon(torch.optim.Muon):
    "torch's, with the iteration in `ns_dtype`: in others than bfloat16 it is timm's, as torch has none"
    def __init__(self, params, *, ns_dtype='bfloat16', maximize=False, **kw):
        self.dtype,self.up = getattr(torch, ns_dtype),maximize
        super().__init__(params, **kw)
    def step(self):
        def iterate(g, coefficients, steps, eps):
            return timm.optim.muon.zeropower_via_newtonschulz(-g if self.up else g, steps, [coefficients], eps, dtype=self.dtype)
        if self.dtype is torch.bfloat16 and not self.up: return super().step()
        with mock.patch('torch.optim._muon._zeropower_via_newtonschulz', iterate): super().step()

def muon(r):
    "In float64: compiled code does not round to bfloat16 what it does not store"
    kw = common_setting(r) | dict(momentum=r.random(), nesterov=r.random()<.5, ns_steps=r.randint(1,6), eps=log(r,-9,-1), ns_dtype='float64')
    return kw | dict(adjust_lr_fn=r.choice([None, 'original', 'match_rms_adamw', 'spectral_unclamped']), ns_coefficients=r.choice(((2.,-1.5,.5), (3.4445,-4.775,2.0315))))
muon_inputs = [dict(ns_dtype='float64'), dict(ns_dtype='float64', weight_decay=0, momentum=.5), {}, dict(nesterov=False, lr=.1), dict(adjust_lr_fn='match_rms_adamw', ns_steps=7)]

def in_dtype(module, iterate, ns_dtype, make):
    "An optimizer of `module` whose Newton-Schulz iteration, `iterate`, is in `ns_dtype`"
    opt,name = make(),f'{module}.{iterate.__name__}'
    step = opt.step
    def patched():
        with mock.patch(name, partial(iterate, dtype=getattr(torch, ns_dtype))): step()
    opt.step = patched
    return opt

def normuon_peer(params, betas=(.95,.95), ns_dtype='bfloat16', **kw):
    groups = [dict(params=params, use_muon=True)]
    return in_dtype('pytorch_optimizer.optimizer.muon.normuon', zero_power_via_newton_schulz_5, ns_dtype, lambda: pytorch_optimizer.NorMuon(
        groups, momentum=betas[0], beta2=betas[1], update_scale='match_rms', foreach=False, **kw))
def adamuon_peer(params, betas=(.95,.95), ns_dtype='bfloat16', eps=1e-8, **kw):
    return in_dtype('timm.optim.muon', timm.optim.muon.zeropower_via_newtonschulz, ns_dtype, lambda: timm.optim.Muon(
        [dict(params=params, use_muon=True)], algo='adamuon', momentum=betas[0], betas=(.9, betas[1]), eps=eps, ns_coefficients='original',
        **dict(lr=1e-3, weight_decay=.1) | kw))

class SOAP(pytorch_optimizer.SOAP):
    "Theirs, which rounds what it gives to qr to float32"
    def step(self):
        with mock.patch('torch.float32', torch.float64): super().step()
def shampoo_peer(params, eps=1e-4, **kw): return pytorch_optimizer.Shampoo(params, matrix_eps=eps, **dict(lr=.1)|kw)

class Kron(torch.optim.Optimizer):
    """kron_torch's, one for each parameter, uncompiled and in double precision, fed our probes for its random numbers. It adds its damping to
    the momentum itself, by mistake: what it fits to is a copy here. It leaves decay of vectors out, balances by chance, and cannot take numbers"""
    def __init__(self, params, maximize=False, min_probability=.03, **kw):
        super().__init__(params, dict(kw))
        self.up,self.each = maximize,{}
        for g in self.param_groups:
            for p in g['params']:
                self.each[p] = opt = kron_torch.Kron([p], precond_dtype=p.dtype, **{k: v for k,v in g.items() if k!='params'},
                                                     preconditioner_update_probability=kron_torch.kron.precond_update_prob_schedule(min_prob=min_probability))
                opt.param_groups[0]['preconditioner_update_probability'] = opt.param_groups[0]['preconditioner_update_probability']._schedule_fn
                opt.rng = mock.Mock(random=lambda opt=opt: float((opt._prob_step.item())%100!=0))
    def step(self):
        k   = kron_torch.kron
        raw = {n: getattr(k, n)._torchdynamo_orig_callable for n in ('_balance_Q', '_update_precond', '_precond_grad', '_clip_update_rms')}
        raw['_calc_A_and_conjB'] = lambda e, G, Q, f=k._calc_A_and_conjB: f(e, G.clone(), Q)
        with mock.patch.multiple(k, **raw), mock.patch.object(torch.Tensor, 'float', torch.Tensor.double), mock.patch('builtins.print'):
            for p,opt in self.each.items():
                if p.grad is None: continue
                p.grad,old,g = p.grad.clone()*(-1 if self.up else 1),p.detach().clone(),opt.param_groups[0]
                def drawn(g, step=int(opt._prob_step)+1): return probe(g, step)['probe']
                with mock.patch('torch.randn_like', drawn): opt.step()
                if p.ndim<2: p.data.sub_(old, alpha=g['lr']*g['weight_decay'])
def kron(r): return common_setting(r) | dict(b1=r.random(), precond_lr=log(r,-2,-.5))

def shampoo(r): return common_setting(r) | dict(eps=log(r,-6,-1))
def soap(r):    return eps_setting(r) | dict(shampoo_beta=r.choice([None, r.uniform(.5,.99)]), precondition_frequency=r.choice([1, 3, 10]))

def normuon(r): return eps_setting(r) | dict(nesterov=r.random()<.5, ns_steps=r.randint(1,6), ns_dtype='float64')
normuon_inputs = [dict(ns_dtype='float64'), dict(ns_dtype='float64', nesterov=False), {}, dict(weight_decay=.3)]

rows = [
    Algorithm(genopt.Muon, Muon, muon, own=muon_inputs, lr=.05, more=dict(weight_decay=0), digits=.95, **matrices),
    Algorithm(genopt.NorMuon, apart(normuon_peer), normuon, own=normuon_inputs, lr=.5, source='pytorch_optimizer', **matrices),
    Algorithm(genopt.AdaMuon, apart(adamuon_peer), normuon, own=normuon_inputs, lr=.5, more=dict(weight_decay=0), source='timm', **matrices),
    Algorithm(genopt.Shampoo, apart(shampoo_peer), shampoo, own=[{}, dict(lr=.01, weight_decay=.1)], lr=.5, source='pytorch_optimizer',
              names=names),
    Algorithm(genopt.SOAP, apart(SOAP), soap, own=[{}, dict(lr=.01, precondition_frequency=1)], lr=.1, source='pytorch_optimizer',
              names=names),
    Algorithm(genopt.Kron, Kron, kron, own=[{}, dict(lr=.01, weight_decay=.1)], lr=.1, source='kron_torch', digits=.85,
              names=('matrix', 'bias', 'strided', 'late')),
]

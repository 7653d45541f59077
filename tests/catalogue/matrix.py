"""Rows: genopt.algorithms.matrix."""

import inspect
from functools import partial
from unittest import mock
import genopt,kron_torch,muon as kellers,pytorch_optimizer,timm.optim.muon,torch,torch_optimizer
from genopt.blocks.matrices import between,gaussian_probe,gram_matrices,inverse_root,left_or_whole,orthogonal,right_side,scale_by_shape
from genopt.blocks.stats import average_grad
from genopt.blocks.steps import nesterov_average_step
from genopt.blocks.transforms import l2_reg,weight_decay as weight_decay_block
from pytorch_optimizer.optimizer.utils.matrix import zero_power_via_newton_schulz_5
from .row import Algorithm,Peer,apart,common_setting,eps_setting,log

names    = 'matrix', 'bias', 'scalar', 'strided', 'late'
matrices = dict(matrix=True, names=('matrix', 'strided', 'late'), params=lambda model: [p for p in model.parameters() if p.ndim>1])


class Muon(getattr(torch.optim, 'Muon', torch.optim.Optimizer)):   # torch has it since 2.9; on an older one only its own tests fail
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
muon_inputs = [dict(ns_dtype='float64'), dict(ns_dtype='float64', weight_decay=0, momentum=.5), {}, dict(nesterov=False, lr=.1), dict(adjust_lr_fn='match_rms_adamw', ns_steps=7),
               *([dict(adjust_lr_fn='spectral_unclamped', ns_dtype='float64')] if 'spectral_unclamped' in inspect.getsource(getattr(torch.optim, '_muon', torch.optim)) else [])]

def in_dtype(module, iterate, ns_dtype, make):
    "An optimizer of `module` whose Newton-Schulz iteration, `iterate`, is in `ns_dtype`"
    opt,name = make(),f'{module}.{iterate.__name__}'
    step = opt.step
    def patched():
        with mock.patch(name, partial(iterate, dtype=getattr(torch, ns_dtype))): step()
    opt.step = patched
    return opt

def timm_muon(params, ns_dtype='bfloat16', ns_coefficients=(3.4445,-4.775,2.0315), adjust_lr_fn=None, **kw):
    scale = {None: 'original', 'spectral_unclamped': 'rms_to_rms'}.get(adjust_lr_fn, adjust_lr_fn)
    return in_dtype('timm.optim.muon', timm.optim.muon.zeropower_via_newtonschulz, ns_dtype, lambda: timm.optim.Muon(
        [dict(params=params, use_muon=True)], ns_coefficients=ns_coefficients, adjust_lr_fn=scale, **kw))
def kozistr_muon(params, ns_dtype='bfloat16', ns_coefficients=None, adjust_lr_fn=None, eps=1e-7, **kw):
    return in_dtype('pytorch_optimizer.optimizer.muon.base', zero_power_via_newton_schulz_5, ns_dtype, lambda: pytorch_optimizer.Muon(
        [dict(params=params, use_muon=True)], ns_coeffs=ns_coefficients, foreach=False, **kw))
def kellers_muon(params, lr=1e-3, weight_decay=.1, momentum=.95, **kw):
    "In the dtype of the gradient, and not in bfloat16"
    opt = kellers.SingleDeviceMuon(params, lr=lr, weight_decay=weight_decay, momentum=momentum)
    step = opt.step
    def exact():
        with mock.patch.object(torch.Tensor, 'bfloat16', lambda x: x): step()
    opt.step = exact
    return opt
def muon_with(**fixed): return lambda params, **kw: genopt.Muon(params, **kw | fixed)
def added_eps(update):
    "Five iterations with the first coefficients, from `u/(|u| + 1e-7)` on, where others have `u/max(|u|, 1e-7)`"
    return orthogonal(update/(update.norm() + 1e-7), ((3.4445,-4.775,2.0315),)*5, 1., 'float64')
def as_kellers(params, lr=1e-3, weight_decay=.1, momentum=.95, maximize=False, **kw):
    return genopt.Optimizer(params, [weight_decay_block, average_grad, nesterov_average_step, added_eps, scale_by_shape], lr=lr, weight_decay=weight_decay,
                            momentum=momentum, maximize=maximize)
in_float64 = 'the Newton-Schulz iteration in float64'
muon_peers = [Peer('timm', apart(timm_muon), patched=in_float64),
              Peer('pytorch_optimizer', apart(kozistr_muon), 'one scale, which is ours by default; eps is 1e-7', muon_with(adjust_lr_fn='original', eps=1e-7), patched=in_float64),
              Peer('muon', apart(kellers_muon), "always Nesterov's, with five iterations and the scale that is ours by default; 1e-7 is added to the norm", as_kellers,
                   patched=in_float64)]

def normuon_peer(params, betas=(.95,.95), ns_dtype='bfloat16', **kw):
    groups = [dict(params=params, use_muon=True)]
    return in_dtype('pytorch_optimizer.optimizer.muon.normuon', zero_power_via_newton_schulz_5, ns_dtype, lambda: pytorch_optimizer.NorMuon(
        groups, momentum=betas[0], beta2=betas[1], update_scale='match_rms', foreach=False, **kw))
def adamuon_peer(params, betas=(.95,.95), ns_dtype='bfloat16', eps=1e-8, **kw):
    return in_dtype('timm.optim.muon', timm.optim.muon.zeropower_via_newtonschulz, ns_dtype, lambda: timm.optim.Muon(
        [dict(params=params, use_muon=True)], algo='adamuon', momentum=betas[0], betas=(.9, betas[1]), eps=eps, ns_coefficients='original',
        **dict(lr=1e-3, weight_decay=.1) | kw))

def scion_peer(params, momentum=.9, norm='auto', scale=1., unconstrained=False, ns_dtype='bfloat16', **kw):
    "Its `momentum` is the weight of the new gradient; a norm is given by a number. In bfloat16 it would round the scale, too"
    def named(momentum=momentum, norm=norm, **g): return g | dict(momentum=1-momentum, norm_type=dict(auto=1, spectral=2, sign=4, rms=5)[norm])
    groups = [named(**g) for g in params] if isinstance(params[0], dict) else [named(params=params)]
    return in_dtype('pytorch_optimizer.optimizer.scion', zero_power_via_newton_schulz_5, ns_dtype, lambda: pytorch_optimizer.SCION(
        groups, constraint=not unconstrained, scale=scale, foreach=False, **kw))
def scion(r):
    kw = {k: v for k,v in common_setting(r).items() if k!='weight_decay'}
    return kw | dict(momentum=r.random(), norm=r.choice(['auto', 'auto', 'spectral', 'sign']), scale=r.uniform(.1,10), unconstrained=r.random()<.5, ns_dtype='float64')

class SOAP(pytorch_optimizer.SOAP):
    "Theirs, which rounds what it gives to qr to float32"
    def step(self):
        with mock.patch('torch.float32', torch.float64): super().step()
def shampoo_peer(params, eps=1e-4, **kw): return pytorch_optimizer.Shampoo(params, matrix_eps=eps, **dict(lr=.1)|kw)

def one_by_one(update, eps=1e-4, left=left_or_whole, right=right_side):
    "Roots of half the order, and the right side sums what the left one has made of gradients"
    left = left + gram_matrices(update, left, right)[0]
    update = between(inverse_root(left, eps, 2 if right.numel() else 1), update, update.new_zeros(0))
    right = right + gram_matrices(update, left, right)[1]
    return dict(update=between(update.new_zeros(0), update, inverse_root(right, eps, 2)), left=left, right=right)
def rooted_deeper(params, **kw): return genopt.Optimizer(params, [l2_reg, one_by_one], **dict(lr=.1, weight_decay=0.)|kw)
shampoo_other = Peer('torch_optimizer', apart(lambda params, eps=1e-4, **kw: torch_optimizer.Shampoo(params, epsilon=eps, **kw)),
                     why='roots of half the order; the right side sums what the left one has made of gradients', ours=rooted_deeper)

class Kron(torch.optim.Optimizer):
    """kron_torch's, one for each parameter, uncompiled and in double precision, fed our probes for its random numbers. It adds its damping to
    the momentum itself, by mistake: what it fits to is a copy here. It leaves decay of vectors out, balances by chance, and cannot take numbers"""
    def __init__(self, params, maximize=False, min_probability=.03, **kw):
        super().__init__(params, dict(kw))
        self.up,self.each = maximize,{}
        for g in self.param_groups:
            probability = {} if min_probability==.03 else dict(preconditioner_update_probability=kron_torch.kron.precond_update_prob_schedule(min_prob=min_probability))
            for p in g['params']:
                self.each[p] = opt = kron_torch.Kron([p], precond_dtype=p.dtype, **{k: v for k,v in g.items() if k!='params'},
                                                     **probability)
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
                def drawn(g, step=int(opt._prob_step)+1): return gaussian_probe(g, step)['probe']
                with mock.patch('torch.randn_like', drawn): opt.step()
                if p.ndim<2: p.data.sub_(old, alpha=g['lr']*g['weight_decay'])
def kron(r): return common_setting(r) | dict(b1=r.random(), precond_lr=log(r,-2,-.5), min_probability=r.choice([.03, .5]))

def shampoo(r): return common_setting(r) | dict(eps=log(r,-6,-1))
def soap(r):    return eps_setting(r) | dict(shampoo_beta=r.choice([None, r.uniform(.5,.99)]), precondition_frequency=r.choice([1, 3, 10]))

def normuon(r): return eps_setting(r) | dict(nesterov=r.random()<.5, ns_steps=r.randint(1,6), ns_dtype='float64')
normuon_inputs = [dict(ns_dtype='float64'), dict(ns_dtype='float64', nesterov=False), {}, dict(weight_decay=.3)]

rows = [
    Algorithm(genopt.Muon, Muon, muon, own=muon_inputs, lr=.05, more=dict(weight_decay=0, ns_dtype='float32'), digits=.95, patched=in_float64,
              peers=muon_peers, **matrices),
    Algorithm(genopt.NorMuon, apart(normuon_peer), normuon, own=normuon_inputs, lr=.5, more=dict(ns_dtype='float32'), source='pytorch_optimizer',
              patched=in_float64, **matrices),
    Algorithm(genopt.AdaMuon, apart(adamuon_peer), normuon, own=normuon_inputs, lr=.5, more=dict(weight_decay=0, ns_dtype='float32'), digits=.85, source='timm',
              patched=in_float64, **matrices),
    Algorithm(genopt.Scion, apart(scion_peer), scion, own=[dict(ns_dtype='float64'), dict(ns_dtype='float64', unconstrained=True, scale=.3)],
              lr=.3, more=dict(unconstrained=True, ns_dtype='float32'), second=dict(scale=2.), digits=.97, source='pytorch_optimizer', patched=in_float64, **matrices),
    Algorithm(genopt.Shampoo, apart(shampoo_peer), shampoo, own=[{}, dict(lr=.01, weight_decay=.1)], lr=.5, near=.15, source='pytorch_optimizer',
              names=names, peers=[shampoo_other]),
    Algorithm(genopt.SOAP, apart(SOAP), soap, own=[{}, dict(lr=.01, precondition_frequency=1)], lr=.1, source='pytorch_optimizer',
              patched='the eigenbasis in float64', names=names),
    Algorithm(genopt.Kron, Kron, kron, own=[{}, dict(lr=.01, weight_decay=.1)], lr=.1, source='kron_torch', digits=.85,
              patched='in float64, with our probes; its damping is added to a copy of the momentum, and vectors decay',
              names=('matrix', 'bias', 'strided', 'late')),
]

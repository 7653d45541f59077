"""Rows: genopt.algorithms.adaptive."""

from functools import partial
import inspect
import genopt,madgrad,numpy as np,optimi,pytorch_optimizer,qhoptim.pyt,timm.optim,torch,torch_optimizer
from genopt.blocks import l2_reg
from genopt import ones,rename,zeros
from genopt.blocks import stats,steps,transforms
from genopt.blocks.matrices import adagrad_eps_root_step
from genopt.optim.recipe import flatten
from timm.optim import adamw as timm_adamw
import references
from .row import Algorithm,Peer,apart,betas_setting,common_setting,eps_setting,log,other


in_old_torch = 'decoupled_weight_decay' not in inspect.signature(torch.optim.Adam).parameters

def adagrad(r):
    return common_setting(r) | dict(eps=log(r,-12,-3), lr_decay=r.choice([0, log(r,-4,-1)]), initial_accumulator_value=r.choice([0, log(r,-3,0)]))
def adadelta(r): return common_setting(r) | dict(rho=r.uniform(.5,.999), eps=log(r,-8,-3))
def rmsprop(r):
    return common_setting(r) | dict(alpha=r.uniform(.5,.999), eps=log(r,-10,-3), momentum=r.choice([0, r.random()]), centered=r.random()<.5)
def adamw(r): return eps_setting(r) | dict(amsgrad=r.random()<.5)
def adam(r):  return adamw(r) | ({} if in_old_torch else dict(decoupled_weight_decay=r.random()<.5))
def radam(r): return eps_setting(r) | dict(decoupled_weight_decay=r.random()<.5)
def nadam(r): return radam(r) | dict(momentum_decay=r.choice([0, log(r,-4,-1)]))
def adamc(r): return (s := adamw(r)) | dict(max_lr=s['lr'])
def sadam(r): return betas_setting(r) | dict(beta=log(r,0,3), decoupled_weight_decay=r.random()<.5)
def qhadam(r): return radam(r) | dict(nus=(r.random(), r.random()))
def belief(r): return radam(r) | dict(eps=log(r,-16,-6), amsgrad=r.random()<.5, rectify=r.random()<.5)
def yogi(r):  return eps_setting(r) | dict(initial_accumulator=log(r,-6,0))
def adabound(r): return eps_setting(r) | dict(final_lr=log(r,-2,0), gamma=log(r,-4,-1), amsbound=r.random()<.5)
def adopt(r): return radam(r) | dict(clip_exp=r.uniform(.1,.5))
def ademamix(r):
    warmup = r.choice([None, 50., 200.])
    return eps_setting(r) | dict(betas=(r.uniform(.3,.95), r.uniform(.5,.9999), r.uniform(.96,.9999)), alpha=r.uniform(0,8), beta3_warmup=warmup, alpha_warmup=warmup)
def mars(r):  return eps_setting(r) | dict(gamma=log(r,-3,-1))
def adan(r):  return eps_setting(r) | dict(betas=(r.random(), r.random(), r.uniform(.5,.9999)), no_prox=r.random()<.5)
def madgrads(r): return common_setting(r) | dict(momentum=r.choice([0, r.random()]), eps=log(r,-8,-3), decouple_decay=r.random()<.5)


class SAdam(references.Reference):
    "Tong et al. 2019, https://arxiv.org/abs/1908.00700, Algorithm 2 in NumPy, with Adam's debiasing"
    def __init__(self, params, lr=1e-3, betas=(.9,.999), beta=50., weight_decay=0, decoupled_weight_decay=False, *, maximize=False, foreach=None):
        super().__init__(params, lr, betas, weight_decay, maximize, foreach, beta=beta, decoupled=decoupled_weight_decay)

    def move(self, x, g, state, group):
        (beta1,beta2),eta,lamda,beta = group['betas'],group['lr'],group['weight_decay'],group['beta']
        theta,g = x.numpy(),g.numpy()
        if not state: state.update(t=0, m=np.zeros_like(theta), v=np.zeros_like(theta))
        if not group['decoupled']: g = g + lamda*theta
        state['t'] += 1
        t,state['m'],state['v'] = state['t'],beta1*state['m'] + (1-beta1)*g,beta2*state['v'] + (1-beta2)*g**2
        m_hat,v_hat = state['m']/(1-beta1**t),state['v']/(1-beta2**t)
        decayed = theta*(1-eta*lamda) if group['decoupled'] else theta
        x.copy_(torch.from_numpy(np.asarray(decayed - eta*m_hat/(np.logaddexp(0, beta*np.sqrt(v_hat))/beta))))

def warmed(params, beta3_warmup=None, alpha_warmup=None, **kw):
    return other(pytorch_optimizer.AdEMAMix, dict(foreach=False, weight_decouple=True, t_alpha_beta3=beta3_warmup))(params, **kw)
def corrected(params, max_lr=None, weight_decay=1e-2, foreach=None, **kw):
    return timm_adamw.AdamWLegacy([dict(params=params, max_lr_snapshot=max_lr)], foreach=False, corrected_weight_decay=True, weight_decay=weight_decay, **kw)

def change_from_zero(grad, prev_grad=zeros): return dict(change=grad-prev_grad, prev_grad=grad)
def early_eps_step(grad_avg, sqr_avg, debias1, debias2, eps=1e-8): return grad_avg/debias1 / ((sqr_avg+1e-15).sqrt()+eps) * debias2**.5
def late_eps_step(grad_avg, sqr_avg, debias1, debias2, rect, eps=1e-8):
    return grad_avg/debias1 * (rect/((sqr_avg/debias2).sqrt()+eps) if rect else 1)
def early_eps(update, sqr_avg, debias2, eps=1e-8): return update/((sqr_avg+1e-15).sqrt()+eps) * debias2**.5
def altered(cls, alter):
    "The algorithm `cls`, with the list of its blocks altered"
    def build(**kw): return alter([*flatten(cls.build(**kw))])
    build.__name__,build.__signature__ = cls.__name__,inspect.signature(cls.build)
    return genopt.algorithm(build)
def swapped(cls, swaps): return altered(cls, lambda cbs: [swaps.get(cb, cb) for cb in cbs])
def first(cls, *blocks): return altered(cls, lambda cbs: sorted(cbs, key=lambda cb: cb not in blocks))

def as_tensorflow(params, weight_decay=0, momentum=0, centered=False, maximize=False, eps=1e-8, alpha=.99, **kw):
    center = centered and [rename(stats.average_grad, mom='sqr_mom'), stats.center_sqr_grad]
    step   = rename(adagrad_eps_root_step, sqr_sum='grad_var' if centered else 'sqr_avg')
    cbs    = [maximize and transforms.maximize, l2_reg, partial(stats.average_sqr_grad, sqr_avg=ones), center, step, momentum and transforms.heavy_ball]
    return genopt.Optimizer(params, cbs, weight_decay=weight_decay, eps=eps, sqr_mom=alpha, **kw | (dict(momentum=momentum) if momentum else {}))

po = dict(foreach=False)
decoupled = dict(decoupled_weight_decay='weight_decouple')
in_float64 = 'its scalars in float64'
def power_of_the_step_before(t):
    "lambda t: (t-1)**0.25"
    return (t-1)**.25

class SparseAdam(torch.optim.SparseAdam):
    "torch's own, which takes sparse gradients only"
    def step(self):
        for g in self.param_groups:
            for p in g['params']: p.grad = None if p.grad is None else p.grad.to_sparse(1)
        super().step()
def sparse_ref(params, **kw): return SparseAdam(params, **kw)
def sparse_adam(r): return {k: v for k,v in eps_setting(r).items() if k!='weight_decay'}

rows = [
    Algorithm(genopt.Adagrad,  torch.optim.Adagrad, adagrad, lr=.5, near=.15),
    Algorithm(genopt.RMSprop,  torch.optim.RMSprop, rmsprop, lr=1e-2, fused=False, core=True,
              peers=[Peer('timm, RMSpropTF', other(timm.optim.RMSpropTF), 'as TensorFlow: eps is within the root, squares are averaged from 1 on', as_tensorflow)]),
    Algorithm(genopt.Adadelta, torch.optim.Adadelta, adadelta, lr=1., fused=False),
    Algorithm(genopt.Adam,     torch.optim.Adam,    adam,  core=True,
              peers=[Peer('optimi', other(optimi.Adam, po, decoupled_weight_decay='decouple_wd'), without=('amsgrad',))]),
    Algorithm(genopt.AdamW,    torch.optim.AdamW,   adamw, core=True,
              peers=[Peer('timm', other(timm_adamw.AdamWLegacy, po)), Peer('optimi', other(optimi.AdamW, po), without=('amsgrad',))]),
    Algorithm(genopt.AdamC,    apart(corrected),    adamc, own=[dict(max_lr=1e-3)], source='timm'),
    Algorithm(genopt.AMSGrad,  partial(torch.optim.Adam, amsgrad=True), eps_setting, own=[{}, dict(weight_decay=.1)]),
    Algorithm(genopt.Adamax,   torch.optim.Adamax,  eps_setting, fused=False, peers=[Peer('pytorch_optimizer', other(pytorch_optimizer.AdaMax, dict(foreach=False)))]),
    Algorithm(genopt.NAdam,    references.NAdam,    nadam, fused=False, core=True, patched='its product of momenta in float64',
              peers=[Peer('timm', other(timm.optim.nadam.NAdamLegacy), without=('decoupled_weight_decay', 'momentum_decay'))]),
    Algorithm(genopt.NAdamW,   other(timm.optim.NAdamW, po), eps_setting, more=dict(weight_decay=0), own=[{}], source='timm'),
    Algorithm(genopt.RAdam,    torch.optim.RAdam,   radam, lr=5e-3, fused=False, more=dict(betas=(.9,.99)), core=True, digits=.6, peers=[
        *(Peer(n, other(cls, fixed), 'decay is decoupled', partial(genopt.RAdam, decoupled_weight_decay=True), tol, ('decoupled_weight_decay',))
          for n,cls,fixed,tol in [('timm', timm.optim.radam.RAdamLegacy, {}, 1e-5), ('torch_optimizer', torch_optimizer.RAdam, {}, 1e-5),    # in float32
                                  ('pytorch_optimizer', pytorch_optimizer.RAdam, po|dict(degenerated_to_sgd=True), 1e-10)]),
        Peer('optimi', other(optimi.RAdam, po, decoupled_weight_decay='decouple_wd'), 'eps is added after debiasing',
             swapped(genopt.RAdam, {steps.radam_step: late_eps_step}))]),
    Algorithm(genopt.SparseAdam, sparse_ref, sparse_adam, lr=.1, own=[{}], names=('matrix','bias','strided','late'), second=dict(eps=1e-6),
              alone="lazy_rows reads 'rows', the rows of a sparse gradient", patched='its gradients made sparse'),
    Algorithm(genopt.SAdam,    SAdam,               sadam, own=[{}], source='paper'),
    Algorithm(genopt.QHAdam,   other(qhoptim.pyt.QHAdam, decoupled_weight_decay='decouple_weight_decay'), qhadam, own=[{}], source='qhoptim',
              peers=[Peer('pytorch_optimizer', other(pytorch_optimizer.QHAdam, po, **decoupled), tol=1e-6)]),       # it counts in float32
    Algorithm(genopt.AdaBelief, other(timm.optim.AdaBelief, dict(rectify=False), decoupled_weight_decay='decoupled_decay'), belief, own=[{}], source='timm',
              peers=[Peer('pytorch_optimizer', other(pytorch_optimizer.AdaBelief, po, amsgrad='ams_bound', **decoupled), without=('rectify',))]),
    Algorithm(genopt.Yogi,     other(torch_optimizer.Yogi), yogi, own=[{}], source='torch_optimizer',
              peers=[Peer('pytorch_optimizer', other(pytorch_optimizer.Yogi, po|dict(weight_decouple=False)))]),
    Algorithm(genopt.AdaBound, other(torch_optimizer.AdaBound), adabound, more=dict(gamma=1e-5), own=[{}], source='torch_optimizer',
              peers=[Peer('pytorch_optimizer', other(pytorch_optimizer.AdaBound, po|dict(weight_decouple=False), amsbound='ams_bound'))]),
    Algorithm(genopt.StableAdamW, other(pytorch_optimizer.StableAdamW, po), eps_setting, own=[{}], source='pytorch_optimizer',
              peers=[Peer('optimi', other(optimi.StableAdamW, po))]),
    Algorithm(genopt.LaProp,   other(references.in_double(timm.optim.LaProp), po), eps_setting, own=[{}, dict(weight_decay=.1)], source='timm', patched=in_float64,
              peers=[Peer('pytorch_optimizer', other(pytorch_optimizer.LaProp, po), 'eps is added before debiasing, and 1e-15 within the root',
                          swapped(genopt.LaProp, {steps.debiased_rms_step: early_eps}))]),
    Algorithm(genopt.ADOPT,    other(timm.optim.Adopt, po|dict(clip_exp=.25), decoupled_weight_decay='decoupled'), adopt, more=dict(betas=(.9,.99)), own=[{}], source='timm',
              peers=[Peer('pytorch_optimizer', other(pytorch_optimizer.ADOPT, po|dict(clip_lambda=power_of_the_step_before), **decoupled), 'the first step decays',
                          first(genopt.ADOPT, transforms.l2_reg, transforms.weight_decay), without=('clip_exp',))]),
    Algorithm(genopt.AdEMAMix, warmed, ademamix, own=[{}], source='pytorch_optimizer'),
    Algorithm(genopt.MARS,     other(timm.optim.Mars, dict(optimize_1d=True)), mars, own=[dict(betas=(.9,.99))], source='timm',
              peers=[Peer('pytorch_optimizer', other(pytorch_optimizer.MARS, po|dict(optimize_1d=True)), 'the gradient before the first is zero; eps is added before debiasing',
                   swapped(genopt.MARS, {stats.grad_change: change_from_zero, steps.adam_step: early_eps_step}))]),
    Algorithm(genopt.Adan,     other(timm.optim.Adan, po), adan, own=[{}], source='timm',
              peers=[Peer('pytorch_optimizer', other(pytorch_optimizer.Adan, po, no_prox='weight_decouple')),
                     Peer('optimi', other(optimi.Adan, po), without=('no_prox',))]),
    Algorithm(genopt.MADGRAD,  other(madgrad.MADGRAD), madgrads, own=[{}], source='madgrad',
              peers=[Peer('pytorch_optimizer', other(pytorch_optimizer.MADGRAD, po, decouple_decay='weight_decouple')),
                     Peer('timm', other(timm.optim.MADGRAD, decouple_decay='decoupled_decay'))]),
]

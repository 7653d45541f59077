"""References for algorithms that torch does not have: the paper's pseudocode, one parameter after the other, in place, for reading
beside it. And torch's NAdam, made exact, and Adafactor, for all parameters."""

import torch
from torch.testing._internal import common_optimizers as common


class Reference(torch.optim.Optimizer):
    "A loop over the parameters, which come as pairs of reals if they are complex. `foreach` is accepted, it changes nothing"
    def __init__(self, params, lr, betas, weight_decay, maximize, foreach, **more):
        super().__init__(params, dict(lr=lr, betas=betas, weight_decay=weight_decay, maximize=maximize, foreach=foreach, **more))

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for p in group['params']:
                if p.grad is None: continue
                x,g = [torch.view_as_real(o) if o.is_complex() else o for o in (p.detach(), p.grad)]
                self.move(x, -g if group['maximize'] else g, self.state[p], group)


class Lion(Reference):
    "Chen et al. 2023, https://arxiv.org/abs/2302.06675, Algorithm 2; the decay first, as in their own code"
    def __init__(self, params, lr=1e-4, betas=(0.9,0.99), weight_decay=0., *, maximize=False, foreach=None):
        super().__init__(params, lr, betas, weight_decay, maximize, foreach)

    def move(self, theta, g, state, group):
        (beta1,beta2),eta,lamda = group['betas'],float(group['lr']),group['weight_decay']
        if not state: state['m'] = torch.zeros_like(theta)
        m = state['m']
        c = beta1*m + (1-beta1)*g
        theta.mul_(1-eta*lamda).sub_(eta*torch.sign(c))
        m.mul_(beta2).add_((1-beta2)*g)


class LAMB(Reference):
    "You et al. 2020, https://arxiv.org/abs/1904.00962, Algorithm 2, with phi(x) = x"
    def __init__(self, params, lr=1e-3, betas=(0.9,0.999), eps=1e-6, weight_decay=0., *, maximize=False, foreach=None):
        super().__init__(params, lr, betas, weight_decay, maximize, foreach, eps=eps)

    def move(self, x, g, state, group):
        (beta1,beta2),eta,lamda = group['betas'],float(group['lr']),group['weight_decay']
        if not state: state.update(t=0, m=torch.zeros_like(x), v=torch.zeros_like(x))
        state['t'] += 1
        t,m,v = state['t'],state['m'],state['v']
        m.mul_(beta1).add_((1-beta1)*g)
        v.mul_(beta2).add_((1-beta2)*g**2)
        m_hat,v_hat = m/(1-beta1**t),v/(1-beta2**t)
        r = m_hat/(torch.sqrt(v_hat) + group['eps'])
        u = r + lamda*x
        x_norm,u_norm = (x**2).sum().sqrt().item(),(u**2).sum().sqrt().item()
        ratio = x_norm/u_norm if x_norm>0 and u_norm>0 else 1.
        x.sub_(eta*ratio*u)


class NAdam(torch.optim.NAdam):
    "torch's own, but with its product of momenta in double precision, as it computes everything else on the host; torch rounds it to float32"
    def _init_group(self, group, params_with_grad, grads, exp_avgs, exp_avg_sqs, mu_products, state_steps):
        res = super()._init_group(group, params_with_grad, grads, exp_avgs, exp_avg_sqs, mu_products, state_steps)
        for p in params_with_grad: self.state[p]['mu_product'] = self.state[p]['mu_product'].double()
        mu_products[:] = [self.state[p]['mu_product'] for p in params_with_grad]
        return res


class Adafactor(torch.optim.Adafactor):
    "torch's own, which passes over empty parameters, where it would divide by zero"
    def _init_group(self, group, *lists): return super()._init_group(dict(params=[p for p in group['params'] if p.numel()]), *lists)

def in_double(cls):
    "`cls`, but with what it keeps in the default dtype, rates and weights of averages, in double precision"
    class Double(cls):
        def step(self, closure=None):
            torch.set_default_dtype(torch.float64)
            try: return super().step(closure)
            finally: torch.set_default_dtype(torch.float32)
    return Double

ASGD = in_double(torch.optim.ASGD)


# -- What torch's optim_db has for its own algorithms: settings to try, and settings to refuse --

lion_inputs = [{}, dict(lr=.01), dict(betas=(.95,.98)), dict(weight_decay=.9), dict(weight_decay=.9, maximize=True)]
lamb_inputs = [{}, dict(lr=.01), dict(eps=1e-3), dict(betas=(.8,.99)), dict(weight_decay=.9), dict(weight_decay=.9, maximize=True)]

def error_inputs(device, dtype):
    bad = dict(beta1 = (dict(betas=(1.,.5)),    'Invalid beta parameter at index 0: 1.0'),
               beta2 = (dict(betas=(.5,-.1)),   'Invalid beta parameter at index 1: -0.1'),
               decay = (dict(weight_decay=-1.), 'Invalid weight_decay value: -1.0'),
               lr    = (dict(lr=-1.),           'Invalid learning rate: -1.0'))
    return common.get_error_inputs_for_all_optims(device, dtype) + [
        common.ErrorOptimizerInput(common.OptimizerInput(None, kw, desc), error_type=ValueError, error_regex=words) for desc,(kw,words) in bad.items()]

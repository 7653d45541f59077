"""fastai's optimizers, with fastai's names, signatures, defaults and numbers: `from fastai.optimizer import Adam, ranger` becomes
`from genopt.fastai import Adam, ranger`. This module does not import fastai. The order is fastai's, from simple to complex.

As in fastai, the values at construction choose the callbacks, once: setting `mom` later on an SGD that was made without momentum does not give it
momentum, as it would with `genopt.SGD`. `lr` and any other number may be one for each group, as a list or a slice: `lr=slice(1e-4, 1e-2)`.
genopt's own arguments, such as `foreach`, `fused` and `nonfinite`, are given by name.

Three things differ. `RMSProp` uses its `eps`; fastai's has 1e-8, whatever it is given. `Lookahead` counts the steps of each parameter and leaves one
without a gradient alone; fastai counts the steps of the optimizer, and moves frozen parameters and those without a gradient too. `Larc` leaves the
decay out of its ratio for the parameters that Learner exempts from decay, which are biases and norms; fastai keeps it in."""

from functools import partial
from fastcore.foundation import L
from fastcore.meta import delegates
from .contract.chain import Chain
from .contract.names import rename
from .blocks.moves import lookahead
from .blocks.stats import average_grad,average_sqr_grad,debias,rectification_term,step_stat
from .blocks.steps import adam_step,momentum_step,qhadam_step,rms_prop_step,sadam_step,sgd_step
from .blocks.transforms import decay,rectify_update,scale_by_trust_ratio,scale_update_by_larc
from .optim.hypers import engine_flags
from .optim.optimizer import Optimizer as Plain
from .optim.recipe import flatten

__all__ = ['SGD', 'RMSProp', 'Adam', 'RAdam', 'QHAdam', 'Larc', 'Lamb', 'Lookahead', 'ranger']


class Optimizer(Plain):
    """An optimizer with fastai's hyper-parameters: each is one value, or has one for each group. A name that no callback reads becomes a note in the
    groups. `flags` are genopt's own arguments"""
    def __init__(self, params, cbs, flags, **hypers):
        asks  = Chain(flatten(cbs)).asks
        first = dict(lr=0.)
        later = {}
        for k,v in hypers.items():
            now = k in asks and not isinstance(v, (slice,list,tuple,L))
            (first if now else later)[k] = v
        super().__init__(params, cbs, **first | flags)
        self.set_hypers(**later)

    def zero_grad(self, set_to_none=False):
        """Make the gradients zeros, as fastai does: a parameter that the next backward pass does not reach goes on by its momentum and its decay.
        `set_to_none=True` removes them, as torch does, and such a parameter rests"""
        super().zero_grad(set_to_none)

sum_grad   = partial(average_grad, dampening=0)                             # fastai's momentum: `m <- mom*m + g`, from zero
adam_stats = [average_grad, average_sqr_grad, step_stat, debias]

def momentum(mom):
    "The callbacks of SGD, with momentum if `mom`"
    return [sum_grad, momentum_step] if mom else [sgd_step]


class SGD(Optimizer):
    "Stochastic gradient descent; if `mom`, with momentum (Polyak 1964); https://docs.fast.ai/optimizer.html#sgd"
    def __init__(self, params, lr, mom=0., wd=0., decouple_wd=True, **flags):
        cbs = [decay(True, decouple_wd), momentum(mom)]
        super().__init__(params, cbs, flags, lr=lr, mom=mom, wd=wd)

class RMSProp(Optimizer):
    "The gradient, or momentum's sum of gradients if `mom`, over the root of the mean squared gradient; https://docs.fast.ai/optimizer.html#rmsprop"
    def __init__(self, params, lr, mom=0., sqr_mom=0.99, eps=1e-8, wd=0., decouple_wd=True, **flags):
        step = rename(rms_prop_step, grad='grad_avg') if mom else rms_prop_step
        cbs  = [decay(True, decouple_wd), mom and sum_grad, average_sqr_grad, step]
        super().__init__(params, cbs, flags, lr=lr, mom=mom, sqr_mom=sqr_mom, eps=eps, wd=wd)

class Adam(Optimizer):
    "Adam (Kingma and Ba 2015) or, with `decouple_wd`, AdamW; https://docs.fast.ai/optimizer.html#adam"
    def __init__(self, params, lr, mom=0.9, sqr_mom=0.99, eps=1e-5, wd=0.01, decouple_wd=True, **flags):
        cbs = [decay(True, decouple_wd), adam_stats, adam_step]
        super().__init__(params, cbs, flags, lr=lr, mom=mom, sqr_mom=sqr_mom, eps=eps, wd=wd)

class RAdam(Optimizer):
    """Rectified Adam (Liu et al. 2020), which adds `eps` to the debiased root; if `beta`, rectified SAdam, which puts the denominator through
    softplus (Tong et al. 2019); https://docs.fast.ai/optimizer.html#radam"""
    def __init__(self, params, lr, mom=0.9, sqr_mom=0.99, eps=1e-5, wd=0., beta=0., decouple_wd=True, **flags):
        cbs = [decay(True, decouple_wd), adam_stats, rectification_term, sadam_step, rectify_update]
        super().__init__(params, cbs, flags, lr=lr, mom=mom, sqr_mom=sqr_mom, eps=eps, wd=wd, beta=beta)

class QHAdam(Optimizer):
    "Quasi-hyperbolic Adam (Ma and Yarats 2019); https://docs.fast.ai/optimizer.html#qhadam"
    def __init__(self, params, lr, mom=0.999, sqr_mom=0.999, nu_1=0.7, nu_2=1.0, eps=1e-8, wd=0., decouple_wd=True, **flags):
        cbs = [decay(True, decouple_wd), adam_stats, rename(qhadam_step, nu1='nu_1', nu2='nu_2')]
        super().__init__(params, cbs, flags, lr=lr, nu_1=nu_1, nu_2=nu_2, mom=mom, sqr_mom=sqr_mom, eps=eps, wd=wd)

class Larc(Optimizer):
    "LARC, or LARS without `clip` (You et al. 2017); the ratio takes the gradient's norm before momentum; https://docs.fast.ai/optimizer.html#larc"
    def __init__(self, params, lr, mom=0.9, clip=True, trust_coeff=0.02, eps=1e-8, wd=0., decouple_wd=True, **flags):
        cbs = [decay(True, decouple_wd), momentum(mom), partial(scale_update_by_larc, clip=clip)]
        super().__init__(params, cbs, flags, lr=lr, mom=mom, trust_coeff=trust_coeff, eps=eps, wd=wd)

class Lamb(Optimizer):
    "LAMB (You et al. 2020) with a ratio of 10 at most; decay is not scaled by the ratio; https://docs.fast.ai/optimizer.html#lamb"
    def __init__(self, params, lr, mom=0.9, sqr_mom=0.99, eps=1e-5, wd=0., decouple_wd=True, **flags):
        cbs = [decay(True, decouple_wd), adam_stats, adam_step, partial(scale_by_trust_ratio, max_ratio=10.)]
        super().__init__(params, cbs, flags, lr=lr, mom=mom, sqr_mom=sqr_mom, eps=eps, wd=wd)


class Lookahead(Optimizer):
    """Lookahead (Zhang et al. 2019) around `opt`, any optimizer of genopt: the callbacks that it has now with `lookahead` behind them, over the same
    parameters, with the same hyper-parameters and state. `opt` itself is not to be used any more; https://docs.fast.ai/optimizer.html#lookahead

    It counts the steps of each parameter. fastai counts those of the optimizer, so a parameter whose first gradient comes later, or that is frozen
    for a while, is moved to its slow weights at other steps than in fastai. The numbers are fastai's where every parameter has a gradient in each
    step"""
    def __init__(self, opt, k=6, alpha=0.5):
        chains = [opt._recipe(g).chain(g) for g in opt.param_groups]
        first  = chains[0]
        names  = {n: f'slow_{n}' for n in ('alpha', 'k') if any(n in chain.asks for chain in chains)}        # what `opt` calls something else
        behind = rename(lookahead, **names) if names else lookahead
        slow   = {names.get(n, n): v for n,v in (('k', k), ('alpha', alpha))}
        groups = []
        for g,hypers,chain in zip(opt.param_groups, opt.hypers, chains):
            group = {n: v for n,v in hypers.items() if n in chain.asks}
            group['params'] = [*zip(g['param_names'], g['params'])] if 'param_names' in g else g['params']
            if chain is not first:
                group |= dict(cbs=[*chain.cbs, behind]) | slow
            groups.append(group)
        hypers = {n: v for n,v in groups[0].items() if n!='params'}
        flags  = {n: opt.defaults[n] for n in engine_flags if n!='maximize'}            # `maximize` is one of the callbacks by now
        super().__init__(groups, [*first.cbs, behind], flags | dict(nonfinite=opt.nonfinite), **hypers, **slow)
        self.state.update(opt.state)

@delegates(RAdam)
def ranger(params, lr, mom=0.95, wd=0.01, eps=1e-6, k=6, alpha=0.5, **kwargs):
    "`Lookahead` of `RAdam`, which counts the steps of each parameter; https://docs.fast.ai/optimizer.html#ranger"
    return Lookahead(RAdam(params, lr=lr, mom=mom, wd=wd, eps=eps, **kwargs), k=k, alpha=alpha)

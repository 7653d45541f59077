"""fastai's optimizers, under its names and with its signatures, defaults and numbers: `from fastai.optimizer import Adam, ranger` becomes
`from genopt.fastai import Adam, ranger`. fastai itself is not needed. In fastai's order, from simple to complex.

As there, the list of callbacks is made once, of the values at construction: setting `mom` on an SGD that was made without does not give it
momentum, as it would with `genopt.SGD`. `lr` and any other number may be one for each group, a list or a slice: `lr=slice(1e-4, 1e-2)`.
What genopt adds, `foreach`, `fused`, `nonfinite` and so on, is given by name.

Three differences. `RMSProp` uses the `eps` it is given; fastai's has 1e-8 whatever it is given. `Lookahead` counts each parameter's own steps and
leaves one without a gradient alone; fastai counts the optimizer's, and pulls those too that are frozen or had no gradient. For parameters that
Learner exempts from decay, biases and norms, `Larc` has no decay in its ratio either; fastai has it there."""

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
    "An optimizer as fastai makes it: hyper-parameters may be one value, or one for each group; one that no callback reads is kept, as a note"
    def __init__(self, params, cbs, flags, **hypers):
        asks  = Chain(flatten(cbs)).asks
        later = {k: v for k,v in hypers.items() if isinstance(v, (slice,list,tuple,L)) or k not in asks}
        super().__init__(params, cbs, **dict(lr=0.) | {k: v for k,v in hypers.items() if k not in later} | flags)
        self.set_hypers(**later)

sum_grad   = partial(average_grad, dampening=0)                             # fastai's momentum: `m <- mom*m + g`, from zero
adam_stats = [average_grad, average_sqr_grad, step_stat, debias]


class SGD(Optimizer):
    "Stochastic gradient descent, with momentum (Polyak 1964) if `mom`; https://docs.fast.ai/optimizer.html#sgd"
    def __init__(self, params, lr, mom=0., wd=0., decouple_wd=True, **flags):
        cbs = [decay(True, decouple_wd), [sum_grad, momentum_step] if mom else sgd_step]
        super().__init__(params, cbs, flags, lr=lr, mom=mom, wd=wd)

class RMSProp(Optimizer):
    "The gradient or, if `mom`, the sum that is momentum's, over the root of its mean square; https://docs.fast.ai/optimizer.html#rmsprop"
    def __init__(self, params, lr, mom=0., sqr_mom=0.99, eps=1e-8, wd=0., decouple_wd=True, **flags):
        cbs = [decay(True, decouple_wd), mom and sum_grad, average_sqr_grad, rename(rms_prop_step, grad='grad_avg') if mom else rms_prop_step]
        super().__init__(params, cbs, flags, lr=lr, mom=mom, sqr_mom=sqr_mom, eps=eps, wd=wd)

class Adam(Optimizer):
    "Adam (Kingma and Ba 2015) or, with `decouple_wd`, AdamW; https://docs.fast.ai/optimizer.html#adam"
    def __init__(self, params, lr, mom=0.9, sqr_mom=0.99, eps=1e-5, wd=0.01, decouple_wd=True, **flags):
        super().__init__(params, [decay(True, decouple_wd), adam_stats, adam_step], flags, lr=lr, mom=mom, sqr_mom=sqr_mom, eps=eps, wd=wd)

class RAdam(Optimizer):
    """Rectified Adam (Liu et al. 2020), `eps` beside the debiased root; if `beta`, rectified SAdam, whose denominator goes through softplus
    (Tong et al. 2019); https://docs.fast.ai/optimizer.html#radam"""
    def __init__(self, params, lr, mom=0.9, sqr_mom=0.99, eps=1e-5, wd=0., beta=0., decouple_wd=True, **flags):
        cbs = [decay(True, decouple_wd), adam_stats, rectification_term, sadam_step, rectify_update]
        super().__init__(params, cbs, flags, lr=lr, mom=mom, sqr_mom=sqr_mom, eps=eps, wd=wd, beta=beta)

class QHAdam(Optimizer):
    "Quasi-hyperbolic Adam (Ma and Yarats 2019); https://docs.fast.ai/optimizer.html#qhadam"
    def __init__(self, params, lr, mom=0.999, sqr_mom=0.999, nu_1=0.7, nu_2=1.0, eps=1e-8, wd=0., decouple_wd=True, **flags):
        cbs = [decay(True, decouple_wd), adam_stats, rename(qhadam_step, nu1='nu_1', nu2='nu_2')]
        super().__init__(params, cbs, flags, lr=lr, nu_1=nu_1, nu_2=nu_2, mom=mom, sqr_mom=sqr_mom, eps=eps, wd=wd)

class Larc(Optimizer):
    "LARC or, without `clip`, LARS (You et al. 2017), by the gradient's norm before momentum; https://docs.fast.ai/optimizer.html#larc"
    def __init__(self, params, lr, mom=0.9, clip=True, trust_coeff=0.02, eps=1e-8, wd=0., decouple_wd=True, **flags):
        cbs = [decay(True, decouple_wd), [sum_grad, momentum_step] if mom else sgd_step, partial(scale_update_by_larc, clip=clip)]
        super().__init__(params, cbs, flags, lr=lr, mom=mom, trust_coeff=trust_coeff, eps=eps, wd=wd)

class Lamb(Optimizer):
    "LAMB (You et al. 2020) with a ratio of 10 at most, and the decay outside of it; https://docs.fast.ai/optimizer.html#lamb"
    def __init__(self, params, lr, mom=0.9, sqr_mom=0.99, eps=1e-5, wd=0., decouple_wd=True, **flags):
        cbs = [decay(True, decouple_wd), adam_stats, adam_step, partial(scale_by_trust_ratio, max_ratio=10.)]
        super().__init__(params, cbs, flags, lr=lr, mom=mom, sqr_mom=sqr_mom, eps=eps, wd=wd)


class Lookahead(Optimizer):
    """The callbacks that `opt` has now, any optimizer of genopt, and `lookahead` behind them (Zhang et al. 2019), over the same parameters, with the
    same hyper-parameters and state. `opt` itself is done with; https://docs.fast.ai/optimizer.html#lookahead"""
    def __init__(self, opt, k=6, alpha=0.5):
        first,*_ = chains = [opt._recipe(g).chain(g) for g in opt.param_groups]
        def group(g, h, chain):
            params = [*zip(g['param_names'], g['params'])] if 'param_names' in g else g['params']
            own    = {} if chain is first else dict(cbs=[*chain.cbs, lookahead], k=k, alpha=alpha)
            return dict(params=params) | {n: h[n] for n in h if n in chain.asks} | own
        groups = [*map(group, opt.param_groups, opt.hypers, chains)]
        hypers = {n: v for n,v in groups[0].items() if n!='params'}
        flags  = {n: opt.defaults[n] for n in engine_flags if n!='maximize'}            # that is one of the callbacks
        super().__init__(groups, [*first.cbs, lookahead], flags | dict(nonfinite=opt.nonfinite), **hypers, k=k, alpha=alpha)
        self.state.update(opt.state)

@delegates(RAdam)
def ranger(params, lr, mom=0.95, wd=0.01, eps=1e-6, k=6, alpha=0.5, **kwargs):
    "`Lookahead` of `RAdam`; https://docs.fast.ai/optimizer.html#ranger"
    return Lookahead(RAdam(params, lr=lr, mom=mom, wd=wd, eps=eps, **kwargs), k=k, alpha=alpha)

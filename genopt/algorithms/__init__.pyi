# Written by `python -m genopt.tools.stubs`
"""Algorithms, each a short list of blocks. After their own arguments they take fastai's spelling of those, and what every algorithm has."""

from types import ModuleType
from typing import Literal
from torch import Tensor
from ..optim.algorithm import Algorithm
from ..optim.optimizer import Params
from . import (
    momentum as momentum, adaptive as adaptive, layerwise as layerwise, low_memory as low_memory, matrix as matrix, rate_free as rate_free,
    averaged as averaged, reevaluating as reevaluating,
)

families: tuple[ModuleType, ...]
def list_algorithms(pattern: str = '*') -> list[str]: ...

__all__ = [
    'SGD', 'SGDW', 'QHM', 'AggMo', 'ASGD', 'Rprop', 'Signum', 'Tiger', 'Lion', 'Adagrad', 'RMSprop', 'Adadelta', 'Adam', 'AdamW', 'AdamC', 'AMSGrad',
    'Adamax', 'NAdam', 'NAdamW', 'RAdam', 'SparseAdam', 'SAdam', 'QHAdam', 'AdaBelief', 'Yogi', 'AdaBound', 'StableAdamW', 'LaProp', 'ADOPT',
    'AdEMAMix', 'MARS', 'Adan', 'MADGRAD', 'Fromage', 'LARS', 'LARC', 'NovoGrad', 'LAMB', 'SGDP', 'AdamP', 'SM3', 'Adafactor', 'CAME', 'Muon',
    'NorMuon', 'AdaMuon', 'Scion', 'Shampoo', 'SOAP', 'Kron', 'DoG', 'LDoG', 'DoWG', 'DAdaptAdam', 'Prodigy', 'SGDScheduleFree', 'AdamWScheduleFree',
    'SAM', 'ASAM', 'AdaHessian', 'Sophia', 'LBFGS',
]

class SGD(Algorithm):
    """Stochastic gradient descent, with momentum (Polyak 1964) or Nesterov's (Sutskever et al. 2013,
    http://proceedings.mlr.press/v28/sutskever13.html), as torch.optim.SGD: the buffer is a sum, and starts at the first gradient."""
    def __init__(
        self, params: Params, lr: float | Tensor = 0.001, momentum: float | Tensor = 0, dampening: float | Tensor = 0,
        weight_decay: float | Tensor = 0, nesterov: bool = False,
        *, mom: float | Tensor = ..., wd: float | Tensor = ...,
        maximize: bool = False, foreach: bool | None = None, capturable: bool = False, differentiable: bool = False, fused: bool | None = None,
        nonfinite: Literal['propagate', 'raise', 'skip'] = 'propagate',
    ) -> None: ...

class SGDW(Algorithm):
    "SGD with decoupled weight decay (Loshchilov and Hutter 2019, https://arxiv.org/abs/1711.05101), the rate outside of the buffer, as in timm."
    def __init__(
        self, params: Params, lr: float | Tensor = 0.001, momentum: float | Tensor = 0, dampening: float | Tensor = 0,
        weight_decay: float | Tensor = 0, nesterov: bool = False,
        *, mom: float | Tensor = ..., wd: float | Tensor = ...,
        maximize: bool = False, foreach: bool | None = None, capturable: bool = False, differentiable: bool = False, fused: bool | None = None,
        nonfinite: Literal['propagate', 'raise', 'skip'] = 'propagate',
    ) -> None: ...

class QHM(Algorithm):
    """Quasi-hyperbolic momentum: between the gradient and its average (Ma and Yarats 2019, https://arxiv.org/abs/1810.06801). The paper's momentum
    and `nu`; it takes a rate 10 times SGD's with momentum 0.9, because the average is no sum. `nu=momentum` is Nesterov's."""
    def __init__(
        self, params: Params, lr: float | Tensor = 0.001, momentum: float | Tensor = 0.999, nu: float | Tensor = 0.7,
        weight_decay: float | Tensor = 0, decoupled_weight_decay: bool = False,
        *, mom: float | Tensor = ..., wd: float | Tensor = ...,
        maximize: bool = False, foreach: bool | None = None, capturable: bool = False, differentiable: bool = False, fused: bool | None = None,
        nonfinite: Literal['propagate', 'raise', 'skip'] = 'propagate',
    ) -> None: ...

class AggMo(Algorithm):
    "Along three sums of gradients of different length (Lucas et al. 2019, https://arxiv.org/abs/1804.00325), with the paper's damping."
    def __init__(
        self, params: Params, lr: float | Tensor = 0.001, betas: tuple[float | Tensor, float | Tensor, float | Tensor] = (0.0, 0.9, 0.99),
        weight_decay: float | Tensor = 0,
        *, mom: float | Tensor = ..., sqr_mom: float | Tensor = ..., mom3: float | Tensor = ..., wd: float | Tensor = ...,
        maximize: bool = False, foreach: bool | None = None, capturable: bool = False, differentiable: bool = False, fused: bool | None = None,
        nonfinite: Literal['propagate', 'raise', 'skip'] = 'propagate',
    ) -> None: ...

class ASGD(Algorithm):
    """Averaged descent (Polyak and Juditsky 1992, https://doi.org/10.1137/0330046), as torch.optim.ASGD: plain descent whose rate falls with the
    power `alpha`, decay by `lambd`, and `p_avg` in the state, torch's `ax`: the parameter itself, and from step `t0` on its mean."""
    def __init__(
        self, params: Params, lr: float | Tensor = 0.01, lambd: float | Tensor = 0.0001, alpha: float | Tensor = 0.75, t0: float | Tensor = 1000000.0,
        weight_decay: float | Tensor = 0,
        *, wd: float | Tensor = ...,
        maximize: bool = False, foreach: bool | None = None, capturable: bool = False, differentiable: bool = False, fused: bool | None = None,
        nonfinite: Literal['propagate', 'raise', 'skip'] = 'propagate',
    ) -> None: ...

class Rprop(Algorithm):
    """A step size for each element, which grows while the gradient keeps its sign; for full batches (Riedmiller and Braun 1993,
    https://doi.org/10.1109/ICNN.1993.298623). As torch.optim.Rprop, without going back; `lr` is the first size."""
    def __init__(
        self, params: Params, lr: float | Tensor = 0.01, etas: tuple[float | Tensor, float | Tensor] = (0.5, 1.2),
        step_sizes: tuple[float | Tensor, float | Tensor] = (1e-06, 50),
        *, eta_minus: float | Tensor = ..., eta_plus: float | Tensor = ..., min_step: float | Tensor = ..., max_step: float | Tensor = ...,
        maximize: bool = False, foreach: bool | None = None, capturable: bool = False, differentiable: bool = False, fused: bool | None = None,
        nonfinite: Literal['propagate', 'raise', 'skip'] = 'propagate',
    ) -> None: ...

class Signum(Algorithm):
    """The sign of the average, or with `momentum=0` of the gradient, signSGD (Bernstein et al. 2018, https://arxiv.org/abs/1802.04434). Weight decay
    is decoupled, as in the paper."""
    def __init__(
        self, params: Params, lr: float | Tensor = 0.001, momentum: float | Tensor = 0.9, weight_decay: float | Tensor = 0,
        *, mom: float | Tensor = ..., wd: float | Tensor = ...,
        maximize: bool = False, foreach: bool | None = None, capturable: bool = False, differentiable: bool = False, fused: bool | None = None,
        nonfinite: Literal['propagate', 'raise', 'skip'] = 'propagate',
    ) -> None: ...

class Tiger(Algorithm):
    "Lion with one beta for both, and so Signum with decay (Su 2023, https://kexue.fm/archives/9512), without its rule for the rate of each tensor."
    def __init__(
        self, params: Params, lr: float | Tensor = 0.001, beta: float | Tensor = 0.965, weight_decay: float | Tensor = 0.01,
        *, wd: float | Tensor = ...,
        maximize: bool = False, foreach: bool | None = None, capturable: bool = False, differentiable: bool = False, fused: bool | None = None,
        nonfinite: Literal['propagate', 'raise', 'skip'] = 'propagate',
    ) -> None: ...

class Lion(Algorithm):
    """The sign of an average, and so half of AdamW's state (Chen et al. 2023, https://arxiv.org/abs/2302.06675). `betas`: for the sign,
    and for the average kept. Every element moves by `lr`, so `lr` is 3 to 10 times smaller than AdamW's, `weight_decay` as much larger."""
    def __init__(
        self, params: Params, lr: float | Tensor = 0.0001, betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.99),
        weight_decay: float | Tensor = 0.0,
        *, mom: float | Tensor = ..., sqr_mom: float | Tensor = ..., wd: float | Tensor = ...,
        maximize: bool = False, foreach: bool | None = None, capturable: bool = False, differentiable: bool = False, fused: bool | None = None,
        nonfinite: Literal['propagate', 'raise', 'skip'] = 'propagate',
    ) -> None: ...

class Adagrad(Algorithm):
    """The gradient over the root of the sum of all its squares (Duchi et al. 2011, https://jmlr.org/papers/v12/duchi11a.html), the sum from
    `initial_accumulator_value` on; the rate falls by `lr_decay`. As torch.optim.Adagrad: `eps` outside the root, the sum from 0 on."""
    def __init__(
        self, params: Params, lr: float | Tensor = 0.01, lr_decay: float | Tensor = 0, weight_decay: float | Tensor = 0,
        initial_accumulator_value: float | Tensor = 0, eps: float | Tensor = 1e-10,
        *, wd: float | Tensor = ...,
        maximize: bool = False, foreach: bool | None = None, capturable: bool = False, differentiable: bool = False, fused: bool | None = None,
        nonfinite: Literal['propagate', 'raise', 'skip'] = 'propagate',
    ) -> None: ...

class RMSprop(Algorithm):
    """The gradient over the root of its mean square (Hinton 2012, http://www.cs.toronto.edu/~tijmen/csc321/slides/lecture_slides_lec6.pdf)
    or, `centered`, its standard deviation (Graves 2013, https://arxiv.org/abs/1308.0850). `momentum` is of the scaled gradient."""
    def __init__(
        self, params: Params, lr: float | Tensor = 0.01, alpha: float | Tensor = 0.99, eps: float | Tensor = 1e-08, weight_decay: float | Tensor = 0,
        momentum: float | Tensor = 0, centered: bool = False,
        *, sqr_mom: float | Tensor = ..., wd: float | Tensor = ..., mom: float | Tensor = ...,
        maximize: bool = False, foreach: bool | None = None, capturable: bool = False, differentiable: bool = False, fused: bool | None = None,
        nonfinite: Literal['propagate', 'raise', 'skip'] = 'propagate',
    ) -> None: ...

class Adadelta(Algorithm):
    """RMSprop with updates in units of the parameter: times the root of the mean square of updates before, so the rate needs no tuning
    (Zeiler 2012, https://arxiv.org/abs/1212.5701)."""
    def __init__(
        self, params: Params, lr: float | Tensor = 1.0, rho: float | Tensor = 0.9, eps: float | Tensor = 1e-06, weight_decay: float | Tensor = 0,
        *, wd: float | Tensor = ...,
        maximize: bool = False, foreach: bool | None = None, capturable: bool = False, differentiable: bool = False, fused: bool | None = None,
        nonfinite: Literal['propagate', 'raise', 'skip'] = 'propagate',
    ) -> None: ...

class Adam(Algorithm):
    """Adaptive moments: momentum's average over RMSprop's, both debiased (Kingma and Ba 2015, https://arxiv.org/abs/1412.6980).
    `amsgrad` divides by the largest second moment so far (Reddi et al. 2018, https://arxiv.org/abs/1904.09237)."""
    def __init__(
        self, params: Params, lr: float | Tensor = 0.001, betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999), eps: float | Tensor = 1e-08,
        weight_decay: float | Tensor = 0, amsgrad: bool = False,
        *, decoupled_weight_decay: bool = False, mom: float | Tensor = ..., sqr_mom: float | Tensor = ..., wd: float | Tensor = ...,
        maximize: bool = False, foreach: bool | None = None, capturable: bool = False, differentiable: bool = False, fused: bool | None = None,
        nonfinite: Literal['propagate', 'raise', 'skip'] = 'propagate',
    ) -> None: ...

class AdamW(Algorithm):
    "Adam with decoupled weight decay (Loshchilov and Hutter 2019, https://arxiv.org/abs/1711.05101)."
    def __init__(
        self, params: Params, lr: float | Tensor = 0.001, betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999), eps: float | Tensor = 1e-08,
        weight_decay: float | Tensor = 0.01, amsgrad: bool = False,
        *, mom: float | Tensor = ..., sqr_mom: float | Tensor = ..., wd: float | Tensor = ...,
        maximize: bool = False, foreach: bool | None = None, capturable: bool = False, differentiable: bool = False, fused: bool | None = None,
        nonfinite: Literal['propagate', 'raise', 'skip'] = 'propagate',
    ) -> None: ...

class AdamC(Algorithm):
    """AdamW whose decay falls with the square of the rate, `lr^2/max_lr` (Defazio 2025, https://arxiv.org/abs/2506.02285), for all parameters; the
    paper leaves out the last layer. `max_lr`: the schedule's largest rate; None means the largest so far, so decay is AdamW's while lr rises."""
    def __init__(
        self, params: Params, lr: float | Tensor = 0.001, betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999), eps: float | Tensor = 1e-08,
        weight_decay: float | Tensor = 0.01, amsgrad: bool = False, max_lr: float | Tensor | str | None = None,
        *, mom: float | Tensor = ..., sqr_mom: float | Tensor = ..., wd: float | Tensor = ...,
        maximize: bool = False, foreach: bool | None = None, capturable: bool = False, differentiable: bool = False, fused: bool | None = None,
        nonfinite: Literal['propagate', 'raise', 'skip'] = 'propagate',
    ) -> None: ...

class AMSGrad(Algorithm):
    "Adam by the largest second moment so far (Reddi et al. 2018, https://arxiv.org/abs/1904.09237): `Adam(amsgrad=True)`, debiased as torch does it."
    def __init__(
        self, params: Params, lr: float | Tensor = 0.001, betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999), eps: float | Tensor = 1e-08,
        weight_decay: float | Tensor = 0,
        *, mom: float | Tensor = ..., sqr_mom: float | Tensor = ..., wd: float | Tensor = ...,
        maximize: bool = False, foreach: bool | None = None, capturable: bool = False, differentiable: bool = False, fused: bool | None = None,
        nonfinite: Literal['propagate', 'raise', 'skip'] = 'propagate',
    ) -> None: ...

class Adamax(Algorithm):
    "Adam by the largest gradient of late, not the root of the mean square (Kingma and Ba 2015, section 7.1, https://arxiv.org/abs/1412.6980)."
    def __init__(
        self, params: Params, lr: float | Tensor = 0.002, betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999), eps: float | Tensor = 1e-08,
        weight_decay: float | Tensor = 0,
        *, mom: float | Tensor = ..., sqr_mom: float | Tensor = ..., wd: float | Tensor = ...,
        maximize: bool = False, foreach: bool | None = None, capturable: bool = False, differentiable: bool = False, fused: bool | None = None,
        nonfinite: Literal['propagate', 'raise', 'skip'] = 'propagate',
    ) -> None: ...

class NAdam(Algorithm):
    "Adam with Nesterov momentum, which warms up with `momentum_decay` (Dozat 2016, https://openreview.net/forum?id=OM0jvwB8jIp57ZJjtNEZ)."
    def __init__(
        self, params: Params, lr: float | Tensor = 0.002, betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999), eps: float | Tensor = 1e-08,
        weight_decay: float | Tensor = 0, momentum_decay: float | Tensor = 0.004, decoupled_weight_decay: bool = False,
        *, mom: float | Tensor = ..., sqr_mom: float | Tensor = ..., wd: float | Tensor = ...,
        maximize: bool = False, foreach: bool | None = None, capturable: bool = False, differentiable: bool = False, fused: bool | None = None,
        nonfinite: Literal['propagate', 'raise', 'skip'] = 'propagate',
    ) -> None: ...

class NAdamW(Algorithm):
    """AdamW whose first average is looked at one step ahead, at this gradient once more, with a constant momentum, as in timm and in MLCommons'
    AlgoPerf (Dozat 2016, https://openreview.net/forum?id=OM0jvwB8jIp57ZJjtNEZ; torch's NAdam has the paper's warming momentum)."""
    def __init__(
        self, params: Params, lr: float | Tensor = 0.001, betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999), eps: float | Tensor = 1e-08,
        weight_decay: float | Tensor = 0.01,
        *, mom: float | Tensor = ..., sqr_mom: float | Tensor = ..., wd: float | Tensor = ...,
        maximize: bool = False, foreach: bool | None = None, capturable: bool = False, differentiable: bool = False, fused: bool | None = None,
        nonfinite: Literal['propagate', 'raise', 'skip'] = 'propagate',
    ) -> None: ...

class RAdam(Algorithm):
    "Rectified Adam: momentum at first, Adam once its second moment can be trusted (Liu et al. 2020, https://arxiv.org/abs/1908.03265)."
    def __init__(
        self, params: Params, lr: float | Tensor = 0.001, betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999), eps: float | Tensor = 1e-08,
        weight_decay: float | Tensor = 0, decoupled_weight_decay: bool = False,
        *, mom: float | Tensor = ..., sqr_mom: float | Tensor = ..., wd: float | Tensor = ...,
        maximize: bool = False, foreach: bool | None = None, capturable: bool = False, differentiable: bool = False, fused: bool | None = None,
        nonfinite: Literal['propagate', 'raise', 'skip'] = 'propagate',
    ) -> None: ...

class SparseAdam(Algorithm):
    """Adam for sparse gradients, as torch.optim.SparseAdam: rows without gradient rest, their averages too (Kingma and Ba 2015,
    https://arxiv.org/abs/1412.6980); `eps` is not debiased. Dense gradients are taken as well."""
    def __init__(
        self, params: Params, lr: float | Tensor = 0.001, betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999), eps: float | Tensor = 1e-08,
        *, mom: float | Tensor = ..., sqr_mom: float | Tensor = ...,
        maximize: bool = False, foreach: bool | None = None, capturable: bool = False, differentiable: bool = False, fused: bool | None = None,
        nonfinite: Literal['propagate', 'raise', 'skip'] = 'propagate',
    ) -> None: ...

class SAdam(Algorithm):
    "Adam with a softplus for eps; the larger `beta`, the nearer to Adam (Tong et al. 2019, https://arxiv.org/abs/1908.00700). Debiased, as fastai."
    def __init__(
        self, params: Params, lr: float | Tensor = 0.001, betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999), beta: float | Tensor = 50.0,
        weight_decay: float | Tensor = 0, decoupled_weight_decay: bool = False,
        *, mom: float | Tensor = ..., sqr_mom: float | Tensor = ..., wd: float | Tensor = ...,
        maximize: bool = False, foreach: bool | None = None, capturable: bool = False, differentiable: bool = False, fused: bool | None = None,
        nonfinite: Literal['propagate', 'raise', 'skip'] = 'propagate',
    ) -> None: ...

class QHAdam(Algorithm):
    """Adam with both averages mixed with what is new (Ma and Yarats 2019, https://arxiv.org/abs/1810.06801). As the authors' package: `nus` of 1 is
    Adam; they recommend `betas=(.995,.999), nus=(.7,1.)`."""
    def __init__(
        self, params: Params, lr: float | Tensor = 0.001, betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999),
        nus: tuple[float | Tensor, float | Tensor] = (1.0, 1.0), weight_decay: float | Tensor = 0, decoupled_weight_decay: bool = False,
        eps: float | Tensor = 1e-08,
        *, mom: float | Tensor = ..., sqr_mom: float | Tensor = ..., nu1: float | Tensor = ..., nu2: float | Tensor = ..., wd: float | Tensor = ...,
        maximize: bool = False, foreach: bool | None = None, capturable: bool = False, differentiable: bool = False, fused: bool | None = None,
        nonfinite: Literal['propagate', 'raise', 'skip'] = 'propagate',
    ) -> None: ...

class AdaBelief(Algorithm):
    """Adam by how far gradients are from their average (Zhuang et al. 2020, https://arxiv.org/abs/2010.07468), `eps` added to that at each step, and
    to its root. `rectify` is RAdam's, and then not by `amsgrad`, as in the authors' package, where it is the default; it is not in the paper."""
    def __init__(
        self, params: Params, lr: float | Tensor = 0.001, betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999), eps: float | Tensor = 1e-16,
        weight_decay: float | Tensor = 0, amsgrad: bool = False, decoupled_weight_decay: bool = True, rectify: bool = False,
        *, mom: float | Tensor = ..., sqr_mom: float | Tensor = ..., wd: float | Tensor = ...,
        maximize: bool = False, foreach: bool | None = None, capturable: bool = False, differentiable: bool = False, fused: bool | None = None,
        nonfinite: Literal['propagate', 'raise', 'skip'] = 'propagate',
    ) -> None: ...

class Yogi(Algorithm):
    """Adam whose second moment changes by no more than the square of the gradient
    (Zaheer et al. 2018, https://papers.nips.cc/paper/8186-adaptive-methods-for-nonconvex-optimization). Debiased, as in all libraries, not as in the
    paper, and as there both averages start at `initial_accumulator`."""
    def __init__(
        self, params: Params, lr: float | Tensor = 0.01, betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999), eps: float | Tensor = 0.001,
        initial_accumulator: float | Tensor = 1e-06, weight_decay: float | Tensor = 0,
        *, mom: float | Tensor = ..., sqr_mom: float | Tensor = ..., wd: float | Tensor = ...,
        maximize: bool = False, foreach: bool | None = None, capturable: bool = False, differentiable: bool = False, fused: bool | None = None,
        nonfinite: Literal['propagate', 'raise', 'skip'] = 'propagate',
    ) -> None: ...

class AdaBound(Algorithm):
    """From Adam to SGD: each element's rate within bounds that close in on `final_lr` (Luo et al. 2019, https://arxiv.org/abs/1902.09843). As in
    the authors' package, a schedule of `lr` holds for the bounds too."""
    def __init__(
        self, params: Params, lr: float | Tensor = 0.001, betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999), final_lr: float | Tensor = 0.1,
        gamma: float | Tensor = 0.001, eps: float | Tensor = 1e-08, weight_decay: float | Tensor = 0, amsbound: bool = False,
        *, mom: float | Tensor = ..., sqr_mom: float | Tensor = ..., wd: float | Tensor = ...,
        maximize: bool = False, foreach: bool | None = None, capturable: bool = False, differentiable: bool = False, fused: bool | None = None,
        nonfinite: Literal['propagate', 'raise', 'skip'] = 'propagate',
    ) -> None: ...

class StableAdamW(Algorithm):
    """AdamW with a smaller rate, also for the decay, where gradients outgrow their second moment
    (Wortsman et al. 2023, https://arxiv.org/abs/2304.13013)."""
    def __init__(
        self, params: Params, lr: float | Tensor = 0.001, betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.99), eps: float | Tensor = 1e-08,
        weight_decay: float | Tensor = 0.01,
        *, mom: float | Tensor = ..., sqr_mom: float | Tensor = ..., wd: float | Tensor = ...,
        maximize: bool = False, foreach: bool | None = None, capturable: bool = False, differentiable: bool = False, fused: bool | None = None,
        nonfinite: Literal['propagate', 'raise', 'skip'] = 'propagate',
    ) -> None: ...

class LaProp(Algorithm):
    """Momentum of RMSprop's steps, where Adam scales the average of gradients (Ziyin et al. 2020, https://arxiv.org/abs/2002.04839). The paper's: the
    rate is not in the average; as in the authors' code the decay is after the move."""
    def __init__(
        self, params: Params, lr: float | Tensor = 0.0004, betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999), eps: float | Tensor = 1e-15,
        weight_decay: float | Tensor = 0,
        *, mom: float | Tensor = ..., sqr_mom: float | Tensor = ..., wd: float | Tensor = ...,
        maximize: bool = False, foreach: bool | None = None, capturable: bool = False, differentiable: bool = False, fused: bool | None = None,
        nonfinite: Literal['propagate', 'raise', 'skip'] = 'propagate',
    ) -> None: ...

class ADOPT(Algorithm):
    """Adam that converges with any second beta: gradients are scaled by a second moment that has not seen them, then averaged (Taniguchi et al.
    2024, https://arxiv.org/abs/2411.02853), and clipped at `(t-1)^clip_exp`. The first step only takes the second moment, and does not decay."""
    def __init__(
        self, params: Params, lr: float | Tensor = 0.001, betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.9999), eps: float | Tensor = 1e-06,
        weight_decay: float | Tensor = 0, decoupled_weight_decay: bool = False, clip_exp: float | Tensor = 0.25,
        *, mom: float | Tensor = ..., sqr_mom: float | Tensor = ..., wd: float | Tensor = ...,
        maximize: bool = False, foreach: bool | None = None, capturable: bool = False, differentiable: bool = False, fused: bool | None = None,
        nonfinite: Literal['propagate', 'raise', 'skip'] = 'propagate',
    ) -> None: ...

class AdEMAMix(Algorithm):
    """Adam with a second, slow average of gradients, `alpha` times, for long runs (Pagliardini et al. 2024, https://arxiv.org/abs/2409.03137); it and
    its weight grow over the first steps, for as many as are given, usually all of the run. Weight decay is decoupled."""
    def __init__(
        self, params: Params, lr: float | Tensor = 0.001, betas: tuple[float | Tensor, float | Tensor, float | Tensor] = (0.9, 0.999, 0.9999),
        alpha: float | Tensor = 5.0, beta3_warmup: float | Tensor | str | None = None, alpha_warmup: float | Tensor | str | None = None,
        eps: float | Tensor = 1e-08, weight_decay: float | Tensor = 0,
        *, mom: float | Tensor = ..., sqr_mom: float | Tensor = ..., mom3: float | Tensor = ..., wd: float | Tensor = ...,
        maximize: bool = False, foreach: bool | None = None, capturable: bool = False, differentiable: bool = False, fused: bool | None = None,
        nonfinite: Literal['propagate', 'raise', 'skip'] = 'propagate',
    ) -> None: ...

class MARS(Algorithm):
    """AdamW on gradients with less variance: to each is added how it has changed, and it is clipped to length 1 (Yuan et al. 2024,
    https://arxiv.org/abs/2411.10438). The approximate form, and for all parameters; the authors take plain AdamW for vectors."""
    def __init__(
        self, params: Params, lr: float | Tensor = 0.003, betas: tuple[float | Tensor, float | Tensor] = (0.95, 0.99), eps: float | Tensor = 1e-08,
        weight_decay: float | Tensor = 0, gamma: float | Tensor = 0.025,
        *, mom: float | Tensor = ..., sqr_mom: float | Tensor = ..., wd: float | Tensor = ...,
        maximize: bool = False, foreach: bool | None = None, capturable: bool = False, differentiable: bool = False, fused: bool | None = None,
        nonfinite: Literal['propagate', 'raise', 'skip'] = 'propagate',
    ) -> None: ...

class Adan(Algorithm):
    """Nesterov momentum from the average change of gradients (Xie et al. 2022, https://arxiv.org/abs/2208.06677). `betas` as in the authors' code: of
    the gradients, of their change, of the squares; one minus the paper's. Decay is `p/(1 + lr*wd)` after the move, or AdamW's with `no_prox`."""
    def __init__(
        self, params: Params, lr: float | Tensor = 0.001, betas: tuple[float | Tensor, float | Tensor, float | Tensor] = (0.98, 0.92, 0.99),
        eps: float | Tensor = 1e-08, weight_decay: float | Tensor = 0, no_prox: bool = False,
        *, mom: float | Tensor = ..., sqr_mom: float | Tensor = ..., mom3: float | Tensor = ..., wd: float | Tensor = ...,
        maximize: bool = False, foreach: bool | None = None, capturable: bool = False, differentiable: bool = False, fused: bool | None = None,
        nonfinite: Literal['propagate', 'raise', 'skip'] = 'propagate',
    ) -> None: ...

class MADGRAD(Algorithm):
    """Dual averaging by the cube root of summed squares, with momentum (Defazio and Jelassi 2021, https://arxiv.org/abs/2101.11075), as the
    authors' package; the state keeps where it began."""
    def __init__(
        self, params: Params, lr: float | Tensor = 0.01, momentum: float | Tensor = 0.9, weight_decay: float | Tensor = 0,
        eps: float | Tensor = 1e-06, decouple_decay: bool = False,
        *, mom: float | Tensor = ..., wd: float | Tensor = ...,
        maximize: bool = False, foreach: bool | None = None, capturable: bool = False, differentiable: bool = False, fused: bool | None = None,
        nonfinite: Literal['propagate', 'raise', 'skip'] = 'propagate',
    ) -> None: ...

class Fromage(Algorithm):
    """A step of the same relative length for each tensor, `lr` times its norm, and back to the old length (Bernstein et al. 2020,
    https://arxiv.org/abs/2002.03432). A tensor of zeros steps along its gradient."""
    def __init__(
        self, params: Params, lr: float | Tensor = 0.01,
        *,
        maximize: bool = False, foreach: bool | None = None, capturable: bool = False, differentiable: bool = False, fused: bool | None = None,
        nonfinite: Literal['propagate', 'raise', 'skip'] = 'propagate',
    ) -> None: ...

class LARS(Algorithm):
    """SGD for large batches: the gradient of each tensor scaled to `trust_coeff` of the tensor's norm (You et al. 2017, https://arxiv.org/abs/1708.03888).
    The ratio is within the momentum, as in the paper, where timm and Apex have it too; `clip` is LARC."""
    def __init__(
        self, params: Params, lr: float | Tensor = 1.0, momentum: float | Tensor = 0.9, dampening: float | Tensor = 0,
        weight_decay: float | Tensor = 0.0, nesterov: bool = False, trust_coeff: float | Tensor = 0.001, eps: float | Tensor = 1e-08,
        *, clip: bool = False, mom: float | Tensor = ..., wd: float | Tensor = ...,
        maximize: bool = False, foreach: bool | None = None, capturable: bool = False, differentiable: bool = False, fused: bool | None = None,
        nonfinite: Literal['propagate', 'raise', 'skip'] = 'propagate',
    ) -> None: ...

class LARC(Algorithm):
    "LARS that only ever slows down: each tensor's own rate is at most `lr` (https://github.com/NVIDIA/apex/blob/master/apex/parallel/LARC.py)."
    def __init__(
        self, params: Params, lr: float | Tensor = 0.001, momentum: float | Tensor = 0.9, dampening: float | Tensor = 0,
        weight_decay: float | Tensor = 0.0, nesterov: bool = False, trust_coeff: float | Tensor = 0.02, eps: float | Tensor = 1e-08,
        *, mom: float | Tensor = ..., wd: float | Tensor = ...,
        maximize: bool = False, foreach: bool | None = None, capturable: bool = False, differentiable: bool = False, fused: bool | None = None,
        nonfinite: Literal['propagate', 'raise', 'skip'] = 'propagate',
    ) -> None: ...

class NovoGrad(Algorithm):
    """Momentum of gradients that are normalized by a second moment of the whole tensor: half of Adam's state (Ginsburg et al. 2019,
    https://arxiv.org/abs/1905.11286). The paper's: the first gradient is its own second moment, decay is within the momentum."""
    def __init__(
        self, params: Params, lr: float | Tensor = 0.001, betas: tuple[float | Tensor, float | Tensor] = (0.95, 0.98), eps: float | Tensor = 1e-08,
        weight_decay: float | Tensor = 0.0, grad_averaging: bool = False,
        *, mom: float | Tensor = ..., sqr_mom: float | Tensor = ..., wd: float | Tensor = ...,
        maximize: bool = False, foreach: bool | None = None, capturable: bool = False, differentiable: bool = False, fused: bool | None = None,
        nonfinite: Literal['propagate', 'raise', 'skip'] = 'propagate',
    ) -> None: ...

class LAMB(Algorithm):
    """Adam for large batches, with a step for each tensor in proportion to its norm (You et al. 2020, https://arxiv.org/abs/1904.00962).
    The paper's: decay within the trust ratio, which is not clipped, and no clipping of gradients. fastai's has `max_ratio=10` and
    `decoupled_weight_decay=True`, NVIDIA's and timm's `max_grad_norm=1`, and no ratio where nothing decays, `always_adapt=False`."""
    def __init__(
        self, params: Params, lr: float | Tensor = 0.001, betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999), eps: float | Tensor = 1e-06,
        weight_decay: float | Tensor = 0.0,
        *, max_ratio: float | Tensor = ..., decoupled_weight_decay: bool = False, always_adapt: bool = True,
        max_grad_norm: float | Tensor | str | None = None, mom: float | Tensor = ..., sqr_mom: float | Tensor = ..., wd: float | Tensor = ...,
        maximize: bool = False, foreach: bool | None = None, capturable: bool = False, differentiable: bool = False, fused: bool | None = None,
        nonfinite: Literal['propagate', 'raise', 'skip'] = 'propagate',
    ) -> None: ...

class SGDP(Algorithm):
    """SGD without the part of a step that only makes normalized weights longer (Heo et al. 2021, https://arxiv.org/abs/2006.08217).
    The authors': an average that starts at zero, and decay in proportion to `1/(1-momentum)`."""
    def __init__(
        self, params: Params, lr: float | Tensor = 0.1, momentum: float | Tensor = 0, dampening: float | Tensor = 0,
        weight_decay: float | Tensor = 0.0, nesterov: bool = False, eps: float | Tensor = 1e-08, delta: float | Tensor = 0.1,
        wd_ratio: float | Tensor = 0.1,
        *, mom: float | Tensor = ..., wd: float | Tensor = ...,
        maximize: bool = False, foreach: bool | None = None, capturable: bool = False, differentiable: bool = False, fused: bool | None = None,
        nonfinite: Literal['propagate', 'raise', 'skip'] = 'propagate',
    ) -> None: ...

class AdamP(Algorithm):
    "Adam without the part of a step that only makes normalized weights longer (Heo et al. 2021, https://arxiv.org/abs/2006.08217)."
    def __init__(
        self, params: Params, lr: float | Tensor = 0.001, betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999), eps: float | Tensor = 1e-08,
        weight_decay: float | Tensor = 0.0, delta: float | Tensor = 0.1, wd_ratio: float | Tensor = 0.1, nesterov: bool = False,
        *, mom: float | Tensor = ..., sqr_mom: float | Tensor = ..., wd: float | Tensor = ...,
        maximize: bool = False, foreach: bool | None = None, capturable: bool = False, differentiable: bool = False, fused: bool | None = None,
        nonfinite: Literal['propagate', 'raise', 'skip'] = 'propagate',
    ) -> None: ...

class SM3(Algorithm):
    """Adagrad with a number for each row and each column (Anil et al. 2019, https://arxiv.org/abs/1901.11150, SM3-II). `momentum` is of updates,
    an exponential average; `beta` makes the sum of squares an average, as in the authors' own later code."""
    def __init__(
        self, params: Params, lr: float | Tensor = 0.1, momentum: float | Tensor = 0.0, beta: float | Tensor = 0.0, eps: float | Tensor = 1e-30,
        *, mom: float | Tensor = ...,
        maximize: bool = False, foreach: bool | None = None, capturable: bool = False, differentiable: bool = False, fused: bool | None = None,
        nonfinite: Literal['propagate', 'raise', 'skip'] = 'propagate',
    ) -> None: ...

class Adafactor(Algorithm):
    """RMSprop with a second moment in two factors, of rows and columns, and a step relative to the parameter (Shazeer and Stern 2018,
    https://arxiv.org/abs/1804.04235). torch.optim's: `eps[0]` bounds the second moment from below, `d` the update's root mean square."""
    def __init__(
        self, params: Params, lr: float | Tensor = 0.01, beta2_decay: float | Tensor = -0.8,
        eps: tuple[float | Tensor | str | None, float | Tensor] = (None, 0.001), d: float | Tensor = 1.0, weight_decay: float | Tensor = 0.0,
        *, eps2: float | Tensor = ..., wd: float | Tensor = ...,
        maximize: bool = False, foreach: bool | None = None, capturable: bool = False, differentiable: bool = False, fused: bool | None = None,
        nonfinite: Literal['propagate', 'raise', 'skip'] = 'propagate',
    ) -> None: ...

class CAME(Algorithm):
    """Adafactor with momentum, and longer steps where updates are steady (Luo et al. 2023, https://arxiv.org/abs/2307.02047). The authors':
    decoupled decay. `betas`: of updates, of squared gradients, and of how unsteady updates are."""
    def __init__(
        self, params: Params, lr: float | Tensor = 0.0002, betas: tuple[float | Tensor, float | Tensor, float | Tensor] = (0.9, 0.999, 0.9999),
        eps: tuple[float | Tensor, float | Tensor] = (1e-30, 1e-16), clip_threshold: float | Tensor = 1.0, weight_decay: float | Tensor = 0.0,
        *, mom: float | Tensor = ..., sqr_mom: float | Tensor = ..., mom3: float | Tensor = ..., eps2: float | Tensor = ..., wd: float | Tensor = ...,
        maximize: bool = False, foreach: bool | None = None, capturable: bool = False, differentiable: bool = False, fused: bool | None = None,
        nonfinite: Literal['propagate', 'raise', 'skip'] = 'propagate',
    ) -> None: ...

class Muon(Algorithm):
    """Momentum, made orthogonal: all directions of a matrix get a step of the same length (Jordan 2024, https://kellerjordan.github.io/posts/muon).
    torch.optim's, and for tensors of more dimensions, as one matrix of the first and the others. `ns_dtype`: that of the iteration."""
    def __init__(
        self, params: Params, lr: float | Tensor = 0.001, weight_decay: float | Tensor = 0.1, momentum: float | Tensor = 0.95, nesterov: bool = True,
        ns_coefficients: tuple[float | Tensor, float | Tensor, float | Tensor] = (3.4445, -4.775, 2.0315), eps: float | Tensor = 1e-07,
        ns_steps: float | Tensor = 5, adjust_lr_fn: float | Tensor | str | None = None,
        *, ns_dtype: str = 'bfloat16', wd: float | Tensor = ..., mom: float | Tensor = ...,
        maximize: bool = False, foreach: bool | None = None, capturable: bool = False, differentiable: bool = False, fused: bool | None = None,
        nonfinite: Literal['propagate', 'raise', 'skip'] = 'propagate',
    ) -> None: ...

class NorMuon(Algorithm):
    """Muon with rows of equal length: a second moment for each output (Li et al. 2025, https://arxiv.org/abs/2510.05491). The paper's scale, a root
    mean square of 0.2 whatever the shape; `nesterov=False` is the paper's, True its authors'."""
    def __init__(
        self, params: Params, lr: float | Tensor = 0.02, betas: tuple[float | Tensor, float | Tensor] = (0.95, 0.95), eps: float | Tensor = 1e-10,
        weight_decay: float | Tensor = 0.0, nesterov: bool = True, ns_steps: float | Tensor = 5,
        *, ns_dtype: str = 'bfloat16', mom: float | Tensor = ..., sqr_mom: float | Tensor = ..., wd: float | Tensor = ...,
        maximize: bool = False, foreach: bool | None = None, capturable: bool = False, differentiable: bool = False, fused: bool | None = None,
        nonfinite: Literal['propagate', 'raise', 'skip'] = 'propagate',
    ) -> None: ...

class AdaMuon(Algorithm):
    """Muon with Adam's second moment, of the orthogonal update (Si et al. 2025, https://arxiv.org/abs/2507.11005). As timm has it: of the momentum
    itself and not of its sign."""
    def __init__(
        self, params: Params, lr: float | Tensor = 0.001, betas: tuple[float | Tensor, float | Tensor] = (0.95, 0.95), eps: float | Tensor = 1e-08,
        weight_decay: float | Tensor = 0.1, nesterov: bool = False, ns_steps: float | Tensor = 5,
        *, ns_dtype: str = 'bfloat16', mom: float | Tensor = ..., sqr_mom: float | Tensor = ..., wd: float | Tensor = ...,
        maximize: bool = False, foreach: bool | None = None, capturable: bool = False, differentiable: bool = False, fused: bool | None = None,
        nonfinite: Literal['propagate', 'raise', 'skip'] = 'propagate',
    ) -> None: ...

class Scion(Algorithm):
    """Momentum, and then the steepest step of length `scale` in a norm that suits the layer (Pethick et al. 2025, https://arxiv.org/abs/2502.07529).
    Constrained, parameters stay within a ball of that size, `p <- (1-lr)*p - lr*u`, a decay of 1. `momentum` is what the average keeps, where the
    authors give the weight of what is new; all else as they have it. `norm='sign'` is for the last layer."""
    def __init__(
        self, params: Params, lr: float | Tensor = 0.001, momentum: float | Tensor = 0.9, norm: str = 'auto', scale: float | Tensor = 1.0,
        unconstrained: bool = False,
        *, ns_dtype: str = 'bfloat16', mom: float | Tensor = ...,
        maximize: bool = False, foreach: bool | None = None, capturable: bool = False, differentiable: bool = False, fused: bool | None = None,
        nonfinite: Literal['propagate', 'raise', 'skip'] = 'propagate',
    ) -> None: ...

class Shampoo(Algorithm):
    """Adagrad with a full matrix for each side of a parameter (Gupta et al. 2018, https://arxiv.org/abs/1802.09568): sums, as in the paper, and the
    exact roots of both sides, each `precondition_frequency` steps. `momentum` is of preconditioned gradients; decay is L2."""
    def __init__(
        self, params: Params, lr: float | Tensor = 0.1, momentum: float | Tensor = 0.0, eps: float | Tensor = 0.0001,
        weight_decay: float | Tensor = 0.0, precondition_frequency: float | Tensor = 1,
        *, mom: float | Tensor = ..., wd: float | Tensor = ...,
        maximize: bool = False, foreach: bool | None = None, capturable: bool = False, differentiable: bool = False, fused: bool | None = None,
        nonfinite: Literal['propagate', 'raise', 'skip'] = 'propagate',
    ) -> None: ...

class SOAP(Algorithm):
    """Adam in the basis in which Shampoo's preconditioner is diagonal (Vyas et al. 2024, https://arxiv.org/abs/2409.11321). As its authors have it:
    the first gradient only makes the basis, decay comes after the step, vectors have Adam. `shampoo_beta=None` is `betas[1]`."""
    def __init__(
        self, params: Params, lr: float | Tensor = 0.003, betas: tuple[float | Tensor, float | Tensor] = (0.95, 0.95),
        shampoo_beta: float | Tensor | str | None = None, eps: float | Tensor = 1e-08, weight_decay: float | Tensor = 0.01,
        precondition_frequency: float | Tensor = 10,
        *, mom: float | Tensor = ..., sqr_mom: float | Tensor = ..., wd: float | Tensor = ...,
        maximize: bool = False, foreach: bool | None = None, capturable: bool = False, differentiable: bool = False, fused: bool | None = None,
        nonfinite: Literal['propagate', 'raise', 'skip'] = 'propagate',
    ) -> None: ...

class Kron(Algorithm):
    """Momentum made white by a preconditioner that is fitted on the way, a triangular factor for each side (Li 2018, PSGD,
    https://arxiv.org/abs/1512.04202). As kron_torch has it: fitted to the momentum, at each step at first, later with `min_probability`; an update's
    root mean square is at most 1.1. `weight_decay` is of all parameters, where kron_torch leaves out vectors; `probe` stands for random numbers."""
    def __init__(
        self, params: Params, lr: float | Tensor = 0.0003, b1: float | Tensor = 0.9, weight_decay: float | Tensor = 0.0,
        min_probability: float | Tensor = 0.03, precond_lr: float | Tensor = 0.1,
        *, wd: float | Tensor = ...,
        maximize: bool = False, foreach: bool | None = None, capturable: bool = False, differentiable: bool = False, fused: bool | None = None,
        nonfinite: Literal['propagate', 'raise', 'skip'] = 'propagate',
    ) -> None: ...

class DoG(Algorithm):
    """Distance over gradients: SGD at the rate (largest distance from the start)/(root of all squared gradients) (Ivgi et al. 2023,
    https://arxiv.org/abs/2302.12022). As the authors' package; they evaluate an average of the weights: `[DoG, polynomial_average]`."""
    def __init__(
        self, params: Params, lr: float | Tensor = 1.0, reps_rel: float | Tensor = 1e-06, weight_decay: float | Tensor = 0.0,
        eps: float | Tensor = 1e-08,
        *, wd: float | Tensor = ...,
        maximize: bool = False, foreach: bool | None = None, capturable: bool = False, differentiable: bool = False, fused: bool | None = None,
        nonfinite: Literal['propagate', 'raise', 'skip'] = 'propagate',
    ) -> None: ...

class LDoG(Algorithm):
    "DoG for each tensor by itself (Ivgi et al. 2023, https://arxiv.org/abs/2302.12022)."
    def __init__(
        self, params: Params, lr: float | Tensor = 1.0, reps_rel: float | Tensor = 1e-06, weight_decay: float | Tensor = 0.0,
        eps: float | Tensor = 1e-08,
        *, wd: float | Tensor = ...,
        maximize: bool = False, foreach: bool | None = None, capturable: bool = False, differentiable: bool = False, fused: bool | None = None,
        nonfinite: Literal['propagate', 'raise', 'skip'] = 'propagate',
    ) -> None: ...

class DoWG(Algorithm):
    "DoG with gradients weighted by the distance at which they were seen (Khaled et al. 2023, https://arxiv.org/abs/2305.16284)."
    def __init__(
        self, params: Params, lr: float | Tensor = 1.0, reps_rel: float | Tensor = 1e-06, weight_decay: float | Tensor = 0.0,
        eps: float | Tensor = 1e-08,
        *, wd: float | Tensor = ...,
        maximize: bool = False, foreach: bool | None = None, capturable: bool = False, differentiable: bool = False, fused: bool | None = None,
        nonfinite: Literal['propagate', 'raise', 'skip'] = 'propagate',
    ) -> None: ...

class DAdaptAdam(Algorithm):
    """Adam whose rate is an estimate of the distance to the solution (Defazio and Mishchenko 2023, https://arxiv.org/abs/2301.07733), as the
    authors' package."""
    def __init__(
        self, params: Params, lr: float | Tensor = 1.0, betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999), eps: float | Tensor = 1e-08,
        weight_decay: float | Tensor = 0.0, decouple: bool = False, use_bias_correction: bool = False, d0: float | Tensor = 1e-06,
        growth_rate: float | Tensor = ...,
        *, mom: float | Tensor = ..., sqr_mom: float | Tensor = ..., wd: float | Tensor = ...,
        maximize: bool = False, foreach: bool | None = None, capturable: bool = False, differentiable: bool = False, fused: bool | None = None,
        nonfinite: Literal['propagate', 'raise', 'skip'] = 'propagate',
    ) -> None: ...

class Prodigy(Algorithm):
    """D-Adaptation with a faster estimate (Mishchenko and Defazio 2024, https://arxiv.org/abs/2306.06101), as the authors' package with
    `slice_p=1`: every element counts."""
    def __init__(
        self, params: Params, lr: float | Tensor = 1.0, betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999),
        beta3: float | Tensor | str | None = None, eps: float | Tensor = 1e-08, weight_decay: float | Tensor = 0.0, decouple: bool = True,
        use_bias_correction: bool = False, safeguard_warmup: bool = False, d0: float | Tensor = 1e-06, d_coef: float | Tensor = 1.0,
        growth_rate: float | Tensor = ...,
        *, mom: float | Tensor = ..., sqr_mom: float | Tensor = ..., wd: float | Tensor = ...,
        maximize: bool = False, foreach: bool | None = None, capturable: bool = False, differentiable: bool = False, fused: bool | None = None,
        nonfinite: Literal['propagate', 'raise', 'skip'] = 'propagate',
    ) -> None: ...

class SGDScheduleFree(Algorithm):
    """SGD on an average of the weights, which replaces momentum and schedule (Defazio et al. 2024, https://arxiv.org/abs/2405.15682), as the
    authors' package: the decay is at the point where the gradient is."""
    def __init__(
        self, params: Params, lr: float | Tensor = 1.0, momentum: float | Tensor = 0.9, weight_decay: float | Tensor = 0.0,
        warmup_steps: float | Tensor = 0, r: float | Tensor = 0.0, weight_lr_power: float | Tensor = 2.0,
        *, mom: float | Tensor = ..., wd: float | Tensor = ...,
        maximize: bool = False, foreach: bool | None = None, capturable: bool = False, differentiable: bool = False, fused: bool | None = None,
        nonfinite: Literal['propagate', 'raise', 'skip'] = 'propagate',
    ) -> None: ...

class AdamWScheduleFree(Algorithm):
    """AdamW's step without its momentum, on an average of the weights, which replaces momentum and schedule (Defazio et al. 2024,
    https://arxiv.org/abs/2405.15682), as the authors' package: the decay is at the point where the gradient is."""
    def __init__(
        self, params: Params, lr: float | Tensor = 0.0025, betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999), eps: float | Tensor = 1e-08,
        weight_decay: float | Tensor = 0.0, warmup_steps: float | Tensor = 0, r: float | Tensor = 0.0, weight_lr_power: float | Tensor = 2.0,
        *, mom: float | Tensor = ..., sqr_mom: float | Tensor = ..., wd: float | Tensor = ...,
        maximize: bool = False, foreach: bool | None = None, capturable: bool = False, differentiable: bool = False, fused: bool | None = None,
        nonfinite: Literal['propagate', 'raise', 'skip'] = 'propagate',
    ) -> None: ...

class SAM(Algorithm):
    """SGD down the gradient from the sharpest place nearby (Foret et al. 2021, https://arxiv.org/abs/2010.01412); two evaluations a step. With
    any other algorithm: `[sharpness, AdamW]`."""
    def __init__(
        self, params: Params, lr: float | Tensor = 0.001, momentum: float | Tensor = 0, dampening: float | Tensor = 0,
        weight_decay: float | Tensor = 0, nesterov: bool = False, rho: float | Tensor = 0.05,
        *, mom: float | Tensor = ..., wd: float | Tensor = ...,
        maximize: bool = False, foreach: bool | None = None, capturable: bool = False, differentiable: bool = False, fused: bool | None = None,
        nonfinite: Literal['propagate', 'raise', 'skip'] = 'propagate',
    ) -> None: ...

class ASAM(Algorithm):
    "SAM whose neighbourhood scales with each weight, `|x| + eta` (Kwon et al. 2021, https://arxiv.org/abs/2102.11600), biases too."
    def __init__(
        self, params: Params, lr: float | Tensor = 0.001, momentum: float | Tensor = 0, dampening: float | Tensor = 0,
        weight_decay: float | Tensor = 0, nesterov: bool = False, rho: float | Tensor = 0.5, eta: float | Tensor = 0.01,
        *, mom: float | Tensor = ..., wd: float | Tensor = ...,
        maximize: bool = False, foreach: bool | None = None, capturable: bool = False, differentiable: bool = False, fused: bool | None = None,
        nonfinite: Literal['propagate', 'raise', 'skip'] = 'propagate',
    ) -> None: ...

class AdaHessian(Algorithm):
    """Adam with the Hessian's diagonal in place of the gradient (Yao et al. 2021, https://arxiv.org/abs/2006.00719), decoupled decay. The closure
    calls `loss.backward(create_graph=True)`. The authors average over a convolution's kernel: `avg_conv_kernel=True`."""
    def __init__(
        self, params: Params, lr: float | Tensor = 0.1, betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999), eps: float | Tensor = 1e-08,
        weight_decay: float | Tensor = 0.0, hessian_power: float | Tensor = 1.0, update_period: float | Tensor = 1, n_samples: float | Tensor = 1,
        avg_conv_kernel: bool = False,
        *, mom: float | Tensor = ..., sqr_mom: float | Tensor = ..., wd: float | Tensor = ...,
        maximize: bool = False, foreach: bool | None = None, capturable: bool = False, differentiable: bool = False, fused: bool | None = None,
        nonfinite: Literal['propagate', 'raise', 'skip'] = 'propagate',
    ) -> None: ...

class Sophia(Algorithm):
    """Clipped Newton steps by a running estimate of the Hessian's diagonal (Liu et al. 2024, https://arxiv.org/abs/2305.14342), by Hutchinson's
    estimate, the paper's Sophia-H. The closure calls `loss.backward(create_graph=True)`, at least every `update_period` steps."""
    def __init__(
        self, params: Params, lr: float | Tensor = 0.0001, betas: tuple[float | Tensor, float | Tensor] = (0.965, 0.99), rho: float | Tensor = 0.04,
        weight_decay: float | Tensor = 0.1, eps: float | Tensor = 1e-12, update_period: float | Tensor = 10, n_samples: float | Tensor = 1,
        *, mom: float | Tensor = ..., sqr_mom: float | Tensor = ..., wd: float | Tensor = ...,
        maximize: bool = False, foreach: bool | None = None, capturable: bool = False, differentiable: bool = False, fused: bool | None = None,
        nonfinite: Literal['propagate', 'raise', 'skip'] = 'propagate',
    ) -> None: ...

class LBFGS(Algorithm):
    """Quasi-Newton steps with the curvature of the last `history_size` steps (Liu and Nocedal 1989, https://doi.org/10.1007/BF01589116), several
    in one `step`, as torch.optim.LBFGS; `line_search_fn='strong_wolfe'` searches along each. For losses without noise."""
    def __init__(
        self, params: Params, lr: float | Tensor = 1.0, max_iter: float | Tensor = 20, max_eval: float | Tensor | str | None = None,
        tolerance_grad: float | Tensor = 1e-07, tolerance_change: float | Tensor = 1e-09, history_size: float | Tensor = 100,
        line_search_fn: float | Tensor | str | None = None,
        *,
        maximize: bool = False, foreach: bool | None = None, capturable: bool = False, differentiable: bool = False, fused: bool | None = None,
        nonfinite: Literal['propagate', 'raise', 'skip'] = 'propagate',
    ) -> None: ...

# Written by `python -m genopt.tools.stubs`
"""Algorithms, each a short list of blocks. After their own arguments they take fastai's spelling of those, and what every algorithm has."""

from types import ModuleType
from typing import Literal
from torch import Tensor
from ..optim.algorithm import Algorithm
from ..optim.optimizer import Params,Store
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
    """Stochastic gradient descent, with momentum (Polyak 1964) or Nesterov momentum (Sutskever et al. 2013,
    http://proceedings.mlr.press/v28/sutskever13.html). As in torch.optim.SGD, the momentum buffer is a sum and starts at the first gradient."""
    def __init__(
        self, params: Params, lr: float | Tensor = 0.001, momentum: float | Tensor = 0, dampening: float | Tensor = 0,
        weight_decay: float | Tensor = 0, nesterov: bool = False,
        *, mom: float | Tensor = ..., wd: float | Tensor = ...,
        maximize: bool = False, foreach: bool | None = None, capturable: bool = False, differentiable: bool = False, fused: bool | None = None,
        store: Store | None = None, offload: bool = False, nonfinite: Literal['propagate', 'raise', 'skip'] = 'propagate',
    ) -> None: ...

class SGDW(Algorithm):
    """SGD with decoupled weight decay (Loshchilov and Hutter 2019, https://arxiv.org/abs/1711.05101). As in timm, the momentum buffer does not
    contain the learning rate."""
    def __init__(
        self, params: Params, lr: float | Tensor = 0.001, momentum: float | Tensor = 0, dampening: float | Tensor = 0,
        weight_decay: float | Tensor = 0, nesterov: bool = False,
        *, mom: float | Tensor = ..., wd: float | Tensor = ...,
        maximize: bool = False, foreach: bool | None = None, capturable: bool = False, differentiable: bool = False, fused: bool | None = None,
        store: Store | None = None, offload: bool = False, nonfinite: Literal['propagate', 'raise', 'skip'] = 'propagate',
    ) -> None: ...

class QHM(Algorithm):
    """Quasi-hyperbolic momentum, between the gradient and its average (Ma and Yarats 2019, https://arxiv.org/abs/1810.06801). `momentum` and `nu` are
    the paper's. The average is not a sum, so `lr` is 10 times that of SGD with momentum 0.9. `nu=momentum` gives Nesterov momentum."""
    def __init__(
        self, params: Params, lr: float | Tensor = 0.001, momentum: float | Tensor = 0.999, nu: float | Tensor = 0.7,
        weight_decay: float | Tensor = 0, decoupled_weight_decay: bool = False,
        *, mom: float | Tensor = ..., wd: float | Tensor = ...,
        maximize: bool = False, foreach: bool | None = None, capturable: bool = False, differentiable: bool = False, fused: bool | None = None,
        store: Store | None = None, offload: bool = False, nonfinite: Literal['propagate', 'raise', 'skip'] = 'propagate',
    ) -> None: ...

class AggMo(Algorithm):
    """Aggregated momentum, the mean of three sums with different decay rates (Lucas et al. 2019, https://arxiv.org/abs/1804.00325). `betas` are the
    paper's."""
    def __init__(
        self, params: Params, lr: float | Tensor = 0.001, betas: tuple[float | Tensor, float | Tensor, float | Tensor] = (0.0, 0.9, 0.99),
        weight_decay: float | Tensor = 0,
        *, mom: float | Tensor = ..., sqr_mom: float | Tensor = ..., mom3: float | Tensor = ..., wd: float | Tensor = ...,
        maximize: bool = False, foreach: bool | None = None, capturable: bool = False, differentiable: bool = False, fused: bool | None = None,
        store: Store | None = None, offload: bool = False, nonfinite: Literal['propagate', 'raise', 'skip'] = 'propagate',
    ) -> None: ...

class ASGD(Algorithm):
    """Averaged SGD (Polyak and Juditsky 1992, https://doi.org/10.1137/0330046), as torch.optim.ASGD. The learning rate falls with the power `alpha`
    of the step, and `lambd` decays the weights. The state `eval_p`, torch's `ax`, is the parameter itself before step `t0`, and the mean from then
    on."""
    def __init__(
        self, params: Params, lr: float | Tensor = 0.01, lambd: float | Tensor = 0.0001, alpha: float | Tensor = 0.75, t0: float | Tensor = 1000000.0,
        weight_decay: float | Tensor = 0,
        *, wd: float | Tensor = ...,
        maximize: bool = False, foreach: bool | None = None, capturable: bool = False, differentiable: bool = False, fused: bool | None = None,
        store: Store | None = None, offload: bool = False, nonfinite: Literal['propagate', 'raise', 'skip'] = 'propagate',
    ) -> None: ...

class Rprop(Algorithm):
    """A step size for each element, which grows while the gradient keeps its sign (Riedmiller and Braun 1993,
    https://doi.org/10.1109/ICNN.1993.298623). It needs full batches. As torch.optim.Rprop, it does not backtrack. `lr` is the first step size."""
    def __init__(
        self, params: Params, lr: float | Tensor = 0.01, etas: tuple[float | Tensor, float | Tensor] = (0.5, 1.2),
        step_sizes: tuple[float | Tensor, float | Tensor] = (1e-06, 50),
        *, eta_minus: float | Tensor = ..., eta_plus: float | Tensor = ..., min_step: float | Tensor = ..., max_step: float | Tensor = ...,
        maximize: bool = False, foreach: bool | None = None, capturable: bool = False, differentiable: bool = False, fused: bool | None = None,
        store: Store | None = None, offload: bool = False, nonfinite: Literal['propagate', 'raise', 'skip'] = 'propagate',
    ) -> None: ...

class Signum(Algorithm):
    """The sign of the average of the gradients (Bernstein et al. 2018, https://arxiv.org/abs/1802.04434). `momentum=0` gives signSGD, the sign of the
    gradient. As in the paper, weight decay is decoupled."""
    def __init__(
        self, params: Params, lr: float | Tensor = 0.001, momentum: float | Tensor = 0.9, weight_decay: float | Tensor = 0,
        *, mom: float | Tensor = ..., wd: float | Tensor = ...,
        maximize: bool = False, foreach: bool | None = None, capturable: bool = False, differentiable: bool = False, fused: bool | None = None,
        store: Store | None = None, offload: bool = False, nonfinite: Literal['propagate', 'raise', 'skip'] = 'propagate',
    ) -> None: ...

class Tiger(Algorithm):
    """Lion with one beta for both averages, which is Signum with weight decay (Su 2023, https://kexue.fm/archives/9512). It leaves out the author's
    rule for the learning rate of each tensor."""
    def __init__(
        self, params: Params, lr: float | Tensor = 0.001, beta: float | Tensor = 0.965, weight_decay: float | Tensor = 0.01,
        *, wd: float | Tensor = ...,
        maximize: bool = False, foreach: bool | None = None, capturable: bool = False, differentiable: bool = False, fused: bool | None = None,
        store: Store | None = None, offload: bool = False, nonfinite: Literal['propagate', 'raise', 'skip'] = 'propagate',
    ) -> None: ...

class Lion(Algorithm):
    """The sign of an average of the gradients, which halves AdamW's state (Chen et al. 2023, https://arxiv.org/abs/2302.06675). The first of `betas`
    is for the sign, the second for the average that the state keeps. Every element moves by `lr`, so `lr` is 3 to 10 times smaller than AdamW's, and
    `weight_decay` as many times larger."""
    def __init__(
        self, params: Params, lr: float | Tensor = 0.0001, betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.99),
        weight_decay: float | Tensor = 0.0,
        *, mom: float | Tensor = ..., sqr_mom: float | Tensor = ..., wd: float | Tensor = ...,
        maximize: bool = False, foreach: bool | None = None, capturable: bool = False, differentiable: bool = False, fused: bool | None = None,
        store: Store | None = None, offload: bool = False, nonfinite: Literal['propagate', 'raise', 'skip'] = 'propagate',
    ) -> None: ...

class Adagrad(Algorithm):
    """The gradient over the root of the sum of its squares (Duchi et al. 2011, https://jmlr.org/papers/v12/duchi11a.html). The sum starts at
    `initial_accumulator_value`. `lr_decay` lowers the learning rate. As in torch.optim.Adagrad, `eps` is outside the root."""
    def __init__(
        self, params: Params, lr: float | Tensor = 0.01, lr_decay: float | Tensor = 0, weight_decay: float | Tensor = 0,
        initial_accumulator_value: float | Tensor = 0, eps: float | Tensor = 1e-10,
        *, wd: float | Tensor = ...,
        maximize: bool = False, foreach: bool | None = None, capturable: bool = False, differentiable: bool = False, fused: bool | None = None,
        store: Store | None = None, offload: bool = False, nonfinite: Literal['propagate', 'raise', 'skip'] = 'propagate',
    ) -> None: ...

class RMSprop(Algorithm):
    """The gradient over its root mean square (Hinton 2012, http://www.cs.toronto.edu/~tijmen/csc321/slides/lecture_slides_lec6.pdf) or, with
    `centered`, over its standard deviation (Graves 2013, https://arxiv.org/abs/1308.0850). `momentum` averages the scaled gradients."""
    def __init__(
        self, params: Params, lr: float | Tensor = 0.01, alpha: float | Tensor = 0.99, eps: float | Tensor = 1e-08, weight_decay: float | Tensor = 0,
        momentum: float | Tensor = 0, centered: bool = False,
        *, sqr_mom: float | Tensor = ..., wd: float | Tensor = ..., mom: float | Tensor = ...,
        maximize: bool = False, foreach: bool | None = None, capturable: bool = False, differentiable: bool = False, fused: bool | None = None,
        store: Store | None = None, offload: bool = False, nonfinite: Literal['propagate', 'raise', 'skip'] = 'propagate',
    ) -> None: ...

class Adadelta(Algorithm):
    """RMSprop with updates in the units of the parameter (Zeiler 2012, https://arxiv.org/abs/1212.5701). It multiplies the gradient by the root mean
    square of past updates, so the learning rate needs no tuning."""
    def __init__(
        self, params: Params, lr: float | Tensor = 1.0, rho: float | Tensor = 0.9, eps: float | Tensor = 1e-06, weight_decay: float | Tensor = 0,
        *, wd: float | Tensor = ...,
        maximize: bool = False, foreach: bool | None = None, capturable: bool = False, differentiable: bool = False, fused: bool | None = None,
        store: Store | None = None, offload: bool = False, nonfinite: Literal['propagate', 'raise', 'skip'] = 'propagate',
    ) -> None: ...

class Adam(Algorithm):
    """Adaptive moments: the average gradient over its root mean square, both debiased (Kingma and Ba 2015, https://arxiv.org/abs/1412.6980).
    `amsgrad` divides by the largest second moment so far (Reddi et al. 2018, https://arxiv.org/abs/1904.09237)."""
    def __init__(
        self, params: Params, lr: float | Tensor = 0.001, betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999), eps: float | Tensor = 1e-08,
        weight_decay: float | Tensor = 0, amsgrad: bool = False,
        *, decoupled_weight_decay: bool = False, mom: float | Tensor = ..., sqr_mom: float | Tensor = ..., wd: float | Tensor = ...,
        maximize: bool = False, foreach: bool | None = None, capturable: bool = False, differentiable: bool = False, fused: bool | None = None,
        store: Store | None = None, offload: bool = False, nonfinite: Literal['propagate', 'raise', 'skip'] = 'propagate',
    ) -> None: ...

class AdamW(Algorithm):
    "Adam with decoupled weight decay (Loshchilov and Hutter 2019, https://arxiv.org/abs/1711.05101)."
    def __init__(
        self, params: Params, lr: float | Tensor = 0.001, betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999), eps: float | Tensor = 1e-08,
        weight_decay: float | Tensor = 0.01, amsgrad: bool = False,
        *, mom: float | Tensor = ..., sqr_mom: float | Tensor = ..., wd: float | Tensor = ...,
        maximize: bool = False, foreach: bool | None = None, capturable: bool = False, differentiable: bool = False, fused: bool | None = None,
        store: Store | None = None, offload: bool = False, nonfinite: Literal['propagate', 'raise', 'skip'] = 'propagate',
    ) -> None: ...

class AdamC(Algorithm):
    """AdamW with weight decay in proportion to the squared learning rate (Defazio 2025, https://arxiv.org/abs/2506.02285), `lr^2/max_lr`. It decays
    all parameters alike; the paper leaves out the last layer. `max_lr` is the largest rate of the schedule. None stands for the largest rate so far,
    which gives AdamW's decay while `lr` rises."""
    def __init__(
        self, params: Params, lr: float | Tensor = 0.001, betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999), eps: float | Tensor = 1e-08,
        weight_decay: float | Tensor = 0.01, amsgrad: bool = False, max_lr: float | Tensor | str | None = None,
        *, mom: float | Tensor = ..., sqr_mom: float | Tensor = ..., wd: float | Tensor = ...,
        maximize: bool = False, foreach: bool | None = None, capturable: bool = False, differentiable: bool = False, fused: bool | None = None,
        store: Store | None = None, offload: bool = False, nonfinite: Literal['propagate', 'raise', 'skip'] = 'propagate',
    ) -> None: ...

class AMSGrad(Algorithm):
    """Adam with the largest second moment so far (Reddi et al. 2018, https://arxiv.org/abs/1904.09237). It is `Adam(amsgrad=True)`, with the bias
    corrections of torch."""
    def __init__(
        self, params: Params, lr: float | Tensor = 0.001, betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999), eps: float | Tensor = 1e-08,
        weight_decay: float | Tensor = 0,
        *, mom: float | Tensor = ..., sqr_mom: float | Tensor = ..., wd: float | Tensor = ...,
        maximize: bool = False, foreach: bool | None = None, capturable: bool = False, differentiable: bool = False, fused: bool | None = None,
        store: Store | None = None, offload: bool = False, nonfinite: Literal['propagate', 'raise', 'skip'] = 'propagate',
    ) -> None: ...

class Adamax(Algorithm):
    "Adam with a decaying maximum of the gradients as denominator (Kingma and Ba 2015, section 7.1, https://arxiv.org/abs/1412.6980)."
    def __init__(
        self, params: Params, lr: float | Tensor = 0.002, betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999), eps: float | Tensor = 1e-08,
        weight_decay: float | Tensor = 0,
        *, mom: float | Tensor = ..., sqr_mom: float | Tensor = ..., wd: float | Tensor = ...,
        maximize: bool = False, foreach: bool | None = None, capturable: bool = False, differentiable: bool = False, fused: bool | None = None,
        store: Store | None = None, offload: bool = False, nonfinite: Literal['propagate', 'raise', 'skip'] = 'propagate',
    ) -> None: ...

class NAdam(Algorithm):
    "Adam with Nesterov momentum that warms up by `momentum_decay` (Dozat 2016, https://openreview.net/forum?id=OM0jvwB8jIp57ZJjtNEZ)."
    def __init__(
        self, params: Params, lr: float | Tensor = 0.002, betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999), eps: float | Tensor = 1e-08,
        weight_decay: float | Tensor = 0, momentum_decay: float | Tensor = 0.004, decoupled_weight_decay: bool = False,
        *, mom: float | Tensor = ..., sqr_mom: float | Tensor = ..., wd: float | Tensor = ...,
        maximize: bool = False, foreach: bool | None = None, capturable: bool = False, differentiable: bool = False, fused: bool | None = None,
        store: Store | None = None, offload: bool = False, nonfinite: Literal['propagate', 'raise', 'skip'] = 'propagate',
    ) -> None: ...

class NAdamW(Algorithm):
    """AdamW with Nesterov momentum (Dozat 2016, https://openreview.net/forum?id=OM0jvwB8jIp57ZJjtNEZ), as timm and MLCommons' AlgoPerf. The momentum
    is constant; NAdam has the paper's, which warms up."""
    def __init__(
        self, params: Params, lr: float | Tensor = 0.001, betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999), eps: float | Tensor = 1e-08,
        weight_decay: float | Tensor = 0.01,
        *, mom: float | Tensor = ..., sqr_mom: float | Tensor = ..., wd: float | Tensor = ...,
        maximize: bool = False, foreach: bool | None = None, capturable: bool = False, differentiable: bool = False, fused: bool | None = None,
        store: Store | None = None, offload: bool = False, nonfinite: Literal['propagate', 'raise', 'skip'] = 'propagate',
    ) -> None: ...

class RAdam(Algorithm):
    "Rectified Adam, which takes momentum's step until the second moment is reliable (Liu et al. 2020, https://arxiv.org/abs/1908.03265)."
    def __init__(
        self, params: Params, lr: float | Tensor = 0.001, betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999), eps: float | Tensor = 1e-08,
        weight_decay: float | Tensor = 0, decoupled_weight_decay: bool = False,
        *, mom: float | Tensor = ..., sqr_mom: float | Tensor = ..., wd: float | Tensor = ...,
        maximize: bool = False, foreach: bool | None = None, capturable: bool = False, differentiable: bool = False, fused: bool | None = None,
        store: Store | None = None, offload: bool = False, nonfinite: Literal['propagate', 'raise', 'skip'] = 'propagate',
    ) -> None: ...

class SparseAdam(Algorithm):
    """Adam for sparse gradients (Kingma and Ba 2015, https://arxiv.org/abs/1412.6980), as torch.optim.SparseAdam. Rows without a gradient keep their
    values and their averages. `eps` is not debiased. Dense gradients work too."""
    def __init__(
        self, params: Params, lr: float | Tensor = 0.001, betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999), eps: float | Tensor = 1e-08,
        *, mom: float | Tensor = ..., sqr_mom: float | Tensor = ...,
        maximize: bool = False, foreach: bool | None = None, capturable: bool = False, differentiable: bool = False, fused: bool | None = None,
        store: Store | None = None, offload: bool = False, nonfinite: Literal['propagate', 'raise', 'skip'] = 'propagate',
    ) -> None: ...

class SAdam(Algorithm):
    """Adam with the softplus of its denominator in place of eps (Tong et al. 2019, https://arxiv.org/abs/1908.00700). The larger `beta`, the nearer
    it is to Adam. As in fastai, it is debiased."""
    def __init__(
        self, params: Params, lr: float | Tensor = 0.001, betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999), beta: float | Tensor = 50.0,
        weight_decay: float | Tensor = 0, decoupled_weight_decay: bool = False,
        *, mom: float | Tensor = ..., sqr_mom: float | Tensor = ..., wd: float | Tensor = ...,
        maximize: bool = False, foreach: bool | None = None, capturable: bool = False, differentiable: bool = False, fused: bool | None = None,
        store: Store | None = None, offload: bool = False, nonfinite: Literal['propagate', 'raise', 'skip'] = 'propagate',
    ) -> None: ...

class QHAdam(Algorithm):
    """Adam with both averages interpolated to the newest value (Ma and Yarats 2019, https://arxiv.org/abs/1810.06801), as the authors' package. `nus`
    of 1 give Adam. The authors recommend `betas=(.995,.999), nus=(.7,1.)`."""
    def __init__(
        self, params: Params, lr: float | Tensor = 0.001, betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999),
        nus: tuple[float | Tensor, float | Tensor] = (1.0, 1.0), weight_decay: float | Tensor = 0, decoupled_weight_decay: bool = False,
        eps: float | Tensor = 1e-08,
        *, mom: float | Tensor = ..., sqr_mom: float | Tensor = ..., nu1: float | Tensor = ..., nu2: float | Tensor = ..., wd: float | Tensor = ...,
        maximize: bool = False, foreach: bool | None = None, capturable: bool = False, differentiable: bool = False, fused: bool | None = None,
        store: Store | None = None, offload: bool = False, nonfinite: Literal['propagate', 'raise', 'skip'] = 'propagate',
    ) -> None: ...

class AdaBelief(Algorithm):
    """Adam with the squared distance of gradients from their average as second moment (Zhuang et al. 2020, https://arxiv.org/abs/2010.07468). `eps`
    is added to the second moment at each step, and to its root. `rectify` takes RAdam's step and ignores `amsgrad`, as the authors' package does.
    There it is the default; the paper does not have it."""
    def __init__(
        self, params: Params, lr: float | Tensor = 0.001, betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999), eps: float | Tensor = 1e-16,
        weight_decay: float | Tensor = 0, amsgrad: bool = False, decoupled_weight_decay: bool = True, rectify: bool = False,
        *, mom: float | Tensor = ..., sqr_mom: float | Tensor = ..., wd: float | Tensor = ...,
        maximize: bool = False, foreach: bool | None = None, capturable: bool = False, differentiable: bool = False, fused: bool | None = None,
        store: Store | None = None, offload: bool = False, nonfinite: Literal['propagate', 'raise', 'skip'] = 'propagate',
    ) -> None: ...

class Yogi(Algorithm):
    """Adam with a second moment that changes by no more than the squared gradient (Zaheer et al. 2018,
    https://papers.nips.cc/paper/8186-adaptive-methods-for-nonconvex-optimization). As in all libraries, but not in the paper, it is debiased, and
    both averages start at `initial_accumulator`."""
    def __init__(
        self, params: Params, lr: float | Tensor = 0.01, betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999), eps: float | Tensor = 0.001,
        initial_accumulator: float | Tensor = 1e-06, weight_decay: float | Tensor = 0,
        *, mom: float | Tensor = ..., sqr_mom: float | Tensor = ..., wd: float | Tensor = ...,
        maximize: bool = False, foreach: bool | None = None, capturable: bool = False, differentiable: bool = False, fused: bool | None = None,
        store: Store | None = None, offload: bool = False, nonfinite: Literal['propagate', 'raise', 'skip'] = 'propagate',
    ) -> None: ...

class AdaBound(Algorithm):
    """Adam that turns into SGD, as bounds on the rates close in on `final_lr` (Luo et al. 2019, https://arxiv.org/abs/1902.09843). As in the authors'
    package, the bounds follow a schedule of `lr`."""
    def __init__(
        self, params: Params, lr: float | Tensor = 0.001, betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999), final_lr: float | Tensor = 0.1,
        gamma: float | Tensor = 0.001, eps: float | Tensor = 1e-08, weight_decay: float | Tensor = 0, amsbound: bool = False,
        *, mom: float | Tensor = ..., sqr_mom: float | Tensor = ..., wd: float | Tensor = ...,
        maximize: bool = False, foreach: bool | None = None, capturable: bool = False, differentiable: bool = False, fused: bool | None = None,
        store: Store | None = None, offload: bool = False, nonfinite: Literal['propagate', 'raise', 'skip'] = 'propagate',
    ) -> None: ...

class StableAdamW(Algorithm):
    """AdamW with a lower learning rate where gradients exceed their second moment (Wortsman et al. 2023, https://arxiv.org/abs/2304.13013). Weight
    decay uses the lower rate too."""
    def __init__(
        self, params: Params, lr: float | Tensor = 0.001, betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.99), eps: float | Tensor = 1e-08,
        weight_decay: float | Tensor = 0.01,
        *, mom: float | Tensor = ..., sqr_mom: float | Tensor = ..., wd: float | Tensor = ...,
        maximize: bool = False, foreach: bool | None = None, capturable: bool = False, differentiable: bool = False, fused: bool | None = None,
        store: Store | None = None, offload: bool = False, nonfinite: Literal['propagate', 'raise', 'skip'] = 'propagate',
    ) -> None: ...

class LaProp(Algorithm):
    """Momentum of RMSprop's steps, where Adam scales the average of the gradients (Ziyin et al. 2020, https://arxiv.org/abs/2002.04839). As in the
    paper, the average does not contain the learning rate. As in the authors' code, weight decay comes after the move."""
    def __init__(
        self, params: Params, lr: float | Tensor = 0.0004, betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999), eps: float | Tensor = 1e-15,
        weight_decay: float | Tensor = 0,
        *, mom: float | Tensor = ..., sqr_mom: float | Tensor = ..., wd: float | Tensor = ...,
        maximize: bool = False, foreach: bool | None = None, capturable: bool = False, differentiable: bool = False, fused: bool | None = None,
        store: Store | None = None, offload: bool = False, nonfinite: Literal['propagate', 'raise', 'skip'] = 'propagate',
    ) -> None: ...

class ADOPT(Algorithm):
    """Adam that converges with any second beta (Taniguchi et al. 2024, https://arxiv.org/abs/2411.02853). It scales each gradient by a second moment
    that has not seen it, clips it at `(t-1)^clip_exp`, and then averages. The first step only starts the second moment, without a move or decay.
    `clip_exp` is the authors'; timm has 0.333."""
    def __init__(
        self, params: Params, lr: float | Tensor = 0.001, betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.9999), eps: float | Tensor = 1e-06,
        weight_decay: float | Tensor = 0, decoupled_weight_decay: bool = False, clip_exp: float | Tensor = 0.25,
        *, mom: float | Tensor = ..., sqr_mom: float | Tensor = ..., wd: float | Tensor = ...,
        maximize: bool = False, foreach: bool | None = None, capturable: bool = False, differentiable: bool = False, fused: bool | None = None,
        store: Store | None = None, offload: bool = False, nonfinite: Literal['propagate', 'raise', 'skip'] = 'propagate',
    ) -> None: ...

class AdEMAMix(Algorithm):
    """Adam with a second, slow average of the gradients (Pagliardini et al. 2024, https://arxiv.org/abs/2409.03137), for long runs. The slow average
    has the weight `alpha`. Its decay rate and its weight grow over the first `beta3_warmup` and `alpha_warmup` steps, usually the whole run. Weight
    decay is decoupled."""
    def __init__(
        self, params: Params, lr: float | Tensor = 0.001, betas: tuple[float | Tensor, float | Tensor, float | Tensor] = (0.9, 0.999, 0.9999),
        alpha: float | Tensor = 5.0, beta3_warmup: float | Tensor | str | None = None, alpha_warmup: float | Tensor | str | None = None,
        eps: float | Tensor = 1e-08, weight_decay: float | Tensor = 0,
        *, mom: float | Tensor = ..., sqr_mom: float | Tensor = ..., mom3: float | Tensor = ..., wd: float | Tensor = ...,
        maximize: bool = False, foreach: bool | None = None, capturable: bool = False, differentiable: bool = False, fused: bool | None = None,
        store: Store | None = None, offload: bool = False, nonfinite: Literal['propagate', 'raise', 'skip'] = 'propagate',
    ) -> None: ...

class MARS(Algorithm):
    """AdamW on gradients of reduced variance (Yuan et al. 2024, https://arxiv.org/abs/2411.10438). It corrects each gradient by its last change, and
    clips it to norm 1. This is the paper's approximate form, for all parameters; the authors take plain AdamW for vectors. `betas` are the authors';
    timm has (0.9, 0.99)."""
    def __init__(
        self, params: Params, lr: float | Tensor = 0.003, betas: tuple[float | Tensor, float | Tensor] = (0.95, 0.99), eps: float | Tensor = 1e-08,
        weight_decay: float | Tensor = 0, gamma: float | Tensor = 0.025,
        *, mom: float | Tensor = ..., sqr_mom: float | Tensor = ..., wd: float | Tensor = ...,
        maximize: bool = False, foreach: bool | None = None, capturable: bool = False, differentiable: bool = False, fused: bool | None = None,
        store: Store | None = None, offload: bool = False, nonfinite: Literal['propagate', 'raise', 'skip'] = 'propagate',
    ) -> None: ...

class Adan(Algorithm):
    """Adam with Nesterov momentum from the average change of the gradient (Xie et al. 2022, https://arxiv.org/abs/2208.06677). `betas` are for the
    gradients, their changes, and the squares; as in the authors' code, they are one minus the paper's. Decay is `p/(1 + lr*wd)` after the move, or
    AdamW's with `no_prox`."""
    def __init__(
        self, params: Params, lr: float | Tensor = 0.001, betas: tuple[float | Tensor, float | Tensor, float | Tensor] = (0.98, 0.92, 0.99),
        eps: float | Tensor = 1e-08, weight_decay: float | Tensor = 0, no_prox: bool = False,
        *, mom: float | Tensor = ..., sqr_mom: float | Tensor = ..., mom3: float | Tensor = ..., wd: float | Tensor = ...,
        maximize: bool = False, foreach: bool | None = None, capturable: bool = False, differentiable: bool = False, fused: bool | None = None,
        store: Store | None = None, offload: bool = False, nonfinite: Literal['propagate', 'raise', 'skip'] = 'propagate',
    ) -> None: ...

class MADGRAD(Algorithm):
    """Dual averaging with the cube root of summed squares, and momentum (Defazio and Jelassi 2021, https://arxiv.org/abs/2101.11075), as the authors'
    package. The state keeps the initial parameter. Decoupled decay without momentum shrinks that, too."""
    def __init__(
        self, params: Params, lr: float | Tensor = 0.01, momentum: float | Tensor = 0.9, weight_decay: float | Tensor = 0,
        eps: float | Tensor = 1e-06, decouple_decay: bool = False,
        *, mom: float | Tensor = ..., wd: float | Tensor = ...,
        maximize: bool = False, foreach: bool | None = None, capturable: bool = False, differentiable: bool = False, fused: bool | None = None,
        store: Store | None = None, offload: bool = False, nonfinite: Literal['propagate', 'raise', 'skip'] = 'propagate',
    ) -> None: ...

class Fromage(Algorithm):
    """A step of relative length `lr` for each tensor (Bernstein et al. 2020, https://arxiv.org/abs/2002.03432). It is then scaled back to its former
    norm. A tensor of zeros steps along its gradient."""
    def __init__(
        self, params: Params, lr: float | Tensor = 0.01,
        *,
        maximize: bool = False, foreach: bool | None = None, capturable: bool = False, differentiable: bool = False, fused: bool | None = None,
        store: Store | None = None, offload: bool = False, nonfinite: Literal['propagate', 'raise', 'skip'] = 'propagate',
    ) -> None: ...

class LARS(Algorithm):
    """SGD for large batches, with a step for each tensor in proportion to its norm (You et al. 2017, https://arxiv.org/abs/1708.03888). It scales the
    gradient of each tensor to `trust_coeff` times the tensor's norm. As in the paper, timm and Apex, the momentum contains the ratio. timm has
    `momentum=0` and `always_adapt=False`: no ratio where nothing decays. `clip` gives LARC."""
    def __init__(
        self, params: Params, lr: float | Tensor = 1.0, momentum: float | Tensor = 0.9, dampening: float | Tensor = 0,
        weight_decay: float | Tensor = 0.0, nesterov: bool = False, trust_coeff: float | Tensor = 0.001, eps: float | Tensor = 1e-08,
        *, clip: bool = False, always_adapt: bool = True, mom: float | Tensor = ..., wd: float | Tensor = ...,
        maximize: bool = False, foreach: bool | None = None, capturable: bool = False, differentiable: bool = False, fused: bool | None = None,
        store: Store | None = None, offload: bool = False, nonfinite: Literal['propagate', 'raise', 'skip'] = 'propagate',
    ) -> None: ...

class LARC(Algorithm):
    """LARS that only slows down: the rate of each tensor is at most `lr` (https://github.com/NVIDIA/apex/blob/master/apex/parallel/LARC.py). The
    defaults are Apex's `trust_coeff`, and `lr` and `momentum` for small models."""
    def __init__(
        self, params: Params, lr: float | Tensor = 0.001, momentum: float | Tensor = 0.9, dampening: float | Tensor = 0,
        weight_decay: float | Tensor = 0.0, nesterov: bool = False, trust_coeff: float | Tensor = 0.02, eps: float | Tensor = 1e-08,
        *, mom: float | Tensor = ..., wd: float | Tensor = ...,
        maximize: bool = False, foreach: bool | None = None, capturable: bool = False, differentiable: bool = False, fused: bool | None = None,
        store: Store | None = None, offload: bool = False, nonfinite: Literal['propagate', 'raise', 'skip'] = 'propagate',
    ) -> None: ...

class NovoGrad(Algorithm):
    """Momentum of gradients that are scaled by one second moment per tensor (Ginsburg et al. 2019, https://arxiv.org/abs/1905.11286). The state is
    half of Adam's. As in the paper, the first gradient is its own second moment, and the momentum contains weight decay. `grad_averaging` scales each
    gradient by `1-betas[0]`, the first as well."""
    def __init__(
        self, params: Params, lr: float | Tensor = 0.001, betas: tuple[float | Tensor, float | Tensor] = (0.95, 0.98), eps: float | Tensor = 1e-08,
        weight_decay: float | Tensor = 0.0, grad_averaging: bool = False,
        *, mom: float | Tensor = ..., sqr_mom: float | Tensor = ..., wd: float | Tensor = ...,
        maximize: bool = False, foreach: bool | None = None, capturable: bool = False, differentiable: bool = False, fused: bool | None = None,
        store: Store | None = None, offload: bool = False, nonfinite: Literal['propagate', 'raise', 'skip'] = 'propagate',
    ) -> None: ...

class LAMB(Algorithm):
    """Adam for large batches, with a step for each tensor in proportion to its norm (You et al. 2020, https://arxiv.org/abs/1904.00962). The defaults
    are the paper's: the trust ratio contains weight decay and is not clipped, nor are the gradients. fastai has `max_ratio=10` and
    `decoupled_weight_decay=True`. NVIDIA and timm have `max_grad_norm=1`, and `always_adapt=False`: no ratio where nothing decays."""
    def __init__(
        self, params: Params, lr: float | Tensor = 0.001, betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999), eps: float | Tensor = 1e-06,
        weight_decay: float | Tensor = 0.0,
        *, max_ratio: float | Tensor = ..., decoupled_weight_decay: bool = False, always_adapt: bool = True,
        max_grad_norm: float | Tensor | str | None = None, mom: float | Tensor = ..., sqr_mom: float | Tensor = ..., wd: float | Tensor = ...,
        maximize: bool = False, foreach: bool | None = None, capturable: bool = False, differentiable: bool = False, fused: bool | None = None,
        store: Store | None = None, offload: bool = False, nonfinite: Literal['propagate', 'raise', 'skip'] = 'propagate',
    ) -> None: ...

class SGDP(Algorithm):
    """SGD without steps that only increase the norm of normalized weights (Heo et al. 2021, https://arxiv.org/abs/2006.08217). As in the authors'
    code, the average starts at zero, and decay is multiplied by `1/(1-momentum)`."""
    def __init__(
        self, params: Params, lr: float | Tensor = 0.1, momentum: float | Tensor = 0, dampening: float | Tensor = 0,
        weight_decay: float | Tensor = 0.0, nesterov: bool = False, eps: float | Tensor = 1e-08, delta: float | Tensor = 0.1,
        wd_ratio: float | Tensor = 0.1,
        *, mom: float | Tensor = ..., wd: float | Tensor = ...,
        maximize: bool = False, foreach: bool | None = None, capturable: bool = False, differentiable: bool = False, fused: bool | None = None,
        store: Store | None = None, offload: bool = False, nonfinite: Literal['propagate', 'raise', 'skip'] = 'propagate',
    ) -> None: ...

class AdamP(Algorithm):
    "Adam without steps that only increase the norm of normalized weights (Heo et al. 2021, https://arxiv.org/abs/2006.08217)."
    def __init__(
        self, params: Params, lr: float | Tensor = 0.001, betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999), eps: float | Tensor = 1e-08,
        weight_decay: float | Tensor = 0.0, delta: float | Tensor = 0.1, wd_ratio: float | Tensor = 0.1, nesterov: bool = False,
        *, mom: float | Tensor = ..., sqr_mom: float | Tensor = ..., wd: float | Tensor = ...,
        maximize: bool = False, foreach: bool | None = None, capturable: bool = False, differentiable: bool = False, fused: bool | None = None,
        store: Store | None = None, offload: bool = False, nonfinite: Literal['propagate', 'raise', 'skip'] = 'propagate',
    ) -> None: ...

class SM3(Algorithm):
    """Adagrad with one number for each row and each column (Anil et al. 2019, https://arxiv.org/abs/1901.11150, SM3-II). `momentum` keeps an
    exponential average of the updates. `beta` turns the sum of squares into an average, as in the authors' later code."""
    def __init__(
        self, params: Params, lr: float | Tensor = 0.1, momentum: float | Tensor = 0.0, beta: float | Tensor = 0.0, eps: float | Tensor = 1e-30,
        *, mom: float | Tensor = ...,
        maximize: bool = False, foreach: bool | None = None, capturable: bool = False, differentiable: bool = False, fused: bool | None = None,
        store: Store | None = None, offload: bool = False, nonfinite: Literal['propagate', 'raise', 'skip'] = 'propagate',
    ) -> None: ...

class Adafactor(Algorithm):
    """RMSprop with a factored second moment, and steps relative to the parameter (Shazeer and Stern 2018, https://arxiv.org/abs/1804.04235). The
    factors are averages over rows and columns. As in torch.optim.Adafactor, `eps[0]` bounds the second moment from below, and `d` the root mean
    square of the update from above."""
    def __init__(
        self, params: Params, lr: float | Tensor = 0.01, beta2_decay: float | Tensor = -0.8,
        eps: tuple[float | Tensor | str | None, float | Tensor] = (None, 0.001), d: float | Tensor = 1.0, weight_decay: float | Tensor = 0.0,
        *, eps2: float | Tensor = ..., wd: float | Tensor = ...,
        maximize: bool = False, foreach: bool | None = None, capturable: bool = False, differentiable: bool = False, fused: bool | None = None,
        store: Store | None = None, offload: bool = False, nonfinite: Literal['propagate', 'raise', 'skip'] = 'propagate',
    ) -> None: ...

class CAME(Algorithm):
    """Adafactor with momentum, and with longer steps where updates are steady (Luo et al. 2023, https://arxiv.org/abs/2307.02047). As in the authors'
    code, weight decay is decoupled. `betas` are for the updates, the squared gradients, and the squared distance of updates from their average."""
    def __init__(
        self, params: Params, lr: float | Tensor = 0.0002, betas: tuple[float | Tensor, float | Tensor, float | Tensor] = (0.9, 0.999, 0.9999),
        eps: tuple[float | Tensor, float | Tensor] = (1e-30, 1e-16), clip_threshold: float | Tensor = 1.0, weight_decay: float | Tensor = 0.0,
        *, mom: float | Tensor = ..., sqr_mom: float | Tensor = ..., mom3: float | Tensor = ..., eps2: float | Tensor = ..., wd: float | Tensor = ...,
        maximize: bool = False, foreach: bool | None = None, capturable: bool = False, differentiable: bool = False, fused: bool | None = None,
        store: Store | None = None, offload: bool = False, nonfinite: Literal['propagate', 'raise', 'skip'] = 'propagate',
    ) -> None: ...

class Muon(Algorithm):
    """Momentum made orthogonal, for steps of equal length in all directions (Jordan 2024, https://kellerjordan.github.io/posts/muon), as
    torch.optim.Muon. A tensor of more than two dimensions counts as the matrix of its first dimension and all others. The Newton-Schulz iteration
    runs in `ns_dtype`."""
    def __init__(
        self, params: Params, lr: float | Tensor = 0.001, weight_decay: float | Tensor = 0.1, momentum: float | Tensor = 0.95, nesterov: bool = True,
        ns_coefficients: tuple[float | Tensor, float | Tensor, float | Tensor] = (3.4445, -4.775, 2.0315), eps: float | Tensor = 1e-07,
        ns_steps: float | Tensor = 5, adjust_lr_fn: float | Tensor | str | None = None,
        *, ns_dtype: str = 'bfloat16', wd: float | Tensor = ..., mom: float | Tensor = ...,
        maximize: bool = False, foreach: bool | None = None, capturable: bool = False, differentiable: bool = False, fused: bool | None = None,
        store: Store | None = None, offload: bool = False, nonfinite: Literal['propagate', 'raise', 'skip'] = 'propagate',
    ) -> None: ...

class NorMuon(Algorithm):
    """Muon with a second moment for each output, which gives all rows the same length (Li et al. 2025, https://arxiv.org/abs/2510.05491). As in the
    paper, the root mean square of the update is 0.2 for all shapes. `nesterov=False` is the paper's, True the authors' code."""
    def __init__(
        self, params: Params, lr: float | Tensor = 0.02, betas: tuple[float | Tensor, float | Tensor] = (0.95, 0.95), eps: float | Tensor = 1e-10,
        weight_decay: float | Tensor = 0.0, nesterov: bool = True, ns_steps: float | Tensor = 5,
        *, ns_dtype: str = 'bfloat16', mom: float | Tensor = ..., sqr_mom: float | Tensor = ..., wd: float | Tensor = ...,
        maximize: bool = False, foreach: bool | None = None, capturable: bool = False, differentiable: bool = False, fused: bool | None = None,
        store: Store | None = None, offload: bool = False, nonfinite: Literal['propagate', 'raise', 'skip'] = 'propagate',
    ) -> None: ...

class AdaMuon(Algorithm):
    """Muon with Adam's second moment of the orthogonal update (Si et al. 2025, https://arxiv.org/abs/2507.11005). As in timm, the momentum itself is
    made orthogonal, and not its sign. `lr`, `weight_decay` and `eps` are not timm's, whose AdaMuon has those of its Muon."""
    def __init__(
        self, params: Params, lr: float | Tensor = 0.001, betas: tuple[float | Tensor, float | Tensor] = (0.95, 0.95), eps: float | Tensor = 1e-08,
        weight_decay: float | Tensor = 0.1, nesterov: bool = False, ns_steps: float | Tensor = 5,
        *, ns_dtype: str = 'bfloat16', mom: float | Tensor = ..., sqr_mom: float | Tensor = ..., wd: float | Tensor = ...,
        maximize: bool = False, foreach: bool | None = None, capturable: bool = False, differentiable: bool = False, fused: bool | None = None,
        store: Store | None = None, offload: bool = False, nonfinite: Literal['propagate', 'raise', 'skip'] = 'propagate',
    ) -> None: ...

class Scion(Algorithm):
    """Momentum, and then the steepest step in a norm that suits the layer (Pethick et al. 2025, https://arxiv.org/abs/2502.07529). The step has the
    length `scale`. Unless `unconstrained`, parameters stay within a ball of that size, `p <- (1-lr)*p - lr*u`, a weight decay of 1. `momentum` is the
    weight of the old average; the authors give that of the new gradient. All else is as in their code. `norm='sign'` is for the last layer."""
    def __init__(
        self, params: Params, lr: float | Tensor = 0.001, momentum: float | Tensor = 0.9, norm: str = 'auto', scale: float | Tensor = 1.0,
        unconstrained: bool = False,
        *, ns_dtype: str = 'bfloat16', mom: float | Tensor = ...,
        maximize: bool = False, foreach: bool | None = None, capturable: bool = False, differentiable: bool = False, fused: bool | None = None,
        store: Store | None = None, offload: bool = False, nonfinite: Literal['propagate', 'raise', 'skip'] = 'propagate',
    ) -> None: ...

class Shampoo(Algorithm):
    """Adagrad with a full matrix for each side of a parameter (Gupta et al. 2018, https://arxiv.org/abs/1802.09568). As in the paper, the matrices
    are sums, and their roots are exact; they are computed every `precondition_frequency` steps, from the first on. `momentum` sums preconditioned
    gradients; other libraries mix the last one into the next gradient. Weight decay is L2 regularization. `lr` and `eps` are torch_optimizer's."""
    def __init__(
        self, params: Params, lr: float | Tensor = 0.1, momentum: float | Tensor = 0.0, eps: float | Tensor = 0.0001,
        weight_decay: float | Tensor = 0.0, precondition_frequency: float | Tensor = 1,
        *, mom: float | Tensor = ..., wd: float | Tensor = ...,
        maximize: bool = False, foreach: bool | None = None, capturable: bool = False, differentiable: bool = False, fused: bool | None = None,
        store: Store | None = None, offload: bool = False, nonfinite: Literal['propagate', 'raise', 'skip'] = 'propagate',
    ) -> None: ...

class SOAP(Algorithm):
    """Adam in the eigenbasis of Shampoo's preconditioner (Vyas et al. 2024, https://arxiv.org/abs/2409.11321). As in the authors' code, the first
    gradient only makes the basis, weight decay comes after the step, and vectors have Adam. `shampoo_beta=None` stands for `betas[1]`."""
    def __init__(
        self, params: Params, lr: float | Tensor = 0.003, betas: tuple[float | Tensor, float | Tensor] = (0.95, 0.95),
        shampoo_beta: float | Tensor | str | None = None, eps: float | Tensor = 1e-08, weight_decay: float | Tensor = 0.01,
        precondition_frequency: float | Tensor = 10,
        *, mom: float | Tensor = ..., sqr_mom: float | Tensor = ..., wd: float | Tensor = ...,
        maximize: bool = False, foreach: bool | None = None, capturable: bool = False, differentiable: bool = False, fused: bool | None = None,
        store: Store | None = None, offload: bool = False, nonfinite: Literal['propagate', 'raise', 'skip'] = 'propagate',
    ) -> None: ...

class Kron(Algorithm):
    """Momentum whitened by a preconditioner that is fitted during training (PSGD, Li 2018, https://arxiv.org/abs/1512.04202), as kron_torch. Each
    side has a triangular factor. The factors are fitted to the momentum, at each step at first, later with `min_probability`. The root mean square of
    an update is at most 1.1. `weight_decay` is for all parameters; kron_torch leaves out vectors. `gaussian_probe` takes the place of random
    numbers."""
    def __init__(
        self, params: Params, lr: float | Tensor = 0.0003, b1: float | Tensor = 0.9, weight_decay: float | Tensor = 0.0,
        min_probability: float | Tensor = 0.03, precond_lr: float | Tensor = 0.1,
        *, wd: float | Tensor = ...,
        maximize: bool = False, foreach: bool | None = None, capturable: bool = False, differentiable: bool = False, fused: bool | None = None,
        store: Store | None = None, offload: bool = False, nonfinite: Literal['propagate', 'raise', 'skip'] = 'propagate',
    ) -> None: ...

class DoG(Algorithm):
    """Distance over gradients, an estimate of SGD's rate (Ivgi et al. 2023, https://arxiv.org/abs/2302.12022), as the authors' package. The rate is
    the largest distance from the start over the root of the sum of squared gradients. The authors evaluate an average of the weights: `[DoG,
    polynomial_average]`."""
    def __init__(
        self, params: Params, lr: float | Tensor = 1.0, reps_rel: float | Tensor = 1e-06, weight_decay: float | Tensor = 0.0,
        eps: float | Tensor = 1e-08,
        *, wd: float | Tensor = ...,
        maximize: bool = False, foreach: bool | None = None, capturable: bool = False, differentiable: bool = False, fused: bool | None = None,
        store: Store | None = None, offload: bool = False, nonfinite: Literal['propagate', 'raise', 'skip'] = 'propagate',
    ) -> None: ...

class LDoG(Algorithm):
    "DoG for each tensor by itself (Ivgi et al. 2023, https://arxiv.org/abs/2302.12022)."
    def __init__(
        self, params: Params, lr: float | Tensor = 1.0, reps_rel: float | Tensor = 1e-06, weight_decay: float | Tensor = 0.0,
        eps: float | Tensor = 1e-08,
        *, wd: float | Tensor = ...,
        maximize: bool = False, foreach: bool | None = None, capturable: bool = False, differentiable: bool = False, fused: bool | None = None,
        store: Store | None = None, offload: bool = False, nonfinite: Literal['propagate', 'raise', 'skip'] = 'propagate',
    ) -> None: ...

class DoWG(Algorithm):
    "DoG with each gradient weighted by the distance where it was taken (Khaled et al. 2023, https://arxiv.org/abs/2305.16284)."
    def __init__(
        self, params: Params, lr: float | Tensor = 1.0, reps_rel: float | Tensor = 1e-06, weight_decay: float | Tensor = 0.0,
        eps: float | Tensor = 1e-08,
        *, wd: float | Tensor = ...,
        maximize: bool = False, foreach: bool | None = None, capturable: bool = False, differentiable: bool = False, fused: bool | None = None,
        store: Store | None = None, offload: bool = False, nonfinite: Literal['propagate', 'raise', 'skip'] = 'propagate',
    ) -> None: ...

class DAdaptAdam(Algorithm):
    """Adam with an estimate of the distance to the solution as its rate (Defazio and Mishchenko 2023, https://arxiv.org/abs/2301.07733), as the
    authors' package."""
    def __init__(
        self, params: Params, lr: float | Tensor = 1.0, betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999), eps: float | Tensor = 1e-08,
        weight_decay: float | Tensor = 0.0, decouple: bool = False, use_bias_correction: bool = False, d0: float | Tensor = 1e-06,
        growth_rate: float | Tensor = ...,
        *, mom: float | Tensor = ..., sqr_mom: float | Tensor = ..., wd: float | Tensor = ...,
        maximize: bool = False, foreach: bool | None = None, capturable: bool = False, differentiable: bool = False, fused: bool | None = None,
        store: Store | None = None, offload: bool = False, nonfinite: Literal['propagate', 'raise', 'skip'] = 'propagate',
    ) -> None: ...

class Prodigy(Algorithm):
    """D-Adaptation with a faster estimate (Mishchenko and Defazio 2024, https://arxiv.org/abs/2306.06101), as the authors' package with `slice_p=1`:
    every element counts."""
    def __init__(
        self, params: Params, lr: float | Tensor = 1.0, betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999),
        beta3: float | Tensor | str | None = None, eps: float | Tensor = 1e-08, weight_decay: float | Tensor = 0.0, decouple: bool = True,
        use_bias_correction: bool = False, safeguard_warmup: bool = False, d0: float | Tensor = 1e-06, d_coef: float | Tensor = 1.0,
        growth_rate: float | Tensor = ...,
        *, mom: float | Tensor = ..., sqr_mom: float | Tensor = ..., wd: float | Tensor = ...,
        maximize: bool = False, foreach: bool | None = None, capturable: bool = False, differentiable: bool = False, fused: bool | None = None,
        store: Store | None = None, offload: bool = False, nonfinite: Literal['propagate', 'raise', 'skip'] = 'propagate',
    ) -> None: ...

class SGDScheduleFree(Algorithm):
    """SGD with an average of the weights in place of momentum and a schedule (Defazio et al. 2024, https://arxiv.org/abs/2405.15682), as the authors'
    package. Weight decay is taken at the point of the gradient."""
    def __init__(
        self, params: Params, lr: float | Tensor = 1.0, momentum: float | Tensor = 0.9, weight_decay: float | Tensor = 0.0,
        warmup_steps: float | Tensor = 0, r: float | Tensor = 0.0, weight_lr_power: float | Tensor = 2.0,
        *, mom: float | Tensor = ..., wd: float | Tensor = ...,
        maximize: bool = False, foreach: bool | None = None, capturable: bool = False, differentiable: bool = False, fused: bool | None = None,
        store: Store | None = None, offload: bool = False, nonfinite: Literal['propagate', 'raise', 'skip'] = 'propagate',
    ) -> None: ...

class AdamWScheduleFree(Algorithm):
    """AdamW with an average of the weights in place of momentum and a schedule (Defazio et al. 2024, https://arxiv.org/abs/2405.15682), as the
    authors' package. Weight decay is taken at the point of the gradient."""
    def __init__(
        self, params: Params, lr: float | Tensor = 0.0025, betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999), eps: float | Tensor = 1e-08,
        weight_decay: float | Tensor = 0.0, warmup_steps: float | Tensor = 0, r: float | Tensor = 0.0, weight_lr_power: float | Tensor = 2.0,
        *, mom: float | Tensor = ..., sqr_mom: float | Tensor = ..., wd: float | Tensor = ...,
        maximize: bool = False, foreach: bool | None = None, capturable: bool = False, differentiable: bool = False, fused: bool | None = None,
        store: Store | None = None, offload: bool = False, nonfinite: Literal['propagate', 'raise', 'skip'] = 'propagate',
    ) -> None: ...

class SAM(Algorithm):
    """SGD with the gradient from the nearby point where the loss is about highest (Foret et al. 2021, https://arxiv.org/abs/2010.01412). A step
    evaluates the model twice. `[sharpness_aware, AdamW]` does the same for another algorithm."""
    def __init__(
        self, params: Params, lr: float | Tensor = 0.001, momentum: float | Tensor = 0, dampening: float | Tensor = 0,
        weight_decay: float | Tensor = 0, nesterov: bool = False, rho: float | Tensor = 0.05,
        *, mom: float | Tensor = ..., wd: float | Tensor = ...,
        maximize: bool = False, foreach: bool | None = None, capturable: bool = False, differentiable: bool = False, fused: bool | None = None,
        store: Store | None = None, offload: bool = False, nonfinite: Literal['propagate', 'raise', 'skip'] = 'propagate',
    ) -> None: ...

class ASAM(Algorithm):
    "SAM with a neighbourhood in proportion to each weight, `|x| + eta` (Kwon et al. 2021, https://arxiv.org/abs/2102.11600). Biases count too."
    def __init__(
        self, params: Params, lr: float | Tensor = 0.001, momentum: float | Tensor = 0, dampening: float | Tensor = 0,
        weight_decay: float | Tensor = 0, nesterov: bool = False, rho: float | Tensor = 0.5, eta: float | Tensor = 0.01,
        *, mom: float | Tensor = ..., wd: float | Tensor = ...,
        maximize: bool = False, foreach: bool | None = None, capturable: bool = False, differentiable: bool = False, fused: bool | None = None,
        store: Store | None = None, offload: bool = False, nonfinite: Literal['propagate', 'raise', 'skip'] = 'propagate',
    ) -> None: ...

class AdaHessian(Algorithm):
    """Adam with the second moment of the Hessian's diagonal (Yao et al. 2021, https://arxiv.org/abs/2006.00719). Weight decay is decoupled. The
    closure must call `loss.backward(create_graph=True)`. The authors average over each kernel of a convolution: `avg_conv_kernel=True`."""
    def __init__(
        self, params: Params, lr: float | Tensor = 0.1, betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.999), eps: float | Tensor = 1e-08,
        weight_decay: float | Tensor = 0.0, hessian_power: float | Tensor = 1.0, update_period: float | Tensor = 1, n_samples: float | Tensor = 1,
        avg_conv_kernel: bool = False,
        *, mom: float | Tensor = ..., sqr_mom: float | Tensor = ..., wd: float | Tensor = ...,
        maximize: bool = False, foreach: bool | None = None, capturable: bool = False, differentiable: bool = False, fused: bool | None = None,
        store: Store | None = None, offload: bool = False, nonfinite: Literal['propagate', 'raise', 'skip'] = 'propagate',
    ) -> None: ...

class Sophia(Algorithm):
    """Clipped Newton steps with a running estimate of the Hessian's diagonal (Liu et al. 2024, https://arxiv.org/abs/2305.14342). Hutchinson's method
    makes the estimate, as in the paper's Sophia-H. The closure must call `loss.backward(create_graph=True)`, at least every `update_period` steps."""
    def __init__(
        self, params: Params, lr: float | Tensor = 0.0001, betas: tuple[float | Tensor, float | Tensor] = (0.965, 0.99), rho: float | Tensor = 0.04,
        weight_decay: float | Tensor = 0.1, eps: float | Tensor = 1e-12, update_period: float | Tensor = 10, n_samples: float | Tensor = 1,
        *, mom: float | Tensor = ..., sqr_mom: float | Tensor = ..., wd: float | Tensor = ...,
        maximize: bool = False, foreach: bool | None = None, capturable: bool = False, differentiable: bool = False, fused: bool | None = None,
        store: Store | None = None, offload: bool = False, nonfinite: Literal['propagate', 'raise', 'skip'] = 'propagate',
    ) -> None: ...

class LBFGS(Algorithm):
    """Quasi-Newton steps with the curvature of the last `history_size` steps (Liu and Nocedal 1989, https://doi.org/10.1007/BF01589116), as
    torch.optim.LBFGS. One `step` makes up to `max_iter` of them. `line_search_fn='strong_wolfe'` searches for the length of each. The loss must be
    without noise."""
    def __init__(
        self, params: Params, lr: float | Tensor = 1.0, max_iter: float | Tensor = 20, max_eval: float | Tensor | str | None = None,
        tolerance_grad: float | Tensor = 1e-07, tolerance_change: float | Tensor = 1e-09, history_size: float | Tensor = 100,
        line_search_fn: float | Tensor | str | None = None,
        *,
        maximize: bool = False, foreach: bool | None = None, capturable: bool = False, differentiable: bool = False, fused: bool | None = None,
        store: Store | None = None, offload: bool = False, nonfinite: Literal['propagate', 'raise', 'skip'] = 'propagate',
    ) -> None: ...

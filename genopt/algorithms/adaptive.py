"A step size for each element, from its own past gradients: RMSprop, Adam and their descendants. From simple to complex."

from functools import partial
from ..blocks import stats,steps,transforms
from ..blocks.moves import decay_after,proximal_decay
from ..blocks.rates import debias_lr
from ..blocks.stats import average_grad,average_sqr_grad,debias,step_stat
from ..blocks.steps import adam_step,momentum_step,radam_step
from ..blocks.transforms import decay,l2_reg
from ..contract import full
from ..contract.names import rename
from ..optim.algorithm import algorithm

__all__ = ['Adagrad', 'RMSprop', 'Adadelta', 'Adam', 'AdamW', 'AdamC', 'AMSGrad', 'Adamax', 'NAdam', 'NAdamW', 'RAdam', 'SparseAdam', 'SAdam',
           'QHAdam', 'AdaBelief', 'Yogi', 'AdaBound', 'StableAdamW', 'LaProp', 'ADOPT', 'AdEMAMix', 'MARS', 'Adan', 'MADGRAD']


@algorithm
def Adagrad(lr=1e-2, lr_decay=0, weight_decay=0, initial_accumulator_value=0, eps=1e-10):
    """The gradient over the root of the sum of its squares (Duchi et al. 2011, https://jmlr.org/papers/v12/duchi11a.html). The sum starts at
    `initial_accumulator_value`. `lr_decay` lowers the learning rate. As in torch.optim.Adagrad, `eps` is outside the root."""
    if not initial_accumulator_value>=0: raise ValueError(f"Invalid initial_accumulator_value value: {initial_accumulator_value}")
    sums = partial(stats.sum_sqr_grad, sqr_sum=full(initial_accumulator_value)) if initial_accumulator_value else stats.sum_sqr_grad
    return [weight_decay and l2_reg, lr_decay and [step_stat, stats.decayed_lr], sums, steps.adagrad_step]

@algorithm
def RMSprop(lr=1e-2, alpha=0.99, eps=1e-8, weight_decay=0, momentum=0, centered=False):
    """The gradient over its root mean square (Hinton 2012, http://www.cs.toronto.edu/~tijmen/csc321/slides/lecture_slides_lec6.pdf) or, with
    `centered`, over its standard deviation (Graves 2013, https://arxiv.org/abs/1308.0850). `momentum` averages the scaled gradients."""
    center = [rename(average_grad, mom='sqr_mom'), stats.center_sqr_grad, rename(steps.rms_prop_step, sqr_avg='grad_var')]
    return [weight_decay and l2_reg, average_sqr_grad, center if centered else steps.rms_prop_step, momentum and transforms.heavy_ball]

@algorithm
def Adadelta(lr=1.0, rho=0.9, eps=1e-6, weight_decay=0):
    """RMSprop with updates in the units of the parameter (Zeiler 2012, https://arxiv.org/abs/1212.5701). It multiplies the gradient by the root mean
    square of past updates, so the learning rate needs no tuning."""
    average_sqr = rename(average_sqr_grad, sqr_mom='rho')
    return [weight_decay and l2_reg, average_sqr, steps.adadelta_step, rename(average_sqr, grad='update', sqr_avg='sqr_update_avg')]

@algorithm
def Adam(lr=1e-3, betas=(0.9,0.999), eps=1e-8, weight_decay=0, amsgrad=False, *, decoupled_weight_decay=False):
    """Adaptive moments: the average gradient over its root mean square, both debiased (Kingma and Ba 2015, https://arxiv.org/abs/1412.6980).
    `amsgrad` divides by the largest second moment so far (Reddi et al. 2018, https://arxiv.org/abs/1904.09237)."""
    return [decay(weight_decay, decoupled_weight_decay), average_grad, average_sqr_grad, amsgrad and stats.max_sqr_grad, step_stat, debias,
            rename(adam_step, sqr_avg='max_sqr_avg') if amsgrad else adam_step]

@algorithm
def AdamW(lr=1e-3, betas=(0.9,0.999), eps=1e-8, weight_decay=1e-2, amsgrad=False):
    "Adam with decoupled weight decay (Loshchilov and Hutter 2019, https://arxiv.org/abs/1711.05101)."
    return Adam.build(lr, betas, eps, weight_decay, amsgrad, decoupled_weight_decay=True)

@algorithm
def AdamC(lr=1e-3, betas=(0.9,0.999), eps=1e-8, weight_decay=1e-2, amsgrad=False, max_lr=None):
    """AdamW with weight decay in proportion to the squared learning rate (Defazio 2025, https://arxiv.org/abs/2506.02285), `lr^2/max_lr`. It decays
    all parameters alike; the paper leaves out the last layer. `max_lr` is the largest rate of the schedule. None stands for the largest rate so far,
    which gives AdamW's decay while `lr` rises."""
    corrected = [max_lr is None and stats.largest_lr, transforms.corrected_decay]
    return [weight_decay and corrected, Adam.build(amsgrad=amsgrad)]

@algorithm
def AMSGrad(lr=1e-3, betas=(0.9,0.999), eps=1e-8, weight_decay=0):
    """Adam with the largest second moment so far (Reddi et al. 2018, https://arxiv.org/abs/1904.09237). It is `Adam(amsgrad=True)`, with the bias
    corrections of torch."""
    return Adam.build(weight_decay=weight_decay, amsgrad=True)

@algorithm
def Adamax(lr=2e-3, betas=(0.9,0.999), eps=1e-8, weight_decay=0):
    "Adam with a decaying maximum of the gradients as denominator (Kingma and Ba 2015, section 7.1, https://arxiv.org/abs/1412.6980)."
    return [weight_decay and l2_reg, average_grad, stats.decayed_max_grad, step_stat, debias, steps.adamax_step]

@algorithm
def NAdam(lr=2e-3, betas=(0.9,0.999), eps=1e-8, weight_decay=0, momentum_decay=4e-3, decoupled_weight_decay=False):
    "Adam with Nesterov momentum that warms up by `momentum_decay` (Dozat 2016, https://openreview.net/forum?id=OM0jvwB8jIp57ZJjtNEZ)."
    return [decay(weight_decay, decoupled_weight_decay), average_grad, average_sqr_grad, step_stat, debias, stats.nadam_weights, steps.nadam_step]

@algorithm
def NAdamW(lr=1e-3, betas=(0.9,0.999), eps=1e-8, weight_decay=1e-2):
    """AdamW with Nesterov momentum (Dozat 2016, https://openreview.net/forum?id=OM0jvwB8jIp57ZJjtNEZ), as timm and MLCommons' AlgoPerf. The momentum
    is constant; NAdam has the paper's, which warms up."""
    averages = [average_grad, rename(steps.nesterov_average_step, update='next_avg'), average_sqr_grad]
    return [weight_decay and transforms.weight_decay, averages, step_stat, debias, rename(adam_step, grad_avg='next_avg')]

@algorithm
def RAdam(lr=1e-3, betas=(0.9,0.999), eps=1e-8, weight_decay=0, decoupled_weight_decay=False):
    "Rectified Adam, which takes momentum's step until the second moment is reliable (Liu et al. 2020, https://arxiv.org/abs/1908.03265)."
    return [decay(weight_decay, decoupled_weight_decay), average_grad, average_sqr_grad, step_stat, debias, stats.rectification_term, radam_step]

@algorithm
def SparseAdam(lr=1e-3, betas=(0.9,0.999), eps=1e-8):
    """Adam for sparse gradients (Kingma and Ba 2015, https://arxiv.org/abs/1412.6980), as torch.optim.SparseAdam. Rows without a gradient keep their
    values and their averages. `eps` is not debiased. Dense gradients work too."""
    return [transforms.lazy_rows, average_grad, average_sqr_grad, step_stat, debias, debias_lr, rename(steps.rms_prop_step, grad='grad_avg')]

@algorithm
def SAdam(lr=1e-3, betas=(0.9,0.999), beta=50., weight_decay=0, decoupled_weight_decay=False):
    """Adam with the softplus of its denominator in place of eps (Tong et al. 2019, https://arxiv.org/abs/1908.00700). The larger `beta`, the nearer
    it is to Adam. As in fastai, it is debiased."""
    return [decay(weight_decay, decoupled_weight_decay), average_grad, average_sqr_grad, step_stat, debias, steps.sadam_step]

@algorithm
def QHAdam(lr=1e-3, betas=(0.9,0.999), nus=(1.,1.), weight_decay=0, decoupled_weight_decay=False, eps=1e-8):
    """Adam with both averages interpolated to the newest value (Ma and Yarats 2019, https://arxiv.org/abs/1810.06801), as the authors' package. `nus`
    of 1 give Adam. The authors recommend `betas=(.995,.999), nus=(.7,1.)`."""
    return [decay(weight_decay, decoupled_weight_decay), average_grad, average_sqr_grad, step_stat, debias, steps.qhadam_step]

@algorithm
def AdaBelief(lr=1e-3, betas=(0.9,0.999), eps=1e-16, weight_decay=0, amsgrad=False, decoupled_weight_decay=True, rectify=False):
    """Adam with the squared distance of gradients from their average as second moment (Zhuang et al. 2020, https://arxiv.org/abs/2010.07468). `eps`
    is added to the second moment at each step, and to its root. `rectify` takes RAdam's step and ignores `amsgrad`, as the authors' package does.
    There it is the default; the paper does not have it."""
    step = [stats.rectification_term, radam_step] if rectify else rename(adam_step, sqr_avg='max_sqr_avg') if amsgrad else adam_step
    return [decay(weight_decay, decoupled_weight_decay), average_grad, stats.average_belief, amsgrad and stats.max_sqr_grad, step_stat, debias, step]

@algorithm
def Yogi(lr=1e-2, betas=(0.9,0.999), eps=1e-3, initial_accumulator=1e-6, weight_decay=0):
    """Adam with a second moment that changes by no more than the squared gradient (Zaheer et al. 2018,
    https://papers.nips.cc/paper/8186-adaptive-methods-for-nonconvex-optimization). As in all libraries, but not in the paper, it is debiased, and
    both averages start at `initial_accumulator`."""
    first,second = partial(average_grad, grad_avg=full(initial_accumulator)),partial(stats.yogi_sqr_grad, sqr_avg=full(initial_accumulator))
    return [weight_decay and l2_reg, first, second, step_stat, debias, adam_step]

@algorithm
def AdaBound(lr=1e-3, betas=(0.9,0.999), final_lr=0.1, gamma=1e-3, eps=1e-8, weight_decay=0, amsbound=False):
    """Adam that turns into SGD, as bounds on the rates close in on `final_lr` (Luo et al. 2019, https://arxiv.org/abs/1902.09843). As in the authors'
    package, the bounds follow a schedule of `lr`."""
    step = rename(steps.adabound_step, sqr_avg='max_sqr_avg') if amsbound else steps.adabound_step
    return [weight_decay and l2_reg, average_grad, average_sqr_grad, amsbound and stats.max_sqr_grad, step_stat, debias, stats.adabound_bounds, step]

@algorithm
def StableAdamW(lr=1e-3, betas=(0.9,0.99), eps=1e-8, weight_decay=1e-2):
    """AdamW with a lower learning rate where gradients exceed their second moment (Wortsman et al. 2023, https://arxiv.org/abs/2304.13013). Weight
    decay uses the lower rate too."""
    return [average_grad, average_sqr_grad, step_stat, debias, transforms.stable_adamw_lr, weight_decay and transforms.weight_decay, adam_step]

@algorithm
def LaProp(lr=4e-4, betas=(0.9,0.999), eps=1e-15, weight_decay=0):
    """Momentum of RMSprop's steps, where Adam scales the average of the gradients (Ziyin et al. 2020, https://arxiv.org/abs/2002.04839). As in the
    paper, the average does not contain the learning rate. As in the authors' code, weight decay comes after the move."""
    momentum = [rename(average_grad, grad='update', grad_avg='update_avg'), rename(steps.debiased_momentum_step, grad_avg='update_avg')]
    return [average_sqr_grad, step_stat, debias, steps.debiased_rms_step, momentum, weight_decay and rename(transforms.weight_decay, p='new_p')]

@algorithm
def ADOPT(lr=1e-3, betas=(0.9,0.9999), eps=1e-6, weight_decay=0, decoupled_weight_decay=False, clip_exp=0.25):
    """Adam that converges with any second beta (Taniguchi et al. 2024, https://arxiv.org/abs/2411.02853). It scales each gradient by a second moment
    that has not seen it, clips it at `(t-1)^clip_exp`, and then averages. The first step only starts the second moment, without a move or decay.
    `clip_exp` is the authors'; timm has 0.333."""
    momentum = [rename(average_grad, grad='update', grad_avg='update_avg'), rename(momentum_step, grad_avg='update_avg')]
    start = [step_stat, stats.skip_first_step, decay(weight_decay, decoupled_weight_decay)]
    return [start, steps.adopt_step, momentum, rename(stats.undamped_start, dampening='sqr_mom'), average_sqr_grad]

@algorithm
def AdEMAMix(lr=1e-3, betas=(0.9,0.999,0.9999), alpha=5., beta3_warmup=None, alpha_warmup=None, eps=1e-8, weight_decay=0):
    """Adam with a second, slow average of the gradients (Pagliardini et al. 2024, https://arxiv.org/abs/2409.03137), for long runs. The slow average
    has the weight `alpha`. Its decay rate and its weight grow over the first `beta3_warmup` and `alpha_warmup` steps, usually the whole run. Weight
    decay is decoupled."""
    averages = [average_grad, beta3_warmup and stats.warmup_mom3, rename(average_grad, mom='mom3', grad_avg='slow_avg'), average_sqr_grad]
    return [weight_decay and transforms.weight_decay, step_stat, averages, debias, alpha_warmup and stats.warmup_alpha, steps.ademamix_step]

@algorithm
def MARS(lr=3e-3, betas=(0.95,0.99), eps=1e-8, weight_decay=0, gamma=0.025):
    """AdamW on gradients of reduced variance (Yuan et al. 2024, https://arxiv.org/abs/2411.10438). It corrects each gradient by its last change, and
    clips it to norm 1. This is the paper's approximate form, for all parameters; the authors take plain AdamW for vectors. `betas` are the authors';
    timm has (0.9, 0.99)."""
    corrected = [step_stat, stats.grad_change, transforms.mars_correction, transforms.clip_tensor_norm]
    return [weight_decay and transforms.weight_decay, corrected, average_grad, average_sqr_grad, debias, adam_step]

@algorithm
def Adan(lr=1e-3, betas=(0.98,0.92,0.99), eps=1e-8, weight_decay=0, no_prox=False):
    """Adam with Nesterov momentum from the average change of the gradient (Xie et al. 2022, https://arxiv.org/abs/2208.06677). `betas` are for the
    gradients, their changes, and the squares; as in the authors' code, they are one minus the paper's. Decay is `p/(1 + lr*wd)` after the move, or
    AdamW's with `no_prox`."""
    averages = [average_grad, rename(average_grad, grad='change', mom='sqr_mom', grad_avg='change_avg'), stats.extrapolate_grad,
                rename(average_sqr_grad, grad='ahead', sqr_mom='mom3')]
    step = [debias, stats.debias_mom3, steps.adan_step]
    before,after = weight_decay and no_prox and transforms.weight_decay,weight_decay and not no_prox and proximal_decay
    return [before, step_stat, stats.grad_change, averages, step, after]

@algorithm
def MADGRAD(lr=1e-2, momentum=0.9, weight_decay=0, eps=1e-6, decouple_decay=False):
    """Dual averaging with the cube root of summed squares, and momentum (Defazio and Jelassi 2021, https://arxiv.org/abs/2101.11075), as the authors'
    package. The state keeps the initial parameter. Decoupled decay without momentum shrinks that, too."""
    dual = [step_stat, stats.dual_averaging_weight, stats.dual_averaging_sums, steps.madgrad_step]
    decays = weight_decay and decouple_decay
    return [weight_decay and not decouple_decay and l2_reg, dual, decays and [decay_after, not momentum and rename(decay_after, new_p='first_p')]]

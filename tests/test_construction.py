"""Bad constructions: each is refused by name, with a remedy where there is one, and leaves everything as it was."""

from functools import partial
import pytest,torch
from genopt import *
from genopt.blocks import *

nan,inf = float('nan'),float('inf')
def P(*shape): return torch.ones(shape or 3, requires_grad=True)
def build(cbs, p=None, lr=.1, **kw): return Optimizer([P() if p is None else p], cbs, lr=lr, **kw)

# callbacks with something wrong
def fastai_style(p, lr, **kwargs): p.add_(p.grad, alpha=-lr)
def many(*args): return args[0]
def in_place(grad): return grad.mul_(2)
def state_in_place(grad, s=zeros): s.add_(grad); return dict(s=s)
def forgets(grad): grad*2
def pair(grad): return grad,grad
def none_default(grad, s=None): return grad
def tensor_default(grad, s=torch.zeros(3)): return grad
def default_for_grad(grad=0.): return grad
def wrong_shape(grad, s=zeros): return dict(s=grad.sum())
def wrong_kind(grad, step=count): return dict(step=grad)
def number_state(grad, s=zeros): return dict(s=1.)
def number_update(grad): return dict(update=1.)
def too_late(new_p, update): return update*2
def shrinks(update): return update[:1]
def raises(grad): return grad @ torch.ones(77)
def lists_with_state(grads, s=zeros): return grads
def lists_and_grad(grads, grad): return grads
def wrong_length(grads): return grads + grads
def returns_lists(grad): return dict(grads=[grad])
def positional(grad, /): return grad
def reads_unknown(grad, foo): return grad*foo
def misreads(grad_avrg): return grad_avrg
def state_one(grad, s=zeros): return dict(s=s)
def state_two(grad, s=ones): return dict(s=s)
def hyper_two(grad, mom=.5): return grad*mom
def hyper_is_state(grad, s=.5): return grad*s
def string(grad, kind='a'): return grad
def declares_policy(grad, nonfinite=True): return grad
def declares_flag(grad, maximize=True): return grad
def reads_alpha(grad, alpha=.5): return grad*alpha
def misspells_state(grad, avg=zeros): return dict(avgs=avg+grad)
def late_lr(new_p, lr): return dict(lr=lr/2)
def data_in_place(p, grad): p.data.mul_(.5); return grad
def later_in_place(grad, step, buf=zeros):
    if step>1: buf.add_(grad)
    return grad
def mean_row(update): return update.mean(0, keepdim=True)
def mean_state(grad, s=zeros): return dict(s=grad.mean(0, keepdim=True))
def needs_matrix(grad, s=Init(lambda p: p.new_zeros(p.shape[1]))): return grad
def tuple_state(grad, s=Init(lambda p: (p,))): return grad
def lr_state(grad, lr=ones): return grad
def uncalled(grad, s=full): return grad
def undeclared_range(grad, k=1.): return grad
def stacks(grads): return dict(grads=torch.stack(grads))
def bounded(grad, k:Range('[1,10]')=2.): return grad*k

bad = dict(
    # params
    params_none     = (lambda: Adam(None), TypeError, 'should be an iterable of Tensors.*NoneType'),
    params_tensor   = (lambda: Adam(P()), TypeError, 'should be an iterable of Tensors'),
    params_module   = (lambda: Adam(torch.nn.Linear(2,2)), TypeError, r'Linear: pass model\.parameters\(\)'),
    params_sequence = (lambda: Adam(torch.nn.Sequential(torch.nn.Linear(2,2))), TypeError, r'Sequential: pass model\.parameters\(\)'),
    params_string   = (lambda: Adam('weight'), TypeError, 'got str'),
    params_number   = (lambda: Adam(3), TypeError, 'got int'),
    params_dict     = (lambda: Adam(dict(w=P())), TypeError, r'dict: pass its items\(\)'),
    params_strings  = (lambda: Adam(['w']), TypeError, 'can only optimize Tensors.*str'),
    params_arrays   = (lambda: Adam([1.]), TypeError, 'can only optimize Tensors.*float'),
    params_empty    = (lambda: Adam([]), ValueError, 'empty parameter list; was the generator'),
    params_used_up  = (lambda: Adam(used_up()), ValueError, 'empty parameter list'),
    params_mixed    = (lambda: Adam([P(), [P()]]), TypeError, 'item 0 is a parameter, item 1 is a list'),
    params_mixed2   = (lambda: Adam([dict(params=[P()]), P()]), TypeError, 'item 0 is a group, item 1 is a parameter'),
    params_integer  = (lambda: Adam([torch.ones(2, dtype=torch.long)]), ValueError, 'parameter 0 is torch.int64'),
    params_bool     = (lambda: Adam([P(), torch.ones(2, dtype=torch.bool)]), ValueError, 'parameter 1 is torch.bool'),
    params_expanded = (lambda: Adam([P(), torch.ones(1).expand(3).requires_grad_()]), ValueError, 'parameter 1 is expanded: its elements share memory'),
    params_inference = (lambda: Adam([made_in_inference_mode()]), ValueError, 'parameter 0 was made in inference mode'),
    params_non_leaf = (lambda: Adam([P()*2]), ValueError, "can't optimize a non-leaf Tensor"),
    params_shared   = (lambda: shared(), ValueError, 'more than one parameter group'),
    params_part_named = (lambda: Adam([('w', P()), P()]), ValueError, 'with/without names'),
    # groups
    group_no_params = (lambda: Adam([dict(lr=.1)]), ValueError, "param group 0 has no 'params'; it has 'lr'"),
    group_typo      = (lambda: Adam([dict(params=[P()], lrr=.1)]), TypeError, "'lrr', did you mean 'lr'"),
    group_typo2     = (lambda: Adam([dict(params=[P()]), dict(params=[P()], weight_decy=.1)]), TypeError, "param group 1.*'weight_decay'"),
    group_lr        = (lambda: Adam([dict(params=[P()], lr=-1.)]), ValueError, 'Invalid learning rate: -1.0.*param group 0'),
    group_betas     = (lambda: Adam([dict(params=[P()], betas=(.9,1.))]), ValueError, 'Invalid beta parameter at index 1: 1.0'),
    group_flag      = (lambda: Adam([dict(params=[P()], amsgrad='no')]), TypeError, 'amsgrad must be True or False'),
    group_nesterov  = (lambda: SGD([dict(params=[P()], nesterov=True)]), ValueError, 'Nesterov momentum requires a momentum and zero dampening'),
    group_kind      = (lambda: Adam([dict(params=[P()], lr='1')]), TypeError, "lr must be a real number.*'1'"),
    # values
    lr_negative     = (lambda: Adam([P()], lr=-1), ValueError, 'Invalid learning rate: -1'),
    lr_nan          = (lambda: Adam([P()], lr=nan), ValueError, 'Invalid learning rate: nan'),
    lr_inf          = (lambda: Adam([P()], lr=inf), ValueError, r'Invalid learning rate: inf.*\[0,inf\)'),
    lr_none         = (lambda: Adam([P()], lr=None), TypeError, 'lr must be a real number or a 1-element Tensor, got None'),
    lr_string       = (lambda: Adam([P()], lr='0.1'), TypeError, "lr must be a real number.*'0.1'"),
    lr_bool         = (lambda: Adam([P()], lr=True), TypeError, 'lr must be a real number.*True'),
    lr_complex      = (lambda: Adam([P()], lr=1j), TypeError, 'lr must be a real number'),
    lr_two          = (lambda: Adam([P()], lr=torch.tensor([.1,.2])), ValueError, 'Tensor lr must be 1-element'),
    lr_tensor_nan   = (lambda: Adam([P()], lr=torch.tensor(nan)), ValueError, 'Invalid learning rate: nan'),
    betas_one       = (lambda: Adam([P()], betas=(1., .9)), ValueError, 'Invalid beta parameter at index 0: 1.0'),
    betas_negative  = (lambda: Adam([P()], betas=(-.1, .9)), ValueError, 'Invalid beta parameter at index 0: -0.1'),
    betas_nan       = (lambda: Adam([P()], betas=(.9, nan)), ValueError, 'Invalid beta parameter at index 1: nan'),
    betas_number    = (lambda: Adam([P()], betas=.9), TypeError, 'betas must be 2 numbers'),
    betas_three     = (lambda: Adam([P()], betas=(.9,.9,.9)), ValueError, 'betas must be 2 numbers'),
    betas_mixed     = (lambda: Adam([P()], betas=(.9, torch.tensor(.9))), ValueError, 'either both floats or both Tensors'),
    eps_negative    = (lambda: Adam([P()], eps=-1e-8), ValueError, 'Invalid epsilon value: -1e-08'),
    eps_nan         = (lambda: RMSprop([P()], eps=nan), ValueError, 'Invalid epsilon value: nan'),
    wd_negative     = (lambda: AdamW([P()], weight_decay=-.1), ValueError, 'Invalid weight_decay value: -0.1'),
    wd_nan          = (lambda: SGD([P()], weight_decay=nan), ValueError, 'Invalid weight_decay value: nan'),
    momentum        = (lambda: SGD([P()], momentum=-1.), ValueError, 'Invalid momentum value: -1.0; SGD needs it'),
    momentum_of_ours = (lambda: Signum([P()], momentum=1.), ValueError, r'Invalid momentum value: 1.0.*\[0,1\)'),
    dampening_nan   = (lambda: SGD([P()], momentum=.9, dampening=nan), ValueError, 'Invalid dampening value: nan'),
    dampening_idle  = (lambda: SGD([P()], dampening=inf), ValueError, 'Invalid dampening value: inf'),
    alpha           = (lambda: RMSprop([P()], alpha=-1.5), ValueError, 'Invalid alpha value: -1.5'),
    alias_value     = (lambda: Adam([P()], mom=2.), ValueError, 'Invalid beta parameter at index 0: 2.0'),
    nesterov        = (lambda: SGD([P()], nesterov=True), ValueError, 'Nesterov momentum requires a momentum and zero dampening'),
    own_range       = (lambda: build([bounded], k=11.), ValueError, r'Invalid k value: 11.0; Optimizer needs it in \[1,10\], as bounded declares'),
    own_string      = (lambda: build([string], kind=3), TypeError, 'kind must be a string, got 3'),
    # names
    typo            = (lambda: Adam([P()], weight_decy=.1), TypeError, "unexpected hyper-parameter 'weight_decy', did you mean 'weight_decay'"),
    typo_bare       = (lambda: build([average_grad, momentum_step], mon=.1), TypeError, "'mon', did you mean 'mom'"),
    not_its_own     = (lambda: SGD([P()], betas=(.9,.99)), TypeError, "SGD got an unexpected hyper-parameter 'betas'"),
    two_spellings   = (lambda: Adam([P()], betas=(.9,.99), mom=.8), TypeError, "got both 'betas' and 'mom'"),
    two_spellings2  = (lambda: SGD([P()], wd=.1, weight_decay=.2), TypeError, "got both 'wd' and 'weight_decay'"),
    twice           = (lambda: Adam([P()], .1, lr=.1), TypeError, "multiple values for argument 'lr'"),
    too_many        = (lambda: SGD([P()], .1, 0, 0, 0, False, True), TypeError, 'takes at most 6 positional arguments, got 7'),
    no_lr           = (lambda: Optimizer([P()], [sgd_step]), TypeError, 'needs a learning rate'),
    foreach_fused   = (lambda: Adam([P()], foreach=True, fused=True), RuntimeError, '`fused` and `foreach` cannot be `True` together'),
    foreach_tensor  = (lambda: Adam([P()], foreach=True, lr=torch.tensor(.1)), ValueError, 'lr as a Tensor is not supported for .* leave foreach out'),
    capturable      = (lambda: RMSprop([torch.ones(3, device='meta', requires_grad=True)], capturable=True, lr=torch.tensor(.1)), ValueError, 'needs lr on meta, where the parameters are; it is on cpu'),
    differentiable  = (lambda: SGD([P()], differentiable=True), ValueError, 'differentiable=True is not available yet'),
    # callbacks
    cb_none         = (lambda: build(None), ValueError, "param group 0 has no cbs: give Optimizer a list of callbacks, or each group its own"),
    cb_no_signature = (lambda: build([dict.fromkeys]), TypeError, 'fromkeys'),
    cb_fastai       = (lambda: build([fastai_style]), TypeError, r'fastai_style takes \*\*kwargs; name each value that it reads'),
    cb_varargs      = (lambda: build([many]), TypeError, r'many takes \*args'),
    cb_positional   = (lambda: build([positional]), TypeError, "positional: 'grad' is positional-only"),
    cb_none_default = (lambda: build([none_default]), TypeError, "none_default: the default of 's' is None"),
    cb_tensor_default = (lambda: build([tensor_default]), TypeError, "tensor_default: the default of 's'"),
    cb_given        = (lambda: build([default_for_grad]), TypeError, "default_for_grad: the optimizer gives 'grad'"),
    cb_in_place     = (lambda: build([in_place]), ValueError, r"in_place writes 'grad' in place; return the new value instead, dict\(grad"),
    cb_state_in_place = (lambda: build([state_in_place]), ValueError, "state_in_place writes 's' in place"),
    cb_forgets      = (lambda: build([forgets]), TypeError, 'forgets returned NoneType; return the new update'),
    cb_pair         = (lambda: build([pair]), TypeError, 'pair returned tuple'),
    cb_wrong_shape  = (lambda: build([wrong_shape]), ValueError, r"wrong_shape returned 's' of shape \(\) in place of \(3,\)"),
    cb_wrong_kind   = (lambda: build([wrong_kind]), TypeError, "wrong_kind returned a Tensor for 'step', which is a int"),
    cb_number_state = (lambda: build([number_state]), TypeError, "number_state returned a float for 's', which is a Tensor"),
    cb_number_update = (lambda: build([number_update]), TypeError, 'number_update returned update=1.0; it must be a tensor'),
    cb_shrinks      = (lambda: build([shrinks]), ValueError, r"shrinks returned 'update' of shape \(1,\)"),
    cb_too_late     = (lambda: build([too_late]), ValueError, "too_late returned 'update' after the parameter has moved"),
    cb_raises       = (lambda: build([raises]), ValueError, 'raises fails in a trial on a small 1-dimensional parameter.*RuntimeError'),
    cb_lists_state  = (lambda: build([lists_with_state]), TypeError, "it runs once for all parameters, so the state 's' comes as a list; call it 'ss'"),
    cb_lists_grad   = (lambda: build([lists_and_grad]), TypeError, "lists_and_grad reads 'grad' of one parameter, and lists of all"),
    cb_lists_length = (lambda: build([wrong_length]), ValueError, 'wrong_length returned 2 updates for 1 parameters'),
    cb_returns_lists = (lambda: build([returns_lists]), ValueError, "returns_lists returned 'grads', but reads no lists"),
    # chains
    reads_nothing   = (lambda: build([reads_unknown]), ValueError, r"reads_unknown reads 'foo', which nothing before it provides: add a callback that returns it, declare it as a state \(foo=zeros\), or give it as a hyper-parameter \(foo=...\)"),
    reads_missing   = (lambda: build([average_grad, step_stat, debias, adam_step], sqr_mom=.9), ValueError, "adam_step reads 'sqr_avg', which nothing before it provides: add average_sqr_grad"),
    reads_missing2  = (lambda: build([average_grad, average_sqr_grad, adam_step]), ValueError, "reads 'debias1', which nothing before it provides: add debias"),
    reads_missing3  = (lambda: build([average_grad, average_sqr_grad, debias, adam_step]), ValueError, "debias reads 'step', which nothing before it provides: add step_stat"),
    reads_typo      = (lambda: build([average_grad, misreads]), ValueError, "misreads reads 'grad_avrg'.*did you mean 'grad_avg'"),
    reads_too_soon  = (lambda: build([momentum_step, average_grad]), ValueError, 'average_grad comes later, move it before momentum_step'),
    two_states      = (lambda: build([state_one, state_two]), ValueError, r"state_two declares the state s=ones, but state_one declares s=zeros; rename one"),
    state_and_hyper = (lambda: build([state_one, hyper_is_state]), ValueError, "hyper_is_state declares 's' a hyper-parameter, but in state_one it is a state"),
    two_defaults    = (lambda: build([average_grad, hyper_two]), ValueError, "hyper_two has the default mom=0.5, but average_grad has mom=0.9; give one value for both, mom=..., or rename one: rename\\(hyper_two, mom='hyper_two_mom'\\)"),
    reads_alias     = (lambda: build([average_grad, step_stat, debias, reads_alpha]), ValueError, "debias reads 'sqr_mom', which nothing before it provides"),
    dead_grad       = (lambda: build([average_grad, momentum_step, l2_reg]), ValueError, "l2_reg returned 'grad', which nothing after it reads; put l2_reg before"),
    dead_state      = (lambda: build([misspells_state]), ValueError, "misspells_state returned 'avgs', which nothing reads, did you mean 'avg'"),
    dead_lr         = (lambda: build([late_lr]), ValueError, "late_lr returned 'lr' after the parameter has moved"),
    data_in_place   = (lambda: build([data_in_place]), ValueError, "data_in_place writes 'p' in place"),
    later_in_place  = (lambda: build([step_stat, later_in_place]), ValueError, "later_in_place writes 'buf' in place"),
    transposes      = (lambda: build([lambda grad: grad.T], P(100,50)), ValueError, r"returned 'update' of shape \(\d+, \d+\)"),
    broadcasts      = (lambda: Optimizer([P(1,5), P(3,5)], [mean_row], lr=.1), ValueError, r"mean_row returned 'update' of shape \(1, 5\) in place of \(3, 5\)"),
    broadcasts_state = (lambda: Optimizer([P(1,5), P(3,5)], [mean_state], lr=.1), ValueError, "mean_state returned 's' of shape"),
    init_fails      = (lambda: build([needs_matrix]), ValueError, "the initializer of state 's' fails in a trial on a small 1-dimensional parameter: IndexError"),
    init_tuple      = (lambda: build([tuple_state]), ValueError, 'made a tuple; it must make a tensor or a number'),
    state_lr        = (lambda: build([lr_state]), TypeError, "'lr' is a hyper-parameter, so no state can have this name"),
    init_as_callback = (lambda: build([zeros]), TypeError, r"zeros is an initializer, the default of a state: def f\(grad, s=zeros\)"),
    init_uncalled   = (lambda: build([uncalled]), TypeError, "Init\\(f\\) makes an initializer of a function f, full\\(v\\) and scalar\\(v\\) of a value"),
    hyper_is_state  = (lambda: build([average_grad, momentum_step], grad_avg=0.), TypeError, "unexpected hyper-parameter 'grad_avg'"),
    hyper_is_given  = (lambda: build([average_grad, momentum_step], grad=1.), TypeError, "unexpected hyper-parameter 'grad'"),
    hyper_is_result = (lambda: build([average_grad, average_sqr_grad, step_stat, debias, adam_step], debias1=1.), TypeError, "unexpected hyper-parameter 'debias1'"),
    hyper_elsewhere = (lambda: build([sgd_step], wd=.1), TypeError, "unexpected hyper-parameter 'wd'; add l2_reg or weight_decay or fixed_decay or [0-9]+ others, which have it"),
    hyper_inf       = (lambda: build([undeclared_range], k=inf), ValueError, r"k value: inf; Optimizer needs it finite; .*Range\('\(0,inf\]'\)"),
    group_elsewhere = (lambda: Adam([dict(params=[P()], momentum=.9)]), TypeError, "unexpected key 'momentum'; it has lr, betas, eps"),
    group_module    = (lambda: Adam([dict(params=torch.nn.Linear(2,2))]), TypeError, r'param group 0: params is a module; pass its parameters\(\)'),
    partial_position = (lambda: build([partial(average_grad, .95)]), TypeError, "average_grad: partial gives 0.95 by position; name the argument"),
    partial_unknown = (lambda: build([partial(average_grad, mon=.9)]), TypeError, "average_grad: partial gives 'mon', which is not among its arguments: grad, mom"),
    partial_beaten  = (lambda: Beaten([P()]), TypeError, r"Beaten: partial\(average_grad, mom=...\) gives 'mom', which Beaten has as an argument"),
    made_anew       = (lambda: Anew([P()]), TypeError, "Anew defines clip anew at each call; define it outside"),
    no_return       = (lambda: NoReturn([P()]), TypeError, 'NoReturn returned NoneType; it must return a list of callbacks'),
    algorithm_object = (lambda: Wrapped([P()]), TypeError, 'Wrapped returned Adam; it must return a list of callbacks'),
    two_algorithms  = (lambda: build([Adam, Lion]), TypeError, 'Optimizer: Adam and Lion in one list would each move every parameter; give each a group'),
    algorithms_hyper = (lambda: build([Adam, clip_grad_norm], max_nrm=1.), TypeError, "unexpected hyper-parameter 'max_nrm', did you mean 'max_norm'"),
    number_as_callback = (lambda: build([.1]), TypeError, 'got 0.1, a number; if a variable hides the callback'),
    lists_not_list  = (lambda: build([stacks]), TypeError, 'stacks returned a Tensor for grads; return a list with one value'),
    range_words     = (lambda: Range('0,1'), ValueError, "write a Range as an interval"),
    rename_clash    = (lambda: rename(average_grad, mom='grad'), TypeError, r"rename\(average_grad\): it reads 'grad' already"),
    rename_number   = (lambda: rename(average_grad, mom=.9), TypeError, "the new name of 'mom' must be a string, got 0.9"),
    rename_unknown  = (lambda: build([rename(average_grad, mum='x')]), TypeError, r"rename\(average_grad, mum='x'\) renames 'mum', which average_grad neither reads nor returns, did you mean 'mom'"),
    name_declared   = (lambda: build([declares_policy]), TypeError, "Optimizer has an argument 'nonfinite' of its own; rename that of the callback"),
    flag_declared   = (lambda: build([declares_flag], maximize=True), TypeError, "Optimizer has an argument 'maximize' of its own"),
    algorithm_no_lr = (lambda: algorithm(lambda wd=0.: []), TypeError, 'needs an argument lr'),
    algorithm_no_default = (lambda: algorithm(lambda lr: []), TypeError, "'lr' needs a default"),
    algorithm_flag  = (lambda: algorithm(lambda lr=.1, maximize=True: []), TypeError, "every algorithm has the argument 'maximize' already"),
)

@algorithm
def Beaten(lr=.1, betas=(.9,.99)): return [partial(average_grad, mom=.5), average_sqr_grad, step_stat, debias, adam_step]
@algorithm
def Anew(lr=.1):
    def clip(grads): return grads
    return [clip]
@algorithm
def NoReturn(lr=.1): [sgd_step]  # noqa: B018
@algorithm
def Wrapped(lr=.1): return Adam([P()], lr)

def made_in_inference_mode():
    with torch.inference_mode(): return torch.ones(3)
def used_up():
    ps = iter(torch.nn.Linear(2,2).parameters())
    list(ps)
    return ps
def shared():
    p = P()
    return Adam([dict(params=[p]), dict(params=[p])])

def test_there_are_many(): assert len(bad)>=40

@pytest.mark.parametrize('name', bad)
def test_bad_construction_is_refused_by_name(name):
    make,error,words = bad[name]
    with pytest.raises(error, match=f'(?s){words}') as e: make()
    assert type(e.value) is error and len(str(e.value))<500

wrong_groups = [(dict(lr=-1.), ValueError, 'Invalid learning rate: -1.0; Adam, param group 1'), (dict(lrr=.1), TypeError, "'lrr', did you mean 'lr'"),
                (dict(betas=(.9,)), ValueError, 'betas must be 2 numbers'), (dict(eps=nan), ValueError, 'Invalid epsilon value: nan'),
                (dict(amsgrad=1.5), TypeError, 'amsgrad must be True or False'), (dict(mom=1.), ValueError, 'Invalid beta parameter at index 0: 1.0'),
                (dict(differentiable=True), ValueError, 'differentiable=True is not available yet')]

@pytest.mark.parametrize('kw,error,words', wrong_groups, ids=str)
def test_bad_group_leaves_the_optimizer_as_it_was(kw, error, words):
    opt = Adam([P()], lr=.1)
    before = repr(opt.state_dict())
    with pytest.raises(error, match=words): opt.add_param_group(dict(params=[P()], **kw))
    assert repr(opt.state_dict())==before
    with pytest.raises(TypeError, match='param_group must be a dict'): opt.add_param_group([P()])

def test_notes_in_a_group_are_the_users():
    opt = Adam([dict(params=[P()], name='head', initial_lr=.1, max_momentum=.9, layer_scale=2, weight_decay_mult=1.)])
    assert opt.param_groups[0]['name']=='head' and opt.param_groups[0]['max_momentum']==.9

def test_an_integer_where_torch_takes_one():
    opt = Adam([P()], lr=1, betas=(0, .9), eps=0, weight_decay=1)
    assert opt.param_groups[0]['betas']==(0, .9) and type(opt.param_groups[0]['lr']) is int


# -- A result that is misspelt, a state that is not declared --

def misspelt(grad): return dict(updat=grad.sign())
def misspelt_move(p, grad): return dict(newp=p-grad)
def undeclared(grad, grad_avg, mom=.9):
    avg = grad_avg*mom + grad
    return dict(update=avg, grad_avg=avg)
def for_others(grad): return dict(grad=grad, norm=grad.norm())

@pytest.mark.parametrize('cbs,words', [([misspelt], "misspelt returned 'updat', which nothing reads, did you mean 'update'"),
                                       ([misspelt_move], "misspelt_move returned 'newp', which nothing reads, did you mean 'new_p'"),
                                       ([undeclared], "undeclared returns it, so declare it as a state: grad_avg=zeros")], ids=lambda x: x if isinstance(x, str) else '')
def test_a_slip_in_a_rule_of_ones_own(cbs, words):
    "Without an error the first two would be SGD"
    with pytest.raises(ValueError, match=words): Optimizer([torch.ones(3, 2, requires_grad=True)], cbs, lr=.1)

def for_a_look(grad): return dict(grad=grad, grad2=grad.square())
def for_all_others(grads): return dict(grads=grads, grads2=[g.square() for g in grads])

@pytest.mark.parametrize('cb', [for_others, for_a_look, for_all_others], ids=lambda f: f.__name__)
def test_what_nobody_reads_may_be_returned(cb): Optimizer([torch.ones(3, 2, requires_grad=True)], [cb], lr=.1)

def test_parameters_that_were_not_asked_for():
    with pytest.raises(TypeError, match=r"but got method: call it, as in model.parameters\(\)"): Lion(torch.nn.Linear(2, 2).parameters)

made = Lion([P()])
@pytest.mark.parametrize('cbs,words', [
    (lambda: Lion(lr=.1),             r"^Lion: params is missing; an optimizer takes the parameters first, Lion\(model.parameters\(\), lr=0.1\)\. .* partial\(Lion, lr=0.1\)$"),
    (lambda: Lion(),                  r"params is missing.*Lion\(model.parameters\(\)\)\. .* give Lion itself$"),
    (lambda: made,                    r"^Optimizer: cbs must be a list of callbacks or an algorithm of genopt, got the optimizer Lion\(\.\.\.\); give the algorithm, genopt.Lion, or partial"),
    (lambda: [made, sgd_step],        r"^Optimizer: cbs has the optimizer Lion\(\.\.\.\), which is no callback; give the algorithm, genopt.Lion"),
    (lambda: torch.optim.AdamW,       r"cbs has the class torch.optim.adamw.AdamW, which is no callback; give the algorithm, genopt.AdamW"),
    (lambda: [torch.optim.AdamW],     r"cbs has the class torch.optim.adamw.AdamW, which is no callback; give the algorithm, genopt.AdamW"),
    (lambda: torch.optim.SGD([P()]),  r"got the optimizer SGD\(\.\.\.\); give the algorithm, genopt.SGD"),
    (lambda: 'adamw',                 r"got 'adamw'; give the algorithm, genopt.AdamW"),
    (lambda: ['nadamw'],              r"cbs has 'nadamw', which is no callback; give the algorithm, genopt.NAdamW"),
    (lambda: 'adamax2',               r"got 'adamax2'; genopt.list_algorithms\(\)"),
    (lambda: build([sgd_step]),       r"got the optimizer Optimizer\(\.\.\.\); give its callbacks, opt.cbs"),
    (lambda: Optimizer,               r"cbs has the class genopt.optim.optimizer.Optimizer, which is no callback; genopt.list_algorithms"),
    (lambda: [P(), P(2, 2)],          r"cbs has a tensor of shape \(3,\), which is no callback; the parameters come first, and then the callbacks"),
    (lambda: P(2),                    r"cbs has a tensor of shape \(2,\), which is no callback"),
    (lambda: dict(cbs=sgd_step),      r"cbs must be a list of callbacks or an algorithm of genopt, got \{'cbs'"),
])
def test_what_is_no_algorithm_says_what_to_give(cbs, words):
    with pytest.raises(TypeError, match=words): Optimizer([P()], cbs(), lr=.1)

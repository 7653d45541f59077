"""The fault catalogue: what goes wrong with optimizers in practice, and what genopt does instead. One test for each row, in the order of the
rows, with the row's number at its front and named by what goes wrong."""

import ast,copy,gc,inspect,io,math,pickle,re,threading,warnings,weakref
from contextlib import contextmanager
from functools import partial
from pathlib import Path
import pytest,torch
from torch import nn,tensor
from torch.optim import lr_scheduler
import genopt
from genopt.run import compiler
from genopt import Adam,AdamW,Lion,Optimizer,RMSprop,SGD,count,zeros
from genopt.blocks import average_grad,momentum_step,sgd_step,step_stat
from helpers import algorithms,awkward,gpu,gradients,two_groups

nan,inf = math.nan,math.inf
way  = dict(loop=dict(foreach=False), default={}, fused=dict(fused=True))
ways = pytest.mark.parametrize('kw', way.values(), ids=way)
each = pytest.mark.parametrize('a', algorithms, ids=lambda a: a.name)
def runs_of(names): return pytest.mark.parametrize('a,kw', [pytest.param(a, kw, id=f'{a.name}-{n}') for a in algorithms if a.name in names for n,kw in way.items()
                                                            if n!='fused' or a.name=='Adam'])         # compiling takes its time
every = runs_of([a.name for a in algorithms])
runs  = runs_of(['SGD','Adam','Lion','LAMB'])                                                   # a sum, averages, a sign, norms: enough where the row is not about the algorithm
low  = pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16], ids=['float16','bfloat16'])
references = {a.name: a.reference for a in algorithms}                                          # torch's; of NAdam with its product in double precision
adaptive = Adam,RMSprop,genopt.RAdam,genopt.LAMB

elsewhere = {
    54:  'tests/test_engine.py::test_a_step_on_tape_goes_on_with_new_gradients_and_learning_rates',
    99:  'tests/test_distributed.py::test_processes_together_are_as_one',
    100: 'tests/test_distributed.py::test_processes_together_are_as_one',
    102: 'tests/test_save.py::test_training_killed_a_hundred_times_ends_with_the_same_bits',
    103: 'tests/test_save.py::test_bit_flips_are_found',
}
not_here = {
    49:  'one group on two devices: this machine has a CPU only, and the meta device holds no numbers',
    52:  'more than 2**31 elements: the parameter, its gradient and a pass over them need tens of gigabytes, and the kernels of concern are those of CUDA',
}


def P(*shape, v=1., dtype=None): return nn.Parameter(torch.full(shape or (3,), v, dtype=dtype))
def give(ps, g=1.):
    "Gradients, all elements alike"
    for p in ps: p.grad = torch.full_like(p, g)
def took(ps, opt, gs=(1.,)):
    "Steps with these gradients; returns the optimizer"
    for g in gs:
        give(ps, g)
        opt.step()
    return opt
def net(seed=0, dtype=None):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2)).to(dtype)
def train(m, opt, steps=range(3), **kw):
    for i in steps:
        opt.zero_grad(**kw)
        m(torch.randn(5, 4, generator=torch.Generator().manual_seed(i)).to(m[0].weight.dtype)).square().sum().backward()
        opt.step()

def same(a, b):
    "Equal to the bit, in the same dtypes; NaN equals NaN"
    if isinstance(a, torch.Tensor): return isinstance(b, torch.Tensor) and a.dtype==b.dtype and torch.equal(a.isnan(), b.isnan()) and torch.equal(a.nan_to_num(), b.nan_to_num())
    if isinstance(a, dict): return a.keys()==b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list,tuple)): return len(a)==len(b) and all(map(same, a, b))
    return type(a) is type(b) and (a==b or a!=a and b!=b)
def everything(opt): return copy.deepcopy((opt.state_dict(), [p.detach() for g in opt.param_groups for p in g['params']]))
@contextmanager
def light():
    "Collecting garbage looks only at what is made within"
    gc.collect(); gc.freeze()
    try: yield
    finally: gc.unfreeze()
class unchanged:
    "Within, nothing of the optimizers changes: parameters, state, groups"
    def __init__(self, *opts): self.opts = opts
    def __enter__(self): self.before = [*map(everything, self.opts)]
    def __exit__(self, *_): assert all(same(b, everything(o)) for b,o in zip(self.before, self.opts))

def refused(error, words, make):
    "Raises exactly `error`, in these words"
    with pytest.raises(error, match=f'(?s){words}') as e: make()
    assert type(e.value) is error and len(str(e.value))<500

def also_in_a_group(error, words, **hypers):
    "Refused for the optimizer, and for a group that is added, which leaves all as it was"
    p,opt = P(),Adam([P()])
    refused(error, words, lambda: Adam([p], **hypers))
    with unchanged(opt): refused(error, words, lambda: opt.add_param_group(dict(params=[p], **hypers)))
    assert torch.equal(p, torch.ones(3)) and len(opt.param_groups)==1


# -- Every row is here --

rows = range(1, 106)

def numbers_of(name): return [int(n) for n in re.findall(r'\d+', m[0])] if (m := re.match(r'test_(\d{3}_)+', name)) else []

def test_every_row_is_a_test_or_has_a_reason():
    here = [n for name,f in globals().items() if callable(f) for n in numbers_of(name)]
    told = [*here, *elsewhere, *not_here]
    assert sorted(set(told))==[*rows] and not {*elsewhere}&{*not_here} and not {*here}&{*not_here}
    order = [numbers_of(name)[0] for name in globals() if numbers_of(name)]
    assert order==sorted(order)
    for where in elsewhere.values():
        file,name = where.split('::')
        found = [o for o in ast.walk(ast.parse((Path(__file__).parent.parent/file).read_text())) if isinstance(o, ast.FunctionDef) and o.name==name]
        assert found and any(isinstance(o, (ast.Assert, ast.With)) or isinstance(o, ast.Attribute) and o.attr.startswith('assert') for o in ast.walk(found[0])), where


# -- Construction --

def test_001_a_negative_learning_rate(): also_in_a_group(ValueError, 'Invalid learning rate: -1.0', lr=-1.)
def test_002_a_learning_rate_of_nan():   also_in_a_group(ValueError, 'Invalid learning rate: nan', lr=nan)
def test_003_an_infinite_learning_rate(): also_in_a_group(ValueError, r'Invalid learning rate: inf; .* in \[0,inf\)', lr=inf)

@pytest.mark.parametrize('lr,error,words', [
    ('0.1',            TypeError,  r"lr must be a real number or a 1-element Tensor, got '0.1' \(str\)"),
    (None,             TypeError,  'lr must be a real number or a 1-element Tensor, got None'),
    (tensor([.1, .2]), ValueError, r'Tensor lr must be 1-element; got shape \(2,\)'),
])
def test_004_a_learning_rate_that_is_no_number(lr, error, words): also_in_a_group(error, words, lr=lr)

@pytest.mark.parametrize('betas,words', [
    ((1., .9), 'Invalid beta parameter at index 0: 1.0'), ((.9, -.1), 'Invalid beta parameter at index 1: -0.1'), ((nan, .9), 'Invalid beta parameter at index 0: nan'),
    ((.9,), r'betas must be 2 numbers, got \(0.9,\)'), ((.9, .9, .9), 'betas must be 2 numbers')])
def test_005_a_beta_out_of_range_or_too_few(betas, words): also_in_a_group(ValueError, words, betas=betas)

@pytest.mark.parametrize('k,what', [('eps', 'epsilon'), ('weight_decay', 'weight_decay')])
@pytest.mark.parametrize('v', [-1e-8, nan, inf])
def test_006_a_negative_eps_or_weight_decay(k, what, v):
    also_in_a_group(ValueError, f'Invalid {what} value: {v}', **{k: v})

def test_007_a_misspelt_argument_is_swallowed():
    refused(TypeError, "Adam got an unexpected hyper-parameter 'weight_decy', did you mean 'weight_decay'", lambda: Adam([P()], weight_decy=.1))

def test_008_a_misspelt_key_in_a_group_is_ignored():
    also_in_a_group(TypeError, "'lrr', did you mean 'lr'", lrr=.1)
    assert Adam([dict(params=[P()], name='head', layer_id=3)]).param_groups[0]['layer_id']==3               # notes of one's own are not

def test_009_a_bad_value_in_a_group_is_not_looked_at():
    refused(ValueError, 'Invalid learning rate: -1.0; Adam, param group 1', lambda: Adam([dict(params=[P()]), dict(params=[P()], lr=-1.)]))

def test_010_a_group_without_params():
    refused(ValueError, "param group 0 has no 'params'; it has 'lr'", lambda: Adam([dict(lr=.1)]))
    opt = Adam([P()])
    with unchanged(opt): refused(ValueError, "param group 1 has no 'params'", lambda: opt.add_param_group(dict(lr=.1)))

@ways
def test_011_a_generator_that_is_used_up(kw):
    ps = (p for p in [P()])
    Adam(ps, **kw)
    refused(ValueError, 'empty parameter list; was the generator', lambda: Adam(ps, **kw))
    p = P()                                                                                     # an empty group is no fault: another process has it
    opt = took([p], Adam([dict(params=[]), dict(params=[p])], lr=.1, **kw))
    assert torch.allclose(p, torch.full((3,), .9)) and len(opt.state_dict()['param_groups'])==2 and len(repr(opt))

@pytest.mark.parametrize('cap', [dict(capturable=True), dict(capturable=True, fused=True)], ids=['default','fused'])
def test_011_an_empty_group_on_the_device(cap):
    p = P()
    took([p], Adam([dict(params=[]), dict(params=[p])], lr=.1, **cap), (1., 1.))
    assert torch.allclose(p, torch.full((3,), .8))

@pytest.mark.parametrize('params,words', [
    (P(), 'should be an iterable of Tensors'), (nn.Linear(2, 2), r'Linear: pass model\.parameters\(\)'), ([1, 2], 'can only optimize Tensors.*int'), (None, 'got NoneType'),
    ('weight', 'got str'), (dict(w=P()), r'dict: pass its items\(\)'), ([P(), 'w'], 'can only optimize Tensors.*str')], ids=lambda o: type(o).__name__)
def test_012_what_is_no_list_of_parameters(params, words):
    refused(TypeError, words, lambda: Adam(params))

def test_012_named_parameters_are_taken():
    assert Adam(net().named_parameters()).param_groups[0]['param_names']==['0.weight','0.bias','2.weight','2.bias']

def test_013_a_list_of_lists():
    m = net()
    assert [[*map(id, g['params'])] for g in Adam([[*m[0].parameters()], [*m[2].parameters()]]).param_groups]==[[*map(id, l.parameters())] for l in (m[0], m[2])]

@ways
def test_014_a_parameter_twice_in_a_group_moves_twice(kw):
    p,q = P(),P()
    with pytest.warns(UserWarning, match='duplicate parameters'): opt = Adam([p, p], lr=.1, **kw)
    took([p], opt, (1., 2.)); took([q], Adam([q], lr=.1, **kw), (1., 2.))
    assert torch.equal(p, q) and opt.state[p]['step']==2

def test_015_a_parameter_in_two_groups():
    p = P()
    refused(ValueError, 'some parameters appear in more than one parameter group', lambda: Adam([dict(params=[p]), dict(params=[p])]))
    opt = Adam([p])
    with unchanged(opt): refused(ValueError, 'more than one parameter group', lambda: opt.add_param_group(dict(params=[p])))
    m = net()
    m[2].weight = m[0].weight                                                                   # tied: named_parameters, and so groups, have it once
    assert [n for g in genopt.groups(m, {'*weight': {}}) for n,_ in g['params']]==['0.weight', '0.bias', '2.bias']

def test_016_a_set_has_no_order():
    for some in ({P(), P()}, frozenset([P()])):
        with pytest.warns(FutureWarning, match='ordered collections'): Adam(some)
    for groups in ([dict(params={P()})], [{P()}, {P()}]): refused(TypeError, 'ordered collections.*use a list instead', lambda: Adam(groups))

def test_017_a_parameter_that_is_no_leaf(): refused(ValueError, "can't optimize a non-leaf Tensor", lambda: Adam([P()*2]))

@pytest.mark.parametrize('dtype', [torch.int64, torch.bool, torch.uint8])
def test_018_integer_parameters(dtype):
    refused(ValueError, f'param group 0: parameter 1 is {dtype}; only floating point and complex', lambda: Adam([P(), torch.ones(2, dtype=dtype)]))

@runs
def test_019_complex_parameters_with_the_square_for_the_modulus(a, kw):
    "As pairs of real ones"
    z = nn.Parameter(torch.tensor([1+2j, -3+.5j, .1j], dtype=torch.complex128))
    x = nn.Parameter(torch.view_as_real(z.detach()).clone())
    setting = a.settings(1)[0]
    o,r = a.cls([z], **setting, **kw),a.cls([x], **setting, **kw)
    for i in range(5):
        z.grad = torch.tensor([1j, .3-1j, 2+i], dtype=torch.complex128)
        x.grad = torch.view_as_real(z.grad).clone()
        o.step(); r.step()
    torch.testing.assert_close(torch.view_as_real(z.detach()), x.detach(), rtol=1e-12, atol=1e-14)

def test_020_the_callers_groups_are_written_into():
    groups = [dict(params=[P()]), dict(params=[P()], lr=.3)]
    first = Adam(groups, lr=.1)
    first.param_groups[0]['lr'] = 7.
    assert [g.keys() for g in groups]==[{'params'}, {'params','lr'}] and [g['lr'] for g in Adam(groups, lr=.5).param_groups]==[.5, .3]

@ways
def test_021_one_tensor_lr_shared_by_groups_and_user(kw):
    "As in torch it is shared: a schedule writes it, but once; groups with tensors of their own, copies and what is loaded stay apart"
    lr,own = tensor(.1),tensor(.1)
    opt = SGD([dict(params=[P()]), dict(params=[P()]), dict(params=[P()], lr=own)], lr=lr, **kw)
    schedule,other = lr_scheduler.StepLR(opt, 1, .5),copy.deepcopy(opt)
    opt.step(); schedule.step()
    assert [float(g['lr']) for g in opt.param_groups]==pytest.approx([.05]*3) and lr.item()==pytest.approx(.05)
    own.fill_(3.)
    assert [float(g['lr']) for g in opt.param_groups]==pytest.approx([.05, .05, 3.]) and [float(g['lr']) for g in other.param_groups]==pytest.approx([.1]*3)

def test_022_callbacks_in_the_groups_cannot_be_saved():
    f = lambda grad: grad*2
    opt = Optimizer([dict(params=[P()], cbs=[f, average_grad, momentum_step], lr=.1), dict(params=[P()], cbs=Lion)])
    kinds = int,float,bool,str,tuple,list,type(None)
    assert all(isinstance(v, kinds) for g in opt.state_dict()['param_groups'] for v in g.values())
    torch.save(opt.state_dict(), b := io.BytesIO())
    b.seek(0)
    opt.load_state_dict(torch.load(b, weights_only=True))

@each
def test_023_an_algorithm_without_a_name(a):
    assert isinstance(a.cls, type) and issubclass(a.cls, torch.optim.Optimizer) and a.cls.__name__==a.name
    assert {'params','lr'}<=inspect.signature(a.cls).parameters.keys() and type(a.cls([P()], lr=.1)).__name__==a.name

@pytest.mark.parametrize('cbs,words', [
    ([average_grad, genopt.blocks.adam_step],            "adam_step reads 'sqr_avg', which nothing before it provides: add average_sqr_grad"),
    ([momentum_step, average_grad],               'average_grad comes later, move it before momentum_step'),
    ([average_grad, lambda grad, grad_avg=genopt.ones: dict(grad_avg=grad)], "declares the state grad_avg=ones, but average_grad declares grad_avg=zeros; rename one"),
])
def test_024_callbacks_that_do_not_fit_together(cbs, words):
    refused(ValueError, words, lambda: Optimizer([P()], cbs, lr=.1))


# -- Gradients and steps --

@every
@pytest.mark.parametrize('bad', [nan, inf])
def test_025_a_nan_gradient_poisons_state_for_ever(a, bad, kw):
    "Propagated where nobody asks; `skip` leaves all as it was, counts, and goes on; `raise` names the parameter"
    ps,qs = [P(), P(4)],[P(), P(4)]
    opt,ref = a.cls(ps, lr=.01, nonfinite='skip', **kw),a.cls(qs, lr=.01, **kw)
    took(ps, opt, (1., .5)); took(qs, ref, (1., .5))
    give(ps); ps[1].grad[2] = bad
    with unchanged(opt): opt.step()
    assert opt.last_step_skipped and opt.skipped_steps==1
    opt.nonfinite = 'raise'
    with unchanged(opt): refused(FloatingPointError, f"{a.name}: the gradient of parameter 1 in param group 0 has 1 {'NaN' if bad!=bad else 'infinite'} among 4", opt.step)
    took(ps, opt, (.2, -1.)); took(qs, ref, (.2, -1.))
    assert same(everything(opt), everything(ref)) and not opt.last_step_skipped
    give(qs); qs[1].grad[2] = nan
    ref.step()
    assert (qs[1][2].isnan() or ref.state[qs[1]]['grad_avg'][2].isnan()) and not qs[0].isnan().any()       # the sign of NaN, in Lion, is 0

@runs
def test_026_a_scaler_that_finds_infinity(a, kw):
    m,n = net(),net()
    opt,ref = a.cls(m.parameters(), lr=.01, **kw),a.cls(n.parameters(), lr=.01, **kw)
    scaler = torch.amp.GradScaler('cpu', init_scale=4.)
    assert not getattr(opt, '_step_supports_amp_scaling', False)
    for i,bad in enumerate([1., inf, 1.]):
        opt.zero_grad(); ref.zero_grad()
        scaler.scale(m(torch.ones(2, 4)).square().sum()*bad).backward()
        before = everything(opt)
        scaler.step(opt); scaler.update()
        if bad==inf: assert same(before, everything(opt)); continue
        n(torch.ones(2, 4)).square().sum().backward()
        ref.step()
        assert i==0 or scaler.get_scale()==2.
    assert same(everything(opt), everything(ref))                                              # powers of two: no rounding

def test_027_a_scheduler_that_steps_though_the_optimizer_did_not():
    p = P()
    opt = SGD([p], lr=1., nonfinite='skip')
    with warnings.catch_warnings():
        warnings.simplefilter('error')                                                         # the scheduler sees that the step was called
        schedule,rates = lr_scheduler.ExponentialLR(opt, .5),[]
        for g in (nan, 1., nan, 1.):
            took([p], opt, (g,))
            if not opt.last_step_skipped: schedule.step()
            rates.append(opt.param_groups[0]['lr'])
    assert rates==[1., .5, .5, .25] and opt.skipped_steps==2

@ways
def test_028_a_scaler_without_any_gradient(kw):
    "torch's scaler has the error; a step without gradients is none"
    opt,scaler = Adam([p := P()], **kw),torch.amp.GradScaler('cpu')
    scaler.scale(tensor(1.))
    with unchanged(opt):
        opt.step()
        with pytest.raises(AssertionError, match='No inf checks were recorded'): scaler.step(opt)
    assert not opt.state and p.grad is None

def test_029_a_scaler_with_float16_parameters():
    "torch's scaler refuses, before anything has changed"
    opt,scaler = Adam([p := P(dtype=torch.float16)]),torch.amp.GradScaler('cpu')
    give([p]); scaler.scale(tensor(1.))
    with unchanged(opt), pytest.raises(ValueError, match='Attempting to unscale FP16 gradients'): scaler.step(opt)

@runs
def test_030_no_gradient_at_all_counts_as_a_step(a, kw):
    opt = a.cls([P(), P(2)], lr=.1, **kw)
    with unchanged(opt): opt.step()
    assert not opt.state

@every
def test_031_a_gradient_that_comes_late_is_debiased_as_if_it_were_early(a, kw):
    p,late,alone = P(),P(),P()
    opt,ref = a.cls([p, late], lr=.01, **kw),a.cls([alone], lr=.01, **kw)
    took([p], opt, [1.]*5)
    assert torch.equal(late, torch.ones(3))
    took([p, late], opt, (.5, -2.)); took([alone], ref, (.5, -2.))
    assert torch.equal(late, alone) and same(dict(opt.state[late]), dict(ref.state[alone]))

@runs
def test_032_the_first_parameter_has_no_gradient(a, kw):
    first,p,alone = P(),P(),P()
    opt,ref = a.cls([first, p], lr=.01, **kw),a.cls([alone], lr=.01, **kw)
    took([p], opt, (1., 2.)); took([alone], ref, (1., 2.))
    assert torch.equal(first, torch.ones(3)) and torch.equal(p, alone) and not opt.state.get(first)

@runs
def test_033_weight_decay_without_a_gradient(a, kw):
    p,q = P(),P()
    opt = took([p, q], a.cls([p, q], lr=.1, weight_decay=.5, **kw))
    q.grad,before = None,q.detach().clone()
    for _ in range(3): p.grad = torch.ones(3); opt.step()
    assert torch.equal(q, before)

@runs
def test_034_a_frozen_parameter_moves_by_gradients_of_zeros_left_over(a, kw):
    p,q = P(),P()
    opt = took([p, q], a.cls([p, q], lr=.1, weight_decay=.5, **kw), (1., 1.))
    q.requires_grad_(False); q.grad.zero_()
    before,state = q.detach().clone(),copy.deepcopy(dict(opt.state[q]))
    for _ in range(3): opt.step()
    assert torch.equal(q, before) and same(dict(opt.state[q]), state)

@runs
def test_035_a_sparse_gradient(a, kw):
    e,p = nn.Embedding(5, 2, sparse=True),P()
    opt = a.cls([p, e.weight], lr=.1, **kw)
    took([p], opt)
    for ids in ([1], [1, 1, 3]):                                                                # the latter is not coalesced
        opt.zero_grad(); give([p])
        e(tensor(ids)).sum().backward()
        if a.name=='SGD': opt.step()                                                            # a gradient of zero changes nothing: the rows alone are exact
        else:
            with unchanged(opt): refused(RuntimeError, f'{a.name} does not support sparse gradients of parameter 1', opt.step)
    e.weight.grad = e.weight.grad.to_dense()                                                   # the remedy
    opt.step()

def fails_late(step):
    if step>4: raise ArithmeticError('enough')
    return dict(phase=step)
@ways
@pytest.mark.parametrize('last', [(3,), (5000,)], ids=['small','large'])
def test_036_an_error_at_the_last_parameter_after_the_others_have_moved(last, kw):
    "That parameter is a step ahead of the others"
    ps = [P(), P(2, 2), P(*last)]
    opt = Optimizer(ps, [average_grad, step_stat, momentum_step, fails_late], lr=.1, **kw)
    took(ps[2:], opt)
    took(ps, opt, (1., 1., 1.))
    with unchanged(opt): refused(ArithmeticError, 'enough', opt.step)
    ps[2].grad = None
    opt.step()                                                                                  # the others could go on

@runs
def test_037_a_step_writes_into_the_gradient_or_drops_it(a, kw):
    ps = awkward()
    opt = a.cls(ps.values(), **a.settings(1)[0], **kw)
    for i in range(9, 12):
        for n,g in gradients(i).items(): ps[n].grad = None if g is None else g.clone()
        before = {n: (p.grad, p.grad._version) for n,p in ps.items() if p.grad is not None}
        opt.step()
        assert all(ps[n].grad is g and g._version==v and torch.equal(g, gradients(i)[n]) for n,(g,v) in before.items())

@low
@ways
@pytest.mark.parametrize('cls', adaptive)
def test_038_zero_over_zero_in_float16(cls, kw, dtype):
    p = P(dtype=dtype)
    took([p], cls([p], lr=.1, eps=1e-8, weight_decay=0, **kw), (0., 0.))
    assert torch.equal(p, torch.ones(3, dtype=dtype))

@low
@ways
@pytest.mark.parametrize('cls', adaptive)
@pytest.mark.parametrize('g', [1e-5, 6e4])
def test_039_040_squares_that_vanish_or_overflow_in_float16(cls, g, kw, dtype):
    "The numbers are those of float32, rounded once"
    p = P(8, dtype=dtype)
    q = p.detach().float().requires_grad_()
    opt,ref = cls([p], lr=1e-2, eps=1e-8, **kw),cls([q], lr=1e-2, eps=1e-8, foreach=False)
    for _ in range(2):
        give([p], g)
        q.grad = p.grad.float()
        opt.step(); ref.step()
        assert opt.state[p]['sqr_avg'].dtype==torch.float32 and (opt.state[p]['sqr_avg']>0).all() and p.isfinite().all()
        torch.testing.assert_close(p.float(), q.to(dtype).float(), rtol=torch.finfo(dtype).eps, atol=0)
        q.data.copy_(p)

@every
def test_041_a_square_that_overflows_stops_the_parameter_in_silence(a, kw):
    p = P(4)
    opt = took([p], a.cls([p], lr=.1, nonfinite='skip', **kw))
    give([p]); p.grad[1] = 2e19
    with unchanged(opt): opt.step()
    assert opt.last_step_skipped
    opt.nonfinite = 'raise'
    with unchanged(opt): refused(FloatingPointError, 'has 1 with a square that overflows among 4 elements', opt.step)

@ways
@pytest.mark.parametrize('name', ['Adam','RMSprop','NAdam','RAdam'])
def test_042_eps_within_the_root(name, kw):
    "An eps that is large beside the gradients, against torch's formula in double precision"
    p,q = P(dtype=torch.float64),P(dtype=torch.float64)
    took([p], getattr(genopt, name)([p], lr=.1, eps=.5, **kw), [.3, .1, -.2]*4)
    took([q], references[name]([q], lr=.1, eps=.5), [.3, .1, -.2]*4)
    torch.testing.assert_close(p, q, rtol=1e-13, atol=0)

@low
@ways
def test_043_updates_that_low_precision_loses(kw, dtype):
    "Told once, with the parameter's name. Nothing is told where they arrive, or where there is nothing to learn"
    def told(lr, g, dtype=dtype, **more):
        p = P(10, dtype=dtype)
        with warnings.catch_warnings(record=True) as w:
            warnings.simplefilter('always')
            took([p], SGD([('w', p)], lr=lr, store={'p': 'nearest'}, **kw, **more), [g]*30)
        return [str(o.message) for o in w if 'hardly any element' in str(o.message)]
    assert len(lost := told(1e-5, 1.))==1 and f'SGD: a step with lr=1e-05 has changed hardly any element of w in param group 0: rounding to {dtype} loses' in lost[0]
    assert not told(.1, .1) and not told(1e-5, 0.) and not told(0., 1.) and not told(1e-9, 1., torch.float32)

@ways
def test_044_decay_below_the_resolution_of_bfloat16(kw):
    "Decay and step are each too small to be seen; together, in float32 and rounded once, they are not"
    moved = []
    for wd,g in ((0., .015), (.015, 0.), (.015, .015)):                                         # times lr .0015; half a unit in the last place below 1 is .00195
        p = P(dtype=torch.bfloat16)
        took([p], Optimizer([p], [genopt.blocks.weight_decay, sgd_step], lr=.1, wd=wd, **kw), (g,))
        moved.append(1-p[0].item())
    assert moved==[0., 0., 2**-8]

@ways
@pytest.mark.parametrize('dtype', [torch.float32, torch.float16, torch.bfloat16])
def test_045_a_counter_that_stops_at_256(dtype, kw):
    old = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        p = nn.Parameter(torch.ones(2, dtype=torch.float32))
        opt = took([p], Adam([p], lr=1e-4, **kw), [1.]*260)
        assert type(opt.state[p]['step']) is int and opt.state[p]['step']==260
        opt.state[p]['step'] = 2**24
        took([p], opt)
        assert opt.state[p]['step']==2**24+1
    finally: torch.set_default_dtype(old)

@ways
def test_046_one_minus_beta_vanishes(kw):
    "beta=1-1e-9 is 1 in float32. Debiased in double precision, the first step is still one of lr"
    p = P(dtype=torch.float64)
    took([p], Adam([p], lr=.1, betas=(1-1e-9, 1-1e-9), eps=0., **kw))
    torch.testing.assert_close(p.detach(), torch.full((3,), .9, dtype=torch.float64), rtol=1e-6, atol=0)
    q = P()
    took([q], Adam([q], lr=.1, betas=(1-1e-9, 1-1e-9), **kw))
    assert q.isfinite().all() and (1-q).abs().max()<=.1001

@ways
def test_047_another_default_dtype(kw):
    "The numbers do not depend on it"
    res = []
    for dtype in (torch.float32, torch.float64):
        torch.set_default_dtype(dtype)
        try:
            ps = [nn.Parameter(torch.ones(3, dtype=t)) for t in (torch.float64, torch.float32)]
            opt = took(ps, Adam(ps, lr=.1, **kw), (1., .3, -2.))
            res.append((ps, [opt.state[p]['sqr_avg'] for p in ps]))
        finally: torch.set_default_dtype(torch.float32)
    assert all(a.dtype==b.dtype and torch.equal(a, b) for x,y in zip(*res) for a,b in zip(x, y))

@runs
def test_048_several_dtypes_in_one_group(a, kw):
    dtypes = torch.bfloat16,torch.float32,torch.float16,torch.float64,torch.float32
    ps,qs = [P(5, dtype=t) for t in dtypes],[P(5, dtype=t) for t in dtypes]
    took(ps, a.cls(ps, lr=.01, **kw), (1., .5, -2.))
    for q in qs: took([q], a.cls([q], lr=.01, **kw), (1., .5, -2.))
    assert all(p.dtype==t and torch.equal(p, q) for p,q,t in zip(ps, qs, dtypes))

@runs
def test_050_parameters_without_dimensions_or_without_elements(a, kw):
    ps = [nn.Parameter(torch.tensor(2.)), nn.Parameter(torch.empty(0)), nn.Parameter(torch.empty(3, 0)), P()]
    opt = took(ps, a.cls(ps, lr=.01, **kw), (1., 1.))
    assert ps[0].shape==() and 1<ps[0].item()<2 and ps[1].shape==(0,) and ps[2].shape==(3, 0)
    a.cls(ps, lr=.1, **kw).load_state_dict(opt.state_dict())
    alone = nn.Parameter(torch.empty(0))
    took([alone], a.cls([alone], **kw))

layouts = dict(transposed=lambda x: x.t(), channels_last=lambda x: x.reshape(2, 3, 2, 2).contiguous(memory_format=torch.channels_last),
               of_one=lambda x: x.reshape(6, 1, 4).as_strided((6, 1, 4), (4, 99, 1)), sliced=lambda x: torch.cat([x, x], 1)[:,:4])
@runs
@pytest.mark.parametrize('name', layouts)
def test_051_memory_in_another_order(a, name, kw):
    "Right values wherever the gradient lies, and a state that lies as the parameter does"
    x,g = [torch.randn(6, 4, generator=torch.Generator().manual_seed(i), dtype=torch.float64) for i in range(2)]
    p,q = nn.Parameter(layouts[name](x).clone(memory_format=torch.preserve_format) if name!='sliced' else layouts[name](x).detach()),nn.Parameter(layouts[name](x).contiguous())
    o,r = a.cls([p], lr=.01, **kw),a.cls([q], lr=.01, **kw)
    for i in range(4):
        q.grad = layouts[name](g).contiguous()*(i-1.5)
        p.grad = layouts[name](g)*(i-1.5) if i%2 else q.grad.clone()                            # alternately as the parameter lies, and plain
        o.step(); r.step()
    torch.testing.assert_close(p.detach(), q.detach(), rtol=1e-12, atol=1e-14)
    if name in ('transposed', 'channels_last'): assert all(v.stride()==p.stride() for v in o.state[p].values() if torch.is_tensor(v))

@runs
@pytest.mark.parametrize('lr', [tensor(.01), tensor([.01]), tensor(.01, dtype=torch.float64), tensor(.01, requires_grad=True)], ids=['0d','1d','double','grad'])
def test_053_a_learning_rate_in_a_tensor(a, lr, kw):
    p,q = P(dtype=torch.float64),P(dtype=torch.float64)
    opt = took([p], a.cls([p], lr=lr, **kw), (1., -.5))
    took([q], a.cls([q], lr=lr.item(), **kw), (1., -.5))
    assert torch.equal(p, q) and not opt.param_groups[0]['lr'].requires_grad

@ways
def test_053_betas_and_decay_in_tensors(kw):
    p,q = P(dtype=torch.float64),P(dtype=torch.float64)
    took([p], AdamW([p], betas=(tensor(.5), tensor([.75])), weight_decay=tensor(.25), **kw), (1., -.5))
    took([q], AdamW([q], betas=(.5, .75), weight_decay=.25, **kw), (1., -.5))
    assert torch.equal(p, q)

@pytest.mark.parametrize('hyper', ['lr', 'betas'])
def test_055_056_a_schedule_that_compiles_at_each_step(hyper):
    ps = [P(), P(5000)]
    opt = took(ps, Adam(ps, fused=True))
    before = len(compiler.compilations)
    for i in range(30):
        opt.param_groups[0][hyper] = 1e-3/(i+1) if hyper=='lr' else (.9-.01*i, .99-.01*i)
        took(ps, opt)
    assert len(compiler.compilations)==before

@pytest.mark.parametrize('a', [a for a in algorithms if a.name in ('SGD','Adam','RAdam')], ids=lambda a: a.name)
def test_057_compiled_numbers_are_others(a):
    "From the same start, one step at a time, within a few units in the last place of what the parameter is made of"
    ps,qs = [P(7), P(5000)],[P(7), P(5000)]
    opt,ref = a.cls(ps, lr=.01, fused=True),a.cls(qs, lr=.01, foreach=False)
    for i in range(5):
        for p,q in zip(ps, qs):
            p.grad = torch.randn(p.shape, generator=torch.Generator().manual_seed(i))
            q.grad = p.grad.clone()
        opt.step(); ref.step()
        for p,q in zip(ps, qs):
            torch.testing.assert_close(p, q, rtol=4*2**-23, atol=4*2**-23*.01)
            p.data.copy_(q)
            for n,v in ref.state[q].items():
                if torch.is_tensor(v): opt.state[p][n].copy_(v)

def test_058_gradients_that_come_and_go_compile_at_each_step():
    ps = [P(), P(7), P(5000), P(2, 2)]
    opt = took(ps, Adam(ps, fused=True))
    before = len(compiler.compilations)
    for i in range(16):
        for k,p in enumerate(ps): p.grad = torch.ones_like(p) if i>>k&1 else None
        opt.step()
    assert len(compiler.compilations)==before and [opt.state[p]['step'] for p in ps]==[9]*4

@ways
def test_059_a_compiled_train_step_writes_into_the_groups(kw):
    m = net()
    opt = Adam(m.parameters(), **kw)
    before = copy.deepcopy([{k: v for k,v in g.items() if k!='params'} for g in opt.param_groups])
    def one(x):
        opt.zero_grad()
        m(x).square().sum().backward()
        opt.step()
    torch.compile(one, backend='eager')(torch.ones(2, 4))
    assert same(before, [{k: v for k,v in g.items() if k!='params'} for g in opt.param_groups]) and opt.state[m[0].weight]['step']==1

@ways
@pytest.mark.parametrize('cls', [Adam, partial(SGD, momentum=.9), partial(RMSprop, momentum=.5)], ids=['betas','momentum','both'])
def test_060_a_scheduled_momentum_is_not_the_one_used(cls, kw):
    p,q = P(dtype=torch.float64),P(dtype=torch.float64)
    opt,ref = cls([p], lr=.1, **kw),cls([q], lr=.1, foreach=False)
    cycle = lr_scheduler.OneCycleLR(opt, .1, total_steps=12, base_momentum=.5, max_momentum=.8)
    for _ in range(10):
        now = opt.hypers[0]
        ref.hypers[0].update(lr=now['lr'], mom=now['mom'])
        took([p], opt, (1.,)); took([q], ref, (1.,))
        cycle.step()
    assert now['mom']!=.5 and torch.allclose(p, q, rtol=1e-13, atol=0)

@ways
def test_061_two_sources_of_truth(kw):
    "param_groups is the only store, hypers a live view of it, and both are what the step uses"
    p = P()
    opt = Adam([p], lr=.1, **kw)
    opt.hypers[0]['mom'] = .5
    assert opt.param_groups[0]['betas']==(.5, .999)
    opt.param_groups[0]['betas'] = (.25, .75)
    assert (opt.hypers[0]['mom'], opt.hypers[0]['sqr_mom'])==(.25, .75)
    took([p], opt)
    assert opt.state[p]['grad_avg'][0]==.75 and opt.state[p]['sqr_avg'][0]==.25

@ways
def test_062_a_scheduler_that_writes_into_a_copy(kw):
    p = P()
    opt = SGD([p], lr=1., **kw)
    schedule = lr_scheduler.StepLR(opt, 1, .5)
    took([p], opt); schedule.step(); opt.load_state_dict(copy.deepcopy(opt.state_dict())); opt.zero_grad()
    assert schedule.optimizer is opt and opt.param_groups[0]['lr']==.5
    took([p], opt); schedule.step()
    assert torch.equal(p, torch.full((3,), -.5)) and opt.param_groups[0]['lr']==.25                # it writes into the groups that were loaded
    opt = SGD([p], lr=1., **kw)
    groups,group = opt.param_groups,opt.param_groups[0]
    took([p], opt); opt.add_param_group(dict(params=[P()])); took([p], opt)
    assert opt.param_groups is groups and opt.param_groups[0] is group

@ways
@pytest.mark.parametrize('k,v,words', [('lr', nan, 'learning rate: nan'), ('lr', -.1, 'learning rate: -0.1'), ('lr', inf, 'learning rate: inf'), ('betas', (.9, 1.), 'beta parameter at index 1: 1.0'),
                                       ('eps', -1., 'epsilon value: -1.0'), ('weight_decay', nan, 'weight_decay value: nan')])
def test_063_a_value_that_becomes_nan_later(k, v, words, kw):
    p = P()
    opt = took([p], AdamW([p], lr=.1, **kw))
    old,opt.param_groups[0][k] = opt.param_groups[0][k],v
    with unchanged(opt): refused(ValueError, f'Invalid {words}; AdamW', opt.step)
    opt.param_groups[0][k] = old
    opt.step()
    assert opt.state[p]['step']==2

@runs
def test_064_a_closure_without_gradients_or_twice_or_too_late(a, kw):
    p,q,calls = P(),P(),[]
    opt,ref = a.cls([p], lr=.1, **kw),a.cls([q], lr=.1, **kw)
    def closure():
        opt.zero_grad()
        loss = (p*p).sum()
        loss.backward()                                                                         # enabled, though the caller has it off
        calls.append(loss.item())
        return loss
    with torch.no_grad(): loss = opt.step(closure)
    (q*q).sum().backward(); ref.step()
    assert calls==[3.] and loss.item()==3. and torch.equal(p, q)                               # the new gradients are those used

def test_065_a_scaler_and_a_closure():
    "torch's scaler refuses; nothing has changed"
    opt,scaler = Adam([p := P()]),torch.amp.GradScaler('cpu')
    scaler.scale(p.sum()).backward()
    with unchanged(opt), pytest.raises(RuntimeError, match='Closure use is not currently supported'): scaler.step(opt, closure=lambda: tensor(1.))

@runs
def test_066_a_step_in_inference_mode_and_the_next_outside(a, kw):
    p,q = P(),P()
    opt,ref = a.cls([p], lr=.1, **kw),a.cls([q], lr=.1, **kw)
    with torch.inference_mode(): took([p], opt)
    took([p], opt); took([q], ref, (1., 1.))
    assert same(everything(opt), everything(ref))

@runs
def test_067_a_step_that_autograd_records(a, kw):
    p = P()
    with torch.enable_grad(): opt = took([p], a.cls([p], lr=.1, weight_decay=.1, **kw), (1., 1.))
    assert p.requires_grad and p.is_leaf and p.grad_fn is None and not any(v.requires_grad for v in opt.state[p].values() if torch.is_tensor(v))
    x = P()
    y = (x*x).sum()
    took([x], a.cls([x], lr=.1, **kw))
    with pytest.raises(RuntimeError, match='modified by an inplace operation'): y.backward()   # autograd knows that what it saved has moved

@runs
def test_068_maximize_by_the_gradient_itself(a, kw):
    p,q = P(),P()
    opt = a.cls([p], lr=.01, maximize=True, **kw)
    give([p], .5); g = p.grad
    for _ in range(2): opt.step()
    took([q], a.cls([q], lr=.01, **kw), (-.5, -.5))
    assert torch.equal(p, q) and p.grad is g and torch.equal(g, torch.full((3,), .5))

@runs
def test_069_hooks_that_are_not_called(a, kw):
    from torch.optim.optimizer import register_optimizer_step_post_hook,register_optimizer_step_pre_hook
    p,seen = P(),[]
    opt = a.cls([p], lr=.1, **kw)
    handles = [register_optimizer_step_pre_hook(lambda *_: seen.append(0)), opt.register_step_pre_hook(lambda *_: seen.append(1)),
               opt.register_step_post_hook(lambda *_: seen.append(2)), register_optimizer_step_post_hook(lambda *_: seen.append(3))]
    took([p], opt)
    for h in handles: h.remove()
    took([p], opt)
    assert seen==[0, 1, 2, 3]

@ways
def test_070_an_optimizer_for_each_parameter_in_the_backward_pass(kw):
    m,n = net(),net()
    opts = {p: Adam([p], lr=.1, **kw) for p in m.parameters()}
    def step(p):
        opts[p].step()
        p.grad = None
    for p in opts: p.register_post_accumulate_grad_hook(step)
    ref = Adam(n.parameters(), lr=.1, **kw)
    for _ in range(3): m(torch.ones(2, 4)).square().sum().backward()
    for _ in range(3):
        ref.zero_grad()
        n(torch.ones(2, 4)).square().sum().backward()
        ref.step()
    assert all(torch.equal(p, q) for p,q in zip(m.parameters(), n.parameters()))

@ways
def test_071_accumulated_gradients_count_as_steps(kw):
    p,q = P(),P()
    opt,ref = Adam([p], lr=.1, **kw),Adam([q], lr=.1, **kw)
    for i in range(7):                                                                          # windows of three; the last has one
        (p*(i+1.)).sum().backward()
        if i%3==2 or i==6: opt.step(); opt.zero_grad()
    took([q], ref, (1+2+3., 4+5+6., 7.))
    assert opt.state[p]['step']==3 and torch.equal(p, q)

@ways
def test_072_zero_grad_breaks_views(kw):
    p,bucket = P(),torch.ones(6)
    opt = Adam([p], lr=.1, **kw)
    p.grad = bucket[3:]                                                                         # as DistributedDataParallel has it
    opt.step(); opt.zero_grad(set_to_none=False)
    assert bucket.tolist()==[1, 1, 1, 0, 0, 0] and p.grad.data_ptr()==bucket[3:].data_ptr()
    opt.step(); opt.zero_grad()
    assert p.grad is None

@ways
def test_073_threads_share_what_they_should_not(kw):
    "Eight threads with eight optimizers, other settings and shapes, against one after the other"
    def work(k, out):
        cls = (Adam, SGD)[k%2]                                                                 # which share traces and kernels
        ps = [torch.full((k+1,), 1., dtype=torch.float64).requires_grad_(), torch.full((300+k, 20), .5).requires_grad_()]
        opt = cls(ps, lr=.01/(k+1), **kw)
        for i in range(20):
            opt.param_groups[0]['lr'] = .01/(k+1)/(i+1)
            took(ps, opt, (math.sin(i+k),))
        out[k] = everything(opt)
    serial,parallel,errors = {},{},[]
    for k in range(8): work(k, serial)
    def guarded(k):
        try: work(k, parallel)
        except BaseException as e: errors.append(e)
    threads = [threading.Thread(target=guarded, args=(k,)) for k in range(8)]
    for t in threads: t.start()
    for t in threads: t.join()
    assert not errors and all(same(serial[k], parallel[k]) for k in range(8))

@pytest.mark.parametrize('kw', [{}, dict(fused=True)], ids=['default','fused'])
def test_074_a_step_that_needs_as_much_memory_as_the_model(kw):
    "All that lives beyond parameters, gradients and state, at the highest point of a step"
    from torch.utils._python_dispatch import TorchDispatchMode
    class Peak(TorchDispatchMode):
        made = peak = 0
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            res,fresh = func(*args, **kwargs or {}),[]
            held = {x.untyped_storage().data_ptr() for x in args if isinstance(x, torch.Tensor)}
            for x in [res] if isinstance(res, torch.Tensor) else ():
                if x.untyped_storage().data_ptr() not in held and x._base is None: fresh.append(x)
            for x in fresh:
                n = x.untyped_storage().nbytes()
                self.made += n
                self.peak = max(self.peak, self.made)
                weakref.finalize(x, self.freed, n)
            return res
        def freed(self, n): self.made -= n
    class Tight(Adam): scratch_bytes = 2**20
    ps = [P(1000, 500), P(900, 600), *[P(100) for _ in range(50)]]                             # 4 MB
    opt = took(ps, Tight(ps, **kw), (1., 1.))
    give(ps)
    with Peak() as seen: opt.step()
    assert seen.peak<=2**16


# -- State, parameters that change, checkpoints, several processes --

def kinds_of_state(p):
    return dict(codes=p.to(torch.uint8), signs=p>0, counts=torch.full(p.shape, 2**24+1), exact=p.double()/3, short=p.to(torch.float16))
@ways
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16, torch.float16])
def test_075_loading_casts_the_state_to_the_parameters_dtype(dtype, kw):
    makes = {n: genopt.Init(lambda p, n=n: kinds_of_state(p)[n]) for n in kinds_of_state(torch.ones(1))}
    def keeps(grad, codes=makes['codes'], signs=makes['signs'], counts=makes['counts'], exact=makes['exact'], short=makes['short'], avg=zeros, step=count):
        return dict(codes=codes+1, counts=counts+1, avg=avg+grad, step=step+1, update=grad)
    p,q = P(dtype=dtype),P(dtype=dtype)
    opt,other = [Optimizer([x], [keeps], lr=.1, store={'p': 'nearest'}, **kw if not kw.get('fused') else {}) for x in (p, q)]
    took([p], opt, (1., 1.))
    other.load_state_dict(opt.state_dict())
    assert same(dict(opt.state[p]), dict(other.state[q]))
    assert {n: v.dtype for n,v in other.state[q].items() if n not in ('avg','step')}=={n: v.dtype for n,v in kinds_of_state(torch.ones(1)).items()}
    assert other.state[q]['avg'].dtype==torch.float32 and other.state[q]['counts'][0]==2**24+3 and type(other.state[q]['step']) is int

def test_076_words_in_the_state():
    refused(ValueError, "the initializer of state 's' fails.*it must make a tensor or a number", lambda: Optimizer([P()], [lambda grad, s=genopt.Init(lambda p: 'a'): grad], lr=.1))
    refused(TypeError, "returned a str for 's', which is a Tensor", lambda: Optimizer([P()], [lambda grad, s=zeros: dict(s='a')], lr=.1))

@runs
def test_077_loading_shares_memory_with_what_is_loaded(a, kw):
    p,q = P(),P()
    opt,other = took([p], a.cls([p], lr=.1, **kw)),a.cls([q], lr=.1, **kw)
    saved = opt.state_dict()
    kept = copy.deepcopy(saved)
    other.load_state_dict(saved)
    took([q], other, (3.,))
    assert same(saved, kept) and same(opt.state_dict(), kept)

@every
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16, torch.float16])
def test_078_a_resumed_run_is_another(a, dtype, kw, tmp_path):
    m,opt = net(dtype=dtype),None
    setting = a.settings(1)[0] | dict(lr=.01)
    opt = a.cls(m.parameters(), **setting, **kw)
    train(m, opt, range(3))
    torch.save(dict(m=m.state_dict(), opt=opt.state_dict()), tmp_path/'c')
    train(m, opt, range(3, 6))
    n = net(7, dtype=dtype)
    other,saved = a.cls(n.parameters(), **setting, **kw),torch.load(tmp_path/'c', weights_only=True)
    n.load_state_dict(saved['m']); other.load_state_dict(saved['opt'])
    train(n, other, range(3, 6))
    assert same(everything(opt), everything(other))

def test_079_a_checkpoint_that_weights_only_refuses():
    np = pytest.importorskip('numpy')
    p = P()
    opt = took([p], Adam([p], lr=np.float64(.1), betas=(np.float32(.5), .9)))
    opt.set_hyper('lr', np.float64(.3)); opt.set_hypers(mom=np.float32(.25))
    torch.save(opt.state_dict(), b := io.BytesIO())
    b.seek(0)
    assert same(torch.load(b, weights_only=True), opt.state_dict())

def saved_and_fresh(**kw):
    "A state dict after two steps of two named parameters, and another optimizer for such"
    ps,qs = [('a', P()), ('b', P(2))],[('a', P()), ('b', P(2))]
    return took([p for _,p in ps], Adam(ps, lr=.1, **kw), (1., 2.)).state_dict(),took([q for _,q in qs], Adam(qs, lr=.1, **kw))

def test_080_a_checkpoint_with_other_groups_or_more_parameters():
    saved,opt = saved_and_fresh()
    for damage,words in ((lambda g: g.append(g[0]), 'different number of parameter groups'), (lambda g: g[0]['params'].append(9), "doesn't match the size")):
        damage((bad := copy.deepcopy(saved))['param_groups'])
        with unchanged(opt): refused(ValueError, words, lambda: opt.load_state_dict(bad))

def test_081_a_checkpoint_of_other_shapes_is_found_at_the_next_step():
    saved,opt = saved_and_fresh()
    saved['state'][1]['grad_avg'] = torch.zeros(5)
    with unchanged(opt): refused(ValueError, r"Adam, loading a state dict, b in param group 0: 'grad_avg' has shape \(5,\); .* it must have \(2,\)", lambda: opt.load_state_dict(saved))
    saved,_ = saved_and_fresh()
    swapped = Adam([('b', b := P(2)), ('a', a := P())])                                        # another order: by name
    swapped.load_state_dict(saved)
    assert swapped.state[b]['grad_avg'].shape==(2,) and swapped.state[a]['grad_avg'].shape==(3,)

@pytest.mark.parametrize('lost', ['sqr_avg', 'grad_avg', 'step'])
def test_082_a_checkpoint_without_a_part_of_the_state(lost):
    "That part starts anew in the middle of a run, as it must when a callback was added since; it is told"
    saved,opt = saved_and_fresh()
    del saved['state'][0][lost]
    with pytest.warns(UserWarning, match=f'a in param group 0: the state has .* but no {lost}, which starts anew'): opt.load_state_dict(saved)
    saved,opt = saved_and_fresh()
    del saved['state'][0]                                                                       # a parameter without state has had no gradient yet
    opt.load_state_dict(saved)
    assert len(opt.state)==1
    saved,opt = saved_and_fresh()
    del saved['param_groups'][0]['betas']                                                      # a hyper-parameter that is not there: the default
    opt.load_state_dict(saved)
    assert opt.param_groups[0]['betas']==(.9, .999)

@ways
@pytest.mark.parametrize('name', ['SGD','RMSprop','Adam','AdamW','NAdam','RAdam'])
def test_083_a_checkpoint_of_torch(name, kw):
    p,q = P(dtype=torch.float64),P(dtype=torch.float64)
    more = dict(momentum=.9) if name in ('SGD','RMSprop') else {}
    ref,opt = references[name]([p], lr=.01, **more),getattr(genopt, name)([q], lr=.5, **kw)
    took([p], ref, (1., .5)); q.data.copy_(p)
    opt.load_state_dict(ref.state_dict())
    took([p], ref, (-.3, 2.)); took([q], opt, (-.3, 2.))
    assert opt.param_groups[0]['lr']==.01
    torch.testing.assert_close(p, q, rtol=1e-14, atol=0)

@runs
def test_084_a_checkpoint_that_is_older_than_a_key(a, kw):
    p,q = P(),P()
    opt,other = took([p], a.cls([p], lr=.1, **kw)),a.cls([q], lr=.1, **kw)
    saved = opt.state_dict()
    for k in ('maximize','foreach','fused','capturable','differentiable','weight_decay'): saved['param_groups'][0].pop(k)
    other.load_state_dict(saved)
    assert other.param_groups[0]['maximize'] is False and other.param_groups[0].keys()==opt.param_groups[0].keys()
    q.data.copy_(p)
    took([p], opt); took([q], other)
    assert torch.equal(p, q)

@pytest.mark.parametrize('policy', ['propagate','raise','skip'])
def test_085_nan_in_a_checkpoint_or_one_that_is_loaded_by_half(policy):
    saved,opt = saved_and_fresh(nonfinite=policy)
    saved['state'][1]['sqr_avg'][0] = nan
    words = "b in param group 0: 'sqr_avg' has NaN, .*load an earlier checkpoint"
    if policy=='propagate':
        with pytest.warns(UserWarning, match=words): opt.load_state_dict(saved)
    else:
        with unchanged(opt): refused(ValueError, words, lambda: opt.load_state_dict(saved))
    saved,opt = saved_and_fresh()
    saved['state'][1]['step'] = 'seven'                                                        # the last thing that is looked at; the first has not been written
    with unchanged(opt): refused(ValueError, "'step' is a str", lambda: opt.load_state_dict(saved))

def test_085_the_mean_of_nothing_is_no_fault():
    "A parameter without elements, some averages of which are NaN, may be saved and loaded"
    def fresh(): return genopt.Adafactor([torch.zeros(0, 5, requires_grad=True), P()], nonfinite='raise')
    opt = fresh()
    ps  = opt.param_groups[0]['params']
    for p in ps: p.grad = torch.ones_like(p)
    opt.step()
    assert opt.state[ps[0]]['col_avg'].isnan().any()
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        fresh().load_state_dict(opt.state_dict())

@ways
def test_086_a_state_on_another_device_or_in_another_kind(kw):
    "A counter that comes as a tensor, on a device or not, is the host's; tensors go where the parameter is"
    saved,opt = saved_and_fresh(**kw)
    for s in saved['state'].values(): s['step'] = tensor(float(s['step']))
    opt.load_state_dict(saved)
    assert len(opt.state)==2 and all(type(s['step']) is int and s['step']==2 and s['grad_avg'].device==p.device for p,s in opt.state.items())
    took([p for g in opt.param_groups for p in g['params']], opt)

@gpu
def test_086_a_state_of_the_cpu_for_parameters_of_the_gpu():
    saved,_ = saved_and_fresh()
    ps = [('a', nn.Parameter(torch.ones(3, device='cuda'))), ('b', nn.Parameter(torch.ones(2, device='cuda')))]
    opt = Adam(ps)
    opt.load_state_dict(saved)
    assert all(s['grad_avg'].is_cuda and type(s['step']) is int for s in opt.state.values())
    took([p for _,p in ps], opt)

@runs
def test_087_pickle_and_deepcopy(a, kw):
    m = net()
    opt = a.cls(m.parameters(), lr=.01, nonfinite='skip', **kw)
    train(m, opt)
    for n,other in (pickle.loads(pickle.dumps((m, opt))), copy.deepcopy((m, opt))):
        assert {k for k in dir(opt) if k[0]!='_'}=={k for k in dir(other) if k[0]!='_'} and other.nonfinite=='skip' and same(everything(opt), everything(other))
        with unchanged(opt): train(n, other)
        again = copy.deepcopy((m, opt))
        train(*again)
        assert same(everything(again[1]), everything(other))

def lookahead(step, new_p, slow=genopt.copy_of_p, k=3, alpha=.5):
    if step%k: return {}
    slow = slow + (new_p-slow)*alpha
    return dict(new_p=slow, slow=slow)
@pytest.mark.parametrize('kw', [dict(foreach=False), {}], ids=['loop','default'])
def test_088_a_wrapper_whose_state_is_not_saved(kw):
    "Lookahead is a callback: its slow weights are a state like all others, and its settings are in the group"
    made = lambda m: Optimizer(m.parameters(), [Adam.build(), lookahead], lr=.05, betas=(.9, .99), **kw)
    m = net()
    opt = made(m)
    train(m, opt, range(4))
    n = copy.deepcopy(m)
    other = made(n)
    other.load_state_dict(opt.state_dict())
    train(m, opt, range(4, 8)); train(n, other, range(4, 8))
    assert same(everything(opt), everything(other)) and 'slow' in opt.state[m[0].weight] and opt.param_groups[0]['k']==3

@each
def test_089_loading_changes_what_is_loaded(a):
    p,q = P(),P()
    saved = took([p], a.cls([p], lr=.1)).state_dict()
    before,ids = copy.deepcopy(saved),[id(v) for s in saved['state'].values() for v in s.values()]
    a.cls([q], lr=.1).load_state_dict(saved)
    assert same(saved, before) and ids==[id(v) for s in saved['state'].values() for v in s.values()]

@runs
def test_090_a_group_that_is_added_after_steps(a, kw):
    p,q,alone = P(),P(),P()
    opt,ref = took([p], a.cls([p], lr=.01, **kw), (1., 1.)),a.cls([alone], lr=.02, **kw)
    opt.add_param_group(dict(params=[q], lr=.02))
    took([p, q], opt, (1., -2.)); took([alone], ref, (1., -2.))
    assert torch.equal(q, alone) and same(dict(opt.state[q]), dict(ref.state[alone])) and opt.state[p].get('step', 4)==4
    with unchanged(opt): refused(ValueError, 'Invalid learning rate: -1', lambda: opt.add_param_group(dict(params=[P()], lr=-1)))

@runs
def test_091_a_parameter_that_was_taken_out(a, kw):
    "Its state, until it is deleted, is in nobody's way; one that is put in its place starts anew"
    p,q,new = P(),P(),P(5)
    opt = took([p, q], a.cls([p, q], lr=.01, **kw), (1., 1.))
    opt.param_groups[0]['params'][1] = new
    took([p, new], opt)
    saved = opt.state_dict()
    assert saved['param_groups'][0]['params']==[0, 1] and {*saved['state']}<={0, 1} and opt.state[new].get('step', 1)==1
    if opt.state[p]: assert q in opt.state and saved['state'][1].keys()==opt.state[new].keys()
    del opt.param_groups[0]['params'][0]
    took([new], opt)
    assert {*opt.state_dict()['state']}<={0}
    opt.state.pop(p, None); opt.state.pop(q, None)
    gone = weakref.ref(q)
    del q
    assert gone() is None and took([new], opt)

@ways
def test_092_a_model_that_changes_its_dtype(kw):
    m = net()
    opt = Adam(m.parameters(), lr=.1, **kw)
    train(m, opt)
    m.double()
    before = [p.detach().clone() for p in m.parameters()]
    train(m, opt)
    assert all(p.dtype==torch.float64 and not torch.equal(p, b) and p.isfinite().all() for p,b in zip(m.parameters(), before)) and opt.state[m[0].weight]['step']==6

@ways
@pytest.mark.parametrize('n', [6, 100_000])
@pytest.mark.parametrize('where', ['new memory', 'the same memory'])
def test_092_a_parameter_that_changes_its_shape(n, where, kw):
    p,q = P(n),P()
    opt = took([p, q], Adam([('p', p), ('q', q)], lr=.1, **kw))
    state = copy.deepcopy(dict(opt.state[p]))
    p.grad = None
    p.data = torch.ones(n//2) if where=='new memory' else p.data[:n//2]
    give([p, q])
    before = p.detach().clone(),q.detach().clone()
    words = rf"Adam: p in param group 0 has shape \({n//2},\) now, but its state 'grad_avg' has shape \({n},\) .*`del opt.state\[p\]`"
    refused(RuntimeError, words, opt.step)
    assert torch.equal(p, before[0]) and torch.equal(q, before[1]) and same(dict(opt.state[p]), state)
    del opt.state[p]                                                                            # the remedy
    opt.step()
    torch.testing.assert_close(p.detach(), before[0]-.1)

@ways
@pytest.mark.parametrize('cls', [SGD, Adam])
def test_092_a_parameter_that_shrinks_among_others(cls, kw):
    "Some are run before it, some after: all move once, or none"
    ps = q,p,r = P(100_000),P(6),P(4)
    opt = took(ps, cls(ps, lr=.1, **kw))
    p.data = p.data[:3]                                                                         # and the gradient is still of six
    with unchanged(opt): refused(RuntimeError, r'parameter 1 in param group 0 has shape \(3,\) now, but its gradient has shape \(6,\)', opt.step)
    p.grad = None
    give(ps)
    if cls is Adam:
        with unchanged(opt): refused(RuntimeError, r"now, but its state 'grad_avg' has shape \(6,\)", opt.step)
        del opt.state[p]
    opt.step()
    assert all(torch.allclose(x, torch.tensor(.8)) for x in ps)

@ways
def test_093_an_optimizer_of_parameters_without_memory(kw):
    with torch.device('meta'): m = net()
    opt = Adam(m.parameters(), lr=.1, **kw)
    m.to_empty(device='cpu')                                                                    # makes new parameters
    for p in m.parameters(): nn.init.ones_(p)
    m(torch.ones(2, 4)).sum().backward()
    refused(RuntimeError, r'Adam has parameters on the meta device, without gradients; make the optimizer after model.to_empty', opt.step)
    train(m, Adam(m.parameters(), lr=.1, **kw))

@runs
def test_094_a_distributed_checkpoint_takes_a_step_of_its_own(a, kw):
    from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict
    m,n = net(),net()
    opt,ref = a.cls(m.parameters(), lr=.01, **kw),a.cls(n.parameters(), lr=.01, **kw)
    get_optimizer_state_dict(m, opt)                                                            # before the first step
    train(m, opt); train(n, ref)
    get_optimizer_state_dict(m, opt)                                                            # and in between
    train(m, opt); train(n, ref)
    assert same(everything(opt), everything(ref))

@pytest.mark.parametrize('kw', [dict(foreach=False), {}], ids=['loop','default'])
def test_095_decay_or_a_counter_at_that_step(kw):
    from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict
    m,n = net(),net()
    opt,ref = [Optimizer(o.parameters(), [genopt.blocks.weight_decay, Adam.build(), lookahead], lr=.05, betas=(.9, .99), wd=.1, **kw) for o in (m, n)]
    with_it = get_optimizer_state_dict(m, opt)
    assert all(torch.equal(p, q) for p,q in zip(m.parameters(), n.parameters())) and with_it['state']['0.weight']['step']==0
    train(m, opt, range(7)); train(n, ref, range(7))
    assert same(everything(opt), everything(ref))

@runs
def test_096_states_that_differ_between_processes(a, kw):
    "Those that had gradients and those that had none: `init_state` gives all the same keys, and what is there stays"
    m,n = net(),net()
    opt,ref = a.cls(m.parameters(), lr=.01, **kw),a.cls(n.parameters(), lr=.01, **kw)
    for o,x in ((opt, m), (ref, n)):
        x[0](torch.ones(1, 4)).sum().backward()
        o.step()
    opt.init_state()
    assert len({tuple(sorted(opt.state.get(p, {}))) for p in m.parameters()})==1
    train(m, opt); train(n, ref)
    assert same(everything(opt), everything(ref))

@pytest.mark.parametrize('flat', [False, True], ids=['nested','flat'])
def test_097_empty_or_renamed_groups_in_a_distributed_checkpoint(flat):
    from torch.distributed.checkpoint.state_dict import StateDictOptions,get_optimizer_state_dict,set_optimizer_state_dict
    def made(seed):
        m = net(seed)
        return m,Adam([dict(params=[*m[0].parameters()], lr=.1, betas=(.5, .75)), dict(params=[]), dict(params=[*m[2].parameters()], weight_decay=.1)][::1 if not flat else 2], lr=.01)
    options = StateDictOptions(flatten_optimizer_state_dict=flat)
    m,opt = made(0)
    train(m, opt)
    saved = copy.deepcopy(get_optimizer_state_dict(m, opt, options=options))
    n,other = made(5)
    n.load_state_dict(m.state_dict())
    set_optimizer_state_dict(n, other, saved, options=options)
    assert same([{k: v for k,v in g.items() if k!='params'} for g in opt.param_groups], [{k: v for k,v in g.items() if k!='params'} for g in other.param_groups])
    train(m, opt); train(n, other)
    assert same(everything(opt)[1], everything(other)[1]) and same(opt.state_dict()['state'], other.state_dict()['state'])

def alone():
    "A process group of this process alone"
    import torch.distributed as dist
    if not dist.is_available() or not dist.is_gloo_available(): pytest.skip('needs torch.distributed with gloo')
    dist.init_process_group('gloo', store=dist.HashStore(), rank=0, world_size=1)

@ways
def test_098_sharded_parameters_beside_plain_ones(kw):
    alone()
    try:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.tensor import Replicate,Shard,distribute_tensor
        mesh = init_device_mesh('cpu', (1,))
        ps = [P(4, 2), P(4, 2), P(4, 2)]
        qs = [nn.Parameter(distribute_tensor(torch.ones(4, 2), mesh, [Shard(0)])), P(4, 2), nn.Parameter(distribute_tensor(torch.ones(4, 2), mesh, [Replicate()]))]
        took(ps, AdamW(ps, lr=.1, **kw), (1., .5, -2.)); took(qs, AdamW(qs, lr=.1, **kw), (1., .5, -2.))
        for p,q in zip(ps, qs): torch.testing.assert_close(p, q.full_tensor() if hasattr(q, 'full_tensor') else q, rtol=1e-6, atol=1e-7)
    finally: torch.distributed.destroy_process_group()

@runs
def test_101_the_zero_redundancy_optimizer(a, kw):
    "It makes the optimizer itself, of a class and keywords, and keeps its groups beside those of its own"
    alone()
    try:
        from torch.distributed.optim import ZeroRedundancyOptimizer
        m,n = net(),net()
        zero,ref = ZeroRedundancyOptimizer(m.parameters(), a.cls, lr=.01, **kw),a.cls(n.parameters(), lr=.01, **kw)
        schedules = [lr_scheduler.ExponentialLR(o, .5) for o in (zero, ref)]
        for i in range(3):
            train(m, zero, [i]); train(n, ref, [i])
            for s in schedules: s.step()
        assert all(torch.equal(p, q) for p,q in zip(m.parameters(), n.parameters())) and zero.param_groups[0]['lr']==ref.param_groups[0]['lr']
    finally: torch.distributed.destroy_process_group()

@ways
@light()
def test_104_memory_that_is_never_freed(kw):
    def live():
        gc.collect()
        return sum(issubclass(type(o), torch.Tensor) for o in gc.get_objects())
    ps = [P(7), P(5000)]
    opt = took(ps, Adam(ps, lr=1e-4, **kw), [1.]*5)
    schedule,before = lr_scheduler.ExponentialLR(opt, .999),live()
    for _ in range(100):
        took(ps, opt)
        schedule.step()
    assert live()<=before
    gone = [weakref.ref(o) for o in (*ps, opt, opt.state[ps[0]]['grad_avg'])]
    del ps,opt,schedule
    gc.collect()
    assert not any(r() is not None for r in gone)

@runs
def test_105_a_trial_that_leaves_its_moments(a, kw):
    "As fastai's lr_find: save, try rates up to ruin, load: all is as before, counters and rates too"
    m = net()
    opt = a.cls(m.parameters(), lr=.01, **kw)
    train(m, opt)
    saved,before = copy.deepcopy((m.state_dict(), opt.state_dict())),everything(opt)
    for i in range(10):
        opt.set_hyper('lr', 10.**(i-5))
        train(m, opt, [i])
    m.load_state_dict(saved[0]); opt.load_state_dict(saved[1])
    assert same(everything(opt), before)
    n = net()
    ref = a.cls(n.parameters(), lr=.01, **kw)
    train(n, ref); train(n, ref); train(m, opt)
    assert same(everything(opt), everything(ref))


# -- In all ways: a parameter by itself, state by itself --

@every
def test_every_parameter_goes_its_way_as_if_alone(a, kw):
    "Gradients that come late, alternate, or stop: to the bit the same as one trained alone"
    setting = a.settings(1)[0]
    there = [lambda i: True, lambda i: i>4, lambda i: i%2, lambda i: i%3==0, lambda i: i<3]
    g = lambda k, i: torch.randn(3+k, generator=torch.Generator().manual_seed(100*k+i), dtype=torch.float64)
    ps,qs = [[P(3+k, dtype=torch.float64) for k in range(5)] for _ in range(2)]
    opt = a.cls(ps, **setting, **kw)
    each = [a.cls([q], **setting, foreach=False) for q in qs]
    for i in range(12):
        for k,(p,q) in enumerate(zip(ps, qs)):
            p.grad = g(k, i) if there[k](i) else None
            q.grad = None if p.grad is None else p.grad.clone()
        opt.step()
        for o in each: o.step()
    for p,q in zip(ps, qs):
        if kw.get('foreach') is not False: torch.testing.assert_close(p, q, rtol=1e-13, atol=1e-15)
        else: assert torch.equal(p, q)

@runs
def test_copies_of_the_state_are_copies(a, kw):
    "deepcopy, pickle and loading: whatever is done to one, the others do not see it"
    ps,opt = awkward(),None
    setting = a.settings(1)[0]
    opt = a.cls(two_groups(ps, setting['lr']), **setting, **kw)
    for i in range(12):
        for n,g in gradients(i).items(): ps[n].grad = g
        opt.step()
    loaded = a.cls(two_groups(awkward(), setting['lr']), **setting, **kw)
    loaded.load_state_dict(opt.state_dict())
    opts = [opt, copy.deepcopy(opt), pickle.loads(pickle.dumps(opt)), loaded]
    kinds = [[{n: (v.dtype, v.shape) if torch.is_tensor(v) else type(v) for n,v in s.items()} for s in o.state_dict()['state'].values()] for o in opts]
    assert kinds[0]==kinds[1]==kinds[2]==kinds[3]
    for o in opts:
        others = [x for x in opts if x is not o]
        with unchanged(*others):
            for s in o.state.values():
                for v in s.values():
                    if torch.is_tensor(v): v.add_(1)
            for g in o.param_groups:
                g['lr'] = 77.
                for p in g['params']: p.data.add_(1)

@pytest.mark.slow
@ways
def test_eight_threads_of_a_thousand_steps(kw):
    "Independent optimizers of every algorithm, side by side and one after the other"
    def work(k, out):
        ps = [P(k+2, dtype=torch.float64), P(40, 5)]
        out[k] = everything(took(ps, algorithms[k].cls(ps, lr=1e-3, **kw), [math.sin(i*k) for i in range(1000)]))
    serial,parallel = {},{}
    for k in range(8): work(k, serial)
    threads = [threading.Thread(target=work, args=(k, parallel)) for k in range(8)]
    for t in threads: t.start()
    for t in threads: t.join()
    assert same(serial, {k: parallel[k] for k in range(8)})

@ways
@light()
def test_nothing_grows_with_the_number_of_steps(kw):
    "What Python allocates, after so many steps and after twice as many: rates and betas change, gradients come and go, a state is saved"
    import tracemalloc
    ps = [P(7), P(3, 3), P(5000)]
    opt = Adam(ps, lr=1e-4, **kw)
    def steps(n):
        for i in range(n):
            opt.param_groups[0].update(lr=1e-4*(1+i%5), betas=(.9-.001*(i%50), .99))
            give(ps)
            if i%20==0: ps[i//20%3].grad = None
            opt.step(); opt.zero_grad()
            if i%50==0: opt.state_dict()
    def held():
        "Bytes without those of the table of finalizers, which doubles when many tests have filled it; and how many of these there are"
        gc.collect()
        traces = tracemalloc.take_snapshot().filter_traces([tracemalloc.Filter(False, weakref.__file__)])
        return sum(x.size for x in traces.traces),len(weakref.finalize._registry)
    steps(60)
    tracemalloc.start()
    steps(60)
    before,finalizers = held()
    steps(120)
    after,more = held()
    tracemalloc.stop()
    assert after-before<20_000 and more<=finalizers+2, (after-before, more-finalizers)


@ways
def test_a_late_write_in_place_is_refused(kw):
    "By a callback that is called: it did not write while it was tried at construction"
    seen = []
    def late(grad):
        seen.append(1)
        return grad.mul_(2) if late.writes else grad
    late.writes = False
    ps = [P(3, 3), P(3, 3)]
    opt = Optimizer(ps, [late, sgd_step], lr=.1, **kw)
    give(ps)
    opt.step()
    late.writes,before = True,[p.detach().clone() for p in ps]
    with pytest.raises(RuntimeError, match='in place'): opt.step()
    assert all(map(torch.equal, ps, before))


@ways
def test_a_state_that_lies_otherwise_than_its_parameter(kw):
    "As a checkpoint may bring it: transposed in memory. It is read by element, not by address"
    new = torch.arange(6.).reshape(3, 2).t()
    res = []
    for way in (dict(foreach=False), kw):
        ps = [P(2, 3), P(2, 3)]
        opt = SGD(ps, lr=.1, momentum=.9, **way)
        give(ps); opt.step()
        for p in ps: opt.state[p] = {n: new.clone(memory_format=torch.preserve_format) if n=='grad_avg' else v for n,v in opt.state[p].items()}
        assert 'grad_avg' in opt.state[ps[0]] and opt.state[ps[0]]['grad_avg'].stride()==(1, 2)
        for _ in range(2): opt.step()
        res.append(torch.cat([p.detach().flatten() for p in ps]))
    torch.testing.assert_close(res[0], res[1])


@ways
def test_norms_of_groups_with_different_programs_are_joined(kw):
    "The norm is that of all groups, whatever runs them, and a limit that differs is refused"
    clip_grad_norm = genopt.blocks.transforms.clip_grad_norm
    res = []
    for way in (dict(foreach=False), kw):
        ps = [P(3, 3), P(2, 2), P(4)]
        opt = Optimizer([dict(params=ps[:1]), dict(params=ps[1:], cbs=[clip_grad_norm, average_grad, momentum_step], lr=.1, mom=.9, max_norm=.5)], [clip_grad_norm, sgd_step],
                        lr=.1, max_norm=.5, **way)
        for p,g in zip(ps, (1., 2., 3.)): p.grad = torch.full_like(p, g)
        opt.step()
        res.append(torch.cat([p.detach().flatten() for p in ps]))
        opt.param_groups[1]['max_norm'] = .7
        with pytest.raises(ValueError, match='max_norm'): opt.step()
        assert torch.equal(torch.cat([p.detach().flatten() for p in ps]), res[-1])
    torch.testing.assert_close(res[0], res[1])

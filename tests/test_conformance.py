"""What torch's own test-suite asks of its optimizers (`optim_db`): its error inputs, and the manners of a `torch.optim.Optimizer`."""

import copy,pickle,re,warnings
import pytest,torch
from torch.optim import lr_scheduler
from torch.optim.swa_utils import AveragedModel
import genopt
from helpers import conforming,awkward,gradients

each   = pytest.mark.parametrize('a', conforming, ids=lambda a: a.name)
errors = [pytest.param(a, e, id=f'{a.name}-{e.optimizer_error_input.desc[:50]}') for a in conforming for e in a.error_inputs()]


@pytest.mark.parametrize('a,e', errors)
def test_error_inputs(a, e):
    "torch's exception type, and its words"
    params,kw = e.optimizer_error_input.params,e.optimizer_error_input.kwargs
    expected = e.error_regex
    if issubclass(e.error_type, Warning):
        with pytest.warns(e.error_type, match=expected): a.cls(params, **kw)
    else:
        with pytest.raises(e.error_type, match=expected): a.cls(params, **kw)

def toy(seed=0):
    torch.manual_seed(seed)
    return torch.nn.Sequential(torch.nn.Linear(4,8), torch.nn.Tanh(), torch.nn.Linear(8,1))

def trained(a, steps=3, **kw):
    ps = awkward()
    opt = a.cls(ps.values(), **a.settings(1)[0]|kw)
    for i in range(steps):
        for n,g in gradients(i).items(): ps[n].grad = g
        opt.step()
    return ps,opt

@each
def test_pickle_and_deepcopy_are_independent(a):
    ps,opt = trained(a)
    before = copy.deepcopy(opt.state_dict())
    public = {k for k in dir(opt) if not k.startswith('_')}
    for other in (pickle.loads(pickle.dumps(opt)), copy.deepcopy(opt)):
        assert type(other) is a.cls and {k for k in dir(other) if not k.startswith('_')}==public
        assert repr(other)==repr(opt) and repr(other.explain())==repr(opt.explain())
        for p in (p for g in other.param_groups for p in g['params']): p.grad = torch.ones_like(p)
        moved = [p.detach().clone() for g in other.param_groups for p in g['params']]
        other.step()
        assert not all(torch.equal(p, q) for p,q in zip(moved, (p for g in other.param_groups for p in g['params'])))
        same(opt.state_dict(), before)

def same(a, b):
    "Equal state dicts"
    if isinstance(a, dict): assert a.keys()==b.keys(); [same(a[k], b[k]) for k in a]
    elif isinstance(a, (list,tuple)): assert len(a)==len(b); [same(x, y) for x,y in zip(a, b)]
    else: assert torch.equal(a, b) if torch.is_tensor(a) else a==b

@each
def test_class_is_a_class(a):
    "Name, docstring with a link, subclasses with their own signature, repr and blocks"
    assert a.cls.__name__==a.name and a.cls.__module__.startswith('genopt.algorithms.') and 'http' in a.cls.__doc__
    class Mine(a.cls):
        def __init__(self, params, lr=0.5): super().__init__(params, lr=lr)
    opt = Mine([torch.ones(2, requires_grad=True)])
    assert isinstance(opt, torch.optim.Optimizer) and opt.param_groups[0]['lr']==0.5 and repr(opt).startswith('Mine(')
    assert all(callable(cb) for cb in opt.cbs) and opt.cbs

@each
def test_loaded_state_shares_nothing(a):
    ps,opt = trained(a)
    saved = opt.state_dict()
    kept = copy.deepcopy(saved)
    _,other = trained(a, steps=0)
    other.load_state_dict(saved)
    for p in (p for g in other.param_groups for p in g['params']): p.grad = torch.ones_like(p)
    other.step()
    same(saved, kept)

@each
def test_loading_goes_by_the_saved_ids_and_through_hooks(a):
    "As torch's own: ids of the saved groups are mapped by position, hooks see and change what is loaded"
    _,opt = trained(a)
    saved = opt.state_dict()
    ids = saved['param_groups'][0]['params']
    renamed = dict(state={f'p{i}': s for i,s in saved['state'].items()}, param_groups=[saved['param_groups'][0]|dict(params=[f'p{i}' for i in ids])])
    ps,other = trained(a, steps=0)
    seen = []
    other.register_load_state_dict_pre_hook(lambda o, sd: sd|dict(param_groups=[sd['param_groups'][0]|dict(lr=.77)]))
    other.register_load_state_dict_post_hook(lambda o: seen.append(len(o.state)))
    other.load_state_dict(renamed)
    assert other.param_groups[0]['lr']==.77 and seen==[len(saved['state'])]
    same(other.state_dict()['state'], saved['state'])

@each
def test_distributed_checkpoint_takes_it(a):
    from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict,set_optimizer_state_dict
    model,fresh = toy(),toy()
    opt,other = a.cls(model.parameters(), **a.settings(1)[0]),a.cls(fresh.parameters(), **a.settings(1)[0])
    model(torch.ones(2,4)).sum().backward()
    opt.step()
    set_optimizer_state_dict(fresh, other, get_optimizer_state_dict(model, opt))
    for k in ('state', 'param_groups'): same(other.state_dict()[k], opt.state_dict()[k])

@each
def test_a_group_without_newer_keys_loads(a):
    _,opt = trained(a)
    saved = opt.state_dict()
    for k in ('maximize', 'foreach', 'fused', 'capturable', 'differentiable'): del saved['param_groups'][0][k]
    ps,other = trained(a, steps=0)
    other.load_state_dict(saved)
    for k in ('state', 'param_groups'): same(other.state_dict()[k], opt.state_dict()[k])
    for p in ps.values(): p.grad = torch.ones_like(p)
    other.step()

@each
def test_hooks_run_in_order(a):
    p,seen = torch.ones(2, requires_grad=True),[]
    opt = a.cls([p])
    opt.register_step_pre_hook(lambda *_: seen.append('pre'))
    opt.register_step_post_hook(lambda *_: seen.append('post'))
    opt.step()
    assert seen==['pre','post']

@each
def test_closure_is_run_once_with_gradients(a):
    x,calls = torch.ones(2, requires_grad=True),[]
    opt = a.cls([x], lr=.01)
    def closure():
        opt.zero_grad()
        loss = (x*x).sum()
        loss.backward()
        calls.append(loss.item())
        return loss
    assert opt.step(closure).item()==2. and calls==[2.]
    assert (x<1).all() and x.requires_grad and not any(v.requires_grad for v in opt.state[x].values() if torch.is_tensor(v))

schedulers = [lambda o: lr_scheduler.StepLR(o, 2), lambda o: lr_scheduler.ExponentialLR(o, .9), lambda o: lr_scheduler.CosineAnnealingLR(o, 5),
              lambda o: lr_scheduler.LambdaLR(o, lambda i: .5**i), lambda o: lr_scheduler.OneCycleLR(o, .1, total_steps=20, cycle_momentum='momentum' in o.defaults and o.defaults['momentum']>0 or 'betas' in o.defaults)]

@each
@pytest.mark.parametrize('i', range(len(schedulers)))
def test_schedulers_steer_as_in_torch(a, i):
    "The scheduled lr and momentum are those that the step uses"
    res = []
    for cls in (a.cls, a.reference):
        p = torch.ones(3, dtype=torch.float64, requires_grad=True)
        opt = cls([p], lr=.01, **dict(momentum=.8) if a.name=='SGD' else {})
        schedule = schedulers[i](opt)
        for j in range(10):
            p.grad = torch.full_like(p, .1*j+.1)
            opt.step(); schedule.step()
        res.append(p.detach())
    assert torch.allclose(*res, rtol=1e-12, atol=0)

@each
def test_tensor_lr_is_a_live_value(a):
    "The caller's own, as in torch, and a group may have another"
    lr = torch.tensor(.1)
    p,q = [torch.ones(2, requires_grad=True) for _ in range(2)]
    opt = a.cls([dict(params=[p]), dict(params=[q], lr=torch.tensor(.1))], lr=lr)
    lr.fill_(0.)
    p.grad,q.grad = torch.ones(2),torch.ones(2)
    opt.step()
    least = a.cls.arguments.get('step_sizes', (0,))[0]                  # Rprop's: what it steps by at least
    assert (p-1).abs().max()<=1.1*least and (0 if a.name=='RMSprop' else .8)<=q[0]<1

@each
def test_user_objects_are_left_alone(a):
    "Gradients, group dicts and parameter lists are as the caller left them"
    p,q = torch.ones(3, requires_grad=True),torch.ones(2, requires_grad=True)
    params,group = [p],dict(params=[q], lr=.3)
    groups = [dict(params=params), group]
    opt = a.cls(groups, **a.settings(1)[0])
    p.grad,q.grad = torch.ones(3),torch.ones(2)
    g,version = p.grad,p.grad._version
    for _ in range(3): opt.step()
    assert p.grad is g and g._version==version and torch.equal(g, torch.ones(3))
    assert groups[0]=={'params': params} and group.keys()=={'params','lr'} and params[0] is p and len(params)==1
    opt.add_param_group(extra := dict(params=[torch.ones(1, requires_grad=True)]))
    assert extra.keys()=={'params'}

@each
def test_inference_mode_leaves_no_trace(a):
    "A first step in inference mode, with gradients made there, and the next one outside"
    runs = []
    for mode in (True, False):
        opt = a.cls([p := torch.ones(2, requires_grad=True)], **a.settings(1)[0])
        with torch.inference_mode(mode):
            p.grad = torch.ones(2)
            opt.step()
        p.grad = torch.ones(2)
        opt.step()
        assert not any(v.is_inference() for v in opt.state[p].values() if torch.is_tensor(v))
        runs.append(p.detach())
    assert torch.equal(*runs)

@each
def test_none_gradients_are_no_step(a):
    p = torch.ones(3, requires_grad=True)
    opt = a.cls([p])
    opt.step()
    assert torch.equal(p, torch.ones(3)) and not opt.state

@each
def test_flags_in_the_state_are_not_a_state(a):
    "fastai writes flags into the state before the first step"
    p,q = torch.ones(3, requires_grad=True),torch.ones(3, requires_grad=True)
    opt,other = [a.cls([x], **{k: 0 for k in a.cls.arguments if k=='weight_decay'}) for x in (p,q)]
    opt.state[p]['do_wd'] = False
    for o,x in ((opt,p),(other,q)):
        x.grad = torch.ones(3)
        o.step()
    assert torch.equal(p, q) and opt.state[p]['do_wd'] is False

@each
def test_sparse_gradient_is_right_or_refused_before_anything_moves(a):
    p,e = torch.ones(3, requires_grad=True),torch.nn.Embedding(5, 2, sparse=True)
    opt,before = a.cls([p, e.weight]),e.weight.detach().clone()
    p.grad = torch.ones(3)
    e(torch.tensor([1])).sum().backward()
    if a.name in ('SGD', 'Adagrad'):                                        # where a gradient of zero changes nothing
        opt.step()
        assert (e.weight!=before).any(1).tolist()==[False, True, False, False, False]
        return
    with pytest.raises(RuntimeError, match='does not support sparse gradients'): opt.step()
    assert torch.equal(p, torch.ones(3)) and torch.equal(e.weight, before) and not opt.state

@each
def test_duplicate_parameter_is_updated_once(a):
    p,q = torch.ones(3, requires_grad=True),torch.ones(3, requires_grad=True)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        twice = a.cls([p, p])
    once = a.cls([q])
    for o,x in ((twice,p),(once,q)):
        x.grad = torch.ones(3)
        for _ in range(3): o.step()
    assert torch.equal(p, q)

def test_amp_grad_scaler_and_averaged_model():
    "A scaler skips a step with infinite gradients; nothing moves"
    model = toy()
    opt = genopt.Adam(model.parameters())
    scaler = torch.amp.GradScaler('cpu', init_scale=2.**10)
    before = copy.deepcopy(model.state_dict())
    for scale in (float('inf'), 1.):
        opt.zero_grad()
        scaler.scale(model(torch.ones(2,4)).sum()*scale).backward()
        scaler.step(opt); scaler.update()
        if scale!=1: same(dict(model.state_dict()), dict(before)); assert not opt.state
    assert not torch.equal(model[0].weight, before['0.weight'])
    AveragedModel(model).update_parameters(model)

def test_named_parameters_keep_their_names():
    opt = genopt.Adam(toy().named_parameters())
    assert opt.state_dict()['param_groups'][0]['param_names']==['0.weight','0.bias','2.weight','2.bias']

def test_lists_of_lists_are_groups():
    m = toy()
    opt = genopt.Adam([list(m[0].parameters()), m[2].parameters()])
    assert [len(g['params']) for g in opt.param_groups]==[2, 2]
    opt = genopt.Adam([(m[0].weight, m[0].bias), (m[2].weight,)])
    assert [len(g['params']) for g in opt.param_groups]==[2, 1]

def test_add_param_group_after_steps():
    p,q = torch.ones(3, requires_grad=True),torch.ones(3, requires_grad=True)
    opt = genopt.Adam([p], lr=.1)
    p.grad = q.grad = torch.ones(3)
    opt.step()
    opt.add_param_group(dict(params=[q], mom=.5))
    assert opt.param_groups[1]['betas']==(.5, .999)
    opt.step()
    assert opt.state[p]['step']==2 and opt.state[q]['step']==1 and torch.allclose(q, torch.full((3,), .9))

@each
def test_a_group_copied_after_a_scheduler(a):
    "With the scheduler's own keys in it"
    kw = dict(momentum=.9) if 'momentum' in a.cls([torch.ones(1)]).defaults else {}
    opt = a.cls([torch.ones(2, requires_grad=True)], **kw)
    lr_scheduler.OneCycleLR(opt, .1, total_steps=10, cycle_momentum=bool({'momentum','betas'}&opt.defaults.keys()))
    opt.add_param_group({**opt.param_groups[0], 'params': [torch.ones(3, requires_grad=True)]})
    assert opt.param_groups[1]['max_lr']==.1

def test_numpy_numbers_become_python_numbers(tmp_path):
    np = pytest.importorskip('numpy')
    opt = genopt.Adam([torch.ones(2, requires_grad=True)], lr=np.float64(.1), betas=(np.float32(.5), .9))
    assert type(opt.param_groups[0]['lr']) is float
    torch.save(opt.state_dict(), tmp_path/'o.pt')
    torch.load(tmp_path/'o.pt', weights_only=True)

def test_help_shows_the_signature():
    import pydoc
    text = pydoc.render_doc(genopt.Adam, renderer=pydoc.plaintext)
    assert re.search(r'Adam\(params, lr=0\.001, betas=\(0\.9, 0\.999\), eps=1e-08, weight_decay=0, amsgrad=False', text)
    assert 'https://arxiv.org/abs/1412.6980' in text

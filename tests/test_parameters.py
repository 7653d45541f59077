"""Parameters of other kinds than dense and real: lazy, sparse, nested, complex. And what others look for in an optimizer under other names."""

import copy
import pytest,torch
from torch import nn,tensor
import genopt
from genopt import Adam,Optimizer,SGD
from genopt.blocks import average_grad,momentum_step
from helpers import catalogue

way  = dict(loop=dict(foreach=False), foreach=dict(foreach=True), fused=dict(fused=True))
ways = pytest.mark.parametrize('kw', way.values(), ids=way)
def refused(error, words, make):
    with pytest.raises(error, match=f'(?s){words}') as e: make()
    assert type(e.value) is error


# -- Lazy modules --

def lazy_net():
    torch.manual_seed(0)
    return nn.Sequential(nn.LazyLinear(4), nn.Tanh(), nn.LazyLinear(2), nn.Linear(2, 2))
def train(m, opt, steps=range(3)):
    for i in steps:
        opt.zero_grad()
        m(torch.randn(5, 3, generator=torch.Generator().manual_seed(i))).square().sum().backward()
        opt.step()

@ways
@pytest.mark.parametrize('name', ['Adam','SGD','RMSprop','LAMB','SOAP','AdamWScheduleFree','Shampoo'])
def test_a_lazy_module_is_trained_from_its_first_shapes_on(name, kw):
    "As one that had its shapes when the optimizer was made"
    cls = getattr(genopt, name)
    if kw.get('fused') and name in ('SOAP', 'Shampoo'): kw = {}
    m  = lazy_net()
    opt = cls(m.named_parameters(), lr=.01, **kw)
    opt.init_state(); opt.step(); opt.eval(); opt.train()                   # nothing yet has a shape or a gradient
    opt.explain(); repr(opt)
    empty = copy.deepcopy(opt.state_dict())
    opt.load_state_dict(empty)
    m(torch.ones(5, 3))
    n = copy.deepcopy(m)
    ref = cls(n.named_parameters(), lr=.01, **kw)
    train(m, opt); train(n, ref)
    assert all(map(torch.equal, m.parameters(), n.parameters())) and len(opt.state)==len(ref.state)
    other = lazy_net()
    late  = cls(other.named_parameters(), lr=.01, **kw)
    other.load_state_dict(m.state_dict())
    late.load_state_dict(opt.state_dict())
    train(other, late, range(3, 5)); train(m, opt, range(3, 5))
    assert all(map(torch.equal, m.parameters(), other.parameters()))

def test_the_state_of_a_parameter_that_has_no_shape_yet_is_refused():
    m = lazy_net()
    m(torch.ones(5, 3))
    opt = Adam(m.named_parameters())
    train(m, opt)
    late = Adam(lazy_net().named_parameters())
    refused(ValueError, '0.weight in param group 0: it has no shape yet; load the model first, or run it once', lambda: late.load_state_dict(opt.state_dict()))

def test_a_lazy_parameter_that_cannot_be_stepped_is_refused_when_it_has_its_shape():
    m   = nn.LazyLinear(2)
    opt = genopt.Muon([m.weight, m.bias], lr=.1)
    m(torch.ones(5, 3)).sum().backward()
    before = [p.detach().clone() for p in m.parameters()]
    refused(ValueError, 'Muon: newton_schulz fails in a trial on a small 1-dimensional parameter', opt.step)
    assert all(map(torch.equal, m.parameters(), before)) and not opt.state


# -- Layouts --

layouts = dict(coo=lambda: torch.eye(4).to_sparse(), csr=lambda: torch.eye(4).to_sparse_csr(), csc=lambda: torch.eye(4).to_sparse_csc(), bsr=lambda: torch.eye(4).to_sparse_bsr((2, 2)),
               bsc=lambda: torch.eye(4).to_sparse_bsc((2, 2)), mkldnn=lambda: torch.eye(4).to_mkldnn(),
               nested=lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]), jagged=lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)], layout=torch.jagged))
@ways
@pytest.mark.filterwarnings('ignore::UserWarning')
@pytest.mark.parametrize('make', layouts.values(), ids=layouts)
def test_a_parameter_of_a_layout_that_no_step_can_write(make, kw):
    good,bad = nn.Parameter(torch.ones(3)),nn.Parameter(make())
    words = '(is of layout torch|is nested).*and no step can write it; pass p.to_dense'
    refused(ValueError, f'SGD, param group 0: parameter 1 {words}', lambda: SGD([good, bad], lr=.1, **kw))
    refused(ValueError, f'SGD, param group 0: table {words}', lambda: SGD([('table', bad)], lr=.1, **kw))
    opt = SGD([good], lr=.1, **kw)
    refused(ValueError, f'SGD, param group 1: parameter 0 {words}', lambda: opt.add_param_group(dict(params=[bad])))
    assert len(opt.param_groups)==1

@ways
@pytest.mark.parametrize('name', ['SGD','Adagrad','Adam','SparseAdam'])
@pytest.mark.parametrize('nonfinite', ['propagate','skip'])
def test_a_sparse_gradient_of_a_parameter_without_dimensions(name, nonfinite, kw):
    if name=='SparseAdam' and kw.get('fused'): kw = {}
    p = nn.Parameter(tensor(1.))
    opt = getattr(genopt, name)([('scale', p)], lr=.1, nonfinite=nonfinite, **kw)
    p.grad = torch.sparse_coo_tensor(torch.zeros(0, 1, dtype=torch.long), tensor([1.]), ())
    refused(RuntimeError, f'{name} does not support sparse gradients of scale in param group 0: it has no dimensions.*p.grad.to_dense', opt.step)
    assert p==1 and not opt.state
    p.grad = p.grad.to_dense()
    opt.step()
    assert p<1


# -- Complex parameters --

@pytest.mark.parametrize('a', catalogue, ids=lambda a: a.name)
@pytest.mark.parametrize('dtype', [torch.complex64, torch.complex128])
def test_an_algorithm_that_looks_at_the_shape_takes_no_complex_parameters(a, dtype):
    "It would factor over real and imaginary part. All others see pairs, a real and an imaginary number of each element"
    kw,z = a.settings(1)[0],nn.Parameter(torch.ones(4, 3, dtype=dtype))
    if not a.takes_complex:
        words = f'{a.name}, param group 0: core is complex, and .* reads its shape'
        refused(ValueError, words, lambda: a.cls([('core', z)], **kw))
        opt = a.cls([nn.Parameter(torch.ones(4, 3))], **kw)
        refused(ValueError, words.replace('0: core', '1: parameter 0'), lambda: opt.add_param_group(dict(params=[z])))
        Optimizer([dict(params=[z], cbs=Adam), dict(params=[nn.Parameter(torch.ones(4, 3))], cbs=a.cls, lr=.1)])
    else: a.cls([z], **kw)

def test_a_callback_of_ones_own_that_looks_at_the_shape_is_found():
    def rows(grad): return dict(grad=grad/grad.norm(dim=-1, keepdim=True))
    def whole(grad): return dict(grad=grad/grad.norm())
    z = nn.Parameter(torch.ones(4, dtype=torch.complex64))
    refused(ValueError, 'parameter 0 is complex, and rows > average_grad > momentum_step reads its shape', lambda: Optimizer([z], [rows, average_grad, momentum_step], lr=0., mom=.9))
    Optimizer([z], [whole, average_grad, momentum_step], lr=0., mom=.9)
    Optimizer([nn.Parameter(torch.ones(0, 3, dtype=torch.complex64))], [average_grad, momentum_step], lr=.1, mom=.9)


# -- What others look for --

@ways
def test_a_state_that_torch_calls_otherwise_says_what_it_is_called_here(kw):
    p = nn.Parameter(torch.ones(3))
    opt = Adam([p], **kw)
    p.grad = torch.ones(3)
    opt.step()
    for torchs,ours in (('exp_avg','grad_avg'), ('exp_avg_sq','sqr_avg')):
        refused(KeyError, f"'{torchs}', which torch.optim keeps, is '{ours}' here", lambda: opt.state[p][torchs])
        assert torchs not in opt.state[p] and opt.state[p].get(torchs) is None
    refused(KeyError, "'slow'; here are 'grad_avg', 'sqr_avg', 'step'", lambda: opt.state[p]['slow'])
    refused(KeyError, "'momentum_buffer'", lambda: opt.state[p]['momentum_buffer'])

def test_whether_a_graph_of_the_gradients_is_needed():
    "timm's training loop asks"
    p = [nn.Parameter(torch.ones(3))]
    assert genopt.AdaHessian(p).is_second_order is genopt.Sophia(p).is_second_order is True and Adam(p).is_second_order is genopt.SAM(p).is_second_order is False
    assert Optimizer([dict(params=p, cbs=genopt.AdaHessian, lr=.1), dict(params=[nn.Parameter(torch.ones(2))], cbs=Adam)]).is_second_order

@ways
def test_no_state_leaves_no_entry(kw):
    "As torch's SGD without momentum"
    ps = [nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(2, 2))]
    opt = SGD(ps, lr=.1, **kw)
    opt.init_state()
    for _ in range(2):
        for p in ps: p.grad = torch.ones_like(p)
        opt.step()
    assert not opt.state and opt.state_dict()['state']=={} and torch.allclose(ps[0], tensor(.8))
    assert not copy.deepcopy(opt).state

def test_a_step_of_zero_rate_is_a_step_where_nothing_is_kept():
    "Only the very first may be torch.distributed.checkpoint's, which has the state allocated"
    p = nn.Parameter(torch.ones(3))
    opt,looked = SGD([p], lr=.1, foreach=True),[]
    opt._allocates = lambda grads: looked.append(1)
    for _ in range(3):
        p.grad = torch.ones(3)
        opt.step()
    assert len(looked)==1

def test_a_copy_knows_that_the_last_step_was_skipped():
    p = nn.Parameter(torch.ones(3))
    opt = Adam([p], nonfinite='skip')
    p.grad = torch.full((3,), float('nan'))
    opt.step()
    new = copy.deepcopy(opt)
    assert new.last_step_skipped and new.skipped_steps==1
    new.param_groups[0]['params'][0].grad = torch.ones(3)
    new.step()
    assert not new.last_step_skipped and opt.last_step_skipped

def test_a_state_dict_of_another_model_says_what_is_missing():
    def named(*names): return Adam([(n, nn.Parameter(torch.ones(3))) for n in names])
    words = "Adam, loading a state dict: loaded state dict contains a parameter group that doesn't match the size of optimizer's group: param group 0 has "
    refused(ValueError, words+'3 parameters, that of the optimizer 2; only in the optimizer: d; only in the state dict: b, c',
            lambda: named('a', 'd').load_state_dict(named('a', 'b', 'c').state_dict()))
    refused(ValueError, words+'1 parameters, that of the optimizer 2$', lambda: Adam([nn.Parameter(torch.ones(3)) for _ in range(2)]).load_state_dict(Adam([nn.Parameter(torch.ones(3))]).state_dict()))
    two = Adam([dict(params=[nn.Parameter(torch.ones(3))]), dict(params=[nn.Parameter(torch.ones(3))])])
    refused(ValueError, 'different number of parameter groups: 2, with 1, 1 parameters; the optimizer has 1, with 2', lambda: Adam([nn.Parameter(torch.ones(3)) for _ in range(2)]).load_state_dict(two.state_dict()))


# -- Numbers that other libraries keep in the group --

kept_as_state = [(genopt.Prodigy, 'd'), (genopt.DAdaptAdam, 'd'), (genopt.Adam, 'step'), (genopt.DoG, 'far')]

@pytest.mark.parametrize('kw', [{}, dict(foreach=True), dict(foreach=False), dict(capturable=True)], ids=str)
@pytest.mark.parametrize('cls,n', kept_as_state, ids=lambda x: getattr(x, '__name__', x))
def test_a_group_finds_the_numbers_of_its_parameters(cls, n, kw):
    "Trainers log Prodigy's `group['d']*group['lr']`. The group's own keys come first, and state dicts do not have the others"
    def train(ps, opt, steps):
        for _ in range(steps):
            for p in ps: p.grad = torch.ones_like(p)
            opt.step()
    ps = [torch.ones(3, requires_grad=True), torch.ones(2, requires_grad=True)]
    opt = cls([dict(params=[p]) for p in ps], lr=.1, **kw)
    with pytest.raises(KeyError, match=f"^'{n}'$"): opt.param_groups[0][n]                   # there is no state yet
    train(ps, opt, 3)
    for p,g in zip(ps, opt.param_groups):
        assert g[n]==opt.state[p][n] and n not in g and g.get(n) is None and g['lr']==.1
        with pytest.raises(KeyError, match='nonsense'): g['nonsense']
    saved,before = copy.deepcopy(opt.state_dict()),float(opt.param_groups[0][n])
    assert all(type(g) is dict and n not in g for g in saved['param_groups'])
    train(ps, opt, 30)
    changed = float(opt.param_groups[0][n])
    assert changed!=before
    copied = copy.deepcopy(opt)
    opt.load_state_dict(saved)
    assert float(opt.param_groups[0][n])==before and float(copied.param_groups[0][n])==changed

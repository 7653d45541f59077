"""State in memory that processes share, as for Hogwild and A3C; and all else that moves or copies parameters and state under an optimizer."""

import copy
import pytest,torch
import torch.multiprocessing as mp
from torch import nn
import genopt
from genopt import Optimizer,count,scalar
from genopt.blocks import sgd_step
from helpers import algorithms

way  = dict(loop=dict(foreach=False), foreach=dict(foreach=True), fused=dict(fused=True))
ways = pytest.mark.parametrize('kw', way.values(), ids=way)

def P(*shape, v=1., dtype=torch.float64): return nn.Parameter(torch.full(shape or (3,), v, dtype=dtype))
def give(ps, g=1.):
    for p in ps: p.grad = torch.full_like(p, g)
def took(ps, opt, gs=(1.,)):
    for g in gs:
        give(ps, g)
        opt.step()
    return opt
def counters(opt, ps): return [[v.item() if torch.is_tensor(v) else v for n,v in opt.state[p].items() if not torch.is_tensor(v) or not v.ndim] for p in ps]

def child(jobs):
    torch.set_num_threads(1)
    for ps,opt in jobs: took(ps, opt, (.5, -1.))

def job(make, **kw):
    ps  = [P(), P(4, 2), P(v=2.)]
    opt = took(ps, make(ps, **kw), (1., .3))
    return ps,opt
makers = dict(Adam=lambda ps, **kw: genopt.Adam(ps, lr=.1, **kw), NAdam=lambda ps, **kw: genopt.NAdam(ps, lr=.1, **kw), Adagrad=lambda ps, **kw: genopt.Adagrad(ps, lr=.1, **kw),
              ASGD=lambda ps, **kw: genopt.ASGD(ps, lr=.1, **kw), SOAP=lambda ps, **kw: genopt.SOAP(ps, lr=.1, **{k: v for k,v in kw.items() if k!='fused'}),
              Prodigy=lambda ps, **kw: genopt.Prodigy(ps, **{k: v for k,v in kw.items() if k!='fused'}))

@pytest.mark.parametrize('start', ['fork','spawn'])
def test_the_steps_of_a_process_are_counted_in_all(start):
    "A child steps, then the parent, then another child: as four, six, eight steps of one process, with the same bits"
    jobs,refs = ([job(make, **kw) for make in makers.values() for kw in way.values()] for _ in range(2))
    for ps,opt in jobs:
        for p in ps: p.grad = None
        for p in ps: p.share_memory_()
        opt.share_memory()
    def in_a_child():
        process = mp.get_context(start).Process(target=child, args=(jobs,))
        process.start(); process.join(100)
        assert process.exitcode==0
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        in_a_child()
        for ps,opt in jobs: took(ps, opt, (.7, -.2))
        in_a_child()
    finally: torch.set_num_threads(threads)
    for (ps,opt),(qs,ref) in zip(jobs, refs):
        took(qs, ref, (.5, -1., .7, -.2, .5, -1.))
        assert counters(opt, ps)==counters(ref, qs)
        for p,q in zip(ps, qs):
            torch.testing.assert_close(p, q, rtol=1e-13, atol=1e-15)
            assert all(v.is_shared() for v in opt.state[p].values() if torch.is_tensor(v)) and not any(type(v) in (int, float) for v in opt.state[p].values())

@ways
@pytest.mark.parametrize('a', algorithms, ids=lambda a: a.name)
def test_sharing_changes_no_number(a, kw):
    "And a shared state is saved, loaded, copied, evaluated and explained as any other"
    if kw.get('fused') and a.alone: pytest.skip(a.alone)
    runs = []
    for shares in (False, True):
        ps  = [P(), P(4, 2), P(v=2.)]
        opt = a.cls(ps, **a.settings(1)[0], **kw)
        if shares: opt.share_memory()
        took(ps, opt, (1., .3, -.5))
        if shares: opt.share_memory()                                       # twice is once
        new = copy.deepcopy(opt)
        took(new.param_groups[0]['params'], new)
        new.load_state_dict(opt.state_dict())
        assert not any(torch.is_tensor(v) and v.is_shared() for s in new.state.values() for v in s.values())
        opt.eval(); opt.train(); opt.explain(); opt.init_state()
        took(ps, opt, (2.,))
        runs.append((ps, counters(opt, ps)))
    for p,q in zip(runs[0][0], runs[1][0]): torch.testing.assert_close(p, q, rtol=1e-13, atol=1e-15)
    assert runs[0][1]==runs[1][1]

@ways
def test_a_counter_that_another_writes_counts_at_the_next_step(kw):
    ps  = [P(), P()]
    opt = genopt.Adam(ps, lr=.1, **kw)
    opt.share_memory()
    took(ps, opt, (1.,)*3)
    opt.state[ps[0]]['step'].fill_(41)                                      # as another process does: no version is another
    took(ps, opt)
    assert [opt.state[p]['step'].item() for p in ps]==[42, 4]

@ways
def test_a_shared_state_goes_to_torch(kw):
    ps  = [P()]
    opt = took(ps, genopt.Adam(ps, lr=.1, **kw))
    opt.share_memory()
    ref = torch.optim.Adam(qs := [nn.Parameter(ps[0].detach().clone())], lr=.1)
    ref.load_state_dict(opt.torch_state_dict())
    took(ps, opt); took(qs, ref)
    torch.testing.assert_close(ps[0], qs[0], rtol=1e-12, atol=0)
    assert ref.state[qs[0]]['step'].dtype==torch.float32

def test_what_cannot_be_shared_is_told():
    with pytest.raises(ValueError, match='capturable=True, which keeps counters on the device'): genopt.Adam([P()], capturable=True).share_memory()

@ways
def test_fractions_and_several_counters_are_kept_exactly(kw):
    def two(grad, n=count, x=scalar(.1)): return dict(update=grad, n=n+1, x=x/3)
    ps,qs = [P()],[P()]
    opt,ref = Optimizer(ps, [two, sgd_step], lr=.1, **kw),Optimizer(qs, [two, sgd_step], lr=.1, **kw)
    opt.share_memory()
    took(ps, opt, (1.,)*5); took(qs, ref, (1.,)*5)
    assert counters(opt, ps)==counters(ref, qs)==[[5, .1/3/3/3/3/3]]


# -- Parameters and states lie by themselves, however steps are run --

def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2), nn.BatchNorm1d(2))
def train(m, opt, n=3):
    for i in range(n):
        opt.zero_grad()
        m(torch.randn(5, 4, generator=torch.Generator().manual_seed(i)).to(next(m.parameters()).dtype)).square().sum().backward()
        opt.step()

@ways
@pytest.mark.parametrize('name', ['Adam', 'SGD', 'LAMB'])
def test_every_tensor_has_memory_of_its_own_and_no_more(name, kw):
    m   = net()
    opt = getattr(genopt, name)(m.parameters(), lr=.01, **kw)
    train(m, opt)
    with pytest.warns(DeprecationWarning, match='adopt.. does nothing any more'): opt.adopt()
    tensors = [*m.parameters(), *(v for s in opt.state.values() for v in s.values() if torch.is_tensor(v))]
    assert len({x.untyped_storage().data_ptr() for x in tensors})==len(tensors)
    for x in tensors: assert x.untyped_storage().nbytes()==x.numel()*x.element_size() and x.storage_offset()==0 and type(x) in (torch.Tensor, nn.Parameter)

@ways
def test_savers_of_others_see_ordinary_parameters(kw, tmp_path):
    safetensors = pytest.importorskip('safetensors.torch')
    m   = net()
    opt = genopt.Adam(m.parameters(), lr=.01, **kw)
    train(m, opt)
    safetensors.save_model(m, str(tmp_path/'m.safetensors'))
    n = net()
    safetensors.load_model(n, str(tmp_path/'m.safetensors'))
    assert all(map(torch.equal, m.state_dict().values(), n.state_dict().values()))
    safetensors.load_model(m, str(tmp_path/'m.safetensors'))
    train(m, opt)

@ways
def test_accelerate_saves_and_loads_models_and_states(kw, tmp_path):
    accelerate = pytest.importorskip('accelerate')
    accelerator = accelerate.Accelerator(cpu=True)
    m,opt = accelerator.prepare(m := net(), genopt.Adam(m.parameters(), lr=.01, **kw))
    train(m, opt)
    accelerator.save_model(m, tmp_path/'model')
    accelerator.save_state(tmp_path/'state')
    train(m, opt)
    after = [p.detach().clone() for p in m.parameters()]
    accelerator.load_state(tmp_path/'state')
    train(m, opt)
    assert all(map(torch.equal, m.parameters(), after)) and (tmp_path/'model'/'model.safetensors').exists()

@ways
@pytest.mark.parametrize('how', ['share','double','deepcopy','dcp','load','data'])
def test_a_model_that_is_moved_or_copied_goes_on(how, kw):
    "To the same bits as one that was not; a copy is trained apart"
    from torch.distributed.checkpoint import state_dict as dcp
    m,ref = net().double(),net().double()
    opt,want = genopt.Adam(m.parameters(), lr=.01, **kw),genopt.Adam(ref.parameters(), lr=.01, **kw)
    train(m, opt); train(ref, want)
    if how=='share': m.share_memory()
    if how=='double': m.float().double()
    if how=='double': ref.float().double()
    if how=='deepcopy':
        n,copied = copy.deepcopy((m, opt))
        train(n, copied, 1)
        assert not torch.equal(m[0].weight, n[0].weight)
    if how=='dcp':
        states = dcp.get_state_dict(m, opt)
        dcp.set_state_dict(m, opt, model_state_dict=states[0], optim_state_dict=states[1])
    if how=='load': m.load_state_dict(copy.deepcopy(m.state_dict()), assign=False)
    if how=='data':
        for p in m.parameters(): p.data = p.data.clone()
    train(m, opt); train(ref, want)
    assert all(map(torch.equal, m.parameters(), ref.parameters()))
    if how=='share': assert all(p.is_shared() for p in m.parameters())

@pytest.mark.parametrize('store,name', [('int8', 'grad_avg.int8'), ({'p': 'exact_bits'}, 'p.low'), (None, 'p.low')])
def test_states_in_two_tensors_are_not_shared(store, name):
    "Another process could write one of the two in between"
    p = torch.nn.Parameter(torch.ones(5000, dtype=torch.float32 if store=='int8' else torch.bfloat16))
    with pytest.raises(ValueError, match=name): genopt.Adam([p], store=store).share_memory()

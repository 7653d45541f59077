"""Offload: states are on the host, which computes the step. CPU tensors stand for those of a device: `copies_for` gives them copies as if there were one."""

import copy,gc,io,pickle,time,weakref
from contextlib import contextmanager
import pytest,torch
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR,LambdaLR
import genopt
from genopt import AdamW,Optimizer,SGD,release_gradients
from genopt.blocks import average_grad,clip_grad_norm,lazy_rows,momentum_step,step_stat
from genopt.contract.tensors import dense
from genopt.run import copies,offload
from genopt.run.plan import Plan
from helpers import awkward,catalogue,closure_of,gpu,gradients,two_groups

stepping = [a for a in catalogue if not a.closure]
asking   = [a for a in catalogue if a.closure]


# -- A device --

class Fake(copies.Copies):
    """Copies of a device in two streams. What is `late`, 'in' or 'out', happens when somebody waits for it, and not before; all else happens at once.
    So a copy that nobody waits for, or that runs into memory that is still in use, makes a wrong result. `log` has what was asked for, in order"""
    late,log = (),[]
    def __init__(self, device):
        super().__init__(device)
        self.queues = dict(out=[])
        self.queues['in'] = []
    def add(self, which, pairs, after=None):
        if which=='in': assert all(x.stride()==y.stride() and dense(y) for x,y in pairs)     # a device would copy others by way of pageable memory
        number = sum(w==which for w,*_ in self.log)
        self.log.append((which, number, sum(x.numel()*x.element_size() for x,_ in pairs)))
        job = (which, number, [*pairs], after)
        self.queues[which].append(job)
        if which not in self.late: self.wait(job, noted=False)
        return job
    def to_host(self, pairs, after=None): return self.add('in', pairs, after)
    def to_device(self, pairs): return self.add('out', pairs)
    def wait(self, job, noted=True):
        which,number,*_ = job
        if noted: self.log.append(('wait', number, 0))
        queue = self.queues[which]
        while any(j is job for j in queue):
            _,_,pairs,after = queue.pop(0)
            if after: self.wait(after, noted=False)
            for x,y in pairs: x.copy_(y)
            pairs.clear()
    def end(self):
        for job in [*self.queues['out']]: self.wait(job, noted=False)

@pytest.fixture(params=[(), ('in',), ('out',), ('in','out')], ids=lambda late: '+'.join(late) or 'at once')
def device(request, monkeypatch): return make_device(monkeypatch, request.param)

@pytest.fixture
def late_device(monkeypatch): return make_device(monkeypatch, ('in', 'out'))

def make_device(monkeypatch, late):
    "Let CPU tensors be those of a device, in parts of a few elements"
    monkeypatch.setattr(Fake, 'late', late)
    monkeypatch.setattr(Fake, 'log', [])
    monkeypatch.setattr(offload, 'part_bytes', 100)
    monkeypatch.setitem(copies.copies_for, 'cpu', Fake)
    return Fake.log

def same(a, b):
    if torch.is_tensor(a): return torch.equal(a, b) and a.dtype==b.dtype
    if isinstance(a, dict): return a.keys()==b.keys() and all(same(a[k], b[k]) for k in a)
    return len(a)==len(b) and all(map(same, a, b)) if isinstance(a, (tuple,list)) else a==b

def states(opt, ps): return {n: dict(opt.state[p]) for n,p in ps.items()}


# -- Equal to the ordinary step --

def trained(a, kw, steps=16, dtype=torch.float64, **more):
    "Parameters and states after steps with a schedule, missing gradients, a late parameter, and one that is frozen for a while"
    ps  = {n: p for n,p in awkward(dtype).items() if not a.names or n in a.names}
    kw  = copy.deepcopy(kw)|more
    opt = a.cls(two_groups(ps, float(kw.get('lr', 1e-3)), **a.second), **kw)
    schedule = LambdaLR(opt, lambda i: .97**i)
    torch.manual_seed(0)
    for i in range(steps):
        next(iter(ps.values())).requires_grad_(i not in (5, 6))
        for n,g in gradients(i, dtype).items():
            if n in ps: ps[n].grad = g
        opt.step()
        schedule.step()
    return ps,states(opt, ps),opt

@pytest.mark.parametrize('a', stepping, ids=lambda a: a.name)
def test_bits_are_those_of_ordinary_steps(a, late_device):
    for kw in [{}, *a.settings(2)]:
        *usual,_   = trained(a, kw)
        *moved,opt = trained(a, kw, offload=True)
        assert same(moved, usual) and isinstance(opt._plan, offload.Offloaded), kw
        assert len(opt._plan.parts)>=3 or not opt._plan.simple or a.joint or a.names
    assert late_device

@pytest.mark.parametrize('name', ['AdamW', 'RAdam', 'LAMB', 'Adafactor', 'Rprop', 'SOAP', 'Prodigy'])
@pytest.mark.parametrize('kw', [{}, dict(foreach=True), dict(foreach=False)], ids=['default', 'foreach', 'loop'])
def test_in_all_orders_of_copies_and_all_ways_to_run(name, kw, device):
    a = next(a for a in stepping if a.name==name)
    assert same(*(trained(a, a.settings(1)[0], offload=off, **kw)[:2] for off in (False, True)))

@pytest.mark.parametrize('a', asking, ids=lambda a: a.name)
def test_the_model_is_asked_with_the_values_of_the_host(a, late_device):
    res = []
    for off in (False, True):
        ps  = {n: p for n,p in awkward().items() if n in (a.names or ('matrix','bias','scalar','strided'))}
        opt = a.cls(ps.values(), **copy.deepcopy(a.settings(1)[0]), offload=off)
        torch.manual_seed(0)
        for _ in range(6): opt.step(closure_of(ps.values(), opt, opt.is_second_order))
        res.append((ps, states(opt, ps)))
    assert same(*res)

def net(seed=0, dtype=None):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(10, 33), nn.LayerNorm(33), nn.ReLU(), nn.Linear(33, 3)).to(dtype)

def fit(m, opt, steps=range(5), between=None):
    "The parameters after training steps. `between`: called after each"
    for i in steps:
        x = torch.randn(8, 10, generator=torch.Generator().manual_seed(i)).to(next(m.parameters()).dtype)
        (m(x).float()-1).square().mean().backward()
        opt.step()
        opt.zero_grad()
        if between: between(m, opt, i)
    return tuple(p.detach().clone() for p in m.parameters())

def pair(make=AdamW, dtype=None, **kw):
    "The parameters that a model has after some steps, ordinary ones and offloaded ones; and what each optimizer keeps for each parameter"
    res = []
    for off in (False, True):
        m   = net(dtype=dtype)
        opt = make(m.parameters(), lr=.01, offload=off)
        fitted = fit(m, opt, **kw)
        res.append((fitted, tuple(dict(opt.state[p]) for p in m.parameters())))
    return res

stores = dict(bf16={'*_avg': dict(dtype='bfloat16', rounding='nearest', smallest=0)}, int8={'*_avg': dict(dtype='int8', rounding='nearest', smallest=0)},
              master={'p': 'master'}, kahan={'p': 'kahan'}, exact_bits={'p': 'exact_bits'}, extra_bits={'p': 'extra_bits'})
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize('store', stores.values(), ids=stores)
def test_policies(store, dtype, device):
    assert same(*pair(lambda ps, **kw: AdamW(ps, store=store, **kw), dtype))

@pytest.mark.parametrize('store', ['bfloat16', 'int8', {'p': 'stochastic'}], ids=str)
def test_what_is_rounded_at_random(store, late_device):
    "The bits are those of an ordinary step, because they depend on the step and on the place of a parameter among all"
    make = lambda ps, **kw: AdamW(ps, store={n: dict(dtype=store, smallest=0) for n in ('*_avg',)} if isinstance(store, str) else store, **kw)
    res = pair(make, torch.bfloat16)
    kept = res[1][1]
    assert same(*res)
    if isinstance(store, str): assert {s['grad_avg'].dtype for s in kept}=={dict(bfloat16=torch.bfloat16, int8=torch.uint8)[store]}

def test_models_of_several_dtypes(device):
    res = []
    for off in (False, True):
        m = net()
        m[0].to(torch.float64)
        m[3].to(torch.bfloat16)
        opt = AdamW(m.parameters(), lr=.01, offload=off)
        for i in range(4):
            torch.manual_seed(i)
            for p in m.parameters(): p.grad = torch.randn_like(p)
            opt.step()
        res.append(tuple(m.parameters()))
    assert same(*res)

class Opposite(Fake):
    "On this device numbers have the opposite sign, so who reads its memory without a copy reads what is wrong"
    def add(self, which, pairs, after=None):
        written = [x for x,_ in pairs]
        job = super().add(which, pairs, after)
        for x in written: x.neg_()
        return job

@pytest.mark.parametrize('name', ['AdamW', 'LAMB', 'Adafactor', 'Muon', 'Lion', 'SGDScheduleFree'])
def test_the_host_reads_nothing_but_copies(name, monkeypatch):
    make_device(monkeypatch, ())
    monkeypatch.setitem(copies.copies_for, 'cpu', Opposite)
    res = []
    for off in (False, True):
        sign = -1 if off else 1
        torch.manual_seed(0)
        ps  = [nn.Parameter(sign*torch.randn(6, 5)) for _ in range(6)]
        opt = getattr(genopt, name)(ps, lr=.01, offload=off)
        for _ in range(4):
            for p in ps: p.grad = sign*torch.randn(6, 5)
            opt.step()
        res.append((tuple(sign*p.detach() for p in ps), tuple(dict(opt.state[p]) for p in ps)))
    assert same(*res)


# -- Copies --

def params(n=8, shape=(5, 5)):
    torch.manual_seed(0)
    return [nn.Parameter(torch.randn(shape)) for _ in range(n)]

def give(ps, i=0):
    g = torch.Generator().manual_seed(i)
    for p in ps: p.grad = torch.randn(p.shape, generator=g).to(p.dtype)

def test_copies_of_three_parts_run_at_once(late_device):
    "While one part is computed the next two are under way, and the last one goes back"
    ps  = params()                                                      # each of them is a part: 100 bytes, and as many of its gradient
    opt = SGD(ps, lr=.1, momentum=.9, offload=True)
    give(ps); opt.step()
    late_device.clear()
    give(ps, 1); opt.step()
    order = [(what, k) for what,k,_ in late_device]
    first = [('in',0), ('in',1), ('in',2)]
    later = [step for k in range(8) for step in (('wait',k), ('out',k), ('in',k+3)) if step!=('in',k+3) or k<5]
    assert order==first+later
    assert sum(n for what,_,n in late_device)==opt.explain().copied==8*3*100

def test_host_memory_is_bounded(late_device):
    "Three slots, however many parts. No state lies in them, nor in the parameters"
    offload.part_bytes = 600
    ps  = params(20)
    opt = AdamW(ps, lr=.1, offload=True)
    give(ps); opt.step()
    slots = opt._staging.slots.values()
    assert len(slots)==3 and sum(len(s.memory) for s in slots)<=3*4*256      # of each part of 600 bytes: three parameters, rounded up, with gradients
    at = lambda x: x.untyped_storage().data_ptr()
    taken = {at(s.memory) for s in slots} | {at(p) for p in ps}
    assert not any(at(v) in taken for p in ps for v in opt.state[p].values() if torch.is_tensor(v))

@pytest.mark.parametrize('name', ['AdamW', 'Muon', 'Prodigy'])
def test_gradients_are_let_go(name, late_device):
    ps  = params()
    opt = getattr(genopt, name)([dict(params=ps[:6]), dict(params=ps[6:], offload=False)], offload=True)
    for i in range(3):
        give(ps, i); opt.step()
    seen = [weakref.ref(p.grad.untyped_storage()) for p in ps], [weakref.ref(p.grad) for p in ps]
    opt.zero_grad()
    gc.collect()
    assert not any(ref() is not None for refs in seen for ref in refs)

def test_parts_are_those_of_the_steps_before(late_device):
    "A plan is made once, also where numbers change in each step"
    ps  = params()
    opt = AdamW(ps, lr=.1, offload=True)
    schedule = CosineAnnealingLR(opt, 100)
    plans = set()
    for i in range(20):
        give(ps, i); opt.step(); schedule.step()
        plans.add(id(opt._plan))
    assert len(plans)==1 and opt._plan.simple and len(opt._plan.parts)>3

def test_an_algorithm_that_changes_its_program_goes_on(late_device):
    "RAdam has another one from the sixth step on. It needs no new plan, as each part has both"
    res = pair(genopt.RAdam, steps=range(9))
    assert same(*res)

def test_large_parameters_come_last(late_device):
    ps  = [nn.Parameter(torch.ones(n)) for n in (900, 3, 200, 5)]
    opt = SGD(ps, lr=.1, offload=True)
    give(ps); opt.step()
    assert [part.places for part in opt._plan.parts]==[[1, 3], [2], [0]]


class Recorder:
    "Stands for `torch.cuda`, which is not here. `calls` has what each stream and event was asked for"
    def __init__(self): self.calls = []
    def note(self, *call): self.calls.append(call)
    def Stream(self, device): return Queue(self, f'stream {len([c for c in self.calls if c[0]=="new"])}')
    def current_stream(self, device): return Queue(self, 'current', new=False)
    @contextmanager
    def stream(self, s):
        self.note('within', s.name)
        yield

class Queue:
    def __init__(self, of, name, new=True):
        self.of,self.name = of,name
        if new: of.note('new', name)
    def wait_stream(self, other): self.of.note(self.name, 'waits for', other.name)
    def wait_event(self, e): self.of.note(self.name, 'waits for', e.name)
    def record_event(self): return Queue(self.of, f'event of {self.name}', new=False)
    def synchronize(self): self.of.note('host', 'waits for', self.name)

def test_streams_wait_for_each_other(monkeypatch):
    recorder = Recorder()
    monkeypatch.setattr(torch, 'get_device_module', lambda device: recorder)
    monkeypatch.setattr(copies.Streams, 'room', copies.Copies.room)         # without a device no memory is pinned
    monkeypatch.setitem(copies.copies_for, 'cpu', copies.Streams)
    ps  = params(4)
    monkeypatch.setattr(offload, 'part_bytes', 100)
    opt = SGD(ps, lr=.1, offload=True)
    give(ps); opt.step()
    recorder.calls.clear()
    give(ps); opt.step()
    calls = [' '.join(c) for c in recorder.calls if c[0]!='within']
    inward,outward = 'stream 0 waits for current','stream 1 waits for current'
    free,arrived   = 'stream 0 waits for event of stream 1','host waits for event of stream 0'
    assert calls==[free, inward]*3 + [arrived, outward, free, inward] + [arrived, outward]*3 + ['current waits for stream 1']
    assert [c[1] for c in recorder.calls if c[0]=='within']==['stream 0']*3+['stream 1', 'stream 0']+['stream 1']*3


# -- The user's parameters are the truth --

def clamp(m, opt, i):
    for p in m.parameters(): p.data.clamp_(-.1, .1)
def copy_in(m, opt, i): m[0].weight.data.copy_(torch.full((33, 10), .01*i))
def add_in_place(m, opt, i):
    with torch.no_grad(): m[0].weight.add_(1.)
def other_memory(m, opt, i): m[0].weight.data = m[0].weight.data.clone()*2
def other_layout(m, opt, i): m[0].weight.data = (m[0].weight.data*2).t().contiguous().t()
def load(m, opt, i): m.load_state_dict(net(i).state_dict())
writes = clamp,copy_in,add_in_place,other_memory,other_layout,load

@pytest.mark.parametrize('write', writes, ids=lambda f: f.__name__)
@pytest.mark.parametrize('name', ['AdamW', 'Adafactor'])
def test_what_the_user_writes_counts(write, name, device):
    assert same(*pair(getattr(genopt, name), between=write))

@pytest.mark.parametrize('policy', ['master', 'exact_bits', 'extra_bits', 'kahan'])
def test_also_beside_a_policy(policy, late_device):
    make = lambda ps, **kw: AdamW(ps, store={'p': policy}, **kw)
    assert same(*pair(make, torch.bfloat16, between=lambda m, opt, i: m[0].weight.data.clamp_(-.05, .05)))

def test_a_parameter_of_another_dtype_gets_another_twin(late_device):
    res = []
    for off in (False, True):
        m   = net()
        opt = SGD(m.parameters(), lr=.01, offload=off)
        fit(m, opt)
        m.to(torch.bfloat16)
        res.append(fit(m, opt))
    assert same(*res)

def test_a_parameter_that_is_given_twice_moves_once(late_device):
    p = nn.Parameter(torch.ones(3))
    with pytest.warns(UserWarning, match='duplicate'): opt = SGD([p, p], lr=1., offload=True)
    p.grad = torch.ones(3)
    opt.step()
    assert torch.equal(p.detach(), torch.zeros(3))

def awkward_gradients(p):
    base = torch.arange(12.).reshape(3, 4)
    yield base.t().contiguous().t()                                     # other strides than the parameter's
    yield torch.ones(1, 4).expand(3, 4)
    yield base[:, ::1].flip(0)
    yield torch.stack([base, base])[1]

@pytest.mark.parametrize('made', [lambda: torch.ones(3, 4), lambda: torch.ones(4, 3).t(), lambda: torch.ones(3, 8)[:, ::2], lambda: torch.ones(6, 4)[::2]],
                         ids=['dense', 'transposed', 'columns', 'rows'])
def test_layouts(made, device):
    res = []
    for off in (False, True):
        ps  = [nn.Parameter(made()) for _ in range(4)]
        opt = AdamW(ps, lr=.1, offload=off)
        for p,g in zip(ps, awkward_gradients(ps[0])): p.grad = g
        for _ in range(3): opt.step()
        res.append(tuple(p.detach() for p in ps))
    for a,b in zip(*res): torch.testing.assert_close(a, b, rtol=1e-6, atol=0)

def test_complex_parameters(device):
    res = []
    for off in (False, True):
        torch.manual_seed(0)
        ps  = [nn.Parameter(torch.randn(3, 4, dtype=torch.complex64)) for _ in range(3)]
        opt = AdamW(ps, lr=.1, offload=off)
        for _ in range(3):
            for p in ps: p.grad = torch.randn(4, 3, dtype=torch.complex64).t().conj()
            opt.step()
        res.append(tuple(p.detach() for p in ps))
    assert same(*res)


# -- What else an optimizer does --

def test_a_single_group(device):
    "The others run where they are"
    res = []
    for off in (False, True):
        ps  = params()
        opt = AdamW([dict(params=ps[:4], offload=off), dict(params=ps[4:], lr=.02)], lr=.1)
        for i in range(4): give(ps, i); opt.step()
        res.append((tuple(ps), tuple(dict(opt.state[p]) for p in ps)))
    assert same(*res)
    assert opt.param_groups[1]['offload'] is False and 'offload: 800 B of the state' in str(opt.explain())

def test_groups_that_come_later(device):
    res = []
    for off in (False, True):
        ps  = params()
        opt = AdamW(ps[:4], lr=.1, offload=off)
        give(ps); opt.step()
        opt.add_param_group(dict(params=ps[4:]))
        for i in range(4): give(ps, i); opt.step()
        res.append((tuple(ps), tuple(dict(opt.state[p]) for p in ps)))
    assert same(*res)

def test_the_norm_of_all_gradients_needs_all_parameters(device):
    make = lambda ps, **kw: Optimizer(ps, [clip_grad_norm, AdamW], max_norm=.1, **kw)
    assert same(*pair(make))

def test_switching_in_the_middle(late_device):
    def switch(m, opt, i):
        assert isinstance(opt._plan, offload.Offloaded) is opt.param_groups[0]['offload']
        opt.param_groups[0]['offload'] = i%2==0
    m,usual = net(),net()
    assert same(fit(m, AdamW(m.parameters(), lr=.01), between=switch), fit(usual, AdamW(usual.parameters(), lr=.01)))

def test_sparse_gradients(device):
    res = []
    for off in (False, True):
        torch.manual_seed(0)
        m   = nn.Sequential(nn.Embedding(20, 4, sparse=True), nn.Linear(4, 2))
        opt = Optimizer(m.parameters(), [lazy_rows, AdamW], lr=.1, offload=off)
        for i in range(5):
            opt.zero_grad()
            m(torch.tensor([i, 2*i, 3])).square().mean().backward()
            opt.step()
        res.append((tuple(m.parameters()), tuple(dict(opt.state[p]) for p in m.parameters())))
    assert same(*res)

@pytest.mark.parametrize('store', [None, {'p': 'master'}, {'*_avg': dict(dtype='int8', smallest=0)}], ids=str)
@pytest.mark.parametrize('there', [False, True])
def test_checkpoints(store, there, late_device):
    "An offloaded optimizer's loads into an ordinary one, and back. Each keeps its own flag"
    m   = net(dtype=torch.bfloat16)
    old = AdamW(m.parameters(), lr=.01, store=store, offload=there)
    fit(m, old)
    file = io.BytesIO()
    torch.save(old.state_dict(), file)
    file.seek(0)
    other = copy.deepcopy(m)
    new   = AdamW(other.parameters(), lr=.01, store=store, offload=not there)
    new.load_state_dict(torch.load(file, weights_only=True))
    assert new.param_groups[0]['offload'] is not there
    assert same(*(tuple(dict(o.state[p]) for p in x.parameters()) for o,x in ((old, m), (new, other))))
    if store and 'p' not in store: return                               # int8 rounds at random
    assert same(fit(m, old, range(5, 8)), fit(other, new, range(5, 8)))

def test_checkpoints_of_torch(late_device):
    m,other = net(),net()
    theirs,ours = torch.optim.AdamW(m.parameters(), lr=.01),AdamW(other.parameters(), lr=.01, offload=True)
    fit(m, theirs)
    other.load_state_dict(m.state_dict())
    ours.load_state_dict(theirs.state_dict())
    for a,b in zip(fit(m, theirs, range(5, 8)), fit(other, ours, range(5, 8))): torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
    theirs.load_state_dict(ours.torch_state_dict())

@pytest.mark.parametrize('again', [copy.deepcopy, lambda o: pickle.loads(pickle.dumps(o))], ids=['copy', 'pickle'])
def test_copies_of_the_optimizer(again, late_device):
    m   = net()
    opt = AdamW(m.parameters(), lr=.01, offload=True)
    fit(m, opt)
    other,m2 = again((opt, m))
    assert other._staging is None
    assert same(fit(m, opt, range(5, 8)), fit(m2, other, range(5, 8))) and isinstance(other._plan, offload.Offloaded)

def test_states_can_be_allocated_first(late_device):
    "by `init_state`, and by torch's way to ask for them, a step with lr=0 and zero gradients"
    ps  = params()
    opt = AdamW(ps, lr=.1, offload=True)
    opt.init_state()
    other,qs = AdamW(qs := params(), lr=.1, offload=True),qs
    for i in range(3):
        give(ps, i); give(qs, i)
        opt.step(); other.step()
    assert same(ps, qs)

def test_weights_to_evaluate(device):
    def evaluate(m, opt, i):
        before = [p.detach().clone() for p in m.parameters()]
        opt.eval()
        assert i==0 or not same(before, [p.detach() for p in m.parameters()])
        opt.train()
        assert same(before, [p.detach() for p in m.parameters()])
    assert same(*pair(genopt.AdamWScheduleFree, between=evaluate))
    assert same(*pair(lambda ps, **kw: Optimizer(ps, [AdamW, genopt.blocks.ema_weights], decay=.9, **kw), between=evaluate))

@pytest.mark.parametrize('name', ['AdamW', 'Muon'])
@pytest.mark.parametrize('policy', ['raise', 'skip', 'propagate'])
def test_gradients_that_are_not_finite(policy, name, device):
    ps     = params()
    opt    = getattr(genopt, name)(ps, lr=.1, offload=True, nonfinite=policy)
    give(ps); opt.step()
    before = [p.detach().clone() for p in ps]
    give(ps, 1)
    ps[2].grad[0, 0] = torch.nan
    if policy=='raise':
        with pytest.raises(FloatingPointError, match='parameter 2 in param group 0 has 1 NaN'): opt.step()
    else: opt.step()
    assert same(before, [p.detach() for p in ps]) is (policy!='propagate')
    assert opt.last_step_skipped is (policy=='skip') and opt.skipped_steps==(policy=='skip')
    give(ps, 2); opt.step()
    if policy!='propagate': assert not same(before, [p.detach() for p in ps]) and opt.state[ps[0]]['step' if name=='AdamW' else 'grad_avg'] is not None

def test_under_a_scaler(device):
    res = []
    for off in (False, True):
        m      = net()
        opt    = AdamW(m.parameters(), lr=.01, offload=off)
        scaler = torch.amp.GradScaler('cpu', init_scale=4.)
        for i in range(5):
            opt.zero_grad()
            scaler.scale(m(torch.full((2, 10), float(i))).square().mean()).backward()
            if i==2: m[0].weight.grad[0, 0] = torch.inf
            scaler.step(opt)
            scaler.update()
        res.append(tuple(m.parameters()))
    assert same(*res)

def test_a_step_that_fails_changes_nothing(device):
    calls = []
    def fails(update):
        calls.append(1)
        if len(calls)>30 and len(calls)%7==0: raise RuntimeError('by the callback')
        return dict(update=update*float(update.sum()>-1e9))
    ps  = params()
    opt = Optimizer(ps, [AdamW, fails], lr=.1, offload=True)
    for i in range(9):
        before,kept = [p.detach().clone() for p in ps],copy.deepcopy(states(opt, dict(enumerate(ps))))
        give(ps, i)
        try: opt.step()
        except RuntimeError: assert same(before, [p.detach() for p in ps]) and same(kept, states(opt, dict(enumerate(ps))))
        else: assert not same(before, [p.detach() for p in ps])
    assert len(calls)>60

def test_an_interrupted_step_leaves_nothing_under_way(late_device, monkeypatch):
    "What has not been computed does not move, now or in the next step"
    ps  = params()
    opt = SGD(ps, lr=1., offload=True)
    give(ps); opt.step()
    before = [p.detach().clone() for p in ps]
    give(ps, 1)
    monkeypatch.setattr(opt._plan.parts[4].plan, 'commit', lambda: 1/0)
    with pytest.raises(ZeroDivisionError): opt.step()
    assert same(before[4:], [p.detach() for p in ps[4:]]) and not opt._staging.under_way
    monkeypatch.undo()
    make_device(monkeypatch, ('in', 'out'))
    give(ps, 2); opt.step()
    assert same([b-p.grad for b,p in zip(before[4:], ps[4:])], [p.detach() for p in ps[4:]])

def later_a_rate(grads, evaluate, params, steps, lr):
    evaluate(params)
    return dict(lr=lr/2) if max(steps)>3 else {}

def test_a_plan_that_is_made_within_a_step_goes_on_with_what_was_called(device):
    "A callback that suddenly changes `lr` needs another plan. The model is not evaluated again for it"
    res = []
    for off in (False, True):
        ps,calls = params(),[]
        opt = Optimizer(ps, [step_stat, later_a_rate, average_grad, momentum_step], lr=.01, offload=off)
        for _ in range(6):
            evaluate = closure_of(ps, opt)
            opt.step(lambda evaluate=evaluate, calls=calls: calls.append(1) or evaluate())
        res.append((tuple(ps), len(calls)))
    assert same(*res)

@pytest.mark.parametrize('name', ['AdamW', 'LAMB', 'Muon'])
@pytest.mark.parametrize('every', [1, 2])
def test_with_released_gradients(every, name, device):
    res = []
    for off,release in ((False, True), (True, True), (False, False)):
        m   = nn.Sequential(*[nn.Linear(6, 6, bias=False) for _ in range(7)])
        torch.manual_seed(0)
        for p in m.parameters(): nn.init.normal_(p)
        opt = getattr(genopt, name)(m.parameters(), lr=.01, offload=off)
        if release: release_gradients(opt, every=every)
        for i in range(4*every):
            m(torch.full((2, 6), i+1.)).square().mean().backward()
            if (i+1)%every==0:
                opt.step()
                opt.zero_grad()
        res.append((tuple(p.detach() for p in m.parameters()), tuple(dict(opt.state[p]) for p in m.parameters())))
    assert same(res[0], res[1]) and (name=='Muon' or same(res[0], res[2]))      # Muon's products are stacked in an ordinary step

def test_released_gradients_are_brought_while_backward_goes_on(late_device):
    "The host computes a parameter when three are under way, and the last ones in opt.step()"
    m   = nn.Sequential(*[nn.Linear(6, 6, bias=False) for _ in range(5)])
    opt = SGD(m.parameters(), lr=.01, momentum=.9, offload=True)
    released = release_gradients(opt)
    def backward(): m(torch.ones(2, 6)).square().mean().backward()
    backward(); opt.step()
    before = [p.detach().clone() for p in m.parameters()]
    late_device.clear()
    backward()
    assert [what for what,*_ in late_device]==['in', 'in', 'in', 'wait', 'out', 'in', 'wait', 'out', 'in']
    assert len(opt._staging.under_way)==3 and all(p.grad is None for p in m.parameters())
    opt.step()
    assert not opt._staging.under_way and not any(torch.equal(p, q) for p,q in zip(m.parameters(), before))
    backward()
    released.remove()                                                   # ends what is under way, too
    assert not opt._staging.under_way and len(opt._staging.slots)==3

def test_shared_memory(late_device):
    ps  = params()
    opt = AdamW(ps, lr=.1, offload=True)
    opt.share_memory()
    other,qs = AdamW(qs := params(), lr=.1),qs
    for i in range(3):
        give(ps, i); give(qs, i)
        opt.step(); other.step()
    assert same(ps, qs) and opt.state[ps[0]]['grad_avg'].is_shared() and opt.state[ps[0]]['step'].item()==3


# -- Where there is nothing to move, or it cannot be --

def test_on_a_cpu_it_is_an_ordinary_step():
    ps  = params()
    opt = AdamW(ps, lr=.1, offload=True)
    give(ps); opt.step()
    assert type(opt._plan) is Plan and opt.explain().copied==0 and 'offload' not in str(opt.explain())

def test_explain_counts_copies(late_device):
    text = str(AdamW(params(1, (100, 10)), lr=.1, offload=True).explain())
    assert '; offload: 8 kB of the state are on the host, a step copies 12 kB there and back; run: one launch' in text

class Odd(nn.Parameter): pass

refused = [(dict(capturable=True), ValueError, 'offload=True computes the step on the host, and no CUDA graph can record that; leave capturable or offload out'),
           (dict(offload='yes'), TypeError, "offload must be True or False, got 'yes'")]
@pytest.mark.parametrize('kw,error,message', refused, ids=lambda x: '')
def test_errors(kw, error, message):
    with pytest.raises(error, match=message): AdamW(params(), **dict(offload=True)|kw)

def test_errors_of_parameters(late_device):
    with pytest.raises(ValueError, match='parameter 0 is a Odd, but offload=True moves plain tensors only'): AdamW([Odd(torch.ones(3))], offload=True)


# -- On a card --

def steps_on(device, name, policy, steps=6, store=None, offload=False):
    "The parameters on the host, and the states, after steps whose gradients are late on the device, and whose results are read at once"
    torch.manual_seed(0)
    gen = torch.Generator().manual_seed(1)
    dtype = torch.bfloat16 if policy else torch.float32
    ps  = [nn.Parameter(torch.randn(shape, generator=gen).to(device, dtype)) for shape in [(64, 32), (33, 7), (100, 3)]*8]
    opt = getattr(genopt, name)(ps, lr=.01, store=policy, offload=offload)
    for _ in range(steps):
        grads = [torch.randn(p.shape, generator=gen).to(device, dtype) for p in ps]
        for p in ps: p.grad = torch.full_like(p, torch.nan)
        if device=='cuda': torch.cuda._sleep(20_000_000)                # some milliseconds: a copy that does not wait takes NaN
        for p,g in zip(ps, grads): p.grad.copy_(g)
        opt.step()
        seen = [p.detach().clone() for p in ps]                         # without waiting for the device
        if device=='cuda': torch.cuda._sleep(2_000_000)
        for p in ps: p.grad = None
    assert all(torch.equal(a, b) for a,b in zip(seen, ps))
    return tuple(p.detach().cpu() for p in seen),tuple(dict(opt.state[p]) for p in ps),opt

@gpu
@pytest.mark.parametrize('policy', [None, {'p': 'master'}], ids=str)
@pytest.mark.parametrize('name', ['AdamW', 'LAMB', 'RAdam', 'Muon'])
def test_a_card_gets_the_bits_of_the_cpu(name, policy, monkeypatch):
    monkeypatch.setattr(offload, 'part_bytes', 20_000)
    *usual,_   = steps_on('cpu', name, policy)
    *moved,opt = steps_on('cuda', name, policy, offload=True)
    assert isinstance(opt._plan, offload.Offloaded) and opt._plan.simple==(name!='Muon')
    assert same(moved[1], usual[1]) and same(moved[0], usual[0])
    tensors = [v for s in opt.state.values() for v in s.values() if torch.is_tensor(v)]
    assert tensors and all(v.device.type=='cpu' for v in tensors)

@gpu
def test_a_card_holds_no_state():
    gc.collect()
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()
    ps  = [nn.Parameter(torch.zeros(1024, 1024, device='cuda')) for _ in range(24)]
    for p in ps: p.grad = torch.ones_like(p)
    opt = AdamW(ps, lr=.1, offload=True)
    torch.cuda.reset_peak_memory_stats()
    for _ in range(3): opt.step()
    torch.cuda.synchronize()
    own = 2*24*4*2**20                                                  # parameters and gradients
    assert torch.cuda.memory_allocated()-before-own<2**20
    assert torch.cuda.max_memory_allocated()-before-own<8*2**20         # nor does a step need any
    slots = [s.memory for s in opt._staging.slots.values()]
    assert all(m.is_pinned() for m in slots) and sum(m.numel() for m in slots)<=offload.at_once*offload.part_bytes
    assert opt.explain().copied==3*24*4*2**20

@gpu
def test_a_checkpoint_goes_to_an_ordinary_optimizer_on_the_card_and_back():
    m   = net().cuda()
    old = AdamW(m.parameters(), lr=.01, offload=True)
    x   = torch.randn(8, 10, device='cuda')
    def train(m, opt, n):
        for _ in range(n):
            opt.zero_grad()
            (m(x)-1).square().mean().backward()
            opt.step()
    train(m, old, 3)
    other = copy.deepcopy(m)
    new   = AdamW(other.parameters(), lr=.01)
    new.load_state_dict(old.state_dict())
    assert all(v.is_cuda for s in new.state.values() for v in s.values() if torch.is_tensor(v))
    train(m, old, 3); train(other, new, 3)
    for a,b in zip(m.parameters(), other.parameters()): torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
    old.load_state_dict(new.state_dict())
    assert all(v.is_cpu for s in old.state.values() for v in s.values() if torch.is_tensor(v))
    new.param_groups[0]['offload'] = True                               # a switch moves the states
    train(m, old, 3); train(other, new, 3)
    assert all(v.is_cpu for s in new.state.values() for v in s.values() if torch.is_tensor(v))
    for a,b in zip(m.parameters(), other.parameters()): torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)

@gpu
@pytest.mark.parametrize('make', [lambda ps: AdamW(ps, lr=.01, offload=True, nonfinite='skip'), lambda ps: AdamW(ps, lr=.01, offload=True)], ids=['skip', 'scaler'])
def test_a_card_skips_steps_that_are_not_finite(make):
    m      = net().cuda()
    opt    = make(m.parameters())
    scaler = torch.amp.GradScaler('cuda', init_scale=4., enabled=opt.nonfinite=='propagate')
    for i in range(4):
        opt.zero_grad()
        scaler.scale((m(torch.ones(2, 10, device='cuda'))-1).square().mean()).backward()
        if i==2: m[0].weight.grad[0, 0] = torch.inf
        before = [p.detach().clone() for p in m.parameters()]
        scaler.step(opt)
        scaler.update()
        assert same(before, [p.detach() for p in m.parameters()]) is (i==2)
    assert opt.state[m[0].weight]['step']==3

@gpu
@pytest.mark.parametrize('a', asking, ids=lambda a: a.name)
def test_a_card_asks_the_model(a):
    "of its own values, on the device: the loss falls as it does in ordinary steps"
    losses = []
    for off in (False, True):
        m   = net().cuda()
        opt = a.cls(m.parameters(), lr=.01, offload=off)
        x   = torch.randn(8, 10, generator=torch.Generator().manual_seed(0)).cuda()
        def closure(m=m, opt=opt, x=x):
            opt.zero_grad()
            loss = (m(x)-1).square().mean()
            loss.backward(create_graph=opt.is_second_order)
            return loss
        losses.append([opt.step(closure).item() for _ in range(8)])
    usual,moved = losses
    assert moved[-1]<moved[0] and abs(moved[-1]-usual[-1])<.2*usual[0]

@gpu
@pytest.mark.parametrize('every', [1, 2])
def test_a_card_releases_gradients(every):
    res = []
    for off in (False, True):
        torch.manual_seed(0)
        m   = nn.Sequential(*[nn.Linear(256, 256) for _ in range(8)]).cuda()
        opt = AdamW(m.parameters(), lr=1e-3, offload=off)
        release_gradients(opt, every=every)
        for i in range(4*every):
            m(torch.ones(4, 256, device='cuda')*(i+1)).square().mean().backward()
            if (i+1)%every==0: opt.step()
        assert all(p.grad is None for p in m.parameters())
        res.append([p.detach().clone() for p in m.parameters()])
    for a,b in zip(*res): torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)

def fastest(f, n=5):
    "The shortest time of `f`, in seconds"
    times = []
    for _ in range(n):
        torch.cuda.synchronize()
        t = time.perf_counter()
        f()
        torch.cuda.synchronize()
        times.append(time.perf_counter()-t)
    return min(times)

class Watched(copies.Streams):
    "Notes how many copies to the host are under way when the host begins to compute"
    under_way = []
    def to_host(self, pairs, after=None):
        arrived = super().to_host(pairs, after)
        self.issued = [*getattr(self, 'issued', [])[-8:], arrived]
        return arrived
    def wait(self, arrived):
        super().wait(arrived)
        self.under_way.append(sum(not e.query() for e in self.issued))

@gpu
def test_copies_run_while_the_host_computes(monkeypatch, capsys):
    "The sizes of GPT-2 small: 124 million elements"
    monkeypatch.setitem(copies.copies_for, 'cuda', Watched)
    monkeypatch.setattr(Watched, 'under_way', [])
    shapes = [(50257, 768), (1024, 768)] + [(768,), (768,), (768, 2304), (2304,), (768, 768), (768,), (768,), (768,), (768, 3072), (3072,), (3072, 768), (768,)]*12
    ps  = [nn.Parameter(torch.zeros(s, device='cuda')) for s in shapes]
    qs  = [nn.Parameter(torch.zeros(s)) for s in shapes]
    for p in (*ps, *qs): p.grad = torch.ones_like(p)
    opt,host = AdamW(ps, lr=1e-3, offload=True),AdamW(qs, lr=1e-3)
    for _ in range(2): opt.step(); host.step()
    Watched.under_way.clear()
    step,computed = fastest(opt.step),fastest(host.step)
    pinned,there = torch.empty(2**26, pin_memory=True),torch.empty(2**26, device='cuda')
    rate = {n: 2**28/fastest(lambda a=a, b=b: a.copy_(b, non_blocking=True)) for n,a,b in [('in', pinned, there), ('out', there, pinned)]}
    n = sum(p.numel() for p in ps)
    inward,outward = 8*n/rate['in'],4*n/rate['out']
    with capsys.disabled():
        print(f"\nGPT-2, AdamW, offload: a step {step*1e3:.1f} ms; the host alone {computed*1e3:.1f} ms; to the host {inward*1e3:.1f} ms at {rate['in']/1e9:.0f} GB/s; "
              f"to the device {outward*1e3:.1f} ms at {rate['out']/1e9:.0f} GB/s; copies under way as a part began {sum(map(bool, Watched.under_way))} of {len(Watched.under_way)}")
    assert max(Watched.under_way)>=1
    assert step<computed+inward+outward                                 # what one after the other would take
    assert step<2*max(computed, inward)+.02

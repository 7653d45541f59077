"""The pieces of `genopt.run` by themselves: rows of scalars, gradients, batches, cross reductions, calls, and what a plan writes when."""

import gc,math,weakref
from contextlib import nullcontext
from types import SimpleNamespace
import pytest,torch
from torch.utils._python_dispatch import TorchDispatchMode
import genopt
from genopt import Init,Optimizer,count,zeros
from genopt.blocks import adam_step,average_grad,average_sqr_grad,clip_grad_norm,debias,momentum_step,sgd_step,step_stat
from genopt.contract.chain import Chain
from genopt.lower.decide import lower,programs
from genopt.lower.program import Layout,Request
from genopt.lower.values import Value
from genopt.run import flat,inputs as run_inputs,reader,tensors,work
from genopt.run.calls import write_call_outs
from genopt.run.cross import run_before_commit
from genopt.run.gradients import Gradients,gradients
from genopt.run.memory import aligned
from genopt.run.scalars import Row,ScalarTable
from genopt.run.inputs import Inputs
from genopt.run.store import Clock

way  = pytest.mark.parametrize('kw', [dict(foreach=True), dict(fused=True)], ids=['foreach', 'fused'])
ways = pytest.mark.parametrize('kw', [dict(foreach=False), dict(foreach=True), dict(fused=True)], ids=['reference', 'foreach', 'fused'])

def rand(*shape, seed=0): return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
def parameters(*shapes): return [rand(*s, seed=i).requires_grad_() for i,s in enumerate(shapes)]
def give(ps, step=0):
    for i,p in enumerate(ps): p.grad = rand(*p.shape, seed=100*step+50+i)
def kept(opt): return [{n: v.clone() if torch.is_tensor(v) else v for n,v in opt.state[p].items()} for g in opt.param_groups for p in g['params']]
def same(a, b): return a.keys()==b.keys() and all(torch.equal(v, b[n]) if torch.is_tensor(v) else v==b[n] for n,v in a.items())
def inputs(opt): return Inputs(ps := [p for g in opt.param_groups for p in g['params']], [p.grad for p in ps], opt._settings(opt.param_groups), opt.param_groups)
def own_shape(v): return Init(lambda p: torch.full(p.shape[:1], v, dtype=p.dtype))


# -- Rows of scalars --

def program(*cbs, states=(), backend='c', capturable=False, **numbers):
    layout = Layout((3,), torch.float32, torch.float32, tuple((n, torch.float32) for n in states), torch.device('cpu'))
    return lower(Chain(cbs), layout, dict(lr=.1) | numbers, Request(backend, capturable))

def counting(table):
    "The numbers with which the scalar program of `table` is run, from now on"
    seen,scalars = [],table.scalars
    table.scalars = lambda numbers: seen.append(dict(numbers)) or scalars(numbers)
    return seen

def settings(**numbers): return SimpleNamespace(numbers=dict(lr=.1) | numbers)
adam  = dict(mom=.9, sqr_mom=.99, eps=1e-8, dampening=True)
chain = average_grad,average_sqr_grad,step_stat,debias,adam_step

def test_each_row_has_its_own_scalars_and_their_reciprocals():
    p     = program(*chain, states=('grad_avg', 'sqr_avg'), step=0, **adam)
    rows  = [Row(0, Clock(dict(step=7)), False), Row(0, Clock(dict(step=3)), False), Row(1, Clock(dict(step=7)), False)]
    table = ScalarTable(p, rows)
    groups = [settings(**adam), settings(**adam | dict(lr=.01))]
    assert table.prepare(groups) and p.reciprocals
    for r,row in enumerate(rows):
        want,_ = p.scalars(row.numbers(groups))
        got    = table.array[r*table.width:(r+1)*table.width]
        named  = dict(zip(table.names, got))
        assert got[:len(want)]==want and table.named(r)==dict(zip(p.scalars.names, want))
        assert all(named[f'r_{n}']==1/named[n] for n in p.reciprocals)
    assert len({*map(tuple, (table.array[r*table.width:(r+1)*table.width] for r in range(3)))})==3

def test_counters_go_on_when_the_step_is_committed():
    p   = program(*chain, states=('grad_avg', 'sqr_avg'), step=0, **adam)
    row = Row(0, Clock(dict(step=7)), False)
    table = ScalarTable(p, [row])
    for _ in range(2): assert table.prepare([settings(**adam)]) and row.clock.values==dict(step=7) and len(table.counters)==1
    table.advance()
    assert row.clock.values==dict(step=8)

def test_a_guard_that_fails_is_told():
    table = ScalarTable(program(average_grad, momentum_step, states=('grad_avg',), mom=.9, dampening=True), [Row(0, Clock({}), False)])
    assert table.prepare([settings(mom=.9, dampening=True)]) and table.prepare([settings(mom=.5, dampening=True)])
    assert not table.prepare([settings(mom=.5, dampening=False)])

def test_what_is_settled_is_not_computed_again():
    "As long as the settings are the same object. What a prefix hands over, counters and numbers on the device may change all the same"
    p,now = program(average_grad, momentum_step, states=('grad_avg',), mom=.9, dampening=True),[settings(mom=.9, dampening=True)]
    table = ScalarTable(p, [Row(0, Clock({}), False)])
    seen  = counting(table)
    for _ in range(3): assert table.prepare(now)
    assert len(seen)==1
    assert table.prepare([settings(mom=.5, dampening=True)]) and len(seen)==2 and .5 in table.array[:]
    for n in (3, 4): assert table.prepare([last := settings(mom=.5, dampening=True)], dict(mom=.1*n)) and len(seen)==n and seen[-1]['mom']==.1*n
    assert table.prepare([last]) and len(seen)==5 and seen[-1]['mom']==.5

@pytest.mark.parametrize('kw,counter', [(dict(), dict(step=0)), (dict(backend='foreach', capturable=True), {})], ids=['counter', 'capturable'])
def test_what_changes_by_itself_is_computed_again(kw, counter):
    lr    = torch.tensor(.1, dtype=torch.float64) if kw else .1
    p     = program(*([step_stat] if counter else []), sgd_step, **kw, **counter, lr=lr)
    table = ScalarTable(p, [Row(0, Clock(dict(counter)), False)])
    seen,now = counting(table),[settings(lr=lr)]
    for _ in range(3): assert table.prepare(now)
    assert len(seen)==3

def test_the_reciprocal_of_zero_is_infinite():
    def divided(grad, k=1.): return grad/k
    table = ScalarTable(program(divided, k=1.), [Row(0, Clock({}), False)])
    for k,want in ((4., .25), (0., math.inf), (-0., -math.inf)):
        assert table.prepare([settings(k=k)]) and want in table.array[:]

def test_cross_values_end_each_row():
    p     = program(clip_grad_norm, sgd_step, max_norm=1., eps=1e-6)
    table = ScalarTable(p, [Row(0, Clock({}), False), Row(1, Clock({}), False)])
    assert table.prepare([settings(max_norm=1., eps=1e-6), settings(lr=.2, max_norm=1., eps=1e-6)]) and len(p.crosses)==1
    before = table.array[:]
    table.fill_crosses([.625])
    w = table.width
    assert table.array[w-1]==table.array[2*w-1]==.625 and table.array[:w-1]+table.array[w:2*w-1]==before[:w-1]+before[w:2*w-1]

def test_a_row_that_fastai_exempts_does_not_decay():
    row,free = [Row(0, Clock(dict(step=1)), undecayed) for undecayed in (False, True)]
    assert row.numbers([settings(wd=.1)])==dict(lr=.1, wd=.1, step=1) and free.numbers([settings(wd=.1)])==dict(lr=.1, wd=0., step=1)
    assert free.numbers([settings()])==dict(lr=.1, step=1)


# -- Gradients --

def taker(ps, **kw): return Gradients(ps, [*range(len(ps))], len(ps), torch.float64, **dict(launched=True, by_address=True, of_users=True) | kw)
def addresses(xs): return [x.data_ptr() for x in xs]

def test_gradients_are_known_again():
    "The same tensors in the same memory: nothing is read again. Others, or the same elsewhere: all is"
    ps,gs = [torch.zeros(3).double(), torch.zeros(4).double()],[rand(3), rand(4)]
    taken = taker(ps)
    assert taken.take(gs) and taken.addresses==addresses(gs) and not taken.pointed
    taken.pointed = True
    for _ in range(3): assert taken.take([*gs]) and taken.pointed
    gs[1] = rand(4)
    assert taken.take(gs) and taken.addresses==addresses(gs) and not taken.pointed
    taken.pointed = True
    assert taken.take(gs) and taken.pointed
    gs[0].data = rand(3)
    assert taken.take(gs) and taken.addresses==addresses(gs) and not taken.pointed

def test_gradients_are_not_kept_alive():
    gs = [rand(3)]
    taken = taker([torch.zeros(3).double()])
    assert taken.take(gs) and taken.take(gs)                                                   # the second time their memory is looked at
    gone = taken.known[0]
    del gs
    gc.collect()
    assert gone() is None and taken.tensors is None
    assert taken.take(new := [rand(3)]) and taken.addresses==addresses(new)

def test_gradients_of_another_kind_are_refused():
    "The program is for one dtype, and for dense ones"
    ps = [torch.zeros(3).double(), torch.zeros(4, 2).double()]
    for kw in ({}, dict(by_address=False), dict(launched=False, by_address=False)):
        taken = taker(ps, **kw)
        assert taken.take([rand(3), rand(4, 2)])
        assert not taken.take([rand(3).float(), rand(4, 2).float()]) and not taken.take([rand(3), rand(4, 2).float()])
        assert not taken.take([rand(3), torch.sparse_coo_tensor(torch.tensor([[1]]), rand(1, 2), (4, 2), check_invariants=False)])
        assert taken.take([rand(3), rand(4, 2)])

def test_gradients_lie_as_the_parameters_do():
    "For a launch; an operation on lists takes them as they are"
    p,g = torch.zeros(4, 3).double().t(),rand(3, 4)
    taken = taker([p])
    assert taken.take([g]) and taken.tensors[0].stride()==p.stride() and torch.equal(taken.tensors[0], g) and taken.addresses==addresses(taken.tensors)
    taken = taker([p], launched=False, by_address=False)
    assert taken.take([g]) and taken.tensors[0].data_ptr()==g.data_ptr() and taken.addresses is None

def test_some_gradients_of_many_are_taken():
    gs = [rand(3), None, rand(4), None]
    taken = Gradients([torch.zeros(4).double()], [2], 4, torch.float64, launched=True, by_address=True, of_users=True)
    assert taken.take(gs) and taken.addresses==[gs[2].data_ptr()]
    handed = Gradients([torch.zeros(4).double()], [2], 4, torch.float64, launched=True, by_address=True, of_users=False)      # as a prefix hands them on
    assert handed.take({2: gs[2]}) and handed.addresses==[gs[2].data_ptr()] and handed.tensors[0].data_ptr()==gs[2].data_ptr()

def strided(g): return g.t().contiguous().t() if g.ndim>1 else g
def unlike(p): return torch.sparse_coo_tensor(torch.tensor([[0]]), torch.ones_like(p[:1]), p.shape, check_invariants=False)
happens = {                                                                     # what happens before a step, and whether Python has to look then
    'nothing':                lambda ps, gs: None,
    'in place':               lambda ps, gs: [g.mul_(-2) for g in gs],
    'others':                 lambda ps, gs: [setattr(p, 'grad', g.clone()) for p,g in zip(ps, gs)],
    'the first is another':   lambda ps, gs: setattr(ps[0], 'grad', gs[0]*3),
    'one of `data`':          lambda ps, gs: setattr(gs[1], 'data', gs[1]*3),
    'two change places':      lambda ps, gs: (setattr(ps[0], 'grad', gs[2]), setattr(ps[2], 'grad', gs[0])),
    'another parameter lies': lambda ps, gs: setattr(ps[1], 'data', ps[1].detach().clone()),
    'one is missing':         lambda ps, gs: setattr(ps[0], 'grad', None),
    'none':                   lambda ps, gs: [setattr(p, 'grad', None) for p in ps],
    'one more':               lambda ps, gs: setattr(ps[-1], 'grad', torch.ones_like(ps[-1])),
    'frozen':                 lambda ps, gs: ps[0].requires_grad_(False),
    'one lies otherwise':     lambda ps, gs: setattr(ps[0], 'grad', strided(gs[0]*3)),
    'one is expanded':        lambda ps, gs: setattr(ps[0], 'grad', torch.ones((), dtype=gs[0].dtype).expand(gs[0].shape)),
    'one is sparse':          lambda ps, gs: setattr(ps[0], 'grad', unlike(ps[0].detach())),
}
unseen = 'nothing', 'in place', 'others', 'the first is another', 'one of `data`', 'two change places'

@pytest.mark.skipif(reader.gradient_functions() is None, reason='this torch has no such interface')
@pytest.mark.parametrize('what', happens)
def test_gradients_are_read_in_c(what, monkeypatch):
    "Python looks only where something else than their places has changed, and the steps are those of the reference. Two dtypes are two works"
    looks = []
    monkeypatch.setattr(run_inputs, 'gradients', lambda ps: looks.append(1) or gradients(ps))
    shapes = [(5, 4), (1, 3), (5, 4), (0,), (), (7,)]
    runs   = []
    for kw in (dict(fused=True), dict(foreach=False)):
        ps  = [torch.nn.Parameter(rand(*s, seed=i).to(torch.float32 if i==4 else torch.float64)) for i,s in enumerate(shapes)]
        opt = genopt.SGD(ps, lr=.1, **kw)
        for p in ps[:-1]: p.grad = torch.ones_like(p)
        for i in range(6):
            if i in (3,4): happens[what](ps, [p.grad for p in ps if p.grad is not None])
            looks.clear()
            opt.step()
            if 'fused' in kw and 0<i<4: assert bool(looks)==(i==3 and what not in unseen)
        runs.append(ps)
    for p,q in zip(*runs): torch.testing.assert_close(p, q, rtol=1e-6, atol=1e-7)

def minus(x): return torch.complex(torch.zeros_like(x), -x).conj().imag       # `x`, as the negative of what lies in memory

@pytest.mark.parametrize('read', [True, False], ids=['in C', 'in Python'])
@way
def test_a_gradient_that_is_lazily_negative(kw, read, monkeypatch):
    "A parameter of one element may get such a one from autograd, as the imaginary part of something conjugate. It is one piece of memory"
    if not read: monkeypatch.setattr(reader, 'gradient_functions', lambda: None)
    ps  = [torch.nn.Parameter(torch.zeros(s)) for s in ((1,), (), (1,1))]
    opt = genopt.SGD(ps, lr=1., **kw)
    for lazy in (False, False, True, True, False, True):
        for p in ps: p.grad = minus(torch.ones_like(p)) if lazy else torch.ones_like(p)
        assert ps[0].grad.is_neg()==lazy and ps[0].grad.is_contiguous()
        opt.step()
    for p in ps: assert p.eq(-6).all()

def test_autograd_gives_such_gradients():
    w = torch.zeros(1, requires_grad=True)
    (torch.complex(torch.ones(1), w).conj()*torch.tensor(2+3j)).imag.sum().backward()
    if not w.grad.is_neg(): pytest.skip('this torch gives another one')
    genopt.SGD([w], lr=1.).step()
    assert w==2

@way
def test_a_state_that_is_lazily_negative(kw):
    "The user sets it; steps write the state that they read"
    ps = [torch.zeros(2, requires_grad=True) for _ in range(2)]
    runs = []
    for p,f in zip(ps, (minus, torch.clone)):
        opt = genopt.SGD([p], lr=1., momentum=.9, **kw)
        for i in range(4):
            p.grad = torch.ones(2)
            opt.step()
            if i==1: opt.state[p]['grad_avg'] = f(torch.full((2,), 3.))
        runs.append((p.detach(), opt.state[p]['grad_avg']))
    for x,y in zip(*runs): torch.testing.assert_close(x, y)

def test_where_torch_has_no_such_interface(monkeypatch):
    monkeypatch.setattr(reader, 'gradient_functions', lambda: None)
    p   = torch.ones(3, requires_grad=True)
    opt = genopt.SGD([p], lr=.1, fused=True)
    for _ in range(3):
        p.grad = torch.ones(3)
        opt.step()
    torch.testing.assert_close(p, torch.full((3,), .7))

@way
def test_a_sparse_gradient_after_dense_ones(kw):
    "It goes through the reference, and the next dense one through the program again"
    p = torch.ones(4, 2, requires_grad=True)
    opt = genopt.SGD([p], lr=.1, nonfinite='raise', **kw)
    for sparse in (False, True, False):
        p.grad = None
        p.grad = torch.sparse_coo_tensor(torch.tensor([[1]]), torch.ones(1, 2), (4, 2), check_invariants=False) if sparse else torch.ones(4, 2)
        opt.step()
        assert len(opt._plan.fallback)==sparse
    torch.testing.assert_close(p, torch.tensor([[.8]*2, [.7]*2, [.8]*2, [.8]*2]))


@pytest.mark.parametrize('a,b,same', [((4,3), (4,3), True), ((4,3), (3,4), False), ((3,), (5,), False), ((4,1), (4,1), True), ((0,3), (0,3), True)])
def test_what_lies_alike(a, b, same):
    assert aligned(torch.zeros(a), torch.zeros(b))==same
    assert not aligned(torch.zeros(3, 4).t(), torch.zeros(4, 3)) and aligned(torch.zeros(4, 1), torch.zeros(1, 4).t())


# -- Batches and parts --

def held(shapes):
    res = tensors.Tensors()
    res.ps,res.states = [torch.zeros(s) for s in shapes],[{} for _ in shapes]
    return res
def stub(stacked=None, dtype=torch.float32):
    calls = () if stacked is None else (SimpleNamespace(stacked=stacked),)
    return SimpleNamespace(stages=[SimpleNamespace(calls=calls)], layout=SimpleNamespace(compute_dtype=dtype, device=torch.device('cpu')))
def places(bs): return [(b.at, b.stacked) for b in bs]

def test_parameters_that_are_alike_are_stacked():
    "Where something is called. One shape, strides and row of scalars; large ones, and what torch cannot stack, by themselves. The largest come first"
    shapes = [(4,3), (5,), (4,3), (4,3), (300,300), (300,300)]
    ts,rows = held(shapes),[0, 0, 0, 1, 0, 0]
    assert places(tensors.batches(stub(), ts, rows, 2**26))==[([0, 1, 2, 3, 4, 5], False)]
    assert places(tensors.batches(stub(True), ts, rows, 2**26))==[([4], False), ([5], False), ([0, 2], True), ([3], False), ([1], False)]
    assert places(tensors.batches(stub(False), ts, rows, 2**26))==[([4], False), ([5], False), ([0], False), ([2], False), ([3], False), ([1], False)]
    ts.ps[2] = torch.zeros(3, 4).t()
    assert places(tensors.batches(stub(True), ts, rows, 2**26))[2:]==[([0], False), ([2], False), ([3], False), ([1], False)]

def test_stacks_fit_into_scratch_memory():
    "64 values for each element of a stack"
    bs = tensors.batches(stub(True), held([(10,)]*7), [0]*7, 64*30)
    assert places(bs)==[([0, 1, 2], True), ([3, 4], True), ([5, 6], True)]

def test_parts_have_one_row_and_fit_into_scratch_memory():
    "But for a parameter that is too large by itself"
    ts = held([(100,), (10,), (10,), (10,), (100,), (10,), (10,)])
    b, = tensors.batches(stub(), ts, None, 0)
    assert tensors.parts(b, [0, 0, 1, 0, 0, 0, 0], 6*4*20)==[(0, [0]), (0, [1, 3]), (0, [4]), (0, [5, 6]), (1, [2])]
    assert tensors.parts(b, [0]*7, 2**20)==[(0, [0, 1, 2, 3, 4, 5, 6])]

def test_scratch_memory_lies_as_the_parameters_do():
    ts = held([(4,3)]*3)
    ts.ps = [p.t() for p in ts.ps]
    borrowed = tensors.Scratch(torch.float64, kept=True)
    for b,step in ((tensors.Batch([0, 1, 2], True, ts, torch.float64, borrowed), 12*8), (tensors.Batch([0, 1, 2], False, ts, torch.float64), None)):
        b.make_room('v1')
        xs,first = b.tensors('v1'),b.addresses('v1')
        b.make_room('v1')
        assert b.addresses('v1')==first==addresses(xs) and {x.stride() for x in xs}=={ts.ps[0].stride()} and {x.dtype for x in xs}=={torch.float64}
        if step: assert [b-a for a,b in zip(first, first[1:])]==[step]*2


# -- Cross reductions --

def centered(grad): return dict(grad=grad - grad.mean(-1, keepdim=True)) if grad.ndim>1 else dict(grad=grad)
def total_of(f):
    def over_all(grads): return dict(grads=[g/f(grads) for g in grads])
    return over_all
unit    = total_of(lambda grads: torch.stack([g.abs().max() for g in grads]).max())
summed  = total_of(lambda grads: sum((g*g).sum() for g in grads))
curved  = total_of(lambda grads: (torch.stack([g.norm() for g in grads])**2 + 1).sum().sqrt())
several = total_of(lambda grads: torch.stack([g.norm() for g in grads]).norm() + 2*torch.stack([g.abs().max() for g in grads]).max())

def stepped(make, shapes=((3,4), (5,), (3,4), (2,2)), steps=4, change=None, **kw):
    "Parameters and optimizer after some steps; `change(plan)` before the second"
    ps  = parameters(*shapes)
    opt = make(ps, **kw)
    for i in range(steps):
        give(ps, i)
        if i==1 and change: change(opt._plan)
        opt.step()
    return ps,opt
def groups(*chains): return lambda ps, **kw: Optimizer([dict(params=ps[i::len(chains)], cbs=[*c], lr=.1) for i,c in enumerate(chains)], **kw)
def close(ps, qs): return all(torch.allclose(p, q, rtol=1e-12, atol=1e-14) for p,q in zip(ps, qs))

@way
@pytest.mark.parametrize('chains', [
    ([clip_grad_norm, average_grad, momentum_step], [clip_grad_norm, sgd_step]),                            # at the same stage
    ([clip_grad_norm, average_grad, momentum_step], [centered, clip_grad_norm, sgd_step]),                  # the second is called before, and waits not
    ([centered, clip_grad_norm, sgd_step], [clip_grad_norm, sgd_step], [centered, centered, clip_grad_norm, unit, sgd_step]),
    ([clip_grad_norm, sgd_step], [unit, clip_grad_norm, sgd_step]),                                         # the second has another one before
    ([unit, clip_grad_norm, sgd_step], [clip_grad_norm, sgd_step]),
    ([unit, centered, clip_grad_norm, sgd_step], [unit, sgd_step], [clip_grad_norm, sgd_step]),
    ([clip_grad_norm, sgd_step], [sgd_step]),
    ([several, sgd_step], [centered, several, sgd_step]),                                                   # two in one callback
    ([curved, curved, sgd_step],),                                                                          # the same callback twice
    ([curved, unit, curved, sgd_step], [centered, curved, sgd_step]),
    ([curved, curved, unit, sgd_step], [curved, unit, sgd_step]),
], ids=['stages_0_0', 'stages_0_1', 'three', 'more_before', 'more_before_the_first', 'two_pairs', 'alone', 'two_in_one', 'twice', 'twice_and_once', 'twice_first'])
def test_works_that_share_a_cross_reduction(chains, kw):
    "Whatever lies before it: each waits for the others. As in the reference, where the callback is called once, with parameters in order"
    (ps,opt),(qs,_) = stepped(groups(*chains), **kw),stepped(groups(*chains), foreach=False)
    assert close(ps, qs) and not opt._plan.fallback and len(opt._plan.works)>=len(chains)

def test_the_norm_is_of_all_works():
    "By hand, where one comes to it at stage 0 and one at stage 1"
    ps,opt = stepped(groups([clip_grad_norm, sgd_step], [centered, clip_grad_norm, sgd_step]), steps=1)
    assert sorted({w.before_commit for w in opt._plan.works})==[1, 2]
    qs = parameters((3,4), (5,), (3,4), (2,2))
    give(qs)
    gs = [q.grad if i%2==0 or q.ndim<2 else q.grad - q.grad.mean(-1, keepdim=True) for i,q in enumerate(qs)]
    scale = 1/(torch.stack([g.norm() for g in gs]).norm()+1e-6)
    assert close(ps, [q-.1*g*scale for q,g in zip(qs, gs)])

@way
def test_who_waits_is_not_run_again(kw):
    seen = []
    def tap(p):
        seen.append(p)
        return {}
    ps,opt = stepped(groups([clip_grad_norm, tap, sgd_step], [centered, centered, clip_grad_norm, sgd_step]), steps=1, **kw)
    seen.clear()
    give(ps)
    opt.step()
    assert len(seen)==2 and not opt._plan.fallback

class FakeWork:
    "At stage `k` of a program with the cross reduction `v`; its parameters `indices` hand out `singles`"
    launched,before_commit,compute_dtype = False,1,torch.float64
    def __init__(self, v, indices, singles):
        self.indices,self.singles,self.cross,self.ran = indices,singles,{},0
        self.program = SimpleNamespace(stages=[SimpleNamespace(cross_reductions=(v,), cross_arithmetic=())])
        self.scalars = SimpleNamespace(named=lambda r: {})
    def run_stage(self, k):
        self.ran += 1
        return True
    def handed_out(self, v): return self.singles

def test_what_is_reduced_comes_in_the_order_of_parameters():
    "So that its bits are the reference's; in the widest dtype, and to each work in its own"
    seen = []
    v = Value('join', [None], dict(how=lambda x: seen.append(x) or x.sum()), block='norm')
    a,b = FakeWork(v, [0, 3], [torch.tensor(1.), torch.tensor([4.])]),FakeWork(v, [1, 2], [torch.tensor(2.).double(), torch.tensor(3.).double()])
    a.compute_dtype = torch.float32
    assert run_before_commit([a, b]) and a.ran==b.ran==1
    assert [x.tolist() for x in seen]==[[1., 2., 3., 4.]] and seen[0].dtype==torch.float64
    assert a.cross[v]==b.cross[v]==10. and a.cross[v].dtype==torch.float32 and b.cross[v].dtype==torch.float64

def one_by_one(plan):
    "Run the stages of the works of `plan` one by one, as if another work took part in their cross reductions"
    for j,w in enumerate(plan.works):
        assert w.alone and w.simple
        plan.works[j] = work.Work(w.program, w.members, w.context, w.n_all, alone=False, sole=w.sole)
        assert not plan.works[j].simple and plan.works[j].before_commit
    plan.simple = False

@pytest.mark.parametrize('cb', [clip_grad_norm, unit, summed, curved, several], ids=['clip', 'maximum', 'sum', 'vector', 'several'])
@pytest.mark.parametrize('second', [(), (clip_grad_norm,)], ids=['one', 'two'])
def test_one_call_is_the_stages_one_by_one(cb, second):
    make = lambda ps, **kw: Optimizer(ps, [cb, average_grad, *second, momentum_step], lr=.1, **kw)
    (ps,opt),(qs,staged) = stepped(make, fused=True),stepped(make, fused=True, change=one_by_one)
    assert close(ps, qs) and opt._plan.simple and not staged._plan.simple

def test_of_two_works_that_share_none_is_alone():
    _,opt = stepped(groups([clip_grad_norm, sgd_step], [clip_grad_norm, average_grad, momentum_step]), fused=True)
    assert not any(w.alone or w.simple for w in opt._plan.works)
    _,opt = stepped(groups([clip_grad_norm, sgd_step], [average_grad, momentum_step]), fused=True)
    assert all(w.simple for w in opt._plan.works) and opt._plan.simple

def single_norm(grad): return dict(size=grad.reshape(-1)[:2].norm())
def by_sizes(grads, sizes): return dict(grads=[g/torch.stack(sizes).norm() for g in grads])

@way
@pytest.mark.parametrize('shapes', [((3,4), (5,2)), ((3,4), (3,4)), ((3,4), (5,2), (3,4))], ids=['alone', 'stacked', 'both'])
def test_a_single_number_that_a_call_gives_to_a_cross_reduction(shapes, kw):
    make = lambda ps, **kw: Optimizer(ps, [single_norm, by_sizes], lr=.1, **kw)
    (ps,opt),(qs,_) = stepped(make, shapes, **kw),stepped(make, shapes, foreach=False)
    assert close(ps, qs) and not opt._plan.fallback

@ways
def test_what_all_read_must_be_the_same(kw):
    "Nothing changes; also where it differs in a later step"
    ps  = parameters((3,), (4,))
    opt = Optimizer([dict(params=ps[:1]), dict(params=ps[1:])], [clip_grad_norm, sgd_step], lr=.1, max_norm=1., **kw)
    give(ps)
    opt.step()
    before = [p.detach().clone() for p in ps]
    opt.param_groups[1]['max_norm'] = 2.
    with pytest.raises(ValueError, match="clip_grad_norm runs once over all parameters, so 'max_norm' must be the same"): opt.step()
    assert close(ps, before)

def in_order(grads): return dict(grads=[g*(i+1) for i,g in enumerate(grads)])

@ways
def test_parameters_come_in_their_order_whichever_waits_longer(kw):
    "The first has a callback over all parameters that the second lacks"
    ps,_ = stepped(groups([clip_grad_norm, in_order, sgd_step], [in_order, sgd_step]), ((3,), (3,)), steps=1, **kw)
    qs   = parameters((3,), (3,))
    give(qs)
    first = qs[0].grad*(1/(qs[0].grad.norm()+1e-6)).clamp(max=1.)
    assert close(ps, [qs[0]-.1*first, qs[1]-.2*qs[1].grad])

@ways
def test_two_orders_are_refused(kw):
    ps  = parameters((3,), (4,))
    opt = groups([clip_grad_norm, unit, sgd_step], [unit, clip_grad_norm, sgd_step])(ps, **kw)
    give(ps)
    before = [p.detach().clone() for p in ps]
    with pytest.raises(ValueError, match='for all parameters in different orders'): opt.step()
    assert close(ps, before)


# -- Calls --

def grows_late(grad, step): return dict(grad=grad.sum(0)) if step>3 else dict(grad=grad*grad.shape[0])
def state_grows_late(grad, step, row=own_shape(0.)): return dict(row=grad.reshape(-1) if step>3 else row + grad.shape[0], update=grad)
def late_a_number(grad, step, row=own_shape(0.)): return dict(row=1. if step>3 else row + grad.shape[0], update=grad)
def taller(grad, step): return dict(grad=grad*grad.shape[0], tall=2. if step>3 else grad.new_zeros(7))
def use(update, tall): return update+tall.sum()

@way
@pytest.mark.parametrize('shapes', [((4,3),), ((4,3), (4,3))], ids=['alone', 'stacked'])
@pytest.mark.parametrize('cbs,words', [([grows_late], r'grows_late changed grad from a tensor of shape \(4, 3\) to'), ([state_grows_late], r'state_grows_late changed row from a tensor of shape \(4,\) to'),
                                       ([late_a_number], r'late_a_number changed row from a tensor of shape \(4,\) to a float'), ([taller, use], 'taller changed tall from a tensor to a float')],
                         ids=['grad', 'state', 'number', 'of_its_own'])
def test_what_is_called_may_not_return_another_shape_later(cbs, words, shapes, kw):
    "It is refused, and nothing has changed: not another parameter, no state, no counter"
    ps  = parameters(*shapes, (5,))
    opt = Optimizer(ps, [step_stat, average_grad, *cbs], lr=.1, **kw)
    for i in range(3):
        give(ps, i)
        opt.step()
    give(ps, 3)
    before,states = [p.detach().clone() for p in ps],kept(opt)
    with pytest.raises(ValueError, match=words): opt.step()
    assert all(map(torch.equal, ps, before)) and all(map(same, kept(opt), states)) and states[0]['step']==3

def later_a_tensor(grad, step): return dict(grad=grad*grad.shape[0]) if step<4 else dict(grad=grad*grad.shape[0], more=grad*2)
def later_a_number(grad, step): return dict(grad=grad*grad.shape[0]) if step<4 else dict(grad=grad*grad.shape[0], more=2.)
def plus(update, more=0.): return update+more

@pytest.fixture
def fresh_programs():
    "Without what other tests have had decided"
    others = dict(programs)
    programs.clear()
    yield
    programs.clear()
    programs.update(others)

@pytest.mark.parametrize('kw', [dict(foreach=True), {}], ids=['foreach', 'default'])
@pytest.mark.parametrize('shapes', [((3,4), (4,4)), ((4,4), (4,4)), ((4,4), (4,4), (3,4))], ids=['alone', 'stacked', 'both'])
@pytest.mark.parametrize('cb', [later_a_tensor, later_a_number], ids=lambda c: c.__name__)
def test_what_is_called_may_return_another_name_later(cb, shapes, kw, fresh_programs):
    "It decides by a counter. That is seen before anything is written, and there is another program, or the reference"
    def train(**kw):
        ps  = parameters(*shapes)
        opt = Optimizer(ps, [step_stat, average_grad, cb, plus], lr=.1, **kw)
        for i in range(7):
            give(ps, i)
            opt.step()
        return ps,kept(opt)
    (ps,states),(qs,want) = train(**kw),train(foreach=False)
    assert close(ps, qs) and all(map(same, states, want))

def called(grad): return grad*grad.shape[0]
def kept_or_not(grad, step, m=zeros): return dict(update=called(grad)) if step%2 else dict(update=called(grad)*2, m=m+1)
def update_or_grad(grad, step, m=zeros): return dict(update=called(grad)) if step%2 else dict(grad=called(grad)*2, m=m+1)
def moved_or_not(p, grad, step): return dict(new_p=p-.1*called(grad)) if step%2 else dict(grad=called(grad)*2)
def of_no_use(grad, step): return dict(grad=called(grad), unread=grad) if step%2 else dict(grad=called(grad)*2, other=1.)

@pytest.mark.parametrize('kw', [dict(foreach=True), {}], ids=['foreach', 'default'])
@pytest.mark.parametrize('shapes', [((3,4), (4,4)), ((4,4), (4,4)), ((4,4), (4,4), (3,4))], ids=['alone', 'stacked', 'both'])
@pytest.mark.parametrize('cb', [kept_or_not, update_or_grad, moved_or_not, of_no_use], ids=lambda c: c.__name__)
def test_parameters_that_count_otherwise_may_get_other_names(cb, shapes, kw, fresh_programs):
    "A callback decides by the counter which names it returns, and the first parameter is a step behind the others"
    def train(**kw):
        ps  = parameters(*shapes)
        opt = Optimizer(ps, [step_stat, cb], lr=.1, **kw)
        for i in range(7):
            give(ps, i)
            if not i: ps[0].grad = None
            opt.step()
        return ps,kept(opt)
    (ps,states),(qs,want) = train(**kw),train(foreach=False)
    assert close(ps, qs) and all(map(same, states, want))

def test_scratch_memory_is_for_one_batch_and_one_of_each_new_set_of_numbers():
    "Of a callback that reads `k`, which two of four groups share, and no counter. With numbers that it has had it returns what it returned"
    def scaled(grad, k=.9): return dict(grad=grad*k*grad.shape[0])
    ps  = parameters(*[(3,4)]*4)
    opt = Optimizer([dict(params=[p], k=m, lr=.1*i) for i,(p,m) in enumerate(zip(ps, (.9, .9, .8, .8)), 1)], [average_grad, scaled], lr=.1, foreach=True)
    for k,tried in (.9, [True, False, True, False]),(.9, [False]*4),(.7, [False, True, False, False]),(.7, [False]*4):
        opt.param_groups[1]['k'] = k
        give(ps)
        opt.step()
        w, = opt._plan.works
        assert [b.tried for b in w.batches]==tried

@way
def test_each_batch_is_called_once_in_a_step(kw, monkeypatch):
    "Also one that is tried before anything is written"
    ps,opt = stepped(lambda ps, **kw: Optimizer(ps, [average_grad, centered], lr=.1, **kw), ((3,4), (4,5), (3,4)), **kw)
    calls,run_call = [],work.run_call
    monkeypatch.setattr(work, 'run_call', lambda w, batch, c: calls.append(batch) or run_call(w, batch, c))
    give(ps)
    opt.step()
    assert len(calls)==len({*calls})==sum(len(w.batches) for w in opt._plan.works)==2

def swapped(grad, a=own_shape(1.), b=own_shape(2.)): return dict(a=b, b=a, update=grad*(a.mean() + 3*b.mean())*grad.shape[0])
def shifted(grad, a=own_shape(1.), b=own_shape(2.)): return dict(a=grad.mean(-1) if grad.ndim>1 else grad*2, b=a, update=grad*(a.mean() + 3*b.mean()))

@way
@pytest.mark.parametrize('shapes', [((4,3), (5,3)), ((4,3), (4,3))], ids=['alone', 'stacked'])
@pytest.mark.parametrize('cb', [swapped, shifted], ids=lambda c: c.__name__)
def test_one_state_may_be_the_new_value_of_another(cb, shapes, kw):
    "States with a shape of their own: all are read before one is written"
    make = lambda ps, **kw: Optimizer(ps, [cb], lr=.1, **kw)
    (ps,opt),(qs,ref) = stepped(make, shapes, **kw),stepped(make, shapes, foreach=False)
    assert close(ps, qs) and not opt._plan.fallback
    for p,q in zip(ps, qs): assert torch.equal(opt.state[p]['a'], ref.state[q]['a']) and torch.equal(opt.state[p]['b'], ref.state[q]['b'])
    assert len({opt.state[p][n].data_ptr() for p in ps for n in 'ab'})==2*len(ps)

def test_states_of_their_own_shape_are_written_as_a_whole():
    "By themselves: two tensors that change places, and a view of one of them"
    a,b,c = torch.arange(3.),torch.arange(3.)+10,torch.zeros(3)
    ts = tensors.Tensors()
    ts.ps,ts.states = [torch.zeros(3, 2)],[dict(a=a, b=b, c=c)]
    batch = tensors.Batch([0], False, ts, torch.float32)
    va,vb,vc = (Value('given', name=n, kind='own') for n in 'xyz')
    batch.values = {va: b, vb: a, vc: a.flip(0)*0 + a}
    write_call_outs(SimpleNamespace(gate=None, tensors=ts, rounding=lambda name, at: nullcontext(), program=SimpleNamespace(call_outs=dict(a=va, b=vb, c=vc), chain=SimpleNamespace(state=dict.fromkeys('abc', zeros)))), batch)
    assert a.tolist()==[10., 11., 12.] and b.tolist()==c.tolist()==[0., 1., 2.]


def test_a_launched_work_runs_no_lists(monkeypatch):
    "Between calls as well, where lists of operations would give the same numbers later"
    ps,opt = stepped(lambda ps, **kw: Optimizer(ps, [average_grad, centered, momentum_step], lr=.1, **kw), fused=True, steps=2)
    ran,launch = [],flat.run_launch
    monkeypatch.setattr(flat, 'run_launch', lambda *args: (ran.append(1), launch(*args)))
    monkeypatch.setattr(flat, 'run_foreach', lambda *args: ran.append('a list'))
    give(ps)
    opt.step()
    assert {*ran}=={1} and all(w.launched for w in opt._plan.works)

class Alive(TorchDispatchMode):
    "The largest number of results that live at once, of operations within it"
    def __init__(self):
        super().__init__()
        self.made,self.most = [],0
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        res = func(*args, **kwargs or {})
        self.made.append(weakref.ref(res)) if isinstance(res, torch.Tensor) else None
        self.most = max(self.most, sum(r() is not None for r in self.made))
        return res

@way
def test_a_call_forgets_what_it_needs_no_more(kw):
    "Of twelve values in a row two or three live at once"
    def powers(grad):
        for _ in range(12): grad = grad @ grad.new_ones(4, 4)
        return dict(grad=grad/4.**12)
    ps,opt = stepped(lambda ps, **kw: Optimizer(ps, [powers, sgd_step], lr=.1, **kw), ((3,4), (3,4), (5,4)), steps=3, **kw)
    give(ps)
    with Alive() as seen: opt.step()
    assert len(seen.made)>=24 and seen.most<=10, seen.most

@pytest.mark.parametrize('n', [None, 0, 1, 2])
def test_a_look_finds_the_first_bad_gradient(n):
    "And none where all are finite"
    ps,opt = stepped(lambda ps, **kw: Optimizer(ps, [average_grad, momentum_step], lr=.1, nonfinite='skip', **kw), ((3,), (70_000,), (4,)), fused=True, steps=2)
    give(ps)
    if n is not None:
        for p in ps[n:]: p.grad[-1] = math.inf
    w, = opt._plan.works
    assert w.take([p.grad for p in ps]) and w.looks_bad()==(n is not None) and flat.only_launch(w).look()==n


# -- Plans --

@way
@pytest.mark.parametrize('cbs', [[average_grad, step_stat, momentum_step], [clip_grad_norm, average_grad, step_stat, momentum_step], [centered, clip_grad_norm, average_grad, step_stat, momentum_step]],
                         ids=['elementwise', 'norm', 'call'])
def test_all_is_written_by_commit(cbs, kw):
    "`prepare` may be run as often as one likes: parameters, states and counters stay as they are"
    ps,opt = stepped(lambda ps, **kw: Optimizer(ps, cbs, lr=.1, **kw), steps=2, **kw)
    qs,ref = stepped(lambda ps, **kw: Optimizer(ps, cbs, lr=.1, **kw), steps=3, **kw)
    give(ps, 2)
    before,states = [p.detach().clone() for p in ps],kept(opt)
    plan = opt._plan
    with torch.no_grad():
        for _ in range(3):
            assert plan.valid_for(inputs(opt)) and plan.prepare(inputs(opt)) is None
            assert all(map(torch.equal, ps, before)) and all(map(same, kept(opt), states))
        plan.commit()
    assert close(ps, qs) and all(map(same, kept(opt), kept(ref))) and kept(opt)[0]['step']==3

changes = dict(
    other_parameter = lambda opt, ps: opt.add_param_group(dict(params=[torch.ones(2).double().requires_grad_()])),
    replaced        = lambda opt, ps: (opt.param_groups[0]['params'].__setitem__(1, parameters((5,))[0]), give(opt.param_groups[0]['params'])),
    moved           = lambda opt, ps: setattr(ps[1], 'data', ps[1].data.clone()),
    reshaped        = lambda opt, ps: setattr(ps[1], 'data', ps[1].data.reshape(1, 5)),
    no_gradient     = lambda opt, ps: setattr(ps[1], 'grad', None),
    state_written   = lambda opt, ps: opt.state[ps[0]].update(grad_avg=torch.zeros(3, 4).double()),
    state_moved     = lambda opt, ps: setattr(opt.state[ps[0]]['grad_avg'], 'data', torch.zeros(3, 4).double()),
    counter_written = lambda opt, ps: opt.state[ps[0]].update(step=9),
    other_backend   = lambda opt, ps: opt.param_groups[0].update(foreach=False, fused=False))

@way
@pytest.mark.parametrize('change', changes)
def test_a_plan_is_valid_until_something_changes(change, kw):
    ps,opt = stepped(lambda ps, **kw: Optimizer(ps, [average_grad, step_stat, momentum_step], lr=.1, **kw), **kw)
    opt.state_dict(); [*opt.state[ps[0]].items()]
    opt.param_groups[0]['lr'] = .2
    give(ps)
    assert opt._plan.valid_for(inputs(opt))
    changes[change](opt, ps)
    assert not opt._plan.valid_for(inputs(opt))

def test_a_plan_goes_back_to_a_program_that_it_had():
    "A callback that takes turns by a counter: two programs and two works, however often it turns"
    def turns(grad, step=count): return dict(step=step+1, grad=grad if step%2 else grad*2)
    ps,opt = stepped(lambda ps, **kw: Optimizer(ps, [turns, sgd_step], lr=.1, **kw), steps=4, fused=True)
    plan,variants = opt._plan,{*opt._plan.variants.values()}
    for i in range(4, 8):
        give(ps, i)
        opt.step()
    assert opt._plan is plan and len(variants)==2 and {*plan.variants.values()}==variants
    qs,_ = stepped(lambda ps, **kw: Optimizer(ps, [turns, sgd_step], lr=.1, **kw), steps=8, foreach=False)
    assert close(ps, qs)

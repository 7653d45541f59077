"""Stacks of parameters of one shape: how large they are, what memory they need, and what runs on them. CPU tensors are run as those of an accelerator
where `accelerator` is asked for."""

import gc,weakref
import pytest,torch
import genopt
from genopt import Optimizer,full,rename,zeros
from genopt.blocks import average_grad,average_sqr_grad,momentum_step,nesterov_average_step,rms_prop_step,scale_by_shape,sgd_step,step_stat
from genopt.run import stacks,tensors
from genopt.run.tape import Tape
from test_foreach import Work

def matrices(*shapes, seed=0):
    rand = torch.Generator().manual_seed(seed)
    return [torch.randn(s, generator=rand).requires_grad_() for s in shapes]

def give(ps, i):
    rand = torch.Generator().manual_seed(i)
    for p in ps: p.grad = torch.randn(p.shape, generator=rand)

def train(ps, opt, steps=5):
    for i in range(steps): give(ps, i); opt.step()
    return opt

def batches(opt): return [b for w in opt._plan.works for b in w.batches]
def sizes(opt): return sorted(len(b.at) for b in batches(opt))

backends = pytest.mark.parametrize('kw', [{}, dict(foreach=True)], ids=['launch', 'foreach'])
muons    = pytest.mark.parametrize('cls', [genopt.Muon, genopt.NorMuon, genopt.AdaMuon, genopt.Scion], ids=lambda c: c.__name__)


# -- How large they are --

def test_a_list_in_even_pieces():
    for n in range(1, 30):
        for most in range(1, 12):
            pieces = tensors.evenly([*range(n)], most)
            lengths = {len(x) for x in pieces}
            assert sum(pieces, [])==[*range(n)] and max(lengths)<=most and max(lengths)-min(lengths)<=1 and len(pieces)==-(-n//most)

def test_on_an_accelerator_memory_decides_how_large(accelerator, monkeypatch):
    "12 bytes for each element of Muon, of which there are 4 MiB in 16 matrices"
    ps = matrices(*[(256,1024)]*16)
    for mb,stacked in ((4*12, [16]), (4*12-1, [8,8]), (4*5, [5,5,6]), (1, [1]*16)):
        monkeypatch.setattr(genopt.Muon, 'scratch_bytes', mb*2**20//stacks.stack_share)
        assert sizes(train(ps, genopt.Muon(ps, ns_steps=1), 1))==stacked, mb

def test_a_state_of_its_own_shape_counts(accelerator, monkeypatch):
    "Shampoo's matrices for the long side are 64 times as large as the parameter"
    monkeypatch.setattr(genopt.Shampoo, 'scratch_bytes', 2**20)
    ps = matrices(*[(8,512)]*4, *[(64,64)]*4)
    assert sizes(train(ps, genopt.Shampoo(ps), 1))==[1,1,1,1,4]

def test_on_a_cpu_large_matrices_are_run_one_by_one():
    ps = matrices(*[(256,256)]*3, *[(257,256)]*3)
    assert sizes(train(ps, genopt.Muon(ps, ns_steps=1), 1))==[1,1,1,3]


# -- What memory they need --

class Memory(Work):
    "As `Work`; `peak` are bytes"
    def allocate(self, made): super().allocate([x for x in made if x._base is None])
    @property
    def bytes(self): return self.peak*4

@backends
@muons
def test_a_step_keeps_to_its_memory(cls, kw, accelerator, monkeypatch):
    "and holds nothing until the next one"
    ps = matrices(*[(16,64)]*12, *[(64,16)]*12, *[(32,32)]*6)
    monkeypatch.setattr(cls, 'scratch_bytes', 2**16//stacks.stack_share)
    opt = train(ps, cls(ps, **kw), 2)
    assert max(sizes(opt))>1
    for i in range(4):
        give(ps, i)
        with Memory() as done: opt.step()
        assert done.bytes<=2**16 and 0<=done.live*4<=2**10, i              # what lives are numbers, and addresses that have been sent
    assert not any(b.scratch or b.borrowed or b.values for b in batches(opt))

def test_on_a_cpu_batches_share_memory():
    "as much as the largest needs"
    ps  = matrices(*[(8,16)]*5, *[(8,24)]*5, *[(8,9)]*3, (8,70), (8,300))
    opt = train(ps, genopt.Muon(ps))
    memory, = {id(b.memory): b.memory for b in batches(opt)}.values()
    assert sizes(opt)==[1,1,3,5,5] and [x.numel() for x in memory.free]==[8*300]

def test_nothing_is_shared_as_long_as_it_is_needed():
    "Callbacks for two groups are tried before anything is written, and Shampoo's are all called before: each batch has memory of its own"
    def twice(update, k=1.): return update*k + update.mean(-1, keepdim=True)
    def train_in_two(**kw):
        ps  = matrices(*[(4,6)]*3, *[(3,5)]*2, *[(4,6)]*2)
        opt = Optimizer([dict(params=ps[:3]), dict(params=ps[3:], k=2.)], [average_grad, momentum_step, twice], lr=.1, **kw)
        train(ps, opt)
        for k in (3., 4.):
            opt.param_groups[1]['k'] = k
            train(ps, opt, 2)
        return ps
    for kw in {}, dict(foreach=True):
        for p,q in zip(train_in_two(**kw), train_in_two(foreach=False)): torch.testing.assert_close(p, q)

def same(update): return update.reshape(len(update), -1).reshape(update.shape)
def rows(update): return update/update.norm(dim=-1, keepdim=True)
def swapped(grad, a=zeros, b=full(1.)): return dict(a=b, b=a+grad*grad.shape[0], update=a)

by_sqr = [rename(average_sqr_grad, grad='update'), rename(rms_prop_step, grad='update')]

@backends
@pytest.mark.parametrize('cbs', [[average_grad, nesterov_average_step, same, *by_sqr, rows], [same, average_grad, momentum_step, same, rows, same, sgd_step],
                                 [average_grad, momentum_step, scale_by_shape, rows, scale_by_shape], [swapped]], ids=lambda cbs: cbs[-1].__name__)
@pytest.mark.parametrize('there', [False, True], ids=['cpu', 'accelerator'])
def test_callbacks_that_return_what_they_were_given(cbs, kw, there, request):
    "Their result lies in scratch memory, which must not be given to others"
    if there: request.getfixturevalue('accelerator')
    shapes = [(4,6)]*3 + [(6,4)]*2 + [(5,5)] + [(4,6)]*2
    runs = []
    for way in kw,dict(foreach=False):
        ps = matrices(*shapes)
        train(ps, Optimizer([dict(params=ps[:5]), dict(params=ps[5:], lr=.05)], cbs, lr=.1, **way), 6)
        runs.append(ps)
    for p,q in zip(*runs): torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-6)

@backends
def test_parameters_with_gaps_are_stacked_without(kw):
    runs = []
    for way in kw,dict(foreach=False):
        ps = [torch.randn(6, 8, generator=torch.Generator().manual_seed(i))[:,::2].requires_grad_() for i in range(3)]
        train(ps, genopt.Muon(ps, **way))
        runs.append(ps)
    for p,q in zip(*runs): torch.testing.assert_close(p, q)


# -- What runs --

products = ['bmm', 'baddbmm', 'baddbmm']*5
chain    = ['_to_copy', 'linalg_vector_norm', 'clamp', 'div', *products, '_to_copy']

@pytest.mark.parametrize('shape,scaled', [((8,24), []), ((8,8), []), ((24,8), ['mul']), ((24,2,4), ['mul'])], ids=str)
def test_newton_schulz_is_one_chain_of_batched_products(shape, scaled, accelerator):
    "without a copy, also of tall matrices, and twelve matrices take as many operations as two. The launches before and behind it do not count here"
    for n in (2, 12):
        ps  = matrices(*[shape]*n)
        opt = train(ps, genopt.Muon(ps))
        give(ps, 9)
        with Work() as done: opt.step()
        assert [n for n in done.calls if n!='permute']==chain+scaled

def test_a_tape_runs_from_the_third_step_on(monkeypatch):
    "also for a single matrix, and whatever happens to the learning rate"
    count = []
    monkeypatch.setattr(torch.func, 'vmap', lambda *args, _vmap=torch.func.vmap, **kw: (count.append(1), _vmap(*args, **kw))[1])
    ps  = matrices(*[(8,24)]*3, (8,9))
    opt = genopt.Muon(ps)
    for i in range(6):
        if i==3: count.clear()
        opt.param_groups[0]['lr'] *= .9
        train(ps, opt, 1)
    assert not count and [len(b.tapes) for b in batches(opt)]==[2, 2]

def test_numbers_on_the_device_are_not_looked_at(monkeypatch):
    "A tape cannot hold them; the callback runs anew"
    def by_step(update, step): return update/(step*len(update))
    ps,qs = matrices(*[(4,6)]*3),matrices(*[(4,6)]*3)
    opt = train(ps, Optimizer(ps, [step_stat, by_step], lr=.1, capturable=True, foreach=True))
    train(qs, Optimizer(qs, [step_stat, by_step], lr=.1, foreach=False))
    for p,q in zip(ps, qs): torch.testing.assert_close(p, q)
    assert not any(b.tapes or b.last_numbers for b in batches(opt))


# -- Tapes --

def recorded(f, *inputs):
    with Tape(inputs) as tape: out = f(*inputs)
    return out,tape,tape.function([out])

def lines(tape): return [line.text.partition(' = ')[0] for line in tape.lines]

def test_a_tape_keeps_nothing_that_it_records():
    seen = []
    def f(x):
        a = x*2
        seen.append(weakref.ref(a))
        a = a.exp()
        assert seen[0]() is None
        return a
    gc.disable()
    try: out,_,run = recorded(f, torch.ones(3))
    finally: gc.enable()
    torch.testing.assert_close(run(torch.ones(3))[0], out)

def test_a_tape_leaves_out_what_changes_nothing():
    def f(x):
        x.exp()
        return x.view(2, 3).view(2, 3).permute(0, 1).expand(2, 3).mT.mT * x.view(2, 3)
    x = torch.arange(6.)
    out,tape,run = recorded(f, x)
    assert run.__code__.co_names.count('c0')<=1 and len([n for n in run.__code__.co_names if n.startswith('c')])==5   # view, mT twice, view, mul
    torch.testing.assert_close(run(x)[0], out)

def test_a_tape_keeps_what_writes_or_draws():
    def f(x):
        y = x.clone()
        y.view(-1).mul_(3.)
        torch.rand(2)
        return y + torch.rand(())
    x = torch.ones(2, 2)
    torch.manual_seed(0)
    out,_,run = recorded(f, x)
    torch.manual_seed(0)
    torch.testing.assert_close(run(x)[0], out)
    assert x.sum()==4

def test_a_tape_takes_several_results_and_tensors_of_its_own():
    table = torch.arange(4.)
    def f(x):
        a,b = x.split(2)
        return torch.linalg.eigh(a @ b.mT + table.view(2, 2))[0]
    x = torch.randn(4, 2)
    out,_,run = recorded(f, x)
    torch.testing.assert_close(run(x)[0], out)

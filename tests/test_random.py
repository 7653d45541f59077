"""Random numbers in callbacks: the same in every way to run, new in each step, and of torch's distributions."""

from copy import deepcopy
import pytest,torch
import torch.nn.functional as F
from genopt import AdamW,Optimizer,SGD
from genopt.blocks import add_noise,average_grad,centralize,clip_grad_norm,clip_tensor_norm,langevin_noise,momentum_step,sgd_step,sharpness_aware,step_stat
from genopt.lower import draws
from genopt.run import random
from helpers import Tape,gpu
from test_triton import on_triton                                           # noqa: F401 -- a fixture

pytestmark = pytest.mark.filterwarnings('ignore::RuntimeWarning')            # the interpreter computes lanes that are not in use


shapes = (3,4),(5,),(17,37),(),(0,),(2,3000)                                # the last has several tiles in C

def law(name, at=0., scale=1.):
    "A cumulative distribution"
    standard = dict(uniform=lambda x: x.clamp(0, 1), normal=lambda x: (1 + (x/2**.5).erf())/2, exponential=lambda x: -(-x).expm1())[name]
    return lambda x: standard((x-at)/scale)
def fits(x, law):
    "Whether `x` are draws of `law`, by the test of Kolmogorov and Smirnov, which refuses one good sample of a thousand"
    x    = x.double().flatten().sort().values
    rank = torch.arange(len(x)+1, dtype=torch.float64)/len(x)
    F    = law(x)
    return max((F-rank[:-1]).max(), (rank[1:]-F).max())*len(x)**.5<1.95

def stepped(cbs, steps=3, seed=0, shapes=shapes, dtype=torch.float32, like=lambda p: p, closure=False, missing=(), **kw):
    "Parameters after some steps with gradients that are the same for each seed, and the optimizer"
    g  = torch.Generator().manual_seed(0)
    ps = [like(torch.randn(s, generator=g, dtype=torch.float64).to(dtype)).requires_grad_() for s in shapes]
    opt = cbs(ps, **kw) if callable(cbs) else Optimizer(ps, cbs, **dict(lr=.1)|kw)
    torch.manual_seed(seed)
    def loss():
        opt.zero_grad()
        sum((p*p).sum() for p in ps).backward()
        return sum((p.detach()*p.detach()).sum() for p in ps)
    for i in range(steps):
        for p in ps: p.grad = torch.randn(p.shape, generator=g, dtype=torch.float64).to(p.dtype)
        for k,p in enumerate(ps):
            if (i,k) in missing: p.grad = None
        opt.step(loss if closure else None)
    return [p.detach() for p in ps],opt

def same(cbs, **kw):
    "Whether operations on lists and C come to what the reference comes to. Returns the optimizer that launches"
    want,_ = stepped(cbs, foreach=False, **kw)
    for way in (dict(foreach=True), dict(fused=True)):
        got,opt = stepped(cbs, **kw, **way)
        for p,q in zip(got, want): torch.testing.assert_close(p, q, rtol=1e-5, atol=3e-6)
    return opt

def launched(opt): return opt._plan.simple and not opt._plan.fallback and not any(w.program.why for w in opt._plan.works)
def why(opt): return '; '.join(str(x) for w in opt._plan.works for x in w.program.why)


# -- The generator --

@pytest.mark.parametrize('counter,key,words', [
    ((0,)*4,                                        (0, 0),                      (0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8)),
    ((0xffffffff,)*4,                               (0xffffffff, 0xffffffff),    (0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd)),
    ((0x243f6a88,0x85a308d3,0x13198a2e,0x03707344), (0xa4093822, 0x299f31d0),    (0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1))])
def test_known_answers(counter, key, words):
    "Those that come with Random123, the authors' code"
    seed = key[0] | key[1]<<32
    seed = torch.tensor([seed - (seed>>63<<64)])
    assert tuple(random.philox(torch.tensor(counter)[:,None], seed).flatten().tolist())==words

n = 400_000
def numbers(kind, seed=1, draw=0, key=0, n=n, dtype=torch.float32):
    (res,) = random.Numbers([n], [key], torch.device('cpu'))(kind, draw, torch.tensor([seed]), dtype)
    return res

@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
@pytest.mark.parametrize('kind', ['uniform', 'normal'])
def test_the_distributions(kind, dtype):
    "Of all numbers, and of those that are made of each of the four words of a counter"
    x = numbers(kind, dtype=dtype)
    for part in (x, *(x[i::4] for i in range(4))): assert fits(part, law(kind)) and not fits(part*1.05, law(kind))
    if kind=='uniform': assert 0<=x.min()<1e-4 and 1-1e-4<x.max()<1
    else: assert abs(x.mean())<.01 and abs(x.var()-1)<.01 and abs((x**4).mean()-3)<.05 and 4<x.abs().max()<6.7

@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
@pytest.mark.parametrize('kind', ['uniform', 'normal'])
def test_c_makes_the_numbers_of_torchs_operations(kind, dtype):
    "Of tensors of all sizes, in a few digits more or less"
    sizes,keys = [0, 1, 2, 3, 4, 255, 256, 257, 1023, n],[*range(9), 3 + (5<<32)]
    seed = torch.tensor([123456789<<20])
    a,b  = (random.Numbers(sizes, keys, torch.device('cpu'), capturable=c)(kind, (7<<16) + 3, seed, dtype) for c in (False, True))
    for x,y,size in zip(a, b, sizes):
        assert len(x)==len(y)==size
        if kind=='uniform': assert torch.equal(x, y)
        else: torch.testing.assert_close(x, y, rtol=1e-6 if dtype==torch.float32 else 1e-14, atol=1e-6 if dtype==torch.float32 else 1e-14)

def test_numbers_differ_where_they_are_to():
    "Between elements, draws, parameters, shards and seeds there is no correlation"
    x = numbers('normal', n=n+8)
    others = [x[k:n+k] for k in (1,2,3,4,8)] + [numbers('normal', **o) for o in (dict(seed=2), dict(seed=1+(1<<32)), dict(draw=1), dict(draw=1<<16), dict(key=1), dict(key=1<<32))]
    for y in others: assert abs(torch.corrcoef(torch.stack([x[:n], y]))[0,1])<5/n**.5 and abs(torch.corrcoef(torch.stack([x[:n], y])**2)[0,1])<5/n**.5
    assert torch.equal(numbers('normal', n=n-3), numbers('normal')[:n-3])


# -- Operations --

def op(f): return pytest.param(f, id=f.__name__)
def rand_like(grad): return torch.rand_like(grad)
def randn_like(grad): return grad + torch.randn_like(grad)
def uniform_(grad): return torch.zeros_like(grad).uniform_(-1, 2)
def normal_(grad): return torch.empty_like(grad).normal_(1, 2) + grad
def normal(grad): return torch.normal(grad, .5) + torch.normal(1., grad.abs()) + torch.normal(grad, grad.abs()+1)
def bernoulli_(grad): return torch.empty_like(grad).bernoulli_(.3)
def bernoulli(grad): return torch.bernoulli(grad.sigmoid()) + torch.bernoulli(grad, .2)
def exponential_(grad): return torch.empty_like(grad).exponential_(2.)
def integers(grad): return torch.randint_like(grad, 3, 9) + torch.randint_like(grad, 2)*2 + torch.empty_like(grad).random_(5) + torch.empty_like(grad).random_(2, 4)
def dropout(grad): return F.dropout(grad+1, .3)
def signs(grad): return grad*(torch.randint_like(grad, 2)*2-1)
def masked(grad, prob=.3, std=2.): return torch.where(torch.rand_like(grad)<prob, torch.randn_like(grad)*std, grad)
def one_for_all(grad): return grad*(torch.rand(())<.5) + torch.randn([])
def of_norm(grad): return grad + torch.randn_like(grad.norm())
def on_sphere(grad):
    z = torch.randn_like(grad)
    return z/(z.norm() + 1e-8)
operations = rand_like,randn_like,uniform_,normal_,normal,bernoulli_,bernoulli,exponential_,integers,dropout,signs,masked,one_for_all,of_norm,on_sphere

@pytest.mark.parametrize('f', [*map(op, operations)])
def test_every_operation_is_launched_and_is_the_reference(f):
    assert launched(same([f]))
    if f is not one_for_all: assert launched(same([f], dtype=torch.float64))              # there torch.rand(()) is float32

@pytest.mark.parametrize('f', [*map(op, operations)])
def test_triton_draws_the_same(f, on_triton, monkeypatch):                  # noqa: F811
    small = dict(shapes=((3,4),(17,37),(),(0,)), steps=2)
    got,opt = stepped([f], fused=True, **small)
    assert {w.program.request.backend for w in opt._plan.works}=={'triton'} and launched(opt)
    for p,q in zip(got, stepped([f], foreach=False, **small)[0]): torch.testing.assert_close(p, q, rtol=1e-5, atol=3e-6)

laws = dict(rand_like=(rand_like, law('uniform')), uniform_=(uniform_, law('uniform', -1, 3)), normal_=(normal_, law('normal', 1, 2)),
            exponential_=(exponential_, law('exponential', 0, .5)))
@pytest.mark.parametrize('f,want', laws.values(), ids=laws)
def test_laws(f, want):
    p = torch.zeros(100_000, requires_grad=True)
    p.grad = torch.zeros_like(p)
    torch.manual_seed(1)
    Optimizer([p], [f], lr=1.).step()
    assert fits(-p.detach(), want)

def test_a_single_mean_is_for_many_numbers():
    p = torch.zeros(50_000, requires_grad=True)
    p.grad = torch.zeros_like(p)
    Optimizer([p], [lambda grad: torch.normal(grad.norm(), torch.ones_like(grad))], lr=1.).step()
    assert fits(p.detach(), law('normal'))

def test_laws_of_whole_numbers():
    def shares(f, *values):
        p = torch.zeros(100_000, requires_grad=True)
        p.grad = torch.zeros_like(p)
        Optimizer([p], [f], lr=1.).step()
        x = -p.detach()
        assert {*x.unique().tolist()}=={*values}
        return [(x==v).float().mean().item() for v in values]
    torch.manual_seed(0)
    assert shares(bernoulli_, 0, 1)[1]==pytest.approx(.3, abs=.01)
    assert shares(lambda grad: torch.bernoulli(torch.full_like(grad, .8)), 0, 1)[1]==pytest.approx(.8, abs=.01)
    assert shares(lambda grad: torch.randint_like(grad, 3, 7), 3, 4, 5, 6)==pytest.approx([.25]*4, abs=.01)
    assert shares(lambda grad: F.dropout(torch.ones_like(grad), .75), 0, 4)==pytest.approx([.75, .25], abs=.01)

@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16, torch.complex64])
def test_other_dtypes_of_parameters(dtype):
    "They are computed in float32; complex numbers are pairs"
    want,_ = stepped([randn_like], dtype=dtype, foreach=False)
    for way in (dict(foreach=True), dict(fused=True)):
        got,opt = stepped([randn_like], dtype=dtype, **way)
        for p,q in zip(got, want): torch.testing.assert_close(p, q, rtol=8e-3 if dtype==torch.bfloat16 else 1e-3, atol=1e-3)
        assert not why(opt)

@pytest.mark.parametrize('like', [lambda p: p.transpose(0, -1) if p.ndim else p, lambda p: torch.stack([p, p], -1)[...,0], lambda p: p[...,::2] if p.ndim else p],
                         ids=['transposed', 'every second', 'sliced'])
def test_memory_of_parameters(like):
    "A number belongs to an element, wherever it lies; gradients may lie otherwise"
    same([masked], like=like)


# -- Chains --

def noise(grad): return dict(grad = grad + torch.randn_like(grad))
def noisy(update): return update + torch.randn_like(update)
chains = dict(
    twice        = [noise, noise, noise],
    adamw        = [noise, AdamW, noisy],
    rounds       = [noise, clip_tensor_norm, noisy],
    cross        = [noise, clip_grad_norm, noisy, noisy],
    called       = [noise, centralize, average_grad, momentum_step, noisy],
    before       = [centralize, randn_like],
    langevin     = [SGD, langevin_noise],
    fading       = [step_stat, add_noise])
@pytest.mark.parametrize('cbs', chains.values(), ids=chains)
def test_chains(cbs):
    "Reductions, cross reductions and calls lie between draws; a callback may stand there twice"
    same(cbs)

@pytest.mark.parametrize('cbs', [chains['rounds'], chains['cross'], chains['adamw']], ids=['rounds', 'cross', 'adamw'])
def test_chains_in_triton(cbs, on_triton):                                  # noqa: F811
    small = dict(shapes=((3,4),(17,37)), steps=2)
    for p,q in zip(stepped(cbs, fused=True, **small)[0], stepped(cbs, foreach=False, **small)[0]): torch.testing.assert_close(p, q, rtol=1e-5, atol=3e-6)

def test_behind_a_prefix():
    "SAM calls the model, then comes the program"
    opt = same([sharpness_aware, randn_like, noisy], closure=True, rho=.05)
    assert all(w.program.prefix for w in opt._plan.works)

def test_a_callback_that_needs_a_shape():
    "is called for each parameter, and draws the same numbers in all ways"
    def of_shape(grad): return grad + torch.randn(grad.shape, dtype=grad.dtype)*grad.shape[0]
    opt = same([of_shape, randn_like], shapes=((3,4),(5,),(3,4)))
    assert 'of_shape asks for the shape' in why(opt)

def test_a_callback_twice_draws_other_numbers():
    "So do its two calls to torch"
    def apart(grad): return torch.randn_like(grad) - torch.randn_like(grad)
    def minus(update): return update - torch.randn_like(update)
    def plus(update): return update*0 + torch.randn_like(update)
    for cbs in ([apart], [plus, minus]):
        p = torch.zeros(50_000, requires_grad=True)
        p.grad = torch.zeros_like(p)
        Optimizer([p], cbs, lr=1.).step()
        assert p.var().item()==pytest.approx(2, abs=.1)


# -- Seeds --

ways = [dict(foreach=False), dict(foreach=True), dict(fused=True)]
@pytest.mark.parametrize('way', ways, ids=['loop', 'foreach', 'fused'])
def test_torchs_seed_decides(way):
    (a,_),(b,_),(c,_) = (stepped([randn_like], seed=s, **way) for s in (0,0,1))
    assert all(map(torch.equal, a, b)) and not torch.equal(a[0], c[0])

@pytest.mark.parametrize('way', ways, ids=['loop', 'foreach', 'fused'])
def test_torchs_generator_goes_on_in_the_same_way(way):
    "By one seed for a step, whatever the step draws: so does each way leave it in the same state, and a step that draws nothing as it was"
    torch.manual_seed(0)
    for _ in range(3): torch.zeros(1, dtype=torch.int64).random_(2**62)
    want = torch.get_rng_state()
    for cbs in ([randn_like], [noise, clip_tensor_norm, masked, noisy]):
        stepped(cbs, **way)
        assert torch.equal(torch.get_rng_state(), want)
    stepped([SGD], **way)
    torch.manual_seed(0); before = torch.get_rng_state()
    stepped([SGD], **way)
    assert torch.equal(before, torch.get_rng_state())

def test_a_run_goes_on_from_a_saved_state():
    "torch's state of random numbers is all that it takes"
    ps,opt = stepped([randn_like, AdamW], 0)
    users = opt.param_groups[0]['params']
    def go(n):
        for _ in range(n):
            for p in users: p.grad = p.detach().clone()
            opt.step()
    go(2)
    kept,state,rng = [p.detach().clone() for p in users],deepcopy(opt.state_dict()),torch.get_rng_state()
    go(3)
    want = [p.detach().clone() for p in users]
    with torch.no_grad():
        for p,x in zip(users, kept): p.copy_(x)
    opt = Optimizer(users, [randn_like, AdamW], lr=.1)
    opt.load_state_dict(state)
    torch.set_rng_state(rng)
    go(3)
    for p,x in zip(users, want): assert torch.equal(p, x)

def test_no_number_depends_on_other_parameters():
    "nor on threads, nor on the kind of program of another"
    a,b = stepped([randn_like])[0],stepped([randn_like], missing={(0,0),(1,1)})[0]
    assert all(map(torch.equal, a[2:], b[2:])) and not torch.equal(a[0], b[0])
    before = torch.get_num_threads()
    def threads(n):
        torch.set_num_threads(n)
        try: return stepped([noise, clip_tensor_norm], shapes=((300,400),(70_000,)))[0]
        finally: torch.set_num_threads(before)
    assert all(map(torch.equal, threads(1), threads(2)))

def test_numbers_are_independent():
    "of steps and parameters"
    ps  = [torch.zeros(40_000, requires_grad=True) for _ in range(2)]
    opt = Optimizer(ps, [randn_like], lr=1.)
    res = []
    for _ in range(3):
        for p in ps: p.grad = torch.zeros_like(p); p.data.zero_()
        opt.step()
        res += [p.detach().clone() for p in ps]
    assert (torch.corrcoef(torch.stack(res)) - torch.eye(6)).abs().max()<.03

def test_rehearsal_draws_nothing():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    opt = Optimizer([torch.zeros(3, requires_grad=True)], [randn_like], lr=.1)
    opt.explain()
    assert torch.equal(before, torch.get_rng_state())


# -- Captured --

@pytest.mark.parametrize('way', [dict(fused=True), dict(foreach=True)], ids=['triton', 'foreach'])
def test_a_captured_step_draws_what_it_would_draw_uncaptured(way, on_triton):           # noqa: F811
    "and a replay draws anew"
    def run(captured):
        ps  = [torch.zeros(s, requires_grad=True) for s in ((3,5),(70,))]
        opt = Optimizer(ps, [masked, noisy], lr=.1, capturable=True, **way)
        for p in ps: p.grad = torch.ones_like(p)
        torch.manual_seed(0)
        res = []
        for _ in range(2): opt.step()
        if captured:
            with Tape() as tape: opt.step()
            for _ in range(3): tape.replay(); res.append([p.detach().clone() for p in ps])
        else:
            opt.step()
            for _ in range(3): opt.step(); res.append([p.detach().clone() for p in ps])
        return res
    a,b = run(True),run(False)
    for x,y in zip(a, b): assert all(map(torch.equal, x, y))
    assert not torch.equal(a[1][0]-a[0][0], a[2][0]-a[1][0])

def test_machine_code(on_triton):                                           # noqa: F811
    "Nothing spills, elements are moved 128 bits at once, and four of them share the rounds of the generator"
    from genopt.run.triton_offline import compile_for
    from genopt.run.triton_launch import kernel_for
    _,opt = stepped([masked], steps=1, shapes=((4,),))
    (c,) = compile_for(kernel_for(opt._plan.works[0].program), 'sm_90')
    assert not c.spills and c.registers<=96 and c.accesses.get(128) and not c.doubles
    assert c.assembly.count('mul.hi.u32')<=2*2*2*10                         # draws, counters of a thread, products, rounds


# -- What is not recorded --

def given_a_generator(grad): return grad + torch.empty_like(grad).normal_(generator=torch.Generator())
def other_law(grad): return grad + torch.poisson(grad.abs())
def low(grad): return grad + torch.rand_like(grad, dtype=torch.bfloat16)
@pytest.mark.parametrize('f,words', [(other_law, 'draws random numbers with poisson; write it with rand_like'), (given_a_generator, 'draws random numbers with normal_; write it'),
                                     (low, 'draws random numbers with rand_like; write it')])
def test_what_is_called(f, words):
    for way in ({}, dict(foreach=True)):
        _,opt = stepped([f], **way)
        assert words in why(opt) and f'{f.__name__} ' in str(opt.explain())

def test_lists():
    "A callback over all parameters draws from torch's generator, in all ways alike"
    def all_noisy(grads): return dict(grads=[g + torch.randn_like(g) for g in grads])
    want,_ = stepped([all_noisy], foreach=False)
    for way in ({}, dict(foreach=True)):
        got,opt = stepped([all_noisy], **way)
        assert all(map(torch.equal, got, want)) and not launched(opt)
    assert 'all_noisy as it is' in str(opt.explain())

def test_the_table_is_tried_whole():
    "Each operation of the table, but for `native_dropout`, which torch calls on a GPU only"
    seen = set()
    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            seen.add(func.overloadpacket)
            return func(*args, **(kwargs or {}))
    with Watch():
        for f in operations: f(torch.ones(3))
    assert draws.table.keys()-seen=={torch.ops.aten.native_dropout}


# -- Blocks --

def test_langevin_dynamics_sample_the_posterior():
    "On a parabola of curvature 1 the variance is known: lr*grad and noise balance where it is T/(1 - lr/2)"
    torch.manual_seed(0)
    p   = torch.zeros(100_000, requires_grad=True)
    opt = Optimizer([p], [SGD, langevin_noise], lr=.3, temperature=.5)
    for _ in range(60):
        p.grad = p.detach().clone()
        opt.step()
    assert p.var().item()==pytest.approx(.5/(1-.15), rel=.02) and abs(p.mean().item())<.02

def test_without_temperature_there_is_no_noise():
    a,b = stepped([SGD, langevin_noise], temperature=0.)[0],stepped([SGD])[0]
    assert all(map(torch.equal, a, b))


# -- On a card --

def on_card(cbs, steps=4, dtype=torch.float32, **kw):
    g   = torch.Generator().manual_seed(0)
    ps  = [torch.randn(s, generator=g, dtype=torch.float64).to(dtype).cuda().requires_grad_() for s in ((300,257),(5000,),(),(64,3,7,7),(3,))]
    opt = Optimizer(ps, cbs, lr=.1, **kw)
    for p in ps: p.grad = torch.randn(p.shape, generator=g, dtype=torch.float64).to(dtype).cuda()
    torch.manual_seed(0)
    for _ in range(steps): opt.step()
    return [p.detach() for p in ps],opt

@gpu
@pytest.mark.parametrize('dtype', [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize('cbs', [[f] for f in operations] + [chains['rounds'], chains['cross'], chains['adamw']], ids=lambda cbs: getattr(cbs[0], '__name__', 'list'))
def test_a_card_draws_what_the_reference_draws(cbs, dtype):
    if cbs==[one_for_all]: cbs = [of_norm]                                  # torch.rand(()) is on the CPU
    want,tol = on_card(cbs, dtype=dtype, foreach=False)[0],3e-2 if dtype==torch.bfloat16 else 1e-4
    for way in (dict(fused=True), dict(foreach=True)):
        for p,q in zip(on_card(cbs, dtype=dtype, **way)[0], want): torch.testing.assert_close(p, q, rtol=tol, atol=tol)

@gpu
@pytest.mark.parametrize('way', [dict(fused=True), dict(foreach=True)], ids=['fused', 'foreach'])
def test_a_graph_draws_what_it_would_draw_uncaptured(way):
    def run(captured):
        ps,opt = on_card([masked, noisy], steps=3, capturable=True, **way)
        users,res = opt.param_groups[0]['params'],[]
        if captured:
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph): opt.step()
        torch.manual_seed(5)
        for _ in range(4):
            graph.replay() if captured else opt.step()
            res.append([p.detach().clone() for p in users])
        return res
    a,b = run(True),run(False)
    for x,y in zip(a, b): assert all(map(torch.equal, x, y))
    assert not torch.equal(a[1][0]-a[0][0], a[2][0]-a[1][0])

@gpu
def test_no_step_on_a_card_waits():
    _,opt = on_card([randn_like])
    torch.cuda.set_sync_debug_mode('error')
    try:
        for _ in range(3): opt.step()
    finally: torch.cuda.set_sync_debug_mode('default')
    p = torch.zeros(1<<20, device='cuda', requires_grad=True)
    p.grad = torch.zeros_like(p)
    Optimizer([p], [randn_like], lr=1.).step()
    assert fits(p.detach().cpu(), law('normal'))

def test_why_a_callback_over_all_parameters_is_called():
    "It is called before the program, so the program's own reasons do not have it"
    def noisy(grads): return [g + torch.randn_like(g) for g in grads]
    ps,opt = stepped([noisy, sgd_step])
    assert opt._plan.works and not opt._plan.fallback
    assert 'noisy as it is, then one launch for all parameters; noisy draws random numbers for all parameters at once (randn_like)' in repr(opt.explain())

def test_normal_numbers_in_float64_on_a_gpu(on_triton):                     # noqa: F811
    "Their angle is less than a turn. libdevice's functions would take any angle, and spill"
    def noisy(grad): return grad + torch.randn_like(grad)
    runs = [stepped([noisy], dtype=torch.float64, **kw)[0] for kw in ({}, dict(foreach=False))]
    for p,q in zip(*runs): torch.testing.assert_close(p, q, rtol=1e-13, atol=1e-14)
    opt = Optimizer([torch.zeros(5, dtype=torch.float64, requires_grad=True)], [noisy], lr=.1)
    assert all('no spills' in opt.explain().kernel(target) for target in ('sm_80', 'sm_90'))

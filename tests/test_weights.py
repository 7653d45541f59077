"How parameters of low precision are stored: `store={'p': ...}`"

import copy,warnings
from functools import partial
import pytest,torch
import genopt
from genopt import AdamW,Lion,Optimizer,SGD
from genopt.contract.weights import policies
from genopt.run import compiler
from helpers import awkward,catalogue,closure_of,gpu,gradients
from test_triton import on_triton                                 # noqa: F401 -- a fixture

ways   = dict(default={}, foreach=dict(foreach=True), loop=dict(foreach=False), capturable=dict(capturable=True))
in_all = pytest.mark.parametrize('kw', ways.values(), ids=ways)
bf16   = torch.bfloat16
low    = pytest.mark.parametrize('dtype', [bf16, torch.float16], ids=['bfloat16','float16'])
keeping = ['kahan','master','exact_bits','extra_bits']            # those that keep something beside the parameter
bits    = dict(kahan=16, master=32, exact_bits=32, extra_bits=24)  # of precision; in `extra_bits` counted with sign and exponent
pairs   = [(n, t) for n in keeping for t in policies[n].dtypes]
in_pairs = pytest.mark.parametrize('name,dtype', pairs, ids=[f'{n}-{str(t)[6:]}' for n,t in pairs])
beside  = dict(kahan='p.compensation', master='p.master', exact_bits='p.low', extra_bits='p.low')

def chain(opt, i=0): return opt._recipe(opt.param_groups[i]).chain(opt.param_groups[i])
def exact(opt, p): return chain(opt).seen(p, opt.state[p])
def is_nearest(p, x):
    "Whether each element of `p` is as near to `x` as a bfloat16 or float16 can be"
    return bool(((p.float()-x).abs() <= (x.to(p.dtype).float()-x).abs()).all())

def train(make, dtype=bf16, n=10, shapes=((70,60),(5,)), as_float=False, device='cpu'):
    "`n` steps with fixed random gradients that `dtype` has. `as_float`: the same numbers in float32"
    rand = torch.Generator().manual_seed(0)
    last = torch.float32 if as_float else dtype
    draw = lambda s: torch.randn(s, generator=rand).to(dtype).to(last).to(device)
    ps   = [draw(s).requires_grad_() for s in shapes]
    opt  = make(ps)
    torch.manual_seed(0)
    for _ in range(n):
        for p in ps: p.grad = draw(p.shape)
        opt.step()
    return ps,opt


# -- Pairs of tensors --

numbers = torch.tensor([0., -0., 1., -2.5, 1+2**-9, -1-2**-8, 1+2**-8, 3.3e38, -3.4028234e38, 1e-40, -1e-45, 1e-30, float('inf'), -float('inf')])
many    = torch.randint(-2**31, 2**31, (200_000,), generator=torch.Generator().manual_seed(0)).to(torch.int32).view(torch.float32)

@pytest.mark.parametrize('x', [numbers, many[many.isfinite()]], ids=['few','many'])
@pytest.mark.parametrize('name', ['master','exact_bits'])
def test_two_tensors_hold_all_bits(name, x):
    "Any float32 comes back, and the bfloat16 is the nearest"
    policy = policies[name]
    p,rest = policy.split(x, bf16)
    again  = policy.join(p, rest)
    assert torch.equal(again.view(torch.int32), x.view(torch.int32)) and p.dtype==bf16
    big = x.abs()>3.38e38                                                                           # rounds to infinity
    assert is_nearest(p[~big], x[~big]) and torch.equal(p[big], x[big].to(bf16))

@pytest.mark.parametrize('name', keeping)
def test_nan_stays_nan(name):
    "In the model's eyes too, whatever its bits"
    x = torch.tensor([0x7fffffff, 0x7f800001, 0x7fc00000], dtype=torch.int32)
    x = torch.cat([x, x | -2**31]).view(torch.float32)
    p,rest = policies[name].split(x, bf16)
    assert p.isnan().all() and policies[name].join(p, rest).isnan().all()

@low
def test_a_compensation_has_as_many_bits_again(dtype):
    x = torch.randn(10_000, generator=torch.Generator().manual_seed(0))
    p,rest = policies['kahan'].split(x, dtype)
    assert rest.dtype==dtype and torch.equal(p, x.to(dtype))
    bits = 2*(8 if dtype==bf16 else 11)
    assert (policies['kahan'].join(p, rest)-x).abs().max() <= 2.**-bits*x.abs().max()
    p,rest = policies['kahan'].split(torch.tensor([1e5, float('inf')]), torch.float16)
    assert p.isinf().all() and policies['kahan'].join(p, rest).isinf().all()                         # not NaN


# -- Training --

@in_all
@pytest.mark.parametrize('name', [None,'stochastic',*keeping])
def test_tiny_steps_move_the_weights(name, kw):
    "Steps of a hundredth of what a bfloat16 can tell apart. Rounded to the nearest, the weights stand still"
    def run(store):
        p = torch.ones(200, 50, dtype=bf16, requires_grad=True)
        opt = AdamW([p], lr=2**-8/100, weight_decay=0., store=store, **kw)
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter('always')
            for _ in range(500):
                p.grad = torch.ones_like(p)
                opt.step()
        lost = any('loses such small updates' in str(w.message) for w in told)
        return p.float().mean().item(),lost
    mean,lost = run(name and {'p': name})
    assert abs(mean-(1-500*2**-8/100)) < 2**-8/2+1e-4 and not lost
    told = 'capturable' not in kw                                                                   # then nothing may be read
    assert run({'p': 'nearest'})==(1.,told)

@in_all
def test_stochastic_rounding(kw):
    "The mean is that of float32; a value is one of the two neighbours. The step decides, and torch's generator neither decides nor advances"
    steps_are_rounded_at_random('cpu', kw)

def steps_are_rounded_at_random(device, kw):
    def run(seed):
        p = torch.ones(300, 100, dtype=bf16, device=device, requires_grad=True)
        opt,found = SGD([p], lr=2**-8/5, store={'p': 'stochastic'}, **kw),[]
        torch.manual_seed(seed)
        for _ in range(2):
            with torch.no_grad(): p.fill_(1.)
            p.grad = torch.ones_like(p)
            opt.step()
            found.append(p.detach().clone().float().cpu())
        assert torch.rand(1)==torch.rand(1, generator=torch.Generator().manual_seed(seed))
        return found
    ps = run(0)
    for p in ps: assert {*p.unique().tolist()}=={1., 1-2**-8} and abs(p.mean().item()-(1-2**-8/5)) < 2**-8*.02
    assert all(map(torch.equal, ps, run(1))) and abs(torch.corrcoef(torch.stack(ps).flatten(1))[0,1]) < .03

@pytest.mark.parametrize('a', [a for a in catalogue if not a.closure], ids=lambda a: a.name)
def test_all_algorithms(a):
    """With `exact_bits` and `master` the parameters have the bits of a run in float32, in all ways; but for those whose step reduces in C, where sums
    are vectors of another width. With `extra_bits` they have 16 digits of them. Some gradients are None, some late, some parameters are empty or
    strided"""
    kw = next((s for s in a.settings() if not s.get('maximize')), a.settings(1)[0])
    def run(store, as_float=False, **way):
        given = {n: p.detach() for n,p in awkward(bf16).items() if n in (a.names or awkward())}
        ps    = {n: (p.float() if as_float else p).requires_grad_() for n,p in given.items()}
        opt   = a.cls(ps.values(), **copy.deepcopy(kw)|way, store=store)
        torch.manual_seed(0)
        for i in range(12):
            for n,g in gradients(i, bf16).items():
                if n in ps: ps[n].grad = g.float() if as_float and g is not None else g
            opt.step()
        exactly = all(w.program.elementwise or not w.launched for w in opt._plan.works)
        return {n: exact(opt, p) if p in opt.state else p.float() for n,p in ps.items()},ps,exactly
    for way in ({}, dict(foreach=True), dict(foreach=False)):
        if way and a.alone: continue
        want,_,exactly = run(None, as_float=True, **way)
        for name in ('exact_bits', 'master', 'extra_bits') if not way else ('exact_bits', 'extra_bits'):
            got,ps,_ = run({'p': name}, **way)
            near = loose.get(a.name, 5e-4) if name=='extra_bits' else 0 if exactly else 1e-5
            for n,x in want.items():
                torch.testing.assert_close(got[n], x.detach(), rtol=near, atol=near/10, equal_nan=True)
                assert is_nearest(ps[n].detach(), got[n])

# where a small difference in a weight becomes a large one in a few steps
loose = dict(DoG=5e-3, DoWG=.1)

@pytest.mark.parametrize('way', [*ways, 'triton'])
@pytest.mark.parametrize('store', [{'p': 'extra_bits'}, {'p': 'stochastic'}, {'*': dict(dtype='bfloat16', smallest=0)}], ids=str)
def test_the_bits_of_all_ways(store, way, request):
    "What is rounded at random has the same bits in the reference, on lists, in C and in Triton, whatever torch's generator does"
    def run(seed, **kw):
        g  = torch.Generator().manual_seed(0)
        ps = [torch.randn(s, generator=g).to(bf16).requires_grad_() for s in ((70,60),(5,),(30,301))]
        ps.append(torch.randn(40, 30, generator=g).t().to(bf16).requires_grad_())
        opt = Optimizer(ps, [keep], lr=2**-9, store=store, **kw)
        torch.manual_seed(seed)
        for _ in range(3):
            for p in ps: p.grad = torch.randn(p.shape, generator=g).to(bf16)
            opt.step()
        return [*(p.detach() for p in ps), *(v for p in ps for v in opt.state[p].values())]
    want = run(1, foreach=False)
    if way=='triton': request.getfixturevalue('on_triton')
    got = run(2, **ways.get(way, {}))
    assert len(got)==len(want) and all(map(torch.equal, got, want))

def keep(p, grad, s=genopt.zeros): return dict(s=s*.5 + grad)

@in_all
@low
def test_kahan_is_close_to_float32(dtype, kw):
    for cls in (AdamW, SGD, Lion):
        want,_ = train(partial(cls, lr=1e-4, **kw), dtype, 30, as_float=True)
        got,opt = train(partial(cls, lr=1e-4, store={'p': 'kahan'}, **kw), dtype, 30)
        unit = 2.**-(16 if dtype==bf16 else 22)
        for p,q in zip(got, want):
            assert ((exact(opt, p)-q).abs() <= 32*unit*q.abs().clamp(min=.1)).float().mean() > .99

@in_pairs
def test_triton(name, dtype, on_triton):                          # noqa: F811
    "The kernels of a GPU come to the bits that C comes to"
    make = partial(AdamW, lr=1e-3, store={'p': name})
    got,opt = train(partial(make, fused=True), dtype, 4)
    assert {w.program.request.backend for w in opt._plan.works}=={'triton'}
    want,ref = train(partial(make, foreach=False), dtype, 4)
    for p,q in zip(got, want):
        torch.testing.assert_close(exact(opt, p), exact(ref, q), rtol=2**-15 if name=='kahan' else 1e-6, atol=1e-8)
        assert opt.state[p].keys()==ref.state[q].keys() and is_nearest(p.detach(), exact(opt, p))

@pytest.mark.parametrize('name', keeping)
def test_lists_on_an_accelerator(name, accelerator):
    "Operations are put together otherwise there"
    make = partial(AdamW, lr=1e-3, store={'p': name})
    got,opt  = train(partial(make, foreach=True))
    want,ref = train(partial(make, foreach=False))
    for p,q in zip(got, want): torch.testing.assert_close(exact(opt, p), exact(ref, q), rtol=2**-15, atol=1e-6)

@gpu
@pytest.mark.parametrize('kw', [{}, dict(foreach=True), dict(capturable=True)], ids=['default','foreach','capturable'])
@in_pairs
def test_on_a_gpu(name, dtype, kw):
    "As on a CPU, up to rounding. Large enough for several tiles, of which the last is partial"
    for cls in (AdamW, genopt.LAMB):
        make = partial(cls, lr=1e-3, store={'p': name})
        shapes = ((300,301),(5,))
        got,opt  = train(partial(make, **kw), dtype, shapes=shapes, device='cuda')
        want,ref = train(partial(make, foreach=False), dtype, shapes=shapes)
        for p,q in zip(got, want):
            torch.testing.assert_close(exact(opt, p).cpu(), exact(ref, q), rtol=2**-14, atol=2e-6)
            assert is_nearest(p.detach(), exact(opt, p))

@gpu
def test_stochastic_rounding_on_a_gpu():
    for kw in ({}, dict(foreach=True), dict(capturable=True)): steps_are_rounded_at_random('cuda', kw)

def test_triton_rounds_at_random(on_triton):                      # noqa: F811
    p = torch.full((40, 100), 1., dtype=bf16, requires_grad=True)
    p.grad = torch.ones_like(p)
    SGD([p], lr=2**-8/5, store={'p': 'stochastic'}).step()
    assert {*p.detach().float().unique().tolist()}=={1., 1-2**-8} and abs(p.detach().float().mean().item()-(1-2**-8/5)) < 2**-8*.05

@pytest.mark.parametrize('name', ['stochastic',*keeping])
def test_kernels_compile_for_a_gpu(name):
    pytest.importorskip('triton', minversion='3.6')
    p = torch.ones(100, 100, dtype=bf16, requires_grad=True)
    told = AdamW([p], store={'p': name}).explain().kernel()
    assert f'{dict(stochastic=22, kahan=26, master=30, exact_bits=26, extra_bits=24)[name]} bytes for each element' in told

@in_all
@pytest.mark.parametrize('name', keeping)
def test_norms_see_the_exact_parameter(name, kw):
    "LAMB reads the parameter in two rounds; a program with calls, Muon's, reads it in two stages"
    for cls in (genopt.LAMB, genopt.Muon):
        shapes = ((70,60),(30,20))
        want,_  = train(partial(cls, lr=1e-3, **kw), n=8, shapes=shapes, as_float=True)
        got,opt = train(partial(cls, lr=1e-3, store={'p': name}, **kw), n=8, shapes=shapes)
        near = 1e-6 if bits[name]==32 else 1e-4
        for p,q in zip(got, want): torch.testing.assert_close(exact(opt, p), q.detach(), rtol=10*near, atol=near)

def test_other_dtypes_are_left_alone():
    "float32 beside bfloat16 in one group"
    for name in keeping:
        ps  = [torch.ones(30, dtype=t, requires_grad=True) for t in (torch.float32, bf16, torch.float64)]
        opt = AdamW(ps, store={'p': name})
        for p in ps: p.grad = torch.ones_like(p)
        opt.step()
        assert [beside[name] in opt.state[p] for p in ps]==[False, True, False]

def test_a_policy_for_a_group_and_states():
    ps  = [torch.ones(100, 100, dtype=bf16, requires_grad=True) for _ in range(2)]
    opt = AdamW([dict(params=ps[:1], store={'p': 'master'}), dict(params=ps[1:])], store={'p': 'extra_bits', '*_avg': 'int8'})
    for p in ps: p.grad = torch.ones_like(p)
    opt.step()
    assert 'p.master' in opt.state[ps[0]] and opt.state[ps[0]]['sqr_avg'].dtype==torch.float32
    assert 'p.low' in opt.state[ps[1]] and opt.state[ps[1]]['sqr_avg'].dtype==torch.uint8
    assert opt.param_groups[1]['store'][0]==('p', 'extra_bits')

def test_freezing():
    "A frozen parameter keeps what it has, and goes on from there"
    for name in keeping:
        ps,opt = train(partial(AdamW, lr=1e-4, store={'p': name}))
        before = [ps[0].clone(), exact(opt, ps[0]).clone()]
        ps[0].grad = None
        ps[1].grad = torch.ones_like(ps[1])
        opt.step()
        assert torch.equal(ps[0], before[0]) and torch.equal(exact(opt, ps[0]), before[1])

@in_all
@pytest.mark.parametrize('name', keeping)
def test_somebody_writes_a_parameter(name, kw):
    "The next step goes on from what was written, up to a trifle. Zero is not mistaken for NaN"
    ps,opt = train(partial(SGD, lr=1e-3, store={'p': name}, **kw))
    was = ps[0].detach().float().abs()
    with torch.no_grad(): ps[0].zero_()
    ps[0].grad = torch.zeros_like(ps[0])
    opt.step()
    assert (ps[0].detach().float().abs() <= was*2**-8).all()
    with torch.no_grad(): ps[0].fill_(3.)
    opt.step()
    assert (ps[0].detach()-3).abs().max() <= 2**-6

def test_a_sparse_gradient():
    "Rows without gradient stay"
    for name in ['stochastic',*keeping]:
        p = torch.ones(10, 4, dtype=bf16, requires_grad=True)
        opt = SGD([p], lr=2**-8/10, store={'p': name})
        for _ in range(20):
            p.grad = torch.sparse_coo_tensor([[1, 3]], torch.ones(2, 4, dtype=bf16), p.shape)
            opt.step()
        moved = exact(opt, p)!=1
        assert not moved[[0, 2, *range(4, 10)]].any() and moved.sum()>(4 if name=='stochastic' else 7)
        near = dict(extra_bits=2**-13).get(name, 2**-15)                                            # 20 roundings at random
        if name!='stochastic': torch.testing.assert_close(exact(opt, p)[1], torch.full((4,), 1-2**-8*2), rtol=near, atol=0)

def test_a_closure():
    "SAM evaluates the model elsewhere, then comes back to the same bits"
    p   = torch.ones(5, dtype=bf16, requires_grad=True)
    opt = Optimizer([p], [genopt.blocks.sharpness_aware, SGD], lr=1e-4, store={'p': 'extra_bits'})
    for _ in range(5): opt.step(closure_of([p], opt))
    q   = torch.ones(5, requires_grad=True)
    ref = Optimizer([q], [genopt.blocks.sharpness_aware, SGD], lr=1e-4)
    for _ in range(5): ref.step(closure_of([q], ref))
    assert 0 < (exact(opt, p)-1).abs().max() < .01 and (exact(opt, p)-q.detach()).abs().max() < 2e-5

@pytest.mark.parametrize('name', keeping)
def test_eval_and_back(name):
    ps,opt = train(partial(genopt.AdamWScheduleFree, lr=1e-3, store={'p': name}))
    before = [(p.detach().clone(), exact(opt, p).clone()) for p in ps]
    opt.eval()
    opt.train()
    for p,(a,b) in zip(ps, before): assert torch.equal(p, a) and torch.equal(exact(opt, p), b)

@in_all
def test_nothing_is_compiled_again(kw):
    make = partial(AdamW, store={'p': 'extra_bits'}, **kw)
    train(make, n=3)
    before = len(compiler.compilations)
    train(make, n=30)
    assert len(compiler.compilations)==before


# -- Checkpoints --

@pytest.mark.parametrize('theirs', [None,*policies])
@pytest.mark.parametrize('ours', [None,*policies])
def test_a_checkpoint_of_another_policy(ours, theirs, tmp_path):
    ps,opt = train(partial(AdamW, lr=1e-4, store=theirs and {'p': theirs}))
    torch.save(opt.state_dict(), tmp_path/'sd.pt')
    qs,new = train(partial(AdamW, lr=1e-4, store=ours and {'p': ours}), n=1)
    with torch.no_grad():
        for p,q in zip(ps, qs): q.copy_(p)
    new.load_state_dict(torch.load(tmp_path/'sd.pt', weights_only=True))
    ours,theirs = (n or 'extra_bits' for n in (ours, theirs))
    assert all({n for n in new.state[q] if n.startswith('p.')}=={n for n in [beside.get(ours)] if n and theirs in keeping} for q in qs)
    if ours==theirs or theirs not in keeping: tol = 0
    else: tol = 2.**-dict(kahan=15, master=23, exact_bits=23, extra_bits=15).get(ours, 8)
    for p,q in zip(ps, qs): assert ((exact(new, q)-exact(opt, p)).abs() <= tol*exact(opt, p).abs()).all()
    for q in qs: q.grad = torch.ones_like(q)
    new.step()
    assert all((beside[ours] in new.state[q]) for q in qs if ours in keeping)

@in_all
@pytest.mark.parametrize('name', keeping)
def test_a_resumed_run_is_the_same(name, kw):
    make = partial(AdamW, lr=1e-4, store={'p': name}, **kw)
    ps,opt = train(make, n=4)
    qs,new = train(make, n=1)
    new.load_state_dict(copy.deepcopy(opt.state_dict()))
    with torch.no_grad():
        for p,q in zip(ps, qs): q.copy_(p)
    for x,o in ((ps, opt), (qs, new)):
        for i in range(3):
            for p in x: p.grad = torch.full_like(p, i-1.5)
            o.step()
    for p,q in zip(ps, qs): assert torch.equal(exact(opt, p), exact(new, q)) and torch.equal(p, q)

def test_a_checkpoint_that_does_not_fit():
    ps,opt = train(partial(AdamW, store={'p': 'extra_bits'}))
    sd = copy.deepcopy(opt.state_dict())
    sd['state'][0]['p.low'] = torch.zeros(3)
    with pytest.raises(ValueError, match=r"'p.low' must be a tensor of int8 or int16, of shape \(70, 60\); it is a tensor of shape \(3,\), of float32"): opt.load_state_dict(sd)

def test_float32_parameters_drop_what_was_beside():
    _,opt  = train(partial(AdamW, store={'p': 'master'}))
    qs,new = train(partial(AdamW, store={'p': 'master'}), as_float=True, n=1)
    new.load_state_dict(opt.state_dict())
    assert not any(n.startswith('p.') for q in qs for n in new.state[q])

def test_a_copy_keeps_the_policy():
    ps,opt = train(partial(AdamW, store={'p': 'extra_bits'}))
    new = copy.deepcopy(opt)
    q = new.param_groups[0]['params'][0]
    assert torch.equal(exact(new, q), exact(opt, ps[0]))

def test_init_state_makes_what_is_beside():
    p = torch.ones(3, dtype=bf16, requires_grad=True)
    opt = AdamW([p], store={'p': 'master'})
    opt.init_state()
    assert torch.equal(opt.state[p]['p.master'], torch.ones(3))


# -- What a user reads --

def test_explain_counts_the_bytes():
    p = torch.ones(100, 100, dtype=bf16, requires_grad=True)
    plain = AdamW([p], store={'p': 'nearest'}).explain()
    for name,size in dict(nearest=0, stochastic=0, kahan=2, master=4, exact_bits=2, extra_bits=1).items():
        e = AdamW([p], store={'p': name}).explain()
        assert e.state-plain.state==size*10_000 and e.traffic-plain.traffic==2*size*10_000
        assert (f'{beside[name]} {size} B' in repr(e)) if size else True

refused = [({'p': 'bfloat16'}, ValueError, "store, 'p': the policy of a parameter must be one of extra_bits, exact_bits, master, kahan, stochastic, nearest"),
           ({'p': 'Kahan'},    ValueError, "must be one of .*; got 'Kahan'"),
           ({'p': dict(dtype='kahan', rounding='stochastic')}, ValueError, "the policy of a parameter must be one of")]
@pytest.mark.parametrize('store,error,words', refused)
def test_refused(store, error, words):
    with pytest.raises(error, match=words): AdamW([torch.ones(2, requires_grad=True)], store=store)

def test_a_policy_of_another_dtype():
    p = torch.ones(2, dtype=torch.float16, requires_grad=True)
    for name in ('extra_bits', 'stochastic'):
        with pytest.raises(ValueError, match=f"store has {{'p': '{name}'}}, which is for bfloat16; parameter 0 is float16. 'master' and 'kahan'"):
            AdamW([p], store={'p': name})

def test_a_pattern_does_not_match_the_parameter():
    p = torch.ones(100, 100, dtype=bf16, requires_grad=True)
    opt = AdamW([p], store='int8')
    p.grad = torch.ones_like(p)
    opt.step()
    assert p.dtype==bf16 and [n for n in opt.state[p] if n.startswith('p.')]==['p.low'] and opt.state[p]['p.low'].dtype==torch.int8

def test_a_checkpoint_of_the_old_extra_bits():
    "At first `extra_bits` kept 16 bits beside p. A state dict with these loads, and so does a pickled optimizer"
    ps,old = train(partial(AdamW, lr=1e-4, store={'p': 'exact_bits'}))
    qs,new = train(partial(AdamW, lr=1e-4), n=1)
    saved  = copy.deepcopy(old.state_dict())
    for g in saved['param_groups']: g['store'] = (('p', 'extra_bits'),)
    new.load_state_dict(saved)
    with torch.no_grad():
        for p,q in zip(ps, qs): q.copy_(p)
    again = copy.deepcopy(old)                                                                      # as unpickled: the store is of old, and so are the bits
    again.param_groups[0]['store'] = (('p', 'extra_bits'),)
    for o,xs in ((new, qs), (again, again.param_groups[0]['params'])):
        for p,q in zip(ps, xs):
            x = exact(old, p)
            assert ((exact(o, q)-x).abs() <= 2.**-16*x.abs()).all()
            q.grad = torch.ones_like(q)
        o.step()
        assert all(o.state[q]['p.low'].dtype==torch.int8 for q in xs)

def test_the_default():
    "bfloat16 keeps 24 bits, float16 is rounded to the nearest; what a user asks for is checked"
    for dtype,names in ((bf16, ['p.low']), (torch.float16, []), (torch.float32, [])):
        ps,opt = train(SGD, dtype)
        assert [*opt.state.get(ps[0], {})]==names and 'store' in opt.param_groups[0] and opt.param_groups[0]['store'] is None

def test_the_warning_names_a_remedy():
    p = torch.full((100,), 100., dtype=torch.float16, requires_grad=True)
    opt = SGD([p], lr=1e-5)
    with pytest.warns(UserWarning, match="store={'p': 'master'}"):
        for _ in range(11):
            p.grad = torch.ones_like(p)
            opt.step()

def test_the_warning_of_bfloat16_names_the_default():
    p   = torch.full((100,), 100., dtype=bf16, requires_grad=True)
    opt = SGD([p], lr=1e-5, store={'p': 'nearest'})
    with pytest.warns(UserWarning, match="Leave out store={'p': 'nearest'}"):
        for _ in range(11):
            p.grad = torch.ones_like(p)
            opt.step()

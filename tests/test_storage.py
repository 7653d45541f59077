"In which dtype states are stored: `store=`, `kept`"

import copy,io
from functools import partial
import pytest,torch
import genopt
from genopt import AdamW,Optimizer,kept,zeros
from genopt.blocks import adam_step,average_grad,average_sqr_grad,debias,step_stat
from genopt.contract.tensors import round_stochastically
from genopt.run import compiler
from helpers import catalogue,difference

way  = dict(default={}, foreach=dict(foreach=True), loop=dict(foreach=False), capturable=dict(capturable=True))
ways = pytest.mark.parametrize('kw', way.values(), ids=way)
all_small = dict(dtype='bfloat16', smallest=0)
nearest   = dict(dtype='bfloat16', rounding='nearest', smallest=0)

def train(make, n=5, shapes=((70,60),(5,)), dtype=torch.float32, seed=0):
    "`n` steps with fixed random gradients; the parameters and the optimizer"
    rand = torch.Generator().manual_seed(0)
    draw = lambda s: torch.randn(s, generator=rand, dtype=torch.float64).to(dtype)
    ps   = [draw(s).requires_grad_() for s in shapes]
    opt  = make(ps)
    torch.manual_seed(seed)
    for _ in range(n):
        for p in ps: p.grad = draw(p.shape)
        opt.step()
    return ps,opt

def dtypes(opt, p): return {n: str(v.dtype)[6:] for n,v in opt.state[p].items() if torch.is_tensor(v) and v.is_floating_point()}
def tensors(opt): return [v for s in opt.state.values() for v in s.values() if torch.is_tensor(v)]


# -- Rounding at random --

@pytest.mark.parametrize('x', [1.+2**-10, -3.3, 1e-30, 1e30, -1e-40])
def test_the_mean_of_what_is_rounded_at_random_is_what_was(x):
    "Each value is one of the two neighbours"
    torch.manual_seed(0)
    xs  = torch.full((100_000,), x)
    got = round_stochastically(xs)
    unit = 2.**-133 if abs(x)<2.**-126 else abs(x)*2**-7
    assert got.dtype==torch.bfloat16 and len(got.unique())==2 and (got.float()-xs).abs().max()<=unit
    assert abs(got.double().mean()-xs[0].double())<unit/50

@pytest.mark.parametrize('x', [0., -0., 1., -2.5, float('inf'), -float('inf'), float('nan')])
def test_what_a_bfloat16_can_tell_stays(x):
    got = round_stochastically(torch.full((1000,), x)).float()
    want = torch.full((1000,), x)
    assert torch.equal(got.isnan(), want.isnan()) and (x!=x or torch.equal(got, want) and torch.equal(got.signbit(), want.signbit()))

def keeps(grad, last=kept(zeros, 'bfloat16', smallest=0)): return dict(last=grad, update=grad)

@ways
def test_a_step_rounds_as_the_function_does(kw):
    "In all ways: the mean, the neighbours, what is not finite. Two parameters and two steps have other random bits, whatever the seed of torch"
    values = [1.+2**-10, -3.3, float('inf'), -float('inf'), float('nan'), 0.]
    def run(seed, threads=None):
        torch.manual_seed(seed)
        ps  = [torch.zeros(len(values), 40_000, requires_grad=True) for _ in range(2)]
        opt = Optimizer(ps, [keeps], lr=0., **kw)
        res = []
        for _ in range(2):
            for p in ps: p.grad = torch.tensor(values)[:,None].expand_as(p).contiguous()
            opt.step()
            res += [opt.state[p]['last'].float() for p in ps]
        return res
    res = run(1)
    for x in res:
        for v,row in zip(values[:2], x): assert len(row.unique())==2 and abs(row.double().mean()-v)<abs(v)*2**-7/20 and (row-v).abs().max()<=abs(v)*2**-7
        assert torch.equal(x[2], torch.full_like(x[2], float('inf'))) and torch.equal(x[3], -x[2]) and x[4].isnan().all() and not x[5].any()
    for i in range(4):
        for j in range(i): assert (res[i][0]!=res[j][0]).float().mean()>.2
    assert all(torch.equal(a[:2], b[:2]) for a,b in zip(res, run(2)))

def test_random_bits_do_not_depend_on_threads():
    def run(n):
        before = torch.get_num_threads()
        torch.set_num_threads(n)
        try: return tensors(train(partial(AdamW, store={'*': all_small}), shapes=((400,300),(30,)))[1])
        finally: torch.set_num_threads(before)
    for a,b in zip(run(1), run(2)): assert torch.equal(a, b)

@ways
def test_without_random_rounding_no_number_is_drawn(kw):
    "The user's random numbers, of a dropout for instance, stay as they were"
    for store in (None, {'*': nearest}):
        _,opt  = train(partial(AdamW, store=store, **kw), 3)
        before = torch.get_rng_state()
        opt.step()
        assert torch.equal(before, torch.get_rng_state())

@ways
def test_an_average_does_not_stand_still(kw):
    "0.999 of an average and 0.001 of a square is the same bfloat16, rounded to the nearest. At random it moves as it should, in the mean"
    def average(store):
        p = torch.zeros(64, 64, requires_grad=True)
        opt = AdamW([p], lr=0., store=store, **kw)
        opt.init_state()
        opt.state[p]['sqr_avg'].fill_(1.)
        for _ in range(200):
            p.grad = torch.zeros_like(p)
            opt.step()
        return opt.state[p]['sqr_avg'].float().mean().item()
    assert abs(average(None)-.999**200)<1e-4 and average({'sqr_avg': nearest})==1. and abs(average({'sqr_avg': 'bfloat16'})-.999**200)<2e-3


# -- Policies --

def test_the_first_pattern_that_matches_counts():
    ps,opt = train(partial(AdamW, store={'sqr_avg': 'float32', '*_avg': torch.bfloat16}))
    assert dtypes(opt, ps[0])==dict(grad_avg='bfloat16', sqr_avg='float32') and dtypes(opt, ps[1])==dict(grad_avg='float32', sqr_avg='float32')
    assert opt.param_groups[0]['store']==(('sqr_avg', 'float32', 'nearest', 4096), ('*_avg', 'bfloat16', 'stochastic', 4096))

def test_small_states_stay_as_they_are():
    for smallest,dtype in ((4200, 'bfloat16'), (4201, 'float32')):
        ps,opt = train(partial(AdamW, store={'*': dict(dtype='bfloat16', smallest=smallest)}))
        assert {*dtypes(opt, ps[0]).values()}=={dtype}

def test_a_policy_for_a_group():
    ps,opt = train(lambda ps: AdamW([dict(params=ps[:1], store={'sqr_avg': all_small}), dict(params=ps[1:])], store={'grad_avg': all_small}))
    assert dtypes(opt, ps[0])==dict(grad_avg='float32', sqr_avg='bfloat16') and dtypes(opt, ps[1])==dict(grad_avg='bfloat16', sqr_avg='float32')

def test_a_policy_for_several_algorithms():
    "Each state is of one of them"
    ps,opt = train(lambda ps: Optimizer([dict(params=ps[:1], cbs=genopt.Muon, lr=.1), dict(params=ps[1:], cbs=AdamW, lr=.1)], store={'sqr_avg': all_small, 'grad_avg': all_small}))
    assert {*dtypes(opt, ps[0]).values()}=={'bfloat16'} and dtypes(opt, ps[1])==dict(grad_avg='bfloat16', sqr_avg='bfloat16')

def test_a_declaration_in_a_signature_comes_before_a_policy():
    ps,opt = train(lambda ps: Optimizer(ps, [keeps], lr=.1, store={'last': dict(dtype='float32', smallest=0)}))
    assert dtypes(opt, ps[1])==dict(last='bfloat16')

def test_a_policy_for_a_list_of_blocks():
    cbs = [step_stat, partial(average_grad, grad_avg=kept(zeros, torch.float16, smallest=0)), average_sqr_grad, debias, adam_step]
    ps,opt = train(lambda ps: Optimizer(ps, cbs, lr=.1, store={'sqr*': all_small}))
    assert dtypes(opt, ps[0])==dict(grad_avg='float16', sqr_avg='bfloat16')

refused = [
    ({'nonsense': 'bfloat16'},               ValueError, "AdamW: store has 'nonsense', which matches no state; the algorithm keeps grad_avg, sqr_avg"),
    ({'sqr_av': 'bfloat16'},                 ValueError, "'sqr_av', which matches no state, did you mean 'sqr_avg'"),
    ({'step': 'bfloat16'},                   ValueError, "'step', which matches no state"),
    ({'*_avg': 'int9'},                      ValueError, r"store, '\*_avg': dtype='int9' is unknown; choose from float32, bfloat16"),
    ({'*': dict(dtype='float16', rounding='stochastic')}, ValueError, "rounding='stochastic' works for bfloat16 and codes, not for float16"),
    ({'*': dict(dtype='bfloat16', rounding='up')}, ValueError, "rounding must be 'nearest' or 'stochastic', got 'up'"),
    ({'*': dict(dtype='bfloat16', smallest=-1)},   ValueError, "smallest must be a number of elements, 0 or more; got -1"),
    ({'*': dict(dtype='bfloat16', least=1)}, TypeError,  "'least'; choose from dtype, rounding, smallest"),
    ({'*': dict(smallest=1)},                TypeError,  "has no dtype"),
    ({3: 'bfloat16'},                        TypeError,  "3 must be the name of a state"),
    (3,                                      TypeError,  "store must be a dict of states and dtypes"),
    ('int9',                                 ValueError, r"store, '\*': dtype='int9' is unknown; choose from float32, bfloat16, float16, int8"),
]
@pytest.mark.parametrize('store,error,words', refused, ids=[r[2] for r in refused])
def test_refused(store, error, words):
    p = torch.ones(2, requires_grad=True)
    with pytest.raises(error, match=words): AdamW([p], store=store)
    opt = AdamW([p])
    with pytest.raises(error, match=words.removeprefix('AdamW: ')): opt.add_param_group(dict(params=[torch.ones(2, requires_grad=True)], store=store))
    assert len(opt.param_groups)==1

def test_kept_takes_an_initializer():
    with pytest.raises(TypeError, match='kept takes an initializer such as zeros, got 3'): kept(3, 'bfloat16')

def test_explain_counts_the_bytes():
    p = torch.ones(100, 100, requires_grad=True)
    e = AdamW([p], store={'*_avg': 'bfloat16'}).explain()
    assert e.state==40_000 and 'sqr_avg=zeros as bfloat16 2 B' in repr(e) and 'step=count host' in repr(e)
    assert AdamW([p]).explain().traffic-e.traffic==2*40_000


# -- The same in all ways --

@pytest.mark.parametrize('a', [a for a in catalogue if not a.closure], ids=lambda a: a.name)
def test_all_algorithms_in_all_ways(a):
    "Rounded to the nearest bfloat16, all ways come to the same, but for what is near the middle of two. float64 stays"
    kw    = next((s for s in a.settings() if not s.get('maximize')), a.settings(1)[0])
    store = {'*': nearest}
    floats = lambda opt: {v.dtype for v in tensors(opt) if v.is_floating_point() and v.numel()}
    if torch.float32 not in floats(a.ran(a.cls, kw, steps=1, dtype=torch.float32)[1]): return                # it keeps none
    loop,opt = a.ran(a.cls, kw|dict(store=store, foreach=False), steps=12, dtype=torch.float32)
    exact = {n for g in opt.param_groups for n,init in opt._recipe(g).chain(g).state.items() if init.exact}
    states = [(n,v) for s in opt.state.values() for n,v in s.items() if torch.is_tensor(v) and v.is_floating_point() and v.numel()]
    assert all((v.dtype is torch.bfloat16)==(v.ndim>0 and n not in exact) for n,v in states)
    for w in ({}, dict(foreach=True)):
        if w and a.alone: continue
        assert difference(a.ran(a.cls, kw|dict(store=store)|w, steps=12, dtype=torch.float32)[0], loop) <= 3e-7, w

@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16, torch.float64], ids=str)
@pytest.mark.parametrize('kw', [{}, dict(foreach=True)], ids=['default','foreach'])
def test_a_single_number_of_another_dtype(dtype, kw):
    "A launch reads and writes single numbers in the dtype of the arithmetic. One that a user has put in another dtype is no part of it"
    def run(dtype, **kw):
        ps,opt = train(partial(genopt.DoG, **kw), 3)
        for p in ps: opt.state[p]['far'] = opt.state[p]['far'].to(dtype)
        for _ in range(3): opt.step()
        assert all(opt.state[p]['far'].dtype==dtype for p in ps)
        return ps
    for p,q in zip(run(dtype, **kw), run(dtype, foreach=False)): torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-6)

@ways
def test_nothing_is_compiled_again(kw):
    make = partial(AdamW, store={'*': all_small}, **kw)
    train(make, 3)
    before = len(compiler.compilations)
    ps,opt = train(make, 3)
    for i in range(50):
        opt.param_groups[0]['lr'] = 1e-3/(i+1)
        ps[0].grad = None if i%3 else torch.ones_like(ps[0])
        opt.step()
    assert len(compiler.compilations)==before


# -- Checkpoints --

@pytest.mark.parametrize('theirs', [None, {'*': all_small}, {'sqr_avg': all_small}, {'*': dict(dtype='float16', smallest=0)}], ids=str)
@pytest.mark.parametrize('ours', [None, {'*': all_small}, {'*': dict(dtype='float16', smallest=0)}], ids=str)
def test_a_state_dict_loads_into_another_policy(ours, theirs, tmp_path):
    "Values are converted, the policy stays"
    ps,opt = train(partial(AdamW, store=theirs))
    torch.save(opt.state_dict(), tmp_path/'sd.pt')
    qs,new = train(partial(AdamW, store=ours), 1)
    kept_before,policy = [dtypes(new, q) for q in qs],new.param_groups[0]['store']
    new.load_state_dict(torch.load(tmp_path/'sd.pt', weights_only=True))
    assert [dtypes(new, q) for q in qs]==kept_before and new.param_groups[0]['store']==policy
    for p,q in zip(ps, qs):
        for n in ('grad_avg','sqr_avg'): torch.testing.assert_close(new.state[q][n].float(), opt.state[p][n].float(), rtol=2**-8, atol=1e-6)
    for p,q in zip(ps, qs): q.grad = p.grad
    new.step()

def test_a_checkpoint_of_torch_loads_into_a_policy():
    ps,theirs = train(torch.optim.AdamW)
    qs,ours   = train(partial(AdamW, store={'*': all_small}), 1)
    ours.load_state_dict(theirs.state_dict())
    for p,q in zip(ps, qs): torch.testing.assert_close(ours.state[q]['sqr_avg'].float(), theirs.state[p]['exp_avg_sq'], rtol=2**-8, atol=0)
    assert {*dtypes(ours, qs[0]).values()}=={'bfloat16'}

@ways
def test_a_resumed_run_is_the_same(kw):
    "With the state of torch's random numbers, which a checkpoint must hold for any other random number too"
    make   = partial(AdamW, store={'*': all_small}, **kw)
    ps,opt = train(make, 4)
    qs,new = train(make, 1)
    new.load_state_dict(copy.deepcopy(opt.state_dict()))
    with torch.no_grad():
        for p,q in zip(ps, qs): q.copy_(p)
    def go_on(ps, opt):
        torch.manual_seed(5)
        for i in range(4):
            for p in ps: p.grad = torch.full_like(p, i-1.5)
            opt.step()
        return [*ps, *tensors(opt)]
    for a,b in zip(go_on(ps, opt), go_on(qs, new)): assert torch.equal(a, b)

def test_a_copy_keeps_the_policy():
    _,opt = train(partial(AdamW, store={'*': all_small}))
    f = io.BytesIO()
    torch.save(opt, f)
    f.seek(0)
    for new in (copy.deepcopy(opt), torch.load(f, weights_only=False)):
        assert new.param_groups[0]['store']==opt.param_groups[0]['store'] and {v.dtype for v in tensors(new)}=={torch.bfloat16}
        new.step()

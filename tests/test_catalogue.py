"""What every algorithm of the catalogue is asked: to equal its reference and, up to the differences that are named, other libraries; to be the
same in all three ways; to save and load; to keep dtypes; to minimise."""

import inspect,math,re
import pytest,torch
from torch.optim import lr_scheduler
import genopt
from genopt.run import compiler
from genopt.tools.data import load_data,make_model
from catalogue.adaptive import in_old_torch
from catalogue.given import given,is_patched
from helpers import awkward,catalogue,conforming,difference,gradients

each   = pytest.mark.parametrize('a', catalogue, ids=lambda a: a.name)
driven = pytest.mark.parametrize('a', [a for a in catalogue if not a.closure], ids=lambda a: a.name)           # by gradients given by hand
ways   = dict(default={}, fused=dict(fused=True))

def slow_after(n, i): return pytest.mark.slow if i>=n else ()
cases = [pytest.param(a, kw, id=f'{a.name}-{i}', marks=slow_after(1, i)) for a in catalogue if a not in conforming
         for i,kw in enumerate([*a.inputs(), *a.settings(8)])]
peers = [pytest.param(a, p, id=f'{a.name}-{p.name}-{i}', marks=pytest.mark.slow) for a in catalogue for i,p in enumerate(a.peers)]


def test_the_table_is_whole():
    assert sorted(a.name for a in catalogue)==sorted(genopt.algorithms.__all__)

@pytest.mark.parametrize('a,kw', cases)
def test_equals_the_reference(a, kw):
    "In float64, after 100 steps, with two groups, gradients that are None and a parameter that joins at step 10"
    assert difference(a.ran(a.cls, kw, foreach=False)[0], a.ran(a.reference, kw)[0]) <= a.tol

@pytest.mark.parametrize('a,p', peers)
def test_equals_the_peer_but_for_what_is_named(a, p):
    "What another library does otherwise is said, and is all that is different"
    apart = []
    for kw in p.settings(a):
        theirs = a.ran(p.make, kw)[0]
        assert difference(a.ran(p.ours or a.cls, kw, foreach=False)[0], theirs) <= p.tol
        apart.append(difference(a.ran(a.cls, kw, foreach=False)[0], theirs))
    if p.why: assert max(apart) > max(1e-6, 10*p.tol), f"{p.name} does not differ; {p.why}"

@each
def test_what_is_said_of_another_library_is_all(a):
    """Theirs has its own defaults, but for the arguments that the page shows; a difference that is named is one that `ours` makes; and where the
    comparison changes their code, that is named. `test_docs` holds the page against this"""
    for p in (None, *a.peers):
        if p or a.source!='paper': assert bool((p or a).patched)==is_patched(a, p), (p or a).name
        if p: assert bool(p.why)==bool(p.ours), p.name
    assert a.name not in told or [given(a, p) for p in (None, *a.peers)]==told[a.name]

told = dict(                                                                # some of them, as a reader would write them
    LARS      = ['momentum=0.9, always_adapt=True', 'lr=1'],
    AdaBelief = ['rectify=False', ''],
    Yogi      = ['', 'weight_decouple=False'],
    SGDW      = ['', 'lr=0.001'],
    Adan      = ['', '', 'weight_decay=0, eps=1e-08'],
    Scion     = ['constraint=True'],
)

# What no random setting changes, and what holds it instead
elsewhere = dict(
    LAMB       = {'max_ratio', 'always_adapt', 'max_grad_norm', 'decoupled_weight_decay'},     # its peers, test_blocks, test_fastai
    Shampoo    = {'momentum', 'precondition_frequency'},                                       # test_blocks: no library has these
    AdaHessian = {'avg_conv_kernel'},                                                          # test_blocks: parameters here are no kernels
) | (dict(Adam={'decoupled_weight_decay'}) if in_old_torch else {})

choices = dict(Muon=dict(adjust_lr_fn=[None, 'original', 'match_rms_adamw', 'spectral_unclamped']), Scion=dict(norm=['auto', 'spectral', 'sign']),
               LBFGS=dict(line_search_fn=[None, 'strong_wolfe']))

@each
def test_settings_are_of_every_argument(a):
    "So that the comparisons are of every argument, and of every word that one may be"
    tried = [*a.inputs(), *a.settings(30 if a in conforming else 8)]
    for k,words in choices.get(a.name, {}).items(): assert {s.get(k, a.cls.arguments[k]) for s in tried}>={*words}, k
    assert {k for k,v in a.cls.arguments.items() if all(s.get(k, v)==v for s in tried)}==elsewhere.get(a.name, set())

def setting(a): return next((s for s in a.settings() if s.get('weight_decay') and not s.get('maximize')), a.settings(1)[0])

@each
@pytest.mark.parametrize('way,n', [('default',1), *(pytest.param(w, n, marks=pytest.mark.slow) for w,n in dict(default=3, fused=2).items())])
def test_ways_agree(a, way, n):
    "To rounding, which a reduction or a matrix product may amplify: over 20 steps in float64. Nothing is compiled again after the first steps"
    if way=='fused' and a.alone:
        with pytest.raises(ValueError, match=a.alone): a.ran(a.cls, setting(a), steps=1, fused=True)
        return
    for kw in [setting(a), *a.inputs()][:n]:
        ours,loop = [a.ran(a.cls, kw|w, steps=20) for w in (ways[way], dict(foreach=False))]
        assert difference(ours[0], loop[0]) <= 1e-11
        for p,q in zip(*([p for g in o.param_groups for p in g['params']] for o in (ours[1], loop[1]))):
            assert ours[1].state[p].keys()==loop[1].state[q].keys()
            for n,v in loop[1].state[q].items():
                w = ours[1].state[p][n]
                if not torch.is_tensor(v): assert v==w or math.isclose(v, w, rel_tol=1e-12), n
                elif v.numel(): torch.testing.assert_close(w, v, rtol=1e-8, atol=1e-10*max(1., v.abs().max().item()), equal_nan=True)
    before = len(compiler.compilations)
    a.ran(a.cls, kw|ways[way], steps=20)
    assert len(compiler.compilations)==before

@pytest.mark.slow
@pytest.mark.parametrize('a', [a for a in catalogue if not (a.closure or a.alone)], ids=lambda a: a.name)
def test_parameters_that_are_alike_agree(a):
    "Several of one shape, as a network's layers have, which `fused=True` may run as one: the loop's numbers. Gradients of full rank, now and then none"
    def train(**way):
        rand = torch.Generator().manual_seed(0)
        draw = lambda s: torch.randn(s, generator=rand, dtype=torch.float64)
        ps   = [draw(s).requires_grad_() for s in [(6,6)]*3 + [(6,2,3)]*2 + ([] if a.names else [(6,)]*2)]
        opt  = a.cls(ps, **setting(a) | way)
        for i in range(8):
            for k,p in enumerate(ps): p.grad = draw(p.shape) if (i+k)%4 else None
            opt.step()
        return {str(k): p.detach() for k,p in enumerate(ps)}
    assert difference(train(fused=True), train(foreach=False)) <= 1e-10

@driven
@pytest.mark.parametrize('dtype', [torch.float64, *(pytest.param(d, marks=pytest.mark.slow) for d in (torch.float32, torch.bfloat16, torch.complex64))])
def test_state_round_trip(a, dtype, tmp_path):
    "Saved to a file in mid-run and loaded with weights_only, the run goes on bit for bit; parameters keep their dtype"
    if dtype.is_complex and not a.takes_complex: pytest.skip('it looks at the shape')
    kw = setting(a)
    def fresh():
        ps = {n: p for n,p in awkward(dtype).items() if n in (a.names or awkward())}
        return ps,a.cls(ps.values(), **kw)
    def advance(ps, opt, steps):
        torch.manual_seed(0)
        for i in steps:
            for n,g in gradients(i, dtype).items():
                if n in ps: ps[n].grad = g
            opt.step()
    ps,opt = fresh()
    advance(ps, opt, range(12))
    torch.save(dict(opt=opt.state_dict(), ps=ps), tmp_path/'run.pt')
    qs,other = fresh()
    saved = torch.load(tmp_path/'run.pt', weights_only=True)
    for n,q in qs.items(): q.data.copy_(saved['ps'][n].data)
    other.load_state_dict(saved['opt'])
    advance(ps, opt, range(12, 20)); advance(qs, other, range(12, 20))
    for n in ps: assert torch.equal(ps[n], qs[n]) and ps[n].dtype==dtype, n
    low = [v.dtype for p in ps.values() for v in opt.state[p].values() if torch.is_tensor(v) and v.is_floating_point()]
    if dtype is torch.bfloat16: assert {*low}<={torch.float32}

@pytest.mark.parametrize('a', [a for a in catalogue if not (a.joint or a.closure)], ids=lambda a: a.name)
def test_late_parameter_lives_its_own_life(a):
    "A parameter whose gradients come late, or now and then, moves as if it were alone and those steps did not exist"
    kw = setting(a)
    p,other,alone = [torch.ones(3, 2, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    opt,single = a.cls([other, p], **kw),a.cls([alone], **kw)
    for i in range(15):
        other.grad = torch.ones_like(other)
        p.grad = torch.full_like(p, i*.1) if i>4 and i%3 else None
        opt.step()
        if p.grad is None: continue
        alone.grad = p.grad.clone()
        single.step()
    assert torch.equal(p, alone) and not torch.equal(p, torch.ones_like(p))

def minimise(a, f, start, lr, steps, best, near):
    "Where it is after `steps` steps, or after it has stayed near the best for 500"
    x,stayed = torch.tensor(start, requires_grad=True),0
    opt = a.cls([x], lr=lr, **a.more)
    schedule = lr_scheduler.CosineAnnealingLR(opt, steps)
    def closure():
        opt.zero_grad()
        loss = f(x)
        loss.backward(create_graph=a.graph)
        return loss
    for _ in range(steps):
        opt.step(closure); schedule.step()
        stayed = stayed+1 if (x.detach()-best).abs().max()<near/2 else 0
        if stayed==500: break
    opt.eval()
    return x.detach()

@pytest.mark.slow
@each
@pytest.mark.parametrize('f', ['parabola', 'rosenbrock'])
def test_minimises(a, f):
    def parabola(x): return (x*x*x.new_tensor([1., 10.])).sum()
    def rosenbrock(x): return (1-x[...,0]).square().sum() + 100*(x[...,1]-x[...,0]**2).square().sum()
    f,best,near,start,lr,steps = dict(parabola   = (parabola,   0., 1e-2,   [3., -2.],  a.lr,   4000),
                                      rosenbrock = (rosenbrock, 1., a.near, [-1., 1.5], a.lr/2, 8000))[f]
    if a.matrix: start = [start, start[::-1]]
    x = minimise(a, f, start, lr, steps, best, near)
    assert (x-best).abs().max() < near, x

@pytest.mark.slow
@each
def test_learns_digits_at_its_default_settings(a):
    "A small network on real handwritten digits, 15 epochs, or 15 steps with all images at once: the loss falls by what the row says, and is finite"
    (x,y),_ = load_data()
    torch.manual_seed(0)
    model = make_model('mlp', x)
    opt,losses = a.cls(a.params(model)),[]
    for i in range(15*len(x)//a.batch):
        at = torch.arange(i*a.batch, (i+1)*a.batch)%len(x)
        def closure(at=at):
            opt.zero_grad()
            loss = torch.nn.functional.cross_entropy(model(x[at]), y[at])
            loss.backward(create_graph=a.graph)
            return loss
        losses.append(opt.step(closure).item())
    last = losses[-20 if a.batch==64 else -1:]
    assert all(map(math.isfinite, losses)) and sum(last)/len(last) < a.digits*losses[0], (losses[0], sum(last)/len(last))

@each
def test_is_a_short_list_of_blocks_and_says_where_it_comes_from(a):
    lines = inspect.getsource(a.cls.build).split('\n')
    start = next(i for i,line in enumerate(lines) if line.startswith('def '))
    body  = '\n'.join(lines[start:]).split('"""' if '"""' in '\n'.join(lines) else '"')[-1].strip().split('\n')
    assert len(body)<=8, body
    assert re.search(r'https?://', a.cls.__doc__) and a.cls.__doc__.strip()[0].isupper()

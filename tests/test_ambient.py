"""What is on around a step, and around the making of an optimizer, has no say in it: autocast, default device and dtype, inference mode, and more.
What has been recorded while it was on is right after it, too."""

import copy
from contextlib import contextmanager,nullcontext
import pytest,torch
from torch import nn
import genopt
from genopt import Adam,Optimizer,SGD
from genopt.blocks import ema_weights,evaluations
from genopt.contract import chain
from genopt.lower import decide,prefix
from helpers import awkward,catalogue,closure_of,gradients

@contextmanager
def set_to(get, set, v):
    old = get()
    set(v)
    try: yield
    finally: set(old)
def default_dtype(dtype): return lambda: set_to(torch.get_default_dtype, torch.set_default_dtype, dtype)
modes = dict(
    autocast      = lambda: torch.autocast('cpu', torch.bfloat16),
    float64       = default_dtype(torch.float64),
    bfloat16      = default_dtype(torch.bfloat16),
    meta          = lambda: torch.device('meta'),
    inference     = torch.inference_mode,
    deterministic = lambda: set_to(torch.are_deterministic_algorithms_enabled, torch.use_deterministic_algorithms, True),
    precision     = lambda: set_to(torch.get_float32_matmul_precision, torch.set_float32_matmul_precision, 'medium'),
)
way  = dict(loop=dict(foreach=False), foreach=dict(foreach=True), fused=dict(fused=True))
ways = pytest.mark.parametrize('kw', way.values(), ids=way)
each_mode = pytest.mark.parametrize('mode', modes.values(), ids=modes)

@pytest.fixture
def forget():
    "A function that forgets what the process has recorded"
    kept = chain.chains,chain.learned,decide.programs,prefix.prefixes
    before = [dict(k) for k in kept]
    def f():
        for k in kept: k.clear()
    yield f
    for k,b in zip(kept, before):
        k.clear()
        k.update(b)

def trained(a, kw, making, stepping):
    "Parameters and state after three steps, with the context `making` around the making of the optimizer and `stepping` around the first step"
    torch.manual_seed(0)
    ps = {n: p for n,p in awkward(torch.float32).items() if n in ('matrix', 'bias', 'scalar', 'strided') and (not a.names or n in a.names)}
    with making(): opt = a.cls(ps.values(), **copy.deepcopy(kw))
    def outside():
        "The closure makes float32 tensors on the CPU, whatever is on"
        with torch.inference_mode(False), torch.autocast('cpu', enabled=False), torch.device('cpu'), torch.enable_grad(), modes_of_old(): return closure()
    def modes_of_old(): return set_to(torch.get_default_dtype, torch.set_default_dtype, torch.float32)
    closure = closure_of(ps.values(), opt, a.graph)
    for i in range(3):
        if not a.closure:
            for n,g in gradients(i, torch.float32).items():
                if n in ps: ps[n].grad = g
        with stepping() if i==0 else nullcontext(): opt.step(outside if a.closure else None)
    return {n: p.detach() for n,p in ps.items()} | {(n,k): v for n,p in ps.items() for k,v in opt.state[p].items()}

def equal(x, y): return x.dtype==y.dtype and x.device==y.device and torch.equal(x, y) if torch.is_tensor(x) else type(x) is type(y) and x==y

@ways
@pytest.mark.parametrize('a', catalogue, ids=lambda a: a.name)
def test_no_mode_around_a_first_step_or_a_construction_is_seen(a, kw, forget):
    if kw.get('fused') and a.alone: pytest.skip(a.alone)
    kw = a.settings(1)[0]|kw
    forget()
    want = trained(a, kw, nullcontext, nullcontext)
    for name,mode in modes.items():
        for where in ((mode, nullcontext), (nullcontext, mode)):
            forget()
            got = trained(a, kw, *where)
            assert not [n for n in want if not equal(want[n], got[n])], (name, where.index(mode))

@ways
@each_mode
def test_nor_is_one_around_all_else_that_an_optimizer_does(kw, mode, forget):
    "What is loaded, allocated, evaluated or explained within it serves a step outside of it"
    def train(making):
        forget()
        ps  = [nn.Parameter(torch.full((4, 3), 1.+i)) for i in range(2)]
        opt = Optimizer(ps, [Adam, ema_weights], lr=.1, decay=.5, **kw)
        with making(): opt.init_state()
        for i in range(3):
            for p in ps: p.grad = torch.full_like(p, .5+i)
            opt.step()
            with making():
                opt.eval()
                repr(opt.explain())
                opt.train()
                opt.load_state_dict(opt.state_dict())
        with making(): opt.add_param_group(dict(params=[q := torch.ones(3, device='cpu', dtype=torch.float32, requires_grad=True)][:not q.is_inference()]))
        opt.step()
        return [*ps, *(v for p in ps for v in opt.state[p].values())]
    want,got = train(nullcontext),train(mode)
    assert all(map(equal, want, got)) and not any(torch.is_tensor(x) and x.is_inference() for x in got)

@pytest.mark.parametrize('again', [False, True], ids=['first','second'])
@ways
def test_a_guard_that_fails_records_within_a_mode(kw, again, forget):
    "Adan's second step is another program than its first; the short way of a step must not record it"
    def run(mode):
        forget()
        p = nn.Parameter(torch.randn(7, 5, generator=torch.Generator().manual_seed(0)))
        opt = genopt.Adan([p], lr=.1, **kw)
        for i in range(4):
            p.grad = torch.randn(7, 5, generator=torch.Generator().manual_seed(i))
            with mode() if (i>0)==again else nullcontext(): opt.step()
        return p
    assert torch.equal(run(nullcontext), run(modes['meta']))

@ways
def test_the_closure_of_a_user_sees_what_the_user_has_turned_on(kw):
    "Also where a callback evaluates the model: autocast and the default device are put back; the copies of weights that autocast keeps are not old"
    def run(around, within):
        model,seen = nn.Linear(3, 3),[]
        with torch.no_grad(): model.weight.copy_(torch.arange(9.).reshape(3, 3)/7)
        opt = Optimizer(model.parameters(), [evaluations.sharpness_aware, SGD], lr=.1, momentum=.9, rho=.5, **kw)
        def closure():
            opt.zero_grad()
            with within():
                seen.append((torch.get_autocast_dtype('cpu') if torch.is_autocast_enabled('cpu') else None, torch.get_default_device().type))
                loss = model(torch.ones(2, 3, device='cpu')).float().square().sum()
            loss.backward()
            return loss
        with around():
            torch.clear_autocast_cache()
            for _ in range(3):
                opt.step(closure)
                torch.clear_autocast_cache()                                # torch's own: a step does not tell autocast
        return model.weight.detach(),seen
    @contextmanager
    def both():
        with torch.autocast('cpu', torch.float16), torch.device('meta'): yield
    torch.manual_seed(0)
    want,_ = run(nullcontext, both)
    torch.manual_seed(0)
    got,seen = run(both, nullcontext)
    assert set(seen)=={(torch.float16, 'meta')} and len(seen)==6 and torch.equal(want, got)

"""What a step, a look and a new plan cost, counted: how often a model is called, how often a plan is made, and what is freed at once."""

import copy,gc,pickle,weakref
import pytest,torch
import torch._dynamo                                                       # its import leaves a cycle, with the frames that were there
from torch import nn
import genopt
from genopt import Optimizer,count
from genopt.blocks import evaluations,sgd_step,step_stat
from genopt.run import plan

way  = dict(default={}, loop=dict(foreach=False), foreach=dict(foreach=True), fused=dict(fused=True))
ways = pytest.mark.parametrize('kw', way.values(), ids=way)


# -- How often a closure runs --

def norm_by_branch(grad, step): return grad/grad.norm() if step>=4 else grad
def late_norm(grad, step): return dict(grad=grad/grad.norm()) if step>=4 else dict(grad=grad)
def late_name(grad, step): return dict(grad=grad, norm=grad.norm()) if step>=4 else dict(grad=grad)
def late_for_all(grads, step):
    total = torch.stack([g.norm() for g in grads]).norm()
    return dict(grads=[g/total for g in grads] if step>=4 else grads)
def late_shape(grad, step): return dict(grad=grad/grad.norm(dim=-1, keepdim=True) if step>=4 else grad)
def late_state(grad, step, n=count): return dict(grad=grad, n=n+1) if step>=4 else dict(grad=grad)
def grad_by_branch(grad, step): return dict(grad=norm_by_branch(grad, step))

@ways
@pytest.mark.parametrize('late', [late_norm, late_name, late_for_all, late_shape, late_state, grad_by_branch], ids=lambda f: f.__name__)
@pytest.mark.parametrize('order', ['before','behind'])
def test_a_new_plan_in_a_step_calls_the_model_no_second_time(late, order, kw):
    "SAM evaluates it twice in a step, also where another callback changes its way at step 4, and the state is written by hand at step 6"
    if kw.get('fused') and order=='before' and late is late_state: kw = {}                      # it cannot be in one launch
    def run(**kw):
        torch.manual_seed(0)
        ps,calls = [nn.Parameter(torch.randn(3, 2)) for _ in range(2)],[]
        middle = [evaluations.sharpness_aware, late] if order=='behind' else [late, evaluations.sharpness_aware]
        opt = Optimizer(ps, [step_stat, *middle, sgd_step], lr=.1, rho=.05, **kw)
        def closure():
            calls[-1] += 1
            opt.zero_grad()
            loss = sum(p.square().sum() for p in ps)
            loss.backward()
            return loss
        for i in range(8):
            calls.append(0)
            for p in ps if i==6 else (): opt.state[p]['step'] += 1
            opt.step(closure)
        return ps,calls
    ps,calls = run(**kw)
    qs,_ = run(foreach=False)
    assert calls==[2]*8
    for p,q in zip(ps, qs): torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-6)


# -- Looking --

looks = dict(
    key        = lambda opt, p: opt.state[p]['step'],
    get        = lambda opt, p: opt.state[p].get('grad_avg'),
    items      = lambda opt, p: [dict(s) for s in opt.state.values()],
    missing    = lambda opt, p: opt.state[p].get('nothing'),
    contains   = lambda opt, p: (p in opt.state, 'step' in opt.state[p], len(opt.state[p])),
    state_dict = lambda opt, p: opt.state_dict(),
    torchs     = lambda opt, p: opt.torch_state_dict(),
    deepcopy   = lambda opt, p: copy.deepcopy(opt),
    pickle     = lambda opt, p: pickle.dumps(opt),
    explain    = lambda opt, p: repr(opt.explain()),
    repr       = lambda opt, p: (repr(opt), repr(opt.state)),
    hypers     = lambda opt, p: dict(opt.hypers[0]),
    allocated  = lambda opt, p: opt.init_state(),
    modes      = lambda opt, p: (opt.eval(), opt.train()),
    all_params = lambda opt, p: opt.all_params(),
    load       = lambda opt, p: opt.load_state_dict(opt.state_dict()),
)
@ways
@pytest.mark.parametrize('look', looks)
def test_a_look_does_not_make_later_steps_slower(look, kw, monkeypatch):
    "No new plan; loading makes one, in which parameters go together as before"
    ps  = [nn.Parameter(torch.ones(5)) for _ in range(4)]
    opt = genopt.Adam(ps, **kw)
    def steps(n):
        for _ in range(n):
            for p in ps: p.grad = torch.ones_like(p)
            opt.step()
    def together(): return [(len(w.indices), len(w.rows)) for w in opt._plan.works],len(opt._plan.fallback)
    steps(3)
    plans,make,before = [],plan.Plan.__init__,together()
    monkeypatch.setattr(plan.Plan, '__init__', lambda self, *args, **more: (plans.append(1), make(self, *args, **more))[1])
    for _ in range(3):
        looks[look](opt, ps[0])
        steps(2)
    assert len(plans)==(3 if look=='load' else 0) and together()==before and opt.state[ps[3]]['step']==9


# -- Freeing --

def step(m, opt):
    def closure():
        opt.zero_grad()
        loss = m(torch.ones(2, 4)).square().sum()
        if not opt.is_second_order: loss.backward()
        else:
            for p,g in zip(m.parameters(), torch.autograd.grad(loss, [*m.parameters()], create_graph=True)): p.grad = g
        return loss
    opt.step(closure)
    opt.zero_grad()

@ways
@pytest.mark.parametrize('name', ['SGD','Adam','LAMB','SOAP','Muon','Adafactor','SAM','AdamWScheduleFree','AdaHessian','LBFGS'])
def test_what_is_deleted_is_freed_at_once(name, kw):
    "Model, optimizer and state, without the garbage collector, whatever was done with them"
    if kw.get('fused') and name in ('SOAP','Muon','Adafactor','SAM','AdaHessian','LBFGS'): kw = {}
    m   = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False))
    opt = getattr(genopt, name)(m.parameters(), lr=.1, **kw)
    gc.collect()
    gc.disable()
    try:
        for _ in range(3): step(m, opt)
        for look in ('key', 'state_dict', 'explain', 'repr', 'load', 'modes'):
            if look!='key': looks[look](opt, m[0].weight)
            step(m, opt)
        gone = [weakref.ref(o) for o in (*m.parameters(), opt, *(v for v in opt.state[m[0].weight].values() if torch.is_tensor(v)))]
        del m,opt
        assert [type(r()) for r in gone if r() is not None]==[]
    finally: gc.enable()

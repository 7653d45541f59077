"""`genopt.fastai` beside fastai's own: the same signatures, the same numbers, in all three ways."""

import copy,inspect,math,pickle,random
from functools import partial
import pytest,torch
import genopt
from genopt import fastai as ours
from helpers import awkward,difference,gradients

theirs = pytest.importorskip('fastai.optimizer')
ways   = pytest.mark.parametrize('way', [dict(foreach=False), {}, pytest.param(dict(fused=True), marks=pytest.mark.slow)], ids=['loop','default','fused'])


def log(r, lo, hi): return 10**r.uniform(lo, hi)
def common(r): return dict(lr=r.choice([log(r,-4,-1), [1e-2,1e-3], slice(1e-3,1e-1), slice(1e-2)]), wd=r.choice([0., log(r,-3,-1)]), decouple_wd=r.random()<.5)
def moms(r):   return common(r) | dict(mom=r.choice([0., r.random()]))
def adam(r):   return common(r) | dict(mom=r.uniform(.1,.99), sqr_mom=r.uniform(.5,.999), eps=log(r,-8,-2))
settings = dict(SGD     = moms,
                RMSProp = lambda r: moms(r) | dict(sqr_mom=r.uniform(.5,.999)),
                Adam    = adam,
                RAdam   = lambda r: adam(r) | dict(sqr_mom=r.uniform(.5,.9), beta=r.choice([0., r.uniform(1,60)])),
                QHAdam  = lambda r: adam(r) | dict(nu_1=r.random(), nu_2=r.random()),
                Larc    = lambda r: moms(r) | dict(clip=r.random()<.5, trust_coeff=log(r,-3,0), eps=log(r,-8,-2)),
                Lamb    = adam,
                ranger  = lambda r: adam(r) | dict(sqr_mom=r.uniform(.5,.9), beta=r.choice([0., 50.]), k=r.randint(1,7), alpha=r.random()))

def drawn(name, n=8):
    rand = random.Random(name)
    return [dict(lr=.01), *({k: v for k,v in settings[name](rand).items() if rand.random()<.8 or k=='lr'} for _ in range(n))]
def looks(name): return name=='ranger'
def later(i, n): return pytest.mark.slow if i>=n else ()
table = [pytest.param(name, kw, id=f'{name}-{i}', marks=later(i, 4)) for name in settings for i,kw in enumerate(drawn(name))]

def in_two(ps): return [[*ps.values()][::2], [*ps.values()][1::2]]
def ran(cls, kw, late=True, schedule=False, steps=100):
    "The parameters after `steps` steps, in two groups, and the optimizer; `late`: some gradients are None"
    ps  = awkward()
    opt = cls(in_two(ps), **kw)
    for i in range(steps):
        for n,g in gradients(i).items(): ps[n].grad = g if late or g is not None else torch.full_like(ps[n], .1*i)
        if schedule:
            opt.set_hyper('lr', slice(1e-3, 1e-2*(2+math.cos(i))))
            opt.set_hypers(mom=.9 + .05*math.cos(i/10), wd=[.01*(i%5), .02])
        opt.step()
    return {n: p.detach() for n,p in ps.items()},opt

def same(name, kw, tol=1e-12, **how):
    a,b = ran(getattr(ours, name), kw | how.pop('way', dict(foreach=False)), **how)[0],ran(getattr(theirs, name), kw, **how)[0]
    assert difference(a, b)<=tol, difference(a, b)


def test_they_are_all_here():
    assert {*ours.__all__}=={n for n in theirs.__all__ if n[0].isupper() or n=='ranger'}-{'Optimizer','OptimWrapper'}

@pytest.mark.parametrize('name', ours.__all__)
def test_signature_and_defaults(name):
    "But for `**flags`, what genopt adds"
    a,b = [{n: p.default for n,p in inspect.signature(getattr(o, name)).parameters.items() if p.kind!=p.VAR_KEYWORD} for o in (ours, theirs)]
    assert a==b and [*a]==[*b]
    assert getattr(ours, name).__doc__

@pytest.mark.parametrize('name,kw', table)
def test_equals_fastais(name, kw): same(name, kw, late=not looks(name))

@pytest.mark.parametrize('name', settings)
@pytest.mark.parametrize('i', [pytest.param(i, marks=later(i, 2)) for i in range(4)])
def test_equals_fastais_with_schedules(name, i):
    "Of lr, mom and wd, also where there is no momentum: fastai's SGD without one stays without"
    same(name, drawn(name)[i+1] if i else dict(lr=.01, mom=0.) if name in ('SGD','RMSProp','Larc') else dict(lr=.01), late=not looks(name), schedule=True, tol=1e-11)

@ways
@pytest.mark.parametrize('name', settings)
def test_ways_equal_fastais(name, way):
    for kw in drawn(name)[:3]: same(name, kw, tol=1e-11, late=not looks(name), way=way)

def test_fastais_rmsprop_forgets_its_eps():
    def with_eps(params, eps, **kw):
        opt = theirs.RMSProp(params, **kw)
        opt.set_hyper('eps', eps)
        return opt
    kw = dict(lr=.01, mom=.9, eps=1e-2)
    a,b = ran(ours.RMSProp, kw)[0],ran(theirs.RMSProp, kw)[0]
    assert difference(b, ran(theirs.RMSProp, kw|dict(eps=1e-8))[0])==0 and difference(a, b)>1e-6
    assert difference(a, ran(with_eps, kw)[0])<=1e-12

@pytest.mark.parametrize('name', [n for n in settings if n!='ranger'])
def test_marked_parameters_do_not_decay(name):
    "As fastai's Learner marks biases and norms. In fastai's Larc they go on to decay in the ratio; ours are as fastai's without decay"
    def marked(lib, wd, **kw):
        def make(params, **_):
            opt = getattr(lib, name)(params, lr=.01, wd=wd, **kw)
            for p in params[0]: opt.state[p]['do_wd'] = False
            return opt
        return ran(make, {})[0]
    a,b = marked(ours, .1, foreach=False),marked(theirs, .1)
    assert (difference(a, b)<=1e-12)==(name!='Larc')
    exempt = [*awkward()][::2]
    a,b = [{n: o[n] for n in exempt} for o in (a, marked(theirs, 0.))]
    assert difference(a, b)<=1e-12


# -- Lookahead --

class Single:
    "fastai's Lookahead, one for each parameter, which steps when there is a gradient"
    def __init__(self, make, lists): self.opts = [make([[p]]) for ps in lists for p in ps]
    def step(self):
        for o in self.opts:
            if o.param_lists[0][0].grad is not None: o.step()

@ways
@pytest.mark.parametrize('inner,kw', [('SGD', dict(mom=.9)), ('Adam', {}), ('Larc', {}), ('RAdam', dict(beta=50.))], ids=lambda o: str(o))
def test_lookahead_counts_the_steps_of_each_parameter(inner, kw, way):
    "fastai's counts those of the optimizer, and moves parameters that have no gradient; that is the difference, and all of it"
    def make(lib, params, **flags): return lib.Lookahead(getattr(lib, inner)(params, lr=.01, **kw, **flags), k=7, alpha=.4)
    a,opt = ran(partial(make, ours, **way), {})
    assert difference(a, ran(lambda lists: Single(partial(make, theirs), lists), {})[0])<=1e-11
    assert difference(a, ran(partial(make, theirs), {})[0])>1e-3
    assert difference(ran(partial(make, ours, **way), {}, late=False)[0], ran(partial(make, theirs), {}, late=False)[0])<=1e-11
    assert opt.cbs[-1] is genopt.blocks.lookahead and [h['k'] for h in opt.hypers]==[7, 7] and isinstance(opt, torch.optim.Optimizer)

def feed(ps, i):
    for p in ps: p.grad = torch.cos(p.detach()*3+i)

def look_ahead_by_hand(opt, ps, steps, k, alpha):
    slow = [p.detach().clone() for p in ps]
    for i in range(steps):
        feed(ps, i)
        opt.step()
        for p,s in zip(ps, slow):
            if (i+1)%k==0: p.data.copy_(s.add_(p.detach()-s, alpha=alpha))

def test_lookahead_of_any_optimizer():
    "Groups with callbacks of their own, names, settings and state go along"
    def make():
        ps = [torch.linspace(-1, 1, n, dtype=torch.float64, requires_grad=True) for n in (3, 4, 5)]
        groups = [dict(params=[('a', ps[0])], lr=.1), dict(params=[('b', ps[1])], weight_decay=0.), dict(params=[('c', ps[2])], cbs=genopt.Lion, lr=.01)]
        opt = genopt.AdamW(groups, lr=.02, maximize=True)
        for i in range(3):
            feed(ps, i)
            opt.step()
        return ps,opt
    (ps,opt),(qs,other) = make(),make()
    look = ours.Lookahead(opt, k=4, alpha=.3)
    assert [g['lr'] for g in look.param_groups]==[.1, .02, .01] and look.param_groups[1]['param_names']==['b']
    assert look.param_groups[2]['betas']==(.9, .99) and look.state[ps[0]]['step']==3
    for i in range(22):
        feed(ps, i)
        look.step()
    look_ahead_by_hand(other, qs, 22, 4, .3)
    assert all(torch.allclose(p, q, rtol=1e-12, atol=0) for p,q in zip(ps, qs)) and look.state[ps[0]]['step']==25

def test_lookahead_is_a_line_in_a_list():
    def cbs(): return [genopt.blocks.sgd_step, genopt.blocks.lookahead]
    a,b = ran(lambda ps: genopt.Optimizer(ps, cbs(), lr=.1, k=3), {})[0],ran(lambda ps: ours.Lookahead(ours.SGD(ps, .1), k=3), {})[0]
    assert difference(a, b)==0
    for bad in dict(alpha=1.5), dict(k=0):
        with pytest.raises(ValueError, match=f'Invalid {[*bad][0]} value'): genopt.Optimizer([torch.ones(1)], cbs(), lr=.1, **bad)


# -- What outlives the process --

@pytest.mark.parametrize('name', [n for n in settings if not looks(n)])
def test_fastais_state_is_loaded(name):
    ps,opt = ran(getattr(theirs, name), kw := drawn(name)[2], steps=12)
    qs,new = awkward(),None
    for n,q in qs.items(): q.data.copy_(ps[n])
    new = getattr(ours, name)(in_two(qs), **kw)
    new.load_state_dict(opt.state_dict())
    ps = dict(zip([*qs], sorted_like(opt.param_lists, qs)))
    for i in range(12, 30):
        for n,g in gradients(i).items(): qs[n].grad,ps[n].grad = g,None if g is None else g.clone()
        new.step(); opt.step()
    assert difference({n: q.detach() for n,q in qs.items()}, {n: p.detach() for n,p in ps.items()})<=1e-12

def sorted_like(lists, ps):
    "The parameters of `lists`, as `in_two` made them, in the order of `ps`"
    a,b = map(iter, lists)
    return [next(b if i%2 else a) for i in range(len(ps))]

@pytest.mark.parametrize('name', settings)
def test_copied_and_pickled(name):
    ps,opt = ran(getattr(ours, name), drawn(name)[1], steps=9)
    for other in copy.deepcopy(opt),pickle.loads(pickle.dumps(opt)):
        assert type(other) is type(opt) and repr(other)==repr(opt)
        for p,q in zip(*([p for g in o.param_groups for p in g['params']] for o in (opt, other))):
            assert torch.equal(p, q) and other.state[q].keys()==opt.state[p].keys()

def test_wrong_values_are_told():
    p = torch.ones(2, requires_grad=True)
    with pytest.raises(TypeError, match="Adam got an unexpected hyper-parameter 'epss', did you mean 'eps'"): ours.Adam([p], 1e-3, epss=1.)
    with pytest.raises(ValueError, match="Invalid beta parameter at index 0: 1.0; Adam needs it in"): ours.Adam([p], 1e-3, mom=1.)
    with pytest.raises(ValueError, match="Adam has 1 groups, got 2 values for 'lr'"): ours.Adam([p], [1e-3, 1e-2])
    with pytest.raises(TypeError, match='lr'): ours.Adam([p])


def missing(module, name, way):
    "Parameters after training in which `second` gets no gradient in every other backward pass; gradients are cleared by `zero_grad`"
    torch.manual_seed(0)
    ps  = dict(first=torch.randn(4, 3, dtype=torch.float64, requires_grad=True), second=torch.randn(3, dtype=torch.float64, requires_grad=True))
    opt = getattr(module, name)([*ps.values()], lr=.01, wd=.1, **dict(mom=.9) if name!='QHAdam' else {}, **way)
    for i in range(20):
        loss = (ps['first']**2).sum()
        if i%2==0: loss = loss + (ps['second']**4).sum()
        loss.backward()
        opt.step()
        opt.zero_grad()
    return {n: p.detach() for n,p in ps.items()}

@pytest.mark.parametrize('way', [dict(foreach=False), dict(foreach=True), dict(fused=True)], ids=['loop','foreach','fused'])
@pytest.mark.parametrize('name', settings)
def test_a_parameter_that_backward_misses_goes_on(name, way):
    "zero_grad leaves zeros, as fastai's: momentum and decay go on, and lookahead counts"
    assert difference(missing(ours, name, way), missing(theirs, name, {}))<1e-12

def test_zero_grad_to_none_is_torchs():
    p = torch.ones(3, requires_grad=True)
    opt = ours.SGD([p], lr=.1)
    p.grad = torch.ones(3)
    opt.zero_grad()
    assert torch.equal(p.grad, torch.zeros(3))
    opt.zero_grad(set_to_none=True)
    assert p.grad is None

@pytest.mark.parametrize('name', ['ASGD', 'AdEMAMix', 'RMSprop'])
def test_lookahead_keeps_its_weight_apart(name):
    "Around an algorithm that has an `alpha` of its own"
    p   = torch.nn.Parameter(torch.ones(3))
    opt = ours.Lookahead(getattr(genopt, name)([p], lr=.1), k=2, alpha=.25)
    slow = 'slow_alpha' if name!='RMSprop' else 'alpha'
    assert opt.hypers[0][slow]==.25 and genopt.blocks.lookahead.__name__ in map(genopt.contract.names.name_of, opt.cbs)
    start = p.detach().clone()
    steps = []
    for _ in range(2):
        p.grad = torch.ones(3)
        opt.step()
        steps.append(p.detach().clone())
    q     = torch.nn.Parameter(torch.ones(3))
    plain = getattr(genopt, name)([q], lr=.1)
    for _ in range(2):
        q.grad = torch.ones(3)
        plain.step()
    torch.testing.assert_close(steps[1], start + .25*(q.detach()-start))

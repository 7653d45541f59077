"""Blocks that stand beside algorithms, each held against torch, another library or its paper in NumPy; and that none is untested or says nothing."""

import inspect,pickle,re,sys
from pathlib import Path
import numpy as np
import optimi,pytest,pytorch_optimizer,torch
import timm.optim,timm.utils.agc
from torch.nn.utils import clip_grad_norm_,clip_grad_value_
import genopt
from genopt import *
from genopt import blocks
from genopt.blocks import *
from genopt.blocks import _renamed,transforms
from catalogue.rate_free import dadaptation,prodigyopt,quiet
from helpers import difference

shapes = dict(conv=(4,3,2,2), matrix=(5,3), vector=(6,), scalar=())

def parameters(seed=0):
    g = torch.Generator().manual_seed(seed)
    return {n: torch.randn(s, generator=g, dtype=torch.float64).requires_grad_() for n,s in shapes.items()}

def train(make, steps=40):
    "Parameters after some steps with gradients that depend on where they are"
    ps  = parameters()
    opt = make([*ps.values()])
    g   = torch.Generator().manual_seed(1)
    for _ in range(steps):
        for p in ps.values(): p.grad = torch.randn(p.shape, generator=g, dtype=p.dtype) + p.detach()
        opt.step()
    return {n: p.detach() for n,p in ps.items()},opt

class Around:
    "torch's `cls`, with something done to the gradients before a step, and to the parameters behind it"
    def __init__(self, ps, cls, before=None, after=None, **kw): self.ps,self.opt,self.before,self.after,self.t = ps,cls(ps, **kw),before,after,0
    @torch.no_grad()
    def step(self):
        self.t += 1
        old = [p.clone() for p in self.ps]
        if self.before: self.before(self)
        self.opt.step()
        if self.after: self.after(self, old)
    def each(self, f):
        "Let NumPy's `f(grad, p)` be each gradient"
        for p in self.ps: p.grad = torch.as_tensor(f(p.grad.numpy(), p.detach().numpy()), dtype=p.dtype).reshape(p.shape)
def before(f, cls=torch.optim.SGD, **kw): return lambda ps: Around(ps, cls, f, **(dict(lr=.05)|kw))
def grads(f, **kw): return before(lambda o: o.each(f), **kw)
def after(f, cls=torch.optim.SGD, **kw): return lambda ps: Around(ps, cls, None, f, **(dict(lr=.05)|kw))

def norm(x): return np.sqrt((x*x).sum())
def rms(x): return np.sqrt((x*x).mean())

def moved(f):
    "`p <- f(p, p before)`"
    def run(o, old):
        for p,q in zip(o.ps, old): p.copy_(torch.as_tensor(f(p.detach().numpy(), q.numpy(), o), dtype=p.dtype).reshape(p.shape))
    return run

class Grokfast:
    def __init__(self): self.h = {}
    def __call__(self, o):
        for i,p in enumerate(o.ps):
            self.h[i] = .9*self.h.get(i, 0) + .1*p.grad.numpy()
            p.grad = p.grad + torch.as_tensor(3*self.h[i]).reshape(p.shape)

class Mean:
    "For `decay_to_start`: p - lr*wd*(p - p_0) before the step of SGD"
    def __init__(self, ps): self.ps,self.start = ps,[p.detach().clone() for p in ps]
    @torch.no_grad()
    def step(self):
        for p,s in zip(self.ps, self.start): p.sub_((p-s)*.05*.1).sub_(p.grad, alpha=.05)

class SignedDecay:
    "Chen et al. 2025, https://arxiv.org/abs/2510.12402, over plain descent"
    def __init__(self, ps): self.ps = ps
    @torch.no_grad()
    def step(self):
        for p in self.ps:
            x,g = p.numpy().copy(),p.grad.numpy()
            p.copy_(torch.as_tensor(x*(1 - .05*.1*(g*x>0)) - .05*g).reshape(p.shape))

class AdamLike:
    "Adam with another denominator, in NumPy: `step(m, v, g, t)` with m and v debiased"
    def __init__(self, ps, step): self.ps,self.f,self.t,self.m,self.v = ps,step,0,[0]*len(ps),[0]*len(ps)
    @torch.no_grad()
    def step(self):
        self.t += 1
        for i,p in enumerate(self.ps):
            g = p.grad.numpy()
            self.m[i],self.v[i] = .9*self.m[i]+.1*g,.99*self.v[i]+.01*g*g
            p.sub_(.05*torch.as_tensor(self.f(self.m[i]/(1-.9**self.t), self.v[i]/(1-.99**self.t), g, self.t)).reshape(p.shape))
def adam_like(f): return lambda ps: AdamLike(ps, f)

def constant_nadam(m, v, g, t):
    "optax's nadam: Dozat's look ahead, with a momentum that does not warm up"
    ahead = .9*m*(1-.9**t)/(1-.9**(t+1)) + .1*g/(1-.9**t)
    return ahead/(np.sqrt(v)+1e-8)

def clipped(u, g): return u/max(1., rms(u)/.5)
def careful(u, g):
    mask = (u*g>0)*1.
    return u*mask/max(mask.mean(), 1e-3)
def each_unit(x): return norm(x) if x.ndim<2 else np.sqrt((x*x).sum(tuple(range(1, x.ndim)), keepdims=True))

adam = [average_grad, average_sqr_grad, step_stat, debias]
debiased_adam = [step_stat, debiased_betas, average_grad, average_sqr_grad, rename(rms_prop_step, grad='grad_avg')]
kw   = dict(lr=.05, mom=.9, sqr_mom=.99)
def plain(m, v, g): return m/(np.sqrt(v)+1e-8)

class Shampoo:
    """Gupta et al. 2018, https://arxiv.org/abs/1802.09568, Algorithm 1, in NumPy. The roots are computed at steps 1, 4, 7 ...; heavy-ball momentum is
    behind the preconditioning. A vector has one side, a number none"""
    def __init__(self, ps, eps=1e-2, momentum=.8): self.ps,self.t,self.eps,self.momentum,self.h = ps,0,eps,momentum,[{} for _ in ps]
    def root(self, sums, order):
        w,v = np.linalg.eigh(sums + self.eps*np.eye(len(sums)))
        return (v*w**(-1/order)) @ v.T
    @torch.no_grad()
    def step(self):
        self.t += 1
        for p,h in zip(self.ps, self.h):
            G = p.grad.numpy().reshape(p.shape[0] if p.ndim>1 else p.numel(), -1)
            h['L'],h['R'] = h.get('L', 0) + G@G.T,h.get('R', 0) + G.T@G
            if self.t%3==1: h['roots'] = [(np.eye(1), np.eye(1)), (self.root(h['L'], 2), np.eye(1)), (self.root(h['L'], 4), self.root(h['R'], 4))][min(p.ndim, 2)]
            h['m'] = self.momentum*h.get('m', 0) + h['roots'][0] @ G @ h['roots'][1]
            p.sub_(torch.as_tensor(.05*h['m']).reshape(p.shape))

class Lookahead:
    "Zhang et al. 2019, https://arxiv.org/abs/1907.08610, Algorithm 1"
    def __init__(self, ps): self.ps,self.slow,self.t = ps,[p.detach().clone() for p in ps],0
    @torch.no_grad()
    def step(self):
        self.t += 1
        for p,s in zip(self.ps, self.slow):
            p.sub_(p.grad, alpha=.05)
            if self.t%3==0: p.copy_(s.add_(.4*(p-s)))

sgd  = dict(lr=.05)
rows = dict(
    clip_grad_value  = ([clip_grad_value, Adam], kw|dict(max_value=.7), before(lambda o: clip_grad_value_(o.ps, .7), torch.optim.Adam, betas=(.9,.99))),
    clip_grad_norm   = ([clip_grad_norm, AdamW], kw|dict(max_norm=2.), before(lambda o: clip_grad_norm_(o.ps, 2.), torch.optim.AdamW, betas=(.9,.99))),
    clip_tensor_norm = ([clip_tensor_norm], sgd|dict(max_norm=.8), grads(lambda g,p: g/max(1., norm(g)/.8))),
    adaptive_clip    = ([adaptive_grad_clip], sgd|dict(clip_factor=.05), before(lambda o: timm.utils.agc.adaptive_clip_grad(o.ps, .05))),
    normalize        = ([normalize_grad], sgd|dict(norm_eps=1e-3), grads(lambda g,p: g/(norm(g)+1e-3))),
    sign             = ([transforms.sign_grad], sgd, grads(lambda g,p: np.sign(g))),
    centralize       = ([centralize], sgd, grads(lambda g,p: g if g.ndim<2 else g-g.mean(tuple(range(1, g.ndim)), keepdims=True))),
    orthograd        = ([orthograd], sgd, lambda ps: pytorch_optimizer.OrthoGrad(torch.optim.SGD(ps, lr=.05))),
    grokfast         = ([grokfast, AdamW], kw|dict(slow_mom=.9, slow_gain=3.), lambda ps: Around(ps, torch.optim.AdamW, Grokfast(), lr=.05, betas=(.9,.99))),
    l1_reg           = ([l1_reg], sgd|dict(l1=.1), grads(lambda g,p: g+.1*np.sign(p))),
    fixed_decay      = ([fixed_decay], sgd|dict(wd=.01), after(moved(lambda p,old,o: p-.01*old))),
    fully_decoupled  = ([fully_decoupled_decay, *adam, adam_step], kw|dict(wd=5e-4, max_lr=.2),
                        lambda ps: optimi.AdamW(ps, lr=.05, betas=(.9,.99), eps=1e-8, weight_decay=5e-4, decouple_lr=True, max_lr=.2)),
    debiased_betas   = (debiased_adam, kw, lambda ps: torch.optim.Adam(ps, lr=.05, betas=(.9,.99))),
    constant_nadam   = ([NAdam], kw|dict(momentum_decay=1e6), adam_like(constant_nadam)),
    decay_to_start   = ([decay_to_start], sgd|dict(wd=.1), Mean),
    cautious_decay   = ([sgd_step, cautious_weight_decay], sgd|dict(wd=.1), SignedDecay),
    cautious_AdamW   = ([AdamW, cautious], kw, lambda ps: timm.optim.AdamWLegacy(ps, lr=.05, betas=(.9,.99), caution=True)),
    cautious_Lion    = ([Lion, cautious], kw, lambda ps: timm.optim.Lion(ps, lr=.05, betas=(.9,.99), caution=True, foreach=False)),
    cautious         = ([*adam, adam_step, cautious], kw, adam_like(lambda m,v,g,t: careful(plain(m, v, g), g))),
    grams            = ([*adam, adam_step, grams_sign], kw, adam_like(lambda m,v,g,t: abs(plain(m, v, g))*np.sign(g))),
    clip_update_rms  = ([*adam, adam_step, clip_update_rms], kw|dict(max_rms=.5), adam_like(lambda m,v,g,t: clipped(plain(m, v, g), g))),
    adam_clamped     = ([*adam, adam_clamped_step], kw|dict(eps=.3), adam_like(lambda m,v,g,t: m/np.maximum(np.sqrt(v), .3))),
    adam_eps_root    = ([*adam, adam_eps_root_step], kw|dict(eps=.3), adam_like(lambda m,v,g,t: m/np.sqrt(v+.3))),
    adam_atan2       = ([*adam, adam_atan2_step], kw, adam_like(lambda m,v,g,t: np.arctan2(m, np.sqrt(v)))),
    lookahead        = ([lookahead], sgd|dict(k=3, alpha=.4), Lookahead),
    shampoo          = ([genopt.Shampoo], sgd|dict(momentum=.8, precondition_frequency=3, eps=1e-2), Shampoo),
)
each = pytest.mark.parametrize('name', rows)


@each
def test_equals_its_reference(name):
    cbs,hypers,reference = rows[name]
    assert difference(train(lambda ps: Optimizer(ps, cbs, foreach=False, **hypers))[0], train(reference)[0]) < 1e-12

@each
@pytest.mark.parametrize('way', [{}, pytest.param(dict(fused=True), marks=pytest.mark.slow)], ids=['default', 'fused'])
def test_is_the_same_in_every_way(name, way):
    cbs,hypers,_ = rows[name]
    assert difference(train(lambda ps: Optimizer(ps, cbs, **hypers, **way))[0], train(lambda ps: Optimizer(ps, cbs, foreach=False, **hypers))[0]) < 1e-12

def test_debiased_betas_keep_the_state_of_optimi():
    ours,theirs = [train(make)[1] for make in (lambda ps: Optimizer(ps, debiased_adam, **kw), lambda ps: optimi.Adam(ps, lr=.05, betas=(.9,.99), eps=1e-8))]
    for a,b in zip(ours.state.values(), theirs.state.values()):
        for n,m in dict(grad_avg='exp_avg', sqr_avg='exp_avg_sq').items(): torch.testing.assert_close(a[n], b[m], rtol=1e-12, atol=1e-14)

@pytest.mark.parametrize('way', [dict(foreach=False), {}, pytest.param(dict(fused=True), marks=pytest.mark.slow)], ids=['loop', 'default', 'fused'])
def test_noise_fades(way):
    "The mean is 0, the variance noise_eta/t^noise_gamma"
    p   = torch.zeros(200_000, requires_grad=True)
    opt = Optimizer([p], [step_stat, add_noise], lr=1., noise_eta=.3, **way)
    torch.manual_seed(0)
    draws = []
    for t in range(1, 5):
        before,p.grad = p.detach().clone(),torch.zeros_like(p)
        opt.step()
        draws.append(before-p.detach())
        assert abs(draws[-1].mean())<.01 and abs(draws[-1].var()/(.3/t**.55)-1)<.02
    assert abs(torch.corrcoef(torch.stack(draws[:2]))[0,1])<.02

def test_polyak_reaches_the_known_minimum():
    "Loizou et al. 2021: of a quadratic with minimum 1, the first step is (f - 1)/|g|^2"
    x   = torch.tensor([3., -2.], dtype=torch.float64, requires_grad=True)
    opt = Optimizer([x], [polyak_rate], lr=1., f_min=1., max_lr=10.)
    def closure():
        opt.zero_grad()
        loss = (x*x*x.new_tensor([1., 3.])).sum() + 1
        loss.backward()
        return loss
    opt.step(closure)
    f,g = 9+12,torch.tensor([6., -12.], dtype=torch.float64)
    torch.testing.assert_close(x.detach(), torch.tensor([3., -2.], dtype=torch.float64) - f/(g@g+1e-8)*g)
    for _ in range(60): opt.step(closure)
    assert x.abs().max()<1e-2

@pytest.mark.parametrize('block', [newton_schulz, polar_express])
def test_orthogonal(block):
    "Singular values come near 1, whatever the shape; polar_express as near as one likes"
    for shape in (5,3),(3,5),(4,4),(6,2,3):
        u = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        s = torch.linalg.svdvals(block(u, ns_steps=5, ns_dtype='float64').flatten(1))
        assert .6<s.min() and s.max()<1.25
    exact = torch.linalg.svd(u.flatten(1), full_matrices=False)
    near  = polar_express(u, ns_steps=12, ns_dtype='float64').flatten(1)
    torch.testing.assert_close(near, exact[0]@exact[2], atol=1e-6, rtol=0)

@pytest.mark.parametrize('name,reference,kw', [('DAdaptAdam', dadaptation.DAdaptAdam, {}), ('DAdaptAdam', dadaptation.DAdaptAdam, dict(use_bias_correction=True, growth_rate=1.3)),
                                               ('Prodigy', prodigyopt.Prodigy, {}), ('Prodigy', prodigyopt.Prodigy, dict(safeguard_warmup=True, d_coef=.5))], ids=str)
def test_the_distance_is_estimated_as_by_the_authors(name, reference, kw):
    "On gradients that lead somewhere. On those of the catalogue's tests, which are drawn, the estimate stays where it starts"
    ours,opt = train(lambda ps: getattr(genopt, name)(ps, d0=1e-4, foreach=False, **kw), 60)
    assert opt.state[opt.param_groups[0]['params'][0]]['d']>1e-2
    assert difference(ours, train(lambda ps: quiet(reference)(ps, d0=1e-4, **kw), 60)[0]) < 1e-9

@pytest.mark.parametrize('name', ['Muon', 'NorMuon', 'AdaMuon', 'Shampoo', 'SOAP'])
def test_a_kernel_is_the_matrix_of_its_outputs(name):
    "Of its first dimension and all others"
    def run(shape):
        g   = torch.Generator().manual_seed(0)
        p   = torch.randn(6, 2, 3, generator=g, dtype=torch.float64).reshape(shape).requires_grad_()
        opt = getattr(genopt, name)([p], lr=.05, **dict(ns_dtype='float64') if 'ns_dtype' in getattr(genopt, name).arguments else {})
        for _ in range(15):
            p.grad = torch.randn(6, 2, 3, generator=g, dtype=torch.float64).reshape(shape)
            opt.step()
        return dict(p=p.detach().reshape(6, 6))
    assert difference(run((6,2,3)), run((6,6))) < 1e-10

@pytest.mark.filterwarnings("ignore:LAMB. nothing reads 'always_adapt'")      # where all decay
@pytest.mark.parametrize('wd', [0., .1])
def test_lamb_is_timms_at_timms_defaults(wd):
    "Gradients are clipped together, and there is no ratio where nothing decays. timm adds nothing to the norm, torch and genopt 1e-6"
    ours = lambda ps: LAMB(ps, lr=.05, weight_decay=wd, max_grad_norm=1., always_adapt=False, foreach=False)
    assert difference(train(ours)[0], train(lambda ps: timm.optim.Lamb(ps, lr=.05, weight_decay=wd))[0]) < 1e-5
    unclipped,adapting = [lambda ps,kw=kw: LAMB(ps, lr=.05, weight_decay=wd, foreach=False, **kw) for kw in (dict(always_adapt=False), dict(max_grad_norm=1.))]
    assert difference(train(unclipped)[0], train(ours)[0])>1e-3
    assert (difference(train(adapting)[0], train(ours)[0])>1e-3)==(wd==0)

@pytest.mark.parametrize('kw', [dict(foreach=False), {}], ids=['loop', 'default'])
def test_adahessian_averages_over_kernels_as_timms(kw):
    "Of a function whose Hessian is diagonal any probe gives the diagonal, which has both signs here"
    scale = torch.randn(shapes['conv'], generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    def run(make):
        ps  = [*parameters().values()]
        opt = make(ps)
        def closure():
            opt.zero_grad()
            loss = sum((s*(p**4/4 - p**2/2)).sum() for p,s in zip(ps, (scale, 1., 1., 1.)))
            loss.backward(create_graph=True)
            return loss
        for _ in range(10): opt.step(closure)
        return {str(i): p.detach() for i,p in enumerate(ps)}
    theirs = run(lambda ps: timm.optim.Adahessian(ps, lr=.05, avg_conv_kernel=True))
    ours   = {avg: run(lambda ps: genopt.AdaHessian(ps, lr=.05, avg_conv_kernel=avg, **kw)) for avg in (True, False)}     # noqa: B023
    assert difference(ours[True], theirs)<1e-12 and difference(ours[False], theirs)>1e-3

def test_gaussian_probe_looks_random():
    "Mean, spread and tails of a normal distribution; no element, and no step, tells anything of another; the same for the same step"
    g  = torch.zeros(40, 50, dtype=torch.float64)
    vs = torch.stack([gaussian_probe(g, t)['probe'].flatten() for t in range(1, 2001)])
    assert vs.mean().abs()<3e-3 and (vs.var()-1).abs()<3e-3 and (vs**3).mean().abs()<1e-2 and ((vs**4).mean()-3).abs()<2e-2
    for a in vs,vs.T:
        c = (a.T @ a)/2000
        c.fill_diagonal_(0)
        assert .97 < (c*c).mean()*2000 < 1.03 and c.abs().max()<.14                       # what independent ones would have
    assert torch.equal(gaussian_probe(g, 7)['probe'].flatten(), vs[6])
    torch.testing.assert_close(gaussian_probe(g.float(), 7)['probe'].double().flatten(), vs[6], rtol=1e-4, atol=1e-5)

def test_every_block_is_in_an_algorithm_or_here():
    "And says what it does in a formula or in words, and what it is from"
    root = Path(genopt.__file__).parent
    used = '\n'.join(f.read_text() for f in [*(root/'algorithms').glob('*.py'), root/'fastai.py', Path(__file__), *(Path(__file__).parent/f'test_{n}.py' for n in ('modes', 'random'))])
    for n in blocks.__all__:
        doc = inspect.getdoc(getattr(blocks, n))
        assert re.search(rf'\b{n}\b', used), n
        assert doc and (doc[0].isupper() or doc[0]=='`') and ('`' in doc or len(doc)>40), n


# -- Old names --

@pytest.mark.parametrize('old,new', _renamed.names.items())
def test_old_names_warn(old, new):
    "A block is found under its old name in the package, in its file, and where it was before there was a package"
    block = getattr(blocks, new)
    for module in blocks,sys.modules[block.__module__]:
        with pytest.warns(DeprecationWarning, match=f'the block {old} is now called {new}') as seen: assert getattr(module, old) is block
        assert len(seen)==1 and seen[0].filename==__file__
    with pytest.warns(DeprecationWarning, match=f'genopt.{old} has moved to genopt.blocks.{new}') as seen: assert getattr(genopt, old) is block
    assert len(seen)==1

def test_old_names_are_imported_and_unpickled():
    warns = lambda: pytest.warns(DeprecationWarning, match='the block clip_norm is now called clip_tensor_norm')
    with warns(): exec('from genopt.blocks import clip_norm', found := {})
    with warns(): exec('from genopt.blocks.transforms import clip_norm', also := {})
    with warns(): unpickled = pickle.loads(b'cgenopt.blocks.transforms\nclip_norm\n.')
    assert found['clip_norm'] is also['clip_norm'] is unpickled is clip_tensor_norm

def test_an_old_name_is_found_in_the_file_of_its_block_alone():
    for module,name in (blocks, 'clipnorm'),(blocks.stats, 'clip_norm'),(transforms, 'look_ahead'):
        with pytest.raises(AttributeError, match=f"module '{module.__name__}' has no attribute '{name}'"): getattr(module, name)

def test_names_differ_by_more_than_an_underscore():
    assert not {*blocks.__all__}&_renamed.names.keys()
    assert len({n.replace('_', '') for n in [*blocks.__all__, *genopt.__all__]})==len([*blocks.__all__, *genopt.__all__])

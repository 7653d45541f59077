"""The contract of `genopt.contract`, sentence by sentence, on optimizers small enough to work out by hand."""

import math,pickle
from functools import partial
import pytest,torch
from torch import tensor
import genopt
from genopt import *
from genopt.blocks import *
from genopt.blocks import transforms
from helpers import awkward,gradients


def param(*v): return torch.tensor(v, dtype=torch.float64, requires_grad=True)

def stepped(cbs, p=None, grads=((1.,2.),), **hypers):
    "The parameter, starting at (1,1), after one step for each of `grads`, and its optimizer"
    p = param(1., 1.) if p is None else p
    opt = Optimizer([p], cbs, **(dict(lr=.1)|hypers))
    for g in grads:
        p.grad = tensor(g, dtype=torch.float64)
        opt.step()
    return p.detach(),opt

def close(a, *b): assert torch.allclose(a, torch.tensor(b, dtype=a.dtype), rtol=1e-12, atol=0), a


def test_no_callbacks_is_plain_descent(): close(stepped([])[0], .9, .8)

def test_bare_tensor_is_the_update():
    def double(update): return update*2
    close(stepped([sgd_step, double])[0], .8, .6)

def test_update_is_the_gradient_until_returned():
    "A changed gradient is what moves, when no step says otherwise"
    def clip(grad): return dict(grad=grad.clamp(max=1.5))
    close(stepped([clip])[0], .9, .85)
    def double(update): return update*2
    close(stepped([clip, double])[0], .8, .7)

def test_state_is_kept_under_its_name_and_hypers_in_the_group():
    def both(grad, decay=.5, memory=zeros): return dict(memory=memory*decay + grad, update=memory)
    p,opt = stepped([both], grads=[(1.,2.), (1.,1.)], decay=.25)
    close(p, .9, .8)
    close(opt.state[opt.param_groups[0]['params'][0]]['memory'], 1.25, 1.5)
    assert opt.param_groups[0]['decay']==.25

@pytest.mark.parametrize('init,first', [(zeros, 0.), (ones, 1.), (full(.5), .5), (copy_of_p, 1.)])
def test_initializers(init, first):
    def look(grad, s=init): return dict(s=s, update=s)
    close(stepped([look])[0], *[1-.1*first]*2)

def test_initializer_of_ones_own():
    "Any function of p; the state keeps the shape that it gives, and is counted so"
    def rows(p, grad, row_avg=Init(lambda p: p.new_zeros(p.shape[0])), size=Init(lambda p: p.norm().item())):
        return dict(row_avg=row_avg + grad.sum(1), update=grad*size)
    p = torch.ones(2, 3, dtype=torch.float64, requires_grad=True)
    p,opt = stepped([rows], p, grads=[torch.ones(2,3).tolist()]*2)
    s = opt.state[opt.param_groups[0]['params'][0]]
    close(s['row_avg'], 6., 6.)
    assert s['size']==6**.5 and 'state 16 B' in repr(opt.explain())

def test_host_numbers_are_exact():
    def number(n=count, x=scalar(2.)): return dict(n=n+1, x=x*.1)
    _,opt = stepped([number], grads=[(1.,1.)]*3)
    s = opt.state[opt.param_groups[0]['params'][0]]
    assert s['n']==3 and type(s['n']) is int and s['x']==2*.1*.1*.1

def test_returned_values_pass_on():
    def measure(grad): return dict(size=grad.norm())
    def scale(update, size): return update/size
    close(stepped([measure, scale], grads=[(3.,4.)])[0], 1-.06, 1-.08)

def test_a_hyper_changed_by_a_callback_lasts_one_step():
    def warm(step, lr): return dict(lr=lr*min(1, step/2))
    p,opt = stepped([step_stat, warm], grads=[(1.,1.)]*3)
    close(p, .75, .75)
    assert opt.param_groups[0]['lr']==.1

def test_new_p_makes_the_move():
    seen = []
    def after(p, new_p):
        seen.append((p.clone(), new_p.clone()))
        return dict(new_p=new_p.clamp(min=.85))
    close(stepped([sgd_step, after])[0], .9, .85)
    close(seen[-1][0], 1., 1.); close(seen[-1][1], .9, .8)

def test_returning_new_p_unasked_is_the_move():
    def jump(p, grad): return dict(new_p=p-grad)
    close(stepped([jump])[0], 0., -1.)

def test_lookahead_is_three_lines():
    def lookahead(new_p, step, k=2, alpha=.5, slow=copy_of_p):
        if step%k: return {}
        new = slow + (new_p-slow)*alpha
        return dict(slow=new, new_p=new)
    p,_ = stepped([step_stat, sgd_step, lookahead], grads=[(1.,1.)]*4)
    close(p, 1-.1-.1, 1-.1-.1)

def test_weight_decay_moves_p_before_the_step():
    def toward(p): return dict(update=p)
    close(stepped([weight_decay, toward], wd=.5)[0], .95*.9, .95*.9)

def test_partial_keeps_defaults():
    p,opt = stepped([partial(average_grad, mom=.5, dampening=0.), momentum_step], grads=[(1.,1.)]*2)
    close(p, 1-.1-.15, 1-.1-.15)
    assert opt.param_groups[0]['momentum']==.5

def test_numbers_and_bools_of_a_callback_mix():
    close(stepped([average_grad, momentum_step], mom=.5, dampening=0.)[0], .9, .8)
    close(stepped([partial(average_grad, dampening=0.), momentum_step], mom=.5, dampening=True)[0], .95, .9)

def test_callbacks_from_a_generator_are_kept():
    p,opt = stepped((cb for cb in [average_grad, momentum_step]), grads=[(1.,1.)]*2, mom=.5)
    assert opt.cbs==[average_grad, momentum_step]
    close(p, 1-.05-.075, 1-.05-.075)

def test_a_hyper_may_become_a_tensor_for_one_step():
    def trust(p, grad, lr): return dict(lr=lr*p.norm()/grad.norm())
    close(stepped([trust], grads=[(1.,1.)])[0], .9, .9)

def test_a_name_without_default_may_be_given():
    def scale(update, factor): return update*factor
    _,opt = stepped([scale], factor=3.)
    assert opt.param_groups[0]['factor']==3.

def test_the_move_may_be_made_early_on_some_steps():
    "Gradient accumulation as a callback: off steps leave the parameter, every other step uses the mean"
    def accumulate(p, grad, step, k=2, acc=zeros):
        acc = acc + grad/k
        return dict(acc=acc, new_p=p) if step%k else dict(acc=acc*0, grad=acc)
    close(stepped([step_stat, accumulate, sgd_step], grads=[(1.,2.), (3.,4.)])[0], 1-.2, 1-.3)

def test_results_that_nothing_reads_are_allowed():
    def more(grad, sqr_avg=zeros): return dict(sqr_avg=sqr_avg+grad, sqr_avg_hat=grad, update=grad)
    close(stepped([more])[0], .9, .8)

def test_a_default_of_infinity_and_optional_values():
    def clip(grad, bound=float('inf')): return dict(grad=grad.clamp(max=bound))
    close(stepped([clip])[0], .9, .8); close(stepped([clip], bound=1.)[0], .9, .9)
    @algorithm
    def Opt(lr=.1, clip_at=None): return [clip_at and rename(clip, bound='clip_at')]
    p = param(1.)
    assert Opt([p]).cbs==[] and len(Opt([p], clip_at=.5).cbs)==1

def test_fastcore_lists_and_parameter_lists():
    from fastcore.foundation import L
    @algorithm
    def Listy(lr=.1): return L(average_grad, momentum_step)
    ps = torch.nn.ParameterList([torch.ones(2), torch.ones(3)])
    assert Listy(ps).cbs==[average_grad, momentum_step] and len(Listy(L(L(ps[0]), L(ps[1]))).param_groups)==2
    assert len(Adam([dict(params=ps)]).param_groups[0]['params'])==2

def test_numpy_numbers():
    np = pytest.importorskip('numpy')
    def mean(grad, k=2, total=scalar(0.)): return dict(total=np.float32(total+1), update=grad*len(range(k)))
    _,opt = stepped([mean], k=np.int64(3))
    assert opt.param_groups[0]['k']==3 and type(opt.param_groups[0]['k']) is int
    assert type(opt.state[opt.param_groups[0]['params'][0]]['total']) is float

def test_complex_state():
    "Seen as pairs of reals, in rehearsal as in a step"
    def spectrum(grad, s=Init(lambda p: torch.fft.fft(p)*0)):
        assert s.shape==(*grad.shape, 2)
        return dict(s=s+grad[..., None])
    _,opt = stepped([spectrum])
    assert torch.view_as_real(opt.state[opt.param_groups[0]['params'][0]]['s']).tolist()==[[1.,1.],[2.,2.]]

def test_fake_tensors():
    from torch._subclasses.fake_tensor import FakeTensorMode
    with FakeTensorMode(): assert adam_step in Adam([torch.ones(3, requires_grad=True)]).cbs

def test_nested_lists_and_flags_flatten():
    opt = stepped([[average_grad, [False and l2_reg, None]], momentum_step])[1]
    assert opt.cbs==[average_grad, momentum_step]

def test_rename_reads_keeps_and_returns_other_names():
    slow = rename(average_grad, grad_avg='slow_avg', mom='slow_mom')
    def both(grad_avg, slow_avg): return grad_avg + slow_avg
    _,opt = stepped([average_grad, slow, both], mom=.5, slow_mom=.9)
    s = opt.state[opt.param_groups[0]['params'][0]]
    close(s['grad_avg'], .5, 1.); close(s['slow_avg'], .1, .2)
    assert pickle.loads(pickle.dumps(slow))==slow and hash(slow)==hash(rename(average_grad, grad_avg='slow_avg', mom='slow_mom'))
    def literal(grad): return {'twice': grad*2}
    def other(grad): return literal(grad)
    for f in (literal, other): assert stepped([rename(f, twice='update')])[0].tolist()==stepped([literal, lambda twice: twice])[0].tolist()
    with pytest.raises(TypeError, match="renames 'mum', which average_grad neither reads nor returns, did you mean 'mom'"): stepped([rename(average_grad, mum='x')])


# -- Global callbacks --

def clip_norm(grads, max_norm=1.):
    norm = torch.stack([g.norm() for g in grads]).norm()
    return dict(grads=[g*(max_norm/norm).clamp(max=1) for g in grads], grad_norm=norm)

def test_global_callback_sees_all_active_parameters():
    p,q,frozen = param(1.),param(1.,1.),param(1.)
    opt = Optimizer([dict(params=[p]), dict(params=[q, frozen], lr=1.)], [clip_norm, sgd_step], lr=.1)
    p.grad,q.grad = tensor([2.]).double(),tensor([2.,1.]).double()
    opt.step()
    close(p.detach(), 1-.1*2/3); close(q.detach(), 1-2/3, 1-1/3); close(frozen.detach(), 1.)
    assert opt.param_groups[0]['max_norm']==1.

def test_global_callback_joins_chains_that_differ():
    "Groups whose flags give them different callbacks still meet in the one they share"
    p,q = param(3.),param(4.)
    opt = Optimizer([dict(params=[p], maximize=True), dict(params=[q])], [clip_norm], lr=1.)
    p.grad,q.grad = tensor([3.]).double(),tensor([4.]).double()
    opt.step()
    close(p.detach(), 3.6); close(q.detach(), 3.2)

def test_global_partials_made_anew_still_meet():
    @algorithm
    def Clipped(lr=1., wd=0.): return [wd and l2_reg, partial(clip_norm, max_norm=1.)]
    p,q = param(3.),param(4.)
    opt = Clipped([dict(params=[p], wd=1e-30), dict(params=[q])], lr=1.)
    p.grad,q.grad = tensor([3.]).double(),tensor([4.]).double()
    opt.step()
    close(p.detach(), 3-.6); close(q.detach(), 3.2)

def test_equal_values_of_two_groups_are_one():
    p,q = param(3.),param(4.)
    opt = Optimizer([dict(params=[p], max_norm=float('2.5')), dict(params=[q], max_norm=float('2.5'), lr=.5)], [clip_norm], lr=1., foreach=False)
    p.grad,q.grad = tensor([3.]).double(),tensor([4.]).double()
    opt.step()
    close(p.detach(), 1.5); close(q.detach(), 3.)

def test_global_callback_needs_one_value():
    p,q = param(3.),param(4.)
    opt = Optimizer([dict(params=[p]), dict(params=[q])], [clip_norm], lr=1.)
    opt.param_groups[1]['max_norm'] = 2.                                    # as a schedule may; at construction it is refused
    p.grad = q.grad = tensor([3.]).double()
    with pytest.raises(ValueError, match="clip_norm runs once over all parameters, so 'max_norm' must be the same for every parameter; got 1.0 and 2.0"): opt.step()
    close(p.detach(), 3.)

@pytest.mark.parametrize('max_norm', [0., .5, 5., 100., float('inf')])
def test_clip_grad_norm_is_torchs(max_norm):
    "Over all groups, whatever gradients are missing, of two dtypes; and `p.grad` stays"
    def made():
        ps = awkward()
        ps |= {f'{n}32': ps[n].detach().float().requires_grad_() for n in ('matrix', 'scalar')}
        return ps,[dict(params=[*ps.values()][::2]), dict(params=[*ps.values()][1::2], lr=.03)]
    (ps,groups),(qs,others) = made(),made()
    opt,ref = Optimizer(groups, [clip_grad_norm, average_grad, momentum_step], lr=.1, dampening=0., max_norm=max_norm, foreach=True),torch.optim.SGD(others, lr=.1, momentum=.9)
    for i in range(12):
        gs = gradients(i)
        gs |= {n: gs[n[:-2]] for n in ps if n[-2:]=='32'}
        for n,g in gs.items():
            for p in (ps[n],qs[n]): p.grad = g if g is None else g.to(p.dtype, copy=True)
        before = {n: (p.grad, p.grad._version, p.grad.clone()) for n,p in ps.items() if p.grad is not None}
        opt.step()
        torch.nn.utils.clip_grad_norm_(qs.values(), max_norm)
        ref.step()
        for n,(g,version,old) in before.items(): assert ps[n].grad is g and g._version==version and torch.equal(g, old)
    for n in ps: torch.testing.assert_close(ps[n], qs[n], rtol=1e-12 if ps[n].dtype==torch.float64 else 1e-6, atol=1e-15 if ps[n].dtype==torch.float64 else 1e-6)

def test_clip_grad_norm_in_front_of_an_algorithm():
    "Changes what the statistics see"
    runs = []
    for clipped in (True, False):
        p,q = param(1., 1.),param(1.)
        opt = Optimizer([p, q], [clipped and clip_grad_norm, Adam.build(betas=(.9,.99))], lr=.1, betas=(.9,.99))
        for g in (3., .1, -4.):
            p.grad,q.grad = tensor([g, 1.]).double(),tensor([2*g]).double()
            if not clipped: torch.nn.utils.clip_grad_norm_([p, q], 1.)
            opt.step()
        runs.append(torch.cat([p, q]).detach())
    torch.testing.assert_close(*runs, rtol=1e-12, atol=0)


# -- Blocks that look at a whole tensor --

def test_trust_ratio_makes_the_update_as_long_as_the_parameter():
    close(stepped([scale_by_trust_ratio], grads=[(3.,4.)])[0], 1-.1*.6*2**.5, 1-.1*.8*2**.5)

@pytest.mark.parametrize('p,g', [((0.,0.), (1.,2.)), ((1.,2.), (0.,0.)), ((0.,0.), (0.,0.))])
def test_trust_ratio_of_nothing_is_one(p, g):
    close(stepped([scale_by_trust_ratio], param(*p), grads=[g])[0], *[a-.1*b for a,b in zip(p, g)])

def test_decay_inside_and_outside_of_the_trust_ratio():
    close(stepped([add_decayed_weights, scale_by_trust_ratio], grads=[(3.,4.)], wd=1.)[0], *[1-.1*u*2**.5/41**.5 for u in (4.,5.)])
    close(stepped([scale_by_trust_ratio, add_decayed_weights], grads=[(3.,4.)], wd=1.)[0], *[1-.1*(u*2**.5/5+1) for u in (3.,4.)])


# -- Nothing by halves --

@pytest.mark.parametrize('when', ['first', 'last'])
def test_a_failing_step_changes_nothing(when):
    "Whichever parameter fails, no parameter, state or counter has changed"
    def fails(grad, step):
        if step==3 and grad.isinf().any(): raise RuntimeError('bad gradient')
        return grad
    ps = list(awkward().values())
    opt = Optimizer(ps, [step_stat, average_grad, fails], lr=.1)
    for _ in range(2):
        for p in ps: p.grad = torch.ones_like(p)
        opt.step()
    ps[0 if when=='first' else -1].grad.fill_(float('inf'))
    before = [p.detach().clone() for p in ps],[{k: v.clone() if torch.is_tensor(v) else v for k,v in opt.state[p].items()} for p in ps]
    with pytest.raises(RuntimeError, match='bad gradient'): opt.step()
    for p,old,state in zip(ps, *before):
        assert torch.equal(p, old) and opt.state[p].keys()==state.keys()
        for k,v in state.items(): assert torch.equal(opt.state[p][k], v) if torch.is_tensor(v) else opt.state[p][k]==v

def test_a_failing_first_step_leaves_no_state():
    ready = []
    def fails(grad, s=zeros):
        ready.append(1)
        if ready[0]=='now' and len(ready)==3: raise RuntimeError('the second parameter')
        return dict(s=s+grad)
    p,q = param(1.),param(1.)
    opt = Optimizer([p, q], [fails], lr=.1)
    ready[:] = ['now']
    p.grad = q.grad = tensor([1.]).double()
    with pytest.raises(RuntimeError, match='the second parameter'): opt.step()
    assert not opt.state and p.item()==q.item()==1.

def test_values_that_are_one_anothers_stores():
    "States that swap, a state that is the gradient or the parameter: each gets the value it had, and a copy of it"
    def swap(p, grad, a=zeros, b=ones, last_grad=zeros, last_p=zeros): return dict(a=b, b=a, last_grad=grad, last_p=p)
    p,opt = stepped([swap], grads=[(1.,2.), (3.,4.)])
    s = opt.state[opt.param_groups[0]['params'][0]]
    close(s['a'], 0., 0.); close(s['b'], 1., 1.); close(s['last_grad'], 3., 4.); close(s['last_p'], .9, .8)
    opt.param_groups[0]['params'][0].grad.zero_()
    close(s['last_grad'], 3., 4.)

def test_what_cannot_be_written_changes_nothing():
    "A state that takes another shape after construction: told before anything is written"
    ready = []
    def grows(grad, s=zeros): return dict(s=torch.zeros(3) if ready and grad.shape==(20,) else s+grad)
    p,q = torch.ones(5, requires_grad=True),torch.ones(20, requires_grad=True)
    opt = Optimizer([p, q], [grows], lr=.1)
    ready.append(1)
    p.grad,q.grad = torch.ones(5),torch.ones(20)
    with pytest.raises(ValueError, match=r'Optimizer: grows changed s from a tensor of shape \(20,\) to a tensor of shape \(3,\)'): opt.step()
    assert torch.equal(p, torch.ones(5)) and torch.equal(q, torch.ones(20)) and not opt.state

@pytest.mark.parametrize('init,value,words', [(zeros, 0., 'from a tensor of shape .1,. to a float'), (scalar(0.), torch.zeros(1), 'from a float to a tensor of shape .1,.')])
def test_a_late_change_of_kind_changes_nothing(init, value, words):
    ready = []
    def turns(grad, s=init): return dict(s=value if ready else s, update=grad)
    p = torch.ones(1, requires_grad=True)
    opt = Optimizer([p], [turns], lr=.1)
    ready.append(1)
    p.grad = torch.ones(1)
    with pytest.raises(ValueError, match=words): opt.step()
    assert p.item()==1. and not opt.state

def test_loading_does_not_rehearse_again():
    calls = []
    def tap(grad): calls.append(1); return {}
    p,opt = stepped([tap])
    n = len(calls)
    opt.load_state_dict(opt.state_dict())
    opt.step()
    assert len(calls)==n+1

def test_a_late_write_in_place_is_told():
    ready = []
    def clips(grad): return dict(grad=grad.clamp_(max=.5) if ready else grad)
    p = torch.ones(3, requires_grad=True)
    opt = Optimizer([p], [clips], lr=.1)
    ready.append(1)
    p.grad = torch.ones(3)
    with pytest.raises(RuntimeError, match='a callback of clips wrote in place'): opt.step()
    assert torch.equal(p, torch.ones(3))

def test_a_state_may_be_another_view_of_itself():
    def turns(grad, s=Init(lambda p: torch.arange(4.).view(2,2))): return dict(s=s.T, update=grad)
    p,opt = stepped([turns], torch.ones(2, 2, dtype=torch.float64, requires_grad=True), grads=[[[1.,1.],[1.,1.]]])
    assert opt.state[opt.param_groups[0]['params'][0]]['s'].tolist()==[[0.,2.],[1.,3.]]

def test_states_of_other_dtypes():
    "bool and integer tensors are what they are, also beside a low-precision parameter; a state never follows the parameter"
    def masked(grad, seen=Init(lambda p: torch.zeros(p.shape, dtype=torch.bool)), n=Init(lambda p: torch.zeros(p.shape, dtype=torch.uint8)), start=Init(lambda p: p)):
        return dict(seen=seen|(grad>0), n=(n>>1)+1, update=torch.where(seen, grad, grad*2))
    p = torch.ones(2, dtype=torch.bfloat16, requires_grad=True)
    opt = Optimizer([p], [masked], lr=.5)
    p.grad = torch.ones_like(p)
    opt.step()
    s = opt.state[p]
    assert s['seen'].dtype==torch.bool and s['seen'].all() and s['n'].dtype==torch.uint8 and s['start'].tolist()==[1.,1.] and p.tolist()==[0.,0.]

def test_true_sizes_are_tried_where_small_ones_fail():
    def in_blocks(grad): return grad.view(-1, 64).sign().view_as(grad)
    p = torch.ones(32, 40, dtype=torch.float64, requires_grad=True)
    moved,_ = stepped([in_blocks], p, grads=[torch.ones(32,40).tolist()])
    assert (moved<1).all() and len(moved.unique())==1

def test_rehearsal_works_under_a_default_device():
    with torch.device('meta'): opt = Adam([torch.ones(3, device='cpu', requires_grad=True)])
    assert adam_step in opt.cbs

def test_rehearsal_leaves_random_numbers_alone():
    def noise(grad): return grad + torch.rand_like(grad)
    torch.manual_seed(0)
    Optimizer([param(1., 2.)], [noise], lr=.1)
    a = torch.rand(3)
    torch.manual_seed(0)
    assert torch.equal(a, torch.rand(3))


def first(grad, a=zeros, k=1.): return dict(a=a+grad)
def second(grad, s=zeros, mom=.9): return dict(s=s+grad)
def other_init(grad, s=ones): return grad+s
def other_kind(grad, s=.5): return grad*s
def other_default(grad, mom=.5): return grad*mom

@pytest.mark.parametrize('cb,words', [(other_init,    'other_init declares the state s=ones, but second declares s=zeros; rename one: rename.other_init, s='),
                                      (other_kind,    "other_kind declares 's' a hyper-parameter, but in second it is a state"),
                                      (other_default, 'other_default has the default mom=0.5, but second has mom=0.9')], ids=['init', 'kind', 'default'])
def test_an_error_names_the_callback_that_declared_it(cb, words):
    "It need not be the first of the list"
    with pytest.raises(ValueError, match=words): Optimizer([param(1.)], [first, second, cb], lr=.1)

def test_what_is_known_of_callbacks_is_bounded(monkeypatch):
    "A process that makes new ones without end keeps the newest"
    from genopt.contract import chain
    for n,v in dict(chains={}, learned={}, most=3).items(): monkeypatch.setattr(chain, n, v)
    cbs = [lambda grad, k=k: grad*k for k in map(float, range(6))]
    for cb in cbs: chain.chain_of([cb])
    assert [c.cbs for c in chain.chains.values()]==[(cb,) for cb in cbs[-3:]] and {k for k,_ in chain.chains}==chain.learned.keys()


# -- Hypers in two spellings --

def test_hypers_are_a_live_view():
    opt = Adam([param(1.)], lr=.1, mom=.8, wd=.2)
    g,h = opt.param_groups[0],opt.hypers[0]
    assert g['betas']==(.8, .999) and g['weight_decay']==.2 and h['mom']==.8 and h['wd']==.2 and h['betas']==(.8, .999)
    h['sqr_mom'] = .9
    opt.param_groups[0]['lr'] = .5
    assert g['betas']==(.8, .9) and opt.hypers[-1]['lr']==.5 and dict(h)['mom']==.8
    with pytest.raises(KeyError, match='nonsense'): h['nonsense'] = 1
    assert 'nonsense' not in g and 'nonsense' not in h

def test_bare_optimizer_speaks_torch_too():
    opt = stepped([average_grad, average_sqr_grad, step_stat, debias, adam_step], betas=(.5,.6))[1]
    assert opt.param_groups[0]['betas']==(.5,.6) and 'betas' in opt.defaults and 'mom' not in opt.param_groups[0]
    assert stepped([average_grad, momentum_step], mom=.3)[1].param_groups[0]['momentum']==.3
    assert stepped([average_sqr_grad, rms_prop_step], sqr_mom=.3)[1].param_groups[0]['alpha']==.3

def test_a_callbacks_own_name_is_not_an_alias():
    def mix(grad, alpha=.5, sqr_avg=zeros): return dict(sqr_avg=sqr_avg, update=grad*alpha)
    opt = stepped([average_sqr_grad, mix], alpha=.25, sqr_mom=.9)[1]
    assert opt.param_groups[0]['alpha']==.25 and opt.param_groups[0]['sqr_mom']==.9

def test_an_algorithms_own_alpha_is_no_alias():
    def half(new_p, step, k=2, alpha=.5, slow=copy_of_p):
        if step%k: return {}
        return dict(slow=(n := slow+(new_p-slow)*alpha), new_p=n)
    @algorithm
    def LookRMS(lr=1e-2, k=2, alpha=0.5): return [average_sqr_grad, rms_prop_step, step_stat, half]
    opt = LookRMS([param(1.)], alpha=.25)
    assert opt.param_groups[0]['alpha']==.25 and opt.hypers[0]['alpha']==.25 and opt.hypers[0]['sqr_mom']==.99
    assert 'sqr_mom=0.99' in repr(opt.explain())

def test_torchs_spelling_of_names_that_are_together():
    opt = stepped([average_sqr_grad, rms_prop_step, heavy_ball], alpha=.9, momentum=.8)[1]
    assert opt.param_groups[0]['betas']==(.8, .9)
    @algorithm
    def Heavy(lr=.1, mom=.9, wd=0.): return [wd and l2_reg, average_grad, momentum_step]
    opt = Heavy([param(1.)], momentum=.5, weight_decay=.1)
    assert opt.param_groups[0]['momentum']==.5 and opt.cbs==[l2_reg, average_grad, momentum_step]

def test_a_callback_may_ask_in_torchs_spelling():
    "`momentum` and `mom` are one value, whichever a callback asks for; a state of that name is its own"
    def nest(grad, grad_avg, momentum): return grad + grad_avg*momentum
    def keeps(grad, momentum=zeros, mom=.9): return dict(momentum=momentum*mom + grad, update=momentum)
    @algorithm
    def Nest(lr=.1, momentum=.9, dampening=0.): return [average_grad, nest]
    @algorithm
    def Keeps(lr=.1, momentum=.9): return [keeps]
    opts = [Nest([p := param(1.)], momentum=.5), Optimizer([p], [partial(average_grad, dampening=0.), nest], lr=.1, mom=.5),
            Optimizer([p], [partial(average_grad, dampening=0.), nest], lr=.1, momentum=.5), Keeps([p], momentum=.5)]
    for opt in opts:
        assert opt.param_groups[0]['momentum']==.5 and 'mom' not in opt.param_groups[0] and 'mom=0.5' in repr(opt.explain())

def test_a_hyper_that_a_callback_changes():
    def anneal(step, sigma): return dict(sigma=sigma/step)
    def scale(update, sigma): return update*sigma
    p,opt = stepped([step_stat, anneal, scale], grads=[(1.,1.)]*2, sigma=2.)
    close(p, 1-.2-.1, 1-.2-.1)
    assert opt.param_groups[0]['sigma']==2.

def test_two_spellings_in_one_group_are_told():
    opt = Adam([p := param(1.)])
    opt.param_groups[0]['mom'] = .5
    p.grad = tensor([1.]).double()
    with pytest.raises(ValueError, match="both 'betas' and 'mom', which are the same thing"): opt.step()

def test_a_setting_without_effect_is_told():
    @algorithm
    def Odd(lr=.1, beta1=.5, mom=.9): return [average_grad, momentum_step]
    with pytest.warns(UserWarning, match="Odd: nothing reads 'beta1' with these settings, so beta1=0.1 has no effect"): Odd([param(1.)], beta1=.1)

@pytest.mark.parametrize('interval,inside,outside', [('[0,1)', (0., .5), (-1e-9, 1.)), ('(0,inf)', (1e-9, 1e9), (0., math.inf)), ('[0,inf]', (0., math.inf), (-1e-9,)),
                                                     ('(-1,1]', (0., 1.), (-1., 1+1e-9))])
def test_a_range_ends_as_it_is_written(interval, inside, outside):
    assert all(v in Range(interval) for v in inside) and not any(v in Range(interval) for v in (*outside, math.nan))

def test_ranges_survive_annotations_that_are_strings():
    src = "from __future__ import annotations\nfrom genopt import *\ndef f(grad, k:fraction=.5): return grad*k"
    exec(src, ns := {})
    with pytest.raises(ValueError, match=r'Invalid k value: 5.0; Optimizer needs it in \[0,1\), as f declares'): Optimizer([param(1.)], [ns['f']], lr=.1, k=5.)

def test_global_callback_of_some_parameters_only():
    "One that needs a matrix is rehearsed on a bias alone; that is no reason to refuse it"
    def clip_matrices(grads):
        norm = torch.stack([g.norm() for g in grads if g.ndim>1]).norm()
        return [g/norm for g in grads]
    m = torch.nn.Linear(3, 2, dtype=torch.float64)
    opt = Optimizer(m.parameters(), [clip_matrices], lr=1.)
    before = m.bias.detach().clone()
    m.weight.grad,m.bias.grad = torch.ones(2,3).double(),torch.ones(2).double()
    opt.step()
    close(before-m.bias.detach(), 6**-.5, 6**-.5)

def test_global_callback_twice_in_one_group():
    def half(grads): return dict(grads=[g/2 for g in grads])
    @algorithm
    def Halves(lr=1., twice=False): return [half, twice and half]
    opt = Halves([dict(params=[p := param(1.)]), dict(params=[q := param(1.)], twice=True)])
    p.grad = q.grad = tensor([1.]).double()
    opt.step()
    close(p.detach(), .5); close(q.detach(), .75)

def test_renamed_lists():
    def half(grads): return [g/2 for g in grads]
    close(stepped([rename(half, updates='grads'), sgd_step])[0], .95, .9)

def test_rename_of_a_partial_made_anew():
    def use(slow): return slow
    @algorithm
    def Slow(lr=.1): return [rename(partial(average_grad, dampening=0.), grad_avg='slow'), use]
    @algorithm
    def Beaten(lr=.1, momentum=.9): return [rename(partial(average_grad, mom=.5), grad_avg='slow'), use]
    assert len(Slow([param(1.)]).cbs)==2
    with pytest.raises(TypeError, match="gives 'mom', which Beaten has as an argument"): Beaten([param(1.)])

def test_global_callbacks_in_two_orders_are_told():
    def one(grads):
        norm = torch.stack([g.norm() for g in grads]).norm()
        return dict(grads=[g/norm for g in grads])
    def two(grads):
        norm = sum((g*g).sum() for g in grads)
        return dict(grads=[g/norm for g in grads])
    @algorithm
    def Orders(lr=1., turn=False): return [two, one] if turn else [one, two]
    opt = Orders([dict(params=[p := param(1.)]), dict(params=[q := param(1.)], turn=True)])
    p.grad = q.grad = tensor([1.]).double()
    with pytest.raises(ValueError, match='for all parameters in different orders'): opt.step()

def test_flags_are_read_from_the_group():
    "As in torch: a group may have its own flags, and turn them on later; the chain follows"
    p,q = param(1.),param(1.)
    opt = Adam([dict(params=[p], amsgrad=True), dict(params=[q])], lr=.1)
    p.grad = q.grad = tensor([1.]).double()
    opt.step()
    assert 'max_sqr_avg' in opt.state[p] and 'max_sqr_avg' not in opt.state[q]
    opt.param_groups[1]['amsgrad'] = True
    opt.step()
    assert 'max_sqr_avg' in opt.state[q] and max_sqr_grad in opt.cbs

def test_algorithm_from_an_expression_of_blocks():
    @algorithm
    def Plain(lr=.5, wd=0.):
        "Nothing but the gradient"
        return [wd and weight_decay]
    p = param(1.)
    p.grad = tensor([1.]).double()
    opt = Plain([p])
    opt.step()
    close(p.detach(), .5)
    assert Plain.__name__=='Plain' and Plain.__doc__=='Nothing but the gradient' and Plain([p], .1, wd=.1).cbs==[weight_decay]


# -- What a user looks at --

def test_repr_is_short_and_true():
    assert repr(SGD([param(1.)], lr=.1, momentum=.9))=='SGD(average_grad > momentum_step; lr=0.1, momentum=0.9, dampening=0, weight_decay=0; 1 tensor in 1 group)'

def test_repr_shows_where_groups_differ():
    p,q,r = [torch.ones(2, requires_grad=True) for _ in range(3)]
    opt = Adam([dict(params=[p]), dict(params=[q], lr=.5, amsgrad=True), dict(params=[r], lr=.5)], betas=(.8,.9))
    assert repr(opt).endswith('; lr=0.001 | 0.5, betas=(0.8, 0.9), eps=1e-08, weight_decay=0, amsgrad=False | True; 3 tensors in 3 groups)')

def test_explain_has_a_table_for_each_chain():
    ps = [torch.ones(2, requires_grad=True) for _ in range(3)]
    text = repr(Adam([dict(params=ps[:1], amsgrad=True), dict(params=ps[1:2]), dict(params=ps[2:], lr=.5)]).explain())
    assert ', group 0;' in text and ', groups 1, 2;' in text and text.count('the move')==2 and 'lr=0.001 | 0.5' in text

def test_explain():
    m = torch.nn.Linear(100, 10)
    opt = Adam([dict(params=[m.weight]), dict(params=[m.bias], lr=.5)], weight_decay=.1)
    text = repr(opt.explain())
    rows = {l.split('  ')[0]: l for l in text.splitlines()}
    assert '2 tensors, 1,010 elements; state 8.08 kB, a step moves 28.3 kB: 8 and 28 B for each element' in text
    assert 'grad_avg=zeros 4 B' in rows['average_grad'] and 'mom=0.9' in rows['average_grad']
    assert rows['debias'].split()[-1]=='host' and 'debias1, debias2' in rows['debias'] and 'step=count host' in rows['step_stat']
    assert 'lr=0.001 | 0.5' in rows['the move'] and 'wd=0.1' in rows['l2_reg']
    html = opt.explain()._repr_html_()
    assert html.count('<table>')==1 and 'adam_step' in html
    bf = repr(Adam([torch.ones(10, dtype=torch.bfloat16, requires_grad=True)]).explain())
    assert 'grad_avg=zeros 4 B' in bf

def test_every_block_documents_its_formula():
    for m in (genopt.blocks.stats, genopt.blocks.steps, genopt.blocks.transforms):
        for n in m.__all__: assert (d := getattr(m, n).__doc__) and len(d)>20, n

def test_a_flag_set_later_is_refused_as_often_as_it_is_seen():
    p = torch.ones(2, requires_grad=True)
    opt,p.grad = genopt.Adam([p], lr=.1),torch.ones(2)
    opt.step()
    opt.param_groups[0]['amsgrad'],before = 'x',p.detach().clone()
    for _ in range(3):
        with pytest.raises(TypeError, match="amsgrad must be True or False, got 'x'"): opt.step()
    assert torch.equal(p, before)
    opt.param_groups[0]['amsgrad'] = True
    opt.step()
    assert 'max_sqr_avg' in opt.state[p]


# -- Names of any kind, lists of any name --

def test_a_global_callback_reads_lists_of_any_name():
    "The plural of what callbacks before it returned, or of a state; what it returns in the plural is for each parameter"
    def size(p, grad, travelled=scalar_tensor(0.)): return dict(length=grad.norm(), travelled=travelled+grad.norm())
    def share(lengths, travelleds, ts=scalar(0.)): return dict(parts=[l/sum(lengths) for l in lengths], ts=[t+1 for t in ts], far=torch.stack(travelleds).sum())
    def step(grad, part, far): return grad*part*far
    res = []
    for way in (dict(foreach=False), {}):
        ps  = [torch.full((n,), 2., dtype=torch.float64, requires_grad=True) for n in (1, 4)]
        opt = Optimizer(ps, [size, share, step], lr=1., **way)
        for p in ps: p.grad = torch.ones_like(p)
        opt.step()
        res.append(ps)
        assert [opt.state[p]['t'] for p in ps]==[1., 1.] and opt.state[ps[1]]['travelled']==2.
    assert torch.equal(res[0][0], res[1][0]) and res[0][0].item()==2.-1/3*3. and res[1][1].tolist()==[2.-2/3*3.]*4

@pytest.mark.parametrize('out,words', [(dict(parts=1.), 'returned a float for parts; return a list'), (dict(parts=[1.]), 'returned 1 parts for 2 parameters')])
def test_a_list_that_is_none_is_refused(out, words):
    def share(grads, parts=scalar(0.)): return out
    ps = [torch.ones(n, requires_grad=True) for n in (2, 3)]
    for p in ps: p.grad = torch.ones_like(p)
    with pytest.raises((TypeError, ValueError), match=words): Optimizer(ps, [share], lr=.1).step()

@pytest.mark.parametrize('kw', [dict(foreach=False), {}], ids=['loop', 'default'])
def test_a_list_of_states_makes_a_callback_global(kw):
    "Without any other list"
    def moves(grad, t=scalar(0.)): return dict(t=t+1, update=grad)
    def most(ts=scalar(0.)): return dict(far=max(ts))
    def times(update, far): return update*far
    ps  = [param(1.), param(1.)]
    opt = Optimizer(ps, [moves, most, times], lr=.1, **kw)
    for there in ((True, False), (True, True)):
        for p,t in zip(ps, there): p.grad = torch.ones_like(p) if t else None
        opt.step()
    close(ps[0].detach(), 1-.1-.2); close(ps[1].detach(), 1-.2)

@pytest.mark.parametrize('kw', [dict(foreach=False), {}], ids=['loop', 'default'])
def test_what_a_global_callback_returns_for_all(kw):
    "A number whose name ends in s, and a pair whose name does not, are no lists over all parameters"
    def share(grads, eps=0.): return dict(grads=grads, eps=.5, pair=(1., 3.))
    def step(grad, eps, pair): return (grad+eps)*pair[1]
    ps  = [param(1.), param(1., 1.), param(1.)]
    opt = Optimizer(ps, [share, step], lr=.1, **kw)
    for p in ps: p.grad = torch.ones_like(p)
    opt.step()
    for p in ps: close(p.detach(), *[1-.1*4.5]*len(p))

def test_a_state_of_a_global_callback_is_in_the_plural():
    def f(grads, total=scalar(0.)): return {}
    with pytest.raises(TypeError, match="it runs once for all parameters, so the state 'total' comes as a list; call it 'totals'"): Optimizer([torch.ones(1)], [f], lr=.1)

@pytest.mark.parametrize('way', [dict(foreach=False), {}, pytest.param(dict(fused=True), marks=pytest.mark.slow)])
def test_states_of_any_name(way):
    "Those of builtins and of torch, and in capitals"
    def f(grad, G=zeros, max=zeros, mul=zeros, sum=scalar_tensor(1.)): return dict(G=G+grad, max=max*2+G, mul=mul+max, sum=sum+grad.sum(), update=G+mul*sum)
    p   = torch.ones(2, dtype=torch.float64, requires_grad=True)
    opt = Optimizer([p], [f], lr=.5, **way)
    for _ in range(3):
        p.grad = torch.ones_like(p)
        opt.step()
    G = m = u = 0.; s = 1.; x = 1.
    for _ in range(3): x,G,m,u,s = x-.5*(G+u*s),G+1,m*2+G,u+m,s+2
    assert p.tolist()==[x]*2 and opt.state[p]['sum']==s==7.

def test_one_number_for_each_parameter():
    "`scalar_tensor` is a tensor of no dimensions, in the precision that is computed in, which scheduling and saving leave alone"
    def norm_avg(grad, v=scalar_tensor(.5)): return dict(v=v*.5 + grad.norm()*.5)
    for dtype,kept in ((torch.float64,)*2, (torch.float32,)*2, (torch.bfloat16, torch.float32)):
        p   = torch.ones(4, dtype=dtype, requires_grad=True)
        opt = Optimizer([p], [norm_avg], lr=.5)
        p.grad = torch.ones_like(p)
        opt.step()
        v = opt.state[p]['v']
        assert v.shape==() and v.dtype==kept and v==1.25
        assert 'v=scalar_tensor(0.5)' in repr(opt.explain())


# -- Algorithms among callbacks --

def test_an_algorithm_in_a_list():
    "Clipped before, cautious after: with the algorithm's own arguments, and the same as its blocks written out"
    def train(cbs, **kw):
        ps  = [torch.linspace(-1, 1, 6).requires_grad_(), torch.ones(2, 2).requires_grad_()]
        opt = Optimizer(ps, cbs, lr=.1, **kw)
        for i in range(5):
            for p in ps: p.grad = torch.cos(p.detach()*(i+1))*9
            opt.step()
        return opt,[p.detach() for p in ps]
    opt,ours = train([clip_grad_norm, AdamW, cautious], betas=(.8,.95), max_norm=2.)
    blocks   = train([clip_grad_norm, transforms.weight_decay, average_grad, average_sqr_grad, step_stat, debias, adam_step, cautious],
                     mom=.8, sqr_mom=.95, max_norm=2., wd=1e-2, eps=1e-8)[1]
    assert all(map(torch.equal, ours, blocks)) and opt.param_groups[0]['weight_decay']==1e-2 and opt.param_groups[0]['betas']==(.8,.95)

def test_two_algorithms_in_a_list_are_refused():
    with pytest.raises(TypeError, match='AdamW.*Lion'): Optimizer([torch.ones(2, requires_grad=True)], [AdamW, Lion], lr=.1)


# -- Tuples of torch's spelling --

def test_more_than_two_betas_and_two_epsilons():
    def f(grad, mom:fraction=.9, sqr_mom:fraction=.99, mom3:fraction=.5, eps:nonneg=1e-8, eps2:nonneg=1e-3): return grad*mom3
    opt = Optimizer([torch.ones(2, requires_grad=True)], [f], lr=.1, betas=(.1,.2,.3), eps=(1e-4,1e-5))
    h   = opt.hypers[0]
    assert [h[k] for k in ('mom','sqr_mom','mom3','eps','eps2')]==[.1,.2,.3,1e-4,1e-5]
    h['mom3'] = .7
    assert opt.param_groups[0]['betas']==(.1,.2,.7)
    with pytest.raises(ValueError, match=r'Invalid beta parameter at index 2: 1.3; Optimizer needs it in \[0,1\)'): Optimizer([torch.ones(2, requires_grad=True)], [f], lr=.1, betas=(.1,.2,1.3))

def test_a_list_of_what_was_returned_by_a_helper():
    "`sizes` is a list because the callback before returned `size`, wherever in its code that name stands"
    def measured(grad): return dict(size=grad.norm())
    def helper(grad): return measured(grad)
    def share(sizes): return dict(parts=[s/sum(sizes) for s in sizes])
    for way in (dict(foreach=False), {}):
        ps  = [torch.zeros(n, dtype=torch.float64, requires_grad=True) for n in (1, 4)]
        opt = Optimizer(ps, [helper, share, lambda grad, part: grad*part], lr=1., **way)
        for p in ps: p.grad = torch.ones_like(p)
        opt.step()
        assert [p[0].item() for p in ps]==[-1/3, -2/3]

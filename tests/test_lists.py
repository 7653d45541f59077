"""Lists as people write them: any callable as a callback, an algorithm among blocks, a name that two of them have. Such a list comes to the right
values in all ways of running, or is refused by name, and the remedy that the error gives is one that works."""

import functools,math,re,warnings
from functools import partial
import pytest,torch
from torch import nn
import genopt
from genopt import Optimizer,blocks,count,rename,zeros
from genopt.contract.block import Block
from genopt.contract.names import name_of
from helpers import closure_of

way  = dict(loop=dict(foreach=False), foreach=dict(foreach=True), fused=dict(fused=True))
ways = pytest.mark.parametrize('kw', way.values(), ids=way)

def P(*shape, v=1.): return nn.Parameter(torch.full(shape or (3,), v))
def took(ps, opt, gs=(1.,)):
    "Steps with these gradients; returns the optimizer"
    for g in gs:
        for p in ps: p.grad = torch.full_like(p, g)
        opt.step()
    return opt
def moved(cbs, gs=(1., 1.), **kw):
    "What a parameter of ones has lost after steps with these gradients"
    p = P()
    took([p], Optimizer([p], cbs, **dict(lr=.1) | kw), gs)
    return 1-p[0].item()
def refused(error, words, make):
    with pytest.raises(error, match=f'(?s){words}') as e: make()
    assert type(e.value) is error and len(str(e.value))<500
def called(o): return '-'.join(map(name_of, o)) if isinstance(o, list) else name_of(o) if callable(o) else ''


# -- Names that look like lists --

def scales(grad, rate=.5): return dict(grad=grad*rate, rate=rate)
def keeps(grad, rate=zeros): return dict(rate=rate+grad)
def plural_hyper(grad, rates=.5): return grad*rates
def plural_without_default(grad, rate, rates): return grad*rates
def plural_of_all(grads, rates=.5): return [g*rates for g in grads]
def plural_of_given(grad, ps=.5): return grad*ps
def list_of_rates(grads, rates): return [g*r for g,r in zip(grads, rates)]

@ways
@pytest.mark.parametrize('cbs,lost', [
    ([scales, plural_hyper], .05), ([scales, plural_of_all], .05), ([keeps, plural_hyper], .1), ([plural_of_given], .1),
    ([scales, plural_without_default], .1)], ids=called)
def test_a_plural_hyper_is_a_hyper(cbs, lost, kw):
    "`rates` beside a `rate`, which an earlier callback returns or keeps, is no list over all parameters"
    more = dict(rates=1.) if plural_without_default in cbs else {}
    assert math.isclose(moved(cbs, **kw, **more), lost, rel_tol=1e-5)
    opt = Optimizer([P()], cbs, lr=.1, **kw, **more)
    assert len({'rates','ps'}&{*opt.param_groups[0]})==1

@ways
def test_a_plural_without_default_is_still_the_list(kw):
    assert math.isclose(moved([keeps, list_of_rates], **kw), .3, rel_tol=1e-5)                 # the state is 1, then 2

def test_a_list_beside_a_gradient_is_refused(): refused(ValueError, "reads 'rates', which nothing before it provides, did you mean 'rate'",
                                                        lambda: Optimizer([P()], [keeps, plural_without_default_of_its_own], lr=.1))
def plural_without_default_of_its_own(grad, rates): return grad


# -- Whatever can be called --

class Scale:
    def __init__(self, by=2.): self.by = by
    def method(self, grad): return grad*self.by
    def closure(self): return lambda grad: grad*self.by
    @classmethod
    def of_class(cls, grad, by=2.): return grad*by
    @staticmethod
    def static(grad, by=2.): return grad*by
class Callable(Scale):
    def __call__(self, grad): return grad*self.by
class Equal(Callable):
    "Two are equal while they scale alike, and none can be hashed"
    def __eq__(self, other): return isinstance(other, Equal) and self.by==other.by
    __hash__ = None
shared = Scale()
def reads_an_object(grad): return grad*shared.by
def passed_on(f):
    @functools.wraps(f)
    def g(**kw): return f(**kw)
    return g
def narrowed(f):
    "Its wrapper has a signature of its own, which is what is called"
    @functools.wraps(f)
    def g(grad): return f(grad)
    return g
def by_position(f):
    @functools.wraps(f)
    def g(*args): return f(*args)
    return g
def twice(grad, by=2.): return grad*by

plain = dict(of_class=Scale.of_class, static=Scale.static, function=twice, lambda_=lambda grad, by=2.: grad*by, wrapped=passed_on(twice), narrowed=narrowed(twice),
             cached=functools.lru_cache(twice), no_grad=torch.no_grad()(twice), renamed=rename(passed_on(twice), by='times'), partial_=partial(passed_on(twice), by=2.))
holders = dict(method=lambda o: o.method, closure=lambda o: o.closure(), object=lambda o: o, wrapped=lambda o: passed_on(o.method), narrowed=lambda o: narrowed(o.method),
               partial_=lambda o: partial(o.method), renamed=lambda o: rename(o.method, other='grad'))

@ways
@pytest.mark.parametrize('cb', plain.values(), ids=plain)
def test_whatever_can_be_called(cb, kw): assert math.isclose(moved([cb], **kw), .4, rel_tol=1e-5)

@ways
@pytest.mark.parametrize('make', holders.values(), ids=holders)
@pytest.mark.parametrize('cls', [Callable, Equal])
def test_what_a_callback_holds_may_change(cls, make, kw):
    "An object is looked at in every step, also one that another function closes over; two objects that are equal now stay two"
    a,b,p,q = cls(),cls(),P(),P()
    opts = [Optimizer([x], [make(o)], lr=.1, **kw) for x,o in ((p,a), (q,b))]
    for x,opt in zip((p,q), opts): took([x], opt, (1., 1.))
    a.by = 0.
    for x,opt in zip((p,q), opts): took([x], opt)
    assert torch.allclose(p, torch.full((3,), .6)) and torch.allclose(q, torch.full((3,), .4))

@ways
def test_an_object_outside_may_change(kw):
    p = P()
    opt = took([p], Optimizer([p], [reads_an_object], lr=.1, **kw), (1., 1.))
    shared.by = 0.
    try: took([p], opt)
    finally: shared.by = 2.
    assert torch.allclose(p, torch.full((3,), .6))

@pytest.mark.parametrize('cb,words', [
    (Scale.method,              r'method is a method without an object; give the method of an object: Scale\(\.\.\.\)\.method'),
    (by_position(twice),        r'twice takes \*args; name each value'),
    (nn.Linear(2, 2),           r'Linear takes \*args'),
    (torch.mul,                 'mul: no signature found'),
    (Scale,                     'Scale is a class'),
    (partial(torch.optim.SGD, lr=.1), 'SGD is a class; give a function, or an algorithm of genopt'),
], ids=called)
def test_what_cannot_be_called_by_names_is_refused_by_name(cb, words): refused(TypeError, words, lambda: Optimizer([P()], [cb], lr=.1))

def test_a_class_is_not_renamed():
    refused(TypeError, r'rename\(SGD\): SGD is a class; give rename a callback', lambda: rename(torch.optim.SGD, lr='rate'))


# -- An algorithm among blocks --

def like_first(ps, kw, cbs, n=12, **hypers):
    "Parameters after steps of `cbs` by closure"
    qs  = [nn.Parameter(p.detach().clone()) for p in ps]
    opt = Optimizer(qs, cbs, **hypers, **kw) if not callable(cbs) else cbs(qs, **hypers, **kw)
    for _ in range(n): opt.step(closure_of(qs, opt, graph=True))
    return torch.cat([q.detach().flatten() for q in qs])
def starts(): return [nn.Parameter(torch.randn(s, generator=torch.Generator().manual_seed(0))) for s in ((4, 3), (3,))]

equal_lists = dict(
    a_block_before    = (([partial(blocks.clip_grad_norm, max_norm=.5), genopt.AdamW], {}),      ([blocks.clip_grad_norm, genopt.AdamW], dict(max_norm=.5))),
    a_block_behind    = (([genopt.AdamW, partial(blocks.lookahead, k=5)], {}),                   ([genopt.AdamW, blocks.lookahead], dict(k=5))),
    one_that_asks     = (([partial(blocks.sharpness_aware, rho=.1), genopt.SGD], {}),            ([blocks.sharpness_aware, genopt.SGD], dict(rho=.1))),
    the_algorithm     = (([partial(genopt.AdamW, betas=(.8, .9))], {}),                          (genopt.AdamW, dict(betas=(.8, .9)))),
    its_other_spelling = (([partial(genopt.AdamW, mom=.8, wd=.1)], {}),                          (genopt.AdamW, dict(betas=(.8, .999), weight_decay=.1))),
    without_a_list    = ((partial(genopt.SGD, momentum=.9), {}), (genopt.SGD, dict(momentum=.9))),
    both              = (([partial(blocks.clip_grad_norm, max_norm=.5), partial(genopt.SGD, momentum=.9)], {}), ([blocks.clip_grad_norm, genopt.SGD], dict(max_norm=.5, momentum=.9))),
    given_all_the_same = (([partial(genopt.SGD, momentum=.5)], dict(momentum=.9)),               (genopt.SGD, dict(momentum=.9))),
)

@ways
@pytest.mark.parametrize('name', equal_lists)
def test_a_partial_in_a_list_gives_a_default(name, kw):
    "Of a block beside an algorithm, and of the algorithm; the same in a group"
    (cbs,more),(plainly,given) = equal_lists[name]
    ps = starts()
    wanted = like_first(ps, kw, plainly, lr=.01, **given)
    assert torch.equal(like_first(ps, kw, lambda qs, **all_: Optimizer(qs, cbs, **all_), lr=.01, **more), wanted)
    in_a_group = lambda qs, **flags: Optimizer([dict(params=qs, cbs=cbs, lr=.01, **more)], **flags)
    assert torch.equal(like_first(ps, kw, in_a_group), wanted)

@ways
@pytest.mark.parametrize('name', ['SOAP', 'Kron', 'Scion', 'AggMo', 'ASAM', 'Sophia'])
def test_an_algorithm_with_partials_stands_in_a_list(name, kw):
    "What a `partial` inside an algorithm gives is the algorithm's own affair; a block that does nothing changes nothing"
    ps  = starts()
    cls = getattr(genopt, name)
    torch.manual_seed(0)
    alone = like_first(ps, kw, cls, lr=.01)
    for cbs in ([partial(blocks.clip_grad_value, max_value=1e6), cls], [cls, partial(blocks.ema_weights, decay=.5)]):
        torch.manual_seed(0)
        torch.testing.assert_close(like_first(ps, kw, cbs, lr=.01), alone, rtol=1e-5, atol=1e-6)

@pytest.mark.parametrize('make,words', [
    (lambda: partial(genopt.AdamW, bets=(.8, .9)), r"partial\(AdamW\) got an unexpected hyper-parameter 'bets', did you mean 'betas'"),
    (lambda: partial(genopt.AdamW, betas=.9),      r"partial\(AdamW\): betas must be 2 numbers, got 0.9"),
    (lambda: partial(genopt.AdamW, .1),            r"AdamW: partial gives 0.1 by position; name the argument"),
    (lambda: rename(genopt.AdamW, lr='rate'),      r"rename\(AdamW\): AdamW is a class"),
], ids='name kind position rename'.split())
def test_a_wrong_partial_of_an_algorithm(make, words): refused(TypeError, words, lambda: Optimizer([P()], [make()], lr=.1))

@pytest.mark.parametrize('name', genopt.algorithms.__all__)
def test_every_algorithm_stands_behind_a_block_and_before_one(name):
    cls = getattr(genopt, name)
    for cbs in ([blocks.clip_grad_norm, cls], [partial(cls, lr=.5)], [partial(blocks.clip_grad_value, max_value=2.), cls], [cls, blocks.ema_weights]):
        if cls is genopt.ASGD and blocks.ema_weights in cbs: continue                          # both keep weights for evaluation
        if 'ScheduleFree' in name and blocks.ema_weights in cbs: continue
        opt = Optimizer([P(4, 3)], cbs, **dict(lr=.1) if len(cbs)>1 else {})
        assert opt.param_groups[0]['lr']==(.1 if len(cbs)>1 else .5)


# -- One name, two things --

shared_names = dict(
    smoothing  = (lambda: [genopt.RMSprop, blocks.lookahead],           'lookahead', 'alpha', .5, 'RMSprop', .99),
    power      = (lambda: [genopt.ASGD, blocks.lookahead],              'lookahead', 'alpha', .5, 'ASGD', .75),
    weight     = (lambda: [genopt.AdEMAMix, blocks.lookahead],          'lookahead', 'alpha', .5, 'AdEMAMix', 5.),
    radius     = (lambda: [blocks.sharpness_aware, genopt.Adadelta],    'sharpness_aware', 'rho', .05, 'Adadelta', .9),
    correction = (lambda: [genopt.MARS, blocks.polynomial_average],     'polynomial_average', 'gamma', 8., 'MARS', .025),
    decay      = (lambda: [blocks.weight_decay, genopt.SGD],            'weight_decay', 'wd', .01, 'SGD', 0),
    partial_   = (lambda: [partial(blocks.weight_decay, wd=.1), genopt.AdamW], 'weight_decay', 'wd', .1, 'AdamW', .01),
    its_own    = (lambda: [blocks.clip_update_rms, genopt.Kron],        'clip_update_rms', 'max_rms', 1., 'Kron', 1.1),
    of_partial = (lambda: [blocks.sharpness_aware, partial(genopt.Adadelta, rho=.8)], 'sharpness_aware', 'rho', .05, 'Adadelta', .8),
)

def following(cbs, **kw):
    "The optimizer of a list after the remedies of its errors were followed, and the errors"
    told = []
    for _ in range(12):
        try: return Optimizer([P(4, 3)], cbs, **dict(lr=.1) | kw),told
        except (TypeError, ValueError) as e: told.append(str(e))
        cbs = better([*cbs], told[-1])
        if cbs is None: break
    return None,told

def better(cbs, error):
    "The list that the error advises, None if it advises nothing"
    def at(name): return next((i for i,cb in enumerate(cbs) if name_of(cb)==name), None)
    if m := re.search(r"(?:rename that of \w+|its own): (rename\(.*\))$", error):
        renamed = eval(m[1], found)
        i = at(name_of(renamed))
        return [*cbs[:i], renamed, *cbs[i+1:]]
    if m := re.search(r"(\w+) reads '\w+', .*: (\w+) comes later, move", error):
        cb  = cbs.pop(at(m[2]))
        return [*cbs[:at(m[1])], cb, *cbs[at(m[1]):]]
    if m := re.search(r"(\w+) reads '\w+', .*: add (\w+)$", error) or re.search(r"(\w+) reads '\w+', .* comes later, in \w+; put (.*) before", error):
        return [*cbs[:at(m[1])], eval(m[2], found), *cbs[at(m[1]):]]
found = vars(genopt)|vars(blocks)|dict(partial=partial)

@pytest.mark.parametrize('name', shared_names)
def test_two_things_of_one_name_are_refused(name):
    "Also where a value is given, which would be that of both; and the remedy keeps them apart"
    make,block,n,mine,alg,theirs = shared_names[name]
    words = rf"{block} has {n}={mine} and {alg} has {n}={theirs}: two hyper-parameters with one name; rename that of {block}: rename\("
    for given in ({}, {n: .5}): refused(ValueError, words, lambda: Optimizer([P(4, 3)], make(), lr=.1, **given))
    refused(ValueError, words, lambda: Optimizer([dict(params=[P(4, 3)], cbs=make(), lr=.1)]))
    opt,told = following(make())
    assert len(told)==1 and opt.hypers[0][f'{block}_{n}']==mine and opt.hypers[0][n]==theirs

@ways
def test_what_is_kept_apart_has_its_own_value(kw):
    "lookahead behind RMSprop, which is all but off where it has RMSprop's smoothing"
    ps = starts()
    slow,renamed = partial(blocks.lookahead, k=2),rename(partial(blocks.lookahead, k=2), alpha='slow_alpha')
    wanted = like_first(ps, kw, [blocks.average_sqr_grad, blocks.rms_prop_step, slow], lr=.01, sqr_mom=.99, eps=1e-8)
    torch.testing.assert_close(like_first(ps, kw, [genopt.RMSprop, renamed], lr=.01), wanted)

def test_the_same_default_is_one_thing():
    opt = Optimizer([P()], [genopt.NAdam, blocks.heavy_ball], lr=.1)
    assert opt.hypers[0]['mom']==.9

@pytest.mark.slow
@pytest.mark.parametrize('name', genopt.algorithms.__all__)
def test_no_block_takes_the_value_of_an_algorithm(name):
    "With every block before and behind it: each has the default that it has by itself, or the list is refused, and what the error advises can be followed"
    cls   = getattr(genopt, name)
    alone = dict((opt := cls([P(4, 3)], lr=.1)).hypers[0])
    own   = opt.cbs
    for n in blocks.__all__:
        for cbs in ([found[n], cls], [cls, found[n]]):
            opt,told = following(cbs)
            assert opt or not re.search("rename that of |its own: |: add (?!a callback)|comes later", told[-1]), (n, told)
            if not opt: continue
            for k,v in alone.items(): assert opt.hypers[0][k]==v, (n, k, told)
            if not told and found[n] not in own:
                for k,v in Block(found[n]).hypers.items(): assert opt.hypers[0][k]==v, (n, k)


# -- One state, two that advance it --

@ways
def test_a_counter_that_stands_twice_counts_once(kw):
    "MARS as a list, with AdamW's own counter behind the one that the correction needs: the same callback is one"
    ps,kept = starts(),dict(lr=.01, betas=(.95, .99), eps=1e-8)
    cbs = [blocks.step_stat, blocks.grad_change, blocks.mars_correction, blocks.clip_tensor_norm, genopt.AdamW]
    torch.testing.assert_close(like_first(ps, kw, cbs, weight_decay=0., **kept), like_first(ps, kw, genopt.MARS, **kept))
    opt = took(ps, Optimizer(ps, [blocks.step_stat, blocks.step_stat, genopt.AdamW, blocks.step_stat, blocks.polynomial_average], lr=.1, **kw), (1.,)*3)
    assert {s['step'] for s in opt.state.values()}=={3} and opt.cbs.count(blocks.step_stat)==1
    opt = took(ps, Optimizer([dict(params=ps, cbs=[blocks.average_grad, blocks.sgd_step, blocks.average_grad], lr=.1, mom=.5)], **kw), (1.,))
    assert torch.equal(opt.state[ps[1]]['grad_avg'], torch.full((3,), .5))

def counts(step=count): return dict(step=step+2)
def looks_at(step=count): return dict(steps_seen=step)

@pytest.mark.parametrize('cbs,words', [
    ([blocks.average_grad, blocks.clip_grad_value, genopt.AdamW], r"the list has average_grad twice, and clip_grad_value changes 'grad' in between, so each step would update "
                                                                  r"'grad_avg' twice; leave one out, or give one a state of its own: rename\(average_grad, grad_avg='average_grad_grad_avg'\)"),
    ([genopt.SGD, blocks.lookahead, blocks.lookahead],            r"the list has lookahead twice, and it changes 'new_p' in between"),
    ([blocks.sgd_step, blocks.heavy_ball, blocks.heavy_ball],     r"the list has heavy_ball twice, and it changes 'update' in between"),
    ([counts, genopt.AdamW],                                      r"counts and step_stat both update the state 'step', so each step would update it twice; .* rename\(counts, step='counts_step'\)"),
    ([genopt.AdamW, counts],                                      r"counts and step_stat both update the state 'step'"),
    ([blocks.average_grad, rename(blocks.average_grad, mom='slow_mom'), blocks.momentum_step], r"average_grad and average_grad both update the state 'grad_avg'"),
    ([blocks.average_sqr_grad, blocks.average_grad, partial(blocks.average_belief, sqr_mom=.99), blocks.momentum_step], r"average_belief and average_sqr_grad both update the state 'sqr_avg'|average_sqr_grad and average_belief both"),
], ids='clipped lookahead heavy_ball before behind renamed belief'.split())
def test_two_that_advance_one_state_are_refused(cbs, words):
    refused(ValueError, words, lambda: Optimizer([P(4, 3)], cbs, lr=.1))

def test_two_that_share_a_state_and_one_advances_it(): Optimizer([P()], [looks_at, genopt.AdamW], lr=.1)

@pytest.mark.parametrize('cbs,words', [
    ([blocks.grad_change, blocks.mars_correction, genopt.AdamW], r"grad_change reads 'step', which nothing before it provides: step_stat comes later, in AdamW; put step_stat before grad_change as well$"),
    ([blocks.adam_step],                                         r"adam_step reads 'grad_avg', .*: add average_grad$"),
    ([blocks.momentum_step, blocks.average_grad],                r"average_grad comes later, move it before momentum_step \(or declare grad_avg=zeros there, to read the last step's value\)$"),
    ([blocks.warmup_lr, blocks.step_stat, blocks.sgd_step],      r"step_stat comes later, move it before warmup_lr \(or declare step=count there"),
    ([genopt.SGD, blocks.polynomial_average],                    r"polynomial_average reads 'step', .*: add step_stat$"),
], ids='inside several later counter lacking'.split())
def test_advice_can_be_followed(cbs, words):
    opt,told = following(cbs)
    assert re.search(words, told[0]) and opt, told

def test_advice_that_would_not_run_is_not_given():
    "A hyper-parameter of a block that cannot stand in a list without averages; a name that is provided too late for the list to run"
    refused(ValueError, r"polynomial_average reads 'step', which nothing before it provides: add a callback that returns it",
            lambda: Optimizer([P()], [blocks.polynomial_average, genopt.SGD], lr=.1))
    with pytest.raises(TypeError, match="'nu1'") as e: Optimizer([P()], [blocks.sgd_step], lr=.1, nu1=.5)
    assert 'qhadam_step' not in str(e.value)


# -- What an optimizer says of itself --

@pytest.mark.parametrize('name', genopt.algorithms.__all__)
def test_an_optimizer_is_made_again_of_its_defaults(name):
    "As ZeroRedundancyOptimizer and others do, `type(opt)(params, **opt.defaults)`; and with other values than the defaults"
    cls   = getattr(genopt, name)
    other = {k: v for k,v in dict(lr=.3, weight_decay=.1, momentum=.5, amsgrad=True, nesterov=True).items() if k in cls.arguments}
    for given in ({}, other):
        opt = cls([P(4, 3)], **given)
        new = type(opt)([P(4, 3)], **opt.defaults)
        assert new.defaults==opt.defaults and new.cbs==opt.cbs and [*map(dict, new.hypers)]==[*map(dict, opt.hypers)]

@ways
def test_what_a_callback_has_beyond_the_signature_is_taken(kw):
    "`dampening`, which a group may give as well"
    ps = starts()
    assert torch.equal(like_first(ps, kw, genopt.Lion, lr=.1, dampening=.5), like_first(ps, kw, lambda qs, **h: genopt.Lion([dict(params=qs, dampening=.5)], **h), lr=.1))
    refused(TypeError, "Lion got an unexpected hyper-parameter 'debias1'", lambda: genopt.Lion([P()], debias1=1.))
    refused(TypeError, "unexpected hyper-parameter 'debias1'", lambda: genopt.Adam([P()], debias1=1.))


# -- Values that change nothing, and those of torch --

without_decay = 'Rprop SparseAdam SM3 Fromage LBFGS'.split()

@ways
@pytest.mark.parametrize('name', without_decay)
def test_no_decay_for_an_algorithm_that_has_none(name, kw):
    "As every helper sets for biases and norms; what it lacks, it cannot be given"
    cls,ps = getattr(genopt, name),starts()
    if name in ('LBFGS','SparseAdam') and kw.get('fused'):
        return refused(ValueError, 'fused=True is not possible', lambda: like_first(ps, kw, cls, n=1, lr=.01))
    halves = lambda more: lambda qs, **h: cls([dict(params=qs[:1]), dict(params=qs[1:], **more)], **h)
    for more in (dict(weight_decay=0.), dict(wd=0), dict(weight_decay=torch.tensor(0.))):
        assert torch.equal(like_first(ps, kw, halves(more), n=3, lr=.01), like_first(ps, kw, halves({}), n=3, lr=.01))
    refused(TypeError, "param group 0 has an unexpected key 'weight_decay'; it has lr", lambda: cls([dict(params=[P()], weight_decay=.1)]))

def test_no_decay_in_a_list_and_in_a_group_of_its_own():
    for cbs in ([blocks.sgd_step], [blocks.clip_grad_norm, genopt.Fromage]):
        Optimizer([dict(params=[P()], weight_decay=0.)], cbs, lr=.1)
        Optimizer([dict(params=[P()], weight_decay=0., cbs=cbs, lr=.1)])
    refused(TypeError, "unexpected key 'momentum'", lambda: genopt.Adam([dict(params=[P()], momentum=0.)]))        # it has one, under another name

taken_by_torch = [('SGD', dict(momentum=1)), ('SGD', dict(momentum=1.5, dampening=.5)), ('SGD', dict(momentum=1., nesterov=True)), ('RMSprop', dict(alpha=1., eps=1.)), ('RMSprop', dict(momentum=1.)),
                  ('Adadelta', dict(rho=1.)), ('Muon', dict(momentum=1.)), ('ASGD', dict(lambd=-.1)), ('ASGD', dict(alpha=-1.)), ('LBFGS', dict(tolerance_grad=-1., max_iter=3)),
                  ('LBFGS', dict(tolerance_change=-1., max_iter=3))]

@ways
@pytest.mark.parametrize('name,hypers', taken_by_torch, ids=lambda o: o if isinstance(o, str) else '-'.join(f'{k}={v}' for k,v in o.items()))
def test_what_torch_takes_is_taken(name, hypers, kw):
    "By torch's own algorithms, and by them in a list; with torch's numbers"
    ps = [nn.Parameter(p.detach().double()) for p in starts()[:1]]
    if name=='LBFGS' and kw.get('fused'):
        return refused(ValueError, 'fused=True is not possible', lambda: like_first(ps, kw, genopt.LBFGS, n=1, lr=.01, **hypers))
    wanted = like_first(ps, {}, getattr(torch.optim, name), n=5, lr=.01, **hypers)
    torch.testing.assert_close(like_first(ps, kw, getattr(genopt, name), n=5, lr=.01, **hypers), wanted)
    torch.testing.assert_close(like_first(ps, kw, [partial(blocks.clip_grad_value, max_value=1e6), getattr(genopt, name)], n=5, lr=.01, **hypers), wanted)

@pytest.mark.parametrize('make,words', [
    (lambda: genopt.SGD([P()], momentum=-1.),                            'Invalid momentum value: -1.0'),
    (lambda: genopt.SGD([P()], momentum=math.inf),                       'Invalid momentum value: inf'),
    (lambda: genopt.SGD([P()], weight_decay=math.nan),                   'Invalid weight_decay value: nan'),
    (lambda: genopt.Adam([P()], betas=(.9, 1.)),                         'Invalid beta parameter at index 1: 1.0'),
    (lambda: genopt.Signum([P()], momentum=1.),                          'Invalid momentum value: 1.0'),
    (lambda: Optimizer([P()], [genopt.SGD, blocks.lookahead], lr=.1, alpha=2.), 'Invalid alpha value: 2.0'),
    (lambda: Optimizer([P()], [blocks.average_grad, blocks.momentum_step], lr=.1, mom=1.), 'Invalid mom value: 1.0|Invalid momentum value: 1.0')], ids='negative inf nan adam signum block list'.split())
def test_what_torch_does_not_take_is_refused(make, words): refused(ValueError, words, make)


# -- Values that groups have in common --

in_common = dict(
    radius   = (genopt.SAM, dict(rho=.05), dict(rho=.1), r"sharpness_aware runs once over all parameters, so 'rho' must be the same for every parameter; got 0.05 and 0.1; the first is that of param group 0"),
    kind     = (genopt.AdaHessian, dict(n_samples=1), dict(n_samples=2), r"hutchinson runs once over all parameters, so 'n_samples'"),
    distance = (genopt.Prodigy, dict(d_coef=1.), dict(d_coef=2.), r"estimate_distance runs once over all parameters, so 'd_coef'"),
    rate     = (genopt.LBFGS, dict(lr=1.), dict(lr=.1), r"lbfgs_step runs once over all parameters, so 'lr'"),
    limit    = (lambda ps, **kw: Optimizer(ps, [blocks.clip_grad_norm, genopt.AdamW], lr=.1, **kw), dict(max_norm=1.), dict(max_norm=torch.tensor(.1)), r"clip_grad_norm runs once over all parameters, so 'max_norm'"),
)

@pytest.mark.parametrize('kw', [*way.values(), {}], ids=[*way, 'default'])
@pytest.mark.parametrize('name', in_common)
def test_values_that_must_be_common_are_refused_at_once(name, kw):
    "At construction, and when a group is added, which leaves the optimizer as it was"
    cls,one,other,words = in_common[name]
    if cls is genopt.LBFGS and kw.get('fused'): return refused(ValueError, 'fused=True is not possible', lambda: cls([P()], **kw))
    if kw.get('foreach') and torch.is_tensor(other.get('max_norm')): other = dict(max_norm=.1)
    refused(ValueError, words, lambda: cls([dict(params=[P()], **one), dict(params=[P()], **other)], **kw))
    opt = cls([dict(params=[P()], **one)], **kw)
    before = repr(opt.state_dict())
    refused(ValueError, words, lambda: opt.add_param_group(dict(params=[P()], **other)))
    assert repr(opt.state_dict())==before
    opt.add_param_group(dict(params=[P()], **one))
    opt.add_param_group(dict(params=[], **other))                                               # an empty group has no say

def test_values_of_other_callbacks_may_differ():
    "Also of one that is in another group's list alone, and of a rate that a callback before has made common"
    genopt.SAM([dict(params=[P()]), dict(params=[P()], lr=.5, momentum=.9)])
    Optimizer([dict(params=[P()], cbs=[blocks.clip_grad_norm, genopt.SGD], lr=.1, max_norm=1.), dict(params=[P()], cbs=[blocks.clip_tensor_norm, genopt.SGD], lr=.1, max_norm=2.)])
    words = "'max_norm' must be the same for every parameter; got 1.0 and 2.0"
    refused(ValueError, words, lambda: Optimizer([dict(params=[P()], cbs=[blocks.clip_grad_norm, cls], lr=.1, max_norm=v) for cls,v in ((genopt.SGD, 1.), (genopt.Lion, 2.))]))

def test_an_alias_of_what_an_algorithm_has_is_not_taken():
    refused(TypeError, "Adam got an unexpected hyper-parameter 'momentum'", lambda: genopt.Adam([P()], momentum=.9))
    refused(TypeError, "unexpected hyper-parameter 'alpha'", lambda: genopt.Adam([P()], alpha=.9))

# -- States that nobody moves --

def forgets(grad, mom=.9, avg=zeros): return avg*mom + grad
def forgets_to_count(grad, steps=count): return grad/(steps+1)
def returns_some(grad, avg=zeros): return dict(update=avg+grad, avg=avg+grad)
def masked(grad, mask=genopt.ones): return grad*mask

@pytest.mark.parametrize('cb,name', [(forgets, 'avg=zeros'), (forgets_to_count, 'steps=count'), (returns_some, None), (masked, None)])
def test_a_state_that_is_never_returned_is_told(cb, name):
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter('always')
        for _ in range(2): Optimizer([torch.ones(3, requires_grad=True)], [cb], lr=.1)
    told = [str(w.message) for w in told if 'has not returned it' in str(w.message)]
    assert len(told)==(name is not None) and all(f'{cb.__name__} declares the state {name}' in t for t in told)

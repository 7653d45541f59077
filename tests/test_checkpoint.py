"""State dicts: torch.optim's own, there and back; parameters by name; and what cannot be loaded, which changes nothing."""

import copy,re,warnings
import pytest,torch
import genopt
from catalogue import catalogue
from genopt.optim.origin import hypers_in_torch
from helpers import awkward,difference,gradients,two_groups

shared = pytest.mark.parametrize('a', [a for a in catalogue if hasattr(torch.optim, a.name) and a.info and not a.closure], ids=lambda a: a.name)


def steps(ps, opt, at):
    for i in at:
        for n,g in gradients(i).items():
            if n in ps: ps[n].grad = g
        opt.step()

def fresh(cls, kw, like=None, second=(), names=()):
    "Parameters, copies of those of `like`, in two groups, and their optimizer"
    ps = {n: p for n,p in awkward().items() if not names or n in names}
    if like:
        for n,p in ps.items(): p.data.copy_(like[n].data)
    return ps,cls(two_groups(ps, float(kw.get('lr', 1e-3)), **dict(second)), **copy.deepcopy(kw))

@shared
@pytest.mark.parametrize('several', [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_checkpoint_of_torch_goes_on_here_and_ours_there(a, several):
    "Ten steps with one, a hundred with the other, against a hundred and ten with torch"
    for kw in a.settings(8)[2:] if several else a.settings(2):
        if kw.get('maximize') and a.name=='Muon': continue                  # torch's does not
        ps,ref = fresh(a.reference, kw, None, a.second, a.names)
        steps(ps, ref, range(15))
        qs,opt = fresh(a.cls, kw, ps, a.second, a.names)
        opt.load_state_dict(ref.state_dict())
        assert all(type(s['step']) is int for s in opt.state.values() if 'step' in s)
        rs,back = fresh(a.reference, kw, qs, a.second, a.names)
        back.load_state_dict(opt.torch_state_dict())
        for o,xs in (ref,ps),(opt,qs),(back,rs): steps(xs, o, range(15, 115))
        assert difference({n: p.detach() for n,p in qs.items()}, ps)<=1e-11 and difference({n: p.detach() for n,p in rs.items()}, ps)<=1e-11, kw

def test_what_torch_has_not_is_not_written_for_it():
    opt = genopt.Lion([torch.ones(2, requires_grad=True)])
    with pytest.raises(ValueError, match='torch.optim has no Lion'): opt.torch_state_dict()


# -- By name --

def named(order='ab', **kw):
    ps = dict(a=torch.ones(3, requires_grad=True), b=torch.full((3,), 2., requires_grad=True))
    opt = genopt.Adam([(n, ps[n]) for n in order], lr=.1, **kw)
    for n,p in ps.items(): p.grad = torch.full_like(p, 1. if n=='a' else 5.)
    return ps,opt

def test_parameters_in_another_order_get_their_own_state():
    ps,opt = named()
    opt.step()
    qs,other = named('ba')
    other.load_state_dict(opt.state_dict())
    for n in 'ab': assert torch.equal(opt.state[ps[n]]['grad_avg'], other.state[qs[n]]['grad_avg'])
    assert other.param_groups[0]['param_names']==['b','a']

def test_unnamed_parameters_go_by_order():
    ps,opt = named()
    opt.step()
    qs = [torch.ones(3, requires_grad=True) for _ in range(2)]
    other = genopt.Adam(qs)
    other.load_state_dict(opt.state_dict())
    assert torch.equal(other.state[qs[1]]['grad_avg'], opt.state[ps['b']]['grad_avg'])


# -- What cannot be loaded --

def state(sd, i=0): return sd['state'][i]
def group(sd): return sd['param_groups'][0]
def drop(d, k): del d[k]

damaged = dict(
    no_dict         = (lambda sd: [1, 2],                                            'it must be a dict with .*got list'),
    no_groups       = (lambda sd: drop(sd, 'param_groups'),                          r"got \['state'\]"),
    no_state        = (lambda sd: drop(sd, 'state'),                                 r"got \['param_groups'\]"),
    a_model_s       = (lambda sd: dict(weight=torch.ones(2)),                        r"got \['weight'\]"),
    fewer_groups    = (lambda sd: sd['param_groups'].clear(),                        'different number of parameter groups'),
    fewer_params    = (lambda sd: group(sd)['params'].pop(),                         "doesn't match the size"),
    more_params     = (lambda sd: group(sd)['params'].append(7),                     "doesn't match the size"),
    shape           = (lambda sd: state(sd).update(grad_avg=torch.zeros(4)),         r"a in param group 0: 'grad_avg' has shape \(4,\); .* it must have \(3,\)"),
    transposed      = (lambda sd: state(sd, 1).update(sqr_avg=torch.zeros(3, 1)),    r"b in param group 0: 'sqr_avg' has shape \(3, 1\)"),
    swapped         = (lambda sd: state(sd).update(sqr_avg=torch.zeros(0)),          "'sqr_avg' has shape"),
    torch_shape     = (lambda sd: sd['state'].update({0: dict(step=torch.tensor(3.), exp_avg=torch.zeros(2), exp_avg_sq=torch.zeros(3))}), "'grad_avg' has shape"),
    number          = (lambda sd: state(sd).update(grad_avg=0.),                     "'grad_avg' is a float; it must be of type Tensor"),
    tensor          = (lambda sd: state(sd).update(step=torch.zeros(3)),             "'step' is a Tensor; it must be of type int"),
    text            = (lambda sd: state(sd).update(step='7'),                        "'step' is a str"),
    nothing         = (lambda sd: state(sd).update(grad_avg=None),                   "'grad_avg' is a NoneType"),
    list_of_states  = (lambda sd: sd['state'].update({1: [1, 2]}),                   'b in param group 0: its state is a list'),
    other_algorithm = (lambda sd: sd['state'].update({0: dict(slow=torch.zeros(3))}), 'the state dict has the states slow, and Adam keeps grad_avg, sqr_avg, step: another algorithm has saved it'),
    lr_negative     = (lambda sd: group(sd).update(lr=-1.),                          'Invalid learning rate: -1.0; Adam, loading a state dict, param group 0 needs it'),
    lr_text         = (lambda sd: group(sd).update(lr='fast'),                       'lr must be a real number'),
    betas_one       = (lambda sd: group(sd).update(betas=.9),                        'betas must be 2 numbers'),
    betas_range     = (lambda sd: group(sd).update(betas=(.9, 1.)),                  'Invalid beta parameter at index 1'),
    eps_none        = (lambda sd: group(sd).update(eps=None),                        'eps must be a real number'),
    flag            = (lambda sd: group(sd).update(amsgrad='yes'),                   'amsgrad must be True or False'),
    both_spellings  = (lambda sd: group(sd).update(mom=.5),                          'both'),
    renamed         = (lambda sd: group(sd).update(param_names=['a', 'c']),          'no state for b but has one for c'),
)

@pytest.mark.parametrize('name', damaged)
def test_a_damaged_checkpoint_is_told_and_nothing_has_changed(name):
    ps,opt = named()
    opt.step()
    before,kept,hypers = copy.deepcopy(opt.state_dict()),[p.detach().clone() for p in ps.values()],dict(opt.param_groups[0])
    saved = copy.deepcopy(opt.state_dict())
    damage,words = damaged[name]
    if isinstance(new := damage(saved), (list,dict)): saved = new
    with pytest.raises((ValueError, TypeError), match=f'(?s){words}'): opt.load_state_dict(saved)
    after = opt.state_dict()
    assert after['param_groups']==before['param_groups'] and dict(opt.param_groups[0])==hypers
    for i,s in before['state'].items():
        for n,v in s.items(): assert torch.equal(v, after['state'][i][n]) if torch.is_tensor(v) else v==after['state'][i][n]
    assert all(torch.equal(p, k) for p,k in zip(ps.values(), kept))
    opt.step()

momentum = dict(momentum=.9)
def of_torch(name, values=torch.ones(3), **kw):
    "An optimizer of torch after a step"
    p = torch.nn.Parameter(values.clone())
    opt = getattr(torch.optim, name)([p], lr=.1, **kw)
    def closure():
        p.grad = torch.ones_like(p).to_sparse() if name=='SparseAdam' else torch.ones_like(p)
        return p.sum()
    opt.step(closure)
    return opt

def told(saved, ours):
    "What the error says if a fresh `ours` loads the state dict `saved`; '' if it loads it. An error leaves no state"
    return told_by(ours([torch.nn.Parameter(torch.ones(3, 2))]), saved)

def told_by(opt, saved):
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        try: opt.load_state_dict(copy.deepcopy(saved))
        except ValueError as e:
            assert not opt.state
            return str(e)
    return ''

torch_s = {n: of_torch(n, torch.ones(3, 2)) for n,cls in vars(torch.optim).items() if isinstance(cls, type) and issubclass(cls, torch.optim.Optimizer)
           and cls is not torch.optim.Optimizer}
with_settings = [('SGD', momentum), ('SGD', dict(momentum=.9, nesterov=True)), ('RMSprop', momentum), ('RMSprop', dict(centered=True)),
                 ('Adam', dict(amsgrad=True)), ('NAdam', dict(decoupled_weight_decay=True))]
torch_s |= {f"{n}({', '.join(kw)})": of_torch(n, torch.ones(3, 2), **kw) for n,kw in with_settings}
alike = {'Adam': {'Adam','AdamW'}, 'AdamW': {'Adam','AdamW'}}                           # their groups have the same names

@pytest.fixture(scope='module')
def others(): return {n: getattr(genopt, n)([torch.nn.Parameter(torch.ones(3, 2))]) for n in genopt.algorithms.__all__}

@pytest.mark.parametrize('fresh', [False, True], ids=['stepped','fresh'])
@pytest.mark.parametrize('theirs', [*torch_s])
def test_a_state_of_torch_is_loaded_by_the_algorithm_of_that_name_alone(theirs, fresh, others):
    "Every algorithm of torch beside every algorithm of genopt, before and after a step. torch loads most of these in silence"
    name,saved = theirs.partition('(')[0],torch_s[theirs].state_dict()
    if fresh: saved = saved | dict(state={})
    same   = alike.get(name, {name})
    errors = {n: told(saved, getattr(genopt, n)) if n in same else told_by(o, saved) for n,o in others.items()}
    assert {n for n,e in errors.items() if names_both(e, name, n)}==errors.keys()-same
    assert not any(errors[n] for n in same) or name=='LBFGS' and not fresh and 'has the states' in errors[name]   # torch keeps one state for all

def names_both(e, theirs, ours): return re.search(rf'torch.optim.*\b{theirs}\b.* has saved it, and the optimizer is {ours}\. Load .*strict=False', e)

@pytest.mark.parametrize('theirs,ours', [('Adam', 'Adam'), ('AdamW', 'AdamW'), ('Adam', 'AdamW'), ('NAdam', 'NAdam'), ('SGD(momentum)', 'SGD'),
                                         ('RMSprop(momentum)', 'RMSprop'), ('Adagrad', 'Adagrad'), ('Adafactor', 'Adafactor')])
@pytest.mark.parametrize('lost', [(), ('decoupled_weight_decay',), ('fused','capturable','decoupled_weight_decay')], ids=str)
@pytest.mark.parametrize('more', [{}, dict(initial_lr=.1, max_lr=1., name='head')], ids=['', 'notes'])
def test_an_older_torch_and_notes_in_a_group_do_not_matter(theirs, ours, lost, more):
    saved = copy.deepcopy(torch_s[theirs].state_dict())
    g = saved['param_groups'][0]
    for k in lost: g.pop(k, None)
    g.update(more)
    assert told(saved, getattr(genopt, ours))=='' and told(saved, genopt.Lion)

def test_the_names_that_tell_are_those_of_torch():
    for n,names in hypers_in_torch().items():
        assert names==getattr(torch.optim, n)([torch.ones(2, 2, requires_grad=True)]).defaults.keys()

def own_lion(grad, mom=.9, sqr_mom=.99, grad_avg=genopt.zeros):
    return dict(update=(grad_avg*mom + grad*(1-mom)).sign(), grad_avg=grad_avg*sqr_mom + grad*(1-sqr_mom))

@pytest.mark.parametrize('saved,ours,words', [
    (of_torch('SGD', **momentum), lambda ps: genopt.Optimizer(ps, [genopt.Lion], lr=.1),            "torch.optim.SGD has saved it, and the optimizer is Lion"),
    (of_torch('SGD', **momentum), lambda ps: genopt.Optimizer(ps, [own_lion], lr=.1), "the saved group has 'momentum', where own_lion has 'betas'"),
    (of_torch('Adam'),            lambda ps: genopt.Optimizer(ps, [genopt.blocks.sgd_step], lr=.1),  "has the states step, exp_avg, exp_avg_sq, and Optimizer keeps none"),
    (of_torch('Adagrad'),         lambda ps: genopt.Optimizer([dict(params=ps, cbs=genopt.Adam)]),   "the group runs Adam, and the saved group ran other callbacks"),
])
def test_lists_refuse_the_state_of_another_algorithm_too(saved, ours, words):
    opt = ours([torch.nn.Parameter(torch.ones(3))])
    with pytest.raises(ValueError, match=words): opt.load_state_dict(saved.state_dict())

def test_genopt_s_own_files_tell_by_the_names_of_their_numbers():
    def saved(cls, **kw):
        p = torch.nn.Parameter(torch.ones(3, 2))
        p.grad = torch.ones(3, 2)
        opt = cls([p], lr=.1, **kw)
        opt.step()
        return opt.state_dict()
    assert "the saved group has 'momentum', where Lion has 'betas'" in told(saved(genopt.SGD, momentum=.9), genopt.Lion)
    assert "the saved group has 'betas', where Signum has 'momentum'" in told(saved(genopt.Lion), genopt.Signum)
    assert "the saved group has 'momentum', where Adam has 'betas'" in told(saved(genopt.RMSprop), genopt.Adam)

def test_a_class_of_one_s_own_loads_what_its_base_loads():
    class Mine(genopt.Adam): pass
    assert told(torch_s['Adam'].state_dict(), Mine)=='' and "the optimizer is Mine" in told(torch_s['RAdam'].state_dict(), Mine)

@pytest.mark.parametrize('saved,ours', [('Adam', lambda ps: genopt.SGD(ps, **momentum)), ('SGD(momentum)', genopt.Adam), ('Adam', genopt.Lion),
                                        ('NAdam', genopt.Adam), ('Adam', genopt.RAdam)])
def test_the_state_of_another_algorithm_is_loaded_if_asked_for(saved, ours):
    p   = torch.nn.Parameter(torch.ones(3, 2))
    opt = ours([p])
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        opt.load_state_dict(torch_s[saved].state_dict(), strict=False)
    p.grad = torch.ones(3, 2)
    opt.step()

def test_what_fits_of_another_algorithm_can_be_loaded():
    opt = genopt.Adam([torch.nn.Parameter(torch.ones(3))])
    with pytest.warns(UserWarning, match='has grad_avg, step but no sqr_avg, which starts anew'): opt.load_state_dict(of_torch('SGD', **momentum).state_dict(), strict=False)
    assert opt.state_dict()['state'][0]['grad_avg'].tolist()==[1.]*3

def test_a_list_around_torch_s_algorithm_has_more_states():
    opt = genopt.Optimizer([torch.nn.Parameter(torch.ones(3))], [genopt.AdamW, genopt.blocks.ema_weights], lr=.1)
    with pytest.warns(UserWarning, match='which starts? anew'): opt.load_state_dict(of_torch('AdamW').state_dict())

def test_callbacks_may_come_and_go_but_not_be_exchanged():
    "between saving and loading, where the file has genopt's names"
    def list_of(*cbs):
        p = torch.nn.Parameter(torch.ones(3))
        p.grad = torch.ones(3)
        return genopt.Optimizer([p], [genopt.AdamW, *cbs], lr=.1)
    saved = list_of(genopt.blocks.ema_weights)
    saved.step()
    list_of().load_state_dict(saved.state_dict())
    with pytest.raises(ValueError, match='another algorithm'): list_of(genopt.blocks.lookahead).load_state_dict(saved.state_dict())

@pytest.mark.parametrize('kw', [{}, dict(foreach=False), dict(fused=True)], ids=str)
def test_how_a_step_is_run_is_not_loaded(kw):
    "A file of torch's fused class, the Trainer's default, compiles nothing; and one of a loop leaves `fused` as it was asked for"
    ps = [torch.ones(3, requires_grad=True)]
    ps[0].grad = torch.ones(3)
    for cls,how in (torch.optim.AdamW, dict(fused=True)), (genopt.AdamW, dict(foreach=False)), (genopt.AdamW, dict(fused=True)):
        saved = cls(ps, lr=.5, maximize=True, **how)
        saved.step()
        opt = genopt.AdamW(ps, **kw)
        opt.load_state_dict(saved.state_dict())
        g = opt.param_groups[0]
        assert (g['foreach'], g['fused'])==(kw.get('foreach'), kw.get('fused')) and g['lr']==.5 and g['maximize']

@pytest.mark.parametrize('damage,words', [(lambda s: drop(s, 'sqr_avg'), 'no sqr_avg, which starts anew'),
                                          (lambda s: s['sqr_avg'].fill_(float('nan')), "'sqr_avg' has NaN")], ids=['missing','nan'])
def test_a_warning_shows_the_line_that_loads(damage, words):
    opt = named()[1]
    opt.step()
    saved = copy.deepcopy(opt.state_dict())
    damage(state(saved))
    with pytest.warns(UserWarning, match=words) as seen: opt.load_state_dict(saved)
    assert seen[0].filename==__file__

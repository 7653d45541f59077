"""State dicts: torch.optim's own, there and back; parameters by name; and what cannot be loaded, which changes nothing."""

import copy,functools,io,pickle,re,warnings
import pytest,torch
import genopt
from catalogue import catalogue
from genopt import fastai
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

# Which algorithms load the file of another, by what they keep
averages = 'Adam AdamW NAdamW RAdam SparseAdam SAdam QHAdam StableAdamW LAMB AdamP'             # of gradients and of their squares, and the step
average  = 'QHM Signum Muon Scion'                                                              # of gradients
sums     = 'SGD SGDW SGDP'                                                                      # of gradients
loaders  = {n: f for f in (averages, average) for n in f.split()} | {
    **{f'{n}({how})': sums for n in sums.split() for how in ('momentum', 'weight_decay')}, 'SGD(momentum, nesterov)': sums, 'SGD(dampening)': 'SGD SGDW',
    **{f'{n}(amsgrad)': 'Adam AdamW AMSGrad' for n in ('Adam', 'AdamW')}, 'Adam(weight_decay)': averages}
without_decay = 'Adam RAdam SAdam QHAdam LAMB AdamP Adam(amsgrad)'                              # AdamC loads these. With decay it keeps its largest rate
loaders |= {n: loaders[n]+' AdamC' for n in without_decay.split()}

decay,momentum = dict(weight_decay=.1),dict(momentum=.9)
configured = {n: dict(amsgrad=True) for n in ('Adam(amsgrad)', 'AdamW(amsgrad)', 'AdamC(amsgrad)', 'AdaBelief(amsgrad)')} | {
    **{f'{n}(momentum)': momentum for n in ('SGD', 'SGDW', 'SGDP', 'LARS', 'SAM', 'RMSprop')}, 'SGD(weight_decay)': momentum|decay, 'Adam(weight_decay)': decay,
    'SGD(dampening)': dict(momentum=.9, dampening=.5), 'LAMB(max_grad_norm)': dict(max_grad_norm=1.)}

def bare(name): return name.partition('(')[0]

def loading(name): return {bare(name), *loaders.get(name, '').split()}

def own_file(name):
    "The state dict of genopt's algorithm `name` after a step"
    p   = torch.nn.Parameter(torch.tensor([[.5,-.3],[.2,.7],[1.,2.]]))
    opt = getattr(genopt, bare(name))([p], **configured.get(name, {}))
    def closure():
        opt.zero_grad()
        loss = (p**4).sum()
        loss.backward(create_graph=opt.is_second_order)
        return loss
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        opt.step(closure)
    return opt.state_dict()

@pytest.fixture(scope='module')
def others(): return {n: getattr(genopt, n)([torch.nn.Parameter(torch.ones(3, 2))]) for n in genopt.algorithms.__all__}

def refusals(saved, same, others):
    "What each algorithm says if it loads `saved`, by name. Those in `same` should load it, which changes them, so they are made anew"
    return {n: told(saved, getattr(genopt, n)) if n in same else told_by(o, saved) for n,o in others.items()}

@pytest.mark.parametrize('fresh', [False, True], ids=['stepped','fresh'])
@pytest.mark.parametrize('theirs', [*genopt.algorithms.__all__, *configured])
def test_a_file_of_genopt_is_loaded_by_algorithms_that_make_the_same_states(theirs, fresh, others):
    "Every algorithm beside every other, before and after a step"
    saved = own_file(theirs)
    if fresh: saved = saved | dict(state={})
    same   = loading(theirs)
    errors = refusals(saved, same, others)
    assert {n for n,e in errors.items() if not e}==same
    assert all(re.search(rf'{bare(theirs)} has saved it, and the optimizer is {n}\b.*\. Load .*strict=False', e) for n,e in errors.items() if e)

@pytest.mark.parametrize('fresh', [False, True], ids=['stepped','fresh'])
@pytest.mark.parametrize('theirs', [*torch_s])
def test_a_file_of_torch_is_loaded_by_algorithms_that_make_the_same_states(theirs, fresh, others):
    "Every algorithm of torch beside every algorithm of genopt, before and after a step. torch loads most of these in silence"
    name,saved = bare(theirs),torch_s[theirs].state_dict()
    if fresh: saved = saved | dict(state={})
    same   = loading(theirs)
    errors = refusals(saved, same, others)
    assert {n for n,e in errors.items() if names_both(e, name, n)}==errors.keys()-same
    assert not any(errors[n] for n in same) or name=='LBFGS' and not fresh and 'has the states' in errors[name]   # torch keeps one state for all

def names_both(e, theirs, ours): return re.search(rf'torch.optim.*\b{theirs}\b.* has saved it, and the optimizer is {ours}\b.*\. Load .*strict=False', e)

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
    (of_torch('Adagrad'),         lambda ps: genopt.Optimizer([dict(params=ps, cbs=genopt.Adam)]),   "torch.optim.Adagrad has saved it, and the group runs Adam"),
])
def test_lists_refuse_the_state_of_another_algorithm_too(saved, ours, words):
    opt = ours([torch.nn.Parameter(torch.ones(3))])
    with pytest.raises(ValueError, match=words): opt.load_state_dict(saved.state_dict())

def test_files_without_a_name_tell_by_the_names_of_their_numbers():
    def saved(name):
        res = own_file(name)
        drop(group(res), 'saved_by')
        return res
    assert "the saved group has 'momentum', where Lion has 'betas'" in told(saved('SGD(momentum)'), genopt.Lion)
    assert "the saved group has 'betas', where Signum has 'momentum'" in told(saved('Lion'), genopt.Signum)
    assert "the saved group has 'momentum', where Adam has 'betas'" in told(saved('RMSprop'), genopt.Adam)
    assert told(saved('AdaBelief'), genopt.Adam)==''                        # nothing tells; an older genopt wrote such files

def test_an_error_says_which_states_differ():
    assert "AdaBelief has saved it, and the optimizer is Adam, which makes sqr_avg in another way. Load it" in told(own_file('AdaBelief'), genopt.Adam)
    assert "torch.optim.Adam or AdamW has saved it, and the optimizer is Lion, which makes grad_avg in another way" in told(torch_s['Adam'].state_dict(), genopt.Lion)
    assert "Adam has saved it, and the optimizer is AMSGrad, which keeps other states. Load it" in told(own_file('Adam'), genopt.AMSGrad)
    assert "SGD has saved it, and the optimizer is SGDW. Load it" in told(own_file('SGD'), genopt.SGDW)                 # neither keeps any

def test_a_class_of_one_s_own_loads_what_its_base_loads():
    class Mine(genopt.Adam): pass
    assert told(torch_s['Adam'].state_dict(), Mine)=='' and "the optimizer is Mine" in told(torch_s['NAdam'].state_dict(), Mine)
    assert told(own_file('Adam'), Mine)=='' and "the optimizer is Mine" in told(own_file('AdaBelief'), Mine)

def saved_by(cls, **kw):
    p = torch.nn.Parameter(torch.ones(3, 2))
    p.grad = torch.ones(3, 2)
    opt = cls([p], **kw)
    opt.step()
    return opt.state_dict()

def test_a_class_of_one_s_own_saves_the_name_of_the_algorithm_that_it_runs():
    "So its file goes on with the class renamed, or gone"
    class Mine(genopt.Adam):
        def log(self): pass
    class Other(Mine):
        @staticmethod
        def build(**hypers): return genopt.AdaBelief.build(**{k: v for k,v in hypers.items() if k!='decoupled_weight_decay'})
    assert group(saved_by(Mine))['saved_by']=='Adam' and told(saved_by(Mine), genopt.Adam)==''
    assert group(saved_by(Other))['saved_by']=='Other' and 'Other has saved it, and the optimizer is Adam' in told(saved_by(Other), genopt.Adam)

def looks(grad, grad_avg=genopt.zeros): return {}
def looks_too(grad, grad_avg=genopt.zeros): return {}
average_update = genopt.rename(genopt.blocks.average_grad, grad='update')

@genopt.algorithm
def Alike(lr=1e-3, betas=(.9,.99), eps=1e-8): return genopt.Adam.build(lr, betas, eps)
@genopt.algorithm
def Looks(lr=1e-3, betas=(.9,.99), eps=1e-8): return [looks, genopt.Adam.build(lr, betas, eps), looks_too]
@genopt.algorithm
def OfUpdates(lr=1e-3, betas=(.9,.99), eps=1e-8): return [average_update, genopt.Adam.build(lr, betas, eps)[2:]]       # nothing has changed the update
@genopt.algorithm
def Clipped(lr=1e-3, betas=(.9,.99), eps=1e-8): return [genopt.blocks.clip_tensor_norm, genopt.Adam.build(lr, betas, eps)]
@genopt.algorithm
def Later(lr=1e-3, betas=(.9,.99), eps=1e-8): return [genopt.blocks.scale_by_trust_ratio, average_update, genopt.Adam.build(lr, betas, eps)[2:]]

@pytest.mark.parametrize('cls,differ', [(Alike, ''), (Looks, ''), (OfUpdates, ''), (Clipped, 'grad_avg, sqr_avg'), (Later, 'grad_avg')])
def test_an_algorithm_of_one_s_own_is_compared_by_its_callbacks(cls, differ):
    there,back = told(saved_by(cls), genopt.Adam),told(own_file('Adam'), cls)
    assert bool(there)==bool(back)==bool(differ)
    assert not differ or f'which makes {differ} in another way' in there and f'which makes {differ} in another way' in back

def test_an_algorithm_that_this_process_does_not_have_is_another_one():
    saved = own_file('Adam')
    group(saved)['saved_by'] = 'Gone'
    assert 'Gone has saved it, and the optimizer is Adam, and this process has no Gone to compare it with. Load' in told(saved, genopt.Adam)
    opt = genopt.Adam([torch.nn.Parameter(torch.ones(3, 2))])
    opt.load_state_dict(saved, strict=False)
    assert torch.equal(opt.state_dict()['state'][0]['sqr_avg'], saved['state'][0]['sqr_avg']) and 'saved_by' not in opt.param_groups[0]
    assert group(opt.state_dict())['saved_by']=='Adam'

@pytest.mark.parametrize('make,names', [
    (lambda a,b: genopt.Adam([a, b]),                                                                        ['Adam']),
    (lambda a,b: genopt.Optimizer([a, b], [genopt.blocks.clip_grad_norm, genopt.AdamW], max_norm=1.),        ['AdamW']),
    (lambda a,b: genopt.Optimizer([a, b], [functools.partial(genopt.AdamW, eps=1e-6)]),                      ['AdamW']),
    (lambda a,b: genopt.Optimizer([a, b], [genopt.blocks.sgd_step], lr=.1),                                  [None]),
    (lambda a,b: fastai.Adam([a, b], lr=.1),                                                          [None]),
    (lambda a,b: genopt.Optimizer([dict(params=[a], cbs=genopt.Lion), dict(params=[b], cbs=genopt.AdamW)]),  ['Lion','AdamW']),
    (lambda a,b: genopt.AdamW([dict(params=[a], cbs=[genopt.blocks.sgd_step], lr=.1), dict(params=[b])]),    [None,'AdamW']),
], ids=['algorithm','list','partial','no_algorithm','fastai','groups','own_list'])
def test_each_group_of_a_file_names_its_algorithm(make, names):
    new = lambda: make(*(torch.nn.Parameter(torch.ones(3)) for _ in 'ab'))
    opt = new()
    saved = opt.state_dict()
    assert [g.get('saved_by') for g in saved['param_groups']]==names and not any('saved_by' in g for g in opt.param_groups)
    file = io.BytesIO()
    torch.save(saved, file)
    file.seek(0)
    other = new()
    other.load_state_dict(torch.load(file, weights_only=True))
    assert other.state_dict()['param_groups']==saved['param_groups'] and not any('saved_by' in g for g in other.param_groups)
    for again in copy.deepcopy(opt), pickle.loads(pickle.dumps(opt)): assert again.state_dict()['param_groups']==saved['param_groups']

@pytest.mark.filterwarnings('ignore:torch.distributed is ')
def test_torch_s_distributed_checkpoints_keep_the_name(tmp_path):
    from torch.distributed import checkpoint as dcp
    from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict,set_optimizer_state_dict
    def new(cls):
        model = torch.nn.Linear(2, 1)
        opt   = cls(model.parameters())
        model(torch.ones(1, 2)).sum().backward()
        opt.step()
        return model,opt
    def load(theirs, ours):
        folder = tmp_path/f'{theirs.__name__}-{ours.__name__}'
        dcp.save(dict(opt=get_optimizer_state_dict(*new(theirs))), checkpoint_id=folder)
        model,opt = new(ours)
        saved = dict(opt=get_optimizer_state_dict(model, opt))
        dcp.load(saved, checkpoint_id=folder)
        set_optimizer_state_dict(model, opt, saved['opt'])
        assert 'saved_by' not in opt.param_groups[0]
    load(genopt.Adam, genopt.Adam)
    load(genopt.Adam, genopt.AdamW)
    with pytest.raises(ValueError, match='AdaBelief has saved it, and the optimizer is Adam'): load(genopt.AdaBelief, genopt.Adam)

def test_what_is_written_for_torch_has_no_name():
    assert 'saved_by' not in group(genopt.Adam([torch.nn.Parameter(torch.ones(3))]).torch_state_dict())

@pytest.mark.parametrize('note', ['Adam', 'me', 7])
def test_a_user_s_own_note_of_that_key_stays(note):
    new = lambda: genopt.Lion([dict(params=[torch.nn.Parameter(torch.ones(3))], saved_by=note, algorithm='mine')])
    opt = new()
    opt.load_state_dict(new().state_dict())
    assert (opt.param_groups[0]['saved_by'], opt.param_groups[0]['algorithm'])==(note, 'mine')==(group(opt.state_dict())['saved_by'], 'mine')

def test_amsgrad_is_torch_s_adam_with_a_flag():
    "A file of either goes on as AMSGrad, with the steps of torch"
    saved = torch_s['Adam(amsgrad)']
    p,q = [torch.nn.Parameter(torch.full((3, 2), .5)) for _ in 'pq']
    ref,opt = torch.optim.Adam([p], amsgrad=True),genopt.AMSGrad([q])
    for o in ref,opt: o.load_state_dict(copy.deepcopy(saved.state_dict()))
    for i in range(5):
        p.grad,q.grad = torch.full((3, 2), 1.-i/2),torch.full((3, 2), 1.-i/2)
        ref.step(); opt.step()
    assert torch.allclose(p, q, rtol=1e-6)
    assert told(opt.state_dict(), lambda ps: genopt.Adam(ps, amsgrad=True))==''

@pytest.mark.parametrize('saved,ours', [('Adam', lambda ps: genopt.SGD(ps, **momentum)), ('SGD(momentum)', genopt.Adam), ('Adam', genopt.Lion),
                                        ('NAdam', genopt.Adam), ('Adam', genopt.RAdam)])
def test_the_state_of_another_algorithm_is_loaded_if_asked_for(saved, ours):
    p   = torch.nn.Parameter(torch.ones(3, 2))
    opt = ours([p])
    names = opt.param_groups[0].keys()
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        opt.load_state_dict(torch_s[saved].state_dict(), strict=False)
    p.grad = torch.ones(3, 2)
    opt.step()
    assert opt.param_groups[0].get('dampening') in (0, True) and (opt.param_groups[0].get('dampening')==0)==(opt.name=='SGD')
    opt.set_hyper('mom', .5)                                                # the group has not both spellings, momentum and betas
    assert opt.hypers[0]['mom']==.5 and not {'betas','momentum','amsgrad'}&opt.param_groups[0].keys()-names

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

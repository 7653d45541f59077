"""Rules that make groups, several algorithms in one optimizer, and what is frozen."""

import copy,pickle,re
from functools import partial
import pytest,torch
from torch import nn
from torch.optim import lr_scheduler
import genopt
from genopt import AdamW,Lion,Optimizer,groups
from genopt.blocks import average_grad,momentum_step,sgd_step

ways = pytest.mark.parametrize('kw', [dict(foreach=False), {}, dict(fused=True)], ids=['loop','default','fused'])

def net(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(8, 16), nn.LayerNorm(16), nn.ReLU(), nn.Linear(16, 16, bias=False), nn.Linear(16, 4))

def train(m, opt, steps=3, seed=1):
    g = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        opt.zero_grad()
        m(torch.randn(5, 8, generator=g)).square().sum().backward()
        opt.step()

names = lambda gs: [[n for n,_ in g['params']] for g in gs]

@pytest.mark.parametrize('rule,found', [
    ('*.bias',                         ['0.bias','1.bias','4.bias']),
    (re.compile(r'^[34]\.'),           ['3.weight','4.weight','4.bias']),
    (nn.LayerNorm,                     ['1.weight','1.bias']),
    (2,                                ['0.weight','3.weight','4.weight']),
    (lambda n, p: p.numel()==256,      ['3.weight']),
    ((nn.LayerNorm, '4.*'),            ['1.weight','1.bias','4.weight','4.bias']),
    ([nn.LayerNorm, '4.*'],            ['1.weight','1.bias','4.weight','4.bias']),
], ids=['glob','regex','module','ndim','function','any of','any of a list'])
def test_what_a_rule_finds(rule, found):
    gs = groups(net(), [(rule, dict(lr=.1))])
    assert names(gs)[0]==found and gs[0]['lr']==.1 and len(gs)==2 and sum(map(len, names(gs)))==7

@pytest.mark.parametrize('rule,found,label', [
    (lambda m: m[3],                   ['3.weight'],                                '3'),
    (lambda m: m[4],                   ['4.weight','4.bias'],                       '4'),
    (lambda m: m[1:4],                 ['1.weight','1.bias','3.weight'],            'Sequential'),      # a slice is a module that the model does not have
    (lambda m: m,                      ['0.weight','0.bias','1.weight','1.bias','3.weight','4.weight','4.bias'], 'Sequential'),
    (lambda m: m[1].bias,              ['1.bias'],                                  '1.bias'),
    (lambda m: (m[1].bias, m[4], 1),   ['0.bias','1.weight','1.bias','4.weight','4.bias'], '1.bias or 4 or 1 dimension'),
], ids=['module','head','slice','model','parameter','any of'])
def test_a_module_or_a_parameter_of_the_model_is_a_rule(rule, found, label):
    m = net()
    gs = groups(m, {rule(m): dict(lr=.1)})
    assert names(gs)[0]==found and gs.rules[0]==label

def test_a_module_finds_the_weight_that_it_shares_with_one_before():
    m = nn.ModuleDict(dict(embed=nn.Embedding(8, 4), head=nn.Linear(4, 8)))
    m.head.weight = m.embed.weight
    assert names(groups(m, {m['head']: {}}))==[['embed.weight', 'head.bias']]

def test_the_first_rule_wins_and_the_table_says_what_each_found():
    gs = groups(net(), {'*.bias': dict(weight_decay=0), nn.LayerNorm: dict(weight_decay=0), '4.*': dict(lr=1e-2)})
    assert names(gs)==[['0.bias','1.bias','4.bias'], ['1.weight'], ['4.weight'], ['0.weight','3.weight']]
    assert repr(gs).splitlines()[2:]==['*.bias     weight_decay=0        3        36  0.bias, 1.bias, 4.bias',
                                       'LayerNorm  weight_decay=0        1        16  1.weight',
                                       '4.*        lr=0.01               1        64  4.weight',
                                       'the rest                         2       384  0.weight, 3.weight']
    opt = AdamW(gs, lr=1e-3)
    assert [(g['lr'], g['weight_decay']) for g in opt.param_groups]==[(1e-3, 0), (1e-3, 0), (1e-2, 1e-2), (1e-3, 1e-2)]
    torch.optim.AdamW(gs)                                                   # plain param groups, for any optimizer

def test_tied_and_frozen_parameters():
    m = net()
    m[3].weight.requires_grad_(False)
    tied = nn.ModuleDict(dict(a=m, b=m[4]))
    assert sum(map(len, names(groups(tied, {'*bias': {}}))))==7

@pytest.mark.parametrize('rules,error,words', [
    ({'*.bais': {}},                   ValueError, r"the rule '\*.bais' matches no parameter, or earlier rules have taken all"),
    ({'*': {}, 2: dict(lr=1)},         ValueError, "'2 dimensions' matches no parameter"),
    ({'*': 1e-3},                      TypeError,  r"the settings of '\*' must be a dict"),
    ({3.5: {}},                        TypeError,  'a rule is a pattern of names.*got 3.5'),
    ({True: {}},                       TypeError,  'a rule is a pattern of names.*got True'),
    ({torch.Tensor: {}},               TypeError,  'a rule is a pattern of names.*Tensor'),
    ({nn.Linear(2, 2): {}},            ValueError, "the rule 'Linear' matches no parameter, or earlier"),
    ({'4': {}},                        ValueError, r"the rule '4' matches no parameter, because '4' is a module; write '4\.\*'"),
    ({'*': AdamW},                     TypeError,  r"the settings of '\*' must be a dict, such as dict\(cbs=AdamW\)"),
])
def test_rules_that_cannot_work(rules, error, words):
    with pytest.raises(error, match=f'(?s){words}'): groups(net(), rules)
    with pytest.raises(TypeError, match='model must be a torch.nn.Module, got list'): groups([*net().parameters()], {})


mixed = {(re.compile('^0'), nn.LayerNorm): dict(cbs=AdamW, lr=1e-3), 2: dict(cbs=Lion, lr=1e-4), '*': dict(cbs=[average_grad, momentum_step], lr=.1)}

@ways
def test_several_algorithms_are_each_as_alone(kw):
    m,n = net(),net()
    opt = Optimizer(groups(m, mixed), **kw)
    gs = groups(n, mixed)
    alone = [AdamW(gs[0]['params'], lr=1e-3, **kw), Lion(gs[1]['params'], lr=1e-4, **kw), Optimizer(gs[2]['params'], [average_grad, momentum_step], lr=.1, **kw)]
    for seed in range(4):
        train(m, opt, 1, seed)
        n.zero_grad()
        n(torch.randn(5, 8, generator=torch.Generator().manual_seed(seed))).square().sum().backward()
        for o in alone: o.step()
    for p,q in zip(m.parameters(), n.parameters()): torch.testing.assert_close(p, q, rtol=1e-6, atol=1e-7)
    assert [g['cbs'] for g in opt.param_groups]==['AdamW', 'Lion', 'average_grad > momentum_step']
    assert 'Optimizer, Lion: 2 tensors' in repr(opt.explain()) and repr(opt).startswith('Optimizer(AdamW; Lion; average_grad > momentum_step; 7 tensors')

def test_several_algorithms_save_load_copy_and_go_on(tmp_path):
    m = net()
    opt = Optimizer(groups(m, mixed))
    train(m, opt)
    torch.save(dict(m=m.state_dict(), opt=opt.state_dict()), tmp_path/'c')
    saved,n = torch.load(tmp_path/'c', weights_only=True),net(7)
    other = Optimizer(groups(n, mixed))
    n.load_state_dict(saved['m']); other.load_state_dict(saved['opt'])
    copies = pickle.loads(pickle.dumps((m, opt))),copy.deepcopy((m, opt)),(n, other)
    train(m, opt, seed=5)
    for q,o in copies:
        train(q, o, seed=5)
        assert all(torch.equal(a, b) for a,b in zip(m.parameters(), q.parameters()))
    swapped = Optimizer([dict(g, cbs=Lion if i==0 else g['cbs']) for i,g in enumerate(groups(net(), mixed))])
    with pytest.raises(ValueError, match='param group 0: AdamW has saved it, and the group runs Lion'): swapped.load_state_dict(saved['opt'])
    with pytest.raises(ValueError, match='param group 1: AdamW has saved it, and the group runs Lion'):
        other.load_state_dict(AdamW([dict(g, lr=.1) for g in [dict(params=[(k, p) for k,p in h['params']]) for h in groups(net(), mixed)]]).state_dict())

def of_one_group(cbs, cls=None):
    "A network, an optimizer that runs `cbs`, brought by its group or, with `cls`, given to it, after a step"
    m = net()
    ps = [p for p in m.parameters() if p.ndim==2]
    opt = cls(ps, lr=.1) if cls else Optimizer([dict(params=ps, cbs=cbs)], lr=.1)
    train(m, opt, 1)
    return m,opt

plain_list = [average_grad, momentum_step]
clipped    = [genopt.blocks.sign_grad, AdamW]
@pytest.mark.parametrize('theirs,ours,refused', [
    ((genopt.Adam,),            (AdamW,),           ''),                    # both keep the same states, made in the same way
    ((AdamW,),                  (genopt.Adam,),     ''),
    ((genopt.Adam,),            (None,genopt.Adam), ''),
    ((None,genopt.Adam),        (genopt.Adam,),     ''),
    ((None,torch.optim.Adam),   (genopt.Adam,),     ''),
    ((None,torch.optim.Adam),   (AdamW,),           ''),
    ((clipped,),                (AdamW,),           ''),
    ((AdamW,),                  (clipped,),         ''),
    ((plain_list,),             ([*plain_list, genopt.blocks.cautious],), ''),
    ((genopt.Adam,),            (Lion,),            'Adam has saved it, and the group runs Lion, which makes grad_avg'),
    ((None,torch.optim.SGD),    (Lion,),            'torch.optim.SGD has saved it, and the group runs Lion'),
    ((genopt.SGD,),             (None,Lion),        'SGD has saved it, and the optimizer is Lion'),
    ((plain_list,),             ([average_grad, genopt.blocks.average_sqr_grad, momentum_step],), "the saved group has 'momentum', where .* has 'betas'"),
])
def test_a_group_with_cbs_loads_what_an_optimizer_of_them_loads(theirs, ours, refused):
    saved = of_one_group(*theirs)[1].state_dict()
    m,opt = of_one_group(*ours)
    cbs = [g.get('cbs') for g in opt.param_groups]
    if refused:
        with pytest.raises(ValueError, match=refused): opt.load_state_dict(saved)
        return
    before = [p.clone() for p in m.parameters()]
    opt.load_state_dict(saved)
    assert [g.get('cbs') for g in opt.param_groups]==cbs
    train(m, opt, 1)
    assert not torch.equal(before[0], m[0].weight)

def test_several_algorithms_and_schedules():
    m = net()
    opt = Optimizer(groups(m, mixed))
    s = lr_scheduler.ExponentialLR(opt, .5)
    train(m, opt); s.step()
    assert [g['lr'] for g in opt.param_groups]==[5e-4, 5e-5, .05]
    lr_scheduler.OneCycleLR(opt, [1e-2, 1e-3, .1], total_steps=10, cycle_momentum=False)
    with pytest.raises(ValueError, match='must support momentum or beta1'): lr_scheduler.OneCycleLR(opt, 1e-2, total_steps=10)    # they name it differently
    both = Optimizer([dict(params=[m[0].weight], cbs=AdamW), dict(params=[m[3].weight], cbs=Lion)])
    lr_scheduler.OneCycleLR(both, 1e-2, total_steps=10, base_momentum=.8)
    assert [g['betas'][0] for g in both.param_groups]==[.95, .95]
    opt.set_hyper('mom', .7)
    assert [h['mom'] for h in opt.hypers]==[.7]*3

def test_a_group_of_another_algorithm_beside_the_optimizers_own():
    m = net()
    opt = AdamW([dict(params=[*m[0].parameters()]), dict(params=[m[3].weight], cbs=Lion)], lr=.1, weight_decay=.2, maximize=True)
    assert (opt.param_groups[1]['lr'], opt.param_groups[1]['weight_decay'], opt.param_groups[1]['maximize'])==(.1, 0, True)
    opt.add_param_group(dict(params=[m[4].weight], cbs='Lion', lr=.3))
    opt.add_param_group(dict(params=[m[4].bias]))
    assert opt.param_groups[2]['cbs']=='Lion' and 'cbs' not in opt.param_groups[3] and opt.param_groups[3]['lr']==.1
    with pytest.raises(ValueError, match='torch.optim has no AdamW.*Lion'): opt.torch_state_dict()

own_lr     = partial(Lion, lr=.3)

@pytest.mark.parametrize('own,given,wanted', [                                          # wanted: what the group with `own` cbs has
    (dict(cbs=Lion),                     dict(),                            dict(lr=1e-4, betas=(.9,.99))),
    (dict(cbs=Lion),                     dict(lr=.5),                       dict(lr=.5,   betas=(.9,.99))),
    (dict(cbs=Lion, lr=.2),              dict(lr=.5),                       dict(lr=.2)),
    (dict(cbs=own_lr),                   dict(lr=.5),                       dict(lr=.3)),
    (dict(cbs=[genopt.blocks.cautious, own_lr]), dict(lr=.5),               dict(lr=.3)),
    (dict(cbs=plain_list),               dict(lr=.5),                       dict(lr=.5)),
    (dict(cbs=Lion),                     dict(lr=torch.tensor(.5)),         dict(lr=torch.tensor(.5))),
    (dict(cbs=Lion),                     dict(lr=.5, betas=(.8,.7)),        dict(lr=.5, betas=(.8,.7))),
    (dict(cbs=Lion, mom=.6),             dict(lr=.5, betas=(.8,.7)),        dict(lr=.5, betas=(.6,.7))),
    (dict(cbs=partial(Lion, mom=.6)),    dict(lr=.5, betas=(.8,.7)),        dict(lr=.5, betas=(.6,.99))),
    (dict(cbs=plain_list),               dict(lr=.5, mom=.8),               dict(lr=.5, momentum=.8)),
    (dict(cbs=plain_list, momentum=.6),  dict(lr=.5, mom=.8),               dict(lr=.5, momentum=.6)),
    (dict(cbs=genopt.SGD),               dict(lr=.5, betas=(.8,.7), wd=.1), dict(lr=.5, momentum=0, weight_decay=.1)),    # SGD reads no betas; AdamW does
])
def test_a_value_given_to_the_optimizer_is_the_default_of_groups_with_own_cbs(own, given, wanted):
    p,q,r = [nn.Parameter(torch.ones(2)) for _ in range(3)]
    opt = Optimizer([dict(params=[p], cbs=AdamW), dict(params=[q]) | own], **given)
    opt.add_param_group(dict(params=[r]) | own)
    for g in opt.param_groups[1:]: assert {k: g[k] for k in wanted}==wanted
    assert opt.param_groups[0]['lr']==given.get('lr', 1e-3) and opt.defaults['lr']==given.get('lr', 1e-3)
    for n in (p, q, r): n.grad = torch.ones(2)
    copy.deepcopy(opt).step()

@pytest.mark.parametrize('cls', [AdamW, lambda gs, **kw: Optimizer(gs, [AdamW], **kw)], ids=['class','list'])
def test_only_lr_goes_beyond_the_callbacks_of_the_optimizer(cls):
    "The betas are AdamW's. A later group gets the lr, too, also after a copy and a pickle"
    p,q,r,s = [nn.Parameter(torch.ones(2)) for _ in range(4)]
    opt = cls([dict(params=[p]), dict(params=[q], cbs=Lion)], lr=.5, betas=(.8,.7))
    for o in (opt, copy.deepcopy(opt), pickle.loads(pickle.dumps(opt))):
        o.add_param_group(dict(params=[nn.Parameter(torch.ones(2))], cbs=Lion))
        assert [(g['lr'], g['betas']) for g in o.param_groups]==[(.5, (.8,.7)), (.5, (.9,.99)), (.5, (.9,.99))]
    assert [g['lr'] for g in cls([dict(params=[r]), dict(params=[s], cbs=Lion)], **({} if cls is AdamW else dict(betas=(.8,.7)))).param_groups]==[1e-3, 1e-4]

@pytest.mark.parametrize('given,words', [
    (dict(wieght_decay=.1), "Optimizer got an unexpected hyper-parameter 'wieght_decay', did you mean 'weight_decay'"),
    (dict(momentum=.1),     "Optimizer got an unexpected hyper-parameter 'momentum'.*; its groups have lr, .*betas")])
def test_a_value_that_no_group_reads_is_an_error(given, words):
    p,q = [nn.Parameter(torch.ones(2)) for _ in range(2)]
    with pytest.raises(TypeError, match=words): Optimizer([dict(params=[p], cbs=AdamW), dict(params=[q], cbs=Lion)], **given)

def test_callbacks_of_one_name_and_other_settings_are_kept_apart():
    ps = [nn.Parameter(torch.ones(2)) for _ in range(3)]
    cbs = lambda m: [partial(average_grad, mom=m), momentum_step]
    opt = Optimizer([dict(params=[p], cbs=cbs(m), lr=.1) for p,m in zip(ps, (.5, .9, .5))])
    assert [g['cbs'] for g in opt.param_groups]==['average_grad > momentum_step', 'average_grad > momentum_step (2)', 'average_grad > momentum_step']
    assert [g['momentum'] for g in opt.param_groups]==[.5, .9, .5]

@pytest.mark.parametrize('group,error,words', [
    (dict(cbs=torch.optim.Adam),            TypeError,  'param group 1: cbs has the class torch.optim.adam.Adam, which is no callback; give the algorithm, genopt.Adam,'),
    (dict(cbs=3),                           TypeError,  'param group 1: cbs must be a list of callbacks'),
    (dict(cbs='Lion'),                      ValueError, "param group 1: cbs='Lion' names no algorithm of another group"),
    (dict(cbs=[sgd_step]),                  TypeError,  r'AdamW \(sgd_step\) needs a learning rate'),
    (dict(cbs=[genopt.blocks.adam_step], lr=.1),   ValueError, "adam_step reads 'grad_avg', which nothing before it provides"),
    (dict(cbs=Lion, betas=(1, .9)),         ValueError, 'Invalid beta parameter at index 0: 1; AdamW, param group 1'),
    (dict(cbs=Lion, wieght_decay=1),        TypeError,  "unexpected key 'wieght_decay', did you mean 'weight_decay'"),
    (dict(cbs=Lion, momentum=.9),           TypeError,  "unexpected key 'momentum'"),
])
def test_bad_groups_leave_the_optimizer_as_it_was(group, error, words):
    p,q = [nn.Parameter(torch.ones(2)) for _ in range(2)]
    opt = AdamW([p])
    before = copy.deepcopy((opt.param_groups, opt.defaults))
    with pytest.raises(error, match=words): opt.add_param_group(dict(params=[q]) | group)
    assert repr(before)==repr((opt.param_groups, opt.defaults)) and repr(opt).startswith('AdamW(weight_decay')
    with pytest.raises(ValueError, match='param group 0 has no cbs: give Optimizer a list of callbacks, or each group its own'): Optimizer([q])


# -- Frozen --

@ways
@pytest.mark.parametrize('cls', [genopt.SGD, genopt.Adam, AdamW, genopt.LAMB])
def test_frozen_parameters_rest_whatever_gradient_is_left(cls, kw):
    "Their state is kept, they do not decay, and when they are thawed they go on"
    p,q = nn.Parameter(torch.full((3,), 2.)),nn.Parameter(torch.full((4,), 2.))
    opt = cls([p, q], lr=.1, weight_decay=.1, **kw)
    for x in (p, q): x.grad = torch.ones_like(x)
    opt.step()
    q.requires_grad_(False)
    before,state = q.detach().clone(),copy.deepcopy(opt.state[q])
    for g in (torch.zeros(4), torch.ones(4)):
        q.grad = g
        opt.step()
    same = lambda a, b: torch.equal(a, b) if torch.is_tensor(a) else a==b
    assert torch.equal(q, before) and all(same(v, state[k]) for k,v in opt.state[q].items())
    assert not torch.equal(p, torch.full((3,), 2.))
    q.requires_grad_(True)
    opt.step()
    assert not torch.equal(q, before) and opt.state[q].get('step', 2)==2

@ways
def test_frozen_parameters_are_left_out_of_global_norms(kw):
    p,q = [nn.Parameter(torch.zeros(1)) for _ in range(2)]
    opt = Optimizer([p, q], [genopt.blocks.clip_grad_norm, sgd_step], lr=1., max_norm=1., **kw)
    p.grad,q.grad = torch.tensor([3.]),torch.tensor([4.])
    q.requires_grad_(False)
    opt.step()
    assert p.item()==pytest.approx(-1.) and q.item()==0

def test_freezing_compiles_nothing_anew():
    from genopt.run.compiler import compilations
    m = net()
    opt = AdamW(m.parameters(), fused=True)
    train(m, opt)
    n = len(compilations)
    for frozen in ([0], [0, 1], [], [3], [0, 1, 3]):
        for i in (0, 1, 3, 4): m[i].requires_grad_(i not in frozen)
        train(m, opt, 2)
    assert len(compilations)==n

def test_a_tensor_that_is_no_parameter_may_have_its_gradient_by_hand():
    p = torch.ones(2)
    p.grad = torch.ones(2)
    genopt.SGD([p], lr=.1).step()
    assert torch.allclose(p, torch.full((2,), .9))


# -- State without a step --

@ways
@pytest.mark.parametrize('cls', [genopt.SGD, genopt.Adam, Lion, genopt.NAdam])
def test_state_is_allocated_without_a_step(cls, kw):
    m,n = net(),net()
    more = dict(momentum=.9) if cls is genopt.SGD else {}
    a,b = [cls(x.parameters(), lr=.01, **more, **kw) for x in (m, n)]
    m[0].requires_grad_(False); n[0].requires_grad_(False)
    before = [p.detach().clone() for p in m.parameters()]
    a.init_state()
    assert all(torch.equal(p, q) for p,q in zip(m.parameters(), before))
    assert {p for p in a.state if a.state[p]}=={p for p in m.parameters() if p.requires_grad}
    train(m, a, 2); a.init_state(); train(m, a, 2)                          # what is there stays
    train(n, b, 2); train(n, b, 2)
    assert all(torch.equal(p, q) for p,q in zip(m.parameters(), n.parameters()))

@ways
def test_the_dummy_step_of_distributed_checkpoints_changes_nothing(kw):
    from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict,set_optimizer_state_dict
    m,n = net(),net()
    a,b = [genopt.Adam(x.parameters(), lr=.01, **kw) for x in (m, n)]
    sd = get_optimizer_state_dict(m, a)                                     # makes a step, at lr 0 with gradients of zeros
    assert sd['state']['0.weight']['step']==0
    train(m, a); train(n, b)
    assert all(torch.equal(p, q) for p,q in zip(m.parameters(), n.parameters()))
    o = net(5)
    c = genopt.Adam(o.parameters(), lr=.3, **kw)
    o.load_state_dict(m.state_dict())
    set_optimizer_state_dict(o, c, get_optimizer_state_dict(m, a))
    train(m, a, seed=3); train(o, c, seed=3)
    assert all(torch.equal(p, q) for p,q in zip(m.parameters(), o.parameters()))

def test_a_first_step_at_rate_zero_counts_if_there_is_something_to_learn():
    p = nn.Parameter(torch.ones(2))
    opt = genopt.Adam([p], lr=0.)
    p.grad = torch.ones(2)
    opt.step()
    assert opt.state[p]['step']==1 and opt.state[p]['grad_avg'].any()

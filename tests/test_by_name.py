"""`make`: algorithms, blocks and settings by name, from strings, dicts and YAML; genopt's classes in Hydra's and Lightning CLI's configs."""

import json,re,sys
import pytest,torch
from torch import nn
import genopt
from genopt import AdamW,Lion,Muon,Optimizer,groups,make
from genopt.blocks import cautious,clip_grad_norm
from genopt.by_name import find,rule


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 2))

def my_step(grad, gain=2.): return grad*gain                            # a user's own block

def seen(opt):
    "What makes an optimizer: its kind, and for each group the callbacks, the names of the parameters and the settings"
    plain = [{k: v for k,v in g.items() if k not in ('params', 'param_names')} for g in opt.param_groups]
    return type(opt),str(opt),plain,[[tuple(p.shape) for p in g['params']] for g in opt.param_groups]

def named(opt): return [n for g in opt.param_groups for n in g['param_names']]


# -- What it makes --

no_decay = {('*.bias', nn.LayerNorm): dict(weight_decay=0)}

@pytest.mark.parametrize('made,meant', [
    (lambda m: make('adamw', m, lr=.1),                          lambda m: AdamW(m.named_parameters(), lr=.1)),
    (lambda m: make('ADAM_W', m.parameters(), lr=.1),            lambda m: AdamW(m.parameters(), lr=.1)),
    (lambda m: make(AdamW, m, lr=.1),                            lambda m: AdamW(m.named_parameters(), lr=.1)),
    (lambda m: make('adamw', list(m.parameters())),              lambda m: AdamW(m.parameters())),
    (lambda m: make('adamw', [[p] for p in m.parameters()]),     lambda m: AdamW([[p] for p in m.parameters()])),
    (lambda m: make('adamw', m, lr='1e-1', betas='0.9, 0.95', amsgrad='1', maximize='true'),
     lambda m: AdamW(m.named_parameters(), lr=.1, betas=(.9, .95), amsgrad=True, maximize=True)),
    (lambda m: make('adamw', m, lr='.1', betas=['0.9', .95]),    lambda m: AdamW(m.named_parameters(), lr=.1, betas=(.9, .95))),
    (lambda m: make('adamw', m, lr='.1', mom='.8', wd='0'),      lambda m: AdamW(m.named_parameters(), lr=.1, mom=.8, wd=0)),
    (lambda m: make('adafactor', m, eps='none,1e-3'),            lambda m: genopt.Adafactor(m.named_parameters(), eps=(None, 1e-3))),
    (lambda m: make('adamw', m, nonfinite='skip', foreach='none', fused='false'),
     lambda m: AdamW(m.named_parameters(), nonfinite='skip', fused=False)),
    (lambda m: make(['clip_grad_norm', 'AdamW', 'cautious'], m, lr='.1', max_norm='2'),
     lambda m: Optimizer(m.named_parameters(), [clip_grad_norm, AdamW, cautious], lr=.1, max_norm=2)),
    (lambda m: make('clip_grad_norm, AdamW, cautious', m, lr=.1, max_norm=2),
     lambda m: Optimizer(m.named_parameters(), [clip_grad_norm, AdamW, cautious], lr=.1, max_norm=2)),
    (lambda m: make([clip_grad_norm, 'adamw', None, [my_step]], m, lr=.1, gain='3'),
     lambda m: Optimizer(m.named_parameters(), [clip_grad_norm, AdamW, my_step], lr=.1, gain=3)),
    (lambda m: make('test_by_name:my_step', m, lr=.1, gain='3'), lambda m: Optimizer(m.named_parameters(), [my_step], lr=.1, gain=3)),
    (lambda m: make('genopt:AdamW', m),                          lambda m: AdamW(m.named_parameters())),
    (lambda m: make('adamw', m, groups={('*.bias', nn.LayerNorm): dict(weight_decay='0')}),  lambda m: AdamW(groups(m, no_decay))),
    (lambda m: make('adamw', m, groups={'*.bias, nn.LayerNorm': dict(weight_decay=0)}),      lambda m: AdamW(groups(m, no_decay))),
    (lambda m: make('adamw', m, groups=[('2 dimensions', dict(lr='.2'))]),                   lambda m: AdamW(groups(m, {2: dict(lr=.2)}))),
    (lambda m: make(None, m, groups={2: dict(algorithm='muon', lr='.02'), '*': dict(algorithm=['adamw', 'cautious'], lr=.1)}),
     lambda m: Optimizer(groups(m, {2: dict(cbs=Muon, lr=.02), '*': dict(cbs=[AdamW, cautious], lr=.1)}))),
    (lambda m: make('sgd', m, lr=.1, groups={2: dict(algorithm='lion', betas='0.8,0.9', wd='.1')}),
     lambda m: genopt.SGD(groups(m, {2: dict(cbs=Lion, betas=(.8, .9), wd=.1)}), lr=.1)),
    (lambda m: make(dict(algorithm='AdamW', lr='.1', groups={'*.bias': dict(weight_decay=0)}), m, lr=.3),
     lambda m: AdamW(groups(m, {'*.bias': dict(weight_decay=0)}), lr=.3)),
    (lambda m: make(dict(algorithm='AdamW', groups={'*.bias': dict(lr=9.)}), m, groups={'*.bias': dict(lr=0)}),
     lambda m: AdamW(groups(m, {'*.bias': dict(lr=0)}))),
    (lambda m: make('adamw', m, groups={1: dict(algorithm=None, lr=9.)}), lambda m: AdamW(groups(m, {1: dict(lr=9.)}))),
    (lambda m: make(dict(algorithm='AdamW', groups=None), m),    lambda m: AdamW(m.named_parameters())),
])
def test_make(made, meant):
    m = network()
    assert seen(made(m))==seen(meant(m))

def test_names_of_a_model_are_known():
    m = network()
    assert named(make('adamw', m))==[n for n,_ in m.named_parameters()]

def test_config_is_not_changed():
    config = dict(algorithm='AdamW', lr='.1', groups={'*.bias': dict(algorithm='lion', lr='.2')})
    before = json.dumps(config)
    make(config, network())
    assert json.dumps(config)==before

@pytest.mark.parametrize('name', genopt.algorithms.__all__)
def test_every_default_may_be_a_string(name):
    cls = getattr(genopt, name)
    p   = torch.ones(8, 6, requires_grad=True)
    opt = make(name.lower(), [p], **{k: str(v) for k,v in cls.arguments.items()})
    assert seen(opt)==seen(cls([p])) and [*map(type, opt.defaults.values())]==[*map(type, cls([p]).defaults.values())]

def test_every_name_is_found_and_means_one_thing():
    for module in (genopt.algorithms, genopt.blocks):
        for n in module.__all__:
            assert find(n) is find(n.upper()) is find(n.replace('_', '-')) is getattr(module, n)

@pytest.mark.parametrize('key,meant', [
    ('*.bias', '*.bias'), (2, 2), ('2 dimensions', 2), ('1 dimension', 1), ('nn.LayerNorm', nn.LayerNorm), ('torch.nn.LayerNorm', nn.LayerNorm),
    ('/^0[.]/', re.compile('^0[.]')), ('/a{1,2}/', re.compile('a{1,2}')), ('*.bias, nn.LayerNorm,1 dimension', ('*.bias', nn.LayerNorm, 1)),
    ('nn.weight', 'nn.weight'), (nn.Linear, nn.Linear)])
def test_rules(key, meant): assert rule(key)==meant


# -- Files and text --

config_text = 'algorithm: [clip_grad_norm, AdamW]\nlr: 1e-3           # to YAML 1e-3 is a string\nmax_norm: 2\ngroups:\n  "*.bias, nn.LayerNorm": {weight_decay: 0}\n  2: {lr: 1e-2}\n'

def test_yaml(tmp_path):
    pytest.importorskip('yaml')
    m = network()
    meant = Optimizer(groups(m, no_decay|{2: dict(lr=1e-2)}), [clip_grad_norm, AdamW], lr=1e-3, max_norm=2)
    (path := tmp_path/'opt.yaml').write_text(config_text)
    for config in (config_text, path, str(path)): assert seen(make(config, m))==seen(meant)
    assert seen(make('{algorithm: AdamW, lr: 1e-3}', m))==seen(make('{"algorithm": "AdamW", "lr": "1e-3"}', m))==seen(AdamW(m.named_parameters()))

def test_yaml_is_optional(monkeypatch):
    monkeypatch.setitem(sys.modules, 'yaml', None)
    with pytest.raises(ImportError, match='YAML needs the package PyYAML .*pip install pyyaml'): make('{algorithm: AdamW}', network())
    make(dict(algorithm='AdamW'), network())


# -- What is refused --

@pytest.mark.parametrize('strings,values', [
    (dict(lr='fast'),                          dict(lr='fast')),
    (dict(lr='-1'),                            dict(lr=-1)),
    (dict(lr='nan'),                           dict(lr=float('nan'))),
    (dict(betas='0.9'),                        dict(betas=(.9,))),
    (dict(betas='0.9,x'),                      dict(betas=(.9, 'x'))),
    (dict(betas='0.9,1.5'),                    dict(betas=(.9, 1.5))),
    (dict(amsgrad='maybe'),                    dict(amsgrad='maybe')),
    (dict(weigth_decay='0.1'),                 dict(weigth_decay=.1)),
    (dict(betas='0.9,0.9', mom='0.8'),         dict(betas=(.9, .9), mom=.8)),
    (dict(nonfinite='ignore'),                 dict(nonfinite='ignore')),
    (dict(fused='true', foreach='true'),       dict(fused=True, foreach=True)),
    (dict(groups={'*.bais': dict(lr='1')}),    dict(groups={'*.bais': dict(lr=1)})),
    (dict(groups={'*.bias': 1}),               dict(groups={'*.bias': 1})),
    (dict(groups={'*.bias': dict(lr='-1')}),   dict(groups={'*.bias': dict(lr=-1)})),
    (dict(groups={'*.bias': dict(betas='1')}), dict(groups={'*.bias': dict(betas=(1,))})),
    (dict(groups={'*.bias': dict(momentum='.9')}), dict(groups={'*.bias': dict(momentum=.9)})),
])
def test_errors_are_those_of_code(strings, values):
    m    = network()
    args = dict(values)
    rules = args.pop('groups', None)
    errors = []
    for call in (lambda: make('adamw', m, **strings), lambda: AdamW(groups(m, rules) if rules else m.named_parameters(), **args)):
        with pytest.raises((TypeError, ValueError, RuntimeError)) as e: call()
        errors.append((e.type, str(e.value)))
    assert errors[0]==errors[1]

@pytest.mark.parametrize('args,error,words', [
    (('adamv',),                              ValueError, "no algorithm 'adamv', did you mean 'Adam' or 'AdamW' or "),
    (('cautios',),                            ValueError, "no algorithm 'cautios', did you mean 'cautious'?"),
    (('adamw, cautios',),                     ValueError, "no algorithm 'cautios', did you mean 'cautious'?"),
    (('zzz',),                                ValueError, "no algorithm 'zzz'; choose from SGD, SGDW"),
    (('zzz',),                                ValueError, "or import one, as in 'my_module:MyOptimizer'"),
    (('torch.optim.AdamW',),                  ValueError, "no algorithm 'torch.optim.AdamW', did you mean 'AdamW'?"),
    (('AdamW(lr=0.1)',),                      ValueError, "no algorithm 'AdamW(lr=0.1)'; settings stand beside it: make('AdamW', model, lr=1e-3)"),
    (('',),                                   ValueError, "no algorithm given; name one, as in make('adamw', model, lr=1e-3)"),
    ((None,),                                 ValueError, "no algorithm given"),
    ((3,),                                    TypeError,  "an algorithm is a name such as 'AdamW', a function or a list of these; got 3"),
    ((dict(algorithm=dict(name='AdamW')),),   TypeError,  "an algorithm is a name such as 'AdamW'"),
    ((['AdamW', dict(cautious=dict(lr=1))],), TypeError,  "Settings stand beside it: {algorithm: [clip_grad_norm, AdamW], max_norm: 1}"),
    ((dict(name='AdamW'),),                   ValueError, "make: the config has no 'algorithm'; it has 'name'"),
    (('no_module:Opt',),                      ValueError, "cannot import 'no_module:Opt': No module named 'no_module'"),
    (('genopt:Optt',),                        ValueError, "has no attribute 'Optt'; write it as in 'my_module:MyOptimizer'"),
    ((['AdamW', 'Lion'],),                    TypeError,  "AdamW and Lion in one list would each move every parameter"),
    ((['cautious'],),                         TypeError,  "needs a learning rate: lr=..."),
    (('muon',),                               ValueError, "it takes matrices"),
    ((dict(algorithm='adamw', groups={'nn.Layernorm': dict(lr=0)}),), ValueError, "unknown kind of module 'nn.Layernorm', did you mean 'nn.LayerNorm'?"),
    ((dict(algorithm='adamw', groups={'*.bias': dict(algorithm='lionn')}),), ValueError, "no algorithm 'lionn', did you mean 'Lion'"),
    ((dict(groups={'*.bias': dict(algorithm='lion')}),),              ValueError, "has no cbs"),
    ((dict(algorithm='adamw', groups=['*.bias']),),                   TypeError,  "make: groups are a dict from rules to settings, as in {'*.bias': "),
    ((dict(algorithm='adamw', groups=[dict(rule='*.bias', lr=1)]),),  TypeError,  "or a list of such pairs; got [{'rule': '*.bias', 'lr': 1}]"),
    ((dict(algorithm='adamw', groups='*.bias'),),                     TypeError,  "make: groups are a dict from rules to settings"),
    ((dict(algorithm='adamw', groups=3),),                            TypeError,  "make: groups are a dict from rules to settings"),
    ((dict(algorithm='adamw', groups={'/[/': dict(lr=0)}),),          ValueError, "the rule '/[/' is no regular expression: unterminated character set"),
    (({'algorithm': 'adamw', 1: 2},),                                 TypeError,  "make: the config has the key 1; keys are 'algorithm', 'groups' and "),
    ((dict(algorithm='adamw', params=2),),                            TypeError,  "The parameters are an argument: make(config, model)"),
])
def test_what_is_wrong_is_told(args, error, words):
    with pytest.raises(error) as e: make(*args, network())
    assert words in str(e.value)

@pytest.mark.parametrize('args,words', [
    ((network(), 'adamw'),                                              "make takes the algorithm first"),
    (('adamw', dict(lr=1)),                                             "make takes the algorithm first"),
    ((dict(algorithm='adamw', groups={1: {}}), [torch.ones(2)]),        "groups need the model, because their rules match its names and modules; got a list"),
])
def test_wrong_order_and_groups_without_a_model(args, words):
    with pytest.raises(TypeError) as e: make(*args)
    assert words in str(e.value)

def test_yaml_that_is_none(tmp_path):
    pytest.importorskip('yaml')
    with pytest.raises(ValueError, match='cannot read the text as YAML: while parsing'): make('{algorithm: [', network())
    (path := tmp_path/'o.yaml').write_text('lr: 1')
    with pytest.raises(ValueError, match=r"o.yaml has no 'algorithm'; it has 'lr'"): make(path, network())
    with pytest.raises(FileNotFoundError): make('no/such/file.yaml', network())
    with pytest.raises(ValueError, match="cannot read the text as YAML: the key 'lr' comes twice"): make('{algorithm: AdamW, lr: 1, lr: 2}', network())


@pytest.mark.parametrize('text,store', [
    ('int8',                                                    'int8'),
    ("sqr_avg: int8, '*_avg': bfloat16",                        {'sqr_avg': 'int8', '*_avg': 'bfloat16'}),
    ('*_avg: bfloat16, p: extra_bits',                          {'*_avg': 'bfloat16', 'p': 'extra_bits'}),
    ('{"*": {dtype: int8, smallest: 0, rounding: nearest}}',    {'*': dict(dtype='int8', smallest=0, rounding='nearest')}),
    ('none',                                                    None)])
def test_a_policy_of_storage_as_a_string(text, store):
    m = network()
    assert seen(make('adamw', m, store=text))==seen(AdamW(m.named_parameters(), store=store))
    assert seen(make('Muon+AdamW', m, store=text))==seen(make('Muon+AdamW', m, store=store))

@pytest.mark.parametrize('text', ['sqr_avg: int8: float32', '{sqr_avg}', '{sqr_avg: int8', 'sqr_avg: '])
def test_a_policy_that_cannot_be_read(text):
    with pytest.raises(ValueError, match=f'cannot read {re.escape(repr(text))}; write names and values as in'): make('adamw', network(), store=text)


# -- In other libraries' configs --

def test_omegaconf():
    oc = pytest.importorskip('omegaconf').OmegaConf
    m  = network()
    config = oc.create(config_text)
    meant  = Optimizer(groups(m, no_decay|{2: dict(lr=1e-2)}), [clip_grad_norm, AdamW], lr=1e-3, max_norm=2)
    assert seen(make(config, m))==seen(meant)
    assert seen(make(oc.create('{algorithm: adamw, store: {"*_avg": {dtype: bfloat16, smallest: "64"}}}'), m))==seen(
        AdamW(m.named_parameters(), store={'*_avg': dict(dtype='bfloat16', smallest=64)}))
    config = oc.create(dict(rate=.3, optimizer=dict(algorithm='AdamW', lr='${rate}', betas=[.9, .95])))
    assert seen(make(config.optimizer, m))==seen(AdamW(m.named_parameters(), lr=.3, betas=(.9, .95)))

@pytest.mark.parametrize('config,meant', [
    (dict(_target_='genopt.AdamW', lr=.1, betas=[.9, .95]),                      lambda m: AdamW(m.parameters(), lr=.1, betas=(.9, .95))),
    (dict(_target_='genopt.AdamW', lr='1e-1', _convert_='all'),                  None),
    (dict(_target_='genopt.make', algorithm='adamw', lr='1e-1'),                 lambda m: AdamW(m.parameters(), lr=.1)),
    (dict(_target_='genopt.make', algorithm=['clip_grad_norm', 'AdamW'], lr=.1, max_norm=2.),
     lambda m: Optimizer(m.parameters(), [clip_grad_norm, AdamW], lr=.1, max_norm=2.)),
    (dict(_target_='genopt.Optimizer', lr=.1, cbs=[dict(_target_='hydra.utils.get_method', path='genopt.blocks.clip_grad_norm'),
                                                   dict(_target_='hydra.utils.get_class', path='genopt.AdamW')]),
     lambda m: Optimizer(m.parameters(), [clip_grad_norm, AdamW], lr=.1)),
])
def test_hydra(config, meant):
    instantiate = pytest.importorskip('hydra.utils').instantiate
    m = network()
    if meant is None:
        with pytest.raises(Exception, match="AdamW: lr must be a real number .*got '1e-1'"): instantiate(config, params=m.parameters())
    else:
        assert seen(instantiate(config, params=m.parameters()))==seen(meant(m))
        assert seen(instantiate(config|dict(_partial_=True))(params=m.parameters()))==seen(meant(m))

def test_hydra_gives_the_model():
    instantiate = pytest.importorskip('hydra.utils').instantiate
    m = network()
    config = dict(_target_='genopt.make', algorithm='adamw', lr='1e-1', groups={'*.bias, nn.LayerNorm': dict(weight_decay=0)})
    assert seen(instantiate(config, params=m))==seen(AdamW(groups(m, no_decay), lr=.1))

def parser():
    "As Lightning CLI makes it"
    p = pytest.importorskip('jsonargparse').ArgumentParser(exit_on_error=False)
    p.add_subclass_arguments(torch.optim.Optimizer, 'optimizer', skip={'params'}, instantiate=False, fail_untyped=False, required=True)
    return p

def test_class_path():
    m   = network()
    got = parser().parse_args(['--optimizer=genopt.AdamW', '--optimizer.lr=1e-1', '--optimizer.betas=[0.9, 0.95]', '--optimizer.amsgrad=true']).optimizer
    assert got.class_path=='genopt.AdamW'
    assert seen(AdamW(m.parameters(), **got.init_args))==seen(AdamW(m.parameters(), lr=.1, betas=(.9, .95), amsgrad=True))

@pytest.mark.parametrize('args,words', [
    (['--optimizer=genopt.AdamW', '--optimizer.lrr=1'], "Option 'lrr' is not accepted"),
    (['--optimizer=genopt.AdamX'], "has no attribute"),
])
def test_class_path_refuses(args, words):
    p = parser()
    with pytest.raises(Exception, match=words): p.parse_args(args)

@pytest.mark.slow
def test_lightning_cli(tmp_path):
    L   = pytest.importorskip('lightning')
    cli = pytest.importorskip('lightning.pytorch.cli')
    pytest.importorskip('jsonargparse')
    class Net(L.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = network()
        def training_step(self, batch, i): return self.net(batch).square().mean()
        def train_dataloader(self): return torch.utils.data.DataLoader(torch.randn(8, 3), batch_size=4)
    (path := tmp_path/'config.yaml').write_text('optimizer: {class_path: genopt.Lion, init_args: {lr: 1e-2, betas: [0.8, 0.9]}}\n')
    quiet = [f'--trainer.{k}=false' for k in ('logger', 'enable_checkpointing', 'enable_progress_bar', 'enable_model_summary')]
    run = cli.LightningCLI(Net, args=['fit', f'--config={path}', '--trainer.max_epochs=1', '--trainer.accelerator=cpu', *quiet], save_config_callback=None)
    opt, = run.trainer.optimizers
    assert type(opt) is Lion and opt.param_groups[0]['betas']==(.8, .9) and opt.param_groups[0]['lr']==.01
    assert all(s for s in opt.state.values()) and run.trainer.global_step==2

class Small(nn.Module):
    def __init__(self, embeds=True):
        super().__init__()
        self.embed  = nn.Embedding(5, 4) if embeds else None
        self.hidden = nn.Linear(4, 3, bias=embeds)

def test_two_algorithms_for_one_model():
    "Muon for the matrices, AdamW for the rest; an embedding is no matrix"
    opt = make('Muon + adamw', m := Small(), lr=1e-3, nonfinite='skip')
    a,b = opt.param_groups
    assert (a['cbs'],b['cbs'])==('Muon', 'AdamW') and [*a['param_names'], *b['param_names']]==['hidden.weight', 'embed.weight', 'hidden.bias']
    assert a['lr']==b['lr']==1e-3 and opt.nonfinite=='skip'
    assert len(make('Muon+AdamW', Small(False), lr=1e-3).param_groups)==1
    with pytest.raises(ValueError, match='makes groups itself; leave groups out'): make('Muon+AdamW', m, groups={'*': {}})
    with pytest.raises(ValueError, match='more than two'): make('Muon+AdamW+Lion', m)
    with pytest.raises(ValueError, match="no algorithm 'Muoon'"): make('Muoon+AdamW', m)
    with pytest.raises(ValueError, match="'Muon\\+' lacks an algorithm"): make('Muon+', m)
    with pytest.raises(TypeError, match="groups need the model"): make('Muon+AdamW', m.parameters())
    with pytest.raises(TypeError, match="Muon has no hyper-parameter 'betas', .* Give each its own: groups={'matrices': dict"): make('Muon+AdamW', m, betas=(.9, .9))
    with pytest.raises(TypeError, match="AdamW has no hyper-parameter 'momentum'"): make('Muon+AdamW', m, momentum=.9)
    with pytest.raises(TypeError, match="unexpected key 'lrr'"): make('Muon+AdamW', m, lrr=.1)
    ours = make({'groups': {'matrices': dict(algorithm='Muon'), '*': dict(algorithm='AdamW')}}, m)
    assert [g['param_names'] for g in ours.param_groups]==[g['param_names'] for g in opt.param_groups]
    def owned(name, p, module): return isinstance(module, nn.Linear)
    assert [n for n,_ in genopt.groups(m, {owned: {}})[0]['params']]==['hidden.weight', 'hidden.bias']

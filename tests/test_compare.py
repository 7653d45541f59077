"""`genopt compare --tune`: the search, the trainings, the ranking, the page, and a run that goes on after an interruption; and `--data text`."""

import importlib,json,math,re,shlex,statistics,sys
from pathlib import Path
import pytest,torch
from torch import nn
import genopt
from genopt.tools.cli import main
from genopt.tools.compare import Pair,Spec,compare,compare_tuned,parse_specs,ranking,tuned
from genopt.tools.compare.search import search
from genopt.tools.compare.summary import beside,summary
from genopt.tools.compare.training import Counter
from genopt.tools.data import classes,load_data,make_model

pytest.importorskip('sklearn')
stats = pytest.importorskip('scipy.stats')
root  = Path(__file__).parent.parent
short = ['compare', '--epochs', '1', '--opts', 'AdamW(lr=0.01), SGD(lr=0.1), Muon+AdamW', '--tune', 'lr', '--budget', '2', '--seeds', '2']
quick = dict(epochs=1, budget=2, seeds=2)


# -- Algorithms as they are written --

@pytest.mark.parametrize('model,matrices', [
    (nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 2)),                 ['0.weight', '2.weight']),
    (nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 5, bias=False)),                   ['1.weight']),
    (nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)),                             ['0.weight']),
    (nn.Linear(3, 4, bias=False),                                                      ['weight']),
])
def test_a_pair_is_one_for_the_matrices_and_one_for_the_rest(model, matrices):
    opt = Pair('Muon(lr=0.02)', 'AdamW').ours(model)
    found = {g['cbs']: g['param_names'] for g in opt.param_groups}
    rest  = [n for n,_ in model.named_parameters() if n not in matrices]
    assert found==dict(Muon=matrices) | (dict(AdamW=rest) if rest else {})
    assert [g['lr'] for g in opt.param_groups]==[.02, .001][:len(found)]

def test_lists_and_pairs():
    names = 'AdamW, [AdamW, cautious](lr=0.1), Muon(lr=0.02) + [adamw, cautious](wd=0.1), Lion+SGD'
    a,b,c,d = parse_specs(names, pairs=True)
    assert [*map(str, (a,b,c,d))]==['AdamW', '[AdamW, cautious](lr=0.1)', 'Muon(lr=0.02)+[AdamW, cautious](wd=0.1)', 'Lion+SGD']
    model = nn.Linear(3, 2)
    assert str(b.ours(model))==str(genopt.Optimizer(model.parameters(), [genopt.AdamW, genopt.blocks.cautious], lr=.1))
    assert [g['weight_decay'] for g in c.ours(model).param_groups if 'AdamW' in g['cbs']]==[.1] and b.theirs(model) is d.theirs(model) is None
    assert isinstance(Spec('adamw').ours(model), genopt.AdamW)

def test_torch_is_beside_what_it_has_and_not_beside_a_pair():
    res = compare('AdamW, Muon(lr=0.02)+AdamW', epochs=1)
    assert [r['torch'] is None for r in res['runs']]==[False, True] and res['runs'][0]['equal'] and 'equal: no loss' in genopt.tools.compare.report(res)


# -- Text --

def test_text_is_characters_and_the_next_of_each():
    pytest.importorskip('pydoc_data')
    (x,y),(a,b) = sets = load_data('text')
    assert x.dtype==torch.int64 and x.shape[1]==a.shape[1]==64 and len(x)>4000 and len(a)>400 and 60<classes(sets)<=128
    assert torch.equal(x[:,1:], y[:,:-1]) and torch.equal(a[:,1:], b[:,:-1])
    assert all(torch.equal(o, p) for one,other in zip(sets, load_data('text')) for o,p in zip(one, other))
    assert len({tuple(o.tolist()) for o in x}&{tuple(o.tolist()) for o in a})<len(a)/100        # a sentence may come twice

def test_transformer_looks_back_only():
    torch.manual_seed(0)
    x   = torch.randint(0, 90, (2,64))
    net = make_model('transformer', x, 90)
    z   = x.clone()
    z[:,40:] = (z[:,40:]+1)%90
    for training in (True, False):
        a,b = (net.train(training)(o) for o in (x, z))
        assert a.shape==(2,90,64) and torch.allclose(a[...,:40], b[...,:40], atol=1e-6) and not torch.allclose(a[...,40:], b[...,40:], atol=1e-2)
    first,second = net.layers
    assert not torch.equal(first.linear1.weight, second.linear1.weight)

@pytest.mark.slow
def test_text_is_learned():
    res = compare('AdamW(lr=0.003)', data='text', dtype='float32')
    run = res['runs'][0]
    assert res['model']=='transformer' and run['genopt']['losses'][0]>4.3 and run['genopt']['final_loss']<2.6 and run['genopt']['accuracy']>.35
    assert run['equal']

def test_python_without_texts(monkeypatch):
    monkeypatch.setitem(sys.modules, 'pydoc_data.topics', None)
    with pytest.raises(RuntimeError, match=r'--data text needs the texts of Python.s help\(\).*use --data digits'): load_data('text')


# -- The search --

@pytest.mark.parametrize('loss,tried', [
    (lambda e: (e-1.4)**2,                         [0, 1, 2, 1.5, 1.75, 1.25]),
    (lambda e: (e+.4)**2,                          [0, 1, -1, .5, -.5, -.25]),
    (lambda e: -e,                                 [0, 1, 2, 3, 4, 5]),
    (lambda e: math.nan if e>-2.5 else (e+3)**2,   [0, 1, -1, -2, -3, -4]),
    (lambda e: math.inf if e>0 else e**2,          [0, 1, -1, .5, -.5, .25]),
])
def test_search(loss, tried):
    found = search(loss, 6)
    assert [*found]==tried and all(v==loss(e) or math.isnan(v) for e,v in found.items())


# -- The ranking --

def finals(**losses):
    return {n: [dict(test_loss=x, train_loss=None if x is None else 2*x, accuracy=None if x is None else 1-x) for x in xs] for n,xs in losses.items()}

def test_summary():
    data = dict(a=[.30, .34, .31, .33], b=[.20, .25, .21, .22], c=[.21, .24, .21, .23], d=[.9, None, .8, .9])
    rows = summary([*'abcd'], finals(**data))
    assert [r['optimizer'] for r in rows]==[*'cbad'[1::-1], 'a', 'd'] and [r['diverged'] for r in rows]==[0, 0, 0, 1]
    b,c,a,d = rows
    assert b['test_loss']==[statistics.fmean(data['b']), statistics.stdev(data['b'])] and b['accuracy'][0]==pytest.approx(1-b['test_loss'][0])
    raw = [stats.ttest_rel(data[x], data[y]).pvalue for x,y in ('bc', 'ba', 'ca')]
    ps  = stats.false_discovery_control(raw)
    assert b['against_first']['p']==pytest.approx(ps[1]) and c['against_first']['p']==pytest.approx(ps[2]) and ps[2]<.05<ps[0]
    assert b['against_first']['difference'][0]==pytest.approx(statistics.fmean(data['b'])-statistics.fmean(data['a'])) and a['against_first'] is None
    assert (b['better_than'], c['better_than'], a['better_than'])==(['a'], ['a'], [])
    assert d['test_loss'] is None and d['against_first']==dict(difference=None, p=None)

@pytest.mark.parametrize('losses,p', [
    (dict(a=[.5, .6], b=[.5, .6]), 1.),                                 # the same numbers, of which a t-test makes NaN
    (dict(a=[.5], b=[.6]), None),                                       # one seed
])
def test_p_values_where_there_is_no_test(losses, p):
    assert summary(['a', 'b'], finals(**losses))[1]['against_first']['p']==p

def test_without_scipy(monkeypatch):
    monkeypatch.setitem(sys.modules, 'scipy.stats', None)
    a,b = summary(['a', 'b'], finals(a=[.5, .6], b=[.7, .9]))
    assert b['against_first']['p'] is None and b['against_first']['difference'][0]==pytest.approx(.25) and a['better_than']==[]

@pytest.mark.parametrize('numbers,text', [([], ''), ([3], '3'), ([5, 3, 4], '3-5'), ([1, 3, 4, 9], '1, 3-4, 9')])
def test_ranges(numbers, text): assert ranking.ranges(numbers)==text


# -- Trainings --

def test_seeds_make_pairs():
    "Weights and batches depend on the seed alone: where nothing moves, all optimizers have the same losses"
    res = compare_tuned('SGD(lr=1e-20), Adam(lr=1e-20), Muon(lr=1e-20)+Lion(lr=1e-20)', tune=None, **quick)
    curves = {seed: [t['curve'] for t in res['trainings'] if t['seed']==seed] for seed in (43, 44)}
    assert {*res['trainings'][0]['curve']} and curves[43][0]==curves[43][1]==curves[43][2]!=curves[44][0]==curves[44][1]==curves[44][2]
    assert res['budget']==0 and all(r['tried']==[] for r in res['optimizers']) and ' lr ' not in ranking.report(res)

def test_what_is_tuned():
    "The rates of a pair move together, from the start exactly as given; the best one on the validation set is taken; the seeds of the table are others"
    res = compare_tuned('Muon(lr=0.02)+AdamW, SGD(lr=0.10001)', tune='lr', epochs=1, budget=4, seeds=2)
    by  = {r['optimizer']: r for r in res['optimizers']}
    pair,sgd = by['Muon(lr=0.02)+AdamW'],by['SGD(lr=0.10001)']
    assert [.02, .001] in [v for v,_ in pair['tried']] and [.10001] in [v for v,_ in sgd['tried']] and len(pair['tried'])==len(sgd['tried'])==4
    assert all(a/b==pytest.approx(20, rel=.01) for (a,b),_ in pair['tried']) and [v for v,_ in sgd['tried']]==sorted(v for v,_ in sgd['tried'])
    for r in (pair, sgd):
        seen = {t['seed'] for t in res['trainings'] if t['optimizer']==r['optimizer']}
        assert r['values']==min(r['tried'], key=lambda o: o[1])[0] and seen=={42, 43, 44}
    for t in res['trainings']:
        if t['optimizer']=='SGD(lr=0.10001)' and t['seed']==42: assert [t['values'], t['valid_loss']] in sgd['tried'] and t['test_loss']!=t['valid_loss']

def test_same_command_same_numbers():
    a,b = [compare_tuned('AdamW(lr=0.01), SGD(lr=0.1)', **quick)['optimizers'] for _ in range(2)]
    assert a==b

def test_another_hyper_parameter():
    res = compare_tuned('AdamW(lr=0.01)', tune='weight_decay', **quick)
    assert [v for v,_ in res['optimizers'][0]['tried']]==[[.01], [.0316]]

@pytest.mark.slow
@pytest.mark.parametrize('opts', ['SAM(lr=0.1)', 'AdaHessian', 'AdamWScheduleFree', 'LBFGS(lr=0.1)', '[clip_grad_norm, AdamW, lookahead](lr=0.01)', 'Lion+SGD', 'SOAP'])
def test_kinds_of_optimizers(opts):
    "Those that evaluate the model again, differentiate twice, have other weights to evaluate, or are lists"
    res = compare_tuned(opts, tune=None, epochs=1, seeds=1)
    assert res['optimizers'][0]['train_loss'][0]<2.35 and res['optimizers'][0]['test_loss'][1]==0

def test_the_weights_to_evaluate_are_evaluated(monkeypatch):
    def eval(opt):
        for p in opt.param_groups[0]['params']: p.data.zero_()
    monkeypatch.setattr(genopt.SGD, 'eval', eval)
    assert compare_tuned('SGD', tune=None, epochs=1, seeds=1)['optimizers'][0]['test_loss'][0]==pytest.approx(math.log(10))

@pytest.mark.parametrize('opts', ['SGD(lr=1e30)', 'AdamW(lr=1e30)'])
def test_a_training_that_diverges(opts):
    res = compare_tuned(f'AdamW, {opts}', tune=None, epochs=1, seeds=2)
    assert res['optimizers'][0]['optimizer']=='AdamW' and res['optimizers'][1]['diverged']==2
    assert 'diverged with 2 of 2 seeds' in ranking.report(res) and ranking.plot(res)
    assert all(len(t['curve'])<len(res['trainings'][0]['curve']) for t in res['trainings'][2:])

def test_schedules():
    constant,cosine = tuned.schedules['constant'],tuned.schedules['cosine']
    assert [constant(t) for t in (.01, .5, 1)]==[1, 1, 1]
    assert cosine(.5)==pytest.approx(.5) and cosine(1)==0 and cosine(.01)==pytest.approx(.2, rel=1e-2) and max(cosine(i/100) for i in range(101))>.99
    a,b = [compare_tuned('SGD(lr=0.1)', tune=None, epochs=1, seeds=1, schedule=s)['trainings'][0]['curve'] for s in ('constant', 'cosine')]
    assert a!=b

@pytest.mark.parametrize('n,steps,means', [(4, 4, [1, 2, 3, 4]), (2, 4, [1, 2]), (0, 4, []), (120, 120, [1.5+2*i for i in range(60)])])
def test_curve(n, steps, means): assert tuned.curve([*range(1, n+1)], steps)==means

def test_a_bar_is_drawn_in_a_terminal_alone(capsys):
    for show in (True, False):
        with Counter(3, show) as counter:
            for _ in range(3): counter.tick('AdamW')
        out = capsys.readouterr().out
        assert ('AdamW' in out and '3' in out)==show


# -- Under a policy of storage --

small = '*: {dtype: int8, smallest: 0}'                                 # states of any size in 8 bits
def rows_under(store, opts, **kw):
    res = compare_tuned(opts, tune=None, store=store, **dict(epochs=1, seeds=2) | kw)
    return res,{r['optimizer']: r for r in res['optimizers']}

def test_a_policy_is_compared_with_float32():
    "Pairs of rows, in the order given; with each seed the same weights and batches, so that both begin with the same loss"
    res,by = rows_under('int8', 'Adam(lr=0.003), Muon(lr=0.02)+AdamW')
    assert [*by]==['Adam(lr=0.003)', 'Adam(lr=0.003) as int8', 'Muon(lr=0.02)+AdamW', 'Muon(lr=0.02)+AdamW as int8']
    of = {(t['optimizer'], t['seed']): t for t in res['trainings']}
    for seed in (43, 44):
        a,b = (of[name,seed]['curve'] for name in ('Adam(lr=0.003)', 'Adam(lr=0.003) as int8'))
        assert a[0]==b[0] and a!=b and b==pytest.approx(a, rel=.01)
    assert by['Adam(lr=0.003)']['bytes']==12 and 6<by['Adam(lr=0.003) as int8']['bytes']<7               # the layer of 4096, and what stays
    for name,row in by.items():
        assert ('against' in row)==name.endswith('int8')
    against = by['Adam(lr=0.003) as int8']['against']
    difference,deviation = (by['Adam(lr=0.003) as int8']['test_loss'][0]-by['Adam(lr=0.003)']['test_loss'][0]),by['Adam(lr=0.003)']['test_loss'][1]
    assert against['difference'][0]==pytest.approx(difference) and against['deviations']==pytest.approx(difference/deviation)
    told = ranking.report(res)
    assert 'test loss against float32' in told and '12.00' in told and 'better than' not in told and 'no optimizer is worse than in float32' in told

def test_a_policy_takes_the_rate_of_float32():
    "It is tuned once; the trainings under the policy are the seeds of the table alone"
    res = compare_tuned('SGD(lr=0.05, momentum=0.9)', tune='lr', store=small, **quick)
    alone,other = res['optimizers']
    assert alone['values']==other['values']==min(alone['tried'], key=lambda o: o[1])[0] and other['tried']==[]
    assert [t['seed'] for t in res['trainings'] if t['optimizer']==other['optimizer']]==[43, 44] and 'tuned in float32' in ranking.report(res)

def test_weights_in_bfloat16():
    "The model computes in float32 from weights that are rounded; a policy that keeps what rounding loses is near float32, the nearest is not"
    nets = [task(narrow) for narrow in (False, True)]
    assert {p.dtype for p in nets[1].parameters()}=={torch.bfloat16}
    for p,q in zip(*(net.parameters() for net in nets)): p.data.copy_(q)
    x = torch.rand(5, 1, 8, 8)
    assert nets[1](x).dtype==torch.float32 and torch.equal(nets[0](x), nets[1](x))
    res,by = rows_under('p: nearest', 'Adam(lr=0.0003)', epochs=3)
    kept,more = rows_under('p: extra_bits', 'Adam(lr=0.0003)', epochs=3)
    lost,near = (rows[f'Adam(lr=0.0003) as p: {how}']['against']['difference'][0] for rows,how in ((by, 'nearest'), (more, 'extra_bits')))
    assert abs(near)<.002<lost/5 and more['Adam(lr=0.0003) as p: extra_bits']['bytes']==11 and by['Adam(lr=0.0003) as p: nearest']['bytes']==10
    assert 'computes in float32 all the same' in ranking.page(kept, Path('p.md'), Path('p.png'), Path('p.json'))

def task(narrow): return tuned.task_of('digits', None, 1, None, 'constant', 'float32', None)[0].net(0, narrow)

def test_what_is_worse_is_told():
    losses = dict(a=[.30, .34, .31, .33], b=[.31, .345, .32, .341], c=[.29, .36, .30, .33], d=[.3, None, .3, .3])
    a,b,_,c,_,d = rows = beside([('a', 'b'), ('a', 'c'), ('a', 'd')], finals(**losses))
    raw = [stats.ttest_rel(losses['a'], losses[o]).pvalue for o in 'bc']
    assert [b['against']['p'], c['against']['p']]==pytest.approx([*stats.false_discovery_control(raw)])
    assert [r.get('worse') for r in (b, c, d)]==[True, False, True] and b['against']['deviations']==pytest.approx(.009/statistics.stdev(losses['a']))
    assert d['against']==dict(difference=None, p=None, deviations=None) and 'worse' not in a
    res = dict(store='int8', seeds=4, optimizers=rows)
    assert ranking.verdict(res)=='WORSE than in float32: b; d' and ranking.verdict(dict(seeds=4, optimizers=[])) == ''

@pytest.mark.parametrize('args,words', [
    (['--store', 'int7'],                                       "--store int7: store, '*': dtype='int7' is unknown; choose from float32"),
    (['--store', 'sqr_avg:int8'],                               "write a dtype such as int8, or names and dtypes as in \"sqr_avg: int8, '*_avg': bfloat16\""),
    (['--store', 'sqr_avg: int8:'],                             "--store sqr_avg: int8:: cannot read 'sqr_avg: int8:'; write names"),
    (['--store', 'sqr_av: int8', '--opts', 'Adam'],             "--store sqr_av: int8: Adam: store has 'sqr_av', which matches no state, did you mean 'sqr_avg'"),
    (['--store', 'int8', '--opts', 'Adam, SGD'],                "matches no state; the algorithm keeps none; name another state, or leave SGD out of --opts"),
    (['--store', 'p: int8', '--opts', 'Adam'],                  "the policy of a parameter must be one of extra_bits, "),
    (['--store', "*: {dtype: int8, smallest: 5000}"],           "in fewer bytes: those of fewer than 4096 elements stay as they are. Give a larger --model"),
    (['--store', 'int8', '--dtype', 'float64'],                 "--dtype float64: --store compares with float32; leave --dtype out"),
])
def test_policies_that_cannot_be(args, words, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = calls(monkeypatch)
    assert main(['compare', *args])==2 and words in capsys.readouterr().err and done==[] and [*tmp_path.iterdir()]==[]

def test_page_under_a_policy_names_its_command(tmp_path, monkeypatch, no_picture):
    "The command of the page trains nothing, and another policy goes on from the same file"
    args = ['compare', '--epochs', '1', '--seeds', '2', '--opts', 'Adam', '--page', str(tmp_path/'p.md')]
    assert main([*args, '--store', "sqr_avg: int8, '*_avg': bfloat16"])==0
    page = (tmp_path/'p.md').read_text()
    assert "| Adam as sqr_avg: int8, '*_avg': bfloat16 |" in page and 'o optimizer is worse' in page
    done = calls(monkeypatch)
    assert main(shlex.split(re.search(r'```sh\ngenopt (.*)\n```', page)[1]))==0 and done==[] and (tmp_path/'p.md').read_text()==page
    assert main([*args, '--store', 'int8'])==0 and len(done)==2


# -- The command --

train = tuned.train
def calls(monkeypatch, stop_at=math.inf):
    "Counts trainings, and interrupts before number `stop_at`"
    done = []
    def counted(*args):
        if len(done)==stop_at: raise KeyboardInterrupt
        done.append(args)
        return train(*args)
    monkeypatch.setattr(tuned, 'train', counted)
    return done

@pytest.fixture
def no_picture(monkeypatch): monkeypatch.setattr(ranking, 'plot', lambda res, path: None)       # it takes most of the time

def without_time(path):
    res = json.loads(path.read_text())
    for t in res['trainings']: del t['seconds']
    return res

def test_an_interrupted_run_goes_on(tmp_path, monkeypatch, capsys, no_picture):
    args = [*short, '--out', str(tmp_path/'c.png'), '--results', str(tmp_path/'c.json')]
    done = calls(monkeypatch, 5)
    assert main(args)==130 and f"interrupted; the same command goes on from {tmp_path/'c.json'}" in capsys.readouterr().err
    assert len(json.loads((tmp_path/'c.json').read_text())['trainings'])==len(done)==5
    done = calls(monkeypatch)
    assert main(args)==0 and len(done)==12-5
    out = capsys.readouterr().out
    whole = [*args[:-1], str(tmp_path/'d.json')]
    assert main(whole)==0 and without_time(tmp_path/'c.json')==without_time(tmp_path/'d.json')
    assert capsys.readouterr().out.replace('d.json', 'c.json')==out
    done = calls(monkeypatch)
    assert main(args)==0 and done==[]                                   # all is there
    more = [a if a!='2' else '3' for a in args]                         # another seed, and another value to try
    assert main(more)==0 and 0<len(done)<=12
    assert {p.name for p in tmp_path.iterdir()}=={'c.json', 'd.json'}      # nothing half written is left

def test_a_rule_that_was_edited_is_trained_anew(tmp_path, monkeypatch, no_picture):
    "and the algorithms of genopt beside it are not"
    rule = 'from genopt import algorithm\ndef step(grad): return grad*{size}\n@algorithm\ndef Mine(lr=.1):\n    "Mine"\n    return [step]\n'
    args = [*short[:3], '--opts', 'SGD(lr=0.1), my_edited_rule:Mine', '--seeds', '2', '--out', str(tmp_path/'c.png'), '--results', str(tmp_path/'c.json')]
    monkeypatch.syspath_prepend(tmp_path)
    def loss(size):
        (tmp_path/'my_edited_rule.py').write_text(rule.format(size=size))
        sys.modules.pop('my_edited_rule', None)
        importlib.invalidate_caches()
        done = calls(monkeypatch)
        assert main(args)==0
        res = json.loads((tmp_path/'c.json').read_text())
        assert len(res['trainings'])==4
        return [str(d[0]) for d in done],{r['optimizer']: r['train_loss'][0] for r in res['optimizers']}
    trained,first = loss(1)
    assert len(trained)==4 and loss(1)==([], first)
    trained,then = loss(-10)
    assert trained==['Mine']*2 and then['SGD(lr=0.1)']==first['SGD(lr=0.1)'] and then['Mine']>first['Mine']+1

def test_compare_tells_and_draws(tmp_path, capsys):
    assert main([*short, '--page', str(tmp_path/'p.md')])==0
    out = capsys.readouterr().out
    assert 'mlp (4,810 parameters in 4 tensors) on digits, 1 epoch of batches of 64, 18 steps' in out and ' ± ' in out and '\r' not in out
    assert re.search(r'^1 .*\n2 .*\n3 ', out, re.M) and 'test loss against AdamW(lr=0.01)' in out and 'paired t-test' in out
    assert (tmp_path/'p.png').read_bytes()[:4]==b'\x89PNG' and (tmp_path/'p.png').stat().st_size>20_000
    page = (tmp_path/'p.md').read_text()
    assert '](p.png)' in page and '[p.json](p.json)' in page and page.count('\n| ')==5 and f"--page {tmp_path/'p.md'}" in page
    assert f"picture: {tmp_path/'p.png'}\nresults: {tmp_path/'p.json'}\npage: {tmp_path/'p.md'}\n" in out

def test_page_names_the_command_that_wrote_it(tmp_path, monkeypatch, no_picture):
    "The command of the page, run again, writes the same page and trains nothing"
    assert main([*short, '--page', str(tmp_path/'p.md')])==0
    page = (tmp_path/'p.md').read_text()
    command = re.search(r'```sh\ngenopt (.*)\n```', page)[1]
    done = calls(monkeypatch)
    assert main(shlex.split(command))==0 and done==[] and (tmp_path/'p.md').read_text()==page

def test_compare_json(tmp_path, capsys, no_picture):
    assert main([*short, '--json', '--out', str(tmp_path/'c.png'), '--results', str(tmp_path/'c.json')])==0
    res = json.loads(capsys.readouterr().out)
    assert res==json.loads((tmp_path/'c.json').read_text()) and len(res['optimizers'])==3 and res['first']=='AdamW(lr=0.01)' and res['seeds']==2

@pytest.mark.parametrize('args,words', [
    (['--opts', 'AdamW, AdamV'],                        "no algorithm 'AdamV', did you mean 'Adam' or 'AdamW'"),
    (['--opts', 'AdamW+'],                              "cannot read 'AdamW+'"),
    (['--opts', 'Muon+AdamW+SGD'],                      "write a name, as in AdamW, [AdamW, cautious] or Muon+AdamW"),
    (['--opts', 'Muon*AdamW'],                          "cannot read 'Muon * AdamW'"),
    (['--opts', 'cautious'],                            "no algorithm 'cautious'; it is a block, for a list with an algorithm, as in [AdamW, cautious]"),
    (['--opts', '[AdamW, cautios]'],                    "no algorithm 'cautios', did you mean 'cautious'?"),
    (['--opts', '[AdamW, Lion]'],                       "AdamW and Lion in one list"),
    (['--opts', '[cautious]'],                          "needs a learning rate"),
    (['--opts', 'AdamW, AdamW'],                        "--opts has AdamW twice; leave one out"),
    (['--opts', 'Muon'],                                "it takes matrices"),
    (['--tune', 'momentum'],                            "--tune momentum: SGD(lr=0.1) has no positive number of this name to start from (it is 0); give one, as in SGD(momentum=0.01)"),
    (['--tune', 'rate'],                                "has no positive number of this name to start from (it has lr, mom"),
    (['--seeds', '0'],                                  "seeds must be 1 or more, got 0"),
    (['--budget', '0'],                                 "budget must be 1 or more, got 0"),
    (['--schedule', 'linear'],                          "no schedule 'linear'; choose from constant, cosine"),
    (['--dtype', 'float16'],                            "no dtype 'float16'; choose from float32, float64"),
    (['--data', 'text', '--model', 'mlp'],              "--model mlp does not work on text; use transformer"),
    (['--model', 'transformer'],                        "--model transformer does not work on images; use mlp"),
    (['--epochs', '0'],                                 "epochs must be 1 or more"),
    (['--bs', '1400'],                                  "--bs 1400 is not possible with 1197 training examples"),
    (['--page', 'no/such/p.md'],                        "the folder no/such does not exist"),
    (['--results', 'no/such/r.json'],                   "--results no/such/r.json: the folder no/such does not exist"),
])
def test_bad_arguments_are_told(args, words, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = calls(monkeypatch)
    assert main(['compare', *(() if '--tune' in args else ('--tune', 'lr')), *args])==2
    assert words in capsys.readouterr().err and done==[] and [*tmp_path.iterdir()]==[]

@pytest.mark.parametrize('args,words', [
    (['compare', '--page', 'p.md'],                     "--page p.md shows what --tune, --seeds or --store found"),
    (['gallery', '--algorithms', 'Muon+AdamW'],         "'Muon+AdamW': this command takes one algorithm at a time"),
    (['gallery', '--algorithms', '[AdamW, cautious]'],  "'[AdamW, cautious]': this command takes one algorithm at a time"),
])
def test_what_other_commands_do_not_take(args, words, capsys):
    assert main(args)==2 and words in capsys.readouterr().err

def test_explain_takes_pairs_and_lists(capsys):
    assert main(['explain', 'Muon+AdamW'])==0 and 'newton_schulz' in (out := capsys.readouterr().out) and 'adam_step' in out
    assert main(['explain', '[AdamW, cautious](lr=0.1)'])==0 and 'cautious' in capsys.readouterr().out

@pytest.mark.parametrize('text,args,words', [
    ('{"trainings": [], "data": "digits"}', [],                "its trainings have genopt None, not '"),
    ('{}', [],                                                 "this file has no results of genopt compare, and would be overwritten"),
    ('what?', [],                                              "this file has no results of genopt compare"),
    (None, ['--epochs', '2'],                                  "its trainings have epochs 1, not 2; steps 18, not 36. Name another file, or remove this one"),
    (None, ['--schedule', 'constant'],                         "its trainings have schedule 'cosine', not 'constant'"),
])
def test_results_of_something_else(text, args, words, tmp_path, capsys):
    path = tmp_path/'c.json'
    common = ['--out', str(tmp_path/'c.png'), '--results', str(path)]
    if text is None: assert main([*short[:3], '--opts', 'SGD', '--seeds', '1', *common])==0
    else: path.write_text(text)
    before = path.read_text()
    assert main([*short, *args, *common])==2 and words in capsys.readouterr().err and path.read_text()==before


# -- The pages --

pages = sorted((root/'docs'/'compare').glob('*.md'))

def test_there_are_pages(): assert [p.stem for p in pages]==['digits', 'text']

@pytest.mark.parametrize('path', pages, ids=lambda p: p.stem)
def test_pages_show_the_results_beside_them(path):
    res = json.loads(path.with_suffix('.json').read_text(encoding='utf-8'))
    own = ranking.page(res, path.relative_to(root), path.with_suffix('.png').relative_to(root), path.with_suffix('.json').relative_to(root))
    assert path.read_text(encoding='utf-8')==own and path.with_suffix('.png').exists()
    names = {t['optimizer'] for t in res['trainings']}
    assert len(names)==len(res['optimizers'])==10 and res['seeds']==5
    finals = {n: [t for t in res['trainings'] if t['optimizer']==n and t['seed']!=res['seed']] for n in names}
    again  = summary([n for n in names if n==res['first']] + [n for n in names if n!=res['first']], finals)
    assert [r['test_loss'] for r in again]==[r['test_loss'] for r in res['optimizers']]

"""`genopt compare`, `gallery`, `list` and `explain`, as typed; and the loaders behind `--data` and `--model`."""

import json,os,struct,subprocess,sys
import pytest,torch
import genopt
from genopt.tools import catalogue,gallery
from genopt.tools.cli import main
from genopt.tools.compare import Spec,compare,parse_specs
from genopt.tools.data import load_data,make_model

pytest.importorskip('sklearn')
quick = ['compare', '--epochs', '2', '--opts', 'SGD(lr=0.1, momentum=0.9), Adam']


def test_compare_prints_a_table_and_writes_a_picture(tmp_path, capsys):
    assert main([*quick, '--out', str(tmp_path/'c.png')])==0
    out = capsys.readouterr().out
    assert 'SGD(lr=0.1, momentum=0.9)' in out and 'ms/step' in out and 'equal: no loss differs by more than 1e-08' in out
    assert '\r' not in out and '█' not in out                  # no progress bar into a pipe
    assert (tmp_path/'c.png').read_bytes()[:4]==b'\x89PNG' and (tmp_path/'c.png').stat().st_size>20_000

@pytest.mark.slow
def test_compare_json_is_all_the_data(tmp_path, capsys):
    assert main([*quick, '--json', '--out', str(tmp_path/'c.png'), '--seed', '7'])==0
    res = json.loads(capsys.readouterr().out)
    assert res['seed']==7 and res['data']=='digits' and len(res['runs'])==2
    for r in res['runs']:
        assert len(r['genopt']['losses'])==len(r['torch']['losses'])==2*(1437//64)
        assert r['difference']==max(abs(a-b) for a,b in zip(r['genopt']['losses'], r['torch']['losses']))<1e-12
        assert r['genopt']['losses'][-1]<r['genopt']['losses'][0] and r['ratio']>0 and .3<r['genopt']['accuracy']<=1

@pytest.mark.slow
def test_compare_tells_a_wrong_algorithm(tmp_path, capsys, monkeypatch):
    "An Adam without its bias correction is found out: exit status 1, and its name"
    monkeypatch.setattr(genopt.Adam, 'build', staticmethod(lambda **_: [genopt.blocks.average_grad, genopt.blocks.average_sqr_grad, plain_step]))
    assert main([*quick, '--out', str(tmp_path/'c.png')])==1
    assert 'DIFFERENT by more than 1e-08 in some loss: Adam\n' in capsys.readouterr().out

@pytest.mark.slow
def test_not_a_number_equals_nothing(tmp_path, capsys, monkeypatch):
    def nan_step(grad, step): return grad*float('nan') if step>3 else grad
    monkeypatch.setattr(genopt.SGD, 'build', staticmethod(lambda **_: [genopt.blocks.step_stat, nan_step]))
    assert main(['compare', '--epochs', '1', '--opts', 'SGD', '--out', str(tmp_path/'c.png')])==1
    assert 'DIFFERENT' in capsys.readouterr().out

def test_settings_in_either_spelling_reach_both_sides():
    res = compare('SGD(lr=0.1, mom=0.9, wd=0.01), Adam(sqr_mom=0.9)', epochs=1)
    assert all(r['equal'] and r['difference']<1e-12 for r in res['runs'])

def plain_step(grad_avg, sqr_avg, eps=1e-8): return grad_avg/(sqr_avg.sqrt()+eps)

def test_same_seed_same_losses():
    a,b,c = [compare('SGD', epochs=1, seed=s)['runs'][0]['genopt']['losses'] for s in (1,1,2)]
    assert a==b!=c

def test_a_training_that_diverged_is_still_json():
    "Whose losses are NaN, which JSON has not"
    from genopt.tools.cli import dumps
    assert json.loads(dumps(dict(losses=[1., float('nan'), float('inf')], pair=(2, 'x'))))==dict(losses=[1., None, None], pair=[2, 'x'])

@pytest.mark.parametrize('args,words', [
    (['compare', '--opts', 'Nonsense'], "no algorithm 'Nonsense'; choose from SGD, "),
    (['compare', '--opts', 'Adam(0.1)'], "'Adam(0.1)': name each setting, as in SGD"),
    (['compare', '--opts', 'Adam(momentum=0.9)'], "unexpected hyper-parameter 'momentum'"),
    (['compare', '--opts', 'Adam(lr=nan)'], "'Adam(lr=nan)': cannot read lr=nan; a setting is a plain value"),
    (['compare', '--opts', ','], "cannot read ','"),
    (['compare', '--opts', ''], 'no algorithm given'),
    (['compare', '--out', 'no/such/folder/c.png'], '--out no/such/folder/c.png: the folder no/such/folder does not exist'),
    (['compare', '--data', 'imagenet'], "no data set 'imagenet'; choose from digits, mnist"),
    (['compare', '--epochs', '0'], 'epochs must be 1 or more'),
    (['compare', '--bs', '100000'], '--bs 100000 is not possible with 1437 training examples'),
    (['compare', '--dtype', 'int8'], "no dtype 'int8'; choose from float64, float32"),
    (['gallery', '--functions', 'beal'], "no function 'beal'; choose from rosenbrock, beale"),
    (['gallery', '--functions', ''], 'no function given; choose from rosenbrock'),
    (['gallery', '--algorithms', 'Nonsense'], "no algorithm 'Nonsense'; choose from SGD"),
    (['gallery', '--steps', '1'], 'steps must be 2 or more, got 1'),
    (['gallery', '--out', 'no/such/folder/g.png'], '--out no/such/folder/g.png: the folder no/such/folder does not exist'),
    (['explain', 'Nonsense'], "no algorithm 'Nonsense'"),
])
def test_bad_arguments_are_told(args, words, capsys):
    assert main(args)==2
    assert words in capsys.readouterr().err

def test_usage(capsys):
    assert main([])==2 and main(['--help'])==0 and main(['nonsense'])==2 and main(['comprae'])==2
    out,err = capsys.readouterr()
    assert 'compare' in out and "no command 'nonsense'\n\nusage: " in err and "no command 'comprae', did you mean 'compare'?" in err and "''" not in err
    assert main(['--version'])==0 and capsys.readouterr().out==f'genopt {genopt.__version__}\n'
    with pytest.raises(SystemExit) as e: main(['compare', '--help'])
    assert not e.value.code
    assert '--fashion' not in (text := capsys.readouterr().out) and 'fashion_mnist' in text

def test_list_and_explain(capsys):
    assert main(['list'])==0
    out = capsys.readouterr().out
    assert all(n in out for n in genopt.algorithms.__all__) and 'average_grad > average_sqr_grad > step_stat > debias > adam_step' in out
    assert out.index('momentum: Descent along the gradient')<out.index('  SGD  ')<out.index('\nadaptive: ')<out.index('  Adam  ')
    assert len(out.strip().split('\n'))==len(genopt.algorithms.__all__) + 2*len([f for f in genopt.algorithms.families if f.__all__]) - 1
    assert max(map(len, catalogue.listing(80).split('\n')))==80
    assert main(['explain', 'sgd(momentum=0.9, nesterov=True)'])==0
    assert 'nesterov_step' in capsys.readouterr().out

@pytest.mark.parametrize('name', ['Muon', 'NorMuon', 'AdaMuon', 'Muon+AdamW'])
def test_explain_shows_what_takes_matrices_only(name, capsys):
    assert main(['explain', name])==0
    assert 'newton_schulz' in capsys.readouterr().out

@pytest.mark.slow
@pytest.mark.parametrize('args', [['list'], ['explain', 'SGD']], ids=['while it prints', 'at the end'])
def test_a_reader_that_has_seen_enough(args):
    "As in `genopt list | head`: nothing is said of it, also where the text is still in a buffer at the end"
    read,write = os.pipe()
    os.close(read)
    done = subprocess.run([sys.executable, '-m', 'genopt', *args], stdout=write, stderr=subprocess.PIPE, text=True)
    os.close(write)
    assert (done.returncode, done.stderr)==(1, '')

def test_list_writes_the_page(tmp_path, capsys):
    "With what was measured, if that lies beside it"
    assert main(['list', '--page', str(tmp_path/'c.md')])==0
    assert capsys.readouterr().out==f"page: {tmp_path/'c.md'}\n" and (tmp_path/'c.md').read_text(encoding='utf-8')==catalogue.page({})
    parity = dict(Adam=dict(steps=7, reference=dict(name='another', version='1.2', difference=2e-9, given='', patched='in float64'),
                            peers=[dict(name='x', version='', given='eps=1', patched='', why='no decay', difference=0.)]))
    (tmp_path/'parity.json').write_text(json.dumps(parity))
    assert main(['list', '--page', str(tmp_path/'c.md')])==0
    assert '| 8 B | 28 B | another | to 8 digits |' in (tmp_path/'c.md').read_text(encoding='utf-8')
    assert main(['list', '--page', 'no/such/folder/c.md'])==2 and 'the folder no/such/folder does not exist' in capsys.readouterr().err

def test_specs():
    a,b,c,d = parse_specs('SGD(lr=0.1, momentum=0.9),Adam , rmsprop(lr=1), adam(lr=.1, betas=(.5,.9))')
    assert (str(a), str(b), str(c), str(d))==('SGD(lr=0.1, momentum=0.9)', 'Adam', 'RMSprop(lr=1)', 'Adam(lr=0.1, betas=(0.5, 0.9))') and a.settings==dict(lr=.1, momentum=.9)
    assert isinstance(Spec('Adam(betas=(0.5,0.9))').ours([torch.ones(1)]), genopt.Adam)


# -- The gallery --

def test_gallery_draws_and_tells(tmp_path, capsys):
    "SGD walks as by hand, at the best of the rates that stay in the picture; a rate that is given is taken"
    args = ['gallery', '--functions', 'valley, saddle', '--algorithms', 'SGD, Adam(lr=0.25)', '--steps', '20', '--out', str(tmp_path/'g.png')]
    assert main([*args, '--json'])==0
    res = json.loads(capsys.readouterr().out)
    assert (tmp_path/'g.png').stat().st_size>20_000 and res['left_out']==[] and [*res['functions']]==['valley', 'saddle']
    assert [(w['algorithm'], w['function']) for w in res['walks']]==[('SGD', 'valley'), ('SGD', 'saddle'), ('Adam(lr=0.25)', 'valley'), ('Adam(lr=0.25)', 'saddle')]
    f = gallery.functions['valley']
    def by_hand(lr):
        xs = [torch.tensor(f.start, dtype=torch.float64, requires_grad=True)]
        for _ in range(20): xs.append((xs[-1] - lr*torch.autograd.grad(f(xs[-1]), xs[-1])[0]).detach().requires_grad_())
        return torch.stack(xs).detach()
    sgd = res['walks'][0]
    assert sgd['family']=='momentum' and torch.allclose(torch.tensor(sgd['path'], dtype=torch.float64), by_hand(sgd['lr']))
    assert sgd['value']==pytest.approx(f(by_hand(sgd['lr'])[-1]).item())
    others = [p for lr in (1e-3, 1e-2, .03, .1, .3, 1) if f.shows(p := by_hand(lr))]
    assert sgd['value']<=min(f(p[-1]).item() for p in others)*(1+1e-9)
    assert [w['lr'] for w in res['walks'][2:]]==[.25]*2
    assert main(args)==0
    out = capsys.readouterr().out
    assert 'Adam(lr=0.25)' in out and 'picture: ' in out and 'left out' not in out

def test_gallery_minima_are_minima():
    for f in gallery.functions.values():
        x = torch.tensor(f.minima, dtype=torch.float64, requires_grad=True)
        g, = torch.autograd.grad(f(x).sum(), x)
        assert g.abs().max()<1e-4 and (f(x)-f.lowest).abs().max()<1e-9
        assert all(torch.linalg.eigvalsh(torch.autograd.functional.hessian(f, m))[0]>0 for m in x.detach())
        left,right,bottom,top = f.box
        assert all(left<a<right and bottom<b<top for a,b in [f.start, *f.minima])

@pytest.mark.parametrize('block,how,apart', [
    (lambda p, grad: grad if p.ndim==2 else p[None],                             dict(shape=(1,2), graph=False), False),    # matrices only
    (genopt.blocks.clip_grad_norm,                                                      dict(shape=(2,), graph=False),  True),     # what is in one optimizer has one norm
    (genopt.blocks.sgd_step,                                                            dict(shape=(2,), graph=False),  False)])
def test_gallery_finds_how_an_algorithm_is_walked(block, how, apart, monkeypatch):
    monkeypatch.setattr(genopt.SGD, 'build', staticmethod(lambda **_: [block]))
    s = gallery.Search(Spec('SGD'), ['valley', 'himmelblau'], 4)
    assert (s.how, s.apart, s.why)==(how, apart, {}) and {*s.found}=={'valley', 'himmelblau'}

def test_gallery_names_what_it_leaves_out(tmp_path, capsys, monkeypatch):
    def only_volumes(p): raise ValueError('only volumes')
    def away(p): return p*float('inf')
    monkeypatch.setattr(genopt.SGD, 'build', staticmethod(lambda **_: [only_volumes]))
    monkeypatch.setattr(genopt.RMSprop, 'build', staticmethod(lambda **_: [away]))
    args = ['gallery', '--functions', 'valley', '--steps', '4', '--out', str(tmp_path/'g.png')]
    assert main([*args, '--algorithms', 'SGD, RMSprop, Adam'])==0
    out = capsys.readouterr().out
    assert 'SGD on valley: SGD: only_volumes fails in a trial on a small 1-dimensional parameter' in out and 'only volumes' in out
    assert 'RMSprop on valley: every rate leads beyond all numbers' in out and 'Adam  ' in out
    assert main([*args, '--algorithms', 'SGD'])==2
    assert 'nothing to draw: SGD on valley' in capsys.readouterr().err

@pytest.mark.slow
def test_gallery_of_the_whole_catalogue():
    "Nobody is left out"
    res = gallery.gallery(steps=30)
    assert res['left_out']==[] and {w['algorithm'] for w in res['walks']}=={*genopt.algorithms.__all__}
    assert sorted(a for _,row in gallery.sheets(res) for a in row)==sorted(genopt.algorithms.__all__) and all(len(row)<=6 for _,row in gallery.sheets(res))


# -- torchvision's sets and models --

def idx(path, a):
    "Write `a` in the format of MNIST's files"
    path.write_bytes(struct.pack('>BBBB', 0, 0, 8, a.ndim) + struct.pack(f'>{a.ndim}I', *a.shape) + a.numpy().tobytes())

@pytest.mark.slow
@pytest.mark.parametrize('name,folder', [('mnist', 'MNIST'), ('fashion_mnist', 'FashionMNIST')])
def test_torchvision_data_and_model(name, folder, tmp_path, capsys):
    "The files that torchvision would download, made small: loaded, and a ResNet trained on them in both libraries"
    pytest.importorskip('torchvision')
    (raw := tmp_path/folder/'raw').mkdir(parents=True)
    for part,n in (('train', 24), ('t10k', 8)):
        idx(raw/f'{part}-images-idx3-ubyte', torch.randint(0, 256, (n,28,28), dtype=torch.uint8))
        idx(raw/f'{part}-labels-idx1-ubyte', torch.arange(n, dtype=torch.uint8)%10)
    (x,y),(x_test,_) = load_data(name, tmp_path)
    assert x.shape==(24,1,28,28) and 0<=x.min()<x.max()<=1 and y[:3].tolist()==[0,1,2] and len(x_test)==8
    if name=='mnist':
        args = ['--data', name, '--root', str(tmp_path), '--model', 'resnet18', '--bs', '8', '--epochs', '1', '--opts', 'Adam']
        assert main(['compare', *args, '--out', str(tmp_path/'c.png')])==0
        assert 'resnet18 (11,181,642 parameters in 62 tensors) on mnist' in capsys.readouterr().out

def test_impossible_download_names_the_embedded_default(tmp_path, capsys, monkeypatch):
    tv = pytest.importorskip('torchvision.datasets')
    def offline(*_, **__): raise RuntimeError('Error downloading\ntrain-images')
    monkeypatch.setattr(tv, 'CIFAR10', offline)
    assert main(['compare', '--data', 'cifar10', '--root', str(tmp_path)])==2
    err = capsys.readouterr().err
    assert 'could not download cifar10' in err and 'use --data digits, which comes with scikit-learn' in err and err.count('\n')==1

def test_unknown_model():
    pytest.importorskip('torchvision')
    with pytest.raises(ValueError, match="no model 'resnet19'"): make_model('resnet19', torch.zeros(2,1,8,8))

def test_list_takes_a_pattern(tmp_path, capsys, monkeypatch):
    "As `list_algorithms` does. It writes no file"
    monkeypatch.chdir(tmp_path)
    assert main(['list', '*muon*'])==0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines if line.startswith('  ')]==['Muon','NorMuon','AdaMuon'] and len(lines)==4
    assert main(['list', 'nonsense'])==2 and "no algorithm fits 'nonsense'" in capsys.readouterr().err
    assert not [*tmp_path.iterdir()]

@pytest.mark.parametrize('store,rows', [
    ('int8',                                        dict(AdamW=[12, 6.03, 28, 16.06], SGDW=[4, '-', 12, '-'], Lion=[8, 5.02, 20, 14.03])),
    ("sqr_avg: int8, '*_avg': bfloat16",            dict(AdamW=[12, 7.02, 28, 18.03], SGDW=[4, '-', 12, '-'], Lion=[8, '-', 20, '-'])),
    ('p: exact_bits, *: int8',                      dict(AdamW=[12, 6.03, 28, 14.06])),
    ('p: extra_bits, *: int8',                      dict(AdamW=[12, 5.03, 28, 12.06])),
    ('p: stochastic',                               dict(AdamW=[12, 10, 28, 22], SGDW=[4, 2, 12, 6]))])
def test_list_shows_bytes_under_a_policy(store, rows, capsys):
    "Of weights and state, and those that a step moves; an algorithm without such a state has dashes"
    assert main(['list', '*w', '--store', store])==0 and main(['list', 'Lion', '--store', store])==('Lion' in rows and rows['Lion'][1]=='-')*2
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    found = {words[0]: words[1:] for words in lines if words}
    for name,cells in rows.items():
        if name in found: assert found[name]==[c if c=='-' else f'{c:.2f}' for c in cells]
    assert 'AdamW' in found and f'as {store}' in ' '.join(lines[0])

@pytest.mark.parametrize('args,words', [
    (['list', '--store', 'int7'],                       "--store int7: store, '*': dtype='int7' is unknown; choose from float32"),
    (['list', '*', '--store', 'sqr_av: int8'],          "--store sqr_av: int8: "),
    (['list', 'SGD', '--store', 'int8'],                "--store int8: SGD: store has '*', which matches no state; the algorithm keeps none"),
    (['list', 'Nonsense', '--store', 'int8'],           "no algorithm fits 'Nonsense'"),
    (['list', '--store', 'int8', '--page', 'c.md'],     "--page c.md cannot show --store; leave out one of them")])
def test_policies_that_list_cannot_show(args, words, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(args)==2 and words in capsys.readouterr().err and not [*tmp_path.iterdir()]

own = '''
from genopt import algorithm
from genopt.blocks import average_grad,momentum_step
@algorithm
def Mine(lr=1e-3, momentum=0.9):
    "Momentum, by another name"
    return [average_grad, momentum_step]
'''
@pytest.mark.parametrize('spec,name', [('my_own_rules:Mine', 'Mine'), ('my_own_rules:Mine(lr=0.5)', 'Mine(lr=0.5)'), ('[clip_grad_norm, my_own_rules:Mine](max_norm=1.)', '[clip_grad_norm, Mine](max_norm=1.0)'),
                                       ('my_own_rules:Mine(lr=0.5)+AdamW', 'Mine(lr=0.5)+AdamW')])
def test_an_algorithm_of_ones_own(spec, name, tmp_path, capsys, monkeypatch):
    "in a module of the current folder"
    (tmp_path/'my_own_rules.py').write_text(own)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, 'path', [*sys.path])
    monkeypatch.delitem(sys.modules, 'my_own_rules', raising=False)
    assert main(['explain', spec])==0 and 'momentum_step' in capsys.readouterr().out
    found, = parse_specs(spec, pairs=True)
    assert str(found)==name

"""What users are shown is run: the code of README and of pages, and the notebooks; or made from the code: the catalogue's page."""

import json,re,subprocess,sys
from pathlib import Path
import pytest,torch
import genopt
import measure
from genopt.tools import catalogue
from helpers import catalogue as rows

root = Path(__file__).parent.parent
notebooks = sorted(p for p in (root/'nbs').rglob('*.ipynb') if 'checkpoints' not in str(p))


def code_of(path): return re.findall(r'```python\n(.*?)```', (root/path).read_text(encoding='utf-8'), re.S)

def test_readme_code_runs_and_prints_what_stands_there(capsys):
    scope,readme = {},(root/'README.md').read_text(encoding='utf-8')
    first,second = code_of('README.md')
    exec(compile(first, 'README.md', 'exec'), scope)
    how = scope['opt'].explain().parts[0][1]
    if how.endswith('one launch for all parameters'):                                               # elsewhere no compiler was found
        assert indented(capsys.readouterr().out) in readme
    exec(compile(second, 'README.md', 'exec'), scope)
    assert [g['cbs'] for g in scope['opt'].param_groups]==['Muon', 'AdamW'] and scope['opt'].param_groups[0]['params']==[scope['model'].weight]

def indented(text): return ''.join(f'    {line}'.rstrip()+'\n' for line in text.splitlines())

def test_readme_is_short():
    "A person decides in half a minute. What goes further stands in docs/"
    lines = (root/'README.md').read_text(encoding='utf-8').splitlines()
    read  = [re.sub(r'\]\([^)]*\)', ']', line) for line in lines if line[:1]!='|' and line[:4]!='    ']        # a reader sees no address of a link
    assert len(lines)<=95 and max(map(len, read))<=150

pages = ['README.md', 'CONTRIBUTING.md', 'benchmarks/README.md', *(f'docs/{p.name}' for p in (root/'docs').glob('*.md'))]
@pytest.mark.parametrize('page', pages)
def test_links_name_files_that_exist(page):
    "so that a page can be read in the repository as well as in the site"
    found = re.findall(r'\]\((?!http|#)([^)#\s]+)[^)]*\)', re.sub(r'```.*?```|`[^`]*`', '', (root/page).read_text(encoding='utf-8'), flags=re.S))
    assert not [link for link in found if not (root/page).parent.joinpath(link).exists()]

def test_code_of_choosing_runs():
    scope = {}
    for code in code_of('docs/choose.md'): exec(compile(code, 'choose.md', 'exec'), scope)
    assert scope['opt'].param_groups[0]['lr']==1e-3

def test_configs_of_choosing_work(tmp_path, monkeypatch):
    "The file for `make`, Hydra's config and that of Lightning CLI"
    yaml = pytest.importorskip('yaml')
    file,hydra,lightning = re.findall(r'```yaml\n(.*?)```', (root/'docs/choose.md').read_text(encoding='utf-8'), re.S)
    model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.LayerNorm(3))
    monkeypatch.chdir(tmp_path)
    Path('optimizer.yaml').write_text(file)
    opt = genopt.make('optimizer.yaml', model)
    assert [(g['lr'], g['max_norm'], g['weight_decay'], len(g['params'])) for g in opt.param_groups]==[(1e-3, 1, 0, 3), (1e-3, 1, .01, 1)]
    made = pytest.importorskip('hydra.utils').instantiate(yaml.safe_load(hydra)['optimizer'], params=model)
    assert type(made) is genopt.AdamW and made.param_groups[0]['lr']==1e-3
    parser = pytest.importorskip('jsonargparse').ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(torch.optim.Optimizer, 'optimizer', skip={'params'}, instantiate=False, fail_untyped=False, required=True)
    got = parser.parse_string(lightning).optimizer
    assert got.class_path=='genopt.AdamW' and genopt.AdamW(model.parameters(), **got.init_args).param_groups[0]['lr']==1e-3

def test_states_of_choosing_are_those_of_the_algorithms():
    rows = re.findall(r'(?m)^\| ([\d.]+) \| `(\w+)`', (root/'docs/choose.md').read_text(encoding='utf-8'))
    assert len(rows)>=7 and not [r for r in rows if f'{catalogue.bytes_per_element(r[1])[0]:.3g}'!=r[0]]

def test_choosing_names_algorithms_and_blocks_that_exist():
    names = {*re.findall(r'`([A-Z]\w+)`', (root/'docs/choose.md').read_text(encoding='utf-8'))}
    assert len(names)>25 and names<={*genopt.algorithms.__all__}


# -- The catalogue's page --

parity = json.loads(measure.kept.read_text(encoding='utf-8'))

def test_catalogue_page_is_up_to_date():
    "`genopt list --page docs/catalogue.md` writes it anew"
    assert (root/'docs'/'catalogue.md').read_text(encoding='utf-8')==catalogue.page(parity)

def test_every_algorithm_is_measured_and_agrees():
    "`tests/measure.py` measures; a row that has got another peer since is measured again"
    assert [*parity]==genopt.algorithms.__all__
    for a in rows:
        ref,peers = parity[a.name]['reference'],parity[a.name]['peers']
        assert ref['difference']<=a.tol
        assert [(p['name'], p['why']) for p in peers]==[(p.name, p.why) for p in a.peers]
        assert all(m['difference']<=p.tol for m,p in zip(peers, a.peers))
        for kept,peer in ((ref, None), *zip(peers, a.peers)):                                       # versions are those that were measured
            told = measure.about(a, measure.reference_name(a) if peer is None else peer.name, peer)
            assert {k: kept[k] for k in ('name','given','patched')}=={k: told[k] for k in ('name','given','patched')}, (a.name, kept['name'])

@pytest.mark.slow
@pytest.mark.parametrize('name', ['Lion', 'Adam'])
def test_what_is_kept_is_what_is_measured(name):
    a = next(a for a in rows if a.name==name)
    assert measure.measure(a)['reference']['difference']<=max(100*parity[name]['reference']['difference'], 1e-15)
    wrong = measure.largest(a, lambda ps, **kw: genopt.SGD(ps, lr=.1), lambda ps, **kw: genopt.SGD(ps, lr=.1, momentum=.9), [{}])
    assert wrong>1e-2

def test_catalogue_page_says_what_the_code_says(monkeypatch):
    before = catalogue.page(parity)
    monkeypatch.setattr(genopt.blocks.adam_step, '__doc__', "Another: `m / sqrt(v)`, where `eps` is. Someone 2030, `u`")
    after = catalogue.page({})
    assert before!=after and '| `adam_step` | Another: `m / sqrt(v)`, where `eps` is | `Adam`, ' in after and '| not measured |' in after
    assert '| `Adam` | Adaptive moments: the average gradient over its root mean square, both debiased | 8 B | 28 B | torch.optim.Adam | to ' in before
    assert before.count('\n| `')==len(genopt.algorithms.__all__)+len(genopt.blocks.__all__)
    assert all('`' in line.split('|')[3] for line in before.split('\n') if line.startswith('| `debias` '))

def test_what_the_catalogue_counts():
    assert catalogue.chains('Adam')['amsgrad=True'][2] is genopt.blocks.max_sqr_grad and '' in catalogue.chains('SGD')
    assert catalogue.bytes_per_element('Adam')==(8, 28) and catalogue.bytes_per_element('SGD')==(0, 12)
    assert [catalogue.digits(d) for d in (0., 1e-17, 2e-15, 1e-12)]==['bit for bit', 'to 16 digits', 'to 14 digits', 'to 12 digits']
    assert 'Adam' in catalogue.uses()['max_sqr_grad'] and catalogue.table(['a'], [['x|y']])=='| a |\n|---|\n| x\\|y |'


@pytest.mark.slow
@pytest.mark.parametrize('nb', notebooks, ids=lambda p: p.stem)
def test_notebook(nb):
    pytest.importorskip('nbdev')
    res = subprocess.run([Path(sys.executable).parent/'nbdev-test', nb], capture_output=True, text=True, cwd=root)
    assert res.returncode==0 and 'Success' in res.stdout, res.stderr

"""What users are shown is run: the README's example, and the notebooks; or made from the code: the catalogue's page."""

import json,re,subprocess,sys
from functools import partial
from pathlib import Path
import pytest
import genopt
import measure
from genopt.tools import catalogue
from helpers import catalogue as rows

root = Path(__file__).parent.parent
notebooks = sorted(p for p in (root/'nbs').rglob('*.ipynb') if 'checkpoints' not in str(p))


def test_readme_example_runs():
    blocks = re.findall(r'```python\n(.*?)```', (root/'README.md').read_text(), re.S)
    assert blocks
    for b in blocks: exec(compile(b, 'README.md', 'exec'), {})

def test_readme_names_files_that_exist():
    paths = re.findall(r'\]\((?!http)([^)#]+)[^)]*\)', (root/'README.md').read_text())
    assert paths and not [path for path in paths if not (root/path).exists()]


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
    assert before!=after and '[adam_step](#adam_step): `m / sqrt(v)`\n' in after and 'Not measured' in after
    assert 'Equals torch.optim.Adam' in before and '3. [step_stat](#step_stat): `t <- t + 1`\n' in before
    assert 'AdamW(params, lr=0.001, betas=(0.9, 0.999), eps=1e-08, weight_decay=0.01, amsgrad=False)\n' in before
    links,anchors = re.findall(r'\]\(#([\w-]+)\)', before),{*re.findall(r'<a id="(\w+)">', before), *(re.sub(' ', '-', h.lower()) for h in re.findall(r'^#+ (.*)$', before, re.M))}
    assert {*links}<=anchors
    paths = re.findall(r'\]\((?!http|#)([^)]+)\)', before)
    assert paths and not [path for path in paths if not (root/'docs'/path).exists()]

@pytest.mark.parametrize('f,found', [
    (genopt.blocks.debias,                                    ['1 - mom^t', '1 - sqr_mom^t']),        # `step` is an argument
    (genopt.blocks.sgd_step,                                  ['g']),
    (genopt.blocks.average_grad,                              ['m <- mom*m + (1-dampening)*g']),      # `dampening=True` is a setting, and in the second sentence
    (genopt.blocks.spatial_average,                           []),                                    # nor is a link one
    (genopt.blocks.undamped_start,                            [])], ids=lambda x: getattr(x, '__name__', ''))
def test_formulas_are_found_in_docstrings(f, found): assert catalogue.formulas(f)==found

def test_page_tells_how_a_block_is_used():
    twice = genopt.rename(partial(genopt.blocks.average_grad, dampening=0), grad_avg='slow_avg')
    assert catalogue.line(twice)=='[average_grad](#average_grad): `m <- mom*m + (1-dampening)*g`, with `dampening=0`, `slow_avg` for `grad_avg`'
    def own_step(grad): return grad
    assert catalogue.line(own_step)=='own_step: '
    assert catalogue.chains('Adam')['amsgrad=True'][2] is genopt.blocks.max_sqr_grad and '' in catalogue.chains('SGD')
    assert catalogue.bytes_per_element('Adam')==(8, 28) and catalogue.bytes_per_element('SGD')==(0, 12)
    assert [catalogue.digits(d) for d in (0., 1e-17, 2e-15, 1e-12)]==['bit for bit', 'to 16 digits', 'to 14 digits', 'to 12 digits']


@pytest.mark.slow
@pytest.mark.parametrize('nb', notebooks, ids=lambda p: p.stem)
def test_notebook(nb):
    pytest.importorskip('nbdev')
    res = subprocess.run([Path(sys.executable).parent/'nbdev-test', nb], capture_output=True, text=True, cwd=root)
    assert res.returncode==0 and 'Success' in res.stdout, res.stderr

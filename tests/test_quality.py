"""What storage costs: how well models train under each policy (`benchmarks/quality.py`), and how many bytes training takes (`benchmarks/memory.py`)."""

import json
from pathlib import Path
import pytest
from genopt.tools.contenders import Shape

pytest.importorskip('sklearn')
root = Path(__file__).parent.parent

@pytest.fixture
def quality(benchmark): return benchmark('quality')

@pytest.fixture
def memory(benchmark): return benchmark('memory')


# -- The pages --

@pytest.mark.parametrize('name,heading', [('quality', 'Quality'), ('memory', 'Memory, measured')])
def test_the_section_is_made_from_the_file(name, heading, benchmark):
    script,sections = benchmark(name),benchmark('sections')
    assert sections.read_section(script.page, heading).strip()==script.section(benchmark('results').load(script.file)).strip()

def test_every_training_is_in_the_file(quality, benchmark):
    results = benchmark('results').load(quality.file)
    assert sorted(map(quality.key, results))==sorted((t, p, s) for t in quality.tasks for p in quality.policies for s in quality.seeds)
    for r in results: assert r['optimizer']==str(quality.spec(r['task'], r['policy']))

@pytest.mark.parametrize('page,ends', [
    ('# A\n\n## B\nold\n\n## C\nc\n', '## B\nnew\n\n## C\nc\n'),
    ('# A\n\n## C\nc\n## B\nold', '## C\nc\n## B\nnew\n')])
def test_a_section_is_written_anew(page, ends, benchmark, tmp_path):
    sections = benchmark('sections')
    (path := tmp_path/'p.md').write_text(page)
    for _ in range(2):
        sections.write_section(path, 'B', 'new\n')
        assert path.read_text()==f'# A\n\n{ends}'
    with pytest.raises(ValueError, match="has no heading '## D'; put one where"): sections.write_section(path, 'D', '')


# -- Quality --

def trainings(**losses):
    return [dict(task='text', policy=p.replace('_', ', '), seed=i, loss=x, test_loss=x and 2*x) for p,xs in losses.items() for i,x in enumerate(xs, 1)]

def test_a_policy_that_is_worse_is_told(quality):
    "By the standard deviation of float32; one that lacks a training is not judged"
    found = trainings(float32=[1., 1.2, 1.4, 1.6, 1.8], int8=[1.2, 1.4, 1.6, 1.8, 1.99], nearest=[1.45, 1.55, 1.8, 2., 2.2], kahan=[1., None, 1., 1., 1.], master=[1.])
    assert [quality.excess(found, 'text', p) for p in ('int8', 'nearest')]==pytest.approx([.198/.1**.5, .4/.1**.5])
    cells = {p: quality.cell(found, 'text', p, 'loss') for p in ('float32', 'int8', 'nearest', 'kahan', 'master')}
    assert cells==dict(float32='1.4000 ± 0.3162', int8='1.5980 ± 0.3131', nearest='1.8000 ± 0.3102*', kahan='diverged with 1 of 5 seeds*', master='not measured')
    told = quality.verdict(found)
    assert told.startswith('4 of 6 ') and told.count('bfloat16, nearest')==2 and 'test loss 1.3 standard deviations higher, p = ' in told
    assert '- weights in bfloat16, kahan, states in float32, text, transformer: training loss diverged with 1 of 5 seeds' in told
    assert quality.verdict(found[:10])=='None of the 2 means is higher than that of float32 by more than one standard deviation.'

def test_a_run_goes_on(quality, tmp_path, monkeypatch, capsys):
    "It trains what the file has not, and stops beginning at its time; a training is the same again"
    out = tmp_path/'q.json'
    monkeypatch.setattr(quality, 'policies', {p: quality.policies[p] for p in ('float32', 'extra_bits, int8')})
    monkeypatch.setattr(quality, 'seeds', (1, 2))
    small = quality.digits()
    small.epochs = 1
    monkeypatch.setattr(quality, 'tasks', dict(digits=(lambda: small, 'AdamW(lr=0.003)')))
    assert not quality.main(['--out', str(out), '--seconds', '0']) and not out.exists()
    assert not quality.main(['--out', str(out)])
    first = json.loads(out.read_text())['results']
    assert [quality.key(r) for r in first]==[('digits', p, s) for s in (1, 2) for p in quality.policies] and 'not measured' not in capsys.readouterr().out
    out.write_text(json.dumps(dict(results=first[1:])))
    assert not quality.main(['--out', str(out)])
    again = json.loads(out.read_text())['results']
    assert len(again)==4 and {k: v for k,v in again[-1].items() if k!='seconds'}=={k: v for k,v in first[0].items() if k!='seconds'}
    assert first[0]['loss']!=first[1]['loss']!=first[2]['loss'] and (first[0]['state'], round(first[1]['state'], 1))==(8, 3.9)


# -- Memory --

@pytest.mark.parametrize('name,release,kept', [
    ('torch.optim.AdamW, fused',                                False, 16),
    ('torch.optim.AdamW, fused, all in bfloat16',               False, 8),
    ('genopt AdamW',                                            False, 16),
    ('genopt AdamW',                                            True,  12),
    ("genopt AdamW, `store='int8'`",                            True,  4 + 2*(1 + 4/256)),
    ("genopt AdamW, `store={'p': 'exact_bits', '*': 'int8'}`",  False, 2 + 2 + 2 + 2*(1 + 4/256)),
    ("genopt AdamW, `store={'p': 'extra_bits', '*': 'int8'}`",  False, 2 + 1 + 2 + 2*(1 + 4/256)),
    ("genopt AdamW, `store={'p': 'extra_bits', '*': 'int8'}`",  True,  2 + 1 + 2*(1 + 4/256))])
def test_bytes_are_those_of_the_tensors(name, release, kept, memory):
    memory.measure(name, release, Shape('a matrix', [(256,256)], 0))        # what a process keeps once: a recorded code has examples of 40 KB
    shape = Shape('8 matrices', [(256,256)]*8, 0)
    found = memory.measure(name, release, shape)
    width = memory.kinds[name].dtype.itemsize/8                            # of one gradient of eight
    assert found['kept']==pytest.approx(kept, abs=.05) and found['peak']-found['kept']==pytest.approx(width if release else 0, abs=.05)
    assert found['elements']==shape.numel

def test_who_is_not_measured_is_told(memory, benchmark):
    "Beside the others; a figure that is not measured is no number"
    results = benchmark('results').load(memory.file)
    without = [dict(r, absent='ImportError: none') if r['name']=='torchao AdamW4bit' else r for r in results]
    for r in without:
        if 'absent' in r: del r['kept']
    told = memory.section(without)
    assert '\ntorchao AdamW4bit is not measured: ImportError: none\n' in told and [line for line in told.splitlines() if 'AdamW4bit' in line and 'not measured' in line]
    assert told.count('published')==2

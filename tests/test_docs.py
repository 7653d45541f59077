"""What users are shown is run: the README's example, and the notebooks."""

import re,subprocess,sys
from pathlib import Path
import pytest

root = Path(__file__).parent.parent
notebooks = sorted(p for p in (root/'nbs').rglob('*.ipynb') if 'checkpoints' not in str(p))


def test_readme_example_runs():
    blocks = re.findall(r'```python\n(.*?)```', (root/'README.md').read_text(), re.S)
    assert blocks
    for b in blocks: exec(compile(b, 'README.md', 'exec'), {})

def test_readme_names_files_that_exist():
    for path in re.findall(r'\]\((?!http)([^)#]+)[^)]*\)', (root/'README.md').read_text()): assert (root/path).exists(), path

@pytest.mark.slow
@pytest.mark.parametrize('nb', notebooks, ids=lambda p: p.stem)
def test_notebook(nb):
    pytest.importorskip('nbdev')
    res = subprocess.run([Path(sys.executable).parent/'nbdev-test', nb], capture_output=True, text=True, cwd=root)
    assert res.returncode==0 and 'Success' in res.stdout, res.stderr

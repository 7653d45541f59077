"""The package itself: which module may import which, and under which names users find things."""

import ast,importlib,re,subprocess,sys,warnings
from graphlib import TopologicalSorter
from pathlib import Path
import pytest
import genopt
from genopt import _moved

root    = Path(genopt.__file__).parent
storeys = 'contract', 'lower', 'run', 'optim', 'tools'                      # from the ground up
height  = {n: i for i,n in enumerate(storeys)} | dict(_torch=-1, blocks=1, algorithms=3.5, fastai=3.5, checkpoint=3.5, by_name=3.5, _moved=3.5, __init__=3.7, __main__=5)
optional = {'fastprogress', 'matplotlib', 'sklearn', 'torchvision', 'PIL', 'scipy', 'yaml', 'pydoc_data'}

def module(path): return '.'.join(path.relative_to(root).with_suffix('').parts)
def imports(path):
    "The modules of genopt that a file imports"
    here = ('genopt',*path.relative_to(root).parts[:-1])
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import): assert not any(a.name.split('.')[0]=='genopt' for a in node.names) or 'tools' in here or path.name=='__main__.py', path
        if not isinstance(node, ast.ImportFrom): continue
        assert node.level or node.module.split('.')[0]!='genopt' or 'tools' in here, f'{path}: imports of the package itself are relative'
        if not node.level: continue
        base = '/'.join([*here[1:len(here)-node.level+1], *(node.module or '').split('.')]).strip('/')
        for a in node.names:
            here_is = [root/base/f'{a.name}.py', root/base/a.name/'__init__.py', root/f'{base}.py', root/base/'__init__.py']
            yield module(next(f for f in here_is if f.is_file()))
files = sorted(f for f in root.rglob('*.py'))
graph = {module(f): set(imports(f)) for f in files}

def test_no_import_goes_up():
    of = lambda m: height[m.split('.')[0]]
    assert not [(m, o) for m,others in graph.items() for o in others if of(o)>of(m)]

def test_no_two_modules_import_each_other():
    [*TopologicalSorter(graph).static_order()]

def test_imports_stand_at_the_top():
    "but for optional packages"
    late = [(f.name, n) for f in files for fn in ast.walk(ast.parse(f.read_text())) if isinstance(fn, ast.FunctionDef)
            for node in ast.walk(fn) if isinstance(node, (ast.Import,ast.ImportFrom))
            for n in ([node.module or ''] if isinstance(node, ast.ImportFrom) else [a.name for a in node.names])]
    assert not [(f, n) for f,n in late if n.split('.')[0] not in optional|{'triton'}]      # torch looks for Triton itself

def test_the_core_needs_torch_and_fastcore_alone():
    block = "class No:\n def find_spec(self, name, path=None, target=None):\n  if name.split('.')[0] in %r: raise ImportError(name)\n".replace('%r', repr(optional))
    code = block + "import sys; sys.meta_path.insert(0, No()); import genopt; genopt.Adam([__import__('torch').nn.Parameter(__import__('torch').ones(3))])"
    subprocess.run([sys.executable, '-c', code], check=True)

def test_what_users_need_is_public():
    assert {*genopt.__all__}>={'Optimizer', 'algorithm', 'groups', 'rename', 'zeros', 'where', 'AdamW', 'save_checkpoint', 'list_algorithms'}
    assert all(hasattr(genopt, n) for n in genopt.__all__) and len({*genopt.__all__})==len(genopt.__all__)
    assert not {*genopt.__all__}&{*genopt.blocks.__all__} and 'average_grad' in genopt.blocks.__all__
    found = {}
    exec('from genopt import *', found)
    assert found.keys()-{'__builtins__'}=={*genopt.__all__}

def test_algorithms_are_found_by_pattern():
    assert genopt.list_algorithms('adam*')[:3]==['AdaMuon', 'Adam', 'AdamC'] and genopt.list_algorithms('nothing*')==[]
    assert genopt.list_algorithms()==sorted(genopt.algorithms.__all__)

@pytest.mark.parametrize('old,new', [('average_grad', 'blocks.average_grad'), ('transforms', 'blocks.transforms'), ('Hypers', 'optim.hypers.Hypers')])
def test_old_names_warn(old, new):
    with pytest.warns(DeprecationWarning, match=f'genopt.{old} has moved to genopt.{new}') as seen: value = getattr(genopt, old)
    package,_,name = f'genopt.{new}'.rpartition('.')
    assert value is getattr(importlib.import_module(package), name) and seen[0].filename==__file__

@pytest.mark.parametrize('old', [*_moved.modules])
def test_old_modules_warn(old):
    sys.modules.pop(f'genopt.{old}', None)
    with pytest.warns(DeprecationWarning, match=f'genopt.{old} has moved'): module = importlib.import_module(f'genopt.{old}')
    new = importlib.import_module(f'genopt.{_moved.modules[old]}')
    assert all(getattr(module, n) is getattr(new, n) for n in getattr(new, '__all__', ['zeros']))
    sys.modules.pop(f'genopt.{old}', None)
    vars(genopt).pop(old, None)

def test_what_never_was_is_no_attribute():
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        with pytest.raises(AttributeError, match='adamm'): genopt.adamm        # noqa: B018

def test_torch_internals_stand_in_one_file():
    "`_torch.py` says of each what happens without it"
    internal = re.compile(r'torch\._(?!foreach_\w+`)|torch\.\w+\._|\._version\b|\._values\(\)|from torch\S* import [^\n]*\b_|torch\.utils\._')
    found = [(f.relative_to(root), line.strip()) for f in files if f.name!='_torch.py' and 'tools' not in f.parts
             for line in f.read_text().splitlines() if internal.search(line)]
    assert not [x for x in found if 'torch._foreach' not in x[1]], found


# -- Docstrings --

said_of_itself = re.compile('(Adds|Allocates|Asks|Brings|Calls|Changes|Checks|Compares|Computes|Copies|Finds|Forgets|Gives|Goes|Holds|Keeps|Lets|Loads|Looks|Makes|Moves|'
                            'Puts|Raises|Reads|Records|Refuses|Returns|Runs|Says|Sets|Shows|Starts|Stores|Takes|Tells|Tries|Turns|Updates|Uses|Warns|Writes|Yields)$')

def first_words():
    "The first word of the docstring of each function, but for blocks and algorithms"
    for f in files:
        if f.parent.name in ('blocks', 'algorithms'): continue
        for n in ast.walk(ast.parse(f.read_text())):
            if isinstance(n, (ast.FunctionDef,ast.AsyncFunctionDef)) and (doc := ast.get_docstring(n)): yield module(f),n.name,doc.split()[0]

def test_a_function_that_does_something_starts_with_an_imperative():
    "Or its docstring is a noun phrase, what it gives; CONTRIBUTING has the rule"
    words = [*first_words()]
    assert len(words)>900 and not [w for w in words if said_of_itself.match(w[2])]

def test_a_block_says_what_it_does_and_an_algorithm_what_it_is():
    def first(f): return f.__doc__.split()[0]
    assert not [n for n in genopt.blocks.__all__ if not re.fullmatch('[A-Z][a-z]+s', first(getattr(genopt.blocks, n)))]
    assert not [n for n in genopt.algorithms.__all__ if said_of_itself.match(first(getattr(genopt, n)))]

"""What type checkers and editors know of genopt: the stubs agree with the code, and mypy takes what is right and reports what is wrong."""

import ast,importlib,inspect,re,subprocess,sys
from functools import partial
from pathlib import Path
from typing import Annotated
import pytest,torch
import genopt
from genopt import Optimizer,Range,fraction,rename
from genopt.tools import stubs

root    = Path(__file__).parent.parent
package = root/'genopt'
written = sorted(f for f in package.rglob('*.pyi') if f.name!='__init__.pyi')                 # by hand
calls   = {'state', 'state_dict', 'load_state_dict', 'add_param_group'}                       # of torch's, with torch's types
inner   = {'kept', 'flags'}


# -- The stubs --

@pytest.mark.parametrize('path,text', stubs.stubs().items())
def test_generated_stubs_are_up_to_date(path, text):
    "`python -m genopt.tools.stubs` writes them anew"
    assert (package/path).read_text(encoding='utf-8')==text

def functions(body, inside=''):
    "The functions that a stub declares, with their dotted names; `type_check_only` classes are left out"
    for node in body:
        if isinstance(node, ast.FunctionDef) and node.name!='__getattr__': yield inside+node.name,node.args
        if isinstance(node, ast.ClassDef) and not node.decorator_list: yield from functions(node.body, f'{inside}{node.name}.')

def names(args): return {a.arg for a in (*args.posonlyargs, *args.args, *args.kwonlyargs, args.vararg, args.kwarg) if a}

@pytest.mark.parametrize('path', written, ids=lambda f: f.stem)
def test_stubs_say_what_the_code_says(path):
    module = importlib.import_module('.'.join(path.relative_to(root).with_suffix('').parts))
    tree = ast.parse(path.read_text(encoding='utf-8'))
    here = {n.name for n in tree.body if isinstance(n, (ast.FunctionDef,ast.ClassDef))}
    assert {*module.__all__}<=here
    for name,args in functions(tree.body):
        value = module
        for n in name.split('.'): value = inspect.getattr_static(value, n)
        if isinstance(value, property): continue
        ps = inspect.signature(value).parameters
        open_ended = {n for n,p in ps.items() if p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}
        assert ps.keys()-open_ended<=names(args), name
        assert names(args)<=ps.keys() or open_ended, name

def test_every_method_of_an_optimizer_is_in_its_stub():
    tree = ast.parse((package/'optim'/'optimizer.pyi').read_text(encoding='utf-8'))
    body = next(n for n in tree.body if isinstance(n, ast.ClassDef)).body
    known  = {n.name for n in body if isinstance(n, ast.FunctionDef)} | {n.target.id for n in body if isinstance(n, ast.AnnAssign)}
    public = {n for n in dir(Optimizer) if not n.startswith('_')} - {*dir(torch.optim.Optimizer)}
    assert public-calls-inner<=known

def test_an_algorithm_takes_what_its_stub_says():
    names = {genopt.Adam: {'mom','sqr_mom','wd'}, genopt.Muon: {'mom','wd'}, genopt.AdEMAMix: {'mom','sqr_mom','mom3','wd'}, genopt.Adafactor: {'eps2','wd'}}
    for cls,known in names.items():
        assert {*stubs.short_names(cls)}==known, cls
        for n in known: assert cls([torch.ones(3, 2, requires_grad=True)], **{n: 0.5}).hypers[0][n]==.5

@pytest.mark.parametrize('default,type', [
    (0, 'float | Tensor'), (1e-3, 'float | Tensor'), (True, 'bool'), ('auto', 'str'), (None, 'float | Tensor | str | None'),
    ((0.9, 0.99), 'tuple[float | Tensor, float | Tensor]')])
def test_types_are_those_of_defaults(default, type): assert stubs.type_of(default)==type

def test_built_package_has_the_stubs(tmp_path):
    pytest.importorskip('setuptools')
    subprocess.run([sys.executable, 'setup.py', '-q', 'build', '--build-base', tmp_path], cwd=root, check=True, capture_output=True)
    built = {str(f.relative_to(tmp_path/'lib')) for f in (tmp_path/'lib').rglob('*')}
    assert {str(f.relative_to(root)) for f in (*package.rglob('*.pyi'), package/'py.typed')}<=built


# -- Ranges in annotations --

def bare(grad, k: fraction = .5): return grad*k
def annotated(grad, k: Annotated[float, fraction] = .5): return grad*k
def described(grad, k: Annotated[float, 'a factor', Range('[0,1)')] = .5): return grad*k
late = {}
exec("from __future__ import annotations\nfrom typing import Annotated\nfrom genopt import fraction\n"
     "def as_string(grad, k: Annotated[float, fraction] = .5): return grad*k", late)

@pytest.mark.parametrize('f', [bare, annotated, described, late['as_string'], partial(annotated, k=.4), rename(annotated, k='k')])
def test_a_range_is_found_in_an_annotation(f):
    p = torch.ones(2, requires_grad=True)
    assert Optimizer([p], [f], lr=.1, k=.9).param_groups[0]['k']==.9
    with pytest.raises(ValueError, match=r'Invalid k value: 5.0; Optimizer needs it in \[0,1\)'): Optimizer([p], [f], lr=.1, k=5.)

def test_another_annotation_is_no_range():
    def f(grad, k: Annotated[float, 'a factor'] = .5): return grad*k
    Optimizer([torch.ones(2, requires_grad=True)], [f], lr=.1, k=5.)


# -- What a checker says of examples --

def test_what_is_right_runs(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(root/'tests'/'typed')
    right = importlib.import_module('right')
    for opt in right.make(tmp_path):
        for p in (p for g in opt.param_groups for p in g['params']): p.grad = torch.ones_like(p)
        opt.step()
    model = torch.nn.Linear(3, 2)
    assert right.use(genopt.Adam(model.parameters()), model)>0

def mypy(*args):
    "Its exit status; and what it reports, as `{line: codes}`"
    pytest.importorskip('mypy')
    res = subprocess.run([sys.executable, '-m', 'mypy', '--no-error-summary', *args], cwd=root, capture_output=True, text=True)
    found = {}
    for line,code in re.findall(r'^[^:]+:(\d+): error: .*\[([\w-]+)\]$', res.stdout, re.M): found.setdefault(int(line), set()).add(code)
    return res,found

@pytest.mark.slow
def test_mypy_accepts_the_public_surface_and_what_is_right():
    res,_ = mypy()                                                      # on the files that pyproject.toml names
    assert res.returncode==0, res.stdout+res.stderr

@pytest.mark.slow
def test_mypy_reports_what_is_wrong():
    path = root/'tests'/'typed'/'wrong.py'
    wanted = {i: {m[1]} for i,line in enumerate(path.read_text().splitlines(), 1) if (m := re.search(r'# E: ([\w-]+)$', line))}
    res,found = mypy(path)
    assert found==wanted and res.returncode==1, res.stdout+res.stderr

"""What type checkers and editors know of the package beyond its source, in two stubs: `genopt/algorithms/__init__.pyi`, since algorithms are made
at run time, and `genopt/__init__.pyi`, the public names. `python -m genopt.tools.stubs` writes them; the other stubs are written by hand."""

import ast
import inspect
import math
import textwrap
from pathlib import Path
import torch
import genopt
from .. import algorithms
from ..optim.hypers import aliases,engine_flags,names_in
from ..optim.nonfinite import policies

__all__ = ['stubs', 'write']

here   = Path(genopt.__file__).parent
width  = 150
note   = '# Written by `python -m genopt.tools.stubs`'
number = 'float | Tensor'


# -- Lines --

def type_of(default):
    "The type of what may be given for an argument with this default: what `check_kind` lets pass"
    if isinstance(default, tuple): return f"tuple[{', '.join(map(type_of, default))}]"
    if isinstance(default, bool): return 'bool'
    if isinstance(default, str): return 'str'
    if default is None: return f'{number} | str | None'
    return number

def value(default):
    "A default as a stub may have it; one that is no literal, such as infinity, stays open"
    if isinstance(default, float) and not math.isfinite(default): return '...'
    return repr(default)

def exported(module, names):
    "The import of `names` as a stub says that they are public"
    if names==['*']: return [f'from {module} import *']
    return [f'from {module} import (', *wrapped([f'{n} as {n}' for n in names], '    '), ')']

def argument(name, default): return f'{name}: {type_of(default)} = {value(default)}'

def short_names(cls):
    "fastai's spelling of the arguments of `cls`, such as `wd`, where the algorithm takes it"
    opt = cls([torch.ones(64, 32, requires_grad=True)])
    shorts = [n for k,v in cls.arguments.items() if k in aliases for n in names_in(k, v)]
    return [n for n in dict.fromkeys(shorts) if n in opt.hypers[0] and n not in cls.arguments]

def flags():
    "The arguments that every algorithm has"
    kinds = {k: 'bool' if isinstance(v, bool) else 'bool | None' for k,v in engine_flags.items()} | dict(store='Store | None')
    policy = f"Literal[{', '.join(map(repr, policies))}]"
    return [f'{k}: {kinds[k]} = {v}' for k,v in engine_flags.items()] + [f'nonfinite: {policy} = {policies[0]!r}']

def wrapped(items, indent):
    "Arguments, as many on a line as fit"
    whole = [i.replace(' ', '\0') for i in items]                           # none is broken in two
    lines = textwrap.wrap(', '.join(whole) + ',', width-len(indent), break_long_words=False, break_on_hyphens=False)
    return [indent + line.replace('\0', ' ') for line in lines]


# -- The algorithms --

def docstring(o):
    doc   = (inspect.getdoc(o) or '').replace('\n', '\n    ')
    quote = '"""' if '\n' in doc or '"' in doc else '"'
    return 'r'*('\\' in doc) + quote + doc + quote

def algorithm(cls):
    "The lines of one algorithm"
    ps = inspect.signature(cls.build).parameters.values()
    own   = [argument(p.name, p.default) for p in ps if p.kind==p.POSITIONAL_OR_KEYWORD]
    named = [argument(p.name, p.default) for p in ps if p.kind==p.KEYWORD_ONLY]
    short = [f'{n}: {number} = ...' for n in short_names(cls)]
    yield f'class {cls.__name__}(Algorithm):'
    yield f'    {docstring(cls)}'
    yield '    def __init__('
    yield from wrapped(['self', 'params: Params', *own], '        ')
    yield from wrapped(['*', *named, *short], '        ') if named or short else ['        *,']
    yield from wrapped(flags(), '        ')
    yield '    ) -> None: ...'

head = '''"""Algorithms, each a short list of blocks. After their own arguments they take fastai's spelling of those, and what every algorithm has."""

from types import ModuleType
from typing import Literal
from torch import Tensor
from ..optim.algorithm import Algorithm
from ..optim.optimizer import Params,Store
{families}

families: tuple[ModuleType, ...]
def list_algorithms(pattern: str = '*') -> list[str]: ...'''

def of_algorithms():
    "`genopt/algorithms/__init__.pyi`"
    families = '\n'.join(exported('.', [f.__name__.rpartition('.')[2] for f in algorithms.families]))
    lines = [note, head.format(families=families), '', '__all__ = [']
    lines += wrapped([repr(n) for n in algorithms.__all__], '    ')
    lines += [']']
    for n in algorithms.__all__: lines += ['', *algorithm(getattr(algorithms, n))]
    return '\n'.join(lines) + '\n'


# -- The package --

def of_package():
    "`genopt/__init__.pyi`"
    tree = ast.parse((here/'__init__.py').read_text(encoding='utf-8'))
    lines = [note, docstring(genopt).replace('\n    ', '\n'), '']
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and node.level:
            lines += exported(f".{node.module or ''}", [a.name for a in node.names if not a.name.startswith('_')])
    own = [repr(n) for n in genopt.__all__ if n not in algorithms.__all__]
    lines += ['', '__version__: str', '', '__all__ = [', *wrapped(own, '    '), ']', '__all__ += algorithms.__all__']
    return '\n'.join(lines) + '\n'


def stubs():
    "The text of each generated stub, by its path in the package"
    return {'__init__.pyi': of_package(), 'algorithms/__init__.pyi': of_algorithms()}

def write():
    for path,text in stubs().items(): (here/path).write_text(text, encoding='utf-8')

if __name__=='__main__': write()

"""Algorithms with settings as a user writes them: `SGD(lr=0.1, momentum=0.9)`, `[AdamW, cautious]`, `Muon+AdamW`, `my_module:MyAlgorithm`."""

import ast,inspect,re,zlib
from pathlib import Path
import torch
from ...by_name import anything,find,make,pair
from ...optim.lists import algorithm_of
from ...optim.storage import policies

__all__ = ['Pair', 'Spec', 'Stored', 'parse_specs']

hint = 'settings are written as in SGD(lr=0.1, momentum=0.9)'


def parse(code, s, hint):
    "The expression `code`, which a user gave as `s`. In it `my_module:MyAlgorithm` is a string"
    try:
        return ast.parse(re.sub(r"(?<![\w.'])([A-Za-z_][\w.]*:[A-Za-z_]\w*)", r"'\1'", code), mode='eval').body
    except SyntaxError:
        raise ValueError(f"cannot read {s!r}; {hint}") from None

def call(s):
    "What `s` names, a name or a list as an expression, and the settings behind it: `SGD(lr=0.1)`"
    node = parse(s, s, hint)
    if getattr(node, 'args', ()):
        raise ValueError(f"{s!r}: name each setting, as in SGD(lr=0.1, momentum=0.9)")
    return getattr(node, 'func', node),settings(getattr(node, 'keywords', ()), s)

class Spec:
    """An algorithm with settings: `Spec('SGD(lr=0.1, momentum=0.9)')`; or a list of algorithm and blocks: `Spec('[AdamW, cautious](lr=0.001)')`.
    Raises `ValueError` for an unknown name, and for a setting that has no name, comes twice, or is no literal."""
    narrow = False                                          # whether its model has parameters in bfloat16
    def __init__(self, s: str):
        s = s.strip()
        func,self.settings = call(s)
        self.items    = [find(word(o, s)) for o in func.elts] if isinstance(func, ast.List) else [algorithm(word(func, s))]
        self.is_list  = isinstance(func, ast.List)
        names         = ', '.join(o.__name__ for o in self.items)
        self.name     = f'[{names}]' if self.is_list else names

    def __str__(self):
        settings = ', '.join(f'{k}={v}' for k,v in self.settings.items())
        return f'{self.name}({settings})' if settings else self.name

    def ours(self, params, **more):
        "genopt's optimizer over `params`, a model or its parameters. `more`: other settings"
        return make(self.items if self.is_list else self.items[0], params, **self.settings | more)

    def theirs(self, model):
        "torch's optimizer over `model` with the same settings, in whichever spelling they came; None where torch has no such algorithm"
        cls = getattr(torch.optim, self.name, None)
        settings = self.ours([torch.ones(1)]).defaults if cls else {}
        return cls and cls(model.parameters(), **{k: settings[k] for k in inspect.signature(cls).parameters if k in settings})

    @property
    def source(self):
        "As `source_of` its items"
        return source_of(self.items)

    @property
    def group(self):
        "The algorithm and its settings as a param group has them"
        return dict(algorithm=self.items if self.is_list else self.items[0], **self.settings)

def source_of(items) -> int|None:
    "A checksum of the modules of a user's own rules, which tells that they have changed; None for those of genopt"
    own = [m for m in map(inspect.getmodule, items) if m and m.__name__.partition('.')[0]!='genopt' and hasattr(m, '__file__')]
    return zlib.crc32(b''.join(Path(m.__file__).read_bytes() for m in own)) if own else None

class Pair:
    "Two algorithms for one model: `Muon+AdamW` is Muon for what `genopt.matrices` finds, and AdamW for the rest"
    narrow = False
    def __init__(self, left: str, right: str):
        self.left,self.right = Spec(left),Spec(right)
        self.name = f'{self.left.name}+{self.right.name}'

    def __str__(self): return f'{self.left}+{self.right}'

    @property
    def source(self):
        "As that of `Spec`"
        both = [s for s in (self.left.source, self.right.source) if s is not None]
        return zlib.crc32(repr(both).encode()) if both else None

    def ours(self, model, **more):
        "genopt's optimizer over `model`, with a group of matrices and a group of the rest. `more`: settings of both"
        return make(None, model, groups=pair(self.left.group, self.right.group, model), **more)

    def theirs(self, model):
        "None: torch has no pairs"

class Stored:
    """The optimizer of `spec` under the policy `store`, a string such as 'int8' or "sqr_avg: int8, '*_avg': bfloat16". A policy for parameters is for
    those of low precision, so such an optimizer is `narrow`: it is for a model with parameters in bfloat16. Raises `ValueError` for a policy that
    cannot be"""
    def __init__(self, spec: Spec|Pair, store: str):
        self.spec,self.store,self.name = spec,store,spec.name
        try:
            self.narrow = any(pattern=='p' for pattern,*_ in policies(anything(store)) or ())
        except (ValueError, TypeError) as e:
            how = """write a dtype such as int8, or names and dtypes as in "sqr_avg: int8, '*_avg': bfloat16\""""
            raise ValueError(f'--store {store}: {e}; {how}') from e

    def __str__(self): return f'{self.spec} as {self.store}'

    @property
    def source(self): return self.spec.source

    def ours(self, model):
        "genopt's optimizer over `model`"
        return self.spec.ours(model, store=self.store)

def word(node, s):
    "The name that `node` is"
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    raise ValueError(f"cannot read {ast.unparse(node)!r} in {s!r}; write a name, as in AdamW, [AdamW, cautious] or Muon+AdamW; {hint}")

def algorithm(name):
    "The algorithm called `name`. A block alone moves nothing"
    found = find(name)
    if algorithm_of(found):
        return found
    raise ValueError(f"no algorithm {name!r}; it is a block, for a list with an algorithm, as in [AdamW, {found.__name__}]")

def settings(keywords, s):
    "The values of the arguments that a user gave in `s`"
    res = {}
    for k in keywords:
        if k.arg is None or k.arg in res:
            raise ValueError(f"{s!r}: name each setting once; {hint}")
        try:
            res[k.arg] = ast.literal_eval(k.value)
        except ValueError:
            raise ValueError(f"{s!r}: cannot read {k.arg}={ast.unparse(k.value)}; a setting is a plain value") from None
    return res

def parse_specs(s: str, pairs: bool=False) -> list:
    "The algorithms of a list such as 'Adam, SGD(lr=0.1)'. `pairs`: there may be pairs, such as 'Muon+AdamW', and lists, such as '[AdamW, cautious]'"
    hint  = "write algorithms as in 'Adam, SGD(lr=0.1, momentum=0.9)'"
    items = parse(f'[{s}]', s, hint).elts
    if not items:
        raise ValueError(f"no algorithm given; {hint}")
    found = [spec(o) for o in items]
    if not pairs and (bad := next((o for o in found if isinstance(o, Pair) or o.is_list), None)):
        raise ValueError(f"{str(bad)!r}: this command takes one algorithm at a time; {hint}")
    return found

def spec(node):
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return Pair(ast.unparse(node.left), ast.unparse(node.right))
    return Spec(ast.unparse(node))

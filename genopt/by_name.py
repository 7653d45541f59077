"""`make` finds algorithms and blocks by name, and takes settings as config files and command lines give them: as strings, in a dict, in YAML."""

import ast,difflib,os,pkgutil,re
from collections.abc import Callable,Iterable,Mapping
from pathlib import Path
from typing import Any
from torch import nn
from fastcore.basics import is_iter
from . import algorithms,blocks
from .contract.chain import chain_of
from .contract.messages import did_you_mean
from .optim.hypers import Hypers,engine_flags,to_torch
from .optim.lists import Built,arguments_of
from .optim.optimizer import Optimizer
from .optim.rules import groups as groups_of,matrices

__all__ = ['find', 'make', 'pair', 'split']


# -- Names --

def normalized(name):
    "`name` in small letters and without '_', '-' and spaces, which people write differently"
    return re.sub(r'[-_ ]', '', name).lower()

known = {normalized(n): getattr(m, n) for m in (blocks, algorithms) for n in m.__all__}
names = {normalized(n): n for n in [*algorithms.__all__, *blocks.__all__]}

def find(name: str) -> Callable:
    """The algorithm or block of genopt called `name`, in capitals or not: 'adamw', 'clip_grad_norm'. 'my_module:MyOptimizer' imports another.

    Raises `ValueError`, which suggests the nearest name, if there is none."""
    if ':' in name:
        return imported(name)
    if normalized(name) in known:
        return known[normalized(name)]
    raise ValueError(f"no algorithm {name!r}{remedy_of(name)}")

def remedy_of(name):
    "What to write in place of the unknown `name`: the nearest names, also to the last part of 'torch.optim.AdamW', or settings beside 'AdamW(lr=1)'"
    if called := re.match(r'\s*([\w.:]+)\s*\(', name):
        return f"; settings stand beside it: make({called[1]!r}, model, lr=1e-3)"
    if near := nearest(normalized(name)) or nearest(normalized(name.rsplit('.', 1)[-1])):
        return f", did you mean {' or '.join(near)}?"
    return f"; choose from {', '.join(algorithms.__all__)}, or import one, as in 'my_module:MyOptimizer'"

def nearest(name):
    "At most three known names like `name`. Those that begin like it come first: people mistype the end of a word more often than its beginning"
    if name in names:
        return [repr(names[name])]
    near  = difflib.get_close_matches(name, names, 9, cutoff=.7)
    start = lambda n: len(os.path.commonprefix([n, name]))
    return [repr(names[n]) for n in sorted(near, key=start, reverse=True)[:3]]

def imported(name):
    "Import the object that 'my_module:MyOptimizer' names"
    try:
        return pkgutil.resolve_name(name)
    except (ImportError, AttributeError, ValueError) as e:
        raise ValueError(f"cannot import {name!r}: {e}; write it as in 'my_module:MyOptimizer'") from e

def split(s: str) -> list[str]:
    "The items of a comma-separated list, without the brackets around it"
    s = s.strip()
    if s[:1]+s[-1:] in ('()', '[]'):
        s = s[1:-1]
    return [w for w in (w.strip() for w in s.split(',')) if w]

def resolved(algorithm):
    "The callbacks and algorithms that `algorithm` names: a name, names with commas between them, a callable, or a list of these"
    if isinstance(algorithm, str):
        return [*map(find, split(algorithm))]
    if not algorithm or callable(algorithm):                                # as in a list of callbacks, what is falsy is left out
        return [algorithm] if algorithm else []
    if isinstance(algorithm, Mapping) or not is_iter(algorithm):
        raise TypeError(f"make: an algorithm is a name such as 'AdamW', a function or a list of these; got {algorithm!r}. "
                        "Settings stand beside it: {algorithm: [clip_grad_norm, AdamW], max_norm: 1}")
    return [o for item in algorithm for o in resolved(item)]


# -- Settings --

flags = dict(true=True, yes=True, on=True, false=False, no=False, off=False)

def converted(hypers, items):
    "`hypers` with strings replaced by values of the kinds that `items` declare"
    like = declared(items)
    return {k: value(v, default_of(k, v, like)) for k,v in hypers.items()}

def default_of(k, v, like):
    "The default in `like` for the value `v` of `k`, or None. `eps` may name a tuple and its first member; several values are those of the tuple"
    several = ',' in v if isinstance(v, str) else is_iter(v)
    if several and isinstance(like.group.get(k), tuple):
        return like.group[k]
    return like[k] if k in like else None

def declared(items):
    "The hyper-parameters of `items` with their defaults, as a mapping that takes either spelling"
    args  = arguments_of(items, 'make')
    chain = chain_of(Built(items, args).cbs)
    view  = Hypers(to_torch(args))
    found = {}
    for b in chain.every:
        found |= {n: v for n,v in b.hypers.items() if n not in view and n not in found}
    return Hypers(to_torch(args | found) | engine_flags | dict(nonfinite=''))

def value(v, like):
    """`v`, a string or a sequence with strings, as a value of the kind of the default `like`. A string that cannot be read so stays as it is; the
    optimizer then raises the error that it raises for any wrong value."""
    if isinstance(v, Mapping):                                              # `store`; OmegaConf's are no dicts
        return {k: value(x, None) for k,x in v.items()}
    if isinstance(like, tuple):
        items = split(v) if isinstance(v, str) else v
        return tuple(value(x, like[min(i, len(like)-1)]) for i,x in enumerate(items)) if is_iter(items) else v
    if not isinstance(v, str) or isinstance(like, str):
        return v
    if isinstance(like, bool):
        return (flags | {'1': True, '0': False}).get(v.strip().lower(), v)
    if like is None:
        return anything(v)
    return number(v)

def anything(v):
    "The number, flag, None or dict that the string `v` writes, or `v` itself"
    word = v.strip().lower()
    if word in ('none', 'null'):
        return None
    return mapping(v) if is_mapping(v) else flags.get(word, number(v))

def is_mapping(s):
    "Whether the string `s` writes a dict: '{a: 1}' or 'a: 1, b: 2'"
    return re.search(r'^\s*\{|:\s', s)

def mapping(s):
    """The dict that the string `s` writes, as in "sqr_avg: int8, '*_avg': bfloat16". Words need no quotes, and the whole no braces.

    Raises `ValueError` for what cannot be read"""
    word   = r"""'[^']*'|"[^"]*"|[^\s,:{}'"]+"""
    quoted = re.sub(word, lambda m: m[0] if m[0][0] in '\'"' or number(m[0])!=m[0] else repr(m[0]), s)
    braced = quoted if quoted.lstrip().startswith('{') else f'{{{quoted}}}'
    try:
        found = ast.literal_eval(braced.strip())
    except (ValueError, SyntaxError, TypeError):
        found = None
    if isinstance(found, dict):
        return found
    raise ValueError(f"""cannot read {s!r}; write names and values as in "sqr_avg: int8, '*_avg': bfloat16\"""")

def number(v):
    "The number that the string `v` writes, or `v` itself"
    for kind in (int, float):
        try:
            return kind(v)
        except ValueError:
            pass
    return v


# -- Rules --

def rule(key):
    """The rule of `genopt.groups` that `key` of a config writes: several with commas between them, 'nn.LayerNorm' for a kind of module, '/regex/',
    '2 dimensions', 'matrices', or a pattern of names such as '*.bias'"""
    if not isinstance(key, str):
        return key
    if len(key)>2 and key[0]==key[-1]=='/':
        return regex(key)
    parts = split(key)
    if len(parts)>1:
        return tuple(map(rule, parts))
    if key=='matrices':
        return matrices
    if m := re.fullmatch(r'(\d+) dimensions?', key):
        return int(m[1])
    return kind_of_module(key.removeprefix('torch.')) if re.match(r'(torch\.)?nn\.[A-Z]', key) else key

def regex(key):
    try:
        return re.compile(key[1:-1])
    except re.error as e:
        raise ValueError(f"make: the rule {key!r} is no regular expression: {e}") from e

def kind_of_module(name):
    kind = getattr(nn, name.removeprefix('nn.'), None)
    if isinstance(kind, type):
        return kind
    raise ValueError(f"make: unknown kind of module {name!r}{did_you_mean(name, [f'nn.{n}' for n in dir(nn)])}")

def pair(left, right, model):
    "Rules that give the matrices of `model` the settings `left`, and the rest those of `right`. Raises `ValueError` if there are no matrices"
    has_rest = len(groups_of(model, {matrices: {}}))>1
    return {matrices: left} | ({'*': right} if has_rest else {})

def group(settings, items):
    "The settings of one group, with callbacks in place of names. `items` are those of the optimizer, which a group without its own runs"
    if not isinstance(settings, Mapping):
        return settings                                                     # `groups` raises, and names the rule
    settings = dict(settings)
    if own := resolved(settings.pop('algorithm', None)):
        settings['cbs'] = own[0] if len(own)==1 and isinstance(own[0], type) else own
        items = own
    return converted(settings, items)


# -- Configs --

def read(config):
    "`config` as a dict of the arguments of `make`"
    where = 'make: the config'
    if isinstance(config, Path) or isinstance(config, str) and config.endswith(('.yaml', '.yml', '.json')):
        where,config = f'make: {config}',from_yaml(Path(config).expanduser().read_text(encoding='utf-8'), config)
    elif isinstance(config, str) and is_mapping(config):
        config = from_yaml(config, 'the text')
    if not isinstance(config, Mapping):
        return dict(algorithm=config)
    if not config.keys()&{'algorithm', 'groups'}:
        raise ValueError(f"{where} has no 'algorithm'; it has {', '.join(map(repr, config)) or 'nothing'}")
    if wrong := [k for k in config if not isinstance(k, str) or k=='params']:
        raise TypeError(f"{where} has the key {wrong[0]!r}; keys are 'algorithm', 'groups' and names of hyper-parameters. "
                        "The parameters are an argument: make(config, model)")
    return dict(config)

def from_yaml(text, name):
    "What the YAML `text` says. `name` says where it is from"
    try:
        import yaml
    except ImportError as e:
        raise ImportError(f"make: YAML needs the package PyYAML ({e}): pip install pyyaml") from e
    class Loader(yaml.SafeLoader):
        def construct_mapping(self, node, deep=False):
            keys = [k.value for k,_ in node.value]
            if twice := next((k for k in keys if keys.count(k)>1), None):           # PyYAML takes the last one in silence
                raise yaml.YAMLError(f"the key {twice!r} comes twice, {node.start_mark}")
            return super().construct_mapping(node, deep)
    try:
        return yaml.load(text, Loader)
    except yaml.YAMLError as e:
        raise ValueError(f"make: cannot read {name} as YAML: {' '.join(str(e).split())}") from e


def make(algorithm: Any, params: nn.Module | Iterable[Any], *, groups: Any = None, **hypers: Any) -> Optimizer:
    """Make an optimizer from names and strings, as a command line or a config file has them.

        make('adamw', model, lr=1e-3)
        make('adamw', model, lr='1e-3', betas='0.9,0.95')
        make(['clip_grad_norm', 'AdamW', 'cautious'], model, lr=1e-3, max_norm=1.)
        make('Muon+AdamW', model, lr=1e-3)
        make({'algorithm': 'AdamW', 'lr': 1e-3, 'groups': {'*.bias, nn.LayerNorm': {'weight_decay': 0}}}, model)
        make('optimizer.yaml', model, lr=3e-4)

    Arguments:

    `algorithm`: the name of an algorithm or block, where capitals, '_' and '-' do not matter; a list of names; 'my_module:MyOptimizer' for one of
        your own; or the class or function itself. 'Muon+AdamW' is Muon for what `genopt.matrices` finds and AdamW for the rest, with the same
        `hypers`. Or a config: a dict (or OmegaConf's), YAML text, or the path of a YAML file, whose keys are the
        arguments of `make` other than `params`.
    `params`: the model, or parameters in any form that optimizers take.
    `groups`: rules of `genopt.groups`, each with a dict of settings, which needs the model. A group may have its own `algorithm`. In a string
        'matrices' is `genopt.matrices`, 'nn.LayerNorm' a kind of module, '2 dimensions' (or the number 2) a number of dimensions, '/regex/' a
        regular expression, and commas stand between alternatives; any other string is a pattern of names.
    `hypers`: hyper-parameters and flags, as the algorithm takes them. They replace those of the config. A string becomes a value of the kind of the
        declared default: '1e-3', 'true', '0.9,0.95'.

    Raises `ValueError` for a name that is unknown, and suggests the nearest. The optimizer checks all else, and
    raises its usual errors."""
    check_order(algorithm, params)
    config = read(algorithm) | hypers
    rules  = config.pop('groups', None) if groups is None else groups
    config = {k: v for k,v in config.items() if k!='groups'}
    named  = config.pop('algorithm', None)
    if isinstance(named, str) and '+' in named:
        rules,config = paired(named, params, rules, config)
        named = None
    items  = resolved(named)
    if not items and not rules:
        raise ValueError("make: no algorithm given; name one, as in make('adamw', model, lr=1e-3)")
    hypers = converted(config, items)
    if rules:
        params = grouped(params, rules, items)
    elif isinstance(params, nn.Module):
        params = params.named_parameters()
    if len(items)==1 and isinstance(items[0], type):
        return items[0](params, **hypers)
    return Optimizer(params, items or None, **hypers)

def paired(named, params, rules, config):
    "The rules for two algorithms, as 'Muon+AdamW' names them, and what of `config` is for the optimizer and not for its groups"
    both = [n.strip() for n in named.split('+')]
    if rules:
        raise ValueError(f"make: {named!r} makes groups itself; leave groups out, or write all groups, each with its algorithm")
    if len(both)>2:
        raise ValueError(f"make: {named!r} has more than two algorithms; use groups, each with its algorithm")
    if not all(both):
        raise ValueError(f"make: {named!r} lacks an algorithm before or after the '+'; write two, as in 'Muon+AdamW'")
    check_model(params)
    whole = {k: v for k,v in config.items() if k in engine_flags or k=='nonfinite'}
    own   = {k: v for k,v in config.items() if k not in whole}
    check_shared(both, own)
    return pair(*(dict(algorithm=n, **own) for n in both), params),whole

def check_shared(both, own):
    "Raise `TypeError` for a setting in `own` that one of `both` algorithms has and the other lacks. Groups raise for what neither has"
    has = {n: declared(resolved(n)) for n in both}
    for k in own:
        lacks = [n for n in both if k not in has[n]]
        if len(lacks)==1:
            raise TypeError(f"make: {lacks[0]} has no hyper-parameter {k!r}, and {'+'.join(both)!r} gives both the same settings. Give each its own: "
                            f"groups={{'matrices': dict(algorithm={both[0]!r}), '*': dict(algorithm={both[1]!r})}}")

def check_order(algorithm, params):
    "Raise `TypeError` if the arguments look exchanged, as timm has them"
    if isinstance(algorithm, nn.Module) or isinstance(params, (str,Mapping)):
        raise TypeError("make takes the algorithm first and then the model or its parameters: make('adamw', model, lr=1e-3)")

def grouped(params, rules, items):
    "The groups that `rules` of a config make of the model `params`"
    check_model(params)
    return groups_of(params, [(rule(key), group(settings, items)) for key,settings in pairs_of(rules)])

def check_model(params):
    if not isinstance(params, nn.Module):
        raise TypeError(f"make: groups need the model, because their rules match its names and modules; got a {type(params).__name__}")

def pairs_of(rules):
    "The rules of a config with their settings, of a dict or of a list of pairs"
    pairs = [*rules.items()] if isinstance(rules, Mapping) else [*rules] if is_iter(rules) else [rules]
    if not all(is_iter(p) and not isinstance(p, (str,Mapping)) and len(p)==2 for p in pairs):
        raise TypeError("make: groups are a dict from rules to settings, as in {'*.bias': {weight_decay: 0}}, or a list of such pairs; "
                        f"got {rules!r}")
    return pairs

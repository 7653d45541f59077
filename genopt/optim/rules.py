"""Rules that sort the parameters of a model into param groups: which decay, which have another learning rate, which run another algorithm.

    opt = AdamW(groups(model, {'*.bias': dict(weight_decay=0), nn.LayerNorm: dict(weight_decay=0), 'head.*': dict(lr=1e-2)}), lr=1e-3)
    opt = Optimizer(groups(model, {'embed.*': dict(cbs=AdamW), 2: dict(cbs=Lion, lr=1e-4), '*': dict(cbs=AdamW)}))
    opt = SGD(groups(model, {model.head: dict(lr=1e-2), model.pos_embed: dict(weight_decay=0)}), lr=1e-3)"""

import fnmatch,inspect,re
from torch import nn
from ..contract.names import name_of
from .tables import table

__all__ = ['groups', 'Groups', 'matrices']


def matrices(name: str, p: nn.Parameter, module: nn.Module) -> bool:
    """A rule of `groups`: weights of linear layers and convolutions, which Muon and its kin take. These are all parameters of two dimensions and more
    but those of embeddings. A head is a matrix, too; a rule before this one takes it out: `{'head.*': dict(cbs=AdamW), matrices: dict(cbs=Muon)}`"""
    return p.ndim>1 and not isinstance(module, (nn.Embedding,nn.EmbeddingBag))

def matcher(rule):
    "A function of a parameter's name, the parameter and the module that owns it, which says whether `rule` matches"
    if isinstance(rule, (tuple,list)):
        any_of = [*map(matcher, rule)]
        return lambda *args: any(match(*args) for match in any_of)
    if isinstance(rule, str):
        return lambda name,p,owner: fnmatch.fnmatchcase(name, rule)
    if isinstance(rule, re.Pattern):
        return lambda name,p,owner: rule.search(name)
    if isinstance(rule, (nn.Module,nn.Parameter)):
        inside = {id(p) for p in (rule.parameters() if isinstance(rule, nn.Module) else [rule])}
        return lambda name,p,owner: id(p) in inside
    if isinstance(rule, type):
        if issubclass(rule, nn.Module):
            return lambda name,p,owner: isinstance(owner, rule)
    elif isinstance(rule, int) and not isinstance(rule, bool):
        return lambda name,p,owner: p.ndim==rule
    elif callable(rule):
        return rule if takes_module(rule) else lambda name,p,owner: rule(name, p)
    raise TypeError(f"groups: a rule is a pattern of names ('*.bias'), a compiled regular expression, a module (model.head), a parameter, a kind of "
                    f"module (nn.LayerNorm), a number of dimensions, a function of name and parameter, or a tuple of these; got {rule!r}")

def takes_module(rule):
    "Whether the function `rule` takes three arguments: name, parameter and the module that owns it"
    try:
        inspect.signature(rule).bind(None, None, None)
    except (TypeError, ValueError):
        return False
    return True

def label(rule, names):
    "A rule as the table and the errors write it. `names`: the names of the model's modules and parameters, by id"
    if isinstance(rule, (tuple,list)):
        return ' or '.join(label(r, names) for r in rule)
    if isinstance(rule, (nn.Module,nn.Parameter)):
        return names.get(id(rule)) or type(rule).__name__
    if isinstance(rule, re.Pattern):
        return f'/{rule.pattern}/'
    if isinstance(rule, int):
        return f"{rule} dimension{'s'*(rule!=1)}"
    return getattr(rule, '__name__', None) or str(rule)

def text(value):
    "A setting as the table writes it: a callback by its name"
    if isinstance(value, list):
        return f"[{', '.join(map(text, value))}]"
    return name_of(value) if callable(value) else str(value)

class Groups(list):
    "Param groups for any optimizer. They print as a table: for each rule its settings and the parameters that it matched"
    def __init__(self, groups, rules):
        super().__init__(groups)
        self.rules = rules
    def __repr__(self):
        rows = []
        for rule,group in zip(self.rules, self):
            names,params = zip(*group['params']) if group['params'] else ((), ())
            settings = ', '.join(f'{k}={text(v)}' for k,v in group.items() if k!='params')
            numel    = sum(p.numel() for p in params)
            rows.append([rule, settings, str(len(names)), f'{numel:,}', ', '.join(names[:3]) + ', ...'*(len(names)>3)])
        return table(['rule', 'settings', 'tensors', 'elements', 'parameters'], rows, right=(2,3))

def empty(rule, settings):
    "A param group with these settings and no parameters yet. `rule`: its label"
    if isinstance(settings, dict):
        return dict(params=[], **settings)
    such = f'dict(cbs={text(settings)})' if callable(settings) or isinstance(settings, list) else 'dict(lr=1e-3)'
    raise TypeError(f"groups: the settings of {rule!r} must be a dict, such as {such}; got {settings!r}")

def groups(model: nn.Module, rules) -> Groups:
    """The parameters of `model` as named param groups, one for each rule. `rules` is a dict, or pairs, of rule and hyper-parameters. A rule is a
    pattern of names (`'*.bias'`), a compiled regular expression, a module (it matches all parameters inside, `model.head`), a parameter
    (`model.pos_embed`), a kind of module (it matches the module's own parameters, `nn.LayerNorm`), a number of dimensions, a function of name and
    parameter (and, if it takes three arguments, of the module that owns it) such as `matrices`, or a tuple of these, of which one must match.

    The first rule that matches a parameter takes it. The parameters that no rule matches make a last group, which has the optimizer's settings. A
    comprehension gives each layer its own learning rate: `{f'layers.{i}.*': dict(lr=lr*.8**(11-i)) for i in range(12)}`.

    A tied parameter comes once, under its first name; a frozen one comes too. Raises `TypeError` for what is no rule or no dict of settings, and
    `ValueError` for a rule without a parameter: it is misspelt, or earlier rules took all that it matches. The error shows the table."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"groups: model must be a torch.nn.Module, got {type(model).__name__}")
    rules = [*rules.items()] if isinstance(rules, dict) else [*rules]
    modules  = dict(model.named_modules())
    matchers = [matcher(rule) for rule,_ in rules]
    names    = {id(o): n for n,o in (*modules.items(), *model.named_parameters())}
    labels   = [label(rule, names) for rule,_ in rules]
    res      = Groups([empty(n, settings) for n,(_,settings) in zip(labels, rules)], labels)
    rest     = dict(params=[])
    for name,p in model.named_parameters():
        owner = modules[name.rpartition('.')[0]]
        group = next((g for g,match in zip(res, matchers) if match(name, p, owner)), rest)
        group['params'].append((name, p))
    if rest['params']:
        res.append(rest)
        res.rules.append('the rest')
    for (rule,_),name,group in zip(rules, labels, res):
        if not group['params']:
            why = 'or earlier rules have taken all that it matches'
            if isinstance(rule, str) and rule in modules: why = f"because {rule!r} is a module; write '{rule}.*' for its parameters"
            raise ValueError(f"groups: the rule {name!r} matches no parameter, {why}:\n{res}")
    return res

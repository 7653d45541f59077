"""Rules that sort the parameters of a model into groups: which decay, which learn slower, which run another algorithm.

    opt = AdamW(groups(model, {'*.bias': dict(weight_decay=0), nn.LayerNorm: dict(weight_decay=0), 'head.*': dict(lr=1e-2)}), lr=1e-3)
    opt = Optimizer(groups(model, {'embed.*': dict(cbs=AdamW), 2: dict(cbs=Lion, lr=1e-4), '*': dict(cbs=AdamW)}))"""

import fnmatch,re
from torch import nn
from ..contract.names import name_of
from .tables import table

__all__ = ['groups', 'Groups']


def matcher(rule):
    "Whether a parameter, given its name, itself and the module that owns it, is meant by `rule`"
    if isinstance(rule, tuple):
        any_of = [*map(matcher, rule)]
        return lambda *a: any(m(*a) for m in any_of)
    if isinstance(rule, str):                              return lambda n,p,m: fnmatch.fnmatchcase(n, rule)
    if isinstance(rule, re.Pattern):                       return lambda n,p,m: rule.search(n) is not None
    if isinstance(rule, int) and not isinstance(rule, bool): return lambda n,p,m: p.ndim==rule
    if isinstance(rule, type) and issubclass(rule, nn.Module): return lambda n,p,m: isinstance(m, rule)
    if callable(rule) and not isinstance(rule, type):      return lambda n,p,m: rule(n, p)
    raise TypeError(f"groups: a rule is a pattern of names ('*.bias'), a compiled regular expression, a kind of module (nn.LayerNorm), a number of "
                    f"dimensions, a function of name and parameter, or a tuple of these; got {rule!r}")

def shown(rule):
    "A rule as it is told"
    if isinstance(rule, tuple):      return ' or '.join(map(shown, rule))
    if isinstance(rule, re.Pattern): return f'/{rule.pattern}/'
    if isinstance(rule, int):        return f"{rule} dimension{'s'*(rule!=1)}"
    return getattr(rule, '__name__', None) or str(rule)

def told(v): return f"[{', '.join(map(told, v))}]" if isinstance(v, list) else name_of(v) if callable(v) else str(v)

class Groups(list):
    "Param groups, for any optimizer, that print as a table: for each rule its settings and what it found"
    def __init__(self, found):
        super().__init__(dict(params=ps, **hypers) for _,hypers,ps in found)
        self.rules = [rule for rule,_,_ in found]
    def __repr__(self):
        rows = []
        for rule,g in zip(self.rules, self):
            names,hypers = [n for n,_ in g['params']],', '.join(f'{k}={told(v)}' for k,v in g.items() if k!='params')
            rows.append([rule, hypers, f'{len(names)}', f"{sum(p.numel() for _,p in g['params']):,}", ', '.join(names[:3]) + ', ...'*(len(names)>3)])
        return table(['rule', 'settings', 'tensors', 'elements', 'parameters'], rows, right=(2,3))

def groups(model, rules):
    """The parameters of `model` as named groups. `rules`: a dict, or pairs, of what is meant and its hyper-parameters: a pattern of names
    (`'*.bias'`), a compiled regular expression, a kind of module (its own parameters), a number of dimensions, a function of name and
    parameter, or a tuple of these. The first rule that fits has it; what no rule fits makes a last group with the optimizer's settings.
    Layer-wise rates are a comprehension: `{f'layers.{i}.*': dict(lr=lr*.8**(11-i)) for i in range(12)}`.

    Tied parameters come once, under their first name, frozen ones too. Raises `ValueError` for a rule that finds nothing: it is misspelt,
    or one before it has taken all; print what the others found"""
    if not isinstance(model, nn.Module): raise TypeError(f"groups: model must be a torch.nn.Module, got {type(model).__name__}")
    rules = [*rules.items()] if isinstance(rules, dict) else [*rules]
    for rule,hypers in rules:
        if not isinstance(hypers, dict):
            raise TypeError(f"groups: the settings of {shown(rule)!r} must be a dict, such as dict(lr=1e-3); got {hypers!r}")
    found   = [(rule, hypers, []) for rule,hypers in rules]
    rest    = ('the rest', {}, [])
    fits    = [matcher(rule) for rule,_ in rules]
    modules = dict(model.named_modules())
    for n,p in model.named_parameters():
        owner = modules[n.rpartition('.')[0]]
        next((f for f,fit in zip(found, fits) if fit(n, p, owner)), rest)[2].append((n, p))
    res = Groups([(shown(r), h, ps) for r,h,ps in [*found, rest] if ps or r!=rest[0]])
    if lost := [r for r,g in zip(res.rules, res) if not g['params']]:
        raise ValueError(f"groups: {lost[0]!r} finds no parameter that a rule before it has not taken:\n{res}")
    return res

"""The settings of a group: what its values come to. A schedule sets new values before each step, so making settings must be quick.

An algorithm is a function of its arguments, and may decide by any of them which callbacks it returns. To find out by which, it is called with
`Watched` numbers, which note that somebody has looked at them:

    def SGD(lr, momentum, weight_decay): return [weight_decay and l2_reg, momentum and average_grad, momentum_step if momentum else sgd_step]

looks at whether `momentum` and `weight_decay` are zero, and never at `lr`. So one chain serves for any `lr`, and for any momentum but zero.
A `Shortcut` keeps this: the conditions, the chain, and where in a group each number stands that the chain reads."""

import operator
from functools import partial
from ..contract.tensors import number
from .hypers import ranges

__all__ = ['Settings', 'Shortcut', 'looked_at']

numbers = int,float                                                         # a bool is no number here


class Settings:
    "The chain, the numbers and how a group is to be run, which groups with equal values share. `types`: those of the values; `asked`: the backend"
    def __init__(self, chain, values, types, asked, capturable=False, offload=False):
        self.chain,self.numbers,self.types,self.asked,self.capturable,self.offload = chain,values,types,asked,capturable,offload
    @classmethod
    def of(cls, recipe, group, key):
        "Make the settings of `group`. Raises if a value cannot work."
        chain = recipe.chain(group, rehearsed=False)
        capturable = bool(group['capturable'])
        if not capturable: recipe.check_set(group, key, chain)
        values = recipe.hypers(group, chain, (lambda v: v) if capturable else number)
        return cls(chain, values, [*map(type, key)], asked_of(group), capturable, bool(group.get('offload')))

def asked_of(group):
    "The backend that the flags of `group` ask for; None if they leave the choice to the engine"
    if group['fused']: return 'launch'
    if group['foreach'] is False: return 'reference'
    return 'foreach' if group['foreach'] else None


# -- What an algorithm looks at --

class Watched:
    "Stands for a number. It notes in `looks` that somebody asks whether it is zero (`'truth'`), or asks for anything else (`'value'`)"
    def __init__(self, value, place, looks): self.value,self.place,self.looks = value,place,looks
    def __bool__(self):
        self.looks.setdefault(self.place, 'truth')
        return bool(self.value)
    @property
    def __class__(self): return type(self.value)                            # for `isinstance`

def look(x):
    "The number itself, which is noted"
    if type(x) is not Watched: return x
    x.looks[x.place] = 'value'
    return x.value

def watch(name, f):
    def method(self, *args): return f(look(self), *map(look, args))
    setattr(Watched, name, method)

for name in 'lt le gt ge eq ne add sub mul truediv floordiv mod pow neg pos abs index'.split(): watch(f'__{name}__', getattr(operator, name))
for name in 'add sub mul truediv floordiv mod pow'.split(): watch(f'__r{name}__', partial(lambda f, x, y: f(y, x), getattr(operator, name)))
for name,f in dict(hash=hash, float=float, int=int, repr=repr, str=str, format=format, round=round).items(): watch(f'__{name}__', f)

def watched(v, key, looks):
    "`v` with a `Watched` number for each number in it"
    if type(v) in numbers: return Watched(v, (key, None), looks)
    if type(v) is tuple: return tuple(Watched(x, (key, i), looks) if type(x) in numbers else x for i,x in enumerate(v))
    return v

def looked_at(recipe, group):
    "What the algorithm looks at to choose its callbacks for `group`: (key, index) -> how. None if that cannot be found out"
    if not recipe.arguments.keys()<=group.keys(): return None               # one stands in a tuple, under another name
    looks  = {}
    values = {n: watched(group[n], n, looks) for n in recipe.arguments}
    try: same = recipe.build_with(values, group).key==recipe.build(group).key
    except Exception: return None                                           # it takes plain numbers only
    return looks if same else None                                          # comparing has looked at all that the callbacks hold


# -- Shortcuts --

class Shortcut:
    """Leads from the values of a group to settings, where these values differ from those of `group` in nothing that matters for the chain.

    `fixed`: key -> a value that must be the same. `free`: (key, index) -> the type of the number, and whether it must be
    other than zero, or None. `sizes`: key -> the
    number of members of a tuple. `reads`: name -> where the number stands. `ranges`: where a number stands, and its range."""
    def __init__(self, recipe, group, settings, looks):
        self.settings,self.fixed,self.free,self.sizes = settings,{},{},{}
        for k in recipe.defaults: self.sort(k, group[k], looks)
        view = recipe.view(group)
        self.reads  = {n: view.find(n) for n in settings.numbers if n in view}
        self.ranges = [(k, i, r) for k,i,r,_ in ranges(view, recipe.declared, settings.chain) if (k, i) in self.free]
    def sort(self, k, v, looks):
        "Whether the value `v` of `k` may change, or must stay"
        places = [(k, i) for i in range(len(v))] if type(v) is tuple else [(k, None)]
        if not all(type(member(v, i)) in numbers and looks.get((k, i))!='value' for _,i in places): self.fixed[k] = v
        else:
            self.free |= {(k, i): (type(member(v, i)), bool(member(v, i)) if (k, i) in looks else None) for _,i in places}
            if type(v) is tuple: self.sizes[k] = len(v)

    def take(self, group, key):
        "The settings for the values of `group`, which are `key`. None if they differ in what matters, or are out of their ranges"
        for k,v in self.fixed.items():
            if group[k] is not v and (type(group[k]) is not type(v) or group[k]!=v): return None
        for k,n in self.sizes.items():
            if type(group[k]) is not tuple or len(group[k])!=n: return None
        for (k,i),(kind,truth) in self.free.items():
            v = member(group[k], i)
            if type(v) is not kind or truth is not None and bool(v) is not truth: return None
        if not all(member(group[k], i) in r for k,i,r in self.ranges): return None
        s = self.settings
        numbers = s.numbers | {n: member(group[k], i) for n,(k,i) in self.reads.items()}
        return Settings(s.chain, numbers, [*map(type, key)], s.asked, offload=s.offload)

def member(v, i): return v if i is None else v[i]

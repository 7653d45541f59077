"""How another library's optimizer is made for the comparison: which of its arguments are not its own defaults, and whether its code is changed."""

import inspect,math,sys
import torch
from torch.optim.optimizer import required

how_it_runs = {'foreach', 'fused', 'capturable', 'differentiable'}         # these change no number


def of_tests(cls): return cls.__module__.split('.')[0] in ('catalogue', 'references')

def constructors(o):
    "The constructors of the optimizer `o` that libraries have written: code -> class"
    inits = {c: inspect.unwrap(c.__dict__['__init__']) for c in type(o).__mro__ if '__init__' in c.__dict__ and not of_tests(c)}
    return {f.__code__: c for c,f in inits.items() if inspect.isfunction(f) and c is not torch.optim.Optimizer}

def constructed(make, params, settings):
    """The optimizers that `make(params, **settings)` makes, of libraries and of the tests: `(optimizer, class, arguments)`. `class` is that of the
    library, None if there is none, and `arguments` name -> (its default, the value that it is given), in the first param group"""
    seen,found = {},{}
    def look(frame, event, arg):
        o = frame.f_locals.get('self')
        if event!='call' or frame.f_code.co_name!='__init__' or not isinstance(o, torch.optim.Optimizer): return
        seen[id(o)] = o
        cls = constructors(o).get(frame.f_code)
        if cls and id(o) not in found: found[id(o)] = cls,arguments(cls, frame.f_locals)
    before = sys.getprofile()
    sys.setprofile(look)
    try: make(params, **settings)
    finally: sys.setprofile(before)
    return [(o, *found.get(i, (None, {}))) for i,o in seen.items()]

def arguments(cls, values):
    params = values['params']
    group  = params[0] if isinstance(params, list) and isinstance(params[0], dict) else {}
    return {n: (p.default, group.get(n, values[n])) for n,p in inspect.signature(cls).parameters.items() if p.default not in (p.empty, required)}

def side(a, peer):
    "What makes the reference of the row `a`, or its `peer`; and the names of the settings that it takes"
    make,without = (peer.make,peer.without) if peer else (a.reference,())
    return make,{k for kw in a.settings() for k in kw} - {*without}

def one_of(a):
    "One parameter that the reference of `a` can take"
    from helpers import awkward
    return [next(p for n,p in awkward().items() if not a.names or n in a.names)]

def library(a, peer=None):
    "The class of the library, and the arguments that `given` is about"
    make,known = side(a, peer)
    made = constructed(make, one_of(a), {k: v for k,v in a.cls.arguments.items() if k in known})
    return next(((cls,args) for _,cls,args in made if cls), (None, {}))

def given(a, peer=None):
    """What another library's optimizer must be given to do what ours does by default: its arguments that are not its own defaults, in words.
    Of the reference of the row `a`, or of one of its peers"""
    return ', '.join(f'{n}={shown(v)}' for n,(default,v) in library(a, peer)[1].items() if n not in how_it_runs and not alike(default, v))

def is_patched(a, peer=None):
    "Whether the comparison changes the library's code: by a class of its own, or by another `step`"
    make,known = side(a, peer)
    made = constructed(make, one_of(a), {k: v for k,v in a.settings(1)[0].items() if k in known})
    return any(cls for _,cls,_ in made) and any(of_tests(type(o)) or 'step' in vars(o) for o,_,_ in made)

def alike(a, b):
    if isinstance(a, (tuple,list)) and isinstance(b, (tuple,list)): return len(a)==len(b) and all(map(alike, a, b))
    if isinstance(a, (int,float)) and isinstance(b, (int,float)): return math.isclose(a, b, rel_tol=1e-12)
    return a is b or type(a) is type(b) is str and a==b

def shown(v):
    if isinstance(v, (tuple,list)): return f"({', '.join(map(shown, v))})"
    if callable(v): return v.__doc__                                        # a function says itself what it is
    return f'{v:g}' if type(v) is float else repr(v)

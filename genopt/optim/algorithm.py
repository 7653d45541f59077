"""`algorithm`: an optimizer class of a function that returns callbacks."""

import dis
import inspect
import warnings
from .hypers import engine_flags,reserved
from .optimizer import Optimizer,policies
from .recipe import Recipe

__all__ = ['algorithm']


def names_used(f):
    "Names that the code of `f` uses"
    names = [i.argval for i in dis.get_instructions(f) if i.opname.startswith('LOAD')]
    return {n for o in names for n in (o if isinstance(o, tuple) else (o,))}

def reads(opt, k):
    "Whether a callback of some group asks for hyper-parameter `k` of the algorithm"
    groups = [(opt._recipe(g), g) for g in opt.param_groups if 'cbs' not in g]
    return not groups or any(n in r.chain(g).asks for r,g in groups for n in (k, *r.view(g).aliases.get(k, ())))

def algorithm(f):
    """The `Optimizer` class of the algorithm `f`. Its arguments, with defaults, are the algorithm's hyper-parameters, as in
    torch.optim; its result the callbacks for such values; its name and docstring those of the class.

        @algorithm
        def Lion(lr=1e-4, betas=(0.9,0.99), weight_decay=0.):
            "Symbolic Discovery of Optimization Algorithms, https://arxiv.org/abs/2302.06675"
            return [weight_decay and transforms.weight_decay, lion_step]"""
    ps,loaded = inspect.signature(f).parameters,names_used(f)
    if bad := [n for n,p in ps.items() if p.default is p.empty]: raise TypeError(f"{f.__name__}: {bad[0]!r} needs a default, as in torch.optim")
    if 'lr' not in ps: raise TypeError(f"{f.__name__} needs an argument lr with a default")
    if bad := ps.keys()&reserved: raise TypeError(f"{f.__name__}: every algorithm has {min(bad)!r}; leave it out")
    positional = [n for n,p in ps.items() if p.kind==p.POSITIONAL_OR_KEYWORD]

    def __init__(self, params, *args, nonfinite='propagate', **hypers):
        if len(args)>len(positional):
            raise TypeError(f"{self.name} takes at most {len(positional)+1} positional arguments, got {len(args)+1}")
        for k,v in zip(positional, args):
            if k in hypers: raise TypeError(f"{self.name} got multiple values for argument {k!r}")
            hypers[k] = v
        recipe = Recipe(self.name, type(self), hypers)
        self._start(params, {None: recipe}, recipe.defaults, nonfinite)
        if idle := [k for k in hypers if k in ps and k not in loaded and hypers[k]!=ps[k].default and not reads(self, k)]:
            warnings.warn(f"{self.name}: nothing reads {idle[0]!r} with these settings, so {idle[0]}={hypers[idle[0]]!r} has no effect", stacklevel=2)

    P = inspect.Parameter
    first = [P(n, P.POSITIONAL_OR_KEYWORD) for n in ('self', 'params')]
    flags = [P(k, P.KEYWORD_ONLY, default=v) for k,v in (engine_flags | dict(nonfinite=policies[0])).items()]
    __init__.__signature__ = inspect.Signature([*first, *ps.values(), *flags])
    __init__.__qualname__ = f'{f.__name__}.__init__'
    return type(f.__name__, (Optimizer,), dict(__init__=__init__, build=staticmethod(f), arguments={n: p.default for n,p in ps.items()},
                                               __doc__=f.__doc__, __module__=f.__module__, __qualname__=f.__qualname__))

"""`algorithm` makes an optimizer class from a function that returns callbacks."""

import inspect
import warnings
from ..contract.chain import chain_of
from .hypers import engine_flags,reserved
from .nonfinite import policies
from .optimizer import Optimizer
from .recipe import Recipe,entered

__all__ = ['algorithm']

missing = object()                                                          # the parameters of an optimizer that was called without them


def algorithm(f):
    """Return an `Optimizer` class for the algorithm `f`. The arguments of `f` are the algorithm's hyper-parameters, with their defaults, as in
    torch.optim. `f` returns the callbacks for the values that it is called with. The class has the name and the docstring of `f`.

        @algorithm
        def Lion(lr=1e-4, betas=(0.9,0.99), weight_decay=0.):
            "Symbolic Discovery of Optimization Algorithms, https://arxiv.org/abs/2302.06675"
            return [weight_decay and transforms.weight_decay, lion_step]

    Raises `TypeError` if an argument has no default, if every optimizer already has an argument of that name, or if there is no argument `lr`."""
    arguments = inspect.signature(f).parameters
    check_arguments(f, arguments)
    positional = [n for n,a in arguments.items() if a.kind==a.POSITIONAL_OR_KEYWORD]

    def __init__(self, params=missing, *args, nonfinite='propagate', **hypers):
        if params is missing: raise TypeError(without_params(f.__name__, hypers))
        if len(args)>len(positional):
            raise TypeError(f"{self.name} takes at most {len(positional)+1} positional arguments, got {len(args)+1}")
        for k,v in zip(positional, args):
            if k in hypers: raise TypeError(f"{self.name} got multiple values for argument {k!r}")
            hypers[k] = v
        hypers = {k: entered(k, v) for k,v in hypers.items()}
        recipe = Recipe(self.name, type(self), hypers)
        self._start(params, {None: recipe}, recipe.defaults, nonfinite, hypers.keys()&{'lr'})
        if unread := next((k for k in hypers if k in arguments and has_no_effect(self, k, hypers)), None):
            warnings.warn(f"{self.name}: nothing reads {unread!r} with these settings, so {unread}={hypers[unread]!r} has no effect", stacklevel=2)

    __init__.__signature__ = signature_of_class(arguments)
    __init__.__qualname__  = f'{f.__name__}.__init__'
    return type(f.__name__, (Optimizer,), dict(
        __init__=__init__, build=staticmethod(f), arguments={n: a.default for n,a in arguments.items()},
        __doc__=f.__doc__, __module__=f.__module__, __qualname__=f.__qualname__))

def check_arguments(f, arguments):
    "Raise if `arguments`, the signature of `f`, cannot be the hyper-parameters of an algorithm."
    bare = [n for n,a in arguments.items() if a.default is a.empty]
    if bare: raise TypeError(f"{f.__name__}: {bare[0]!r} needs a default, as in torch.optim")
    if 'lr' not in arguments: raise TypeError(f"{f.__name__} needs an argument lr with a default")
    if bad := arguments.keys()&reserved:
        raise TypeError(f"{f.__name__}: every algorithm has the argument {min(bad)!r} already; leave it out of the signature")

def without_params(name, hypers):
    "The message for a call such as `SGD(lr=0.1)`, which users of optax and of fastai's `opt_func` write"
    given = ', '.join(f'{k}={v!r}' for k,v in hypers.items())
    return (f"{name}: params is missing; an optimizer takes the parameters first, {name}(model.parameters(){given and ', '+given}). Where a list "
            f"of callbacks or opt_func takes an algorithm, give {f'partial({name}, {given})' if given else f'{name} itself'}")

def signature_of_class(arguments):
    "Return the signature of `__init__`: `self`, `params`, the algorithm's arguments, and the flags that every optimizer has."
    P = inspect.Parameter
    first = [P(n, P.POSITIONAL_OR_KEYWORD) for n in ('self', 'params')]
    flags = [P(k, P.KEYWORD_ONLY, default=v) for k,v in (engine_flags | dict(nonfinite=policies[0])).items()]
    return inspect.Signature([*first, *arguments.values(), *flags])

def has_no_effect(opt, k, hypers):
    """Whether neither a callback nor the algorithm reads hyper-parameter `k` in any group. Something that is off, such as a weight decay of 0, may
    hide that `k` is read. So this asks again with everything turned on."""
    groups = [(opt._recipe(g), g) for g in opt.param_groups if 'cbs' not in g]
    if not groups or hypers[k]==opt.arguments[k]: return False
    return not any(has_effect(recipe, g, k) for recipe,group in groups for g in (group, turned_on(recipe, group, k)))

def has_effect(recipe, group, k):
    "Whether a callback of `group` reads `k`, or the algorithm returns other callbacks if `k` has its default"
    names = k,*recipe.view(group).aliases.get(k, ())
    try:
        built = recipe.build(group)
        asks  = chain_of(built.cbs).asks
        return any(n in asks for n in names) or built.key!=recipe.build(group | {k: recipe.arguments[k]}).key
    except (TypeError, ValueError): return True                             # the algorithm raises for these values, so it reads them

def turned_on(recipe, group, k):
    "Return `group` with False replaced by True and 0 replaced by 0.5, in all arguments of the algorithm but `k`."
    off = [n for n in recipe.arguments if n!=k and isinstance(v := group.get(n), (int,float)) and v==0]
    return group | {n: True if isinstance(group[n], bool) else .5 for n in off}

"""One callback, read from its signature.

    def average_grad(grad, mom:fraction=0.9, grad_avg=zeros)

reads `grad`, declares the hyper-parameter `mom` with its range, and the state `grad_avg`. What it returns is learned by running it; see
`genopt.optim.rehearsal`."""

from inspect import isfunction
from torch import Tensor
from .names import inside,name_of,same,signature
from .ranges import range_of
from .state import Init

__all__ = ['Block', 'given', 'of_model', 'plurals']

plurals  = dict(params='p', grads='grad', updates='update', new_ps='new_p')      # what a global callback reads and returns: lists over all parameters
of_model = {'loss', 'evaluate', 'hvp'}                                             # what a callback may ask of the model
of_one    = {'p', 'grad', 'rows', 'update', 'new_p'}                                # names of one parameter that the optimizer provides
given    = {*of_one, *plurals, *of_model}                                           # all names that it provides


class Block:
    """What a callback `reads`, the `state` and `hypers` it declares, the `ranges` of those. A global callback reads `lists` over all parameters,
    name of the list -> name of its members: `grads`, and the plural of any name in `known`, which callbacks before it return or declare"""
    def __init__(self, cb, known=()):
        self.cb = cb
        self.name = name_of(cb)
        arguments = self._arguments()
        self.reads = [a.name for a in arguments]
        self.lists = {n: plurals.get(n, n[:-1]) for n in lists_in(arguments, known)}
        self.is_global = bool(self.lists)
        self.state,self.hypers,self.ranges = {},{},{}
        for a in arguments: self._declare(a)
        self._check_reads()

    def _arguments(self):
        cb = inside(self.cb)
        if not callable(cb) or isinstance(cb, (type,Init)):
            raise TypeError(f"a callback is a function of names like p, grad, update; {no_callback(cb)}")
        try: arguments = [*signature(self.cb).parameters.values()]
        except ValueError as e: raise TypeError(f"{self.name}: {e}; wrap it in a function whose arguments say what it reads") from None
        if isfunction(cb) and arguments and arguments[0].name=='self':
            cls = cb.__qualname__.split('.')[-2:-1] or ['its_class']
            raise TypeError(f"{self.name} is a method without its object; give that of an object: {cls[0]}(...).{self.name}")
        return arguments

    def _declare(self, a):
        "Read one argument of the signature"
        if a.kind in (a.VAR_KEYWORD, a.VAR_POSITIONAL):
            raise TypeError(f"{self.name} takes {'*' if a.kind==a.VAR_POSITIONAL else '**'}{a.name}; name each value it reads instead. "
                            "A fastai callback is rewritten by naming its arguments and returning what it changes")
        if a.kind==a.POSITIONAL_ONLY: raise TypeError(f"{self.name}: {a.name!r} is positional-only; callbacks are called by name")
        if range_ := range_of(a.annotation): self.ranges[a.name] = range_
        if a.default is a.empty: return
        if a.name in given: raise TypeError(f"{self.name}: {a.name!r} is given by the optimizer and takes no default; got {a.name}={a.default!r}")
        if isinstance(a.default, Init): self._declare_state(a.name, a.default)
        elif isinstance(a.default, (bool, int, float, str)): self.hypers[a.name] = a.default
        else: raise TypeError(self._odd_default(a.name, a.default))

    def _declare_state(self, name, init):
        if name=='lr': raise TypeError(f"{self.name}: 'lr' is a hyper-parameter, it cannot be a state")
        if self.is_global:
            if len(name)<2 or name[-1]!='s':
                raise TypeError(f"{self.name}: the state {name!r} is declared over all parameters, and comes as a list: call it '{name}s'")
            self.lists[name] = name[:-1]
        self.state[self.lists.get(name, name)] = init

    def _odd_default(self, name, default):
        hint = "; Init(f) makes an initializer of a function, full and scalar are given their value" if callable(default) else ''
        return (f"{self.name}: the default of {name!r} is {default!r}; a state has an initializer (zeros, ones, full(v), count, copy_of_p ...), "
                f"a hyper-parameter a number, bool or string{hint}")

    def _check_reads(self):
        if self.is_global and (bad := [n for n in self.reads if n in given-of_model and n not in plurals]):
            raise TypeError(f"{self.name} reads {bad[0]!r} beside lists over all parameters; such a callback reads "
                            f"{', '.join(plurals)}, lists of other names, and hyper-parameters")
        if not self.is_global and (bad := [n for n in self.reads if n in ('evaluate','hvp')]):
            raise TypeError(f"{self.name} reads {bad[0]!r}, which takes all parameters; ask for the lists params, grads")

    @property
    def names(self):
        "What it reads of each parameter: of a list the name of its members"
        return [self.lists.get(n, n) for n in self.reads]

    # -- calling --

    def __call__(self, ns):
        "What this callback changes, as a `dict`, when it reads from `ns`"
        return self._changes(self.cb(**{n: ns[n] for n in self.reads}), Tensor, 'update')

    def call_all(self, spaces, model=None, items=()):
        "The same for a global callback: one call over all `spaces`, one `dict` for each. `model` is asked for what is of the model, at `items`"
        out = self._changes(self.cb(**{n: self._argument(n, spaces, model, items) for n in self.reads}), list, 'updates')
        lists = {n: plurals.get(n, n[:-1]) for n,v in out.items() if n in plurals or n in self.lists or n[-1]=='s' and isinstance(v, (list,tuple))}
        for n in lists:
            if not isinstance(out[n], (list,tuple)): raise TypeError(f"{self.name} returned a {type(out[n]).__name__} for {n}; it must be a list")
            if len(out[n])!=len(spaces): raise ValueError(f"{self.name} returned {len(out[n])} {n} for {len(spaces)} parameters")
        return [{lists.get(n, n): v[i] if n in lists else v for n,v in out.items()} for i in range(len(spaces))]

    def _argument(self, name, spaces, model, items):
        "What a global callback is given for `name`: a list, or a value that all parameters have in common"
        if name in of_model: return getattr(model, name)(items, self)
        values = [space[self.lists.get(name, name)] for space in spaces]
        if name in self.lists: return values
        for v in values:
            if v is values[0]: continue
            if isinstance(v, Tensor) or isinstance(values[0], Tensor):
                raise TypeError(f"{self.name} reads {name!r}, of which each parameter has its own; ask for {name}s")
            if v!=values[0]: raise ValueError(self.one_value(name, values[0], v))
        return values[0]

    def one_value(self, name, a, b):
        return f"{self.name} runs once over all parameters, so {name!r} must be the same for every parameter; got {a} and {b}"

    def _changes(self, out, bare, name):
        if isinstance(out, dict): return out
        if isinstance(out, bare): return {name: out}
        raise TypeError(f"{self.name} returned {type(out).__name__}; return the new {name} ({bare.__name__}) or a dict of what it "
                        "changes, {} for a callback that only looks")

    def __eq__(self, o): return isinstance(o, Block) and same(self.cb)==same(o.cb)
    def __hash__(self): return hash(self.name)
    def __repr__(self): return self.name


def lists_in(arguments, known):
    """Names of the arguments that are lists over all parameters: `grads`, and `norms` where `norm` is in `known`. A hyper-parameter is none, whatever
    its name, and beside `p` or `grad`, which are of one parameter, there is none"""
    names = [a.name for a in arguments]
    lists = [n for n in names if n in plurals]
    if any(n in of_one for n in names): return lists
    return lists + [a.name for a in arguments if (a.default is a.empty or isinstance(a.default, Init)) and is_plural(a.name, known)]

def is_plural(name, known):
    "Whether `name` is the list of a known name: `norms` of `norm`"
    return name[-1]=='s' and name[:-1] in known and name not in known

def no_callback(cb):
    "What `cb` is instead of a callback"
    if isinstance(cb, Init): return f"{cb} is an initializer, the default of a state: def f(grad, s={cb})"
    if isinstance(cb, type): return f"{cb.__name__} is a class, and no algorithm of genopt"
    if isinstance(cb, (int,float)): return f"got {cb!r}, a number; does an argument hide the callback of its name? say transforms.weight_decay"
    return f"got {cb!r}"

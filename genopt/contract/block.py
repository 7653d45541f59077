"""One callback, as its signature describes it.

    def average_grad(grad, mom:fraction=0.9, grad_avg=zeros)

This callback reads `grad`. It declares the hyper-parameter `mom` with its range, and the state `grad_avg`. The signature does not say what a
callback returns; `genopt.optim.rehearsal` runs the callback to find out."""

from inspect import isfunction
from torch import Tensor
from .names import inside,name_of,same,signature
from .ranges import range_of
from .state import Init

__all__ = ['Block', 'given', 'of_model', 'plurals']

plurals  = dict(params='p', grads='grad', updates='update', new_ps='new_p')         # list over all parameters -> name of one member
of_model = {'loss', 'evaluate', 'hvp'}                                              # what a callback may ask of the model
of_one   = {'p', 'grad', 'rows', 'update', 'new_p'}                                 # what the optimizer provides for one parameter
given    = {*of_one, *plurals, *of_model}                                           # all names that the optimizer provides


class Block:
    """A callback and what its signature says: the names it `reads`, and the `state`, `hypers` and `ranges` it declares.

    A global callback is called once for all parameters. Its `lists` map the name of each list it reads to the name of a member, such as `grads`
    to `grad`. Beside the lists of `plurals` it may read the plural of a name in `known`; callbacks before it return or declare those."""
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
        "Return the parameters of the callback's signature, and refuse what is no callback"
        cb = inside(self.cb)
        if not callable(cb) or isinstance(cb, (type,Init)):
            raise TypeError(f"a callback is a function of names like p, grad, update; {no_callback(cb)}")
        try: arguments = [*signature(self.cb).parameters.values()]
        except ValueError as e: raise TypeError(f"{self.name}: {e}; wrap it in a function whose arguments say what it reads") from None
        if isfunction(cb) and arguments and arguments[0].name=='self':
            cls = cb.__qualname__.split('.')[-2:-1] or ['its_class']
            raise TypeError(f"{self.name} is a method without an object; give the method of an object: {cls[0]}(...).{self.name}")
        return arguments

    def _declare(self, a):
        "Record what one argument of the signature declares, or refuse it"
        if a.kind in (a.VAR_KEYWORD, a.VAR_POSITIONAL):
            raise TypeError(f"{self.name} takes {'*' if a.kind==a.VAR_POSITIONAL else '**'}{a.name}; name each value that it reads instead. "
                            "To rewrite a fastai callback, name its arguments and return what it changes")
        if a.kind==a.POSITIONAL_ONLY:
            raise TypeError(f"{self.name}: {a.name!r} is positional-only, but genopt passes arguments by name; remove the / from the signature")
        if range_ := range_of(a.annotation): self.ranges[a.name] = range_
        if a.default is a.empty: return
        if a.name in given:
            raise TypeError(f"{self.name}: the optimizer gives {a.name!r}, so it takes no default; got {a.name}={a.default!r}, leave it out")
        if isinstance(a.default, Init): self._declare_state(a.name, a.default)
        elif isinstance(a.default, (bool, int, float, str)): self.hypers[a.name] = a.default
        else: raise TypeError(self._odd_default(a.name, a.default))

    def _declare_state(self, name, init):
        if name=='lr': raise TypeError(f"{self.name}: 'lr' is a hyper-parameter, so no state can have this name; rename the state")
        if self.is_global:
            if len(name)<2 or name[-1]!='s':
                raise TypeError(f"{self.name}: it runs once for all parameters, so the state {name!r} comes as a list; call it '{name}s'")
            self.lists[name] = name[:-1]
        self.state[self.lists.get(name, name)] = init

    def _odd_default(self, name, default):
        hint = "; Init(f) makes an initializer of a function f, full(v) and scalar(v) of a value" if callable(default) else ''
        return (f"{self.name}: the default of {name!r} is {default!r}; a state has an initializer (zeros, ones, full(v), count, copy_of_p ...), "
                f"a hyper-parameter a number, bool or string{hint}")

    def _check_reads(self):
        "Refuse a global callback that reads what belongs to one parameter, and a callback of one parameter that asks for what takes all"
        if self.is_global and (bad := [n for n in self.reads if n in given-of_model and n not in plurals]):
            raise TypeError(f"{self.name} reads {bad[0]!r} of one parameter, and lists of all parameters; beside lists it can read "
                            f"{', '.join(plurals)}, other lists, and hyper-parameters")
        if not self.is_global and (bad := [n for n in self.reads if n in ('evaluate','hvp')]):
            raise TypeError(f"{self.name} reads {bad[0]!r}, which works on all parameters; read the lists params and grads, not p and grad")

    @property
    def names(self):
        "The names it reads of each parameter; for a list, the name of a member"
        return [self.lists.get(n, n) for n in self.reads]

    # -- calling --

    def __call__(self, ns):
        "Call it with its arguments from the namespace `ns`, and return what it changes as a `dict`"
        return self._changes(self.cb(**{n: ns[n] for n in self.reads}), Tensor, 'update')

    def call_all(self, spaces, model=None, items=()):
        """Call a global callback once for all namespaces `spaces`, and return for each what the callback changes, as a `dict`.

        `model` answers what the callback asks of the model, at the parameters `items`."""
        arguments = {n: self._argument(n, spaces, model, items) for n in self.reads}
        out = self._changes(self.cb(**arguments), list, 'updates')
        members = {n: plurals.get(n, n[:-1]) for n,v in out.items() if self._is_list(n, v)}
        for n in members: self._check_list(n, out[n], len(spaces))
        return [{members.get(n, n): v[i] if n in members else v for n,v in out.items()} for i in range(len(spaces))]

    def _is_list(self, name, value):
        "Tell whether the returned `value` has one member for each parameter: a known list, or a list whose name ends in `s`"
        return name in plurals or name in self.lists or name[-1]=='s' and isinstance(value, (list,tuple))

    def _check_list(self, name, value, n_params):
        "Refuse a returned `value` that is no list of `n_params` members"
        if not isinstance(value, (list,tuple)):
            raise TypeError(f"{self.name} returned a {type(value).__name__} for {name}; return a list with one value for each parameter")
        if len(value)!=n_params: raise ValueError(f"{self.name} returned {len(value)} {name} for {n_params} parameters; return one for each")

    def _argument(self, name, spaces, model, items):
        "Return the value of the argument `name` of a global callback: a list, or a value that all parameters share"
        if name in of_model: return getattr(model, name)(items, self)
        values = [space[self.lists.get(name, name)] for space in spaces]
        if name in self.lists: return values
        for v in values:
            if v is values[0]: continue
            if isinstance(v, Tensor) or isinstance(values[0], Tensor):
                raise TypeError(f"{self.name} reads {name!r}, which each parameter has for itself; read the list {name}s")
            if v!=values[0]: raise ValueError(self.one_value(name, values[0], v))
        return values[0]

    def one_value(self, name, a, b):
        "The message that the parameters have two values, `a` and `b`, where a global callback can read only one"
        return f"{self.name} runs once over all parameters, so {name!r} must be the same for every parameter; got {a} and {b}"

    def _changes(self, out, bare, name):
        "Return what a callback has returned as a `dict`. A bare value of the type `bare` is the new `name`"
        if isinstance(out, dict): return out
        if isinstance(out, bare): return {name: out}
        raise TypeError(f"{self.name} returned {type(out).__name__}; return the new {name} (a {bare.__name__}), or a dict of what it "
                        "changes; if it changes nothing, return {}")

    def __eq__(self, o): return isinstance(o, Block) and same(self.cb)==same(o.cb)
    def __hash__(self): return hash(self.name)
    def __repr__(self): return self.name


def lists_in(arguments, known):
    """Return the names of the arguments that are lists over all parameters: `grads`, and `norms` if `norm` is in `known`.

    An argument that declares a hyper-parameter is no list, whatever its name. A callback that reads a name of one parameter, such as `p`, has no
    list but those of `plurals`."""
    names = [a.name for a in arguments]
    lists = [n for n in names if n in plurals]
    if any(n in of_one for n in names): return lists
    return lists + [a.name for a in arguments if (a.default is a.empty or isinstance(a.default, Init)) and is_plural(a.name, known)]

def is_plural(name, known):
    "Tell whether `name` is the list of a known name, as `norms` is of `norm`"
    return name[-1]=='s' and name[:-1] in known and name not in known

def no_callback(cb):
    "Say what `cb` is instead of a callback"
    if isinstance(cb, Init): return f"{cb} is an initializer, the default of a state: def f(grad, s={cb})"
    if isinstance(cb, type): return f"{cb.__name__} is a class; give a function, or an algorithm of genopt"
    if isinstance(cb, (int,float)): return f"got {cb!r}, a number; if a variable hides the callback of that name, write genopt.blocks.weight_decay"
    return f"got {cb!r}"

"""One callback, read from its signature."""

from torch import Tensor
from .names import name_of,returned_names,same,signature
from .ranges import range_of
from .state import Init

__all__ = ['Block', 'given', 'of_model', 'plurals']


plurals  = dict(params='p', grads='grad', updates='update', new_ps='new_p')      # what a global callback reads and returns: lists over all parameters
of_model = {'loss', 'evaluate', 'hvp'}                            # what a callback may ask of the model
given    = {'p', 'grad', 'rows', 'update', 'new_p', *plurals, *of_model}          # names that the engine provides

class Block:
    """One callback, read from its signature: what it `reads`, the `state` and `hypers` it declares, the `ranges` of those. A global one reads `lists`
    over all parameters: `grads`, and of any name that is `known` before it in the chain its plural"""
    def __init__(self, cb, known=()):
        self.cb,self.name = cb,name_of(cb)
        self.state,self.hypers,self.ranges = {},{},{}
        if not callable(cb) or isinstance(cb, (type,Init)):
            raise TypeError(f"a callback is a function of names like p, grad, update; {no_callback(cb)}")
        try: ps = signature(cb).parameters.values()
        except ValueError as e: raise TypeError(f"{self.name}: {e}; wrap it in a function whose arguments say what it reads") from None
        self.reads = [p.name for p in ps]
        self.lists = {n: plurals.get(n, n[:-1]) for n in self.reads if n in plurals or n[-1]=='s' and n[:-1] in known and n not in known}
        self.is_global = bool(self.lists)
        for p in ps: self._declare(p)
        if self.is_global and (bad := [n for n in self.reads if n in given-of_model and n not in plurals]):
            raise TypeError(f"{self.name} reads {bad[0]!r} beside lists over all parameters; such a callback reads "
                            f"{', '.join(plurals)}, lists of other names, and hyper-parameters")
        if not self.is_global and (bad := [n for n in self.reads if n in ('evaluate','hvp')]):
            raise TypeError(f"{self.name} reads {bad[0]!r}, which takes all parameters; ask for the lists params, grads")

    def _declare(self, p):
        n,d = p.name,p.default
        if p.kind in (p.VAR_KEYWORD, p.VAR_POSITIONAL):
            raise TypeError(f"{self.name} takes {'*' if p.kind==p.VAR_POSITIONAL else '**'}{n}; name each value it reads instead. "
                            "A fastai callback is rewritten by naming its arguments and returning what it changes")
        if p.kind==p.POSITIONAL_ONLY: raise TypeError(f"{self.name}: {n!r} is positional-only; callbacks are called by name")
        if r := range_of(p.annotation): self.ranges[n] = r
        if d is p.empty: return
        if n in given: raise TypeError(f"{self.name}: {n!r} is given by the optimizer and takes no default; got {n}={d!r}")
        if isinstance(d, Init):
            if n=='lr': raise TypeError(f"{self.name}: 'lr' is a hyper-parameter, it cannot be a state")
            if self.is_global:
                if len(n)<2 or n[-1]!='s':
                    raise TypeError(f"{self.name}: the state {n!r} is declared over all parameters, and comes as a list: call it '{n}s'")
                self.lists[n] = n[:-1]
            self.state[self.lists.get(n,n)] = d
        elif isinstance(d, (bool, int, float, str)): self.hypers[n] = d
        else:
            hint = "; Init(f) makes an initializer of a function, full and scalar are given their value" if callable(d) else ''
            raise TypeError(f"{self.name}: the default of {n!r} is {d!r}; a state has an initializer (zeros, ones, full(v), count, "
                            f"copy_of_p ...), a hyper-parameter a number, bool or string{hint}")

    def __call__(self, ns):
        "What this callback changes, as a `dict`, when it reads from `ns`"
        return self._changes(self.cb(**{n: ns[n] for n in self.reads}), Tensor, 'update')

    def call_all(self, spaces, model=None, items=()):
        "The same for a global callback: one call over all `spaces`, one `dict` for each. `model` is asked for what is of the model, at `items`"
        args = {}
        for n in self.reads:
            if n in of_model:
                args[n] = getattr(model, n)(items, self)
                continue
            vs = [s[self.lists.get(n,n)] for s in spaces]
            if n not in self.lists and any(v is not vs[0] for v in vs):
                if any(isinstance(v, Tensor) for v in vs):
                    raise TypeError(f"{self.name} reads {n!r}, of which each parameter has its own; ask for {n}s")
                if any(v!=vs[0] for v in vs): raise ValueError(self.one_value(n, vs[0], next(v for v in vs if v!=vs[0])))
            args[n] = vs if n in self.lists else vs[0]
        out   = self._changes(self.cb(**args), list, 'updates')
        lists = {n: plurals.get(n, n[:-1]) for n,v in out.items() if n in plurals or n in self.lists or n[-1]=='s' and isinstance(v, (list,tuple))}
        for n in lists:
            if not isinstance(out[n], (list,tuple)): raise TypeError(f"{self.name} returned a {type(out[n]).__name__} for {n}; it must be a list")
            if len(out[n])!=len(spaces): raise ValueError(f"{self.name} returned {len(out[n])} {n} for {len(spaces)} parameters")
        return [{lists.get(n,n): v[i] if n in lists else v for n,v in out.items()} for i in range(len(spaces))]

    def one_value(self, n, a, b): return f"{self.name} runs once over all parameters, so {n!r} must be the same for every parameter; got {a} and {b}"

    def _changes(self, out, bare, name):
        if isinstance(out, dict): return out
        if isinstance(out, bare): return {name: out}
        raise TypeError(f"{self.name} returned {type(out).__name__}; return the new {name} ({bare.__name__}) or a dict of what it "
                        "changes, {} for a callback that only looks")

    def provides(self):
        "A guess at the names that it returns"
        names = returned_names(self.cb)
        return names|{n[:-1] for n in names if n[-1:]=='s'} if self.is_global else names

    def __eq__(self, o): return isinstance(o, Block) and same(self.cb)==same(o.cb)
    def __hash__(self): return hash(self.name)
    def __repr__(self): return self.name


def no_callback(cb):
    "What `cb` is instead of a callback"
    if isinstance(cb, Init): return f"{cb} is an initializer, the default of a state: def f(grad, s={cb})"
    if isinstance(cb, type): return f"{cb.__name__} is a class, and no algorithm of genopt"
    if isinstance(cb, (int,float)): return f"got {cb!r}, a number; does an argument hide the callback of its name? say transforms.weight_decay"
    return f"got {cb!r}"

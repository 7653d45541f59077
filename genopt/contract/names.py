"""What a callback is called, and what it calls things: its signature, and `rename`, which gives it other names."""

import dis,inspect
from functools import lru_cache,partial
from types import ModuleType
from types import FunctionType
from torch import Tensor

__all__ = ['rename']


def inside(cb):
    "What stands inside of all `partial`s and `rename`s"
    while isinstance(cb, (partial, rename)): cb = cb.func
    return cb

def name_of(cb):
    "A name to show for a callback: a `partial` and a `rename` go by the function inside"
    cb = inside(cb)
    return getattr(cb, '__name__', type(cb).__name__)

def shown(cb):
    "How a callback is written"
    if isinstance(cb, partial): return f"partial({shown(cb.func)}, {', '.join(f'{k}={v!r}' for k,v in cb.keywords.items())})"
    return repr(cb) if isinstance(cb, rename) else name_of(cb)

def signature(cb):
    "What `cb` declares; annotations that are strings (`from __future__ import annotations`) are looked up"
    if isinstance(cb, partial):
        if cb.args: raise TypeError(f"{name_of(cb)}: partial gives {cb.args[0]!r} by position; name the argument")
        ps = signature(cb.func).parameters
        if bad := cb.keywords.keys()-ps.keys():
            raise TypeError(f"{name_of(cb)}: partial gives {min(bad)!r}, which is not among its arguments: {', '.join(ps)}")
    return signature_of(cb) if inspect.isfunction(cb) else looked_up(cb)

def looked_up(cb):
    follow = passes_on(cb)
    try: return inspect.signature(cb, eval_str=True, follow_wrapped=follow)
    except NameError: return inspect.signature(cb, follow_wrapped=follow)

def passes_on(cb):
    "Whether `cb`, a wrapper made with `functools.wraps`, takes any names, and so has the signature of what it wraps. Another has its own"
    try: own = inspect.signature(cb, follow_wrapped=False).parameters.values()
    except ValueError: return True
    return any(a.kind==a.VAR_KEYWORD for a in own)
signature_of = lru_cache(4096)(looked_up)                                   # of functions, which do not change

def same(cb):
    "What makes two callbacks equal, also a `partial` made anew on every call"
    if type(cb) is FunctionType: return cb                                  # mostly
    if isinstance(cb, partial): return same(cb.func),cb.args,cb.keywords
    if isinstance(cb, rename): return same(cb.func),cb.names
    return cb if isinstance(cb, type) or inspect.isroutine(cb) else Itself(cb)

class Itself:
    "A callable object, which is equal to itself alone: what it says of its equality, another may lose when it changes"
    def __init__(self, o): self.o = o
    def __eq__(self, other): return isinstance(other, Itself) and self.o is other.o
    def __hash__(self): return id(self.o)

def held(cb, seen=()):
    """The name of something that `cb` holds besides its arguments and that may change from call to call: a list, dict or set, an object, or a
    function around one; 'self', if it is itself an object"""
    cb = inside(cb)
    if not inspect.isfunction(cb): return 'self' if not inspect.isbuiltin(cb) else None
    cells = dict(zip(cb.__code__.co_freevars, cb.__closure__ or ()))
    def content(n):
        try: return cells[n].cell_contents if n in cells else cb.__globals__.get(n)
        except ValueError: return None                                      # a cell that is still empty
    def around(f): return f is not cb and f not in seen and held(f, (*seen, cb)) is not None
    def changes(n):
        x = inside(content(n))
        return around(x) if n in cells and inspect.isroutine(x) else may_change(x)
    return next((n for n in (*cells, *global_names(cb.__code__)) if changes(n)), None)

def may_change(x):
    "Whether `x` is a container that can be written, or an object with attributes; not what a program is made of, and no tensor"
    if isinstance(x, (list,dict,set,bytearray)): return True
    fixed = isinstance(x, (type,Tensor,ModuleType)) or inspect.isroutine(inspect.unwrap(x) if callable(x) else x)
    return hasattr(x, '__dict__') and not fixed

def global_names(code):
    "Names that `code`, and functions inside of it, look up outside"
    own = [i.argval for i in dis.get_instructions(code) if i.opname=='LOAD_GLOBAL']
    return own + [n for c in code.co_consts if inspect.iscode(c) for n in global_names(c)]


class rename:
    """`func` under other names: `rename(average_grad, grad_avg='slow_avg')` reads, keeps and returns `slow_avg` instead.
    So one formula can stand twice in a list. The new names have the defaults and ranges of the old ones."""
    def __init__(self, func, **names):
        self.func,self.names = func,names
        if isinstance(inside(func), type):
            raise TypeError(f"rename({name_of(func)}): {name_of(func)} is a class; give rename a callback, which is a function")
        ps = signature(func).parameters
        self.old = {new: old for old,new in names.items() if old in ps}     # of what it reads; a result may take an argument's name
        who = f'rename({name_of(func)})'
        for old,new in names.items():
            if not isinstance(new, str): raise TypeError(f"{who}: the new name of {old!r} must be a string, got {new!r}")
            if new in self.old and new in ps and new not in names:
                raise TypeError(f"{who}: it reads {new!r} already; give {old!r} another name")
        self.__signature__ = inspect.Signature([p.replace(name=names.get(n,n), kind=p.KEYWORD_ONLY) for n,p in ps.items()])
    def __call__(self, **kw):
        out = self.func(**{self.old.get(k,k):v for k,v in kw.items()})
        if isinstance(out, Tensor): out = dict(update=out)
        if isinstance(out, list): out = dict(updates=out)
        return {self.names.get(k,k):v for k,v in out.items()} if isinstance(out, dict) else out
    def __eq__(self, o): return isinstance(o, rename) and same(self)==same(o)
    def __hash__(self): return hash((name_of(self), *self.names.items()))
    def __reduce__(self): return _rename,(self.func, self.names)
    def __repr__(self): return f"rename({shown(self.func)}, {', '.join(f'{k}={v!r}' for k,v in self.names.items())})"

def _rename(func, names): return rename(func, **names)

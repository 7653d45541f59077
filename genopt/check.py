"""What is refused at construction: parameters that cannot be optimized, and chains that cannot work. A chain is rehearsed, run
once on a small stand-in of a parameter, so that its faults are told there, by callback, argument and remedy, not in training."""

from types import ModuleType
from fastcore.basics import is_iter
from torch import Tensor
import torch
from .core import Block,Namespace,given,plurals,returned_names
from .hypers import did_you_mean

__all__ = ['as_groups', 'check_params', 'rehearse']


# -- Parameters --

def as_groups(params):
    "`params` as torch's base class takes them: tensors, named tensors or dicts. A list of lists (fastai's splitter) becomes dicts"
    if isinstance(params, (Tensor,set)): return params                      # torch itself says what is wrong with these
    if isinstance(params, (str,bytes,dict,torch.nn.Module)) or not is_iter(params):
        hint = (': pass model.parameters()' if isinstance(params, torch.nn.Module) else
                ': pass its items(), which keeps the names' if isinstance(params, dict) else '')
        raise TypeError("params argument given to the optimizer should be an iterable of Tensors, (name, Tensor) pairs, dicts or lists, "
                        f"but got {type(params).__name__}{hint}")
    params = list(params)
    if not params: raise ValueError("optimizer got an empty parameter list; was the generator model.parameters() used before?")
    kinds = [kind(o) for o in params]
    if len(set(kinds))>1:
        i = next(i for i,k in enumerate(kinds) if k!=kinds[0])
        raise TypeError(f"params mixes kinds: item 0 is a {kinds[0]}, item {i} is a {kinds[i]} ({type(params[i]).__name__}); give one kind")
    return [dict(params=list(o)) for o in params] if kinds[0]=='list' else params

def kind(o):
    "What an item of `params` is: a group, a list of parameters, or (perhaps) a parameter"
    if isinstance(o, dict): return 'group'
    named = isinstance(o, tuple) and len(o)==2 and isinstance(o[0], str)
    return 'list' if is_iter(o) and not isinstance(o, (Tensor,str)) and not named else 'parameter'

def check_params(params, who):
    for i,p in enumerate(params):
        if not (p.is_floating_point() or p.is_complex()):
            raise ValueError(f"{who}: parameter {i} is {p.dtype}; only floating point and complex tensors can be optimized")


# -- The chain --

def rehearse(chain, p, hypers, who):
    """Run `chain` once on a stand-in with the rank, dtype and device of `p`; learn what each callback changes and where it runs.
    Raises `ValueError` or `TypeError` for a name that nothing provides, a write in place, or a result that does not fit."""
    with torch.random.fork_rng([p.device] if p.is_cuda else []), torch.inference_mode(False), torch.no_grad():
        ns = stand_in(chain, p, hypers)
        known = given|hypers.keys()
        for i,b in enumerate(chain.blocks):
            known |= b.state.keys()
            for n in b.reads:
                if n not in known: raise ValueError(f"{who}: {b} reads {n!r}, which nothing before it provides{advice(chain, i, n, known)}")
            args = {n: ns[plurals.get(n,n)] for n in b.reads}
            tensors = {n: (v,v._version) for n,v in args.items() if isinstance(v, Tensor)}
            moved = 'new_p' in ns
            out = attempt(b, ns, who)
            for n,(v,version) in tensors.items():
                if v._version!=version: raise ValueError(f"{who}: {b} writes {n!r} in place; return the new value instead, dict({n}=...)")
            for n,v in out.items(): check_result(b, n, v, ns, chain, moved, who)
            ns.update(out)
            known |= out.keys()
            chain.writes[b] = list(out)
            chain.where[b]  = 'all parameters' if b.is_global else 'each parameter' if tensors else 'host'
        chain.rehearsed.add((p.ndim, p.dtype))

def stand_in(chain, p, hypers):
    "A namespace like that of `p`, at most 8 long in each dimension, with fixed random values"
    rand = torch.Generator().manual_seed(0)
    shape = [min(d, 8) for d in p.shape] + [2]*p.is_complex()
    dtype = torch.float64 if p.dtype in (torch.float64, torch.complex128) else torch.float32
    q,grad = [torch.rand(shape, generator=rand, dtype=dtype).add_(0.5).to(p.device) for _ in range(2)]
    return Namespace(hypers, p=q, grad=grad, **{n: init(q) for n,init in chain.state.items()})

def attempt(b, ns, who):
    try: return b.call_all([ns])[0] if b.is_global else b(ns)
    except Exception as e:
        own = str(e).startswith(b.name)                                     # a complaint of `Block` itself
        what = str(e) if own else f"{b} fails on a parameter of rank {ns['p'].ndim}, tried on small values: {type(e).__name__}: {e}"
        raise (type(e) if own else ValueError)(f"{who}: {what}") from e

def check_result(b, n, v, ns, chain, moved, who):
    "Refuse a value `v` that callback `b` returned for `n`, if it does not fit what is kept or read there"
    wrong = f"{who}: {b} returned "
    if n in plurals: raise ValueError(f"{wrong}{n!r}, but reads no lists; one that changes all parameters asks for {', '.join(plurals)}")
    if moved and n in ('p', 'update'):
        raise ValueError(f"{wrong}{n!r} after the parameter has moved, where it has no effect; return new_p, or put {b} before the move")
    if n in given and not isinstance(v, Tensor): raise TypeError(f"{wrong}{n}={v!r}; it must be a tensor")
    if n not in chain.state and n not in given: return                      # its own affair
    old = ns['p'] if n in given else ns[n]
    if isinstance(v, Tensor)!=isinstance(old, Tensor): raise TypeError(f"{wrong}a {type(v).__name__} for {n!r}, which is a {type(old).__name__}")
    if isinstance(v, Tensor) and v.shape!=old.shape:
        raise ValueError(f"{wrong}{n!r} of shape {tuple(v.shape)}, where {tuple(old.shape)} is kept, for a parameter of shape {tuple(ns['p'].shape)}")

def advice(chain, i, n, known):
    "What to do about `n`, which the `i`-th callback reads and nothing before it provides"
    for b in chain.blocks[i+1:]:
        if n in b.state or n in returned_names(b.cb):
            return f": {b} comes later, move it before {chain.blocks[i]} (or declare {n}=zeros there, to read the last step's value)"
    blocks = [Block(f) for f in library()]
    for names in (lambda b: b.state, lambda b: returned_names(b.cb), lambda b: b.hypers):
        if found := [b for b in blocks if n in names(b)]: return f": add {found[0]}"
    return did_you_mean(n, known) or f": add a callback that returns it, declare it as a state ({n}=zeros), or give it as a hyper-parameter ({n}=...)"

def library():
    "The callbacks that come with genopt"
    import genopt
    modules = [m for m in vars(genopt).values() if isinstance(m, ModuleType) and m.__name__ in ('genopt.stats', 'genopt.steps', 'genopt.transforms')]
    return [getattr(m, n) for m in modules for n in m.__all__]

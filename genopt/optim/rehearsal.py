"""What is refused at construction: parameters that cannot be optimized, and chains that cannot work. A chain is rehearsed, run for
three steps on a small stand-in of a parameter, so that its faults are told there, by callback, argument and remedy, not in training."""

from functools import partial
from numbers import Real
from torch import Tensor
import torch
from .. import blocks
from ..contract.block import Block,given,of_model,plurals
from ..contract.chain import Namespace
from ..contract.messages import did_you_mean
from ..contract.names import name_of,rename,same
from ..contract.stand_ins import StandIn,small,stand_in

__all__ = ['check_built', 'rehearse', 'unexpected']




# -- The chain --

def rehearse(chain, p, hypers, kind, who):
    """Run `chain` for three steps on a stand-in of `p`, once for each pattern of sizes; learn what each callback changes and
    where it runs. Raises `ValueError` or `TypeError` for a name that nothing provides, a write in place, or a result that does not fit."""
    shape,failed = small(p.shape),False
    key = shape,p.dtype,p.device,kind
    with torch.random.fork_rng([p.device] if p.is_cuda else []), torch.inference_mode(False), torch.no_grad():
        try: key in chain.rehearsed or rehearse_on(shape, chain, p, hypers, who)
        except (TypeError, ValueError):
            if not (failed := shape!=tuple(p.shape)): raise
        if failed: rehearse_on(tuple(p.shape), chain, p, hypers, who)              # perhaps a callback needs the true sizes
    chain.rehearsed |= {key, (p.shape, p.dtype, p.device, kind)}


def rehearse_on(shape, chain, p, hypers, who):
    ns = stand_in(shape, chain, p, hypers, who)
    for _ in range(3):
        watched_step(chain, ns, hypers, who)
        grad = ns['p'].flip(0) if ns['p'].ndim else ns['p']
        ns   = Namespace(hypers, rows=None, loss=ns['loss'], p=ns['new_p'], grad=grad, **{n: ns[n] for n in chain.state})


def watched_step(chain, ns, hypers, who):
    "One step on `ns`, every callback watched"
    known = given|hypers.keys()
    for i,b in enumerate(chain.blocks):
        known |= b.state.keys()
        for n in b.reads:
            if b.lists.get(n,n) not in known:
                raise ValueError(f"{who}: {b} reads {n!r}, which nothing before it provides{advice(chain, i, n, known)}")
        tensors = {n: ns[m] for n in b.reads if n not in of_model and isinstance(ns[m := b.lists.get(n,n)], Tensor)}
        before = {n: (v._version, v.clone()) for n,v in tensors.items()}
        out = attempt(b, ns, who)
        chain.learned[b, ns['p'].shape] = {n: v for n,v in out.items()}
        for n,(version,old) in before.items():
            if tensors[n]._version!=version or differ(tensors[n], old):
                raise ValueError(f"{who}: {b} writes {n!r} in place; return the new value instead, dict({n}=...)")
        for n in out: check_result(chain, i, out, n, ns, who)
        ns.update(out)
        known |= out.keys()
        chain.writes[b] = list(dict.fromkeys([*chain.writes.get(b, []), *out]))
        chain.where[b]  = 'all parameters' if b.is_global else 'each parameter' if tensors else 'host'
    for b in chain.evals:
        if bad := [n for n in b.reads if n not in {'p'}|chain.state.keys()|hypers.keys()]:
            raise ValueError(f"{who}: {b} returns eval_p, so it is run by opt.eval() and not in a step, where there is no {bad[0]!r}; it reads p, "
                             "states and hyper-parameters (or declare eval_p a state: eval_p=copy_of_p)")
        out = attempt(b, Namespace(hypers, p=ns['new_p'], **{n: ns[n] for n in chain.state}), who)
        if out.keys()!={'eval_p'} or not isinstance(out['eval_p'], Tensor) or out['eval_p'].shape!=ns['p'].shape:
            raise ValueError(f"{who}: {b} returned {', '.join(out) or 'nothing'}; opt.eval() takes eval_p alone, a tensor of the parameter's shape")
        chain.writes[b] = [*out]
    if ns['new_p'].shape!=ns['p'].shape:
        raise ValueError(f"{who}: the move made {tuple(ns['new_p'].shape)} of a parameter of shape {tuple(ns['p'].shape)}; is lr a tensor?")

def differ(a, b):
    "Whether two tensors have other values, as far as that can be asked: some kinds, such as fake ones, have none"
    try: return not torch.equal(a.nan_to_num(), b.nan_to_num())
    except (RuntimeError, NotImplementedError): return False

def attempt(b, ns, who):
    try: return b.call_all([ns], StandIn())[0] if b.is_global else b(ns)
    except Exception as e:
        own = str(e).startswith(b.name)                                     # a complaint of `Block` itself
        if b.is_global and not own: return {}                               # it may need more parameters than this one
        what = str(e) if own else f"{b} fails on a parameter of rank {ns['p'].ndim}, tried on small values: {type(e).__name__}: {e}"
        raise (type(e) if own else ValueError)(f"{who}: {what}") from e

def check_result(chain, i, out, n, ns, who):
    "Refuse what the `i`-th callback returned for `n`, if it does not fit what is kept or read there, or can have no effect"
    b,v = chain.blocks[i],out[n]
    moved = any('new_p' in o.reads for o in chain.blocks[:i+1])
    wrong,later = f"{who}: {b} returned ",{o.lists.get(n,n) for o in chain.blocks[i+1:] for n in o.reads}
    if n in plurals: raise ValueError(f"{wrong}{n!r}, but reads no lists; one that changes all parameters asks for {', '.join(plurals)}")
    if moved and n in ('p', 'update', 'lr'):
        raise ValueError(f"{wrong}{n!r} after the parameter has moved, where it has no effect; return new_p, or put {b} before the move")
    if n=='grad' and ('update' in ns or moved) and 'update' not in out and 'grad' not in later:
        raise ValueError(f"{wrong}'grad', which nothing after it reads; put {b} before the callback that makes the update")
    if n=='lr' and not isinstance(v, (Tensor,Real)): raise TypeError(f"{wrong}lr={v!r}; it must be a number or a tensor")
    if n not in chain.state and n not in given:
        if n not in later|chain.asks and (hint := did_you_mean(n, b.state.keys()-out.keys())):
            raise ValueError(f"{wrong}{n!r}, which nothing reads{hint}")
        return                                                              # its own affair
    if n in given and not isinstance(v, Tensor): raise TypeError(f"{wrong}{n}={v!r}; it must be a tensor")
    old = ns['p'] if n in given else ns[n]
    if isinstance(v, Tensor)!=isinstance(old, Tensor) or not isinstance(v, (Tensor,Real)):
        raise TypeError(f"{wrong}a {type(v).__name__} for {n!r}, which is a {type(old).__name__}")
    if isinstance(v, Tensor) and v.shape!=old.shape:
        raise ValueError(f"{wrong}{n!r} of shape {tuple(v.shape)}, where {tuple(old.shape)} is kept, for a parameter of shape {tuple(ns['p'].shape)}")

def check_built(cbs, again, declared, who):
    "Refuse callbacks that an algorithm makes anew whenever it is asked, and `partial`s that give what the algorithm has as an argument"
    for a,b in zip(cbs, again):
        if same(a)!=same(b): raise TypeError(f"{who} makes {name_of(a)} anew at each call; define it outside, so that it is the same for all groups")
    for cb in cbs:
        for k in fixed(cb):
            if k in declared: raise TypeError(f"{who}: partial({name_of(cb)}, {k}=...) gives {k!r}, which {who} has as an argument; leave one out")


def fixed(cb):
    "Names that a `partial` gives a value, under what it is called in the chain"
    if isinstance(cb, rename): return {cb.names.get(n,n) for n in fixed(cb.func)}
    return cb.keywords.keys()|fixed(cb.func) if isinstance(cb, partial) else set()


# -- Advice --

def advice(chain, i, n, known):
    "What to do about `n`, which the `i`-th callback reads and nothing before it provides"
    one = chain.blocks[i].lists.get(n, n)                                    # of each parameter, where `n` is a list over all
    for b in chain.blocks[i+1:]:
        if one in b.state or one in b.provides():
            return f": {b} comes later, move it before {chain.blocks[i]} (or declare {n}=zeros there, to read the last step's value)"
    for names in (lambda b: b.state, lambda b: b.provides(), lambda b: b.hypers):
        if found := [b for b in library() if one in names(b) and b!=chain.blocks[i]]: return f": add {found[0]}"
    return did_you_mean(n, known) or f": add a callback that returns it, declare it as a state ({n}=zeros), or give it as a hyper-parameter ({n}=...)"

def unexpected(n, known, who):
    "That `n` is no hyper-parameter of these callbacks, and whose it is"
    found = [b.name for b in library() if n in b.hypers]
    some  = found[:3] + [f'{len(found)-3} others']*(len(found)>3)
    remedy = did_you_mean(n, known) or (f"; add {' or '.join(some)}, which {'have' if len(some)>1 else 'has'} it" if found else '')
    return f"{who} got an unexpected hyper-parameter {n!r}{remedy}; its callbacks have {', '.join(known) or 'none'}"

def library():
    "The callbacks that come with genopt"
    return [Block(getattr(blocks, n)) for n in blocks.__all__]

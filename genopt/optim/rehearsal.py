"""The rehearsal: at construction a chain is run for three steps on a small stand-in of each kind of parameter. This shows what its callbacks return,
and its faults are reported there, by callback, argument and remedy, and not in training."""

from functools import partial
from numbers import Real
import torch
from torch import Tensor
from ..contract.block import Block,given,of_model,plurals
from ..contract.chain import Namespace,chain_of,learned_of
from ..contract.messages import did_you_mean
from ..contract.names import name_of,rename,same,signature
from ..contract.stand_ins import StandIn,add_states,small,stand_in
from .hypers import aliases
from .. import blocks

__all__ = ['check_built', 'rehearse', 'returned_by', 'unexpected']


def rehearse(chain, p, hypers, kind, who):
    """Run `chain` for three steps on a stand-in of `p`, once for each shape class, and learn what each callback returns and where it runs. `kind`:
    the flags in `hypers`. Raises `ValueError` or `TypeError` for a name that nothing provides, a write in place, or a result that does not fit"""
    shape,known = small(p.shape),learned_of(chain).rehearsed
    key = shape,p.dtype,p.device,kind
    with torch.random.fork_rng([p.device] if p.is_cuda else []), torch.inference_mode(False), torch.no_grad():
        failed = False
        try:
            if key not in known: rehearse_on(shape, chain, p, hypers, who)
        except (TypeError, ValueError):
            failed = shape!=tuple(p.shape)
            if not failed: raise
        if failed: rehearse_on(tuple(p.shape), chain, p, hypers, who)              # perhaps a callback needs the true sizes
    known |= {key, (p.shape, p.dtype, p.device, kind)}

def rehearse_on(shape, chain, p, hypers, who):
    chain = chain_of(chain.cbs)                                            # more may be known of it by now
    ns = stand_in(shape, chain, p, hypers, who)
    for _ in range(3):
        chain = watched_step(chain, ns, hypers, who)
        for b in chain.evals: watched_eval(chain, b, ns, hypers, who)
        if ns['new_p'].shape!=ns['p'].shape:
            raise ValueError(f"{who}: the move made {tuple(ns['new_p'].shape)} of a parameter of shape {tuple(ns['p'].shape)}; is lr a tensor?")
        grad = ns['p'].flip(0) if ns['p'].ndim else ns['p']
        ns   = Namespace(hypers, rows=None, loss=ns['loss'], p=ns['new_p'], grad=grad, **{n: ns[n] for n in chain.state})
    for b in chain.every: check_renamed(b, learned_of(chain).returns.get(b, ()), who)

def watched_step(chain, ns, hypers, who):
    """One step on `ns`, with each callback watched. Returns the chain with what is known now: what a callback returns may make a later one global
    (`norms`, where `norm` was returned), or itself one of those that `opt.eval()` runs (`eval_p`)"""
    known,learned,shape = given|hypers.keys(),learned_of(chain),ns['p'].shape
    for i in range(len(chain.every)):
        b = chain.every[i]
        if b in chain.evals: continue
        known |= b.state.keys()
        check_reads(chain, i, known, who)
        out = watched_call(b, ns, who)
        if learned.saw(b, out):
            chain = chain_of(chain.cbs)
            add_states(ns, chain, len(shape), who)
        if b in chain.evals: continue
        learned.results[b, shape] = dict(out)
        learned.where[b] = runs_on(b, ns)
        for n in out: check_result(chain, i, out, n, ns, who)
        ns.update(out)
        known |= out.keys()
    ns['new_p']                                                             # noqa: B018 -- the move, if no callback has asked for it
    return chain

def runs_on(b, ns):
    if b.is_global: return 'all parameters'
    return 'each parameter' if any(isinstance(ns[n], Tensor) for n in b.names if n not in of_model) else 'host'

def watched_call(b, ns, who):
    "What `b` returns; refuses a write in place"
    tensors = {n: ns[m] for n,m in zip(b.reads, b.names) if n not in of_model and isinstance(ns[m], Tensor)}
    before  = {n: (x._version, x.clone()) for n,x in tensors.items()}
    out = attempt(b, ns, who)
    for n,(version,old) in before.items():
        if tensors[n]._version!=version or differ(tensors[n], old):
            raise ValueError(f"{who}: {b} writes {n!r} in place; return the new value instead, dict({n}=...)")
    return out

def attempt(b, ns, who):
    try: return b.call_all([ns], StandIn())[0] if b.is_global else b(ns)
    except Exception as e:
        own = str(e).startswith(b.name)                                     # a complaint of `Block` itself
        if b.is_global and not own: return {}                               # it may need more parameters than this one
        what = str(e) if own else f"{b} fails on a parameter of rank {ns['p'].ndim}, tried on small values: {type(e).__name__}: {e}"
        raise (type(e) if own else ValueError)(f"{who}: {what}") from e

def differ(a, b):
    "Whether two tensors have other values, as far as that can be asked: some kinds, such as fake ones, have none"
    try: return not torch.equal(a, b) and not torch.equal(a.nan_to_num(), b.nan_to_num())      # NaN differs from itself
    except (RuntimeError, NotImplementedError): return False

def watched_eval(chain, b, ns, hypers, who):
    "Run `b`, which returns the weights to evaluate, as `opt.eval()` does"
    if bad := [n for n in b.reads if n not in {'p'}|chain.state.keys()|hypers.keys()]:
        raise ValueError(f"{who}: {b} returns eval_p, so it is run by opt.eval() and not in a step, where there is no {bad[0]!r}; it reads p, "
                         "states and hyper-parameters (or declare eval_p a state: eval_p=copy_of_p)")
    out = attempt(b, Namespace(hypers, p=ns['new_p'], **{n: ns[n] for n in chain.state}), who)
    if out.keys()!={'eval_p'} or not isinstance(out['eval_p'], Tensor) or out['eval_p'].shape!=ns['p'].shape:
        raise ValueError(f"{who}: {b} returned {', '.join(out) or 'nothing'}; opt.eval() takes eval_p alone, a tensor of the parameter's shape")


# -- What is refused --

def check_reads(chain, i, known, who):
    "Refuse a name that the `i`-th callback reads and nothing before it provides"
    b = chain.every[i]
    for n,m in zip(b.reads, b.names):
        if m not in known: raise ValueError(f"{who}: {b} reads {n!r}, which nothing before it provides{advice(chain, i, n, known)}")

def check_result(chain, i, out, n, ns, who):
    "Refuse what the `i`-th callback returned for `n`, if it does not fit what is kept or read there, or can have no effect"
    b,v   = chain.every[i],out[n]
    wrong = f"{who}: {b} returned "
    later = {m for o in chain.every[i+1:] for r in o.reads for m in (o.lists.get(r, r), r.removesuffix('s'))}
    check_in_time(chain, i, out, n, ns, later, wrong)
    if n not in chain.state and n not in given:
        if n not in later|chain.asks and (hint := did_you_mean(n, b.state.keys()-out.keys())):
            raise ValueError(f"{wrong}{n!r}, which nothing reads{hint}")
        return                                                              # its own affair
    check_value(n, v, ns['p'] if n in given else ns[n], ns['p'].shape, wrong)

def check_in_time(chain, i, out, n, ns, later, wrong):
    "Refuse what comes too late to have an effect"
    b = chain.every[i]
    if n in plurals: raise ValueError(f"{wrong}{n!r}, but reads no lists; one that changes all parameters asks for {', '.join(plurals)}")
    moved = any('new_p' in o.reads for o in chain.every[:i+1])
    if moved and n in ('p', 'update', 'lr'):
        raise ValueError(f"{wrong}{n!r} after the parameter has moved, where it has no effect; return new_p, or put {b} before the move")
    if n=='grad' and ('update' in ns or moved) and 'update' not in out and 'grad' not in later:
        raise ValueError(f"{wrong}'grad', which nothing after it reads; put {b} before the callback that makes the update")

def check_value(n, v, old, shape, wrong):
    "Refuse a value of another kind or shape than `old`; `shape` is the parameter's"
    if n=='lr' and not isinstance(v, (Tensor,Real)): raise TypeError(f"{wrong}lr={v!r}; it must be a number or a tensor")
    if n in given and not isinstance(v, Tensor): raise TypeError(f"{wrong}{n}={v!r}; it must be a tensor")
    if isinstance(v, Tensor)!=isinstance(old, Tensor) or not isinstance(v, (Tensor,Real)):
        raise TypeError(f"{wrong}a {type(v).__name__} for {n!r}, which is a {type(old).__name__}")
    if isinstance(v, Tensor) and v.shape!=old.shape:
        raise ValueError(f"{wrong}{n!r} of shape {tuple(v.shape)}, where {tuple(old.shape)} is kept, for a parameter of shape {tuple(shape)}")

def check_renamed(b, returned, who):
    "Refuse a `rename` of a name that the callback neither reads nor returns, if it looks like a misspelling"
    if not isinstance(b.cb, rename): return
    reads   = signature(b.cb.func).parameters.keys()
    unknown = [old for old,new in b.cb.names.items() if old not in reads and new not in returned]
    for old in unknown:
        if hint := did_you_mean(old, [*reads, *returned]):
            raise TypeError(f"{who}: {b.cb!r} renames {old!r}, which {b} neither reads nor returns{hint}")

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
    b = chain.every[i]
    for o in chain.every[i+1:]:
        if n in o.state or n in returned_by(o):
            return f": {o} comes later, move it before {b} (or declare {n}=zeros there, to read the last step's value)"
    for names in (lambda o: o.state, returned_by, lambda o: o.hypers):
        if found := [o for o in library() if n in names(o) and o!=b]: return f": add {found[0]}"
    return did_you_mean(n, known) or f": add a callback that returns it, declare it as a state ({n}=zeros), or give it as a hyper-parameter ({n}=...)"

def returned_by(b):
    "The names that `b` returns, found by trying it on tensors and on numbers; none where it fails"
    q = torch.rand(4, 3, generator=torch.Generator().manual_seed(0)) + .5
    numbers = {n for short in aliases.values() for n in short}
    for value in (q, .5):
        try:
            state = {n: init(q) for n,init in b.state.items()}
            reads = {n: .5 if n in numbers else value for n in b.names} | b.hypers | state
            ns = Namespace(reads | dict(p=q, grad=q, rows=None, loss=q.sum(), lr=.5))
            return (b.call_all([ns], StandIn())[0] if b.is_global else b(ns)).keys()
        except Exception: continue
    return set()

def unexpected(n, known, who):
    "That `n` is no hyper-parameter of these callbacks, and whose it is"
    found = [b.name for b in library() if n in b.hypers]
    some  = found[:3] + [f'{len(found)-3} others']*(len(found)>3)
    remedy = did_you_mean(n, known) or (f"; add {' or '.join(some)}, which {'have' if len(some)>1 else 'has'} it" if found else '')
    return f"{who} got an unexpected hyper-parameter {n!r}{remedy}; its callbacks have {', '.join(known) or 'none'}"

def library():
    "The callbacks that come with genopt"
    return [Block(getattr(blocks, n)) for n in blocks.__all__]

"""The rehearsal: at construction a chain is run for three steps on a small stand-in of each kind of parameter. This shows what its callbacks return,
and its faults are reported there, by callback, argument and remedy, and not in training."""

from contextlib import contextmanager
from difflib import get_close_matches
from functools import lru_cache,partial
from numbers import Real
import torch
from torch import Tensor
from .._torch import times_written
from ..contract.block import Block,given,of_model,of_one,plurals
from ..contract.chain import Namespace,chain_of,learned_of
from ..contract.messages import did_you_mean
from ..contract.names import rename,shown,signature
from ..contract.stand_ins import StandIn,add_states,shape_class,stand_in
from ..contract.state import zeros
from ..contract.tensors import fit
from .hypers import aliases
from .lists import check_advances,check_apart,check_repeats,once
from .. import blocks

__all__ = ['Unprovided', 'rehearse', 'remedy', 'returned_by', 'unexpected']


def rehearse(chain, p, hypers, kind, who):
    """Run `chain` for three steps on a stand-in of `p`, once for each shape class, and learn what each callback returns and where it runs. `kind`:
    the flags in `hypers`. Raises `Unprovided` for a name that nothing provides, `ValueError` or `TypeError` for a write in place, or a result that
    does not fit"""
    shape,known = shape_class(p.shape),learned_of(chain).rehearsed
    key = shape,p.dtype,p.device,kind
    with quiet(p):
        failed = False
        try:
            if key not in known: rehearse_on(shape, chain, p, hypers, who)
        except Unprovided as e:
            e.p,e.hypers = p,hypers
            raise
        except (TypeError, ValueError):
            failed = shape!=tuple(p.shape)
            if not failed: raise
        if failed: rehearse_on(tuple(p.shape), chain, p, hypers, who)              # perhaps a callback needs the true sizes
    known |= {key, (p.shape, p.dtype, p.device, kind)}

@contextmanager
def quiet(p):
    "Within, random numbers and autograd are as if nothing had been run"
    with torch.random.fork_rng([p.device] if p.is_cuda else []), torch.inference_mode(False), torch.no_grad(): yield

def rehearse_on(shape, chain, p, hypers, who):
    chain = chain_of(chain.cbs)                                            # more may be known of it by now
    ns = stand_in(shape, chain, p, hypers, who)
    for _ in range(3):
        chain = watched_step(chain, ns, hypers, who)
        for b in chain.evals: watched_eval(chain, b, ns, hypers, who)
        if ns['new_p'].shape!=ns['p'].shape:
            raise ValueError(f"{who}: p - lr*update has shape {tuple(ns['new_p'].shape)}, and the parameter {tuple(ns['p'].shape)}; is lr a tensor?")
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
        before = random_state(ns['p'].device)
        out = watched_call(b, ns, who)
        if random_state(ns['p'].device)!=before: learned.draws.add(b)
        if learned.saw(b, out):
            chain = chain_of(chain.cbs)
            add_states(ns, chain, len(shape), who)
        if b in chain.evals: continue
        learned.results[b, shape] = dict(out)
        learned.where[b] = runs_on(b, ns)
        for n in out: check_result(chain, i, out, n, ns, who)
        learned.advances.setdefault(b, set()).update(n for n in out.keys()&ns.keys() if differs(out[n], ns[n]))
        ns.update(out)
        known |= out.keys()
    ns['new_p']                                                             # noqa: B018 -- the move, if no callback has asked for it
    return chain

def random_state(device):
    "The states of the generators from which a callback can draw"
    states = [torch.get_rng_state()] + ([torch.cuda.get_rng_state(device)] if device.type=='cuda' else [])
    return [s.numpy().tobytes() for s in states]

def runs_on(b, ns):
    if b.is_global: return 'all parameters'
    return 'each parameter' if any(isinstance(ns[n], Tensor) for n in b.names if n not in of_model) else 'host'

def watched_call(b, ns, who):
    "What `b` returns; refuses a write in place"
    tensors = {n: ns[m] for n,m in zip(b.reads, b.names) if n not in of_model and isinstance(ns[m], Tensor)}
    before  = {n: (times_written(x), x.clone()) for n,x in tensors.items()}
    out = attempt(b, ns, who)
    for n,(version,old) in before.items():
        if times_written(tensors[n])!=version or differ(tensors[n], old):
            raise ValueError(f"{who}: {b} writes {n!r} in place; return the new value instead, dict({n}=...)")
    return out

def attempt(b, ns, who):
    try: return b.call_all([ns], StandIn())[0] if b.is_global else b(ns)
    except Exception as e:
        own = str(e).startswith(b.name)                                     # a complaint of `Block` itself
        if b.is_global and not own: return {}                               # it may need more parameters than this one
        what = str(e) if own else f"{b} fails in a trial on a small {ns['p'].ndim}-dimensional parameter: {type(e).__name__}: {e}"
        raise (type(e) if own else ValueError)(f"{who}: {what}") from e

def differ(a, b):
    "Whether two tensors have other values, as far as that can be asked: some kinds, such as fake ones, have none"
    try: return not torch.equal(a, b) and not torch.equal(a.nan_to_num(), b.nan_to_num())      # NaN differs from itself
    except (RuntimeError, NotImplementedError): return False

def differs(new, old): return new is not old if isinstance(new, Tensor) or isinstance(old, Tensor) else new!=old

def watched_eval(chain, b, ns, hypers, who):
    "Run `b`, which returns the weights to evaluate, as `opt.eval()` does"
    if bad := [n for n in b.reads if n not in {'p'}|chain.state.keys()|hypers.keys()]:
        raise ValueError(f"{who}: {b} returns eval_p, so opt.eval() runs it, outside of a step, and it cannot read {bad[0]!r}. Read p, states and "
                         "hyper-parameters, or declare eval_p as a state: eval_p=copy_of_p")
    out = attempt(b, Namespace(hypers, p=ns['new_p'], **{n: ns[n] for n in chain.state}), who)
    if out.keys()!={'eval_p'} or not isinstance(out['eval_p'], Tensor) or out['eval_p'].shape!=ns['p'].shape:
        raise ValueError(f"{who}: {b} returned {', '.join(out) or 'nothing'}; opt.eval() needs eval_p alone, a tensor of the parameter's shape")


# -- What is refused --

def check_reads(chain, i, known, who):
    "Refuse a name that the `i`-th callback reads and nothing before it provides"
    b = chain.every[i]
    for n,m in zip(b.reads, b.names):
        if m not in known: raise Unprovided(who, chain, i, n, known)

def check_result(chain, i, out, n, ns, who):
    "Refuse what the `i`-th callback returned for `n`, if it does not fit what is kept or read there, or can have no effect"
    b,v   = chain.every[i],out[n]
    wrong = f"{who}: {b} returned "
    later = {m for o in chain.every[i+1:] for r in o.reads for m in (o.lists.get(r, r), r.removesuffix('s'))}
    check_in_time(chain, i, out, n, ns, later, wrong)
    if n not in chain.state and n not in given:
        if n not in later|chain.asks and (hint := did_you_mean(n, b.state.keys()-out.keys()) or misspelt(n, b, out)):
            raise ValueError(f"{wrong}{n!r}, which nothing reads{hint}")
        return                                                              # its own affair
    check_value(n, v, ns['p'] if n in given else ns[n], ns['p'].shape, wrong, chain.state.get(n))

def misspelt(n, b, out):
    "A hint that `n` is a slip of the pen for a name that needs no reader, such as `update`, if `b` does not return that as well in `out`"
    known = plurals if b.is_global else of_one-{'rows'}
    near  = get_close_matches(n, known, 1, cutoff=.8)
    return f", did you mean {near[0]!r}?" if near and plurals.get(near[0], near[0]) not in out else ''

def check_in_time(chain, i, out, n, ns, later, wrong):
    "Refuse what comes too late to have an effect"
    b = chain.every[i]
    if n in plurals: raise ValueError(f"{wrong}{n!r}, but reads no lists; a callback that changes all parameters reads {', '.join(plurals)}")
    moved = any('new_p' in o.reads for o in chain.every[:i+1])
    if moved and n in ('p', 'update', 'lr'):
        raise ValueError(f"{wrong}{n!r} after the parameter has moved, where it has no effect; return new_p, or put {b} before the move")
    if n=='grad' and ('update' in ns or moved) and 'update' not in out and 'grad' not in later:
        raise ValueError(f"{wrong}'grad', which nothing after it reads; put {b} before the callback that makes the update")

def check_value(n, v, old, shape, wrong, init=None):
    "Refuse a value of another kind or shape than `old`. `shape`: the parameter's. `init`: of a state, its initializer"
    if n=='lr' and not isinstance(v, (Tensor,Real)): raise TypeError(f"{wrong}lr={v!r}; it must be a number or a tensor")
    if n in given and not isinstance(v, Tensor): raise TypeError(f"{wrong}{n}={v!r}; it must be a tensor")
    if isinstance(v, Tensor)!=isinstance(old, Tensor) or not isinstance(v, (Tensor,Real)):
        raise TypeError(f"{wrong}a {type(v).__name__} for {n!r}, which is a {type(old).__name__}")
    if isinstance(v, Tensor) and not (init.fits(v, old) if init else fit(v)==fit(old)):
        raise ValueError(f"{wrong}{n!r} of shape {tuple(v.shape)} in place of {tuple(old.shape)}, for a parameter of shape {tuple(shape)}")

def check_renamed(b, returned, who):
    "Refuse a `rename` of a name that the callback neither reads nor returns, if it looks like a misspelling"
    if not isinstance(b.cb, rename): return
    reads   = signature(b.cb.func).parameters.keys()
    unknown = [old for old,new in b.cb.names.items() if old not in reads and new not in returned]
    for old in unknown:
        if hint := did_you_mean(old, [*reads, *returned]):
            raise TypeError(f"{who}: {b.cb!r} renames {old!r}, which {b} neither reads nor returns{hint}")

# -- Advice: what is said has been tried --

class Unprovided(ValueError):
    "The `i`-th callback of `chain` reads `name`, which is not among the `known`. It was tried on the parameter `p` with `hypers`"
    def __init__(self, who, chain, i, name, known):
        super().__init__(f"{who}: {chain.every[i]} reads {name!r}, which nothing before it provides")
        self.chain,self.i,self.name,self.known = chain,i,name,known

def remedy(e, built, arguments):
    """What to do about the unprovided name of `e`, in a list that is `built` from callbacks and an algorithm with `arguments`. It is what leads to a
    list that runs in the fewest steps, so following one remedy after the other comes to an end"""
    trials,ways = Trials(e.p, e.hypers, built, arguments),[*declarations(e, built), *places(e, built), *additions(e)]
    for further in range(4):
        for cbs,words in ways:
            if trials.lead(cbs, further): return f": {words}"
    n = e.name
    known = did_you_mean(n, e.known)
    return known or f": add a callback that returns it, declare it as a state ({n}=zeros), or give it as a hyper-parameter ({n}=...)"

def declarations(e, built):
    "The list with the name as a state of the callback that reads it, if that callback returns it as well"
    b,cbs = e.chain.every[e.i],[*e.chain.cbs]
    declared = partial(b.cb, **{e.name: zeros})
    if not b.is_global and not built.has_inside(b.cb) and e.name in returned_by(b):
        yield [*cbs[:e.i], declared, *cbs[e.i+1:]],f"{b} returns it, so declare it as a state: {e.name}=zeros"

def places(e, built):
    "Lists in which a later callback that provides the name stands before the one that reads it, each with what to do"
    b,cbs = e.chain.every[e.i],[*e.chain.cbs]
    for j,o in enumerate(e.chain.every[e.i+1:], e.i+1):
        if e.name not in o.state and e.name not in returned_by(o): continue
        if built.has_inside(o.cb): yield put(cbs, e.i, o.cb),f"{o} comes later, in {built.algorithm}; put {shown(o.cb)} before {b} as well"
        else:
            last = f" (or declare {e.name}={o.state[e.name]} there, to read the last step's value)" if e.name in o.state else ''
            yield put(cbs[:j]+cbs[j+1:], e.i, o.cb),f"{o} comes later, move it before {b}{last}"

def additions(e):
    "Lists with one more callback of genopt, that provides the name, each with what to do"
    cbs = [*e.chain.cbs]
    return [(put(cbs, e.i, o.cb), f"add {o}") for o in providers(e.name) if o!=e.chain.every[e.i]]

def put(cbs, i, cb): return [*cbs[:i], cb, *cbs[i:]]

def providers(n):
    "The callbacks of genopt that keep `n` as a state, then those that return it, then those that declare it as a hyper-parameter"
    return [o for has in (lambda o: o.state, returned_by, lambda o: o.hypers) for o in library() if n in has(o)]

class Trials:
    "Lists that are tried, on a stand-in of `p` with `hypers`, before they are advised; so many at most. They have the algorithm of `built`, if any"
    most = 200
    def __init__(self, p, hypers, built=None, arguments=()):
        self.p,self.hypers,self.built,self.arguments,self.left = p,hypers,built,arguments,self.most
    def lead(self, cbs, further):
        "Whether the list `cbs` runs, perhaps after `further` callbacks were added for what it still lacks"
        self.left -= 1
        if self.left<0: return False
        try: self.run(*once(cbs))
        except Unprovided as e: return further>0 and any(self.lead(put([*e.chain.cbs], e.i, o.cb), further-1) for o in providers(e.name))
        except (TypeError, ValueError): return False
        return True
    def run(self, cbs, repeats):
        chain  = chain_of(cbs)
        if self.built: check_apart(self.built.inner, [cb for cb in cbs if not self.built.has_inside(cb)], self.arguments, '', '')
        hypers = {n: v for b in chain.every for n,v in b.hypers.items()} | self.hypers
        with quiet(self.p): rehearse_on(shape_class(self.p.shape), chain, self.p, hypers, '')
        check_repeats(chain, repeats, learned_of(chain).returns, '')
        check_advances(chain, learned_of(chain).advances, None, '')

@lru_cache(4096)
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

def unexpected(n, known, chain, who):
    "That `n` is no hyper-parameter of the callbacks of `chain`, which have those in `known`, and whose it is"
    found  = [o.name for o in library() if n in o.hypers and fits(o, chain)]
    some   = found[:3] + [f'{len(found)-3} others']*(len(found)>3)
    advice = did_you_mean(n, known) or (f"; add {' or '.join(some)}, which {'have' if len(some)>1 else 'has'} it" if found else '')
    return f"{who} got an unexpected hyper-parameter {n!r}{advice}; its callbacks have {', '.join(known) or 'none'}"

def fits(o, chain):
    "Whether the callback `o` can stand before or behind those of `chain`"
    cbs,example = [*chain.cbs],(torch.zeros(2, 2), dict(lr=.1))
    return any(Trials(*example).lead(with_it, 0) for with_it in ([o.cb, *cbs], [*cbs, o.cb]))

@lru_cache
def library():
    "The callbacks that come with genopt"
    return [Block(getattr(blocks, n)) for n in blocks.__all__]

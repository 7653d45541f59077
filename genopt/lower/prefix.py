"""A chain in two: callbacks at its start that are called for all parameters at once, because they ask the model or join the parameters in a way that
cannot be recorded; and the others, which become a program. Called callbacks hand on gradients, other tensors and numbers."""

from copy import copy
from dataclasses import dataclass,field
import torch
from torch import Tensor
from ..contract.block import of_model
from ..contract.chain import learned_of
from ..contract.stand_ins import StandIn,stand_in
from .words import NotRecorded

__all__ = ['Cut', 'cut']


@dataclass(eq=False)
class Cut:
    """`lead`: the chain up to the last callback that is called; None if there is none. `rest`: what comes after it. The rest is given the gradient to
    which the lead comes, the tensors `rest.extra`, and numbers such as `numbers`. `read`: the names that it reads of those that callbacks may
    change"""
    rest: object
    lead: object = None
    numbers: dict = field(default_factory=dict)
    read: set = field(default_factory=set)
    form: tuple = ()
    @property
    def called(self): return [b.name for b in self.lead.blocks if b not in self.rest.blocks] if self.lead else []
    @property
    def words(self):
        "What is called, before the words for the rest"
        names = self.called
        return f'{" > ".join(names)} as {"they are" if len(names)>1 else "it is"}, then ' if names else ''

    def late(self, begun, ns):
        "What the lead has changed in the namespace `ns`, `begun` otherwise, that it had not changed when it was tried"
        handed = {'grad', *self.rest.extra, *self.numbers}
        return {n: v for n,v in ns.items() if n in self.read-handed and v is not begun.get(n)}

cuts = {}                                    # for all optimizers of the process

def cut(chain, numbers, p, joins=False, noted=()):
    """`chain` in two, for parameters like `p`, as callbacks see it. With `joins` the callbacks over all parameters are called. `noted`: what they
    have been seen to change late, by name. Raises `NotRecorded` where what is called cannot be handed on"""
    asks = [i for i,b in enumerate(chain.blocks) if {*b.reads}&of_model or joins and b.is_global]
    if not asks: return Cut(chain)
    noted = dict(noted)
    key = chain.key,joins,p.ndim,p.dtype,p.device,tuple((n, isinstance(v, Tensor)) for n,v in noted.items())
    if key not in cuts:
        with torch.random.fork_rng([p.device] if p.is_cuda else []), torch.inference_mode(False), torch.no_grad():
            try: cuts[key] = behind(asks[-1], chain, numbers, p, noted)
            except NotRecorded as e: cuts[key] = e
    if isinstance(res := cuts[key], NotRecorded): raise res
    alike = (c for k,c in cuts.items() if k[0]==chain.key and isinstance(c, Cut) and c.form==res.form)
    return next(alike)                                                                                 # one for all shapes, if they are alike

def behind(k, chain, numbers, p, noted):
    "The cut behind the `k`-th callback"
    last   = chain.blocks[k]
    asked  = [n for n in last.reads if n in of_model]
    called = f"{last} {f'asks the model for {asked[0]!r}' if asked else 'runs over all parameters, and cannot be recorded'}"
    def refuse(b, why): raise NotRecorded(f"{called}; {'it' if b is last else f'{b} before it'} {why}, so all are called for each parameter")
    ns,hosts,changed = stand_in(tuple(min(d, 5) for d in p.shape), chain, p, numbers, called),[],{}
    for b in chain.blocks[:k+1]:
        reads = {b.lists.get(n,n) for n in b.reads}
        host  = not any(isinstance(ns.get(n), Tensor) for n in reads) and not reads&of_model
        if not host and b.state: refuse(b, f"keeps {next(iter(b.state))!r}")
        try: out = b.call_all([ns], StandIn())[0] if b.is_global else b(ns)
        except Exception as e: refuse(b, f"fails on small values: {type(e).__name__}: {e}")
        ns.update(out)
        if host: hosts.append(b)
        else: changed |= dict.fromkeys(out, b)
    for n,v in noted.items():
        if n not in changed: changed[n],ns[n] = last,ns['p'] if isinstance(v, Tensor) else v
    for n,b in changed.items():
        if n in ('p','new_p') or n in chain.state or any(n in o.reads for o in hosts): refuse(b, f"changes {n!r}")
        if isinstance(ns[n], Tensor) and (n=='lr' or ns[n].shape!=ns['p'].shape): refuse(b, f"makes {n!r} a tensor of another shape")
    made    = {n for b in hosts for n in (*b.state, *learned_of(chain).returns.get(b, ()))}
    read    = ({b.lists.get(n,n) for b in chain.blocks[k+1:] for n in b.reads}|{'p','new_p','lr','update',*chain.state})-made
    tensors = [n for n in changed if n in read and isinstance(ns[n], Tensor)]
    handed  = {n: ns[n] for n in changed if n in read and n not in tensors}
    rest    = part(chain, hosts + chain.blocks[k+1:], [n for n in tensors if n!='grad'])
    return Cut(rest, part(chain, chain.blocks[:k+1], moves=False), handed, read, (k, rest.key, (*handed,)))

def part(chain, blocks, extra=(), moves=True):
    "`chain` with some of its `blocks`, which find the tensors `extra` beside parameter, gradient and states"
    res = copy(chain)
    res.blocks,res.extra,res.moves = blocks,tuple(extra),moves
    res.key   = *(k for b,k in zip(chain.every, chain.key) if any(b is o for o in blocks)),res.extra
    res.state = {n: init for n,init in chain.state.items() if any(n in b.state for b in blocks)}
    return res

"""A chain in two: callbacks at its start that are called as they are, and the others, which may be taken as a graph. Those that ask the model are
called; and where another callback needs a shape, or takes sparse gradients, those that run over all parameters."""

from copy import copy
from torch import Tensor
import torch
from .check import small,stand_in
from .core import of_model
from .model import StandIn
from .trace import Untraceable

__all__ = ['Cut', 'cut']


class Cut:
    """`lead`: the chain up to the last callback that is called as it is; None if there is none. `rest`: what comes after. It is given the gradient
    that the lead comes to, the tensors `rest.fed`, and numbers, such as `numbers`. `read`: what it reads of what callbacks may change"""
    lead,numbers,read = None,{},set()
    def __init__(self, chain): self.rest = chain
    @property
    def before(self):
        "What is called, in words that go before those for the rest"
        called = [b.name for b in self.lead.blocks if b not in self.rest.blocks] if self.lead else ()
        return f'{" > ".join(called)} as {"they are" if len(called)>1 else "it is"}, then ' if called else ''

    @classmethod
    def behind(cls, k, chain, numbers, p):
        "Behind the `k`-th callback. Raises `Untraceable` where what it and those before it change cannot be handed on"
        res,last = cls(chain),chain.blocks[k]
        asked  = [n for n in last.reads if n in of_model]
        called = f"{last} {f'asks the model for {asked[0]!r}' if asked else 'runs over all parameters, and another callback needs a shape'}"
        def refuse(b, why): raise Untraceable(f"{called}; {'it' if b is last else f'{b} before it'} {why}, so all are called for each parameter")
        ns,hosts,changed = stand_in(small(p.shape), chain, p, numbers, called),[],{}
        for b in chain.blocks[:k+1]:
            host = not any(isinstance(ns.get(b.lists.get(n,n)), Tensor) for n in b.reads) and not {*b.reads}&of_model
            if not host and b.state: refuse(b, f"keeps {next(iter(b.state))!r}")
            try: out = b.call_all([ns], StandIn())[0] if b.is_global else b(ns)
            except Exception as e: refuse(b, f"fails on small values: {type(e).__name__}: {e}")
            ns.update(out)
            if host: hosts.append(b)
            else: changed |= dict.fromkeys(out, b)
        for n,v in chain.noted.items():
            if n not in changed: changed[n],ns[n] = last,ns['p'] if isinstance(v, Tensor) else v
        for n,b in changed.items():
            single = isinstance(ns[n], Tensor) and (n=='lr' or ns[n].shape!=ns['p'].shape)
            if n in ('p','new_p') or n in chain.state or any(n in o.reads for o in hosts): refuse(b, f"changes {n!r}")
            if single: refuse(b, f"makes {n!r} a tensor of another shape")
        made = {n for b in hosts for n in (*b.state, *chain.writes.get(b, ()))}
        res.read = ({b.lists.get(n,n) for b in chain.blocks[k+1:] for n in b.reads}|{'p','new_p','lr','update',*chain.state})-made
        tensors = [n for n in changed if n in res.read and isinstance(ns[n], Tensor)]
        res.numbers = {n: ns[n] for n in changed if n in res.read and n not in tensors}
        res.lead,res.rest = part(chain, chain.blocks[:k+1], moves=False),part(chain, hosts + chain.blocks[k+1:], [n for n in tensors if n!='grad'])
        res.form = k,res.rest.key,(*res.numbers,)
        return res

    def check(self, begun, ns):
        """A callback may change what it had not changed when it was tried, at every tenth step for instance. Where the namespace `ns` differs so from
        when it was `begun`, this is noted, and raises `Untraceable`: the chain is to be cut anew"""
        handed = 'grad',*self.rest.fed,*self.numbers
        if late := {n: v for n,v in ns.items() if n in self.read and n not in handed and v is not begun.get(n)}:
            self.rest.noted.update(late)
            self.rest.cuts.clear()
            raise Untraceable(f"{self.lead} changes {min(late)!r}, which it had not before")

def part(chain, blocks, fed=(), moves=True):
    "`chain` with some of its `blocks`, which find the tensors `fed` beside parameter, gradient and states"
    res = copy(chain)
    res.blocks,res.fed,res.moves = blocks,tuple(fed),moves
    res.key   = *(k for b,k in zip(chain.every, chain.key) if any(b is o for o in blocks)),res.fed
    res.state = {n: init for n,init in chain.state.items() if any(n in b.state for b in blocks)}
    return res

def cut(chain, numbers, p, joins=False):
    "`chain` in two, for parameters like `p`, as callbacks see it; with `joins` the callbacks over all parameters are called as they are"
    asks = [i for i,b in enumerate(chain.blocks) if {*b.reads}&of_model or joins and b.is_global]
    if not asks: return Cut(chain)
    key = joins,small(p.shape)
    if key not in chain.cuts:
        with torch.random.fork_rng([p.device] if p.is_cuda else []), torch.inference_mode(False), torch.no_grad():
            try: chain.cuts[key] = Cut.behind(asks[-1], chain, numbers, p)
            except Untraceable as e: chain.cuts[key] = e
    if isinstance(res := chain.cuts[key], Untraceable): raise res
    return next(c for c in chain.cuts.values() if isinstance(c, Cut) and c.form==res.form)             # one for all shapes, if they are alike

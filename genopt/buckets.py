"""Buckets: parameters that are run together, with the graph of their chain; the traces that they go by, and the kernels that they run.

Large parameters are taken one by one, as rows of elements, without a copy; small ones are gathered side by side into one row, and their state
lives there. Those that need a shape of their own are compiled in it, small ones of one shape stacked."""

from collections import defaultdict
from torch import Tensor
import torch
from .check import small as small_shape
from .hypers import plain
from .kernels import Compiled,Eager,wide
from .loop import Item,describe,fit,real
from .rows import Gathered,Large,aligned,move,real_dtype,side_by_side
from .shaped import Shaped
from .sharded import local
from .trace import Untraceable,trace

__all__ = ['Bucket', 'ShapedBucket', 'find', 'find_shaped', 'run_all']

small = dict(foreach=2**16, fused=2**12, adopt=2**18, stack=2**16)          # elements: up to here it pays to gather, to adopt, to stack


# -- Traces, shared by all optimizers of the process --

traces = defaultdict(list)

def kinds(chain, numbers):
    "Which states are numbers, and which numbers come in tensors"
    return tuple(n for n in chain.state if n in numbers),tuple(n for n,v in numbers.items() if isinstance(v, Tensor))

def find(chain, numbers, dtype, device):
    "The trace of `chain` that is right for `numbers`, and its numbers; they are brought up to date, as the step does"
    known = traces[chain.key, dtype, device, kinds(chain, numbers)]
    if len(traces)>1000: traces.pop(next(iter(traces)))
    for t in known:
        if isinstance(t, Exception): raise t
        ns = dict(numbers)
        if (values := t.program(ns)) is not None: return t,values,ns
    try:
        if len(known)>=16:
            raise Untraceable(f"{chain} becomes another graph for too many values of a hyper-parameter; leave int() "
                              "and range() of it to a callback without tensors")
        known.append(trace(chain, numbers, dtype, device))
    except Untraceable as e:
        known.append(e)
        raise
    return find(chain, numbers, dtype, device)


def find_shaped(chain, numbers, p, states):
    "The same for a chain that needs a parameter's own shape"
    known = traces[chain.key, wide(p.dtype), p.device, kinds(chain, numbers), small_shape(p.shape)]
    for t in known:
        if t.program(dict(numbers)) is not None: return t
    known.append(Shaped(chain, numbers, p, states))
    return known[-1]


# -- Buckets --

def counted(v): return v if isinstance(v, Tensor) else plain(v)

class Bucket:
    "Parameters that are run together: `indices` of them, in `units`, with the numbers of `groups`, all alike, and the counters `host`"
    def __init__(self, settings, host, trace):
        self.chain,self.cut,self.way,self.host,self.trace = settings.chain,settings.cut,settings.way,host,trace
        self.groups,self.indices,self.ps,self.states,self.sharded = [],[],[],[],{}
    def add(self, group, i, p, states, sharded):
        if group not in self.groups: self.groups.append(group)
        self.indices.append(i); self.ps.append(p); self.states.append({n: local(s) for n,s in states.items()}|self.chain.given(p))
        if sharded: self.sharded[i] = states
    def kept(self):
        "The index of each parameter, and what is kept for it as `opt.state` has it"
        fed = self.chain.fed
        return [(i, self.sharded.get(i) or ({n: v for n,v in s.items() if n not in fed} if fed else s)) for i,s in zip(self.indices, self.states)]

    def start(self, numbers, params, state):
        "Its parameters on their way through what is called before the graph"
        items = [Item(p := params[i], state.get(p, {})|self.host, self.cut.lead, numbers) for i in self.indices]
        return [(it, dict(it.ns)) for it in items]
    def follow(self, items, grads, who):
        "Take over what they have arrived at: gradients, other tensors, and numbers, which are returned"
        for it,begun in items:
            self.cut.check(begun, it.ns)
            for n in ('grad', *self.chain.fed, *self.cut.numbers):
                v,old = it.ns.get(n),self.cut.numbers.get(n, it.ns['p'])
                if n not in it.ns or fit(v)!=fit(old): raise ValueError(f"{who}: {self.cut.lead} made {n} {describe(v)}; it was {describe(old)}")
        for i,(it,_) in zip(self.indices, items): grads[i] = local(it.ns['grad'])
        for n in self.chain.fed: torch._foreach_copy_([s[n] for s in self.states], [local(it.ns[n]) for it,_ in items])
        return {n: items[0][0].ns[n] for n in self.cut.numbers}

    def make_units(self, params, grads, adopt, buffers):
        "Large parameters by themselves, small ones side by side, with their state moved there; if they are to be adopted, with all they have"
        self.dtypes = dict(p=self.ps[0].dtype, grad=grads[self.indices[0]].dtype) | {n: s.dtype for n,s in self.states[0].items()}
        self.dtypes = {n: real_dtype(t) for n,t in self.dtypes.items()}
        limit,self.units,fits,total = small['adopt' if adopt else self.way],[],defaultdict(list),0
        for k,p in enumerate(self.ps):
            if self.trace.per_tensor or p.numel()>limit or self.indices[k] in self.sharded: self.units.append(self.large(k))
            elif p.numel():
                fits[total//buffers.batch].append(k)
                total += p.numel()
        for ks in fits.values(): self.units.append(self.large(ks[0]) if len(ks)==1 else self.gathered(ks, params, grads, adopt))
    def large(self, k):
        return Large(self.indices[k], self.ps[k], {n: real(s) for n,s in self.states[k].items()}, self.trace.whole, self.dtypes['grad'],
                     self.trace.single)
    def gathered(self, ks, params, grads, adopt):
        indices,rows = [self.indices[k] for k in ks],{}
        if adopt:
            if side_by_side([real(params[i].detach()) for i in indices]) is None:
                for i,v in zip(indices, move([params[i] for i in indices], [self.ps[k] for k in ks])[1]): params[i].data = v
                for k,i in zip(ks, indices): self.ps[k] = real(params[i].detach())
            ps,gs = [self.ps[k] for k in ks],[grads[i] for i in indices]
            if side_by_side([real(g.detach()) for g in gs]) is None or not all(map(aligned, map(real, gs), ps)):
                for i,v in zip(indices, move(gs, ps)[1]): params[i].grad = grads[i] = v
        for n in [*self.trace.states, *self.chain.fed]:
            old = [self.states[k][n] for k in ks]
            rows[n] = side_by_side([real(s) for s in old])
            if rows[n] is None:
                rows[n],new = move(old, [self.ps[k] for k in ks])
                for k,v in zip(ks, new): self.states[k][n] = v
        return Gathered(indices, [self.ps[k] for k in ks], rows, [grads[i] for i in indices], [params[i] for i in indices], adopt,
                        self.trace.on_device)

    def count(self, host):
        "Keep the new counters; of a capturable chain in the tensors where they are"
        on_device = [n for n,v in self.host.items() if isinstance(v, Tensor)]
        for n in on_device: self.host[n].copy_(host[n])
        self.host = host | {n: self.host[n] for n in on_device}
    def prepare(self, numbers, buffers):
        "All of a step that can fail: its numbers, and kernels for them. Returns the new counters, and what runs all units: by turns, or at once"
        ns = numbers | self.host
        values = self.trace.program(ns)
        if values is None:
            before = self.trace
            self.trace,values,ns = find(self.chain, numbers | self.host, before.dtype, before.device)
            if (self.trace.per_tensor,self.trace.whole)!=(before.per_tensor,before.whole):
                raise Untraceable(f"{self.chain} takes another way")                # so the step is planned anew
        t,values = self.trace,dict(zip(self.trace.numbers, values))
        def bound(way, piece, key):
            if not piece.outs: return None
            k = kernel(t, way, piece, key, self.dtypes)
            return k,k.bind(values, buffers)
        over   = Compiled if self.way=='fused' else Eager
        rounds = [(bound(Eager, t.between[k], (k,'between')),bound(over, t.passes[k], k),t.joints[k]) for k in range(len(t.passes))]
        host   = {n: counted(ns[n]) for n in self.host}
        if len(rounds)==1 and not rounds[0][0] and rounds[0][1] and not t.singles:
            return host,None,lambda grads: self.run_at_once(*rounds[0][1], grads, buffers)
        entire = bound(Eager, t.entire, 'entire') if self.way!='fused' and t.entire else None
        return host,lambda grads: [self.run(u, rounds, entire, grads, buffers) for u in self.units],None
    def run_at_once(self, k, run, grads, buffers):
        "Run all units; of a chain that is one elementwise kernel"
        for u in self.units:
            singles = self.trace.constants|u.singles if u.singles else self.trace.constants
            for xs in u.load(k, grads, buffers): run(xs, singles)
            u.store(buffers)
    def run(self, unit, rounds, entire, grads, buffers):
        """Run one unit through all rounds; a generator, because what joins all parameters must wait for them. Or at once, where that may be
        and the values in between fit in the buffers"""
        singles = self.trace.constants|unit.singles
        if entire and entire[0].room(unit.p.numel())<=buffers.limit//2 and len(parts := [*unit.load(entire[0], grads, buffers)])==1:
            return unit.store(buffers, dict(zip(entire[0].names, entire[1](parts[0], singles))))
        for between,over,joints in rounds:
            if between: singles = singles | dict(zip(between[0].names, between[1]([], singles)))
            if over:
                k,run   = over
                parts   = [(run(xs, singles), xs[0].numel()) for xs in unit.load(k, grads, buffers)]
                singles = singles | dict(zip(k.names, parts[0][0] if len(parts)==1 else k.merged(parts)))
            for j in joints: singles = singles | {j.name: (yield j, singles[j.meta['joint'][0].name], self.trace.places)}
        unit.store(buffers, {n: singles[o.name] for n,o in self.trace.singles.items()})

class ShapedBucket(Bucket):
    "Parameters that are compiled in their own shapes"
    def __init__(self, settings, host, shaped, grad_dtype):
        super().__init__(settings, host, None)
        self.shaped,self.grad_dtype = shaped,real_dtype(grad_dtype)
    def graph(self, p, states, stack=0):
        grad = p if p.dtype==self.grad_dtype else torch.empty_like(p, dtype=self.grad_dtype)
        return self.shaped.graph([p, grad, *states.values()], stack)

    def make_units(self, params, grads, adopt, buffers):
        "Small parameters of one shape in stacks, where their state lives; others by themselves"
        alike,self.units,self.fns = defaultdict(list),[],{}
        for k,(p,states) in enumerate(zip(self.ps, self.states)): alike[(p.shape, *(s.shape for s in states.values()))].append(k)
        for (shape,*_),ks in alike.items():
            n = max(1, buffers.batch//max(1, shape.numel())) if len(ks)>1 and self.stackable(ks[0], len(ks)) else 1
            self.units += [ks[i:i+n] for i in range(0, len(ks), n)]
        self.stacks = [self.stacked(ks) if len(ks)>1 else None for ks in self.units]
    def stackable(self, k, n):
        "Whether callbacks can be run for `n` parameters like the `k`-th as one: torch knows how (`vmap`), they draw no random numbers"
        if self.shaped.stacks and self.ps[k].numel()<=small['stack']:
            try: return self.graph(self.ps[k], self.states[k], n) is not None
            except (RuntimeError,Untraceable): self.shaped.stacks = False
        return False
    def stacked(self, ks):
        "The states of parameters as one tensor each, in which they are views from then on"
        res = {n: torch.stack([self.states[k][n] for k in ks]) for n in self.states[ks[0]]}
        for n,x in res.items():
            for k,v in zip(ks, x): self.states[k][n] = v
        return res

    def compiled(self, ks):
        "The function for parameters of one shape"
        n = len(ks) if len(ks)>1 else 0
        try: return self.graph(self.ps[ks[0]], self.states[ks[0]], n).fn
        except RuntimeError as e:
            if not n: raise
            self.shaped.stacks = False
            raise Untraceable(f"{self.chain} cannot be compiled for a stack: {e}") from e          # so the step is planned anew

    def prepare(self, numbers, buffers):
        ns = numbers | self.host
        values = self.shaped.program(ns)
        if values is None:
            ns = numbers | self.host
            self.shaped = find_shaped(self.chain, ns, self.ps[0], self.states[0])
            values = self.shaped.program(ns)
        if self.shaped not in self.fns:
            if not all(self.stackable(ks[0], len(ks)) for ks in self.units if len(ks)>1):
                raise Untraceable(f"{self.chain} takes a way that cannot be stacked")               # so the step is planned anew
            self.fns[self.shaped] = [self.compiled(ks) for ks in self.units]
        fns,scalars = self.fns[self.shaped],self.shaped.scalars(values)
        return {n: counted(ns[n]) for n in self.host},None,lambda grads: self.run(fns, scalars, grads, buffers)
    def run(self, fns, scalars, grads, buffers):
        for ks,stack,fn in zip(self.units, self.stacks, fns):
            ps,gs = [self.ps[k] for k in ks],[real(grads[self.indices[k]].detach()) for k in ks]
            if stack is None: fn(ps[0], gs[0].contiguous(), *self.states[ks[0]].values(), *scalars)
            else:
                p,g = [torch.stack(xs, out=buffers.get(f'stack {n}', len(ks)*xs[0].numel(), xs[0].dtype, xs[0].device).view(len(ks), *xs[0].shape))
                       for n,xs in dict(p=ps, grad=gs).items()]
                fn(p, g, *stack.values(), *scalars)
                torch._foreach_copy_(ps, p.unbind())


def kernel(t, way, piece, key, dtypes):
    key = way,key,*dtypes.items()
    if key not in t.kernels: t.kernels[key] = way(piece, t, dtypes)
    return t.kernels[key]

def run_all(runs):
    "Run units to their ends. Those that come to what joins all parameters wait there for the others"
    def advance(run, value=None):
        try: return *run.send(value),run
        except StopIteration: return None
    waiting = [w for r in runs if (w := advance(r))]
    while waiting:
        at = waiting[0][0].meta['place']
        here,there = [w for w in waiting if w[0].meta['place']==at],[w for w in waiting if w[0].meta['place']!=at]
        if any(at in places[places.index(j.meta['place']):] for j,_,places,_ in there):
            raise ValueError(f"{at[0]} and another callback over all parameters come in different orders in two groups")
        value   = here[0][0].meta['joint'][1](torch.stack([z.reshape(()).to(here[0][1].device) for _,z,_,_ in here]))
        waiting = there + [w for _,z,_,run in here if (w := advance(run, value.to(z.device)))]

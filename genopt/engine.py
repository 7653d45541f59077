"""How a step is run: a plan of buckets, made once and used for as long as it holds.

Parameters whose chain, dtype, device, hyper-parameters and counters agree make a bucket, whatever groups they are in. In a bucket large
parameters are taken one by one, as rows of elements, without a copy; small ones are gathered side by side into one row, and their state
lives there. What cannot be taken as a row is `loose` and goes through `loop`, the reference.

A step first does all that can fail: numbers on the host, kernels, loose parameters. Only then is anything written."""

from collections import defaultdict
from operator import is_
from torch import Tensor
import torch
from .check import small as small_shape
from .hypers import plain
from .kernels import Buffers,Compiled,Eager,wide
from .loop import Item,compute,loop,real
from .shaped import Shaped
from .trace import NeedsShape,Untraceable,trace

__all__ = ['Plan']

small = dict(foreach=2**14, fused=2**12, adopt=2**18)          # elements: up to here it pays to gather


# -- Memory --

def row(x):
    "The elements of `x` in the order of memory, without a copy; None if there are gaps between them"
    if x.is_contiguous(): return x.view(-1)
    expected = 1
    for step,size in sorted(zip(x.stride(), x.shape)):
        if size!=1 and step!=expected: return None
        expected *= size
    return x.as_strided((x.numel(),), (1,))

def aligned(x, y): return x.shape==y.shape and (x.stride()==y.stride() or all(a==b or n==1 for a,b,n in zip(x.stride(), y.stride(), x.shape)))

def side_by_side(xs):
    "The one row that `xs` lie in, in this order; None if they do not"
    at,base = xs[0].data_ptr(),xs[0].untyped_storage().data_ptr()
    for x in xs:
        if x.data_ptr()!=at or x.untyped_storage().data_ptr()!=base or row(x) is None: return None
        at += x.numel()*x.element_size()
    return xs[0].as_strided((sum(x.numel() for x in xs),), (1,))

def views(flat, like):
    "Parts of the row `flat`, of the shapes and strides of `like`"
    at,res = 0,[]
    for x in like:
        res.append(flat.as_strided(x.shape, x.stride(), flat.storage_offset()+at))
        at += x.numel()
    return res

try: from torch._C import _tensors_data_ptrs_at_indices_equal as _same_addresses          # a few ns for each tensor, where torch has it
except ImportError:
    def _same_addresses(xs, addresses, indices): return all(xs[i].data_ptr()==addresses[i] for i in indices)


# -- Units: what a kernel is called for --

class Large:
    "One parameter, as a row. A gradient that lies otherwise in memory is copied into the order of the parameter, `batch` elements at a time"
    grads = None
    def __init__(self, i, p, states, whole):
        self.indices,self.p,self.states,self.whole,self.rows = [i],p,states,whole,dict(p=row(p), **{n: row(s) for n,s in states.items()})
    def load(self, grads, buffers):
        g = real(grads[self.indices[0]].detach())
        if aligned(g, self.p): yield self.rows | dict(grad=row(g))
        else: yield from self.parts(g, buffers)
    def parts(self, g, buffers):
        d = max(range(g.ndim), key=self.p.stride, default=0)
        step = g.shape[d] if self.whole else max(1, buffers.batch*g.shape[d]//g.numel())
        for at in range(0, g.shape[d], step):
            cut  = lambda x: x.narrow(d, at, min(step, g.shape[d]-at))
            p    = cut(self.p)
            copy = buffers.get('grad', p.numel(), g.dtype, g.device)
            views(copy, [p])[0].copy_(cut(g))
            yield dict(p=row(p), grad=copy, **{n: row(cut(s)) for n,s in self.states.items()})
    def store(self, buffers): pass

class Gathered:
    """Small parameters side by side in a row. Their states live in such rows; the parameters and gradients are copied there for the step,
    unless they lie side by side themselves, as after `adopt`"""
    def __init__(self, indices, ps, states, grads, params):
        self.indices,self.ps,self.size,self.dtype,self.device = indices,ps,sum(p.numel() for p in ps),ps[0].dtype,ps[0].device
        p,self.grads = side_by_side(ps),None
        self.copied  = p is None
        self.all_flat = all(p.ndim==1 for p in ps)                                        # of rows, `cat` is the quicker copy
        self.flats    = params if self.all_flat else [row(p) for p in ps]
        self.rows    = states if p is None else states | dict(p=p)
        if (g := side_by_side([real(g.detach()) for g in grads])) is not None: self.grads = g,[g.data_ptr() for g in grads],[*range(len(grads))]
    def load(self, grads, buffers):
        gs = [grads[i] for i in self.indices]
        if self.grads and _same_addresses(gs, *self.grads[1:]): rows = self.rows | dict(grad=self.grads[0])
        else:
            g,parts = self.parts('grad', buffers)
            if gs[0].is_complex(): gs = [real(g) for g in gs]
            if self.all_flat: torch.cat(gs, out=g)
            else: torch._foreach_copy_(parts, gs)
            rows = self.rows | dict(grad=g)
        yield rows | dict(p=torch.cat(self.flats, out=self.parts('p', buffers)[0])) if self.copied else rows
    def parts(self, name, buffers):
        "The row of that name, and views of it like the parameters, which are made once"
        flat = buffers.get('p' if name=='flats' else name, self.size, self.dtype, self.device)
        if buffers.parts.get((name, id(self)), (None,))[0] is not flat:
            buffers.parts[name, id(self)] = flat,views(flat, self.flats if name=='flats' else self.ps) if name!='p' else None
        return buffers.parts[name, id(self)]
    def store(self, buffers):
        if self.copied: torch._foreach_copy_(self.flats, self.parts('flats', buffers)[1])

def real_dtype(dtype): return dtype.to_real() if dtype.is_complex else dtype
def like(v, x): return torch.view_as_complex(v) if x.is_complex() else v

def move(xs, zero=False):
    "Copies of `xs` side by side, and the row that they are in"
    flat = torch.cat([row(real(x.detach())) for x in xs])
    return flat,[like(v, x) for v,x in zip(views(flat, [real(x) for x in xs]), xs)]


# -- Traces, shared by all optimizers of the process --

traces = defaultdict(list)

def find(chain, numbers, dtype, device):
    "The trace of `chain` that is right for `numbers`, and its numbers; they are brought up to date, as the step does"
    known = traces[chain.key, dtype, device]
    for t in known:
        ns = dict(numbers)
        if isinstance(t, Exception): raise t
        if (values := t.program(ns)) is not None: return t,values,ns
    try:
        if len(known)>=16: raise Untraceable(f"{chain} becomes another graph for too many values of a hyper-parameter; leave int(), float() and "
                                             "math functions of it to a callback without tensors")
        known.append(trace(chain, numbers, dtype, device))
    except Untraceable as e:
        known.append(e)
        raise
    return find(chain, numbers, dtype, device)


def find_shaped(chain, numbers, p, states):
    "The same for a chain that needs a parameter's own shape"
    known = traces[chain.key, wide(p.dtype), p.device, small_shape(p.shape)]
    for t in known:
        if t.program(dict(numbers)) is not None: return t
    known.append(Shaped(chain, numbers, p, states))
    return known[-1]


def check_fused(chain, numbers, params, who):
    "Raise `ValueError` if `chain` cannot be compiled for one of `params`; says which callback, and why"
    for p in {(p.dtype, p.device, small_shape(p.shape)): p for p in params if type(p) in plain_types}.values():
        x = compute(p)
        values = {n: init(x) for n,init in chain.state.items()}
        numbers = numbers | {n: v for n,v in values.items() if not isinstance(v, Tensor)}
        try:
            try: find(chain, numbers, x.dtype, p.device)
            except NeedsShape: find_shaped(chain, numbers, x, {n: v for n,v in values.items() if n not in numbers})
        except Untraceable as e: raise ValueError(f"{who}: fused=True cannot be: {e}; leave fused out") from e


class Bucket:
    "Parameters that are run together: `indices` of them, in `units`, with the numbers of `groups`, all alike, and the counters `host`"
    def __init__(self, settings, host, trace):
        self.chain,self.way,self.host,self.trace = settings.chain,settings.way,host,trace
        self.groups,self.indices,self.ps,self.states = [],[],[],[]
    def add(self, group, i, p, states):
        if group not in self.groups: self.groups.append(group)
        self.indices.append(i); self.ps.append(p); self.states.append(states)

    def make_units(self, params, grads, adopt, buffers):
        "Large parameters by themselves, small ones side by side, with their state moved there; if they are to be adopted, with all they have"
        self.dtypes = dict(p=self.ps[0].dtype, grad=self.ps[0].dtype, **{n: real_dtype(s.dtype) for n,s in self.states[0].items()})
        limit,self.units,fits,total = small['adopt' if adopt else self.way],[],defaultdict(list),0
        for k,p in enumerate(self.ps):
            if self.trace.per_tensor or p.numel()>limit: self.units.append(self.large(k))
            elif p.numel():
                fits[total//buffers.batch].append(k)
                total += p.numel()
        for ks in fits.values(): self.units.append(self.large(ks[0]) if len(ks)==1 else self.gathered(ks, params, grads, adopt))
    def large(self, k): return Large(self.indices[k], self.ps[k], {n: real(s) for n,s in self.states[k].items()}, self.trace.whole)
    def gathered(self, ks, params, grads, adopt):
        indices,rows = [self.indices[k] for k in ks],{}
        if adopt:
            for k,i in zip(ks, indices): self.ps[k] = None
            if side_by_side([real(params[i].detach()) for i in indices]) is None:
                for i,v in zip(indices, move([params[i] for i in indices])[1]): params[i].data = v
            if side_by_side([real(grads[i].detach()) for i in indices]) is None:
                for i,v in zip(indices, move([grads[i] for i in indices])[1]): params[i].grad = grads[i] = v
            for k,i in zip(ks, indices): self.ps[k] = real(params[i].detach())
        for n in self.trace.states:
            old = [self.states[k][n] for k in ks]
            rows[n] = side_by_side([real(s) for s in old])
            if rows[n] is None:
                rows[n],new = move(old)
                for k,v in zip(ks, new): self.states[k][n] = v
        return Gathered(indices, [self.ps[k] for k in ks], rows, [grads[i] for i in indices], [params[i] for i in indices])

    def prepare(self, numbers, buffers):
        "All of a step that can fail: its numbers, and kernels for them. Returns the new counters, and a run for each unit"
        ns = numbers | self.host
        values = self.trace.program(ns)
        if values is None: self.trace,values,ns = find(self.chain, numbers | self.host, self.trace.dtype, self.trace.device)
        t,values = self.trace,dict(zip(self.trace.numbers, values))
        rounds = [self.round(t, k, values, buffers) for k in range(len(t.passes))]
        return {n: plain(ns[n]) for n in self.host},lambda grads: [self.run(u, rounds, grads, buffers) for u in self.units]
    def round(self, t, k, values, buffers):
        def bound(way, piece, key):
            if not piece.outs: return None
            k = kernel(t, way, piece, key, self.dtypes)
            return k.bind(values, buffers),[*piece.outs],k.merged
        return bound(Eager, t.between[k], (k,'between')),bound(Compiled if self.way=='fused' else Eager, t.passes[k], k),t.joints[k]

    def run(self, unit, rounds, grads, buffers):
        "Run one unit through all rounds; a generator, because what joins all parameters must wait for them"
        singles = self.trace.constants
        for between,over,joints in rounds:
            if between: singles = singles | dict(zip(between[1], between[0]({}, singles)))
            if over:
                parts   = [(over[0](rows, singles), rows['p' if 'p' in rows else 'grad'].numel()) for rows in unit.load(grads, buffers)]
                singles = singles | dict(zip(over[1], parts[0][0] if len(parts)==1 else over[2](parts)))
            for j in joints: singles = singles | {j.name: (yield j, singles[j.meta['joint'][0].name], self.trace.places)}
        unit.store(buffers)

class ShapedBucket(Bucket):
    "Parameters that are compiled in their own shapes"
    def __init__(self, settings, host, shaped):
        super().__init__(settings, host, None)
        self.shaped = shaped
    def make_units(self, params, grads, adopt, buffers): self.units = [*range(len(self.ps))]
    def prepare(self, numbers, buffers):
        ns = numbers | self.host
        values = self.shaped.program(ns)
        if values is None:
            ns = numbers | self.host
            self.shaped = find_shaped(self.chain, ns, self.ps[0], self.states[0])
            values = self.shaped.program(ns)
        fns,scalars = [self.shaped.graph(p, p, states) for p,states in zip(self.ps, self.states)],self.shaped.scalars(values)
        return {n: plain(ns[n]) for n in self.host},lambda grads: [self.run(k, fn, scalars, grads) for k,fn in enumerate(fns)]
    def run(self, k, fn, scalars, grads):
        fn(self.ps[k], real(grads[self.indices[k]].detach()).contiguous(), *self.states[k].values(), *scalars)
        yield from ()

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
        value   = here[0][0].meta['joint'][1](torch.stack([z.reshape(()) for _,z,_,_ in here]))
        waiting = there + [w for *_,run in here if (w := advance(run, value))]


# -- The plan --

class Plan:
    """Which parameters are run together, and how. `holds` says whether it is still right: the same parameters, in the same memory, with a
    gradient or without, in groups that are alike as before, and a state that nobody has changed"""
    def __init__(self, opt, settings, params, grads):
        refuse_sparse(grads, opt.name)
        self.opt,self.settings,self.params,self.missing,self.seen = opt,settings,params,[g is None for g in grads],None
        self.buckets,self.loose,self.buffers,self.fresh = {},[],Buffers(opt.scratch_bytes),True
        groups = [i for i,g in enumerate(opt.param_groups) for _ in g['params']]
        first  = {id(p): i for i,p in reversed([*enumerate(params)])}            # a parameter given twice is moved once
        stuck  = set()                                                         # chains that join all parameters, some of which are loose
        for again in (False, True):
            for i,(p,group) in enumerate(zip(params, groups)):
                if grads[i] is not None and first[id(p)]==i and not self.place(opt, i, p, group, settings[group], settings[group].chain.key in stuck): self.loose.append((i,group))
            stuck = {settings[g].chain.key for _,g in self.loose} & {s.chain.key for s in settings if any(b.is_global for b in s.chain.blocks)}
            if not stuck or again: break
            stuck |= {s.chain.key for s in settings if any(b.is_global for b in s.chain.blocks)}
            self.buckets,self.loose = {},[]
        self.buckets = [*self.buckets.values()]
        for b in self.buckets: b.make_units(params, grads, opt._adopts, self.buffers)
        self.held = [i for b in self.buckets for i in b.indices]
        self.addresses = [p.data_ptr() for p in params]

    def place(self, opt, i, p, group, settings, loose):
        "Put a parameter into its bucket; False if it can be in none"
        if loose or settings.way=='loop' or type(p) not in plain_types or p.layout!=torch.strided or row(real(p.detach())) is None: return False
        states = opt.__dict__['state'].get(p, {})
        x = real(p.detach())
        c = x if x.dtype==wide(x.dtype) else None
        values = {n: states[n] if n in states else init(c if c is not None else (c := compute(p))) for n,init in settings.chain.state.items()}
        host = {n: v for n,v in values.items() if not isinstance(v, Tensor)}
        kept = {n: v.detach() for n,v in values.items() if isinstance(v, Tensor)}
        key = settings,p.dtype,p.device,*host.items(),*((n, s.dtype) for n,s in kept.items())
        try: key,bucket = self.find(key, settings, host, kept, x)
        except Untraceable as e:
            if settings.way=='fused': raise ValueError(f"{opt.name}: fused=True cannot be: {e}; leave fused out") from e
            return False
        if bucket: bucket.add(group, i, x, kept)
        return bucket is not None
    def find(self, key, settings, host, kept, x):
        "The bucket for `key`, and its full key; no bucket if the memory of the parameter or its state is no row"
        try: t,_,_ = find(settings.chain, settings.numbers|host, wide(x.dtype), x.device)
        except NeedsShape:
            if settings.way!='fused': raise
            if not all(s.is_contiguous() for s in (x, *kept.values())): return key,None
            key = *key,small_shape(x.shape)
            if key not in self.buckets: self.buckets[key] = ShapedBucket(settings, host, find_shaped(settings.chain, settings.numbers|host, x, kept))
            self.buckets[key].shaped.graph(x, x, kept)
        else:
            if kept.keys()!={*t.states} or not all(aligned(real(s), x) for s in kept.values()): return key,None
            if key not in self.buckets: self.buckets[key] = Bucket(settings, host, t)
        return key,self.buckets[key]

    def holds(self, settings, params, grads):
        return (len(params)==len(self.params) and all(map(is_, params, self.params)) and self.same_gradients(grads)
                and _same_addresses(params, self.addresses, self.held) and self.alike(settings) and (not self.opt._watched or self.untouched()))
    def same_gradients(self, grads):
        "Whether there are gradients where there were, none of them sparse"
        if self.seen and all(map(is_, grads, self.seen)): return True
        if [g is None for g in grads]!=self.missing: return False
        refuse_sparse(grads, self.opt.name)
        if self.opt._adopts: self.seen = grads                                  # they live as long as the parameters do
        return True
    def alike(self, settings):
        "Whether groups that are run together still have the same settings"
        if len(settings)==len(self.settings) and all(map(is_, settings, self.settings)): return True
        self.settings = settings
        return all(settings[g] is settings[b.groups[0]] for b in self.buckets for g in b.groups) and \
               all(settings[b.groups[0]].chain is b.chain and settings[b.groups[0]].way==b.way for b in self.buckets)
    def untouched(self):
        state = self.opt.__dict__['state']
        return self.fresh or all((s := state.get(self.params[i])) is not None and all(s.get(n) is v for n,v in kept.items()) and all(s.get(n)==v for n,v in b.host.items())
                   for b in self.buckets for i,kept in zip(b.indices, b.states))

    def run(self, grads):
        opt,state = self.opt,self.opt.__dict__['state']
        ready = [b.prepare(self.settings[b.groups[0]].numbers, self.buffers) for b in self.buckets]          # may raise Untraceable
        items = [Item(self.params[i], state.get(self.params[i], {}), self.settings[g].chain, self.settings[g].numbers) for i,g in self.loose]
        loop(items)
        for it in items: it.check(opt.name)
        run_all([r for _,runs in ready for r in runs(grads)])
        for b,(host,_) in zip(self.buckets, ready): b.host = host
        if opt._adopts: torch.autograd.graph.increment_version([self.params[i] for i in self.held])      # which a write to the row does not do
        for it in items: state[it.p].update(it.write())
        if self.fresh: self.attach(state)
        if opt._watched: self.settle()

    def attach(self, state):
        "Make the states of the buckets those of the optimizer"
        for b in self.buckets:
            for i,kept in zip(b.indices, b.states): state[self.params[i]].update(kept)
        self.fresh = False
        self.settle()
    def settle(self):
        "Write the counters, which a bucket holds for all of its parameters, into each one's state"
        if self.fresh: return
        state = self.opt.__dict__['state']
        for b in self.buckets:
            if b.host:
                for i in b.indices: state[self.params[i]].update(b.host)

def refuse_sparse(grads, who):
    if any(g is not None and g.is_sparse for g in grads):
        raise RuntimeError(f"{who} does not support sparse gradients; use a dense layer (sparse=False), or p.grad = p.grad.to_dense()")

plain_types = torch.Tensor,torch.nn.Parameter

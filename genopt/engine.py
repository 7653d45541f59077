"""How a step is run: a plan of buckets, made once and used for as long as it holds.

Parameters whose chain, dtype, device, hyper-parameters and counters agree make a bucket, whatever groups they are in. What fits in none is
`loose` and goes through `loop`, the reference; so do callbacks that ask the model, which come before the buckets.

A step first does all that can fail: loose parameters, numbers on the host, kernels. Only then is anything written."""

import math
from copy import copy
from operator import is_
from torch import Tensor
import torch
from .buckets import Bucket,ShapedBucket,find,find_shaped,run_all
from .check import small as small_shape
from .core import Chain
from .kernels import Buffers,wide
from .lead import Cut,cut
from .loop import Item,as_declared,compute,finite,first,loop,own,real
from .rows import Gathered,Large,aligned,real_dtype,row,same_addresses
from .sparse import Rows,why_not
from .sharded import agree,alike,is_sharded,local
from .trace import NeedsShape,Untraceable
from .watch import name_in

__all__ = ['Plan', 'check_way', 'counter', 'how']


# -- Before there is a plan --

def check_way(chain, numbers, params, who, fused, capturable):
    "Raise `ValueError` if `chain` cannot be compiled, or captured, for one of `params`; says which callback, and why"
    flag = 'capturable=True' if capturable else 'fused=True'
    for p in {(p.dtype, p.device, small_shape(p.shape)): p for p in params if type(p) in plain_types}.values():
        x = compute(p)
        values = {n: init(x) for n,init in chain.state.items()}
        host    = {n: v for n,v in values.items() if not isinstance(v, Tensor)}
        numbers = numbers | ({n: counter(v, p.device) for n,v in host.items()} if capturable else host)
        divided = lambda joins: Cut(chain) if capturable else cut(chain, numbers, x, joins)
        try:
            try: check_cut(divided(False), numbers, x, values, fused)
            except Untraceable:
                if not fused or not joins(chain): raise
                check_cut(divided(True), numbers, x, values, fused)
        except Untraceable as e:
            remedy = 'take fused=True with it, or ' if isinstance(e, NeedsShape) and not fused else ''
            raise ValueError(f"{who}: {flag} cannot be: {e}; {remedy}leave {flag.partition('=')[0]} out") from e

def check_cut(c, numbers, x, values, fused):
    "The same for what is left of a chain, and parameters like `x` with states like `values`"
    try: find(c.rest, numbers|c.numbers, x.dtype, x.device)
    except NeedsShape:
        if not fused: raise
        find_shaped(c.rest, numbers|c.numbers, x, {n: values.get(n, x) for n in [*c.rest.state, *c.rest.fed] if n not in numbers})

def counter(v, device): return v if isinstance(v, Tensor) else torch.tensor(v, dtype=torch.float64, device=device)

def how(chain, numbers, params, way):
    "How `chain` will be run for `params`, in words, and for each callback what it is run on"
    if way=='loop' or not params: return 'each parameter by itself (foreach=False)',{}
    x,t,why = compute(params[0]),None,None
    c,numbers = Cut(chain),numbers | {n: v for n,init in chain.state.items() if not isinstance(v := init(x), Tensor)}
    for called in (False, True):
        try: t,_,_ = find((c := cut(chain, numbers, x, called)).rest, numbers|c.numbers, x.dtype, x.device)
        except Untraceable as e:
            why = why or e
            if isinstance(e, NeedsShape) and way=='fused' and not joins(c.rest):
                return f'{c.before}each parameter in its own shape, compiled (fused=True); {e}',{}
        if t or not joins(c.rest): break
    if not t: return f'each parameter by itself; {why}',{}
    parts = {b: 'all parameters' if b.is_global else 'elements' for b in c.rest.blocks} | dict(move='elements')
    for n in t.nodes:
        if t.reduces(n) and not n.meta['block'].is_global: parts[n.meta['block']] = 'each parameter'
    rows = 'each parameter as a row of elements' if t.per_tensor else 'small parameters side by side, large ones as rows of elements'
    return c.before + rows + (', one compiled kernel (fused=True)' if way=='fused' and len(t.passes)==1 else
                   f', {len([p for p in t.passes if p.outs])} compiled kernels (fused=True)' if way=='fused' else ', in chunks'),parts


# -- The plan --

class Plan:
    """Which parameters are run together, and how. `holds` says whether it is still right: the same parameters, in the same memory, with a
    gradient or without, in groups that are alike as before, and a state that nobody has changed"""
    def __init__(self, opt, settings, params, grads):
        if any(p.is_meta and p.requires_grad and g is None for p,g in zip(params, grads)):
            raise RuntimeError(f"{opt.name} has parameters on the meta device, without gradients; "
                               "make it after the model has got its memory (to_empty)")
        self.opt,self.settings,self.params,self.missing,self.seen = opt,settings,params,[g is None for g in grads],None
        self.buffers,self.fresh = Buffers(opt.scratch_bytes),True
        self.sparse = {i for i,g in enumerate(grads) if g is not None and g.is_sparse}
        self.first = {id(p): i for i,p in reversed([*enumerate(params)])}              # a parameter given twice is moved once
        self.parted,self.uncut = {},set()
        self.sort(grads, joins=False)
        if self.uncut or any(joins(settings[g].chain) for _,g in self.loose): self.sort(grads, joins=True)
        self.buckets = [*self.buckets.values()]
        led = {i for b in self.buckets if b.cut for i in b.indices}
        grads = [compute(local(g)) if i in led else g for i,g in enumerate(grads)] if led else grads          # as what is called before makes them
        for b in self.buckets: b.make_units(params, grads, opt._adopts and not b.cut, self.buffers)
        self.unseen = [params[i] for b in self.buckets for u in b.units for i in getattr(u, 'indices', ())
                       if b.way=='fused' and isinstance(u, Large) or isinstance(u, Gathered) and (u.bytes or not u.copied)]
        self.gathered = [u for b in self.buckets for u in b.units if isinstance(u, Gathered)]
        self.checked  = [*({i for i,g in enumerate(grads) if g is not None}-{i for u in self.gathered for i in u.indices})]
        self.joins = [(b, o) for b in self.buckets for o in b.chain.blocks if o.is_global]
        self.held = [i for b in self.buckets for i in b.indices]
        self.parts = {i: local(params[i]) for i,p in enumerate(params) if is_sharded(p)}
        self.addresses,self.sizes = [p.data_ptr() for p in params],[*map(Tensor.numel, params)]
        self.part_counters()

    def part_counters(self):
        "Give a counter of its own to each parameter that is in no bucket, but still has the one of a bucket"
        state,taken = self.opt.__dict__['state'],{id(t) for b in self.buckets for t in b.host.values() if isinstance(t, Tensor)}
        for i in {*range(len(self.params))}-{*self.held} if taken else ():
            if (p := self.params[i]) in state: state[p].update({n: v.clone() for n,v in state[p].items() if id(v) in taken})

    def sort(self, grads, joins):
        """Sort all parameters that have a gradient into buckets; those that fit in none, or want none, are loose. A callback over all parameters is
        called for all of them or for none: with `joins` it is, and buckets begin after it"""
        self.buckets,self.loose,self.called = {},[],joins
        groups = [i for i,g in enumerate(self.opt.param_groups) for _ in g['params']]
        for i,(p,group) in enumerate(zip(self.params, groups)):
            if grads[i] is None or self.first[id(p)]!=i: continue
            settings = self.settings[group]
            self.check_shapes(i, settings.chain, grads[i])
            if grads[i].is_sparse: self.check_sparse(i, settings)
            if grads[i].is_sparse or settings.way=='loop' or not self.place(i, p, grads[i], group, settings): self.loose.append((i, group))
        if on_device := [i for i,g in self.loose if self.settings[g].capturable]:
            raise ValueError(f"{self.opt.name}: capturable=True takes plain parameters without gaps in memory, states that lie as they do, "
                             f"and callbacks that need no shape (or fused=True); parameter {on_device[0]} has others")

    def check_sparse(self, i, settings):
        "Refuse a sparse gradient of a parameter whose chain cannot take one"
        p,chain = self.params[i],settings.chain
        x    = compute(p if p.numel() else p.new_zeros(1))
        host = {n: v for n,init in chain.state.items() if not isinstance(v := init(x[:1]), Tensor)}
        rest = Chain([cb for b,cb in zip(chain.every, chain.cbs) if 'rows' not in b.reads])
        try:
            t,*_ = find(rest, settings.numbers|host, wide(real_dtype(p.dtype)), p.device)
            whole = t.per_tensor or t.random or len(t.passes)>1
        except Untraceable: whole = True
        if why := why_not(chain, settings.numbers|host, not whole, p):
            raise RuntimeError(f"{self.opt.name} does not support sparse gradients of {name_in(self.opt.param_groups, i)}: {why}. "
                               "Or use a dense layer (sparse=False), or p.grad = p.grad.to_dense()")
        if settings.capturable: raise RuntimeError(f"{self.opt.name}: capturable=True cannot take sparse gradients")
    def place(self, i, p, grad, group, settings):
        "Put a parameter into its bucket; False if it can be in none"
        sharded = is_sharded(p) and is_sharded(grad) and alike(grad, p)
        if not sharded and (type(p) not in plain_types or type(grad) is not Tensor) or p.layout!=torch.strided: return False
        x,states,c = real(local(p).detach()),self.opt.__dict__['state'].get(p, {}),None
        if row(x) is None: return False
        values = {}
        try: whole,settings = settings,self.part(settings, x)
        except Untraceable as e:
            if settings.way!='fused' or self.called and settings not in self.uncut: return False
            raise ValueError(f"{self.opt.name}: fused=True cannot be: {e}; leave fused out") from e
        for n,init in settings.chain.state.items():
            if n not in states and c is None: c = compute(p)
            values[n] = as_declared(states[n], init, x) if n in states else init(c)
        host = {n: v for n,v in values.items() if not isinstance(v, Tensor)}
        kept = {n: v.detach() for n,v in values.items() if isinstance(v, Tensor)}
        if sharded and not all(is_sharded(v) and alike(v, p) for v in kept.values()): return False
        kind = wide(x.dtype) if settings.cut else grad.dtype                                           # what is called before makes it of that kind
        key  = settings,p.dtype,kind,p.device,states.get('do_wd'),*host.items(),*((n, s.dtype) for n,s in kept.items())
        if settings.capturable: host = {n: self.counter(states.get(n), v, p.device) for n,v in host.items()}
        try: key,bucket = self.find(key, settings, host, kept, x, sharded)
        except Untraceable as e:
            if settings.capturable: raise ValueError(f"{self.opt.name}: capturable=True cannot be: {e}; leave capturable out") from e
            if settings.way=='fused' and joins(settings.chain): self.uncut.add(whole)
            elif settings.way=='fused': raise ValueError(f"{self.opt.name}: fused=True cannot be: {e}; leave fused out") from e
            return False
        if bucket:
            bucket.add(group, i, x, kept, sharded)
            bucket.do_wd = states.get('do_wd')
        return bucket is not None
    def part(self, settings, x):
        "Settings of that part of the chain which may be a graph"
        if settings.capturable: return settings
        c = cut(settings.chain, settings.numbers, x, self.called)
        if not c.lead: return settings
        if (settings, c) not in self.parted:
            self.parted[settings, c] = res = copy(settings)
            res.chain,res.numbers,res.cut = c.rest,settings.numbers|c.numbers,c
        return self.parted[settings, c]
    def check_shapes(self, i, chain, grad=None):
        "Refuse a parameter that has got another shape than its gradient or its state"
        p,told = self.params[i],None
        if grad is not None and grad.shape!=p.shape: told = f"its gradient is of {tuple(grad.shape)}. Nothing has changed"
        for n,v in self.opt.__dict__['state'].get(p, {}).items():
            if n in chain.state and isinstance(v, Tensor) and v.ndim and v.shape!=p.shape and v.shape!=(like := first(chain.state[n], p)).shape:
                told = told or (f"its state {n!r} is of {tuple(v.shape)} and would be of {tuple(like.shape)}. Nothing has changed; "
                                "`del opt.state[p]` gives it a new state")
        if told: raise RuntimeError(f"{self.opt.name}: {name_in(self.opt.param_groups, i)} has shape {tuple(p.shape)} now, {told}")
    def counter(self, old, v, device):
        "The tensor of counter `v` of a new bucket: the one that is there, unless another bucket has it"
        taken = {id(t) for b in self.buckets.values() for t in b.host.values()}
        return old if isinstance(old, Tensor) and (old.dtype,old.device)==(torch.float64,device) and id(old) not in taken else counter(v, device)
    def find(self, key, settings, host, kept, x, sharded):
        """The bucket for `key`, and its full key. No bucket if the memory of the parameter or its state is no row, or if this is a part of it and
        the chain wants the whole: a norm, a shape, random numbers"""
        try: t,_,_ = find(settings.chain, settings.numbers|host, wide(x.dtype), x.device)
        except NeedsShape:
            if settings.way!='fused' or joins(settings.chain) and not settings.capturable: raise
            if sharded or not all(s.is_contiguous() for s in (x, *kept.values())): return key,None
            key,kept = (*key,small_shape(x.shape)),kept|settings.chain.given(x)
            if key not in self.buckets:
                self.buckets[key] = ShapedBucket(settings, host, find_shaped(settings.chain, settings.numbers|host, x, kept), key[2])
            self.buckets[key].graph(x, kept)
        else:
            if kept.keys()!={*t.states} or not all(fits(real(local(s)), x, n in t.single) for n,s in kept.items()): return key,None
            if sharded and (len(t.passes)>1 or t.random): return key,None
            if key not in self.buckets: self.buckets[key] = Bucket(settings, host, t)
        return key,self.buckets[key]

    def holds(self, settings, params, grads):
        return (len(params)==len(self.params) and all(map(is_, params, self.params)) and self.same_gradients(grads)
                and same_addresses(params, self.addresses, self.held) and [*map(Tensor.numel, params)]==self.sizes
                and all(local(params[i]) is x for i,x in self.parts.items())
                and self.alike(settings) and (not self.opt._watched or self.untouched()))
    def same_gradients(self, grads):
        "Whether there are gradients where there were, and sparse ones where such were"
        if self.seen and all(map(is_, grads, self.seen)): return True
        if [g is None for g in grads]!=self.missing: return False
        if any(g.is_sparse!=(i in self.sparse) for i,g in enumerate(grads) if g is not None): return False
        if self.opt._adopts: self.seen = grads                                  # they live as long as the parameters do
        return True
    def alike(self, settings):
        "Whether groups that are run together still have the same settings"
        old = self.settings
        if len(settings)==len(old) and all(map(is_, settings, old)): return True
        self.settings = settings
        return (len(settings)==len(old) and all((a.chain,a.way)==(b.chain,b.way) for a,b in zip(settings, old))
                and all(settings[g] is settings[b.groups[0]] for b in self.buckets for g in b.groups))
    def untouched(self):
        "Whether the state of every parameter is what the buckets hold"
        state = self.opt.__dict__['state']
        def same(b, i, kept):
            s = state.get(self.params[i], {})
            return (all(s.get(n) is v for n,v in kept.items()) and not any(different(s.get(n), v) for n,v in b.host.items())
                    and s.get('do_wd')==b.do_wd)
        return self.fresh or all(same(b, i, kept) for b in self.buckets for i,kept in b.kept())

    def run(self, grads, model=None):
        try: self.go([*map(local, grads)] if self.parts else grads, model)
        finally: self.buffers.holds = None
    def go(self, grads, model):
        opt,state = self.opt,self.opt.__dict__['state']
        self.check_joins()
        for i,g in self.loose: self.check_shapes(i, self.settings[g].chain)
        numbers = [own(self.settings[b.groups[0]].numbers, vars(b)) for b in self.buckets]
        led = [b.start(ns, self.params, state) if b.cut else [] for b,ns in zip(self.buckets, numbers)]
        items = [(Rows if i in self.sparse else Item)(p := self.params[i], state.get(p, {}), self.settings[g].chain, self.settings[g].numbers)
                 for i,g in self.loose]
        order  = dict(zip([i for i,_ in self.loose], items)) | {i: it for b,its in zip(self.buckets, led) for i,(it,_) in zip(b.indices, its)}
        called = [order[i] for i in sorted(order)]                                # a callback over all parameters has them in their order
        try: loop(called, model)
        except (RuntimeError, NotImplementedError) as e:
            if not self.parts: raise
            chains = ', '.join(dict.fromkeys(str(it.chain) for it in called if is_sharded(it.p)))
            raise RuntimeError(f"{opt.name}: {chains}: a callback cannot be run on sharded parameters (DTensor). Nothing has changed. {e}") from e
        for it in called: it.check(opt.name)
        if any(led): grads,self.buffers.holds = [*grads],None
        numbers = [ns | b.follow(its, grads, opt.name) if its else ns for b,ns,its in zip(self.buckets, numbers, led)]
        ready   = [b.prepare(ns, self.buffers) for b,ns in zip(self.buckets, numbers)]              # may raise Untraceable
        if waits := [r for _,units,_ in ready if units for r in units(grads)]: run_all(waits)       # may yet find callbacks in different orders
        for _,_,at_once in ready:
            if at_once: at_once(grads)
        for b,(host,_,_) in zip(self.buckets, ready): b.count(host)
        torch.autograd.graph.increment_version(self.unseen)                       # written in ways of which autograd does not know
        for it in items: state[it.p].update(it.write())
        if self.fresh: self.attach(state)
        if opt._watched: self.settle()

    def nonfinite(self, grads):
        "Which gradients are not finite, or have squares that are not: found by their sum of squares, in one pass"
        self.buffers.holds,parts = None,[*map(local, grads)] if self.parts else grads
        if self.sparse: parts = [g._values() if i in self.sparse else g for i,g in enumerate(parts)]
        sums = [squares(parts[i]) for i in self.checked]
        sums+= [squares(u.gradients([parts[i] for i in u.indices], self.buffers)) for u in reversed(self.gathered)]     # first is run first
        fine = all(map(math.isfinite, on_host(sums)))
        if not (agree(not fine, grads) if self.parts else not fine): return []
        seen = [g is not None and not finite(g).all() for g in parts]
        if self.parts: seen = [agree(s, [g]) for s,g in zip(seen, grads)]                # in all processes the same
        bad = [i for i,s in enumerate(seen) if s]
        elsewhere = self.parts and agree(bool(bad), grads)                               # of a plain one beside them, in another process only
        return bad or [None]*bool(elsewhere)

    def check_joins(self):
        "Refuse values of which a callback over all parameters needs one, and that differ"
        seen = {}
        for b,block in self.joins:
            numbers = own(self.settings[b.groups[0]].numbers, vars(b)) | b.host
            for n in {*block.reads}-block.lists.keys():
                if n in numbers and (other := seen.setdefault((block, n), numbers[n])) is not numbers[n] and different(other, numbers[n]):
                    raise ValueError(block.one_value(n, other, numbers[n]))
    def attach(self, state):
        "Make the states of the buckets those of the optimizer"
        for b in self.buckets:
            for i,kept in b.kept(): state[self.params[i]].update(kept)
        self.fresh = False
        self.settle()
    def settle(self):
        "Write the counters, which a bucket holds for all of its parameters, into each one's state"
        if self.fresh: return
        state = self.opt.__dict__['state']
        for b in self.buckets:
            if b.host:
                for i in b.indices: state[self.params[i]].update(b.host)

def squares(g):
    "The sum of the squares of `g`, or its root: whichever is quicker"
    if g.dtype in (torch.float32, torch.float64) and g.is_contiguous(): return torch.dot(v := g.view(-1), v)
    return torch.linalg.vector_norm(g, dtype=wide(g.dtype))
def on_host(xs):
    "The values of 0-d tensors; of many on a device with one look"
    if not any(x.is_cuda for x in xs): return [x.item() for x in xs]
    return [v for d in {x.device for x in xs} for v in torch.stack([x.double() for x in xs if x.device==d]).tolist()]

def fits(s, x, single):
    "Whether the state `s` is a row as the parameter `x` is, or, if it is a `single` number, in the precision in which `x` is computed"
    return not s.ndim and s.dtype==wide(x.dtype) if single else aligned(s, x)
def different(a, b): return a is not b if isinstance(b, Tensor) else a!=b          # without looking into a tensor
def joins(chain): return any(b.is_global for b in chain.blocks)

plain_types = torch.Tensor,torch.nn.Parameter

"""A plan: which parameters are run together, by which program. It is made once, and is used for as long as it is valid.

A parameter's walk through a step:

    sort      `place` asks `lower` for the program of its chain and layout; all parameters of a program are one `Work`
    valid     the same parameters and gradients as before, in the same memory, with the same chains, and a state that nobody has written
    prepare   guards and scalars; callbacks that are called; stages that write scratch memory; what joins all parameters
    commit    the last stages, which write; then the counters

Parameters whose chain cannot be taken apart are `called`: they go through the reference, `loop`. The plan does not know the optimizer."""

import math
from dataclasses import dataclass
from operator import is_
import torch
from torch import Tensor
from .._torch import increment_versions
from ..check import small
from ..core import Chain
from ..loop import Item,as_declared,compute,finite,first,loop
from ..lower.lead import cut
from ..lower.program import Request,layout_of,lower
from ..lower.words import NotRecorded
from ..sharded import agree,alike,is_sharded,local
from ..sparse import Rows,why_not
from ..store import Clock
from ..watch import name_in
from . import compiler
from .memory import aligned,dense,real,real_dtype
from .work import Row,Work

__all__ = ['Inputs', 'Plan', 'check_way', 'decide', 'how', 'on_device']

plain_types = torch.Tensor,torch.nn.Parameter


# -- Before there is a plan --

def backend_of(way, device, capturable=False):
    "Which backend runs a group of parameters on `device`; `way` is what the user asked for, `'launch'`, `'foreach'`, `'reference'` or None"
    if way=='reference': return way
    launches = device.type=='cpu' and not capturable and way!='foreach'
    return 'launch' if launches and compiler.available() else 'foreach'

def on_device(v, device): return v if isinstance(v, Tensor) else torch.tensor(v, dtype=torch.float64, device=device)

def decide(chain, numbers, p, way, capturable=False):
    """The program for `chain` and a parameter like `p`, with states as they are at first, and what is called before it. The program has no stages
    where the callbacks are called for each parameter"""
    x,q = compute(p),real(p.detach())
    values = {n: init(x) for n,init in chain.state.items()}
    hosts  = {n: v for n,v in values.items() if not isinstance(v, Tensor)}
    if capturable: hosts = {n: on_device(v, p.device) for n,v in hosts.items()}
    request,tried = Request(backend_of(way, p.device, capturable), capturable),[]
    for joins in (False, True):
        try: before = cut(chain, numbers|hosts, x, joins) if not capturable else None
        except NotRecorded as e:
            tried.append(str(e))
            continue
        rest = before.rest if before else chain
        program,_ = lower(rest, layout_of(q, q.dtype, values, rest), numbers | hosts | (before.numbers if before else {}), request)
        if not program.called: return program,before
        tried.append(str(program.why[0]))
        if not any(b.is_global for b in chain.blocks): break
    return None,tried[0]


def check_way(chain, numbers, params, who, fused, capturable):
    "Raise `ValueError` if `chain` cannot be launched, or captured, for one of `params`; says which callback, and why"
    flag = 'capturable=True' if capturable else 'fused=True'
    if fused and not capturable and not compiler.available():
        raise ValueError(f"{who}: fused=True cannot be: {compiler.missing()}; or leave fused out")
    for p in {(p.dtype, p.device, small(p.shape)): p for p in params if type(p) in plain_types}.values():
        program,why = decide(chain, numbers, p, 'launch', capturable)
        if program is None: raise ValueError(f"{who}: {flag} cannot be: {why}; leave {flag.partition('=')[0]} out")

def how(chain, numbers, params, way):
    "How `chain` is run for `params`, in words, and for each callback what it runs on"
    if way=='reference' or not params: return 'each parameter by itself (foreach=False)',{}
    program,before = decide(chain, numbers, params[0], way)
    if program is None: return f'each parameter by itself; {before}',{}
    words = dict(launch='one launch for all parameters', foreach='operations on lists of parameters (foreach)')[program.request.backend]
    if program.why: words = f'{words}, around {", ".join(w.callback for w in program.why)}'
    return (before.words if before else '') + words,program.runs_on | dict(move='elements')


# -- The plan --

@dataclass
class Inputs:
    "What a step starts from: parameters and gradients in order, the settings of each group, and the groups themselves, for messages"
    params: list
    grads: list
    settings: list
    groups: list

class Plan:
    def __init__(self, inputs, store, who, scratch_bytes, noted, led=None):
        params,grads = inputs.params,inputs.grads
        if any(p.is_meta and p.requires_grad and g is None for p,g in zip(params, grads)):
            raise RuntimeError(f"{who} has parameters on the meta device, without gradients; make it after the model has got its memory (to_empty)")
        self.store,self.who,self.scratch_bytes,self.noted = store,who,scratch_bytes,noted
        self.params,self.settings,self.groups = params,inputs.settings,inputs.groups
        self.group_of = [i for i,g in enumerate(inputs.groups) for _ in g['params']]
        self.missing  = [g is None for g in grads]
        self.none     = not any(self.missing)
        self.sparse   = {i for i,g in enumerate(grads) if g is not None and g.is_sparse}
        self.first    = {id(p): i for i,p in reversed([*enumerate(params)])}              # a parameter given twice is moved once
        self.parts    = {}
        self.led      = led or {}                                                          # what callbacks that were called have come to in this step
        self.unjoined = False
        self.sort(grads, joins=False)
        if self.unjoined or any(any(b.is_global for b in self.settings[g].chain.blocks) for _,g in self.called): self.sort(grads, joins=True)
        works,self.works = self.works,[*self.works.values()]
        self.moved = [params[i] for w in self.works if w.launched for i in w.indices]
        for key,w in zip(works, self.works): w.bind(len(grads), key[-1])
        self.variants = {}
        self.led    = {}
        self.sharded = any(map(is_sharded, params))
        self.simple  = not self.called and not self.sharded and all(w.simple and not w.cut and not w.joins for w in self.works)
        self.fresh,self.version = True,store.version

    # -- sorting --

    def sort(self, grads, joins):
        """Give each parameter that has a gradient to the work of its program, or to those that are called. A callback over all parameters is called
        for all of them or for none: with `joins` it is"""
        self.works,self.called,self.joins,self.rows = {},[],joins,{}
        for i,(p,group) in enumerate(zip(self.params, self.group_of)):
            if grads[i] is None or self.first[id(p)]!=i: continue
            settings = self.settings[group]
            self.check_shapes(i, settings.chain, grads[i])
            if grads[i].is_sparse: self.check_sparse(i, settings)
            if grads[i].is_sparse: why = "its gradient is sparse"
            elif settings.way=='reference': why = 'foreach=False'
            else: why = self.place(i, p, grads[i], group, settings)
            if why is None: continue
            self.called.append((i, group))
            if settings.capturable: raise ValueError(f"{self.who}: capturable=True cannot be: {why}")

    def place(self, i, p, grad, group, settings):
        "Give parameter `i` to its work; in words why it can be in none"
        sharded = is_sharded(p) and is_sharded(grad) and alike(grad, p)
        if not sharded and (type(p) not in plain_types or type(grad) is not Tensor) or p.layout!=torch.strided: return f"it is a {type(p).__name__}"
        x,state,c = real(local(p).detach()),self.store.of(p),None
        values = {}
        for n,init in settings.chain.state.items():
            if n not in state and c is None: c = compute(p)
            values[n] = as_declared(state[n], init, x) if n in state else init(c)
        hosts = {n: v for n,v in values.items() if not isinstance(v, Tensor)}
        kept  = {n: v for n,v in values.items() if isinstance(v, Tensor)}
        if sharded and not all(is_sharded(v) and alike(v, p) for v in kept.values()): return "its state is not sharded as it is"
        if settings.capturable: hosts = {n: on_device(v, p.device) for n,v in hosts.items()}
        try: before = None if settings.capturable else cut(settings.chain, settings.numbers|hosts, compute(p), self.joins, self.noted)
        except NotRecorded as e: return self.refused(settings, e)
        chain,numbers = (before.rest,settings.numbers|before.numbers) if before else (settings.chain,settings.numbers)
        if i in self.led: numbers = numbers | {n: self.led[i].ns[n] for n in before.numbers if n in self.led[i].ns}
        tensors = {n: real(local(s).detach()) for n,s in kept.items()}
        backend = backend_of(settings.way, p.device, settings.capturable)
        if backend=='launch' and not dense(x): backend = 'foreach'
        grad_dtype = wide(x.dtype) if before and before.lead else real_dtype(grad.dtype)
        layout  = layout_of(x, grad_dtype, tensors, chain)
        program,_ = lower(chain, layout, numbers|hosts, Request(backend, settings.capturable))
        if program.called: return self.refused(settings, program.why[0])
        if backend=='launch' and not all(aligned(tensors[n], x) for n in {*tensors}&self.rows_of(program)):
            program,_ = lower(chain, layout, numbers|hosts, Request('foreach', settings.capturable))
        if sharded and not program.elementwise: return "it is sharded, and a callback needs the whole of it"
        key  = program,before if before and before.lead else None,p.dtype,grad_dtype
        work = self.works.setdefault(key, Work(program, key[1], self.scratch_bytes, self.who))
        work.add(i, x, tensors, local(p), kept, self.row(group, p, state, hosts))
        if sharded: self.parts[i] = local(p)
        return None
    def rows_of(self, program): return {n for s in program.stages if s.flat for n in s.flat.names}
    def refused(self, settings, why):
        "A parameter goes to those that are called, unless the user asked for one launch"
        has_joins = any(b.is_global for b in settings.chain.blocks)
        if has_joins and not self.joins: self.unjoined = True
        elif settings.way=='launch': raise ValueError(f"{self.who}: fused=True cannot be: {why}; leave fused out")
        return str(why)
    def row(self, group, p, state, hosts):
        "The row of scalars for a parameter of `group` with counters `hosts`: it shares one with those that count alike"
        undecayed = state.get('do_wd') is False
        key = group,undecayed,*((n, id(v) if isinstance(v, Tensor) else v) for n,v in hosts.items())
        if any(isinstance(v, Tensor) for v in hosts.values()): key = group,undecayed,*((n, float(v)) for n,v in hosts.items())
        if key not in self.rows:
            clock = getattr(state, 'clock', None)
            reuse = clock is not None and clock.values.keys()==hosts.keys() and not any(r.clock is clock for r in self.rows.values())
            self.rows[key] = Row(group, clock if reuse and clock.parameters==self.sharing(clock) else Clock(self.own(hosts)), undecayed)
        return self.rows[key]
    def own(self, hosts): return {n: v.clone() if isinstance(v, Tensor) else v for n,v in hosts.items()}
    def sharing(self, clock):
        "How many parameters that move now have this clock"
        return sum(getattr(self.store.of(p), 'clock', None) is clock for p,m in zip(self.params, self.missing) if not m)

    def check_shapes(self, i, chain, grad=None):
        "Refuse a parameter that has got another shape than its gradient or its state"
        p,told = self.params[i],None
        if grad is not None and grad.shape!=p.shape: told = f"its gradient is of {tuple(grad.shape)}. Nothing has changed"
        for n,v in self.store.of(p).items():
            if n in chain.state and isinstance(v, Tensor) and v.ndim and v.shape!=p.shape and v.shape!=(like := first(chain.state[n], p)).shape:
                told = told or (f"its state {n!r} is of {tuple(v.shape)} and would be of {tuple(like.shape)}. Nothing has changed; "
                                "`del opt.state[p]` gives it a new state")
        if told: raise RuntimeError(f"{self.who}: {name_in(self.groups, i)} has shape {tuple(p.shape)} now, {told}")
    def check_sparse(self, i, settings):
        "Refuse a sparse gradient of a parameter whose chain cannot take one"
        p,chain = self.params[i],settings.chain
        x    = compute(p if p.numel() else p.new_zeros(1))
        host = {n: v for n,init in chain.state.items() if not isinstance(v := init(x[:1]), Tensor)}
        rest = Chain([cb for b,cb in zip(chain.every, chain.cbs) if 'rows' not in b.reads])
        program,_ = decide(rest, settings.numbers|host, x, 'foreach')
        if why := why_not(chain, settings.numbers|host, program is not None and program.elementwise, p):
            raise RuntimeError(f"{self.who} does not support sparse gradients of {name_in(self.groups, i)}: {why}. "
                               "Or use a dense layer (sparse=False), or p.grad = p.grad.to_dense()")
        if settings.capturable: raise RuntimeError(f"{self.who}: capturable=True cannot take sparse gradients")

    # -- validity --

    def valid_for(self, inputs):
        params,grads = inputs.params,inputs.grads
        return (self.version==self.store.version and len(params)==len(self.params) and all(map(is_, params, self.params))
                and self.same_gradients(grads) and self.same_settings(inputs.settings)
                and all(w.unmoved() for w in self.works) and all(local(params[i]) is x for i,x in self.parts.items()))
    def same_gradients(self, grads):
        "Whether there are gradients where there were, and sparse ones where such were"
        if [g is None for g in grads]!=self.missing: return False
        return not self.sparse and not self.called or not any(g.is_sparse!=(i in self.sparse) for i,g in enumerate(grads) if g is not None)
    def same_settings(self, settings):
        old = self.settings
        if len(settings)==len(old) and all(map(is_, settings, old)): return True
        same = len(settings)==len(old) and all((a.chain,a.way,a.capturable)==(b.chain,b.way,b.capturable) for a,b in zip(settings, old))
        if same: self.settings = settings                                         # with other numbers
        return same

    # -- a step --

    def aim(self, inputs):
        "`prepare`, where every program is one launch; False if a guard does not hold"
        return all(self.ready(j, inputs.grads, self.settings) and self.works[j].simple for j in range(len(self.works)))
    def looks_bad(self):
        "Whether a gradient is not finite, or its square is not; after `aim`"
        return any(w.looks_bad() for w in self.works)

    def prepare(self, inputs, model=None, led=None):
        """All that can fail. None when it is done; otherwise the plan is not right any more, and this is what callbacks that were called came to.
        The plan that takes its place gets that, so that they are not called again"""
        grads,settings = [*map(local, inputs.grads)] if self.sharded else inputs.grads,self.settings
        self.check_joins()
        for j,w in enumerate(self.works):
            if not w.cut and not self.ready(j, grads, settings): return led or {}
        items = self.call(inputs, model, led or {}) if self.called or any(w.cut for w in self.works) else {}
        for j,w in enumerate(self.works):
            if w.cut and not self.follow(j, w, items, settings): return items
        self.items = [items[i] for i,_ in self.called]
        for it in self.items: it.check(self.who)
        return None if self.run_before() else items

    def call(self, inputs, model, led):
        "Run what is called: whole chains through the reference, and the callbacks before programs. Returns items by parameter"
        for i,g in self.called: self.check_shapes(i, self.settings[g].chain, inputs.grads[i])
        items = {i: (Rows if i in self.sparse else Item)(p := self.params[i], self.store.of(p), self.settings[g].chain, self.settings[g].numbers)
                 for i,g in self.called}
        for w in self.works:
            for k,i in enumerate(w.indices if w.cut else ()):
                row = w.rows[w.row_of[k]]
                items[i] = Item(p := self.params[i], dict(self.store.of(p))|row.clock.values, w.cut.lead, row.numbers(self.settings))
                items[i].begun = dict(items[i].ns)
        items = {i: led.get(i, it) for i,it in items.items()}
        new   = [items[i] for i in sorted(items) if i not in led]                  # a callback over all parameters has them in their order
        try: loop(new, model)
        except (RuntimeError, NotImplementedError) as e:
            if not self.sharded: raise
            chains = ', '.join(dict.fromkeys(str(it.chain) for it in new if is_sharded(it.p)))
            raise RuntimeError(f"{self.who}: {chains}: a callback cannot be run on sharded parameters (DTensor). Nothing has changed. {e}") from e
        return items
    def ready(self, j, grads, settings, extra=None):
        "Whether work `j` can go: its gradients are as before, and its program is right, or another one is for all of its parameters"
        w = self.works[j]
        if not w.take(grads): return False
        if w.prepare(settings, extra): return True
        program = w.lower_again(settings, extra)
        if program.called or program is w.program: return False
        if (j, program) not in self.variants: self.variants[j, program] = w.with_program(program)
        self.variants[j, w.program] = w
        w = self.works[j] = self.variants[j, program]
        return w.take(grads) and w.prepare(settings, extra)

    def follow(self, j, w, items, settings):
        "Take over what the callbacks before a program have come to; False if the program is not right for it"
        mine = [items[i] for i in w.indices]
        for it in mine:
            it.check(self.who)
            if late := w.cut.late(it.begun, it.ns):
                self.noted.update(late)
                return False
            for n in ('grad', *w.cut.rest.fed, *w.cut.numbers):
                made,was = it.ns.get(n),w.cut.numbers.get(n, it.ns['p'])
                if n not in it.ns or shape_of(made)!=shape_of(was):
                    raise ValueError(f"{self.who}: {w.cut.lead} made {n} {described(made)}; it was {described(was)}")
        grads = dict(zip(w.indices, (local(it.ns['grad']) for it in mine)))
        for n in w.cut.rest.fed: torch._foreach_copy_(w.fed[n], [local(it.ns[n]) for it in mine])
        return self.ready(j, grads, settings, {n: mine[0].ns[n] for n in w.cut.numbers})

    def run_before(self):
        """The stages before those that write; a work waits where it comes to what joins all parameters. False if a callback has returned other names
        than before"""
        at = {w: 0 for w in self.works if w.before_commit}
        done = {}                                                       # place of a join -> its vector
        while at:
            for w in at:
                if not w.program.stages[at[w]].joins or (w, at[w]) not in done:
                    if not w.before(at[w]): return False
                    done[w, at[w]] = True
            ready = [w for w in at if all(self.joined(v, at, done) for v in w.program.stages[at[w]].joins)]
            if not ready:
                block = next(v.block for w in at for v in w.program.stages[at[w]].joins if v.block)
                raise ValueError(f"{block} and another callback over all parameters come in different orders in two groups")
            for w in ready:
                joins = w.program.stages[at[w]].joins
                if joins or w.program.stages[at[w]].cross: w.cross_values(at[w], {v: done[place(v, w)] for v in joins})
            for w in ready:
                at[w] += 1
                if at[w]>=w.before_commit: del at[w]
        return True
    def joined(self, v, at, done):
        "Compute the join at the place of `v`, if all that have it have come there"
        w = next(w for w in self.works if any(v in s.joins for s in w.program.stages))
        here = place(v, w)
        if here in done: return True
        has = [(o, k, u) for o in self.works for k,s in enumerate(o.program.stages) for u in s.joins if place(u, o)==here]
        if any(at.get(o)!=k for o,k,_ in has): return False
        each = sorted(((i, x) for o,_,u in has for i,x in zip(o.indices, o.leaves(u.args[0]))), key=lambda pair: pair[0])
        xs = [x if isinstance(x, Tensor) else torch.tensor(x) for _,x in each]
        widest = max((x.dtype for x in xs), key=lambda t: t.itemsize)
        done[here] = v.kwargs['how'](torch.stack([x.reshape(()).to(xs[0].device, widest) for x in xs]))
        return True

    items = ()
    def commit(self):
        "All that writes"
        for w in self.works: w.commit()
        increment_versions(self.moved)                        # written in a way of which autograd does not know
        for it in self.items:
            kept = it.write()
            self.store.keep(it.p, {n: v for n,v in kept.items() if n not in it.chain.state or isinstance(v, Tensor)},
                            Clock({n: v for n,v in kept.items() if n in it.chain.state and not isinstance(v, Tensor)}))
        if self.fresh: self.attach()
    def attach(self):
        "Make the states of the works those of the optimizer"
        for w in self.works:
            for k,i in enumerate(w.indices):
                self.store.keep(self.params[i], w.kept[k], w.rows[w.row_of[k]].clock)
        self.fresh = False

    def check_joins(self):
        "Refuse values of which a callback over all parameters needs one, and that differ"
        seen = {}
        for w in self.works:
            for b in w.program.chain.blocks:
                for row in w.rows if b.is_global else ():
                    numbers = row.numbers(self.settings)
                    for n in {*b.reads}-b.lists.keys():
                        if n in numbers and different(seen.setdefault((b, n), numbers[n]), numbers[n]):
                            raise ValueError(b.one_value(n, seen[b, n], numbers[n]))

    def nonfinite(self, grads):
        "Which gradients are not finite, or have squares that are not"
        parts = [*map(local, grads)] if self.sharded else grads
        parts = [g if i not in self.sparse else g._values() for i,g in enumerate(parts)]
        seen  = [g is not None and not self.fine(g) for g in parts]
        if self.sharded: seen = [agree(s, [g]) for s,g in zip(seen, grads)]
        bad = [i for i,s in enumerate(seen) if s]
        elsewhere = self.sharded and agree(bool(bad), grads)
        return bad or [None]*bool(elsewhere)
    def fine(self, g):
        "Whether all of `g` is finite, and so are the squares: seen by their sum, and exactly where that is too large"
        if not g.is_complex() and math.isfinite(torch.linalg.vector_norm(g, dtype=wide(g.dtype))): return True
        return bool(finite(g).all())


def place(v, w):
    "What tells a join of one program from others: the callback, and which of its joins it is"
    block = v.block
    mine = [u for s in w.program.stages for u in s.joins if u.block is block]
    return block,mine.index(v)
def wide(dtype): return torch.float32 if dtype.itemsize<4 else dtype
def shape_of(x): return x.shape if isinstance(x, Tensor) else None
def described(x): return f'of shape {tuple(x.shape)}' if isinstance(x, Tensor) else f'a {type(x).__name__}'
def different(a, b): return a is not b if isinstance(b, Tensor) else a!=b

"""The parameters that one program runs. `Work` knows where their tensors lie, computes their scalars, and runs the stages. A stage's flat part goes
to a backend, over all of them in one launch where nothing is called between; its calls get tensors, stacked where they have one shape."""

import ctypes
import math
import weakref
from collections import defaultdict
from copy import copy
from operator import attrgetter,is_
import torch
from torch import Tensor
from ..contract.sharded import local
from ..lower.decide import lower
from ..lower.record import Value,mapped
from .calls import call,write_own
from .foreach import Foreach
from .launch import Kernel,Launch
from .memory import Memory,aligned,as_strided_like,real

__all__ = ['Row', 'Work']

stack_limit = 2**16                        # elements: a larger matrix is as quick by itself

dtype_of = attrgetter('dtype')

class Row:
    "Parameters of one group that count alike share a row of scalars. `clock` holds their counters; `undecayed`: fastai exempts them from decay"
    def __init__(self, group, clock, undecayed): self.group,self.clock,self.undecayed = group,clock,undecayed
    def numbers(self, settings):
        numbers = settings[self.group].numbers
        return {**numbers, 'wd': 0., **self.clock.values} if self.undecayed and 'wd' in numbers else {**numbers, **self.clock.values}

def reciprocal(x):
    if isinstance(x, Tensor): return 1/x
    return 1/x if x else math.copysign(math.inf, x)


class Batch:
    """Parameters that go through the stages together: `at`, their places in the work. `stacked`: they have one shape and one row, and calls get a
    stack. `tapes`: of calls on the stack; `numbers`: with which they were called last"""
    def __init__(self, at, stacked):
        self.at,self.stacked = at,stacked
        self.launches,self.values,self.scratch,self.parts = {},{},{},None
        self.tapes,self.numbers = {},{}


class Work:
    """`program` for the parameters `indices`; `ps`, `grads` and `states` are real, local tensors; `rows`:
    of scalars. A step is `prepare`, which may find that the program is not right any more; `before`, stages that write scratch memory only;
    and `commit`"""
    def __init__(self, program, scratch_bytes, who):
        self.program,self.prefix,self.scratch_bytes,self.who = program,program.prefix,scratch_bytes,who
        self.indices,self.ps,self.states,self.kept,self.users,self.row_of,self.rows = [],[],[],[],[],[],[]
        self.launched = program.request.backend=='launch'
        self.joins = any(b.is_global for b in program.chain.blocks)
        self.extra = None                     # tensors that callbacks before the program hand on
    def add(self, i, p, states, users, kept, row):
        "`p` and `states`: real and local; `users`: the user's parameter, or its local part; `kept`: the states as the user has them"
        if row not in self.rows: self.rows.append(row)
        self.indices.append(i)
        self.ps.append(p)
        self.states.append(states)
        self.kept.append(kept)
        self.users.append(users)
        self.row_of.append(self.rows.index(row))

    def with_program(self, program):
        "The same parameters, run by another program"
        res = copy(self)
        res.program = program
        res.bind(self.n_grads, self.dtypes['grad'])
        return res
    def lower_again(self, settings, handed, late):
        "The program that is right for the numbers of the first row"
        program = self.program
        return lower(program.whole, program.layout, self.rows[0].numbers(settings), program.request, late, handed or {})

    def bind(self, n_grads, grad_dtype):
        "Make what does not change from step to step. `n_grads`: of how many gradients theirs are some"
        program,self.n_grads = self.program,n_grads
        self.names   = program.names_of_scalars()
        self.width   = max(1, len(self.names))
        self.scalars = (ctypes.c_double*(self.width*len(self.rows)))()
        self.divisors = [self.names.index(n) for n in program.reciprocals]
        self.values  = [None]*len(self.rows)                 # of each row what the scalar program returned
        self.cross   = {}                                    # the values of what joins parameters
        self.compute = program.layout.compute_dtype
        self.batches = self.batched()
        self.before_commit = len(program.stages)-1 if program.holds_whole else int(bool(program.stages[0].joins))
        self.extra     = self.extra or {n: [torch.empty_like(p, dtype=self.compute) for p in self.ps] for n in program.chain.extra}
        self.dtypes  = dict(p=self.ps[0].dtype, grad=grad_dtype)
        self.dtypes |= {n: s.dtype for n,s in self.states[0].items()}
        self.watched = [*self.users, *(local(s) for kept in self.kept for s in kept.values())]
        self.memory  = Memory(self.watched, len(self.users))
        self.places  = [*range(len(self.ps))]
        self.all_in_order = not self.prefix and self.indices==[*range(n_grads)]
        self.plain   = all(p.is_contiguous() for p in self.ps)
        self.simple  = self.launched and len(program.stages)==1          # one launch for all; it needs no tensors, only addresses
        self.settled = [None]*len(self.rows)                             # the settings of which the scalars are there already
        self.seen,self.pointed,self.grads,self.only = None,False,None,None

    def batched(self):
        "Batches: all, where nothing is called; else those that are alike in stacks, large ones by themselves"
        if not any(s.calls for s in self.program.stages): return [Batch([*range(len(self.ps))], False)]
        alike = defaultdict(list)
        for k,(p,states) in enumerate(zip(self.ps, self.states)):
            alike[(p.shape, p.stride(), self.row_of[k], *(s.shape for s in states.values()))].append(k)
        res = []
        stackable = all(c.stacked for s in self.program.stages for c in s.calls)
        for (shape,*_),ks in alike.items():
            n = max(1, self.scratch_bytes//64//max(1, shape.numel())) if stackable and shape.numel()<=stack_limit and len(ks)>1 else 1
            res += [Batch(ks[i:i+n], len(ks[i:i+n])>1) for i in range(0, len(ks), n)]
        return res

    # -- before a step --

    def unmoved(self): return self.memory.holds(self.watched)

    def take(self, grads):
        "The gradients of this step; False if one is of another dtype than before"
        gs = grads if self.all_in_order else [grads[i] for i in self.indices]
        if self.seen and all(map(is_, [r() for r in self.seen], gs)):
            if self.gradients is None: self.gradients = Memory(gs, borrowed=True)
            if self.gradients.holds(gs): return True
        dtype = self.dtypes['grad']
        plain = self.plain and {*map(type, gs)}=={Tensor} and {*map(dtype_of, gs)}=={dtype} and all(map(Tensor.is_contiguous, gs))
        taken = gs if plain else [self.taken(g, p, dtype) for g,p in zip(gs, self.ps)]
        if any(g is None for g in taken): return False
        self.grads,self.pointed,self.seen,self.gradients = taken,False,None,None
        if self.simple:
            self.grad_at = [*map(Tensor.data_ptr, taken)]
            if plain and not self.prefix: self.seen,self.grads = [*map(weakref.ref, gs)],None       # the user's: nothing of ours may keep them alive
        return True
    def taken(self, g, p, dtype):
        "The gradient `g` of `p`, real, and as the parameter lies; None if it is of another dtype than before"
        g = real(local(g).detach())
        if g.dtype!=dtype: return None
        return g if aligned(g, p) or not self.launched else as_strided_like(p, g)

    def prepare(self, settings, handed=None):
        "The scalars of this step; False if a guard does not hold. `handed`: numbers from callbacks that were called"
        program,self.counters = self.program,[]
        for b in self.batches: b.values.clear()
        for r,row in enumerate(self.rows):
            if self.settled[r] is not None and self.settled[r] is settings[row.group]: continue
            numbers = row.numbers(settings)
            if handed: numbers.update(handed)
            ready = program.scalars(numbers)
            if ready is None: return False
            values,counters = ready
            self.values[r] = values
            if counters: self.counters.append((row.clock, counters))
            elif program.scalars.steady and not handed and not program.request.capturable: self.settled[r] = settings[row.group]
            if self.launched: self.fill(r, values)
        return True
    def fill(self, r, values):
        "Write row `r` of the array of scalars"
        start,n = r*self.width,len(values)
        self.scalars[start:start+n] = values
        if self.program.reciprocals: self.scalars[start+n:start+n+len(self.divisors)] = [reciprocal(values[i]) for i in self.divisors]

    def scalars_of(self, batch):
        "The scalars of the parameters in `batch`, which have one row, by name"
        return dict(zip(self.program.scalars.names, self.values[self.row_of[batch.at[0]]]))

    # -- memory --

    def tensors(self, batch, name):
        "The tensors called `name` of the parameters in `batch`"
        if name=='p':    return [self.ps[k] for k in batch.at]
        if name=='grad': return [self.grads[k] for k in batch.at]
        if name in self.extra: return [self.extra[name][k] for k in batch.at]
        if name in self.states[0]: return [self.states[k][name] for k in batch.at]
        return [*batch.scratch[name]]
    def places_of(self, batch, name):
        "Where these tensors lie"
        stack = batch.scratch.get(name)
        if not isinstance(stack, Tensor): return [x.data_ptr() for x in self.tensors(batch, name)]
        first,step = stack.data_ptr(),stack.stride(0)*stack.element_size()
        return [*range(first, first+step*len(batch.at), step)] if step else [first]*len(batch.at)

    def room(self, batch, name):
        "Scratch memory for `name`: a tensor like each parameter, one beside the other"
        p,n = self.ps[batch.at[0]],len(batch.at)
        if name not in batch.scratch:
            if batch.stacked:
                whole = torch.empty(n*p.numel(), dtype=self.compute, device=p.device)
                batch.scratch[name] = whole.as_strided((n, *p.shape), (p.numel(), *p.stride()))
            else: batch.scratch[name] = [torch.empty_like(self.ps[k], dtype=self.compute) for k in batch.at]
        return batch.scratch[name]

    # -- the flat part of a stage --

    def flat(self, k, batch):
        "Run the flat part of stage `k` for `batch`; what it hands out is then in `batch.values`"
        flat = self.program.stages[k].flat
        if flat is None: return
        for n in flat.stores:
            if k<len(self.program.stages)-1: self.room(batch, n)
        if self.launched: self.launch(k, batch, flat)
        else: self.foreach(k, batch, flat)

    def launch(self, k, batch, flat):
        launch,moving = batch.launches.get(k) or self.launching(k, batch, flat)
        for n in moving:
            launch.point(n, self.places_of(batch, n))
        launch()
        for v in flat.leaves: batch.values[v] = launch.leaf(v)
    def looks_bad(self):
        "Whether a gradient is not finite; of a work that is one launch"
        launch = self.only_launch()
        return not self.reads_grad or launch.look() is not None             # where it cannot be seen here, torch looks
    def only_launch(self):
        "The launch of a work that has one, with the gradients of this step"
        if self.only is None:
            flat = self.program.stages[0].flat
            self.only,self.reads_grad = self.launching(0, self.batches[0], flat)[0],'grad' in flat.names
        if not self.pointed and self.reads_grad: self.only.point('grad', self.grad_at)
        self.pointed = True
        return self.only
    def launching(self, k, batch, flat):
        "The launch of stage `k`, and the names whose tensors are others at each step"
        program = self.program
        dtypes  = {n: self.dtypes.get(n, self.compute) for n in (*flat.names, *flat.single_names)}
        key     = k,*dtypes.items()
        if key not in program.kernels: program.kernels[key] = Kernel(flat, self.names, dtypes, self.compute, str(program.chain))
        launch  = Launch(program.kernels[key], [self.ps[i].numel() for i in batch.at], self.scalars, [self.row_of[i] for i in batch.at])
        moving  = [n for n in (*flat.names, *flat.single_names) if n=='grad' or '@' in n]
        for n in (*flat.names, *flat.single_names):
            if n not in moving: launch.point(n, self.places_of(batch, n))
        batch.launches[k] = launch,moving
        return batch.launches[k]

    def foreach(self, k, batch, flat):
        if k not in self.program.kernels: self.program.kernels[k] = Foreach(flat)
        run = self.program.kernels[k]
        leaves = defaultdict(dict)
        for at,values in self.parts(batch):
            tensors = {n: self.tensors(batch, n) for n in (*flat.names, *flat.single_names)}
            if len(at)<len(batch.at): tensors = {n: [xs[j] for j in at] for n,xs in tensors.items()}
            wide = {n: [x.to(self.compute) for x in xs] if xs[0].dtype!=self.compute else xs for n,xs in tensors.items()}
            for v,xs in run(wide, values).items(): leaves[v] |= dict(zip(at, xs))
            for n in (*flat.stores, *flat.single_stores):
                if wide[n] is not tensors[n]: torch._foreach_copy_(tensors[n], wide[n])
        for v,xs in leaves.items(): batch.values[v] = torch.stack([xs[j] for j in range(len(batch.at))])
    def parts(self, batch):
        "Parts of `batch` that have one row of scalars and whose values in between fit into the memory of a step; and these scalars by name"
        if batch.parts is None: batch.parts = [*self.parted(batch)]
        cross = {v.name: x for v,x in self.cross.items()}
        return [(part, dict(zip(self.program.scalars.names, self.values[r])) | cross) for r,part in batch.parts]
    def parted(self, batch):
        by_row = defaultdict(list)
        for j,i in enumerate(batch.at): by_row[self.row_of[i]].append(j)
        limit = max(1, self.scratch_bytes//(6*self.compute.itemsize))
        for r,js in by_row.items():
            part,size = [],0
            for j in js:
                n = self.ps[batch.at[j]].numel()
                if part and size+n>limit:
                    yield r,part
                    part,size = [],0
                part.append(j)
                size += n
            yield r,part

    # -- a step --

    def stage(self, k, batch):
        "Run stage `k`; False if a callback has returned other names than before, so that the program is not right any more"
        self.flat(k, batch)
        return all(call(self, batch, c) for c in self.program.stages[k].calls)
    def before(self, k): return all(self.stage(k, b) for b in self.batches)
    def leaves(self, v):
        "Of each parameter what it hands to a join, in the order of `indices`"
        res = [None]*len(self.ps)
        for b in self.batches:
            for k,x in zip(b.at, b.values[v] if v in b.values else self.tensors(b, v.name)): res[k] = x
        return res
    def cross_values(self, k, joined):
        "What joins parameters behind stage `k`, and the arithmetic on that; `joined`: the vectors, by value"
        numbers = dict(zip(self.program.scalars.names, self.values[0]))
        env = {v: x.to(self.compute) for v,x in joined.items()}
        of  = lambda a: (env[a] if a in env else self.cross[a] if a in self.cross else numbers[a.name]) if isinstance(a, Value) else a
        for v in self.program.stages[k].cross: env[v] = v.packet(*mapped(v.args, of), **mapped(v.kwargs, of))
        self.cross |= env
        if self.launched and self.program.crosses:
            known  = [float(self.cross[v]) if v in self.cross else 0. for v in self.program.crosses]
            start  = len(self.program.scalars.names)+len(self.program.reciprocals)
            for r in range(len(self.rows)): self.scalars[r*self.width+start:r*self.width+start+len(known)] = known
    def commit(self):
        if self.simple: self.only_launch()()
        else: self.commit_batches()
        self.grads = None
        for clock,counters in self.counters: clock.advance(counters)
    def commit_batches(self):
        last = len(self.program.stages)-1
        for b in self.batches:
            for k in range(self.before_commit, last):
                if not self.stage(k, b): raise RuntimeError(f"{self.who}: a callback of {self.program.chain} has returned other names than before")
            self.flat(last, b)
            write_own(self, b)
            b.values.clear()
        self.cross.clear()

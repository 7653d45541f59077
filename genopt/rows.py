"""Parameters as rows of elements: where they lie in memory, and how small ones are brought side by side."""

import ctypes
from collections import deque
from itertools import repeat
from operator import is_,setitem
import torch
from .loop import real

__all__ = ['Gathered', 'Large', 'aligned', 'move', 'real_dtype', 'row', 'same_addresses', 'side_by_side', 'views']


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

def real_dtype(dtype): return dtype.to_real() if dtype.is_complex else dtype
def like(v, x): return torch.view_as_complex(v) if x.is_complex() else v

def move(xs, order):
    "Copies of `xs` side by side, each with its elements in memory as those of `order`, and the row that they are in"
    flat = torch.empty(sum(x.numel() for x in order), dtype=real_dtype(xs[0].dtype), device=xs[0].device)
    new  = views(flat, order)
    torch._foreach_copy_(new, [real(x.detach()) for x in xs])
    return flat,[like(v, x) for v,x in zip(new, xs)]

def as_bytes(x):
    "The memory of the row `x`, on a CPU. Good for as long as `x` is where it is: who keeps it keeps `x` alive, and checks the address"
    return memoryview((ctypes.c_ubyte*(x.numel()*x.element_size())).from_address(x.data_ptr())).cast('B')
def copy_bytes(to, of):
    "Copy many small pieces of memory, in a sixth of the time that `_foreach_copy_` takes for tensors"
    deque(map(setitem, to, repeat(slice(None)), of), maxlen=0)

try: from torch._C import _tensors_data_ptrs_at_indices_equal as same_addresses                # where this build of torch has it
except ImportError:
    def same_addresses(xs, addresses, indices): return all(xs[i].data_ptr()==addresses[i] for i in indices)


# -- Units: what a kernel is called for --

class Large:
    "One parameter, as a row. A gradient that lies otherwise in memory is copied into the order of the parameter, `batch` elements at a time"
    grads = None
    def __init__(self, i, p, states, whole, grad_dtype, single=()):
        self.singles,states = {n: states[n] for n in single},{n: s for n,s in states.items() if n not in single}
        self.known,self.indices,self.p,self.states,self.whole,self.grad_dtype = {},[i],p,states,whole,grad_dtype
        self.rows = dict(p=row(p), **{n: row(s) for n,s in states.items()})
        self.shape,self.dense = p.shape,p.is_contiguous()
    def load(self, k, grads, buffers):
        "The rows that kernel `k` wants, one list of them for each part"
        if k not in self.known: self.known[k] = [self.rows.get(n) for n in k.rows],[i for i,n in enumerate(k.rows) if n=='grad']
        (xs,places),g = self.known[k],grads[self.indices[0]]
        if self.dense and g.dtype is self.grad_dtype and g.is_contiguous() and g.shape==self.shape: g = g.view(-1)       # mostly, and quick
        elif (g := real(g.detach())).dtype!=self.grad_dtype or not aligned(g, self.p): return (yield from self.parts(k, g, buffers))
        else: g = row(g)
        xs = xs.copy()
        for i in places: xs[i] = g
        yield xs
    def parts(self, k, g, buffers):
        d = max(range(g.ndim), key=self.p.stride, default=0)
        step = g.shape[d] if self.whole else max(1, buffers.batch*g.shape[d]//g.numel())
        for at in range(0, g.shape[d], step):
            cut  = lambda x: x.narrow(d, at, min(step, g.shape[d]-at))
            p    = cut(self.p)
            copy,buffers.holds = buffers.get('grad', p.numel(), self.grad_dtype, g.device),None
            views(copy, [p])[0].copy_(cut(g))
            rows = dict(p=row(p), grad=copy, **{n: row(cut(s)) for n,s in self.states.items()})
            yield [rows[n] for n in k.rows]
    def store(self, buffers, singles=()):
        own  = [*self.singles.values()]
        news = {n: x.clone() if any(x is s for s in own) else x for n,x in dict(singles).items()}       # states that change places
        for n,x in news.items(): self.singles[n].copy_(x)

class Gathered:
    """Small parameters side by side in a row. Their states live in such rows; the parameters and gradients are copied there for the step,
    unless they lie side by side themselves, as after `adopt`"""
    singles = {}
    def __init__(self, indices, ps, states, grads, params, adopt, captured):
        self.indices,self.ps,self.size,self.dtype,self.device = indices,ps,sum(p.numel() for p in ps),ps[0].dtype,ps[0].device
        p,self.grads  = side_by_side(ps),None
        self.copied,self.loaded = p is None,False
        self.rows     = states if p is None else states | dict(p=p)
        self.all_flat = all(p.ndim==1 for p in ps)                                  # of rows, `cat` is the quicker copy
        self.flats    = params if self.all_flat else [row(p) for p in ps]
        self.bytes    = [as_bytes(f) for f in self.flats] if self.copied and self.device.type=='cpu' and not captured else None
        self.grad_dtype = real_dtype(grads[0].dtype)
        if adopt and all(aligned(real(g.detach()), p) for g,p in zip(grads, ps)):
            g = side_by_side([real(g.detach()) for g in grads])
            if g is not None: self.grads = g,[g.data_ptr() for g in grads],[*range(len(grads))],grads
    def load(self, k, grads, buffers):
        rows = dict(self.rows)
        if 'grad' in k.rows:
            held = buffers.holds is self                                            # since the gradients were checked, or in an earlier round
            rows['grad'] = self.parts('grad', buffers)[0] if held else self.gradients([grads[i] for i in self.indices], buffers)
        if self.copied and 'p' in k.rows:
            self.loaded = True
            rows['p'],parts = self.parts('bytes' if self.bytes else 'flats', buffers)
            if self.bytes: copy_bytes(parts, self.bytes)
            else: torch.cat(self.flats, out=rows['p'])
        yield [rows[n] for n in k.rows]
    def gradients(self, gs, buffers):
        if self.grads and all(map(is_, gs, self.grads[3])) and same_addresses(gs, *self.grads[1:3]): return self.grads[0]
        flat,parts = self.parts('grad', buffers)
        buffers.holds = self
        if gs[0].is_complex(): gs = [real(g) for g in gs]
        if self.all_flat: torch.cat(gs, out=flat)
        else: torch._foreach_copy_(parts, gs)
        return flat
    def parts(self, name, buffers):
        "The row of gradients, or of parameters, and its parts, which are made once: like the gradients, as rows, as bytes"
        flat = buffers.get(*(('grad', self.size, self.grad_dtype) if name=='grad' else ('p', self.size, self.dtype)), self.device)
        if buffers.parts.get((name, id(self)), (None,))[0] is not flat:
            parts = views(flat, self.ps if name=='grad' else self.flats)
            buffers.parts[name, id(self)] = flat,[*map(as_bytes, parts)] if name=='bytes' else parts
        return buffers.parts[name, id(self)]
    def store(self, buffers, singles=()):
        if not (self.copied and self.loaded): return
        if self.bytes: copy_bytes(self.bytes, self.parts('bytes', buffers)[1])
        else: torch._foreach_copy_(self.flats, self.parts('flats', buffers)[1])

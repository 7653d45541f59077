"""A piece of a graph as a function of rows of elements, in two ways that give the same numbers:

- `Eager`: torch's own operations, one after the other, on chunks that fit in the cache, each writing into a buffer that is used again.
  No compiler, no allocation, and bit for bit what the callbacks themselves give;
- `Compiled`: one kernel for rows of any length, made by Inductor. One pass over memory.

Both write what the step changes into the rows themselves and return what they were reduced to. `bind(numbers)` gives the function for
the numbers of this step; it is called with rows, in the order of `rows`, and by name with single numbers that were reduced before."""

import math,os,threading
from contextlib import contextmanager
from functools import partial
from torch.fx import Node
import torch
from .trace import Untraceable,aten,inputs,mapped,merges,scaled

__all__ = ['Eager', 'Compiled', 'Buffers', 'compilations']

compilations = []                                 # what this process has compiled


class Buffers(dict):
    """Memory that is used again from step to step, by name. All of it together stays below `limit` bytes: `chunk` elements are computed
    at once, and `batch` gathered. On a CPU a chunk of every row and buffer fits in the last cache; a GPU has enough to do with one"""
    def __init__(self, limit): self.parts,self.limit,self.batch,self.holds = {},limit,max(1, limit//64),None   # `holds`: whose gradients are gathered
    def chunk(self, device): return max(1, min(2**19, self.limit//128) if device.type=='cpu' else self.limit//32)
    def get(self, name, n, dtype, device):
        "A row of `n` elements"
        key = name,dtype,device
        if key not in self or self[key][0].numel()<n: self[key] = torch.empty(n, dtype=dtype, device=device),{}
        full,cuts = self[key]
        if n not in cuts: cuts[n] = full[:n]
        return cuts[n]


class Kernel:
    "What both ways have in common: the names of what a piece is given. `dtypes`: of the rows as they are stored"
    def __init__(self, piece, trace, dtypes):
        self.piece,self.outs,self.dtypes = piece,piece.outs,dtypes
        self.dtype,self.device,self.whole,self.on_device,self.singles_made = trace.dtype,trace.device,trace.whole,trace.on_device,{}
        self.is_row  = trace.is_row
        self.stores  = {s: n for s,n in self.outs.items() if self.is_row(n)}
        self.names   = [s for s,n in self.outs.items() if not self.is_row(n)]
        self.reduced = [n for n in self.outs.values() if not self.is_row(n)]
        self.rows    = list(dict.fromkeys([*(n.name for n in piece.inputs if self.is_row(n)), *map(row_of, self.stores)]))
        self.numbers = [n.name for n in piece.inputs if n.name in trace.numbers]
        self.singles = [n.name for n in piece.inputs if not self.is_row(n) and n.name not in trace.numbers]
    def merged(self, parts):
        "What a row was reduced to, from that of its parts and their sizes"
        results,sizes = zip(*parts)
        return [merges[n.target.overloadpacket](torch.stack(vs), sizes, *n.args[1:2]) for n,vs in zip(self.reduced, zip(*results))]
    def __repr__(self): return f"{type(self).__name__}({', '.join(self.rows)})"

def row_of(store): return 'p' if store=='new_p' else store


# -- Eager --

class Eager(Kernel):
    def __init__(self, piece, trace, dtypes):
        super().__init__(piece, trace, dtypes)
        self.whole = self.whole or piece is trace.entire
        self.write()
    def room(self, n):
        "Bytes of buffers for a row of `n` elements that is computed at once"
        return n*sum(t.itemsize for t in [*self.buffers, *(wide(t) for t in self.dtypes.values() if wide(t)!=t)])
    def write(self):
        "Write the Python function: which operations, and which buffer each writes into"
        piece,stored = self.piece,{row_of(s): n for s,n in self.stores.items()}
        order = {n: i for i,n in enumerate(piece.nodes)}
        last  = dict.fromkeys(piece.inputs, -1) | {i: order[n] for n in piece.nodes for i in inputs(n)} | {n: len(order) for n in self.outs.values()}
        where,bound,free,self.buffers,lines = {n: n.name for n in piece.inputs},{},{},[],[]
        def text(a):
            if isinstance(a, Node): return where[a]
            if isinstance(a, (list,tuple)): return f"[{', '.join(map(text, a))}]"
            if isinstance(a, (bool,int,type(None))) or isinstance(a, float) and math.isfinite(a): return repr(a)
            return bound.setdefault(a, f'k{len(bound)}')
        for i,n in enumerate(piece.nodes):
            f,into = function(n.target) if not self.on_device else operation_on_device(n)
            args = [*map(text, n.args), *(f'{k}={text(v)}' for k,v in n.kwargs.items())]
            for a in dict.fromkeys(inputs(n)):
                if last[a]==i and where[a] in self.buffer_names(): free.setdefault(a.meta['val'].dtype, []).append(where[a])
            call = f"{bound.setdefault(f, f'k{len(bound)}')}({', '.join(args)}"
            if self.is_row(n) and into:                                   # into a row that is stored later, if nobody reads what was there
                dtype = n.meta['val'].dtype
                def unread(s): return dtype==self.computed(s) and all(last[m]<=i for m,w in where.items() if w==s)
                home  = next((s for s,o in stored.items() if o is n and unread(s)), None)
                lent  = next((s for s,o in stored.items() if last[n]<=order.get(o, -1) and unread(s)), None)
                where[n] = home or lent or self.buffer(dtype, free)
                lines.append(f'{call}, out={where[n]})')
            else:
                where[n] = f'v{i}'
                lines.append(f'{where[n]} = {call})')
        moves = {s: where[n] for s,n in stored.items() if where[n]!=s}
        lines+= [f'{s}_ = {v}.clone()' for s,v in moves.items() if v in stored]          # rows that change places
        lines+= [f"{s}.copy_({f'{s}_' if v in stored else v})" for s,v in moves.items()]
        names = lambda ns: ''.join(f'{n}, ' for n in ns)
        given = dict(rows=self.rows, values=[*self.numbers,*self.singles], buffers=self.buffer_names())
        head  = [f'{names(ns)} = {src}' for src,ns in given.items() if ns]
        body  = '\n'.join(f'    {l}' for l in [*head, *lines, f"return [{', '.join(where[n] for n in self.reduced)}]"])
        exec(f'def run(rows, values, buffers):\n{body}\n', scope := {k: v for v,k in bound.items()})
        self.run,self.source = scope['run'],body

    def buffer_names(self): return [f'b{i}' for i in range(len(self.buffers))]
    def buffer(self, dtype, free):
        if not free.setdefault(dtype, []):
            self.buffers.append(dtype)
            return f'b{len(self.buffers)-1}'
        return free[dtype].pop()
    def computed(self, row):
        "The dtype in which a row is computed: low precision is widened"
        return wide(self.dtypes[row])

    def bind(self, numbers, buffers):
        numbers = [numbers[n] for n in self.numbers]
        def run(xs, singles):
            values = [*numbers, *[singles[n] for n in self.singles]]
            if not xs: return self.run(xs, values, [])
            size,chunk = xs[0].numel(),buffers.chunk(self.device)
            if size<=chunk or self.whole: return self.piecewise(xs, values, buffers)
            return self.merged([(self.piecewise([x[o:o+chunk] for x in xs], values, buffers), min(chunk, size-o)) for o in range(0, size, chunk)])
        return run
    def piecewise(self, xs, values, buffers):
        n,wides = xs[0].numel(),[]
        for i,(x,name) in enumerate(zip(xs, self.rows)):
            if (dtype := wide(x.dtype))!=x.dtype:
                wides.append((x, w := buffers.get(f'wide {name}', n, dtype, x.device).copy_(x), name))
                xs[i] = w
        res = self.run(xs, values, [buffers.get(i, n, t, xs[0].device) for i,t in enumerate(self.buffers)])
        for x,w,name in wides:
            if name in map(row_of, self.stores): x.copy_(w)
        return res

def wide(dtype): return torch.float32 if dtype.is_floating_point and dtype.itemsize<4 else dtype

def function(op):
    "torch's own function for `op`, quicker to call, and whether it can write into a buffer"
    f = getattr(torch, op.overloadpacket.__name__, None)
    return f or op, bool(f) and torch.Tag.pointwise in op.tags and any(o=='out' or o.endswith('_out') for o in op.overloadpacket.overloads())


# -- Compiled --

class Compiled(Kernel):
    def __init__(self, *args):
        super().__init__(*args)
        self.reciprocals = [n for n in self.numbers if any(divides(u, n) for u in self.piece.nodes)]
        rows    = [torch.empty(2**20, dtype=self.dtypes[n], device=self.device) for n in self.rows]
        singles = [n.meta['val'].reshape(1) for n in self.piece.inputs if n.name in self.singles]        # a 0-d float64 would be taken for a constant
        self.single_dtypes = {n: s.dtype for n,s in zip(self.singles, singles)}                          # what joins parameters may come in another
        examples = [*rows, *singles, self.scalars(dict.fromkeys(self.numbers, 1.))]
        self.fn  = inductor(traced(self.apply, str(self), examples), str(self), examples)

    def apply(self, *args):
        "The piece on rows and scalars; what Inductor sees"
        rows,singles,scalars = args[:len(self.rows)],args[len(self.rows):-1],args[-1]
        env = {n: x.reshape(()) for n,x in zip(self.singles, singles)}
        env|= {n: x.to(wide(x.dtype)) for n,x in zip(self.rows, rows)}
        env|= {n: scalars[i] for i,n in enumerate(self.numbers)}
        inverse = {n: scalars[len(self.numbers)+i] for i,n in enumerate(self.reciprocals)}
        for n in self.piece.nodes:
            divisor = next((m for m in self.reciprocals if divides(n, m)), None)
            get = lambda a: env[a.name] if isinstance(a, Node) else a
            if divisor: env[n.name] = get(n.args[0])*inverse[divisor]             # a multiplication takes a fraction of a division's time
            else: env[n.name] = operation(n)(*mapped(n.args, get), **mapped(n.kwargs, get))
        for store,n in self.stores.items(): rows[self.rows.index(row_of(store))].copy_(env[n.name])
        return [env[n.name] for n in self.reduced]

    def scalars(self, numbers):
        "The numbers of a step as one small tensor: they may change without another kernel"
        if self.on_device:
            single   = partial(single_on, self.device, known=self.singles_made)
            values   = [single(numbers[n]) for n in self.numbers]
            inverses = [1/single(numbers[n]) for n in self.reciprocals]
            return torch.stack([*values, *inverses, single(0.), single(0.)]).to(self.dtype)
        inverses = [1/x if (x := numbers[n]) else x+float('inf') for n in self.reciprocals]
        return to_device([*(float(numbers[n]) for n in self.numbers), *inverses, 0., 0.], self.dtype, self.device)
    def bind(self, numbers, buffers):
        scalars = self.scalars(numbers)
        if not self.singles: return lambda xs, singles: self.fn(*xs, scalars)
        return lambda xs, singles: self.fn(*xs, *[singles[n].to(t).reshape(1) for n,t in self.single_dtypes.items()], scalars)

def operation(n):
    "What node `n` does, also where a factor that torch wants as a plain number is in a tensor"
    return scaled[n.target.overloadpacket] if any(isinstance(v, Node) for v in n.kwargs.values()) else n.target

def operation_on_device(n):
    "The same for `Eager`, when numbers come as tensors"
    if n.target.overloadpacket is aten.lerp: return lerp,True
    return function(n.target) if (f := operation(n)) is n.target else (f, False)

def lerp(x, y, weight, out=None):
    return torch.lerp(x, y, weight.to(x.dtype) if isinstance(weight, torch.Tensor) else weight, out=out)      # torch 2.6 takes no other dtype

def to_device(values, dtype, device):
    "Numbers as a tensor, without waiting for the device"
    return torch.tensor(values, dtype=dtype, pin_memory=device.type=='cuda').to(device, non_blocking=True)

def single_on(device, x, known):
    "Number `x` as a tensor. A plain one is made once, and kept in `known`; while a CUDA graph is captured it is made in the graph"
    if isinstance(x, torch.Tensor): return x.double()
    if x in known: return known[x]
    res = torch.full((), float(x), dtype=torch.float64, device=device)
    if not (res.is_cuda and torch.cuda.is_current_stream_capturing()): known[x] = res
    return res

def divides(n, number):
    "Whether node `n` divides by the number of that name"
    return n.target is aten.div.Tensor and isinstance(n.args[1], Node) and n.args[1].name==number and n.args[0].name!=number


lock = threading.Lock()

def shortcut(fn, inner, examples):
    """The compiled code itself, without what is around it at each call: a call takes 2 us and not 6, and several times that when the cache
    is cold. It must do on `examples` what `fn` does. Who calls it tells autograd what was written (`increment_version`)"""
    call = getattr(inner[0], 'current_callable', None) if len(inner)==1 else None
    if call is None or any(x.is_cuda for x in examples): return fn
    def direct(*xs): return call([*xs])
    def run(f):
        xs = [torch.full_like(x[:64], .5) for x in examples]
        return [*xs, *(f(*xs) or ())]
    try: same = all(torch.equal(a, b) for a,b in zip(run(fn), run(direct), strict=True))
    except Exception: return fn
    return direct if same else fn

@contextmanager
def no_tensorify():
    "Numbers are tensors already; torch's pass that makes them so stumbles (`KeyError: s75`) over those that are made of sizes"
    name = 'TENSORIFY_PYTHON_SCALARS'
    before = os.environ.get(name)
    os.environ[name] = '0'
    try: yield
    finally: os.environ.pop(name) if before is None else os.environ.update({name: before})

@contextmanager
def told(name):
    "What the compiler stumbles over, as an error that says what to do"
    try: yield
    except Untraceable: raise
    except Exception as e:
        missing = any('CxxCompiler' in type(x).__name__ for x in (e, e.__cause__, getattr(e, 'inner_exception', None)))
        remedy  = "it needs a C++ compiler: install g++ or clang++ (CXX names another)" if missing else f"{type(e).__name__}: {str(e)[:200]}"
        raise RuntimeError(f"fused=True: {name} could not be compiled; {remedy}, or leave fused out. Nothing has changed") from e

def traced(f, name, examples):
    "`f` as a graph, for inputs like `examples`: their sizes are symbols in it, and may be others later"
    from torch.fx.experimental.proxy_tensor import make_fx
    with lock, torch.no_grad(), torch.random.fork_rng(cuda(examples)), told(name):
        return make_fx(f, tracing_mode='symbolic')(*examples)

def placeholders(graph): return [n.meta['val'] for n in graph.graph.nodes if n.op=='placeholder']
def cuda(xs): return {x.device for x in xs if x.is_cuda}

def inductor(graph, name, examples=None):
    """What was `traced`, compiled by Inductor. No guards: who calls it sees to it that dtype, device and rank stay. With `examples`, on which it
    is tried, the call is short. The only place that knows `compile_fx`, which is not public; without it, torch.compile. A product and a sum are
    rounded together ("contract"), as in torch's own `add(alpha=)`, `addcmul` and `addcdiv`: the same bits, where `scaled` has the product first"""
    try:
        from torch._inductor import config
        from torch._inductor.compile_fx import compile_fx,compile_fx_inner
        from torch._dynamo.utils import get_metrics_context                  # torch 2.6 wants one where a kernel comes from its cache
    except ImportError: return torch.compile(graph, dynamic=True, fullgraph=True)
    contract,inner = config.patch({'cpp.enable_floating_point_contract_flag': 'fast'}),[]
    def keep(*args, **kw):
        inner.append(compile_fx_inner(*args, **kw))
        return inner[-1]
    with lock, contract, no_tensorify(), get_metrics_context(), torch.no_grad(), torch.random.fork_rng(cuda(placeholders(graph))):
        with told(name): fn = compile_fx(graph, placeholders(graph), inner_compile=keep)
        if examples: fn = shortcut(fn, inner, examples)
        compilations.append(name)
    return fn

"""A chain that needs a parameter's own shape (matrices, means along a dimension), compiled: one graph for each pattern of sizes.

The callbacks are run under `make_fx` with sizes that are symbols. What they ask of the sizes, such as which side of a matrix is the
longer, is kept with the graph, which then serves all shapes that give the same answers. Small parameters of one shape may be stacked, and run
as one (`vmap`)."""

from contextlib import contextmanager
from functools import cached_property
from torch.utils._python_dispatch import TorchDispatchMode
import torch
from .check import small
from .kernels import inductor,placeholders,single_on,to_device,traced,wide
from .loop import compute
from .trace import Factors,Host,Untraceable,aten,by_value,moved,plain_number,run_block,scaled

__all__ = ['Shaped']


class Replay(Host):
    "Numbers as 0-d tensors, found by the name that the first run gave them"
    def __init__(self, dtype, device, names, scalars):
        super().__init__(dtype, device)
        self.places,self.scalars = {n: i for i,n in enumerate(names)},scalars
    def tensor(self, x): return self.scalars[self.places[x.name]].reshape(())
    def scale(self, func, args, kwargs, k, x):
        name = func.__name__
        f = scaled.get(getattr(aten, name.removesuffix('_'), None))
        if not f or {*kwargs}!={k}: raise Untraceable(plain_number)
        res = f(*args, self.tensor(x))
        return args[0].copy_(res) if name.endswith('_') else res

class ByShape(TorchDispatchMode):
    "Refuses what depends on the values of tensors; on their shapes it may"
    @contextmanager
    def watching(self, b):
        with Factors(), self: yield
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if torch.Tag.data_dependent_output in func.tags: raise Untraceable(by_value)
        return func(*args, **(kwargs or {}))

class Unwatched:
    @staticmethod
    def watching(b): return Factors()

def fold(chain, spaces, numbers, host, watch=Unwatched):
    "The callbacks of `chain` on `spaces`, with numbers that `host` writes down"
    b = None
    try:
        for i,b in enumerate(chain.blocks): spaces = run_block(i, b, spaces, numbers, host, watch)
        return [moved(s, numbers, host, watch) for s in spaces]
    except Untraceable as e: raise Untraceable(f"{b} {e}") from e


class Shaped:
    "`chain` for parameters like `p`, in their own shape. A `graph` writes what the step changes into parameter and states"
    stacks = True                                                        # as far as is known, several of one shape can be run as one
    def __init__(self, chain, numbers, p, states):
        if joins := [b for b in chain.blocks if b.is_global]:
            raise Untraceable(f"{joins[0]} runs over all parameters, and another callback needs a shape")
        self.chain,self.dtype,self.device,self.names,self.graphs,self.singles_made = chain,wide(p.dtype),p.device,[*states],{},{}
        host,rand = Host(self.dtype, self.device),torch.Generator().manual_seed(0)
        def stand_in(like):
            if not like.is_floating_point(): return like.clone()
            return (torch.rand(like.shape, generator=rand)+.5).to(self.device, self.dtype)
        with torch.no_grad():
            q = stand_in(torch.empty(small(p.shape), dtype=self.dtype, device=self.device))
            like = {n: q if n in chain.fed else compute(chain.state[n](q)) for n in states}
            fold(chain, [dict(p=q, grad=stand_in(q), **{n: stand_in(x) for n,x in like.items()})], dict(numbers), host, ByShape())
        self.start,self.numbers = dict(numbers),[*host.inputs]
        self.program = host.program(self.numbers)

    def news(self, p, grad, *rest):
        "What a step of one parameter changes: by place in what it is given"
        states,scalars = dict(zip(self.names, rest)),rest[len(self.names):]
        seen = {n: x.to(wide(x.dtype)) for n,x in dict(p=p, grad=grad, **states).items()}
        res, = fold(self.chain, [seen], dict(self.start), Replay(self.dtype, self.device, self.numbers, scalars))
        return {i: v for i,n in enumerate(seen) if n!='grad' and (v := res['new_p'] if n=='p' else res[n]) is not seen[n]}
    def stacked(self, *xs):
        "The same of a stack of parameters"
        n = 2+len(self.names)
        return torch.func.vmap(self.news, (0,)*n + (None,)*(len(xs)-n))(*xs)

    def graph(self, xs, stack=0):
        """The graph for tensors like `xs`: a parameter, its gradient, its states. For a `stack` of them it is traced with as many as are in no shape,
        so that the number is not taken for a size"""
        key,n = (stack>0, *((x.dtype, small(x.shape)) for x in xs)),max([4, *(d for x in xs for d in x.shape)])+1
        like  = [x.expand(stack, *x.shape) if stack else x for x in xs]
        for g in self.graphs.get(key, []):
            if g.fits(*like): return g
        likes = [((n, *x.shape) if stack else x.shape, x.dtype) for x in xs] + [((1,), self.dtype)]*len(self.numbers)
        g = Graph(self.stacked if stack else self.news, likes, self.device, self.chain)
        if not g.fits(*like): raise Untraceable(f"{self.chain} asks how many parameters are stacked")           # as indexing does in vmap
        self.graphs.setdefault(key, []).append(g)
        return g

    def scalars(self, values):
        "One tensor of one element for each: the length of a tensor of all could be taken for a size of the parameter"
        if any(isinstance(v, torch.Tensor) for v in values):
            return [single_on(self.device, v, self.singles_made).to(self.dtype).reshape(1) for v in values]
        return to_device([*map(float, values)], self.dtype, self.device).reshape(-1, 1).unbind()


class Graph:
    """`news` as a graph for tensors of shapes and dtypes like `likes`, which writes what it returns into what it is given. Compiled when it is asked
    for its `fn`: that takes most of the time"""
    def __init__(self, news, likes, device, chain):
        def inside(*xs):
            for i,v in news(*xs).items(): xs[i].copy_(v)
        self.news,self.likes,self.device,self.name = news,likes,device,f'{chain}, shaped'
        self.graph = self.traced(inside)
        if any('check_errors' in str(n.target) for n in self.graph.graph.nodes):
            raise Untraceable(f"{chain} calls what may fail on some values (torch.linalg), after other parameters have moved")
        self.inputs,self.guards = placeholders(self.graph),[g.expr for g in self.graph.shape_env.guards]
    def traced(self, f): return traced(f, self.name, [torch.empty(shape, dtype=dtype, device=self.device) for shape,dtype in self.likes])
    def fits(self, *xs):
        "Whether tensors have sizes for which it was made: what was asked of the sizes has the same answers"
        known = {}
        for s,d in ((s, d) for v,x in zip(self.inputs, xs) for s,d in zip(v.shape, x.shape)):
            if (s if isinstance(s, int) else known.setdefault(s.node._expr, d))!=d: return False
        return all(bool(g.subs(known)) for g in self.guards)
    @cached_property
    def fn(self):
        try: return inductor(self.graph, self.name)
        except RuntimeError: changed = []
        def fresh(*xs):                                    # Inductor cannot write it (https://github.com/pytorch/pytorch/issues/196570): behind it
            res = self.news(*xs)
            changed[:] = res
            return [*res.values()]
        fn = inductor(self.traced(fresh), self.name)
        return lambda *xs: torch._foreach_copy_([xs[i] for i in changed], fn(*xs))

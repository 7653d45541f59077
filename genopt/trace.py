"""A chain as a graph. The callbacks are run once on small stand-ins, and every tensor operation is written down, so that the same
arithmetic can be run on other tensors: on many parameters laid side by side, in chunks, or compiled.

What is a number stays one: hyper-parameters and counters go through callbacks as `Number`s, whose arithmetic becomes a small Python
program, run once a step in double precision as the callbacks themselves would. An `if` on a number is written down as what must hold
for the graph to be right; where it does not, the chain is traced again.

Where every operation is elementwise, or reduces a whole tensor to one number, and no callback asked for a shape, a parameter may be
taken as one row of elements, and in pieces. Otherwise this is `NeedsShape`: each parameter is run by itself, in its own (`shaped`)."""

from contextlib import contextmanager,nullcontext
from torch import Tensor
from torch.fx import Graph,Node
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode,_disable_current_modes as aside        # what is done aside is in no graph
import math,operator,torch
from .core import Namespace,given,of_model,where
from .loop import compute
from .naming import held

__all__ = ['Trace', 'Untraceable', 'NeedsShape', 'trace']


class Untraceable(ValueError): "Why a chain cannot be taken as a graph"
class NeedsShape(Untraceable): "Why a chain cannot take a parameter as a row of elements"


# -- Numbers --

class Number(torch.SymFloat):
    """A number on its way through a callback: `value` is what it is now, `name` what it is called in the program that computes it.
    With `capturable=True` the value is a tensor on the device, which nobody may look at. A `SymFloat` because torch takes one as `alpha=`"""
    def __init__(self, host, name, value): self.host,self.name,self.value = host,name,value
    @property
    def shown(self): return self.value if not isinstance(self.value, Tensor) else .5   # where torch wants a plain number: any will do to trace
    @property
    def node(self): raise Untraceable(plain_number)                                 # torch asks for it to have a plain number
    def __bool__(self):  return self.host.decide(self)
    def __float__(self):
        raise Untraceable("takes a hyper-parameter through float() or a function of math, which would be fixed; use operators, "
                          "or a callback without tensors")
    def __int__(self):   return self.host.fix(self, int)
    def __index__(self): return self.host.fix(self, operator.index)
    def __hash__(self):  return self.host.fix(self, hash)
    def __round__(self, n=None): return self.host.fix(self, lambda v: round(v, n))
    def __repr__(self):  return f'{self.value!r}'
    def __format__(self, spec): return format(self.value, spec)

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        "A number that meets a tensor is an input of the graph; a factor (`alpha`, `value`) one that torch wants as a plain number"
        if func is torch.where and isinstance(args[0], Number): return args[0].host.choose(*args)
        swap = lambda a: a.host.tensor(a) if isinstance(a, Number) else type(a)(map(swap, a)) if isinstance(a, (list,tuple)) else a
        if not (factor := factor_of(kwargs)): return func(*map(swap, args), **{k: swap(v) for k,v in (kwargs or {}).items()})
        return factor[1].host.scale(func, [*map(swap, args)], kwargs, *factor)

def factor_of(kwargs): return next(((k, n) for k,n in (kwargs or {}).items() if k in ('alpha','value') and isinstance(n, Number)), None)

class Factors(TorchFunctionMode):
    "Sees to it that factors arrive: torch itself does not ask a `SymFloat` what to do"
    def __torch_function__(self, func, types, args=(), kwargs=None):
        return Number.__torch_function__(func, types, args, kwargs) if factor_of(kwargs) else func(*args, **(kwargs or {}))

def _arithmetic(name, sign, unary=False):
    f = getattr(operator, name)
    def op(self, *other):
        if other and isinstance(other[0], (torch.SymInt,torch.SymFloat)) and not isinstance(other[0], Number): raise Untraceable(of_sizes)
        if other and not isinstance(other[0], (Number,int,float)): return NotImplemented
        return self.host.number(sign, f, self, *other)
    def rop(self, other):
        if isinstance(other, (torch.SymInt,torch.SymFloat)): raise Untraceable(of_sizes)
        return self.host.number(sign, f, other, self) if isinstance(other, (int,float)) else NotImplemented
    setattr(Number, f'__{name.strip("_")}__', op)
    if not unary: setattr(Number, f'__r{name}__', rop)

for n,sign in dict(add='+', sub='-', mul='*', truediv='/', floordiv='//', mod='%', pow='**').items(): _arithmetic(n, sign)
for n,sign in dict(lt='<', le='<=', gt='>', ge='>=', eq='==', ne='!=', neg='-', pos='+', abs='abs').items(): _arithmetic(n, sign, unary=True)


class Host:
    "Writes the program that computes, from a namespace of numbers, those that tensors meet"
    def __init__(self, dtype, device):
        self.dtype,self.device = dtype,device
        self.lines,self.bound,self.made = [],{},{}                       # the program, what it uses, source -> number
        self.asked = set()                                               # what was decided by numbers, which keep their names
        self.names,self.inputs = {},{}                                   # what was read of the namespace; number -> 0-d tensor
        self.factor = {}                                                 # of the operation that comes next: keyword -> 0-d tensor
    def new(self, source, value):
        n = f'x{len(self.lines)}'
        self.lines.append(f'{n} = {source}')
        return Number(self, n, value)
    def constant(self, v):
        "`v` as the program writes it"
        if isinstance(v, Number): return v.name
        if isinstance(v, float) and not math.isfinite(v): return f"float('{v}')"
        if isinstance(v, (bool,int,float,str,type(None))): return f'({v!r})'
        self.bound[n := f'c{len(self.bound)}'] = v
        return n
    def number(self, sign, f, *args):
        try:
            with aside(): value = f(*(a.value if isinstance(a, Number) else a for a in args))           # on the device it is a tensor
        except ArithmeticError as e: raise Untraceable(f"{type(e).__name__}: {e}") from e
        srcs = [*map(self.constant, args)]
        source = f' {sign} '.join(srcs) if len(srcs)==2 else f'{sign}({", ".join(srcs)})'
        if source not in self.made: self.made[source] = self.new(source, value)
        return self.made[source]
    def read(self, n, v):
        "Name `n` of the namespace, with value `v`: numbers may change from step to step; a flag, a string or None is part of the graph"
        if n not in self.names:
            if isinstance(v, Tensor) and not v.ndim: v = self.new(f'ns[{n!r}]', v)
            elif isinstance(v, (bool,str,type(None))): self.must(f'ns[{n!r}] {"==" if isinstance(v, str) else "is"} {v!r}')
            elif isinstance(v, (int,float)):
                v = self.new(f'ns[{n!r}]', v)
                self.must(f'{v.name}.__class__ is not bool')
            else: raise Untraceable(f"{n!r} is a {type(v).__name__}, not a number")
            self.names[n] = v
        return self.names[n]
    def must(self, condition): self.lines.append(f'if not ({condition}): return None')
    def once(self, condition):
        if condition not in self.asked: self.must(condition)
        self.asked.add(condition)
    def decide(self, x):
        outcome = bool(known(x.value))
        self.once(f'bool({x.name}) is {outcome}')
        return outcome
    def choose(self, condition, a, b):
        "What `where` takes: on the host it is decided as by an `if`, on the device it is computed"
        if not isinstance(condition.value, Tensor): return where(bool(condition), a, b)
        if isinstance(a, Tensor) or isinstance(b, Tensor): return torch.where(self.tensor(condition)!=0, a, b)
        return self.number('where', where, condition, a, b)
    def fix(self, x, f):
        "The callback needs the value itself: the graph is good for this value alone"
        self.once(f'{x.name}=={self.constant(known(x.value))}')
        return f(x.value)
    def run(self, key, block, outs):
        "A callback without tensors runs as it is"
        self.bound[f'b{key}'] = block
        self.lines.append(f'ns.update(b{key}(ns))')
        for n in outs: self.names.pop(n, None)
    def put(self, n, v):
        "A callback with tensors that returns a number"
        self.lines.append(f'ns[{n!r}] = {self.constant(v)}')
        if isinstance(v, Number): self.names[n] = v
        else: self.names.pop(n, None)
    def tensor(self, x):
        if x.name not in self.inputs:
            self.inputs[x.name] = torch.tensor(float(x.shown), dtype=self.dtype, device=self.device)
        return self.inputs[x.name]
    def scale(self, func, args, kwargs, k, x):
        self.factor = {k: self.tensor(x)}
        try: return func(*args, **kwargs | {k: x.shown})
        finally: self.factor = {}
    def program(self, names):
        "The function from a namespace to the values of numbers `names`, or to None where the graph is not right; it also updates the namespace"
        body = ''.join(f'    {line}\n' for line in self.lines)
        exec(f"def host(ns):\n{body}    return [{', '.join(names)}]\n", scope := dict(self.bound, where=where))
        scope['host'].source = body
        return scope['host']


def known(v):
    if isinstance(v, Tensor): raise Untraceable(no_looking)
    return v

of_sizes = ("computes with a hyper-parameter and a number made of sizes; bring the tensor in first: "
            "(update*scale)*(m/n)**.5, not update*(scale*(m/n)**.5)")
by_value   = "takes a value out of a tensor: item(), or an if, min or max on what a tensor holds; use torch.where"
no_looking = "decides by the value of a number, which capturable=True keeps on the device; use genopt.where"


# -- Tensors --

aten = torch.ops.aten
aliases    = {aten.detach, aten.alias, aten.lift_fresh}                     # what they give is the same tensor
like       = {aten.clone, aten._to_copy, aten.copy, aten.zeros_like, aten.ones_like, aten.full_like,
              aten.empty_like, aten.rand_like, aten.randn_like, aten.randint_like, aten.bernoulli}     # elementwise, but not tagged so
norms      = {aten.linalg_vector_norm, aten.norm}
reductions = {aten.sum, aten.mean, aten.amax, aten.max, aten.amin, aten.min, aten.any, aten.all, aten.prod, aten.var, aten.std, aten.dot, *norms}
asks       = {'shape', 'ndim', 'size', 'dim', 'ndimension', 'numel', 'nelement', 'stride', '__len__', 'storage_offset', 'nbytes',
              'T', 'mT', 'H', 'mH'}
peeks      = {'tolist', 'numpy', '__array__', '__dlpack__', 'data_ptr'}
looks      = {'item', '__bool__', '__float__', '__int__', '__index__'}

# With a factor that torch wants as a plain number in a tensor; the product first, so that compiled code rounds it and the sum together
scaled       = {aten.add: lambda x,y,alpha: y*alpha + x,          aten.addcmul: lambda x,a,b,value: value*a*b + x,
                aten.sub: lambda x,y,alpha: y*-alpha + x,          aten.addcdiv: lambda x,a,b,value: value*(a/b) + x}
plain_number = "gives a hyper-parameter to an argument of torch that takes plain numbers only; write it with operators"

class NoLooking(TorchFunctionMode):
    "Refuses to take a value out of a tensor"
    def __torch_function__(self, func, types, args=(), kwargs=None):
        if getattr(func, '__name__', '') in peeks|looks: raise Untraceable(no_looking)
        return func(*args, **(kwargs or {}))

class Questions(Factors):
    "Notes a callback that asks a tensor for its shape, and refuses one that takes values out of it"
    def __torch_function__(self, func, types, args=(), kwargs=None):
        name = getattr(func, '__name__', '')
        if name=='__get__': name = getattr(func.__self__, '__name__', '')
        if name in asks: raise NeedsShape(f"asks for the {name.strip('_')} of a tensor")
        if name in peeks: raise Untraceable(f"takes values out of a tensor ({name})")
        return super().__torch_function__(func, types, args, kwargs)


class Recorder(TorchDispatchMode):
    "Writes down what is done to tensors. `rows`: the sizes of the stand-ins, each one row of elements"
    def __init__(self, host, rows):
        super().__init__()
        self.host,self.rows,self.graph,self.nodes,self.kept,self.inputs,self.made,self.block = host,rows,Graph(),{},[],{},{},None
    @contextmanager
    def watching(self, b):
        self.block = b
        with Questions(), self: yield
    def input(self, name, x):
        "A tensor that the graph is given"
        node = self.graph.create_node('placeholder', name, name=name)
        node.name = name                                                 # the graph makes another of one that Python has, such as max
        self.inputs[node.name] = x
        self.put(node, x)
        return node
    def put(self, node, x):
        if 'val' not in node.meta: node.meta |= dict(val=x, family=None, block=self.block)
        self.nodes[id(x)] = node
        self.kept.append(x)                                              # so that no other gets its id
        return x
    def known(self, x): return id(x) in self.nodes or any(x is t for t in self.host.inputs.values())
    def node(self, x):
        if not isinstance(x, Tensor): return x
        if id(x) not in self.nodes:
            if x.numel()!=1 or x.ndim: raise NeedsShape(f"uses a tensor of its own, of shape {tuple(x.shape)}")
            number = next((n for n,t in self.host.inputs.items() if t is x), None)
            self.input(number or f'const{len(self.inputs)}', x)
        return self.nodes[id(x)]

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        with torch._C.DisableTorchFunction(): return self.note(func, args, kwargs or {})    # what is asked here is not the callback's question
    def note(self, func, args, kwargs):
        packet,name,factor,self.host.factor = func.overloadpacket,func.overloadpacket.__name__,self.host.factor,{}
        if packet is aten._local_scalar_dense:
            number = next((n for n,t in self.host.inputs.items() if t is args[0]), None)
            if not number: raise Untraceable(by_value)
            raise Untraceable(plain_number)
        if name.startswith('_foreach_') and not factor: return self.each(name, args, kwargs)
        tensors = [a for a in tree(args, kwargs) if isinstance(a, Tensor)]
        random  = torch.Tag.nondeterministic_seeded in func.tags
        if not (factor or random or any(map(self.known, tensors))): return func(*args, **kwargs)                # a constant
        written = [a for a,s in zip(args, func._schema.arguments) if s.alias_info and s.alias_info.is_write]
        if written or any(s.is_out for s in func._schema.arguments): func = self.functional(func, args, written)
        if factor and func.overloadpacket not in scaled: raise Untraceable(plain_number)
        if packet is aten.add and len(args)==2 and args[1].__class__ is int and args[1]==0: return args[0]    # what sum() of a list starts with
        if packet in aliases: return self.put(self.node(args[0]), func(*args, **kwargs))
        given = mapped((args, kwargs|factor), self.node)
        key   = object() if random else (func, *given[1], *tree(given))                                       # the same twice is one
        node  = self.made.get(key) or self.made.setdefault(key, self.graph.call_function(func, *given))
        if not written: out = func(*args, **kwargs)
        else: out = args[0].copy_(func(*args, **kwargs))
        if not isinstance(out, Tensor): raise NeedsShape(f"calls {name}, which makes several tensors")
        self.classify(func, tensors, out, args, kwargs)
        return self.put(node, out)

    def functional(self, func, args, written):
        "The operation that `func` does in place, where that is a tensor which the callback made itself, and nobody looks at it otherwise"
        x,pure = written[0] if written else None,getattr(aten, func.overloadpacket.__name__.removesuffix('_'), None)
        if len(written)!=1 or x is not args[0] or id(x) not in self.nodes or self.nodes[id(x)].op=='placeholder' or not pure:
            raise Untraceable(f"writes in place ({func.overloadpacket.__name__})")
        if sum(k.untyped_storage().data_ptr()==x.untyped_storage().data_ptr() for k in {id(k): k for k in self.kept}.values())>1:
            raise Untraceable(f"writes in place into a view ({func.overloadpacket.__name__})")
        return getattr(pure, func._overloadname)

    def each(self, name, args, kwargs):
        "An operation on lists is one on each of their members"
        n,one = len(args[0]),torch.linalg.vector_norm if name=='_foreach_norm' else getattr(aten, name.removeprefix('_foreach_'))
        with self: return [one(*(a[i] if isinstance(a, (list,tuple)) and len(a)==n else a for a in args), **kwargs) for i in range(n)]

    def classify(self, func, tensors, out, args, kwargs):
        "Refuse what is neither elementwise, nor a reduction of a whole row, nor arithmetic on what was reduced"
        packet,row = func.overloadpacket,next((t.shape for t in tensors if t.ndim==1 and t.numel() in self.rows), None)
        if not tensors: raise NeedsShape(f"makes a tensor of its own ({packet.__name__})")
        if row is None: return
        if out.shape==row and (torch.Tag.pointwise in func.tags or packet in like) and all(t.shape==row or t.ndim==0 for t in tensors): return
        dims = [v for a,v in zip(func._schema.arguments[1:], args[1:]) if a.name in ('dim','keepdim')] + [kwargs.get('dim'), kwargs.get('keepdim')]
        if out.ndim==0 and packet in reductions and not any(d or d==0 and d is not False for d in dims): return
        raise NeedsShape(f"calls {packet.__name__}, which is not elementwise")


def tree(*xs):
    "The leaves of nested lists, tuples and dicts"
    for x in xs:
        if isinstance(x, (list,tuple)): yield from tree(*x)
        elif isinstance(x, dict): yield from tree(*x.values())
        else: yield x

def mapped(x, f):
    "The same nesting, with `f` of every leaf"
    if isinstance(x, (list,tuple)): return type(x)(mapped(o, f) for o in x)
    if isinstance(x, dict): return {k: mapped(v, f) for k,v in x.items()}
    return f(x)


# -- The graph of a chain --

class Trace:
    """A chain as a graph. `program(numbers)` computes `numbers`, or None where the graph is not right. `states`: those that are tensors.
    A step is done in rounds. Round k first does `between[k]`, arithmetic on single numbers, then `passes[k]`, which goes over rows of
    elements and reduces them (the last writes `outs`, what the step changes), then waits for `joints[k]`, from all parameters.
    `entire` is all of it at once, for a row whose values in between may be kept; None where parameters are joined, or nothing is reduced"""
    def __init__(self, recorder, outs):
        host,self.row,self.kernels = recorder.host,recorder.rows[0],{}
        self.dtype,self.device = host.dtype,host.device
        merge_families(recorder, outs)
        outs = {n: o for n,o in outs[0].items() if o.name!=('p' if n=='new_p' else n)}
        self.singles = {n: o for n,o in outs.items() if not self.is_row(o)}          # of the states that are one number, `single`, those that change
        self.nodes = needed(outs.values())
        for n in self.nodes: n.meta['level'] = max((i.meta['level'] for i in inputs(n)), default=0) + (self.reduces(n) or 'joint' in n.meta)
        smalls = [n for n in self.nodes if n.op!='placeholder' and not self.is_row(n)]
        depth  = max((n.meta['level'] for n in self.nodes), default=0)
        def at(k, f): return {n.name: n for n in smalls if n.meta['level']==k and f(n)}
        plain  = lambda n: not self.reduces(n) and 'joint' not in n.meta
        self.between = [Piece(at(k, plain), smalls) for k in range(depth+1)]
        rows = {n: o for n,o in outs.items() if n not in self.singles}
        self.passes  = [Piece(at(k+1, self.reduces), smalls) for k in range(depth)] + [Piece(rows, smalls)]
        self.entire  = Piece(outs, []) if depth and not any('joint' in n.meta for n in self.nodes) else None
        self.joints  = [[*at(k+1, lambda n: 'joint' in n.meta).values()] for k in range(depth+1)]
        self.places  = [j.meta['place'] for js in self.joints for j in js]
        self.random  = any(n.op!='placeholder' and torch.Tag.nondeterministic_seeded in n.target.tags for n in self.nodes)
        if self.random and depth: raise NeedsShape("reduces rows beside random numbers, which cannot be made twice alike")
        reduced = [n for n in smalls if self.reduces(n)]
        self.single = [n.name for n in recorder.graph.nodes if n.op=='placeholder' and n.meta['family']==0 and not self.is_row(n)]
        self.per_tensor = bool(self.single) or any(not composes(n, self.nodes) for n in reduced)      # each parameter is a row of its own
        self.whole = any(n.target.overloadpacket not in merges for n in reduced)     # and cannot be taken in pieces
        self.constants = {n.name: n.meta['val'] for n in self.nodes if n.name.startswith('const')}
        self.numbers   = [n.name for n in self.nodes if n.name in host.inputs]
        self.on_device = recorder.host.on_device                                     # numbers come as tensors, and nobody may look at them
        self.program   = host.program(self.numbers)

    def is_row(self, n): return tuple(n.meta['val'].shape)==(self.row,)
    def reduces(self, n): return n.op!='placeholder' and not self.is_row(n) and any(map(self.is_row, inputs(n)))


class Piece:
    "A part of a graph that is run at once: `outs`, made through `nodes` from `inputs`. Single numbers that are not of `outs` are inputs"
    def __init__(self, outs, smalls):
        self.outs,seen,stack = outs,set(),[*outs.values()]
        def given(n): return n.op=='placeholder' or n in smalls and n not in outs.values()
        while stack:
            if (n := stack.pop()) in seen: continue
            seen.add(n)
            if not given(n): stack += inputs(n)
        nodes = sorted(seen)
        self.inputs,self.nodes = [n for n in nodes if given(n)],[n for n in nodes if not given(n)]


def inputs(n): return [n.meta['joint'][0]] if 'joint' in n.meta else n.all_input_nodes

def needed(nodes):
    "What `nodes` are made of, and they themselves, in order"
    seen,stack = set(),[*nodes]
    while stack:
        if (n := stack.pop()) not in seen:
            seen.add(n)
            stack += inputs(n)
    return sorted(seen)


# How parts of a row that were reduced give what the whole gives; `ns` are the sizes of the parts
merges = {aten.sum:  lambda xs,ns,*_: xs.sum(),  aten.dot: lambda xs,ns,*_: xs.sum(),
          aten.mean: lambda xs,ns,*_: (xs*xs.new_tensor(ns)).sum()/sum(ns),
          aten.amax: lambda xs,ns,*_: xs.amax(), aten.max: lambda xs,ns,*_: xs.amax(), aten.any: lambda xs,ns,*_: xs.any(),
          aten.amin: lambda xs,ns,*_: xs.amin(), aten.min: lambda xs,ns,*_: xs.amin(), aten.all: lambda xs,ns,*_: xs.all(),
          aten.linalg_vector_norm: lambda xs,ns,*order: torch.linalg.vector_norm(xs, *order)}

def composes(n, nodes):
    "Whether what is reduced goes into one number over all parameters, and parameters laid side by side reduce to the same one"
    users = [u for u in nodes if n in inputs(u)]
    def same(u): return u.target.overloadpacket==n.target.overloadpacket and u.args[1:]==n.args[1:] and u.kwargs==n.kwargs
    joint = {aten.add: aten.sum, aten.maximum: aten.amax, aten.minimum: aten.amin}
    def ok(u):
        if 'joint' not in u.meta: return False
        if u.target.overloadpacket in joint: return n.target.overloadpacket in {joint[u.target.overloadpacket]}
        return all(same(w) for w in nodes if u in inputs(w))
    return n.target.overloadpacket in merges and n.target.overloadpacket is not aten.mean and bool(users) and all(map(ok, users))


def merge_families(recorder, outs):
    """A chain with a callback over all parameters was run on stand-ins of several at once, the families, and came to `outs` for each. They
    must have been treated alike; then the first stands for all, and what joins them is a `joint`: a function of the vector of what each has"""
    nodes,k = [*recorder.graph.nodes],len(recorder.rows)
    for n in nodes:
        of = {f for i in n.all_input_nodes if (f := i.meta['family']) is not None}
        size = n.meta['val'].numel() if n.meta['val'].ndim==1 else 0
        if n.op=='placeholder': pass
        elif size in recorder.rows: n.meta['family'] = recorder.rows.index(size)
        elif len(of-{'all'})>1 or any(0<len(i.meta.get('leaves', []))<k for i in n.all_input_nodes): n.meta |= dict(family='all', leaves=joined(n))
        else: n.meta['family'] = next(iter(of-{'all'}), 'all' if of else None)
    if k==1: return
    forms = {}                                                                   # what a node is, whichever family it is of
    def form(n):
        if not isinstance(n, Node): return repr(n)
        if n not in forms:
            if n.meta['family']=='all': forms[n] = n
            elif n.op!='placeholder':   forms[n] = n.target,repr(mapped((n.args, n.kwargs), lambda a: seen.setdefault(form(a), len(seen))))
            else: forms[n] = repr(n.meta['val']) if n.name.startswith('const') else n.name.split('__')[0]
        return forms[n]
    seen = {}
    if any(form(o)!=form(outs[0][name]) for other in outs for name,o in other.items()): raise Untraceable("does not treat all parameters alike")
    for n in nodes:
        if not (leaves := n.meta.get('leaves')): continue
        if [l.meta['family'] for l in leaves]!=[*range(len(leaves))] or len({*map(form, leaves)})>1:
            raise Untraceable(f"joins what it has of the parameters in a way that is not known ({n.target.overloadpacket.__name__})")
        if len(leaves)<k: continue                                               # a part of a longer sum
        b = n.meta['block']
        n.meta |= dict(joint=(leaves[0],joiners[n.target.overloadpacket]), place=(b, sum('joint' in m.meta and m.meta['block']==b for m in nodes)))

joiners = {aten.stack: lambda xs: xs, aten.cat: lambda xs: xs, aten.add: torch.sum, aten.maximum: torch.amax, aten.minimum: torch.amin}

def joined(n):
    "What is joined in `n`: the list of a `stack`, the leaves of a sum"
    packet = n.target.overloadpacket
    if packet in (aten.stack, aten.cat) and n.args[1:] in ((), (0,)) and not n.kwargs: return [*n.args[0]]
    if packet in joiners and len(n.args)==2 and not n.kwargs: return [l for a in n.args for l in a.meta.get('leaves', [a])]
    raise Untraceable(f"joins what it has of the parameters with {packet.__name__}")


# -- The trace --

sizes = 37,41,43

def trace(chain, numbers, dtype, device):
    """`chain` as a graph, for numbers like `numbers` (hyper-parameters and states that are numbers) and tensors of `dtype` on `device`.
    Raises `Untraceable`, or `NeedsShape` where only a parameter in its own shape will do; both say which callback, and why."""
    several = any(b.is_global for b in chain.blocks)
    with torch.random.fork_rng(devices=[device] if device.type=='cuda' else []), torch.no_grad():
        res = record(chain, numbers, dtype, device, sizes[:2] if several else sizes[:1])
        if several and listing(record(chain, numbers, dtype, device, sizes))!=listing(res):
            raise Untraceable(f"{', '.join(b.name for b in chain.blocks if b.is_global)} counts the parameters")
    return res

def listing(t):
    "What two traces of the same chain have in common"
    place = {n: i for i,n in enumerate(t.nodes)}
    placed = lambda x: place.get(x,x) if isinstance(x, Node) else x
    return [('' if n.op=='placeholder' else n.target, mapped([inputs(n) if 'joint' in n.meta else n.args], placed), mapped(n.kwargs, placed))
            for n in t.nodes], t.program.source

def record(chain, numbers, dtype, device, rows):
    host,numbers = Host(dtype, device),dict(numbers)
    host.initial = numbers.keys()&chain.state.keys()
    host.on_device = any(isinstance(v, Tensor) for v in numbers.values())
    recorder,b = Recorder(host, rows),None
    rand = torch.Generator().manual_seed(0)
    def stand_in(n): return (torch.rand(n, generator=rand)+0.5).to(device, dtype)
    try:
        spaces = [dict(p=stand_in(n), grad=stand_in(n)) for n in rows]
        for s,size in zip(spaces, rows): s |= {n: stand_in(size) for n in chain.fed}
        for s in spaces: s |= {n: state_stand_in(n, init, s['p'], stand_in) for n,init in chain.state.items() if n not in numbers}
        for i,s in enumerate(spaces):
            for n,x in s.items(): recorder.input(n if not i else f'{n}__{i}', x).meta['family'] = i
        for i,b in enumerate(chain.blocks): spaces = run_block(i, b, spaces, numbers, host, recorder)
        b = 'the move'
        spaces = [moved(s, numbers, host, recorder) for s in spaces]
    except Untraceable as e: raise type(e)(f"{b or 'the state'} {e}") from e
    except (TypeError, ValueError, RuntimeError, IndexError) as e:
        raise NeedsShape(f"{b} fails on a row of elements: {type(e).__name__}: {e}") from e
    states = [n for n in chain.state if n in spaces[0]]
    for n in chain.state:
        if (n in spaces[0])==(n in host.initial): raise Untraceable(f"the state {n!r} changes between tensor and number")
    outs = [{n: recorder.node(s[n]) for n in ('new_p', *states)} for s in spaces]
    for n,o in outs[0].items():
        if n!='new_p' and o.meta['val'].shape!=spaces[0][n].shape: raise NeedsShape(f"changes the shape of {n!r}")
    try: res = Trace(recorder, outs)
    except Untraceable as e: raise type(e)(f"{', '.join(b.name for b in chain.blocks if b.is_global) or chain} {e}") from e
    res.states = states
    return res

def state_stand_in(n, init, p, stand_in):
    "A state as it may be in mid-training: positive values, where it holds such"
    try:
        with Questions(): first = init(p)
    except Untraceable as e: raise type(e)(f"{n!r} {e}") from e
    if not isinstance(first, Tensor): raise Untraceable(f"{n!r} is declared a number, and is a tensor")
    first = compute(first)
    if first.shape not in (p.shape, ()): raise NeedsShape(f"{n!r} is not of the parameter's shape")
    if not first.ndim and first.dtype!=p.dtype: raise NeedsShape(f"{n!r} is a single {first.dtype}, where {p.dtype} is computed")
    return stand_in(first.shape).to(first.dtype) if first.is_floating_point() else first

def run_block(i, b, spaces, numbers, host, recorder):
    "The namespaces after callback `b`; with tensors it is written down, without it becomes a line of the program"
    if asked := [n for n in b.reads if n in of_model]: raise Untraceable(f"asks the model for {asked[0]!r}, so it is called as it is")
    if 'rows' in b.reads: raise Untraceable("asks for the rows of a sparse gradient")
    if own := [n for n in b.lists.values() if n in numbers]: raise Untraceable(f"asks for {own[0]!r} of each parameter, which is a number")
    if not any(n in given or b.lists.get(n,n) in spaces[0] for n in b.reads):
        on_device = any(isinstance(numbers.get(n), Tensor) for n in b.reads)
        with NoLooking() if on_device else nullcontext(), aside(): out = b(Namespace(numbers))
        if any(isinstance(v, Tensor) and (v.ndim or not on_device) for v in out.values()): raise Untraceable("makes a tensor without reading one")
        host.run(i, b, out)
        numbers |= out
        return [{n: v for n,v in s.items() if n not in out} for s in spaces]
    if what := held(b.cb):
        raise Untraceable(f"holds {what!r}, which may change outside of the step (a tuple cannot), so it is called for each parameter")
    seen  = {n: host.read(n, numbers[n]) for n in [*b.reads, 'lr'] if n in numbers and (n!='lr' or {'lr','new_p'}&{*b.reads})}
    seens = [Namespace(seen|s) for s in spaces]
    with recorder.watching(b): outs = b.call_all(seens) if b.is_global else [b(ns) for ns in seens]
    if not outs[0]: raise Untraceable("only looks at what it is given, so it is called for each parameter")
    for n,v in outs[0].items():
        if isinstance(v, Tensor): numbers.pop(n, None)
        else:
            host.put(n, v)
            numbers[n] = v.value if isinstance(v, Number) else v
    keep = {n for n in outs[0] if n in numbers}
    return [{n: v for n,v in (s | {n: ns[n] for n in ('new_p',) if n in ns} | out).items() if n not in keep} for s,ns,out in zip(spaces, seens, outs)]

def moved(s, numbers, host, recorder):
    if 'new_p' in s: return s
    ns = Namespace(s | ({'lr': host.read('lr', numbers['lr'])} if 'lr' in numbers else {}))
    with recorder.watching(None): return s | dict(new_p=ns['new_p'])

"""Formulas with numbers in them: the expressions of `genopt.tools.formula` evaluated with torch.

A `World` has the parameters of a model. Each has an `Env`: symbols with their numbers. An equation is evaluated for all parameters at once, because
a sum over all needs the symbols of all as they stand then."""

import math,re
from functools import reduce
import torch
from torch.overrides import TorchFunctionMode
from genopt.tools.formula import expressions as ex

__all__ = ['Drawn', 'Model', 'World', 'number', 'value']


def number(x): return torch.as_tensor(x, dtype=torch.float64)


class Model:
    "A loss of several tensors, which is linear in none of them and couples them all"
    def __init__(self, shapes):
        self.linear = [torch.randn(s, dtype=torch.float64) for s in shapes]
    def loss(self, xs):
        own = sum(((1+x.square()).sqrt() + x.square()*.1 + b*x).sum() for x,b in zip(xs, self.linear, strict=True))
        return own + sum(x.mean() for x in xs).square()
    def gradients(self, xs, graph=False):
        with torch.enable_grad():
            xs = [x.detach().requires_grad_() for x in xs]
            return xs,torch.autograd.grad(self.loss(xs), xs, create_graph=graph)
    def hessian_product(self, xs, zs):
        xs,grads = self.gradients(xs, True)
        return torch.autograd.grad(grads, xs, zs)


class Drawn(TorchFunctionMode):
    "Notes the random numbers that callbacks draw"
    def __init__(self):
        super().__init__()
        self.tensors = []
    def __torch_function__(self, func, types, args=(), kwargs=None):
        res = func(*args, **(kwargs or {}))
        if getattr(func, '__name__', '') in ('rand_like', 'randn_like', 'randint_like', 'bernoulli'): self.tensors.append(res.clone())
        return res


class World:
    "Parameters of these `shapes`, the `model` behind them, and what callbacks have `drawn`"
    def __init__(self, shapes, model=None, drawn=()):
        self.model = model
        self.envs  = [Env(self, i, shape, [d for d in drawn if d.shape==shape]) for i,shape in enumerate(map(torch.Size, shapes))]

    def run(self, line):
        "Evaluate the equations of a line, for all parameters; yields the symbol of each with its values"
        for (left,),right in line.equations:
            text   = left.args[0]
            values = [env.draw() if right.op=='draw' else value(right, env) for env in self.envs]
            for env,v in zip(self.envs, values): env[text] = v
            yield text,values

    def holds(self, line): return all(value(c, env).bool() for env in self.envs for c in line.conditions if c.op=='compare')


class Env(dict):
    "symbol -> its number or tensor, for one parameter"
    def __init__(self, world, i, shape, draws):
        self.world,self.i,self.shape,self.draws = world,i,shape,draws
        if len(shape)==2: self |= {rf'\text{{{n}}}': number(k) for n,k in zip(('rows', 'columns'), shape)}
    def seen(self, x):
        "`x` as formulas have it: one number for each row is a column"
        x = number(x)
        return x[:,None] if len(self.shape)==2 and x.shape==self.shape[:1] else x
    def put(self, symbols):
        for text,x in symbols.items(): self[text] = self.seen(x)
    def draw(self): return self.draws.pop(0) if self.draws else torch.zeros(self.shape, dtype=torch.float64)
    def inside(self, symbols):
        env = Env(self.world, self.i, self.shape, self.draws)
        env |= self | symbols
        return env


# -- Expressions --

def value(e, env):
    "The number or tensor that an expression comes to"
    if e.op in special: return special[e.op](e, env)
    args = [value(a, env) if isinstance(a, ex.Expression) else a for a in e.args]
    return plain[e.op](*args)

def product(*xs):
    whole = any(x.dtype==torch.int64 for x in xs) and all(x.dtype==torch.int64 or x==x.round() for x in xs)
    return math.prod(x.to(torch.int64) for x in xs) if whole else math.prod(xs[1:], start=xs[0])

def of_sum(e, env): return sum(s*value(t, env) for s,t in e.args)

def of_loop(e, env):
    start,count,body,series = e.args
    env = env.inside(dict(X_k=value(start, env)))
    for k in range(count):
        for letter,values in series: env[letter] = number(values[k])
        for sign,right in body: env[sign.args[0]] = value(right, env)
        env['X_k'] = env['X_{k+1}']
    return env['X_k']

def of_function(e, env):
    vectors = torch.linalg.eigh(value(e.args[0], env))[1]
    return vectors*value(e.args[1], env) @ vectors.mT

def for_all(e, env): return [value(e, other) for other in env.world.envs]

def over_all(e, env):
    how,x = e.args
    values = for_all(x, env)
    return torch.stack([v.square().sum() for v in values]).sum().sqrt() if how=='norm' else reductions[how](torch.stack(values))

def place(e, env):
    rows,columns = env.shape
    return torch.arange(rows*columns).reshape(env.shape) if e.args[0]=='all' else torch.arange(rows if e.args[0]=='row' else columns)

def compared(sign, a, b):
    ops = {'>': torch.gt, r'\geq': torch.ge, '<': torch.lt, r'\leq': torch.le, '=': torch.eq, r'\neq': torch.ne,
           r'\wedge': torch.logical_and, r'\vee': torch.logical_or}
    return ops[sign](a, b).double()

def remainder(a, b): return torch.remainder(a, b.to(a.dtype))

def norm(x, order, side):
    if side is None: return torch.linalg.vector_norm(x, order)
    return torch.linalg.vector_norm(x, order, dim=-1 if side=='row' else -2, keepdim=True)

def of_part(e, env):
    rows,columns = value(e.args[0], env).split(list(env.shape))
    return rows[:,None] if e.args[1]=='row' else columns

special = dict(
    num      = lambda e, env: number(e.args[0]),
    symbol   = lambda e, env: number(math.e) if e.args[0]=='e' else env[e.args[0]],
    add      = of_sum,
    iterated = of_loop,
    function = of_function,
    over_all = over_all,
    loss     = lambda e, env: env.world.model.loss(for_all(e.args[0], env)),
    gradient = lambda e, env: env.world.model.gradients(for_all(e.args[0], env))[1][env.i],
    hessian  = lambda e, env: env.world.model.hessian_product(*(for_all(a, env) for a in e.args))[env.i],
    index    = place,
    part     = of_part)

plain = dict(
    neg       = lambda x: -x,
    mul       = product,
    div       = lambda a, b: a/b,
    pow       = lambda a, b: a**b,
    root      = torch.sqrt,
    norm      = norm,
    cases     = lambda c, a, b: torch.where(c.bool(), a, b),
    compare   = compared,
    xor       = lambda a, b: a.to(torch.int64) ^ b.to(torch.int64),
    matmul    = lambda *xs: reduce(torch.matmul, xs),
    transpose = lambda x: x.mT,
    inverse   = torch.linalg.inv,
    call      = lambda name, *args: called(name, args))

reductions = dict(mean=torch.mean, sum=torch.sum, max=torch.amax, min=torch.amin)

functions = {
    '|': torch.abs, r'\log': torch.log, r'\log_2': torch.log2, r'\tanh': torch.tanh, r'\sin': torch.sin, r'\cos': torch.cos,
    r'\operatorname{sign}': torch.sign, r'\operatorname{atan2}': torch.atan2, r'\operatorname{sigmoid}': torch.sigmoid,
    r'\operatorname{floor}': torch.floor, r'\operatorname{clip}': torch.clamp, r'\operatorname{mod}': remainder,
    r'\operatorname{mean}': torch.mean, r'\operatorname{sum}': torch.sum, '<': lambda a, b: (a*b).sum(),
    '<row': lambda a, b: (a*b).sum(-1, keepdim=True), '<column': lambda a, b: (a*b).sum(-2, keepdim=True),
    ',': lambda *xs: torch.cat([x.flatten() for x in xs]), r'\odot': torch.mul, r'\operatorname{triu}': torch.triu,
    r'\operatorname{eigvals}': torch.linalg.eigvalsh, r'\operatorname{eigvecs}': lambda a: torch.linalg.eigh(a)[1],
    r'\operatorname{qr}': lambda a: torch.linalg.qr(a)[0], r'\operatorname{argmax}': torch.argmax,
    r'\operatorname{argsort}': lambda a: a.flatten().argsort(descending=True),
    r'\operatorname{columns}': lambda a, o: a[:,o], r'\operatorname{rows}': lambda a, o: a[o]}

def called(name, args):
    if m := re.fullmatch(r'\\operatorname{(\w+)}_{\\text{(row|column)}}', name): return reductions[m[1]](args[0], -1 if m[2]=='row' else -2, keepdim=True)
    if name not in (r'\max', r'\min'): return functions[name](*args)
    two,all_ = (torch.maximum, torch.amax) if name==r'\max' else (torch.minimum, torch.amin)
    return reduce(two, args) if len(args)>1 else all_(args[0])

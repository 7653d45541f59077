"""A backend in NumPy, to show what one takes: the flat part of a stage, written as Python with the table of operations. For tests only."""

import math
import numpy as np
import torch
from genopt.lower.operations import Dialect,reduction,write


class NumPy(Dialect):
    zero,half,one,infinity = 'T(0)','T(.5)','T(1)','T("inf")'
    functions = dict(pow='power', abs='abs', atan2='arctan2', atan='arctan')
    def constant(self, v, dtype): return f'({v!r})' if dtype is torch.bool else f'T({float(v)!r})' if math.isfinite(v) else f'T("{float(v)}")'
    def number(self, condition): return f'np.asarray({condition}).astype(T)'
    def function(self, name, *args): return f'erf({args[0]})' if name=='erf' else f'np.{self.functions.get(name, name)}({", ".join(args)})'
    def choose(self, condition, a, b): return f'np.where({condition}, {a}, {b})'
    def negate(self, condition): return f'np.logical_not({condition})'
    def fma(self, a, b, c): return f'({a}*{b} + {c})'

joins = {'+': 'sum', 'max': 'max', 'min': 'min'}

def erf(x): return torch.erf(torch.from_numpy(np.asarray(x))).numpy()


class NumPyFlat:
    "Call it with lists of arrays by name and scalars by name: it writes the stores and returns the leaves"
    def __init__(self, flat, compute_dtype):
        self.flat,self.compute_dtype,self.d = flat,compute_dtype,NumPy()
        self.T = np.float64 if compute_dtype is torch.float64 else np.float32
        lines = []
        for r in flat.rounds:
            lines += [f'{self.name(v)} = {write(v, self.d, self.text, compute_dtype)}' for v in (*r.singles, *r.elements)]
            lines += [self.reduced(v) for v in r.reduced]
        self.source = '\n'.join(lines)
        self.code = compile(self.source, 'numpy backend', 'exec')
    def name(self, v): return v.name.replace('@', '_at_')
    def text(self, v, dtype): return self.number(v) if v.dtype is torch.bool and dtype is not torch.bool else self.name(v)
    def number(self, v): return self.d.number(self.name(v))
    def reduced(self, v):
        red = reduction(v)
        of  = red.element(self.d, *(self.text(o, self.compute_dtype) for o in v.operands))
        return f'acc = np.asarray({of}, dtype=np.float64); {self.name(v)} = T({red.end(self.d, f"acc.{joins[red.sign]}()", "float(acc.size)")})'

    def __call__(self, arrays, scalars):
        f,leaves = self.flat,{v: [] for v in self.flat.leaves}
        for i in range(len(next(iter(arrays.values())))):
            env = dict(np=np, T=self.T, erf=erf) | {n: self.T(x) for n,x in scalars.items()}
            env|= {n.replace('@', '_at_'): arrays[n][i].astype(self.T) for n in (*f.loads, *f.single_loads)}
            with np.errstate(all='ignore'): exec(self.code, env)
            news = {n: env[self.name(v)] for n,v in (f.stores|f.single_stores).items()}
            for n,x in news.items(): arrays[n][i][...] = x
            for v in f.leaves: leaves[v].append(env[self.name(v)])
        return leaves

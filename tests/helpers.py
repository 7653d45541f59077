"""What the common tests share: a model of awkward parameters, and one run of an optimizer over it. The table of algorithms is `catalogue`."""

import copy
from contextlib import ExitStack
from unittest.mock import patch
import pytest,torch
from genopt._torch import TorchDispatchMode,outside_of_modes
from genopt.run import triton_launch,triton_runtime
from catalogue import catalogue,conforming,core as algorithms

__all__ = ['Tape', 'algorithms', 'awkward', 'catalogue', 'closure_of', 'conforming', 'difference', 'gpu', 'gradients', 'objective', 'run', 'run_closure', 'two_groups']


shapes = dict(matrix=(7,5), bias=(5,), scalar=(), empty=(0,), strided=(4,6), late=(3,2))

def awkward(dtype=torch.float64, seed=0):
    "Parameters of every awkward kind, by name"
    g = torch.Generator().manual_seed(seed)
    ps = {n: torch.randn(s, generator=g, dtype=torch.float64).to(dtype) for n,s in shapes.items()}
    ps['strided'] = ps['strided'].t()
    return {n: p.requires_grad_() for n,p in ps.items()}

def gradients(step, dtype=torch.float64):
    "Of these parameters at `step`: `late` joins at step 10, `matrix` misses every fourth"
    g = torch.Generator().manual_seed(1000+step)
    gs = {n: torch.randn(s, generator=g, dtype=torch.float64).to(dtype) for n,s in shapes.items()}
    gs['strided'] = gs['strided'].t()
    if step<10: gs['late'] = None
    if step%4==3: gs['matrix'] = None
    return gs

def two_groups(ps, lr, **second):
    "The same parameters in two groups with different hypers"
    items,second = [*ps.items()],second or dict(weight_decay=0.05)
    return [dict(params=[p for _,p in items[::2]]), dict(params=[p for _,p in items[1::2]], lr=lr/3, **second)]

def run(cls, kwargs, dtype=torch.float64, steps=100, groups=True, names=(), second=(), **more):
    "The parameters after `steps` steps of `cls(**kwargs)`, of those in `names`, and the optimizer"
    ps,kwargs = {n: p for n,p in awkward(dtype).items() if n in (names or shapes)},copy.deepcopy(kwargs)|more
    opt = cls(two_groups(ps, float(kwargs.get('lr', 1e-3)), **dict(second)) if groups else ps.values(), **kwargs)
    torch.manual_seed(0)
    for i in range(steps):
        for n,g in gradients(i, dtype).items():
            if n in ps: ps[n].grad = g
        opt.step()
    return {n: p.detach() for n,p in ps.items()},opt

def objective(ps, dtype=torch.float64):
    "A smooth function of parameters that ties all of them together: a double well for each element, and a sum over all"
    xs = [torch.view_as_real(p) if p.is_complex() else p for p in ps]
    g  = torch.Generator().manual_seed(0)
    total = sum((x*torch.randn(x.shape, generator=g, dtype=torch.float64).to(x.dtype)).sum() for x in xs)
    return .05*(total-1)**2 + sum((x**4/4 - x**2/2 + .1*x).sum() for x in xs)

def closure_of(ps, opt, graph=False):
    "The closure that evaluates `objective`"
    def closure():
        opt.zero_grad()
        loss = objective(ps)
        loss.backward(create_graph=graph)
        return loss
    return closure

def run_closure(cls, kwargs, dtype=torch.float64, steps=100, names=(), graph=False, **more):
    "The parameters after `steps` steps by closure of `cls(**kwargs)`, and the optimizer"
    torch.manual_seed(0)
    ps  = {n: p for n,p in awkward(dtype).items() if n in (names or shapes)}
    opt = cls(ps.values(), **copy.deepcopy(kwargs)|more)
    for _ in range(steps): opt.step(closure_of(ps.values(), opt, graph))
    return {n: p.detach() for n,p in ps.items()},opt

def difference(a, b, least=0.):
    "Largest difference of two sets of parameters, relative to the largest value of each tensor, or to `least` where all are smaller"
    return torch.stack([(a[n].double()-b[n].double()).abs().max()/b[n].double().abs().max().clamp(min=least) for n in a if a[n].numel()]).max().item()    # nan stays


def gpu(f): return pytest.mark.gpu(pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA device')(f))

class Tape(TorchDispatchMode):
    """What a CUDA graph is, on a CPU: the operations that were done within it, and the kernels launched, to be done again on the same memory. Like a
    capture it refuses to look into a tensor, to print one, and to bring one from the host. torch prints where no mode sees it: for
    `aten.clamp(x, low, high)` it tries the overload for numbers first, and its message why that does not fit shows the arguments"""
    def __init__(self):
        super().__init__()
        self.ops = []
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.overloadpacket in (torch.ops.aten._local_scalar_dense, torch.ops.aten.lift_fresh): raise RuntimeError(f"{func}: the host would wait")
        res = func(*args, **(kwargs or {}))
        allocates = func.overloadpacket in (torch.ops.aten.empty, torch.ops.aten.empty_like, torch.ops.aten.empty_strided)
        if func.namespace=='aten' and not allocates: self.ops.append((func, args, kwargs or {}, res))
        return res
    def __enter__(self):
        self.patches = ExitStack()
        launch = triton_runtime.launch
        def recorded(*args):
            with outside_of_modes(): launch(*args)
            self.ops.append((launch, args, {}, None))
        self.patches.enter_context(patch.object(triton_runtime, 'launch', recorded))
        self.patches.enter_context(patch.object(triton_launch, 'is_capturing', lambda device: True))
        self.patches.enter_context(patch.object(torch._tensor_str, '_str', self.refuse_to_print))
        return super().__enter__()
    def refuse_to_print(self, *args, **kw): raise RuntimeError("a tensor is printed: the host would wait")
    def __exit__(self, *args):
        self.patches.close()
        return super().__exit__(*args)
    @torch.no_grad()
    def replay(self):
        for func,args,kwargs,res in self.ops:
            again = func(*args, **kwargs)
            for old,new in zip(*([x] if isinstance(x, torch.Tensor) else x or () for x in (res, again)), strict=True):
                if old.data_ptr()!=new.data_ptr(): old.copy_(new)

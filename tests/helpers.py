"""What the common tests share: the table of algorithms, a model of awkward parameters, and one run of an optimizer over it."""

import copy,random
from dataclasses import dataclass,field
import pytest,torch
import torch.testing._internal.common_optimizers as common
from torch.utils._python_dispatch import TorchDispatchMode
import genopt,references


@dataclass
class Algorithm:
    "One row of the table: an algorithm, the reference it must equal, and random settings of it for the common tests"
    cls: type
    reference: type
    setting: object                                            # random.Random -> kwargs
    lr: float = 0.1                                            # at which it minimises the test functions
    more: dict = field(default_factory=dict)                   # and other settings with which it does
    fused: bool = True                                         # the reference has a fused CPU kernel
    own: list = None                                           # settings to try, where torch's optim_db has no such algorithm

    @property
    def name(self): return self.cls.__name__
    @property
    def info(self):
        "torch's own record of the reference, or of what it derives from; None if it has none"
        return next((o for c in self.reference.__mro__ for o in common.optim_db if o.optim_cls is c), None)
    def inputs(self): return self.own or [i.kwargs for i in self.info.optim_inputs_func(device='cpu', dtype=torch.float64)]
    def error_inputs(self): return (self.info.optim_error_inputs_func if self.info else references.error_inputs)('cpu', torch.float64)
    def settings(self, n=30):
        rand = random.Random(0)
        return [self.setting(rand) for _ in range(n)]
    def cases(self): return self.inputs() + self.settings()

def common_setting(r): return dict(lr=10**r.uniform(-4,-1), weight_decay=r.choice([0, 0, 10**r.uniform(-4,-1)]), maximize=r.random()<.3)

def sgd(r):
    nesterov = r.random()<.3
    return common_setting(r) | dict(momentum=r.uniform(.1,.99) if nesterov else r.choice([0, r.random()]),
                                    dampening=0 if nesterov else r.choice([0, r.random()]), nesterov=nesterov)
def rmsprop(r):
    return common_setting(r) | dict(alpha=r.uniform(.5,.999), eps=10**r.uniform(-10,-3), momentum=r.choice([0, r.random()]), centered=r.random()<.5)
def lion(r):  return common_setting(r) | dict(betas=(r.random(), r.uniform(.5,.9999)))
def lamb(r):  return lion(r)  | dict(eps=10**r.uniform(-10,-3))
def adam(r):  return lamb(r)  | dict(amsgrad=r.random()<.5)
def radam(r): return lamb(r)  | dict(decoupled_weight_decay=r.random()<.5)
def nadam(r): return radam(r) | dict(momentum_decay=r.choice([0, 10**r.uniform(-4,-1)]))

algorithms = [
    Algorithm(genopt.SGD,     torch.optim.SGD,     sgd,     lr=1e-3, more=dict(momentum=.9)),
    Algorithm(genopt.RMSprop, torch.optim.RMSprop, rmsprop, lr=1e-2, fused=False),
    Algorithm(genopt.Adam,    torch.optim.Adam,    adam),
    Algorithm(genopt.AdamW,   torch.optim.AdamW,   adam),
    Algorithm(genopt.Lion,    references.Lion,     lion,    lr=2e-2, fused=False, own=references.lion_inputs),
    Algorithm(genopt.NAdam,   references.NAdam,    nadam,   fused=False),
    Algorithm(genopt.RAdam,   torch.optim.RAdam,   radam,   lr=5e-3, fused=False, more=dict(betas=(.9,.99))),
    Algorithm(genopt.LAMB,    references.LAMB,     lamb,    fused=False, own=references.lamb_inputs),
]


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

def two_groups(ps, lr):
    "The same parameters in two groups with different hypers"
    items = [*ps.items()]
    return [dict(params=[p for _,p in items[::2]]), dict(params=[p for _,p in items[1::2]], lr=lr/3, weight_decay=0.05)]

def run(cls, kwargs, dtype=torch.float64, steps=100, groups=True, **more):
    "The parameters after `steps` steps of `cls(**kwargs)`, and the optimizer"
    ps,kwargs = awkward(dtype),copy.deepcopy(kwargs)|more
    opt = cls(two_groups(ps, float(kwargs.get('lr', 1e-3))) if groups else ps.values(), **kwargs)
    for i in range(steps):
        for n,g in gradients(i, dtype).items(): ps[n].grad = g
        opt.step()
    return {n: p.detach() for n,p in ps.items()},opt

def difference(a, b):
    "Largest difference of two sets of parameters, relative to the largest value of each tensor"
    return torch.stack([(a[n].double()-b[n].double()).abs().max()/b[n].double().abs().max() for n in a if a[n].numel()]).max().item()    # nan stays


def gpu(f): return pytest.mark.gpu(pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA device')(f))

class Tape(TorchDispatchMode):
    """What a CUDA graph is, on a CPU: the operations that were done within it, to be done again on the same memory. Like a capture it
    refuses to look into a tensor, and to bring one from the host"""
    def __init__(self):
        super().__init__()
        self.ops = []
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.overloadpacket in (torch.ops.aten._local_scalar_dense, torch.ops.aten.lift_fresh): raise RuntimeError(f"{func}: the host would wait")
        res = func(*args, **(kwargs or {}))
        if func.namespace=='aten': self.ops.append((func, args, kwargs or {}, res))
        return res
    @torch.no_grad()
    def replay(self):
        for func,args,kwargs,res in self.ops:
            again = func(*args, **kwargs)
            for old,new in zip(*([x] if isinstance(x, torch.Tensor) else x or () for x in (res, again)), strict=True):
                if old.data_ptr()!=new.data_ptr(): old.copy_(new)

"""What a row of the table is, and the random settings that rows share."""

import random
from dataclasses import dataclass,field
import torch
import torch.testing._internal.common_optimizers as common
import references


# what looks at the shape of a parameter, and so takes no complex one
shaped = {'SM3', 'SGDP', 'AdamP', 'Adafactor', 'CAME', 'Muon', 'NorMuon', 'AdaMuon', 'Scion', 'Shampoo', 'SOAP', 'Kron'}

@dataclass
class Peer:
    """Another library's version. `make`: `(params, **settings)` -> its optimizer. Where it differs by design, `why` says how, and `ours` makes
    genopt's optimizer with just that difference, by an argument or another block. It lacks the settings of ours that are in `without`. `patched`
    says what the comparison changes in its code. Arguments that it is given are found by running `make`: `given.given`"""
    name: str                                                  # 'pytorch_optimizer'
    make: object
    why: str = ''
    ours: object = None
    tol: float = 1e-10
    without: tuple = ()
    patched: str = ''

    def settings(self, a): return [{k: v for k,v in kw.items() if k not in self.without} for kw in a.settings(5)]


@dataclass
class Algorithm:
    "One row of the table: an algorithm, the reference it must equal, and random settings of it for the common tests"
    cls: type
    reference: object                                          # a class, or `(params, **settings)` -> an optimizer that others have written
    setting: object                                            # random.Random -> kwargs
    lr: float = 0.1                                            # at which it minimises the test functions
    near: float = 1e-2                                         # and how near it comes to Rosenbrock's minimum in 8000 steps
    more: dict = field(default_factory=dict)                   # and other settings with which it does
    fused: bool = True                                         # the reference has a fused CPU kernel
    own: list = None                                           # settings to try, where torch's optim_db has no such algorithm
    core: bool = False                                         # all tests of the framework run on it
    source: str = 'torch.optim'                                # whose the reference is
    patched: str = ''                                          # what the comparison changes in its code
    peers: list = field(default_factory=list)                  # other libraries' versions
    tol: float = 1e-10                                         # relative, after 100 steps in float64
    names: tuple = ()                                          # of the awkward parameters, those that the reference can take; all if empty
    second: dict = field(default_factory=dict)                 # what the second of two groups has otherwise, besides its lr
    alone: str = ''                                            # why `fused=True` cannot be, if it cannot: a regular expression
    joint: bool = False                                        # parameters have a say in each other's step
    closure: bool = False                                      # it evaluates the model itself, so gradients cannot be given by hand
    graph: bool = False                                        # and asks for a graph of the gradients
    matrix: bool = False                                       # it takes matrices only
    params: object = torch.nn.Module.parameters                # those of a model that it takes
    digits: float = 0.5                                        # by how much the digits network's loss falls at the default settings, at least
    batch: int = 64                                            # images of a step there
    steps: int = 100                                           # over how many it is held against its reference

    @property
    def name(self): return self.cls.__name__
    @property
    def takes_complex(self): return self.name not in shaped
    @property
    def info(self):
        "torch's own record of the reference, or of what it derives from; None if it has none"
        bases = self.reference.__mro__ if isinstance(self.reference, type) else ()
        return next((o for c in bases for o in common.optim_db if o.optim_cls is c), None)
    def inputs(self): return self.own or [i.kwargs for i in self.info.optim_inputs_func(device='cpu', dtype=torch.float64)]
    def error_inputs(self):
        "But for what torch refuses only in a step, complex parameters, which we take"
        errors = (self.info.optim_error_inputs_func if self.info else references.error_inputs)('cpu', torch.float64)
        return [e for e in errors if e.error_on!=common.OptimizerErrorEnum.STEP_ERROR]
    def ran(self, cls, kw, **more):
        "The parameters that `cls`, genopt's or another's, comes to in the common run, and the optimizer"
        from helpers import run,run_closure
        if self.closure: return run_closure(cls, kw, **dict(steps=self.steps, names=self.names, graph=self.graph) | more)
        return run(cls, kw, **dict(steps=self.steps, names=self.names, second=self.second, groups=not self.joint) | more)
    def settings(self, n=30):
        rand = random.Random(0)
        return [self.setting(rand) for _ in range(n)]
    def cases(self): return self.inputs() + self.settings()


def log(r, lo, hi): return 10**r.uniform(lo, hi)
def common_setting(r): return dict(lr=log(r,-4,-1), weight_decay=r.choice([0, 0, log(r,-4,-1)]), maximize=r.random()<.3)
def betas_setting(r):  return common_setting(r) | dict(betas=(r.random(), r.uniform(.5,.9999)))
def eps_setting(r):    return betas_setting(r)  | dict(eps=log(r,-10,-3))


# -- Other libraries --

def apart(make):
    """`(params, **settings)` -> one of `make([p], **settings)` for each parameter, because many count steps for all of a group; stepped only when that
    has a gradient, of the other sign if it is to maximise"""
    class Apart:
        def __init__(self, params, **kw):
            groups,self.opts = [*params],[]
            for g in groups if isinstance(groups[0], dict) else [dict(params=groups)]:
                own = kw | {k: v for k,v in g.items() if k!='params'}
                sign = -1 if own.pop('maximize', False) else 1
                self.opts += [(p, make([p], **own), sign) for p in g['params']]
        def step(self):
            for p,opt,sign in self.opts:
                if p.grad is None: continue
                p.grad = p.grad.clone()*sign                            # some write into it
                opt.step()
    return Apart

def other(cls, fixed=None, **names):
    "`cls` of another library, made as ours is: with `fixed` settings, our other settings under its `names`"
    return apart(lambda params, foreach=None, **kw: cls(params, **(fixed or {}) | {names.get(k,k): v for k,v in kw.items()}))

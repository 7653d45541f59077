"""The contenders from other libraries, each at the settings at which it does the same work as torch's algorithm, or the nearest it has."""

from functools import partial
import torch
from genopt.tools import bench
from genopt.tools.bench import Absent,Contender

same = "its {} is torch's own"


def fastai_step(algorithm, groups, settings, compiled=False):
    from fastai import optimizer as f
    make = dict(SGD=f.SGD, RMSprop=f.RMSProp, Adam=f.Adam, AdamW=f.Adam, RAdam=f.RAdam, LAMB=f.Lamb).get(algorithm)
    if not make: raise Absent(f"fastai has no {algorithm}")
    wd = 0.01 if algorithm=='AdamW' else 0.
    opt = make([g['params'] for g in groups], lr=settings['lr'], wd=wd, **dict(mom=settings['momentum']) if 'momentum' in settings else {})
    for h,g in zip(opt.hypers, groups): h.update(lr=g.get('lr', settings['lr']), wd=g.get('weight_decay', wd))
    return torch.compile(opt.step) if compiled else opt.step

def heavyball_step(algorithm, groups, settings, compiled=False):
    "Its smaller functions are compiled in any case; `compiled`: the whole step"
    import heavyball as h
    cls = dict(SGD=h.SGD, RMSprop=h.RMSprop, Adam=h.AdamW, AdamW=h.AdamW, NAdam=h.NAdam).get(algorithm)
    if not cls: raise Absent(f"HeavyBall has no {algorithm}")
    own = dict(beta=settings['momentum']) if algorithm=='SGD' else dict(betas=(0.9, 0.99 if algorithm=='RMSprop' else 0.999))
    return cls(groups, lr=settings['lr'], weight_decay=0.01 if algorithm=='AdamW' else 0., compile_step=compiled, **own).step

def optimi_step(algorithm, groups, settings, compiled=False, **flags):
    import optimi as o
    cls = dict(SGD=o.SGD, Adam=o.Adam, AdamW=o.AdamW, Lion=o.Lion, RAdam=o.RAdam).get(algorithm)
    if not cls: raise Absent(f"optimi has no {algorithm}")
    opt = cls(groups, **settings, **(dict(weight_decay=0.01) if algorithm=='AdamW' else {}), **flags)
    return torch.compile(opt.step) if compiled else opt.step

def kozistr_step(algorithm, groups, settings, compiled=False, **flags):
    "pytorch_optimizer; compiled as its `create_optimizer(compile=True)` does"
    import pytorch_optimizer as k
    if algorithm in ('Adam','AdamW','RMSprop','NAdam'): raise Absent(same.format(algorithm))
    cls = dict(SGD=k.SGDW, Lion=k.Lion, LAMB=k.Lamb, RAdam=k.RAdam).get(algorithm)
    if not cls: raise Absent(f"pytorch_optimizer is not compared on {algorithm}")
    opt = cls(groups, **settings, **flags, **(dict(degenerated_to_sgd=True) if algorithm=='RAdam' else {}))
    if compiled and not cls._supports_compiled_foreach: return torch.compile(opt.step, dynamic=True)
    if compiled: opt._compile_foreach()
    return opt.step

def lucidrains_step(algorithm, groups, settings, module='lion_pytorch', compiled=False):
    "lion-pytorch"
    from importlib import import_module
    if algorithm!='Lion': raise Absent(f"lion-pytorch has no {algorithm}")
    opt = import_module(f'lion_pytorch.{module}').Lion(groups, **settings)
    return torch.compile(opt.step) if compiled else opt.step


peers = [Contender('fastai default',             fastai_step),
         Contender('fastai compiled',            partial(fastai_step, compiled=True)),
         Contender('heavyball default',          heavyball_step),
         Contender('heavyball compiled',         partial(heavyball_step, compiled=True)),
         Contender('optimi default',             optimi_step),
         Contender('optimi foreach',             partial(optimi_step, foreach=True)),
         Contender('optimi compiled',            partial(optimi_step, compiled=True)),
         Contender('pytorch_optimizer default',  kozistr_step),
         Contender('pytorch_optimizer loop',     partial(kozistr_step, foreach=False)),
         Contender('pytorch_optimizer compiled', partial(kozistr_step, foreach=True, compiled=True)),
         Contender('lion-pytorch default',       lucidrains_step),
         Contender('lion-pytorch foreach',       partial(lucidrains_step, module='foreach')),
         Contender('lion-pytorch compiled',      partial(lucidrains_step, module='foreach', compiled=True))]

contenders = [*bench.contenders[:-1], *peers, bench.contenders[-1]]
packages   = 'torch fastai heavyball torch-optimi pytorch_optimizer lion-pytorch'.split()

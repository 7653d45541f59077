"""The contenders of other libraries, each with the settings with which it does the work of torch's algorithm, or the nearest that it has."""

from functools import partial
from importlib import import_module
import torch
from genopt.tools import bench
from genopt.tools.contenders import Absent,Contender,compiled,find,stored
from . import matrix


def fastai_step(algorithm, groups, settings):
    from fastai import optimizer as f
    make = find('fastai', algorithm, dict(SGD=f.SGD, RMSprop=f.RMSProp, Adam=f.Adam, AdamW=f.Adam, RAdam=f.RAdam, LAMB=f.Lamb))
    lr   = settings['lr']
    wd   = 0.01 if algorithm=='AdamW' else 0.
    mom  = dict(mom=settings['momentum']) if 'momentum' in settings else {}
    opt  = make([g['params'] for g in groups], lr=lr, wd=wd, **mom)
    for hypers,group in zip(opt.hypers, groups):
        hypers.update(lr=group.get('lr', lr), wd=group.get('weight_decay', wd))
    return opt.step

def heavyball_step(algorithm, groups, settings, compiled=False):
    "HeavyBall compiles its smaller functions in any case; `compiled`: the whole step"
    import heavyball as h
    cls = find('HeavyBall', algorithm, dict(SGD=h.SGD, RMSprop=h.RMSprop, Adam=h.AdamW, AdamW=h.AdamW, NAdam=h.NAdam))
    own = dict(beta=settings['momentum']) if algorithm=='SGD' else dict(betas=(0.9, 0.99 if algorithm=='RMSprop' else 0.999))
    return cls(groups, lr=settings['lr'], weight_decay=0.01 if algorithm=='AdamW' else 0., compile_step=compiled, **own).step

def optimi_step(algorithm, groups, settings, **flags):
    import optimi as o
    cls = find('optimi', algorithm, dict(SGD=o.SGD, Adam=o.Adam, AdamW=o.AdamW, Lion=o.Lion, RAdam=o.RAdam))
    own = dict(weight_decay=0.01) if algorithm=='AdamW' else {}
    return cls(groups, **settings, **own, **flags).step

def kozistr_optimizer(algorithm, groups, settings, **flags):
    import pytorch_optimizer as k
    if algorithm in ('Adam','AdamW','RMSprop','NAdam'):
        raise Absent(f"its {algorithm} is torch's own")
    cls = dict(SGD=k.SGDW, Lion=k.Lion, LAMB=k.Lamb, RAdam=k.RAdam).get(algorithm)
    if not cls:
        raise Absent(f"pytorch_optimizer is not compared on {algorithm}")
    own = dict(degenerated_to_sgd=True) if algorithm=='RAdam' else {}
    return cls(groups, **settings, **own, **flags)

def kozistr_step(*args, **flags): return kozistr_optimizer(*args, **flags).step

def kozistr_compiled(*args):
    "As pytorch_optimizer's `create_optimizer(compile=True)` does"
    opt = kozistr_optimizer(*args, foreach=True)
    if not opt._supports_compiled_foreach:
        return torch.compile(opt.step, dynamic=True)
    opt._compile_foreach()
    return opt.step

def lucidrains_step(algorithm, groups, settings, module='lion_pytorch'):
    if algorithm!='Lion':
        raise Absent(f"lion-pytorch has no {algorithm}")
    return import_module(f'lion_pytorch.{module}').Lion(groups, **settings).step

lucidrains_foreach = partial(lucidrains_step, module='foreach')

def lucidrains_triton(algorithm, groups, settings): return lucidrains_step(algorithm, groups, settings | dict(use_triton=True))

def apex_step(algorithm, groups, settings):
    from apex import optimizers as a
    cls = find('apex', algorithm, dict(SGD=a.FusedSGD, Adam=a.FusedAdam, AdamW=a.FusedAdam, LAMB=a.FusedLAMB))
    own = dict(adam_w_mode=algorithm=='AdamW', weight_decay=0.01 if algorithm=='AdamW' else 0.) if algorithm in ('Adam','AdamW') else {}
    return cls(groups, **settings, **own).step

def torchao_step(algorithm, groups, settings):
    "States of 8 bits, which torchao has instead of float32"
    try:
        o = import_module('torchao.optim')
    except ModuleNotFoundError:
        o = import_module('torchao.prototype.low_bit_optim')                    # its name in older versions
    return find('torchao', algorithm, dict(Adam=o.Adam8bit, AdamW=o.AdamW8bit))(groups, **settings).step

def schedulefree_step(algorithm, groups, settings):
    import schedulefree as s
    cls = find('schedulefree', algorithm, dict(AdamWScheduleFree=s.AdamWScheduleFree, SGDScheduleFree=s.SGDScheduleFree))
    opt = cls(groups, **settings)
    opt.train()
    return opt.step

def prodigyopt_step(algorithm, groups, settings):
    import prodigyopt as p
    return find('prodigyopt', algorithm, dict(Prodigy=p.Prodigy))(groups, **settings).step

muons = {name: matrix.peer(module, make) for name,module,make in matrix.peers['Muon']}

def with_muon(name, make):
    "A contender `name` that makes algorithms with `make`, and Muon as matrix.py compares it"
    def made(algorithm, *args): return (muons[name] if algorithm=='Muon' else make)(algorithm, *args)
    return Contender(name, made)

def only_muon(algorithm, groups, settings):
    return muons['muon default'](find('muon', algorithm, dict(Muon='Muon')), groups, settings)

peers = [Contender('fastai default',             fastai_step),
         Contender('fastai compiled',            compiled(fastai_step)),
         Contender('heavyball default',          heavyball_step),
         Contender('heavyball compiled',         partial(heavyball_step, compiled=True)),
         Contender('optimi default',             optimi_step),
         Contender('optimi foreach',             partial(optimi_step, foreach=True)),
         Contender('optimi compiled',            compiled(optimi_step)),
         Contender('pytorch_optimizer default',  kozistr_step),
         Contender('pytorch_optimizer loop',     partial(kozistr_step, foreach=False)),
         Contender('pytorch_optimizer compiled', kozistr_compiled),
         Contender('lion-pytorch default',       lucidrains_step),
         Contender('lion-pytorch foreach',       lucidrains_foreach),
         Contender('lion-pytorch compiled',      compiled(lucidrains_foreach))]

gpu_peers = [Contender('optimi triton',              partial(optimi_step, triton=True)),
             Contender('optimi foreach',             partial(optimi_step, foreach=True)),
             with_muon('pytorch_optimizer default',  kozistr_step),
             Contender('lion-pytorch triton',        lucidrains_triton),
             Contender('lion-pytorch foreach',       lucidrains_foreach),
             Contender('apex default',               apex_step),
             Contender('schedulefree default',       schedulefree_step),
             Contender('prodigyopt default',         prodigyopt_step),
             Contender('muon default',               only_muon),
             with_muon('heavyball default',          heavyball_step),
             Contender('torchao 8-bit',              torchao_step)]

def with_peers(own, peers): return [*own[:-1], *peers, own[-1]]                  # the copy of memory comes last

contenders = with_peers(bench.contenders, [*stored, *peers])
on_gpu     = with_peers(bench.on_gpu, gpu_peers)
packages   = ('torch', 'triton', 'fastai', 'heavyball', 'torch-optimi', 'pytorch_optimizer', 'lion-pytorch', 'apex', 'schedulefree', 'prodigyopt',
              'muon-optimizer', 'torchao')

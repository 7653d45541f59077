"""`python -m benchmarks.matrix`: steps of Muon, Shampoo and SOAP beside the libraries that have them, on matrices of 64 to 1024 in float32. Settings,
the dtype of the iteration and the frequencies are the same. Vectors, which AdamW would take, are left out. All take turns in one process."""

import json,sys,warnings
from functools import partial
from importlib import import_module
from pathlib import Path
from statistics import mean,median
import torch
from genopt.optim.tables import table
from genopt.tools import bench
from genopt.tools.bench import Side,TimeUp,aside,forget,load,machine,random_tensors,take_turns,why
from genopt.tools.cli import call
from genopt.tools.contenders import Contender,Shape,genopt_step


# -- What is measured --

layers  = [(768,256), (256,256), (1024,256), (256,1024)]                            # attention, its output, and the MLP, of width 256
shapes  = dict(matrices = Shape('4 layers of a transformer of width 256', layers*4, 30),
               wide     = Shape('an MLP 512-1024-1024-512', [(1024,512), (1024,1024), (512,1024)], 20),
               small    = Shape('24 matrices of 64', [(64,64)]*24, 60))
muon    = dict(lr=1e-3, momentum=.95, weight_decay=.1, nesterov=True)
shampoo = dict(lr=1e-3, momentum=0., weight_decay=0., eps=1e-4)
soap    = dict(lr=1e-3, betas=(.95,.95), weight_decay=.01, eps=1e-8)
every    = dict(precondition_frequency=10)                                          # steps
settings = dict(Muon=muon, Shampoo=shampoo | every, SOAP=soap | every)

def torch_muon(m, ps): return m.Muon(ps, **muon)
def timm_muon(m, ps): return m.Muon(ps, **muon, ns_coefficients='original', adjust_lr_fn='original')
def kozistr_muon(m, ps, **kw): return m.Muon([dict(params=ps, use_muon=True)], **muon, **kw)
def heavyball_muon(m, ps, **kw): return m.Muon(ps, lr=1e-3, betas=(.95,.99), weight_decay=.1, **kw)
def kellers_muon(m, ps): return m.SingleDeviceMuon(ps, lr=1e-3, momentum=.95, weight_decay=.1)
def kozistr_soap(m, ps): return m.SOAP(ps, **soap, **every)
def heavyball_soap(m, ps, **kw):
    return m.SOAP(ps, lr=1e-3, betas=(.95,.95), weight_decay=.01, **every, merge_dims=False, **kw)
def kozistr_shampoo(m, ps): return m.Shampoo(ps, lr=1e-3, matrix_eps=1e-4, preconditioning_compute_steps=10)
def jettify_shampoo(m, ps): return m.Shampoo(ps, lr=1e-3, epsilon=1e-4, update_freq=10)

peers = dict(Muon    = [('torch default', 'torch.optim', torch_muon), ('timm default', 'timm.optim.muon', timm_muon),
                        ('muon default', 'muon', kellers_muon),
                        ('pytorch_optimizer default', 'pytorch_optimizer', kozistr_muon),
                        ('pytorch_optimizer loop', 'pytorch_optimizer', partial(kozistr_muon, foreach=False)),
                        ('heavyball default', 'heavyball', heavyball_muon)],
             Shampoo = [('pytorch_optimizer default', 'pytorch_optimizer', kozistr_shampoo),
                        ('torch_optimizer default', 'torch_optimizer', jettify_shampoo)],
             SOAP    = [('pytorch_optimizer default', 'pytorch_optimizer', kozistr_soap), ('heavyball default', 'heavyball', heavyball_soap)])

def peer(module, make):
    "A contender's `make`, which imports `module` and calls `make` with it and the parameters"
    def step(algorithm, groups, settings):
        params = [p for g in groups for p in g['params']]
        return make(import_module(module), params).step
    return step

def contenders(algorithm):
    others = [Contender(name, peer(module, make)) for name,module,make in peers[algorithm]]
    flags  = dict(loop=dict(foreach=False), default={}, fused=dict(fused=True))
    return others + [Contender(f'genopt {name}', partial(genopt_step, **kw)) for name,kw in flags.items()]


# -- Measuring --

def cost(times, period):
    "Seconds of a step, where each of `period` steps has a cost of its own: the mean of their medians, so that a rare step counts by how rare it is"
    return mean(median(times[i::period]) for i in range(period))

def compare(algorithm, shape, rounds=None):
    "The steps of all contenders in turns; who is absent, and why"
    s      = shapes[shape]
    period = settings[algorithm].get('precondition_frequency', 1)
    rounds = max(1, (rounds or s.rounds)//period)*period
    bench.algorithms[algorithm] = settings[algorithm]
    grads  = random_tensors(s, torch.device('cpu'), 1, 0.01)
    sides,absent = [],{}
    with aside():
        for c in contenders(algorithm):
            forget()
            try:
                sides.append(Side(c, algorithm, s, grads, 300.))
            except (Exception, TimeUp) as e:
                absent[c.name] = why(e)[:200]
        take_turns(sides, rounds)
    rows = {}
    for side in sides:
        rows[side.contender.name] = dict(ms=cost(side.times, period)*1e3, best=min(side.times)*1e3, warm=side.warm)
    others  = [name for name in rows if not name.startswith('genopt')]
    fastest = min(others, key=lambda name: rows[name]['ms'])
    for r in rows.values():
        r['ratio'] = r['ms']/rows[fastest]['ms']
    return dict(algorithm=algorithm, shape=shape, about=s.about, rounds=rounds, fastest=fastest, rows=rows, absent=absent, load=load(),
                threads=torch.get_num_threads())


# -- Showing --

def text(res):
    "The result of `compare` as a table, the fastest first"
    rows = [[name, f"{r['ms']:.2f}", f"{r['best']:.2f}", f"{r['ratio']:.2f}", f"{r['warm']:.1f}"]
            for name,r in sorted(res['rows'].items(), key=lambda o: o[1]['ms'])]
    head = (f"{res['algorithm']} on {res['shape']} ({res['about']}), {res['rounds']} rounds, {res['threads']} threads, load {res['load']}; "
            f"ratio to {res['fastest']}")
    lines = [head, '', table(['contender', 'ms/step', 'best', 'ratio', 'warm-up, s'], rows, right=(1,2,3,4))]
    return '\n'.join(lines + [f"absent: {name}: {reason}" for name,reason in res['absent'].items()])

def run(
    algorithms:str=None,              # Some of Muon, Shampoo, SOAP; by default all
    sizes:str=None,                   # Some of matrices, wide, small; by default all
    rounds:int=None,                  # Steps of each contender; by default as many as the shape needs
    out:Path='matrix.json',           # File for all that was measured
):
    "Measure steps of the algorithms of matrices, genopt's and its peers', in turns"
    warnings.simplefilter('ignore')
    results = []
    for shape in bench.pick(sizes, shapes):
        for algorithm in bench.pick(algorithms, peers):
            res = compare(algorithm, shape, rounds) | dict(machine=machine())
            results.append(res)
            out.write_text(json.dumps(dict(results=results), indent=1))
            print(text(res), end='\n\n', flush=True)

def main(argv=None): return call(run, 'python -m benchmarks.matrix', argv)

if __name__=='__main__': sys.exit(main())

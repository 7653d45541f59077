"""What `genopt bench` measures: shapes of models' parameters, algorithms with settings, and the contenders, which are genopt's steps and torch's."""

import inspect,math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache,partial
import torch
import genopt
from .. import algorithms as catalogue

__all__ = ['Absent', 'Contender', 'Shape', 'algorithms', 'contenders', 'on_gpu', 'shapes', 'stored']


# -- Shapes --

@dataclass
class Shape:
    """The parameters of a model: what the model is, the size of each tensor, and how many steps a measurement takes. With `settings` each tensor is a
    param group, and tensor `i` has setting `i % len(settings)`. `schedule`: each step has a new `lr`, as a scheduler sets it before the step.
    `by_name`: it is for a GPU, or for some algorithms only; it is measured where its name is given"""
    about: str
    sizes: list
    rounds: int
    settings: tuple = ()
    schedule: bool = False
    by_name: bool = False

    @property
    def numel(self): return sum(map(math.prod, self.sizes))

    def groups(self, params, merged: bool=False) -> list:
        "`params` as param groups; `merged`: one group for each setting"
        n = len(self.settings)
        if not n:
            return [dict(params=params)]
        if merged:
            return [dict(params=params[i::n], **s) for i,s in enumerate(self.settings)]
        return [dict(params=[p], **self.settings[i%n]) for i,p in enumerate(params)]

def linear(n_out, n_in): return [(n_out,n_in), (n_out,)]

def mlp(*widths): return [size for n_in,n_out in zip(widths, widths[1:]) for size in linear(n_out, n_in)]

def resnet(depths, expand):
    "torchvision's, with `depths` blocks in each stage. `expand` is 1 for the block of ResNet-18 and 4 for the bottleneck of ResNet-50"
    def conv(n_out, n_in, k):
        return [(n_out,n_in,k,k), (n_out,), (n_out,)]                                          # with weight and bias of its batch norm
    res  = conv(64, 3, 7)
    n_in = 64
    for stage,depth in enumerate(depths):
        n     = 64<<stage
        n_out = n*expand
        for _ in range(depth):
            if expand==1:
                res += conv(n, n_in, 3) + conv(n, n, 3)
            else:
                res += conv(n, n_in, 1) + conv(n, n, 3) + conv(n_out, n, 1)
            if n_in!=n_out:
                res += conv(n_out, n_in, 1)
            n_in = n_out
    return [*res, *linear(1000, n_in)]

def gpt2(layers=12, n=768, vocabulary=50257, context=1024):
    def conv1d(n_in, n_out): return [(n_in,n_out), (n_out,)]
    norm  = [(n,), (n,)]
    layer = norm + conv1d(n, 3*n) + conv1d(n, n) + norm + conv1d(n, 4*n) + conv1d(4*n, n)
    return [(vocabulary,n), (context,n), *layers*layer, *norm]

def gpt2_matrices(): return [size for size in gpt2()[2:] if len(size)==2]

three_settings = dict(lr=1e-3, weight_decay=0.01),dict(lr=3e-4, weight_decay=0.01),dict(lr=1e-3, weight_decay=0.)
five_sizes     = [(256,), (256,256), (256,), (1024,), (256,64)]                                # 5 and 3 have no common factor: each pair occurs
shapes = dict(six       = Shape('an MLP 10-50-50-10', mlp(10,50,50,10), 500),
              resnet18  = Shape('ResNet-18', resnet((2,2,2,2), 1), 40),
              resnet50  = Shape('ResNet-50', resnet((3,4,6,3), 4), 30),
              gpt2      = Shape('GPT-2 small', gpt2(), 12),
              k256      = Shape('1000 tensors of 256', [(256,)]*1000, 100),
              groups465 = Shape('465 groups with 3 settings', five_sizes*93, 40, three_settings),
              six_scheduled       = Shape('an MLP 10-50-50-10, a new lr before each step', mlp(10,50,50,10), 500, schedule=True),
              groups465_scheduled = Shape('465 groups with 3 settings, a new lr before each step', five_sizes*93, 40, three_settings, True),
              b1        = Shape('a transformer of 24 layers of width 1792', gpt2(24, 1792), 12, by_name=True),
              k10000    = Shape('10,000 tensors of 256', [(256,)]*10_000, 20, by_name=True),
              gpt2_matrices = Shape('the matrices of the 12 layers of GPT-2 small', gpt2_matrices(), 12, by_name=True))


# -- Algorithms --

usual      = dict(SGD=dict(lr=1e-3, momentum=0.9), RMSprop=dict(lr=1e-3), Adam=dict(lr=1e-3), AdamW=dict(lr=1e-3),
                  Lion=dict(lr=1e-4), LAMB=dict(lr=1e-3), RAdam=dict(lr=1e-3), NAdam=dict(lr=1e-3))
named      = usual | dict(Muon=dict(lr=1e-3))
algorithms = {n: named.get(n, {}) for n in catalogue.__all__}                                  # the others at their default settings

@cache
def needs(algorithm: str) -> tuple:
    "Bytes of state, and bytes that a step must read and write, both for each byte of a matrix"
    p = torch.zeros(64, 64, requires_grad=True)
    explained = getattr(genopt, algorithm)([p], **algorithms[algorithm]).explain()
    return explained.state/p.nbytes,explained.traffic/p.nbytes


# -- Contenders --

class Absent(Exception):
    "Says why a contender takes no part"

@dataclass
class Contender:
    """`make(algorithm, groups, settings)` returns the step, a function without arguments. Where there is none it raises `Absent`, or an error of its
    library. `merged`: it gets one param group for each setting. `dtype`: of its parameters and gradients"""
    name: str
    make: Callable
    merged: bool = False
    dtype: torch.dtype = torch.float32

    @property
    def library(self): return self.name.partition(' ')[0]

def genopt_step(algorithm, groups, settings, **flags):
    return getattr(genopt, algorithm)(groups, **settings, **flags).step

def stored_step(algorithm, groups, settings, store):
    "genopt's step under the policy `store`. Raises `Absent` if that stores nothing in another way"
    opt = getattr(genopt, algorithm)(groups, **settings, store=store)
    opt.init_state()
    if {x.dtype for s in opt.state.values() for x in s.values() if torch.is_tensor(x)}<={torch.float32}:
        raise Absent(f"{algorithm} has no state here that store={store!r} stores in another dtype; small ones stay as they are")
    return opt.step

def torch_step(algorithm, groups, settings, **flags):
    return find('torch.optim', algorithm, vars(torch.optim))(groups, **settings, **flags).step

def find(library, algorithm, classes):
    "The class for `algorithm` among `classes`. Raises `Absent` where `library` has none"
    if algorithm not in classes:
        raise Absent(f"{library} has no {algorithm}")
    return classes[algorithm]

def compiled(make):
    "A contender's `make` with `torch.compile` around the step"
    return lambda *args: torch.compile(make(*args))

def copy_step(algorithm, groups, settings):
    "A copy of memory that reads and writes as many bytes as the step must: half of them each"
    params  = [p for g in groups for p in g['params']]
    traffic = sum(p.nbytes for p in params)*needs(algorithm)[1]
    source,target = (torch.ones(int(traffic/2)//4, device=params[0].device) for _ in range(2))
    return partial(target.copy_, source)

class Captured:
    """A step that is captured in a CUDA graph at its fourth call, and from then on replayed. Gradients must stay where they are, and the
    hyper-parameters are those of the capture"""
    def __init__(self, step, cuda=torch.cuda):
        self.step,self.cuda = step,cuda
        self.eager,self.graph = 3,None

    def __call__(self):
        if self.eager:
            self.eager -= 1
            return self.on_a_side_stream()
        if self.graph is None:
            self.graph = self.cuda.CUDAGraph()
            with self.cuda.graph(self.graph):
                self.step()
        self.graph.replay()

    def on_a_side_stream(self):
        "What is to be captured must have run on another stream than the default one"
        main,side = self.cuda.current_stream(),self.cuda.Stream()
        side.wait_stream(main)
        with self.cuda.stream(side):
            self.step()
        main.wait_stream(side)

def captured(make):
    "A contender's `make` with its step in a CUDA graph"
    def make_captured(algorithm, groups, settings):
        if not groups[0]['params'][0].is_cuda:
            raise Absent("a CUDA graph is for parameters on a GPU")
        return Captured(make(algorithm, groups, settings))
    return make_captured

def torch_capturable(algorithm, groups, settings):
    "torch's step with `fused` and `capturable`, as far as the algorithm has them. The others can be captured as well, if they do not wait"
    known = inspect.signature(find('torch.optim', algorithm, vars(torch.optim))).parameters
    flags = {k: True for k in ('fused','capturable') if k in known}
    return torch_step(algorithm, groups, settings, **flags)

contenders = [Contender('torch fused',    partial(torch_step, fused=True)),
              Contender('torch foreach',  partial(torch_step, foreach=True)),
              Contender('torch default',  torch_step),
              Contender('torch loop',     partial(torch_step, foreach=False)),
              Contender('torch compiled', compiled(torch_step)),
              Contender('genopt loop',    partial(genopt_step, foreach=False)),
              Contender('genopt foreach', partial(genopt_step, foreach=True)),
              Contender('genopt default', genopt_step),
              Contender('genopt fused',   partial(genopt_step, fused=True)),
              Contender('memory copy',    copy_step)]
# these move fewer bytes than the algorithm in float32 does
stored     = [Contender('genopt bfloat16',   partial(stored_step, store='bfloat16')),
              Contender('genopt int8',       partial(stored_step, store='int8')),
              Contender('genopt extra_bits', partial(stored_step, store={'p': 'extra_bits', '*': 'int8'}), dtype=torch.bfloat16)]
on_gpu     = [*contenders[:-1],
              Contender('torch captured',  captured(torch_capturable)),
              Contender('genopt captured', captured(partial(genopt_step, capturable=True))),
              contenders[-1]]
baselines  = 'torch fused','torch default'                                                     # the first of them that takes part

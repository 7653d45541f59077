"""`python -m benchmarks.memory`: bytes that training takes for each parameter, counted by torch's allocator on a CPU. The parameters are GPT-2's.
A step is a backward pass that makes the gradients, one after the other, and a step of the optimizer; what a model computes takes no part. memory.json
here has the measurements; the section `Memory, measured` of docs/memory.md is made from it."""

import gc,math,sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
import torch
import genopt
from genopt.tools.bench import held,pick,random_tensors,version,why
from genopt.tools.cli import call
from genopt.tools.contenders import gpt2,shapes
from .cases import isolated
from .measured import table
from .results import load,save
from .sections import write_section

file    = Path(__file__).with_suffix('.json')
page    = file.parent.parent/'docs'/'memory.md'
heading = 'Memory, measured'


# -- Who is measured --

@dataclass
class Kind:
    "A way to train with AdamW: the optimizer, `make(params)`, of `package`, over weights of `dtype`. `release`: genopt's can free gradients early"
    make: Callable
    dtype: torch.dtype = torch.float32
    package: str = 'torch'
    release: bool = False

def genopts(store, dtype=torch.float32):
    return Kind(lambda ps: genopt.AdamW(ps, lr=1e-4, store=store), dtype, 'genopt', True)

def torchs(dtype=torch.float32, **flags):
    return Kind(lambda ps: torch.optim.AdamW(ps, lr=1e-4, **flags), dtype)

def other(package, module, name, dtype=torch.float32, **settings):
    return Kind(lambda ps: getattr(import_module(module), name)(ps, lr=1e-4, **settings), dtype, package)

low   = torch.bfloat16
kinds = {'torch.optim.AdamW':                                 torchs(),
         'torch.optim.AdamW, fused':                          torchs(fused=True),
         'torch.optim.AdamW, fused, all in bfloat16':         torchs(low, fused=True),
         'torchao AdamW8bit':                                 other('torchao', 'torchao.optim', 'AdamW8bit'),
         'torchao AdamWFp8':                                  other('torchao', 'torchao.optim', 'AdamWFp8'),
         'torchao AdamW4bit':                                 other('torchao', 'torchao.optim', 'AdamW4bit'),
         'bitsandbytes AdamW8bit':                            other('bitsandbytes', 'bitsandbytes.optim', 'AdamW8bit'),
         'optimi AdamW, bfloat16 with Kahan':                 other('torch-optimi', 'optimi', 'AdamW', low, kahan_sum=True),
         'genopt AdamW':                                      genopts(None),
         "genopt AdamW, `store='bfloat16'`":                  genopts('bfloat16'),
         "genopt AdamW, `store='int8'`":                      genopts('int8'),
         "genopt AdamW, `store={'p': 'extra_bits'}`":         genopts({'p': 'extra_bits'}, low),
         "genopt AdamW, `store={'p': 'extra_bits', '*': 'int8'}`": genopts({'p': 'extra_bits', '*': 'int8'}, low),
         "genopt AdamW, `store={'p': 'exact_bits', '*': 'int8'}`": genopts({'p': 'exact_bits', '*': 'int8'}, low),
         "genopt AdamW, `store={'p': 'stochastic', '*': 'int8'}`": genopts({'p': 'stochastic', '*': 'int8'}, low)}
published = {'FlashOptim FlashAdamW': dict(dtype='bfloat16', kept=7, released=5)}           # https://arxiv.org/abs/2602.23349, its abstract


# -- Measuring --

class Use(torch.autograd.Function):
    "Passes `x` on. Its backward makes a gradient for the parameter `p`, as a layer does that uses `p`"
    @staticmethod
    def forward(ctx, x, p):
        ctx.p = p
        return x.clone()

    @staticmethod
    def backward(ctx, grad): return grad,torch.full_like(ctx.p, 1e-3)

def make_gradients(params):
    "Call backward through something that uses the parameters in their order"
    x = torch.zeros((), requires_grad=True)
    for p in params:
        x = Use.apply(x, p)
    x.backward()

def measure(name, release, shape):
    """Bytes for each element: `kept` after a step, with the gradients unless they are released, and at the `peak` of a step. Two steps go before
    it, which make the states and what is kept for later steps"""
    kind,sizes = kinds[name],shape.sizes
    elements   = sum(map(math.prod, sizes))
    there      = []
    def begin():
        params = [torch.nn.Parameter(x.to(kind.dtype)) for x in random_tensors(shape, 'cpu', 0, .1)]
        opt    = kind.make(params)
        there.extend((params, opt, genopt.release_gradients(opt) if release else None))
        for _ in range(2):
            step()
            opt.zero_grad()
        gc.collect()
    def step():
        params,opt,_ = there
        make_gradients(params)
        opt.step()
    before  = held(begin)[-1]
    changes = held(step)
    return dict(kept=(before+changes[-1])/elements, peak=(before+max(changes))/elements, elements=elements, tensors=len(sizes))

def row(name, release, shape='gpt2'):
    "A measurement in a process of its own, or why there is none"
    kind  = kinds[name]
    about = dict(name=name, release=release, dtype=str(kind.dtype).removeprefix('torch.'), package=kind.package, version=version(kind.package))
    try:
        return about | isolated(measure, name, release, shapes[shape])
    except Exception as e:
        return about | dict(absent=why(e))

def key(r): return r['name'],r['release']

def run(
    packages:str=None,         # Some of torch, torchao, bitsandbytes, torch-optimi, genopt; by default all
    fresh:bool=False,          # Measure again what the file has
    out:Path=file,             # File for all measurements
    show:bool=False,           # Measure nothing, write the page's section from the file
):
    "Measure the memory that optimizers take for each parameter of GPT-2, and write the table"
    results = load(out)
    chosen  = pick(packages, {k.package: None for k in kinds.values()})
    jobs    = [(n, r) for n,k in kinds.items() if k.package in chosen for r in (False, True)[:1+k.release]]
    for name,release in [] if show else jobs:
        if not fresh and (name,release) in {key(r) for r in results if 'kept' in r}:
            continue
        new = row(name, release)
        results = [r for r in results if key(r)!=key(new)] + [new]
        save(results, out)
        print(name, 'released'*release, {k: v for k,v in new.items() if k in ('kept', 'peak', 'absent')}, flush=True)
    print(section(results))
    if out==file:
        write_section(page, heading, section(results))


# -- Showing --

def find(results, name, release=False): return next((r for r in results if key(r)==(name,release)), {})

def number(x): return '' if x is None else f'{x:.1f}'

def line(results, name):
    "A row of the table"
    r,released = find(results, name),find(results, name, True)
    if 'kept' not in r:
        return [name, 'not measured', '', '', '', '']
    return [name, r['dtype'], *map(number, (r['kept'], r['peak'], released.get('kept'), released.get('peak')))]

def rows(results):
    own = [n for n in kinds if n.startswith('genopt')]
    yield from (line(results, n) for n in kinds if n not in own)
    yield from ([n, r['dtype'], f"{r['kept']}, published", '', f"{r['released']}, published", ''] for n,r in published.items())
    yield from (line(results, n) for n in own)

def models(results):
    "For each size of GPT-2: gigabytes that are kept, from bytes for each element of the smallest"
    sizes = {'GPT-2': gpt2(), 'medium': gpt2(24, 1024), 'large': gpt2(36, 1280), 'XL': gpt2(48, 1600)}
    counts = [sum(map(math.prod, s)) for s in sizes.values()]
    chosen = ['torch.optim.AdamW, fused', 'genopt AdamW', "genopt AdamW, `store='int8'`", "genopt AdamW, `store={'p': 'extra_bits', '*': 'int8'}`"]
    for name in chosen:
        for release in (False, True):
            r = find(results, name, release)
            if 'kept' in r:
                yield [name + ', gradients released'*release, *(f"{r['kept']*n/1e9:.1f}" for n in counts)]

def section(results):
    "The section of the page"
    measured = next(r for r in results if 'kept' in r)
    versions = {r['package']: r['version'] for r in results if 'kept' in r}
    absent   = ''.join(f"{r['name']} is not measured: {r['absent']}\n\n" for r in results if 'absent' in r)
    largest  = max(map(math.prod, shapes['gpt2'].sizes))/shapes['gpt2'].numel
    return f"""
Bytes for each parameter of GPT-2 ({measured['elements']:,} elements in {measured['tensors']} tensors), as torch's allocator counts them on a CPU.
*Kept* are weights, gradients and states after a step. The *peak* is the most at any time of a step, without what the model computes. *Released* is
with `genopt.release_gradients(opt)`. There the peak has one gradient more than what is kept; the largest tensor has {largest:.0%} of all elements.

{table(['AdamW', 'weights', 'kept', 'peak', 'kept, released', 'peak, released'], [*rows(results)], range(2, 6))}

Gigabytes that the sizes of GPT-2 keep, computed from these bytes:

{table(['AdamW', 'GPT-2', 'medium', 'large', 'XL'], [*models(results)], range(1, 5))}

For weights in bfloat16 `extra_bits` is the default, so `store='int8'` alone gives 7 bytes, and 5 if gradients are released: 2 for the weight, 1
for its 8 more bits, 2 for the gradient, 2 for the states. `exact_bits` keeps 16 more bits, and then the weight is a float32, bit by bit.

{absent}Versions: {', '.join(f'{n} {v}' for n,v in versions.items())}. FlashOptim needs a GPU; its figures are those of [its
paper](https://arxiv.org/abs/2602.23349). `python -m benchmarks.memory` measures, and writes this section and
[memory.json](../benchmarks/memory.json).
"""

def main(argv=None): return call(run, 'python -m benchmarks.memory', sys.argv[1:] if argv is None else argv)

if __name__=='__main__': sys.exit(main())

"""What `python -m benchmarks --device cuda` measures, all in one process: the cases, who takes part in each, and every algorithm that is launched."""

from functools import cache
from pathlib import Path
import genopt
from genopt.tools import bench
from .cases import hush
from .peers import on_gpu

file      = Path(__file__).with_name('gpu.json')
by_name   = {c.name: c for c in on_gpu}
compiling = ['torch compiled', 'heavyball default', 'torchao 8-bit']            # seconds to minutes before their first step
loops     = ['torch loop', 'genopt loop']
rounds    = 15
large     = 'resnet50', 'gpt2', 'b1'
steps     = [('Adam','gpt2'), ('Adam','resnet50'), ('Adam','k256'), ('Adam','k10000'), ('Adam','six'), ('Adam','b1'), ('LAMB','gpt2'),
             ('Muon','gpt2_matrices'), *((a,s) for a in ('AdamW','SGD','RMSprop','Lion') for s in large), ('AdamW','groups465'),
             ('Prodigy','gpt2'), ('AdamWScheduleFree','gpt2')]
few       = dict(b1     = ['torch fused', 'torch foreach', 'optimi triton', 'lion-pytorch triton', 'genopt foreach', 'genopt default', 'memory copy'],
                 k10000 = ['torch fused', 'torch foreach', 'torch captured', 'genopt foreach', 'genopt default', 'genopt captured', 'memory copy'])


# -- What to measure --

def taking_part(shape, contenders, compiles):
    "Names of the contenders on a shape: those that were asked for, or all but loops, and but those that compile unless `compiles`"
    if contenders is not None:
        return bench.pick(contenders, by_name)
    return [n for n in few.get(shape, by_name) if n not in loops and (compiles or n not in compiling)]

def everything(cases, algorithms, shapes, contenders, compiles):
    """All that is measured, in order: kind, algorithm, shape and names of contenders. Given algorithms and shapes: each algorithm on each shape.
    Given one of the two, or none: those of `steps`. Raises `ValueError` where nothing is left"""
    todo = []
    if 'step' in cases:
        todo += [('step', a, s, taking_part(s, contenders, compiles)) for a,s in chosen(algorithms, shapes)]
    if 'catalogue' in cases and shapes is None:
        todo += [('catalogue', a, 'gpt2', ['genopt fused', 'memory copy']) for a in launched() if algorithms is None or a in algorithms]
    if not todo:
        raise ValueError(f"no case has algorithm {', '.join(algorithms or ())!r} or shape {', '.join(shapes or ())!r}; give both to measure them")
    return todo

def chosen(algorithms, shapes):
    if algorithms and shapes:
        return [(a, s) for s in shapes for a in algorithms]
    return [(a, s) for a,s in steps if (algorithms is None or a in algorithms) and (shapes is None or s in shapes)]

@cache
def launched():
    "The algorithms that run in launches alone"
    from .gpu import tried
    return [n for n in genopt.list_algorithms() if n in bench.algorithms and tried(n)]


# -- Measuring --

def measure(kind, algorithm, shape, names, *, baseline, rounds, device, patience, memory):
    "One case in this process. An error that no contender has caused makes all absent"
    hush()
    if kind=='catalogue':
        baseline,rounds = 'memory copy',rounds//2
    options = dict(baseline=baseline, rounds=rounds, device=device, patience=patience, memory=memory, peaks=kind=='step')
    try:
        res = bench.measure(algorithm, shape, [by_name[n] for n in names], **options)
    except (RuntimeError, MemoryError) as e:
        res = bench.result(algorithm, shape, device, rounds, None, [dict(name=n, absent=bench.why(e)) for n in names])
    return res | dict(case=kind)

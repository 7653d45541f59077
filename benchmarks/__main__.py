"""`python -m benchmarks`: genopt beside its peers. README.md here says what is measured and how."""

import sys,time
from pathlib import Path
import torch
from genopt.tools import bench
from genopt.tools.bench import machine,pick,report,with_absent
from genopt.tools.cli import call,check_folder
from genopt.tools.contenders import usual
from . import card,cases as case,goals,plot
from .peers import packages
from .results import load,save

kinds     = 'step', 'first', 'compilations'
gpu_kinds = 'step', 'catalogue'
compiling = ['genopt default', 'torch compiled', 'heavyball default', 'heavyball compiled']


def run(
    shapes:str=None,           # Some of six, resnet18, resnet50, gpt2, k256, groups465; by default all. On a GPU also b1, k10000, gpt2_matrices
    algorithms:str=None,       # Names of algorithms; by default SGD, RMSprop, Adam, AdamW, Lion, LAMB, RAdam, NAdam; on a GPU those of the goals
    contenders:str=None,       # Libraries or contenders, as in "genopt, torch fused, heavyball"; by default all; on a GPU not those that compile
    cases:str=None,            # Some of step, first, compilations, on a GPU of step, catalogue; by default all
    rounds:int=None,           # Steps of each contender; by default as many as the shape needs, on a GPU 15
    baseline:str=None,         # The contender whose time is 1; by default torch fused, or torch default where there is no such
    device:str='cpu',          # cpu or cuda. On cuda all runs in one process, and ratios are of the device's time
    patience:int=None,         # Seconds after which a contender that still compiles is given up; by default 120, on a GPU 20
    memory:float=None,         # GiB that contenders may fill at a time; by default 70% of what is free
    seconds:int=None,          # Begin no case after this time; by default all are measured
    compiles:bool=False,       # On a GPU: also contenders that compile for seconds to minutes, such as HeavyBall
    out:Path=None,             # File for all that was measured; a picture is put beside it. By default bench.json, on a GPU benchmarks/gpu.json
    add:bool=False,            # Keep what --out holds, but for what is measured again
    show:bool=False,           # Measure nothing, show what --out holds
    short:bool=False,          # A few goals in one thread, each allowed to be missed by a factor of two; exits with 1 where one is missed by more
):
    "Measure steps, first steps, memory and compilations of genopt and its peers, and hold them against the goals"
    begun,on_gpu = time.perf_counter(),check_device(device, show)
    out = out or (card.file if on_gpu else Path('bench.json'))
    check_folder('--out', out)
    results = load(out) if add or show else []
    targets = goals.on_gpu if on_gpu else goals.shortened() if short else goals.goals
    if show:
        todo = []
        print('\n\n'.join(map(text, results)), end='\n\n')
    elif on_gpu:
        some = lambda s, names: s and pick(s, names)
        todo = card.everything(pick(cases, gpu_kinds), some(algorithms, bench.algorithms), some(shapes, bench.shapes), contenders, compiles)
    elif short:
        todo = goals.plan(targets)
    else:
        todo = everything(pick(cases, kinds), pick(algorithms or ','.join(usual), bench.algorithms), pick(shapes or usual_shapes(), bench.shapes),
                          pick(contenders, case.by_name))
    for i,(kind,*what) in enumerate(todo):
        if seconds and time.perf_counter()-begun>seconds:
            print(f"{len(todo)-i} of {len(todo)} cases are not measured: {seconds} s are over", file=sys.stderr)
            break
        res = measure(kind, what, baseline, rounds, device, patience, memory, short)
        results = [r for r in results if key(r)!=key(res)] + [res]
        save(results, out)
        print(text(res), end='\n\n', flush=True)
    checked = goals.check(results, targets, short)
    print(goals.show(checked))
    if short:
        return int(not goals.passed(checked))
    picture([r for r in results if r['case']=='step'], out.with_suffix('.png'), plot.on_gpu if on_gpu else plot.plot)

def check_device(device, show):
    "Whether this is a GPU. Raises `ValueError` for one that is not here, unless results are only shown"
    bench.contenders_on(device)
    on_gpu = torch.device(device).type=='cuda'
    if on_gpu and not show and not torch.cuda.is_available():
        raise ValueError(f"--device {device}: torch finds no GPU here; with --show the command shows what was measured elsewhere")
    return on_gpu

def usual_shapes(): return ','.join(name for name,shape in bench.shapes.items() if not shape.by_name)

def measure(kind, what, baseline, rounds, device, patience, memory, short):
    "Measure one case. `what`: algorithm, shape and names of contenders"
    memory = memory and memory*2**30
    if torch.device(device).type=='cuda':
        res = card.measure(kind, *what, baseline=baseline, rounds=rounds or card.rounds, device=device, patience=patience or 20, memory=memory)
        return res | dict(machine=machine(device) | dict(versions=versions()))
    patience = patience or 120
    if kind=='compilations':
        res = case.compilations(*what, 200 if short else 1000, device, patience)
    elif kind=='first':
        res = case.first_steps(*what, device, patience)
    elif short:
        res = case.steps_short(*what, rounds, device)
    else:
        res = case.steps(*what, baseline, rounds, device, patience, memory)
    return res | dict(machine=machine(device) | dict(versions=versions()))

def everything(cases, algorithms, shapes, names):
    "All that is measured, in order: kind, algorithm, shape and names of contenders"
    res = [('step', a, s, names) for s in shapes for a in algorithms] if 'step' in cases else []
    for kind,shape in ('first','k256'),('compilations','six'):
        if kind in cases and shape in shapes and 'Adam' in algorithms:
            res.append((kind, 'Adam', shape, [n for n in compiling if n in names]))
    return res

def key(res): return res['case'],res['algorithm'],res['shape']

def text(res):
    "One measurement as a table"
    if res['case'] in gpu_kinds:
        return report(res)
    if res['case']=='first':
        what    = 'making the optimizer and its first step, with an empty compiler cache and again with what that left'
        columns = {'cold, s': '{cold:.2f}', 'warm, s': '{warm:.2f}'}
    else:
        what    = f"{res['steps']} steps, lr and betas changed at each, the last layer frozen and unfrozen ten times"
        columns = {'graphs compiled': '{count}'}
    rows = [[r['name'], *(form.format_map(r) for form in columns.values())] for r in res['rows'] if 'absent' not in r]
    return with_absent(f"{res['algorithm']} on {res['shape']}: {what}", ['contender', *columns], rows, res)

def versions():
    "Versions of the peers that are installed"
    found = {package: bench.version(package) for package in packages}
    return {package: v for package,v in found.items() if v}

def picture(results, path, draw):
    try:
        drawn = draw(results, path)
    except ImportError as e:
        return print(f"no picture: {e}", file=sys.stderr)
    if drawn:
        print(f"picture: {path}")

def main(argv=None):
    "Run the command line `argv`. Returns the exit status"
    try:
        return call(run, 'python -m benchmarks', argv) or 0
    except (ValueError, OSError) as e:
        print(f"benchmarks: {e}", file=sys.stderr)
    return 2

if __name__=='__main__': sys.exit(main())

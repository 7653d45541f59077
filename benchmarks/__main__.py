"""`python -m benchmarks`: genopt beside its peers. README.md here says what is measured and how."""

import importlib.metadata,json,sys
from pathlib import Path
from genopt.tools import bench
from genopt.tools.bench import machine,pick,report,with_absent
from genopt.tools.cli import call,check_folder
from genopt.tools.contenders import usual
from . import cases as case,goals
from .peers import packages

kinds     = 'step', 'first', 'compilations'
compiling = ['genopt default', 'torch compiled', 'heavyball default', 'heavyball compiled']


def run(
    shapes:str=None,           # Some of six, resnet18, resnet50, gpt2, k256, groups465; by default all
    algorithms:str=None,       # Names of algorithms; by default SGD, RMSprop, Adam, AdamW, Lion, LAMB, RAdam, NAdam
    contenders:str=None,       # Libraries or contenders, as in "genopt, torch fused, heavyball"; by default all
    cases:str=None,            # Some of step, first, compilations; by default all
    rounds:int=None,           # Steps of each contender; by default as many as the shape needs
    baseline:str=None,         # The contender whose time is 1; by default torch fused, or torch default where there is no such
    device:str='cpu',          # cpu or cuda
    patience:int=120,          # Seconds after which a contender that still compiles is given up
    memory:float=None,         # GiB that contenders may fill at a time; by default 70% of what is free
    out:Path='bench.json',     # File for all that was measured; a picture is put beside it
    add:bool=False,            # Keep what --out holds, but for what is measured again
    show:bool=False,           # Measure nothing, show what --out holds
    short:bool=False,          # A few goals in one thread, each allowed to be missed by a factor of two; exits with 1 where one is missed by more
):
    "Measure steps, first steps, memory and compilations of genopt and its peers, and hold them against the goals"
    check_folder('--out', out)
    names   = pick(contenders, case.by_name)
    results = json.loads(out.read_text())['results'] if (add or show) and out.exists() else []
    targets = goals.shortened() if short else goals.goals
    if show:
        todo = []
        print('\n\n'.join(map(text, results)), end='\n\n')
    elif short:
        todo = goals.plan(targets)
    else:
        todo = everything(pick(cases, kinds), pick(algorithms or ','.join(usual), bench.algorithms), pick(shapes, bench.shapes), names)
    for kind,*what in todo:
        res = measure(kind, what, baseline, rounds, device, patience, memory, short)
        results = [r for r in results if key(r)!=key(res)] + [res]
        out.write_text(json.dumps(dict(results=results), indent=1))
        print(text(res), end='\n\n', flush=True)
    checked = goals.check(results, targets, short)
    print(goals.show(checked))
    if short:
        return int(not goals.passed(checked))
    picture(results, out.with_suffix('.png'))

def measure(kind, what, baseline, rounds, device, patience, memory, short):
    "Measure one case. `what`: algorithm, shape and names of contenders"
    if kind=='compilations':
        res = case.compilations(*what, 200 if short else 1000, device, patience)
    elif kind=='first':
        res = case.first_steps(*what, device, patience)
    elif short:
        res = case.steps_short(*what, rounds, device)
    else:
        res = case.steps(*what, baseline, rounds, device, patience, memory and memory*2**30)
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
    if res['case']=='step':
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
    res = {}
    for package in packages:
        try:
            res[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            pass
    return res

def picture(results, path):
    try:
        from .plot import plot
    except ImportError as e:
        return print(f"no picture: {e}", file=sys.stderr)
    if plot(results, path):
        print(f"picture: {path}")

def main(argv=None):
    "Run the command line `argv`. Returns the exit status"
    try:
        return call(run, 'python -m benchmarks', argv) or 0
    except (ValueError, OSError) as e:
        print(f"benchmarks: {e}", file=sys.stderr)
    return 2

if __name__=='__main__': sys.exit(main())

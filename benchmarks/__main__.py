"""`python -m benchmarks`: genopt beside its peers. README.md here says what is measured and how."""

import importlib.metadata,json,sys
from pathlib import Path
from fastcore.script import anno_parser
from genopt.tools import bench
from genopt.tools.bench import machine,pick,report
from genopt.optim.tables import table
from . import cases as case,goals
from .peers import packages

kinds   = 'step', 'first', 'compilations'
special = ['genopt default', 'torch compiled', 'heavyball default', 'heavyball compiled']             # who compile


def run(
    shapes:str=None,           # Some of six, resnet18, resnet50, gpt2, k256, groups465; by default all
    algorithms:str=None,       # Names of the catalogue; by default SGD, RMSprop, Adam, AdamW, Lion, LAMB, RAdam, NAdam
    contenders:str=None,       # Libraries or contenders, as in "genopt, torch fused, heavyball"; by default all
    cases:str=None,            # Some of step, first, compilations; by default all
    rounds:int=None,           # Steps of each contender; by default as many as the shape needs
    baseline:str=None,         # Whose time is 1; by default torch fused, or torch default where there is no such
    device:str='cpu',          # cpu or cuda
    patience:int=120,          # Seconds after which a contender that still compiles is given up
    memory:float=None,         # GiB that contenders may fill at a time; by default 70% of what is free
    out:Path='bench.json',     # Where to write everything that was measured; a picture is put beside it
    add:bool=False,            # Keep what --out holds, but for what is measured again
    show:bool=False,           # Measure nothing, show what --out holds
    short:bool=False,          # A few goals in one thread, each allowed to be missed by a factor of two; exits with 1 where one is missed by more
):
    "Measure steps, first steps, memory and compilations of genopt and its peers, and hold them against the goals"
    if not out.parent.is_dir(): raise ValueError(f"--out {out}: there is no folder {out.parent}")
    chosen,kept = pick(contenders, [*case.by_name]),(add or show) and out.exists()
    results = json.loads(out.read_text())['results'] if kept else []
    targets = goals.shortened() if short else goals.goals
    if show: todo = []
    elif short: todo = goals.plan(targets)
    else: todo = everything(pick(cases, kinds), pick(algorithms or ','.join(bench.usual), [*bench.algorithms]), pick(shapes, [*bench.shapes]), chosen)
    if show: print('\n\n'.join(map(text, results)), end='\n\n')
    for kind,a,s,names in todo:
        if   kind=='compilations': res = case.compilations(a, s, names, 200 if short else 1000, device, patience)
        elif kind=='first':        res = case.first_steps(a, s, names, device, patience)
        elif short:                res = case.steps_short(a, s, names, rounds, device)
        else:                      res = case.steps(a, s, names, baseline, rounds, device, patience, memory and memory*2**30)
        res['machine'] = machine(device) | dict(versions=versions())
        results = [r for r in results if key(r)!=key(res)] + [res]
        out.write_text(json.dumps(dict(results=results), indent=1))
        print(text(res), end='\n\n', flush=True)
    checked = goals.check(results, targets, short)
    print(goals.show(checked))
    if not short: picture(results, out.with_suffix('.png'))
    return 0 if goals.passed(checked) or not short else 1

def everything(cases, algorithms, shapes, names):
    "What is measured, in order: kind, algorithm, shape and contenders"
    res = [('step', a, s, names) for s in shapes for a in algorithms] if 'step' in cases else []
    for kind,shape in ('first','k256'),('compilations','six'):
        if kind in cases and shape in shapes and 'Adam' in algorithms: res.append((kind, 'Adam', shape, [n for n in special if n in names]))
    return res

def key(res): return res['case'],res['algorithm'],res['shape']

def text(res):
    if res['case']=='step': return report(res)
    head = dict(first=['contender', 'cold, s', 'warm, s'], compilations=['contender', 'graphs compiled'])[res['case']]
    what = dict(first='making the optimizer and its first step, with an empty compiler cache and again with what that left',
                compilations=f"{res.get('steps')} steps, lr and betas changed at each, the last layer frozen and unfrozen ten times")[res['case']]
    rows = [[r['name'], *([f"{r['cold']:.2f}", f"{r['warm']:.2f}"] if 'cold' in r else [str(r['count'])])] for r in res['rows'] if 'absent' not in r]
    return '\n'.join([f"{res['algorithm']} on {res['shape']}: {what}", '', table(head, rows, right=(1,2)) if rows else 'nobody took part',
                      *(f"absent: {r['name']}: {r['absent'][:200]}" for r in res['rows'] if 'absent' in r)])

def versions():
    "Of the peers that are installed"
    res = {}
    for p in packages:
        try: res[p] = importlib.metadata.version(p)
        except importlib.metadata.PackageNotFoundError: continue
    return res

def picture(results, path):
    try: from .plot import plot
    except ImportError as e: return print(f"no picture: {e}", file=sys.stderr)
    if plot(results, path): print(f"picture: {path}")

def main(argv=None):
    "Run the command line `argv`; returns the exit status"
    args = vars(anno_parser(run, prog='python -m benchmarks').parse_args(argv))
    try: return run(**{k:v for k,v in args.items() if k not in ('pdb','xtra')})
    except (ValueError, OSError) as e: print(f"benchmarks: {e}", file=sys.stderr)
    return 2

if __name__=='__main__': sys.exit(main())

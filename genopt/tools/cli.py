"""The command `genopt`: `compare`, `bench`, `gallery`, `list` and `explain`. `genopt COMMAND --help` says what each takes."""

import inspect,json,math,os,shutil,sys
from pathlib import Path
from fastcore.script import anno_parser
import torch
from . import bench as benchmark,catalogue,compare as comparison,gallery as pictures
from .data import make_model

__all__ = ['main']


def compare(
    opts:str=None,             # Algorithms with settings, as in "Adam, SGD(lr=0.1, momentum=0.9)"; by default the four of the story
    data:str='digits',         # digits (comes with scikit-learn), or torchvision's mnist, fashion_mnist, cifar10
    model:str='mlp',           # mlp, or a classifier of torchvision.models, such as resnet18
    epochs:int=15,             # Passes over the training set
    bs:int=64,                 # Batch size
    seed:int=42,               # Of the weights and of the order of batches
    dtype:str='float64',       # float64 shows that the algorithms are equal; float32 is what people train in
    tol:float=None,            # Largest difference of two losses that counts as equal (1e-8 in float64, 0.01 in float32)
    out:Path='compare.png',    # Where to write the loss curves
    root:Path='~/.cache/genopt', # Where torchvision keeps its data sets
    json:bool=False,           # Print everything as JSON instead of the table
):
    "Train one model with genopt's algorithms and with torch's, and show that they do the same. Exits with 1 where they do not"
    if not out.parent.is_dir(): raise ValueError(f"--out {out}: there is no folder {out.parent}")
    show = sys.stdout.isatty() and not json
    res = comparison.compare(comparison.defaults if opts is None else opts, data, model, epochs, bs, seed, dtype, tol, root, show)
    print(dumps(res) if json else comparison.report(res))
    comparison.plot(res, out)
    print(f"loss curves: {out}", file=sys.stderr if json else sys.stdout)
    return 0 if comparison.all_equal(res) else 1

def dumps(o):
    "As JSON, which knows no NaN and no infinity: they are null"
    def plain(o):
        if isinstance(o, dict): return {k: plain(v) for k,v in o.items()}
        if isinstance(o, (list,tuple)): return [*map(plain, o)]
        return None if isinstance(o, float) and not math.isfinite(o) else o
    return json.dumps(plain(o), indent=1, allow_nan=False)

def bench(
    shapes:str='six, resnet18, k256', # Some of six, resnet18, resnet50, gpt2, k256, groups465
    algorithms:str='Adam',     # Names of the catalogue, as `genopt list` shows them
    contenders:str='genopt, torch, memory', # Libraries or contenders, as in "genopt, torch fused, torch compiled"
    rounds:int=None,           # Steps of each contender; by default as many as the shape needs
    device:str='cpu',          # cpu or cuda
    patience:int=60,           # Seconds after which a contender that still compiles is given up
    out:Path=None,             # Where to write everything that was measured, as JSON
):
    "Measure genopt's steps beside torch's on this machine, in turns: time, warm-up and memory"
    if out and not out.parent.is_dir(): raise ValueError(f"--out {out}: there is no folder {out.parent}")
    who = benchmark.pick(contenders, [c.name for c in benchmark.contenders])
    models,algos = benchmark.pick(shapes, [*benchmark.shapes]),benchmark.pick(algorithms, [*benchmark.algorithms])
    chosen  = [c for c in benchmark.contenders if c.name in who]
    results = []
    for s in models:
        for a in algos:
            results.append(benchmark.measure(a, s, chosen, rounds=rounds, device=device, patience=patience))
            print(benchmark.report(results[-1]), end='\n\n', flush=True)
    about = benchmark.machine(device)
    print(', '.join(f'{k} {v}' for k,v in about.items()))
    if out: out.write_text(dumps(dict(machine=about, results=results)))

def gallery(
    functions:str=None,        # Some of rosenbrock, beale, himmelblau, rastrigin, valley, saddle; by default all
    algorithms:str=None,       # Algorithms with settings, as in "Adam, SGD(momentum=0.9)"; one with an lr is not searched for one; by default all
    steps:int=200,             # Steps of each
    out:Path='gallery.png',    # Where to write the picture
    json:bool=False,           # Print everything as JSON, with the paths, instead of the table
):
    "Draw the ways that algorithms take over functions of the plane"
    if not out.parent.is_dir(): raise ValueError(f"--out {out}: there is no folder {out.parent}")
    res = pictures.gallery(functions, algorithms, steps, sys.stdout.isatty() and not json)
    print(dumps(res) if json else pictures.report(res))
    pictures.plot(res, out)
    print(f"picture: {out}", file=sys.stderr if json else sys.stdout)

def list_(
    page:Path=None,            # Write the catalogue's page there instead, with what is measured in a parity.json beside it
):
    "Every algorithm by family, with its callbacks at the default settings"
    if not page: return print(catalogue.listing(shutil.get_terminal_size().columns if sys.stdout.isatty() else None))
    if not page.parent.is_dir(): raise ValueError(f"--page {page}: there is no folder {page.parent}")
    measured = page.with_name('parity.json')
    page.write_text(catalogue.page(json.loads(measured.read_text(encoding='utf-8')) if measured.exists() else {}), encoding='utf-8')
    print(f"page: {page}")

def explain(
    name:str, # An algorithm with settings, such as Adam or "SGD(momentum=0.9, nesterov=True)"
):
    "The chain of an algorithm as a table, on the small network of `genopt compare`"
    spec = comparison.Spec(name)
    opt = spec.ours(make_model('mlp', torch.zeros(1,1,8,8)).named_parameters())
    print(f"{inspect.getdoc(type(opt))}\n\n{opt.explain()}")

commands = dict(compare=compare, bench=bench, gallery=gallery, list=list_, explain=explain)

def main(argv=None):
    "Run the command line `argv`; returns the exit status"
    argv = sys.argv[1:] if argv is None else argv
    if not argv or argv[0] not in commands:
        asked = bool(argv) and argv[0] in ('-h', '--help')
        lines = [f"  {n:8} {f.__doc__}" for n,f in commands.items()]
        print('\n'.join(['usage: genopt COMMAND [--help] ...', '', *lines]), file=sys.stdout if asked else sys.stderr)
        return 0 if asked else 2
    f = commands[argv[0]]
    args = vars(anno_parser(f, prog=f'genopt {argv[0]}').parse_args(argv[1:]))
    try:
        status = f(**{k:v for k,v in args.items() if k not in ('pdb','xtra')}) or 0
        sys.stdout.flush()
        return status
    except BrokenPipeError:                                                                 # `| head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())                      # nor is the interpreter to complain, at its end
        return 1
    except ImportError as e: print(f"genopt {argv[0]}: {e}; pip install 'genopt[demo]' brings what it needs", file=sys.stderr)
    except (ValueError, TypeError, RuntimeError, OSError) as e: print(f"genopt {argv[0]}: {e}", file=sys.stderr)
    return 2

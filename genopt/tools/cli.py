"""The command `genopt`: `compare`, `bench`, `gallery`, `list` and `explain`. `genopt COMMAND --help` shows the options of each."""

import inspect,json,math,os,shutil,sys
from collections.abc import Callable
from itertools import product
from pathlib import Path
from fastcore.script import anno_parser
import torch
from . import bench as benchmark,catalogue,compare as comparison,gallery as pictures
from .data import make_model

__all__ = ['call', 'check_folder', 'dumps', 'main']


# -- Shared --

def call(f: Callable, prog: str, argv: list|None=None):
    "Call `f` with the arguments of the command line `argv`, as `f`'s annotations and comments describe them"
    args = vars(anno_parser(f, prog=prog).parse_args(argv))
    return f(**{k: v for k,v in args.items() if k not in ('pdb','xtra')})           # fastcore's own options

def check_folder(option: str, path: Path):
    "Raise `ValueError` if there is no folder in which `path`, the value of `option`, could be"
    if not path.parent.is_dir():
        raise ValueError(f"{option} {path}: there is no folder {path.parent}")

def dumps(o) -> str:
    "`o` as JSON, with null for NaN and infinity, which JSON does not have"
    def plain(o):
        if isinstance(o, dict):
            return {k: plain(v) for k,v in o.items()}
        if isinstance(o, (list,tuple)):
            return [*map(plain, o)]
        return None if isinstance(o, float) and not math.isfinite(o) else o
    return json.dumps(plain(o), indent=1, allow_nan=False)

def show(res, tool, out, as_json, what):
    "Print the result `res` of `tool`, and draw it into the file `out`"
    print(dumps(res) if as_json else tool.report(res))
    tool.plot(res, out)
    print(f"{what}: {out}", file=sys.stderr if as_json else sys.stdout)


# -- Commands --

def compare(
    opts:str=None,             # Algorithms with settings, as in "Adam, SGD(lr=0.1, momentum=0.9)"; by default SGD, momentum, RMSprop and Adam
    data:str='digits',         # digits (comes with scikit-learn), or torchvision's mnist, fashion_mnist, cifar10
    model:str='mlp',           # mlp, or a classifier of torchvision.models, such as resnet18
    epochs:int=15,             # Passes over the training set
    bs:int=64,                 # Batch size
    seed:int=42,               # Seed of the weights and of the order of the batches
    dtype:str='float64',       # float64 shows that the algorithms are equal; float32 is what people train in
    tol:float=None,            # Largest difference of two losses that counts as equal (1e-8 in float64, 0.01 in float32)
    out:Path='compare.png',    # File for the picture of the loss curves
    root:Path='~/.cache/genopt', # Folder in which torchvision keeps its data sets
    json:bool=False,           # Print all that was measured as JSON instead of the table
):
    "Train one model with genopt's algorithms and with torch's, and show that they do the same. Exits with 1 where they do not"
    check_folder('--out', out)
    bar = sys.stdout.isatty() and not json
    res = comparison.compare(comparison.defaults if opts is None else opts, data, model, epochs, bs, seed, dtype, tol, root, bar)
    show(res, comparison, out, json, 'loss curves')
    return 1 if comparison.different(res) else 0

def bench(
    shapes:str='six, resnet18, k256', # Some of six, resnet18, resnet50, gpt2, k256, groups465, six_scheduled, groups465_scheduled
    algorithms:str='Adam',     # Names of algorithms, as `genopt list` shows them
    contenders:str='genopt, torch, memory', # Libraries or contenders, as in "genopt, torch fused, torch compiled"
    rounds:int=None,           # Steps of each contender; by default as many as the shape needs
    device:str='cpu',          # cpu or cuda
    patience:int=60,           # Seconds that a contender may take for its first ten steps
    out:Path=None,             # File for all measurements, as JSON
):
    "Measure time, warm-up and memory of genopt's steps and torch's on this machine, in turns"
    if out:
        check_folder('--out', out)
    names   = benchmark.pick(contenders, [c.name for c in benchmark.contenders])
    chosen  = [c for c in benchmark.contenders if c.name in names]
    results = []
    for shape,algorithm in product(benchmark.pick(shapes, benchmark.shapes), benchmark.pick(algorithms, benchmark.algorithms)):
        res = benchmark.measure(algorithm, shape, chosen, rounds=rounds, device=device, patience=patience)
        results.append(res)
        print(benchmark.report(res), end='\n\n', flush=True)
    about = benchmark.machine(device)
    print(', '.join(f'{k} {v}' for k,v in about.items()))
    if out:
        out.write_text(dumps(dict(machine=about, results=results)))

def gallery(
    functions:str=None,        # Some of rosenbrock, beale, himmelblau, rastrigin, valley, saddle; by default all
    algorithms:str=None,       # Algorithms with settings, as in "Adam, SGD(momentum=0.9)", each at its best lr if you give none; by default all
    steps:int=200,             # Steps of each algorithm
    out:Path='gallery.png',    # File for the picture
    json:bool=False,           # Print everything as JSON, with the paths, instead of the table
):
    "Draw the paths of algorithms on functions of two variables"
    check_folder('--out', out)
    show(pictures.gallery(functions, algorithms, steps, sys.stdout.isatty() and not json), pictures, out, json, 'picture')

def list_(
    page:Path=None,            # Write the catalogue to this file instead, with the measurements in parity.json beside it
):
    "Show every algorithm by family, with its callbacks at the default settings"
    if not page:
        return print(catalogue.listing(shutil.get_terminal_size().columns if sys.stdout.isatty() else None))
    check_folder('--page', page)
    measured = page.with_name('parity.json')
    parity   = json.loads(measured.read_text(encoding='utf-8')) if measured.exists() else {}
    page.write_text(catalogue.page(parity), encoding='utf-8')
    print(f"page: {page}")

def explain(
    name:str,                  # An algorithm with settings, such as Adam or "SGD(momentum=0.9, nesterov=True)"
    kernel:str=None,           # Print the kernel for this GPU instead, and what its compiler says: sm_80, sm_90, sm_100 or gfx942
):
    "Show the chain of an algorithm as a table, on the small network of `genopt compare`"
    model = make_model('mlp', torch.zeros(1,1,8,8))
    opt   = comparison.Spec(name).ours(model.named_parameters())
    if kernel:
        return print(opt.explain().kernel(kernel))
    print(f"{inspect.getdoc(type(opt))}\n\n{opt.explain()}")

commands = dict(compare=compare, bench=bench, gallery=gallery, list=list_, explain=explain)


# -- The command line --

def usage():
    lines = [f"  {name:8} {f.__doc__}" for name,f in commands.items()]
    return '\n'.join(['usage: genopt COMMAND [--help] ...', '', *lines])

def main(argv: list|None=None) -> int:
    "Run the command line `argv`. Returns the exit status: 2 for an error, which is printed"
    name,*args = (sys.argv[1:] if argv is None else argv) or ['']
    if name in ('-h', '--help'):
        print(usage())
        return 0
    if name not in commands:
        print(usage(), file=sys.stderr)
        return 2
    try:
        status = call(commands[name], f'genopt {name}', args)
        sys.stdout.flush()
        return status or 0
    except BrokenPipeError:                                                         # the reader, such as `head`, has closed the pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())              # the interpreter flushes once more at its end
        return 1
    except (ImportError, ValueError, TypeError, RuntimeError, OSError) as e:
        remedy = "; pip install 'genopt[demo]' brings what it needs" if isinstance(e, ImportError) else ''
        print(f"genopt {name}: {e}{remedy}", file=sys.stderr)
    return 2

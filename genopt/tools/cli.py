"""The command `genopt`: `compare`, `bench`, `gallery`, `trials`, `list`, `explain` and `site`. `genopt COMMAND --help` shows the options of each."""

import inspect,json,os,shutil,subprocess,sys
from collections.abc import Callable
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from fastcore.script import anno_parser
import torch
from .. import __version__
from ..contract.messages import did_you_mean
from . import bench as benchmark,catalogue,compare as comparison,gallery as pictures,trials as matrix
from .data import make_model
from .files import check_folder,dumps

__all__ = ['call', 'check_folder', 'dumps', 'main']


# -- Shared --

def call(f: Callable, prog: str, argv: list|None=None):
    """Call `f` with the arguments of the command line `argv`, as `f`'s annotations and comments describe them. A value that comes first, without a
    name, is that of the first option: `genopt trials Adam`"""
    first = next(iter(inspect.signature(f).parameters.values()), None)
    if argv and not argv[0].startswith('-') and first and first.default is not first.empty:
        argv = [f'--{first.name}', *argv]
    args = vars(anno_parser(f, prog=prog).parse_args(argv))
    return f(**{k: v for k,v in args.items() if k not in ('pdb','xtra')})           # fastcore's own options

def show(res, tool, out, as_json, what):
    "Print the result `res` of `tool`, and draw it into the file `out`"
    print(dumps(res) if as_json else tool.report(res))
    tool.plot(res, out)
    print(f"{what}: {out}", file=sys.stderr if as_json else sys.stdout)


# -- Commands --

def compare(
    opts:str=None,             # Optimizers: "SGD(lr=0.1), [AdamW, cautious], Muon+AdamW" (Muon for matrices, AdamW for others), my_module:MyOptimizer
    data:str='digits',         # digits (comes with scikit-learn), text (comes with Python), or from torchvision mnist, fashion_mnist, cifar10
    model:str=None,            # mlp, or a classifier of torchvision.models, such as resnet18; for text it is transformer
    epochs:int=None,           # Passes over the training set; by default 15, for text 1
    bs:int=None,               # Batch size; by default 64, for text 16
    seed:int=42,               # Seed of the weights and of the order of the batches
    tune:str=None,             # Compare optimizers with each other, not with torch: tune this hyper-parameter of each, such as lr
    seeds:int=None,            # Compare optimizers with each other, over this number of seeds; by default 5 with --tune or --store
    store:str=None,            # Compare each optimizer, its states stored as int8 or as "sqr_avg: int8, '*_avg': bfloat16", with itself in float32
    budget:int=8,              # Number of trainings to tune each optimizer
    schedule:str='cosine',     # Schedule of the learning rate with --tune, --seeds or --store: cosine, after a warm-up, or constant
    dtype:str=None,            # float64 or float32; by default float64, to show that genopt equals torch, and float32 with --tune, --seeds or --store
    tol:float=None,            # Largest difference of two losses that counts as equal to torch's (1e-8 in float64, 0.01 in float32)
    out:Path=None,             # File for the picture; by default compare.png
    results:Path=None,         # File that keeps every training of --tune, --seeds or --store, from which a run goes on; by default compare.json
    page:Path=None,            # File for a page in Markdown with the table of --tune, --seeds or --store; picture and results are written beside it
    root:Path='~/.cache/genopt', # Folder in which torchvision keeps its data sets
    json:bool=False,           # Print all that was measured as JSON instead of the table
):
    "Train a model with genopt's algorithms and torch's, and exit with 1 if their losses differ. With --tune, --seeds or --store: rank optimizers"
    out     = out or (page or Path('compare')).with_suffix('.png')
    results = results or (page or Path('compare')).with_suffix('.json')
    for option,path in dict(out=out, results=results, page=page).items():
        if path:
            check_folder(f'--{option}', path)
    if opts is None:
        opts = comparison.with_states if store else comparison.defaults
    common = dict(opts=opts, data=data, model=model, epochs=epochs, bs=bs, seed=seed, root=root, show=sys.stdout.isatty() and not json)
    if tune is None and seeds is None and store is None:
        if page:
            raise ValueError(f"--page {page} shows what --tune, --seeds or --store found; give one of these")
        return with_torch(common | dict(dtype=dtype or 'float64', tol=tol), out, json)
    of_runs = dict(dtype=dtype or 'float32', tune=tune, seeds=5 if seeds is None else seeds, budget=budget, schedule=schedule, store=store)
    return with_each_other(common | of_runs, results, out, page, json)

def with_torch(args, out, json):
    "Compare optimizers with torch's. Returns the exit status"
    res = comparison.compare(**args)
    show(res, comparison, out, json, 'loss curves')
    return 1 if comparison.different(res) else 0

def with_each_other(args, results, out, page, json):
    "Compare optimizers with each other. Returns the exit status, as a shell has it for an interruption"
    try:
        res = comparison.compare_tuned(**args, results=results)
    except KeyboardInterrupt:
        print(f"\ngenopt compare: interrupted; the same command goes on from {results}", file=sys.stderr)
        return 130
    show(res, comparison.ranking, out, json, 'picture')
    if page:
        page.write_text(comparison.ranking.page(res, page, out, results), encoding='utf-8')
    for name,path in dict(results=results, page=page).items():
        if path:
            print(f'{name}: {path}', file=sys.stderr if json else sys.stdout)
    return 0

def bench(
    # Names: six (small tensors), resnet18, resnet50, gpt2, k256, groups465, six_scheduled, groups465_scheduled, b1, k10000, gpt2_matrices
    shapes:str=None,
    algorithms:str='Adam',     # Names of algorithms, as `genopt list` shows them
    contenders:str='genopt, torch, memory', # Libraries or contenders, as in "genopt, torch fused, torch compiled"
    rounds:int=None,           # Steps of each contender; by default as many as the shape needs
    device:str='cpu',          # cpu, or cuda, for which the table has the times of the device and of the host
    patience:int=60,           # Seconds that a contender may take for its first ten steps
    out:Path=None,             # File for all measurements, as JSON
):
    "Measure time, warm-up and memory of genopt's steps and torch's on this machine, in turns"
    if out:
        check_folder('--out', out)
    here    = benchmark.contenders_on(device)
    names   = benchmark.pick(contenders, [c.name for c in here])
    chosen  = [c for c in here if c.name in names]
    shapes  = ','.join(benchmark.shapes_on(device)) if shapes is None else shapes
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
    functions:str=None,        # Names of functions: rosenbrock, beale, himmelblau, rastrigin, valley, saddle; by default all
    algorithms:str=None,       # Algorithms with settings, as in "Adam, SGD(momentum=0.9)", each at its best lr if you give none; by default all
    steps:int=200,             # Steps of each algorithm
    out:Path='gallery.png',    # File for the picture
    json:bool=False,           # Print everything as JSON, with the paths, instead of the table
):
    "Draw the paths of algorithms on functions of two variables"
    check_folder('--out', out)
    show(pictures.gallery(functions, algorithms, steps, sys.stdout.isatty() and not json), pictures, out, json, 'picture')

def trials(
    opts:str=None,             # Algorithms, as in "Adam, SGD(momentum=0.9)", or your own, my_module:MyOptimizer(momentum=0.9); by default all
    tasks:str=None,            # Names of tasks, as the table shows them, with _ for a space, as in "minimax, ill_conditioning"; by default all
    out:Path='trials.json',    # File that keeps the results; an interrupted run goes on from it; the picture and the page are written beside it
    processes:int=None,        # How many processes run side by side; by default one for each core
    fresh:bool=False,          # Run everything again, also what the file has already
):
    "Run optimizers on small tasks that isolate one difficulty each, and show which they pass and at which rates. One optimizer takes about a minute"
    check_folder('--out', out)
    res = matrix.trials(opts, tasks, out, processes, fresh, sys.stdout.isatty())
    picture,page = out.with_suffix('.png'),out.with_suffix('.md')
    published = out.with_name('published.json')                             # figures of others, in docs/
    others    = json.loads(published.read_text(encoding='utf-8')) if published.exists() else None
    print(matrix.report(res))
    matrix.plot(res, picture)
    page.write_text(matrix.page(res, picture.name, others), encoding='utf-8')
    print(f"results: {out}; picture: {picture}; page: {page}")

def list_(
    pattern:str=None,          # Names to show, with * for any letters, as in '*adam*'; by default all
    store:str=None,            # Show bytes for each element, in float32 and with states in these dtypes: int8, or "sqr_avg: int8, '*_avg': bfloat16"
    page:Path=None,            # Write the catalogue to this file instead, with the measurements in parity.json beside it
):
    "Show algorithms by family, with their callbacks at the default settings"
    if store and page:
        raise ValueError(f"--page {page} cannot show --store; leave out one of them")
    if store:
        return print(catalogue.sizes(store, pattern or '*'))
    if not page:
        return print(catalogue.listing(shutil.get_terminal_size().columns if sys.stdout.isatty() else None, pattern or '*'))
    check_folder('--page', page)
    measured = page.with_name('parity.json')
    parity   = json.loads(measured.read_text(encoding='utf-8')) if measured.exists() else {}
    page.write_text(catalogue.page(parity), encoding='utf-8')
    print(f"page: {page}")

def explain(
    name:str,                  # An algorithm with settings, such as Adam or "SGD(momentum=0.9, nesterov=True)"
    kernel:str=None,           # Print the kernel for this GPU instead, and what its compiler says: sm_80, sm_90, sm_100 or gfx942
):
    "Show the callbacks of an algorithm as a table, on the small network of `genopt compare`, or on its matrices if it takes no others"
    model = make_model('mlp', torch.zeros(1,1,8,8))
    spec, = comparison.parse_specs(name, pairs=True)
    try:
        opt = spec.ours(model)
    except ValueError:                                                              # some take matrices only, as Muon
        opt = spec.ours([p for p in model.parameters() if p.ndim==2])
    if kernel:
        return print(opt.explain().kernel(kernel))
    print(f"{inspect.getdoc(type(opt))}\n\n{opt.explain()}")

def site(
    out:Path='build/site',     # Folder for the site
    serve:bool=False,          # Show the site in a browser while its sources are edited, instead of writing it
):
    "Build the documentation, from a clone of the repository, with warnings as errors"
    if not Path('mkdocs.yml').exists():
        raise OSError("this folder has no mkdocs.yml; run the command in a clone of genopt's repository")
    if not find_spec('mkdocs'):
        raise RuntimeError("mkdocs is not installed; pip install '.[docs]' brings what the site needs")
    task = ['serve'] if serve else ['build', '--strict', '--site-dir', out.absolute()]
    return subprocess.run([sys.executable, '-m', 'mkdocs', *task], env=os.environ | dict(NO_MKDOCS_2_WARNING='1')).returncode

commands = dict(compare=compare, bench=bench, gallery=gallery, trials=trials, list=list_, explain=explain, site=site)


# -- The command line --

def usage():
    lines = [f"  {name:8} {f.__doc__}" for name,f in commands.items()]
    first = 'The first option needs no name: `genopt trials Adam` is `genopt trials --opts Adam`.'
    return '\n'.join(['usage: genopt COMMAND [--help] ...', '', *lines, '', first])

def main(argv: list|None=None) -> int:
    "Run the command line `argv`. Returns the exit status: 2 for an error, which is printed"
    name,*args = (sys.argv[1:] if argv is None else argv) or ['']
    if name in ('-h', '--help'):
        print(usage())
        return 0
    if name in ('-V', '--version'):
        print(f'genopt {__version__}')
        return 0
    if name not in commands:
        unknown = [f'genopt: no command {name!r}{did_you_mean(name, commands)}', ''] if name else []
        print('\n'.join([*unknown, usage()]), file=sys.stderr)
        return 2
    try:
        if os.getcwd() not in sys.path:
            sys.path.append(os.getcwd())                                            # where 'my_module:MyOptimizer' may lie
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

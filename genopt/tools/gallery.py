"""`genopt gallery`: the paths of algorithms over functions of two variables, in one picture.

Each algorithm starts at the same point. Its learning rate is the one that brings it lowest without leaving the picture. A search finds it: it tries
powers of ten over a third of the steps, then the best of them and its neighbours, a factor of three away, over all steps. One optimizer takes all
functions and rates at once, with a param group for each rate, because points do not know of each other. Where a trial shows that they do, as they do
under a norm over all parameters, each point has an optimizer of its own."""

import warnings
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
import torch
import genopt
from ..optim.tables import table
from .. import algorithms
from .bench import one_thread
from .choices import at_least,one_of,words
from .compare import parse_specs,progress

__all__ = ['Function', 'functions', 'gallery', 'report', 'plot']


# -- Functions --

@dataclass
class Function:
    "A function of two variables `f(x, y)`: its formula, where to start, its minima, and the part to show: left, right, bottom, top"
    f: Callable
    formula: str
    start: tuple
    minima: list
    box: tuple

    def __call__(self, points): return self.f(*points.unbind(-1))

    @property
    def lowest(self) -> float:
        return self(torch.tensor(self.minima, dtype=torch.float64)).min().item()

    def shows(self, path) -> bool:
        "Whether all points of `path` (n, 2) are in the picture"
        x,y = path.T
        left,right,bottom,top = self.box
        return bool(((left<=x) & (x<=right) & (bottom<=y) & (y<=top)).all())

def rosenbrock(x, y): return (1-x)**2 + 100*(y-x*x)**2
def beale(x, y): return (1.5 - x + x*y)**2 + (2.25 - x + x*y**2)**2 + (2.625 - x + x*y**3)**2
def himmelblau(x, y): return (x*x + y - 11)**2 + (x + y*y - 7)**2
def rastrigin(x, y): return 20 + (x-1)**2 + (y-1)**2 - 10*((2*torch.pi*x).cos() + (2*torch.pi*y).cos())
def valley(x, y): return (.8*x + .6*y - 2.5)**2/10 + 5*(.8*y - .6*x)**2
def saddle(x, y): return x*x - y*y + y**4/4

# No minimum is at the origin: decay alone would lead there, and steps in proportion to the weights would end there
functions = dict(
    rosenbrock = Function(rosenbrock, '(1-x)² + 100(y-x²)²', (-.7,2.4), [(1.,1.)], (-1.9,1.5,-.6,2.8)),
    beale      = Function(beale, 'Σ (cᵢ - x + xyⁱ)²', (.9,1.5), [(3.,.5)], (-.8,4.2,-1.6,2.)),
    himmelblau = Function(himmelblau, '(x²+y-11)² + (x+y²-7)²', (0.,-1.),
                          [(3.,2.), (-2.805118,3.131313), (-3.779310,-3.283186), (3.584428,-1.848127)], (-5.2,5.2,-5.2,5.2)),
    rastrigin  = Function(rastrigin, '20 + Σ (xᵢ-1)² - 10 cos 2πxᵢ', (-.45,2.35), [(1.,1.)], (-1.2,1.8,.2,3.2)),
    valley     = Function(valley, '(.8x+.6y-2.5)²/10 + 5(.8y-.6x)²', (-.6,2.4), [(2.,1.5)], (-1.,3.2,-.9,3.3)),
    saddle     = Function(saddle, 'x² - y² + y⁴/4', (1.7,.01), [(0.,2**.5), (0.,-2**.5)], (-2.,2.,-2.,2.)),
)

def pick(s):
    "The functions in a list such as 'beale, saddle'; all of them, if `s` is None"
    if s is None:
        return [*functions]
    names = [one_of(name.lower(), functions, 'function') for name in words(s)]
    if not names:
        raise ValueError(f"no function given; choose from {', '.join(functions)}")
    return [*dict.fromkeys(names)]


# -- Paths --

def walk(spec, jobs, steps, shape=(2,), graph=False):
    """The paths of `jobs`, each the name of a function and a learning rate, in one optimizer: (jobs, steps+1, 2). `shape`: that of a point as a
    parameter, `(2,)` or `(1,2)`. `graph`: gradients have a graph, which algorithms need that differentiate twice."""
    torch.manual_seed(0)
    points = []
    by_function,by_lr = defaultdict(list),defaultdict(list)
    for name,lr in jobs:
        x = torch.tensor(functions[name].start, dtype=torch.float64).reshape(shape).requires_grad_()
        points.append(x)
        by_function[name].append(x)
        by_lr[lr].append(x)
    opt = spec.ours([dict(params=xs, lr=lr) for lr,xs in by_lr.items()])
    def closure():
        opt.zero_grad()
        loss = sum(functions[name](torch.stack(xs)).sum() for name,xs in by_function.items())
        loss.backward(create_graph=graph)
        return loss
    def here(): return torch.stack([x.detach() for x in points]).reshape(-1, 2)
    path = [here()]
    for _ in range(steps):
        opt.step(closure)
        path.append(here())
    return torch.stack(path, 1)

def how_to_walk(spec):
    """The arguments `shape` and `graph` of `walk` that `spec` accepts, and whether its points need an optimizer each: whether a second point changes
    the path of the first. Raises the error of the plain call, where it accepts none"""
    jobs   = [('himmelblau', .01), ('rosenbrock', .01)]
    errors = []
    for graph in (False, True):
        for shape in ((2,), (1,2)):
            how = dict(shape=shape, graph=graph)
            try:
                alone = walk(spec, jobs[:1], 6, **how)
            except Exception as e:
                errors.append(e)
                continue
            try:
                return how,not torch.allclose(walk(spec, jobs, 6, **how)[:1], alone, rtol=1e-9)
            except Exception:
                return how,True
    raise errors[0]

class Search:
    """The best learning rate of `spec` for each function in `names`. `found[name]`: whether the path leaves the picture, its last value, the rate,
    and the path (steps+1, 2). `why[name]`: an error"""
    def __init__(self, spec, names, steps):
        self.spec  = spec
        self.found = {}
        self.why   = {}
        try:
            self.how,self.apart = how_to_walk(spec)
        except Exception as e:
            self.why = dict.fromkeys(names, e)
            return
        if 'lr' in spec.settings:
            self.attempt([(n, spec.settings['lr']) for n in names], steps)
            return
        self.attempt([(n, 10.**i) for i in range(-4, 2) for n in names], max(steps//3, 1))
        rough,self.found = self.found,{}
        self.attempt([(n, float(f'{rough[n][2]*k:.1g}')) for k in (.3, 1, 3) for n in rough], steps)

    def attempt(self, jobs, steps):
        "Walk all `jobs` and keep the best for each function"
        try:
            paths = None if self.apart else walk(self.spec, jobs, steps, **self.how)
        except Exception:
            paths = None                                                # the error of each job is seen when it walks alone
        for i,(name,lr) in enumerate(jobs):
            try:
                path = walk(self.spec, [(name, lr)], steps, **self.how)[0] if paths is None else paths[i]
            except Exception as e:
                self.why[name] = e
            else:
                self.keep(name, lr, path)

    def keep(self, name, lr, path):
        "Keep a finite path if it is the best so far: in the picture rather than out of it, then low rather than high"
        f   = functions[name]
        new = not f.shows(path),f(path[-1]).item(),lr,path
        if path.isfinite().all() and (name not in self.found or new[:2]<self.found[name][:2]):
            self.found[name] = new

def gallery(names: str|None=None, opts: str|None=None, steps: int=200, show: bool=False) -> dict:
    """The paths of the algorithms `opts` over the functions `names`, by default all over all. Returns a `dict` ready for JSON, with `walks`, and
    with `left_out` for those that failed. Raises `ValueError` for an unknown name, or fewer than 2 steps."""
    names = pick(names)
    specs = parse_specs(', '.join(algorithms.__all__) if opts is None else opts)
    at_least(2, steps=steps)
    walks,left_out = [],[]
    bar = progress(specs, show)
    with one_thread(), warnings.catch_warnings(), torch.random.fork_rng([]):
        warnings.simplefilter('ignore')                                 # graphs of gradients make cycles; a high rate overflows
        for spec in bar:
            search = Search(spec, names, steps)
            for name in names:
                about = dict(algorithm=str(spec), family=family(spec.name), function=name)
                if name in search.found:
                    _,value,lr,path = search.found[name]
                    walks.append(about | dict(lr=lr, value=value, path=path.tolist()))
                else:
                    left_out.append(about | dict(why=in_short(search.why.get(name, 'every rate leads beyond all numbers'))))
    about = {n: {k: getattr(functions[n], k) for k in ('formula', 'start', 'minima')} for n in names}
    return dict(genopt=genopt.__version__, torch=torch.__version__, steps=steps, walks=walks, left_out=left_out, functions=about)

def family(name):
    module = next(f for f in algorithms.families if name in f.__all__)
    return module.__name__.rpartition('.')[2]

def in_short(why):
    return ' '.join(str(why).split())[:300] or type(why).__name__


# -- The table --

def by_pair(res): return {(w['algorithm'], w['function']): w for w in res['walks']}

def report(res: dict) -> str:
    "The result of `gallery` as a table of learning rates and of heights above the minimum at the end; below it who was left out and why"
    walks = by_pair(res)
    names = [*res['functions']]
    rows  = []
    for algorithm in dict.fromkeys(w['algorithm'] for w in res['walks']):
        row = [algorithm]
        for name in names:
            w = walks.get((algorithm, name))
            row.append(f"{w['lr']:g}: {max(w['value']-functions[name].lowest, 0):.0e}" if w else '-')
        rows.append(row)
    out = [f"{res['steps']} steps; the learning rate found, and how far above the minimum it ended", '', table(['algorithm', *names], rows)]
    if res['left_out']:
        out += ['', 'left out:', *map("  {algorithm} on {function}: {why}".format_map, res['left_out'])]
    return '\n'.join(out)


# -- The picture --

colors = '#d1242f', '#0b63ce', '#1a8f3c', '#8b3fd1', '#e07b00', '#111111'

def sheets(res):
    "The rows of the picture, each a family and its algorithms: at most six in a row, in rows as even as can be"
    for family in dict.fromkeys(w['family'] for w in res['walks']):
        found = [*dict.fromkeys(w['algorithm'] for w in res['walks'] if w['family']==family)]
        n = -(-len(found)//len(colors))                                 # rounded up
        for i in range(n):
            yield family,found[len(found)*i//n:len(found)*(i+1)//n]

def plot(res: dict, path=None):
    """The result of `gallery` as a matplotlib figure, with a column for each function and rows for each family. Written to `path` if given. Raises
    `ValueError` where there is nothing to draw."""
    import matplotlib.pyplot as plt
    names = [*res['functions']]
    rows  = [*sheets(res)]
    walks = by_pair(res)
    if not rows:
        raise ValueError("nothing to draw: {algorithm} on {function}: {why}".format_map(res['left_out'][0]))
    cell,legend = 2.5,3.6                                               # inches
    fig  = plt.figure(figsize=(cell*len(names)+legend, cell*len(rows)+1.1), layout='constrained')
    axes = fig.subplots(len(rows), len(names)+1, squeeze=False, width_ratios=[cell]*len(names)+[legend])
    fig.get_layout_engine().set(w_pad=.03, h_pad=.03, wspace=0, hspace=0)
    count = len({w['algorithm'] for w in res['walks']})
    fig.suptitle(f"{count} algorithms on functions of the plane, {res['steps']} steps each, "
                 "at the learning rate that brings it lowest  ( ○ start, ★ minimum )", fontsize=13)
    for (family,found),line in zip(rows, axes):
        for name,ax in zip(names, line):
            draw_function(ax, functions[name])
            for algorithm,color in zip(found, colors):
                if (algorithm,name) in walks:
                    draw_path(ax, walks[algorithm,name]['path'], color)
        line[0].set_ylabel(family.replace('_', ' '), fontsize=12)
        draw_legend(line[-1], found, names, walks)
    for name,ax in zip(names, axes[0]):
        ax.set_title(f"{name}\n", fontsize=12, pad=2)
        ax.text(.5, 1.02, functions[name].formula, transform=ax.transAxes, ha='center', va='bottom', fontsize=8, color='.4')
    if path:
        fig.savefig(path, dpi=110)
    return fig

def draw_function(ax, f):
    "Contours of `f`, in steps of equal ratio above its minimum; its start as a ring and its minima as stars"
    from matplotlib.colors import LinearSegmentedColormap
    left,right,bottom,top = f.box
    x = torch.linspace(left, right, 160, dtype=torch.float64)
    y = torch.linspace(bottom, top, 160, dtype=torch.float64)[:,None]
    points = torch.stack(torch.broadcast_tensors(x, y), -1)
    lowest = f.lowest
    height = f(points) - lowest
    offset = (f(torch.tensor(f.start)) - lowest)/100
    shades = LinearSegmentedColormap.from_list('sea', ['#7d9cc4', '#a9cbe4', '#d3e4f1', '#f5f9fd'])
    ax.contourf(*points.unbind(-1), (height+offset).log(), 16, cmap=shades)
    ax.set(xlim=(left,right), ylim=(bottom,top), xticks=[], yticks=[], box_aspect=1)
    ax.spines[:].set_visible(False)
    ax.plot(*f.start, 'o', mfc='white', mec='black', ms=6, mew=1.2, zorder=5)
    ax.plot(*zip(*f.minima), '*', color='#ffd21f', mec='black', ms=11, mew=.7, zorder=3)

def draw_path(ax, path, color):
    "A line on a wider light one, which sets it apart from others, and a dot at its end"
    xy = [*zip(*path)]
    ax.plot(*xy, color='white', lw=2.4, alpha=.55, solid_joinstyle='round')
    ax.plot(*xy, color=color, lw=1.25, alpha=.9, solid_joinstyle='round')
    ax.plot(*path[-1], 'o', color=color, ms=4.5, mec='white', mew=.7, zorder=4)

def draw_legend(ax, found, names, walks):
    "The name of each algorithm in its color, and its learning rate on each function"
    ax.axis('off')
    ax.set(xlim=(0,1), ylim=(0,1))
    columns = [(.4 + .6*(i+1)/len(names), name) for i,name in enumerate(names)]
    ax.text(.04, .9, 'learning rate on', fontsize=7, color='.4')
    for x,name in columns:
        ax.text(x, .9, name[:3], fontsize=7, color='.4', ha='right')
    for i,(algorithm,color) in enumerate(zip(found, colors)):
        y = .78-.13*i
        ax.plot([0,.03], [y+.02,y+.02], color=color, lw=2.5, solid_capstyle='round')
        ax.text(.05, y, algorithm, fontsize=min(10, 130/len(algorithm)), color=color, weight='bold')     # a long name ends before the first rate
        for x,name in columns:
            w = walks.get((algorithm, name))
            ax.text(x, y, f"{w['lr']:g}".lstrip('0') if w else '-', fontsize=7, color='.25', ha='right')

"""`genopt gallery`: the ways that the catalogue's algorithms take over two-dimensional test functions, in one picture.

Each algorithm walks from the same start, at the rate that brings it lowest without leaving the picture, in a small search: powers of ten over
a third of the steps, then the best of them and its neighbours, a factor of three away, over all. Points do not know of each other, so one
optimizer takes all functions and rates at once, a group for each rate; only where parameters have a say in each other's step, which is tried,
each point has its own."""

import warnings
from collections import defaultdict
from dataclasses import dataclass
import torch
import genopt
from ..optim.tables import table
from .. import algorithms
from .compare import parse_specs,progress

__all__ = ['Function', 'functions', 'gallery', 'report', 'plot']


# -- Where to walk --

@dataclass
class Function:
    "A function of the plane: `f(x, y)` and its formula, where to start, where its minima are, and what to show: left, right, bottom, top"
    f: object
    formula: str
    start: tuple
    minima: list
    box: tuple
    def __call__(self, points): return self.f(*points.unbind(-1))
    def shows(self, path):
        "Whether all of `path` is in the picture"
        (x,y),(left,right,bottom,top) = path.T,self.box
        return bool(((left<=x) & (x<=right) & (bottom<=y) & (y<=top)).all())
    @property
    def lowest(self): return self(torch.tensor(self.minima, dtype=torch.float64)).min().item()

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


# -- Walking. A job is the name of a function and a rate --

def together(spec, jobs, steps, shape=(2,), graph=False):
    "The path of each of `jobs`, `steps+1` points, in one optimizer; `shape`: that of a point; `graph`: the gradients have a graph"
    torch.manual_seed(0)
    xs = [torch.tensor(functions[n].start, dtype=torch.float64).reshape(shape).requires_grad_() for n,_ in jobs]
    of,at = defaultdict(list),defaultdict(list)
    for x,(n,lr) in zip(xs, jobs):
        of[n].append(x)
        at[lr].append(x)
    opt = spec.ours([dict(params=ps, lr=lr) for lr,ps in at.items()])
    def closure():
        opt.zero_grad()
        loss = sum(functions[n](torch.stack(ps)).sum() for n,ps in of.items())
        loss.backward(create_graph=graph)
        return loss
    here  = lambda: torch.stack([x.detach() for x in xs]).reshape(-1, 2)
    paths = [here()]
    for _ in range(steps):
        opt.step(closure)
        paths.append(here())
    return torch.stack(paths, 1)

def manner(spec):
    "How `spec` is walked: the shape in which it takes a point, whether it wants graphs, whether each point needs an optimizer of its own"
    probe,why = [('himmelblau', .01), ('rosenbrock', .01)],None
    for how in [dict(shape=s, graph=g) for g in (False,True) for s in ((2,),(1,2))]:
        try: alone = together(spec, probe[:1], 6, **how)
        except Exception as e: why = why or e                           # the first is about the plain point
        else: break
    else: raise why
    try: return how,not torch.allclose(together(spec, probe, 6, **how)[:1], alone, rtol=1e-9)
    except Exception: return how,True

class Search:
    """The best rate of `spec` on each function: `found[name]` is whether the path leaves the picture, its last value, the rate and the path;
    `why[name]` an error"""
    def __init__(self, spec, names, steps):
        self.spec,self.found,self.why = spec,{},{}
        try: self.how,self.apart = manner(spec)
        except Exception as e:
            self.why = dict.fromkeys(names, e)
            return
        if 'lr' in spec.settings: return self.walk([(n, spec.settings['lr']) for n in names], steps)
        self.walk([(n, 10.**i) for i in range(-4, 2) for n in names], max(steps//3, 1))
        near,self.found = self.found,{}
        self.walk([(n, float(f'{near[n][2]*k:.1g}')) for k in (.3, 1, 3) for n in near], steps)

    def walk(self, jobs, steps):
        "Keep the best of `jobs`. One that fails, or leaves all numbers, is out"
        try: paths = together(self.spec, jobs, steps, **self.how) if not self.apart else [None]*len(jobs)
        except Exception: paths = [None]*len(jobs)                      # one of them; which, is seen when each has its own
        for (n,lr),path in zip(jobs, paths):
            try: path = together(self.spec, [(n, lr)], steps, **self.how)[0] if path is None else path
            except Exception as e: self.why[n] = e
            else: self.keep(n, lr, path)
    def keep(self, n, lr, path):
        new = not functions[n].shows(path),functions[n](path[-1]).item(),lr,path
        if path.isfinite().all() and (n not in self.found or new[:2]<self.found[n][:2]): self.found[n] = new

def gallery(names=None, opts=None, steps=200, show=False):
    "Walk every algorithm of `opts` on the functions `names`; all that was seen, as a `dict` ready for JSON"
    names,specs = pick(names),parse_specs(', '.join(algorithms.__all__) if opts is None else opts)
    if steps<2: raise ValueError(f"steps must be 2 or more, got {steps}")
    res = dict(genopt=genopt.__version__, torch=torch.__version__, steps=steps, walks=[], left_out=[],
               functions={n: dict(formula=functions[n].formula, start=functions[n].start, minima=functions[n].minima) for n in names})
    threads,bar = torch.get_num_threads(),progress(specs, show)
    torch.set_num_threads(1)
    try:
        with warnings.catch_warnings(), torch.random.fork_rng([]):
            warnings.simplefilter('ignore')                             # graphs of gradients make cycles; too high a rate overflows
            for spec in bar:
                s = Search(spec, names, steps)
                for n in names:
                    about = dict(algorithm=str(spec), family=family(spec.name), function=n)
                    if n in s.found:
                        _,value,lr,path = s.found[n]
                        res['walks'].append(about | dict(lr=lr, value=value, path=path.tolist()))
                    else: res['left_out'].append(about | dict(why=short(s.why.get(n, 'every rate leads beyond all numbers'))))
    finally: torch.set_num_threads(threads)
    return res

def pick(names):
    "The functions of a list such as 'beale, saddle'; all, if there is none"
    if names is None: return [*functions]
    found = [n.strip().lower() for n in names.split(',') if n.strip()]
    if bad := [n for n in found if n not in functions]: raise ValueError(f"no function {bad[0]!r}; there is {', '.join(functions)}")
    if not found: raise ValueError(f"no function given; there is {', '.join(functions)}")
    return [*dict.fromkeys(found)]

def family(name): return next(f for f in algorithms.families if name in f.__all__).__name__.rpartition('.')[2]
def short(why): return ' '.join(str(why).split())[:300] or type(why).__name__


# -- Showing --

def report(res):
    "For each algorithm and function the rate and how far above the minimum it ended, as a table; and what was left out, with why"
    names = [*res['functions']]
    walks = {(w['algorithm'], w['function']): w for w in res['walks']}
    lowest = {n: functions[n].lowest for n in names}
    def cell(a, n): return f"{walks[a,n]['lr']:g}: {max(walks[a,n]['value']-lowest[n], 0):.0e}" if (a,n) in walks else '-'
    rows = [[a, *(cell(a, n) for n in names)] for a in dict.fromkeys(a for a,_ in walks)]
    out  = [f"{res['steps']} steps; the learning rate found, and how far above the minimum it ended", '', table(['algorithm', *names], rows)]
    if res['left_out']: out += ['', 'left out:', *(f"  {o['algorithm']} on {o['function']}: {o['why']}" for o in res['left_out'])]
    return '\n'.join(out)

colors = '#d1242f', '#0b63ce', '#1a8f3c', '#8b3fd1', '#e07b00', '#111111'

def sheets(res):
    "The algorithms of each family in rows of at most six, as even as can be: pairs of family and algorithms"
    by = defaultdict(dict)
    for w in res['walks']: by[w['family']][w['algorithm']] = None
    for f,names in by.items():
        names,rows = [*names],-(-len(names)//len(colors))
        for i in range(rows): yield f,names[len(names)*i//rows:len(names)*(i+1)//rows]

def plot(res, path=None):
    "Small multiples: a column for each function, rows for each family; a matplotlib figure, written to `path` if given"
    import matplotlib.pyplot as plt
    names,rows = [*res['functions']],[*sheets(res)]
    walks = {(w['algorithm'], w['function']): w for w in res['walks']}
    if not rows: raise ValueError("nothing to draw: {algorithm} on {function}: {why}".format_map(res['left_out'][0]))
    size,legend = 2.5,3.6
    fig = plt.figure(figsize=(size*len(names)+legend, size*len(rows)+1.1), layout='constrained')
    axes = fig.subplots(len(rows), len(names)+1, squeeze=False, width_ratios=[size]*len(names)+[legend])
    fig.get_layout_engine().set(w_pad=.03, h_pad=.03, wspace=0, hspace=0)
    fig.suptitle(f"{len({w['algorithm'] for w in res['walks']})} algorithms on functions of the plane, {res['steps']} steps each, "
                 "at the learning rate that brings it lowest  ( ○ start, ★ minimum )", fontsize=13)
    for i,(fam,algos) in enumerate(rows):
        for n,ax in zip(names, axes[i]):
            landscape(ax, functions[n])
            for a,c in zip(algos, colors):
                if (a,n) in walks: walk(ax, torch.tensor(walks[a,n]['path']), c)
            ends(ax, functions[n])
            if not i: ax.set_title(f"{n}\n", fontsize=12, pad=2)
            if not i: ax.text(.5, 1.02, functions[n].formula, transform=ax.transAxes, ha='center', va='bottom', fontsize=8, color='.4')
        axes[i,0].set_ylabel(fam.replace('_', ' '), fontsize=12)
        key(axes[i,-1], algos, names, walks)
    if path: fig.savefig(path, dpi=110)
    return fig

def landscape(ax, f):
    "Contours of `f`, in steps of equal ratio above its minimum"
    from matplotlib.colors import LinearSegmentedColormap
    x0,x1,y0,y1 = f.box
    x,y = torch.meshgrid(torch.linspace(x0, x1, 160, dtype=torch.float64), torch.linspace(y0, y1, 160, dtype=torch.float64), indexing='xy')
    z = (f(torch.stack([x, y], -1)) - f.lowest + 1e-2*(f(torch.tensor(f.start)) - f.lowest)).log()
    shades = LinearSegmentedColormap.from_list('sea', ['#7d9cc4', '#a9cbe4', '#d3e4f1', '#f5f9fd'])
    ax.contourf(x, y, z, 16, cmap=shades)
    ax.set(xlim=(x0,x1), ylim=(y0,y1), xticks=[], yticks=[], box_aspect=1)
    ax.spines[:].set_visible(False)

def walk(ax, path, color):
    "A line with a light rim, so that it is seen on others, and a dot where it ends"
    ax.plot(*path.T, color='white', lw=2.4, alpha=.55, solid_joinstyle='round')
    ax.plot(*path.T, color=color, lw=1.25, alpha=.9, solid_joinstyle='round')
    ax.plot(*path[-1], 'o', color=color, ms=4.5, mec='white', mew=.7, zorder=4)

def ends(ax, f):
    "The start as a ring, the minima as stars"
    ax.plot(*f.start, 'o', mfc='white', mec='black', ms=6, mew=1.2, zorder=5)
    ax.plot(*zip(*f.minima), '*', color='#ffd21f', mec='black', ms=11, mew=.7, zorder=3)

def key(ax, algos, names, walks):
    "Each algorithm's name in its color, and its rate on each function"
    ax.axis('off')
    ax.set(xlim=(0,1), ylim=(0,1))
    at = [.4 + .6*(j+1)/len(names) for j in range(len(names))]
    for x,n in zip(at, names): ax.text(x, .9, n[:3], fontsize=7, color='.4', ha='right')
    ax.text(.04, .9, 'learning rate on', fontsize=7, color='.4')
    for k,(a,c) in enumerate(zip(algos, colors)):
        y = .78-.13*k
        ax.plot([0,.03], [y+.02,y+.02], color=c, lw=2.5, solid_capstyle='round')
        ax.text(.05, y, a, fontsize=min(10, 130/len(a)), color=c, weight='bold')             # up to the first rate
        for x,n in zip(at, names): ax.text(x, y, f"{walks[a,n]['lr']:g}".lstrip('0') if (a,n) in walks else '-', fontsize=7, color='.25', ha='right')

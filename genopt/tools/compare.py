"""`genopt compare`: genopt's algorithms beside torch's, on the same model, seed and batches, in a table and a picture."""

import ast,copy,inspect,math,statistics,time
from dataclasses import dataclass,field
import torch
from torch.nn.functional import cross_entropy
import genopt
from ..optim.tables import table
from .. import algorithms
from .data import cache,load_data,make_model

__all__ = ['Spec', 'Run', 'compare', 'report', 'plot']

defaults   = 'SGD(lr=0.1), SGD(lr=0.05, momentum=0.9), RMSprop(lr=0.001), Adam(lr=0.003)'
tolerances = dict(float64=1e-8, float32=0.01)        # largest difference of two loss curves that is rounding, which training amplifies


# -- Which algorithms --

class Spec:
    "An algorithm with settings: `Spec('SGD(lr=0.1, momentum=0.9)')`"
    def __init__(self, s):
        names,how = {n.lower(): n for n in algorithms.__all__},'; settings are written as in SGD(lr=0.1, momentum=0.9)'
        try: call = ast.parse(s.strip(), mode='eval').body
        except SyntaxError: raise ValueError(f"cannot read {s.strip()!r}{how}") from None
        func,self.settings = getattr(call, 'func', call),{}
        if getattr(func, 'id', '').lower() not in names: raise ValueError(f"no algorithm {s.strip()!r}; there is {', '.join(names.values())}{how}")
        if getattr(call, 'args', ()): raise ValueError(f"{s.strip()!r}: name each setting, as in SGD(lr=0.1, momentum=0.9)")
        for k in getattr(call, 'keywords', ()):
            if k.arg is None or k.arg in self.settings: raise ValueError(f"{s.strip()!r}: name each setting once{how}")
            try: self.settings[k.arg] = ast.literal_eval(k.value)
            except ValueError: raise ValueError(f"{s.strip()!r}: cannot read {k.arg}={ast.unparse(k.value)}; a setting is a plain value") from None
        self.name = names[func.id.lower()]
    def __str__(self): return self.name + (f"({', '.join(f'{k}={v}' for k,v in self.settings.items())})" if self.settings else '')
    def ours(self, params): return getattr(genopt, self.name)(params, **self.settings)
    def theirs(self, params):
        "torch's own with the same settings, whatever their spelling; None where torch has none"
        cls = getattr(torch.optim, self.name, None)
        settings = self.ours([torch.ones(1)]).defaults
        return cls and cls(params, **{k: settings[k] for k in inspect.signature(cls).parameters if k in settings})

def parse_specs(s):
    "The algorithms of a list such as 'Adam, SGD(lr=0.1)'"
    try: items = ast.parse(f'[{s}]', mode='eval').body.elts
    except SyntaxError: raise ValueError(f"cannot read {s!r}; write algorithms as in 'Adam, SGD(lr=0.1, momentum=0.9)'") from None
    if not items: raise ValueError("no algorithm given; write them as in 'Adam, SGD(lr=0.1, momentum=0.9)'")
    return [Spec(ast.unparse(o)) for o in items]


# -- Training --

@dataclass
class Run:
    "One training: the loss and the milliseconds of the optimizer's step at each batch, and the accuracy afterwards"
    losses: list = field(default_factory=list)
    ms: list = field(default_factory=list)
    accuracy: float = 0.
    def summary(self, n):
        "What there is to tell, as a `dict`; the final loss is the mean of the last `n`"
        return dict(final_loss=statistics.fmean(self.losses[-n:]), accuracy=self.accuracy, ms=statistics.median(self.ms), losses=self.losses)

def batches(n, bs, epochs, seed):
    rand = torch.Generator().manual_seed(seed)
    for _ in range(epochs): yield from torch.randperm(n, generator=rand)[:n//bs*bs].view(-1, bs)

def train(spec, model, data, steps, seed):
    "Train copies of `model` side by side, one with genopt's algorithm and one with torch's; steps take turns, so the times compare"
    (x,y),(x_test,y_test) = data
    sides = []
    for make in (spec.ours, spec.theirs):
        m = copy.deepcopy(model)
        if opt := make(m.parameters()): sides.append((m, opt, Run()))
    for i,idx in enumerate(steps):
        for m,opt,run in sides[::-1 if i%2 else 1]:
            torch.manual_seed(seed+i)                        # dropout, where a model has it
            loss = cross_entropy(m(x[idx]), y[idx])
            opt.zero_grad()
            loss.backward()
            start = time.perf_counter()
            opt.step()
            run.ms.append((time.perf_counter()-start)*1e3)
            run.losses.append(loss.item())
    for m,_,run in sides:
        m.eval()
        with torch.no_grad(): right = [(m(xb).argmax(1)==yb).sum().item() for xb,yb in zip(x_test.split(512), y_test.split(512))]
        run.accuracy = sum(right)/len(y_test)
    return [run for *_,run in sides]

def progress(items, show):
    "fastprogress's bar, in a terminal only: it writes carriage returns into a pipe"
    if not show: return items
    from fastprogress.fastprogress import progress_bar
    return progress_bar(items, leave=False)

def compare(opts=defaults, data='digits', model='mlp', epochs=15, bs=64, seed=42, dtype='float64', tol=None, root=cache, show=False):
    "Train every algorithm of `opts` in both libraries; all that was measured, as a `dict` ready for JSON"
    specs,sets = parse_specs(opts),load_data(data, root)
    if dtype not in tolerances: raise ValueError(f"no dtype {dtype!r}; there is {', '.join(tolerances)}")
    sets = [(x.to(getattr(torch, dtype)), y) for x,y in sets]
    n,tol = len(sets[0][0]),tolerances[dtype] if tol is None else tol
    if not 0<bs<=n: raise ValueError(f"batch size {bs} for {n} training images")
    if epochs<1: raise ValueError(f"epochs must be 1 or more, got {epochs}")
    torch.manual_seed(seed)
    net = make_model(model, sets[0][0]).to(getattr(torch, dtype))
    res = dict(genopt=genopt.__version__, torch=torch.__version__, data=data, model=model, epochs=epochs, bs=bs, seed=seed,
               dtype=dtype, tol=tol, parameters=sum(p.numel() for p in net.parameters()), tensors=len([*net.parameters()]), runs=[])
    per_epoch = n//bs
    for i,spec in enumerate(specs):
        steps = progress([*batches(n, bs, epochs, seed)], show)
        if show: steps.comment = f'{i+1}/{len(specs)} {spec}'
        ours,*theirs = [r.summary(per_epoch) for r in train(spec, net, sets, steps, seed)]
        row = dict(name=str(spec), genopt=ours, torch=theirs[0] if theirs else None)
        if theirs:
            diffs = [abs(a-b) for a,b in zip(ours['losses'], theirs[0]['losses'])]
            row['difference'] = math.nan if any(map(math.isnan, diffs)) else max(diffs)         # a loss that is not a number equals none
            row['ratio'],row['equal'] = ours['ms']/theirs[0]['ms'],row['difference']<=tol
        res['runs'].append(row)
    return res

def all_equal(res): return all(r.get('equal', True) for r in res['runs'])


# -- Showing --

def report(res):
    "The comparison as a table, and what it says in one line"
    rows = []
    for r in res['runs']:
        a,b = r['genopt'],r['torch']
        show = lambda v,f: '-' if v is None else format(v, f)
        both = lambda k,f: [show(a[k], f), show(b and b[k], f)]
        rows.append([r['name'], *both('final_loss', '.6f'), *both('accuracy', '.2%'), show(r.get('difference'), '.1e'),
                     *both('ms', '.3f'), show(r.get('ratio'), '.2f')])
    head = ['algorithm', 'final loss', 'torch', 'accuracy', 'torch', 'largest diff', 'ms/step', 'torch', 'ratio']
    bad = [r['name'] for r in res['runs'] if not r.get('equal', True)]
    what = ("{model} ({parameters:,} parameters in {tensors} tensors) on {data}, {epochs} epochs of batches of {bs}, seed {seed}, {dtype}; "
            "torch {torch}")
    verdict = f"equal: no loss differs by more than {res['tol']:g}"
    if bad: verdict = f"DIFFERENT by more than {res['tol']:g} in some loss: {'; '.join(bad)}"
    if bad and res['dtype']=='float32': verdict += '\nTraining amplifies the rounding of float32; float64 tells whether the algorithms differ'
    return '\n'.join([what.format_map(res), '', table(head, rows, right=range(1, 9)), '', verdict])

def plot(res, path=None):
    "Loss curves, genopt's over torch's, and their difference at each step; a matplotlib figure, written to `path` if given"
    import matplotlib.pyplot as plt
    colors = plt.get_cmap('tab10').colors
    fig,(ax,diff) = plt.subplots(1, 2, figsize=(12,4.6), width_ratios=(3,2), layout='constrained')
    ends = []
    for i,r in enumerate(res['runs']):
        c,ours = colors[i%10],smooth(r['genopt']['losses'])
        ax.plot(ours, color=c, lw=1.4, zorder=3)
        ends.append((ours[-1], r['name'], c))
        if not r['torch']: continue
        ax.plot(smooth(r['torch']['losses']), color=c, lw=7, alpha=.3, solid_capstyle='round')
        diff.plot([max(abs(a-b), 1e-18) for a,b in zip(r['genopt']['losses'], r['torch']['losses'])], '.', color=c, ms=3, alpha=.7)
    ax.set(yscale='log', xlabel='step', ylabel='training loss (running mean)')
    ax.set_title(f"{res['model']} on {res['data']}: genopt (thin line) over torch.optim (broad line)", loc='left', fontsize=11)
    n = len(res['runs'][0]['genopt']['losses'])
    ax.set_xlim(0, n*1.01)
    label_ends(ax, ends, n)
    if any(r['torch'] for r in res['runs']):
        diff.axhline(res['tol'], color='k', lw=1, ls=':')
        diff.text(n, res['tol'], f"tolerance {res['tol']:g}", ha='right', va='bottom', fontsize=9)
        diff.set(yscale='log', xlabel='step', ylim=(3e-19, max(res['tol']*30, 1e-3)), xlim=(0, n))
        diff.text(n*.01, 1.3e-18, 'no difference at all', fontsize=9, va='bottom')
        diff.set_title('difference of the two losses', loc='left', fontsize=11)
    for a in (ax, diff):
        a.spines[['top','right']].set_visible(False)
        a.grid(alpha=.25, lw=.6)
    if path: fig.savefig(path, dpi=130)
    return fig

def label_ends(ax, ends, x):
    "Each curve's name in its color at its right end, pushed apart where they would overlap"
    lo,hi = ax.get_ylim()
    gap,y = (hi/lo)**.055,0.
    for v,name,c in sorted(ends):
        y = max(v, y*gap)
        ax.annotate(name, (x, y), xytext=(6,0), textcoords='offset points', color=c, va='center', fontsize=9, annotation_clip=False)

def smooth(xs, w=20):
    "Running mean of the last `w` values"
    return [statistics.fmean(xs[max(0, i-w+1):i+1]) for i in range(len(xs))]

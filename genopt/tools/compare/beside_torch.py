"""genopt's algorithms beside torch's, on the same model, seed and batches, in a table and a picture: a proof that they do the same."""

import copy,math,statistics,time
import torch
from torch.nn.functional import cross_entropy
import genopt
from ...optim.tables import table
from ..choices import one_of
from ..data import cache,classes,make_model
from .specs import parse_specs
from .training import accuracy,arguments,batches,check_sizes,load,progress,smooth

__all__ = ['compare', 'different', 'label_ends', 'plot', 'report']

defaults   = 'SGD(lr=0.1), SGD(lr=0.05, momentum=0.9), RMSprop(lr=0.001), Adam(lr=0.003)'
tolerances = dict(float64=1e-8, float32=0.01)        # the largest difference of two losses that is rounding, which training amplifies


# -- Training --

def train(spec, model, data, batches, epochs, seed):
    """Train copies of `model`, one with genopt's algorithm and, where torch has it, one with torch's. Each batch goes to both, and they take turns in
    going first, so that their times compare. Returns for each the loss of every batch, the mean loss of the last epoch, the median of the optimizer's
    milliseconds, and the accuracy on the test set."""
    (x,y),test = data
    sides = []
    for make in (spec.ours, spec.theirs):
        net = copy.deepcopy(model)
        opt = make(net)
        if opt:
            sides.append((net, opt, [], []))
    for i,batch in enumerate(batches):
        for net,opt,losses,ms in sides[::-1 if i%2 else 1]:
            torch.manual_seed(seed+i)                        # the same dropout for both, where the model has dropout
            loss = cross_entropy(net(x[batch]), y[batch])
            opt.zero_grad()
            loss.backward()
            start = time.perf_counter()
            opt.step()
            ms.append((time.perf_counter()-start)*1e3)
            losses.append(loss.item())
    runs = []
    for net,_,losses,ms in sides:
        last = losses[-len(losses)//epochs:]
        runs.append(dict(final_loss=statistics.fmean(last), accuracy=accuracy(net, *test), ms=statistics.median(ms), losses=losses))
    return runs

def compare(
    opts: str=defaults,         # algorithms with settings
    data: str='digits',         # one of `datasets`
    model: str|None=None,       # mlp, transformer or a classifier of torchvision.models; by default what is usual on the data set
    epochs: int|None=None,      # the same
    bs: int|None=None,          # batch size; the same
    seed: int=42,
    dtype: str='float64',       # one of `tolerances`
    tol: float|None=None,       # the largest difference of two losses that counts as equal; by default that of the dtype
    root=cache,                 # torchvision's folder
    show: bool=False,           # show a bar of progress
) -> dict:
    """Train `model` with every algorithm of `opts` in both libraries. Returns all that was measured, ready for JSON: the arguments, and in `runs` an
    entry for each algorithm. Raises `ValueError` for an argument that cannot be."""
    specs = parse_specs(opts, pairs=True)
    type_ = getattr(torch, one_of(dtype, tolerances, 'dtype'))
    sets  = load(data, root, type_)
    about = arguments(data, model, epochs, bs)
    model,epochs,bs = about.values()
    tol   = tolerances[dtype] if tol is None else tol
    x,_   = sets[0]
    n     = len(x)
    check_sizes(n, epochs, bs)
    torch.manual_seed(seed)
    net    = make_model(model, x, classes(sets)).to(type_)
    params = [*net.parameters()]
    runs   = []
    for i,spec in enumerate(specs):
        bar = progress([*batches(n, bs, epochs, seed)], show)
        if show:
            bar.comment = f'{i+1}/{len(specs)} {spec}'
        both = train(spec, net, sets, bar, epochs, seed)
        runs.append(dict(name=str(spec)) | side_by_side(*both, tol=tol))
    return dict(genopt=genopt.__version__, torch=torch.__version__, data=data, **about, seed=seed, dtype=dtype, tol=tol,
                parameters=sum(p.numel() for p in params), tensors=len(params), runs=runs)

def side_by_side(ours, theirs=None, *, tol):
    "Two runs in one `dict`, with the largest difference of their losses, which is NaN if a loss is: NaN equals nothing"
    res = dict(genopt=ours, torch=theirs)
    if theirs:
        diffs = [abs(a-b) for a,b in zip(ours['losses'], theirs['losses'])]
        largest = math.nan if any(map(math.isnan, diffs)) else max(diffs)
        res |= dict(difference=largest, ratio=ours['ms']/theirs['ms'], equal=largest<=tol)
    return res

def different(res): return [r['name'] for r in res['runs'] if not r.get('equal', True)]


# -- Showing --

def report(res: dict) -> str:
    "The result of `compare` as a table, and below it whether the libraries agree"
    def show(values, key, spec):
        return format(values[key], spec) if values and key in values else '-'
    rows = []
    for r in res['runs']:
        row = [r['name']]
        for key,spec in ('final_loss','.6f'),('accuracy','.2%'),('difference','.1e'),('ms','.3f'),('ratio','.2f'):
            of_both = key in r['genopt']
            row += [show(o, key, spec) for o in ((r['genopt'], r['torch']) if of_both else (r,))]
        rows.append(row)
    head = ['algorithm', 'final loss', 'torch', 'accuracy', 'torch', 'largest diff', 'ms/step', 'torch', 'ratio']
    what = ("{model} ({parameters:,} parameters in {tensors} tensors) on {data}, {epochs} epochs of batches of {bs}, seed {seed}, {dtype}; "
            "torch {torch}")
    verdict = f"equal: no loss differs by more than {res['tol']:g}"
    if bad := different(res):
        verdict = f"DIFFERENT by more than {res['tol']:g} in some loss: {'; '.join(bad)}"
        if res['dtype']=='float32':
            verdict += '\nTraining amplifies the rounding of float32; float64 tells whether the algorithms differ'
    return '\n'.join([what.format_map(res), '', table(head, rows, right=range(1, 9)), '', verdict])

def plot(res: dict, path=None):
    "The result of `compare` as a matplotlib figure, written to `path` if given: genopt's losses over torch's, and the difference at each step"
    import matplotlib.pyplot as plt
    fig,(left,right) = plt.subplots(1, 2, figsize=(12,4.6), width_ratios=(3,2), layout='constrained')
    colors = plt.get_cmap('tab10').colors
    runs   = [(r, colors[i%10]) for i,r in enumerate(res['runs'])]
    plot_losses(left, runs)
    left.set_title(f"{res['model']} on {res['data']}: genopt (thin line) over torch.optim (broad line)", loc='left', fontsize=11)
    pairs  = [(r, c) for r,c in runs if r['torch']]
    if pairs:
        plot_differences(right, pairs, res['tol'])
    for ax in (left, right):
        ax.spines[['top','right']].set_visible(False)
        ax.grid(alpha=.25, lw=.6)
    if path:
        fig.savefig(path, dpi=130)
    return fig

def plot_losses(ax, runs):
    ends = []
    for r,color in runs:
        ours = smooth(r['genopt']['losses'])
        ax.plot(ours, color=color, lw=1.4, zorder=3)
        if r['torch']:
            ax.plot(smooth(r['torch']['losses']), color=color, lw=7, alpha=.3, solid_capstyle='round')
        ends.append((ours[-1], r['name'], color))
    n = len(ours)
    ax.set(yscale='log', xlabel='step', ylabel='training loss (running mean)', xlim=(0, n*1.01))
    label_ends(ax, ends, n)

def plot_differences(ax, runs, tol):
    for r,color in runs:
        diffs = [max(abs(a-b), 1e-18) for a,b in zip(r['genopt']['losses'], r['torch']['losses'])]
        ax.plot(diffs, '.', color=color, ms=3, alpha=.7)
    n = len(diffs)
    ax.axhline(tol, color='k', lw=1, ls=':')
    ax.text(n, tol, f"tolerance {tol:g}", ha='right', va='bottom', fontsize=9)
    ax.text(n*.01, 1.3e-18, 'no difference at all', fontsize=9, va='bottom')
    ax.set(yscale='log', xlabel='step', ylim=(3e-19, max(tol*30, 1e-3)), xlim=(0, n))
    ax.set_title('difference of the two losses', loc='left', fontsize=11)

def label_ends(ax, ends, x):
    "The name of each curve at its right end, in its color; names that would overlap are moved up"
    low,high = ax.get_ylim()
    gap = (high/low)**.055
    y   = 0.
    for value,name,color in sorted(ends):
        y = max(value, y*gap)
        ax.annotate(name, (x, y), xytext=(6,0), textcoords='offset points', color=color, va='center', fontsize=9, annotation_clip=False)

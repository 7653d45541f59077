"""What `compare_tuned` found, as a table, a picture and a page."""

import os,shlex,statistics,textwrap
from pathlib import Path
from ...optim.tables import plural,table
from .beside_torch import label_ends

__all__ = ['page', 'plot', 'report']

head     = '', 'optimizer', '{tune}', 'training loss', 'test loss', 'accuracy', 'test loss against {first}', 'p', 'better than'
of_pairs = '', 'optimizer', '{tune}', 'bytes', 'training loss', 'test loss', 'accuracy', 'test loss against float32', 'deviations', 'p'


# -- In words --

def what(res):
    "What was trained, and how"
    return ("{model} ({parameters:,} parameters in {tensors} tensors) on {data}, {epochs_} of batches of {bs}, {steps} steps, {schedule} schedule, "
            "{dtype}; torch {torch}").format(epochs_=plural(res['epochs'], 'epoch'), **res)

effort = ("Each optimizer had {budget} trainings to tune {tune}, with another seed than those of the table. The best value had the lowest loss on a "
          "sixth of the training set that no training sees.")
effort_for_both = ("{tune} is tuned in float32, with {budget} trainings and another seed, by the loss on a sixth of the training set that no "
                   "training sees.")
edge   = "A star marks a value that is the highest or the lowest tried; a larger budget would go on from there."
tests  = ("Numbers are mean ± standard deviation over {seeds} seeds. With each seed all optimizers start from the same weights and see the same "
          "batches, so they are compared in pairs. p is that of a paired t-test on the test loss, adjusted for the number of pairs (Benjamini and "
          "Hochberg). 'better than' names the rows that have a higher test loss at a false discovery rate of 5%.")

pairs  = ("Each optimizer is in float32 and under the policy `{store}`. 'bytes' are those of weights and state for each element. Numbers are mean ± "
          "standard deviation over {seeds_}. With each seed both start from the same weights and see the same batches, so they are compared in "
          "pairs. 'deviations' is the mean difference, divided by the standard deviation in float32. p is that of a paired t-test on the test loss, "
          "adjusted for the number of optimizers (Benjamini and Hochberg).")
narrow = "Under a policy for weights (p) these are in bfloat16. The model computes in float32 all the same, and gradients are in bfloat16."

def how(res):
    "What the numbers of the table are"
    at_edge = any('*' in values(r) for r in res['optimizers'])
    if res.get('store'):
        parts = [pairs, res['narrow'] and narrow, res['tune'] and effort_for_both, at_edge and edge]
    else:
        parts = [res['tune'] and effort, at_edge and edge, res['seeds']>1 and tests]
    return ' '.join(filter(None, parts)).format(seeds_=plural(res['seeds'], 'seed'), **res)

def verdict(res):
    "Which optimizers are worse under the policy; '' for a ranking"
    if not res.get('store'):
        return ''
    bad = [r['optimizer'] for r in res['optimizers'] if r.get('worse')]
    if bad:
        return f"WORSE than in float32: {'; '.join(bad)}"
    return 'no optimizer is worse than in float32, at a false discovery rate of 5%' if res['seeds']>1 else 'one seed does not tell which is worse'

def rows(res):
    "The table: for each optimizer its cells"
    if res.get('store'):
        return [[str(i), r['optimizer'], values(r), f"{r['bytes']:.2f}", *losses(r, res), *beside_itself(r)]
                for i,r in enumerate(res['optimizers'], 1)]
    place = {r['optimizer']: i for i,r in enumerate(res['optimizers'], 1)}
    return [[str(i), r['optimizer'], values(r), *losses(r, res), *against(r['against_first']), ranges([place[n] for n in r['better_than']])]
            for i,r in enumerate(res['optimizers'], 1)]

def losses(r, res):
    "The cells of losses and accuracy"
    test = around(r['test_loss'], '.4f') if r['test_loss'] else diverged(r, res)
    return [around(r['train_loss'], '.4f'), test, around(r['accuracy'], '.2%')]

def beside_itself(r):
    "The three cells that compare an optimizer under a policy with itself"
    if 'against' not in r:
        return ['', '', '']
    shown,p = against(r['against'])
    size    = r['against']['deviations']
    return [shown, '-' if size is None else f'{size:+.2f}', p]

def values(r):
    "The tuned values; with a star if the best was the highest or the lowest of those tried"
    tried = [values for values,_ in r['tried']]
    edge  = '*' if tried and r['values'] in (tried[0], tried[-1]) else ''
    return ', '.join(f'{v:g}' for v in r['values']) + edge

def around(pair, spec):
    "Mean and deviation"
    if pair is None:
        return '-'
    mean,deviation = (format(x, spec) for x in pair)
    return f'{mean} ± {deviation}'

def diverged(r, res): return f"diverged with {r['diverged']} of {plural(res['seeds'], 'seed')}"

def against(o):
    "The two cells about a difference from another optimizer: `o` has it, with its p-value"
    if o is None or o['difference'] is None:
        return ['-', '-']
    p = o['p']
    return [around(o['difference'], '+.4f').replace('± +', '± '), '-' if p is None else f'{p:.4f}' if p>=1e-4 else '<0.0001']

def ranges(numbers):
    "Numbers in order, with neighbours as a range: '3, 5-8'"
    parts = []
    for n in sorted(numbers):
        if parts and parts[-1][1]==n-1:
            parts[-1][1] = n
        else:
            parts.append([n, n])
    return ', '.join(str(a) if a==b else f'{a}-{b}' for a,b in parts)

def columns(res):
    "The head and the rows of the table, without the column of the tuned values if nothing was tuned"
    names = of_pairs if res.get('store') else head
    cells = [[h.format(tune=res['tune'], first=res['first']) for h in names], *rows(res)]
    return cells if res['tune'] else [[*row[:2], *row[3:]] for row in cells]

def report(res: dict) -> str:
    "The result of `compare_tuned` as a table"
    first,*others = columns(res)
    lines = [what(res), '', table(first, others, right=(0,)), '', textwrap.fill(how(res), 120), *filter(None, [verdict(res)])]
    return '\n'.join(lines)

def page(res: dict, path: Path, picture: Path, results: Path) -> str:
    "The result of `compare_tuned` as a page of Markdown for the file `path`. `picture` and `results` are the files that it shows and names"
    picture,results = (Path(os.path.relpath(o, path.parent)).as_posix() for o in (picture, results))
    first,*others = columns(res)
    cells = [first, ['---']*len(first), *others]
    told  = [f'{said[0].upper()}{said[1:]}.', ''] if (said := verdict(res)) else []
    lines = [f"# Optimizers on {res['data']}", '', f"What is trained: {what(res)}.", '',
             f"![The training loss, the test loss, and the values tried, of each optimizer]({picture})", '',
             *('| ' + ' | '.join(row) + ' |' for row in cells), '', how(res), '', *told,
             f"[{results}]({results}) has every training. This command wrote the page, the picture and that file:", '',
             '```sh', f'{command(res)} --page {path.as_posix()}', '```', '']
    return '\n'.join(lines)

def command(res):
    tune   = f" --tune {res['tune']} --budget {res['budget']}" if res['tune'] else ''
    store  = f' --store {shlex.quote(res["store"])}' if res.get('store') else ''
    return (f"genopt compare --data {res['data']} --opts \"{res['opts']}\"{tune}{store} --seeds {res['seeds']} --seed {res['seed']} "
            f"--model {res['model']} --epochs {res['epochs']} --bs {res['bs']} --schedule {res['schedule']} --dtype {res['dtype']}")


# -- In a picture --

def plot(res: dict, path: Path|str|None=None):
    """The result of `compare_tuned` as a matplotlib figure, written to `path` if given. It shows the training losses, as a line for the mean over the
    seeds in a band from the lowest to the highest, the test loss of each seed, and the loss at each value tried. Numbers are rows of the table."""
    import matplotlib.pyplot as plt
    n_axes = 3 if res['tune'] else 2
    height = max(4.6, 1.4 + .36*len(res['optimizers']))
    fig,axes = plt.subplots(1, n_axes, figsize=(5.5*n_axes, height), layout='constrained')
    colors = plt.get_cmap('tab10').colors
    rows   = [(r, finals_of(res, r), colors[i%10]) for i,r in enumerate(res['optimizers'])]
    plot_curves(axes[0], rows, res['steps'])
    plot_losses(axes[1], rows)
    if res['tune']:
        plot_tried(axes[2], rows, res['tune'])
    for ax in axes:
        ax.spines[['top','right']].set_visible(False)
        ax.grid(alpha=.25, lw=.6)
        for axis in (ax.xaxis, ax.yaxis):
            plain_ticks(axis)
    fig.suptitle(f"{res['model']} on {res['data']}, {res['steps']} steps, {plural(res['seeds'], 'seed')}", x=.01, ha='left', fontsize=12)
    if path:
        fig.savefig(path, dpi=130)
        plt.close(fig)
    return fig

def plain_ticks(axis):
    "Write plain numbers at a logarithmic axis of few decades, in place of powers of ten"
    from matplotlib.ticker import LogLocator
    low,high = axis.get_view_interval()
    if axis.get_scale()=='log' and high<100*low:
        axis.set_minor_locator(LogLocator(subs=(2,3,5) if high>4*low else range(2, 10)))
        axis.set_major_formatter('{x:g}')
        axis.set_minor_formatter('{x:g}')

def finals_of(res, row):
    "The trainings of an optimizer that the table is about, in the order of the seeds"
    found = {t['seed']: t for t in res['trainings'] if t['optimizer']==row['optimizer'] and t['tuned']==res['tune'] and t['values']==row['values']}
    return [found[res['seed']+i] for i in range(1, res['seeds']+1)]

def plot_curves(ax, rows, steps):
    "The training losses, as far as the trainings of all seeds come"
    ends = []
    for i,(_,runs,color) in enumerate(rows, 1):
        columns = [*zip(*(t['curve'] for t in runs))]
        if not columns:
            continue
        mean  = [*map(statistics.fmean, columns)]
        width = steps/max(len(t['curve']) for t in runs)
        at    = [(j+.5)*width for j in range(len(mean))]
        ax.plot(at, mean, color=color, lw=1.5)
        ax.fill_between(at, [*map(min, columns)], [*map(max, columns)], color=color, alpha=.2, lw=0)
        ends.append((mean[-1], str(i), color))
    start = min((t['curve'][0] for _,runs,_ in rows for t in runs if t['curve']), default=1.)
    ax.set(yscale='log', xlabel='step', xlim=(0, steps))
    ax.set_ylim(top=min(ax.get_ylim()[1], 3*start))                         # what explodes leaves the picture
    ax.set_title('training loss: mean and range over the seeds', loc='left', fontsize=10)
    label_ends(ax, [end for end in ends if end[0]<3*start], steps)

def plot_losses(ax, rows):
    "The test losses of each seed as dots, with the mean as a bar; the best on top"
    losses = [[t['test_loss'] for t in runs if t['test_loss'] is not None] for _,runs,_ in rows]
    for i,((row,_,color),xs) in enumerate(zip(rows, losses)):
        ax.plot(xs, [i]*len(xs), 'o', color=color, ms=5, alpha=.6, mew=0)
        if row['test_loss']:
            ax.plot([row['test_loss'][0]]*2, [i-.3, i+.3], color=color, lw=2)
    ax.set(yticks=range(len(rows)), yticklabels=[f"{r['optimizer']}  {i}" for i,(r,_,_) in enumerate(rows, 1)], ylim=(len(rows)-.5, -.5))
    for label,(_,_,color) in zip(ax.get_yticklabels(), rows):
        label.set_color(color)
    every = [x for xs in losses for x in xs]
    if every and max(every)>3*min(every):
        ax.set_xscale('log')
    ax.set_title('test loss: each seed, and the mean', loc='left', fontsize=10)

def plot_tried(ax, rows, tune):
    "The loss on the set to tune with at each value tried, or at the first value of a pair; a dot at the value that was taken"
    for i,(row,_,color) in enumerate(rows, 1):
        tried = [(values[0], loss) for values,loss in row['tried'] if loss is not None]
        if not tried:
            continue
        ax.plot(*zip(*tried), '.-', color=color, lw=1.2, ms=6)
        x,y = min(tried, key=lambda o: o[1])
        ax.plot(x, y, 'o', color=color, ms=7)
        ax.annotate(str(i), (x, y), xytext=(0,-13), textcoords='offset points', color=color, ha='center', fontsize=9)
    ax.set(xscale='log', yscale='log', xlabel=tune)
    ax.set_title(f'loss at each {tune} tried', loc='left', fontsize=10)

"""Pictures: bars of every contender's ratio to the baseline, an algorithm a row and a shape a column; and of a GPU one picture of all cases."""

import math
from . import goals,measured as words

colors = dict(genopt='#d62728', torch='#555555', memory='#bbbbbb')              # peers are blue


def plot(results, path=None):
    "A matplotlib figure of the results of case `step`, written to `path` if given; None where there are none"
    from matplotlib.figure import Figure
    cells = {(r['algorithm'], r['shape']): r for r in results if measured(r)}
    if not cells:
        return None
    rows,columns = (dict.fromkeys(names) for names in zip(*cells))
    def height(row): return .9 + .2*max(len(measured(r)) for (a,_),r in cells.items() if a==row)
    heights = [*map(height, rows)]
    fig  = Figure(figsize=(4.4*len(columns)+.4, sum(heights)), layout='constrained')
    axes = fig.subplots(len(rows), len(columns), squeeze=False, height_ratios=heights)
    for a,line in zip(rows, axes):
        for s,ax in zip(columns, line):
            if (a,s) in cells:
                bars(ax, cells[a,s])
            else:
                ax.set_axis_off()
    if path:
        fig.savefig(path, dpi=130)
    return fig

def measured(res): return [r for r in res.get('rows', ()) if 'ratio' in r]

def bars(ax, res):
    "Fastest on top; the number beside each bar is the ratio"
    rows   = sorted(measured(res), key=lambda r: -r['ratio'])
    names  = [r['name'] for r in rows]
    ratios = [r['ratio'] for r in rows]
    left   = 10**math.floor(math.log10(ratios[-1]/1.5))
    shades = [colors.get(name.split()[0], '#1f77b4') for name in names]
    ax.barh(names, [ratio-left for ratio in ratios], left=left, height=.7, color=shades)
    for i,ratio in enumerate(ratios):
        ax.text(ratio*1.06, i, f"{ratio:.3g}", va='center', fontsize=7)
    ax.axvline(1, color='k', lw=.8, ls=':')
    ax.set(xscale='log', xlim=(left, ratios[0]*4))
    ax.xaxis.set_minor_formatter('')
    ax.set_title(f"{res['algorithm']} on {res['shape']}, time over {res['baseline']}", loc='left', fontsize=9)
    ax.tick_params(labelsize=7)
    ax.spines[['top','right']].set_visible(False)


# -- On a GPU --

def on_gpu(results, path=None):
    """A matplotlib figure, written to `path` if given: a row for each case, with genopt's default, torch's default and a memory copy, all over torch
    fused or the fastest peer. None where there is nothing to draw"""
    from matplotlib.figure import Figure
    cases = [c for c in map(case, words.steps(results)) if c]
    if not cases:
        return None
    fig = Figure(figsize=(9, 1.3+.27*len(cases)), layout='constrained')
    ax  = fig.subplots()
    ax.axvline(1, color=colors['torch'], lw=1)
    for y,c in enumerate(cases):
        ours,copy,torchs = (c.get(k) for k in (words.usual, 'memory copy', 'torch default'))
        ax.plot([1, ours], [y, y], color=colors['genopt'], lw=3, alpha=.25, solid_capstyle='butt')
        if torchs:
            ax.plot(torchs, y, 'o', ms=5, mfc='w', mec=colors['torch'], label="torch's default")
        if copy:
            ax.plot(copy, y, '|', ms=13, mew=2, color='k', label='a memory copy of the same bytes')
        ax.plot(ours, y, 'o', ms=6, color=colors['genopt'], label="genopt's default")
        ax.annotate(f"{words.number(ours)}{c['star']} of {c['baseline']}", (1.01, y), xycoords=('axes fraction', 'data'), va='center', fontsize=8)
    ax.set(xscale='log', ylim=(len(cases)-.4, -.6),
           xlabel='device time: genopt is faster where it is left of 1    (*: the device waits for the host)')
    ax.set_yticks(range(len(cases)), [c['title'] for c in cases], fontsize=8)
    ax.xaxis.set_major_formatter('{x:g}')
    ax.xaxis.set_minor_formatter('')
    ax.grid(axis='x', color='#eeeeee')
    ax.set_axisbelow(True)
    ax.tick_params(length=0)
    ax.spines[['top','right','left']].set_visible(False)
    ax.set_title(f"{results[0]['machine']['device']}: device time of a step, over torch fused or else the fastest peer", loc='left', fontsize=10)
    marks,labels = ax.get_legend_handles_labels()
    legend = dict(zip(labels, marks))                                           # one mark for each label
    fig.legend(legend.values(), legend, loc='outside lower left', fontsize=8, frameon=False, ncols=3)
    if path:
        fig.savefig(path, dpi=110)
    return fig

def case(res):
    "What is drawn of one case: ratios by contender, to torch fused or else to the fastest peer. None where genopt's default or these are absent"
    def find(name): return goals.find([res], 'step', res['algorithm'], res['shape'], name)
    base = next((r for r in map(find, ('torch fused', goals.peers)) if 'ratio' in r), None)
    ours = find(words.usual)
    if not base or 'ratio' not in ours:
        return None
    ratios = {r['name']: r['ratio']/base['ratio'] for r in measured(res)}
    if 'torch foreach' in ratios:
        ratios.setdefault('torch default', ratios['torch foreach'])             # which it is on a GPU
    return ratios | dict(title=f"{res['algorithm']}, {words.name_of(res['shape'])}", baseline=base['name'], star=words.star(ours, base))

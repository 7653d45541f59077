"""Bars of every contender's ratio to the baseline, an algorithm a row and a shape a column."""

import math

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

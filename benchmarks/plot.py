"""Bars of every contender's ratio to the baseline, an algorithm a row and a shape a column."""

import math

colors = dict(genopt='#d62728', torch='#555555', memory='#bbbbbb')              # peers are blue


def plot(results, path=None):
    "A matplotlib figure of the results of case `step`, written to `path` if given"
    from matplotlib.figure import Figure
    cells = {(r['algorithm'], r['shape']): r for r in results if r['case']=='step' and any('ratio' in o for o in r['rows'])}
    if not cells: return None
    rows,cols = ([*dict.fromkeys(k[i] for k in cells)] for i in (0,1))
    tall = [max(sum('ratio' in o for o in cells[a,s]['rows']) for s in cols if (a,s) in cells) for a in rows]
    fig = Figure(figsize=(4.4*len(cols)+.4, sum(.2*n+.9 for n in tall)), layout='constrained')
    axes = fig.subplots(len(rows), len(cols), squeeze=False, height_ratios=[.2*n+.9 for n in tall])
    for a,line in zip(rows, axes):
        for s,ax in zip(cols, line):
            if (a,s) in cells: bars(ax, cells[a,s])
            else: ax.set_axis_off()
    if path: fig.savefig(path, dpi=130)
    return fig

def bars(ax, res):
    "Fastest on top; the number beside each bar is the ratio"
    rows = sorted((r for r in res['rows'] if 'ratio' in r), key=lambda r: -r['ratio'])
    lo,hi = min(r['ratio'] for r in rows),max(r['ratio'] for r in rows)
    left = 10**math.floor(math.log10(lo/1.5))
    ax.barh([r['name'] for r in rows], [r['ratio']-left for r in rows], left=left, height=.7,
            color=[colors.get(r['name'].split()[0], '#1f77b4') for r in rows])
    for i,r in enumerate(rows): ax.text(r['ratio']*1.06, i, f"{r['ratio']:.3g}", va='center', fontsize=7)
    ax.axvline(1, color='k', lw=.8, ls=':')
    ax.set(xscale='log', xlim=(left, hi*4))
    ax.set_title(f"{res['algorithm']} on {res['shape']}, time over {res['baseline']}", loc='left', fontsize=9)
    ax.tick_params(labelsize=7)
    ax.spines[['top','right']].set_visible(False)

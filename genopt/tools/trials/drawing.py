"The matrix as a table, as a page and as a picture."

import re
from statistics import median
from ...optim.tables import table
from .judging import good,level,needed,rates,refusal,seeds,total,window
from .markdown import markdown,number,spaced
from .published import section

__all__ = ['page', 'plot', 'report']


def short(name): return re.sub(r'^[\w.]+:', '', name)            # of 'my_module:MyOptimizer'

def cell(entries) -> str:
    "The degrees passed and the good rates at the hardest of them: '2: .003 to .1'"
    if entries is None:
        return ''
    if refusal(entries):
        return 'refused'
    good_rates = window(entries)
    if not good_rates:
        return '-'
    low,high = number(good_rates[0]),number(good_rates[-1])
    return f'{level(entries)}: {low}' + (f' to {high}' if high!=low else '')

def by_family(res):
    "The families of tasks, each with its tasks"
    found = {}
    for n,t in res['tasks'].items():
        found.setdefault(t['family'], {})[n] = t
    return found

def started(res): return {name: r for name,r in res['rows'].items() if r['results']}

def score(r, tasks) -> str:
    "The degrees passed, of those that the row was given: '14 of 15'"
    passed,given = total(r['results'], tasks)
    return f'{passed} of {given}' if given else ''

def width(r) -> float|None:
    "The median width of the window of good rates over the tasks of which a degree was passed, as a factor"
    widths = [w[-1]/w[0] for x in r['results'].values() if (w := window(x))]
    return median(widths) if widths else None


# -- The table --

few = 4                                                         # so many rows are columns of a table of all tasks

def report(res: dict) -> str:
    "The matrix as a text table: a line for each task if there are few rows, else a line for each row"
    rows  = [*started(res).items()]
    if len(rows)>few:
        return table(*summary(res), right=range(1, 99))
    lines = []
    for n,t in res['tasks'].items():
        cells = [cell(r['results'].get(n)) for _,r in rows]
        if any(cells):
            lines.append([spaced(n), str(len(t['degrees'])), *cells])
    sums = [score(r, res['tasks']) for _,r in rows]
    head = ['task', 'degrees', *(short(name) for name,_ in rows)]
    return '\n'.join([explanation, '', table(head, [*lines, ['degrees passed', '', *sums]], right=(1,))])

explanation = (f"Degrees passed, and the good rates at the hardest of them. A rate is good if {needed} of {seeds} seeds pass within the budget; "
               f"there are {len(rates)} rates from {rates[0]:g} to {rates[-1]:g}")

def summary(res) -> tuple:
    "A head, and a line for each row with the degrees passed by family of tasks"
    families = by_family(res)
    lines = []
    for name,r in started(res).items():
        factor = width(r)
        lines.append([short(name), score(r, res['tasks']), *(score(r, own) for own in families.values()), f'{factor:.0f}x' if factor else ''])
    return ['algorithm', 'all', *families, 'window'],lines


# -- The page --

def page(res: dict, picture: str, published: dict|None=None) -> str:
    "The matrix in Markdown, with the picture of that name, and beside the figures that others have `published`"
    rows = started(res)
    others   = [*section(res, published)] if published else []
    compared = ' What others\nhave published [stands at the end](#compared-with-published-figures), beside ours.' if others else ''
    about = dict(rows=len(rows), tasks=len(res['tasks']), degrees=sum(len(t['degrees']) for t in res['tasks'].values()), rates=len(rates),
                 low=rates[0], high=rates[-1], seeds=seeds, needed=needed, picture=picture, missing=missing(res), cost=cost(rows), compared=compared)
    out = [intro.format(**about), '## Degrees passed', '']
    out += markdown(*summary(res))
    for f,own in by_family(res).items():
        lines = [[short(name), *(cell(r['results'].get(n)) for n in own)] for name,r in rows.items()]
        out  += ['', f'## {f.capitalize()}', '', *markdown(described, [description(res, n, t) for n,t in own.items()])]
        out  += ['', *markdown(['algorithm', *map(spaced, own)], lines)]
    return '\n'.join(out+others) + '\n'

described = ['task', 'difficulty', 'degrees', 'gradients', 'threshold', 'passed by']

def description(res, n, t):
    "A line about the task `n`, as `described`"
    return [spaced(n), t['reason'], ', '.join(map(number, t['degrees'])), str(t['steps']), t['basis'], passed_by(res, n, len(t['degrees']))]

intro = """# Trials

{rows} optimizers on {tasks} small tasks in {degrees} degrees. Each task isolates one difficulty. `genopt trials --out docs/trials.json` runs them and
writes this page. It goes on where it was interrupted. `genopt trials Adam` runs one row. `genopt trials my_module:MyOptimizer` runs an optimizer of
your own beside Adam. How it is written: [compositions.py](../genopt/tools/trials/compositions.py).{cost}

All optimizers have the same effort: {rates} constant rates from {low:g} to {high:g}, {seeds} seeds, and for each task a budget of gradients. All
other settings have their defaults, except weight decay, which is 0. So AdamW is Adam here. A run is judged fifty times, and passes if its error is at
most the threshold twice in a row; a few tasks ask for longer. A rate is good if {needed} of {seeds} seeds pass. A degree is passed if a rate is good.
It is run only if the one before was passed. An optimizer *refuses* a task if it does not take such parameters: Muon takes matrices only. In the
tables, `2: .003 to .1` says that two degrees were passed, and which rates are good at the second. *Window* is the median, over the tasks, of the
largest good rate over the smallest.

The tasks are small on purpose. They show which difficulties an algorithm copes with, not how fast it trains a large model.{compared}
{missing}
![The matrix: each cell has a field for each degree, the darker the more rates are good]({picture})
"""

def seconds(r) -> float|None:
    "How many seconds of a processor the row took; None if that is not known of all its results"
    known = r.get('seconds', {})
    return sum(known.values()) if known.keys()>=r['results'].keys() else None

def cost(rows) -> str:
    "What the rows took, in a sentence"
    known = {short(n): s for n,r in rows.items() if (s := seconds(r)) is not None}
    if len(known)<2: return ''
    dear = max(known, key=known.get)
    timed = f"One core needs {median(known.values()):.0f} seconds for a row in the median, and {known[dear]:.0f} for the dearest, {dear}"
    if len(known)<len(rows): return f"\n\n{timed}, of the {len(known)} rows that have been timed."
    return f"\n\n{timed}. All rows took {sum(known.values())/60:.0f} minutes of one core."

def missing(res) -> str:
    "What has not been run, in a sentence"
    none  = [short(n) for n,r in res['rows'].items() if not r['results']]
    some  = [short(n) for n,r in res['rows'].items() if 0<len(r['results'])<len(res['tasks'])]
    told  = [f"Not run yet: {', '.join(none)}." if none else '', f"Run on some tasks only: {', '.join(some)}." if some else '']
    return '\n'.join(['', *filter(None, told), '']) if any(told) else ''

def passed_by(res, n, degrees):
    "How many of the rows that take the task pass each degree"
    taken = [x for r in res['rows'].values() if (x := r['results'].get(n)) and not refusal(x)]
    return ', '.join(str(sum(level(x)>d for x in taken)) for d in range(degrees)) + f' of {len(taken)}'


# -- The picture --

colors = dict(failed='#f6d9d3', skipped='#fbefec')

def plot(res: dict, path=None):
    """The matrix as a matplotlib figure, written to `path` if given: a row for each optimizer, a cell for each task with a field for each degree.
    The more rates are good, the darker the field."""
    import matplotlib.pyplot as plt
    rows,columns = places(started(res), 'family', .5),places(res['tasks'], 'family', .7)
    n_rows,n_columns = max(rows.values())+1,max(columns.values())+1
    fig,ax = plt.subplots(figsize=(3.4+.34*n_columns, 2.4+.2*n_rows), layout='constrained')
    for name,y in rows.items():
        results = res['rows'][name]['results']
        for n,x in columns.items():
            if n in results:
                draw_cell(ax, x, y, results[n], len(res['tasks'][n]['degrees']))
        ax.text(n_columns+.3, y+.5, score(res['rows'][name], res['tasks']), va='center', ha='left', fontsize=8)
    label(ax, res, rows, columns)
    ax.set(xlim=(-.1, n_columns+3), ylim=(n_rows, 0))
    ax.set_frame_on(False)
    legend(fig, plt)
    if path:
        fig.savefig(path, dpi=110)
    return fig

def places(items, key, gap):
    "The place of each item in a line, with a gap between those that differ in `key`"
    found,at,last = {},0.,None
    for name,o in items.items():
        if last is not None and o[key]!=last:
            at += gap
        found[name] = at
        at  += 1
        last = o[key]
    return found

def shade(n):
    "The color for `n` good rates"
    from matplotlib.colors import LinearSegmentedColormap
    scale = LinearSegmentedColormap.from_list('good', ['#cfe3cf', '#7fbf8f', '#2b8a6b', '#0b4f5f', '#062b45'])
    return scale((n-1)/(len(rates)-2)) if n<len(rates) else scale(1.)

def draw_cell(ax, x, y, entries, degrees):
    "A field for each degree, or a dash for a refusal"
    from matplotlib.patches import Rectangle
    if refusal(entries):
        ax.plot([x+.35,x+.57], [y+.5,y+.5], color='.65', lw=1)
        return
    w = .92/degrees
    for i in range(degrees):
        n = len(good(entries[i])) if i<len(entries) else None
        color = colors['skipped'] if n is None else shade(n) if n else colors['failed']
        ax.add_patch(Rectangle((x+i*w, y+.06), w*.9, .88, color=color, lw=0))

def label(ax, res, rows, columns):
    "The names of tasks above, of optimizers to the left, and of the families of both"
    ax.xaxis.tick_top()
    ax.set_xticks([x+.46 for x in columns.values()], map(spaced, columns), rotation=60, ha='left', rotation_mode='anchor', fontsize=9)
    ax.set_yticks([y+.5 for y in rows.values()], [*map(short, rows)], fontsize=9)
    ax.tick_params(length=0, pad=2)
    for f,own in by_family(res).items():
        xs = [columns[n] for n in own]
        ax.text((xs[0]+xs[-1]+.92)/2, max(rows.values())+1.25, f, ha='center', va='top', fontsize=10, color='.3', clip_on=False)

def legend(fig, plt):
    from matplotlib.patches import Patch
    marks = [Patch(color=shade(n), label=f"{n} good rate{'s'*(n>1)}") for n in (1, 3, 6, 9)]
    marks += [Patch(color=colors['failed'], label='failed'), Patch(color=colors['skipped'], label='not run: an easier degree failed')]
    marks += [plt.Line2D([], [], color='.65', lw=1, label='refused')]
    fig.legend(handles=marks, loc='outside lower center', ncols=7, frameon=False, fontsize=9)

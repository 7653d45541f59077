"""Figures that others have published, set beside the matrix.

The file has `levels`: how many degrees of a task the optimizers of a source pass, task by task; `ranks`: one number for each optimizer of a source,
the less the better; and `without_figures`: what has been looked at and has no such figures. Optimizers and tasks have our names there."""

from collections import Counter
from itertools import combinations,permutations
from statistics import mean
import torch
from .judging import level
from .markdown import markdown,spaced

__all__ = ['against_chance', 'order', 'section', 'spearman']


# -- Statistics --

def order(values: list) -> torch.Tensor:
    "Which of two values is larger, for all pairs: 1, 0 or -1 at [i, j]"
    v = torch.tensor(values, dtype=torch.float64)
    return (v[:,None]-v).sign()

def against_chance(ours: list, theirs: list) -> tuple:
    """How many pairs have the same order in both, how many the opposite, and how often a random exchange of the names in `theirs` has an order that
    agrees as much or more. `ours` and `theirs` are lists of tasks, with the degrees that each optimizer passes. All exchanges are tried."""
    products = sum(order(a)[:,:,None,None]*order(b) for a,b in zip(ours, theirs))              # over tasks; [i, j, k, l] if i, j are called k, l
    n     = len(ours[0])
    names = torch.tensor([*permutations(range(n))])
    i,j   = torch.tensor([*combinations(range(n), 2)]).T
    sums  = products[i, j, names[:,i], names[:,j]].sum(1)
    each  = torch.stack([order(a)[i,j]*order(b)[i,j] for a,b in zip(ours, theirs)])
    return int((each>0).sum()),int((each<0).sum()),float((sums>=sums[0]).double().mean())      # the first exchange leaves all names

def spearman(a: list, b: list) -> float:
    "The rank correlation of two lists of numbers; equal numbers share their rank. 0 where all of a list are equal"
    x,y = (order(v).sum(1) for v in (a, b))
    return float((x*y).sum()/(x.square().sum()*y.square().sum()).sqrt().clamp(min=1e-9))


# -- The section of the page --

def section(res: dict, published: dict):
    "The lines of the page about `published` figures, beside those of the matrix `res`. It leaves out a source if `res` lacks a row or a task of it"
    parts  = [(name, s, levels) for name,s in published['levels'].items() if covers(res, s['rows'], s['tasks'])]
    parts += [(name, s, ranks) for name,s in published['ranks'].items() if covers(res, s['ranks'], res['tasks'])]
    if not parts: return
    yield from ['', '## Compared with published figures']
    for name,source,lines in parts:
        yield from ['', f"### [{name}]({source['url']})", '']
        for paragraph in source['about']: yield from (paragraph, '')
        yield from lines(res, name, source)
    yield from ['', '### Others', '', 'These have no figures that can be set beside ours:', '']
    yield from (f'- {what}: {why}' for what,why in published['without_figures'].items())

def covers(res, rows, tasks): return all(r in res['rows'] and res['rows'][r]['results'].keys()>={*tasks} for r in rows)

def passed(res, row, task): return level(res['rows'][row]['results'][task])

def levels(res, name, source):
    "The table 'theirs, ours', and how far they agree"
    rows,tasks = [*source['rows']],source['tasks']
    ours,theirs = [[passed(res, r, n) for r in rows] for n in tasks],[t['passed'] for t in tasks.values()]
    same,opposite,share = against_chance(ours, theirs)
    yield f"The table has the degrees passed: those of {name}, then ours of 3."
    yield ''
    def line(n, a, b):
        product = (order(a)*order(b)).triu()
        counts  = [str(int((product==s).sum())) for s in (1, -1)]
        return [spaced(n), spaced(tasks[n]['theirs']), str(tasks[n]['degrees']), *(f'{x}, {y}' for x,y in zip(b, a)), *counts]
    yield from markdown(['ours', f'of {name}', 'its degrees', *rows, 'same order', 'opposite'], map(line, tasks, ours, theirs))
    yield ''
    yield from verdict(rows, ours, theirs, same, opposite, share)
    yield ''
    yield f"Left out: {'; '.join(f'{spaced(n)} ({why})' for n,why in source['left_out'].items())}."

def verdict(rows, ours, theirs, same, opposite, share):
    "What the table says of the agreement"
    indices = [*combinations(range(len(rows)), 2)]
    often = Counter(rows[k] for a,b in zip(ours, theirs) for i,j in indices if (a[i]-a[j])*(b[i]-b[j])<0 for k in (i, j)).most_common(1)
    pairs = len(indices)*len(ours)
    yield (f"Both matrices tell two optimizers apart in {same+opposite} of {pairs} pairs: {same} have the same order in both, {opposite} the "
           f"opposite. If the names are exchanged at random, {share:.0%} of all exchanges agree as much or more. So the two agree "
           f"{'' if share<.05 else 'no '}more than by chance.")
    flat = sum(len({*b})==1 for b in theirs)
    yield from (f"{row} is in {times} of the {opposite} opposite pairs." for row,times in often)
    yield f"In {flat} of its tasks all {len(rows)} pass the same number of degrees, so these tasks cannot be compared."

def ranks(res, name, source):
    "The rank correlations, by family of our tasks"
    rows,theirs = [*source['ranks']],[-v for v in source['ranks'].values()]
    families = {}
    for n,t in res['tasks'].items(): families.setdefault(t['family'], []).append(n)
    def correlation(tasks): return spearman(theirs, [mean(passed(res, r, n) for n in tasks) for r in rows])
    yield f"Rank correlation, over {len(rows)} optimizers, of {name}'s average rank with the degrees passed here:"
    yield ''
    yield from markdown(['all', *families], [[f'{correlation(ns):.2f}' for ns in ([*res['tasks']], *families.values())]])
    yield ''
    nearest = {n: correlation([n]) for n in families['landscape']}
    first,second = sorted(nearest, key=nearest.get)[:-3:-1]
    bound = 1.96/(len(rows)-1)**.5
    yield (f"Without any relation, 95% of such numbers lie between -{bound:.2f} and {bound:.2f}. Among the tasks of landscape, {spaced(first)} has "
           f"the largest, {nearest[first]:.2f}, and {spaced(second)} the next, {nearest[second]:.2f}.")

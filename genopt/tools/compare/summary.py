"""From trainings to a ranking: means, spreads, and tests whether two optimizers differ."""

import math,statistics
from itertools import combinations

__all__ = ['beside', 'summary']

level = 0.05                                                # the false discovery rate at which one optimizer counts as better than another


def summary(names: list, finals: dict) -> list:
    """The rows of the ranking, the lowest test loss first. `finals` has for each optimizer its trainings, one for each seed, in the order of the
    seeds. Means and standard deviations are over all seeds; an optimizer that diverged with some seed has none.

    `against_first`: the mean difference of the test loss from the first optimizer's with the same seed, and the p-value of a paired t-test.
    `better_than`: the optimizers whose test loss is higher, at a false discovery rate of 5%. All pairs are tested, and the p-values adjusted for
    their number (Benjamini and Hochberg 1995). Without scipy, or with one seed, there are no p-values."""
    rows = [row_of(name, finals[name]) for name in names]
    rows.sort(key=lambda r: math.inf if r['test_loss'] is None else r['test_loss'][0])
    losses = losses_of(finals)
    ps     = paired([*combinations([r['optimizer'] for r in rows], 2)], losses)
    for i,row in enumerate(rows):
        name,first = row['optimizer'],names[0]
        row['against_first'] = None if name==first else difference(losses[name], losses[first]) | dict(p=p_of(ps, name, first))
        row['better_than'] = [o['optimizer'] for o in rows[i+1:] if (p := p_of(ps, name, o['optimizer'])) is not None and p<level]
    return rows

def beside(pairs: list, finals: dict) -> list:
    """The rows of a comparison in `pairs` of names, two for each pair: the first of a pair, and the second with `against`, which is like
    `against_first`, but for the first of the pair. `deviations`: the mean difference in standard deviations of the first of the pair, or None.
    `worse`: whether it diverged with more seeds, or its loss is higher at a false discovery rate of 5%"""
    losses = losses_of(finals)
    ps     = paired(pairs, losses)
    rows   = []
    for base,name in pairs:
        first,second = (row_of(n, finals[n]) for n in (base, name))
        found = difference(losses[name], losses[base])['difference']
        p     = ps.get((base, name))
        worse = second['diverged']>first['diverged'] or p is not None and p<level and found[0]>0
        size  = found[0]/first['test_loss'][1] if found and first['test_loss'][1] else None
        rows += [first, second | dict(against=dict(difference=found, p=p, deviations=size), worse=worse)]
    return rows

def row_of(name, runs):
    "What a row has of one optimizer alone"
    row = dict(optimizer=name, diverged=sum(r['test_loss'] is None for r in runs))
    return row | {c: spread([r[c] for r in runs]) for c in ('train_loss', 'test_loss', 'accuracy')}

def losses_of(finals): return {name: [r['test_loss'] for r in runs] for name,runs in finals.items()}

def spread(xs):
    "Mean and standard deviation of `xs`; None if some training diverged. One value has a deviation of 0"
    if None in xs:
        return None
    return [statistics.fmean(xs), statistics.stdev(xs) if len(xs)>1 else 0.]

def difference(xs, ys):
    "Mean and standard deviation of the differences of pairs"
    if None in xs or None in ys:
        return dict(difference=None)
    return dict(difference=spread([x-y for x,y in zip(xs, ys)]))

def p_of(ps, a, b): return ps.get((a, b), ps.get((b, a)))

def paired(pairs, losses):
    "The adjusted p-value of each of `pairs` of names, as far as there is one"
    try:
        from scipy.stats import false_discovery_control,ttest_rel
    except ImportError:
        return {}
    pairs = [(a, b) for a,b in pairs if None not in losses[a] + losses[b] and len(losses[a])>1]
    if not pairs:
        return {}
    ps = [1. if losses[a]==losses[b] else float(ttest_rel(losses[a], losses[b]).pvalue) for a,b in pairs]
    return dict(zip(pairs, map(float, false_discovery_control(ps))))

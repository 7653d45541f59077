"""The goals, in one table, and how far a measurement meets them."""

from dataclasses import asdict,dataclass,replace
from itertools import product
from genopt.optim.tables import table

__all__ = ['Goal', 'check', 'goals', 'passed', 'plan', 'shortened', 'show']

large = 'resnet18 resnet50 gpt2'
peers = compiled = 'fastest peer'       # whoever is not genopt, compiled or not
pointwise = ('SGD SGDW QHM AggMo ASGD Rprop Signum Tiger Lion Adagrad RMSprop Adadelta Adam AdamW AdamC AMSGrad Adamax NAdam NAdamW RAdam SAdam '
             'QHAdam AdaBelief Yogi AdaBound LaProp ADOPT AdEMAMix Adan MADGRAD SGDScheduleFree AdamWScheduleFree')         # one kernel, one pass


@dataclass(frozen=True)
class Goal:
    "`contender` over `baseline`, or without one the number itself, is at most `at_most`. `short`: for which algorithm, shape `--short` tries it"
    case: str
    algorithms: str
    shapes: str
    contender: str
    baseline: str
    at_most: float
    short: str = ''
    gross: float = 2.                   # by which factor `--short` lets it be missed: twice the goal, or, if it is missed, about twice what is

goals = [Goal('step',         'Adam AdamW',  'resnet18 resnet50', 'genopt default', 'torch fused',             0.85, 'Adam resnet18'),
         Goal('step',         'Adam AdamW',  'gpt2',            'genopt default', 'torch fused',             0.92),
         Goal('step',         'SGD',         large,             'genopt default', 'torch fused',             0.9),
         Goal('step',         'RMSprop',     'resnet18',        'genopt default', compiled,                  0.95),
         Goal('step',         'NAdam',       'resnet18',        'genopt default', compiled,                  0.6),
         Goal('step',         'RAdam',       'resnet18',        'genopt default', compiled,                  0.65),
         Goal('step',         'Lion',        'resnet18',        'genopt default', compiled,                  0.9),
         Goal('step',         'LAMB',        'resnet18',        'genopt default', compiled,                  0.55),
         Goal('step',         'Adam',        'k256',            'genopt default', 'torch fused',             0.07, 'Adam k256', 4.),
         Goal('step',         'LAMB',        'k256',            'genopt default', peers,                     0.05),
         Goal('step',         'SGD',         'six',             'genopt default', 'torch default',           0.5,  'SGD six'),
         Goal('step',         'RMSprop',     'six',             'genopt default', 'torch default',           0.25, 'RMSprop six'),
         Goal('step',         'Adam AdamW',  'six',             'genopt default', 'torch default',           0.2,  'Adam six'),
         Goal('step',         'Adam',        'six',             'genopt default', 'torch fused',             0.35),
         Goal('step',         'Adam SGD',    'gpt2 k256',       'genopt foreach', 'torch foreach',           1.0,  'Adam k256'),
         Goal('step',         'AdamW',       'groups465',       'genopt default', 'genopt default, 3 groups', 1.3, 'AdamW groups465'),
         Goal('step',         pointwise,     'resnet50',        'genopt default', 'memory copy',             1.2,  'Adam resnet50'),
         Goal('cold',         'Adam',        'k256',            'genopt default', '',                        0.5,  'Adam k256', 4.),
         Goal('warm',         'Adam',        'k256',            'genopt default', '',                        0.1,  'Adam k256', 6.),
         Goal('compilations', 'Adam',        'six',             'genopt default', '',                        1,    'Adam six')]
units = dict(step='', cold=' s', warm=' s', compilations='')


kind  = dict(cold='first', warm='first')                                    # the measurement that a case is read from

def shortened(): return [replace(g, algorithms=a, shapes=s) for g in goals if g.short for a,s in [g.short.split()]]

def plan(goals):
    "What has to be measured for `goals`: for each kind, algorithm and shape the contenders"
    res = {}
    for g in goals:
        for key in product([kind.get(g.case, g.case)], g.algorithms.split(), g.shapes.split()):
            res.setdefault(key, []).extend(n.partition(',')[0] for n in (g.contender, g.baseline) if n)
    return [(*k, [*dict.fromkeys(v)]) for k,v in res.items()]

def find(results, case, algorithm, shape, name):
    "The row of `name`, or an empty one"
    key = kind.get(case, case),algorithm,shape
    rows = next((r['rows'] for r in results if (r['case'], r['algorithm'], r['shape'])==key), [])
    if name!=peers: return next((r for r in rows if r['name']==name), {})
    rows = [r for r in rows if 'ratio' in r and r['name'].split()[0] not in ('genopt','memory')]
    return min(rows, key=lambda r: r['ratio'], default={})

def check(results, goals=goals, short=False):
    """For each goal on each algorithm and shape: the value, and met, missed or not measured. A contender that refused has missed,
    where the baseline is missing nothing is measured. `short`: with the room that `gross` gives"""
    res = []
    for g in goals:
        limit = g.at_most*(g.gross if short else 1.)
        for algorithm,shape in product(g.algorithms.split(), g.shapes.split()):
            ours   = find(results, g.case, algorithm, shape, g.contender)
            theirs = find(results, g.case, algorithm, shape, g.baseline) if g.baseline else dict(ratio=1)
            value  = ours.get(dict(step='ratio', compilations='count').get(g.case, g.case))
            value  = value/theirs['ratio'] if value is not None and 'ratio' in theirs else None
            if 'absent' in ours and 'ratio' in theirs: verdict = 'missed'
            else: verdict = 'not measured' if value is None else 'met' if value<=limit else 'missed'
            res.append(asdict(g) | dict(algorithm=algorithm, shape=shape, value=value, limit=limit, verdict=verdict,
                                        against=theirs.get('name', g.baseline), absent=ours.get('absent')))
    return res

def passed(checked): return not any(c['verdict']=='missed' for c in checked)

def show(checked):
    "The goals beside what was measured; those of which nothing was are only counted"
    rows = []
    for c in checked:
        if c['verdict']=='not measured': continue
        value = f"{c['value']:.3g}{units[c['case']]}" if c['value'] is not None else 'absent' if c['absent'] else '-'
        against = f"{c['baseline']} ({c['against']})" if c['baseline']==peers and c['against']!=peers else c['baseline']
        rows.append([c['case'], c['algorithm'], c['shape'], c['contender'], against, f"{c['limit']:g}{units[c['case']]}", value, c['verdict']])
    count = ', '.join(f"{sum(c['verdict']==v for c in checked)} {v}" for v in ('met','missed','not measured'))
    head = ['case', 'algorithm', 'shape', 'contender', 'against', 'at most', 'measured', '']
    return f'{table(head, rows, right=(5,6))}\n\ngoals: {count}' if rows else f'goals: {count}'

"""The goals, in one table, and how far a measurement meets them."""

from dataclasses import asdict,dataclass,replace
from itertools import product
from genopt.optim.tables import table

__all__ = ['Goal', 'check', 'goals', 'passed', 'plan', 'shortened', 'show']

large = 'resnet18 resnet50 gpt2'
fewer = 'resnet50 gpt2'                 # shapes on which fewer bytes are to be faster
peers = compiled = 'fastest peer'       # whoever is not genopt, compiled or not
pointwise = ('SGD SGDW QHM AggMo ASGD Rprop Signum Tiger Lion Adagrad RMSprop Adadelta Adam AdamW AdamC AMSGrad Adamax NAdam NAdamW RAdam SAdam '
             'QHAdam AdaBelief Yogi AdaBound LaProp ADOPT AdEMAMix Adan MADGRAD SGDScheduleFree AdamWScheduleFree')         # one kernel, one pass


@dataclass(frozen=True)
class Goal:
    """The time of `contender` over that of `baseline`, or without a baseline the number itself, is at most `at_most`: on each of `algorithms` and of
    `shapes`. `short`: the algorithm and the shape on which `--short` tries the goal, if it does"""
    case: str
    algorithms: str
    shapes: str
    contender: str
    baseline: str
    at_most: float
    short: str = ''
    gross: float = 2.                   # `--short` allows this factor: two; where the goal is missed, about two over what was reached

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
         Goal('step',         'AdamW',       'six_scheduled',   'genopt default', 'torch default',           0.25, 'AdamW six_scheduled'),
         Goal('step',         'AdamW',       'groups465_scheduled', 'genopt default', 'torch default',       0.45, 'AdamW groups465_scheduled'),
         Goal('step',         pointwise,     'resnet50',        'genopt default', 'memory copy',             1.2,  'Adam resnet50'),
         Goal('step',         'Adam',        fewer,             'genopt bfloat16', 'torch fused',            0.75),
         Goal('step',         'Adam',        fewer,             'genopt int8', 'torch fused',                0.65),
         Goal('step',         'Adam',        fewer,             'genopt extra_bits', 'torch fused',          0.6),
         Goal('step',         'LAMB Lion',   fewer,             'genopt bfloat16', 'genopt default',         0.75),
         Goal('step',         'LAMB Lion',   fewer,             'genopt int8', 'genopt default',             0.65),
         Goal('step',         'LAMB Lion',   fewer,             'genopt extra_bits', 'genopt default',       0.6),
         Goal('cold',         'Adam',        'k256',            'genopt default', '',                        0.5,  'Adam k256', 4.),
         Goal('warm',         'Adam',        'k256',            'genopt default', '',                        0.1,  'Adam k256', 6.),
         Goal('compilations', 'Adam',        'six',             'genopt default', '',                        1,    'Adam six')]

# On a GPU the case `step` has the device's time, and `host` the host's
biggest = 'resnet50 gpt2 b1'
on_gpu  = [Goal('step', 'Adam AdamW SGD', biggest,         'genopt default',  'torch fused',    1.0),
           Goal('step', 'RMSprop Lion',   biggest,         'genopt default',  peers,            1.0),
           Goal('step', 'Adam AdamW SGD RMSprop Lion', biggest, 'genopt default', 'memory copy', 1.15),
           Goal('step', 'Adam',           'k256 k10000',   'genopt default',  'torch fused',    0.5),
           Goal('host', 'Adam',           'k256 k10000',   'genopt default',  'torch fused',    0.5),
           Goal('step', 'LAMB',           'gpt2',          'genopt default',  peers,            0.7),
           Goal('step', 'Muon',           'gpt2_matrices', 'genopt default',  peers,            1.0),
           Goal('step', 'Adam',           biggest,         'genopt foreach',  'torch foreach',  1.0),
           Goal('step', 'Adam',           'resnet50 gpt2', 'genopt captured', 'torch captured', 1.0)]
units = dict(step='', host='', cold=' s', warm=' s', compilations='')
kind  = dict(cold='first', warm='first', host='step')                       # the measurement that has the number, if it is not named like the case
value = dict(step='ratio', host='host_ratio', compilations='count')         # the number in its rows, likewise


# -- What to measure --

def shortened():
    "The goals of `--short`"
    return [replace(g, algorithms=a, shapes=s) for g in goals if g.short for a,s in [g.short.split()]]

def plan(goals):
    "What has to be measured for `goals`: kind, algorithm, shape and names of contenders"
    res = {}
    for g in goals:
        names = [n.partition(',')[0] for n in (g.contender, g.baseline) if n]
        for key in product([kind.get(g.case, g.case)], g.algorithms.split(), g.shapes.split()):
            res.setdefault(key, {}).update(dict.fromkeys(names))
    return [(*key, [*names]) for key,names in res.items()]


# -- Met or missed --

def find(results, case, algorithm, shape, name):
    "The row of `name`, or an empty one"
    key  = kind.get(case, case),algorithm,shape
    rows = next((r['rows'] for r in results if (r['case'], r['algorithm'], r['shape'])==key), [])
    if name!=peers:
        return next((r for r in rows if r['name']==name), {})
    others = [r for r in rows if 'ratio' in r and is_peer(r['name'])]
    return min(others, key=lambda r: r['ratio'], default={})

def is_peer(name):
    "A step of another library that does the same work: torchao's keeps states of 8 bits, and a captured one is held against genopt's captured"
    library,_,how = name.partition(' ')
    return library not in ('genopt','memory') and how not in ('8-bit','captured')

def check(results, goals=goals, short=False):
    """For each goal on each algorithm and shape: the value, the limit, and the verdict, which is met, missed or not measured. A contender that is
    absent has missed. Without the baseline nothing is measured. `short`: the limit is wider by the factor `gross`"""
    return [judge(results, g, a, s, short) for g in goals for a,s in product(g.algorithms.split(), g.shapes.split())]

def judge(results, goal, algorithm, shape, short):
    "The verdict on one goal, on one algorithm and shape"
    limit  = goal.at_most*(goal.gross if short else 1.)
    ours   = find(results, goal.case, algorithm, shape, goal.contender)
    theirs = find(results, goal.case, algorithm, shape, goal.baseline) if goal.baseline else dict(ratio=1)
    name   = value.get(goal.case, goal.case)
    number = ours.get(name)
    base   = theirs.get('host_ratio' if goal.case=='host' else 'ratio')
    ratio  = None
    verdict = 'not measured'
    if base is not None:
        if number is not None:
            ratio   = number/base
            verdict = 'met' if ratio<=limit else 'missed'
        elif 'absent' in ours:
            verdict = 'missed'
    return asdict(goal) | dict(algorithm=algorithm, shape=shape, value=ratio, limit=limit, verdict=verdict,
                               against=theirs.get('name', goal.baseline), absent=ours.get('absent'))

def passed(checked): return not any(c['verdict']=='missed' for c in checked)

def show(checked):
    "The goals beside what was measured. Those of which nothing was measured are only counted"
    rows = []
    for c in checked:
        if c['verdict']=='not measured': continue
        unit    = units[c['case']]
        shown   = 'absent' if c['value'] is None else f"{c['value']:.3g}{unit}"
        against = c['baseline']
        if against==peers and c['against']!=peers:
            against = f"{peers} ({c['against']})"
        rows.append([c['case'], c['algorithm'], c['shape'], c['contender'], against, f"{c['limit']:g}{unit}", shown, c['verdict']])
    counts = [f"{sum(c['verdict']==v for c in checked)} {v}" for v in ('met','missed','not measured')]
    count  = f"goals: {', '.join(counts)}"
    head   = ['case', 'algorithm', 'shape', 'contender', 'against', 'at most', 'measured', '']
    return f'{table(head, rows, right=(5,6))}\n\n{count}' if rows else count

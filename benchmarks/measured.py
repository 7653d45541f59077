"""What was measured on a GPU, in Markdown: a chapter of GPU.md, and rows of the table in README.md. All of it comes from gpu.json."""

import re
from itertools import groupby
from genopt.optim.tables import plural
from . import card,goals

names     = dict(resnet50='ResNet-50', gpt2='GPT-2', b1='1B parameters', k256='1000 tensors of 256', k10000='10,000 tensors of 256',
                 six='6 small tensors', gpt2_matrices="GPT-2's matrices", groups465='465 groups')
clocks    = dict(step='device', host='host')                    # whose time a goal is of
usual     = 'genopt default'
in_readme = 'six k256 k10000 resnet18 resnet50 gpt2 b1'       # columns of its table, Adam over torch fused
of_peers  = [('RMSprop Lion LAMB', 'gpt2'), ('Muon', 'gpt2_matrices')]
command   = 'python -m benchmarks --device cuda'


# -- Words --

def name_of(shape): return names.get(shape, shape)

def number(x): return '-' if x is None else f'{x:.2f}' if x>=.1 else f'{x:.2g}'

def star(*rows): return '' if all(r.get('hidden', True) for r in rows) else '*'

def listed(words): return ' and '.join(filter(None, [', '.join(words[:-1]), *words[-1:]]))

def table(head, rows, right=()):
    "A table in Markdown that can be read as it is. `right`: the columns that are aligned right"
    widths = [max(3, *map(len, column)) for column in zip(head, *rows)]
    def line(cells): return '| ' + ' | '.join(c.rjust(w) if i in right else c.ljust(w) for i,(c,w) in enumerate(zip(cells, widths))) + ' |'
    rule = '|' + '|'.join('-'*(w+1) + (':' if i in right else '-') for i,w in enumerate(widths)) + '|'
    return '\n'.join([line(head), rule, *map(line, rows)])

def steps(results):
    "The cases of kind `step` by algorithm, in the order in which the suite measures them"
    order  = [*card.steps, *((r['algorithm'], r['shape']) for r in results)]
    first  = [a for a,_ in order]
    def place(r): return first.index(r['algorithm']),order.index((r['algorithm'], r['shape']))
    return sorted((r for r in results if r['case']=='step'), key=place)


# -- The machine --

def machines(results):
    "A paragraph for each machine with its software, and when it measured"
    found = {}
    for r in results:
        m     = r['machine']
        peers = listed([f'{n} {v}' for n,v in m['versions'].items() if n not in ('torch','triton')])
        about = (f"**{m['device']}**, driver {m['driver']}, CUDA {m['cuda']}, torch {m['torch']}, Triton {m['triton']}, Python {m['python']}. "
                 f"The peers: {peers}.")
        found.setdefault(about, []).append(r)
    for about,those in found.items():
        days  = sorted({r['machine']['date'][:10] for r in those})
        loads = sorted(r['load'] or 0 for r in those)
        when  = ' to '.join(dict.fromkeys([days[0], days[-1]]))
        yield (f"{about} {plural(len(those), 'case')} on {when}, on a host with {those[0]['threads']} threads and a load of {loads[0]:.1f} to "
               f"{loads[-1]:.1f}.")


# -- Goals --

def goal_rows(checked):
    "A row for each goal and algorithm, with all its shapes. `checked`: what `goals.check` returns"
    def same(c): return c['case'],c['algorithm'],c['contender'],c['baseline'],c['limit']
    for (case,algorithm,contender,over,limit),found in groupby(checked, same):
        found = [*found]
        shown = '; '.join(f"{name_of(c['shape'])}: {value(c)}" for c in found)
        yield [clocks[case], algorithm, contender, over_words(over), f'{limit:g}', shown, verdict(found)]

def value(c):
    if c['value'] is None:
        return 'absent' if c['verdict']=='missed' else '-'
    peer = f" ({c['against']})" if c['baseline']==goals.peers else ''
    return f"{number(c['value'])}{c['star']}{peer}"

def verdict(found):
    "In words: which shapes miss the goal, and which are not measured"
    told = []
    for v,shown in ('missed', '**missed**'), ('not measured', 'not measured'):
        which = [name_of(c['shape']) for c in found if c['verdict']==v]
        if which:
            told.append(shown if len(which)==len(found) else f'{shown}: {listed(which)}')
    return '; '.join(told) or 'met'

def over_words(baseline): return f'the {baseline}' if baseline==goals.peers else baseline

def check(results):
    "The verdicts on all goals. `star` marks a device time that has host time in it"
    checked = goals.check(results, goals.on_gpu)
    for c in checked:
        pair = [goals.find(results, 'step', c['algorithm'], c['shape'], name) for name in (c['contender'], c['against'])]
        c['star'] = star(*pair) if c['case']=='step' else ''
    return checked

def goals_text(results):
    checked = check(results)
    counts  = {v: sum(c['verdict']==v for c in checked) for v in ('met', 'missed', 'not measured')}
    told    = listed([f"{n} {'is' if n==1 else 'are'} {v}" for v,n in counts.items() if n])
    head    = ['time', 'algorithm', 'of', 'over', 'at most', 'measured', '']
    return f"""### Goals

Of {len(checked)} goals {told}. A figure is the time of one contender divided by that of another. [Below](#every-case) is what a star means.

{table(head, [*goal_rows(checked)], [4])}
"""


# -- Cases --

def cases_text(results):
    return '\n'.join([how, *filter(None, map(case_text, steps(results))), absent_text(results)])

how = """### Every case

Milliseconds of a step, each the median of its rounds:

- **device**: the time between two events around the step, behind a kernel that sleeps until the host has queued the whole step;
- **host**: the time until `step()` returns, on an idle device;
- **wall**: the time until the work of that step is done;
- **ratio**: the device's time, divided by that of the baseline.

A star marks a step that waits for the device or fills the queue of launches: its device time has host time in it. `genopt default` is `fused=True`. A
`captured` step is replayed from a CUDA graph. `memory copy` copies as many bytes as the step has to move. [Benchmarks](README.md#on-a-gpu) says more.
"""

def case_text(res):
    "A heading and a table of one case; None where nobody took part"
    rows = [r for r in res['rows'] if 'ms' in r]
    if not rows:
        return None
    cells = [[r['name'], f"{r['ms']:.4f}{star(r)}", f"{r['host']:.3f}", f"{r['wall']:.3f}", f"{r['ratio']:.3f}{star(r)}"] for r in rows]
    about = res['about'][0].upper() + res['about'][1:]
    return f"""#### {res['algorithm']}, {name_of(res['shape'])}

{about}, {res['elements']:,} elements in {res['tensors']:,} tensors. The baseline is {res['baseline']}.

{table(['contender', 'device, ms', 'host, ms', 'wall, ms', 'ratio'], cells, range(1, 5))}
"""


# -- Who took no part --

def absent_text(results):
    "Why contenders are missing, each reason once"
    found = {}
    for res in steps(results):
        for r in res['rows']:
            if said := reason(r, res):
                found.setdefault(said, {})[res['algorithm']] = None
    lines   = [said.format(listed([*algorithms])) for said,algorithms in found.items()]
    tried   = {r['name'].partition(',')[0] for res in results for r in res['rows']}
    skipped = [n for n in card.compiling if n not in tried]
    if skipped:
        lines.append(f"{listed(skipped)}: they compile for seconds to minutes before their first step; `--compiles` measures them")
    head    = ['### Who took no part', '', "No library takes part in an algorithm that it does not have. Besides:", '']
    return '\n'.join([*head, *(f'- {s}' for s in lines), ''])

def reason(row, res):
    "Why a contender is absent, with {} for the algorithms; None where it took part, and where its library has no such algorithm"
    why       = row.get('absent')
    contender = row['name'].partition(',')[0]
    library   = contender.partition(' ')[0]
    if not why or re.search(r'^\S+ has no \w+$|is not compared on', why):
        return None
    if 'No module named' in why:
        return f'{library}: it is not installed'
    if found := re.search(r"unexpected keyword argument '(\w+)'", why):
        return f'{contender}: there is no `{found[1]}` for {{}}'
    if why.endswith("torch's own"):
        return f"{library}: its {{}} are torch's own, and are measured under torch"
    return f"{contender}, {res['algorithm']} on {name_of(res['shape'])}: {why[:150]}".replace('{', '{{').replace('}', '}}')


# -- The chapter --

def chapter(results):
    "What was measured: the machine, the goals, the picture, every case"
    about = '\n\n'.join(machines(results))
    return f"""## What was measured

{about}

All is float32. The command is `{command}`.

![The device time of a step over that of torch fused or of the fastest peer, by algorithm and shape, beside a memory copy](gpu.png)

{goals_text(results)}
{cases_text(results)}"""


# -- README.md --

of_gpu = re.compile(r'(?m)^(\| on a GPU \(|On a GPU \().*\n')

def readme_rows(results):
    "What README has of a GPU: a row of its table and a line. Both give the device time of genopt's default over a baseline's"
    device = results[0]['machine']['device'].replace('NVIDIA ', '').split()[0]
    yield f"| on a GPU ({device}) | {' | '.join(of_default(results, 'Adam', in_readme, 'torch fused'))} |\n\n"
    shown = []
    for algorithms,shape in of_peers:
        values = zip(algorithms.split(), of_default(results, algorithms, shape, goals.peers))
        shown.append(', '.join(f'{name} {value}' for name,value in values) + f' on {name_of(shape)}')
    yield f"On a GPU ({device}), the time over that of the fastest other library: {'; '.join(shown)}.\n"

def of_default(results, algorithms, shapes, over):
    "The device time of genopt's default over that of `over`, for each algorithm and shape, as text"
    return [number(c['value']) for c in goals.check(results, [goals.Goal('step', algorithms, shapes, usual, over, 1.)])]

def with_rows(readme, results):
    "The text of README.md with this row and line in place of those that it has. Raises `ValueError` if it has none"
    old = [*of_gpu.finditer(readme)]
    if not old:
        raise ValueError("README.md has no row '| on a GPU (' to write anew; put one where the row is to be")
    return readme[:old[0].start()] + ''.join(readme_rows(results)) + readme[old[-1].end():]

"""`genopt trials`: runs rows on tasks, several processes side by side, and keeps the results in a file, from which an interrupted run goes on."""

import json,multiprocessing,os,time
from concurrent.futures import ProcessPoolExecutor,as_completed
from pathlib import Path
import torch
import genopt
from ... import algorithms
from ..choices import at_least,one_of,words
from ..compare import progress
from ..files import write
from . import compositions,judging
from .rows import row
from .running import run
from .tasks import families,tasks

__all__ = ['catalogue', 'pick', 'trials']


variants = {'SGD': ['SGD(momentum=0.9)'], 'Scion': ['Scion(unconstrained=True)']}        # settings that are algorithms in their own right
beside   = [f'{compositions.__name__}:{n}' for n in compositions.__all__]

def catalogue() -> list:
    "The rows of the whole matrix"
    return [r for n in algorithms.__all__ for r in (n, *variants.get(n, []))] + beside

def pick(text: str|None) -> list:
    "The rows in 'Adam, SGD(momentum=0.9)' or 'my_module:MyOptimizer', beside which stands Adam; by default the whole catalogue"
    if text is None:
        return [*map(row, catalogue())]
    given = items(text)
    if not given:
        raise ValueError("no optimizer given; write them as in 'Adam, SGD(momentum=0.9)' or my_module:MyOptimizer")
    if any(':' in o for o in given):
        given.append('Adam')
    return [*{r.name: r for r in map(row, given)}.values()]

def items(text) -> list:
    "The items of a list, split at the commas outside of parentheses"
    found,depth = [''],0
    for c in text:
        depth += (c=='(')-(c==')')
        if c==',' and not depth:
            found.append('')
        else:
            found[-1] += c
    return [s.strip() for s in found if s.strip()]

def pick_tasks(text):
    "The tasks in 'ill_conditioning, minimax'; by default all"
    if text is None:
        return [*tasks]
    return [*dict.fromkeys(one_of(n, tasks, 'task') for n in words(text))]


# -- Running --

def entries(row, task) -> list:
    "The results of a row on a task"
    found = []
    for degree in task.degrees:
        o = run(row, task.make(degree), task.steps, judging.rates, range(judging.seeds))
        entry = dict(seeds=''.join(map(str, o.passed)), evaluations=o.evaluations, raised=o.raised)
        found.append({k: v for k,v in entry.items() if v is not None} if not o.refused else dict(refused=o.refused))
        if not judging.good(found[-1]):
            break
    return found

def one(text, name):
    "The job of a process: the results of the row `text` on the task `name`, and how many seconds of a processor they took"
    begun = time.process_time()
    return entries(row(text), tasks[name]),round(time.process_time()-begun, 2)

def run_all(jobs, processes):
    "The jobs, pairs of a row and a task, each with what `one` returns, as they come"
    if processes==1:
        yield from ((job, one(*job)) for job in jobs)
        return
    with ProcessPoolExecutor(processes, multiprocessing.get_context('spawn')) as pool:
        futures = {pool.submit(one, *job): job for job in jobs}
        try:
            yield from ((futures[f], f.result()) for f in as_completed(futures))
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

def trials(opts: str|None=None, names: str|None=None, out: Path|None=None, processes: int|None=None, fresh: bool=False, show: bool=False) -> dict:
    """Run the rows `opts` on the tasks `names`, by default all on all. With `out`, what that file has already is kept and not run again, unless
    `fresh`, and the file is written every few seconds. Returns all that was measured, ready for JSON."""
    rows  = pick(opts)
    names = pick_tasks(names)
    processes = (os.cpu_count() or 1) if processes is None else processes
    at_least(1, processes=processes)
    res  = begin(out, rows, names, fresh)
    jobs = [(r.name, n) for r in rows for n in names if n not in res['rows'][r.name]['results']]
    done = run_all(jobs, min(processes, max(1, len(jobs))))
    written = time.monotonic()
    try:
        for _ in progress(range(len(jobs)), show):
            (r,n),(found,seconds) = next(done)
            res['rows'][r]['results'][n] = found
            res['rows'][r]['seconds'][n] = seconds
            if out and time.monotonic()-written>5:
                write(out, text(res))
                written = time.monotonic()
    finally:                                                                            # also where the user interrupts it
        done.close()
        if out:
            write(out, text(res))
    return res


# -- The file --

def begin(out, rows, names, fresh) -> dict:
    """What the file `out` has, with an entry for each of `rows`. Left out are results of tasks, and of a user's own optimizers, that have changed
    since"""
    res = json.loads(out.read_text(encoding='utf-8')) if out and out.exists() else dict(rows={}, tasks={})
    settings = dict(rates=[*judging.rates], seeds=judging.seeds, needed=judging.needed)
    if not res.keys()>={'rows','tasks'} or any(res.get(k, v)!=v for k,v in settings.items()):
        raise ValueError(f"{out} has no trials, or was made with other rates or seeds; give another file")
    stale = {n for n,t in res['tasks'].items() if n not in tasks or t['fingerprint']!=tasks[n].fingerprint}
    kept  = {name: without(stale, r) for name,r in res['rows'].items()}
    for r in rows:
        kept[r.name] = entry_of(r, without(names, kept.get(r.name, {})) if fresh else kept.get(r.name, {}))
    about = {n: dict(family=f, reason=t.reason, degrees=[*t.degrees], steps=t.steps, basis=t.basis, fingerprint=t.fingerprint)
             for f,members in families.items() for n,t in members.items()}
    order = {n: i for i,n in enumerate(catalogue())}
    return dict(genopt=genopt.__version__, torch=torch.__version__, **settings, tasks=about,
                rows=dict(sorted(kept.items(), key=lambda item: order.get(item[0], len(order)))))

def entry_of(row, old) -> dict:
    "The entry of `row`, with what the `old` entry has, unless that is of other code"
    head = dict(family=row.family, source=row.source) if row.source is not None else dict(family=row.family)
    return head | without((), old if old.get('source')==row.source else {})

def without(names, r):
    "What the file has of the row `r`, but for its results on the tasks `names`"
    return r | {k: {n: x for n,x in r.get(k, {}).items() if n not in names} for k in ('seconds','results')}

def text(res) -> str:
    "`res` as JSON with a line for each task, and for each result of a row"
    def line(o): return json.dumps(o, ensure_ascii=False)
    def block(o, depth, indent=''):
        if not depth or not isinstance(o, dict):
            return line(o)
        inner = indent+' '
        items = [f"{inner}{line(k)}: {block(v, 0 if k=='seconds' else depth-1, inner)}" for k,v in o.items()]
        return '{\n' + ',\n'.join(items) + f'\n{indent}}}'
    parts = {k: block(v, dict(tasks=1, rows=3).get(k, 0), ' ') for k,v in res.items()}
    return '{\n' + ',\n'.join(f' {line(k)}: {v}' for k,v in parts.items()) + '\n}\n'

"""What `genopt trials` has found, on the page of an algorithm: its row of `docs/trials.json`, where that is."""

import json
from ..trials import judging
from ..catalogue import table

__all__ = ['load', 'rows_of']


def load(docs):
    "The results, or None where there are none"
    path = docs/'trials.json'
    return json.loads(path.read_text(encoding='utf-8')) if path.exists() else None

def rows_of(n, tried):
    "The results of the algorithm `n`, and of its variants such as `SGD(momentum=0.9)`, a line for each task"
    rows = {r: found['results'] for r,found in tried['rows'].items() if (r==n or r.startswith(f'{n}(')) and found['results']}
    if not rows:
        yield 'It has not been tried yet.'
        return
    yield (f"[Small tasks](../trials.md) that each isolate one difficulty, in degrees from easy to hard, at {len(tried['rates'])} learning rates. A "
           f"rate is good if {tried['needed']} of {tried['seeds']} seeds pass.")
    for r,results in rows.items():
        yield from ('', f"### {r}" if len(rows)>1 else '', '')
        tasks = {n: tried['tasks'][n] for n in results}
        yield table(['task', 'isolates', 'degrees passed', 'good rates at the hardest'],
                    [[n.replace('_', ' '), task['reason'], *in_words(results[n], task)] for n,task in tasks.items()])

def in_words(found, task):
    "How many degrees were passed, and the good rates of the hardest of them"
    if judging.refusal(found): return 'refused', ''
    good = judging.window(found)
    return f"{judging.level(found)} of {len(task['degrees'])}", f'{min(good):g} to {max(good):g}' if len(good)>1 else f'{good[0]:g}' if good else ''

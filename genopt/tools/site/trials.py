"""What `genopt trials` has found, on the page of an algorithm: its row of `docs/trials.json`, where that is."""

import json
from .html import table

__all__ = ['load', 'rows_of']


def load(docs):
    "The results, or None where there are none"
    path = docs/'trials.json'
    return json.loads(path.read_text(encoding='utf-8')) if path.exists() else None

def rows_of(n, tried):
    "The results of the algorithm `n`, and of its variants such as `SGD(momentum=0.9)`, a line for each task"
    rows = [r for r in tried['rows'] if r==n or r.startswith(f'{n}(')]
    if not rows:
        yield 'It has not been tried yet.'
        return
    yield (f"Small tasks that each isolate one difficulty, in degrees from easy to hard, at {len(tried['rates'])} learning rates. A rate is good if "
           f"{tried['needed']} of {tried['seeds']} seeds pass.")
    for r in rows:
        results = {task: found for task,found in tried['rows'][r]['results'].items() if task in tried['tasks']}
        yield from ('', f"### {r}" if len(rows)>1 else '', '')
        yield table(['task', 'isolates', 'degrees passed', 'good rates at the hardest'],
                    [[task, tried['tasks'][task]['reason'], *in_words(found, tried['tasks'][task], tried)] for task,found in results.items()])

def in_words(found, task, tried):
    "How many degrees were passed, and the good rates of the hardest of them"
    if found and found[0].get('refused'): return 'refused', ''
    good = [[rate for rate,c in zip(tried['rates'], e.get('seeds', '')) if int(c)>=tried['needed']] for e in found]
    passed = [rates for rates in good if rates]
    return f"{len(passed)} of {len(task['degrees'])}", f"{min(passed[-1]):g} to {max(passed[-1]):g}" if passed else ''

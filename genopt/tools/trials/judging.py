"""What a result says.

The results of a row on a task are a list with an entry for each degree that was run, from easy to hard. A degree is run only if the one before was
passed. `seeds` has a digit for each rate, the number of seeds that passed. `evaluations` is the number of gradients after which the best rate passed.
`refused` says why an optimizer takes no such parameters, `raised` which error ended the runs."""

__all__ = ['good', 'level', 'needed', 'rates', 'refusal', 'seeds', 'total', 'window']


rates  = tuple(float(f'{10**(k/2):.1g}') for k in range(-8, 3))       # 0.0001, 0.0003, 0.001 ... 10: the same for all
seeds  = 5
needed = 4                                                            # a rate is good if so many of the seeds pass


def good(entry: dict) -> list:
    "The indices of the good rates"
    return [i for i,c in enumerate(entry.get('seeds', '')) if int(c)>=needed]

def level(entries: list) -> int:
    "How many degrees were passed"
    return sum(bool(good(e)) for e in entries)

def refusal(entries: list) -> str|None:
    "Why the optimizer takes no such parameters, or None if it does"
    return entries[0].get('refused')

def window(entries: list) -> list:
    "The good rates at the hardest degree that was passed; [] if none was"
    passed = [e for e in entries if good(e)]
    return [rates[i] for i in good(passed[-1])] if passed else []

def total(results: dict, tasks: dict) -> tuple:
    "How many degrees of `tasks` a row passed, and how many it was given: tasks that it refuses, or has not run, are left out"
    taken = [n for n in tasks if n in results and not refusal(results[n])]
    return sum(level(results[n]) for n in taken),sum(len(tasks[n]['degrees']) for n in taken)

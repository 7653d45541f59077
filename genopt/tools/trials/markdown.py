"How numbers, names and tables are written on the page."

__all__ = ['markdown', 'number', 'spaced']


def number(x): return f'{x:g}'.replace('0.', '.', 1) if 0<x<1 else f'{x:g}'

def spaced(name): return name.replace('_', ' ')

def markdown(head, rows):
    "The lines of a table in Markdown"
    yield f"| {' | '.join(head)} |"
    yield '|---'*len(head) + '|'
    for r in rows:
        yield f"| {' | '.join(r)} |"

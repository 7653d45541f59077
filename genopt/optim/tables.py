"""Text tables, and numbers as a reader wants them."""

__all__ = ['plural', 'size', 'table']


def plural(n: int, noun: str) -> str:
    "`n` and `noun`, with an s unless `n` is 1: '2 tensors'"
    return f"{n:,} {noun}{'s'*(n!=1)}"

def size(n_bytes: float) -> str:
    "A number of bytes in decimal units: '512 B', '93.5 MB'"
    for unit in ('B', 'kB', 'MB'):
        if n_bytes<1000: return f'{n_bytes:.3g} {unit}'
        n_bytes /= 1000
    return f'{n_bytes:.3g} GB'

def table(head, rows, right=()) -> str:
    "A text table. `head` and each row hold one string for each column; the columns with an index in `right` are aligned right"
    columns = []
    for i,column in enumerate(zip(head, *rows)):
        width = max(map(len, column))
        align = str.rjust if i in right else str.ljust
        columns.append([align(cell, width) for cell in (column[0], '-'*width, *column[1:])])
    return '\n'.join('  '.join(line).rstrip() for line in zip(*columns))

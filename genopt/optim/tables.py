"""Tables and numbers for a reader."""

__all__ = ['plural', 'size', 'table']


def size(n):
    "Bytes for a reader: 512 B, 93.5 MB"
    for unit in ('B', 'kB', 'MB', 'GB'):
        if n<1000 or unit=='GB': return f'{n:.3g} {unit}'
        n/=1000

def table(head, rows, right=()):
    "Rows of strings as a text table; columns in `right` are flush right"
    widths = [max(map(len, col)) for col in zip(head, *rows)]
    line = lambda row: '  '.join(c.rjust(w) if i in right else c.ljust(w) for i,(c,w) in enumerate(zip(row, widths))).rstrip()
    return '\n'.join([line(head), line(['-'*w for w in widths]), *map(line, rows)])


def plural(n, what): return f"{n:,} {what}{'s'*(n!=1)}"

"""`opt.explain()`: the chain as a table, for a terminal and for a notebook."""

from html import escape
from torch import Tensor
from .engine import how
from .loop import first

__all__ = ['Explanation', 'plural', 'table']

columns = ['callback', 'reads', 'changes', 'state', 'hypers', 'runs']


def size(n):
    "Bytes for a reader: 512 B, 93.5 MB"
    for unit in ('B', 'kB', 'MB', 'GB'):
        if n<1000 or unit=='GB': return f'{n:.3g} {unit}'
        n/=1000

def state_bytes(init, p):
    "Bytes that the state made by `init` takes for `p`; a number on the host takes none"
    s = first(init, p)
    return s.numel()*s.element_size() if isinstance(s, Tensor) else 0


def table(head, rows, right=()):
    "Rows of strings as a text table; columns in `right` are flush right"
    widths = [max(map(len, col)) for col in zip(head, *rows)]
    line = lambda row: '  '.join(c.rjust(w) if i in right else c.ljust(w) for i,(c,w) in enumerate(zip(row, widths))).rstrip()
    return '\n'.join([line(head), line(['-'*w for w in widths]), *map(line, rows)])


def plural(n, what): return f"{n:,} {what}{'s'*(n!=1)}"


class Explanation:
    "One table for each chain of an optimizer: what each callback reads and changes, state and bytes, hypers, how it runs"
    def __init__(self, opt):
        chains = {}
        for i,g in enumerate(opt.param_groups): chains.setdefault(id(c := opt._recipe(g).chain(g)), (c, []))[1].append(i)
        self.parts = [self._part(opt, chain, groups) for chain,groups in chains.values()]

    def _part(self, opt, chain, indices):
        groups = [opt.param_groups[i] for i in indices]
        params = [p for g in groups for p in g['params']]
        n,seen = sum(p.numel() for p in params) or 1,set()
        values = [opt._recipe(g).hypers(g, chain) for g in groups]
        def hyper(k): return f"{k}={' | '.join(dict.fromkeys(f'{v[k]:g}' if isinstance(v[k], float) else str(v[k]) for v in values))}"
        ways = [opt._recipe(g).settings(g).way for g in groups]
        note,parts = how(chain, values[0], params, ways[0])
        rows,total = [],0
        for b in chain.every:
            new = [k for k in b.state if k not in seen]
            bytes_ = {k: sum(state_bytes(b.state[k], p) for p in params) for k in new}
            total += sum(bytes_.values())
            seen |= {*new}
            where = 'opt.eval()' if b in chain.evals else chain.where.get(b, '')
            rows.append([b.name, ', '.join(k for k in b.reads if k not in values[0]), ', '.join(chain.writes.get(b, [])),
                         ', '.join(f"{k}={b.state[k]} {f'{bytes_[k]/n:.3g} B' if bytes_[k] else 'host'}" for k in new),
                         ', '.join(hyper(k) for k in b.reads if k in values[0]), where if where in ('host','opt.eval()') else parts.get(b, where)])
        rows.append(['the move', 'p, update', 'p', '', hyper('lr'), parts.get('move', 'each parameter')])
        where = '' if len(groups)==len(opt.param_groups) else f", groups {', '.join(map(str, indices))}"
        size_of = f"{plural(len(params), 'tensor')}, {plural(n, 'element')}{where}; state {size(total)}, {total/n:.3g} B for each element"
        own = ', '.join(dict.fromkeys(g['cbs'] for g in groups if 'cbs' in g))
        return rows,f"{size_of}; run: {note}",f'{opt.name}, {own}' if own else opt.name

    def __repr__(self):
        out = []
        for rows,note,name in self.parts:
            out.append(f'{name}: {note}\n{table(columns, rows)}')
        return '\n\n'.join(out)

    def _repr_html_(self):
        cells = lambda tag,row: '<tr>' + ''.join(f'<{tag} style="text-align:left">{escape(c)}</{tag}>' for c in row) + '</tr>'
        html  = lambda rows: cells('th', columns) + ''.join(cells('td', r) for r in rows)
        return ''.join(f'<p><b>{name}</b>: {note}</p><table>{html(rows)}</table>' for rows,note,name in self.parts)

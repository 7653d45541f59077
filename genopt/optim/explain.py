"""`opt.explain()`: the chain as a table, for a terminal and for a notebook."""

from html import escape
from torch import Tensor
from ..contract.chain import learned_of
from ..contract.state import first
from ..run.choose import how
from .tables import plural,size,table

__all__ = ['Explanation', 'plural', 'table']

columns = ['callback', 'reads', 'changes', 'state', 'hypers', 'runs']



def n_bytes(x): return x.numel()*x.element_size() if isinstance(x, Tensor) else 0                # a number on the host takes none

def state_bytes(chain, p):
    "Bytes of each state of `chain` for `p`"
    return {n: n_bytes(first(init, p)) for n,init in chain.state.items()}

def traffic(chain, p):
    "Bytes that a step of `chain` has to move for `p`, however it is run: parameter, gradient and states are read, parameter and states written"
    read,written = {n for b in chain.blocks for n in b.reads},{n for names in learned_of(chain).returns.values() for n in names}
    return 3*n_bytes(p) + sum(v*((n in read)+(n in written)) for n,v in state_bytes(chain, p).items())




class Explanation:
    """One table for each chain of an optimizer: what each callback reads and changes, state and bytes, hypers, how it runs. `state` and `traffic` are
    bytes: of all states, and of what a step has to read and write, without another look at what was in reach"""
    def __init__(self, opt):
        chains,self.state,self.traffic = {},0,0
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
        states = [state_bytes(chain, p) for p in params]
        bytes_ = {k: sum(s[k] for s in states) for k in chain.state}
        total,moved = sum(bytes_.values()),sum(traffic(chain, p) for p in params)
        self.state,self.traffic,rows = self.state+total,self.traffic+moved,[]
        for b in chain.every:
            new = [k for k in b.state if k not in seen]
            seen |= {*new}
            where = 'opt.eval()' if b in chain.evals else learned_of(chain).where.get(b, '')
            rows.append([b.name, ', '.join(k for k in b.reads if k not in values[0]), ', '.join(learned_of(chain).returns.get(b, [])),
                         ', '.join(f"{k}={b.state[k]} {f'{bytes_[k]/n:.3g} B' if bytes_[k] else 'host'}" for k in new),
                         ', '.join(hyper(k) for k in b.reads if k in values[0]), where if where in ('host','opt.eval()') else parts.get(b, where)])
        rows.append(['the move', 'p, update', 'p', '', hyper('lr'), parts.get('move', 'each parameter')])
        where = '' if len(groups)==len(opt.param_groups) else f", groups {', '.join(map(str, indices))}"
        needs = f"state {size(total)}, a step moves {size(moved)}: {total/n:.3g} and {moved/n:.3g} B for each element"
        size_of = f"{plural(len(params), 'tensor')}, {plural(n, 'element')}{where}; {needs}"
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

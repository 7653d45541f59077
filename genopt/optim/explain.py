"""`opt.explain()`: each chain of an optimizer as a table, for a terminal and for a notebook."""

from html import escape
from torch import Tensor
from torch.nn.parameter import is_lazy
from .._torch import quiet
from ..contract.chain import learned_of
from ..run.choose import how,kernels
from ..run.copies import is_far
from .parameters import homes
from .tables import plural,size,table

__all__ = ['Explanation', 'plural', 'table']

columns = ['callback', 'reads', 'changes', 'state', 'hypers', 'runs']


# -- Bytes --

def n_bytes(x):
    "Bytes of a tensor on its device. A number stays on the host and takes none"
    return x.numel()*x.element_size() if isinstance(x, Tensor) else 0

def state_bytes(chain, params):
    "Bytes of each state that `chain` keeps for `params`, by name; of one that grows, at its largest"
    return {n: sum(n_bytes(x) for p in params for x in init.room(n, init.largest(p)).values()) for n,init in chain.state.items()}

def kept_wide(chain, params):
    "Which states stay in float32 although they should be stored in another dtype, and why, in words"
    whys = {(n, why) for n,init in chain.state.items() for p in params if (why := init.why_wide(init.largest(p)))}
    return ''.join(f'; {n!r} stays in float32, because {why}' for n,why in sorted(whys))

def bytes_beside(chain, params):
    "Bytes of what the policy for parameters stores beside `params`, by name"
    res = {}
    for p in params:
        for n,dtype in chain.weights.beside('p', p.dtype).items(): res[n] = res.get(n, 0) + p.numel()*dtype.itemsize
    return res

def traffic(chain, params, states, beside):
    """Bytes that a step of `chain` must read and write. It reads parameters and gradients and writes the parameters, with what is `beside` them; a
    callback that reads a state, or returns a new one, adds the bytes of that state, which are in `states`"""
    read    = {n for b in chain.blocks for n in b.reads}
    written = {n for names in learned_of(chain).returns.values() for n in names}
    moved   = sum(v*((n in read) + (n in written)) for n,v in states.items())
    return moved + 3*sum(map(n_bytes, params)) + 2*sum(beside.values())

def offloaded(groups):
    "The parameters that are on a device while the host keeps their states"
    return [p for g in groups if g.get('offload') for p in g['params'] if not is_lazy(p) and is_far(p)]

def copied(params):
    "Bytes that a step copies between a device and the host: each of `params` and its gradient there, and the new value back. No state is copied"
    return 3*sum(map(n_bytes, params))


# -- Cells --

def hyper(n, hypers):
    "`lr=0.1`, or `lr=0.1 | 0.01` where the groups, of which each has an entry in `hypers`, differ"
    values = [f'{h[n]:g}' if isinstance(h[n], float) else str(h[n]) for h in hypers]
    return f"{n}={' | '.join(dict.fromkeys(values))}"

def runs(b, chain, runs_on):
    "What the callback `b` runs on"
    if b in chain.evals: return 'opt.eval()'
    where = learned_of(chain).where.get(b, '')
    return where if where=='host' else runs_on.get(b, where)

def rows(chain, hypers, states, beside, numel, runs_on):
    """A row for each callback, and one for the move. A state stands in the row of the first callback that declares it, with its bytes for each
    element or, if it is a number, `host`"""
    left = {n: f"{n}={init} {'at most '*init.grows}{f'{states[n]/numel:.3g} B' if states[n] else 'host'}" for n,init in chain.state.items()}
    for b in chain.every:
        reads   = [n for n in b.reads if n not in hypers[0]]
        returns = learned_of(chain).returns.get(b, [])
        new     = [left.pop(n) for n in b.state if n in left]
        values  = [hyper(n, hypers) for n in b.reads if n in hypers[0]]
        yield [b.name, *map(', '.join, (reads, returns, new, values)), runs(b, chain, runs_on)]
    kept = ', '.join(f'{n} {v/numel:.3g} B' for n,v in beside.items())
    yield ['the move', 'p, update', 'p', kept, hyper('lr', hypers), runs_on.get('move', 'each parameter')]


# -- Tables --

class Source(str):
    "Source that is shown as it is"
    __repr__ = str.__str__

class Explanation:
    """One table for each chain of an optimizer: what each callback reads and changes, its state and hyper-parameters, and how it runs.

    `state`: bytes of all states. `traffic`: bytes that a step must read and write, each tensor once. `copied`: bytes that a step copies between
    devices and the host. `parts`: rows, note and name of each table."""
    def __init__(self, opt):
        self.state = self.traffic = self.copied = 0
        self.chains = []                                                # with hyper-parameters and parameters, for `kernel`
        chains = {}
        for i,g in enumerate(opt.param_groups):
            chains.setdefault(opt._recipe(g).chain(g), []).append(i)
        self.parts = [self.part(opt, *o) for o in chains.items()]

    def part(self, opt, chain, indices):
        "The table of `chain`, which runs the groups with these `indices`"
        groups = [opt.param_groups[i] for i in indices]
        params = [p for g in groups for p in g['params'] if not is_lazy(p)]
        hypers = [opt._recipe(g).hypers(g, chain) for g in groups]
        asked  = opt._recipe(groups[0]).settings(groups[0]).asked
        homed  = [p for g in groups for p in homes(g) if not is_lazy(p)]
        method,runs_on = how(chain, hypers[0], homed, asked)
        self.chains.append((chain, hypers[0], params))
        states = state_bytes(chain, params)
        beside = bytes_beside(chain, params)
        total  = sum(states.values()) + sum(beside.values())
        moved  = traffic(chain, params, states, beside)
        self.state   += total
        self.traffic += moved
        n = sum(p.numel() for p in params) or 1
        where = f", group{'s'*(len(indices)>1)} {', '.join(map(str, indices))}" if len(groups)<len(opt.param_groups) else ''
        most  = 'at most '*any(init.grows for init in chain.state.values())
        needs = f"state {most}{size(total)}, a step moves {size(moved)}: {total/n:.3g} and {moved/n:.3g} B for each element{kept_wide(chain, params)}"
        if away := offloaded(groups):
            there = sum(state_bytes(chain, away).values()) + sum(bytes_beside(chain, away).values())
            self.copied += copied(away)
            needs += f"; offload: {size(there)} of the state are on the host, a step copies {size(copied(away))} there and back"
        note  = f"{plural(len(params), 'tensor')}, {plural(n, 'element')}{where}; {needs}; run: {method}"
        own   = dict.fromkeys(g['cbs'] for g in groups if 'cbs' in g)
        return [*rows(chain, hypers, states, beside, n, runs_on)],note,', '.join([opt.name, *own])

    def kernel(self, target='sm_90'):
        """Return the source of the kernels that a GPU would run, with what their compiler says of them: launches, registers, spills, the widths of
        accesses to memory, bytes for each element. It needs Triton, and no GPU.

        `target`: `'sm_80'`, `'sm_90'`, `'sm_100'` or `'gfx942'`. Raises `ValueError` for another, `RuntimeError` without Triton."""
        with quiet(): return Source('\n\n'.join(text for chain in self.chains for text in kernels(*chain, target)))

    def __repr__(self):
        return '\n\n'.join(f'{name}: {note}\n{table(columns, rows)}' for rows,note,name in self.parts)

    def _repr_html_(self):
        def line(tag, cells):
            return '<tr>' + ''.join(f'<{tag} style="text-align:left">{escape(c)}</{tag}>' for c in cells) + '</tr>'
        out = ''
        for rows,note,name in self.parts:
            body = ''.join(line('td', row) for row in rows)
            out += f"<p><b>{name}</b>: {note}</p><table>{line('th', columns)}{body}</table>"
        return out

"""The lines of a formula: the equations of one callback, as TeX."""

from dataclasses import dataclass,field
from .expressions import leaves,loops,operations_in,symbol
from .letters import name_in_tex
from .writing import number,tex

__all__ = ['Line']


@dataclass
class Line:
    """The equations of one callback; `block` is None for the move. An equation has the symbols on its left, and the expression on its right. `names`:
    the names that symbols stand for. `why`: the reason for which the callback is not written out, so that it stands as a function of what it reads;
    None if it is. `conditions`: under which the equations hold; `when` has them as TeX. `matrix`: whether the equations are of a matrix, so that
    products without a sign are products of matrices. `rows`: whether the callback restricts the step to the rows of a sparse gradient"""
    block: object
    equations: list
    names: dict
    why: str = None
    conditions: list = field(default_factory=list)
    matrix: bool = False
    rows: bool = False

    @property
    def when(self) -> list: return [*map(tex, self.conditions)]

    @property
    def name(self): return 'the move' if self.block is None else self.block.name

    @property
    def tex(self) -> list:
        "The equations"
        return [line for pair in self.equations for line in written(*pair)]

    @property
    def operations(self) -> set:
        "The kinds of expression that the equations have, as in `Expression`"
        return {op for left,right in self.equations for op in operations_in(right)}

    @property
    def symbols(self) -> dict:
        "name -> TeX, of what stands in the equations"
        found = [leaf.args[0] for left,right in self.equations for e in (*left, right) for leaf in leaves(e) if leaf.op=='symbol']
        return {self.names[t]: name_in_tex(self.names[t]) for t in found if self.names.get(t) and self.names[t]!='new_p'}

def written(left, right):
    "The lines of an equation: first those of the loops in it"
    for e in loops(right):
        start,count,body,series = e.args
        yield equation((symbol('X_0'),), start)
        for n,(sign,expr) in enumerate(body, 1): yield equation((sign,), expr) + (rf', \quad k = 0, \ldots, {count-1}' if n==len(body) else '')
        for letter,values in series: yield f"{letter} = {', '.join(map(number, values))}"
    yield equation(left, right)

def equation(left, right):
    sign = r'\; \sim \;' if right.op=='draw' else r'\leftarrow' if {*left}&{*leaves(right)} else '='
    return f"{', '.join(map(tex, left))} {sign} {tex(right, 1 if right.op=='compare' else 0)}"

"""Values: a recording is a graph of them. The callback

    def normalized(grad, k=2.): return grad/grad.norm()*k

is recorded as

    grad                  input          ELEMENTS    a number for each element of the parameter
    v2 = norm(grad)       reduction      SINGLE      a number for each parameter
    v3 = div(grad, v2)    elementwise    ELEMENTS
    x0                    scalar         SCALAR      what the scalar program computes, here k
    v5 = mul(v3, x0)      elementwise    ELEMENTS

Two kinds are rarer. CROSS is of all parameters together: the norm of all gradients, or the vector
of which it is the norm. OWN_SHAPE is a tensor whose shape is neither the parameter's nor ()."""

from dataclasses import dataclass, field
import torch

__all__ = [
    'CROSS',
    'ELEMENTS',
    'OWN_SHAPE',
    'SCALAR',
    'SINGLE',
    'Value',
    'aten',
    'in_order',
    'tree_leaves',
    'tree_map',
]

aten = torch.ops.aten
ELEMENTS, SINGLE, CROSS, SCALAR = 'elements', 'single', 'cross', 'scalar'
OWN_SHAPE = 'own shape'


@dataclass(eq=False, repr=False, slots=True)
class Value:
    """What one operation makes. `op` is an operation of aten, or a word: `'input'` of the chain,
    `'constant'` that a callback holds, `'given'` by a call, `'cross_reduction'`. `example` is the stand-in, which has its shape and
    dtype. `block` is the callback that made it.

    `families` sets `family` and `terms`. Of a lerp `weight_below_half` says whether its weight is
    below a half; None if that is not known. Of random numbers `draw` says which draw of the step
    they are; None for all others"""

    op: object
    args: tuple = ()
    kwargs: dict = field(default_factory=dict)
    name: str = None
    kind: str = None
    example: torch.Tensor = None
    block: object = None
    family: object = None
    terms: tuple = ()
    weight_below_half: bool = None
    draw: int = None

    @property
    def dtype(self):
        return self.example.dtype

    @property
    def packet(self):
        "The operation without its overload: `aten.add` for `aten.add.Tensor`"
        return getattr(self.op, 'overloadpacket', self.op)

    @property
    def operands(self):
        "The values that it is made of"
        return [a for a in tree_leaves(self.args, self.kwargs) if isinstance(a, Value)]

    @property
    def is_constant(self):
        return self.op == 'constant'

    @property
    def is_input(self):
        "Whether the chain has it from the start, or a callback holds it"
        return self.op == 'input' or self.is_constant

    @property
    def is_cross_reduction(self):
        return self.op == 'cross_reduction'

    @property
    def in_memory(self):
        "Whether it lies in memory before any operation: the chain or a call gives it"
        return isinstance(self.op, str) and not self.is_cross_reduction

    @property
    def reduces(self):
        "Whether it is a reduction of elements to one number"
        of_elements = any(v.kind == ELEMENTS for v in self.operands)
        return self.kind == SINGLE and of_elements and not self.in_memory

    def __repr__(self):
        if isinstance(self.op, str):
            return f'{self.name}'
        show = lambda a: (a.name or '...') if isinstance(a, Value) else repr(a)
        args = [
            *map(show, self.args),
            *(f'{k}={show(v)}' for k, v in self.kwargs.items()),
        ]
        return f'{self.name} = {self.packet.__name__}({", ".join(args)})'


# -- Nested arguments, and the graph --


def tree_leaves(*trees):
    "The leaves of nested lists, tuples and dicts"
    for tree in trees:
        if isinstance(tree, (list, tuple)):
            yield from tree_leaves(*tree)
        elif isinstance(tree, dict):
            yield from tree_leaves(*tree.values())
        else:
            yield tree


def tree_map(tree, f):
    "The same nesting, with `f` of every leaf"
    if isinstance(tree, (list, tuple)):
        return type(tree)(tree_map(o, f) for o in tree)
    if isinstance(tree, dict):
        return {k: tree_map(v, f) for k, v in tree.items()}
    return f(tree)


def in_order(values, stop=lambda v: False):
    """`values` and all that they are made of, each once and after its operands. Values for which
    `stop` holds are left out, and so is what lies only behind them"""
    ordered, stack = {}, [*reversed([*values])]
    while stack:
        v = stack[-1]
        done = v in ordered or stop(v)
        waiting = (
            [] if done else [o for o in v.operands if o not in ordered and not stop(o)]
        )
        stack += reversed(waiting)
        if not waiting:
            stack.pop()
            if not done:
                ordered[v] = True
    return [*ordered]

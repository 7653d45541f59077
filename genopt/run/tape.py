"""A callback on a stack of parameters, or on one, as a list of its operations. `vmap` finds these anew
in each step, which takes longer than the arithmetic on small matrices. So a `Tape` writes them down
once, as a Python function of the tensors that the callback reads. The numbers that it read are
constants there. grad - grad.mean(-1, keepdim=True), for instance, becomes

    def run(a0):
        t1 = c0(a0, [2], True)         # c0: aten.mean.dim
        t2 = c1(a0, t1)                # c1: aten.sub.Tensor
        del t1
        return [t2]

Views that change nothing, of which `vmap` makes many, are left out, and so is what nobody reads."""

import weakref
from dataclasses import dataclass
import torch
from torch import Tensor
from .._torch import TorchDispatchMode
from ..lower.values import tree_leaves

__all__ = ['Tape']


class Tape(TorchDispatchMode):
    """Records the operations of the `with` block. `inputs`: the tensors that it reads, called `a0`,
    `a1` ... `names`: of tensors, by id, as long as they live: the tape keeps none of them. `bound`:
    constants by name"""

    _should_skip_dynamo = classmethod(lambda cls: False)

    def __init__(self, inputs):
        super().__init__()
        self.n_inputs = len(inputs)
        self.names, self.references = {}, {}
        for i, x in enumerate(inputs):
            self.call(x, f'a{i}')
        self.n_made = 0
        self.lines, self.bound = [], {}

    def call(self, x, name):
        "Let the tensor `x` have this name until it is freed"
        key, names = id(x), self.names
        names[key] = name
        self.references[key] = weakref.ref(x, lambda _: names.pop(key, None))

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        given = [x for x in tree_leaves(args, kwargs) if isinstance(x, Tensor)]
        if same_view(func, out, given):
            self.call(out, self.text(given[0]))
            return out
        texts = [
            *map(self.text, args),
            *(f'{k}={self.text(v)}' for k, v in kwargs.items()),
        ]
        reads = {self.text(x) for x in given}
        target = self.target(out, given)
        makes = {self.names[id(x)] for x in tree_leaves(out) if isinstance(x, Tensor)}
        text = f'{target} = {self.bind(func)}({", ".join(texts)})'
        self.lines.append(Line(text, reads, makes, acts(func)))
        return out

    def target(self, out, given):
        "The left side of the line that makes `out` of the tensors `given`"
        if isinstance(out, (tuple, list)):
            return f'[{", ".join(self.target(x, given) for x in out)}]'
        if not isinstance(out, Tensor):
            return '_'
        if not any(out is x for x in given):  # else it is written in place
            self.n_made += 1
            self.call(out, f't{self.n_made}')
        return self.text(out)

    def bind(self, value):
        "A name for a constant"
        name = f'c{len(self.bound)}'
        self.bound[name] = value
        return name

    def text(self, a):
        "The operand `a`"
        if isinstance(a, Tensor):
            if id(a) not in self.names:  # a tensor of the callback's own
                self.call(a, self.bind(a))
            return self.names[id(a)]
        if isinstance(a, (list, tuple)):
            return f'[{", ".join(map(self.text, a))}]'
        return repr(a) if isinstance(a, (bool, int, type(None))) else self.bind(a)

    def function(self, outputs):
        """What has been recorded, as a function of tensors like `inputs` that returns what
        corresponds to `outputs`. It forgets each tensor after its last use"""
        results = [*map(self.text, outputs)]
        lines = lines_of_use(self.lines, results)
        last = {n: i for i, line in enumerate(lines) for n in line.reads | line.makes}
        body = []
        for i, line in enumerate(lines):
            body.append(line.text)
            used = line.reads | line.makes
            gone = sorted(n for n in used if last[n] == i and n[0] == 't')
            gone = [n for n in gone if n not in results]
            if gone:
                body.append(f'del {", ".join(gone)}')
        body.append(f'return [{", ".join(results)}]')
        source = ''.join(f'    {line}\n' for line in body)
        arguments = ', '.join(f'a{i}' for i in range(self.n_inputs))
        scope = dict(self.bound)
        exec(f'def run({arguments}):\n{source}', scope)
        return scope['run']


@dataclass(frozen=True)
class Line:
    "A line of the function: the names that it `reads` and `makes`. `acts`: it is kept even if nobody reads what it makes"

    text: str
    reads: set
    makes: set
    acts: bool


def acts(func):
    "Whether `func` does more than it returns: it writes into a tensor, or draws random numbers"
    return func._schema.is_mutable or torch.Tag.nondeterministic_seeded in func.tags


def same_view(func, out, given):
    "Whether `out` is the first of the tensors `given` once more"
    if not isinstance(out, Tensor) or not given or func._schema.is_mutable:
        return False
    x = given[0]
    return (
        (out.layout, out.dtype, out.device) == (x.layout, x.dtype, x.device)
        and out.layout == torch.strided
        and (out.shape, out.stride()) == (x.shape, x.stride())
        and out.storage_offset() == x.storage_offset()
        and out.untyped_storage().data_ptr() == x.untyped_storage().data_ptr() != 0
        and (out.is_conj(), out.is_neg()) == (x.is_conj(), x.is_neg())
    )


def lines_of_use(lines, results):
    "Those of `lines` that act, or make what a later one reads or what is among `results`"
    needed, kept = {*results}, []
    for line in reversed(lines):
        if line.acts or line.makes & needed:
            needed |= line.reads
            kept.append(line)
    return kept[::-1]

"""A callback on a stack of parameters, as the operations that it comes to. `vmap` finds these anew
in each step, which takes longer than the arithmetic on small matrices. So a `Tape` writes them down
once, as a Python function of the tensors that the callback reads. The numbers that it read are
constants there. grad - grad.mean(-1, keepdim=True), for instance, becomes

    def run(a0):
        t1 = c0(a0, [2], True)         # c0: aten.mean.dim
        t2 = c1(a0, t1)                # c1: aten.sub.Tensor
        del t1
        return [t2]"""

from torch import Tensor
from .._torch import TorchDispatchMode
from ..lower.values import tree_leaves

__all__ = ['Tape']


class Tape(TorchDispatchMode):
    """Records the operations of the `with` block. `inputs`: the tensors that it reads, called `a0`,
    `a1` ... `lines`: each operation, and the tensors that it reads. `bound`: constants by name"""

    _should_skip_dynamo = classmethod(lambda cls: False)

    def __init__(self, inputs):
        super().__init__()
        self.inputs = inputs
        self.names = {id(x): f'a{i}' for i, x in enumerate(inputs)}
        self.alive = [*inputs]  # so that ids stay theirs
        self.lines, self.bound = [], {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        given = [
            *map(self.text, args),
            *(f'{k}={self.text(v)}' for k, v in kwargs.items()),
        ]
        out = func(*args, **kwargs)
        line = f'{self.target(out)} = {self.bind(func)}({", ".join(given)})'
        self.lines.append(
            (line, [x for x in tree_leaves(args, kwargs) if isinstance(x, Tensor)])
        )
        return out

    def target(self, out):
        "The left side of the line that makes `out`"
        if isinstance(out, (tuple, list)):
            return f'[{", ".join(map(self.target, out))}]'
        if isinstance(out, Tensor) and id(out) not in self.names:
            self.names[id(out)] = f't{len(self.names)}'
        self.alive.append(out)
        return self.names[id(out)] if isinstance(out, Tensor) else '_'

    def bind(self, value):
        "A name for a constant"
        name = f'c{len(self.bound)}'
        self.bound[name] = value
        return name

    def text(self, a):
        "The operand `a`"
        if isinstance(a, Tensor):
            if id(a) not in self.names:  # a tensor of the callback's own
                self.names[id(a)] = self.bind(a)
            return self.names[id(a)]
        if isinstance(a, (list, tuple)):
            return f'[{", ".join(map(self.text, a))}]'
        return repr(a) if isinstance(a, (bool, int, type(None))) else self.bind(a)

    def function(self, outputs):
        """What has been recorded, as a function of tensors like `inputs` that returns what
        corresponds to `outputs`. It forgets each tensor after its last use"""
        last = {
            self.names[id(x)]: i for i, (_, xs) in enumerate(self.lines) for x in xs
        }
        kept = {*map(self.text, outputs)}
        body = []
        for i, (line, _) in enumerate(self.lines):
            body.append(line)
            gone = [
                n for n, j in last.items() if j == i and n[0] == 't' and n not in kept
            ]
            if gone:
                body.append(f'del {", ".join(gone)}')
        body.append(f'return [{", ".join(map(self.text, outputs))}]')
        source = ''.join(f'    {line}\n' for line in body)
        arguments = ', '.join(f'a{i}' for i in range(len(self.inputs)))
        scope = dict(self.bound)
        exec(f'def run({arguments}):\n{source}', scope)
        self.alive.clear()
        return scope['run']

"""A callback on a stack of parameters, as the operations that it came to. `vmap` finds these anew at every step, which takes longer than small
matrices do. So they are written down once, as a Python function of what the callback reads; the numbers that it read are constants in it."""

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from ..lower.record import leaves

__all__ = ['Tape']


class Tape(TorchDispatchMode):
    """Records the operations of the block. `inputs`: the tensors that it reads. `function(outputs)` then is the function of such tensors that returns
    what corresponds to `outputs`"""

    _should_skip_dynamo = classmethod(lambda cls: False)

    def __init__(self, inputs):
        super().__init__()
        self.inputs = inputs
        self.names = {id(x): f'a{i}' for i, x in enumerate(inputs)}
        self.alive = [*inputs]  # so that ids stay theirs
        self.lines, self.bound = [], {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        given = [*map(self.text, args), *(f'{k}={self.text(v)}' for k, v in kwargs.items())]
        out = func(*args, **kwargs)
        self.lines.append(
            (
                f'{self.target(out)} = {self.bind(func)}({", ".join(given)})',
                [x for x in leaves(args, kwargs) if isinstance(x, Tensor)],
            )
        )
        return out

    def target(self, out):
        if isinstance(out, (tuple, list)):
            return f'[{", ".join(map(self.target, out))}]'
        if isinstance(out, Tensor) and id(out) not in self.names:
            self.names[id(out)] = f't{len(self.names)}'
        self.alive.append(out)
        return self.names[id(out)] if isinstance(out, Tensor) else '_'

    def bind(self, value):
        name = f'c{len(self.bound)}'
        self.bound[name] = value
        return name

    def text(self, a):
        if isinstance(a, Tensor):
            return self.names.get(id(a)) or self.names.setdefault(
                id(a), self.bind(a)
            )  # a tensor of the callback's own
        if isinstance(a, (list, tuple)):
            return f'[{", ".join(map(self.text, a))}]'
        return repr(a) if isinstance(a, (bool, int, type(None))) else self.bind(a)

    def function(self, outputs):
        "Forgets each tensor after its last use"
        last = {self.names[id(x)]: i for i, (_, xs) in enumerate(self.lines) for x in xs}
        kept = {*map(self.text, outputs)}
        body = []
        for i, (line, _) in enumerate(self.lines):
            body.append(line)
            gone = [n for n, j in last.items() if j == i and n[0] == 't' and n not in kept]
            if gone:
                body.append(f'del {", ".join(gone)}')
        source = '\n'.join(
            f'    {line}' for line in [*body, f'return [{", ".join(map(self.text, outputs))}]']
        )
        exec(
            f'def run({", ".join(f"a{i}" for i in range(len(self.inputs)))}):\n{source}\n',
            scope := dict(self.bound),
        )
        self.alive.clear()
        return scope['run']

"""States in codes, in Triton: the functions of a `Code`, written from what `lower.codes` has recorded
of them. A row of a tile is a block, and its scale a row of one element. For `int8`, shortened:

    @jit
    def decode_0(q, scale): ...
    @jit
    def scale_0(x):
        v2 = tl.abs(x)
        v3 = row_max(v2)
        ...
    @jit
    def nearest_0(x, scale): ...
    @jit
    def at_random_0(x, scale, noise): ..."""

import torch
from ..lower.codes import recorded_code
from ..lower.operations import reduction, write
from ..lower.values import SCALAR
from .names import as_operand
from .triton import Triton

__all__ = ['TritonCode']

single = Triton(torch.float32)
rows = {'+': 'row_add', 'max': 'row_max', 'min': 'row_min'}


class TritonCode:
    "Writes the functions of `code`, which is the `number`-th of its kernel"

    def __init__(self, code, number):
        self.code, self.number = code, number

    def source(self, used):
        "The functions whose names are in the text `used`"
        recorded, stored = recorded_code(self.code), single.types[self.code.dtype]
        lines = []
        for kind, f, dtype in (
            ('decode', recorded.decode, None),
            ('scale', recorded.scales, None),
            ('nearest', recorded.nearest, stored),
            ('at_random', recorded.at_random, stored),
        ):
            head = f'{kind}_{self.number}({", ".join(v.name for v in f.inputs)})'
            if head.partition('(')[0] + '(' in used:
                out = self.as_code(name(f.out), dtype) if dtype else name(f.out)
                body = [*map(self.define, f.values), f'return {out}']
                lines += ['@jit', f'def {head}:', *(f'    {x}' for x in body), '']
        return [f'# code {self.number}: {self.code}', *lines] if lines else []

    def as_code(self, q, dtype):
        "The code that the whole number `q` comes to"
        low, high = self.code.limits
        code = f'tl.where(tl.abs({q}) < 1073741824.0, {q}, 0.0).to(tl.int32)'
        return f'tl.minimum(tl.maximum({code}, {low}), {high}).to({dtype})'

    def define(self, v):
        if not v.reduces:
            return single.let(v.name, write(v, single, text, torch.float32))
        red = reduction(v)
        element = red.element(single, *(text(o, torch.float32) for o in v.operands))
        end = red.end(single, f'{rows[red.sign]}({element})', f'{self.code.block}.0')
        return single.let(v.name, end)

    def load(self, q, scale):
        "The element that the code `q` stands for"
        return f'decode_{self.number}({q}.to(tl.float32), {scale})'

    def scale(self, x):
        return f'scale_{self.number}({x})'

    def store(self, x, scale, noise):
        "The codes of `x`; at random if there is `noise`"
        if noise:
            return f'at_random_{self.number}({x}, {scale}, {noise})'
        return f'nearest_{self.number}({x}, {scale})'


def name(v):
    if v.kind == SCALAR:
        return single.constant(v.example.item(), v.dtype)
    return v.name


def text(v, dtype):
    return as_operand(single, v, name(v), dtype)

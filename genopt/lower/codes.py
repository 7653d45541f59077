"""Recording of codes: what the functions of a `Code` do to a block, as values. The code

    Code('linear', lambda x: x.abs().amax(-1), lambda x, scale: x/scale*127, lambda code, scale: ...)

rounded to the nearest, is recorded as

    x, scale                                         inputs: ELEMENTS, SINGLE
    v2 = div(x, scale)                               ELEMENTS
    v3 = mul(v2, 127)
    v4 = round(v3)
    ...

A block is a row of elements, as a parameter is in the recording of a chain. So operations, and what
the kernels can write of them, are the same. What differs: a reduction may name the last dimension."""

from dataclasses import dataclass
from functools import lru_cache
import torch
from ..contract.stand_ins import set_apart
from .kinds import reductions
from .operations import can_write_bits
from .reasons import LacksOperation, NotRecorded, Why
from .recorder import Recorder
from .scalars import ScalarRecorder
from .values import ELEMENTS, SCALAR, SINGLE, in_order

__all__ = ['RecordedCode', 'RecordedFunction', 'recorded_code']


@dataclass(frozen=True, eq=False)
class RecordedFunction:
    """A function of a code as values. `inputs`: those that it is given; `values`: what it computes,
    in order; `out`: the last of them, or an input"""

    inputs: tuple
    values: tuple
    out: object


@dataclass(frozen=True, eq=False)
class RecordedCode:
    """The functions of `code` that run in a kernel: `scales` of a block `x`; the codes of `x` with a
    `scale`, `nearest` and `at_random`, as whole numbers; and `decode` of codes `q`"""

    code: object
    scales: RecordedFunction
    nearest: RecordedFunction
    at_random: RecordedFunction
    decode: RecordedFunction


@lru_cache(1000)
def recorded_code(code):
    "The `RecordedCode` of `code`; or a `Why`, which names an operation that no kernel can do"
    x, scale, q = example(code), example(code)[0], example(code).round()
    functions = dict(
        scales=(code.scales, dict(x=x)),
        nearest=(code.nearest, dict(x=x, scale=scale)),
        at_random=(code.at_random, dict(x=x, scale=scale, noise=example(code))),
        decode=(code.decode, dict(q=q, scale=scale)),
    )
    try:
        found = {n: record(f, given) for n, (f, given) in functions.items()}
        for n in ('nearest', 'at_random', 'decode'):
            check_elementwise(found[n])
    except NotRecorded as e:
        return Why.of(f'the code {code.name!r}', e)
    return RecordedCode(code, **found)


def example(code):
    "A row like a block"
    return torch.linspace(0.5, 1, code.block, device='cpu')


def record(function, given):
    "Record `function`, called with the tensors `given` by name"
    size = given.get('x', given.get('q')).numel()
    recorder = BlockRecorder(size)
    inputs = [recorder.input(n, x, None) for n, x in given.items()]
    with set_apart(torch.device('cpu')), recorder.recording(None):
        try:
            y = function(*given.values())
        except NotRecorded:
            raise
        except Exception as e:
            raise NotRecorded(f"fails on one block: {type(e).__name__}: {e}") from e
    out = recorder.value(y)
    values = in_order([out], stop=lambda v: v.is_input)
    for v in values:
        if v.kind not in (ELEMENTS, SINGLE) or not can_write_bits(v):
            raise LacksOperation(v.op)
    return RecordedFunction(tuple(inputs), tuple(values), out)


class BlockRecorder(Recorder):
    "Records functions of blocks, which are rows of `size` elements here"

    def __init__(self, size):
        scalars = ScalarRecorder(torch.float32, torch.device('cpu'))
        super().__init__(scalars, [size], 2, can_write_bits)

    def dispatch(self, func, args, kwargs):
        "The last of two dimensions is all that a row has, and it need not be kept"
        if func.overloadpacket in reductions:
            names = [a.name for a in func._schema.arguments]
            args = tuple(map(of_row, names, args))
            kwargs = {n: of_row(n, v) for n, v in kwargs.items()}
        return super().dispatch(func, args, kwargs)


def of_row(name, v):
    "The argument `v` of a reduction of blocks, for one row"
    if name == 'dim' and v in ([-1], [1]):
        return []
    return False if name == 'keepdim' else v


def check_elementwise(function):
    "Refuse reductions: only the scale may see all elements of a block"
    for v in function.values:
        if v.reduces:
            name = v.packet.__name__
            raise NotRecorded(f"calls {name} on a block, which scale alone may do")
    if function.out.kind not in (ELEMENTS, SCALAR):
        raise NotRecorded("makes one number of a block")

"""Why a callback cannot be recorded, in words for the user.

The recorders raise `NotRecorded`. `ChainRecorder` knows which callback runs, and makes a `Why` of the
error. Everybody else reads the `Why`. The text of a reason continues a sentence that begins with the
callback's name."""

from dataclasses import dataclass

__all__ = [
    'LacksOperation',
    'MustBeCalled',
    'NeedsShape',
    'NotRecorded',
    'Why',
    'by_counter',
    'by_float',
    'by_sizes',
    'by_value',
    'plain_number_only',
]


class NotRecorded(ValueError):
    "A callback does what cannot be written down as operations on tensors"


class NeedsShape(NotRecorded):
    "A callback needs the tensor in its own shape: a row of elements does not do"


class LacksOperation(NotRecorded):
    "A callback does the operation `func` of aten, which the backend cannot do"

    def __init__(self, func):
        name = func.overloadpacket.__name__
        super().__init__(f"calls {name}, which genopt cannot compile")


class MustBeCalled(Exception):
    """A callback without tensors needs a number itself, perhaps for an `if`. The scalar program
    cannot hold its arithmetic, so the program calls it"""


@dataclass(frozen=True)
class Why:
    """Why a callback is not run as part of a launch. `callback`: its name; `lacks_operation`: the
    reason is an operation that the backend cannot do"""

    callback: str
    reason: str
    lacks_operation: bool = False

    @classmethod
    def of(cls, callback, error):
        "Because of the `NotRecorded` that recording `callback` has raised"
        return cls(str(callback), str(error), isinstance(error, LacksOperation))

    def __str__(self):
        return f'{self.callback} {self.reason}'


plain_number_only = (
    "passes a hyper-parameter to an argument of a torch function that takes plain numbers only; "
    "use operators"
)
by_value = (
    "reads a value of a tensor on the host, by item(), if, min or max; use torch.where"
)
by_counter = (
    "branches on a number, which capturable=True keeps on the device; use genopt.where"
)
by_float = (
    "converts a hyper-parameter with float() or a function of math, which would fix its value; "
    "use operators, or compute the number in a callback that reads no tensors"
)
by_sizes = (
    "multiplies a hyper-parameter by a number made of sizes; multiply the tensor first: "
    "(update*scale)*(m/n)**.5, not update*(scale*(m/n)**.5)"
)

"""Why a callback cannot be recorded, in words for the user.

The recorders raise `NotRecorded` and `NeedsShape`. `lower` catches both: whoever reads a program
finds their text in a `Why`. Each text continues a sentence that begins with the callback's name."""

__all__ = [
    'MustBeCalled',
    'NeedsShape',
    'NotRecorded',
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


class MustBeCalled(Exception):
    """A callback without tensors needs a number itself, perhaps for an `if`. The scalar program
    cannot hold its arithmetic, so the program calls it"""


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

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
    "gives a hyper-parameter to an argument of torch that takes plain numbers only; "
    "write it with operators"
)
by_value = (
    "takes a value out of a tensor: item(), or an if, min or max on what a tensor holds; "
    "use torch.where"
)
by_counter = "decides by the value of a number, which capturable=True keeps on the device; use genopt.where"
by_float = (
    "takes a hyper-parameter through float() or a function of math, which would fix it; "
    "use operators, or a callback without tensors"
)
by_sizes = (
    "computes with a hyper-parameter and a number made of sizes; bring the tensor in first: "
    "(update*scale)*(m/n)**.5, not update*(scale*(m/n)**.5)"
)

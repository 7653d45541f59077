"""Why a callback cannot be taken as a graph of operations, in words for the user. The recorder raises these inside `lower`; they never leave it:
what remains of them outside is a `Why` in the program."""

__all__ = ['NeedsShape', 'NotRecorded', 'by_value', 'no_looking', 'plain_number_only']


class NotRecorded(ValueError):
    "A callback does what cannot be written down as operations on tensors"


class NeedsShape(NotRecorded):
    "A callback does what cannot be done to a row of elements: it needs the tensor in its own shape"


plain_number_only = "gives a hyper-parameter to an argument of torch that takes plain numbers only; write it with operators"
by_value = "takes a value out of a tensor: item(), or an if, min or max on what a tensor holds; use torch.where"
no_looking = (
    "decides by the value of a number, which capturable=True keeps on the device; use genopt.where"
)

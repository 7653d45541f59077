"""What a callback may ask of a tensor while it is recorded. A row of elements stands for a
parameter, and random numbers for what it holds. So a question for the number of dimensions gets
the parameter's; a question for its shape, or for a value, is refused."""

from torch.overrides import TorchFunctionMode
from .reasons import NeedsShape, NotRecorded, by_counter
from .traced import FactorMode

__all__ = ['NoValueMode', 'QuestionMode']

rank_questions = {'ndim', 'dim', 'ndimension'}
shape_questions = {
    'shape',
    'size',
    'numel',
    'nelement',
    'stride',
    '__len__',
    'storage_offset',
    'nbytes',
    'T',
    'mT',
    'H',
    'mH',
}
memory_questions = {'tolist', 'numpy', '__array__', '__dlpack__', 'data_ptr'}
value_questions = {'item', '__bool__', '__float__', '__int__', '__index__'}
products = {'matmul', '__matmul__', '__rmatmul__'}


class NoValueMode(TorchFunctionMode):
    "Refuses every question for a value. With `capturable=True` numbers are on the device"

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if getattr(func, '__name__', '') in memory_questions | value_questions:
            raise NotRecorded(by_counter)
        return func(*args, **(kwargs or {}))


class QuestionMode(FactorMode):
    """Answers or refuses the questions of a callback. `value_questions` are not for this mode:
    these reach the recorder as an operation, which knows whether the tensor stands for a number"""

    def __init__(self, recorder):
        super().__init__()
        self.recorder = recorder

    def __torch_function__(self, func, types, args=(), kwargs=None):
        name = asked(func)
        if name in rank_questions:
            return self.recorder.rank_of(args[0])
        if name in shape_questions:
            raise NeedsShape(f"asks for the {name.strip('_')} of a tensor")
        if name in memory_questions:
            raise NotRecorded(f"reads the values of a tensor on the host ({name})")
        if (
            takes_matrices(name, args, kwargs or {})
            and self.recorder.rank_of(args[0]) != 1
        ):
            raise NeedsShape(f"calls {name}, which does something else with a matrix")
        return super().__torch_function__(func, types, args, kwargs)


def takes_matrices(name, args, kwargs):
    "Whether the function is one of all elements for a row, and something else for a matrix"
    if name == 'linalg_norm':  # of a matrix `ord=2` is its largest singular value
        order = kwargs.get('ord', args[1] if len(args) > 1 else None)
        return order is not None and kwargs.get('dim') is None and len(args) < 3
    return name in products


def asked(func):
    "The name of a method; of an attribute, which torch passes on as the `__get__` of a property"
    name = getattr(func, '__name__', '')
    return getattr(func.__self__, '__name__', '') if name == '__get__' else name

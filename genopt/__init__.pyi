# Written by `python -m genopt.tools.stubs`
"""A generic, callback-driven optimizer for PyTorch: write an update rule once, in plain PyTorch, for one parameter.

`genopt.blocks` has the callbacks that algorithms are made of, `genopt.fastai` fastai's optimizers under fastai's names."""

from . import (
    algorithms as algorithms, blocks as blocks,
)
from .algorithms import *
from .algorithms import (
    list_algorithms as list_algorithms,
)
from .by_name import (
    make as make,
)
from .checkpoint import (
    load_checkpoint as load_checkpoint, save_checkpoint as save_checkpoint,
)
from .contract import (
    Code as Code, Init as Init, Range as Range, copy_of_p as copy_of_p, count as count, exact as exact, fraction as fraction, full as full,
    history as history, kept as kept, maximum as maximum, minimum as minimum, nonneg as nonneg, ones as ones, positive as positive, rename as rename,
    scalar as scalar, scalar_tensor as scalar_tensor, where as where, zeros as zeros,
)
from .optim import (
    Optimizer as Optimizer, algorithm as algorithm, groups as groups, matrices as matrices, release_gradients as release_gradients,
)

__version__: str

__all__ = [
    'Code', 'Init', 'Optimizer', 'Range', 'algorithm', 'copy_of_p', 'count', 'exact', 'fraction', 'full', 'groups', 'history', 'kept',
    'list_algorithms', 'load_checkpoint', 'make', 'matrices', 'maximum', 'minimum', 'nonneg', 'ones', 'positive', 'release_gradients', 'rename',
    'save_checkpoint', 'scalar', 'scalar_tensor', 'where', 'zeros',
]
__all__ += algorithms.__all__

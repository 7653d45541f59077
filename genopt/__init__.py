"""A generic, callback-driven optimizer for PyTorch: write an update rule once, in plain PyTorch, for one parameter.

`genopt.blocks` has the callbacks that algorithms are made of, `genopt.fastai` fastai's optimizers under fastai's names."""

from importlib.metadata import PackageNotFoundError,version as version_of
from . import _moved,algorithms,blocks
from .algorithms import *
from .algorithms import list_algorithms
from .by_name import make
from .checkpoint import load_checkpoint,save_checkpoint
from .contract import (Code,Init,Range,copy_of_p,count,exact,fraction,full,history,kept,maximum,minimum,nonneg,ones,positive,rename,scalar,
                       scalar_tensor,where,zeros)
from .optim import Optimizer,algorithm,groups,matrices,release_gradients

try: __version__ = version_of('genopt')                   # settings.ini has it
except PackageNotFoundError: __version__ = '0+source'     # run from a source tree that is not installed

__all__ = ['Code', 'Init', 'Optimizer', 'Range', 'algorithm', 'copy_of_p', 'count', 'exact', 'fraction', 'full', 'groups', 'history', 'kept',
           'list_algorithms', 'load_checkpoint', 'make', 'matrices', 'maximum', 'minimum', 'nonneg', 'ones', 'positive', 'release_gradients',
           'rename', 'save_checkpoint', 'scalar', 'scalar_tensor', 'where', 'zeros', *algorithms.__all__]

def __getattr__(name): return _moved.attribute(name)
def __dir__(): return [*__all__, 'algorithms', 'blocks', '__version__']

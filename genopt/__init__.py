"""A generic, callback-driven optimizer for PyTorch: write an update rule once, in plain PyTorch, for one parameter."""

__version__ = '0.1.0'

from . import stats,steps,transforms
from .core import *
from .stats import *
from .steps import *
from .transforms import *
from .hypers import *
from .optimizer import *
from .algorithms import *

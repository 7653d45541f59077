"""A generic, callback-driven optimizer for PyTorch: write an update rule once, in plain PyTorch, for one parameter."""

from importlib.metadata import PackageNotFoundError,version
try: __version__ = version('genopt')                      # settings.ini has it
except PackageNotFoundError: __version__ = '0+source'     # run from a source tree that is not installed

from .blocks import evaluations,matrices,moves,rates,stats,steps,transforms
from .core import *
from .naming import *
from .blocks import *
from .hypers import *
from .optimizer import *
from .save import *
from .algorithms import *
from .rules import *

del PackageNotFoundError,version

"""Algorithms, each a short list of blocks, by family; in each from simple to complex. `__all__` is the catalogue."""

from fnmatch import fnmatch
from . import adaptive,averaged,layerwise,low_memory,matrix,momentum,rate_free,reevaluating
from .momentum import *
from .adaptive import *
from .layerwise import *
from .low_memory import *
from .matrix import *
from .rate_free import *
from .averaged import *
from .reevaluating import *

families = momentum,adaptive,layerwise,low_memory,matrix,rate_free,averaged,reevaluating
__all__ = [n for f in families for n in f.__all__]

def list_algorithms(pattern: str = '*') -> list[str]:
    "Names of the algorithms that match `pattern`, with `*` and `?` as in file names, in capitals or not: `list_algorithms('*adam*')`"
    return sorted(n for n in __all__ if fnmatch(n.lower(), pattern.lower()))

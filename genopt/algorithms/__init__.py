"""Algorithms, each a short list of blocks, by family; in each from simple to complex. `__all__` is the catalogue."""

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

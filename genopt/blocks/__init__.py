"""The blocks that algorithms are made of. Each is a callback: a function for one parameter, with the formula of a paper.

- `stats`: what an algorithm remembers of the gradients
- `steps`: formulas of the update
- `transforms`: changes of a gradient, an update, a rate or a parameter
- `moves`: what follows the move `p <- p - lr*u`, or makes it
- `matrices`: formulas that take a parameter as a matrix
- `rates`: estimates of the learning rate
- `evaluations`: blocks that evaluate the model again, or ask for its curvature"""

import sys
from functools import partial
from . import _renamed,evaluations,matrices,moves,rates,stats,steps,transforms
from .stats import *
from .steps import *
from .transforms import *
from .moves import *
from .matrices import *
from .rates import *
from .evaluations import *

modules = stats,steps,transforms,moves,matrices,rates,evaluations
__all__ = [n for m in modules for n in m.__all__]

for _m in (sys.modules[__name__], *modules): _m.__getattr__ = partial(_renamed.attribute, _m)       # old names

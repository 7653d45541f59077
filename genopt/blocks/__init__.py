"""The blocks that algorithms are made of: what is remembered of gradients (`stats`), which way to go (`steps`), what changes a gradient, an
update or a parameter (`transforms`), what surrounds the move (`moves`), what takes a parameter as a matrix (`matrices`), what
estimates a learning rate (`rates`), what asks the model again (`evaluations`)."""

from . import evaluations,matrices,moves,rates,stats,steps,transforms
from .stats import *
from .steps import *
from .transforms import *
from .moves import *
from .matrices import *
from .rates import *
from .evaluations import *

modules = stats,steps,transforms,moves,matrices,rates,evaluations
__all__ = [n for m in modules for n in m.__all__]

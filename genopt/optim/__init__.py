"""The optimizer: parameter groups, hyper-parameters, state dicts, and what a user looks at."""

from .algorithm import *
from .hypers import *
from .optimizer import *
from .release import *
from .rules import *

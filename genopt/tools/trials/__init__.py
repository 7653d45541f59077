"""`genopt trials`: a pass and fail matrix of optimizers over small tasks, each of which isolates one difficulty."""

from .drawing import page,plot,report
from .matrix import trials

__all__ = ['page', 'plot', 'report', 'trials']

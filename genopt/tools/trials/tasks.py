"All tasks, by family; in each from simple to complex."

from . import curvature
from .task import Task

__all__ = ['families', 'tasks']


modules  = curvature,
families = {m.__name__.rpartition('.')[2]: {n: getattr(m, n) for n in m.__all__} for m in modules}
tasks: dict[str,Task] = {n: t for members in families.values() for n,t in members.items()}

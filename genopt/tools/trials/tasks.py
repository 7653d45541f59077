"All tasks, by family; in each from simple to complex."

from . import chains,curvature,games,landscape,learning,moving,noisy,precision
from .task import Task

__all__ = ['families', 'tasks']


modules  = curvature,landscape,chains,noisy,moving,games,precision,learning
families = {m.__name__.rpartition('.')[2]: {n: getattr(m, n) for n in m.__all__} for m in modules}
tasks: dict[str,Task] = {n: t for members in families.values() for n,t in members.items()}

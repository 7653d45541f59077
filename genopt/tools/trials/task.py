"""What a task is. A task isolates one difficulty in several degrees, and each degree is a `Problem`.

All runs of a problem lie side by side: a parameter of shape (n,) is a tensor (runs, n) for `loss` and `error`, which return a number for each run.
So one evaluation serves all rates and seeds."""

import ast,hashlib,inspect
from collections.abc import Callable
from dataclasses import dataclass
import torch

__all__ = ['Problem', 'Task', 'alternating', 'away_from', 'distance', 'fixed', 'logspace', 'noise', 'random_signs', 'rms', 'rotation', 'task']


@dataclass
class Problem:
    """A function to minimize. `start(rand)` returns the parameters from which a seed starts, a list of tensors. `loss(*xs)` returns what the
    optimizer sees, and `error(*xs)`, by default `loss`, what is judged: a run passes if it is at most `threshold` at `hold` checks in a row.
    `noise(rand, steps)`, where there is one, returns what changes from step to step, a tensor (steps, ...); `loss` and `error` then get `z`
    (runs, ...). `delay` counts the steps by which gradients come late."""
    start: Callable
    loss: Callable
    threshold: float
    error: Callable|None = None
    noise: Callable|None = None
    delay: int = 0
    hold: int = 2

@dataclass
class Task:
    """One difficulty. `make(degree)` returns the `Problem` for each of `degrees`, from easy to hard. `steps` is the budget: how often the gradient
    may be evaluated. `basis` says where the thresholds come from."""
    make: Callable
    degrees: tuple
    steps: int
    basis: str

    @property
    def name(self): return self.make.__name__
    @property
    def title(self): return self.name.replace('_', ' ')
    @property
    def reason(self): return inspect.getdoc(self.make)
    @property
    def fingerprint(self):
        "A value that changes with the code of the task, which tells results of another task of the same name apart. Words and layout do not count"
        function, = ast.parse(inspect.getsource(self.make)).body
        del function.body[0]                                        # the docstring
        for call in function.decorator_list:
            call.keywords = [k for k in call.keywords if k.arg!='basis']
        return hashlib.sha256(ast.unparse(function).encode()).hexdigest()[:12]

def task(degrees, steps, basis):
    "Make a `Task` of the function that returns its problems"
    return lambda make: Task(make, degrees, steps, basis)


# -- What many tasks share --

def fixed(seed: int=0):
    "A generator for what is the same for all seeds. What a start might equal takes a `seed` above those of the runs"
    return torch.Generator().manual_seed(seed)

def logspace(ratio, n):
    "`n` numbers around 1, whose largest is `ratio` times the smallest"
    return torch.logspace(-.5, .5, n, base=ratio, dtype=torch.float64)

def rotation(n, seed=0):
    "A fixed orthogonal matrix"
    return torch.linalg.qr(torch.randn(n, n, generator=fixed(seed), dtype=torch.float64))[0]

def noise(n, scale=1.):
    "Normal noise for `n` elements in each step"
    return lambda rand, steps: scale*torch.randn(steps, n, generator=rand, dtype=torch.float64)

def distance(goal):
    "The largest distance of any element from `goal`, for each run"
    return lambda x, z=None: (x-goal).abs().flatten(1).amax(1)

def rms(goal):
    "The root mean square of the distances of the elements from `goal`, for each run"
    return lambda x, z=None: ((x-goal)**2).flatten(1).mean(1).sqrt()

def alternating(*shape, low=.5, high=1.5):
    "A point with values between `low` and `high` and alternating signs: no minimum is at the origin, where decay alone would lead"
    n = torch.Size(shape).numel()
    return (torch.linspace(low, high, n, dtype=torch.float64)*torch.tensor([1.,-1.], dtype=torch.float64).repeat(-(-n//2))[:n]).reshape(shape)

def away_from(*points, by: float=1., spread: float=.5):
    """A start at about the distance `by` from `points` in each element, on a random side. The distances differ by `spread`, so that a step of fixed
    length cannot meet all elements by chance"""
    def start(rand):
        return [p + by*random_signs(p, rand)*(1 - spread/2 + spread*torch.rand(p.shape, generator=rand, dtype=p.dtype)) for p in points]
    return start

def random_signs(like, rand): return torch.randint(0, 2, like.shape, generator=rand).to(like)*2-1

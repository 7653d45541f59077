"Deterministic functions with one minimum, whose curvature is the difficulty."

import torch
from .task import Problem,alternating,away_from,fixed,task

__all__ = ['ill_conditioning', 'layer_scales', 'fine_convergence']


def logspace(ratio, n): return torch.logspace(-.5, .5, n, base=ratio, dtype=torch.float64)

@task(degrees=(1e2, 1e4, 1e8), steps=800, basis='theory: scaling each element by its curvature makes all elements alike')
def ill_conditioning(ratio):
    "Curvatures of the elements differ by this factor."
    goal,curvature = alternating(16),logspace(ratio, 16)
    return Problem(away_from(goal), lambda x: (curvature*(x-goal)**2).sum(-1)/2, .1, error=lambda x: (x-goal).abs().amax(-1))

@task(degrees=(1e3, 1e6, 1e9), steps=600, basis='theory: a step in proportion to each tensor makes all tensors alike')
def layer_scales(ratio):
    "The gradients of five matrices differ by this factor."
    goal,scales = alternating(4, 3),logspace(ratio, 5)
    def loss(*ws): return sum(s*((w-goal)**2).sum((-2,-1)) for w,s in zip(ws, scales))
    def error(*ws): return torch.stack([(w-goal).abs().amax((-2,-1)) for w in ws]).amax(0)
    return Problem(away_from(*[goal]*5), loss, .1, error)

@task(degrees=(1e-2, 1e-4, 1e-8), steps=600, basis='theory: gradient descent gains a digit in a fixed number of steps')
def fine_convergence(distance):
    "The minimum must be met to this distance, at a constant rate."
    goal,curvature = alternating(8),logspace(4, 8)
    return Problem(away_from(goal), lambda x: (curvature*(x-goal)**2).sum(-1)/2, distance, error=lambda x: (x-goal).abs().amax(-1))

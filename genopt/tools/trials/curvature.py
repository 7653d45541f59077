"Deterministic functions with one minimum, whose curvature is the difficulty."

import torch
from .task import Problem,alternating,away_from,distance,logspace,rotation,task

__all__ = ['ill_conditioning', 'rotated_curvature', 'coupled_sides', 'coupled_neighbours', 'layer_scales', 'solution_scales', 'fine_convergence',
           'flat_minimum', 'kinked_minimum']


@task(degrees=(1e2, 1e4, 1e8), steps=500, basis='theory: scaled by its curvature, each element is alike')
def ill_conditioning(ratio):
    "Curvatures of the elements differ by this factor"
    goal,curvature = alternating(16),logspace(ratio, 16)
    return Problem(away_from(goal), lambda x: (curvature*(x-goal)**2).sum(-1)/2, .1, error=distance(goal))

@task(degrees=(1e1, 1e2, 1e3), steps=500, basis='theory: the best rate of gradient descent passes the first two')
def rotated_curvature(ratio):
    "Curvatures differ by this factor, in directions that are not the axes"
    goal,turned = alternating(12),rotation(12)*logspace(ratio, 12).sqrt()
    return Problem(away_from(goal), lambda x: (((x-goal)@turned)**2).sum(-1)/2, .1, error=distance(goal))

@task(degrees=(3., 10., 30.), steps=400, basis='theory: preconditioning both sides makes all directions alike')
def coupled_sides(ratio):
    "Rows and columns of a matrix are each mixed by a matrix of this condition number"
    goal,left,right = alternating(6, 4),rotation(6)*logspace(ratio, 6)@rotation(6, 1),rotation(4)*logspace(ratio, 4)@rotation(4, 1)
    return Problem(away_from(goal), lambda w: ((left@(w-goal)@right)**2).sum((-2,-1))/2, .1, error=distance(goal))

@task(degrees=(4, 8, 16), steps=400, basis='theory: gradient descent needs steps in proportion to the square of the length')
def coupled_neighbours(n):
    "Each element is tied to the next, and only the first to its goal, along a chain of this length"
    goal = alternating(n)
    def loss(x):
        y = x-goal
        return (y[...,0]**2 + (y.diff()**2).sum(-1))/2
    return Problem(lambda rand: [goal + 1 + .1*torch.rand(n, generator=rand)], loss, .1, error=distance(goal))

@task(degrees=(1e3, 1e6, 1e9), steps=400, basis='theory: a step in proportion to each tensor makes all tensors alike')
def layer_scales(ratio):
    "The gradients of three matrices differ by this factor"
    goal,scales = alternating(4, 3),logspace(ratio, 3)
    def loss(*ws): return sum(s*((w-goal)**2).sum((-2,-1)) for w,s in zip(ws, scales))
    return Problem(away_from(goal, goal, goal), loss, .1, error=lambda *ws: torch.stack([distance(goal)(w) for w in ws]).amax(0))

@task(degrees=(10., 100., 1000.), steps=500, basis='theory: gradient descent with a rate below 1 passes all')
def solution_scales(ratio):
    "The values to find differ by this factor, and each must be met to a tenth"
    goal = alternating(8).sign()*torch.logspace(0, -1, 8, base=ratio, dtype=torch.float64)
    return Problem(away_from(goal), lambda x: ((x-goal)**2).sum(-1)/2, .1, error=lambda x: ((x-goal)/goal).abs().amax(-1))

@task(degrees=(1e-2, 1e-4, 1e-8), steps=400, basis='theory: gradient descent gains a digit in a fixed number of steps')
def fine_convergence(tolerance):
    "The minimum must be met to this distance, at a constant rate"
    goal,curvature = alternating(8),logspace(4, 8)
    return Problem(away_from(goal), lambda x: (curvature*(x-goal)**2).sum(-1)/2, tolerance, error=distance(goal))

@task(degrees=(4, 6, 10), steps=500, basis='theory: a step of the length of the distance passes all; gradient descent the first')
def flat_minimum(power):
    "The loss is this power of the distance, so the curvature vanishes at the minimum"
    goal = alternating(8)
    return Problem(away_from(goal), lambda x: ((x-goal)**power).sum(-1)/power, .1, error=distance(goal))

@task(degrees=(.1, .01, .001), steps=500, basis='theory: a constant step oscillates by its own length; the last degree needs steps that shrink')
def kinked_minimum(tolerance):
    "The gradient has the same size up to the minimum, which must be met to this distance"
    goal = alternating(8)
    return Problem(away_from(goal), lambda x: (x-goal).abs().sum(-1), tolerance, error=distance(goal))

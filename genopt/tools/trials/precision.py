"Numbers with few digits: in the weights, in the gradients, in the model."

import torch
from .task import Problem,alternating,away_from,distance,logspace,rms,rotation,task

__all__ = ['bfloat16_weights', 'rounded_gradients', 'quantized_weights']


@task(degrees=(1., 10., 100.), steps=500, basis='theory: neighbours in bfloat16 are 0.004 to 0.008 apart here')
def bfloat16_weights(ratio):
    "Weights are kept in bfloat16, which loses small steps; curvatures differ by this factor"
    goal,curvature = alternating(8),logspace(ratio, 8)
    def start(rand): return [x.bfloat16() for x in away_from(goal)(rand)]
    return Problem(start, lambda x: (curvature*(x.double()-goal)**2).sum(-1)/2, .03, error=lambda x: distance(goal)(x.double()))

@task(degrees=(.1, 1., 5.), steps=600, basis='theory: the mean of all gradients would be at most 0.002, 0.02, 0.1 off')
def rounded_gradients(unit):
    "Gradients are rounded at random, up or down, to multiples of this"
    goal = alternating(8)
    def draw(rand, steps): return torch.rand(steps, 8, generator=rand, dtype=torch.float64)
    def loss(x, z):
        rounding = ((x-goal)/unit + z).floor()*unit - (x-goal)
        return ((x-goal)**2/2 + rounding.detach()*x).sum(-1)
    return Problem(away_from(goal), loss, .2, rms(goal), draw)

@task(degrees=(.5, .1, .02), steps=500, basis='theory: the goal is on the grid, so the loss can be 0')
def quantized_weights(unit):
    "The model rounds weights to multiples of this, and passes gradients on as if it did not"
    goal,turned = (alternating(8)/unit).round()*unit,rotation(8)*logspace(10, 8).sqrt()
    def grid(x): return x + ((x/unit).round()*unit-x).detach()
    return Problem(away_from(goal), lambda x: (((grid(x)-goal)@turned)**2).sum(-1)/2, unit/2, error=lambda x: distance(goal)(grid(x)))

"Problems that change during the run: late gradients, moving targets, new scales."

import torch
from .task import Problem,alternating,away_from,distance,logspace,noise,random_signs,rms,task

__all__ = ['delayed_gradients', 'flipping_target', 'drifting_target', 'jumping_target', 'changing_scale']


@task(degrees=(2, 8, 32), steps=600, basis='theory: gradient descent is stable for rates times curvature below 0.6, 0.2, 0.05')
def delayed_gradients(delay):
    "Gradients come this many steps late"
    goal,curvature = alternating(8),logspace(4, 8)
    return Problem(away_from(goal), lambda x: (curvature*(x-goal)**2).sum(-1)/2, .1, distance(goal), delay=delay)

@task(degrees=(2, 20, 100), steps=600, basis='theory: a rate below 0.2 over the period follows the mean')
def flipping_target(period):
    "The target flips between two points with this period, and their middle is to be found"
    goal,sides = alternating(8),alternating(8).sign()
    def draw(rand, steps): return sides*torch.where(torch.arange(steps)%period<period//2, 1., -1.)[:,None]
    return Problem(away_from(goal), lambda x, z: ((x-goal-z)**2).sum(-1)/2, .2, rms(goal), draw)

@task(degrees=(.001, .01, .03), steps=600, basis='theory: gradient descent lags by the speed over the rate')
def drifting_target(speed):
    "The target moves by this much in a step, gradients have noise, and the distance must stay small for half of the time"
    goal = alternating(8)
    def draw(rand, steps): return torch.stack([speed*torch.arange(steps, dtype=torch.float64)[:,None].expand(-1, 8), noise(8, .2)(rand, steps)], -1)
    def loss(x, z): return ((x-goal-z[...,0])**2/2 + z[...,1]*x).sum(-1)
    return Problem(away_from(goal), loss, .2, lambda x, z: rms(goal)(x-z[...,0]), draw, hold=25)

@task(degrees=(2, 5, 10), steps=600, basis='reference: SGD passes all; a rate that only falls fails')
def jumping_target(phases):
    "The target jumps this often in the run, and the last one must be met in its phase"
    def draw(rand, steps):
        ones  = torch.ones(phases, 8, dtype=torch.float64)
        goals = random_signs(ones, rand)*(.5 + torch.rand(ones.shape, generator=rand, dtype=ones.dtype))
        phase = torch.arange(steps)*phases//steps
        return torch.cat([goals[phase], (phase==phases-1)[:,None].double()], 1)
    def error(x, z): return torch.where(z[...,-1]>0, (x-z[...,:-1]).abs().amax(-1), torch.inf)
    return Problem(away_from(alternating(8)), lambda x, z: ((x-z[...,:-1])**2).sum(-1)/2, .1, error, draw)

@task(degrees=(1., 3., 6.), steps=500, basis='theory: the sign of the gradient does not depend on its scale')
def changing_scale(powers):
    "In each step the gradient has another scale, over this many powers of ten up and down"
    goal = alternating(8)
    def draw(rand, steps): return 10**(powers*(2*torch.rand(steps, generator=rand, dtype=torch.float64)-1))
    return Problem(away_from(goal), lambda x, z: z*((x-goal)**2).sum(-1)/2, .1, distance(goal), draw)

"Games, in which the gradient field turns, and constraints."

import torch
from .task import Problem,alternating,away_from,distance,task

__all__ = ['minimax', 'adversary', 'soft_wall', 'log_barrier', 'multiplier']


@task(degrees=(.3, .1, 0.), steps=600, basis='theory: gradient descent needs the damping; optimism and averages do without (Daskalakis et al. 2018)')
def minimax(damping):
    "Two players share a bilinear loss, of which one ascends; this is their own curvature"
    goal = alternating(4)
    def loss(x, y):
        a,b = x-goal,y-goal
        return (damping*(a**2+b**2)/2 + a*b.detach() - b*a.detach()).sum(-1)
    return Problem(away_from(goal, goal), loss, .3, error=lambda x, y: torch.maximum(distance(goal)(x), distance(goal)(y)))

@task(degrees=(1., .3, .1), steps=600, basis='reference: SGD passes all; without the penalty it would not (Mescheder et al. 2018)')
def adversary(penalty):
    "A generator follows a discriminator that follows it, which has this penalty on its slope"
    goal = alternating(4)
    def loss(x, y):
        place,slope = x-goal,y-goal
        fooled = torch.nn.functional.softplus(-slope.detach()*place)
        caught = torch.nn.functional.softplus(slope*place.detach()) - slope*0 + penalty*slope**2/2
        return (fooled+caught).sum(-1)
    return Problem(away_from(goal, goal), loss, .2, error=lambda x, y: torch.maximum(distance(goal)(x), distance(goal)(y)))

@task(degrees=(10., 100., 1000.), steps=500, basis='theory: the solution is at most 1/(4*stiffness) outside of the ball')
def soft_wall(stiffness):
    "A linear loss pushes against a ball, whose wall is a penalty of this stiffness"
    goal = alternating(6)/alternating(6).norm()
    def loss(x): return -(x*goal).sum(-1) + stiffness*((x**2).sum(-1)-1).clamp(0)**2/2
    def start(rand): return [.2*torch.randn(6, generator=rand, dtype=torch.float64)]
    return Problem(start, loss, .1, error=distance(goal))

@task(degrees=(.3, .03, .003), steps=500, basis='theory: the solution in closed form; a step across the wall has no loss')
def log_barrier(weight):
    "A linear loss pushes against a logarithmic wall of this weight, and no step may cross it"
    slope = alternating(4)
    goal  = (weight-(weight**2+slope**2).sqrt())/slope
    def start(rand): return [.4*torch.rand(4, generator=rand, dtype=torch.float64)-.2]
    return Problem(start, lambda x: (slope*x - weight*(1-x**2).log()).sum(-1), .05, error=distance(goal))

@task(degrees=(1., 2., 4.), steps=600, basis='theory: gradient descent and ascent are stable for rates below 2 over the squared size')
def multiplier(size):
    "An equality of this size is held by a multiplier that ascends"
    row,free = size*alternating(6)/alternating(6).norm(),alternating(6).flip(0)
    goal = free - row*((row*free).sum()-size)/size**2
    price = ((row*free).sum()-size)/size**2
    def loss(x, y): return ((x-free)**2).sum(-1)/2 + y[...,0].detach()*(x*row).sum(-1) - y[...,0]*((x.detach()*row).sum(-1)-size)
    return Problem(away_from(goal, price[None]), loss, .1, error=lambda x, y: distance(goal)(x))

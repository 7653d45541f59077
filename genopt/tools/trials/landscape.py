"Valleys, saddles, plateaus, cliffs: what lies between the start and the minimum."

import torch
from .task import Problem,alternating,away_from,distance,fixed,rotation,task

__all__ = ['curved_valley', 'kinked_valley', 'saddle', 'factored_saddle', 'plateau', 'cliff', 'ripples', 'uneven_sides', 'scale_invariance']


def near(*point): return lambda rand: [torch.tensor(point, dtype=torch.float64) + .1*torch.rand(len(point), generator=rand, dtype=torch.float64)]

@task(degrees=(1., 10., 100.), steps=600, basis='reference: Adam passes all; the last is the function of Rosenbrock 1960')
def curved_valley(steepness):
    "A valley bends, and its walls are steeper than its floor by about this factor"
    goal = torch.ones(2, dtype=torch.float64)
    return Problem(near(-1.2, 1.), lambda x: (1-x[...,0])**2 + steepness*(x[...,1]-x[...,0]**2)**2, .1, error=distance(goal))

@task(degrees=(.3, 1., 3.), steps=600, basis='reference: Adam passes all')
def kinked_valley(steepness):
    "A valley bends, and its floor is a kink with this slope on both sides"
    goal = torch.ones(2, dtype=torch.float64)
    return Problem(near(-1.2, 1.), lambda x: (1-x[...,0])**2 + steepness*(x[...,1]-x[...,0]**2).abs(), .1, error=distance(goal))

@task(degrees=(3, 4, 6), steps=500, basis='theory: steps in proportion to the gradient need about 20, 200, 80000 times 1/rate to leave')
def saddle(order):
    "The start is near a saddle at which all derivatives below this order vanish"
    def loss(x):
        a,b = x[...,:4],x[...,4:]
        return ((a-1)**2/2 + b**(2*order)/(2*order) - b**order/order).sum(-1)
    def start(rand): return [torch.cat([torch.zeros(4, dtype=torch.float64), .05*(.75 + .5*torch.rand(4, generator=rand, dtype=torch.float64))])]
    return Problem(start, loss, .1, error=distance(torch.ones(8, dtype=torch.float64)))

@task(degrees=(1e-1, 1e-3, 1e-6), steps=500, basis='theory: gradient descent grows by a constant factor in each step, so all can be passed')
def factored_saddle(scale):
    "Two factors of a matrix start this close to zero, where the loss has a saddle"
    goal = rotation(6)[:,:2]*torch.tensor([2.,1.], dtype=torch.float64)@rotation(6, 1)[:2]
    def start(rand): return [scale*torch.randn(s, generator=rand, dtype=torch.float64) for s in ((6,2), (2,6))]
    return Problem(start, lambda u, v: ((u@v-goal)**2).sum((-2,-1))/4, .1, error=lambda u, v: distance(goal)(u@v))

@task(degrees=(2., 4., 6.), steps=500, basis='theory: the gradient at the start is 0.3, 1e-3, 1e-7; a step without its length passes all')
def plateau(far):
    "The start lies on a plateau, this many widths from the bottom of a Gaussian well"
    goal = alternating(8)
    return Problem(away_from(goal, by=far, spread=.1), lambda x: (1-(-(x-goal)**2/2).exp()).sum(-1), .1, error=distance(goal))

@task(degrees=(10., 50., 250.), steps=500, basis='theory: rates below 2 over the steepness are stable; a longer step ends high on the wall')
def cliff(steepness):
    "A gentle slope ends at an exponential wall of this steepness"
    goal = torch.ones(4, dtype=torch.float64)
    def start(rand): return [-1.5 + torch.rand(4, generator=rand, dtype=torch.float64)]
    return Problem(start, lambda x: ((steepness*(x-1)).exp()/steepness - x).sum(-1), .05, error=distance(goal))

@task(degrees=(.3, .6, 1.2), steps=500, basis='reference: Adam passes all')
def ripples(height):
    "Ripples of this slope lie on a bowl and make local minima"
    goal = alternating(4)
    def loss(x): return ((x-goal)**2/2 + height/(6*torch.pi)*(1-(6*torch.pi*(x-goal)).cos())).sum(-1)
    return Problem(away_from(goal), loss, .15, error=distance(goal))

@task(degrees=(10., 100., 1000.), steps=500, basis='theory: the sign of the gradient does not depend on the slope')
def uneven_sides(ratio):
    "The gradient jumps at the minimum, to this factor of its size on the other side"
    goal = alternating(8)
    return Problem(away_from(goal), lambda x: torch.maximum(goal-x, ratio*(x-goal)).sum(-1), .1, error=distance(goal))

@task(degrees=(1., 10., 100.), steps=500, basis='theory: the gradient falls with the norm of the row; a step in proportion to the norm passes all')
def scale_invariance(norm):
    "Only the directions of the rows of a matrix count, and the rows start with this norm"
    goal = torch.nn.functional.normalize(torch.randn(4, 6, generator=fixed(100), dtype=torch.float64), dim=-1)
    def unit(w): return w/w.norm(dim=-1, keepdim=True)
    def start(rand): return [norm*unit(torch.randn(4, 6, generator=rand, dtype=torch.float64))]
    return Problem(start, lambda w: ((unit(w)-goal)**2).sum((-2,-1))/2, .1, error=lambda w: distance(goal)(unit(w)))

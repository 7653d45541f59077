"Gradients that are random, sparse, or wrong now and then."

import torch
from .task import Problem,alternating,away_from,distance,noise,rms,task

__all__ = ['white_noise', 'small_noise_floor', 'heavy_tails', 'correlated_noise', 'outliers', 'noise_of_the_gradient', 'wrong_signs', 'sparse_rows',
           'embedding_table']


def bowl(noise, threshold, n=16, hold=2):
    "A round bowl whose gradient has additive `noise`"
    goal = alternating(n)
    return Problem(away_from(goal), lambda x, z: ((x-goal)**2/2 + z*x).sum(-1), threshold, rms(goal), noise, hold=hold)

@task(degrees=(.3, 1., 3.), steps=600, basis='theory: the mean of all gradients would be 0.01, 0.04, 0.12 off')
def white_noise(scale):
    "Gradients have normal noise of this size"
    return bowl(noise(16, scale), .2)

@task(degrees=(1e-2, 1e-3, 1e-4), steps=500, basis='theory: gradient descent stays within half of it; a fixed step long enough to arrive is longer')
def small_noise_floor(scale):
    "Noise of this size is small, and the minimum must be met as closely"
    return bowl(noise(8, scale), scale, n=8)

@task(degrees=(3., 1.5, .75), steps=600, basis='theory: below 2 the noise has no variance, below 1 no mean; a sign or a clipped step needs neither')
def heavy_tails(index):
    "Noise has tails that fall with this power"
    def draw(rand, steps):
        u = torch.rand(steps, 16, generator=rand, dtype=torch.float64)*2-1
        return .3*u.sign()*((1-u.abs())**(-1/index)-1)
    return bowl(draw, .2)

@task(degrees=(3, 10, 30), steps=600, basis='theory: the mean of all gradients would be 0.05, 0.09, 0.16 off')
def correlated_noise(memory):
    "Noise is Brownian motion that forgets in this many steps"
    def draw(rand, steps):
        z,keep = torch.randn(steps, 16, generator=rand, dtype=torch.float64),1-1/memory
        for t in range(1, steps):
            z[t] = keep*z[t-1] + (1-keep**2)**.5*z[t]
        return .5*z
    return bowl(draw, .25)

@task(degrees=(3., 30., 300.), steps=500, basis='reference: Adam passes the first; a sign without momentum passes all')
def outliers(size):
    "One gradient in twenty has noise of this size, and the distance must stay small while some of them come"
    def draw(rand, steps):
        seldom = torch.rand(steps, 1, generator=rand, dtype=torch.float64)<.05
        return torch.where(seldom, size, .1)*torch.randn(steps, 16, generator=rand, dtype=torch.float64)
    return bowl(draw, .3, hold=10)

@task(degrees=(1., 3., 10.), steps=500, basis='theory: gradient descent is stable for rates below 2 over the square of the factor')
def noise_of_the_gradient(factor):
    "Noise is this factor of the gradient, element by element"
    goal = alternating(8)
    return Problem(away_from(goal), lambda x, z: ((1+z)*(x-goal)**2).sum(-1)/2, .1, distance(goal), noise(8, factor))

@task(degrees=(.1, .3, .45), steps=600, basis='theory: on average the gradient is 0.8, 0.4, 0.1 of itself')
def wrong_signs(share):
    "This share of the elements of a gradient has the wrong sign"
    goal = alternating(8)
    def draw(rand, steps): return torch.where(torch.rand(steps, 8, generator=rand, dtype=torch.float64)<share, -1., 1.)
    return Problem(away_from(goal), lambda x, z: (z*(x-goal)**2).sum(-1)/2, .2, distance(goal), draw)

@task(degrees=(.3, .1, .03), steps=500, basis='theory: gradient descent passes all; a row is seen 15 times in the last')
def sparse_rows(share):
    "A row of a matrix has a gradient in this share of the steps"
    goal = alternating(12, 3)
    def draw(rand, steps): return (torch.rand(steps, 12, generator=rand, dtype=torch.float64)<share).double()
    return Problem(away_from(goal), lambda w, z: (z[...,None]*(w-goal)**2).sum((-2,-1))/2, .1, distance(goal), draw)

@task(degrees=(.5, 1., 1.5), steps=500, basis='theory: the rarest row is seen about 50, 20, 5 times')
def embedding_table(exponent):
    "Rows of a table are drawn by Zipf's law with this exponent, and all must be learned"
    goal,share = alternating(48, 4),torch.arange(1., 49)**-exponent
    def draw(rand, steps): return torch.multinomial(share.expand(steps, 48), 8, replacement=True, generator=rand)
    def loss(w, z): return ((w.gather(1, z[...,None].expand(*z.shape, 4))-goal[z])**2).sum((-2,-1))/8
    return Problem(away_from(goal), loss, .2, distance(goal), draw)

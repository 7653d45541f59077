"Products of many factors, whose gradients vanish or explode."

import torch
from .task import Problem,distance,rotation,task

__all__ = ['vanishing_chain', 'exploding_chain', 'deep_linear', 'deep_tanh']


def chain(n, low, high):
    "The product of `n` numbers that start between `low` and `high`, and should be 1"
    def start(rand): return [low + (high-low)*torch.rand(n, generator=rand, dtype=torch.float64)]
    return Problem(start, lambda x: (x.prod(-1)-1)**2/2, .1, error=lambda x: (x.prod(-1)-1).abs())

@task(degrees=(5, 10, 20), steps=500, basis='theory: the gradient at the start falls with 2 to the power of the length')
def vanishing_chain(n):
    "A product of this many factors starts near 0"
    return chain(n, .4, .6)

@task(degrees=(5, 10, 20), steps=500, basis='theory: a step of bounded length passes all')
def exploding_chain(n):
    "A product of this many factors starts far above 1"
    return chain(n, 1.4, 1.6)

@task(degrees=(2, 4, 8), steps=500, basis='reference: Adam passes the first two')
def deep_linear(depth):
    "The product of this many matrices must be a rotation"
    goal = rotation(4)
    def start(rand): return [torch.randn(4, 4, generator=rand, dtype=torch.float64)/2 for _ in range(depth)]
    def product(ws): return ws[0] if len(ws)==1 else product(ws[:-1])@ws[-1]
    return Problem(start, lambda *ws: ((product(ws)-goal)**2).sum((-2,-1))/2, .1, error=lambda *ws: distance(goal)(product(ws)))

@task(degrees=(2, 4, 8), steps=500, basis='reference: Adam passes all')
def deep_tanh(depth):
    "A network of this many layers starts with small weights, so that almost nothing gets through"
    x = torch.linspace(-2, 2, 16, dtype=torch.float64)[:,None]
    y = (2*x).sin()*.8
    def start(rand):
        widths = [2, *[6]*depth, 1]
        return [.7*torch.randn(a, b, generator=rand, dtype=torch.float64)/a**.5 for a,b in zip(widths, widths[1:])]
    def loss(*ws):
        h = torch.cat([x, torch.ones_like(x)], 1)
        for w in ws[:-1]:
            h = (h@w).tanh()
        return ((h@ws[-1]-y)**2).mean((-2,-1))
    return Problem(start, loss, .02)

"""Small networks. All parameters are matrices, without biases: inputs have a constant 1 beside them."""

import torch
from torch.nn.functional import cross_entropy,one_hot,softplus
from ..data import load_data
from .task import Problem,fixed,task

__all__ = ['parity', 'first_and_last_bit', 'spirals', 'modular_sums', 'grokking', 'rare_class', 'new_labels', 'digits', 'characters']


def gaussian(*shapes, gain=1.):
    "Start with normal weights, divided by the root of their number of inputs"
    return lambda rand: [gain*torch.randn(*s, generator=rand)/s[-2]**.5 for s in shapes]

def with_one(x): return torch.cat([x, torch.ones_like(x[...,:1])], -1)

def logistic(score, sign): return softplus(-score*sign).mean(-1)
def wrong(score, sign): return (score*sign<=0).float().mean(-1)

def cross(logits, labels):
    "The mean cross-entropy of each run: `logits` are (runs, n, classes), `labels` (n) or (runs, n)"
    labels = labels.expand(logits.shape[:-1])
    return cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction='none').view(labels.shape).mean(-1)

def mistaken(logits, labels): return (logits.argmax(-1)!=labels).float().mean(-1)

@task(degrees=(2, 3, 4), steps=200, basis='reference: Adam passes all; all inputs must be right')
def parity(bits):
    "The label is the parity of this many bits, which no single bit tells anything about"
    x = torch.cartesian_prod(*[torch.tensor([-1.,1.])]*bits)
    y,x = x.prod(-1),with_one(x)
    def net(u, v): return ((x@u).tanh()@v)[...,0]
    return Problem(gaussian((bits+1,16), (16,1)), lambda *ws: logistic(net(*ws), y), 0., error=lambda *ws: wrong(net(*ws), y))

@task(degrees=(3, 6, 12), steps=250, basis='reference: Adam passes all')
def first_and_last_bit(length):
    "A recurrent network must keep the first of this many bits until the last, and tell whether they differ"
    x = torch.randint(0, 2, (32,length), generator=fixed())*2.-1
    y = x[:,0]*x[:,-1]
    def net(w_in, w, out):
        h = torch.zeros(1)
        for t in range(length):
            h = (with_one(x[:,t:t+1])@w_in + (h@w if t else 0)).tanh()
        return (h@out)[...,0]
    return Problem(gaussian((2,12), (12,12), (12,1)), lambda *ws: logistic(net(*ws), y), .02, error=lambda *ws: wrong(net(*ws), y))

@task(degrees=(1., 1.5, 2.), steps=300, basis='reference: Adam passes all')
def spirals(turns):
    "Two spirals of this many turns must be told apart"
    angle = torch.linspace(.25, 1, 32).sqrt()*2*torch.pi*turns
    arm   = torch.stack([angle.cos(), angle.sin()], -1)*angle[:,None]/(2*torch.pi*turns)*2
    x,y   = with_one(torch.cat([arm, -arm])),torch.tensor([1.,-1.]).repeat_interleave(32)
    def net(u, v, w): return (((x@u).tanh()@v).tanh()@w)[...,0]
    return Problem(gaussian((3,16), (16,16), (16,1), gain=1.5), lambda *ws: logistic(net(*ws), y), .02, error=lambda *ws: wrong(net(*ws), y))

@task(degrees=(5, 7, 11), steps=300, basis='reference: Adam passes all')
def modular_sums(p):
    "Sums modulo this number, whose summands are rows of a table that is learned too"
    pairs  = torch.cartesian_prod(torch.arange(p), torch.arange(p))
    labels = pairs.sum(1)%p
    both   = one_hot(pairs, p).sum(1).float()
    def net(table, u, v): return (both@table@u).relu()@v
    return Problem(gaussian((p,12), (12,24), (24,p)), lambda *ws: cross(net(*ws), labels), .02, error=lambda *ws: mistaken(net(*ws), labels))

@task(degrees=(.1, .2, .3), steps=700, basis='reference: Adam passes all; it was seen first by Power et al. 2022')
def grokking(share):
    "Sums modulo 11, of which this share is not shown and must be right. A small penalty on the weights leads there, long after all others are right"
    pairs  = torch.cartesian_prod(torch.arange(11), torch.arange(11))
    x      = one_hot(pairs, 11).flatten(1).float()
    labels = pairs.sum(1)%11
    order  = torch.randperm(121, generator=fixed(100))
    hidden,shown = order[:int(121*share)],order[int(121*share):]
    goal   = one_hot(labels[shown], 11).float()
    def net(i, u, v): return (x[i]@u)**2@v
    def loss(u, v): return ((net(shown, u, v)-goal)**2).sum(-1).mean(-1) + 3e-4*((u**2).sum((-2,-1)) + (v**2).sum((-2,-1)))
    return Problem(gaussian((22,48), (48,11)), loss, .1, error=lambda u, v: mistaken(net(hidden, u, v), labels[hidden]))

@task(degrees=(.1, .01, .002), steps=300, basis='reference: Adam passes all')
def rare_class(share):
    "A class with this share of the examples must be recognized in nine of ten cases"
    centers = torch.randn(4, 6, generator=fixed())
    def examples(y, rand): return with_one(centers[y] + .4*torch.randn(*y.shape, 6, generator=rand))
    test = torch.arange(4).repeat_interleave(20)
    x    = examples(test, fixed(1))
    def draw(rand, steps):
        y = torch.multinomial(torch.tensor([1.,1.,1.,3*share/(1-share)]), steps*16, replacement=True, generator=rand).view(steps, 16)
        return torch.cat([examples(y, rand), y[...,None].float()], -1)
    def loss(w, z): return cross(z[...,:-1]@w, z[...,-1].long())
    def error(w, z): return ((x@w).argmax(-1)!=test).float().view(-1, 4, 20).mean(-1).amax(-1)
    return Problem(gaussian((7,4)), loss, .1, error, draw)

@task(degrees=(2, 3, 5), steps=600, basis='reference: Adam passes all')
def new_labels(phases):
    "All labels are drawn anew this often, and those of the last phase must be learned in it"
    x = with_one(torch.randn(16, 6, generator=fixed()))
    def draw(rand, steps):
        phase  = torch.arange(steps)*phases//steps
        labels = torch.randint(0, 2, (phases,16), generator=rand)*2.-1
        return torch.cat([labels[phase], (phase==phases-1)[:,None].float()], 1)
    def net(u, v): return ((x@u).relu()@v)[...,0]
    def error(u, v, z): return torch.where(z[...,-1]>0, wrong(net(u, v), z[...,:-1]), 1.)
    return Problem(gaussian((7,24), (24,1)), lambda u, v, z: logistic(net(u, v), z[...,:-1]), .02, error, draw)

@task(degrees=(.2, .1, .06), steps=200, basis='reference: Adam passes all')
def digits(mistakes):
    "Handwritten digits of scikit-learn, of which at most this share of the test set may be mistaken"
    (x,y),(x_test,y_test) = [(with_one(x.flatten(1)), y) for x,y in load_data('digits')]
    def draw(rand, steps): return torch.randint(0, len(x), (steps,32), generator=rand)
    def net(x, u, v): return (x@u).relu()@v
    def loss(u, v, z): return cross(net(x[z], u, v), y[z])
    return Problem(gaussian((65,24), (24,10)), loss, mistakes, lambda u, v, z: mistaken(net(x_test, u, v), y_test), draw)

text = ("a rule is written once for one parameter and it runs in every loop on one machine or on many. the rule says what it reads and what it "
        "keeps and what it changes. a step reads the gradient and keeps an average and changes the weight. ")

@task(degrees=(2.2, 1.8, 1.5), steps=250, basis='reference: Adam passes all')
def characters(nats):
    "A transformer of one layer must predict the next character of a short text, with at most this loss"
    letters = sorted({*text})
    ids     = torch.tensor([letters.index(c) for c in text])
    context,width = 8,16
    windows = ids.unfold(0, context+1, 1)
    before,after = one_hot(windows[:,:-1]).float(),windows[:,1:]
    hidden  = torch.full((context,context), -torch.inf).triu(1)
    def draw(rand, steps): return torch.randint(0, len(windows), (steps,4), generator=rand)
    def net(x, table, places, qkv, out, u, v, read):
        x = x@table[:,None] + places[:,None]
        q,k,value = (x@qkv[:,None]).chunk(3, -1)
        x = x + (q@k.mT/width**.5 + hidden).softmax(-1)@value@out[:,None]
        x = x + (x@u[:,None]).relu()@v[:,None]
        return x@read[:,None]
    def loss(*ws, z): return cross(net(before[z], *ws).flatten(1, 2), after[z].flatten(1))
    def error(*ws, z): return loss(*ws, z=torch.arange(0, len(windows), 7).expand(len(ws[0]), -1))
    n = len(letters)
    shapes = (n,width),(context,width),(width,3*width),(width,width),(width,2*width),(2*width,width),(width,n)
    return Problem(gaussian(*shapes, gain=.7), loss, nats, error, draw)

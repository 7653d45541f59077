"""What every training here needs: batches, accuracy, a bar of progress."""

import statistics
import torch
from torch import nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy
from ..choices import at_least
from ..data import load_data,usual

__all__ = ['Counter', 'Narrow', 'accuracy', 'arguments', 'batches', 'check_sizes', 'held_out', 'load', 'progress', 'smooth']


def load(data, root, dtype):
    "The training and the test set of `data`, with floating point inputs in `dtype`"
    return [(x.to(dtype) if x.is_floating_point() else x, y) for x,y in load_data(data, root)]

def arguments(data, model, epochs, bs):
    "`model`, `epochs` and `bs`, where None stands for what is usual on the data set"
    given = {k: v for k,v in dict(model=model, epochs=epochs, bs=bs).items() if v is not None}
    return usual(data) | given

def check_sizes(n, epochs, bs):
    "Raise `ValueError` for numbers with which there is nothing to train on"
    if not 0<bs<=n:
        raise ValueError(f"--bs {bs} is not possible with {n} training examples; give 1 to {n}")
    at_least(1, epochs=epochs)

def batches(n, bs, epochs, seed):
    "The indices of each batch of `bs` among `n` items, in a new random order in each epoch"
    rand = torch.Generator().manual_seed(seed)
    for _ in range(epochs):
        yield from torch.randperm(n, generator=rand)[:n//bs*bs].view(-1, bs)

@torch.no_grad()
def held_out(net, x, y):
    "Mean loss and accuracy of `net` on inputs `x` and labels `y`. Outputs have the classes in dimension 1"
    net.eval()
    loss,right = 0.,0
    for xb,yb in zip(x.split(512), y.split(512)):
        out    = net(xb)
        loss  += cross_entropy(out, yb, reduction='sum').item()
        right += (out.argmax(1)==yb).sum().item()
    return loss/y.numel(),right/y.numel()

def accuracy(net, x, y):
    "The fraction of labels `y` that `net` predicts from `x`"
    return held_out(net, x, y)[1]

class Narrow(nn.Module):
    """`model` with parameters in bfloat16, from which it computes in float32. So it differs from `model` in how its weights are stored and in nothing
    else, but for gradients, which have the dtype of their parameter"""
    def __init__(self, model):
        super().__init__()
        self.model = model
        for p in model.parameters():
            p.data = p.data.bfloat16()

    def forward(self, x):
        return functional_call(self.model, {n: p.float() for n,p in self.model.named_parameters()}, x)

def progress(items, show):
    "`items` with fastprogress's bar if `show`. The bar writes carriage returns, so it is for terminals only"
    if not show:
        return items
    from fastprogress.fastprogress import progress_bar
    return progress_bar(items, leave=False)

class Counter:
    "A bar of fastprogress over `total` trainings, in a `with` block. Without `show` there is none"
    def __init__(self, total, show):
        self.bar  = progress(range(total), True) if show else None
        self.done = 0
    def __enter__(self): return self
    def __exit__(self, *_):
        if self.bar:
            self.bar.on_iter_end()                          # clears the line
    def tick(self, text):
        "Show that the next training is that of `text`"
        if self.bar:
            self.bar.comment = text
            self.bar.update(self.done)
        self.done += 1

def smooth(xs, w=20):
    "Running mean of the last `w` values"
    return [statistics.fmean(xs[max(0, i-w+1):i+1]) for i in range(len(xs))]

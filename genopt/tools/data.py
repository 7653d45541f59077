"""Data and models for `genopt compare`: the handwritten digits of scikit-learn, the documentation that comes with Python, and torchvision's data sets
and models by name."""

from pathlib import Path
import torch
from torch import nn
from .choices import one_of

__all__ = ['classes', 'datasets', 'load_data', 'make_model', 'usual']

datasets = dict(digits='digits', mnist='MNIST', fashion_mnist='FashionMNIST', cifar10='CIFAR10', text='text')    # our name = torchvision's
cache    = '~/.cache/genopt'                                # torchvision keeps its files there
remedy   = 'or use --data digits, which comes with scikit-learn and needs no download'


def usual(data: str) -> dict:
    "The model, the number of epochs and the batch size with which one trains on `data` if nothing else is said"
    if data=='text':
        return dict(model='transformer', epochs=1, bs=16)
    return dict(model='mlp', epochs=15, bs=64)

def load_data(name: str='digits', root: str|Path=cache, seed: int=0) -> list:
    """Training and test set of `name`, each a pair of inputs and labels. Inputs are images (n, channels, height, width), float32 in 0..1, with labels
    (n). Those of `text` are characters (n, 64), int64, and the labels are the next character of each (n, 64). `seed` is that of the split of
    `digits`. torchvision downloads the other sets to `root`; raises `RuntimeError` where it cannot, `ValueError` for an unknown name."""
    if one_of(name, datasets, 'data set')=='digits':
        return digits(seed)
    return text() if name=='text' else of_torchvision(name, root)

def of_torchvision(name, root):
    try:
        from torchvision import datasets as tv
    except ImportError as e:
        raise RuntimeError(f"--data {name} needs torchvision ({e}): pip install torchvision; {remedy}") from e
    root = Path(root).expanduser()
    make = getattr(tv, datasets[name])
    try:
        return [tensors(make(root, train=train, download=True)) for train in (True,False)]
    except (OSError, RuntimeError) as e:
        why = ' '.join(str(e).split())
        raise RuntimeError(f"could not download {name} to {root}; put torchvision's files there; {remedy}. {type(e).__name__}: {why}") from e

def digits(seed):
    "1437 images of 8x8 to train on and 360 to test on, in random order"
    from sklearn.datasets import load_digits
    d = load_digits()
    x = torch.tensor(d.images, dtype=torch.float32)[:,None]/16
    y = torch.tensor(d.target)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    return [(x[i], y[i]) for i in (order[:1437], order[1437:])]

def text(context=64):
    """Windows of the language reference that comes with Python, which `help('if')` shows; the last tenth is to test on. Each paragraph comes once,
    and characters that are not ASCII are left out"""
    try:
        from pydoc_data.topics import topics
    except ImportError as e:
        raise RuntimeError(f"--data text needs the texts of Python's help(), which this Python lacks ({e}); use --data digits") from e
    paragraphs = dict.fromkeys(p for topic in sorted(topics) for p in topics[topic].split('\n\n'))
    characters = '\n\n'.join(paragraphs).encode('ascii', 'ignore')
    _,codes = torch.tensor([*characters]).unique(return_inverse=True)
    windows = codes[:len(codes)//(context+1)*(context+1)].view(-1, context+1)
    n = len(windows)*9//10
    return [(w[:,:-1], w[:,1:]) for w in (windows[:n], windows[n:])]

def tensors(ds):
    "Images and labels of one of torchvision's data sets, gray (n, h, w) or color (n, h, w, 3)"
    x = torch.as_tensor(ds.data)
    x = x[:,None] if x.ndim==3 else x.permute(0,3,1,2)
    return x.float()/255,torch.as_tensor(ds.targets)


def classes(sets: list) -> int:
    "The number of classes in training and test set: of digits or kinds of things 10, of characters as many as there are"
    return max(10, *(int(y.max())+1 for _,y in sets))


class Channels(nn.Module):
    "Repeats the channel of gray images, for models that expect color"
    def forward(self, x): return x.expand(-1, 3, -1, -1)

class Transformer(nn.Module):
    "Predicts from characters (n, context) the next of each: scores (n, characters, context). A small GPT, of torch's layers"
    def __init__(self, n_out, context, width=64, depth=2):
        super().__init__()
        self.tokens = nn.Embedding(n_out, width)
        self.places = nn.Embedding(context, width)
        layer = dict(nhead=4, dim_feedforward=4*width, dropout=0., activation='gelu', batch_first=True, norm_first=True)
        self.layers = nn.ModuleList(nn.TransformerEncoderLayer(width, **layer) for _ in range(depth))
        self.norm   = nn.LayerNorm(width)
        self.head   = nn.Linear(width, n_out)
        for m in (self.tokens, self.places):
            nn.init.normal_(m.weight, std=0.02)
        self.register_buffer('later', torch.ones(context, context, dtype=torch.bool).triu(1), persistent=False)

    def forward(self, x):
        h = self.tokens(x) + self.places.weight
        for layer in self.layers:
            h = layer(h, src_mask=self.later, is_causal=True)
        return self.head(self.norm(h)).movedim(-1, 1)

def make_model(name: str, x: torch.Tensor, n_out: int=10) -> nn.Module:
    """A classifier with `n_out` classes for inputs like `x`: `mlp`, which has one hidden layer of 64, or any classifier of `torchvision.models` for
    images (n, channels, height, width); `transformer` for characters (n, context). Raises `ValueError` for an unknown name and for a model that does
    not take such inputs, `RuntimeError` where torchvision is missing."""
    of_text = not x.is_floating_point()
    if of_text!=(name=='transformer'):
        raise ValueError(f"--model {name} does not work on {'text; use transformer' if of_text else 'images; use mlp or one of torchvision.models'}")
    if of_text:
        return Transformer(n_out, x.shape[1])
    if name=='mlp':
        return nn.Sequential(nn.Flatten(), nn.Linear(x[0].numel(), 64), nn.ReLU(), nn.Linear(64, n_out))
    try:
        from torchvision import models
    except ImportError as e:
        raise RuntimeError(f"--model {name} needs torchvision ({e}): pip install torchvision; or use --model mlp") from e
    try:
        return nn.Sequential(Channels(), models.get_model(name, num_classes=n_out))
    except ValueError as e:
        raise ValueError(f"no model {name!r}: mlp, or one of torchvision.models, such as resnet18") from e

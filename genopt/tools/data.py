"""Data and models for `genopt compare`: the handwritten digits of scikit-learn, and torchvision's data sets and models by name."""

from pathlib import Path
import torch
from torch import nn
from .choices import one_of

__all__ = ['datasets', 'load_data', 'make_model']

datasets = dict(digits='digits', mnist='MNIST', fashion_mnist='FashionMNIST', cifar10='CIFAR10')    # our name = torchvision's
cache    = '~/.cache/genopt'                                # torchvision keeps its files there
remedy   = 'or use --data digits, which comes with scikit-learn and needs no download'


def load_data(name: str='digits', root: str|Path=cache, seed: int=0) -> list:
    """Training and test set of `name`, each a pair of images (n, channels, height, width), float32 in 0..1, and labels (n). `seed` is that of the
    split of `digits`. torchvision downloads the other sets to `root`; raises `RuntimeError` where it cannot, `ValueError` for an unknown name."""
    if one_of(name, datasets, 'data set')=='digits':
        return digits(seed)
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

def tensors(ds):
    "Images and labels of one of torchvision's data sets, gray (n, h, w) or color (n, h, w, 3)"
    x = torch.as_tensor(ds.data)
    x = x[:,None] if x.ndim==3 else x.permute(0,3,1,2)
    return x.float()/255,torch.as_tensor(ds.targets)


class Channels(nn.Module):
    "Repeats the channel of gray images, for models that expect color"
    def forward(self, x): return x.expand(-1, 3, -1, -1)

def make_model(name: str, x: torch.Tensor, n_out: int=10) -> nn.Module:
    """A classifier with `n_out` classes for images like `x` (n, channels, height, width): `mlp`, which has one hidden layer of 64, or any classifier
    of `torchvision.models`. Raises `ValueError` for an unknown name, `RuntimeError` where torchvision is missing."""
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

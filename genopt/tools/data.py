"""Data and models for `genopt compare`: handwritten digits that come with scikit-learn, and torchvision's sets and models by name."""

from pathlib import Path
import torch
from torch import nn

__all__ = ['datasets', 'load_data', 'make_model']

datasets = dict(digits='digits', mnist='MNIST', fashion_mnist='FashionMNIST', cifar10='CIFAR10')    # our name: torchvision's
cache    = '~/.cache/genopt'                                # where torchvision keeps them
embedded = 'or use --data digits, which comes with scikit-learn and needs no download'


def load_data(name='digits', root=cache, seed=0):
    """Training and test set of `name`, each a pair of images (n, channels, height, width), float32 in 0..1, and labels (n).
    `digits` needs no download; the others are downloaded to `root` by torchvision. Raises `RuntimeError` where that is impossible."""
    if name not in datasets: raise ValueError(f"no data set {name!r}; there is {', '.join(datasets)}")
    if name=='digits': return _digits(seed)
    try: from torchvision import datasets as tv
    except ImportError as e: raise RuntimeError(f"--data {name} needs torchvision ({e}): pip install torchvision; {embedded}") from e
    root = Path(root).expanduser()
    try: return [_tensors(getattr(tv, datasets[name])(root, train=train, download=True)) for train in (True,False)]
    except (OSError, RuntimeError) as e:
        why = ' '.join(str(e).split())
        raise RuntimeError(f"could not download {name} to {root}; put torchvision's files there; {embedded}. {type(e).__name__}: {why}") from e

def _digits(seed):
    from sklearn.datasets import load_digits
    d = load_digits()
    x,y = torch.tensor(d.images, dtype=torch.float32)[:,None]/16,torch.tensor(d.target)
    i = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    return [(x[j], y[j]) for j in (i[:1437], i[1437:])]

def _tensors(ds):
    x = torch.as_tensor(ds.data)
    x = x[:,None] if x.ndim==3 else x.permute(0,3,1,2)
    return x.float()/255,torch.as_tensor(ds.targets)


class Channels(nn.Module):
    "Gray images as color ones, for models that expect color"
    def forward(self, x): return x.expand(-1, 3, -1, -1)

def make_model(name, x, n_out=10):
    "`mlp`, one hidden layer of 64, or any classifier of `torchvision.models`, for images like `x`"
    if name=='mlp': return nn.Sequential(nn.Flatten(), nn.Linear(x[0].numel(), 64), nn.ReLU(), nn.Linear(64, n_out))
    try: from torchvision import models
    except ImportError as e: raise RuntimeError(f"--model {name} needs torchvision ({e}): pip install torchvision; or use --model mlp") from e
    try: return nn.Sequential(Channels(), models.get_model(name, num_classes=n_out))
    except ValueError as e: raise ValueError(f"no model {name!r}: mlp, or one of torchvision.models, such as resnet18") from e

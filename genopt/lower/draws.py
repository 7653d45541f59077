"""Random numbers in a callback. Each random operation that works on elements is arithmetic on two
kinds of draws: uniform numbers in [0, 1), and normal ones with mean 0 and variance 1. The callback

    def noisy(grad): return grad + torch.empty_like(grad).normal_(0, 2)

is recorded as

    grad               input     ELEMENTS
    v2                 normal    ELEMENTS    draw 0 of the callback
    v3 = mul(v2, 2)
    v4 = add(grad, v3)

The recorder writes a draw down as a `Value`. Where a callback is called, `genopt.run.random` makes
the numbers of a draw at once. Both use this table."""

import torch
from torch import Tensor
from ..contract.sharded import is_sharded
from .values import aten

__all__ = ['NORMAL', 'UNIFORM', 'drawn', 'is_drawn', 'most_draws']

UNIFORM, NORMAL = 'uniform', 'normal'
most_draws = 1 << 16  # in one call of a callback

# `draw(kind, x, dtype)` is a draw like `x`. The arguments have their names in aten's schema. Methods
# such as `to` do not do here, because the recorder would see them whole.
# fmt: off

def uniform(draw, self, to=1., dtype=None, **others):
    low = others.get('from', 0.)
    u = draw(UNIFORM, self, dtype)
    return u if (low, to) == (0, 1) else u*(to - low) + low
def normal(draw, self, mean=0., std=1., dtype=None):
    z = draw(NORMAL, self, dtype)
    return z if (mean, std) == (0, 1) else z*std + mean
def normal_of(draw, mean, std=1.): return draw(NORMAL, mean + std, None)*std + mean     # of both, because one may be a single number
def bernoulli(draw, self, p=None):
    return aten._to_copy(draw(UNIFORM, self, None) < (self if p is None else p), dtype=self.dtype)
def integers(draw, self, high=None, low=0, to=None, dtype=None, **others):
    low, high = others.get('from', low), high if to is None else to
    return (draw(UNIFORM, self, dtype)*(high - low)).floor() + low
def exponential(draw, self, lambd=1.): return -torch.log1p(-draw(UNIFORM, self, None))/lambd
def dropout(draw, input, p, train=True):
    p = p if train else 0.
    kept = draw(UNIFORM, input, None) >= p
    return input*kept*(0. if p == 1 else 1/(1 - p)), kept
def of_size(draw, size, kind, dtype, device):
    return draw(kind, torch.empty(size, dtype=dtype, device=device), None)

table = {
    aten.rand_like:    uniform,
    aten.randn_like:   normal,
    aten.randint_like: integers,
    aten.rand:         lambda draw, size, dtype=None, device=None: of_size(draw, size, UNIFORM, dtype, device),
    aten.randn:        lambda draw, size, dtype=None, device=None: of_size(draw, size, NORMAL, dtype, device),
    aten.uniform_:     uniform,
    aten.normal_:      normal,
    aten.normal:       normal_of,
    aten.random_:      integers,
    aten.bernoulli:    bernoulli,
    aten.bernoulli_:   bernoulli,
    aten.exponential_: exponential,
    aten.native_dropout: dropout,
}
# fmt: on

# Arguments that only say how the result is stored
ignored = 'layout', 'pin_memory', 'memory_format', 'generator'


def is_drawn(func, args, kwargs):
    """Whether the random operation `func` is made of draws: the table has it, the result is float32
    or float64, and the callback passes no generator"""
    if func.overloadpacket not in table:
        return False
    named = arguments(func, args, kwargs)
    tensors = [a for a in named.values() if isinstance(a, Tensor)]
    known = all(type(t) in plain or is_sharded(t) for t in tensors)
    if named.get('generator') is not None or not known:
        return False
    if func.overloadpacket is aten.normal and not tensors:
        return False
    if table[func.overloadpacket] is integers:
        top = named.get('high', named.get('to'))
        if top is None or isinstance(top, Tensor):
            return False
    like = tensors[0].dtype if tensors else torch.get_default_dtype()
    return (named.get('dtype') or like) in (torch.float32, torch.float64)


plain = Tensor, torch.nn.Parameter


def arguments(func, args, kwargs):
    "The arguments of `func` by name"
    return {a.name: x for a, x in zip(func._schema.arguments, args)} | kwargs


def drawn(func, args, kwargs, draw):
    "The result of the random operation `func`, made of draws. It writes into no tensor"
    named = arguments(func, args, kwargs)
    if 'size' not in named:
        named.pop('device', None)
    named = {n: a for n, a in named.items() if n not in ignored}
    return table[func.overloadpacket](draw, **named)

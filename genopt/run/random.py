"""Random numbers in callbacks. The generator is Philox 4x32-10 (Salmon et al. 2011,
https://doi.org/10.1145/2063384.2063405), a function of a counter and a key:

    key        the seed of the step: 62 bits from torch's generator of the device, once a step
    counter    word 0    the element, divided by 4; elements count in the order of memory
               word 1    the draw: the callback's place in the chain, and how many draws of its
                         call came before
               word 2    the parameter's place in the optimizer
               word 3    the shard, if there are several; 0 for a single number of a parameter

A counter gives four words, for four elements side by side. So a number depends on nothing else: not
on the backend, on threads, batches or stages, nor on whether a CUDA graph was captured. A graph
draws a new seed each time it is replayed.

    uniform    the upper 24 bits of a word, divided by 2^24; in float64 32 bits
    normal     Box and Muller's transform: two words a and b make two numbers,
               r*cos(2 pi t) and r*sin(2 pi t), where r = sqrt(-2 log(u)), u is made of a, t of b

Processes that hold copies of a parameter, or shards of it, must have the same seed, as for torch's
own numbers. Each shard has numbers of its own.

`c.py` and `triton.py` have the same in their languages. The functions here are for the backends
that run operations of torch. They take lists, with a tensor for each parameter."""

import math
from itertools import accumulate
import torch
from .._torch import TorchDispatchMode
from ..contract.sharded import as_part, is_sharded, local
from ..lower.draws import NORMAL, UNIFORM, drawn, is_drawn, most_draws
from ..lower.values import ELEMENTS, aten
from . import compiler
from .fill import fill

__all__ = ['Drawing', 'Numbers', 'Seed', 'key_of', 'kind_of', 'of_part']

mask = 0xFFFFFFFF
multipliers, steps = (0xD2511F53, 0xCD9E8D57), (0x9E3779B9, 0xBB67AE85)
shard_step = 1 << 32


class Seed:
    """The seed of a step, on each device that asks for it. It is drawn when somebody first asks in a
    step, and stays where it is, so kernels can have its address"""

    def __init__(self):
        self.cells, self.drawn = {}, set()

    def begin(self):
        "Begin a step"
        self.drawn.clear()

    def on(self, device):
        "The seed as a tensor of one"
        if device not in self.cells:
            self.cells[device] = torch.zeros(1, dtype=torch.int64, device=device)
        if device not in self.drawn:
            self.cells[device].random_(2**62)
            self.drawn.add(device)
        return self.cells[device]

    def number(self):
        "The seed on the CPU, as a number"
        return self.on(torch.device('cpu')).item()


def key_of(place, p):
    "What tells parameter `p`, number `place` of its optimizer, from all others: words 2 and 3"
    return place + shard_step * shard_of(p)


def shard_of(p):
    "Which part of `p` this process has. Copies of one part have one number"
    shard = 0
    if is_sharded(p):
        for d, placement in enumerate(p.placements):
            if placement.is_shard():
                mesh = p.device_mesh
                shard = shard * mesh.size(d) + mesh.get_local_rank(d)
    return shard


def kind_of(v):
    "Whether the draw `v` is uniform or normal"
    return UNIFORM if v.packet is aten.rand_like else NORMAL


# -- The generator --


def philox(counters, seed):
    "The words for `counters`, four rows of words, each in an int64. `seed`: a tensor of one"
    even, odd = counters[::2], counters[1::2]
    # made by kernels: a copy from the host could not be captured
    place = torch.arange(2, device=counters.device)[:, None]
    column = lambda xs: place * (xs[1] - xs[0]) + xs[0]
    key = torch.cat([seed & mask, seed >> 32 & mask])[:, None]
    times, more = column(multipliers), column(steps)
    for _ in range(10):
        product = even * times
        high, low = product >> 32 & mask, product & mask
        even, odd = high.flip(0) ^ odd ^ key, low.flip(0)
        key = key + more & mask
    return torch.stack([even[0], odd[0], even[1], odd[1]])


def uniform(words, dtype):
    if dtype == torch.float64:
        return words.to(dtype) * 2.0**-32
    return (words >> 8).to(dtype) * 2.0**-24


def normal(words, dtype):
    a, b = words[::2], words[1::2]
    if dtype == torch.float64:
        u = (a.to(dtype) + 0.5) * 2.0**-32
    else:
        u = (a >> 1).to(dtype) * 2.0**-31 + 2.0**-32
    turns = ((b ^ 0x80000000) - 0x80000000).to(torch.float64) * 2.0**-32
    radius, angle = (u.log() * -2).sqrt(), turns * (2 * math.pi)
    pairs = [radius * angle.cos().to(dtype), radius * angle.sin().to(dtype)]
    return torch.stack(pairs, 1).reshape(words.shape)


class Numbers:
    """Draws for tensors of `sizes` elements with the keys `keys`, on `device`. C makes them if it can,
    else operations of torch. `capturable`: only these could be captured"""

    def __init__(self, sizes, keys, device, capturable=False):
        self.sizes, self.keys, self.device = sizes, keys, device
        self.by_c = device.type == 'cpu' and compiler.available() and not capturable
        self.quarters = [-(-n // 4) for n in sizes]
        self.total = sum(self.quarters)
        self.facts = None

    def __call__(self, kind, draw, seed, dtype):
        "The numbers of draw `draw` for each tensor, in the order of memory"
        if not self.by_c:
            return self.by_torch(kind, draw, seed, dtype)
        numbers = torch.empty(sum(self.sizes), dtype=dtype)
        fill(numbers, self.sizes, self.keys, draw, seed.item(), kind == NORMAL)
        return [*numbers.split(self.sizes)]

    def columns(self):
        "Of each tensor the number of its counters, its first one, and the two parts of its key"
        starts = [0, *accumulate(self.quarters)][:-1]
        keys = [k % shard_step for k in self.keys]
        shards = [k // shard_step for k in self.keys]
        columns = [self.quarters, starts, keys, shards]
        return torch.tensor(columns, dtype=torch.int64, device=self.device)

    def by_torch(self, kind, draw, seed, dtype):
        if self.facts is None:
            self.facts = self.columns()
        counts, *of_each = self.facts
        start, key, shard = [
            torch.repeat_interleave(x, counts, output_size=self.total) for x in of_each
        ]
        element = torch.arange(self.total, device=counts.device) - start
        counters = torch.stack([element, torch.full_like(key, draw), key, shard])
        make = uniform if kind == UNIFORM else normal
        numbers = make(philox(counters, seed), dtype).t().reshape(-1)
        parts = numbers.split([4 * n for n in self.quarters])
        return [x[:n] for x, n in zip(parts, self.sizes)]


def lying_as(x, numbers):
    "`numbers` as a tensor of the shape of `x`, in the order in which that lies in memory"
    strides = torch.empty_like(x, device='meta').stride()
    return numbers.as_strided(x.shape, strides, numbers.storage_offset())


# -- For lists --


def of_part(part, work):
    "What makes the draws of a part of a batch: a function of a value"
    capturable, dtype = work.program.request.capturable, work.compute_dtype

    def numbers(v):
        ps = part.tensors('p')
        each = v.kind == ELEMENTS
        name = f'{v.kind} numbers'
        if name not in part.kept:
            keys = [work.keys[part.batch.at[j]] for j in part.places]
            keys = keys if each else [k % shard_step for k in keys]
            sizes = [p.numel() if each else 1 for p in ps]
            part.kept[name] = Numbers(sizes, keys, ps[0].device, capturable)
        seed = work.seeds.drawn.on(ps[0].device)
        found = part.kept[name](kind_of(v), v.draw, seed, dtype)
        return [*map(lying_as, ps, found)] if each else torch.cat(found)

    return numbers


# -- For callbacks that are called --


class Drawing(TorchDispatchMode):
    """While this lasts, what a callback draws comes from here, and not from torch's generator. It is
    called on `x`, a parameter with the key `key`, and is number `place` of its chain. `capturable`:
    what is done here may be captured"""

    _should_skip_dynamo = classmethod(lambda cls: False)

    def __init__(self, seed, key, place, x, capturable=False):
        super().__init__()
        self.seed, self.key, self.x, self.capturable = seed, key, x, capturable
        self.next = place * most_draws

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        random = torch.Tag.nondeterministic_seeded in func.tags
        if not random or not is_drawn(func, args, kwargs):
            return func(*args, **kwargs)
        result = drawn(func, args, kwargs, self.draw)
        return args[0].copy_(result) if func._schema.is_mutable else result

    def draw(self, kind, like, dtype):
        x, key = self.x, self.key
        if x.shape != like.shape:
            x, key = like, key_of(self.key % shard_step, like)
        part, device = local(x), like.device
        make = Numbers([part.numel()], [key], device, self.capturable)
        (numbers,) = make(kind, self.next, self.seed.on(device), dtype or like.dtype)
        self.next += 1
        return as_part(lying_as(part, numbers), x)

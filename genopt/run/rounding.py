"""The random numbers by which parameters and states are rounded. A number is a function of

    seed         how many steps the optimizer has taken. A checkpoint has it
    name         of what is rounded: `p`, `grad_avg`
    parameter    its place in the optimizer
    element      in the order of memory

and of nothing else. So copies of a model in several processes, as under DDP, are rounded alike,
whatever the seeds of their generators are; a run that is repeated, or resumed, has the same bits;
and torch's generator gives the model the numbers that it gives it without rounding. The numbers are
the same in the reference, in operations on lists, in C and in Triton; but where C writes codes, two
elements share a word.

The generator is the finalizer of murmur3, which mixes 32 bits. Here it works on tensors of torch;
`c.py` and `triton.py` have it in their languages, under the same names. A uniform number is the
upper 24 bits of a word, divided by 2^24."""

import zlib
import torch
from .._torch import TorchDispatchMode
from ..contract.sharded import is_sharded
from ..lower.values import aten
from .random import Seed, lying_as

__all__ = ['Rounding', 'RoundingSeed', 'Seeds', 'word_of']

golden = 0x9E3779B9


class RoundingSeed:
    """How many steps have been taken, on each device that asks for it: `start` before the first one.
    A step that a gate leaves out does not count, as where the host leaves it out. The seed stays where
    it is, so kernels can have its address, and a CUDA graph that is replayed counts"""

    def __init__(self, start=0):
        self.start, self.cells, self.counted, self.gate = start, {}, set(), None

    def begin(self, gate=None):
        "Begin a step. `gate`: that which may leave it out; nobody may ask for the seed before it is set"
        self.counted.clear()
        self.gate = gate

    def cell(self, device):
        "Where the seed is on `device`, a tensor of one. It does not count this step"
        if device not in self.cells:
            cell = torch.full((1,), self.start, dtype=torch.int64, device=device)
            self.cells[device] = cell
        return self.cells[device]

    def on(self, device):
        "The seed of this step, as a tensor of one"
        cell = self.cell(device)
        if device not in self.counted:
            cell.add_(1 if self.gate is None else self.gate.flag == 0)
            self.counted.add(device)
        return cell

    def number(self):
        "The same on the CPU, as a number"
        return self.on(torch.device('cpu')).item()

    @property
    def steps(self):
        "The steps in which something was rounded at random. This waits for devices"
        return max((c.item() for c in self.cells.values()), default=self.start)

    @steps.setter
    def steps(self, n):
        self.start = n
        for cell in self.cells.values():
            cell.fill_(n)


class Seeds:
    "What an optimizer has of seeds: `drawn`, of random numbers in callbacks, and `rounding`"

    def __init__(self, steps=0):
        self.drawn, self.rounding = Seed(), RoundingSeed(steps)


def word_of(name):
    "The word of 32 bits that stands for a name"
    return zlib.crc32(name.encode())


# -- In operations of torch --


def signed(word):
    "The int32 that has the bits of `word`"
    return (word & 0xFFFFFFFF ^ 0x80000000) - 0x80000000


def mixed(u):
    u = (u ^ (u >> 16 & 0xFFFF)) * signed(0x85EBCA6B)
    u = (u ^ (u >> 13 & 0x7FFFF)) * signed(0xC2B2AE35)
    return u ^ (u >> 16 & 0xFFFF)


def salt(seed, name, key):
    u = mixed(mixed(seed.to(torch.int32)) ^ (seed >> 32).to(torch.int32))
    return mixed(mixed(u + signed(word_of(name))) + signed(key))


def uniform(seed, name, key, n):
    "The numbers for the `n` elements of a parameter. `seed`: a tensor of one"
    place = torch.arange(n, device=seed.device).to(torch.int32)
    words = mixed(salt(seed, name, key) + place * signed(golden))
    return (words >> 8 & 0xFFFFFF).to(torch.float32) * 2.0**-24


class Rounding(TorchDispatchMode):
    """While this lasts, `torch.rand_like` gives the numbers by which what is called `name` is rounded.
    `seed`: a `RoundingSeed`; `keys`: of the parameters; `sizes`: how many numbers each of them
    gets, if they come in one tensor"""

    _should_skip_dynamo = classmethod(lambda cls: False)

    def __init__(self, seed, name, keys, sizes=None):
        super().__init__()
        self.seed, self.name, self.keys, self.sizes = seed, name, keys, sizes

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.overloadpacket is not aten.rand_like or is_sharded(args[0]):
            return func(*args, **kwargs or {})
        like = args[0]
        seed, sizes = self.seed.on(like.device), self.sizes or [like.numel()]
        found = [uniform(seed, self.name, k, n) for k, n in zip(self.keys, sizes)]
        return lying_as(like, found[0] if len(found) == 1 else torch.cat(found))

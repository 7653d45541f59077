"""Copies between the host and a device, for `offload`.

    Slot       a piece of host memory into which tensors are brought, again and again
    Copies     copies one after the other, on any device
    Streams    copies that run beside each other and beside the host, where a device has streams

A copy waits for what the device has been given to do before it. `end` lets what the device is given
next wait for the copies."""

import torch
from .memory import aligned

__all__ = [
    'Copies',
    'Slot',
    'Streams',
    'copies_for',
    'is_far',
    'lying_as',
    'on_host',
    'room_for',
]

host = torch.device('cpu')
line = 64  # bytes: tensors in a slot begin where a line of the cache does


class Copies:
    "Copies between the host and `device`, one after the other"

    def __init__(self, device):
        self.device = device

    def room(self, n_bytes):
        "New memory of the host"
        return torch.empty(n_bytes, dtype=torch.uint8, device=host)

    def to_host(self, pairs, after=None):
        """Copy pairs of a tensor on the host and one on the device. Returns what `wait` waits for.
        `after`: what `to_device` has returned for the same memory of the host"""
        for here, there in pairs:
            here.copy_(there)

    def to_device(self, pairs):
        "Copy pairs of a tensor on the device and one on the host"
        for there, here in pairs:
            there.copy_(here)

    def wait(self, arrived):
        "Let the host wait until tensors have arrived"

    def end(self):
        "Let the device wait for what is under way to it"


class Streams(Copies):
    "Copies in two streams of `device`, one for each direction, from and to pinned memory"

    def __init__(self, device):
        super().__init__(device)
        self.of = torch.get_device_module(device)
        self.inward, self.outward = self.of.Stream(device), self.of.Stream(device)

    def room(self, n_bytes):
        return torch.empty(n_bytes, dtype=torch.uint8, device=host, pin_memory=True)

    def to_host(self, pairs, after=None):
        if after is not None:
            self.inward.wait_event(after)
        return self.copy(pairs, self.inward)

    def to_device(self, pairs):
        return self.copy(pairs, self.outward)

    def copy(self, pairs, stream):
        stream.wait_stream(self.of.current_stream(self.device))
        with self.of.stream(stream):
            for x, y in pairs:
                x.copy_(y, non_blocking=True)
        return stream.record_event()

    def wait(self, arrived):
        arrived.synchronize()

    def end(self):
        self.of.current_stream(self.device).wait_stream(self.outward)


# How a kind of device copies; any other copies one after the other. The tests give CPUs copies, as
# if they were devices
copies_for = dict(cuda=Streams, xpu=Streams)


def is_far(p):
    "Whether `p` is on a device, and not in the memory of the host"
    return p.device.type in copies_for or p.device.type not in ('cpu', 'meta')


def on_host(p):
    "`p` without its graph, or a copy of it if it is on a device"
    return p.detach().to(host, copy=True) if is_far(p) else p.detach()


class Slot:
    """Host memory of its own for tensors that `copies` brings. Parts of a step that do not need it at
    the same time share a slot. `sent`: the last copy from it, which must end before the next to it"""

    def __init__(self, copies):
        self.copies, self.sent = copies, None
        self.memory = torch.empty(0, dtype=torch.uint8, device=host)

    def reserve(self, n_bytes):
        "Make room for `n_bytes`"
        if n_bytes > len(self.memory):
            self.memory = self.copies.room(n_bytes)

    def tensors(self, likes):
        "Tensors in this memory that lie as `likes` do, which have no memory"
        res, start = [], 0
        for x in likes:
            piece = self.memory[start : start + x.numel() * x.element_size()]
            res.append(piece.view(x.dtype).as_strided(x.shape, x.stride()))
            start += room_for(x)
        return res


def room_for(x):
    "The bytes of a slot that `x` takes"
    return -(-x.numel() * x.element_size() // line) * line


def lying_as(here, x):
    "`x`, or a copy of it on its device whose elements lie as those of `here`"
    x = x.detach().resolve_conj().resolve_neg()
    if aligned(x, here):
        return x
    strided = dict(dtype=x.dtype, device=x.device)
    return torch.empty_strided(here.shape, here.stride(), **strided).copy_(x)

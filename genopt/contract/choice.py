"""What a callback may do with a number that may be on the device."""

import torch
from torch import Tensor

__all__ = ['maximum', 'minimum', 'where']


def where(condition, a, b):
    """`a` if `condition`, else `b`: torch.where, also where the condition is on a number, such as a counter, which is on the host or, with
    `capturable=True`, on the device. Both are computed, so neither may raise; beside a tensor a number becomes one"""
    tensors = [x for x in (a, b) if isinstance(x, Tensor)]
    if isinstance(condition, (Tensor,torch.SymFloat)):
        if isinstance(condition, Tensor) and not tensors: a = condition.new_full((), a, dtype=torch.float64)    # as exact as a counter
        return torch.where(condition, a, b)
    res = a if condition else b
    return torch.zeros_like(tensors[0]) + res if tensors and not isinstance(res, Tensor) else res

def maximum(a, b):
    "The larger of two numbers, on the host or on the device. Python's `max` would wait for the device"
    return where(a>b, a, b)
def minimum(a, b):
    "The smaller of two numbers, on the host or on the device"
    return where(a<b, a, b)

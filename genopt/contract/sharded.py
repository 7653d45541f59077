"""Tensors of which each process has a part (`DTensor`, as `fully_shard` makes them). Chains of elementwise operations run on the parts that are
here; all others on the whole, through DTensor's own operations, which talk to the other processes."""

import sys
import torch

__all__ = ['agree', 'alike', 'as_part', 'is_sharded', 'local']


def is_sharded(x):
    m = sys.modules.get('torch.distributed.tensor')                             # not imported by us: it takes a second
    return m is not None and isinstance(x, m.DTensor)

def local(x):
    "The part of `x` that is here: the same memory"
    return x.to_local() if is_sharded(x) else x

def as_part(part, x):
    "A tensor that is sharded as `x` is, of which the part that is here is `part`; `part` itself if `x` is not sharded"
    if not is_sharded(x): return part
    whole = [p.is_partial() for p in x.placements]
    if any(whole): raise NotImplementedError("a random number like a sum over processes that is not complete; draw it like the parameter")
    return type(x).from_local(part, x.device_mesh, x.placements, run_check=False, shape=x.shape, stride=x.stride())

def alike(x, y): return x.device_mesh==y.device_mesh and x.placements==y.placements and not any(p.is_partial() for p in x.placements)

def agree(flag, tensors):
    "Whether `flag` is set in any of the processes that share one of `tensors`"
    meshes = list(dict.fromkeys(x.device_mesh for x in tensors if is_sharded(x)))
    for m in meshes:
        for d in range(m.ndim):
            on = torch.tensor(float(flag), device=m.device_type)
            torch.distributed.all_reduce(on, torch.distributed.ReduceOp.MAX, group=m.get_group(d))
            flag = bool(on.item())
    return flag

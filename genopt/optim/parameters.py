"""Which parameters an optimizer takes, and in which forms they are given."""

import warnings
import torch
from torch import Tensor
from fastcore.basics import is_iter

__all__ = ['as_groups', 'check_params', 'is_module']


def as_groups(params):
    "`params` as torch's base class takes them: tensors, named tensors or dicts. A list of lists (fastai's splitter) becomes dicts"
    if isinstance(params, Tensor): return params                            # torch itself says what is wrong with it
    if isinstance(params, (str,bytes,dict)) or is_module(params) or not is_iter(params):
        hint = (': pass model.parameters()' if is_module(params) else
                ': pass its items(), which keeps the names' if isinstance(params, dict) else '')
        raise TypeError("params argument given to the optimizer should be an iterable of Tensors, (name, Tensor) pairs, dicts or lists, "
                        f"but got {type(params).__name__}{hint}")
    if isinstance(params, (set,frozenset)):                                 # as newer torch
        warnings.warn("optimizer parameters need to be organized in ordered collections, but the ordering of tensors in sets will change between "
                      "runs. Please use a list instead. This will be an error in a future release.", FutureWarning, stacklevel=4)
    params = list(params)
    if not params: raise ValueError("optimizer got an empty parameter list; was the generator model.parameters() used before?")
    kinds = [kind(o) for o in params]
    if len(set(kinds))>1:
        i = next(i for i,k in enumerate(kinds) if k!=kinds[0])
        raise TypeError(f"params mixes kinds: item 0 is a {kinds[0]}, item {i} is a {kinds[i]} ({type(params[i]).__name__}); give one kind")
    return [dict(params=o if isinstance(o, set) else list(o)) for o in params] if kinds[0]=='list' else params

def is_module(o): return isinstance(o, torch.nn.Module) and not isinstance(o, torch.nn.ParameterList)

def kind(o):
    "What an item of `params` is: a group, a list of parameters, or (perhaps) a parameter"
    if isinstance(o, dict): return 'group'
    named = isinstance(o, tuple) and len(o)==2 and isinstance(o[0], str)
    return 'list' if is_iter(o) and not isinstance(o, (Tensor,str)) and not named else 'parameter'

def check_params(params, who):
    for i,p in enumerate(params):
        if not (p.is_floating_point() or p.is_complex()):
            raise ValueError(f"{who}: parameter {i} is {p.dtype}; only floating point and complex tensors can be optimized")
        if p.is_inference(): raise ValueError(f"{who}: parameter {i} was made in inference mode and cannot be written; clone it outside")
        if p.is_conj() or p.is_neg(): raise ValueError(f"{who}: parameter {i} is a lazy conjugate or negative; pass p.resolve_conj().resolve_neg()")
        if p.layout==torch.strided and any(s==0 and d>1 for s,d in zip(p.stride(), p.shape)):
            raise ValueError(f"{who}: parameter {i} is expanded, its elements share memory and cannot be written one by one; clone it")

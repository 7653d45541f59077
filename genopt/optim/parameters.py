"""Which parameters an optimizer takes, and in which forms they are given."""

import math,warnings
import torch
from torch import Tensor
from torch.nn.parameter import is_lazy
from fastcore.basics import is_iter
from ..contract.chain import Namespace,interpret
from ..contract.stand_ins import StandIn,shape_class,stand_in

__all__ = ['as_groups', 'check_complex', 'check_params', 'is_module']


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

def check_params(group, who):
    "Refuse a parameter that cannot be stepped. A lazy one is looked at when it has got its shape"
    names = group.get('param_names') or [f'parameter {i}' for i in range(len(group['params']))]
    for p,name in zip(group['params'], (f'{who}: {n}' for n in names)):
        if not (p.is_floating_point() or p.is_complex()):
            raise ValueError(f"{name} is {p.dtype}; only floating point and complex tensors can be optimized")
        if is_lazy(p): continue
        if p.layout!=torch.strided or p.is_nested:
            kind = 'nested' if p.is_nested else f'of layout {p.layout}'
            raise ValueError(f"{name} is {kind}, and no step can write it; pass p.to_dense(), or a list of tensors. Its gradient may be sparse")
        if p.is_inference(): raise ValueError(f"{name} was made in inference mode and cannot be written; clone it outside")
        if p.is_conj() or p.is_neg(): raise ValueError(f"{name} is a lazy conjugate or negative; pass p.resolve_conj().resolve_neg()")
        if any(s==0 and d>1 for s,d in zip(p.stride(), p.shape)):
            raise ValueError(f"{name} is expanded, its elements share memory and cannot be written one by one; clone it")

def check_complex(chain, p, hypers, name):
    """Refuse the complex parameter `p` if `chain` treats it otherwise than a row of numbers, each a pair: that chain looks at the shape, in which the
    pairs are a dimension. Found by running both on small values"""
    shape = shape_class(p.shape)
    try:
        pairs,row = p.new_empty(shape, dtype=torch.complex128),p.new_empty(2*math.prod(shape), dtype=torch.float64)
        one,other = (moves(chain, x, hypers | dict(lr=.01)) for x in (pairs, row))
        same = (one-other).abs().max()<=1e-6*one.abs().max() if one.numel() else True
    except (ValueError, TypeError, RuntimeError, IndexError): same = False
    if not same:
        raise ValueError(f"{name} is complex, and {chain} looks at its shape: it would take real and imaginary part for a dimension; give it a real "
                         "parameter, as torch.view_as_real makes it, or another algorithm in a group of its own")

def moves(chain, p, hypers):
    "By how much `chain` moves the elements of a stand-in of `p` in three steps. Each pair has a gradient across it, so that what projects does"
    def across(x):
        a,b = x.reshape(-1, 2).unbind(1)
        return torch.stack([-b, a], 1).mul((a*a + b*b)[:, None]).reshape(x.shape)
    with torch.random.fork_rng([p.device] if p.is_cuda else []):
        torch.manual_seed(0)
        ns = stand_in(p.shape, chain, p, hypers, str(chain))
        start = ns['p']
        ns['grad'] = across(start)
        for _ in range(3):
            interpret(chain, ns, lambda b, ns: b.call_all([ns], StandIn())[0] if b.is_global else b(ns))
            ns = Namespace(hypers, rows=None, loss=ns['loss'], p=ns['new_p'], grad=across(ns['new_p']), **{n: ns[n] for n in chain.state})
    return (ns['p']-start).flatten()

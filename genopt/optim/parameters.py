"""Checks of the parameters that a user gives, and their conversion to the forms that torch takes."""

import math,warnings
import torch
from torch import Tensor
from torch.nn.parameter import is_lazy
from fastcore.basics import is_iter
from ..contract.chain import Namespace,interpret
from ..contract.stand_ins import StandIn,shape_class,stand_in
from ..run.copies import is_far,on_host
from ..run.offload import why_not_moved

__all__ = ['as_groups', 'check_complex', 'check_form', 'check_moves', 'check_params', 'home', 'homes']


def as_groups(params):
    """Return `params` in a form that torch's base class takes: tensors, `(name, tensor)` pairs or group dicts.

    A list of lists, such as fastai's splitter returns, becomes a list of group dicts."""
    if isinstance(params, Tensor): return params                            # torch itself refuses it, and says why
    check_container(params)
    if isinstance(params, (set,frozenset)):                                 # newer versions of torch warn so too
        warnings.warn("optimizer parameters need to be organized in ordered collections, but the ordering of tensors in sets will change between "
                      "runs. Please use a list instead. This will be an error in a future release.", FutureWarning, stacklevel=4)
    params = list(params)
    if not params: raise ValueError("optimizer got an empty parameter list; was the generator model.parameters() used before?")
    if kind_of_all(params)!='list': return params
    return [dict(params=o if isinstance(o, set) else list(o)) for o in params]

def check_container(params):
    "Refuse `params` if it is a module, a dict, a string, or nothing that can be iterated over"
    module = is_module(params)
    if not module and not isinstance(params, (str,bytes,dict)) and is_iter(params): return
    hint = ''
    if module: hint = ': pass model.parameters()'
    elif isinstance(params, dict): hint = ': pass its items(), which keeps the names'
    elif callable(params): hint = ': call it, as in model.parameters()'
    raise TypeError("params argument given to the optimizer should be an iterable of Tensors, (name, Tensor) pairs, dicts or lists, "
                    f"but got {type(params).__name__}{hint}")

def kind_of_all(params):
    "Return the kind that all items of `params` have, and refuse a mix of kinds"
    kinds = [kind(o) for o in params]
    for i,k in enumerate(kinds):
        if k!=kinds[0]:
            raise TypeError(f"params mixes kinds: item 0 is a {kinds[0]}, item {i} is a {k} ({type(params[i]).__name__}); give one kind")
    return kinds[0]

def is_module(o): return isinstance(o, torch.nn.Module) and not isinstance(o, torch.nn.ParameterList)

def kind(o):
    "Return the kind of an item of `params`: 'group', 'list' or 'parameter'. A 'parameter' may be anything that is neither of the others"
    if isinstance(o, dict): return 'group'
    named = isinstance(o, tuple) and len(o)==2 and isinstance(o[0], str)
    return 'list' if is_iter(o) and not isinstance(o, (Tensor,str)) and not named else 'parameter'

def check_form(group, who):
    "Refuse `group` unless it is a dict whose `params` is something other than a module"
    if not isinstance(group, dict): raise TypeError(f"param_group must be a dict, but got {type(group)}")
    if 'params' not in group: raise ValueError(f"{who} has no 'params'; it has {', '.join(map(repr, group)) or 'nothing'}")
    if is_module(group['params']): raise TypeError(f"{who}: params is a module; pass its parameters()")

def check_params(group, who):
    "Refuse a parameter that no step can write"
    names = group.get('param_names') or [f'parameter {i}' for i in range(len(group['params']))]
    for p,name in zip(group['params'], names):
        if fault := fault_of(p): raise ValueError(f"{who}: {name} {fault}")

def fault_of(p):
    "Say why no step can write the parameter `p`, or return `None`. Of a lazy parameter only the dtype is known; more is checked once it has a shape"
    if not (p.is_floating_point() or p.is_complex()): return f"is {p.dtype}; only floating point and complex tensors can be optimized"
    if is_lazy(p): return None
    if p.layout!=torch.strided or p.is_nested:
        what = 'nested' if p.is_nested else f'of layout {p.layout}'
        return f"is {what}, and no step can write it; pass p.to_dense(), or a list of tensors. Its gradient may be sparse"
    if p.is_inference(): return "was made in inference mode, so no step can write it; pass p.clone(), made outside of that mode"
    if p.is_conj() or p.is_neg(): return "is a lazy conjugate or negative; pass p.resolve_conj().resolve_neg()"
    if is_expanded(p): return "is expanded: its elements share memory, so no step can write them one by one; pass p.clone()"
    return None

def check_moves(group, who):
    "Refuse a parameter of a group with `offload` that cannot be moved to the host"
    names = group.get('param_names') or [f'parameter {i}' for i in range(len(group['params']))]
    for p,name in zip(group['params'], names):
        if not is_lazy(p) and (why := why_not_moved(p)): raise ValueError(f"{who}: {name} {why}")

def home(p, group):
    "The parameter `p` of `group`, or a copy of it on the host if its states are there"
    return on_host(p) if group.get('offload') else p

def homes(group):
    "Tensors like the parameters of `group`, with any values, on the devices that compute them"
    return [torch.empty_like(p, device='cpu') if group.get('offload') and not is_lazy(p) and is_far(p) else p for p in group['params']]

def is_expanded(p): return any(s==0 and d>1 for s,d in zip(p.stride(), p.shape))

def check_complex(chain, p, hypers, name):
    """Refuse the complex parameter `p` if `chain` looks at the shape of what it is given.

    genopt passes a complex parameter to the callbacks as real pairs, so the shape has one more dimension, of 2. A chain that looks at the shape
    would take that for a dimension of the parameter. To find out, this function runs the chain twice on small values: as pairs, and as one row
    of real numbers. The two must move alike."""
    shape = shape_class(p.shape)
    try:
        pairs,row = p.new_empty(shape, dtype=torch.complex128),p.new_empty(2*math.prod(shape), dtype=torch.float64)
        one,other = (moves(chain, x, hypers | dict(lr=.01)) for x in (pairs, row))
        same = (one-other).abs().max()<=1e-6*one.abs().max() if one.numel() else True
    except (ValueError, TypeError, RuntimeError, IndexError): same = False
    if not same:
        raise ValueError(f"{name} is complex, and {chain} reads its shape, "
                         "in which real and imaginary part would count as one more dimension; give it a "
                         "real parameter, torch.view_as_real(p), or put it in a group with another algorithm")

def moves(chain, p, hypers):
    """Return by how much `chain` moves the elements of a stand-in of `p` in three steps.

    The gradient of each pair is at right angles to the pair. A callback that projects the gradient on the parameter then changes it."""
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

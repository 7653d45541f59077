"""State dicts: what is checked before one is loaded, and other libraries' formats. genopt reads torch.optim's and fastai's, and writes torch's."""

import inspect,warnings
from itertools import islice
from torch import Tensor
from torch.nn.parameter import is_lazy
import torch
from ..contract.codes import codes as codes_of_genopt
from ..contract.messages import names_of
from ..contract.sharded import local
from ..contract.state import as_declared,first,torch_names
from ..contract.tensors import describe,plain
from ..contract.weights import policies
from .origin import check_origin,remedy,unsign,without_foreign
from .recipe import keep_plain
from .storage import codes_in

__all__ = ['checked', 'torch_state_dict']


of_optimizer = 'cbs','foreach','fused','store','offload'         # a file does not choose what a group runs, how steps run, and where states are


# -- Checks before loading --

def checked(opt, state_dict: dict, strict: bool=True) -> dict:
    """`state_dict` as `opt` loads it: parameters in the order of `opt` where both know their names, states under genopt's names. Changes nothing.
    `strict=False` takes the state of another algorithm, too.

    Raises `ValueError` or `TypeError` for what does not fit; the error names the group or the parameter."""
    who = f"{opt.name}, loading a state dict"
    if isinstance(state_dict, dict) and state_dict.keys()=={'state','hypers'}:
        state_dict = from_fastai(opt, state_dict, who)
    check_keys(state_dict, who)
    groups = opt.param_groups
    saved  = state_dict['param_groups']
    check_sizes(groups, saved, who)
    res    = []
    states = dict(state_dict['state'])
    for n,(group,old) in enumerate(zip(groups, by_name(groups, saved, who))):
        where,recipe = f"{who}, param group {n}",opt._recipe(group)
        if strict: check_origin(recipe, group, old, where)
        else: old = without_foreign(recipe, group, old)
        old = {k: v for k,v in old.items() if k!='cbs'} | {k: group[k] for k in of_optimizer if k in group}
        unsign(group, old)
        keep_plain(old, recipe.defaults.keys()&old.keys())
        chain = recipe.check(group | old | dict(params=group['params']), where)
        if strict: check_algorithm(opt, [*zip(names_of(group, n), old['params'], group['params'])], states, chain, who)
        known = codes_in(group['store'])
        for name,i,p in zip(names_of(group, n), old['params'], group['params']):
            if i in states:
                states[i] = check_state(states[i], chain, known, p, f"{who}, {name}", opt.nonfinite)
        res.append(old)
    return state_dict | dict(state=states, param_groups=res)

def sizes(groups): return [len(g['params']) for g in groups]

def check_keys(state_dict, who):
    got = list(state_dict) if isinstance(state_dict, dict) else type(state_dict).__name__
    if 'state' not in got or 'param_groups' not in got:
        raise ValueError(f"{who}: it must be a dict with 'state' and 'param_groups', as state_dict() gives; got {got}")

def check_sizes(groups, saved, who):
    "Refuse other groups than there are, in torch's words and with their numbers and names"
    ours,theirs = sizes(groups),sizes(saved)
    if len(ours)!=len(theirs):
        raise ValueError(f"{who}: loaded state dict has a different number of parameter groups: {len(theirs)}, with {listed(theirs)} parameters; "
                         f"the optimizer has {len(ours)}, with {listed(ours)}")
    for n,(a,b) in enumerate(zip(ours, theirs)):
        if a==b: continue
        known = names(groups[n:n+1]),names(saved[n:n+1])
        here,there = ([k for k in known[i] if k not in known[1-i]] for i in (0, 1)) if all(known) else ([], [])
        told = ''.join(f"; {what}: {', '.join(ks[:5])}" for what,ks in (('only in the optimizer', here), ('only in the state dict', there)) if ks)
        raise ValueError(f"{who}: loaded state dict contains a parameter group that doesn't match the size of optimizer's group: "
                         f"param group {n} has {b} parameters, that of the optimizer {a}{told}")

def listed(sizes): return ', '.join(map(str, sizes)) or 'no'

def by_name(groups, saved, who):
    "The `saved` groups with their parameters in the order of `groups`, where every parameter has a name of its own in both"
    ours,theirs = names(groups),names(saved)
    if not ours or not theirs or ours==theirs or len(set(ours))<len(ours):
        return saved
    check_names(ours, theirs, who)
    numbers = dict(zip(theirs, (i for g in saved for i in g['params'])))
    own = [[*g['param_names']] for g in groups]
    return [old | dict(params=[numbers[n] for n in ns], param_names=ns) for old,ns in zip(saved, own)]

def names(groups):
    "The names of all parameters; an empty list where a group has none"
    return [n for g in groups for n in g['param_names']] if all('param_names' in g for g in groups) else []

def check_names(ours, theirs, who):
    missing = [n for n in ours if n not in theirs]
    unknown = [n for n in theirs if n not in ours]
    if missing or unknown:
        raise ValueError(f"{who}: the state dict has no state for {', '.join(missing[:5]) or 'nothing'} but has one for {', '.join(unknown[:5])}; "
                         "load it into a model with the same names, or drop 'param_names' from its groups to go by order")

def check_state(state, chain, known, p, who, nonfinite):
    "The saved `state` of the parameter `p` under the names and in the types of `chain`. `known`: codes by name, in which it may be"
    if is_lazy(p):
        raise ValueError(f"{who}: it has no shape yet; load the model first, or run it once")
    if not isinstance(state, dict):
        raise ValueError(f"{who}: its state is a {type(state).__name__}, not a dict")
    state,bad = in_own_codes(from_torch(state, chain), chain, known, p, who)
    found = [n for n in chain.state if n in state]
    check_missing(found, chain, p, who)
    if p.numel():
        check_nan({n: v for n,v in state.items() if n in found} | bad, who, nonfinite)
    for n in found:
        state |= chain.state[n].stored(n, check_value(n, state[n], chain.state[n], p, who))
    return with_own_weights(state, chain, p, who)

def with_own_weights(state, chain, p, who):
    "The saved `state` with what `chain` keeps beside the parameter `p`. What another policy kept there is converted, or dropped if `p` has float32"
    saved = {n: v for n,v in state.items() if n.startswith('p.')}
    for n in saved: check_beside(n, saved, p, who)
    res = {n: v for n,v in state.items() if n not in saved}
    return res | chain.beside(p, saved) if any(n in saved for n in known_beside(p)) else res

def known_beside(p):
    "What policies put beside the parameter `p`: the dtypes of each name. `p.low` has 8 bits or 16"
    res = {}
    for policy in policies.values():
        for n,dtype in policy.beside('p', p.dtype).items(): res.setdefault(n, []).append(dtype)
    return res

def check_beside(n, saved, p, who):
    "Bring the tensor that was `saved` as `n` to the device of the parameter `p`. Refuses one that cannot be beside it"
    v,dtypes = saved[n],known_beside(p).get(n)
    if dtypes is None: return
    fits = [t for t in dtypes if v.dtype==t or v.is_floating_point() and t.is_floating_point()] if isinstance(v, Tensor) and v.shape==p.shape else []
    if not fits:
        raise ValueError(f"{who}: {n!r} must be a tensor of {' or '.join(str(t)[6:] for t in dtypes)}, of shape {tuple(p.shape)}; it is "
                         f"{describe(v)}{f', of {str(v.dtype)[6:]}' if isinstance(v, Tensor) else ''}")
    saved[n] = v.to(p.device, fits[0])

def in_own_codes(state, chain, known, p, who):
    """The saved `state` without codes, but for states of which `chain` keeps the same code for the parameter `p`. These stay as they are, so that no
    digit is lost. Also the scales of these, which show NaN where codes cannot. `known`: codes by name"""
    res,scales = dict(state),{}
    for n,init in chain.state.items():
        expected = first(init, p)
        if not isinstance(expected, Tensor) or not expected.is_floating_point(): continue
        code,beside = saved_code(n, state, init, known, who)
        if code is None: continue
        if init.code_for(expected)==code: scales[code.beside(n)] = state[beside]
        else: res[n] = code.seen(state[n], state[beside])
        if beside not in scales: del res[beside]
    return res | scales,scales

def saved_code(n, state, init, known, who):
    """The code in which the state `n`, of floating point, was saved, and under which name its scales; twice None if it is in none. Refuses a code
    that nobody knows, and codes without scales that fit"""
    codes  = state.get(n)
    coded  = isinstance(codes, Tensor) and codes.dtype in (torch.uint8,torch.int8)
    beside = [k for k in state if k.startswith(f'{n}.')]
    if not beside and not coded: return None,None
    if not beside:
        raise ValueError(f"{who}: {n!r} is stored as codes, but the state lacks their scales, such as {codes_of_genopt['int8'].beside(n)!r}")
    if not coded: raise ValueError(f"{who}: the state has the scales {beside[0]!r}, but no codes as {n!r}")
    name = beside[0].removeprefix(f'{n}.').replace('scale', 'int8')                         # files of before November 2026
    code = (known | ({init.code.name: init.code} if getattr(init, 'code', None) else {})).get(name)
    if code is None:
        raise ValueError(f"{who}: {n!r} was saved in the code {name!r}, which the optimizer does not know; give it that code: "
                         f"store={{..., '*': {name}}}, as the last pattern")
    scale,size = state[beside[0]],code.n_blocks(codes)
    if not isinstance(scale, Tensor) or scale.dtype!=torch.float32 or scale.shape!=(size,):
        raise ValueError(f"{who}: {beside[0]!r} must be a float32 tensor of {size} elements, one for each {code.block} of {n!r}; it is "
                         f"{describe(scale)}")
    if codes.dtype!=code.dtype:
        raise ValueError(f"{who}: {n!r} has codes of {str(codes.dtype)[6:]}, and the code {name!r} has {str(code.dtype)[6:]}; is it another code of "
                         "that name?")
    return code,beside[0]

def check_algorithm(opt, params, states, chain, who):
    """Refuse the states of another algorithm: those that have a state more and a state less than `chain`. A state dict of torch must have just the
    states of `chain`, because torch keeps all states of an algorithm, and the file has its settings. A list of callbacks may keep more than torch's
    algorithm in it"""
    for name,i,p in params:
        if not isinstance(states.get(i), dict) or is_lazy(p): continue
        own = from_torch(states[i], chain)
        extra,missing = unknown(own, chain),lacking(own, chain, p)
        of_torch = own.keys()!=states[i].keys()
        if extra and missing or of_torch and (extra or missing and opt.arguments):
            raise ValueError(f"{who}, {name}: the state dict has the states {', '.join(states[i]) or 'none'}, and {opt.name} keeps "
                             f"{', '.join(chain.state) or 'none'}: another algorithm has saved it. {remedy}")

def unknown(state, chain):
    "The names of tensors in `state` that `chain` does not keep. What stands beside one, such as its scales, counts as that one"
    tensors = dict.fromkeys(n.partition('.')[0] for n,v in state.items() if isinstance(v, Tensor) and v.ndim)
    return [n for n in tensors if n not in chain.state and n!='p']

def lacking(state, chain, p):
    "The states of `chain` that `state` does not have. One without elements may be missing"
    return [n for n in chain.state if n not in state and torch.as_tensor(first(chain.state[n], p)).numel()]

def check_missing(found, chain, p, who):
    "Warn where the file has some states of the chain and not others"
    missing = lacking(found, chain, p)
    if found and missing:
        warn(f"{who}: the state has {', '.join(found)} but no {', '.join(missing)}, which start{'s'*(len(missing)==1)} anew. "
             "That is right if you have added a callback since; otherwise the file lacks a part")

def check_nan(state, who, nonfinite):
    "Warn of NaN in a state, or in its scales; refuse it where the optimizer refuses gradients that are not finite"
    for n,v in state.items():
        if not isinstance(v, Tensor) or v.is_meta or not local(v).isnan().any(): continue
        message = f"{who}: {n.partition('.')[0]!r} has NaN, and so will have the parameter after the next step; load an earlier checkpoint"
        if nonfinite!='propagate':
            raise ValueError(message)
        return warn(message)

def check_value(n, v, init, p, who):
    "The saved value `v` of the state `n`, if it has the type and the shape that `init` gives it for the parameter `p`"
    expected = first(init, p)
    v = as_declared(v, init, p)
    if isinstance(v, Tensor)!=isinstance(expected, Tensor) or not isinstance(v, (Tensor,bool,int,float)):
        raise ValueError(f"{who}: {n!r} is a {type(v).__name__}; it must be of type {type(expected).__name__}")
    if isinstance(v, Tensor) and not init.fits(v, expected):
        raise ValueError(f"{who}: {n!r} has shape {tuple(v.shape)}; for a parameter of shape {tuple(p.shape)} it must have {tuple(expected.shape)}")
    if isinstance(v, Tensor) and v.is_floating_point() and expected.is_floating_point():
        return v.to(init.largest(p).dtype)
    return v

def warn(message): warnings.warn(message, stacklevel=10)         # the line that calls `load_state_dict`: torch puts frames of its own between


# -- fastai's format --

def from_fastai(opt, saved, who):
    "fastai's state dict, which has one list with the states of all parameters and the hyper-parameters of each group, in torch's form"
    states,hypers = saved['state'],saved['hypers']
    counts = sizes(opt.param_groups)
    if len(states)!=sum(counts) or len(hypers)!=len(counts):
        raise ValueError(f"{who}: the state is fastai's, of {len(states)} parameters in {len(hypers)} groups; "
                         f"the optimizer has {sum(counts)} in {len(counts)}")
    numbers = iter(range(len(states)))
    groups  = []
    for group,values in zip(opt.param_groups, hypers):
        group  = group | dict(params=[*islice(numbers, len(group['params']))])
        recipe = opt._recipe(group)
        view   = recipe.view(group)
        for k in values.keys()&view.keys():
            view[k] = plain(values[k])
        chain = recipe.chain(group, rehearsed=False)
        for i in group['params']:
            check_fastai(i, states[i], chain, who)
        groups.append(group)
    return dict(state=dict(enumerate(states)), param_groups=groups)

def check_fastai(i, state, chain, who):
    "Refuse the state of parameter `i` if it has a tensor that the chain does not keep. A 0-dim tensor is none: fastai's Larc stores a rate so"
    for n,v in state.items():
        if isinstance(v, Tensor) and v.ndim and n not in chain.state:
            kept = ', '.join(chain.state) or 'nothing'
            raise ValueError(f"{who}, parameter {i}: the state of fastai has {n}, and the callbacks keep {kept}; "
                             "load it into the algorithm that saved it")


# -- torch's format --

def names_in_torch(chain):
    "torch's name of each state = ours. torch calls an average of updates `momentum_buffer` too"
    return torch_names | (dict(momentum_buffer='update_avg') if 'update_avg' in chain.state else {})

def from_torch(state, chain):
    """The `state` of one parameter under our names, if it has torch's. A count that only torch keeps is dropped. A count that only the chain keeps,
    that of SGD's dampening, is set to 1: the chain asks only whether the first step is over"""
    if not state.keys()&torch_names.keys():
        return state
    names = names_in_torch(chain)
    res   = {'step': 1} | {names.get(k,k): v for k,v in state.items() if v is not None}
    if 'step' not in chain.state:
        del res['step']
    return res

def torch_state_dict(opt) -> dict:
    """The state dict of `opt` as torch.optim's algorithm of the same name loads it. One step of torch's shows what it keeps, under which names.

    Raises `ValueError` where torch has no such algorithm."""
    cls = getattr(torch.optim, opt.name, None)
    if not opt.arguments or not isinstance(cls, type) or any('cbs' in g for g in opt.param_groups):
        raise ValueError(f"torch.optim has no {opt!r}; save state_dict(), which genopt loads")
    res = opt.state_dict()
    for group,saved in zip(opt.param_groups, res['param_groups']):
        unsign(group, saved)
        chain    = opt._recipe(group).chain(group)
        to_ours  = names_in_torch(chain)
        examples = {ndim: after_a_step(cls, group, ndim) for ndim in {p.ndim for p in group['params']}}
        for example,_ in examples.values():
            for k,v in example.defaults.items():
                saved.setdefault(k, v)
        for i,p in zip(saved['params'], group['params']):
            if state := res['state'].get(i):
                _,example = examples[p.ndim]
                values = {n: init.seen(n, state) for n,init in chain.state.items() if n in state and len(init.names(n, state[n]))>1}
                res['state'][i] = to_torch(state|values, example, to_ours)
    return res

def after_a_step(cls, group, ndim):
    "torch's optimizer with the settings of `group`, and what it keeps after a step for a parameter with `ndim` dimensions"
    known = inspect.signature(cls).parameters.keys()-{'params','foreach','fused','capturable'}
    p = torch.zeros([1]*ndim, requires_grad=True)
    p.grad = torch.zeros_like(p)
    opt = cls([p], **{k: group[k] for k in group.keys()&known})
    opt.step()
    return opt,opt.state[p]

def to_torch(state, example, to_ours):
    "The `state` of one parameter under torch's names, which are those of the `example`. What our state has not keeps the value of the example"
    return {k: value_in_torch(state.get(to_ours.get(k,k), v), v) for k,v in example.items()}

def value_in_torch(v, example):
    """A value of our state in the form of torch's `example`: a number becomes a tensor where torch keeps one, a float a float64 tensor, so that only
    torch's loading rounds it. A tensor is copied, because that loading would share it"""
    if isinstance(v, Tensor) and isinstance(example, Tensor) and not v.is_floating_point():
        return v.to(example.dtype)                               # a counter in shared memory
    if isinstance(v, Tensor):
        return v.clone()
    if isinstance(example, Tensor):
        return torch.tensor(v, dtype=torch.float64 if isinstance(v, float) else example.dtype)
    return v

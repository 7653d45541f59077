"""State dicts: what is checked before one is loaded, parameters found by their names; torch.optim's own, which are understood and written, and
fastai's, which are understood."""

import inspect,itertools,warnings
from torch import Tensor
import torch
from ..contract.messages import names_of
from ..contract.sharded import local
from ..contract.state import as_declared,first
from ..contract.tensors import plain
from .hypers import Hypers

__all__ = ['checked', 'torch_state_dict']

# torch's names of what is kept for a parameter = ours. A `momentum_buffer` is of gradients, or of updates where the chain keeps such
spellings = dict(exp_avg='grad_avg', exp_avg_sq='sqr_avg', max_exp_avg_sq='max_sqr_avg', square_avg='sqr_avg', momentum_buffer='grad_avg',
                 sum='sqr_sum', acc_delta='sqr_update_avg', exp_inf='grad_max', ax='eval_p', prev='prev_grad',
                 row_var='row_avg', col_var='col_avg', variance='row_avg')

def spelled(chain): return spellings | (dict(momentum_buffer='update_avg') if 'update_avg' in chain.state else {})

def ours(state, chain):
    """The state of one parameter in our names, if it has torch's. A count that only torch keeps is left out; of one that only the chain keeps
    (SGD's dampening) all that matters is that the first step is over"""
    if not state.keys()&spellings.keys(): return state
    names = spelled(chain)
    res = {names.get(k,k): v for k,v in state.items() if v is not None and (k!='step' or k in chain.state)}
    return ({'step': 1} if 'step' in chain.state else {}) | res


def from_fastai(opt, saved, who):
    "What fastai's own optimizers save, all states in one list and the hyper-parameters of each group, as torch would"
    state,hypers,sizes,groups = saved['state'],saved['hypers'],[len(g['params']) for g in opt.param_groups],[]
    if len(state)!=sum(sizes) or len(hypers)!=len(sizes):
        raise ValueError(f"{who}: it is fastai's, of {len(state)} parameters in {len(hypers)} groups; here are {sum(sizes)} in {len(sizes)}")
    for g,own in zip(opt.param_groups, hypers):
        first = sum(sizes[:len(groups)])
        group = dict(g) | dict(params=[*range(first, first+len(g['params']))])
        recipe = opt._recipe(g)
        view = Hypers(group, recipe.own)
        for k in own.keys()&view.keys(): view[k] = plain(own[k])
        chain = recipe.chain(group | dict(params=[]), rehearsed=False)
        for i in group['params']:
            if odd := [k for k,v in state[i].items() if isinstance(v, Tensor) and v.ndim and k not in chain.state]:         # Larc keeps a rate
                keeps = ', '.join(chain.state) or 'nothing'
                raise ValueError(f"{who}, parameter {i}: fastai's keeps {odd[0]}, the callbacks {keeps}; was it saved by another algorithm?")
        groups.append(group)
    return dict(state=dict(enumerate(state)), param_groups=groups)

def checked(opt, state_dict):
    """`state_dict` as it will be loaded: parameters in the order of `opt`, where both know their names; torch's names in ours. Raises `ValueError`
    for what cannot be loaded, naming the parameter; then nothing has changed"""
    who = f"{opt.name}, loading a state dict"
    if isinstance(state_dict, dict) and state_dict.keys()=={'state','hypers'}: state_dict = from_fastai(opt, state_dict, who)
    for k in ('state', 'param_groups'):
        if not isinstance(state_dict, dict) or k not in state_dict:
            raise ValueError(f"{who}: it must be a dict with 'state' and 'param_groups', as state_dict() gives; "
                             f"got {list(state_dict) if isinstance(state_dict, dict) else type(state_dict).__name__}")
    groups,saved = opt.param_groups,state_dict['param_groups']
    if [len(g['params']) for g in groups]!=[len(g['params']) for g in saved]: return state_dict            # torch says so itself
    how   = 'foreach','fused'                                              # the way a step is run is ours to say
    saved = [old | {k: g[k] for k in how} for g,old in zip(groups, by_name(groups, saved, who))]
    state = dict(state_dict['state'])
    for n,(group,old) in enumerate(zip(groups, saved)):
        if (a := group.get('cbs'))!=(b := old.get('cbs')):
            raise ValueError(f"{who}, param group {n}: it runs {a or opt.name}, and the saved one {b or 'the cbs of its optimizer'}")
        chain = opt._recipe(group).check(group | {k: v for k,v in old.items() if k not in ('params', 'param_names')}, f"{who}, param group {n}")
        for name,i,p in zip(names_of(group, n), old['params'], group['params']):
            if i in state: state[i] = fitting(state[i], chain, p, f"{who}, {name}", opt.nonfinite)
    return state_dict | dict(state=state, param_groups=saved)

def by_name(groups, saved, who):
    "The saved groups with their parameters in our order, where all names are known"
    if not all('param_names' in g for g in (*groups, *saved)): return saved
    here,there = [[*itertools.chain.from_iterable(g['param_names'] for g in gs)] for gs in (groups, saved)]
    if here==there or len({*here})<len(here): return saved
    if {*here}!={*there}:
        missing,more = [n for n in here if n not in there],[n for n in there if n not in here]
        raise ValueError(f"{who}: it has no state for {', '.join(missing[:5]) or 'nothing'} but has one for {', '.join(more[:5])}; "
                         "load it into a model with the same names, or drop 'param_names' from its groups to go by order")
    ids = dict(zip(there, itertools.chain.from_iterable(g['params'] for g in saved)))
    return [old | dict(params=[ids[n] for n in g['param_names']], param_names=[*g['param_names']]) for g,old in zip(groups, saved)]

def fitting(state, chain, p, who, nonfinite='propagate'):
    "The state of parameter `p`, if it is one of `chain`"
    if not isinstance(state, dict): raise ValueError(f"{who}: its state is a {type(state).__name__}, not a dict")
    state = ours(state, chain)
    tensors = [n for n,v in state.items() if isinstance(v, Tensor) and v.ndim]
    if chain.state and tensors and not state.keys()&chain.state.keys():
        raise ValueError(f"{who}: it keeps {', '.join(tensors)}, the callbacks {', '.join(chain.state)}; was it saved by another algorithm?")
    here = state.keys()&chain.state.keys()
    if here and (missing := [n for n,init in chain.state.items() if n not in here and holds_something(first(init, p))]):
        warnings.warn(f"{who}: the state has {', '.join(n for n in chain.state if n in here)} but no {', '.join(missing)}, which starts anew: "
                      "right if a callback was added since, else the file lacks a part", stacklevel=6)
    if p.numel() and (poisoned := [n for n in here if isinstance(v := state[n], Tensor) and not v.is_meta and local(v).isnan().any()]):
        told = f"{who}: {poisoned[0]!r} has NaN, and so will have the parameter after the next step; load an earlier checkpoint"
        if nonfinite!='propagate': raise ValueError(told)
        warnings.warn(told, stacklevel=6)
    res = dict(state)
    for n in state.keys()&chain.state.keys():
        like = first(chain.state[n], p)
        res[n] = v = as_declared(state[n], chain.state[n], p)
        if isinstance(v, Tensor)!=isinstance(like, Tensor) or not isinstance(v, (Tensor,bool,int,float)):
            raise ValueError(f"{who}: {n!r} is a {type(v).__name__}, where a {type(like).__name__} is kept")
        if isinstance(v, Tensor) and v.shape!=like.shape:
            raise ValueError(f"{who}: {n!r} has shape {tuple(v.shape)}; for a parameter of shape {tuple(p.shape)} it is {tuple(like.shape)}")
    return res

def holds_something(v): return not isinstance(v, Tensor) or v.numel()>0         # a state of no elements is not missed

def torch_state_dict(opt):
    """The state dict of `opt` as torch.optim's algorithm of the same name loads it. What that keeps, and under which names, is seen by
    letting it take a step. Raises `ValueError` where torch has no such algorithm"""
    cls = getattr(torch.optim, opt.name, None)
    if not opt.arguments or not isinstance(cls, type) or any('cbs' in g for g in opt.param_groups):
        raise ValueError(f"torch.optim has no {opt!r}; state_dict() is what genopt itself loads")
    res = opt.state_dict()
    for group,saved in zip(opt.param_groups, res['param_groups']):
        names = spelled(opt._recipe(group).chain(group))
        known = {k: v for k,v in group.items() if k in inspect.signature(cls).parameters and k not in ('params','foreach','fused','capturable')}
        likes = {ndim: after_a_step(cls, ndim, known) for ndim in {p.ndim for p in group['params']}}
        for like,_ in likes.values(): saved |= {k: v for k,v in like.defaults.items() if k not in saved}
        for i,p in zip(saved['params'], group['params']):
            if s := res['state'].get(i): res['state'][i] = {k: as_theirs(s.get(names.get(k,k), v), v) for k,v in likes[p.ndim][1].items()}
    return res

def after_a_step(cls, ndim, settings):
    "torch's optimizer, and what it keeps for a parameter of so many dimensions"
    (p := torch.zeros([1]*ndim, requires_grad=True)).grad = torch.zeros([1]*ndim)
    opt = cls([p], **settings)
    opt.step()
    return opt,opt.state[p]

def as_theirs(v, like):
    """A value of our state as torch keeps it: a counter in a tensor, a number in one that does not round it (torch's loading will, where it must);
    and on its own, because that loading shares what it is given"""
    if isinstance(v, Tensor): return v.clone()
    return torch.tensor(v, dtype=torch.float64 if isinstance(v, float) else like.dtype) if isinstance(like, Tensor) else v

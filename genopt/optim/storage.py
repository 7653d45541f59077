"""In which dtype or code states are stored. A policy names states by a pattern, and says a dtype:

    AdamW(params, store={'sqr_avg': 'float32', '*_avg': 'bfloat16'})
    AdamW(params, store='int8')                                            # the same as {'*': 'int8'}
    AdamW(params, store={'sqr_avg': my_code})                              # a `genopt.Code`

The first pattern that matches a state counts. Two kinds of states match only their exact name. The first is a state that its callback declares
as `exact(zeros)`, for instance a sum, or a matrix from which others are computed. The second is a copy of the weights (`p0`, `eval_p`) under a code,
because 8 bits are too few for weights. A policy changes only what the callbacks declare: `grad_avg=zeros` becomes
`grad_avg=kept(zeros, 'bfloat16')`. So a step runs in the same ways as before, and callbacks see float32.

`p` is the parameter. It has policies of its own, `store={'p': 'master'}`, which `genopt.contract.weights` describes. No pattern matches it. Without
such an entry it has the default policy, which keeps 24 bits of parameters in bfloat16."""

from collections.abc import Mapping
from fnmatch import fnmatchcase
from functools import lru_cache,partial
import torch
from ..contract.block import Block
from ..contract.codes import Code,codes
from ..contract.messages import did_you_mean
from ..contract.state import Kept,copy_of_p,first,floats,kept,zeros
from ..contract.tensors import wide
from ..contract.weights import default,nearest,weights_of

__all__ = ['check_matches', 'check_weights', 'codes_in', 'policies', 'saved', 'weights_in', 'with_storage']


def policies(store) -> tuple | None:
    """`store` as a group keeps it: a tuple of `(pattern, dtype, rounding, smallest)` and `('p', policy)`. None for no policy.

    `store`: a dict from a pattern to a dtype or a code, or to a dict of the arguments of `kept`, and from `'p'` to a policy for parameters; a dtype
    or a code for all states; or that tuple. Raises `TypeError` or `ValueError` for another value"""
    if store is None: return None
    if isinstance(store, (str,torch.dtype,Code)): store = {'*': store}
    if isinstance(store, (tuple,list)): store = {pattern: dict(zip(arguments, values)) for pattern,*values in store}
    if not isinstance(store, Mapping): raise TypeError(f"store must be a dict of states and dtypes, such as {{'sqr_avg': 'bfloat16'}}; got {store!r}")
    found = tuple(policy(*item) for item in store.items())
    check_names(found)
    return found or None

def codes_in(store) -> dict:
    "The codes in `store`, which is as a group keeps it, by name, and those that come with genopt"
    return codes | {how[0].name: how[0] for pattern,*how in store or () if isinstance(how[0], Code)}

def saved(store):
    "`store`, which is as a group keeps it, as a checkpoint holds it: a code is its name"
    return store and tuple(tuple(v.name if isinstance(v, Code) else v for v in entry) for entry in store)

def check_names(store):
    "Refuse two codes of one name: a checkpoint could not tell them apart"
    known = {}
    for _,how,*_ in store:
        if isinstance(how, Code) and known.setdefault(how.name, how)!=how:
            raise ValueError(f"store has two codes called {how.name!r}; rename one")

arguments = 'dtype','rounding','smallest'                                  # of `kept`

def policy(pattern, how):
    if not isinstance(pattern, str): raise TypeError(f"store: {pattern!r} must be the name of a state, or a pattern such as '*_avg'")
    if pattern=='p': return pattern,policy_for_p(how)
    how = dict(how) if isinstance(how, Mapping) else dict(dtype=how)
    if bad := how.keys()-{*arguments}: raise TypeError(f"store: {pattern!r} has the unknown setting {min(bad)!r}; choose from {', '.join(arguments)}")
    if 'dtype' not in how: raise TypeError(f"store: {pattern!r} has no dtype; give one, such as dict(dtype='bfloat16', ...)")
    try: init = kept(zeros, **how)
    except ValueError as e: raise ValueError(f"store, {pattern!r}: {e}") from None
    return pattern,*init.args[1:]

def policy_for_p(how):
    name = how['dtype'] if isinstance(how, Mapping) and how.keys()=={'dtype'} else how
    try: return weights_of(str(name)).name
    except ValueError as e: raise ValueError(f"store, 'p': {e}") from None

def weights_in(store):
    "The policy for parameters that `store` has, which is as a group keeps it; the default if it has none"
    return next((weights_of(how[0]) for pattern,*how in store or () if pattern=='p'), default)

def with_storage(cb, store):
    "The callback `cb` with the dtypes of `store` for the states that it declares"
    new = {}
    block = Block(cb)
    names = {member: n for n,member in zip(block.reads, block.names)}
    for n,init in block.state.items():
        found = next((p for p in store if fnmatchcase(n, p[0]) and fits(p, n, init)), None)
        if found: new[names[n]] = kept(init, *found[1:])
    return partial(cb, **new) if new else cb

def fits(entry, n, init):
    "Whether the `entry` of a policy, whose pattern matches the state `n`, is for what `init` makes"
    pattern,dtype,*_ = entry
    by_name_only = init.exact or init==copy_of_p and dtype not in floats
    return is_tensor(init) and not isinstance(init, Kept) and (pattern==n or not by_name_only)

@lru_cache(4096)
def is_tensor(init):
    "Whether `init` makes a tensor, and no number"
    try: return isinstance(first(init, torch.empty(2, 2)), torch.Tensor)
    except Exception: return True                                          # it takes other parameters

def check_weights(group, who):
    "Refuse a policy that does not work for the dtype of a low-precision parameter. Otherwise rounding would lose updates silently"
    weights = weights_in(group['store'])
    if all(pattern!='p' for pattern,*_ in group['store'] or ()): return
    for i,p in enumerate(group['params']):
        if weights is nearest or wide(p.dtype)==p.dtype or weights.keeps(p.dtype): continue
        kinds = ' and '.join(str(dtype)[6:] for dtype in weights.dtypes)
        raise ValueError(f"{who}: store has {{'p': '{weights}'}}, which is for {kinds}; parameter {i} is {str(p.dtype)[6:]}. "
                         "'master' and 'kahan' are for bfloat16 and float16")

def check_matches(store, state, who):
    "Refuse a pattern that matches no tensor among the states. `state`: name -> initializer"
    names = [n for n,init in state.items() if is_tensor(init)]
    for pattern,*_ in store:
        found = [n for n in names if fnmatchcase(n, pattern)]
        exact = [n for n in found if state[n].exact and n!=pattern]
        if found and found==exact and pattern!='*':
            raise ValueError(f"{who}: store has {pattern!r}, which matches only {', '.join(exact)}, and that state must keep its precision; "
                             f"to store it otherwise all the same, write its exact name, {exact[0]!r}")
        if pattern=='p' or found: continue
        raise ValueError(f"{who}: store has {pattern!r}, which matches no state{did_you_mean(pattern, names)}; "
                         f"the algorithm keeps {', '.join(names) or 'none'}")

"""`Optimizer`: a `torch.optim.Optimizer` that runs a list of callbacks; and `algorithm`, which names such a list as a class."""

import copy
import warnings
from operator import attrgetter,is_
from fastcore.basics import is_iter
import torch
from torch.nn.parameter import is_lazy
from .._torch import add_param_group,hooked,quiet,quietly,watched_from_outside,without_dynamo, sparse_values
from ..contract.names import name_of
from ..contract.sharded import agree,local
from ..contract.stand_ins import shape_class
from ..contract.tensors import compute,number,plain,shared
from ..run.choose import check_way
from ..run.plan import Plan
from ..run.sort import Inputs
from ..run.store import StateStore,shared_cell
from . import watch
from .explain import Explanation
from .hypers import assign,check_flags,engine_flags,lacks,misplaced
from .learner import ForLearner
from .model import Model
from .modes import Modes,told_weights
from .parameters import as_groups,check_complex,check_params,is_module
from .recipe import Recipe,entered,flatten,keep_plain,taken
from .state_dicts import checked,torch_state_dict
from .tables import plural

__all__ = ['Optimizer']

policies = 'propagate','raise','skip'                                   # what may be done about gradients that are not finite
unchanging = int,float,bool,str,tuple,type(None)                        # values that are the same if they are the same object
captured = "cannot look at gradients, which nonfinite='raise' or 'skip' does; leave one out"


class Optimizer(ForLearner, Modes, torch.optim.Optimizer):
    """A generic optimizer: the callbacks `cbs`, in order, shape each parameter's `update`, then `p <- p - lr*update`.

    `params`: tensors, `(name, tensor)` pairs, group dicts, or a list of lists; `groups` makes them by rules. `cbs`: callbacks as `genopt.core`
    describes them, `partial`s of them, nested lists; what is falsy is left out, so `flag and callback` works. A group may have `cbs` of its own,
    also an algorithm, and if all have, the optimizer needs none. `hypers`: `lr` and what the callbacks declare, in torch's or fastai's spelling,
    and torch's `maximize`, `foreach`, `fused`, `capturable`, `differentiable`. `nonfinite`: what is done about gradients that are not finite,
    `'propagate'`, `'raise'` or `'skip'`; it looks at each gradient once, and waits for the device.

    `foreach=False` calls the callbacks for each parameter, the reference. `foreach=True` runs their operations on lists of parameters; elementwise
    chains give the same bits. `fused=True` writes them as one C function over all parameters, and needs a C compiler; it is the default where
    there is one, on a CPU. `opt.explain()` shows how a chain is run, and why.
    `capturable=True` keeps counters, and hyper-parameters given as tensors, on the device, for a CUDA graph: tensors may change between
    replays (`fill_`), plain numbers are the graph's own. A callback that decides by a counter, but for `where`, is then refused.

    Raises `TypeError` or `ValueError` for a chain or a value that cannot work, naming callback, argument and remedy."""

    arguments     = {}                                                  # the hyper-parameters of an algorithm, with defaults
    scratch_bytes = 64*2**20                                            # what a step may need beyond parameters, gradients and state
    last_step_skipped,skipped_steps = False,0                           # under nonfinite='skip'
    _known = ()                                                         # settings of the groups, as they were at the last step
    _steps = 0                                                          # of this process; at the eleventh low precision is looked at

    def __init__(self, params, cbs=None, *, nonfinite='propagate', **hypers):
        if cbs is None:
            if bad := hypers.keys()-engine_flags.keys():
                raise TypeError(f"{self.name} has no cbs that could read {min(bad)!r}: cbs must be a list of callbacks, "
                                "or both stand in each group: dict(params=..., cbs=genopt.AdamW, lr=...)")
            check_flags(flags := engine_flags|hypers, self.name)
            return self._start(params, {}, flags, nonfinite)
        if not callable(cbs) and not is_iter(cbs): raise TypeError(f"{self.name}: cbs must be a list of callbacks, got {cbs!r}")
        recipe = Recipe(self.name, flatten(cbs), hypers)
        self._start(params, {None: recipe}, recipe.defaults, nonfinite)

    def _start(self, params, recipes, defaults, nonfinite):
        self.nonfinite,self._recipes,self._late = nonfinite,recipes,{}
        self._flags = {k: defaults[k] for k in engine_flags}
        super().__init__(as_groups(params), dict(defaults))

    def _recipe(self, group):
        "What `group` runs: the optimizer's own recipe, or that of the `cbs` it came with"
        return self._recipes[group.get('cbs')]

    def add_param_group(self, param_group):
        """Add a group of parameters; it is checked as at construction, and on failure the optimizer is as it was. The dict is copied. A group
        may bring its own `cbs`, a list of callbacks or an algorithm such as `genopt.Lion`, whose defaults it then has; in the group, and
        so in state dicts, their name is kept"""
        if not isinstance(param_group, dict): raise TypeError(f"param_group must be a dict, but got {type(param_group)}")
        who = f'{self.name}, param group {len(self.param_groups)}'
        if 'params' not in param_group: raise ValueError(f"{who} has no 'params'; it has {', '.join(map(repr, param_group)) or 'nothing'}")
        if is_module(param_group['params']): raise TypeError(f"{who}: params is a module; pass its parameters()")
        recipe,label = self._bring(param_group, who)
        group,given  = {k: shared(v) for k,v in (recipe.defaults|self._flags).items()},{}
        view = recipe.view(group)
        for k,v in param_group.items():
            if k=='cbs': continue
            if k in view: given[k] = entered(k, v)
            elif k in ('params', 'param_names'): group[k] = v
            elif lacks(k, plain(v), view): group[k] = plain(v)
            elif why := misplaced(k, recipe.view(recipe.defaults)): raise TypeError(f"{who} has an unexpected key {k!r}{why}")
            else: group[k] = v                                                           # the user's own notes, such as a name
        assign(view, given, who)
        if label: group['cbs'] = label
        n,known,defaults = len(self.param_groups),self._recipes,self.defaults
        self._recipes = known | {label: recipe}
        self.defaults = {k: v for k,v in (defaults if n else recipe.defaults|defaults).items() if k in group}    # what all have: schedulers go by it
        try:
            add_param_group(self, group)
            self._known = []
            with quiet(): self._check_group(group, recipe, n, who)
        except BaseException:
            del self.param_groups[n:]
            self._recipes,self.defaults = known,defaults
            raise

    def _check_common(self, mine, n, who):
        "Refuse values that callbacks over all parameters cannot have beside those of the first `n` groups"
        for i,g in enumerate(self.param_groups[:n]):
            if not mine: return
            for (b,k),v in self._recipe(g).in_common(g).items():
                other = mine.pop((b,k), v)
                if other!=v: raise ValueError(f"{who}: {b.one_value(k, v, other)}; the first is that of param group {i}")

    def _check_group(self, group, recipe, n, who):
        "Refuse a group whose parameters, or whose callbacks with these, cannot work"
        check_params(group, who)
        chain = recipe.check(group, who)
        self._check_common(recipe.in_common(group, chain), n, who)
        self._check_complex(group, recipe, chain, who)
        if any(way := (group['fused'], group['capturable'])): check_way(chain, recipe.settings(group).numbers, group['params'], who, *way)
        if group['capturable'] and self.nonfinite!='propagate': raise ValueError(f"{who}: capturable=True {captured}")

    def _check_complex(self, group, recipe, chain, who):
        seen = {}
        for i,p in enumerate(group['params']):
            if p.is_complex() and not is_lazy(p): seen.setdefault(shape_class(p.shape), (i, p))
        names = group.get('param_names')
        for i,p in seen.values(): check_complex(chain, p, recipe.hypers(group, chain), f"{who}: {names[i] if names else f'parameter {i}'}")

    def _bring(self, group, who):
        "The recipe of a group with `cbs` of its own, and the name by which the group keeps it: one that is there, if it is the same"
        cbs = group.get('cbs')
        if cbs is None and None not in self._recipes:
            raise ValueError(f"{who} has no cbs: give {self.name} a list of callbacks, or each group its own: dict(params=..., cbs=genopt.AdamW)")
        if cbs is None or isinstance(cbs, str):
            if cbs in self._recipes: return self._recipes[cbs],cbs
            raise ValueError(f"{who}: cbs={cbs!r} is no name of what another group has brought; give a list of callbacks or an algorithm")
        if isinstance(cbs, type) and issubclass(cbs, Optimizer) and cbs.arguments: new = Recipe(cbs.__name__, cbs, {})
        elif isinstance(cbs, type) or not callable(cbs) and not is_iter(cbs):
            raise TypeError(f"{who}: cbs must be a list of callbacks or an algorithm of genopt, got {cbs!r}")
        else:
            cbs = flatten(cbs)
            new = Recipe(f'{self.name} ({" > ".join(map(name_of, cbs))})', cbs, taken(cbs, group, who))
        for label,old in self._recipes.items():
            if label and old.same(new): return old,label
        label,n = repr(new),2
        while label in self._recipes: label,n = f'{new!r} ({n})',n+1
        return new,label

    @property
    def nonfinite(self):
        """What a step does about gradients that are not finite, or whose squares are not: `'propagate'` them, `'raise'` an error that names the
        parameter, or `'skip'` the step. In the latter two parameters, state and counters stay as they are"""
        return self._nonfinite
    @nonfinite.setter
    def nonfinite(self, v):
        if v not in policies: raise ValueError(f"{self.name}: nonfinite must be one of {', '.join(map(repr, policies))}; got {v!r}")
        if v!='propagate' and any(g['capturable'] for g in self.__dict__.get('param_groups', ())):
            raise ValueError(f"{self.name}: nonfinite={v!r} cannot be: capturable=True {captured}")
        self._nonfinite = v

    # -- a step --

    @without_dynamo
    def step(self, closure=None):
        """One step for every parameter that has a gradient. `closure` re-evaluates the model and returns the loss, which is returned.
        Raises before anything changes; `p.grad` is read only."""
        if type(self).step is Optimizer.step and watched_from_outside(self): return hooked_step(self, closure)
        return self._step(closure)
    step.hooked = True                                                  # torch need not wrap it

    def _step(self, closure=None):
        if not self.training: raise RuntimeError(f"{self.name}: the parameters hold the weights to evaluate; call opt.train() before a step")
        loss = None
        if closure is not None:
            with torch.enable_grad(): loss = closure()
        groups = self.param_groups
        params = [*groups[0]['params']] if len(groups)==1 else [p for g in groups for p in g['params']]
        grads  = gradients(params)
        inputs = Inputs(params, grads, self._settings(groups), groups)
        plan,self.last_step_skipped = self._plan,False
        quick = plan is not None and plan.simple and self._steps!=10
        if quick and plan.valid_for(inputs) and plan.aim(inputs):       # mostly; it needs nothing of torch
            if self._nonfinite=='propagate' or not plan.looks_bad():
                plan.commit()
                self._steps += 1
                return loss
        with quiet() as around: return self._long_step(inputs, Model(closure, loss, self.name, around))

    def _long_step(self, inputs, model):
        grads,loss = inputs.grads,model.returned
        if self._expected: self._check_weights()
        if self._plan is None and not self.state and self._allocates(grads):
            self.init_state()
            return loss
        if not self._plan or not self._plan.valid_for(inputs): self._replan(inputs)
        if self._nonfinite!='propagate' and (bad := self._plan.nonfinite(grads)):
            if self._nonfinite=='raise': raise FloatingPointError(f"{self.name}: {watch.nonfinite(self.param_groups, bad[0], grads)}")
            self.last_step_skipped,self.skipped_steps = True,self.skipped_steps+1
            return loss
        self._steps += 1
        lost  = watch.Lost.watch(self.param_groups, inputs.params, grads) if self._steps==11 else None
        arrived = None
        for _ in range(8):
            if (arrived := self._plan.prepare(inputs, model, arrived)) is None: break
            self._replan(inputs, arrived)                                   # a guard does not hold any more
        else: raise RuntimeError(f"{self.name}: no plan holds for this step; this is a fault of genopt, please report it with the list of callbacks")
        self._plan.commit()
        if lost: lost.warn(self.name)
        return loss

    def _settings(self, groups):
        "The settings of each group: those from before where every value is the same object"
        known = self._known
        if len(known)!=len(groups): known = self._known = [(None, None, None)]*len(groups)
        res = []
        for i,g in enumerate(groups):
            values_of,values,settings = known[i]
            if settings is None or not all(map(is_, now := values_of(g), values)):
                recipe = self._recipe(g)
                keep_plain(g, recipe.defaults)
                settings = recipe.settings(g)
                values_of = recipe.values_of
                now = values_of(g)
                steady = not settings.capturable and all(type(v) in unchanging for v in now)
                known[i] = (values_of, now, settings) if steady else (None, None, None)
            res.append(settings)
        return res

    def _settings_anew(self):
        "The settings of each group, after more has been learned of what its callbacks return"
        for r in self._recipes.values(): r.known.clear()
        self._known = ()
        return self._settings(self.param_groups)

    def _allocates(self, grads):
        """Whether this is no step to learn from but torch.distributed.checkpoint's way to have the state allocated: the first, at rates of zero
        with gradients of zeros. Counted as a step it would shift debiasing for good"""
        given = [g for g in grads if g is not None]
        if not given or any(number(g['lr'])!=0 for g in self.param_groups): return False
        return not agree(any((sparse_values(g) if g.is_sparse else local(g)).any() for g in given), given)

    @without_dynamo
    @quietly
    def init_state(self):
        "Allocate the state of all parameters that require a gradient, as it is before the first step; what is there stays"
        for g in self.param_groups:
            chain = self._recipe(g).chain(g)
            for p in g['params']:
                if p.requires_grad and not is_lazy(p) and (new := {n: init for n,init in chain.state.items() if n not in self.state.of(p)}):
                    x = compute(p)
                    self.state[p].update({n: init(x) for n,init in new.items()})

    @quietly
    def share_memory(self):
        """Move what is kept for the parameters into memory that processes share, to train one model together (Hogwild, A3C): `model.share_memory()`,
        then this, then start the processes. Counters too: from now on they are 0-dim tensors there. State that is made or loaded later is not shared
        until this is called again"""
        if any(g['capturable'] for g in self.param_groups):
            raise ValueError(f"{self.name}: capturable=True keeps counters on the device, which share_memory() is not for; leave capturable out")
        self.init_state()
        for g in self.param_groups:
            chain = self._recipe(g).chain(g)
            for p in g['params']:
                state = self.state.of(p)
                for v in state.values():
                    if torch.is_tensor(v): v.share_memory_()
                counters = {n: v for n,v in state.items() if n in chain.state and not torch.is_tensor(v)}
                if counters: state.update({n: shared_cell(v) for n,v in counters.items()})

    def _replan(self, inputs, arrived=None):
        self._plan = None
        chains = [self._recipe(g).chain(g) for g in self.param_groups]                # rehearses what is new
        if any(s.chain is not c for s,c in zip(inputs.settings, chains)): inputs.settings = self._settings_anew()
        self._plan = Plan(inputs, self.state, self.name, self.scratch_bytes, self._late, arrived)

    @property
    def state(self):
        "What is kept for each parameter, by name. Looking at it costs later steps nothing; what is written into it counts from the next step on"
        return self.__dict__['_store']
    @state.setter
    def state(self, v): self.__dict__ |= dict(_store=v if isinstance(v, StateStore) else StateStore(v), _plan=None)

    def adopt(self):
        "Does nothing any more: parameters of any size are run together where they are. Returns the optimizer"
        told = f"{self.name}.adopt() does nothing any more, and will go: parameters are run together wherever they lie"
        warnings.warn(told, DeprecationWarning, stacklevel=2)
        return self

    def state_dict(self):
        """As torch's. What is kept for a parameter that is in no group any more is left out; `del opt.state[p]` frees it"""
        store,here = self.state,{id(p) for g in self.param_groups for p in g['params']}
        for g in self.param_groups: keep_plain(g, [k for k,v in g.items() if k in self._recipe(g).defaults or getattr(v, 'ndim', None)==0])
        weights = self._weights()
        self.__dict__['_store'] = {p: dict(s) if isinstance(s, dict) else s for p,s in store.items() if id(p) in here or not torch.is_tensor(p)}
        try: return super().state_dict() | weights
        finally: self.__dict__['_store'] = store

    @quietly
    def torch_state_dict(self):
        "A state dict that torch.optim's algorithm of the same name loads, to go on there. Raises `ValueError` if torch has none"
        return torch_state_dict(self)

    # -- what a user looks at --

    @property
    def is_second_order(self):
        "Whether a callback asks for the curvature, so that `loss.backward(create_graph=True)` is needed; timm's training loop looks here"
        return any('hvp' in b.reads for g in self.param_groups for b in self._recipe(g).chain(g, rehearsed=False).blocks)

    @property
    def name(self): return type(self).__name__
    @property
    def cbs(self):
        "The callbacks of the first group, in order"
        return list(self._recipe(g := self.param_groups[0]).chain(g).cbs)
    @property
    def hypers(self):
        "fastai's view: for each group a live mapping of its hyper-parameters, in either spelling"
        return [self._recipe(g).view(g) for g in self.param_groups]

    @without_dynamo
    @quietly
    def explain(self):
        "The chain as a table: what each callback reads and changes, its state and hyper-parameters, how it runs"
        return Explanation(self)

    def __repr__(self):
        g,n = self.param_groups[0],sum(len(g['params']) for g in self.param_groups)
        recipe = self._recipe(g)
        hypers = ', '.join(f'{k}={v}' for k,v in g.items() if k in recipe.declared and v is not False and v is not None)
        what   = f'{recipe.chain(g)}; {hypers}' if len(self._recipes)==1 else '; '.join(map(repr, self._recipes.values()))
        return f"{self.name}({what}; {plural(n, 'tensor')} in {plural(len(self.param_groups), 'group')})"

    # -- what outlives the process --

    kept = '_recipes','_flags','_nonfinite','_late','_expected','skipped_steps','last_step_skipped'
    def __getstate__(self): return super().__getstate__() | {k: v for k,v in vars(self).items() if k in self.kept}
    def __setstate__(self, state):
        for s in state.get('state', {}).values():
            if isinstance(s, dict): s.update({k: v.value for k,v in s.items() if isinstance(v, Boxed)})
        super().__setstate__(state)
        self.state = self.__dict__.pop('state')                              # where torch has put it
        self.training = not any('train_p' in s for s in self.state.values() if isinstance(s, dict))
        self.__dict__.setdefault('_late', {})
        for g in self.param_groups:                                         # a group saved by an older version, or by torch
            for k,v in self._recipe(g).defaults.items(): g.setdefault(k, plain(v))

    def load_state_dict(self, state_dict):
        """As torch's, but tensors keep their dtype (state of low-precision parameters is float32) and share nothing with `state_dict`. Also
        loads what torch.optim's algorithm of the same name has saved, or fastai's, and finds parameters by name where both know their names
        (`named_parameters()`). How a step is run, `foreach` and `fused`, stays as it is. Raises `ValueError`, by parameter, for a state that
        does not fit; then nothing has changed"""
        with quiet():
            box = self.register_load_state_dict_pre_hook(Boxed.all)         # the last of the hooks, after the user's own
            try: super().load_state_dict(state_dict)
            finally:
                box.remove()
                told = self.__dict__.pop('_told', {})
            for p,s in self.state.items():
                if torch.is_tensor(p): s.update({k: v.to(p.device) for k,v in s.items() if torch.is_tensor(v)})
        self.training = not any('train_p' in s for s in self.state.values() if isinstance(s, dict))
        self._expected = told


hooked_step = hooked(Optimizer._step)


class Boxed:
    "A tensor of a state dict, packed so that torch's loading, which casts tensors to the parameter's dtype, passes it on as it is"
    def __init__(self, value): self.value = value.clone()
    @classmethod
    def all(cls, opt, state_dict):
        state_dict = checked(opt, state_dict)
        opt._told  = told_weights(opt.param_groups, state_dict)
        boxed = lambda s: {k: cls(v) if torch.is_tensor(v) else v for k,v in s.items()} if isinstance(s, dict) else copy.deepcopy(s)
        return state_dict | dict(state={i: boxed(s) for i,s in state_dict['state'].items()})


def gradients(params):
    "Their gradients, but None for those that are frozen. A tensor that is no `Parameter` may have a gradient given by hand"
    grads = [p.grad for p in params]
    if all(map(attrgetter('requires_grad'), params)): return grads
    return [g if p.requires_grad or not isinstance(p, torch.nn.Parameter) else None for p,g in zip(params, grads)]

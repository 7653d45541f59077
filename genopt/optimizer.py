"""`Optimizer`: a `torch.optim.Optimizer` that runs a list of callbacks; and `algorithm`, which names such a list as a class."""

import dis,inspect,warnings
from fastcore.basics import is_iter
import torch
from .checkpoint import checked,torch_state_dict
from .check import as_groups,check_built,check_params,is_module,rehearse,unexpected
from .core import Chain
from .engine import Plan,check_way,counter
from .explain import Explanation,plural
from .hypers import (Hypers,aliases,ambiguous,assign,check_flags,check_kinds,check_ranges,engine_flags,misplaced,number,plain,
                     to_short,to_torch)
from .learner import ForLearner
from .naming import same
from .trace import Untraceable
from .transforms import maximize

__all__ = ['Optimizer', 'algorithm']


def flatten(cbs):
    "The callbacks of a nested list, in order; what is falsy is left out, so that `flag and callback` works"
    if callable(cbs) or isinstance(cbs, str): return cbs,
    if is_iter(cbs): return tuple(c for cb in cbs for c in flatten(cb))
    return (cbs,) if cbs else ()


class Settings:
    "What the groups that are alike have in common: the chain, the numbers that it reads, the way it is run"
    def __init__(self, opt, group, key):
        self.types = [*map(type, key)]
        self.chain = opt._chain(group, rehearsed=False)
        self.capturable = bool(group['capturable'])
        self.numbers = opt._hypers(group, self.chain, (lambda v: v) if self.capturable else number)
        if self.capturable: self.numbers['lr'] = counter(self.numbers['lr'], group['params'][0].device)
        self.way = 'fused' if group['fused'] else 'loop' if group['foreach'] is False else 'foreach'

class Optimizer(ForLearner, torch.optim.Optimizer):
    """A generic optimizer: the callbacks `cbs`, in order, shape each parameter's `update`, then `p <- p - lr*update`.

    `params`: tensors, `(name, tensor)` pairs, group dicts, or a list of lists. `cbs`: callbacks as `genopt.core` describes
    them, `partial`s of them, nested lists; what is falsy is left out, so `flag and callback` works. `hypers`: `lr` and what the
    callbacks declare, in torch's or fastai's spelling, and torch's `maximize`, `foreach`, `fused`, `capturable`, `differentiable`.

    `foreach=False` calls the callbacks for each parameter, the reference. The default runs the same arithmetic on many parameters side by
    side and on large ones in chunks; on a CPU, elementwise chains give the same bits. `fused=True` compiles it (needs a C++ compiler, or
    Triton on CUDA). `opt.explain()` tells how a chain is run, and why. `adopt()` moves small parameters side by side for good.
    `capturable=True` keeps counters, and hyper-parameters given as tensors, on the device, for a CUDA graph: tensors may change between
    replays (`fill_`), plain numbers are the graph's own. A callback that decides by a counter is then refused.

    Raises `TypeError` or `ValueError` for a chain or a value that cannot work, naming callback, argument and remedy."""

    scratch_bytes = 64*2**20                                            # what a step may need beyond parameters, gradients and state

    def __init__(self, params, cbs, **hypers):
        if not callable(cbs) and not is_iter(cbs): raise TypeError(f"{self.name}: cbs must be a list of callbacks, got {cbs!r}")
        self._cbs = flatten(cbs)
        chain = Chain(self._cbs)
        flags = {k: v for k,v in hypers.items() if k in engine_flags}
        short = to_short({k: v for k,v in hypers.items() if k not in engine_flags}, chain.asks)
        declared = {n: chain.default(n, 0. if n=='lr' else None) for n in ('lr', *short) if n in short and n in chain.asks}
        declared|= chain.hypers(known=short)
        if bad := [n for n in short if n not in declared]: raise TypeError(unexpected(bad[0], declared, self.name))
        if 'lr' not in declared: raise TypeError(f"{self.name} needs a learning rate: lr=...")
        self._setup(params, declared, short|flags)

    def _setup(self, params, declared, hypers):
        "`declared`: all hyper-parameters with their defaults; `hypers`: those given. Both in either spelling"
        if bad := declared.keys()&engine_flags.keys(): raise TypeError(f"{self.name} has {min(bad)!r} itself; a callback cannot declare it")
        self._chains,self._known,self._own,self._watched,self._adopts = [],{},None,False,False
        own = {k for k in ambiguous if k in declared and declared.keys()&{*aliases[k]}}
        while own!=self._own:                                   # whose spelling an ambiguous name is depends on the chain, and that on the values
            self._own = own
            self._declared = to_torch(declared, own)|engine_flags
            defaults = dict(self._declared)
            assign(Hypers(defaults, own), hypers, self.name)
            check_kinds(defaults, self._declared, self._strict(), self.name)
            chain = self._chain(defaults, rehearsed=False)
            own = own|chain.asks&ambiguous
        more = self._check(defaults, self.name).hypers(known=Hypers(defaults, own))          # of callbacks that say more than the signature
        super().__init__(as_groups(params), {k: plain(v) for k,v in (defaults|to_torch(more, own)).items()})
        self._watched = self._adopts = False

    def add_param_group(self, param_group):
        "Add a group of parameters; it is checked as at construction, and on failure the optimizer is as it was. The dict is copied"
        if not isinstance(param_group, dict): raise TypeError(f"param_group must be a dict, but got {type(param_group)}")
        who,group,values = f'{self.name}, param group {len(self.param_groups)}',{k: plain(v) for k,v in self.defaults.items()},{}
        if 'params' not in param_group: raise ValueError(f"{who} has no 'params'; it has {', '.join(map(repr, param_group)) or 'nothing'}")
        if is_module(param_group['params']): raise TypeError(f"{who}: params is a module; pass its parameters()")
        hypers = Hypers(group, self._own)
        for k,v in param_group.items():
            if k in hypers: values[k] = plain(v)
            elif why := misplaced(k, Hypers(self.defaults, self._own)): raise TypeError(f"{who} has an unexpected key {k!r}{why}")
            else: group[k] = v                                                       # the user's own notes, such as a name
        assign(hypers, values, who)
        super().add_param_group(group)
        try:
            check_params(group['params'], who)
            chain = self._check(group, who)
            if any(way := (group['fused'], group['capturable'])): check_way(chain, self._settings(group).numbers, group['params'], who, *way)
        except Exception:
            self.param_groups.pop()
            raise

    def _strict(self): return {'lr', *self.arguments, *engine_flags}
    def _check(self, group, who):
        "The chain of `group`, if that and its values can work"
        check_flags(group, who)
        check_kinds(group, self._declared, self._strict(), who)
        chain = self._chain(group, rehearsed=False)
        check_ranges(Hypers(group, self._own), self._declared, chain, who)
        return self._chain(group)

    # -- the chain of a group; which callbacks it has may depend on its hyper-parameters --

    arguments = ()                                                      # the hyper-parameters that `build` takes
    def build(self):
        "The callbacks, given these hyper-parameters"
        return self._cbs

    def _built(self, group):
        hypers = Hypers(group, self._own)
        cbs = self.build(**{n: hypers[n] for n in self.arguments})
        if not callable(cbs) and (not is_iter(cbs) or isinstance(cbs, (str,dict))):
            raise TypeError(f"{self.name} returned {type(cbs).__name__}; an algorithm returns the list of its callbacks, another's are Adam.build()")
        return flatten([group['maximize'] and maximize, cbs])

    def _chain(self, group, rehearsed=True):
        cbs = self._built(group)
        chain = next((c for c in self._chains if [*map(same, c.cbs)]==[*map(same, cbs)]), None)
        if not chain:
            check_built(cbs, self._built(group), Hypers(self._declared, self._own) if self.arguments else (), self.name)
            self._chains = [*self._chains[-99:], chain := Chain(cbs)]
        for p in group.get('params', ()) if rehearsed else ():
            if (p.shape, p.dtype, p.device) not in chain.rehearsed: rehearse(chain, p, self._hypers(group, chain), self.name)
        return chain

    def _hypers(self, group, chain, read=number):
        "The values of `group` that `chain` reads, as plain numbers"
        hypers = Hypers(group, self._own|chain.asks&ambiguous)
        return chain.hypers(known=hypers) | {n: read(hypers[n]) for n in chain.asks if n in hypers}

    # -- a step --

    @torch.inference_mode(False)                                        # state made in inference mode could not be written outside it
    @torch.no_grad()
    def step(self, closure=None):
        """One step for every parameter that has a gradient. `closure` re-evaluates the model and returns the loss, which is returned.
        Raises before anything changes; `p.grad` is read only."""
        loss = None
        if closure is not None:
            with torch.enable_grad(): loss = closure()
        settings = [self._settings(g) for g in self.param_groups]
        params   = [p for g in self.param_groups for p in g['params']]
        grads    = [p.grad for p in params]
        if not self._plan or not self._plan.holds(settings, params, grads): self._replan(settings, params, grads)
        try: self._plan.run(grads)
        except Untraceable:                                                 # an `if` on a number has taken another way, where nothing can be traced
            self._replan(settings, params, grads)
            self._plan.run(grads)
        return loss

    def _replan(self, settings, params, grads):
        if self._plan and not self._watched: self._plan.settle()
        self._plan = None
        for g in self.param_groups: self._chain(g)                          # rehearses what is new
        self._plan = Plan(self, settings, params, grads)

    def _settings(self, group):
        "Chain, numbers and way of running of a group: one object for all groups that are alike"
        key = tuple([group[k] for k in self.defaults])
        try: found = self._known.get(key)
        except TypeError: found = None                                      # a list in it
        if not found or found.types!=[*map(type, key)]:
            if not group['capturable']: key = tuple(number(plain(v)) if not isinstance(v, (tuple,list)) else tuple(map(number, v)) for v in key)
            found = self._known.get(key)
            if not found or found.types!=[*map(type, key)]:
                if len(self._known)>100: self._known.clear()
                self._known[key] = found = Settings(self, group, key)
        return found

    @property
    def state(self):
        """What is kept for each parameter, by name. Between steps the engine keeps counters of many parameters in one place; they are
        written here when somebody looks, and from then on after every step"""
        if not self._watched and self.__dict__.get('_plan'): self._plan.settle()
        self._watched = True
        return self.__dict__['state']
    @state.setter
    def state(self, v): self.__dict__ |= dict(state=v, _plan=None)

    def adopt(self):
        """Zero-copy for models of many small tensors: from the next step on, parameters of up to 262,144 elements live side by side in one
        row for each kind, their gradients too, and a step goes over them as over one tensor. `p` itself stays the same object; `p.data`
        and `p.grad` become views. `zero_grad` then writes zeros instead of None: a parameter that the loss does not reach has a gradient of
        zeros, and moves if it has momentum. What replaces storage later (`model.to()`, `p.data = ...`, a gradient of None or a new one) is
        seen at the next step, which copies as without `adopt`, or adopts anew. Returns the optimizer"""
        self._adopts = True
        if self._plan and not self._watched: self._plan.settle()
        self._plan = None
        return self

    def zero_grad(self, set_to_none=True):
        "As torch's; adopted gradients stay where they are and are filled with zeros"
        rows = {i: u.grads for b in self._plan.buckets for u in b.units if u.grads for i in u.indices} if self._adopts and self._plan else {}
        kept = {i: p.grad for i,p in enumerate(p for g in self.param_groups for p in g['params']) if i in rows and p.grad is not None}
        kept = {i: g for i,g in kept.items() if g.data_ptr() in rows[i][1]}
        super().zero_grad(set_to_none)
        for i,g in kept.items(): self._plan.params[i].grad = g
        for flat in {id(rows[i]): rows[i][0] for i in kept}.values(): flat.zero_()

    def state_dict(self):
        "As torch's. States that live side by side in one tensor come as tensors of their own, and are saved to their own size"
        res = super().state_dict()
        own = lambda v: v.clone() if torch.is_tensor(v) and v.untyped_storage().nbytes()>v.numel()*v.element_size() else v
        return res | dict(state={i: {n: own(v) for n,v in s.items()} if isinstance(s, dict) else s for i,s in res['state'].items()})

    def torch_state_dict(self):
        "A state dict that torch.optim's algorithm of the same name loads, to go on there. Raises `ValueError` if torch has none"
        return torch_state_dict(self)

    # -- what a user looks at --

    @property
    def name(self): return type(self).__name__
    def _reads(self, k):
        "Whether a callback of some group asks for hyper-parameter `k`"
        asks = set().union(*(self._chain(g).asks for g in self.param_groups))
        return any(n in asks for n in (k, *Hypers(self.defaults, self._own).aliases.get(k, ())))
    @property
    def cbs(self):
        "The callbacks of the first group, in order"
        return list(self._chain(self.param_groups[0]).cbs)
    @property
    def hypers(self):
        "fastai's view: for each group a live mapping of its hyper-parameters, in either spelling"
        return [Hypers(g, self._own) for g in self.param_groups]

    def explain(self):
        "The chain as a table: what each callback reads and changes, its state and hyper-parameters, how it runs"
        return Explanation(self)

    def __repr__(self):
        g,n = self.param_groups[0],sum(len(g['params']) for g in self.param_groups)
        hypers = ', '.join(f'{k}={v}' for k,v in g.items() if k in self._declared and v is not False and v is not None)
        return f"{self.name}({self._chain(g)}; {hypers}; {plural(n, 'tensor')} in {plural(len(self.param_groups), 'group')})"

    # -- what outlives the process --

    def __getstate__(self): return super().__getstate__() | {k: v for k,v in vars(self).items() if k in ('_cbs', '_declared', '_own')}
    def __setstate__(self, state):
        for s in state.get('state', {}).values():
            if isinstance(s, dict): s.update({k: v.value for k,v in s.items() if isinstance(v, Boxed)})
        super().__setstate__(state)
        self.__dict__ |= dict(_plan=None, _watched=True, _adopts=self.__dict__.get('_adopts', False))
        for k,v in dict(_chains=[], _known={}).items(): self.__dict__.setdefault(k, v)
        for g in self.param_groups:                                         # a group saved by an older version, or by torch
            for k,v in self.defaults.items(): g.setdefault(k, plain(v))

    def load_state_dict(self, state_dict):
        """As torch's, but tensors keep their dtype (state of low-precision parameters is float32) and share nothing with `state_dict`. Also
        loads what torch.optim's algorithm of the same name has saved, or fastai's, and finds parameters by name where both know their names
        (`named_parameters()`). How a step is run, `foreach` and `fused`, stays as it is. Raises `ValueError`, by parameter, for a state that
        does not fit; then nothing has changed"""
        box = self.register_load_state_dict_pre_hook(Boxed.all)             # the last of the hooks, after the user's own
        try: super().load_state_dict(state_dict)
        finally: box.remove()
        for p,s in self.state.items():
            if torch.is_tensor(p): s.update({k: v.to(p.device) for k,v in s.items() if torch.is_tensor(v)})


class Boxed:
    "A tensor of a state dict, packed so that torch's loading, which casts tensors to the parameter's dtype, passes it on as it is"
    def __init__(self, value): self.value = value.clone()
    @classmethod
    def all(cls, opt, state_dict):
        state_dict = checked(opt, state_dict)
        boxed = lambda s: {k: cls(v) if torch.is_tensor(v) else v for k,v in s.items()} if isinstance(s, dict) else s
        return state_dict | dict(state={i: boxed(s) for i,s in state_dict['state'].items()})


def names_used(f):
    "Names that the code of `f` uses"
    names = [i.argval for i in dis.get_instructions(f) if i.opname.startswith('LOAD')]
    return {n for o in names for n in (o if isinstance(o, tuple) else (o,))}

def algorithm(f):
    """The `Optimizer` class of the algorithm `f`. Its arguments, with defaults, are the algorithm's hyper-parameters, as in
    torch.optim; its result the callbacks for such values; its name and docstring those of the class.

        @algorithm
        def Lion(lr=1e-4, betas=(0.9,0.99), weight_decay=0.):
            "Symbolic Discovery of Optimization Algorithms, https://arxiv.org/abs/2302.06675"
            return [weight_decay and transforms.weight_decay, lion_step]"""
    ps,loaded = inspect.signature(f).parameters,names_used(f)
    if bad := [n for n,p in ps.items() if p.default is p.empty]: raise TypeError(f"{f.__name__}: {bad[0]!r} needs a default, as in torch.optim")
    if 'lr' not in ps: raise TypeError(f"{f.__name__} needs an argument lr with a default")
    if bad := ps.keys()&{*engine_flags, 'params'}: raise TypeError(f"{f.__name__}: every algorithm has {min(bad)!r}; leave it out")
    positional = [n for n,p in ps.items() if p.kind==p.POSITIONAL_OR_KEYWORD]

    def __init__(self, params, *args, **hypers):
        if len(args)>len(positional):
            raise TypeError(f"{self.name} takes at most {len(positional)+1} positional arguments, got {len(args)+1}")
        for k,v in zip(positional, args):
            if k in hypers: raise TypeError(f"{self.name} got multiple values for argument {k!r}")
            hypers[k] = v
        self._setup(params, {n: p.default for n,p in ps.items()}, hypers)
        if idle := [k for k in hypers if k in ps and k not in loaded and not self._reads(k) and hypers[k]!=ps[k].default]:
            warnings.warn(f"{self.name}: nothing reads {idle[0]!r} with these settings, so {idle[0]}={hypers[idle[0]]!r} has no effect", stacklevel=2)

    P = inspect.Parameter
    first,flags = [P(n, P.POSITIONAL_OR_KEYWORD) for n in ('self', 'params')],[P(k, P.KEYWORD_ONLY, default=v) for k,v in engine_flags.items()]
    __init__.__signature__ = inspect.Signature([*first, *ps.values(), *flags])
    __init__.__qualname__ = f'{f.__name__}.__init__'
    return type(f.__name__, (Optimizer,), dict(__init__=__init__, build=staticmethod(f), arguments=tuple(ps),
                                               __doc__=f.__doc__, __module__=f.__module__, __qualname__=f.__qualname__))

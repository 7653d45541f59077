"""`Optimizer` is a `torch.optim.Optimizer` that runs a list of callbacks at each step."""

import copy
import warnings
from functools import partial
from operator import is_
from fastcore.basics import is_iter
import torch
from torch.nn.parameter import is_lazy
from .._torch import add_param_group,hooked,quiet,quietly,sparse_values,watched_from_outside,without_dynamo
from ..contract.messages import did_you_mean
from ..contract.names import name_of
from ..contract.sharded import agree,local
from ..contract.stand_ins import shape_class
from ..contract.tensors import number,plain,shared
from ..run.choose import check_asked
from ..run.memory import is_capturing
from ..run.offload import Staging,plan_for
from ..run.plan import Plan,prepared
from ..run.rounding import Seeds
from ..run.sort import Inputs
from ..run.store import StateStore,shared_cell
from . import watch
from .explain import Explanation
from .group import Group
from .hypers import assign,check_flags,engine_flags,lacks,misplaced,spellings,spelt
from .learner import ForLearner
from .lists import bound_in
from .model import Model
from .modes import Modes,told_weights
from .nonfinite import Nonfinite
from .origin import sign
from .parameters import as_groups,check_complex,check_form,check_moves,check_params,home,homes
from .recipe import Recipe,entered,flatten,keep_plain,taken
from .storage import check_matches,check_weights,saved
from .state_dicts import checked,torch_state_dict
from .tables import plural

__all__ = ['Optimizer']

unchanging = int,float,bool,str,tuple,type(None)                        # an object of these types cannot change its value


class Optimizer(ForLearner, Modes, Nonfinite, torch.optim.Optimizer):
    """An optimizer that runs callbacks: they turn each gradient into an `update`, and the step sets `p <- p - lr*update`.

    Arguments:

    `params`: the parameters, as tensors, as `(name, tensor)` pairs, as group dicts, or as a list of lists of tensors. `genopt.groups` makes
        group dicts from rules. A group dict may have its own `cbs`, a list of callbacks or an algorithm such as `genopt.Lion`.
    `cbs`: the callbacks, which the optimizer runs in this order. Each is a function that `genopt.contract` describes, or a `partial` of one. Lists
        may be nested. The optimizer leaves out items that are falsy, so `flag and callback` works. `cbs` may be missing if each group has its own;
        each of the `hypers` is then the default of the groups whose callbacks read it.
    `hypers`: `lr` and the hyper-parameters that the callbacks declare, in torch's spelling (`betas`) or in fastai's (`mom`, `sqr_mom`). A number
        may be a float or a tensor of one element. `lr` multiplies each update once per step. It is the default of all groups, also of those with
        `cbs` of their own.
    `maximize`: a bool, by default `False`. `True` moves the parameters up the gradient.
    `foreach`: a bool or `None`. `False` calls the callbacks for each parameter; this is the reference. `True` runs their operations on lists of
        parameters; elementwise chains then give the same bits as the reference. `foreach=True` and `fused=True` together are an error.
    `fused`: a bool or `None`. `True` compiles the chain to one C function over all parameters, which needs a C compiler, or on a GPU to a few
        kernels, which need Triton. If both `foreach` and `fused` are left out, genopt compiles where it finds a C compiler, or on a GPU Triton,
        and uses lists elsewhere. `opt.explain()` shows how a chain runs, and why; `opt.explain().kernel()` shows the kernels of a GPU.
    `capturable`: a bool, by default `False`. `True` keeps counters, and hyper-parameters given as tensors, on the device, so that a CUDA graph can
        record the step. Between replays you may change these tensors (`fill_`); the graph keeps plain numbers as it recorded them, and reads
        gradients at their old addresses, so use `zero_grad(set_to_none=False)`. A callback that branches in Python on a counter raises an error; use
        `where`.
    `store`: how states and parameters are stored, or `None`. A dict from names to dtypes or codes: `{'*_avg': 'bfloat16'}`, see `genopt.kept`; one
        for all states, `'int8'`; and for `'p'` a policy by which parameters in bfloat16 or float16 keep what rounding loses, `{'p': 'master'}`, see
        `genopt.contract.weights`. By default parameters in bfloat16 keep 8 bits more, in a state `p.low` (`'extra_bits'`).
    `offload`: a bool, by default `False`. `True` keeps the states, and what `store` keeps beside the parameters, in the memory of the host, and
        computes the step there: gradients are copied to the host, and new parameters back, while the host computes others. For parameters on a GPU,
        also of a single group. It does not work with `capturable`.
    `differentiable`: a bool. genopt does not support `True` yet and raises `ValueError`.
    `nonfinite`: what a step does about a gradient with a value that is not finite, or whose square is not. `'propagate'`, the default, uses the
        gradient as it is. `'raise'` raises `FloatingPointError`, which names the parameter. `'skip'` leaves out the whole step, sets
        `last_step_skipped` and counts it in `skipped_steps`. `'raise'` and `'skip'` read each gradient once more. Where kernels of one GPU run all
        parameters, the host does not wait: they leave the step out, `'raise'` raises at the next step or in `check_gradients()`, and reading a
        counter waits. For callbacks that branch on a counter a step waits for the one before.

    Attributes: `scratch_bytes` is the memory in bytes that a step may use beyond parameters, gradients and state; on a GPU operations on lists may
    use 16 times as much, and stacks of matrices 6 times. `arguments` holds the hyper-parameters of an algorithm, with their defaults.

    Errors: the constructor raises `TypeError`, `ValueError` or `RuntimeError` for a chain or a value that cannot work. The message names the
    callback, the argument and a remedy."""

    arguments     = {}                                                  # the hyper-parameters of an algorithm, with defaults
    scratch_bytes = 64*2**20                                            # the bytes a step may use beyond parameters, gradients and state
    _common = {}                                                        # values that groups with `cbs` of their own have as defaults, too
    _seeds = None                                                       # of the random numbers of a step
    _records = False                                                    # whether a CUDA graph records this step
    _recorded = False                                                   # whether one has recorded a step of the present plan
    _graphs = ()                                                        # what those use that have recorded steps of earlier plans
    _known = ()                                                         # the settings of each group at the last step
    _staging = None                                                     # with `offload`: what moves tensors to the host and back
    _release = None                                                     # the `GradientRelease` that moves the parameters during backward
    _steps = 0                                                          # the steps of this process; the 11th checks low precision

    def __init__(self, params, cbs=None, *, nonfinite='propagate', **hypers):
        if cbs is None:
            defaults = engine_flags | {k: entered(k, v) for k,v in hypers.items()}
            check_flags(defaults, self.name)
            return self._start(params, {}, defaults, nonfinite, hypers.keys()-engine_flags.keys())
        if not callable(cbs) and not is_iter(cbs): raise TypeError(f"{self.name}: cbs must be a list of callbacks, got {cbs!r}")
        recipe = Recipe(self.name, flatten(cbs), hypers)
        self._start(params, {None: recipe}, recipe.defaults, nonfinite, hypers.keys()&{'lr'})

    def _start(self, params, recipes, defaults, nonfinite, common):
        "`common`: the names of the `defaults` that hold for groups with `cbs` of their own, too"
        self.nonfinite,self._recipes,self._late,self._seeds = nonfinite,recipes,{},Seeds()
        self._flags  = {k: defaults[k] for k in engine_flags}
        self._common = {k: defaults[k] for k in common}
        super().__init__(as_groups(params), dict(defaults))
        self._check_store()
        self._check_read()

    def _check_read(self):
        "Refuse a hyper-parameter that the callbacks of no group read"
        for k in self._common:
            views = [self._recipe(g).view(g) for g in self.param_groups]
            if any(k in view for view in views): continue
            known = [*dict.fromkeys(n for view in views for n in spelt(view))]
            near  = did_you_mean(k, [*dict.fromkeys([*known, *(n for view in views for n in view)])])
            raise TypeError(f"{self.name} got an unexpected hyper-parameter {k!r}{near}; its groups have {', '.join(known)}")

    def _check_store(self):
        "Refuse a pattern of the optimizer's `store` that matches no state in any group"
        if store := self._flags['store']:
            chains = [self._recipe(g).chain(g, rehearsed=False) for g in self.param_groups]
            check_matches(store, {n: init for chain in chains for n,init in chain.state.items()}, self.name)

    def _recipe(self, group):
        "Return the recipe that `group` runs: that of the `cbs` it came with, or else the optimizer's own"
        return self._recipes[group.get('cbs')]

    def add_param_group(self, param_group):
        """Add a group of parameters, a dict with `params`, and with values and `cbs` of its own if you like.

        The optimizer copies the dict and checks it as the constructor does. If a check fails, the optimizer stays as it was.
        `cbs` is a list of callbacks or an algorithm such as `genopt.Lion`; the group then has the defaults of that algorithm, and the `lr` that the
        optimizer was given. The group and its state dict keep the name of the `cbs`.

        Raises `TypeError` or `ValueError` for a group that cannot work."""
        n = len(self.param_groups)
        who = f'{self.name}, param group {n}'
        check_form(param_group, who)
        recipe,label = self._recipe_for(param_group, who)
        group = self._with_defaults(param_group, recipe, who)
        if label: group['cbs'] = label
        known,defaults = self._recipes,self.defaults
        self._recipes = known | {label: recipe}
        common = defaults if n else recipe.defaults|defaults
        self.defaults = {k: v for k,v in common.items() if k in group}      # schedulers read `defaults`, so it has only keys of all groups
        try:
            add_param_group(self, group)
            self._wrap_groups()
            self._known = []
            with quiet(): self._check_group(group, recipe, n, who)
        except BaseException:
            del self.param_groups[n:]
            self._recipes,self.defaults = known,defaults
            raise

    def _wrap_groups(self):
        "Make each param group a `Group` that finds states in the present store"
        groups,store = self.param_groups,self.state
        groups[:] = [g if isinstance(g, Group) and g.store is store else Group(g, store) for g in groups]

    def _with_defaults(self, param_group, recipe, who):
        "Return a new group: the defaults of `recipe`, overridden by what `param_group` gives"
        group = {k: shared(v) for k,v in (recipe.defaults|self._flags).items()}
        view  = recipe.view(group)
        assign(view, self._common_to(param_group, view, recipe.items), who)
        given = {}
        for k,v in param_group.items():
            if k=='cbs': continue
            if k in view: given[k] = entered(k, v)
            elif k in ('params', 'param_names'): group[k] = v
            elif lacks(k, plain(v), view): group[k] = plain(v)
            elif why := misplaced(k, recipe.view(recipe.defaults)): raise TypeError(f"{who} has an unexpected key {k!r}{why}")
            else: group[k] = v                                              # a note of the user's, such as a name
        assign(view, given, who)
        return group

    def _common_to(self, group, hypers, items):
        """Return the values given to the optimizer that are defaults of `group`, if it has brought its own callbacks `items`.

        They are those that these callbacks read, which have the `hypers`, and that no `partial` in `items` sets."""
        if group.get('cbs') is None: return {}
        bound = spellings(bound_in(items))
        return {k: shared(v) for k,v in self._common.items() if k in hypers and bound.isdisjoint(spellings([k]))}

    def _check_common(self, mine, n, who):
        """Refuse values of a group that its global callbacks share with the first `n` groups, if they differ.

        `mine` maps `(callback, name)` to the value in the group."""
        for i,g in enumerate(self.param_groups[:n]):
            if not mine: return
            for (b,k),v in self._recipe(g).in_common(g).items():
                other = mine.pop((b,k), v)
                if other!=v: raise ValueError(f"{who}: {b.one_value(k, v, other)}; the first is that of param group {i}")

    def _check_group(self, group, recipe, n, who):
        "Refuse a group whose parameters cannot be optimized, or whose callbacks cannot run on them"
        check_params(group, who)
        check_weights(group, who)
        chain = recipe.check(group, who)
        if group['store'] and group['store']!=self._flags['store']: check_matches(group['store'], chain.state, who)
        self._check_common(recipe.in_common(group, chain), n, who)
        self._check_complex(group, recipe, chain, who)
        if any(flags := (group['fused'], group['capturable'])): check_asked(chain, recipe.settings(group).numbers, homes(group), who, *flags)
        if group.get('offload'): check_moves(group, who)
        if group['capturable'] and (why := self._cannot_look(group['params'])): raise ValueError(f"{who}: capturable=True {why}")

    def _check_complex(self, group, recipe, chain, who):
        "Refuse `group` if a parameter is complex and `chain` would mistake its pairs of numbers for a dimension"
        seen = {}
        for i,p in enumerate(group['params']):
            if p.is_complex() and not is_lazy(p): seen.setdefault(shape_class(p.shape), (i, p))
        names = group.get('param_names')
        for i,p in seen.values(): check_complex(chain, p, recipe.hypers(group, chain), f"{who}: {names[i] if names else f'parameter {i}'}")

    def _recipe_for(self, group, who):
        """Return the recipe of `group`, and the name under which the group keeps it.

        The name of the optimizer's own recipe is `None`. If another group has brought the same callbacks, this group shares its recipe."""
        cbs = group.get('cbs')
        if cbs is None or isinstance(cbs, str): return self._recipe_named(cbs, who),cbs
        new = self._new_recipe(cbs, group, who)
        for label,old in self._recipes.items():
            if label and old.same(new): return old,label
        return new,self._free_name(new)

    def _recipe_named(self, name, who):
        "Return the recipe that is kept under `name`, which is `None` for the optimizer's own"
        if name in self._recipes: return self._recipes[name]
        if name is None:
            raise ValueError(f"{who} has no cbs: give {self.name} a list of callbacks, or each group its own: dict(params=..., cbs=genopt.AdamW)")
        raise ValueError(f"{who}: cbs={name!r} names no algorithm of another group; give a list of callbacks or an algorithm")

    def _new_recipe(self, cbs, group, who):
        "Make a recipe of `cbs`, an algorithm or a list of callbacks that `group` has brought"
        is_class = isinstance(cbs, type)
        if is_class and issubclass(cbs, Optimizer) and cbs.arguments: return Recipe(cbs.__name__, cbs, {})
        if is_class or not callable(cbs) and not is_iter(cbs):
            raise TypeError(f"{who}: cbs must be a list of callbacks or an algorithm of genopt, got {cbs!r}")
        items = flatten(cbs)
        names = ' > '.join(map(name_of, items))
        given = spellings(group)|spellings(bound_in(items))
        common = {k: v for k,v in self._common.items() if given.isdisjoint(spellings([k]))}
        return Recipe(f'{self.name} ({names})', items, taken(items, common|group, who))

    def _free_name(self, recipe):
        "Return a name for `recipe` that no other recipe has: its `repr`, with a number if need be"
        name,n = repr(recipe),2
        while name in self._recipes:
            name = f'{recipe!r} ({n})'
            n += 1
        return name

    # -- a step --

    @without_dynamo
    def step(self, closure=None):
        """Take one step for every parameter that has a gradient.

        `closure`, if given, evaluates the model again, calls `backward` and returns the loss; `step` then returns that loss.
        A step only reads `p.grad`. Checks raise before the step changes anything: `RuntimeError` after `eval()`, `FloatingPointError` under
        `nonfinite='raise'`, `TypeError` or `ValueError` for values that cannot work."""
        if type(self).step is Optimizer.step and watched_from_outside(self): return hooked_step(self, closure)
        return self._step(closure)
    step.hooked = True                                                  # torch then does not wrap `step` itself

    def _step(self, closure=None):
        "Take a step without hooks: the quick way if the last plan still holds, else the long way"
        if not self.training:
            raise RuntimeError(f"{self.name}: the parameters have the weights that opt.eval() sets; call opt.train() before a step")
        if self._untold: self.check_gradients()
        loss = None
        if closure is not None:
            with torch.enable_grad(): loss = closure()
        if self._release: return self._release._step(self, loss)
        inputs = self._inputs()
        plan = self._plan
        self._last_skipped = False
        scaled_here = 'found_inf' in self.__dict__ and not (plan and plan.gate)
        quick = plan is not None and plan.simple and self._steps!=10 and self._planned_for_gate==self._wants_gate() and not scaled_here
        if quick and plan.valid_for(inputs):                            # most steps go this way; it calls nothing of torch
            if plan.gate: self._begin_gated(plan.gate)
            self._seeds.rounding.begin(plan.gate)
            looks = self._nonfinite!='propagate'
            if plan.aim(inputs, looks) and (plan.gate or not looks or not plan.looks_bad()):
                plan.commit()
                self._end(plan)
                return loss
        with quiet() as around: return self._long_step(inputs, Model(closure, loss, self.name, around))

    def _end(self, plan):
        "End a step that `plan` has taken"
        if plan.gate: self._end_gated(plan)
        if self._records: self._recorded = True
        self._steps += 1

    def _inputs(self):
        "Collect what a step reads: the parameters, their gradients and the settings of their groups"
        groups = self.param_groups
        params = [*groups[0]['params']] if len(groups)==1 else [p for g in groups for p in g['params']]
        self._records = bool(params) and params[0].is_cuda and is_capturing(params[0].device)
        if self._records: self._check_captured()
        return Inputs(params, None, self._settings(groups), groups)

    def _check_captured(self):
        "Refuse to be recorded in a CUDA graph, which would repeat the numbers of this step for ever"
        for i,g in enumerate(self.param_groups):
            if not g['capturable']:
                raise RuntimeError(f"{self.name}: a CUDA graph records this step, but param group {i} has capturable=False: the graph would repeat "
                                   f"the learning rate and the counters of this step. Give {self.name} capturable=True")

    def _drop_plan(self):
        """Forget the plan. If a CUDA graph has recorded a step of it, what the graph uses beside parameters and states stays: it may be replayed. But
        its counters are no longer those of the optimizer"""
        if self._recorded:
            self._graphs = *self._graphs,self._plan.used_by_graphs()
            warnings.warn(f"{self.name}: a CUDA graph has recorded a step, and since then other parameters have gradients, or a state, a setting or "
                          "a group has changed. The graph would go on with the states and counters of before; record it again", stacklevel=7)
        self._plan,self._recorded = None,False

    def _long_step(self, inputs, model):
        "Take a step that may make a new plan, ask the `model`, or look at the gradients"
        grads,loss = inputs.grads,model.returned
        if self._expected: self._check_weights()
        if self._plan is None and not self.state and self._allocates(grads):
            self.init_state()
            return loss
        if not self._plan or self._planned_for_gate!=self._wants_gate() or not self._plan.valid_for(inputs): self._replan(inputs)
        gate,looks = self._plan.gate,self._nonfinite!='propagate'
        if gate: self._begin_gated(gate)
        elif self._unscaled(inputs) or looks and self._skips(inputs.grads): return loss
        lost = watch.Lost.watch(self.param_groups, inputs.params, grads) if self._steps==10 else None
        self._seeds.rounding.begin(gate)
        plan = prepared(self._plan, inputs, model, self._replan, looks)
        if gate and not plan.gate: return self._long_step(inputs, model)     # it has changed to one whose gradients the host looks at
        plan.commit()
        self._end(plan)
        if lost: lost.warn(self.name)
        return loss

    def _settings(self, groups):
        "Return the settings of each group. A group keeps its last settings while each of its values is the same object"
        known = self._known
        if len(known)!=len(groups): known = self._known = [(None, None, None)]*len(groups)
        res = []
        for i,g in enumerate(groups):
            values_of,values,settings = known[i]
            if settings is None or not all(map(is_, now := values_of(g), values)):
                recipe = self._recipe(g)
                settings = recipe.settings(g)
                values_of = recipe.values_of
                now = values_of(g)
                steady = not settings.capturable and all(type(v) in unchanging for v in now)
                known[i] = (values_of, now, settings) if steady else (None, None, None)
            res.append(settings)
        return res

    def _settings_anew(self):
        "Return the settings of each group, after a rehearsal has learned more of what the callbacks return"
        for r in self._recipes.values(): r.forget_settings()
        self._known = ()
        return self._settings(self.param_groups)

    def _allocates(self, grads):
        """Tell whether this step only asks for the state: `torch.distributed.checkpoint` takes a first step with `lr=0` and zero gradients.

        Such a step must not count. If it did, the bias correction of every later step would be one step ahead."""
        given = [g for g in grads if g is not None]
        if not given or any(number(g['lr'])!=0 for g in self.param_groups): return False
        return not agree(any((sparse_values(g) if g.is_sparse else local(g)).any() for g in given), given)

    @without_dynamo
    @quietly
    def init_state(self):
        "Allocate the state of each parameter that requires a gradient, with its initial values. State that exists stays as it is"
        for g in self.param_groups:
            chain = self._recipe(g).chain(g)
            for p in g['params']:
                if not p.requires_grad or is_lazy(p): continue
                state = self.state.of(p)
                if new := {n: v for n,v in chain.stored(home(p, g), state).items() if n not in state}: self.state[p].update(new)

    @quietly
    def share_memory(self):
        """Move the state into memory that processes share, so that they train one model together (Hogwild, A3C).

        Call `model.share_memory()`, then this, then start the processes. Counters move too: from then on they are 0-dim tensors. State that a later
        step makes, or that you load later, is not shared until you call this again.

        Raises `ValueError` under `capturable=True`, for a state that grows, and for what is kept in two tensors: a state in codes, and
        by default a parameter in bfloat16; `store={'p': 'nearest'}` keeps it in one."""
        chains = [self._recipe(g).chain(g) for g in self.param_groups]
        self._check_shareable(chains)
        for g,chain in zip(self.param_groups, chains):
            for p in g['params']:
                state = self.state.of(p)
                for v in state.values():
                    if torch.is_tensor(v): v.share_memory_()
                counters = {n: v for n,v in state.items() if n in chain.state and not torch.is_tensor(v)}
                if counters: state.update({n: shared_cell(v) for n,v in counters.items()})

    def _check_shareable(self, chains):
        "Refuse a state that cannot lie in memory that processes share. Allocates the state"
        if any(g['capturable'] for g in self.param_groups):
            raise ValueError(f"{self.name}: share_memory() does not work with capturable=True, which keeps counters on the device; "
                             "leave capturable out")
        if growing := [n for chain in chains for n,init in chain.state.items() if init.grows]:
            raise ValueError(f"{self.name}: share_memory() does not work with the state {growing[0]!r}, which grows; use another algorithm")
        self.init_state()
        if beside := [n for g in self.param_groups for p in g['params'] for n in dict.keys(self.state.of(p)) if '.' in n]:
            raise ValueError(f"{self.name}: store keeps {beside[0]!r} beside {beside[0].partition('.')[0]!r}, and processes that write at the same "
                             "time would mix up the two; leave store out, or for parameters of low precision give store={'p': 'nearest'}")

    def _replan(self, inputs, arrived=None):
        "Make a new plan for `inputs`, and return it; this rehearses callbacks on kinds of parameters that they have not met"
        self._drop_plan()
        self._planned_for_gate = self._wants_gate()
        chains = [self._recipe(g).chain(g) for g in self.param_groups]
        if any(s.chain is not c for s,c in zip(inputs.settings, chains)): inputs.settings = self._settings_anew()
        plan  = partial(self._new_plan, inputs, arrived)
        gate  = None if any(s.offload for s in inputs.settings) else self._gate_for(inputs.params)
        gated = plan(gate=gate) if gate else None
        unseen = gated is not None and gated.can_have_gate
        if gate and not unseen and any(g['capturable'] for g in self.param_groups) and (why := self._cannot_look(inputs.params, unseen)):
            raise ValueError(f"{self.name}: capturable=True {why}")
        self._plan = gated if unseen else plan()
        return self._plan

    def _new_plan(self, inputs, finished=None, **gate):
        "A plan for `inputs`. `finished`, `gate`: as `Plan` takes them"
        args = inputs,self.state,self.name,self.scratch_bytes,self._late,finished
        if not self._staging and any(s.offload for s in inputs.settings): self._staging = Staging()
        others = gate | dict(seeds=self._seeds)
        return plan_for(self._staging, *args, **others) if self._staging else Plan(*args, **others)

    @property
    def state(self):
        "The state of each parameter: a dict of dicts, by name. Reading it does not slow later steps. The next step uses what you write into it"
        return self.__dict__['_store']
    @state.setter
    def state(self, v):
        self._drop_plan()
        self.__dict__['_store'] = v if isinstance(v, StateStore) else StateStore(v)
        if 'param_groups' in self.__dict__: self._wrap_groups()

    def adopt(self):
        """Do nothing, warn that the method is deprecated, and return the optimizer.

        A step runs parameters of any size together, and leaves them where they lie."""
        told = f"{self.name}.adopt() does nothing any more, and the next release removes it; leave the call out"
        warnings.warn(told, DeprecationWarning, stacklevel=2)
        return self

    def state_dict(self):
        """Return the state as a dict, as torch's optimizers do.

        The dict leaves out the state of a parameter that no group has any more; `del opt.state[p]` frees that state."""
        store,here = self.state,{id(p) for g in self.param_groups for p in g['params']}
        for g in self.param_groups: keep_plain(g, [k for k,v in g.items() if k in self._recipe(g).defaults or getattr(v, 'ndim', None)==0])
        weights = self._weights()
        self.__dict__['_store'] = {p: dict(s) if isinstance(s, dict) else s for p,s in store.items() if id(p) in here or not torch.is_tensor(p)}
        try: res = super().state_dict() | weights | self._rounded()
        finally: self.__dict__['_store'] = store
        for g,s in zip(self.param_groups, res['param_groups']):
            s['store'] = saved(s['store'])                                  # functions cannot be loaded with weights_only=True
            sign(self._recipe(g), g, s)
        return res

    def _rounded(self):
        "Return the entry `rounding_steps` of a state dict: the number of steps in which something was rounded at random, the seed of the last one"
        steps = self._seeds.rounding.steps if self._seeds else 0
        return dict(rounding_steps=steps) if steps else {}

    @quietly
    def torch_state_dict(self):
        "Return a state dict that torch.optim's algorithm of the same name can load. Raises `ValueError` if torch has no such algorithm"
        return torch_state_dict(self)

    # -- what a user looks at --

    @property
    def is_second_order(self):
        "Whether a callback needs the curvature, and so `loss.backward(create_graph=True)`. timm's training loop reads this"
        return any('hvp' in b.reads for g in self.param_groups for b in self._recipe(g).chain(g, rehearsed=False).blocks)

    @property
    def name(self): return type(self).__name__
    @property
    def cbs(self):
        "The callbacks of the first group, in order"
        return list(self._recipe(g := self.param_groups[0]).chain(g).cbs)
    @property
    def hypers(self):
        "The hyper-parameters of each group, as fastai has them: a live mapping for each, which takes either spelling"
        return [self._recipe(g).view(g) for g in self.param_groups]

    @without_dynamo
    @quietly
    def explain(self):
        "Return a table of the chain. A row says what a callback reads and changes, its state and hyper-parameters, and how it runs"
        return Explanation(self)

    def __repr__(self):
        g,n = self.param_groups[0],sum(len(g['params']) for g in self.param_groups)
        recipe = self._recipe(g)
        hypers = ', '.join(f'{k}={v}' for k,v in g.items() if k in recipe.declared and v is not False and v is not None)
        what   = f'{recipe.chain(g)}; {hypers}' if len(self._recipes)==1 else '; '.join(map(repr, self._recipes.values()))
        return f"{self.name}({what}; {plural(n, 'tensor')} in {plural(len(self.param_groups), 'group')})"

    # -- what outlives the process --

    kept = '_recipes','_flags','_common','_nonfinite','_late','_expected'
    def __getstate__(self):
        of_host = dict(_skipped=self.skipped_steps, _last_skipped=self.last_step_skipped) | self._rounded()
        return super().__getstate__() | {k: v for k,v in vars(self).items() if k in self.kept} | of_host
    def __setstate__(self, state):
        for s in state.get('state', {}).values():
            if isinstance(s, dict): s.update({k: v.value for k,v in s.items() if isinstance(v, Boxed)})
        super().__setstate__(state)
        self.state = self.__dict__.pop('state')                              # torch puts it there
        steps = self.__dict__.pop('rounding_steps', 0)
        if not self._seeds: self._seeds = Seeds(steps)                       # torch's `load_state_dict` comes here, too
        self.training = not any('train_p' in s for s in self.state.values() if isinstance(s, dict))
        self.__dict__.setdefault('_late', {})
        for g in self.param_groups:                                         # a group of an older version, or of torch, may lack values
            for k,v in self._recipe(g).defaults.items(): g.setdefault(k, plain(v))

    def load_state_dict(self, state_dict, strict=True):
        """Load a state dict that an optimizer of genopt has saved, or fastai, or torch.optim's algorithm of the same name.

        Loading differs from torch's in four ways. Tensors keep their dtype, so the state of low-precision parameters is float32. The optimizer shares
        no tensor with `state_dict`. It matches parameters by name where both sides know their names (`named_parameters()`). `foreach` and `fused`
        stay as they are.

        Raises `ValueError`, which names the parameter, for a state that does not fit; the optimizer is then as it was. It also raises for the states
        of another algorithm. With `strict=False` it loads the states whose name and shape fit, and starts the others anew."""
        with quiet():
            box = self.register_load_state_dict_pre_hook(partial(Boxed.all, strict=strict))         # it runs last, after the user's own hooks
            try: super().load_state_dict(state_dict)
            finally:
                box.remove()
                told = self.__dict__.pop('_told', {})
                steps = self.__dict__.pop('_steps_told', None)
            hosts = {id(p) for g in self.param_groups if g.get('offload') for p in g['params']}
            for p,s in self.state.items():
                to = 'cpu' if id(p) in hosts else getattr(p, 'device', None)
                if torch.is_tensor(p): s.update({k: v.to(to) for k,v in s.items() if torch.is_tensor(v)})
        self.training = not any('train_p' in s for s in self.state.values() if isinstance(s, dict))
        self._expected,self._untold = told,None
        if steps is not None: self._seeds.rounding.steps = steps


hooked_step = hooked(Optimizer._step)


class Boxed:
    "A tensor of a state dict, wrapped so that torch's loading passes it on without a cast to the parameter's dtype"
    def __init__(self, value): self.value = value.clone()
    @classmethod
    def all(cls, opt, state_dict, strict):
        state_dict = checked(opt, state_dict, strict)
        opt._told,opt._steps_told = told_weights(opt.param_groups, state_dict),state_dict.get('rounding_steps', 0)
        boxed = lambda s: {k: cls(v) if torch.is_tensor(v) else v for k,v in s.items()} if isinstance(s, dict) else copy.deepcopy(s)
        return state_dict | dict(state={i: boxed(s) for i,s in state_dict['state'].items()})

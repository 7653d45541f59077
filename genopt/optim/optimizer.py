"""`Optimizer` is a `torch.optim.Optimizer` that runs a list of callbacks at each step.

This file has the step, and what a user looks at. The other parts of the class: `param_groups` adds groups, `saving` saves and loads, `modes` has the
weights to evaluate, `nonfinite` the steps that are left out, `learner` what fastai calls."""

import warnings
from functools import partial
from operator import is_
import torch
from torch.nn.parameter import is_lazy
from .._torch import hooked,quiet,quietly,sparse_values,watched_from_outside,without_dynamo
from ..contract.sharded import agree,local
from ..contract.tensors import number
from ..run.inputs import Context,Inputs
from ..run.memory import is_capturing
from ..run.offload import Staging,plan_for
from ..run.plan import Plan,prepared
from ..run.rounding import Seeds
from ..run.store import shared_cell
from . import watch
from .explain import Explanation
from .hypers import check_flags,engine_flags
from .learner import ForLearner
from .lists import callbacks_in
from .model import Model
from .modes import Modes
from .nonfinite import Nonfinite
from .param_groups import ParamGroups
from .parameters import as_groups,home
from .recipe import Recipe,entered
from .saving import Saving
from .state_dicts import torch_state_dict
from .tables import plural

__all__ = ['Optimizer']

unchanging = int,float,bool,str,tuple,type(None)                        # an object of these types cannot change its value


class Optimizer(ForLearner, Modes, Nonfinite, ParamGroups, Saving, torch.optim.Optimizer):
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
        recipe = Recipe(self.name, callbacks_in(cbs, self.name), hypers)
        self._start(params, {None: recipe}, recipe.defaults, nonfinite, hypers.keys()&{'lr'})

    def _start(self, params, recipes, defaults, nonfinite, common):
        "`common`: the names of the `defaults` that hold for groups with `cbs` of their own, too"
        self.nonfinite,self._recipes,self._late,self._seeds = nonfinite,recipes,{},Seeds()
        self._flags  = {k: defaults[k] for k in engine_flags}
        self._common = {k: defaults[k] for k in common}
        super().__init__(as_groups(params), dict(defaults))
        self._check_store()
        self._check_read()

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

    def _new_plan(self, inputs, finished=None, gate=None):
        "A plan for `inputs`. `finished`: as `Plan` takes it, `gate`: as its `Context` has it"
        context = Context(self.state, self.name, self.scratch_bytes, self._late, self._seeds, gate)
        if not self._staging and any(s.offload for s in inputs.settings): self._staging = Staging()
        return plan_for(self._staging, inputs, context, finished) if self._staging else Plan(inputs, context, finished)

    def adopt(self):
        """Do nothing, warn that the method is deprecated, and return the optimizer.

        A step runs parameters of any size together, and leaves them where they lie."""
        told = f"{self.name}.adopt() does nothing any more, and the next release removes it; leave the call out"
        warnings.warn(told, DeprecationWarning, stacklevel=2)
        return self

    # -- the state --

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
        groups  = self.param_groups
        g,n     = groups[0],sum(len(g['params']) for g in groups)
        recipes = self._recipes.values()
        what    = f'{self._recipe(g).chain(g)}; {self._hypers_shown()}' if len(recipes)==1 else '; '.join(map(repr, recipes))
        return f"{self.name}({what}; {plural(n, 'tensor')} in {plural(len(groups), 'group')})"

    def _hypers_shown(self):
        "Return the hyper-parameters of groups of one recipe: `lr=0.1 | 0.01, momentum=0.9` where they differ in `lr`. What is off is left out"
        groups = self.param_groups
        values = {k: dict.fromkeys(str(g[k]) for g in groups if k in g) for k in groups[0] if k in self._recipe(groups[0]).declared}
        return ', '.join(f"{k}={' | '.join(vs)}" for k,vs in values.items() if not {*vs}<={'False','None'})


hooked_step = hooked(Optimizer._step)

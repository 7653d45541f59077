"""Gradient release: each parameter moves during `backward`, as soon as its gradient is complete, and its gradient is freed.

A training step then holds the gradients of a few parameters at a time, not those of all. A step of four layers, for instance:

    backward     layer 4: gradient, move, free     layer 3: gradient, move, free     ...     layer 1
    opt.step()   moves what still has a gradient, and ends the step

Each parameter has a plan of its own (`run.plan`), which is made once, and a clock of its own, so that a parameter without a gradient does not count.
The first parameter that moves in a step fixes the hyper-parameters for all others."""

import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from operator import is_
from .._torch import quiet,without_dynamo
from ..contract.block import of_model
from ..contract.messages import name_in
from ..contract.tensors import wide
from ..run.gradients import gradients
from ..run.inputs import Inputs
from ..run.plan import prepared
from . import watch
from .optimizer import Optimizer

__all__ = ['GradientRelease', 'release_gradients']


def release_gradients(opt: Optimizer, *, every: int = 1) -> 'GradientRelease':
    """Let each parameter of `opt` move during `backward`, as soon as its gradient is complete, and free that gradient at once.

    The gradients of a model take as much memory as its parameters. With this, a training step holds only a few of them at a time:

        opt = genopt.AdamW(model.parameters(), lr=1e-3)
        with genopt.release_gradients(opt):             # or: released = genopt.release_gradients(opt) ... released.remove()
            for x,y in batches:
                loss(model(x), y).backward()            # the parameters move here
                opt.step()                              # ends the step, and moves parameters that still have a gradient
                opt.zero_grad()

    A parameter gets the same bits as in an ordinary step if the callbacks are elementwise. States that are rounded at random, and callbacks that draw
    random numbers, are equal in distribution. `opt.step()` must end each step; schedulers, hooks of the optimizer and `opt.step(closure)` work as
    before. All parameters of a step move with the hyper-parameters that the groups have when the first one moves, so set them before `backward`.

    `every`: a whole number, at least 1. With `every=n` a parameter adds up the gradients of `n` calls of `backward`, and moves in the last of them.
        Call `opt.step()` after each `n`-th. A shorter last round may end earlier: `opt.step()` moves what has not moved.

    Returns a `GradientRelease`: a context manager, with the methods `accumulate()` and `remove()`. Copies and pickles of the optimizer are
    ordinary optimizers.

    Raises `TypeError` if `opt` is no optimizer of genopt. Raises `ValueError` if a callback reads all gradients, as `clip_grad_norm` does, or asks
    for the loss; for `nonfinite='skip'`, which leaves out a whole step; for `capturable=True`; and if `opt` releases its gradients already.
    `backward` raises `RuntimeError` if it reaches a parameter that has moved since the last `opt.step()`. `opt.step()` raises `RuntimeError` under
    DistributedDataParallel, and the first `scaler.step(opt)` under a GradScaler: both change gradients after `backward` has handed them out.

    The idea is that of LOMO (https://arxiv.org/abs/2306.09782), of optimi's gradient release and of torch's tutorial on fusing the step into
    `backward`, which make an optimizer for each parameter."""
    if not isinstance(opt, Optimizer):
        raise TypeError(f"release_gradients takes an optimizer of genopt, got {type(opt).__module__}.{type(opt).__qualname__}; if a "
                        "training loop has wrapped it, give the optimizer inside")
    if isinstance(every, bool) or not isinstance(every, int) or every<1:
        raise ValueError(f"release_gradients: every must be a whole number, at least 1; got {every!r}")
    if opt._release: raise ValueError(f"{opt.name} releases its gradients already; call remove() of what release_gradients has returned")
    return GradientRelease(opt, every)


class Alone(dict):
    "A param group of a single parameter, for messages. `number`: that of the group in which the optimizer has it"


class One:
    """A parameter, number `group` of the groups it is in, its `place` among all, the `plan` by which it moves alone, and the `hook` that makes it
    move"""
    def __init__(self, p, group, place, name):
        self.p,self.group,self.place,self.plan,self.hook = p,group,place,None,None
        self.groups = [Alone(params=[p], param_names=[name])]
        self.groups[0].number = group
    @property
    def name(self): return name_in(self.groups, 0)


class GradientRelease:
    "What `release_gradients` returns: it moves each parameter of an optimizer when its gradient is complete, until `remove()`, or until `with` ends"
    def __init__(self, opt, every):
        self._opt,self.every = weakref.ref(opt),every                       # an optimizer that is dropped must not move its parameters any more
        self._ones,self._params,self._sizes = {},[],[]                      # by id of the parameter; all parameters; how many a group has
        self._hooks = []
        self._waiting = 0                                                   # how many `accumulate()` are open
        self._lock = threading.RLock()                                      # backward has a thread for each device
        self._end()
        self._check_policy(opt)
        with quiet():
            for i,g in enumerate(opt.param_groups): check_alone(opt._recipe(g).chain(g), g['capturable'], f'{opt.name}, param group {i}')
        self._follow(opt)
        self._finalizer = weakref.finalize(self, remove_hooks, self._hooks)
        opt._release,opt._plan = self,None

    def __enter__(self) -> 'GradientRelease':
        if not self._finalizer.alive: raise RuntimeError("this release has ended; call release_gradients(opt) again")
        return self
    def __exit__(self, *error: object) -> None: self.remove()

    def remove(self) -> None:
        "End the release: from now on `opt.step()` takes ordinary steps. Gradients that are there stay"
        self._finalizer()
        opt = self._opt()
        if opt is not None and opt._release is self:
            opt._release = None
            finish(opt)
        self._ones,self._params = {},[]

    @contextmanager
    def accumulate(self) -> Iterator[None]:
        """Within this context no parameter moves, and gradients add up. As with DDP's `no_sync`, the last `backward` of a step stands outside of it:

            with released.accumulate(): loss(model(x0), y0).backward()
            loss(model(x1), y1).backward()                                  # moves by the sum of both
            opt.step()"""
        self._waiting += 1
        try: yield
        finally: self._waiting -= 1

    # -- A step --

    def _end(self):
        self._moved,self._arrivals = set(),{}                               # ids of parameters; id -> how often its gradient has come

    def _begin(self, opt):
        "Fix what holds for all parameters of a step, before the first one moves"
        self._check_policy(opt)
        if opt._expected:
            with quiet(): opt._check_weights()
        self._follow(opt)
        self._settings = opt._settings(opt.param_groups)
        opt._seeds.rounding.begin()
        self._observed = self._largest_low() if opt._steps==10 else None    # as in `Optimizer`, the 11th step checks low precision

    def _largest_low(self):
        "The largest of the parameters that have low precision, if there is one"
        low = [one for one in self._ones.values() if one.p.requires_grad and wide(one.p.dtype)!=one.p.dtype]
        return max(low, key=lambda one: one.p.numel(), default=None)

    @without_dynamo
    def _arrived(self, p):
        "The gradient of `p` is complete"
        opt = self._opt()
        if opt is None or not opt.training: return                          # `step` raises, or moves it after `train()`
        with self._lock:
            if id(p) in self._moved: raise RuntimeError(f"{opt.name}: {self._name(p)} {second}")
            if p.grad is None: raise RuntimeError(f"{opt.name}: the gradient of {self._name(p)} {taken}")
            if self._waiting or self.every>1 and not self._is_last(p): return
            if not self._moved: self._begin(opt)
            if one := self._ones.get(id(p)): self._move(opt, one)           # else its group has gone

    def _is_last(self, p):
        "Count a gradient of `p`, and tell whether it is the last one of the step"
        n = self._arrivals[id(p)] = self._arrivals.get(id(p), 0)+1
        return n>=self.every

    def _step(self, opt, loss):
        "What `opt.step()` does: move what still has a gradient, and end the step"
        with self._lock:
            if not self._moved or self._follow(opt): self._begin(opt)
            ones  = [*self._ones.values()]
            grads = gradients([one.p for one in ones])
            if not opt.state and opt._allocates(grads):
                opt.init_state()
                return loss
            left = [one for one,g in zip(ones, grads) if g is not None]
            if late := [one for one in left if id(one.p) in self._moved]: raise RuntimeError(f"{opt.name}: {late[0].name} {after_hooks}")
            for one in left: self._move(opt, one)
            finish(opt)
            self._end()
            opt._steps += 1
            opt._last_skipped = False
        return loss

    def _name(self, p): return self._ones[id(p)].name

    def _move(self, opt, one):
        "Take the step of one parameter, and free its gradient"
        plan   = one.plan
        inputs = Inputs([one.p], [one.p.grad], [self._settings[one.group]], one.groups, one.place)
        quick  = plan is not None and plan.simple and plan.store is opt.state and one is not self._observed
        if quick and plan.valid_for(inputs) and plan.aim(inputs, False) and (opt._nonfinite=='propagate' or not plan.looks_bad()): plan.begin()
        else:
            with quiet(): self._move_long(opt, one, inputs)
        self._moved.add(id(one.p))
        one.p.grad = None

    def _move_long(self, opt, one, inputs):
        "The same where a plan must be made, or callbacks are called"
        if one.plan is None or one.plan.store is not opt.state or not one.plan.valid_for(inputs): self._replan(opt, one, inputs)
        if opt._nonfinite=='raise' and one.plan.nonfinite(inputs.grads):
            raise FloatingPointError(f"{opt.name}: {watch.nonfinite(one.groups, 0, inputs.grads, moved)}")
        lost = self._watch(opt, one) if one is self._observed else None
        prepared(one.plan, inputs, None, partial(self._replan, opt, one)).commit()
        one.plan.let_go()
        if lost: lost.warn(opt.name)

    def _watch(self, opt, one):
        "Remember some elements of a parameter, to see whether they move"
        return watch.Lost.watch(opt.param_groups, self._params, [p.grad if p is one.p else None for p in self._params])

    def _replan(self, opt, one, inputs, finished=None):
        "Make a new plan for a parameter; this rehearses the callbacks if they have not met one of its kind"
        one.plan,group = None,opt.param_groups[one.group]
        chain = opt._recipe(group).chain(group | dict(params=[one.p]))
        if inputs.settings[0].chain is not chain:
            self._settings  = opt._settings_anew()
            inputs.settings = [self._settings[one.group]]
        check_alone(chain, group['capturable'], f'{opt.name}, param group {one.group}')
        one.plan = opt._new_plan(inputs, finished)
        return one.plan

    # -- The parameters --

    def _follow(self, opt):
        """Hook into the parameters that the groups have now, and let go of others. Returns whether they have changed.

        A parameter that is frozen has a hook from the first step on that finds it thawed."""
        groups = opt.param_groups
        params = [p for g in groups for p in g['params']]
        sizes  = [len(g['params']) for g in groups]
        changed = sizes!=self._sizes or not all(map(is_, params, self._params))
        if changed:
            old,self._ones,place = self._ones,{},0
            for i,g in enumerate(groups):
                for j,p in enumerate(g['params']): self._ones.setdefault(id(p), new_or_old(old.get(id(p)), p, i, j, g, place+j))
                place += len(g['params'])
            for i in old.keys()-self._ones.keys(): old[i].hook and old[i].hook.remove()
            self._params,self._sizes = params,sizes
        for one in self._ones.values():
            if one.hook is None and one.p.requires_grad:
                one.hook = one.p.register_post_accumulate_grad_hook(partial(arrived, weakref.ref(self)))
                self._hooks.append(one.hook)
        return changed

    def _check_policy(self, opt):
        "Refuse to leave out steps as a whole"
        if opt._nonfinite=='skip':
            raise ValueError(f"{opt.name}: nonfinite='skip' does not work with release_gradients: some parameters have moved when a gradient "
                             "that is not finite arrives. Use nonfinite='raise', which stops there, or clip_grad_value")


def new_or_old(old, p, group, i, of, place):
    "The `One` of parameter number `i` of the group `of`, number `place` of all: `old`, or a new one that takes over its hook"
    if old is not None and (old.group,old.place)==(group,place): return old
    names = of.get('param_names')
    one = One(p, group, place, names[i] if names else f'parameter {i}')
    if old is not None: one.hook = old.hook
    return one

def arrived(release, p):
    "The hook of all parameters. It knows its `GradientRelease` weakly: one that nobody holds any more moves nothing"
    release = release()
    if release is not None: release._arrived(p)

def remove_hooks(hooks):
    for h in hooks: h.remove()
    hooks.clear()

def finish(opt):
    "Wait for parameters of which the host has not computed the step yet, under `offload`"
    if opt._staging: opt._staging.finish()

def check_alone(chain, capturable, who):
    "Refuse a chain that cannot run for one parameter while others have no gradient yet"
    if capturable: raise ValueError(f"{who}: capturable=True does not work with release_gradients; leave capturable out")
    for b in chain.blocks:
        if asked := [n for n in b.reads if n in of_model]:
            raise ValueError(f"{who}: {b} reads {asked[0]!r}, which belongs to a whole step, but with release_gradients each parameter moves "
                             "before the next one has its gradient; leave release_gradients out")
        if b.is_global:
            raise ValueError(f"{who}: {b} reads {next(iter(b.lists))!r}, of all parameters, but with release_gradients each one moves before the "
                             "next one has its gradient. clip_grad_value clips each element, and clip_tensor_norm each gradient by its own norm")


taken  = "has been freed by another hook; does another optimizer release it?"
second = ("has moved in this step already, and now backward has another gradient for it. End each step with opt.step(); to add gradients up, use "
          "release_gradients(opt, every=n), or accumulate(). After a backward that has failed, call opt.zero_grad() and opt.step()")
after_hooks = ("has moved during backward, and has got another gradient since. DistributedDataParallel does that: it keeps the gradients of all "
               "parameters in its buckets, so release_gradients could free nothing; shard the model with fully_shard instead")
moved  = "This parameter has not moved; those with earlier gradients have"

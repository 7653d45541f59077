"""Steps that are left out: a gradient is not finite, or a `torch.amp.GradScaler` has found that one is not.

Two can look at the gradients:

    the host      looks before the step. If the gradients are on a GPU it waits for them
    the kernels   look where kernels of one GPU run all parameters. They close a gate (`run.gate`), and write nothing behind it. The host does not
                  wait. It learns of it when somebody asks, and at the next step under `nonfinite='raise'`, or if callbacks branch on a counter"""

from ..contract.messages import name_in
from ..run.choose import backend_of
from ..run.gate import Gate
from . import watch

__all__ = ['Nonfinite', 'of_one_gpu']


policies = 'propagate','raise','skip'                                   # the values that `nonfinite` takes
scaled   = ("release_gradients does not work with a GradScaler: the parameters have moved during backward, by scaled gradients. Train under "
            "torch.autocast with bfloat16, which needs no scaler, or give GradScaler enabled=False")
captured = "cannot look at gradients, which nonfinite={!r} does{}; leave one out"

class Nonfinite:
    "The part of `Optimizer` that knows whether a step is left out"
    _planned_for_gate = False                                           # whether the plan was made for steps that kernels may leave out
    _gate = None                                                        # of a GPU
    _skipped,_last_skipped = 0,False                                    # what the host knows of steps left out; None: the gate knows
    _untold = None                                                      # plan and answer of the last step, if `nonfinite='raise'` may raise for it

    @property
    def nonfinite(self):
        """What a step does about a gradient with a value that is not finite, or whose square is not.

        `'propagate'` uses the gradient as it is. `'raise'` raises an error that names the parameter; where kernels of one GPU run all parameters, the
        next step raises it, or `check_gradients()`. `'skip'` leaves out the step. After `'raise'` and `'skip'` the parameters, their state and the
        counters are as they were before the step."""
        return self._nonfinite
    @nonfinite.setter
    def nonfinite(self, v):
        if v not in policies: raise ValueError(f"{self.name}: nonfinite must be one of {', '.join(map(repr, policies))}; got {v!r}")
        before,self._nonfinite = self.__dict__.get('_nonfinite'),v
        for g in self.__dict__.get('param_groups', ()):
            if g['capturable'] and (why := self._cannot_look(g['params'])):
                self._nonfinite = before
                raise ValueError(f"{self.name}: nonfinite={v!r} does not work here: capturable=True {why}")

    def check_gradients(self):
        """Raise the `FloatingPointError` of `nonfinite='raise'` for the last step now, if a gradient was not finite, and not at the next step.

        Call it after the last step of a training on a GPU: it waits for that step. Elsewhere the step itself has raised."""
        untold,self._untold = self._untold,None
        if untold is None or not untold[1].left_out: return
        plan = untold[0]
        name = name_in(plan.groups, plan.first_marked())
        raise FloatingPointError(f"{self.name}: in the last step the gradient of {name} was not finite, or its square was not. That step was left "
                                 "out, and nothing has changed; nonfinite='skip' goes on after such steps")

    @property
    def skipped_steps(self) -> int:
        "How many steps were left out, by `nonfinite='skip'` or because a GradScaler asked for it. On a GPU this waits for the last step"
        return self._skipped + (self._gate.skipped.item() if self._gate else 0)
    @property
    def last_step_skipped(self) -> bool:
        "Whether the last step was left out. On a GPU this waits for that step"
        return self._last_skipped if self._last_skipped is not None else bool(self._gate.flag.item())

    # -- the host looks --

    def _skips(self, grads):
        "Look at the gradients; if one is not finite, count the step as skipped and return true, or raise under `nonfinite='raise'`"
        bad = self._plan.nonfinite(grads)
        if not bad: return False
        if self._nonfinite=='raise': raise FloatingPointError(f"{self.name}: {watch.nonfinite(self.param_groups, bad[0], grads)}")
        self._skip()
        return True

    def _skip(self):
        self._last_skipped = True
        self._skipped += 1

    def _unscaled(self, inputs):
        "Do for a GradScaler what no kernel does: divide the gradients, and leave the step out if it has found what is not finite; true if so"
        found_inf,scale = self.__dict__.get('found_inf'),self.__dict__.get('grad_scale')
        if found_inf is None: return False
        if found_inf.item():
            self._skip()
            return True
        if scale is not None: inputs.grads = [g if g is None else g*scale.reciprocal().to(g.device, g.dtype) for g in inputs.grads]
        return False

    # -- the kernels look --

    def _wants_gate(self):
        "Whether this step may be left out. A GradScaler gives the optimizer `found_inf` and `grad_scale` for the time of a step"
        return self._nonfinite!='propagate' or 'found_inf' in self.__dict__

    @property
    def _step_supports_amp_scaling(self):
        """Whether kernels of a GPU will take the scale of a `torch.amp.GradScaler`, and leave out the step if it has found what is not finite.

        The scaler asks this before each step. Otherwise it divides the gradients itself, and waits to see whether they are finite."""
        if self._release: raise RuntimeError(f"{self.name}: {scaled}")
        return self._plan is not None and self._plan.can_have_gate and self._nonfinite!='raise'

    def _cannot_look(self, params, unseen=None):
        "Return why a captured step cannot look at the gradients of `params`, or `None`. `unseen`: whether its kernels can leave a step out"
        if self._nonfinite=='propagate': return None
        if self._nonfinite=='raise': return captured.format('raise', '')
        if unseen is None: unseen = not params or of_one_gpu(params) is not None
        return None if unseen else captured.format('skip', ', but where kernels of one GPU run all parameters')

    def _gate_for(self, params):
        "Return the gate of the GPU that has all `params`; `None` if no step may be left out, or if there is no such GPU"
        device = of_one_gpu(params) if self._planned_for_gate and params else None
        if device is None: return None
        if self._gate is None or self._gate.device!=device: self._skipped,self._gate = self.skipped_steps,Gate(device)
        return self._gate

    def _begin_gated(self, gate):
        "Begin a step that kernels may leave out"
        self._last_skipped = None
        gate.set(self.__dict__.get('found_inf'), self.__dict__.get('grad_scale'))

    def _end_gated(self, plan):
        "End such a step: count it if it was left out, or have the gate tell the next step"
        if self._nonfinite!='raise' or 'found_inf' in self.__dict__: return plan.gate.count()
        self._untold = plan,plan.gate.tell()

def of_one_gpu(params):
    "The device of all `params`, if kernels run there and leave no step to the host; else None"
    devices = {p.device for p in params}
    device  = devices.pop()
    return device if not devices and backend_of(None, device)=='triton' else None

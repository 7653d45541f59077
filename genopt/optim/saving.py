"""How an optimizer saves its state, loads it, and is copied and pickled."""

import copy
from functools import partial
import torch
from .._torch import quiet
from ..contract.tensors import plain
from ..run.rounding import Seeds
from ..run.store import StateStore
from .modes import told_weights
from .origin import sign
from .recipe import keep_plain
from .state_dicts import checked
from .storage import saved

__all__ = ['Saving']


class Saving:
    "The part of `Optimizer` that saves and loads its state"
    _seeds = None                                                       # of the random numbers of a step

    @property
    def state(self):
        "The state of each parameter: a dict of dicts, by name. Reading it does not slow later steps. The next step uses what you write into it"
        return self.__dict__['_store']
    @state.setter
    def state(self, v):
        self._drop_plan()
        self.__dict__['_store'] = v if isinstance(v, StateStore) else StateStore(v)
        if 'param_groups' in self.__dict__: self._wrap_groups()

    def state_dict(self):
        """Return the state as a dict, as torch's optimizers do.

        Its tensors are those of the state, which later steps write, and its counters are of now. So copy the dict (`copy.deepcopy`) if you keep it in
        memory while the training goes on. The dict leaves out the state of a parameter that no group has any more; `del opt.state[p]` frees that
        state."""
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

    def load_state_dict(self, state_dict, strict=True):
        """Load a state dict that an optimizer of genopt has saved, or fastai, or torch.optim's algorithm of the same name.

        Loading differs from torch's in four ways. Tensors keep their dtype, so the state of low-precision parameters is float32. The optimizer shares
        no tensor with `state_dict`. It matches parameters by name where both sides know their names (`named_parameters()`). `foreach` and `fused`
        stay as they are.

        Raises `ValueError`, which names the parameter, for a state that does not fit; the optimizer is then as it was. It also raises for the states
        of another algorithm. With `strict=False` it loads the states whose name and shape fit, and starts the others anew; of
        the hyper-parameters it loads those that the algorithm has."""
        with quiet():
            hook = self.register_load_state_dict_pre_hook(partial(Boxed.all, strict=strict))        # it runs last, after the user's own hooks
            try: super().load_state_dict(state_dict)
            finally:
                hook.remove()
                told = self.__dict__.pop('_told', {})
                steps = self.__dict__.pop('_steps_told', None)
            self._to_devices()
        self.training = self._holds_weights_to_train()
        self._expected,self._untold = told,None
        if steps is not None: self._seeds.rounding.steps = steps

    def _to_devices(self):
        "Move the state to the devices of the parameters, or with `offload` to the host"
        hosts = {id(p) for g in self.param_groups if g.get('offload') for p in g['params']}
        for p,s in self.state.items():
            if not torch.is_tensor(p): continue
            to = 'cpu' if id(p) in hosts else p.device
            s.update({k: v.to(to) for k,v in s.items() if torch.is_tensor(v)})

    def _holds_weights_to_train(self):
        "Whether the state is one that was saved in training, not after `eval()`"
        return not any('train_p' in s for s in self.state.values() if isinstance(s, dict))

    # -- copies and pickles --

    kept = '_recipes','_flags','_common','_nonfinite','_late','_expected'
    def __getstate__(self):
        of_host = dict(_skipped=self.skipped_steps, _last_skipped=self.last_step_skipped) | self._rounded()
        return super().__getstate__() | {k: v for k,v in vars(self).items() if k in self.kept} | of_host

    def __setstate__(self, state):
        "Take on what `__getstate__` has returned. torch's `load_state_dict` calls this, too"
        for s in state.get('state', {}).values():
            if isinstance(s, dict): s.update({k: v.value for k,v in s.items() if isinstance(v, Boxed)})
        super().__setstate__(state)
        self.state = self.__dict__.pop('state')                              # torch puts it there
        steps = self.__dict__.pop('rounding_steps', 0)
        if not self._seeds: self._seeds = Seeds(steps)
        self.training = self._holds_weights_to_train()
        self.__dict__.setdefault('_late', {})
        for g in self.param_groups:                                         # a group of an older version, or of torch, may lack values
            for k,v in self._recipe(g).defaults.items(): g.setdefault(k, plain(v))


class Boxed:
    "A tensor of a state dict, wrapped so that torch's loading passes it on without a cast to the parameter's dtype"
    def __init__(self, value): self.value = value.clone()
    @classmethod
    def all(cls, opt, state_dict, strict):
        state_dict = checked(opt, state_dict, strict)
        opt._told,opt._steps_told = told_weights(opt.param_groups, state_dict),state_dict.get('rounding_steps', 0)
        boxed = lambda s: {k: cls(v) if torch.is_tensor(v) else v for k,v in s.items()} if isinstance(s, dict) else copy.deepcopy(s)
        return state_dict | dict(state={i: boxed(s) for i,s in state_dict['state'].items()})

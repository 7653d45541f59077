"""What fastai's Learner asks of an optimizer, so that `Learner(dls, model, opt_func=genopt.Adam)` needs no wrapper: layer groups as `param_lists`,
freezing, and hyper-parameters that one call sets by name, in fastai's spelling, in all groups. genopt does not need fastai for it."""

import warnings
from fastcore.foundation import L
from ..contract.tensors import plain

__all__ = ['ForLearner']

scheduled = {'mom', 'sqr_mom', 'wd'}                             # fastai sets these for every optimizer, also for one without momentum


def spread(v, n):
    "`v` for `n` groups, as fastai reads it: `slice(a, b)` goes from a to b in equal ratios, `slice(b)` is b for the last group and b/10 before"
    if isinstance(v, slice):
        if not v.start: return [v.stop/10]*(n-1) + [v.stop]
        ratio = v.stop/v.start
        return [v.start*ratio**(i/max(n-1, 1)) for i in range(n)]
    values = [*v] if isinstance(v, (list,tuple,L)) or getattr(v, 'ndim', 0) else [v]
    return values*n if len(values)==1 else values


class ForLearner:
    "What fastai's Learner calls: `hypers`, `param_lists`, `freeze_to`, `set_hyper` and their like"
    frozen_idx = 0
    flags = 'do_wd','force_train'                                # Learner writes these into the state of a parameter

    @property
    def param_lists(self) -> L:
        "The parameters of each group"
        return L(L(g['params']) for g in self.param_groups)
    @param_lists.setter
    def param_lists(self, lists):
        for g,params in zip(self.param_groups, lists):
            g['params'] = [*params]

    def all_params(self, n=slice(None), with_grad=False) -> L:
        "`(parameter, group's parameters, state, hypers)` for each parameter of the groups `n`, a slice; with `with_grad` for those with a gradient"
        res = L()
        for group,hypers in zip(self.param_groups[n], self.hypers[n]):
            for p in group['params']:
                if p.grad is not None or not with_grad:
                    res.append((p, group['params'], self.state[p], hypers))
        return res

    def freeze_to(self, n: int):
        "Freeze the groups before the `n`-th. Parameters that Learner has marked `force_train`, those of norm layers, are trained in every group"
        count = len(self.param_groups)
        self.frozen_idx = n if n>=0 else count+n
        if self.frozen_idx>=count:
            warnings.warn(f"freeze_to({n}) freezes all {count} groups, so nothing will train", stacklevel=2)
        for i,g in enumerate(self.param_groups):
            for p in g['params']:
                p.requires_grad_(i>=self.frozen_idx or self.state[p].get('force_train', False))

    def freeze(self):
        "Freeze all groups but the last. Raises `ValueError` where there is one group"
        if len(self.param_groups)<2:
            raise ValueError(f"{self.name} has one group, so there is no rest to freeze; give the parameters as a list of lists")
        self.freeze_to(-1)

    def unfreeze(self):
        "Train all groups"
        self.freeze_to(0)

    def clear_state(self):
        "Remove the state of all parameters, but for Learner's flags"
        for g in self.param_groups:
            for p in g['params']:
                self.state[p] = {k: v for k,v in self.state[p].items() if k in self.flags}

    def set_hyper(self, k: str, v):
        """Set the hyper-parameter `k` in all groups. `v` is one value, a list with one for each group, or a slice: `slice(a, b)` goes from a in the
        first group to b in the last, in equal ratios; `slice(b)` is b in the last group and b/10 in the others.

        Where groups run several algorithms, those that have `k` get it. Where none has it, a name that fastai schedules for every optimizer, such as
        `mom`, becomes a note in each group, because fastai's recorder reads it; another name raises `KeyError`. Raises `ValueError` where the number
        of values is not the number of groups."""
        n = len(self.param_groups)
        values = spread(v, n)
        if len(values)!=n:
            raise ValueError(f"{self.name} has {n} groups, got {len(values)} values for {k!r}")
        known = any(k in h for h in self.hypers)
        for group,hypers,value in zip(self.param_groups, self.hypers, values):
            if not known and k in scheduled:
                group[k] = plain(value)
            elif not known or k in hypers:
                hypers[k] = plain(value)

    def set_hypers(self, **kw):
        "Set each hyper-parameter of `kw`, as `set_hyper` does"
        for k,v in kw.items():
            self.set_hyper(k, v)

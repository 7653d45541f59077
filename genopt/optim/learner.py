"""What fastai's Learner asks of an optimizer, so that `Learner(dls, model, opt_func=genopt.Adam)` needs no wrapper: layer groups as `param_lists`,
freezing, and hyper-parameters set by name, in fastai's spelling, for all groups at once. fastai itself is not needed."""

import warnings
from fastcore.foundation import L
from ..contract.tensors import plain

__all__ = ['ForLearner']

short = {'mom', 'sqr_mom', 'wd'}                                     # what fastai schedules whether an optimizer has it or not


class ForLearner:
    "fastai's side of `Optimizer`: `hypers`, `param_lists`, `freeze_to`, `set_hyper`"
    frozen_idx = 0
    flags = 'do_wd','force_train'                                    # what Learner writes into a parameter's state

    @property
    def param_lists(self):
        "The parameters of each group"
        return L(L(g['params']) for g in self.param_groups)
    @param_lists.setter
    def param_lists(self, v):
        for g,ps in zip(self.param_groups, v): g['params'] = [*ps]

    def all_params(self, n=slice(None), with_grad=False):
        "`(parameter, group, state, hypers)` for those of the groups `n`; `with_grad`: that have a gradient"
        res = L((p, g['params'], self.state[p], h) for g,h in zip(self.param_groups[n], self.hypers[n]) for p in g['params'])
        return res.filter(lambda o: o[0].grad is not None) if with_grad else res

    def freeze_to(self, n):
        "Train the groups from `n` on only; parameters that Learner has marked `force_train`, of norm layers, go on"
        self.frozen_idx = n if n>=0 else len(self.param_groups)+n
        if self.frozen_idx>=len(self.param_groups): warnings.warn(f"all {len(self.param_groups)} groups are frozen", stacklevel=2)
        for i,g in enumerate(self.param_groups):
            for p in g['params']: p.requires_grad_(i>=self.frozen_idx or self.state[p].get('force_train', False))
    def freeze(self):
        "Train the last group only"
        if len(self.param_groups)<2: raise ValueError(f"{self.name} has one group; to freeze the rest, give more: a list of lists of parameters")
        self.freeze_to(-1)
    def unfreeze(self): self.freeze_to(0)

    def clear_state(self):
        "Forget what was remembered of gradients, but for Learner's own flags"
        for g in self.param_groups:
            for p in g['params']: self.state[p] = {k: v for k,v in self.state[p].items() if k in self.flags}

    def set_hyper(self, k, v):
        """Set a hyper-parameter in all groups: one value, one for each, or a slice: `slice(a,b)` in equal ratios from the first group to the last,
        `slice(b)` b for the last and b/10 for the others. What fastai schedules anyway, such as `mom`, is only kept where nothing reads it"""
        n = len(self.param_groups)
        if isinstance(v, slice): v = [v.start*(v.stop/v.start)**(i/max(n-1, 1)) for i in range(n)] if v.start else [v.stop/10]*(n-1)+[v.stop]
        vs = [*v] if isinstance(v, (list,tuple,L)) or getattr(v, 'ndim', 0) else [v]
        if len(vs)==1: vs = vs*n
        if len(vs)!=n: raise ValueError(f"{self.name} has {n} groups, got {len(vs)} values for {k!r}")
        unread = k in short and not any(k in h for h in self.hypers)                       # a note in the group then: fastai's recorder asks for it
        for g,h,x in zip(self.param_groups, self.hypers, vs):
            if unread: g[k] = plain(x)
            elif k in h or not any(k in o for o in self.hypers): h[k] = plain(x)           # of several algorithms, those that have it
    def set_hypers(self, **kw):
        for k,v in kw.items(): self.set_hyper(k, v)

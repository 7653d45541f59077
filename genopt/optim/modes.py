"""Two sets of weights: those to train, and those to evaluate.

An algorithm that averages weights, or a schedule-free one, keeps both sets. `opt.eval()` puts the weights to evaluate into the parameters.
`opt.train()` puts the weights to train back, with the same bits. Both do nothing if the algorithm has only one set."""

import torch
from .._torch import quietly,without_dynamo
from ..contract.chain import Namespace
from ..contract.messages import name_in
from ..contract.sharded import is_sharded
from ..contract.state import seen,stored_states
from ..contract.tensors import real
from ..run.reference import own
from .parameters import home

__all__ = ['Modes']


written_between = 'raise','keep','undo'                                 # the values of `written`, an argument of `train`
both_ways = "opt.train(written='keep') trains on from what is there"

class Modes:
    "The part of `Optimizer` that knows which weights the parameters hold"
    training  = True
    _expected = {}                                                      # from a file: parameter -> `bits` of its weights to train, and to evaluate

    @without_dynamo
    @quietly
    def eval(self):
        """Put the weights to evaluate into the parameters: the state `eval_p`, or what a callback returns as `eval_p`.

        The state, and so a checkpoint, keeps the weights to train. A parameter that no step has trained yet stays as it is. After `eval()` a step
        raises `RuntimeError` until you call `train()`."""
        if not self.training: return
        if self._expected: self._check_weights()
        news = self._to_evaluate()
        for p,state,value in news:
            state.put_aside(train_p=p.detach().clone().to(value.device))
            real(p.detach()).copy_(value)
            if has_bits(p): state.put_aside(eval_bits=bits(p))
        self.training = not news

    @without_dynamo
    @quietly
    def train(self, mode=True, *, written='raise'):
        """Put the weights to train back into the parameters. `train(False)` is `eval()`, as for a model.

        `written`: what to do if somebody has written a parameter since `eval()`, for example by loading a checkpoint of the model. `'raise'`
        raises `RuntimeError` and changes nothing. `'keep'` trains on from what was written. `'undo'` goes back to the weights that were trained."""
        if written not in written_between:
            raise ValueError(f"{self.name}: written must be one of {', '.join(map(repr, written_between))}; got {written!r}")
        if not mode: return self.eval()
        put_aside = {p: s for p,s in self.state.items() if isinstance(s, dict) and 'train_p' in s}
        changed = [] if written=='undo' else [p for p,s in put_aside.items() if was_written(p, s)]
        if changed and written=='raise': raise RuntimeError(self._was_changed(changed))
        put_back(put_aside, {*map(id, changed)})
        self.training = True
        if written=='keep': self._expected = {}

    def _was_changed(self, params):
        "The message that somebody has written `params` since `eval()`"
        return (f"{self.name}: {self._names(params)} was written after opt.eval(), and train() would undo that. Nothing has changed. "
                f"{both_ways}; written='undo' goes back to the weights that were trained")

    def _to_evaluate(self):
        "Return `(parameter, state, weights to evaluate)` for each parameter that has weights to evaluate"
        res = []
        for group in self.param_groups:
            recipe = self._recipe(group)
            chain  = recipe.chain(group)
            for p in group['params'] if chain.evals or 'eval_p' in chain.state else ():
                state = self.state.of(p)
                if not chain.state.keys()<=state.keys(): continue
                q = home(p, group)
                values = seen(chain.state, stored_states(chain.state, state, q))
                ns = Namespace(own(recipe.hypers(group, chain), state), p=chain.seen(q, state), **values)
                for b in chain.evals: ns.update(b(ns))
                res.append((p, self.state[p], ns['eval_p']))
        return res

    def _names(self, params):
        "Name the first of `params`, and say how many others there are"
        numbers = {id(p): i for i,p in enumerate(p for g in self.param_groups for p in g['params'])}
        known = [numbers[id(p)] for p in params if id(p) in numbers]
        first = name_in(self.param_groups, known[0]) if known else 'a parameter that is in no group any more'
        return first + (f' (and {len(params)-1} more)' if len(params)>1 else '')

    # -- files: a user may save the model with the weights to evaluate, and the optimizer with those to train --

    @quietly
    def _weights(self):
        """Return the entry `weights` of a state dict that is saved in training.

        By the number of each parameter, it has the `bits` of the weights to train and those of the weights to evaluate."""
        numbers = {id(p): i for i,p in enumerate(p for g in self.param_groups for p in g['params'])}
        try: news = self._to_evaluate() if self.training else ()
        except (RuntimeError, ValueError, TypeError): news = ()         # a parameter has another shape now; the next step reports it
        told = {numbers[id(p)]: [bits(p), bits(real(torch.empty_like(p)).copy_(value))] for p,_,value in news if has_bits(p)}
        return dict(weights=told) if told else {}

    def _check_weights(self):
        "Refuse a step if the state was saved in training, but the parameters hold the weights to evaluate"
        bad = [p for p,(train,other) in self._expected.items() if train!=other and bits(p)==other]
        if bad:
            raise RuntimeError(f"{self.name}: {self._names(bad)} has the weights that opt.eval() sets, "
                               "but the loaded optimizer state was saved in training: "
                               f"save model and optimizer both after opt.eval(), or both in training. The step has changed nothing. {both_ways}")
        self._expected = {}

def told_weights(groups, state_dict):
    "Return the entry `weights` of `state_dict` by parameter. The next step reads it, since the model may be loaded after the optimizer"
    told = state_dict.get('weights', {})
    saved = [i for g in state_dict['param_groups'] for i in g['params']]
    return {p: told[i] for i,p in zip(saved, (p for g in groups for p in g['params'])) if i in told}

def put_back(put_aside, changed):
    "Put the weights to train back into their parameters, but for those whose ids are in `changed`, and drop them from the states"
    for p,state in put_aside.items():
        value = state.take_back('train_p')
        state.take_back('eval_bits')
        if id(p) not in changed: p.detach().copy_(value)

def was_written(p, state):
    "Tell whether `p` holds neither the weights that `eval` put there nor those from before. For the state of an old file the answer is no"
    return 'eval_bits' in state and bits(p)!=state['eval_bits'] and bits(p)!=bits(state['train_p'])

def has_bits(p): return not is_sharded(p) and not p.is_meta

integers = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}

def bits(x):
    "Return a checksum of the bits of `x`. It is the same on all devices"
    x = real(x.detach()).contiguous().flatten()
    x = x.view(integers[x.itemsize])
    weights = 2*torch.arange(min(len(x), 2**20), device=x.device) + 1
    total = torch.zeros((), dtype=torch.int64, device=x.device)
    for part in x.split(2**20): total = total*31 + (part*weights[:len(part)]).sum()
    return int(total)

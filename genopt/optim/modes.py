"""Two sets of weights: those that are trained, and those to evaluate, which an average or a schedule-free algorithm keeps. `opt.eval()` puts the
latter into the parameters, `opt.train()` the former back, to the bit; with an algorithm that has one set both do nothing."""

import torch
from .._torch import quietly,without_dynamo
from ..contract.chain import Namespace
from ..contract.messages import name_in
from ..contract.sharded import is_sharded
from ..contract.state import as_declared
from ..contract.tensors import compute,real
from ..run.reference import own

__all__ = ['Modes']


written_between = 'raise','keep','undo'                                 # what `train` does about what was written after `eval`
both_ways = "opt.train(written='keep') trains on from what is there"

class Modes:
    "The part of `Optimizer` that knows which weights the parameters hold"
    training  = True
    _expected = {}                                                      # parameter -> bits of its weights to train and to evaluate, from a file

    @without_dynamo
    @quietly
    def eval(self):
        """Put the weights to evaluate into the parameters: the state `eval_p`, or what a callback returns as `eval_p`. Those to train are kept in the
        state, and in checkpoints. A parameter that has not been trained yet stays. No step can be taken until `train()`"""
        if not self.training: return
        if self._expected: self._check_weights()
        news = self._to_evaluate()
        for p,state,value in news:
            state['train_p'] = p.detach().clone()
            real(p.detach()).copy_(value)
            if has_bits(p): state['eval_bits'] = bits(p)
        self.training = not news

    @without_dynamo
    @quietly
    def train(self, mode=True, *, written='raise'):
        """Put the weights to train back into the parameters. `train(False)` is `eval()`, as of a model. `written`: what becomes of a parameter
        that somebody has written since `eval()`, a checkpoint of the model that was loaded perhaps: `'raise'` an error, `'keep'` what was written
        and train on from there, or `'undo'` it"""
        if written not in written_between:
            raise ValueError(f"{self.name}: written must be one of {', '.join(map(repr, written_between))}; got {written!r}")
        if not mode: return self.eval()
        kept  = {p: s for p,s in self.state.items() if isinstance(s, dict) and 'train_p' in s}
        other = [p for p,s in kept.items() if was_written(p, s)] if written!='undo' else []
        if other and written=='raise':
            raise RuntimeError(f"{self.name}: {self._names(other)} was written after opt.eval(), and train() would undo that. Nothing has changed. "
                               f"{both_ways}; written='undo' goes back to the weights that were trained")
        for p,s in kept.items():
            value = s.pop('train_p')
            s.pop('eval_bits', None)
            if not any(p is o for o in other): p.detach().copy_(value)
        self.training = True
        if written=='keep': self._expected = {}

    def _to_evaluate(self):
        "`(parameter, state, weights to evaluate)` of each parameter that has such"
        res = []
        for group in self.param_groups:
            recipe = self._recipe(group)
            chain  = recipe.chain(group)
            for p in group['params'] if chain.evals or 'eval_p' in chain.state else ():
                state = self.state.of(p)
                if not chain.state.keys()<=state.keys(): continue
                values = {n: kept(as_declared(state[n], init, p)) for n,init in chain.state.items()}
                ns = Namespace(own(recipe.hypers(group, chain), state), p=compute(p), **values)
                for b in chain.evals: ns.update(b(ns))
                res.append((p, self.state[p], ns['eval_p']))
        return res

    def _names(self, params):
        "The first of `params` by name, and how many others there are"
        numbers = {id(p): i for i,p in enumerate(p for g in self.param_groups for p in g['params'])}
        known = [numbers[id(p)] for p in params if id(p) in numbers]
        first = name_in(self.param_groups, known[0]) if known else 'a parameter that is in no group any more'
        return first + (f' (and {len(params)-1} more)' if len(params)>1 else '')


    # -- files: the model may be saved with the weights to evaluate, and the optimizer with those to train --

    @quietly
    def _weights(self):
        "For a state dict saved in training: `bits` of the weights to train and of those to evaluate, by the parameter's number"
        numbers = {id(p): i for i,p in enumerate(p for g in self.param_groups for p in g['params'])}
        try: news = self._to_evaluate() if self.training else ()
        except (RuntimeError, ValueError, TypeError): news = ()         # a parameter has got another shape: the next step says so
        told = {numbers[id(p)]: [bits(p), bits(real(torch.empty_like(p)).copy_(value))] for p,_,value in news if has_bits(p)}
        return dict(weights=told) if told else {}

    def _check_weights(self):
        "Refuse a step where the parameters are the weights to evaluate, but the state was saved in training"
        bad = [p for p,(train,other) in self._expected.items() if train!=other and bits(p)==other]
        if bad:
            raise RuntimeError(f"{self.name}: {self._names(bad)} holds the weights to evaluate, but the state that was loaded was saved in training: "
                               f"save model and optimizer both after opt.eval(), or both in training. Nothing has changed. {both_ways}")
        self._expected = {}

def told_weights(groups, state_dict):
    "What `_weights` has told, by parameter. It is looked at when the model is loaded too, at the next step"
    told = state_dict.get('weights', {})
    saved = [i for g in state_dict['param_groups'] for i in g['params']]
    return {p: told[i] for i,p in zip(saved, (p for g in groups for p in g['params'])) if i in told}

def kept(v): return compute(v) if isinstance(v, torch.Tensor) else v

def was_written(p, state):
    "Whether `p` is neither what `eval` has put there nor what it was before. An old file does not say"
    return 'eval_bits' in state and bits(p)!=state['eval_bits'] and bits(p)!=bits(state['train_p'])

def has_bits(p): return not is_sharded(p) and not p.is_meta

integers = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}

def bits(x):
    "A number that tells the bits of `x` from others: it is the same on all devices"
    x = real(x.detach()).contiguous().flatten()
    x = x.view(integers[x.itemsize])
    weights = 2*torch.arange(min(len(x), 2**20), device=x.device) + 1
    total = torch.zeros((), dtype=torch.int64, device=x.device)
    for part in x.split(2**20): total = total*31 + (part*weights[:len(part)]).sum()
    return int(total)

"""Two sets of weights: those that are trained, and those to evaluate, which an average or a schedule-free algorithm keeps. `opt.eval()` puts the
latter into the parameters, `opt.train()` the former back, to the bit; with an algorithm that has one set both do nothing."""

import torch
from .._torch import quietly
from ..contract.chain import Namespace
from ..contract.tensors import compute,real
from ..run.reference import own

__all__ = ['Modes']


class Modes:
    "The part of `Optimizer` that knows which weights the parameters hold"
    training = True

    @quietly
    def eval(self):
        """Put the weights to evaluate into the parameters: the state `eval_p`, or what a callback returns as `eval_p`. Those to train are kept in the
        state, and in checkpoints. A parameter that has not been trained yet stays. No step can be taken until `train()`"""
        news = []
        for group in self.param_groups if self.training else ():
            recipe = self._recipe(group)
            chain  = recipe.chain(group)
            for p in group['params'] if chain.evals or 'eval_p' in chain.state else ():
                state = self.state[p]
                if not chain.state.keys()<=state.keys(): continue
                ns = Namespace(own(recipe.hypers(group, chain), state), p=compute(p), **{n: kept(state[n]) for n in chain.state})
                for b in chain.evals: ns.update(b(ns))
                news.append((p, state, ns['eval_p']))
        for p,state,value in news:
            state['train_p'] = p.detach().clone()
            real(p.detach()).copy_(value)
        self.training = not news and self.training

    @quietly
    def train(self, mode=True):
        "Put the weights to train back into the parameters. `train(False)` is `eval()`, as of a model"
        if not mode: return self.eval()
        for p,state in self.state.items():
            if torch.is_tensor(p) and 'train_p' in state: p.detach().copy_(state.pop('train_p'))
        self.training = True

def kept(v): return compute(v) if isinstance(v, torch.Tensor) else v

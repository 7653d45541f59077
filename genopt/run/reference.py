"""The reference, `foreach=False`: each parameter by itself. One parameter on its way is an `Item`; its chain is folded over its
namespace. Nothing is written until all have arrived, so a step that fails changes nothing. The other ways of running (`run`) are
held against this one, and come back to it for what they cannot take."""

from torch import Tensor
from ..contract.chain import Namespace, fold
from ..contract.state import as_declared
from ..contract.tensors import compute, describe, fit, plain, real, storage

__all__ = ['Item', 'loop', 'own', 'wrote_in_place']


def own(numbers, state):
    "The hyper-parameters of one parameter: fastai's Learner marks those, biases and norms, that are not to decay"
    return numbers | {'wd': 0.0} if 'wd' in numbers and state.get('do_wd') is False else numbers


class Item:
    "One parameter on its way through its chain: `ns` is what callbacks see, at first `x` of the parameter, `state` what is kept"

    def __init__(self, p, state, chain, hypers):
        self.p, self.chain, self.x = p, chain, (x := compute(p))
        self.state = {
            n: as_declared(state[n], init, x) if n in state else init(x)
            for n, init in chain.state.items()
        }
        self.kept = {n: compute(v) if isinstance(v, Tensor) else v for n, v in self.state.items()}
        self.ns = Namespace(own(hypers, state), p=x, grad=compute(p.grad), rows=None, **self.kept)
        self.stores = {'new_p': p} | {n: v for n, v in self.state.items() if isinstance(v, Tensor)}
        self.versions = self.versions_now()

    def versions_now(self):
        return [
            None if v.is_inference() else v._version for v in (self.p.grad, *self.stores.values())
        ]

    def arrive(self):
        "Let go of what was made on the way: it is not written, and its memory serves the next"
        if self.chain.moves:
            self.ns = {n: self.ns[n] for n in ('new_p', *self.kept)}

    def check(self, who):
        "Raise if what the chain arrived at cannot be written"
        if self.versions != self.versions_now():
            raise wrote_in_place(who, self.chain)
        for n, old in (self.kept | ({'new_p': self.x} if self.chain.moves else {})).items():
            if fit(self.ns[n]) != fit(old):
                raise ValueError(
                    f"{who}: {self.chain} made {n} {describe(self.ns[n])}; it was {describe(old)}"
                )

    def write(self):
        "Put what the chain arrived at into the parameter and its state; returns the state"
        news = {
            n: self.ns[n] for n in self.stores if n == 'new_p' or self.ns[n] is not self.kept[n]
        }
        held = {storage(v) for v in self.stores.values()}
        news = {
            n: v.clone() if storage(v) in held else v for n, v in news.items()
        }  # one stored tensor as another's new value
        for n, v in news.items():
            real(self.stores[n].detach()).copy_(v)
        return self.state | {n: plain(self.ns[n]) for n in self.state if n not in self.stores}


def wrote_in_place(who, chain):
    return RuntimeError(
        f"{who}: a callback of {chain} wrote in place into a gradient, a parameter or a state; return new values instead"
    )


def loop(items, model=None):
    "`foreach=False`, the reference: each parameter by itself; a global callback waits until all that have it have reached it"
    for it in items:
        if by := next((b for b in it.chain.blocks if 'loss' in b.reads), None):
            it.ns['loss'] = model.loss([it], by)

    def advance(it, run, out=None):
        "Run the callbacks of one parameter up to the next that is over all parameters"
        try:
            while not (b := run.send(out)).is_global:
                out = b(it.ns)
            return b, it, run
        except StopIteration:
            it.arrive()

    waiting = [advance(it, fold(it.chain, it.ns)) for it in items]
    while waiting := [w for w in waiting if w]:
        b = waiting[0][0]
        here = [(it, run) for o, it, run in waiting if o == b]
        if any(o != b and b in (bs := it.chain.blocks)[bs.index(o) :] for o, it, _ in waiting):
            raise ValueError(
                f"{b} and another callback over all parameters come in different orders in two groups"
            )
        outs = b.call_all([it.ns for it, _ in here], model, [it for it, _ in here])
        waiting = [w for w in waiting if w[0] != b] + [
            advance(it, run, out) for (it, run), out in zip(here, outs)
        ]

"""The reference, `foreach=False`: each parameter goes through its chain by itself.

A parameter on its way is an `Item`; `loop` folds its chain over its namespace. Nothing is written
until all items have arrived, so a step that fails changes nothing. The tests hold the other
backends against this one, and parameters that no program can take fall back to it.

A callback over all parameters waits until all items that have it have come to it:

    item 0    centralize --> clip_grad_norm ...           item 0 waits
    item 1    average_grad --> clip_grad_norm             both are there: it is called once
    item 0                          --> momentum_step     both go on, each by itself
    item 1                          --> nesterov_step"""

from contextlib import nullcontext
import torch
from torch import Tensor
from .._torch import times_written
from ..contract.chain import Namespace, fold, learned_of
from ..contract.state import seen
from ..contract.tensors import compute, describe, fit, plain, real, storage
from .random import Drawing
from .rounding import Rounding
from .scalars import is_exempt, without_decay

__all__ = ['Item', 'loop', 'out_of_order', 'own', 'wrote_in_place']


def own(numbers, state):
    "The hyper-parameters `numbers` for the parameter with this state"
    return without_decay(numbers) if is_exempt(state) else numbers


class Item:
    """One parameter on its way through its chain. `ns` is what callbacks see. It starts with `x`,
    what they see of the parameter, and `kept`, what they see of its states. `random`: the seeds
    of the step, and the key of the parameter"""

    def __init__(self, p, state, chain, hypers, random=None):
        self.p, self.chain, self.random = p, chain, random
        self.state = chain.stored(p, state)
        self.stores = {'p': p} | {
            n: v for n, v in self.state.items() if isinstance(v, Tensor)
        }
        self.x, self.kept, of_grad = self.seen()
        self.ns = Namespace(own(hypers, state), p=self.x, **of_grad, **self.kept)
        self.versions = self.versions_now()

    def seen(self):
        "What callbacks see of the parameter, of its states, and of its gradient by name"
        x = self.chain.seen(self.p, self.state)
        kept = seen(self.chain.state, self.state)
        return x, kept, dict(grad=compute(self.p.grad), rows=None)

    def call(self, block, at):
        "What `block` changes, which is number `at` of the chain and draws random numbers"
        drawing = None
        if self.random:
            seeds, key = self.random
            drawing = Drawing(seeds.drawn, key, self.chain.places[at], self.x)
        with drawing or nullcontext():
            return block(self.ns)

    def versions_now(self):
        "How often each tensor that a callback must not write has been written"
        tensors = self.p.grad, *self.stores.values()
        return [*map(times_written, tensors)]

    def arrive(self):
        "Keep only what `write` needs. The next item can use the memory of the rest"
        if self.chain.moves:
            self.ns = {n: self.ns[n] for n in ('new_p', *self.kept)}

    def check(self, who):
        "Refuse results of the chain that cannot be written"
        if self.versions != self.versions_now():
            raise wrote_in_place(who, self.chain)
        old = self.kept | ({'new_p': self.x} if self.chain.moves else {})
        for n, v in old.items():
            fits = self.chain.state[n].fits if n in self.kept else same_fit
            if not fits(self.ns[n], v):
                told = (
                    f"changed {n} from {describe(v)} to {describe(self.ns[n])}; "
                    "return the same kind and shape in every step"
                )
                raise ValueError(f"{who}: {self.chain} {told}")

    def write(self):
        "Write the parameter and its states. Returns the states"
        news = {n: self.ns[n] for n in self.kept if n in self.stores}
        news = {n: v for n, v in news.items() if v is not self.kept[n]}
        news['p'] = self.ns['new_p']
        # one stored tensor may be the new value of another, as in dict(a=b, b=a)
        held = {storage(v) for v in self.stores.values()}
        news = {n: v.clone() if storage(v) in held else v for n, v in news.items()}
        grown = {}
        for n, v in self.stored(news):
            old = real(self.stores[n].detach())
            if v.shape != old.shape:
                grown[n] = stored_as(self.stores[n], v)
            else:
                old.copy_(v)
        numbers = {n: plain(self.ns[n]) for n in self.state if n not in self.stores}
        return self.state | numbers | grown

    def stored(self, news):
        "Pairs of a name and what is written there, for the new values `news`"
        olds = {n: real(v.detach()) for n, v in self.stores.items()}
        stores = self.chain.stores
        for n, v in news.items():
            with self.rounding(n):
                written = stores[n].written(n, v, olds)
            yield from written.items()

    def rounding(self, name):
        "What is to be on while `name` is rounded"
        how, dtype = self.chain.stores[name], self.stores[name].dtype
        if not self.random or not how.rounds_at_random(dtype):
            return nullcontext()
        seeds, key = self.random
        return Rounding(seeds.rounding, name, [key])


def stored_as(old, new):
    "What a callback made, `new`, as a tensor of its own, stored as `old` is"
    res = torch.empty(new.shape, dtype=real(old).dtype, device=old.device).copy_(new)
    return torch.view_as_complex(res) if old.is_complex() else res


def same_fit(new, old):
    return fit(new) == fit(old)


def wrote_in_place(who, chain):
    return RuntimeError(
        f"{who}: a callback of {chain} wrote in place into a gradient, a parameter or a state; "
        "return new values instead"
    )


# -- The loop --


class Walk:
    """`item` on its way. It waits at `block`, a callback over all parameters, which is the chain's
    callback number `at`. `block` is None when the item has arrived. `draws`: the callbacks that draw
    random numbers"""

    def __init__(self, item, draws):
        self.item, self.run, self.at = item, fold(item.chain, item.ns), -1
        self.draws = draws
        self.advance()

    def advance(self, out=None):
        "Go on to the next callback over all parameters. `out`: what `block` has changed"
        try:
            while not self.next(out).is_global:
                if self.block in self.draws:
                    out = self.item.call(self.block, self.at)
                else:
                    out = self.block(self.item.ns)
        except StopIteration:
            self.block = None
            self.item.arrive()

    def next(self, out):
        self.block = self.run.send(out)
        self.at += 1
        return self.block

    def comes_to(self, block):
        "Whether `block` lies ahead"
        return block in self.item.chain.blocks[self.at :]


def loop(items, model=None):
    "Take `items` through their chains, in their order. `model`: what callbacks may ask"
    for it in items:
        give_loss(it, model)
    draws = {chain: learned_of(chain).draws for chain in {it.chain for it in items}}
    walks = [Walk(it, draws[it.chain]) for it in items]
    while waiting := [w for w in walks if w.block]:
        block = next_block(waiting)
        here = [w for w in waiting if w.block == block]
        outs = block.call_all([w.item.ns for w in here], model, [w.item for w in here])
        for w, out in zip(here, outs):
            w.advance(out)


def give_loss(item, model):
    "Ask the model for the loss, if a callback reads it"
    if asking := next((b for b in item.chain.blocks if 'loss' in b.reads), None):
        item.ns['loss'] = model.loss([item], asking)


def next_block(waiting):
    "The callback at which all walks that still have to run it are waiting"
    for w in waiting:
        if all(w.block == o.block or not o.comes_to(w.block) for o in waiting):
            return w.block
    raise out_of_order(waiting[0].block)


def out_of_order(block):
    return ValueError(
        f"two groups run {block} and another callback for all parameters in different orders; "
        "give both lists one order"
    )

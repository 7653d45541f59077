"""A plan: the parameters that are run together, by which program. It is made once, and is used for as long as it is valid.

A parameter's walk through a step:

    sort      each parameter goes to the work of its program (`sort.py`)
    valid     the same parameters and gradients as before, in the same memory, with the same chains, and a state that nobody has written
    prepare   guards and scalars; callbacks that are called; stages that write scratch memory; what joins all parameters (`joins.py`)
    commit    the last stages, which write; then the counters

Parameters whose chain cannot be taken apart are `called`: they go through the reference, `loop`. The plan does not know the optimizer."""

import math
from operator import is_
import torch
from torch import Tensor
from .._torch import increment_versions
from ..contract.sharded import agree, is_sharded, local
from ..contract.tensors import describe, fit, is_finite, wide
from .joins import check_joins, run_before
from .reference import Item, loop
from .sort import Inputs, Sort, check_shapes
from .sparse import Rows

__all__ = ['Inputs', 'Plan']


class Plan:
    def __init__(self, inputs, store, who, scratch_bytes, late, arrived=None):
        params, grads = inputs.params, inputs.grads
        if any(p.is_meta and p.requires_grad and g is None for p, g in zip(params, grads)):
            raise RuntimeError(
                f"{who} has parameters on the meta device, without gradients; make it after the model has got its memory (to_empty)"
            )
        sort = Sort(inputs, store, who, scratch_bytes, late, arrived or {})
        self.works, self.called, self.parts = [*sort.works.values()], sort.called, sort.parts
        self.store, self.who, self.late = store, who, late
        self.params, self.settings, self.groups = params, inputs.settings, inputs.groups
        self.missing = [g is None for g in grads]
        self.sparse = {i for i, g in enumerate(grads) if g is not None and g.is_sparse}
        self.moved = [params[i] for w in self.works if w.launched for i in w.indices]
        self.sharded = any(map(is_sharded, params))
        self.simple = (
            not self.called
            and not self.sharded
            and all(w.simple and not w.program.prefix for w in self.works)
        )
        self.variants = {}  # (place of a work, program) -> the work with that program
        self.fresh, self.version = True, store.version

    # -- validity --

    def valid_for(self, inputs):
        params, grads = inputs.params, inputs.grads
        return (
            self.version == self.store.version
            and len(params) == len(self.params)
            and all(map(is_, params, self.params))
            and self.same_gradients(grads)
            and self.same_settings(inputs.settings)
            and all(w.unmoved() for w in self.works)
            and all(local(params[i]) is x for i, x in self.parts.items())
        )

    def same_gradients(self, grads):
        "Whether there are gradients where there were, and sparse ones where such were"
        if [g is None for g in grads] != self.missing:
            return False
        return (
            not self.sparse
            and not self.called
            or not any(
                g.is_sparse != (i in self.sparse) for i, g in enumerate(grads) if g is not None
            )
        )

    def same_settings(self, settings):
        old = self.settings
        if len(settings) == len(old) and all(map(is_, settings, old)):
            return True
        same = len(settings) == len(old) and all(
            (a.chain, a.way, a.capturable) == (b.chain, b.way, b.capturable)
            for a, b in zip(settings, old)
        )
        if same:
            self.settings = settings  # with other numbers
        return same

    # -- a step --

    def aim(self, inputs):
        "`prepare`, where every program is one launch. False if a guard does not hold: `prepare` then finds another program"
        check_joins(self.works, self.settings)
        return all(
            w.simple and w.take(inputs.grads) and w.prepare(self.settings) for w in self.works
        )

    def looks_bad(self):
        "Whether a gradient is not finite, or its square is not; after `aim`"
        return any(w.looks_bad() for w in self.works)

    def prepare(self, inputs, model=None, arrived=None):
        """All that can fail. None when it is done; otherwise the plan is not right any more, and this is what callbacks that were called came to.
        The plan that takes its place gets that, so that they are not called again"""
        grads, settings = (
            [*map(local, inputs.grads)] if self.sharded else inputs.grads,
            self.settings,
        )
        check_joins(self.works, settings)
        for j, w in enumerate(self.works):
            if not w.program.prefix and not self.ready(j, grads, settings):
                return arrived or {}
        items = (
            self.call(inputs, model, arrived or {})
            if self.called or any(w.program.prefix for w in self.works)
            else {}
        )
        for j, w in enumerate(self.works):
            if w.program.prefix and not self.follow(j, w, items, settings):
                return items
        self.items = [items[i] for i, _ in self.called]
        for it in self.items:
            it.check(self.who)
        return None if run_before(self.works) else items

    def call(self, inputs, model, arrived):
        "Run what is called: whole chains through the reference, and the callbacks before programs. Returns items by parameter"
        for i, g in self.called:
            check_shapes(
                self.who,
                self.groups,
                i,
                p := self.params[i],
                self.store.of(p),
                self.settings[g].chain,
                inputs.grads[i],
            )
        items = {
            i: (Rows if i in self.sparse else Item)(
                p := self.params[i],
                self.store.of(p),
                self.settings[g].chain,
                self.settings[g].numbers,
            )
            for i, g in self.called
        }
        for w in self.works:
            for k, i in enumerate(w.indices if w.program.prefix else ()):
                row = w.rows[w.row_of[k]]
                items[i] = Item(
                    p := self.params[i],
                    dict(self.store.of(p)) | row.clock.values,
                    w.program.prefix.chain,
                    row.numbers(self.settings),
                )
                items[i].begun = dict(items[i].ns)
        items = {i: arrived.get(i, it) for i, it in items.items()}
        new = [
            items[i] for i in sorted(items) if i not in arrived
        ]  # a callback over all parameters has them in their order
        try:
            loop(new, model)
        except (RuntimeError, NotImplementedError) as e:
            if not self.sharded:
                raise
            chains = ', '.join(dict.fromkeys(str(it.chain) for it in new if is_sharded(it.p)))
            raise RuntimeError(
                f"{self.who}: {chains}: a callback cannot be run on sharded parameters (DTensor). Nothing has changed. {e}"
            ) from e
        return items

    def ready(self, j, grads, settings, handed=None):
        "Whether work `j` can go: its gradients are as before, and its program is right, or another one is for all of its parameters"
        w = self.works[j]
        if not w.take(grads):
            return False
        if w.prepare(settings, handed):
            return True
        program = w.lower_again(settings, handed, self.late)
        if program.falls_back or program is w.program or program.prefix is not w.program.prefix:
            return False
        if (j, program) not in self.variants:
            self.variants[j, program] = w.with_program(program)
        self.variants[j, w.program] = w
        w = self.works[j] = self.variants[j, program]
        return w.take(grads) and w.prepare(settings, handed)

    def follow(self, j, w, items, settings):
        "Take over what the callbacks before a program have come to; False if the program is not right for it"
        mine = [items[i] for i in w.indices]
        for it in mine:
            it.check(self.who)
            if late := w.program.prefix.late(it.begun, it.ns):
                self.late.update(late)
                return False
            for n in w.program.prefix.handed:
                made, was = it.ns.get(n), w.program.prefix.numbers.get(n, it.ns['p'])
                if n not in it.ns or fit(made) != fit(was):
                    raise ValueError(
                        f"{self.who}: {w.program.prefix.chain} made {n} {describe(made)}; it was {describe(was)}"
                    )
        grads = dict(zip(w.indices, (local(it.ns['grad']) for it in mine)))
        for n in w.program.prefix.rest.extra:
            torch._foreach_copy_(w.tensors.extra[n], [local(it.ns[n]) for it in mine])
        return self.ready(j, grads, settings, {n: mine[0].ns[n] for n in w.program.prefix.numbers})

    items = ()

    def commit(self):
        "All that writes"
        for w in self.works:
            w.commit()
        increment_versions(self.moved)  # written in a way of which autograd does not know
        for it in self.items:
            kept = it.write()
            counters = [
                n for n, v in kept.items() if n in it.chain.state and not isinstance(v, Tensor)
            ]
            tensors = {n: v for n, v in kept.items() if n not in counters}
            self.store.count(it.p, tensors, {n: kept[n] for n in counters})
        if self.fresh:
            self.attach()

    def attach(self):
        "Make the states of the works those of the optimizer"
        for w in self.works:
            for k, i in enumerate(w.indices):
                self.store.keep(self.params[i], w.kept[k], w.rows[w.row_of[k]].clock)
        self.fresh = False

    def nonfinite(self, grads):
        "Which gradients are not finite, or have squares that are not"
        parts = [*map(local, grads)] if self.sharded else grads
        parts = [g if i not in self.sparse else g._values() for i, g in enumerate(parts)]
        seen = [g is not None and not self.fine(g) for g in parts]
        if self.sharded:
            seen = [agree(s, [g]) for s, g in zip(seen, grads)]
        bad = [i for i, s in enumerate(seen) if s]
        elsewhere = self.sharded and agree(bool(bad), grads)
        return bad or [None] * bool(elsewhere)

    def fine(self, g):
        "Whether all of `g` is finite, and so are the squares: seen by their sum, and exactly where that is too large"
        if not g.is_complex() and math.isfinite(torch.linalg.vector_norm(g, dtype=wide(g.dtype))):
            return True
        return bool(is_finite(g).all())

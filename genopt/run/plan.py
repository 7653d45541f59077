"""A plan: which program runs which parameters. It is made once, and is used as long as it is valid.

A step asks it, in this order:

    valid_for   are the parameters, their gradients and chains those for which it was made, and do
                they lie where they lay? If not, `Sort` gives each parameter to a work again
    prepare     all that can fail: guards and scalars, what is called, stages that write scratch
                memory, cross reductions. The user sees nothing of it
    commit      all that writes: the last stages, the reference's results, the counters

Where every program is one call of C, which is `simple`, `aim` takes the place of `prepare`.

Parameters that no program can take are the `fallback`: they go through the reference. The plan does
not know the optimizer."""

import math
from operator import is_
import torch
from torch import Tensor
from .._torch import handles, increment_versions, sparse_values
from ..contract.sharded import agree, is_sharded, local
from ..contract.tensors import is_finite, wide
from .cross import check_shared_numbers, run_before_commit
from .prefix import hand_over, late_changes, prefix_items
from .random import key_of
from .reader import reader_of
from .reference import Item, loop
from .sort import check_shapes, sorted_parameters
from .sparse import Rows
from .store import SharedClock

__all__ = ['Plan', 'prepared']


class Plan:
    """A plan for steps that start from inputs like `inputs`. `context`: what all plans of the
    optimizer have in common; `finished`: items of this step that have gone through their chains
    already"""

    def __init__(self, inputs, context, finished=None):
        refuse_meta(inputs, context.who)
        self.store, self.who, self.late = context.store, context.who, context.late
        self.seeds, self.gate = context.seeds, context.gate
        sort = sorted_parameters(inputs, context, finished or {})
        self.works, self.fallback = sort.works, sort.fallback
        self.local_parts = sort.local_parts
        self.remember(inputs)
        self.written_by_c = [
            self.params[i] for w in self.works if w.launched for i in w.indices
        ]
        self.behind_prefix = [j for j, w in enumerate(self.works) if w.program.prefix]
        simple = all(w.simple for w in self.works) and not self.behind_prefix
        self.simple = simple and not self.fallback and not self.sharded
        alone = not self.fallback and not self.sharded and not self.behind_prefix
        self.can_have_gate = alone and on_one_gpu(self.works)
        self.has_read = False  # whether C has read where the gradients of this step lie
        # A `Reader` that sees that the others still have none, and what it reads through
        self.rest = self.handles_of_rest = None
        self.variants = {}  # (place of a work, program) -> the work with that program
        self.items = ()  # of the fallback, in this step
        self.looked = ()  # works whose kernels have looked at the gradients of this step
        self.fresh = True  # nothing is committed yet

    # -- Valid --

    def remember(self, inputs):
        "Note what `valid_for` compares with"
        self.params, self.settings = inputs.params, inputs.settings
        self.groups = inputs.groups
        self.missing = [g is None for g in inputs.grads]
        self.sparse = places_of_sparse(inputs.grads)
        self.sharded = any(map(is_sharded, inputs.params))
        self.version = self.store.version

    def valid_for(self, inputs):
        params = inputs.params
        return (
            self.version == self.store.version
            and len(params) == len(self.params)
            and all(map(is_, params, self.params))
            and self.same_settings(inputs.settings)
            and all(w.unmoved() for w in self.works)
            and all(local(params[i]) is x for i, x in self.local_parts.items())
            and (self.read_gradients() or self.same_gradients(inputs.grads))
        )

    def read_gradients(self):
        "Let C read where the gradients lie now. False if Python has to look at them"
        works = self.works if self.simple else ()
        self.has_read = bool(works) and all([w.read_gradients() for w in works])
        if self.has_read and self.rest is None:
            rest = [p for p, missing in zip(self.params, self.missing) if missing]
            self.handles_of_rest = handles(rest)
            self.rest = reader_of(rest, self.handles_of_rest)
        self.has_read = self.has_read and self.rest.read() is not None
        return self.has_read

    def same_gradients(self, grads):
        "Whether there are gradients where there were, and sparse ones where such were"
        if [g is None for g in grads] != self.missing:
            return False
        if not self.sparse and not self.fallback:
            return True  # a work takes no sparse gradient
        return self.sparse == places_of_sparse(grads)

    def same_settings(self, settings):
        "Whether chains and backends are the same. Numbers may be others"
        old = self.settings
        if len(settings) != len(old):
            return False
        if not all(map(is_, settings, old)):
            if any(kind(a) != kind(b) for a, b in zip(settings, old)):
                return False
            self.settings = settings
        return True

    # -- Prepare: nothing that the user sees is written --

    def aim(self, inputs, look):
        """`prepare` of a simple plan. False if a guard fails: `prepare` then finds another program.
        `look`: where kernels can, let them leave the step out if a gradient is not finite"""
        self.draw_anew()
        check_shared_numbers(self.works, self.settings)
        ready = all(
            w.simple
            and (self.has_read or w.take(inputs.grads))
            and w.prepare(self.settings)
            for w in self.works
        )
        if ready and look and self.gate:
            self.close_gate_if_bad()
        return ready

    def draw_anew(self):
        "Begin a step: the next random numbers are from a new seed"
        self.seeds.drawn.begin()

    def close_gate_if_bad(self):
        self.looked = [*self.works]  # one may get another program before the step ends
        for w in self.looked:
            w.close_gate_if_bad()

    def first_marked(self):
        "The place of the first parameter whose gradient has closed the gate; None if none has"
        found = [i for w in self.looked if (i := w.first_marked()) is not None]
        return min(found, default=None)

    def looks_bad(self):
        "Whether a gradient, or its square, is not finite; of a simple plan, after `aim`"
        return any(w.looks_bad() for w in self.works)

    def prepare(self, inputs, model=None, finished=None, look=False):
        """All that can fail. Returns None when it is done. Otherwise the plan is not right, and the
        items that have gone through their chains are returned: the plan that takes its place gets
        them, so that their callbacks are not called again. `look`: as for `aim`"""
        finished = finished or {}
        grads = [*map(local, inputs.grads)] if self.sharded else inputs.grads
        check_shared_numbers(self.works, self.settings)
        if look and self.gate and all(w.take(grads) for w in self.works):
            self.close_gate_if_bad()  # counters are computed behind the gate
        places = range(len(self.works))
        if not all(j in self.behind_prefix or self.ready(j, grads) for j in places):
            return finished
        items = self.run_reference(inputs, model, finished)
        if not all(self.take_over(j, items) for j in self.behind_prefix):
            return items
        self.items = [items[i] for i, _ in self.fallback]
        done = run_before_commit(self.works) and all(w.try_calls() for w in self.works)
        return None if done else items

    def ready(self, j, grads, handed=None):
        """Whether work `j` can go on: it has taken its gradients, and its program, or another that
        can run all of its parameters, holds for its numbers. `handed`: what a prefix came to"""
        work = self.works[j]
        if not work.take(grads):
            return False
        if work.prepare(self.settings, handed):
            return True
        program = work.lower_again(self.settings, handed)
        if program.falls_back or program is work.program:
            return False
        if program.prefix is not work.program.prefix:
            return False
        work = self.works[j] = self.variant(j, program)
        return work.take(grads) and work.prepare(self.settings, handed)

    def variant(self, j, program):
        "Work `j` with another program. It is kept: a guard that turns once often turns back"
        work = self.works[j]
        self.variants[j, work.program] = work
        if (j, program) not in self.variants:
            self.variants[j, program] = work.with_program(program)
        return self.variants[j, program]

    def run_reference(self, inputs, model, finished):
        """Take the fallback through its chains and other parameters through their prefixes, unless
        they have `finished`. Returns the items, by the place of the parameter"""
        items = self.fallback_items(inputs)
        for j in self.behind_prefix:
            items |= prefix_items(self.works[j], self.params, self.store, self.settings)
        items |= {i: it for i, it in finished.items() if i in items}
        new = [items[i] for i in sorted(items) if i not in finished]
        try:
            loop(new, model)
        except (RuntimeError, NotImplementedError) as e:
            if not self.sharded:
                raise
            raise not_for_shards(self.who, new, e) from e
        for it in items.values():
            it.check(self.who)
        return items

    def fallback_items(self, inputs):
        items = {}
        for i, g in self.fallback:
            p, settings = self.params[i], self.settings[g]
            state = self.store.of(p)
            check_shapes(
                self.who, self.groups, i, p, state, settings.chain, inputs.grads[i]
            )
            make = Rows if i in self.sparse else Item
            random = self.seeds, key_of(inputs.first + i, p)
            items[i] = make(p, state, settings.chain, settings.numbers, random)
        return items

    def take_over(self, j, items):
        "Let work `j` go on from what its prefix has come to. False if its program is not right"
        work = self.works[j]
        mine = [items[i] for i in work.indices]
        if late := late_changes(work.program.prefix, mine):
            self.late.update(late)
            return False
        grads, handed = hand_over(work, mine)
        return self.ready(j, grads, handed)

    # -- Commit: all that writes --

    def commit(self):
        for w in self.works:
            if w.simple:
                w.scalars.compute()
        for w in self.works:
            w.commit()
        increment_versions(self.written_by_c)  # autograd does not know of it
        for it in self.items:
            kept = it.write()
            counters = {n: v for n, v in kept.items() if not isinstance(v, Tensor)}
            tensors = {n: v for n, v in kept.items() if n not in counters}
            self.store.count(it.p, tensors, counters)
        if self.fresh:
            self.attach()

    def begin(self):
        "`commit`, or as much of it as need not wait for copies; `Offloaded` does so"
        self.commit()

    def attach(self):
        "Make the states of the works those of the optimizer"
        for w in self.works:
            for i, kept, r in zip(w.indices, w.kept, w.row_of):
                self.store.keep(self.params[i], kept, w.rows[r].clock)
        self.fresh = False

    def let_go(self):
        "Free what a step has left in scratch memory. The next step allocates it again"
        self.items = ()
        for w in self.works:
            for b in w.batches:
                b.let_go()

    def used_by_graphs(self):
        "As of a `Work`, of all works"
        return [w.used_by_graphs() for w in {*self.works, *self.variants.values()}]

    # -- Gradients that are not finite --

    def nonfinite(self, grads):
        """The places of gradients that are not finite, or have squares that are not. [None] if only
        another process has one"""
        parts = [*map(local, grads)] if self.sharded else grads
        bad = [g is not None and not all_finite(g) for g in parts]
        if self.sharded:
            bad = [agree(b, [g]) for b, g in zip(bad, grads)]
        places = [i for i, b in enumerate(bad) if b]
        elsewhere = self.sharded and agree(bool(places), grads)
        return places or [None] * bool(elsewhere)


def prepared(plan, inputs, model, replan, look=False):
    """A plan that is prepared for a step: `plan`, or as long as a guard fails the next one that
    `replan(inputs, finished)` returns. `finished`: items that have gone through their chains"""
    finished = None
    plan.draw_anew()
    for _ in range(8):
        finished = plan.prepare(inputs, model, finished, look)
        if finished is None:
            return plan
        plan = replan(inputs, finished)
    raise RuntimeError(
        f"{plan.who}: genopt cannot find how to run this step. This is a fault of genopt; "
        "please report it with the list of callbacks"
    )


def places_of_sparse(grads):
    return {i for i, g in enumerate(grads) if g is not None and g.is_sparse}


def on_one_gpu(works):
    "Whether kernels of one GPU run all `works`"
    if any(type(r.clock) is SharedClock for w in works for r in w.rows):
        return False  # other processes count there
    programs = [w.program for w in works]
    one = len({p.layout.device for p in programs}) == 1
    return one and all(p.request.backend == 'triton' for p in programs)


def kind(settings):
    "What of the settings of a group decides about its program"
    return settings.chain, settings.asked, settings.capturable, settings.offload


def all_finite(g):
    "Whether all of `g` and its squares are finite: by their sum, and if that is too large exactly"
    g = sparse_values(g) if g.is_sparse else g
    squares = g.numel() > 1  # of a single element torch takes no square
    if (
        squares
        and not g.is_complex()
        and math.isfinite(torch.linalg.vector_norm(g, dtype=wide(g.dtype)))
    ):
        return True
    return bool(is_finite(g).all())


def refuse_meta(inputs, who):
    "Refuse parameters that have no memory"
    for p, g in zip(inputs.params, inputs.grads):
        if p.is_meta and p.requires_grad and g is None:
            raise RuntimeError(
                f"{who} has parameters on the meta device, without gradients; "
                "make the optimizer after model.to_empty(device=...)"
            )


def not_for_shards(who, items, error):
    chains = ', '.join(dict.fromkeys(str(it.chain) for it in items if is_sharded(it.p)))
    return RuntimeError(
        f"{who}: a callback of {chains} cannot run on sharded parameters (DTensor). "
        f"The step has changed nothing. {error}"
    )

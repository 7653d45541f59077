"""A work: the parameters that one program runs, and what they do in a step.

    take        the gradients of the step
    prepare     its scalars; the program's guards are checked
    run_stage   the stages before `commit`, which write scratch memory only (`cross.py` runs them)
    try_calls   of later stages those of a few parameters: do callbacks return what they returned?
    commit      all other stages; the last one writes parameters and states

Where a program is one call of C, there are no stages before `commit`, and `commit` is that call.
Where callbacks are called, `commit` takes one batch after the other through them, so that scratch
memory is needed for one batch only."""

from contextlib import nullcontext
from functools import cached_property
import torch
from .._torch import foreach_norm
from ..contract.sharded import local
from ..contract.tensors import compute
from ..lower.decide import lower
from ..lower.traced import TracedScalar
from .calls import run_call, write_call_outs
from .flat import launches, only_launch, run_flat
from .gradients import Gradients
from .memory import Memory
from .random import Numbers
from .reader import reader_of
from .rounding import Rounding
from .scalars import ScalarTable
from .stacks import read_last
from .tensors import Tensors, batches
from .triton_scalars import DeviceScalars

__all__ = ['Members', 'Work']

most_numbers = 1000  # sets of numbers that a work remembers; those with a counter are new each step


class Members:
    """The parameters of a work; of each, in order:

        indices    its place among all parameters of the optimizer
        users      the user's parameter; of a sharded one the local part
        kept       its states, as `opt.state` has them
        row_of     which of `rows`, the rows of scalars, is its own
        keys       what tells its random numbers from those of others

    `tensors` has parameters, states and gradients as the backends see them, real and local"""

    def __init__(self):
        self.tensors = Tensors()
        self.indices, self.users, self.kept = [], [], []
        self.row_of, self.rows, self.keys = [], [], []

    def add(self, i, p, states, user, kept, row, key):
        "Add parameter number `i`. `p` and `states`: real and local"
        if row not in self.rows:
            self.rows.append(row)
        self.indices.append(i)
        self.tensors.ps.append(p)
        self.tensors.states.append(states)
        self.users.append(user)
        self.kept.append(kept)
        self.row_of.append(self.rows.index(row))
        self.keys.append(key)


class Work:
    """Runs `members` by `program`. `n_all`: the number of all parameters; `alone`: no other work has
    callbacks over all parameters; `sole`: there is no other work"""

    def __init__(self, program, members, context, n_all, alone, sole):
        self.program, self.members, self.context = program, members, context
        self.n_all, self.alone, self.sole = n_all, alone, sole
        self.who, self.seeds = context.who, context.seeds
        self.scratch_bytes = context.scratch_bytes
        self.gate = context.gate if program.request.gated else None
        self.indices, self.keys = members.indices, members.keys
        self.users, self.kept = members.users, members.kept
        self.rows, self.row_of = members.rows, members.row_of
        self.tensors = tensors = members.tensors

        self.launched = program.request.launches
        self.compute_dtype = program.layout.compute_dtype
        self.global_blocks = [b for b in program.chain.blocks if b.is_global]
        one_call = self.launched and program.one_call
        self.simple = one_call and (alone or not self.global_blocks)
        self.before_commit = 0 if self.simple else count_before_commit(program)
        self.at_once = self.simple and sole
        self.scalars = scalar_table(program, self.rows, self.at_once, self.gate)
        # Of this step: values of cross reductions, and of the arithmetic on them; and of each gradient
        # whether it has closed the gate
        self.cross, self.marks = {}, None

        tensors.make_extra(program.chain.extra, self.compute_dtype)
        grad_dtype = program.layout.grad_dtype
        self.dtypes = dtypes_of(tensors, grad_dtype)
        self.gradients = Gradients(
            tensors.ps,
            self.indices,
            n_all,
            grad_dtype,
            launched=self.launched,
            by_address=self.simple and self.kernels_read_gradients,
            of_users=not program.prefix,
        )
        self.batches = batches(program, tensors, self.row_of, self.scratch_bytes)
        self.watched = [*self.users]
        self.watched += [local(s) for kept in self.kept for s in kept.values()]
        self.memory = Memory(self.watched, len(self.users))

        calls = [c for s in program.stages for c in s.calls]
        self.read_by_calls = scalars_read_by(calls)
        self.read_last = read_last(program)
        self.batch_of_row = first_batches(self.batches, self.row_of) if calls else {}
        self.tried_numbers = set()

    def rounding(self, name, places, sizes=None):
        """What is to be on while `name` of the parameters at `places` is written by operations of
        torch. `sizes`: as for `Rounding`"""
        how = self.program.chain.stores[name]
        if not how.rounds_at_random(self.dtypes[name]):
            return nullcontext()
        keys = [self.keys[k] for k in places]
        return Rounding(self.seeds.rounding, name, keys, sizes)

    # -- another program --

    def lower_again(self, settings, handed):
        "The program that holds for the numbers of the first row"
        program, numbers = self.program, self.rows[0].numbers(settings)
        late, handed = self.context.late, handed or {}
        return lower(
            program.whole, program.layout, numbers, program.request, late, handed
        )

    def with_program(self, program):
        "The same parameters, run by another program"
        return Work(
            program, self.members, self.context, self.n_all, self.alone, self.sole
        )

    def used_by_graphs(self):
        """What a CUDA graph that has recorded a step uses whenever it is replayed, beside parameters,
        states and gradients, which are the user's"""
        parts = [part for b in self.batches for ps in b.parts.values() for part in ps]
        drawn = [x for part in parts for x in part.kept.values() if type(x) is Numbers]
        of_batches = [(b.launch, {**b.scratch}) for b in self.batches]
        return self.scalars, self.gate, self.tensors.extra, drawn, of_batches

    # -- a step --

    def unmoved(self):
        "Whether parameters and states lie where they lay"
        return self.memory.holds(self.watched)

    def take(self, grads):
        "Take the gradients of this step. False if the program is for others"
        if not self.gradients.take(grads):
            return False
        self.tensors.grads = self.gradients.tensors
        return True

    @property
    def kernels_read_gradients(self):
        return 'grad' in self.program.names_in_memory

    @cached_property
    def reader(self):
        "What reads in C where the gradients lie; None or False where Python has to look at them"
        grads, dtype = self.gradients, self.dtypes['grad']
        legible = grads.by_address and grads.of_users and self.kernels_read_gradients
        if not legible or {p.dtype for p in self.users} != {dtype}:
            return None
        return reader_of(self.users, self.memory.handles, dtype, grads.array)

    def read_gradients(self):
        "Let C read where the gradients lie now. False if Python has to look at them"
        return bool(self.reader) and self.gradients.read(self.reader)

    def prepare(self, settings, handed=None):
        "Compute the scalars of this step. False if a guard fails. `handed`: what a prefix came to"
        for b in self.batches:
            b.finish()
            b.tried = False
        if not self.scalars.prepare(settings, handed):
            return False
        if not self.simple:
            self.scalars.compute()
        return True

    def looks_bad(self):
        "Whether a gradient is not finite; of a simple work. True also where C cannot see it"
        launch = only_launch(self)
        return not launch.reads('grad') or launch.look() is not None

    def close_gate_if_bad(self):
        "Let the device find out, and then leave out what comes"
        if self.kernels_read_gradients:
            for launch in launches(self):
                launch.look_into_gate()
        else:
            self.marks = not_finite(self.tensors.grads)
            torch.maximum(self.gate.flag, self.marks.amax(), out=self.gate.flag)

    def first_marked(self):
        "The place of the first parameter whose gradient has closed the gate; None if none has"
        if not self.kernels_read_gradients:
            found = self.marks.nonzero().flatten().tolist()
        else:
            looked = [(b, b.launch.first_marked()) for b in self.batches if b.launch]
            found = [b.at[i] for b, i in looked if i is not None]
        return min((self.indices[i] for i in found), default=None)

    def run_stage(self, k):
        "Run stage `k`. False if a callback has returned other names than before"
        return all(self.run_stage_of(k, b) for b in self.batches)

    def run_stage_of(self, k, batch):
        run_flat(self, k, batch)
        for c in self.program.stages[k].calls:
            if not run_call(self, batch, c):
                return False
            for v in self.read_last[c]:
                batch.forget(v)
        return True

    def handed_out(self, v):
        "The single number `v` of each parameter, in the order of `indices`"
        res = [None] * len(self.indices)
        for b in self.batches:
            for k, x in zip(b.at, b.singles(v)):
                res[k] = x
        return res

    def commit(self):
        "Write parameters, states and counters"
        if self.simple:
            only_launch(self)()
        else:
            self.commit_batches()
        self.tensors.grads = self.gradients.tensors = None
        self.scalars.advance()

    def commit_batches(self):
        for b in self.batches:
            if not b.tried and not self.run_middle(b):
                raise other_names(self.who, self.program.chain)
            run_flat(self, len(self.program.stages) - 1, b)
            write_call_outs(self, b)
            b.finish()
        self.cross.clear()

    def run_middle(self, batch):
        "Run the stages behind those before `commit`, but the last"
        stages = range(self.before_commit, len(self.program.stages) - 1)
        return all(self.run_stage_of(k, batch) for k in stages)

    def try_calls(self):
        """A callback may decide by numbers which names it returns. So call it, before anything is
        written, for one batch with each new set of numbers. False if it returns others than before"""
        if len(self.tried_numbers) > most_numbers:
            self.tried_numbers.clear()
        for r, batch in self.batch_of_row.items():
            scalars = self.scalars.named(r)
            numbers = (*(scalars[n] for n in self.read_by_calls),)
            if numbers in self.tried_numbers:
                continue
            if not self.run_middle(batch):
                return False
            batch.tried = True
            self.tried_numbers.add(numbers)
        return True


def dtypes_of(tensors, grad_dtype):
    "The dtype of what lies in memory, by name"
    states = {n: s.dtype for n, s in tensors.states[0].items()}
    return dict(p=tensors.ps[0].dtype, grad=grad_dtype) | states


def scalars_read_by(calls):
    "The names of the scalars that `calls` read"
    numbers = [x for c in calls for x in c.numbers.values()]
    return [x.name for x in numbers if isinstance(x, TracedScalar)]


def first_batches(batches, row_of):
    "For each row of scalars the first batch that has it"
    found = {}
    for b in batches:
        found.setdefault(row_of[b.at[0]], b)
    return found


def count_before_commit(program):
    "How many stages come before `commit`, where there are several calls"
    if program.holds_whole:
        return len(program.stages) - 1
    return int(bool(program.stages[0].cross_reductions))


def scalar_table(program, rows, at_once, gate):
    "Where the scalars of `rows` are computed: on the device, if they or the counters are there"
    if program.request.backend == 'triton' and program.request.capturable:
        return DeviceScalars(program, rows, at_once, gate)
    return ScalarTable(program, rows)


def not_finite(grads):
    "Of each gradient 1 if an element is not finite, or its square; else 0. A vector on their device"
    held = [g for g in grads if g.numel()]
    largest = iter(foreach_norm(held, torch.inf) if held else [])
    none = grads[0].new_zeros(())
    x = torch.stack([next(largest) if g.numel() else none for g in grads])
    x = compute(x)
    return torch.where((x * x).isfinite(), 0.0, 1.0)


def other_names(who, chain):
    return RuntimeError(
        f"{who}: a callback of {chain} has returned other names than in earlier steps; "
        "return the same names in every step"
    )

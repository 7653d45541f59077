"""The parameters that one program runs. `Work` runs the stages: the flat part of a stage goes to a backend, over all parameters in one launch where
nothing is called between; its calls get tensors, stacked where they have one shape."""

from copy import copy
from operator import itemgetter
import torch
from ..contract.sharded import local
from ..lower.decide import lower
from ..lower.record import Value, mapped
from .calls import call, write_own
from .foreach import Foreach
from .launch import Kernel, Launch
from .memory import Memory
from .scalars import ScalarTable
from .tensors import Gradients, Tensors, batches, parts

__all__ = ['Work']


def moving(name):
    "Whether the tensors of that name are others at each step: gradients, and what calls give"
    return name == 'grad' or '@' in name


class Work:
    """`program` for the parameters `indices`. `users`: the user's parameters, or their local parts; `kept`: their states; `rows`:
    of scalars. A step is `prepare`, which may find that the program is not right any more; `before`, stages that write scratch memory only;
    and `commit`"""

    def __init__(self, program, scratch_bytes, who):
        self.program, self.scratch_bytes, self.who = program, scratch_bytes, who
        self.tensors = Tensors()
        self.indices, self.users, self.kept, self.row_of, self.rows = [], [], [], [], []
        self.launched = program.request.backend == 'launch'
        self.joins = any(b.is_global for b in program.chain.blocks)
        self.alone = False  # no other work has a part in what joins parameters

    def add(self, i, p, states, user, kept, row):
        "`p` and `states`: real and local"
        if row not in self.rows:
            self.rows.append(row)
        self.indices.append(i)
        self.tensors.ps.append(p)
        self.tensors.states.append(states)
        self.users.append(user)
        self.kept.append(kept)
        self.row_of.append(self.rows.index(row))

    def bind(self, n_all, grad_dtype):
        "Make what does not change from step to step. `n_all`: of how many gradients theirs are some"
        program, tensors = self.program, self.tensors
        self.n_all = n_all
        self.compute = program.layout.compute_dtype
        self.simple = self.launched and program.one_call and (self.alone or not self.joins)
        self.before_commit = self.stages_before_commit()
        self.scalars = ScalarTable(program, self.rows)
        self.cross = {}  # the values of what joins parameters
        tensors.extra = tensors.extra or {
            n: [torch.empty_like(p, dtype=self.compute) for p in tensors.ps]
            for n in program.chain.extra
        }
        self.dtypes = dict(p=tensors.ps[0].dtype, grad=grad_dtype) | {
            n: s.dtype for n, s in tensors.states[0].items()
        }
        self.gradients = Gradients(
            tensors.ps,
            self.indices,
            n_all,
            grad_dtype,
            self.launched,
            self.simple,
            users=not program.prefix,
        )
        self.batches = batches(program, tensors, self.row_of, self.scratch_bytes)
        self.watched = [*self.users, *(local(s) for kept in self.kept for s in kept.values())]
        self.memory = Memory(self.watched, len(self.users))

    def stages_before_commit(self):
        program = self.program
        if self.simple:
            return 0
        return (
            len(program.stages) - 1 if program.holds_whole else int(bool(program.stages[0].joins))
        )

    def with_program(self, program):
        "The same parameters, run by another program"
        res = copy(self)
        res.program = program
        res.bind(self.n_all, self.dtypes['grad'])
        return res

    def lower_again(self, settings, handed, late):
        "The program that is right for the numbers of the first row"
        program = self.program
        return lower(
            program.whole,
            program.layout,
            self.rows[0].numbers(settings),
            program.request,
            late,
            handed or {},
        )

    # -- before a step --

    def unmoved(self):
        return self.memory.holds(self.watched)

    def take(self, grads):
        "The gradients of this step; False if one is of another dtype than before"
        if not self.gradients.take(grads):
            return False
        self.tensors.grads = self.gradients.tensors
        return True

    def prepare(self, settings, handed=None):
        "The scalars of this step; False if a guard does not hold. `handed`: numbers to which a prefix has come"
        for b in self.batches:
            b.values.clear()
        return self.scalars.prepare(settings, handed)

    def scalars_of(self, batch):
        "The scalars of the parameters in `batch`, which have one row, by name"
        return self.scalars.named(self.row_of[batch.at[0]])

    # -- the flat part of a stage --

    def flat(self, k, batch):
        "Run the flat part of stage `k` for `batch`; what it hands out is then in `batch.values`"
        flat = self.program.stages[k].flat
        if flat is None:
            return
        if k < len(self.program.stages) - 1:
            for n in flat.stores:
                batch.room(n)
        if self.launched:
            self.launch(k, batch, flat)
        else:
            self.foreach(k, batch, flat)

    def launch(self, k, batch, flat):
        if batch.launch is None:
            batch.launch = self.launching(batch)
        for n in (*flat.names, *flat.single_names):
            if moving(n) or n not in batch.launch.pointed:
                batch.launch.point(n, batch.addresses(n))
        batch.launch(k)
        for v in flat.leaves:
            batch.values[v] = batch.launch.leaf(v)

    def launching(self, batch):
        "The launch for `batch`, with the addresses of what stays where it is"
        kernels, names = self.program.kernels, self.program.names_in_memory
        dtypes = {n: self.dtypes.get(n, self.compute) for n in names}
        key = (*dtypes.items(),)
        if key not in kernels:
            kernels[key] = Kernel(self.program, self.scalars.names, dtypes, str(self.program.chain))
        numels = [self.tensors.ps[i].numel() for i in batch.at]
        launch = Launch(
            kernels[key], numels, self.scalars.array, [self.row_of[i] for i in batch.at]
        )
        for n in names:
            if not moving(n) and self.tensors.has(n):
                launch.point(n, batch.addresses(n))
        return launch

    def only_launch(self):
        "The launch of a work that is one call, with the gradients of this step"
        batch = self.batches[0]
        if batch.launch is None:
            batch.launch = self.launching(batch)
        if not self.gradients.pointed and batch.launch.reads('grad'):
            batch.launch.point('grad', self.gradients.addresses)
        self.gradients.pointed = True
        return batch.launch

    def looks_bad(self):
        "Whether a gradient is not finite; of a work that is one call. Where it cannot be seen here, torch looks"
        launch = self.only_launch()
        return not launch.reads('grad') or launch.look() is not None

    def foreach(self, k, batch, flat):
        kernels = self.program.kernels
        if k not in kernels:
            kernels[k] = Foreach(flat)
        if batch.parts is None:
            batch.parts = parts(batch, self.row_of, self.scratch_bytes)
        cross, leaves = {v.name: x for v, x in self.cross.items()}, {v: [] for v in flat.leaves}
        for r, places in batch.parts:
            stored = {n: self.of_part(batch, n, places) for n in (*flat.names, *flat.single_names)}
            wide = {
                n: [x.to(self.compute) for x in xs] if xs[0].dtype != self.compute else xs
                for n, xs in stored.items()
            }
            for v, x in kernels[k](wide, self.scalars.named(r) | cross).items():
                leaves[v] += zip(places, x.unbind())
            for n in (*flat.stores, *flat.single_stores):
                if wide[n] is not stored[n]:
                    torch._foreach_copy_(stored[n], wide[n])
        for v, xs in leaves.items():
            batch.values[v] = torch.stack([x for _, x in sorted(xs, key=itemgetter(0))])

    def of_part(self, batch, name, places):
        xs = batch.tensors(name)
        return xs if len(places) == len(xs) else [xs[j] for j in places]

    # -- a step --

    def stage(self, k, batch):
        "Run stage `k`; False if a callback has returned other names than before, so that the program is not right any more"
        self.flat(k, batch)
        return all(call(self, batch, c) for c in self.program.stages[k].calls)

    def before(self, k):
        return all(self.stage(k, b) for b in self.batches)

    def leaves(self, v):
        "Of each parameter what it hands to a join, in the order of `indices`"
        res = [None] * len(self.indices)
        for b in self.batches:
            for k, x in zip(b.at, b.values[v] if v in b.values else b.tensors(v.name)):
                res[k] = x
        return res

    def cross_values(self, k, joined):
        "What joins parameters behind stage `k`, and the arithmetic on that; `joined`: the vectors, by value"
        numbers = self.scalars.named(0)
        self.cross |= {v: x.to(self.compute) for v, x in joined.items()}

        def value(a):
            if not isinstance(a, Value):
                return a
            return self.cross[a] if a in self.cross else numbers[a.name]

        for v in self.program.stages[k].cross:
            self.cross[v] = v.packet(*mapped(v.args, value), **mapped(v.kwargs, value))
        if self.launched:
            self.scalars.fill_crosses([float(self.cross.get(v, 0.0)) for v in self.program.crosses])

    def commit(self):
        if self.simple:
            self.only_launch()()
        else:
            self.commit_batches()
        self.tensors.grads = self.gradients.tensors = None
        self.scalars.advance()

    def commit_batches(self):
        last = len(self.program.stages) - 1
        for b in self.batches:
            for k in range(self.before_commit, last):
                if not self.stage(k, b):
                    raise RuntimeError(
                        f"{self.who}: a callback of {self.program.chain} has returned other names than before"
                    )
            self.flat(last, b)
            write_own(self, b)
            b.values.clear()
        self.cross.clear()

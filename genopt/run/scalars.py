"""Rows of scalars. Numbers are what the scalar program of a chain reads: hyper-parameters and
counters. Scalars are what it computes from them; kernels read these. Parameters of one group that
count alike share a row. All rows of a work lie in one array:

    group 0: lr 0.1, mom 0.9    parameters with step 7, 7, 3
    group 1: lr 0.01, mom 0.9   a parameter with step 7

           mom     1-mom    lr      1-mom**(step+1)    the reciprocal of that
    row 0  0.9     0.1      0.1     0.57               1.76                      step 7
    row 1  0.9     0.1      0.1     0.34               2.91                      step 3
    row 2  0.9     0.1      0.01    0.57               1.76                      step 7

A row ends with the values of cross reductions, if the kernel reads some."""

import ctypes
import math
import torch

__all__ = ['Row', 'ScalarTable', 'is_exempt', 'without_decay']


class Row:
    """What parameters of group number `group` that count alike have in common. `clock` holds their
    counters. `undecayed`: they are exempt from decay"""

    def __init__(self, group, clock, undecayed):
        self.group, self.clock, self.undecayed = group, clock, undecayed

    def numbers(self, settings):
        "Hyper-parameters and counters. `settings`: those of each group"
        numbers = settings[self.group].numbers
        if self.undecayed:
            numbers = without_decay(numbers)
        return {**numbers, **self.clock.values}


def is_exempt(state):
    "Whether the parameter with this state is exempt from decay. fastai's Learner exempts some"
    return state.get('do_wd') is False


def without_decay(numbers):
    "The hyper-parameters `numbers` for a parameter that is exempt from decay"
    return numbers | {'wd': 0.0} if 'wd' in numbers else numbers


class ScalarTable:
    """The scalars of `rows` under `program`. `values`: of each row, as the scalar program returned
    them, in the order of its names. `array`: all rows as a launch reads them, in double precision,
    in the order of `names`. With `capturable=True` values are tensors on the device, and a launch
    on a GPU reads the rows `on_device`; else that is None"""

    def __init__(self, program, rows):
        self.scalars, self.rows = program.scalars, rows
        self.names = program.names_of_scalars()
        self.width = max(1, len(self.names))
        self.launched = program.request.launches
        dtype, device = program.layout.compute_dtype, program.layout.device
        shape = len(rows), self.width
        on_gpu = program.request.backend == 'triton'
        self.on_device = None
        if on_gpu and program.request.capturable:
            self.on_device = torch.zeros(shape, dtype=dtype, device=device)
        # A GPU reads them in the dtype of its arithmetic: float64 would make it compute in that
        single = on_gpu and dtype is torch.float32
        number = ctypes.c_float if single else ctypes.c_double
        self.array = (number * (math.prod(shape) if self.on_device is None else 0))()
        self.crosses = memory_for_crosses(program) if on_gpu else None
        self.divisors = [self.names.index(n) for n in program.reciprocals]
        self.values = [None] * len(rows)
        self.settled = [None] * len(
            rows
        )  # the settings whose scalars are there already
        self.settles = self.scalars.steady and not program.request.capturable
        self.counters = []  # (clock, new values) of this step

    def prepare(self, settings, handed=None):
        "Compute the scalars of this step. False if a guard fails. `handed`: what a prefix came to"
        self.counters = []
        for r, row in enumerate(self.rows):
            now = settings[row.group]
            if self.settled[r] is now:
                continue
            numbers = row.numbers(settings)
            if handed:
                numbers.update(handed)
            computed = self.scalars(numbers)
            if computed is None:
                return False
            self.values[r], counters = computed
            if counters:
                self.counters.append((row.clock, counters))
            elif self.settles and not handed:
                self.settled[r] = now
            if self.launched:
                self.fill(r)
        return True

    def compute(self):
        "Compute on the device what is to be computed there"

    def fill(self, r):
        "Write row `r`: scalars, then the reciprocals of some"
        values = self.values[r]
        row = values + [reciprocal(values[i]) for i in self.divisors]
        if self.on_device is None:
            start = r * self.width
            self.array[start : start + len(row)] = row
        elif row:
            wide = [wide_tensor(v, self.on_device.device) for v in row]
            self.on_device[r, : len(row)].copy_(torch.stack(wide))

    def fill_crosses(self, values):
        """Write the values of cross reductions, None for one that is not there yet. They end each
        row, and are the same in all; on a device they have memory of their own, and the host does
        not wait for them"""
        if self.crosses is not None:
            there = [(i, v) for i, v in enumerate(values) if v is not None]
            for i, v in there:
                self.crosses[i].copy_(v)
            return
        values = [0.0 if v is None else float(v) for v in values]
        for end in range(self.width, len(self.array) + 1, self.width):
            self.array[end - len(values) : end] = values

    def named(self, r):
        "The scalars of row `r` by name"
        return dict(zip(self.names, self.values[r]))

    def advance(self):
        "Take over the counters of this step"
        for clock, counters in self.counters:
            clock.advance(counters)


def memory_for_crosses(program):
    "Memory on the device for the values of cross reductions, and of the arithmetic on them"
    cross = [
        v for s in program.stages for v in (*s.cross_reductions, *s.cross_arithmetic)
    ]
    layout, n = program.layout, len({*cross, *program.crosses})
    return torch.zeros(max(1, n), dtype=layout.compute_dtype, device=layout.device)


def wide_tensor(v, device):
    "`v` as a tensor in double precision. A number comes to the device by a kernel that has it"
    if isinstance(v, torch.Tensor):
        return v.double()
    return torch.full((), v, dtype=torch.float64, device=device)


def reciprocal(x):
    return 1 / x if isinstance(x, torch.Tensor) or x else math.copysign(math.inf, x)

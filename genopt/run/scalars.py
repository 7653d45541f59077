"""Rows of scalars. Parameters of one group that count alike share a row: what the scalar program returns for their hyper-parameters and counters. All
rows of a program lie in one array, which its kernels read.

    groups      lr 0.1 | lr 0.01             rows     0: lr 0.1,  step 7
    counters    7, 7, 3 | 7                           1: lr 0.1,  step 3
                                                      2: lr 0.01, step 7"""

import ctypes
import math
from torch import Tensor

__all__ = ['Row', 'ScalarTable']


class Row:
    "What parameters of `group` that count alike have in common. `clock` holds their counters; `undecayed`: fastai exempts them from decay"

    def __init__(self, group, clock, undecayed):
        self.group, self.clock, self.undecayed = group, clock, undecayed

    def numbers(self, settings):
        "Hyper-parameters and counters; `settings`: those of each group"
        numbers = settings[self.group].numbers
        if self.undecayed and 'wd' in numbers:
            return {**numbers, 'wd': 0.0, **self.clock.values}
        return {**numbers, **self.clock.values}


class ScalarTable:
    "The scalars of `rows` under `program`. `array`: of all rows, in double precision; `values`: of each row, as the scalar program returned them"

    def __init__(self, program, rows):
        self.program, self.rows = program, rows
        self.names = program.names_of_scalars()
        self.width = max(1, len(self.names))
        self.array = (ctypes.c_double * (self.width * len(rows)))()
        self.divisors = [self.names.index(n) for n in program.reciprocals]
        self.values = [None] * len(rows)
        self.settled = [None] * len(rows)  # the settings of which the scalars are there already
        self.counters = []  # (clock, new values) of this step

    def prepare(self, settings, handed=None):
        "Compute the scalars of this step; False if a guard does not hold. `handed`: numbers to which a prefix has come"
        self.counters = []
        scalars = self.program.scalars
        steady = scalars.steady and not handed and not self.program.request.capturable
        fills = self.program.request.backend == 'launch'
        for r, row in enumerate(self.rows):
            now = settings[row.group]
            if self.settled[r] is now:
                continue
            numbers = row.numbers(settings)
            if handed:
                numbers.update(handed)
            ready = scalars(numbers)
            if ready is None:
                return False
            self.values[r], counters = ready
            if counters:
                self.counters.append((row.clock, counters))
            elif steady:
                self.settled[r] = now
            if fills:
                self.fill(r)
        return True

    def fill(self, r):
        "Write row `r` of the array"
        values = self.values[r]
        start, n = r * self.width, len(values)
        self.array[start : start + n] = values
        if self.divisors:
            self.array[start + n : start + n + len(self.divisors)] = [
                reciprocal(values[i]) for i in self.divisors
            ]

    def fill_crosses(self, values):
        "Write what joins all parameters, the same in each row; numbers, in the order of `program.crosses`"
        n = len(self.names) - len(values)
        for r in range(len(self.rows)):
            self.array[r * self.width + n : r * self.width + n + len(values)] = values

    def named(self, r):
        "The scalars of row `r` by name"
        return dict(zip(self.program.scalars.names, self.values[r]))

    def advance(self):
        "Take over the counters of this step"
        for clock, counters in self.counters:
            clock.advance(counters)


def reciprocal(x):
    if isinstance(x, Tensor):
        return 1 / x
    return 1 / x if x else math.copysign(math.inf, x)

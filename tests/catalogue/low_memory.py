"""Rows: genopt.algorithms.low_memory."""

import genopt
import references
from .row import Algorithm,common_setting,log


def adafactor(r):
    return common_setting(r) | dict(beta2_decay=-r.random(), eps=(r.choice([None, log(r,-10,-2)]), log(r,-4,-1)), d=1+r.random())

# A 0-dim parameter of float64 cannot be compiled in its own shape yet (it is compared in test_parity)
rows = [
    Algorithm(genopt.Adafactor, references.Adafactor, adafactor, lr=.04, digits=.3, fused=False,
              names=('matrix', 'bias', 'empty', 'strided', 'late')),
]

"""Rows: genopt.algorithms.layerwise."""

import genopt
import references
from .row import Algorithm,eps_setting

rows = [
    Algorithm(genopt.LAMB, references.LAMB, eps_setting, fused=False, own=references.lamb_inputs, core=True, source='paper', digits=.9),
]

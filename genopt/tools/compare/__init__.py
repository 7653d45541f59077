"""`genopt compare`: genopt's algorithms beside torch's (`beside_torch`), and optimizers beside each other, tuned with the same effort (`tuned`)."""

from .specs import Pair,Spec,Stored,parse_specs
from .training import accuracy,batches,progress,smooth
from .beside_torch import compare,defaults,different,plot,report
from .tuned import compare_tuned,with_states
from . import ranking

__all__ = ['Pair', 'Spec', 'Stored', 'accuracy', 'batches', 'compare', 'compare_tuned', 'defaults', 'different', 'parse_specs', 'plot', 'progress',
           'ranking', 'report', 'smooth', 'with_states']

"""The names under which genopt/run imports values. This file goes when it imports from `values`."""

from .values import CROSS, ELEMENTS, SCALAR, SINGLE, Value, aten
from .values import in_order as needed
from .values import tree_leaves as leaves
from .values import tree_map as mapped

__all__ = ['CROSS', 'ELEMENTS', 'SCALAR', 'SINGLE', 'Value', 'aten', 'leaves', 'mapped', 'needed']

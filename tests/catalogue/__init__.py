"""The table of algorithms: one row for each, by family. A row gives an algorithm all common tests, and its line in the catalogue's page."""

from . import adaptive,averaged,layerwise,low_memory,matrix,momentum,rate_free,reevaluating
from .row import Algorithm,Peer

families   = momentum,adaptive,layerwise,low_memory,matrix,rate_free,averaged,reevaluating
catalogue  = [row for f in families for row in f.rows]
core       = [a for a in catalogue if a.core]                        # those on which all tests of the framework run
conforming = [a for a in catalogue if a.core or a.info and not a.closure and not a.matrix]    # and those that are torch's own, of any shape

__all__ = ['Algorithm', 'Peer', 'catalogue', 'conforming', 'core']

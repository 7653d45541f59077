"""The search for the best value of a hyper-parameter, with the same number of trainings for every optimizer."""

import math
from collections.abc import Callable

__all__ = ['search']


def search(loss: Callable[[float], float], budget: int) -> dict[float, float]:
    """Call `loss` for `budget` exponents, and return what it returned for each. An exponent `e` stands for the start value times `10**(e/2)`.

    The search starts at 0 and walks up or down in steps of 1 as long as the loss falls. Once the best exponent has a neighbour on either side, the
    search tries the middle of the wider gap beside it. NaN counts as the highest loss. Of equal losses that of the lowest exponent is the best, so a
    start at which training diverges leads down. With the lowest loss at 1.4 the exponents are 0, 1, 2, 1.5, 1.75, 1.25 ..."""
    found = {0.: loss(0.)}
    while len(found)<budget:
        e = following(found)
        found[e] = loss(e)
    return found

def best(found: dict) -> float:
    "The exponent with the lowest loss"
    return min(found, key=lambda e: (math.inf if math.isnan(found[e]) else found[e], e))

def following(found):
    "The exponent to try next: beside the best, or between the best and a neighbour"
    centre = best(found)
    above  = min((e for e in found if e>centre), default=None)
    below  = max((e for e in found if e<centre), default=None)
    if above is None:
        return centre+1
    if below is None:
        return centre-1
    return (centre+above)/2 if above-centre>=centre-below else (centre+below)/2

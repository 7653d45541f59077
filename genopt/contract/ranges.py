"""Ranges of hyper-parameters."""

from typing import TYPE_CHECKING

__all__ = ['Range', 'finite', 'fraction', 'nonneg', 'positive']


class Range:
    "Values a hyper-parameter may take, written as an interval: `mom:Range('[0,1)')=0.9`"
    def __init__(self, s: str) -> None:
        try: self.s,(self.lo,self.hi) = s,map(float, s[1:-1].split(','))
        except ValueError: raise ValueError(f"write a Range as an interval, '[0,1)' or '(0,inf)'; got {s!r}") from None
        self.lo_closed,self.hi_closed = s[0]=='[',s[-1]==']'
    def __contains__(self, v: float) -> bool:
        return (self.lo<=v if self.lo_closed else self.lo<v) and (v<=self.hi if self.hi_closed else v<self.hi)
    def __repr__(self) -> str: return self.s

def range_of(annotation: object) -> Range | None:
    "The range in an annotation, `fraction` or, as type checkers want it, `Annotated[float, fraction]`; None if there is none"
    return next((a for a in getattr(annotation, '__metadata__', (annotation,)) if isinstance(a, Range)), None)

# To a type checker, `mom: fraction` is a float
if TYPE_CHECKING: from builtins import float as nonneg, float as positive, float as fraction, float as finite
else: nonneg,positive,fraction,finite = map(Range, ('[0,inf)', '(0,inf)', '[0,1)', '(-inf,inf)'))

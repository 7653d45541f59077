from collections.abc import Callable
from typing import Any, ClassVar, Generic, ParamSpec, overload, type_check_only
from torch import Tensor
from .optimizer import Cbs, Optimizer, Params, Policy

__all__ = ['algorithm']

P = ParamSpec('P')

@type_check_only
class Algorithm(Optimizer):
    "An optimizer with a name: what `@algorithm` makes"
    build: ClassVar[Callable[..., Any]]

@type_check_only
class OfFunction(Algorithm, Generic[P]):
    "Of a user's function: its own arguments; or these with flags and fastai's spelling, which a checker cannot add to them"
    @overload
    def __init__(self, params: Params, *args: P.args, **hypers: P.kwargs) -> None: ...
    @overload
    def __init__(
        self, params: Params, *args: Any, lr: float | Tensor = ..., maximize: bool = False, foreach: bool | None = None,
        capturable: bool = False, differentiable: bool = False, fused: bool | None = None, nonfinite: Policy = 'propagate', **hypers: Any,
    ) -> None: ...

def algorithm(f: Callable[P, Cbs]) -> type[OfFunction[P]]: ...

def __getattr__(name: str) -> Any: ...              # what only genopt itself uses

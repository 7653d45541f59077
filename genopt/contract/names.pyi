from collections.abc import Callable
from typing import Any
from torch import Tensor

__all__ = ['rename']

class rename:
    func: Callable[..., Any]
    names: dict[str, str]
    def __init__(self, func: Callable[..., Tensor | list[Tensor] | dict[str, Any]], **names: str) -> None: ...
    def __call__(self, **kw: Any) -> dict[str, Any]: ...

def __getattr__(name: str) -> Any: ...              # what only genopt itself uses

from collections.abc import Iterable, Mapping
from typing import Any, overload
from torch import nn

__all__ = ['groups', 'Groups', 'matrices']

def matrices(name: str, p: nn.Parameter, module: nn.Module) -> bool: ...

class Groups(list[dict[str, Any]]):
    rules: list[str]

@overload
def groups(model: nn.Module, rules: Mapping[Any, dict[str, Any]]) -> Groups: ...
@overload
def groups(model: nn.Module, rules: Iterable[tuple[Any, dict[str, Any]]]) -> Groups: ...

def __getattr__(name: str) -> Any: ...              # what only genopt itself uses

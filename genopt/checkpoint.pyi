from os import PathLike
from typing import Any
from torch.serialization import MAP_LOCATION

__all__ = ['load_checkpoint', 'save_checkpoint']

def save_checkpoint(path: str | PathLike[str], **objects: Any) -> None: ...
def load_checkpoint(path: str | PathLike[str], map_location: MAP_LOCATION = 'cpu', **objects: Any) -> dict[str, Any]: ...

def __getattr__(name: str) -> Any: ...              # what only genopt itself uses

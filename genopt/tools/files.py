"""Files that the commands write, and JSON."""

import json,math,os
from pathlib import Path

__all__ = ['check_folder', 'dumps', 'write']


def check_folder(option: str, path: Path):
    "Raise `ValueError` if there is no folder in which `path`, the value of `option`, could be"
    if not path.parent.is_dir():
        raise ValueError(f"{option} {path}: the folder {path.parent} does not exist; make it first")

def dumps(o, indent: int|None=1) -> str:
    "`o` as JSON, with null for NaN and infinity, which JSON does not have"
    def plain(o):
        if isinstance(o, dict):
            return {k: plain(v) for k,v in o.items()}
        if isinstance(o, (list,tuple)):
            return [*map(plain, o)]
        return None if isinstance(o, float) and not math.isfinite(o) else o
    return json.dumps(plain(o), indent=indent, allow_nan=False)

def write(path: Path, text: str):
    "Write `text` to `path`, which has all of it or what it had before, also if the process is stopped"
    beside = path.with_name(f'{path.name}.{os.getpid()}')
    beside.write_text(text, encoding='utf-8')
    os.replace(beside, path)

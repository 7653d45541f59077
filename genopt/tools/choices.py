"""Checks of what a user gives on a command line: names and numbers."""

__all__ = ['at_least', 'one_of', 'words']


def one_of(name: str, choices, kind: str) -> str:
    "`name`, if it is among `choices`; else `ValueError`, which lists them. `kind` says what they are: 'algorithm'"
    if name in choices:
        return name
    raise ValueError(f"no {kind} {name!r}; choose from {', '.join(choices)}")

def words(s: str) -> list:
    "The items of a comma-separated list"
    return [w.strip() for w in s.split(',') if w.strip()]

def at_least(least: int, **numbers):
    "Raise `ValueError` for a number below `least`"
    for name,n in numbers.items():
        if n<least:
            raise ValueError(f"{name} must be {least} or more, got {n}")

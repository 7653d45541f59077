"""Around the move: what makes it in its own way, or looks at the parameter after it, `new_p`. Simplest first."""

__all__ = []

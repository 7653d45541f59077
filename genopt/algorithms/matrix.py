"""A parameter as a matrix: orthogonal updates, and preconditioners of its two sides. From simple to complex."""

__all__ = []

"""Less state than a number for each element: sums over rows and columns stand for the whole. From simple to complex."""

__all__ = []

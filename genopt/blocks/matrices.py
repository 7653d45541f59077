"""What takes a parameter as a matrix: sums over rows and columns, orthogonal updates, preconditioners of both sides. Simplest first.

A parameter of more than two dimensions, such as a convolution's weight, is the matrix of its first dimension and of all others together."""

__all__ = []

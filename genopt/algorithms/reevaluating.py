"""What evaluates the model more than once in a step, or asks for its curvature; give `step` a closure. From simple to complex."""

__all__ = []

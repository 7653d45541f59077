"""Without a learning rate to choose: it is estimated from how far the parameters have come. From simple to complex."""

__all__ = []

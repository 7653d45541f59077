"""Averages of the parameters themselves: what is trained and what is evaluated are two things. From simple to complex."""

__all__ = []

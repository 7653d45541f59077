"""Rows: genopt.algorithms.low_memory."""

rows = []

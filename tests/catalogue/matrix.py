"""Rows: genopt.algorithms.matrix."""

rows = []

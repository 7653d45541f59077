"""Rows: genopt.algorithms.rate_free."""

rows = []

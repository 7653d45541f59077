"""Rows: genopt.algorithms.averaged."""

rows = []

"""Rows: genopt.algorithms.reevaluating."""

rows = []

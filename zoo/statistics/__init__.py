"""Intervals, tests and ranks: plain functions on arrays, each with its formula and its source.

docs/statistics.md describes where each is used, and its limits.
"""

"""Intervals, tests and ranks: plain functions on arrays, each with its formula and its source.

docs/statistics.md says what is used where, and what it does not cover.
"""

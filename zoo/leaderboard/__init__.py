"""Rank stored results, test the differences, and compute the tables below a board."""

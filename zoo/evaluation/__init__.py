"""Predict, choose thresholds, compute metrics and their confidence intervals."""

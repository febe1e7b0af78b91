"""Fit a model to a dataset, interruptible at any moment."""

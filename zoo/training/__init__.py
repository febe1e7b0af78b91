"""Fit a model to a dataset; training can be interrupted at any step and continued."""

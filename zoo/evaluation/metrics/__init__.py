"""TODO evaluation.metrics."""

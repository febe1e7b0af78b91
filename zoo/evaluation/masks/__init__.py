"""Metrics on masks: label maps in, exact statistics per case and label, scores by patient out."""

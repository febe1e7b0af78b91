"""Find pretrained weights, and build a network for a dataset."""

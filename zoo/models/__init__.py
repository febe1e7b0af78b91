"""Find pretrained weights and build models for a dataset."""

"""Open, check, fingerprint, split, decode and describe a dataset."""

"""The record of a run: its identity, its stored files, provenance, bundles and their verification."""

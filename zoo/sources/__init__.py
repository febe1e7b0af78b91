"""Read a folder, table, archive or dataset.toml as a dataset."""

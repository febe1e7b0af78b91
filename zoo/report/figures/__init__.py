"""The figures of a board: drawn once, shown on the page and written to files."""

"""The command line: one file per command. docs/command-line.md is the contract."""

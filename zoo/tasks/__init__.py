"""The kinds of answer a model gives."""

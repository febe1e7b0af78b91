"""Plan a bench and carry out its runs."""

"""Plan a bench and execute its runs."""

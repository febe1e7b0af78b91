"""Apply the rules of tests/harness.py to the tests of zoo and of its plugins."""

from harness import (  # noqa: F401 (pytest finds them here)
    default_signals,
    pytest_collection,
    pytest_collection_modifyitems,
    pytest_runtest_protocol,
)

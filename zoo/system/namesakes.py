"""Find other distributions that install a package `zoo`, which overwrites or hides that of zoo-bench."""

from __future__ import annotations

import re
from collections.abc import Iterable
from contextlib import suppress
from importlib import metadata

from zoo.errors import ZooError

OURS = "zoo-bench"
FILE = re.compile(r"^zoo(/|\.py,)", re.MULTILINE)  # of a package or module `zoo`, in a RECORD


def find_namesakes() -> dict[str, str]:
    """The version of each other distribution that installs files of a package or module `zoo`, by its name."""
    versions: dict[str, str] = {}
    for distribution in metadata.distributions():
        with suppress(Exception):  # damaged metadata: the error differs between versions of Python
            # perf: `metadata.packages_distributions` parses every RECORD, 0.45 s with 120 distributions
            if FILE.search(distribution.read_text("RECORD") or ""):
                versions.setdefault(distribution.metadata["Name"], distribution.version)
    return {name: versions[name] for name in sorted(versions) if re.sub(r"[-_.]+", "-", name).lower() != OURS}


def describe_namesake(name: str, version: str) -> str:
    return f"{name} {version} also installs a package `zoo`"


def how_to_restore(namesakes: Iterable[str]) -> str:
    """The fix: remove the other distributions, and write our files again, some of which go with them."""
    names = " ".join(namesakes)
    removal = f"pip uninstall {names}, then " if names else ""
    return f"{removal}pip install --force-reinstall --no-deps {OURS}"


def explain_overwritten() -> ZooError:
    """The error if the `__init__.py` of this package is missing or another distribution's."""
    namesakes = find_namesakes()
    reason = ", ".join(describe_namesake(*each) for each in namesakes.items()) or "its __init__.py is missing"
    return ZooError(
        f"the package `zoo` is not that of {OURS}: {reason}", fix=how_to_restore(namesakes), code="overwritten"
    )

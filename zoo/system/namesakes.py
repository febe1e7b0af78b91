"""Find other distributions that install a package `zoo`, which overwrites or hides that of zoo-bench."""

from __future__ import annotations

import re
from collections.abc import Sequence

from zoo.errors import ZooError
from zoo.system.machine import installed_version, list_distributions

OURS = "zoo-bench"


def find_namesakes() -> list[str]:
    """The names of the other distributions with a top-level package or module `zoo`."""
    names = {re.sub(r"[-_.]+", "-", name).lower() for name in list_distributions().get("zoo", ())}
    return sorted(names - {OURS})


def describe_namesake(name: str) -> str:
    return f"{name} {installed_version(name)} also installs a package `zoo`".replace("  ", " ")


def how_to_restore(namesakes: Sequence[str]) -> str:
    """The fix: remove the other distributions, and write our files again, some of which go with them."""
    removal = f"pip uninstall {' '.join(namesakes)}, then " if namesakes else ""
    return f"{removal}pip install --force-reinstall --no-deps {OURS}"


def explain_overwritten() -> ZooError:
    """The error if the `__init__.py` of this package is missing or another distribution's."""
    namesakes = find_namesakes()
    reason = ", ".join(map(describe_namesake, namesakes)) or "its __init__.py is missing"
    return ZooError(
        f"the package `zoo` is not that of {OURS}: {reason}", fix=how_to_restore(namesakes), code="overwritten"
    )

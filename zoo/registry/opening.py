"""Open the registry: the core's own specs and those of every plugin installed beside it."""

from __future__ import annotations

from zoo.errors import UsageError
from zoo.registry.finding import find_plugins
from zoo.registry.loading import CORE, load_registry
from zoo.registry.lookup import Registry
from zoo.registry.quarantine import keep_from_harm
from zoo.system.files import cache_root


def open_registry() -> Registry:
    """Load the core's specs and every installed plugin whose import ends. UsageError if the core is not installed."""
    found = find_plugins()
    core = [plugin for plugin in found if plugin.name == CORE]
    if not core:
        raise UsageError(
            f"the installed metadata of {CORE} names no plugin: it is older than this code",
            fix="install it again: pip install -e . in its clone, else pip install --force-reinstall zoo-bench",
            code="not-installed",
        )
    others = [plugin for plugin in found if plugin.name != CORE]
    return load_registry([*core, *keep_from_harm(others, cache_root())])

"""Open the registry: the specs of the core and of every installed plugin."""

from __future__ import annotations

from pathlib import Path

from zoo.errors import UsageError
from zoo.registry.finding import find_plugins
from zoo.registry.loading import CORE, load_registry
from zoo.registry.lookup import Registry
from zoo.registry.quarantine import quarantine_plugins
from zoo.system.files import cache_root
from zoo.system.plugin_files import PLUGIN_FILES


def open_registry() -> Registry:
    """Load the core and every installed plugin. Raises UsageError without the core, or a file of ZOO_PLUGINS."""
    plugins = find_plugins()
    if missing := [plugin.file for plugin in plugins if plugin.file and not Path(plugin.file).is_file()]:
        raise UsageError(f"no such file: {missing[0]}", fix=f"correct --plugin or {PLUGIN_FILES}")
    core = [plugin for plugin in plugins if plugin.name == CORE]
    if not core:
        raise UsageError(
            f"the installed metadata of {CORE} is older than this code: it declares no plugin",
            fix="install it again: `pip install -e .` in a clone, else `pip install --force-reinstall zoo-bench`",
            code="not-installed",
        )
    others = [plugin for plugin in plugins if plugin.name != CORE]
    return load_registry([*core, *quarantine_plugins(others, cache_root())])

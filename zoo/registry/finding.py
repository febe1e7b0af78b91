"""Installed distributions to plugins that are found; nothing of them is imported."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata

from zoo.errors import PluginError, clean, message_of
from zoo.specs.hooks import CONTRACT

GROUP = re.compile(r"zoo\.v(\d+)")


@dataclass(frozen=True, kw_only=True)
class FoundPlugin:
    """A plugin that is installed; nothing of it has been imported. `load` returns what its entry point names."""

    name: str  # of its distribution
    version: str = ""
    group: str = f"zoo.v{CONTRACT}"
    module: str = ""  # that its entry point names
    load: Callable[[], object]


def find_plugins() -> list[FoundPlugin]:
    """List the distributions with an entry point in a group `zoo.vN`; of two with one name, the first on `sys.path`."""
    found: dict[str, FoundPlugin] = {}
    for distribution in metadata.distributions():
        for plugin in find_in_distribution(distribution):
            found.setdefault(plugin.name, plugin)
    return sorted(found.values(), key=lambda plugin: plugin.name)


def find_in_distribution(distribution: metadata.Distribution) -> Iterator[FoundPlugin]:
    """The one plugin of a distribution, or none. Damaged metadata make a plugin that cannot be loaded."""
    try:
        # perf: reading one small file is 4 times quicker than parsing the metadata of every distribution
        text = distribution.read_text("entry_points.txt") or ""
    except (OSError, UnicodeDecodeError):
        return  # damaged beyond telling whether it is ours
    if not re.search(r"^\s*\[\s*zoo\.v\d+\s*\]", text, re.MULTILINE):
        return
    name, version = describe_distribution(distribution)
    try:
        points = [point for point in distribution.entry_points if GROUP.fullmatch(point.group)]
    except Exception as error:  # the parser raises whatever the text makes it raise
        fault = PluginError(f"its entry_points.txt is damaged: {reason_of(error)}", fix="install it again")
        yield FoundPlugin(name=canonical(name or "unknown"), version=version, load=raising(fault))
        return
    if not points:
        return
    # A distribution may serve several generations of the contract: take the newest one spoken here.
    group = max((point.group for point in points), key=lambda group: (contract(group) <= CONTRACT, contract(group)))
    points = [point for point in points if point.group == group]
    load = points[0].load
    if len(points) > 1:
        load = raising(PluginError(f"{len(points)} entry points in {group}, expected 1"))
    yield FoundPlugin(
        name=canonical(name or points[0].name), version=version, group=group, module=points[0].module, load=load
    )


def describe_distribution(distribution: metadata.Distribution) -> tuple[str, str]:
    """Name and version, empty where the metadata do not say."""
    try:
        fields = distribution.metadata
        said = {key: str(fields[key]) for key in ("Name", "Version") if key in fields}
    except Exception:  # missing or undecodable METADATA: its type differs between versions of Python
        said = {}
    return said.get("Name", ""), said.get("Version", "")


def contract(group: str) -> int:
    """The generation N in `zoo.vN`."""
    return int(group.removeprefix("zoo.v"))


def raising(error: BaseException) -> Callable[[], object]:
    def load() -> object:
        raise error

    return load


def canonical(distribution: str) -> str:
    """One spelling for a distribution's name, as the package index has it: `Zoo_Timm` is `zoo-timm`."""
    return re.sub(r"[-_.]+", "-", distribution).lower()


def reason_of(error: BaseException) -> str:
    """One line: `ImportError: no cuda`. What the loader itself found needs no type in front."""
    text = " ".join(clean(line) for line in message_of(error).split())
    if isinstance(error, PluginError):
        return text
    if isinstance(error, SystemExit):
        return f"SystemExit: it called sys.exit({text})"
    shortened = text if len(text) <= 300 else text[:297] + "..."
    return f"{type(error).__name__}: {shortened}" if shortened else type(error).__name__

"""List the plugins among the installed distributions, without importing them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata

from zoo.errors import PluginError, clean, message_of
from zoo.specs.hooks import CONTRACT

# The plugins of this project and what they register, named only to suggest installing them.
OUR_PLUGINS = {"zoo-timm": "model", "zoo-torchvision": "model", "zoo-medmnist": "dataset", "zoo-kaggle": "dataset"}
GROUP = re.compile(r"zoo\.v(\d+)")


@dataclass(frozen=True, kw_only=True)
class InstalledPlugin:
    """An installed plugin, not yet imported. `load` imports and returns the object of its entry point."""

    name: str  # of its distribution
    version: str = ""
    group: str = f"zoo.v{CONTRACT}"
    module: str = ""  # of its entry point
    load: Callable[[], object]


def find_plugins() -> list[InstalledPlugin]:
    """List the distributions with an entry point in a group `zoo.vN`, by name. The first on `sys.path` wins."""
    plugins: dict[str, InstalledPlugin] = {}
    for distribution in metadata.distributions():
        for plugin in find_in_distribution(distribution):
            plugins.setdefault(plugin.name, plugin)
    return sorted(plugins.values(), key=lambda plugin: plugin.name)


def find_in_distribution(distribution: metadata.Distribution) -> Iterator[InstalledPlugin]:
    """Yield the plugin of a distribution, if it has one. With damaged metadata, it fails to load."""
    try:
        # perf: reading one small file is 4 times faster than parsing the metadata of every distribution
        text = distribution.read_text("entry_points.txt") or ""
    except (OSError, UnicodeDecodeError):
        return  # too damaged to know whether it is a plugin
    if not re.search(r"^\s*\[\s*zoo\.v\d+\s*\]", text, re.MULTILINE):
        return
    name, version = describe_distribution(distribution)
    try:
        points = [point for point in distribution.entry_points if GROUP.fullmatch(point.group)]
    except Exception as error:  # the parser raises many kinds of errors
        damage = PluginError(f"its entry_points.txt is damaged: {reason_of(error)}", fix="install it again")
        yield InstalledPlugin(name=canonical(name or "unknown"), version=version, load=raising(damage))
        return
    if not points:
        return
    # A distribution may support several versions of the contract: use the newest one that this zoo supports.
    group = max((point.group for point in points), key=lambda group: (contract(group) <= CONTRACT, contract(group)))
    points = [point for point in points if point.group == group]
    load = points[0].load
    if len(points) > 1:
        load = raising(PluginError(f"{len(points)} entry points in {group}, expected 1"))
    yield InstalledPlugin(
        name=canonical(name or points[0].name), version=version, group=group, module=points[0].module, load=load
    )


def describe_distribution(distribution: metadata.Distribution) -> tuple[str, str]:
    """The name and version of a distribution, empty if its metadata is damaged."""
    try:
        fields = distribution.metadata
        texts = {key: str(fields[key]) for key in ("Name", "Version") if key in fields}
    except Exception:  # missing or undecodable METADATA: the error differs between versions of Python
        texts = {}
    return texts.get("Name", ""), texts.get("Version", "")


def contract(group: str) -> int:
    """The contract version N of `zoo.vN`."""
    return int(group.removeprefix("zoo.v"))


def raising(error: BaseException) -> Callable[[], object]:
    def load() -> object:
        raise error

    return load


def canonical(distribution: str) -> str:
    """Normalize a distribution's name as PyPI does: `Zoo_Timm` is `zoo-timm`."""
    return re.sub(r"[-_.]+", "-", distribution).lower()


def reason_of(error: BaseException) -> str:
    """Describe an error on one line, such as `ImportError: no cuda`. A PluginError needs no type name."""
    text = " ".join(clean(line) for line in message_of(error).split())
    if isinstance(error, PluginError):
        return text
    if isinstance(error, SystemExit):
        return f"SystemExit: it called sys.exit({text})"
    shortened = text if len(text) <= 300 else text[:297] + "..."
    return f"{type(error).__name__}: {shortened}" if shortened else type(error).__name__

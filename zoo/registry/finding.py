"""List the plugins among the installed distributions and the files of ZOO_PLUGINS, without importing them."""

from __future__ import annotations

import ast
import importlib
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from pathlib import Path

from zoo.errors import PluginError, clean, message_of
from zoo.specs.hooks import CONTRACT
from zoo.system.files import read_regular
from zoo.system.plugin_files import PLUGIN_FILES, PluginFile, list_plugin_files

# The plugins of this project and what they register, named only to suggest installing them.
OUR_PLUGINS = {"zoo-timm": "model", "zoo-torchvision": "model", "zoo-medmnist": "dataset", "zoo-kaggle": "dataset"}
AUTHORS = ("Author", "Author-email")  # fields of a distribution's metadata
GROUP = re.compile(r"zoo\.v(\d+)")


@dataclass(frozen=True, kw_only=True)
class InstalledPlugin:
    """An installed plugin, not yet imported. `load` imports and returns the object of its entry point."""

    name: str  # of its distribution
    version: str = ""
    summary: str = ""
    author: str = ""
    url: str = ""
    file: str = ""  # of a plugin without a distribution
    group: str = f"zoo.v{CONTRACT}"
    module: str = ""  # of its entry point
    load: Callable[[], object]


def find_plugins() -> list[InstalledPlugin]:
    """List the distributions with an entry point in a group `zoo.vN`, by name, then the files of ZOO_PLUGINS.

    The first of several distributions of one name on `sys.path` wins.
    """
    plugins: dict[str, InstalledPlugin] = {}
    for distribution in metadata.distributions():
        for plugin in find_in_distribution(distribution):
            plugins.setdefault(plugin.name, plugin)
    distributions = sorted(plugins.values(), key=lambda plugin: plugin.name)
    return [*distributions, *map(describe_plugin_file, list_plugin_files())]


def describe_plugin_file(file: PluginFile) -> InstalledPlugin:
    """The plugin of one file; the first line of its docstring is its summary."""
    try:
        docstring = ast.get_docstring(ast.parse(read_regular(file.path))) or ""
    except (OSError, ValueError, SyntaxError):  # importing it reports the error
        docstring = ""
    return InstalledPlugin(
        name=canonical(file.path.stem),
        version=file.version,
        summary=docstring.partition("\n")[0],
        file=str(file.path),
        module=file.path.stem,
        load=partial(import_file, file.path),
    )


def import_file(path: Path) -> object:
    """Import a plugin of one file by its name, so that worker processes can import it too.

    Its folder is appended to `sys.path`, where it hides no other module. Raises PluginError if the name is not that of
    a module, or is taken.
    """
    if not path.stem.isidentifier() or path.suffix != ".py":
        raise PluginError(f"{path.name} cannot be imported", fix="give it a name such as my_plugin.py")
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    module = importlib.import_module(path.stem)
    origin = getattr(module, "__file__", None)
    if origin is None or Path(origin).resolve() != path:
        raise PluginError(f"there is another module {path.stem!r}: {origin or 'of Python'}", fix=f"rename {path.name}")
    return module


def find_in_distribution(distribution: metadata.Distribution) -> Iterator[InstalledPlugin]:
    """Yield the plugin of a distribution, if it has one. With damaged metadata, it fails to load."""
    try:
        # perf: reading one small file is 4 times faster than parsing the metadata of every distribution
        text = distribution.read_text("entry_points.txt") or ""
    except (OSError, UnicodeDecodeError):
        return  # too damaged to know whether it is a plugin
    if not re.search(r"^\s*\[\s*zoo\.v\d+\s*\]", text, re.MULTILINE):
        return
    facts = describe_distribution(distribution)
    name = facts.pop("name")
    try:
        points = [point for point in distribution.entry_points if GROUP.fullmatch(point.group)]
    except Exception as error:  # the parser raises many kinds of errors
        damage = PluginError(f"its entry_points.txt is damaged: {reason_of(error)}", fix="install it again")
        yield InstalledPlugin(name=canonical(name or "unknown"), **facts, load=raising(damage))
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
        name=canonical(name or points[0].name), **facts, group=group, module=points[0].module, load=load
    )


def describe_distribution(distribution: metadata.Distribution) -> dict[str, str]:
    """Name, version, summary, author and URL of a distribution, empty if its metadata is damaged."""
    try:
        fields = distribution.metadata
        texts = {
            key: str(fields[key]) for key in ("Name", "Version", "Summary", *AUTHORS, "Home-page") if key in fields
        }
        pages = [line.partition(",")[2].strip() for line in fields.get_all("Project-URL") or ()]
    except Exception:  # missing or undecodable METADATA: the error differs between versions of Python
        texts, pages = {}, []
    author = next((texts[key] for key in AUTHORS if key in texts), "")
    return {
        "name": texts.get("Name", ""),
        "version": texts.get("Version", ""),
        "summary": texts.get("Summary", ""),
        "author": author.partition("<")[0].strip(' "') or author,
        "url": next(iter([*([texts["Home-page"]] if "Home-page" in texts else []), *pages]), ""),
    }


def contract(group: str) -> int:
    """The contract version N of `zoo.vN`."""
    return int(group.removeprefix("zoo.v"))


def how_to_remove(name: str, file: str) -> str:
    """The fix for a plugin that cannot be used, by its distribution or its file."""
    return f"leave {file} out of --plugin and {PLUGIN_FILES}" if file else f"`pip uninstall {name}`"


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

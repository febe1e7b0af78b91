"""Plugins of one file each, which the environment variable ZOO_PLUGINS names: no distribution, no metadata."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from zoo.system.files import hash_file

PLUGIN_FILES = "ZOO_PLUGINS"  # paths, separated as in PATH; worker processes inherit it


@dataclass(frozen=True, kw_only=True)
class PluginFile:
    """A plugin of one file. Its version is its content, so that a result states which one made it."""

    path: Path

    @property
    def name(self) -> str:
        """The name of the file as that of a distribution: `my_net.py` is the plugin `my-net`."""
        return re.sub(r"[-_.]+", "-", self.path.stem).lower()

    @property
    def version(self) -> str:
        """`sha256:` and the hash of the file; empty if it cannot be read."""
        try:
            return f"sha256:{hash_once(self.path)}"
        except OSError:
            return ""


@cache
def hash_once(path: Path) -> str:
    """The sha256 of a file when this process first met it, which is what it imported."""
    return hash_file(path)


def list_plugin_files() -> list[PluginFile]:
    """The files of ZOO_PLUGINS, each once, in their order."""
    paths = [Path(text).expanduser().resolve() for text in os.environ.get(PLUGIN_FILES, "").split(os.pathsep) if text]
    return [PluginFile(path=path) for path in dict.fromkeys(paths)]


def versions_of_files() -> Mapping[str, str]:
    """The version of each plugin of one file, by its name."""
    return {file.name: file.version for file in list_plugin_files() if file.version}

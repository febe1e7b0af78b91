"""Reader specs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal


@dataclass(frozen=True, kw_only=True)
class ReaderSpec:
    """A reader of image files that zoo itself does not read, by their suffixes.

    `read(path)` returns the array of a file: with `dims` 2 an image (H, W), or (H, W, 3) of uint8 or uint16; with 3 a
    volume (D, H, W) of slices (H, W), the upper left pixel first. Values are in the file's own units. It raises any
    exception for a file that it cannot read; its message becomes part of one line.

    `spacing(path)` returns the millimeters per pixel along these axes, or None where a file does not declare them.

    Both are called in threads and in worker processes. The content hash of a dataset has the plugin, name and version
    of the readers of its images, and its masks as they are read: raise `version` when `read` returns other values.
    """

    name: str
    suffixes: tuple[str, ...]  # in lower case: ".oct", ".oct.gz"
    read: Callable[[Path], Any]
    spacing: Callable[[Path], Any] | None = None
    dims: Literal[2, 3] = 2
    title: str = ""
    version: int = 1
    citation: str = ""

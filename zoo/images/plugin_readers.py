"""The readers of plugins: how files that zoo itself does not read become arrays."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from zoo.arrays import Array
from zoo.errors import DataError, ZooError, message_of
from zoo.images.placement import Spacing
from zoo.images.reading import check_regular, suffix_of

AXES = {2: "(H, W), or (H, W, 3) of uint8 or uint16", 3: "(D, H, W), or (D, H, W, 3) of uint8 or uint16"}


@dataclass(frozen=True, kw_only=True, eq=False)
class SuffixReader:
    """A plugin's reader of the files with its suffixes; see `ReaderSpec`."""

    name: str
    version: int
    plugin: str  # the distribution that registers it
    suffixes: tuple[str, ...]
    read: Callable[[Path], Any]
    spacing: Callable[[Path], Any] | None
    dims: int

    @property
    def identity(self) -> str:
        """`zoo-oct:oct@1`, a part of the content hash of what it reads."""
        return f"{self.plugin}:{self.name}@{self.version}"

    def read_array(self, path: Path) -> Array:
        """The array of a file, with the axes of AXES. Raises DataError."""
        check_regular(path)
        array = self.call(self.read, path)
        if fault := find_reading_fault(array, self.dims):
            raise self.fault(path, f"returned {fault}, expected {AXES[self.dims]}")
        stored: Array = array.view(np.uint8) if array.dtype == bool else array
        return stored

    def read_size(self, path: Path) -> Spacing | None:
        """mm per pixel along the axes of the array, without its colors; None if unknown. Raises DataError."""
        if self.spacing is None:
            return None
        check_regular(path)
        sizes = self.call(self.spacing, path)
        if sizes is None:
            return None
        if not is_spacing(sizes, self.dims):
            raise self.fault(path, f"returned the spacing {sizes!r}, expected {self.dims} positive numbers, or None")
        return tuple(map(float, sizes))

    def call(self, function: Callable[[Path], Any], path: Path) -> Any:
        try:
            return function(path)
        except ZooError:
            raise
        except (Exception, SystemExit) as error:  # a plugin's code may raise anything
            cause = " ".join(f"{type(error).__name__}: {message_of(error)}".split())
            raise self.fault(path, f"failed: {cause}") from error

    def fault(self, path: Path, problem: str) -> DataError:
        return DataError(
            f"{path}: reader {self.name!r} of {self.plugin} {problem}",
            fix="copy the file again, leave it out, or report this to the plugin's author",
            code="image",
        )


def parse_identity(identity: str) -> dict[str, Any]:
    """The parts of `SuffixReader.identity`, as those of a choice of a protocol."""
    plugin, _, reader = identity.partition(":")
    name, _, version = reader.rpartition("@")
    return {"plugin": plugin, "name": name, "version": int(version), "options": {}}


def find_reading_fault(array: Any, dims: int) -> str:
    """What a reader returned, if that is not an image (`dims` 2) or a volume (3); else ""."""
    if not isinstance(array, np.ndarray):
        return f"an object of type {type(array).__name__}"
    is_color = array.ndim == dims + 1 and array.shape[-1] == 3 and array.dtype in (np.uint8, np.uint16)
    is_number = array.dtype.kind in "buif" and array.dtype.itemsize <= 8
    if is_number and array.size and (array.ndim == dims or is_color):
        return ""
    return f"an array of {array.dtype} with shape {array.shape}"


def is_spacing(sizes: Any, dims: int) -> bool:
    try:
        numbers = [float(size) for size in sizes]
    except (TypeError, ValueError):
        return False
    return len(numbers) == dims and all(np.isfinite(number) and number > 0 for number in numbers)


PLUGIN_READERS: dict[str, tuple[SuffixReader, ...]] = {}  # by suffix; set by `formats.use_readers`


def find_reader(path: Path) -> SuffixReader | None:
    """The plugin's reader of a file, by its suffix. Raises DataError if there are several."""
    readers = PLUGIN_READERS.get(suffix_of(path.name), ())
    if len(readers) > 1:
        names = " and ".join(sorted(reader.identity for reader in readers))
        raise DataError(
            f"{path}: {suffix_of(path.name)} files have {len(readers)} readers: {names}",
            fix="keep one: uninstall the other plugin, or correct a plugin that has both",
            code="image",
        )
    return readers[0] if readers else None


def is_plugin_image(suffix: str, dims: int) -> bool:
    """Whether plugins read files with a suffix as images (`dims` 2) or as volumes (3)."""
    return any(reader.dims == dims for reader in PLUGIN_READERS.get(suffix, ()))

"""Store painted slices in one file, complete or absent, and read single slices from it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from zoo import DataError, written_whole
from zoo_phantom.exact import Array
from zoo_phantom.paint import paint
from zoo_phantom.scenes import Scenes


def read_slice(path: Path, image: Any) -> Array:
    """Read the pixels of one slice, uint16 (H, W), and only its part of the file."""
    slices = np.load(path, mmap_mode="r", allow_pickle=False)
    return np.array(slices[int(image)], dtype=np.uint16)


def digest(images: Array) -> str:
    """SHA-256, in hex, of the pixels as little-endian 16-bit words, row by row."""
    return hashlib.sha256(np.ascontiguousarray(images, dtype="<u2").data).hexdigest()


def is_sound(path: Path, sha256: str) -> bool:
    """Whether `path` holds slices with this digest."""
    try:
        return path.exists() and digest(np.load(path, mmap_mode="r", allow_pickle=False)) == sha256
    except (ValueError, EOFError, OSError):  # truncated, or not an array
        return False


def keep_slices(path: Path, scenes: Scenes, sha256: str, progress: Callable[[int, int | None], None] | None) -> Path:
    """Paint `scenes` to `path`, unless it already holds slices with this digest."""
    return keep_array(path, sha256, lambda: paint(scenes, progress).astype("<u2"))


def keep_array(path: Path, sha256: str, make: Callable[[], Array]) -> Path:
    """Write the array that `make` returns to `path`, unless it already holds one with this digest."""
    if is_sound(path, sha256):
        return path
    array = make()
    actual = digest(array)
    if actual != sha256:
        raise DataError(
            f"{path.name}: expected slices with sha256 {sha256}, this machine painted {actual}",
            fix="report this with the output of `zoo doctor`: every machine should paint the same bytes",
            code="checksum",
        )
    with written_whole(path) as temporary, open(temporary, "wb") as stream:
        np.save(stream, array, allow_pickle=False)
    return path

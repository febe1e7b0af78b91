"""Decode a dataset's images once, into one array in the cache."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from zoo.arrays import Array
from zoo.data.opening import OpenDataset, mixed_depth, wrong_channels
from zoo.errors import DataError
from zoo.images.resizing import fit_square
from zoo.system.caches import keep_within, limit_bytes, mark_used
from zoo.system.files import folder_written_whole, hash_bytes, hash_file
from zoo.system.locks import locked
from zoo.system.machine import num_cores
from zoo.system.memo import FileMemo
from zoo.system.progress import Progress

if TYPE_CHECKING:
    pass


READER_VERSION = 2  # of the decoded cache; raise it when decoding or resizing changes a pixel


def cache_images(source: OpenDataset, size: int, cache: Path, progress: Progress | None = None) -> Path:
    """Decode every image once to (N, size, size, channels) uint8 or uint16 and return the `.npy` file.

    Images are decoded in threads, as decoding and resizing release the GIL. The file is written to a temporary folder,
    which is renamed; its key is the content hash.
    """
    key = source.content_hash[:20]
    if source.samples.read_by is not None:  # every fold has its own levels
        key += f"-{hash_bytes(json.dumps(dict(source.samples.reading), sort_keys=True))[:8]}"
    folder = cache / "images" / f"{key}-{size}px-{source.spec.channels}ch-v{READER_VERSION}"
    path = folder / "images.npy"
    if is_intact(folder, cache):
        mark_used(folder)
        return path
    with locked(folder.with_name(f".{folder.name}.lock")):
        if is_intact(folder, cache):  # another bench decoded it meanwhile
            return path
        with folder_written_whole(folder) as temporary:
            dtype = decode_into(source, size, temporary / "images.npy", progress)
            card = {"dataset": source.spec.name, "content_hash": source.content_hash, "size": size, "dtype": dtype}
            card["sha256"] = hash_file(temporary / "images.npy")
            (temporary / "card.json").write_text(json.dumps(card))
    keep_within(cache, limit_bytes())
    return path


def is_intact(folder: Path, cache: Path) -> bool:
    """Whether the cached pixels have their recorded hash, which is cached until the file's size or time changes."""
    memo = FileMemo(cache)
    try:
        card = json.loads((folder / "card.json").read_text(encoding="utf-8"))
        return bool(card["sha256"] == memo(folder / "images.npy"))
    except (OSError, ValueError, KeyError, TypeError):
        return False  # missing or damaged: decode again
    finally:
        memo.close()


def decode_into(source: OpenDataset, size: int, path: Path, progress: Progress | None) -> str:
    from concurrent.futures import ThreadPoolExecutor

    images = list(source.samples.table["image"])
    channels = source.spec.channels

    def decode(row: int) -> Array:
        pixels = fit_square(source.samples.read(images[row]), size)
        return match_channels(pixels, channels, source, row)

    first = decode(0)
    array = np.lib.format.open_memmap(path, mode="w+", dtype=first.dtype, shape=(len(images), *first.shape))
    reserve(path)
    with ThreadPoolExecutor(num_cores()) as pool:
        for row, pixels in enumerate(pool.map(decode, range(len(images)))):
            if pixels.dtype != first.dtype:
                raise mixed_depth(source, row, str(pixels.dtype), str(first.dtype))
            array[row] = pixels
            if progress:
                progress(row + 1, len(images))
    array.flush()
    return str(first.dtype)


def map_images(path: Path, mode: Literal["r", "c"] = "r") -> Array:
    """Memory-map decoded images; raise DataError if the cache was cleared meanwhile."""
    try:
        images: Array = np.load(path, mmap_mode=mode, allow_pickle=False)
    except FileNotFoundError as error:
        raise DataError(
            f"{path}: removed from the cache during the run",
            fix="do not clear the cache while a bench runs; the same command decodes the images again",
            code="cache-removed",
        ) from error
    return images


def reserve(path: Path) -> None:
    """Reserve the disk space of a mapped file: without enough space, writing to it kills the process (SIGBUS)."""
    with open(path, "rb+") as stream:
        try:
            os.posix_fallocate(stream.fileno(), 0, os.fstat(stream.fileno()).st_size)
        except AttributeError:  # macOS, Windows
            return
        except OSError as error:
            if error.errno == errno.ENOSPC:
                raise OSError(error.errno, error.strerror, str(path)) from error


def match_channels(pixels: Array, channels: int, source: OpenDataset, row: int) -> Array:
    """Return (H, W, channels): repeat gray for a color dataset; refuse unequal channels in a gray one."""
    if pixels.ndim == 2:
        return np.repeat(pixels[:, :, None], channels, axis=2)
    if pixels.shape[2] == channels:
        return pixels
    if channels == 1 and (pixels == pixels[:, :, :1]).all():
        return pixels[:, :, :1]
    raise wrong_channels(source, row, pixels.shape[2])


def measure_intensity(images: Path, train: Array) -> tuple[float, float]:
    """Return the levels that become 0 and 1: (0, 255) for uint8, percentiles 0.1 and 99.9 of train for uint16.

    Levels beyond them are not clipped and become numbers below 0 or above 1. Dividing a 12-bit image by 65,535 would
    use one sixteenth of the range.
    """
    array = map_images(images)
    if array.dtype == np.uint8:
        return 0.0, 255.0
    step = max(1, array.shape[1] // 64)
    return find_intensity(array[:, ::step, ::step][train])


def find_intensity(levels: Array) -> tuple[float, float]:
    low, high = np.percentile(levels, [0.1, 99.9])
    return float(low), float(max(high, low + 1))

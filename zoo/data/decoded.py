"""Decode a dataset's images once, into one array in the cache."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from zoo.arrays import Array
from zoo.data.masks import LabelMaps, check_grid, join_maps, load_maps, pack_map, read_mask, save_maps
from zoo.data.opening import OpenDataset, mixed_depth, wrong_channels
from zoo.errors import DataError
from zoo.images.placement import Placement, Spacing, pack_placements, unpack_placements
from zoo.images.resizing import fit_with_placement
from zoo.specs.choice import Choice
from zoo.specs.transform import prepare_pixels
from zoo.system.caches import keep_within, limit_bytes, mark_used
from zoo.system.files import folder_written_whole, hash_bytes, hash_file
from zoo.system.locks import locked
from zoo.system.machine import num_cores
from zoo.system.memo import FileMemo
from zoo.system.progress import Progress

IMAGES, PLACEMENTS = "images.npy", "placements.npy"
# Of a dataset with masks: uint8 (N, size, size), placed as the images are, and the masks as they were drawn.
MASKS_FILE, LABEL_MAPS_FILE = "masks.npy", "label_maps.npz"
READER_VERSION = 3  # of the decoded cache; raise it when decoding changes a pixel, or a file is added


def cache_images(
    source: OpenDataset,
    size: int,
    cache: Path,
    progress: Progress | None = None,
    transforms: Sequence[Choice] = (),
) -> Path:
    """Decode every image once to (N, size, size, channels) uint8 or uint16 and return the `.npy` file.

    `placements.npy` beside it has where each image lies in its square: see `read_placements`. Images are decoded in
    threads, as decoding and resizing release the GIL. The files are written to a temporary folder, which is renamed;
    its key is the content hash. The preprocessing steps among the transforms are applied before an image is resized.
    """
    key = source.content_hash[:20]
    if source.samples.read_by is not None:  # every fold has its own levels
        key += f"-{hash_bytes(json.dumps(dict(source.samples.reading), sort_keys=True))[:8]}"
    if transforms:
        key += f"-{hash_bytes(json.dumps([choice.identity for choice in transforms]))[:8]}"
    folder = cache / "images" / f"{key}-{size}px-{source.spec.channels}ch-v{READER_VERSION}"

    def fill(temporary: Path) -> dict[str, Any]:
        dtype = decode_into(source, size, temporary, progress, transforms)
        return {"dataset": source.spec.name, "content_hash": source.content_hash, "size": size, "dtype": dtype}

    fill_cache(folder, cache, {IMAGES, PLACEMENTS}, fill)
    return folder / IMAGES


def fill_cache(folder: Path, cache: Path, required: Set[str], fill: Callable[[Path], Mapping[str, Any]]) -> None:
    """Make a folder of the cache by `fill`, which returns facts for its card, unless it has the required files."""
    if is_intact(folder, cache, required):
        mark_used(folder)
        return
    with locked(folder.with_name(f".{folder.name}.lock")):
        if is_intact(folder, cache, required):  # another bench decoded it meanwhile
            return
        with folder_written_whole(folder) as temporary:
            card = dict(fill(temporary))
            card["sha256"] = {file.name: hash_file(file) for file in sorted(temporary.iterdir())}
            (temporary / "card.json").write_text(json.dumps(card))
    keep_within(cache, limit_bytes())


def is_intact(folder: Path, cache: Path, required: Set[str]) -> bool:
    """Whether the cached files have their recorded hashes, which are cached until a file's size or time changes."""
    memo = FileMemo(cache)
    try:
        card = json.loads((folder / "card.json").read_text(encoding="utf-8"))
        digests = card["sha256"]
        return required <= digests.keys() and all(digests[name] == memo(folder / name) for name in digests)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False  # missing or damaged: decode again
    finally:
        memo.close()


def decode_into(
    source: OpenDataset, size: int, folder: Path, progress: Progress | None, transforms: Sequence[Choice] = ()
) -> str:
    """Write the pixels, placements and masks of all images to a folder; return the dtype of the pixels."""
    from concurrent.futures import ThreadPoolExecutor

    samples, images = source.samples, list(source.samples.table["image"])
    channels = source.spec.channels

    def decode(row: int) -> tuple[Array, Placement, tuple[Array, LabelMaps] | None]:
        pixels = prepare_pixels(samples.read(images[row]), transforms)
        spacing = source.samples.spacing(images[row]) if source.samples.spacing else None
        square, placement = fit_with_placement(pixels, size, spacing)
        matched = match_channels(square, channels)
        if matched is None:
            raise wrong_channels(source, row, pixels.shape[2])
        if samples.masks is None:
            return matched, placement, None
        mask = read_mask(source.spec, samples, images[row])
        check_grid(source.spec, samples, images[row], mask, pixels)
        return matched, placement, (placement.mask_to_input(mask, size), pack_map(mask))

    first, *_ = decode(0)
    placements: list[Placement] = []
    packed: list[LabelMaps] = []  # perf: uncompressed, 10,000 masks of 2,000 x 2,000 pixels take 40 GB
    array = create_array(folder / IMAGES, (len(images), *first.shape), first.dtype)
    masks = None if samples.masks is None else create_array(folder / MASKS_FILE, array.shape[:3], np.dtype(np.uint8))
    with ThreadPoolExecutor(num_cores()) as pool:
        for row, (pixels, placement, mask) in enumerate(pool.map(decode, range(len(images)))):
            placements.append(placement)
            if masks is not None and mask is not None:
                masks[row] = mask[0]
                packed.append(mask[1])
            if pixels.dtype != first.dtype:
                raise mixed_depth(source, row, str(pixels.dtype), str(first.dtype))
            array[row] = pixels
            if progress:
                progress(row + 1, len(images))
    array.flush()
    np.save(folder / PLACEMENTS, pack_placements(placements))
    if masks is not None:
        masks.flush()
        save_maps(folder / LABEL_MAPS_FILE, join_maps(packed))
    return str(first.dtype)


def create_array(path: Path, shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.memmap[Any, Any]:
    """Create a memory-mapped `.npy` file."""
    array = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)
    reserve(path)
    return array


def read_placements(images: Path) -> list[Placement]:
    """Read the placements of all images, by row of the `.npy` file that `cache_images` returned."""
    with reading_cache():
        return unpack_placements(np.load(images.with_name(PLACEMENTS), allow_pickle=False))


def map_images(path: Path, mode: Literal["r", "c"] = "r") -> Array:
    """Memory-map decoded images."""
    with reading_cache():
        images: Array = np.load(path, mmap_mode=mode, allow_pickle=False)
        return images


@contextmanager
def reading_cache() -> Iterator[None]:
    """Raise DataError if the block reads a file that was removed from the cache meanwhile."""
    try:
        yield
    except FileNotFoundError as error:
        raise DataError(
            f"{error.filename}: removed from the cache during the run",
            fix="do not clear the cache while a bench runs; the same command decodes the images again",
            code="cache-removed",
        ) from error


@dataclass(frozen=True, eq=False)
class DecodedImages:
    """The images of the cache."""

    path: Path

    @property
    def channels(self) -> int:
        return int(map_images(self.path).shape[3])

    @cached_property
    def spacings(self) -> list[Spacing | None]:
        """mm per pixel of the original images."""
        return [placement.spacing for placement in read_placements(self.path)]

    @cached_property
    def label_maps(self) -> LabelMaps:
        """The masks at the size of their images."""
        with reading_cache():
            return load_maps(self.path.with_name(LABEL_MAPS_FILE))

    @property
    def masks(self) -> Array:
        """The masks at the input's size: uint8 (N, size, size)."""
        return map_images(self.path.with_name(MASKS_FILE), "c")  # torch warns about read-only arrays

    def common_masks(self, rows: Array) -> Array:
        """The masks of some rows on one grid, that of the input: uint8 (n, size, size)."""
        masks: Array = self.masks[rows]
        return masks


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


def match_channels(pixels: Array, channels: int) -> Array | None:
    """Return (H, W, channels): gray is repeated, equal channels become gray; None if the channels do not fit."""
    if pixels.ndim == 2:
        return np.repeat(pixels[:, :, None], channels, axis=2)
    if pixels.shape[2] == channels:
        return pixels
    if channels == 1 and (pixels == pixels[:, :, :1]).all():
        return pixels[:, :, :1]
    return None


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

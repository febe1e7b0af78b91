"""Fingerprint the decoded images of a dataset, and find those that look alike or cannot be decoded.

Headers are not enough to find damage: a truncated PNG has a complete header.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from zoo.arrays import Array
from zoo.data.opening import OpenDataset, mixed_depth, wrong_channels
from zoo.errors import DataError
from zoo.system.files import hash_bytes, load_arrays, save_arrays
from zoo.system.machine import num_cores
from zoo.system.progress import Progress

FINGERPRINTS_VERSION = 3  # raise it when decoding or Fingerprints change
MIN_SIDE = 48  # px; smaller images of one kind look alike: at 28 px pHash alone gives 454 false pairs in 948,000
MAX_DISTANCE = 8  # different bits of 64
MIN_CORRELATION = 0.98
HASH_SIDE = 64  # px, of the thumbnail
BLANK_RANGE = 2  # levels of 255: a thumbnail that varies less is blank
BLOCK = 2048  # hashes compared with as many others at once: 32 MB
COMPARED_AT_ONCE = 4096  # pairs of thumbnails compared at once: 128 MB
DENSE = 40  # perf: if one pair in 40 or more is a candidate, the full product costs less than gathering candidates
MAX_PAIRS = 2_000_000


@dataclass(frozen=True, kw_only=True, eq=False)
class Fingerprints:
    """Facts about every image, in the dataset's order, and the pairs of different images that look alike."""

    pixels: Array  # (N,) str: digest of the decoded pixels; a gray image stored in color is converted to gray first
    blank: Array  # (N,) bool: of one level, or nearly; not compared with others
    widths: Array  # (N,) int64
    heights: Array  # (N,) int64
    bits: Array  # (N,) int64: 8 or 16
    channels: Array  # (N,) int64: 1 or 3, as read
    gray: Array  # (N,) bool: one channel, or three that are equal
    hashes: Array  # (N,) uint64: the pHash
    alike: Array  # (M, 2) int64: pairs of rows; only the first of images with equal pixels is compared
    skipped: str  # why images were not compared by appearance, or ""


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageFingerprint:
    """The facts of one image, as in Fingerprints, and the thumbnail for comparison."""

    pixels: str
    blank: bool
    widths: int
    heights: int
    bits: int
    channels: int
    gray: bool
    hashes: np.uint64
    thumbnail: Array  # (HASH_SIDE**2,) uint8, stretched from its darkest to its brightest level


PER_IMAGE = ("pixels", "blank", "widths", "heights", "bits", "channels", "gray", "hashes")


def take_fingerprints(source: OpenDataset, cache: Path, progress: Progress | None = None) -> Fingerprints:
    """Decode every image once, in threads, compare all with all, and cache the fingerprints by the images' content.

    Raise DataError for images that cannot be decoded (naming the first, with the number of others), that differ in bit
    depth, or that are in color in a gray dataset.
    """
    content = hash_bytes(*source.digests.tolist(), json.dumps(dict(source.samples.reading)))
    path = cache / "fingerprints" / f"{content[:20]}-v{FINGERPRINTS_VERSION}.npz"
    fingerprints = load_fingerprints(path, len(source.digests))
    if fingerprints is None:
        fingerprints = compare_all(*fingerprint_all(source, progress))
        save_arrays(path, **{field.name: getattr(fingerprints, field.name) for field in fields(Fingerprints)})
    check_comparable(source, fingerprints)
    return fingerprints


def load_fingerprints(path: Path, num_images: int) -> Fingerprints | None:
    """Load cached fingerprints; None if there are none, or damaged ones."""
    arrays = load_arrays(path)
    if arrays is None or set(arrays) != {field.name for field in fields(Fingerprints)}:
        return None
    loaded = Fingerprints(**{**arrays, "skipped": str(arrays["skipped"])})
    is_complete = all(arrays[name].shape == (num_images,) for name in PER_IMAGE) and loaded.alike.shape[1:] == (2,)
    return loaded if is_complete and not (loaded.alike.size and loaded.alike.max() >= num_images) else None


# --- one image -------------------------------------------------------------------------------------------------------
def fingerprint_all(source: OpenDataset, progress: Progress | None) -> tuple[Fingerprints, Array]:
    """Fingerprint every image, without comparing them; also return thumbnails (N, HASH_SIDE**2) uint8."""
    from concurrent.futures import ThreadPoolExecutor

    images = list(source.samples.table["image"])
    thumbnails = np.zeros((len(images), HASH_SIDE * HASH_SIDE), np.uint8)
    facts: list[tuple[Any, ...]] = []
    faults = []

    def read(image: Any) -> ImageFingerprint | DataError:
        try:
            return fingerprint_image(source.samples.read(image))
        except DataError as error:
            return error

    with ThreadPoolExecutor(num_cores()) as pool:
        for row, fingerprint in enumerate(pool.map(read, images)):
            if isinstance(fingerprint, DataError):
                faults.append(fingerprint)
            else:
                facts.append(tuple(getattr(fingerprint, name) for name in PER_IMAGE))
                thumbnails[row] = fingerprint.thumbnail
            if progress:
                progress(row + 1, len(images))
    if faults:
        raise unreadable_image(faults)
    columns = dict(zip(PER_IMAGE, map(np.array, zip(*facts, strict=True)), strict=True))
    return Fingerprints(**columns, alike=np.zeros((0, 2), np.int64), skipped=""), thumbnails


def unreadable_image(faults: Sequence[DataError]) -> DataError:
    """Return the first error, with the number of other unreadable images."""
    first = faults[0]
    more = f" (and {len(faults) - 1} more images cannot be read)" if len(faults) > 1 else ""
    return DataError(first.message + more, fix=first.fix, code=first.code)


def check_comparable(source: OpenDataset, fingerprints: Fingerprints) -> None:
    """Refuse images that cannot share one array: of two bit depths, or in color in a gray dataset."""
    other = np.flatnonzero(fingerprints.bits != fingerprints.bits[0])
    if len(other):
        raise mixed_depth(source, int(other[0]), f"uint{fingerprints.bits[other[0]]}", f"uint{fingerprints.bits[0]}")
    in_color = np.flatnonzero(~fingerprints.gray)
    if source.spec.channels == 1 and len(in_color):
        raise wrong_channels(source, int(in_color[0]), int(fingerprints.channels[in_color[0]]))


def fingerprint_image(pixels: Array) -> ImageFingerprint:
    """Fingerprint an image as `Samples.read` returns it."""
    channels = 1 if pixels.ndim == 2 else pixels.shape[2]
    gray = channels == 1 or bool((pixels == pixels[:, :, :1]).all())
    if gray and pixels.ndim == 3:
        pixels = pixels[:, :, 0]
    digest = hashlib.blake2b(f"{pixels.dtype} {pixels.shape} ".encode(), digest_size=16)
    digest.update(np.ascontiguousarray(pixels).data)
    levels = thumbnail(pixels)
    low, high = float(levels.min()), float(levels.max())
    nearly = pixels.dtype == np.uint8 and high - low < BLANK_RANGE
    stretched = (levels - low) * (255 / (high - low)) if high > low else np.zeros_like(levels)
    return ImageFingerprint(
        pixels=digest.hexdigest(),
        blank=nearly or bool(pixels.min() == pixels.max()),
        widths=pixels.shape[1],
        heights=pixels.shape[0],
        bits=8 * pixels.dtype.itemsize,
        channels=channels,
        gray=gray,
        hashes=perceptual_hash(levels),
        thumbnail=np.rint(stretched).astype(np.uint8).ravel(),
    )


def thumbnail(pixels: Array) -> Array:
    """Resize the whole image to HASH_SIDE x HASH_SIDE in gray, float64, without keeping its aspect ratio."""
    from PIL import Image

    if pixels.dtype == np.uint8:
        image = Image.fromarray(pixels)
        image = image.convert("L") if pixels.ndim == 3 else image
    else:
        gray = pixels @ np.array([0.299, 0.587, 0.114]) if pixels.ndim == 3 else pixels
        image = Image.fromarray(gray.astype(np.float32))
    small = image.resize((HASH_SIDE, HASH_SIDE), Image.Resampling.BILINEAR, reducing_gap=3.0)
    return np.asarray(small, dtype=np.float64)


def perceptual_hash(levels: Array) -> np.uint64:
    """64-bit pHash: whether each of the lowest 8 x 8 terms of the 32 x 32 cosine transform is above their median."""
    from scipy.fft import dctn

    small = levels.reshape(32, HASH_SIDE // 32, 32, HASH_SIDE // 32).mean(axis=(1, 3))
    low = dctn(small)[:8, :8]
    return np.uint64(int.from_bytes(np.packbits(low > np.median(low)).tobytes()))


# --- comparison ------------------------------------------------------------------------------------------------------
def compare_all(fingerprints: Fingerprints, thumbnails: Array) -> Fingerprints:
    """Add the pairs that look alike. Images with equal pixels and blank ones are not compared."""
    if small := too_small(fingerprints):
        return replace(fingerprints, skipped=small)
    _, first = np.unique(fingerprints.pixels, return_index=True)
    rows = np.sort(first[~fingerprints.blank[first]])
    pairs = list(find_alike(fingerprints.hashes[rows], thumbnails[rows]))
    if sum(map(len, pairs)) >= MAX_PAIRS:
        return replace(fingerprints, skipped=TOO_MANY)
    return replace(fingerprints, alike=rows[np.concatenate(pairs)] if pairs else fingerprints.alike)


TOO_MANY = f"over {MAX_PAIRS:,} pairs of images look alike: too many to identify copies"


def too_small(fingerprints: Fingerprints) -> str:
    """Return why images cannot be compared by appearance, or ""."""
    smallest = int(min(fingerprints.widths.min(), fingerprints.heights.min()))
    return f"images of {smallest} px (under {MIN_SIDE}) are too small to identify copies" if smallest < MIN_SIDE else ""


def find_alike_across(
    one: OpenDataset, its: Fingerprints, other: OpenDataset, others: Fingerprints, progress: Progress | None = None
) -> tuple[Array, str]:
    """Return the pairs (M, 2) of a row of `one` and a row of `other` that look alike, or why they are not compared.

    Only images with similar hashes are decoded again. Images with equal pixels and blank ones are not compared.
    """
    none = np.zeros((0, 2), np.int64)
    if small := too_small(its) or too_small(others):
        return none, small
    blocks = list(near_across(its.hashes, others.hashes))
    pairs = np.concatenate(blocks) if blocks else none
    kept = ~its.blank[pairs[:, 0]] & ~others.blank[pairs[:, 1]]
    pairs = pairs[kept & (its.pixels[pairs[:, 0]] != others.pixels[pairs[:, 1]])]
    if len(pairs) >= MAX_PAIRS:
        return none, TOO_MANY
    rows = [np.unique(pairs[:, side], return_inverse=True) for side in (0, 1)]
    wanted = [(one, row) for row in rows[0][0]] + [(other, row) for row in rows[1][0]]
    thumbnails = read_thumbnails(wanted, progress)
    first, second = rows[0][1], len(rows[0][0]) + rows[1][1]
    return pairs[correlate(thumbnails, first, second) >= MIN_CORRELATION] if len(pairs) else pairs, ""


def near_across(one: Array, other: Array) -> Iterator[Array]:
    """Yield pairs (M, 2) of rows of two arrays of hashes within MAX_DISTANCE, up to about MAX_PAIRS."""
    count = 0
    for top in range(0, len(one), BLOCK):
        for left in range(0, len(other), BLOCK):
            distances = np.bitwise_count(one[top : top + BLOCK, None] ^ other[None, left : left + BLOCK])
            near = np.argwhere(distances <= MAX_DISTANCE)
            yield near + np.array([top, left])
            count += len(near)
            if count >= MAX_PAIRS:
                return


def read_thumbnails(wanted: Sequence[tuple[OpenDataset, int]], progress: Progress | None) -> Array:
    """Read thumbnails (N, HASH_SIDE**2) uint8 of images of several datasets, in threads."""
    from concurrent.futures import ThreadPoolExecutor

    def read(place: tuple[OpenDataset, int]) -> Array:
        source, row = place
        return fingerprint_image(source.samples.read(source.samples.table["image"].iloc[row])).thumbnail

    thumbnails = np.zeros((len(wanted), HASH_SIDE * HASH_SIDE), np.uint8)
    with ThreadPoolExecutor(num_cores()) as pool:
        for done, small in enumerate(pool.map(read, wanted), start=1):
            thumbnails[done - 1] = small
            if progress:
                progress(done, len(wanted))
    return thumbnails


def select_rows(fingerprints: Fingerprints, rows: Array) -> Fingerprints:
    """Select fingerprints by row, and renumber the pairs."""
    place = np.full(len(fingerprints.pixels), -1)
    place[rows] = np.arange(len(rows))
    alike = place[fingerprints.alike]
    chosen = {name: getattr(fingerprints, name)[rows] for name in PER_IMAGE}
    return replace(fingerprints, **chosen, alike=alike[(alike >= 0).all(axis=1)])


def find_alike(hashes: Array, thumbnails: Array) -> Iterator[Array]:
    """Yield pairs (M, 2) with similar hashes and correlated thumbnails, up to about MAX_PAIRS.

    Hashes alone give too many false pairs, and correlating all pairs takes too long: 200 million for 20,000 images.
    """
    count = 0
    for first, second in near_hashes(hashes):
        same = correlate(thumbnails, first, second) >= MIN_CORRELATION
        if same.any():
            yield np.stack([first[same], second[same]], axis=1)
            count += int(same.sum())
            if count >= MAX_PAIRS:
                return


def near_hashes(hashes: Array) -> Iterator[tuple[Array, Array]]:
    """Yield rows (first < second) of hashes within MAX_DISTANCE, block by block."""
    for top in range(0, len(hashes), BLOCK):
        for left in range(top, len(hashes), BLOCK):
            distances = np.bitwise_count(hashes[top : top + BLOCK, None] ^ hashes[None, left : left + BLOCK])
            first, second = np.nonzero(distances <= MAX_DISTANCE)
            first, second = first + top, second + left
            upper = first < second
            if upper.any():
                yield first[upper], second[upper]


def correlate(thumbnails: Array, first: Array, second: Array) -> Array:
    """Pearson correlation of the thumbnails in rows `first` with those in rows `second`."""
    left, first = np.unique(first, return_inverse=True)
    right, second = np.unique(second, return_inverse=True)
    a, b = unit(thumbnails[left]), unit(thumbnails[right])
    if len(first) * DENSE > len(left) * len(right):
        return np.asarray((a @ b.T)[first, second])
    parts = [slice(start, start + COMPARED_AT_ONCE) for start in range(0, len(first), COMPARED_AT_ONCE)]
    return np.concatenate([np.einsum("ij,ij->i", a[first[part]], b[second[part]]) for part in parts])


def unit(thumbnails: Array) -> Array:
    """Center each row and scale it to length 1, float32."""
    rows = thumbnails.astype(np.float32)
    rows -= rows.mean(axis=1, keepdims=True)
    rows /= np.maximum(np.sqrt(np.einsum("ij,ij->i", rows, rows)), 1e-6)[:, None]
    return rows

"""Fingerprint the images of a dataset once decoded, and find those that look alike or cannot be decoded.

A header says nothing of the pixels behind it: half a PNG has a whole header.
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

FINGERPRINTS_VERSION = 3  # raised when decoding changes, or what is kept of it
MIN_SIDE = 48  # below it, images of one kind look alike: at 28 px pHash alone makes 454 false pairs in 948,000
MAX_DISTANCE = 8  # of 64 bits that differ
MIN_CORRELATION = 0.98
HASH_SIDE = 64  # of the thumbnail
BLANK_RANGE = 2  # levels of 255: a thumbnail that varies less shows nothing
BLOCK = 2048  # rows compared with as many others at once: 32 MB
COMPARED_AT_ONCE = 4096  # pairs whose thumbnails are compared at once: 128 MB
DENSE = 40  # perf: where one pair in so many is a candidate, the product of all costs less than gathering those
MAX_PAIRS = 2_000_000


@dataclass(frozen=True, kw_only=True, eq=False)
class Fingerprints:
    """What every image is, in the dataset's order, and the pairs of images that look alike though they differ."""

    pixels: Array  # (N,) str: the digest of the decoded pixels; a gray image stored as colour is what it is in gray
    blank: Array  # (N,) bool: of one level, or nearly; it is nobody's copy
    widths: Array  # (N,) int64
    heights: Array  # (N,) int64
    bits: Array  # (N,) int64: 8 or 16
    channels: Array  # (N,) int64: 1 or 3, as read
    gray: Array  # (N,) bool: one channel, or three that are equal
    hashes: Array  # (N,) uint64: the pHash
    alike: Array  # (M, 2) int64: rows; of images with the same pixels the first stands for all
    skipped: str  # why images were not compared by what they look like, or ""


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageLook:
    """One image seen: its row of the arrays above, and what it is compared by."""

    pixels: str
    blank: bool
    widths: int
    heights: int
    bits: int
    channels: int
    gray: bool
    hashes: np.uint64
    thumbnail: Array  # (SIDE * SIDE,) uint8, stretched from its darkest to its brightest


PER_IMAGE = ("pixels", "blank", "widths", "heights", "bits", "channels", "gray", "hashes")


def take_fingerprints(source: OpenDataset, cache: Path, progress: Progress | None = None) -> Fingerprints:
    """Decode every image once, by threads, compare all with all, and remember what was found by the images' content.

    Raises DataError naming the first that cannot be decoded, and how many more there are; or that differs in depth; or
    that has colour where the card says gray.
    """
    content = hash_bytes(*source.digests.tolist(), json.dumps(dict(source.samples.reading)))
    path = cache / "fingerprints" / f"{content[:20]}-v{FINGERPRINTS_VERSION}.npz"
    found = load_fingerprints(path, len(source.digests))
    if found is None:
        found = compare_all(*look_at_all(source, progress))
        save_arrays(path, **{field.name: getattr(found, field.name) for field in fields(Fingerprints)})
    check_comparable(source, found)
    return found


def load_fingerprints(path: Path, num_images: int) -> Fingerprints | None:
    """What was found before; None where there is nothing, or nothing whole."""
    arrays = load_arrays(path)
    if arrays is None or set(arrays) != {field.name for field in fields(Fingerprints)}:
        return None
    found = Fingerprints(**{**arrays, "skipped": str(arrays["skipped"])})
    whole = all(arrays[name].shape == (num_images,) for name in PER_IMAGE) and found.alike.shape[1:] == (2,)
    return found if whole and not (found.alike.size and found.alike.max() >= num_images) else None


# --- one image -------------------------------------------------------------------------------------------------------
def look_at_all(source: OpenDataset, progress: Progress | None) -> tuple[Fingerprints, Array]:
    """What every image is, nothing compared yet, and their thumbnails (N, SIDE * SIDE) uint8."""
    from concurrent.futures import ThreadPoolExecutor

    images = list(source.samples.table["image"])
    thumbnails = np.zeros((len(images), HASH_SIDE * HASH_SIDE), np.uint8)
    facts: list[tuple[Any, ...]] = []
    faults = []

    def look(image: Any) -> ImageLook | DataError:
        try:
            return look_at(source.samples.read(image))
        except DataError as error:
            return error

    with ThreadPoolExecutor(num_cores()) as pool:
        for row, seen in enumerate(pool.map(look, images)):
            if isinstance(seen, DataError):
                faults.append(seen)
            else:
                facts.append(tuple(getattr(seen, name) for name in PER_IMAGE))
                thumbnails[row] = seen.thumbnail
            if progress:
                progress(row + 1, len(images))
    if faults:
        raise unreadable_image(faults)
    columns = dict(zip(PER_IMAGE, map(np.array, zip(*facts, strict=True)), strict=True))
    return Fingerprints(**columns, alike=np.zeros((0, 2), np.int64), skipped=""), thumbnails


def unreadable_image(faults: Sequence[DataError]) -> DataError:
    """The first fault, and how many more images have one."""
    first = faults[0]
    more = f" (and {len(faults) - 1} more images cannot be read)" if len(faults) > 1 else ""
    return DataError(first.message + more, fix=first.fix, code=first.code)


def check_comparable(source: OpenDataset, found: Fingerprints) -> None:
    """What decoding to one array would refuse: two depths in one set, colour in a gray one."""
    other = np.flatnonzero(found.bits != found.bits[0])
    if len(other):
        raise mixed_depth(source, int(other[0]), f"uint{found.bits[other[0]]}", f"uint{found.bits[0]}")
    coloured = np.flatnonzero(~found.gray)
    if source.spec.channels == 1 and len(coloured):
        raise wrong_channels(source, int(coloured[0]), int(found.channels[coloured[0]]))


def look_at(pixels: Array) -> ImageLook:
    """All that is kept of an image, as `Samples.read` gives it."""
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
    return ImageLook(
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
    """The whole image in gray, SIDE x SIDE, float64; its shape is not kept."""
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
    """The 64-bit pHash: of the cosine transform of 32 x 32 the lowest 8 x 8 terms, each above their median or not."""
    from scipy.fft import dctn

    small = levels.reshape(32, HASH_SIDE // 32, 32, HASH_SIDE // 32).mean(axis=(1, 3))
    low = dctn(small)[:8, :8]
    return np.uint64(int.from_bytes(np.packbits(low > np.median(low)).tobytes()))


# --- all with all ----------------------------------------------------------------------------------------------------
def compare_all(found: Fingerprints, thumbnails: Array) -> Fingerprints:
    """Add the pairs that look alike. Images of the same pixels and blank ones are not compared."""
    if small := too_small(found):
        return replace(found, skipped=small)
    _, first = np.unique(found.pixels, return_index=True)
    rows = np.sort(first[~found.blank[first]])
    pairs = list(find_alike(found.hashes[rows], thumbnails[rows]))
    if sum(map(len, pairs)) >= MAX_PAIRS:
        return replace(found, skipped=TOO_MANY)
    return replace(found, alike=rows[np.concatenate(pairs)] if pairs else found.alike)


TOO_MANY = f"over {MAX_PAIRS:,} pairs of images look alike: too many to tell a copy"


def too_small(found: Fingerprints) -> str:
    """Why images cannot be compared by what they look like, or ""."""
    smallest = int(min(found.widths.min(), found.heights.min()))
    return f"images of {smallest} px, under {MIN_SIDE}, are too small to tell a copy" if smallest < MIN_SIDE else ""


def find_alike_across(
    one: OpenDataset, its: Fingerprints, other: OpenDataset, others: Fingerprints, progress: Progress | None = None
) -> tuple[Array, str]:
    """The pairs (M, 2) of a row of `one` and a row of `other` that look alike, or why that cannot be told.

    Only images whose hashes are near are decoded again. Images of the same pixels and blank ones are not compared.
    """
    none = np.zeros((0, 2), np.int64)
    if small := too_small(its) or too_small(others):
        return none, small
    found = list(near_across(its.hashes, others.hashes))
    pairs = np.concatenate(found) if found else none
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
    """Pairs (M, 2) of rows of two sets of hashes within MAX_DISTANCE, up to MAX_PAIRS and a block more."""
    count = 0
    for top in range(0, len(one), BLOCK):
        for left in range(0, len(other), BLOCK):
            distances = np.bitwise_count(one[top : top + BLOCK, None] ^ other[None, left : left + BLOCK])
            found = np.argwhere(distances <= MAX_DISTANCE)
            yield found + np.array([top, left])
            count += len(found)
            if count >= MAX_PAIRS:
                return


def read_thumbnails(wanted: Sequence[tuple[OpenDataset, int]], progress: Progress | None) -> Array:
    """The thumbnails (N, SIDE * SIDE) uint8 of some images of some sets, decoded by threads."""
    from concurrent.futures import ThreadPoolExecutor

    def read(place: tuple[OpenDataset, int]) -> Array:
        source, row = place
        return look_at(source.samples.read(source.samples.table["image"].iloc[row])).thumbnail

    thumbnails = np.zeros((len(wanted), HASH_SIDE * HASH_SIDE), np.uint8)
    with ThreadPoolExecutor(num_cores()) as pool:
        for done, seen in enumerate(pool.map(read, wanted), start=1):
            thumbnails[done - 1] = seen
            if progress:
                progress(done, len(wanted))
    return thumbnails


def select_rows(found: Fingerprints, rows: Array) -> Fingerprints:
    """The fingerprints of some rows, numbered anew."""
    place = np.full(len(found.pixels), -1)
    place[rows] = np.arange(len(rows))
    alike = place[found.alike]
    chosen = {name: getattr(found, name)[rows] for name in PER_IMAGE}
    return replace(found, **chosen, alike=alike[(alike >= 0).all(axis=1)])


def find_alike(hashes: Array, thumbnails: Array) -> Iterator[Array]:
    """The pairs (M, 2), each once, whose hashes differ in few bits and whose thumbnails correlate; up to MAX_PAIRS.

    The hash alone is wrong too often, and the correlation of all pairs takes too long: 20,000 images make 200 million.
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
    """Rows (first < second) of hashes within MAX_DISTANCE, a block against a block at a time."""
    for top in range(0, len(hashes), BLOCK):
        for left in range(top, len(hashes), BLOCK):
            distances = np.bitwise_count(hashes[top : top + BLOCK, None] ^ hashes[None, left : left + BLOCK])
            first, second = np.nonzero(distances <= MAX_DISTANCE)
            first, second = first + top, second + left
            upper = first < second
            if upper.any():
                yield first[upper], second[upper]


def correlate(thumbnails: Array, first: Array, second: Array) -> Array:
    """Pearson's correlation of the thumbnails in rows `first` with those in rows `second`."""
    left, first = np.unique(first, return_inverse=True)
    right, second = np.unique(second, return_inverse=True)
    a, b = unit(thumbnails[left]), unit(thumbnails[right])
    if len(first) * DENSE > len(left) * len(right):
        return np.asarray((a @ b.T)[first, second])
    parts = [slice(start, start + COMPARED_AT_ONCE) for start in range(0, len(first), COMPARED_AT_ONCE)]
    return np.concatenate([np.einsum("ij,ij->i", a[first[part]], b[second[part]]) for part in parts])


def unit(thumbnails: Array) -> Array:
    """Each row centred and scaled to length 1, float32."""
    rows = thumbnails.astype(np.float32)
    rows -= rows.mean(axis=1, keepdims=True)
    rows /= np.maximum(np.sqrt(np.einsum("ij,ij->i", rows, rows)), 1e-6)[:, None]
    return rows

"""The masks of a dataset: label maps (H, W) or (A, B, C) of uint8, where 0 is background and k + 1 is label k."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from zoo.arrays import Array
from zoo.errors import DataError, dataset_subject
from zoo.sources.mask_targets import MaskReader
from zoo.specs.dataset import DatasetSpec, Samples
from zoo.system.files import hash_bytes
from zoo.system.memo import FileMemo, file_stamp
from zoo.system.progress import Progress

MAX_SIDE = 100_000  # pixels of a mask
MAX_LABEL_MAP_BYTES = 1 << 30  # unpacked
COMPRESSION = 6  # of zlib
MASK_VERSION = 1  # of the facts about masks; raise it when reading changes


@dataclass(frozen=True, eq=False)
class LabelMaps:
    """N label maps of any sizes, each compressed."""

    streams: Array  # uint8: the zlib streams one after the other
    ends: Array  # int64 (N,): where each stream ends
    shapes: Array  # int64 (N, 2): height and width; (N, 3) of volumes

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, row: int) -> Array:
        """The label map of a row: uint8 (H, W) or (A, B, C)."""
        start, shape = int(self.ends[row - 1]) if row else 0, self.shapes[row]
        # A file may come from a stranger: a short stream can expand to more than the memory.
        data = zlib.decompressobj().decompress(self.streams[start : int(self.ends[row])].tobytes(), int(shape.prod()))
        return np.frombuffer(data, np.uint8).reshape(shape)

    def find_fault(self, num_maps: int) -> str:
        """The fault in arrays read from a file, or ""."""
        kinds = {"streams": (np.uint8, 1), "ends": (np.int64, 1), "shapes": (np.int64, 2)}
        for name, (dtype, axes) in kinds.items():
            array = getattr(self, name)
            if array.dtype != dtype or array.ndim != axes:
                return f"{name} of masks are {array.dtype} {array.shape}"
        if len(self.ends) != num_maps or self.shapes.shape not in ((num_maps, 2), (num_maps, 3)):
            return f"{len(self.ends)} masks of {len(self.shapes)} shapes for {num_maps} images"
        if (np.diff(self.ends, prepend=0) < 0).any() or (num_maps and self.ends[-1] != len(self.streams)):
            return "masks end outside their stream"
        sizes_fit = ((self.shapes >= 1) & (self.shapes <= MAX_SIDE)).all()
        if not sizes_fit or (self.shapes.astype(float).prod(axis=1) > MAX_LABEL_MAP_BYTES).any():
            return "masks have impossible sizes"
        return ""

    def take(self, rows: Array) -> LabelMaps:
        """Select maps by a mask or by their indices."""
        chosen = np.arange(len(self))[rows]
        starts = np.concatenate([[0], self.ends[:-1]])
        parts = [self.streams[starts[row] : self.ends[row]] for row in chosen]
        return join_streams(parts, self.shapes[chosen])


def pack_map(label_map: Array) -> LabelMaps:
    """Compress one label map of uint8."""
    stream = np.frombuffer(zlib.compress(label_map.tobytes(), COMPRESSION), np.uint8)
    return join_streams([stream], np.array([label_map.shape], np.int64))


def join_maps(packed: Sequence[LabelMaps]) -> LabelMaps:
    """Join label maps that were packed one by one."""
    shapes = np.concatenate([each.shapes for each in packed]) if packed else np.empty((0, 2), np.int64)
    return join_streams([each.streams for each in packed], shapes)


def join_streams(parts: Sequence[Array], shapes: Array) -> LabelMaps:
    ends = np.cumsum([len(part) for part in parts], dtype=np.int64)
    return LabelMaps(np.concatenate([np.empty(0, np.uint8), *parts]), ends, shapes)


def hash_maps(maps: LabelMaps) -> str:
    """Hash label maps, whatever their order."""
    return hash_masks(maps[row] for row in range(len(maps)))


def hash_masks(masks: Iterable[Array]) -> str:
    """Hash masks as `hash_maps` does, one at a time."""
    return hash_bytes(*sorted(map(hash_mask, masks)))


def save_maps(path: Path, maps: LabelMaps) -> None:
    with open(path, "wb") as stream:
        np.savez(stream, streams=maps.streams, ends=maps.ends, shapes=maps.shapes)


def load_maps(path: Path) -> LabelMaps:
    with np.load(path, allow_pickle=False) as arrays:
        return LabelMaps(arrays["streams"], arrays["ends"], arrays["shapes"])


class MaskFacts(NamedTuple):
    """What is known of the masks of a dataset before they are decoded."""

    sizes: Array  # float64 (N, L): the pixels of each label
    digests: list[str]  # the hash of each mask
    longest_side: int


def measure_masks(spec: DatasetSpec, samples: Samples, cache: Path, progress: Progress | None = None) -> MaskFacts:
    """Read every mask once; the facts about masks in files are stored until a file changes."""
    images, num_labels = samples.table["image"].tolist(), len(spec.labels)
    if not images:
        return MaskFacts(np.empty((0, num_labels)), [], 0)  # refused with the other facts

    def measure(image: object) -> list[Any]:
        mask = read_mask(spec, samples, image)
        sizes = np.bincount(mask.ravel(), minlength=num_labels + 1)[1:]
        return [sizes.tolist(), hash_mask(mask), max(mask.shape)]

    facts = []
    with closing(remember_masks(samples.masks, num_labels, cache)) as memo:
        for row, image in enumerate(images):
            facts.append(memo.find(image, measure))
            if progress:
                progress(row + 1, len(images))
    sizes, digests, sides = zip(*facts, strict=True)
    return MaskFacts(np.array(sizes, np.float64).reshape(len(images), num_labels), list(digests), max(sides))


class MaskMemo:
    """Facts about masks by image, stored if they are read from files until one of the files changes."""

    def __init__(self, reader: MaskReader | None, memo: FileMemo | None) -> None:
        self.reader, self.memo = reader, memo

    def find(self, image: Any, measure: Callable[[Any], list[Any]]) -> list[Any]:
        if self.reader is None or self.memo is None:
            return measure(image)
        first, *others = self.reader.paths(image)
        stamps = [[str(path), *file_stamp(path)] for path in others]
        stored = self.memo.recall(first)
        if stored and stored[0] == stamps:
            return list(stored[1])
        facts = measure(image)
        self.memo.remember(first, [stamps, facts])
        return facts

    def close(self) -> None:
        if self.memo is not None:
            self.memo.close()


def remember_masks(masks: object, num_labels: int, cache: Path) -> MaskMemo:
    if not isinstance(masks, MaskReader):
        return MaskMemo(None, None)
    return MaskMemo(masks, FileMemo(cache, what=f"mask:{MASK_VERSION}:{num_labels}:{masks.identity}"))


def hash_mask(mask: Array) -> str:
    return hash_bytes(str(mask.shape), mask.tobytes())


def read_mask(spec: DatasetSpec, samples: Samples, image: object) -> Array:
    """Read one mask; raise DataError if it is not a label map of the dataset's labels."""
    assert samples.masks is not None
    mask = samples.masks(image)
    if not isinstance(mask, np.ndarray) or mask.dtype != np.uint8 or mask.ndim != spec.dims or not mask.size:
        found = f"{mask.dtype} of shape {mask.shape}" if isinstance(mask, np.ndarray) else type(mask).__name__
        expected = "uint8 (H, W)" if spec.dims == 2 else "uint8 along three axes"
        raise wrong_mask(spec, samples, image, f"is {found}, expected {expected}", "convert it to a label map")
    highest = int(mask.max())
    if highest > len(spec.labels):
        problem = f"has the value {highest}, but there are {len(spec.labels)} labels"
        raise wrong_mask(spec, samples, image, problem, "correct the mask, or list every label in `labels`")
    return mask


def check_grid(spec: DatasetSpec, samples: Samples, image: object, mask: Array, pixels: Array) -> None:
    """Refuse a mask whose grid is not that of its image."""
    if mask.shape != pixels.shape[: mask.ndim]:
        problem = f"has {describe_grid(mask.shape)}, but its image has {describe_grid(pixels.shape[: mask.ndim])}"
        raise wrong_mask(spec, samples, image, problem, "give the mask that was drawn on this image")


def describe_grid(shape: tuple[int, ...]) -> str:
    return f"{shape[1]} x {shape[0]} pixels" if len(shape) == 2 else f"{' x '.join(map(str, shape))} voxels"


def wrong_mask(spec: DatasetSpec, samples: Samples, image: object, problem: str, fix: str) -> DataError:
    sample_id = samples.table["sample_id"][samples.table["image"] == image].iloc[0]
    return DataError(f"the mask of {sample_id} {problem}", subject=dataset_subject(spec.name), fix=fix, code="mask")

"""The masks of a dataset: label maps (H, W) or (A, B, C) of uint8, where 0 is background and k + 1 is label k."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from zoo.arrays import Array
from zoo.errors import DataError, dataset_subject
from zoo.specs.dataset import DatasetSpec, Samples
from zoo.system.files import hash_bytes
from zoo.system.progress import Progress

MAX_SIDE = 100_000  # pixels of a mask
MAX_LABEL_MAP_BYTES = 1 << 30  # unpacked
COMPRESSION = 6  # of zlib


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


def pack_maps(maps: Iterable[Array]) -> LabelMaps:
    """Compress label maps of uint8."""
    return join_maps([pack_map(each) for each in maps])


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


def save_maps(path: Path, maps: LabelMaps) -> None:
    with open(path, "wb") as stream:
        np.savez(stream, streams=maps.streams, ends=maps.ends, shapes=maps.shapes)


def load_maps(path: Path) -> LabelMaps:
    with np.load(path, allow_pickle=False) as arrays:
        return LabelMaps(arrays["streams"], arrays["ends"], arrays["shapes"])


def measure_masks(spec: DatasetSpec, samples: Samples, progress: Progress | None = None) -> tuple[Array, list[str]]:
    """Read every mask once: the pixels of each label, float64 (N, L), and the hash of each mask."""
    images, num_labels = samples.table["image"].tolist(), len(spec.labels)
    sizes, digests = np.zeros((len(images), num_labels)), []
    for row, image in enumerate(images):
        mask = read_mask(spec, samples, image)
        sizes[row] = np.bincount(mask.ravel(), minlength=num_labels + 1)[1:]
        digests.append(hash_mask(mask))
        if progress:
            progress(row + 1, len(images))
    return sizes, digests


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

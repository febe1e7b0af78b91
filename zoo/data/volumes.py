"""Decode a dataset's volumes once: resampled and standardized, one after the other in one file, with their masks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from zoo.arrays import Array
from zoo.data.decoded import LABEL_MAPS_FILE, fill_cache, reading_cache
from zoo.data.masks import LabelMaps, check_grid, join_maps, load_maps, pack_map, read_mask, save_maps
from zoo.data.opening import OpenDataset
from zoo.errors import DataError
from zoo.images.placement import Spacing
from zoo.system.devices import open_device
from zoo.system.machine import num_cores
from zoo.system.progress import Progress

if TYPE_CHECKING:
    from torch import Tensor

VOXELS_FILE, GRIDS_FILE, RESAMPLED_MASKS_FILE = "voxels.bin", "grids.npz", "masks.bin"
VOLUMES_VERSION = 1  # of the cache; raise it when decoding changes a voxel, or a file is added
MAX_MARKED = 1000  # voxels of each label of a volume whose positions are kept
MAX_COMMON_SIDE = 96  # voxels of the grid on which the masks of all volumes are compared
WINDOW_PERCENTILES = (0.5, 99.5)  # of the labeled voxels of train, as in nnU-Net (Isensee et al. 2021)


class VolumeReading(NamedTuple):
    """How the runs on a fold read its volumes: the longest side of a patch, and the values that become 0 and 1.

    Values beyond the window are clipped. Without a window each volume keeps its own standardized values.
    """

    patch: int
    window: tuple[float, float] | None


# --- the cache -------------------------------------------------------------------------------------------------------
def cache_volumes(source: OpenDataset, spacing: float | None, cache: Path, progress: Progress | None = None) -> Path:
    """Decode every volume once to the same spacing, and return the file of voxels: see `DecodedVolumes`.

    `spacing` is in mm along every axis; None is the median of the dataset's along each. Volumes of unknown spacing are
    not resampled.
    """
    name = "median" if spacing is None else f"{spacing:g}mm"
    folder = cache / "volumes" / f"{source.content_hash[:20]}-{name}-v{VOLUMES_VERSION}"
    required = {VOXELS_FILE, GRIDS_FILE, RESAMPLED_MASKS_FILE, LABEL_MAPS_FILE}

    def fill(temporary: Path) -> dict[str, Any]:
        target = find_target_spacing(source, spacing)
        decode_volumes(source, target, temporary, progress)
        return {"dataset": source.spec.name, "content_hash": source.content_hash, "spacing": target}

    fill_cache(folder, cache, required, fill)
    return folder / VOXELS_FILE


def find_target_spacing(source: OpenDataset, requested: float | None) -> tuple[float, ...] | None:
    """The spacing that all volumes are resampled to; None if that of a volume is unknown."""
    spacings = [spacing_of(source, image) for image in source.samples.table["image"]]
    known = [each for each in spacings if each is not None]
    if len(known) < len(spacings):
        return None
    return (requested,) * 3 if requested else tuple(np.median(known, axis=0).tolist())


def spacing_of(source: OpenDataset, image: object) -> Spacing | None:
    return source.samples.spacing(image) if source.samples.spacing else None


@dataclass(frozen=True, eq=False)
class DecodedVolume:
    """One volume on the common spacing, and its grid."""

    voxels: Array  # float16 (A, B, C', channels): standardized
    mask: Array  # uint8 (A, B, C')
    label_map: LabelMaps  # of the native grid
    mean: Array  # (channels,) of the values
    std: Array  # (channels,)
    spacing: Spacing | None
    marked: list[Array]  # of each label: int64 (K, 3), some of its voxels


def decode_volumes(
    source: OpenDataset, target: tuple[float, ...] | None, folder: Path, progress: Progress | None
) -> None:
    """Write the files of the cache. Volumes are appended, so that only those in work are in memory."""
    from concurrent.futures import ThreadPoolExecutor

    rows = range(len(source.sample_ids))
    volumes: list[dict[str, Any]] = []
    with (
        open(folder / VOXELS_FILE, "wb") as voxels,
        open(folder / RESAMPLED_MASKS_FILE, "wb") as masks,
        ThreadPoolExecutor(num_cores()) as pool,
    ):
        for row, volume in enumerate(pool.map(lambda row: decode_volume(source, row, target), rows)):
            if volumes and len(volume.mean) != volumes[0]["channels"]:
                raise DataError(
                    f"{source.sample_ids[row]} has {len(volume.mean)} channels, {source.sample_ids[0]} has "
                    f"{volumes[0]['channels']}",
                    fix="give all volumes the same channels",
                    code="channels",
                )
            voxels.write(volume.voxels.tobytes())
            masks.write(volume.mask.tobytes())
            volumes.append(
                {
                    "channels": len(volume.mean),
                    "shape": volume.mask.shape,
                    "mean": volume.mean,
                    "std": volume.std,
                    "spacing": volume.spacing or (np.nan,) * 3,
                    "marked": volume.marked,
                    "label_map": volume.label_map,
                }
            )
            if progress:
                progress(row + 1, len(rows))
    save_maps(folder / LABEL_MAPS_FILE, join_maps([each["label_map"] for each in volumes]))
    marked = [places for each in volumes for places in each["marked"]]
    counts = np.array([len(places) for places in marked]).reshape(len(volumes), -1)
    columns = {name: np.array([each[name] for each in volumes]) for name in ("shape", "mean", "std", "spacing")}
    with open(folder / GRIDS_FILE, "wb") as stream:
        columns |= {"places": np.concatenate(marked), "counts": counts, "target": np.array(target or (np.nan,) * 3)}
        np.savez(stream, allow_pickle=False, **columns)


def decode_volume(source: OpenDataset, row: int, target: tuple[float, ...] | None) -> DecodedVolume:
    image = source.samples.table["image"].iloc[row]
    values = read_volume(source, row, image)
    mask = read_mask(source.spec, source.samples, image)
    check_grid(source.spec, source.samples, image, mask, values)
    own = spacing_of(source, image)
    shape = resampled_shape(mask.shape, own, target)
    channels = values.reshape(*mask.shape, -1).astype(np.float32)
    mean, std = channels.mean(axis=(0, 1, 2), dtype=np.float64), channels.std(axis=(0, 1, 2), dtype=np.float64)
    std[std == 0] = 1.0
    standardized = ((channels - mean) / std).astype(np.float32)
    placed = mask[np.ix_(*(nearest_places(old, new) for old, new in zip(mask.shape, shape, strict=True)))]
    return DecodedVolume(
        voxels=resample_volume(standardized, shape).astype(np.float16),
        mask=np.ascontiguousarray(placed),
        label_map=pack_map(np.ascontiguousarray(mask)),
        mean=mean,
        std=std,
        spacing=own,
        marked=[mark_label(placed, label) for label in range(1, len(source.spec.labels) + 1)],
    )


def read_volume(source: OpenDataset, row: int, image: object) -> Array:
    """Read a whole volume; raise DataError for anything but finite numbers along three axes, and channels."""
    assert source.samples.volumes is not None
    values = source.samples.volumes(image)
    if not isinstance(values, np.ndarray) or values.ndim not in (3, 4) or values.dtype.kind not in "uif":
        found = f"{values.dtype} of shape {values.shape}" if isinstance(values, np.ndarray) else type(values).__name__
        problem = f"is {found}, expected numbers along three axes"
    elif not np.isfinite(values).all():
        problem = "has NaN or infinite values"
    else:
        return values
    raise DataError(f"{source.sample_ids[row]} {problem}", fix="correct it, or leave it out", code="image")


def resampled_shape(shape: Sequence[int], own: Spacing | None, target: Spacing | None) -> tuple[int, ...]:
    """The shape of a volume on the target spacing; its own where a spacing is unknown."""
    if own is None or target is None:
        return tuple(shape)
    return tuple(max(1, round(n * old / new)) for n, old, new in zip(shape, own, target, strict=True))


def resample_volume(channels: Array, shape: tuple[int, ...]) -> Array:
    """Resample a volume (A, B, C', channels), trilinear."""
    import torch
    from torch.nn.functional import interpolate

    if channels.shape[:3] == shape:
        return channels
    moved = torch.from_numpy(channels).movedim(-1, 0)[None]
    resampled: Array = interpolate(moved, shape, mode="trilinear", align_corners=False)[0].movedim(0, -1).numpy()
    return resampled


def nearest_places(old: int, new: int) -> Array:
    """The index along an axis of `old` voxels that is at the center of each of `new` voxels."""
    return np.minimum(((np.arange(new) + 0.5) * (old / new)).astype(np.int64), old - 1)


def mark_label(mask: Array, label: int) -> Array:
    """Positions of at most MAX_MARKED voxels of a label, evenly spread: int64 (K, 3)."""
    places = np.flatnonzero(mask == label)
    places = places[:: max(1, math.ceil(len(places) / MAX_MARKED))]
    return np.stack(np.unravel_index(places, mask.shape), axis=1)


# --- the decoded volumes ---------------------------------------------------------------------------------------------
@dataclass(frozen=True, eq=False)
class DecodedVolumes:
    """The volumes of the cache, one after the other in a file: those of row n begin at `starts[n]`."""

    path: Path  # of the voxels

    @cached_property
    def columns(self) -> dict[str, Array]:
        """`shape` (N, 3), `mean` and `std` (N, channels), `spacing` (N, 3) of the native grid.

        Voxels of each label: `counts` (N, L) of each volume, whose positions are `places` (K, 3). `target` (3,) is the
        spacing of all, NaN if they were not resampled.
        """
        with reading_cache(), np.load(self.path.with_name(GRIDS_FILE), allow_pickle=False) as stored:
            return dict(stored)

    @property
    def shapes(self) -> Array:
        return self.columns["shape"]

    @cached_property
    def starts(self) -> Array:
        """Where each volume begins in the file of masks, in voxels (N,)."""
        sizes = self.shapes.prod(axis=1)
        starts: Array = np.cumsum(sizes) - sizes
        return starts

    @property
    def channels(self) -> int:
        return int(self.columns["mean"].shape[1])

    @property
    def voxels(self) -> Array:
        """float16 (K, channels)."""
        with reading_cache():
            return np.memmap(self.path, np.float16, mode="c").reshape(-1, self.channels)

    @property
    def flat_masks(self) -> Array:
        with reading_cache():
            return np.memmap(self.path.with_name(RESAMPLED_MASKS_FILE), np.uint8, mode="c")

    def mask(self, row: int) -> Array:
        """The mask of a volume on the common spacing."""
        shape, start = self.shapes[row], int(self.starts[row])
        return self.flat_masks[start : start + int(shape.prod())].reshape(shape)

    @property
    def spacing(self) -> Spacing | None:
        """mm per voxel after resampling; None if the spacing of a volume is unknown."""
        target = self.columns["target"]
        return None if np.isnan(target).any() else tuple(target.tolist())

    @cached_property
    def spacings(self) -> list[Spacing | None]:
        """mm per voxel of the native grids."""
        return [None if np.isnan(each).any() else tuple(each.tolist()) for each in self.columns["spacing"]]

    @cached_property
    def label_maps(self) -> LabelMaps:
        """The masks on their native grids."""
        with reading_cache():
            return load_maps(self.path.with_name(LABEL_MAPS_FILE))

    def common_masks(self, rows: Array) -> Array:
        """The masks of some rows on one grid, of the median shape: uint8 (n, A, B, C)."""
        grid = [min(int(side), MAX_COMMON_SIDE) for side in np.median(self.shapes, axis=0)]
        placed = np.empty((len(rows), *grid), np.uint8)
        for number, row in enumerate(rows):
            mask = self.mask(row)
            placed[number] = mask[
                np.ix_(*(nearest_places(old, new) for old, new in zip(mask.shape, grid, strict=True)))
            ]
        return placed

    def patch_shape(self, longest: int, multiple: int) -> tuple[int, ...]:
        """The shape of a patch: the median volume, rounded up to a multiple, but at most `longest` along an axis."""
        return tuple(min(longest, multiple * math.ceil(side / multiple)) for side in np.median(self.shapes, axis=0))

    def measure_window(self, train: Array) -> tuple[float, float]:
        """The percentiles of the labeled voxels of train, in the values of the files. `train` is bool (N,)."""
        counts = self.columns["counts"].sum(axis=1)
        owners = np.repeat(np.arange(len(counts)), counts)
        chosen = train[owners]
        owners, places, voxels = owners[chosen], self.columns["places"][chosen], self.voxels
        shapes = self.shapes[owners]
        flat = (places[:, 0] * shapes[:, 1] + places[:, 1]) * shapes[:, 2] + places[:, 2]
        values = voxels[self.starts[owners] + flat, 0].astype(np.float64)
        values = values * self.columns["std"][owners, 0] + self.columns["mean"][owners, 0]
        low, high = np.percentile(values, WINDOW_PERCENTILES)
        return float(low), float(max(high, low + 1))


# --- on a device -----------------------------------------------------------------------------------------------------
@dataclass(frozen=True, kw_only=True, eq=False)
class VolumePixels:
    """Decoded volumes as one flat tensor, on the device if they fit, from which patches are cut."""

    voxels: Tensor  # float16 (K, channels): the volumes one after the other
    masks: Tensor  # uint8 (K,)
    starts: Tensor  # int64 (N,): where each volume begins
    shapes: Tensor  # int64 (N, 3)
    gains: Tensor  # float32 (N, channels): a network's input is gain * voxel + offset
    offsets: Tensor
    clipped: bool  # to -2..2, which are the ends of the window
    patch: tuple[int, ...]
    whole: bool  # predict whole volumes, however large
    multiple: int  # of the sides that the network accepts
    spacing: Spacing | None  # of all volumes; None: they were not resampled
    device: str

    @property
    def kind(self) -> str:
        """The kind of the device that holds the volumes."""
        return str(self.voxels.device.type)

    @property
    def image_size(self) -> int:
        return max(self.patch)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The shape of a network's input for one patch."""
        return (self.gains.shape[1], *self.patch)

    def normalize(self, voxels: Tensor, rows: Tensor) -> Tensor:
        """Convert voxels (B, channels, ...) of some rows to a network's input, float32."""
        form = (*self.gains[rows].shape, 1, 1, 1)
        values = voxels.float() * self.gains[rows].reshape(form) + self.offsets[rows].reshape(form)
        return values.clamp(-2, 2) if self.clipped else values

    def stored(self, row: int) -> Tensor:
        """The voxels of a volume (A, B, C', channels), where they are stored."""
        shape, start = self.shapes[row].tolist(), int(self.starts[row])
        return self.voxels[start : start + math.prod(shape)].reshape(*shape, -1)

    def to_input(self, part: Tensor, row: int) -> Tensor:
        """A part of `stored` as a network's input, float32 (1, channels, ...) on the device."""
        import torch

        voxels = part.to(self.device).movedim(-1, 0)[None]
        return self.normalize(voxels, torch.tensor([row], device=self.gains.device)).contiguous()

    def describe(self) -> dict[str, Any]:
        """Facts about the input, for the record of a run."""
        return {"patch": list(self.patch), "spacing": self.spacing and list(self.spacing), "clipped": self.clipped}


def open_volumes(
    volumes: DecodedVolumes, reading: VolumeReading, device: str, *, multiple: int, whole: bool
) -> VolumePixels:
    """Map the cache; on a GPU, keep it in GPU memory if it takes less than half of what is free."""
    import torch

    voxels, masks = torch.from_numpy(volumes.voxels), torch.from_numpy(volumes.flat_masks)
    if open_device(device).holds(volumes.voxels.nbytes + volumes.flat_masks.nbytes):
        voxels, masks = voxels.to(device), masks.to(device)
    mean, std = volumes.columns["mean"], volumes.columns["std"]
    gains, offsets = np.ones_like(mean), np.zeros_like(mean)
    if reading.window:
        low, high = reading.window
        gains, offsets = 4 * std / (high - low), 4 * (mean - low) / (high - low) - 2
    home = voxels.device
    return VolumePixels(
        voxels=voxels,
        masks=masks,
        starts=torch.from_numpy(volumes.starts).to(home),
        shapes=torch.from_numpy(volumes.shapes).to(home),
        gains=torch.from_numpy(gains).float().to(device),
        offsets=torch.from_numpy(offsets).float().to(device),
        clipped=reading.window is not None,
        patch=volumes.patch_shape(reading.patch, multiple),
        whole=whole,
        multiple=multiple,
        spacing=volumes.spacing,
        device=device,
    )

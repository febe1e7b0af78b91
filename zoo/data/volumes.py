"""Decode a dataset's volumes once: resampled and standardized, one after the other in one file, with their masks."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
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
    from concurrent.futures import Executor, Future

    from torch import Tensor

VOXELS_FILE, GRIDS_FILE, RESAMPLED_MASKS_FILE = "voxels.bin", "grids.npz", "masks.bin"
VOLUMES_VERSION = 2  # of the cache; raise it when decoding changes a voxel, or a file is added
SLAB_PLANES = 32  # of a volume that are standardized at once; a NIfTI stores neighbors along the first axis together
MAX_MARKED = 1000  # voxels of each label of a volume whose positions are kept
MAX_RESAMPLED_VOXELS = 1 << 30  # of a resampled volume, 2 GB: a CT of the whole body has 400 million
MAX_FLOAT32 = float(np.finfo(np.float32).max)
MAX_COMMON_SIDE = 96  # voxels of the grid on which the masks of all volumes are compared
WINDOW_PERCENTILES = (0.5, 99.5)  # of the labeled voxels of train, as in nnU-Net (Isensee et al. 2021)


class VolumeReading(NamedTuple):
    """How the runs on a fold read its volumes: the longest side of a patch, and the values that become -2 and 2.

    Values beyond the window are clipped. Without a window each volume keeps its own standardized values.
    """

    patch: int
    window: tuple[float, float] | None


class Sides(NamedTuple):
    """The sides of volumes that a network accepts: multiples of a number, from the shortest on."""

    multiple: int
    shortest: int

    def fit(self, side: float) -> int:
        """The shortest side that holds `side` voxels."""
        return self.multiple * math.ceil(max(side, self.shortest) / self.multiple)


# --- the cache -------------------------------------------------------------------------------------------------------
def cache_volumes(
    source: OpenDataset, spacing: float | Spacing | None, cache: Path, progress: Progress | None = None
) -> Path:
    """Decode every volume once to the same spacing, and return the file of voxels: see `DecodedVolumes`.

    `spacing` is in mm along every axis, or along each; () if volumes are not resampled; None is the median of the
    dataset's along each, with which volumes of unknown spacing are not resampled.
    """
    name = name_spacing(spacing)
    folder = cache / "volumes" / f"{source.content_hash[:20]}-{name}-v{VOLUMES_VERSION}"
    required = {VOXELS_FILE, GRIDS_FILE, RESAMPLED_MASKS_FILE, LABEL_MAPS_FILE}

    def fill(temporary: Path) -> dict[str, Any]:
        target = find_target_spacing(source, spacing)
        decode_volumes(source, target, temporary, progress)
        return {"dataset": source.spec.name, "content_hash": source.content_hash, "spacing": target}

    fill_cache(folder, cache, required, fill)
    return folder / VOXELS_FILE


def name_spacing(spacing: float | Spacing | None) -> str:
    """The spacing in the name of a folder."""
    if spacing is None:
        return "median"
    if not isinstance(spacing, tuple):
        return f"{spacing:g}mm"
    return f"{'x'.join(f'{step:.9g}' for step in spacing)}mm" if spacing else "stored"


def find_target_spacing(source: OpenDataset, requested: float | Spacing | None) -> Spacing | None:
    """The spacing that all volumes are resampled to; None if they are not, or if that of a volume is unknown.

    Raises DataError for a volume of unknown spacing if the spacing of each axis is requested.
    """
    spacings = [spacing_of(source, image) for image in source.samples.table["image"]]
    known = [each for each in spacings if each is not None]
    if isinstance(requested, tuple) and requested and len(known) < len(spacings):
        raise DataError(
            f"{source.sample_ids[spacings.index(None)]}: the size of its voxels is unknown, but that of the training "
            "volumes is known",
            fix="give NIfTI files whose headers have the size of their voxels",
            code="geometry",
        )
    if requested == () or len(known) < len(spacings):
        return None
    if isinstance(requested, tuple):
        return requested
    return (requested,) * 3 if requested else tuple(np.median(known, axis=0).tolist())


def spacing_of(source: OpenDataset, image: object) -> Spacing | None:
    return source.samples.spacing(image) if source.samples.spacing else None


@dataclass(frozen=True, eq=False)
class DecodedVolume:
    """One volume on the common spacing, and its grid."""

    standardized: Standardized
    mask: Array  # uint8 (A, B, C')
    label_map: LabelMaps  # of the native grid
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
        for row, volume in enumerate(map_ahead(pool, lambda row: decode_volume(source, row, target), rows)):
            standardized = volume.standardized
            if volumes and len(standardized.mean) != volumes[0]["channels"]:
                raise DataError(
                    f"{source.sample_ids[row]} has {len(standardized.mean)} channels, {source.sample_ids[0]} has "
                    f"{volumes[0]['channels']}",
                    fix="give all volumes the same channels",
                    code="channels",
                )
            voxels.write(standardized.voxels.data)  # perf: `tobytes` would copy the volume
            masks.write(volume.mask.data)
            volumes.append(
                {
                    "channels": len(standardized.mean),
                    "shape": volume.mask.shape,
                    "mean": standardized.mean,
                    "std": standardized.std,
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


def map_ahead(pool: Executor, function: Callable[[int], DecodedVolume], rows: Iterable[int]) -> Iterator[DecodedVolume]:
    """Yield the results in order, one per core ahead: `pool.map` would keep all that are not yet written in memory."""
    ahead: deque[Future[DecodedVolume]] = deque()
    for row in rows:
        ahead.append(pool.submit(function, row))
        if len(ahead) > num_cores():
            yield ahead.popleft().result()
    while ahead:
        yield ahead.popleft().result()


def decode_volume(source: OpenDataset, row: int, target: tuple[float, ...] | None) -> DecodedVolume:
    image = source.samples.table["image"].iloc[row]
    values = read_volume(source, row, image)
    mask = read_mask(source.spec, source.samples, image)
    check_grid(source.spec, source.samples, image, mask, values)
    own = spacing_of(source, image)
    check_resampled_size(str(source.sample_ids[row]), mask.shape, own, target)
    shape = resampled_shape(mask.shape, own, target)
    standardized = standardize(values, shape)
    placed = mask[np.ix_(*(nearest_places(old, new) for old, new in zip(mask.shape, shape, strict=True)))]
    return DecodedVolume(
        standardized=standardized,
        mask=np.ascontiguousarray(placed),
        label_map=pack_map(np.ascontiguousarray(mask)),
        spacing=own,
        marked=[mark_label(placed, label) for label in range(1, len(source.spec.labels) + 1)],
    )


def read_volume(source: OpenDataset, row: int, image: object) -> Array:
    """Read a whole volume; raise DataError for anything but finite numbers along three axes, and channels."""
    assert source.samples.volumes is not None
    values = source.samples.volumes(image)
    check_values(values, str(source.sample_ids[row]))
    return values


def check_values(values: object, name: str) -> None:
    """Raise DataError for anything but finite numbers, as float32, along three axes, and channels."""
    if (
        not isinstance(values, np.ndarray)
        or values.ndim not in (3, 4)
        or values.dtype.kind not in "uif"
        or not values.size
    ):
        found = f"{values.dtype} of shape {values.shape}" if isinstance(values, np.ndarray) else type(values).__name__
        problem = f"is {found}, expected numbers along three axes"
    elif not (values.min() >= -MAX_FLOAT32 and values.max() <= MAX_FLOAT32):  # of NaN both are NaN
        problem = f"has values that are NaN, infinite or beyond {MAX_FLOAT32:.2g}"
    else:
        return
    raise DataError(f"{name} {problem}", fix="correct it, or leave it out", code="image")


def check_resampled_size(name: str, shape: Sequence[int], own: Spacing | None, target: Spacing | None) -> None:
    """Raise DataError for a volume that would not fit into memory on the target spacing: its header may be wrong."""
    resampled = resampled_shape(shape, own, target)
    if own and target and math.prod(resampled) > MAX_RESAMPLED_VOXELS:
        raise DataError(
            f"{name}: {join_sides(shape)} voxels of {join_sides(own)} mm are {join_sides(resampled)} voxels of "
            f"{join_sides(target)} mm, too many to resample",
            fix="correct the size of the voxels in its header, or leave it out",
            code="geometry",
        )


def join_sides(sides: Sequence[float]) -> str:
    return " x ".join(f"{side:.5g}" for side in sides)


def resampled_shape(shape: Sequence[int], own: Spacing | None, target: Spacing | None) -> tuple[int, ...]:
    """The shape of a volume on the target spacing; its own where a spacing is unknown."""
    if own is None or target is None:
        return tuple(shape)
    return tuple(max(1, round(n * old / new)) for n, old, new in zip(shape, own, target, strict=True))


class Standardized(NamedTuple):
    """A volume in standard deviations from its mean, and these, of the values, float64 (channels,)."""

    voxels: Array  # float16 (A, B, C', channels)
    mean: Array
    std: Array


def standardize(values: Array, shape: tuple[int, ...]) -> Standardized:
    """Standardize a volume (A, B, C') or (A, B, C', channels) by channel, and resample it to a shape, trilinear.

    The volume is read in slabs across its first axis: as float64 one of 512 x 512 x 400 voxels would take 840 MB.
    """
    channels = values if values.ndim == 4 else values[..., None]
    mean, std = measure_channels(channels)
    voxels = np.empty((*shape, channels.shape[3]), np.float16)
    for start in range(0, shape[0], SLAB_PLANES):
        part = voxels[start : start + SLAB_PLANES]
        places = (np.arange(start, start + len(part)) + 0.5) * (len(channels) / shape[0]) - 0.5
        places = places.clip(0, len(channels) - 1)
        first, last = int(places[0]), math.ceil(places[-1])
        slab = ((channels[first : last + 1].astype(np.float32) - mean) / std).astype(np.float32)
        part[...] = resample_slab(slab, places - first, shape[1:])
    return Standardized(voxels, mean, std)


def measure_channels(channels: Array) -> tuple[Array, Array]:
    """Mean and standard deviation of each channel of a volume (A, B, C', channels), float64; a deviation of 0 is 1."""
    slabs = range(0, len(channels), SLAB_PLANES)
    count = math.prod(channels.shape[:3])
    mean = sum(channels[at : at + SLAB_PLANES].sum(axis=(0, 1, 2), dtype=np.float64) for at in slabs) / count
    squares = (np.square(channels[at : at + SLAB_PLANES].astype(np.float64) - mean).sum(axis=(0, 1, 2)) for at in slabs)
    std = np.sqrt(sum(squares) / count)
    return mean, np.where(std == 0, 1.0, std)


def resample_slab(slab: Array, places: Array, plane: tuple[int, ...]) -> Array:
    """Planes of a slab (A, B, C', channels) at `places` (K,) along its first axis, resampled to a shape, bilinear."""
    import torch
    from torch.nn.functional import interpolate

    below = places.astype(np.int64)
    share = (places - below).astype(np.float32)
    if share.any():
        above = np.minimum(below + 1, len(slab) - 1)
        share = share[:, None, None, None]
        slab = slab[below] * (1 - share) + slab[above] * share
    elif len(below) < len(slab) or (np.diff(below) != 1).any():
        slab = slab[below]
    if slab.shape[1:3] == tuple(plane):
        return slab
    moved = torch.from_numpy(slab).movedim(-1, 1)
    resampled: Array = interpolate(moved, plane, mode="bilinear", align_corners=False).movedim(1, -1).numpy()
    return resampled


def sides_of(shape: Sequence[int], spacing: Spacing | None) -> tuple[float, ...]:
    """The lengths of a volume in mm; in voxels if its spacing is unknown."""
    return tuple(float(count * step) for count, step in zip(shape, spacing or (1.0,) * 3, strict=True))


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

    def patch_shape(self, longest: int, sides: Sides) -> tuple[int, ...]:
        """The shape of a patch: the median volume in sides that fit, but at most `longest` along an axis."""
        return tuple(min(longest, sides.fit(side)) for side in np.median(self.shapes, axis=0))

    def measure_window(self, train: Array) -> tuple[float, float]:
        """The percentiles of the labeled voxels of train, in the values of the files. `train` is bool (N,).

        Raises DataError if train has none.
        """
        counts = self.columns["counts"].sum(axis=1)
        owners = np.repeat(np.arange(len(counts)), counts)
        chosen = train[owners]
        if not chosen.any():
            raise DataError(
                "no voxel of train has a label, from which the window of CT values is measured",
                fix="set intensity = [LOW, HIGH] in dataset.toml, or give masks with labels",
                code="mask",
            )
        owners, places, voxels = owners[chosen], self.columns["places"][chosen], self.voxels
        shapes = self.shapes[owners]
        flat = (places[:, 0] * shapes[:, 1] + places[:, 1]) * shapes[:, 2] + places[:, 2]
        values = voxels[self.starts[owners] + flat, 0].astype(np.float64)
        values = values * self.columns["std"][owners, 0] + self.columns["mean"][owners, 0]
        low, high = np.percentile(values, WINDOW_PERCENTILES)
        return float(low), float(high if high > low else low + 1)


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
    sides: Sides  # that the network accepts
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


def open_volumes(volumes: DecodedVolumes, reading: VolumeReading, device: str, *, sides: Sides) -> VolumePixels:
    """Map the cache; on a GPU, keep it in GPU memory if it takes less than half of what is free."""
    import torch

    voxels, masks = torch.from_numpy(volumes.voxels), torch.from_numpy(volumes.flat_masks)
    if open_device(device).holds(volumes.voxels.nbytes + volumes.flat_masks.nbytes):
        voxels, masks = voxels.to(device), masks.to(device)
    gains, offsets = scale_to_window(volumes.columns["mean"], volumes.columns["std"], reading.window)
    home = voxels.device
    return VolumePixels(
        voxels=voxels,
        masks=masks,
        starts=torch.from_numpy(volumes.starts).to(home),
        shapes=torch.from_numpy(volumes.shapes).to(home),
        gains=torch.from_numpy(gains).float().to(device),
        offsets=torch.from_numpy(offsets).float().to(device),
        clipped=reading.window is not None,
        patch=volumes.patch_shape(reading.patch, sides),
        sides=sides,
        spacing=volumes.spacing,
        device=device,
    )


def scale_to_window(mean: Array, std: Array, window: tuple[float, float] | None) -> tuple[Array, Array]:
    """Gains and offsets (N, channels) of standardized voxels that map a window of the values to -2 and 2."""
    if window is None:
        return np.ones_like(mean), np.zeros_like(mean)
    low, high = window
    return 4 * std / (high - low), 4 * (mean - low) / (high - low) - 2

"""Volumes without masks: each is decoded once into a cube of the same size, as images are into a square."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from zoo.arrays import Array
from zoo.data.decoded import create_array, fill_cache, map_images, reading_cache
from zoo.data.opening import OpenDataset
from zoo.data.volumes import (
    GRIDS_FILE,
    WINDOW_PERCENTILES,
    check_resampled_size,
    measure_channels,
    read_volume,
    spacing_of,
)
from zoo.errors import DataError
from zoo.images.placement import Spacing
from zoo.system.machine import num_cores
from zoo.system.progress import Progress

CUBES_FILE = "cubes.npy"
CUBES_VERSION = 3  # of the cache; raise it when decoding changes a voxel, or a file is added
NO_VOXELS = np.zeros(0, np.float16)
MAX_WINDOW_VOXELS = 2_000_000  # voxels of train from which a window is measured


class Cube(NamedTuple):
    """The grid of every volume: voxels along each side, and mm per voxel; None: the longest side of a volume fits."""

    side: int
    spacing: float | None

    @property
    def target(self) -> Spacing | None:
        """mm per voxel along each axis, if it is the same for every volume."""
        return (self.spacing,) * 3 if self.spacing else None


def cache_cubes(source: OpenDataset, cube: Cube, cache: Path, progress: Progress | None = None) -> Path:
    """Decode every volume once, and return the file of voxels: see `DecodedCubes`."""
    name = f"{cube.side}" if cube.spacing is None else f"{cube.side}-{cube.spacing:g}mm"
    folder = cache / "volumes" / f"{source.content_hash[:20]}-cube{name}-v{CUBES_VERSION}"

    def fill(temporary: Path) -> dict[str, Any]:
        decode_cubes(source, cube, temporary, progress)
        return {"dataset": source.spec.name, "content_hash": source.content_hash, **cube._asdict()}

    fill_cache(folder, cache, {CUBES_FILE, GRIDS_FILE}, fill)
    return folder / CUBES_FILE


@dataclass(frozen=True, eq=False)
class DecodedCube:
    """One volume in its cube."""

    voxels: Array  # float16 (side, side, side, channels): standardized, 0 outside the volume
    mean: Array  # (channels,) of the values
    std: Array  # (channels,)
    shape: tuple[int, ...]  # of the native grid
    spacing: Spacing | None  # of the native grid


def decode_cubes(source: OpenDataset, cube: Cube, folder: Path, progress: Progress | None) -> None:
    """Write the files of the cache."""
    rows, at_once = range(len(source.sample_ids)), num_cores()
    decoded: list[DecodedCube] = []
    array: Any = None  # mapped when the first volume tells the number of channels
    with ThreadPoolExecutor(at_once) as pool:
        for start in rows[::at_once]:  # few at once: volumes are large
            for row, volume in enumerate(pool.map(partial(decode_cube, source, cube), rows[start:][:at_once]), start):
                if array is None:
                    array = create_array(folder / CUBES_FILE, (len(rows), *volume.voxels.shape), volume.voxels.dtype)
                if volume.voxels.shape != array.shape[1:]:
                    raise DataError(
                        f"{source.sample_ids[row]} has {len(volume.mean)} channels, {source.sample_ids[0]} has "
                        f"{array.shape[-1]}",
                        fix="give all volumes the same channels",
                        code="channels",
                    )
                array[row] = volume.voxels
                decoded.append(replace(volume, voxels=NO_VOXELS))  # an empty slice would keep all voxels in memory
                if progress:
                    progress(row + 1, len(rows))
    array.flush()
    columns = {name: np.array([getattr(each, name) for each in decoded]) for name in ("mean", "std", "shape")}
    columns["spacing"] = np.array([each.spacing or (np.nan,) * 3 for each in decoded])
    with open(folder / GRIDS_FILE, "wb") as stream:
        np.savez(stream, allow_pickle=False, **columns)


def decode_cube(source: OpenDataset, cube: Cube, row: int) -> DecodedCube:
    image = source.samples.table["image"].iloc[row]
    values, own = read_volume(source, row, image), spacing_of(source, image)
    check_resampled_size(str(source.sample_ids[row]), values.shape[:3], own, cube.target)
    return to_cube(values, own, cube)


def to_cube(values: Array, spacing: Spacing | None, cube: Cube) -> DecodedCube:
    """Standardize a volume (A, B, C') or (A, B, C', channels) by channel, and fit it into a cube."""
    channels = values.reshape(*values.shape[:3], -1).astype(np.float32)
    mean, std = measure_channels(channels)
    channels -= mean  # in place: as float64 a volume of 512 x 512 x 400 voxels would take 840 MB per thread
    channels /= std
    fitted = fit_volume(channels, spacing, cube).astype(np.float16)
    return DecodedCube(fitted, mean, std, values.shape[:3], spacing)


def fit_volume(channels: Array, own: Spacing | None, cube: Cube) -> Array:
    """Resample a volume, float32 (A, B, C', channels), to equal voxels, and center it in a cube padded with 0.

    Lengths keep their proportions in mm, or in voxels if the spacing is unknown. What is beyond the cube is cut off.
    """
    lengths = np.multiply(channels.shape[:3], own or 1.0)
    voxel = cube.spacing if cube.spacing and own else lengths.max() / cube.side
    shape = tuple(max(1, round(length / voxel)) for length in lengths)
    resampled = resample_smoothly(channels, shape)
    fitted = np.zeros((cube.side,) * 3 + channels.shape[3:], np.float32)
    given, taken = [], []
    for length in shape:
        room = cube.side - length
        given.append(slice(max(room, 0) // 2, max(room, 0) // 2 + min(length, cube.side)))
        taken.append(slice(max(-room, 0) // 2, max(-room, 0) // 2 + min(length, cube.side)))
    fitted[tuple(given)] = resampled[tuple(taken)]
    return fitted


def resample_smoothly(channels: Array, shape: tuple[int, ...]) -> Array:
    """Resample a volume (A, B, C', channels): means of voxels along axes that become shorter, trilinear along others.

    Trilinear interpolation alone would skip voxels, and small findings with them.
    """
    import torch
    from torch.nn.functional import interpolate

    moved = torch.from_numpy(channels).movedim(-1, 0)[None]
    shorter = tuple(min(old, new) for old, new in zip(channels.shape[:3], shape, strict=True))
    if shorter != channels.shape[:3]:
        moved = interpolate(moved, shorter, mode="area")
    if shorter != shape:
        moved = interpolate(moved, shape, mode="trilinear", align_corners=False)
    resampled: Array = moved[0].movedim(0, -1).numpy()
    return resampled


# --- the decoded volumes ---------------------------------------------------------------------------------------------
@dataclass(frozen=True, eq=False)
class DecodedCubes:
    """The volumes of the cache."""

    path: Path  # of the voxels, float16 (N, side, side, side, channels)

    @cached_property
    def columns(self) -> dict[str, Array]:
        """`mean` and `std` (N, channels) of the values, `shape` and `spacing` (N, 3) of the native grid.

        An unknown spacing is NaN.
        """
        with reading_cache(), np.load(self.path.with_name(GRIDS_FILE), allow_pickle=False) as stored:
            return dict(stored)

    @property
    def channels(self) -> int:
        return int(self.columns["mean"].shape[1])

    @cached_property
    def spacings(self) -> list[Spacing | None]:
        """mm per voxel of the native grids."""
        return [None if np.isnan(each).any() else tuple(each.tolist()) for each in self.columns["spacing"]]

    def measure_window(self, train: Array) -> tuple[float, float]:
        """The percentiles of the voxels of train, in the values of the files. `train` is bool (N,)."""
        cubes, rows = map_images(self.path), np.flatnonzero(train)
        step = max(1, math.ceil(len(rows) * cubes[0, ..., 0].size / MAX_WINDOW_VOXELS))
        # In cubes of 64 voxels a step of 64 would read their lowest slice only.
        while math.gcd(step, cubes.shape[1]) > 1:
            step += 1
        values = []
        for row in rows:
            voxels = cubes[row, ..., 0].reshape(-1)[::step].astype(np.float64)
            values.append(voxels[voxels != 0] * self.columns["std"][row, 0] + self.columns["mean"][row, 0])
        low, high = np.percentile(np.concatenate(values), WINDOW_PERCENTILES)
        return float(low), float(high if high > low else low + 1)

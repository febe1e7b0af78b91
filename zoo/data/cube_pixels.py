"""Read batches of volumes, each decoded into a cube, on a device."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from zoo.arrays import Array
from zoo.data.decoded import map_images
from zoo.data.pixels import Pixels
from zoo.data.volume_cubes import DecodedCubes
from zoo.data.volumes import scale_to_window
from zoo.system.devices import open_device

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class CubePixels(Pixels):
    """Decoded volumes (N, side, side, side, channels), on the device if they fit."""

    gains: Tensor  # float32 (N, channels): a network's input is gain * voxel + offset
    offsets: Tensor
    clipped: bool  # to -2..2, which are the ends of the window

    @property
    def input_shape(self) -> tuple[int, ...]:
        return (int(self.images.shape[-1]), *map(int, self.images.shape[1:-1]))

    @property
    def input_bytes(self) -> int:
        """Size of a network's input for one volume."""
        return 4 * math.prod(self.input_shape)

    def to_input(self, voxels: Tensor, rows: Tensor) -> Tensor:
        """Convert voxels (B, side, side, side, channels) of some rows to a network's input, float32."""
        form = (len(rows), 1, 1, 1, -1)
        values = voxels.float() * self.gains[rows].reshape(form) + self.offsets[rows].reshape(form)
        return (values.clamp(-2, 2) if self.clipped else values).movedim(-1, 1)

    def batch(self, rows: Tensor) -> Tensor:
        """The input of some rows on the device, float32 (B, channels, side, side, side)."""
        rows = open_device(str(self.images.device)).send(rows)
        voxels = open_device(self.device).send(self.gather(rows))
        return self.to_input(voxels, rows.to(self.gains.device)).contiguous()

    def normalize(self, images: Tensor) -> Tensor:
        """Volumes are standardized when they are decoded."""
        return images

    def describe(self) -> dict[str, Any]:
        """Facts about the input, for the record of a run."""
        return {"patch": list(self.input_shape[1:]), "cube": self.image_size, "clipped": self.clipped}


def open_cubes(cubes: DecodedCubes, window: tuple[float, float] | None, device: str) -> CubePixels:
    """Map the cache; on a GPU, keep it in GPU memory if it takes less than half of what is free."""
    import torch

    images = torch.from_numpy(map_images(cubes.path, "c"))  # copy-on-write: torch warns about read-only arrays
    if open_device(device).holds(images.nbytes):
        images = images.to(device)
    return as_cube_pixels(images, (cubes.columns["mean"], cubes.columns["std"]), window, device)


def as_cube_pixels(
    images: Tensor, moments: tuple[Array, Array], window: tuple[float, float] | None, device: str
) -> CubePixels:
    """Standardized volumes (N, side, side, side, channels); `moments` are mean and SD (N, channels) of their values."""
    import torch

    gains, offsets = scale_to_window(*moments, window)
    return CubePixels(
        images=images,
        scale=(0.0, 1.0),
        mean=torch.zeros(1, device=device),
        std=torch.ones(1, device=device),
        device=device,
        gains=torch.from_numpy(gains).float().to(device),
        offsets=torch.from_numpy(offsets).float().to(device),
        clipped=window is not None,
    )

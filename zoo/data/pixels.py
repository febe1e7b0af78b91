"""Read batches of decoded images on a device."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from zoo.data.dataset import DecodedFold
from zoo.data.decoded import map_images
from zoo.system.devices import open_device

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class Pixels:
    """Decoded images as a tensor, on the device if they fit, and their conversion to a network's input."""

    images: Tensor  # (N, H, W, C), uint8 or the bits of uint16 as int16
    scale: tuple[float, float]
    mean: Tensor
    std: Tensor
    device: str
    patch: tuple[int, ...] = ()  # the shape of a network's input that is cut from the images; () for whole images
    metadata: Tensor | None = None  # (N, M) float32 on `device`: a second input, joined as M constant channels

    @property
    def kind(self) -> str:
        """The kind of the device that holds the images."""
        return str(self.images.device.type)

    @property
    def image_size(self) -> int:
        return int(self.images.shape[1])

    @property
    def input_shape(self) -> tuple[int, ...]:
        """The shape of a network's input for one image, or for one patch."""
        return (int(self.images.shape[3]), *(self.patch or map(int, self.images.shape[1:3])))

    @property
    def input_bytes(self) -> int:
        """Size of a network's input for one image, or for one patch, with its metadata."""
        channels = int(self.images.shape[3]) + (0 if self.metadata is None else int(self.metadata.shape[1]))
        return 4 * channels * math.prod(self.patch or self.images.shape[1:3])

    def gather(self, rows: Tensor) -> Tensor:
        """Return the stored levels of some rows (B, H, W, C), on the device of the images."""
        # perf: index_select takes 13 us per batch, images[rows] 112 us
        return self.images.index_select(0, rows)

    def scale_levels(self, levels: Tensor) -> Tensor:
        """Convert stored levels to float32 (B, C, H, W) in channels_last, 0..1 over the intensity range."""
        import torch

        if levels.dtype == torch.int16:
            levels = levels.to(torch.int32) & 0xFFFF
        low, high = self.scale
        return levels.permute(0, 3, 1, 2).float().sub_(low).div_(high - low)

    def batch(self, rows: Tensor) -> Tensor:
        """Return the scaled images of some rows on the device."""
        rows = open_device(str(self.images.device)).send(rows)
        return self.scale_levels(open_device(self.device).send(self.gather(rows)))

    def normalize(self, images: Tensor) -> Tensor:
        return images.sub(self.mean).div_(self.std)

    def join(self, images: Tensor, rows: Tensor) -> Tensor:
        """Join the metadata of some rows to their normalized images: (B, C + M, H, W)."""
        import torch

        if self.metadata is None:
            return images
        values = self.metadata.index_select(0, open_device(self.device).send(rows))
        return torch.cat([images, values[:, :, None, None].expand(-1, -1, *images.shape[2:])], dim=1)

    def inputs(self, rows: Tensor) -> Tensor:
        """Return the network's input for some rows."""
        return self.join(self.normalize(self.batch(rows)), rows)


def with_metadata(pixels: Pixels, dataset: DecodedFold) -> Pixels:
    """Add the coded columns of a dataset as a second input."""
    import torch

    values = torch.from_numpy(dataset.coding.encode(dataset.inputs))
    return replace(pixels, metadata=values.to(pixels.device))


def open_pixels(
    dataset: DecodedFold, mean: Sequence[float], std: Sequence[float], device: str, patch: tuple[int, ...] = ()
) -> Pixels:
    """Memory-map the cache; on a GPU, keep it in GPU memory if it and its masks take less than half of what is free."""
    import torch

    array = map_images(dataset.images, "c")  # copy-on-write: torch warns about read-only arrays
    images = torch.from_numpy(array.view(np.int16) if array.dtype == np.uint16 else array)
    num_bytes = array.nbytes + (dataset.masks.nbytes if dataset.task.targets.spatial else 0)
    if open_device(device).holds(num_bytes):
        images = images.to(device)
    return replace(as_pixels(images, dataset.intensity, mean, std, device), patch=patch)


def random_pixels(
    count: int, image_size: int, channels: int, mean: Sequence[float], std: Sequence[float], device: str
) -> Pixels:
    """Return noise in place of decoded images, to measure a network's speed."""
    import torch

    images = torch.randint(0, 256, (count, image_size, image_size, channels), dtype=torch.uint8, device=device)
    return as_pixels(images, (0.0, 255.0), mean, std, device)


def as_pixels(
    images: Tensor, scale: tuple[float, float], mean: Sequence[float], std: Sequence[float], device: str
) -> Pixels:
    import torch

    channels = images.shape[3]
    if len(mean) != channels:  # gray: the mean of the model's channels
        mean, std = [float(np.mean(mean))] * channels, [float(np.mean(std))] * channels
    shape = (1, channels, 1, 1)
    return Pixels(
        images=images,
        scale=scale,
        mean=torch.tensor(list(mean), device=device).reshape(shape),
        std=torch.tensor(list(std), device=device).reshape(shape),
        device=device,
    )

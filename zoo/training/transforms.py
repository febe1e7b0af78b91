"""The transforms of the core: steps of preprocessing and of augmentation."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from zoo.images.contrast import equalize_locally
from zoo.specs.transform import TransformSpec

if TYPE_CHECKING:
    from torch import Tensor

NOISE_AT_ONCE = 1 << 22  # perf: values; hashes of 16 bytes each, in several copies, would fill the memory


def cut_out(images: Tensor, draws: Tensor, *, side: float) -> Tensor:
    """Set a square of each image (B, C, H, W) to 0: `side` is its share of the image's side, `draws` (B, 2) its center.

    The center is anywhere in the image, so that a part of the square may lie outside.
    """
    import torch

    outside = []
    for axis in (0, 1):
        places = (torch.arange(images.shape[2 + axis], device=images.device) + 0.5) / images.shape[2 + axis]
        outside.append((places - draws[:, axis : axis + 1]).abs() > side / 2)  # (B, H), (B, W)
    kept = outside[0][:, :, None] | outside[1][:, None, :]
    return images * kept[:, None]


def lower_contrast(images: Tensor, draws: Tensor, *, share: float, factor: float) -> Tensor:
    """Multiply the distances from the mean of each image or volume by `factor`, in a `share` of them."""
    mean = images.mean(dim=tuple(range(1, images.ndim)), keepdim=True)
    return where_drawn(draws, share, (images - mean) * factor + mean, images)


def blur_some(images: Tensor, draws: Tensor, *, share: float, deviation: float) -> Tensor:
    """Blur a `share` of the images or volumes by a Gaussian whose standard deviation is a share of the side."""
    import torch
    from torch.nn.functional import conv2d, conv3d, pad

    num_axes = images.ndim - 2
    sigma = max(deviation * max(images.shape[2:]), 1e-3)
    radius = min(math.ceil(3 * sigma), min(images.shape[2:]) - 1)
    places = torch.arange(-radius, radius + 1, device=images.device, dtype=images.dtype)
    kernel = torch.exp(-(places**2) / (2 * sigma**2))
    kernel = kernel / kernel.sum()
    blurred = pad(images.flatten(0, 1)[:, None], (radius,) * 2 * num_axes, mode="reflect")
    for axis in range(num_axes):
        along = [1, 1, *(len(kernel) if each == axis else 1 for each in range(num_axes))]
        blurred = (conv2d if num_axes == 2 else conv3d)(blurred, kernel.reshape(along))
    return where_drawn(draws, share, blurred.reshape(images.shape), images)


def add_gaussian_noise(images: Tensor, draws: Tensor, *, share: float, deviation: float) -> Tensor:
    """Add independent normal numbers to the values of a `share` of the images or volumes, the same on every device."""
    import torch

    count = images[0].numel()
    seeds = (draws[:, 1:] * 2**24).long()  # (B, 1)
    parts = []
    for places in torch.arange(count, device=images.device).split(NOISE_AT_ONCE):  # type: ignore[no-untyped-call]
        numbers = torch.stack([places, places + count])[:, None]
        first, second = hash_to_share(hash_numbers(numbers ^ hash_numbers(seeds)))
        parts.append((-2 * (1 - first).log()).sqrt() * (2 * math.pi * second).cos())  # Box & Muller 1958
    normal = torch.cat(parts, dim=1)
    return where_drawn(draws, share, images + deviation * normal.reshape(images.shape), images)


def hash_numbers(numbers: Tensor) -> Tensor:
    """Mix the lower 32 bits of int64 numbers, by the finalizer of MurmurHash3."""
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        numbers = ((numbers ^ (numbers >> shift)) * factor) & 0xFFFFFFFF
    return numbers ^ (numbers >> 16)


def hash_to_share(hashes: Tensor) -> Tensor:
    """Numbers in 0..1, without 1, from 32-bit hashes."""
    return (hashes >> 8).float() / 2**24


def where_drawn(draws: Tensor, share: float, changed: Tensor, images: Tensor) -> Tensor:
    """The changed images (B, ...) where the first draw is below `share`, else the given ones."""
    return changed.where((draws[:, 0] < share).reshape(-1, *(1 for _ in images.shape[1:])), images)


CLAHE = TransformSpec(
    name="clahe",
    prepare=equalize_locally,
    title="contrast-limited adaptive histogram equalization of the luminance",
    citation="Zuiderveld 1994, Graphics Gems IV, 474-485",
    options={"clip": 2.0, "tiles": 8.0},
)
CUTOUT = TransformSpec(
    name="cutout",
    augment=cut_out,
    num_draws=2,
    title="a square of each training image set to 0",
    citation="DeVries & Taylor 2017, arXiv:1708.04552",
    options={"side": 0.25},
    bounds={"side": (0.0, 1.0)},
)
SHARE = (0.0, 1.0)
GAUSSIAN_NOISE = TransformSpec(
    name="gaussian-noise",
    augment=add_gaussian_noise,
    num_draws=2,
    dims=(2, 3),
    title="independent normal noise",
    citation="Hendrycks & Dietterich 2019, ICLR, arXiv:1903.12261",
    options={"share": 0.5, "deviation": 0.05},
    bounds={"share": SHARE, "deviation": (0.0, 10.0)},
    severities=tuple({"share": 1.0, "deviation": each} for each in (0.02, 0.04, 0.08, 0.12, 0.18)),
)
GAUSSIAN_BLUR = TransformSpec(
    name="blur",
    augment=blur_some,
    dims=(2, 3),
    title="a Gaussian blur",
    citation="Hendrycks & Dietterich 2019, ICLR, arXiv:1903.12261",
    options={"share": 0.5, "deviation": 0.01},
    bounds={"share": SHARE, "deviation": (0.0, 1.0)},
    severities=tuple({"share": 1.0, "deviation": each} for each in (0.005, 0.01, 0.015, 0.025, 0.04)),
)
LOW_CONTRAST = TransformSpec(
    name="contrast",
    augment=lower_contrast,
    dims=(2, 3),
    title="a lower contrast",
    citation="Hendrycks & Dietterich 2019, ICLR, arXiv:1903.12261",
    options={"share": 0.5, "factor": 0.5},
    bounds={"share": SHARE, "factor": (0.0, 10.0)},
    severities=tuple({"share": 1.0, "factor": each} for each in (0.8, 0.6, 0.4, 0.25, 0.15)),
)
TRANSFORMS = (CLAHE, CUTOUT, GAUSSIAN_NOISE, GAUSSIAN_BLUR, LOW_CONTRAST)

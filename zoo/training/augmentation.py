"""A batch of images to an augmented batch, with a draw of its own for every image."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from zoo.system import send

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Generator, Tensor

SYMMETRIES = ("hflip", "vflip", "rot90")

# One operation an image, as in TrivialAugment (Müller & Hutter, ICCV 2021), which was the best of the automatic
# policies on 14 ultrasound tasks (arXiv 2501.13193). The ranges are mild: anatomy has a size and a direction.
GEOMETRIC = ("rotate", "shift", "zoom", "shear")
PHOTOMETRIC = ("brightness", "contrast", "gamma", "blur")
OPERATIONS = ("none", *GEOMETRIC, *PHOTOMETRIC)
MAX_DEGREES, MAX_SHIFT, ZOOM, MAX_SHEAR = 30.0, 0.1, (0.8, 1.2), 0.2
MAX_BRIGHTNESS, CONTRAST, GAMMA, MAX_SIGMA = 0.2, (0.7, 1.3), (0.7, 1.4), 1.5


def augment(images: Tensor, *, symmetries: Sequence[str], one_of: bool, generator: Generator) -> Tensor:
    """Augment images float32 (B, C, H, W) scaled to 0..1, before normalisation.

    First each declared symmetry with probability one half (a quarter turn is drawn from all four), then, with `one_of`,
    one operation an image. Draws are made on the CPU by `generator`, so that they are the same on every device.
    """
    import torch

    count, device = len(images), str(images.device)
    for symmetry in symmetries:
        images = apply_symmetry(images, symmetry, torch.randint(0, 4, (count,), generator=generator))
    if not one_of:
        return images
    chosen = torch.randint(0, len(OPERATIONS), (count,), generator=generator)
    strength = torch.rand((count, 2), generator=generator)
    images = images.clone()
    geometric = torch.nonzero((chosen >= 1) & (chosen <= len(GEOMETRIC)))[:, 0]
    if len(geometric):
        rows = send(geometric, device)
        images[rows] = warp(images[rows], send(matrices(chosen[geometric], strength[geometric]), device))
    for number, name in enumerate(PHOTOMETRIC, start=1 + len(GEOMETRIC)):
        picked = torch.nonzero(chosen == number)[:, 0]
        if len(picked):
            rows = send(picked, device)
            images[rows] = PHOTOMETRY[name](images[rows], send(strength[picked, 0], device))
    return images


def apply_symmetry(images: Tensor, symmetry: str, draw: Tensor) -> Tensor:
    """Apply a flip to the images whose draw (0 to 3) is odd, or turn each by its draw of quarters."""
    import torch

    shape = (-1, 1, 1, 1)
    odd = send(draw % 2 == 1, str(images.device)).reshape(shape)
    if symmetry == "hflip":
        return torch.where(odd, images.flip(3), images)
    if symmetry == "vflip":
        return torch.where(odd, images.flip(2), images)
    half = send(draw >= 2, str(images.device)).reshape(shape)
    images = torch.where(half, images.flip((2, 3)), images)
    return torch.where(odd, images.rot90(1, (2, 3)), images)


def matrices(operation: Tensor, strength: Tensor) -> Tensor:
    """The affine maps (K, 2, 3) from output to input coordinates in [-1, 1] for operations 1 to 4 of OPERATIONS."""
    import torch

    signed = 2 * strength - 1
    angle = torch.where(operation == 1, signed[:, 0] * math.radians(MAX_DEGREES), 0.0)
    zoom = torch.where(operation == 3, ZOOM[0] + (ZOOM[1] - ZOOM[0]) * strength[:, 0], 1.0)
    shear = torch.where(operation == 4, signed[:, 0] * MAX_SHEAR, 0.0)
    shift = torch.where((operation == 2)[:, None], signed * 2 * MAX_SHIFT, 0.0)
    cosine, sine = torch.cos(angle) / zoom, torch.sin(angle) / zoom
    rows = [cosine, shear - sine, shift[:, 0], sine, cosine, shift[:, 1]]
    return torch.stack(rows, dim=1).reshape(-1, 2, 3)


def warp(images: Tensor, maps: Tensor) -> Tensor:
    """Resample images (K, C, H, W) by affine maps (K, 2, 3), bilinear, zeros outside as in the padding."""
    from torch.nn.functional import affine_grid, grid_sample

    grid = affine_grid(maps, list(images.shape), align_corners=False)
    return grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def brightness(images: Tensor, strength: Tensor) -> Tensor:
    return images + ((2 * strength - 1) * MAX_BRIGHTNESS).reshape(-1, 1, 1, 1)


def contrast(images: Tensor, strength: Tensor) -> Tensor:
    factor = (CONTRAST[0] + (CONTRAST[1] - CONTRAST[0]) * strength).reshape(-1, 1, 1, 1)
    mean = images.mean(dim=(1, 2, 3), keepdim=True)
    return (images - mean) * factor + mean


def gamma(images: Tensor, strength: Tensor) -> Tensor:
    """x ** g for x in 0..1; what lies outside the intensity range is left as it is."""
    exponent = (GAMMA[0] + (GAMMA[1] - GAMMA[0]) * strength).reshape(-1, 1, 1, 1)
    inside = images.clamp(0, 1)
    return images - inside + inside.pow(exponent)


def blur(images: Tensor, strength: Tensor) -> Tensor:
    """A 5x5 Gaussian with a standard deviation of its own, up to 1.5 pixels, for each image."""
    import torch
    from torch.nn.functional import conv2d, pad

    count, channels, height, width = images.shape
    offsets = torch.arange(-2, 3, device=images.device, dtype=images.dtype)
    sigma = (0.1 + (MAX_SIGMA - 0.1) * strength).to(images.dtype)
    profile = torch.exp(-offsets.square() / (2 * sigma[:, None].square()))
    profile = profile / profile.sum(dim=1, keepdim=True)
    kernel = (profile[:, :, None] * profile[:, None, :]).repeat_interleave(channels, dim=0)[:, None]
    stacked = pad(images.reshape(1, count * channels, height, width), (2, 2, 2, 2), mode="replicate")
    return conv2d(stacked, kernel, groups=count * channels).reshape(images.shape)


PHOTOMETRY = {"brightness": brightness, "contrast": contrast, "gamma": gamma, "blur": blur}

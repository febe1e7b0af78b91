"""Augment batches of images, with separate random parameters for each image.

The parameters are drawn on the CPU, so they are the same on all devices. The device computes with fixed shapes and
without reading anything back to the host.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from zoo.system.devices import open_device

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Generator, Tensor


# One operation per image, as in TrivialAugment (Müller & Hutter, ICCV 2021), the best automatic policy on 14 ultrasound
# tasks (arXiv 2501.13193). The ranges are small, because the size and the direction of anatomy carry information.
GEOMETRIC = ("rotate", "shift", "zoom", "shear")
TONE = ("brightness", "contrast", "gamma")
OPERATIONS = ("none", *GEOMETRIC, *TONE, "blur")
MAX_DEGREES, MAX_SHIFT, ZOOM, MAX_SHEAR = 30.0, 0.1, (0.8, 1.2), 0.2
MAX_BRIGHTNESS, CONTRAST, GAMMA, SIGMA = 0.2, (0.7, 1.3), (0.7, 1.4), (0.1, 1.5)
TAPS = 5  # of the blur's kernel along each axis

NO_KIND, MOVED, TONED, BLURRED = range(4)
PARAMETERS = {"map": 6, "tone": 3, "taps": TAPS}  # numbers per image; together `Augmentation.parameters`


@dataclass(frozen=True, kw_only=True, eq=False)
class Augmentation:
    """The augmentation of each image of a batch (B) or of several batches (n, B)."""

    turns: Tensor  # uint8 (..., B, S): 0 to 3 for each symmetry
    kind: Tensor | None = None  # uint8 (..., B): MOVED, TONED, BLURRED or NO_KIND; None without one-of
    parameters: Tensor | None = None  # float32 (..., B, 14): an affine map, a tone, the taps of a blur

    def split(self) -> list[Tensor]:
        """Split the parameters by `PARAMETERS`: maps, tones, taps."""
        assert self.parameters is not None
        return list(self.parameters.split(list(PARAMETERS.values()), dim=-1))  # type: ignore[no-untyped-call]


def draw(num_batches: int, batch: int, num_symmetries: int, *, one_of: bool, generator: Generator) -> Augmentation:
    """Draw the augmentation of several batches. The draws do not depend on how batches are grouped into calls."""
    import torch

    turns = torch.empty((num_batches, batch, num_symmetries), dtype=torch.uint8)
    operation = torch.zeros((num_batches, batch), dtype=torch.int64)
    strength = torch.zeros((num_batches, batch, 2))
    for number in range(num_batches):
        for symmetry in range(num_symmetries):
            turns[number, :, symmetry] = torch.randint(0, 4, (batch,), generator=generator)
        if one_of:
            operation[number] = torch.randint(0, len(OPERATIONS), (batch,), generator=generator)
            strength[number] = torch.rand((batch, 2), generator=generator)
    if not one_of:
        return Augmentation(turns=turns)
    return Augmentation(turns=turns, kind=kinds(operation), parameters=parameters(operation, strength))


def kinds(operation: Tensor) -> Tensor:
    """Map indices into OPERATIONS to their kinds, uint8."""
    import torch

    table = [NO_KIND, *[MOVED] * len(GEOMETRIC), *[TONED] * len(TONE), BLURRED]
    return torch.tensor(table, dtype=torch.uint8)[operation]


def parameters(operation: Tensor, strength: Tensor) -> Tensor:
    """Convert operations (...,) and strengths (..., 2) in 0..1 to parameters (..., 14).

    The parameters of operations that were not drawn for an image are the identity.
    """
    import torch

    signed, share = 2 * strength - 1, strength[..., 0]

    def where(name: str, value: Tensor, otherwise: float) -> Tensor:
        return torch.where(operation == OPERATIONS.index(name), value, torch.full_like(share, otherwise))

    def between(bounds: tuple[float, float]) -> Tensor:
        return bounds[0] + (bounds[1] - bounds[0]) * share

    angle = where("rotate", signed[..., 0] * math.radians(MAX_DEGREES), 0.0)
    zoom = where("zoom", between(ZOOM), 1.0)
    shear = where("shear", signed[..., 0] * MAX_SHEAR, 0.0)
    across, down = (where("shift", signed[..., axis] * 2 * MAX_SHIFT, 0.0) for axis in (0, 1))
    cosine, sine = torch.cos(angle) / zoom, torch.sin(angle) / zoom
    affine = torch.stack([cosine, shear - sine, across, sine, cosine, down], dim=-1)
    brightness = where("brightness", signed[..., 0] * MAX_BRIGHTNESS, 0.0)
    tone = torch.stack([brightness, where("contrast", between(CONTRAST), 1.0), where("gamma", between(GAMMA), 1.0)], -1)
    sigma = between(SIGMA)[..., None]
    offsets = torch.arange(TAPS) - TAPS // 2
    taps = torch.exp(-offsets.square() / (2 * sigma.square()))
    return torch.cat([affine, tone, taps / taps.sum(dim=-1, keepdim=True)], dim=-1)


def augment(images: Tensor, augmentation: Augmentation, symmetries: Sequence[str]) -> Tensor:
    """Augment images, float32 (B, C, H, W) scaled to 0..1, before normalization.

    Apply each declared symmetry with probability one half (one of four rotations for quarter turns), then, with one-of,
    one operation per image. `images` is overwritten.
    """
    for number, symmetry in enumerate(symmetries):
        images = apply_symmetry(images, symmetry, augmentation.turns[:, number])
    if augmentation.kind is None:
        return images
    device, kind = open_device(str(images.device)), augmentation.kind
    maps, tone, taps = augmentation.split()
    images = device.replace_where(kind == MOVED, warp, images, maps)
    images = device.replace_where(kind == TONED, change_tone, images, tone)
    return device.replace_where(kind == BLURRED, blur, images, taps)


def move(targets: Tensor, augmentation: Augmentation, symmetries: Sequence[str]) -> Tensor:
    """Move targets (B, H, W) as `augment` moves their images; pixels from outside the image are 0."""
    planes = targets[:, None].float()
    for number, symmetry in enumerate(symmetries):
        planes = apply_symmetry(planes, symmetry, augmentation.turns[:, number])
    if augmentation.kind is not None:
        device, maps = open_device(str(targets.device)), augmentation.split()[0]
        planes = device.replace_where(augmentation.kind == MOVED, partial(warp, mode="nearest"), planes, maps)
    return planes[:, 0].to(targets.dtype)


def apply_symmetry(images: Tensor, symmetry: str, turns: Tensor) -> Tensor:
    """Flip the images whose draw (0 to 3) is odd, or rotate each image by its draw of quarter turns."""
    import torch

    shape = (-1, 1, 1, 1)
    odd = (turns % 2 == 1).reshape(shape)
    if symmetry == "hflip":
        return torch.where(odd, images.flip(3), images)
    if symmetry == "vflip":
        return torch.where(odd, images.flip(2), images)
    images = torch.where((turns >= 2).reshape(shape), images.flip((2, 3)), images)
    return torch.where(odd, images.rot90(1, (2, 3)), images)


def warp(images: Tensor, maps: Tensor, mode: str = "bilinear") -> Tensor:
    """Resample images (K, C, H, W) by affine maps (K, 6) from output to input coordinates in [-1, 1] of a square.

    In an image that is no square, a rotation of these coordinates would shear it, so that they are scaled by its sides.
    Pixels outside the image are 0, as in the padding.
    """
    import torch
    from torch.nn.functional import affine_grid, grid_sample

    height, width = images.shape[2:]
    if height != width:
        a, b, across, c, d, down = maps.unbind(dim=1)
        maps = torch.stack([a, b * (height / width), across, c * (width / height), d, down], dim=1)
    grid = affine_grid(maps.reshape(-1, 2, 3), list(images.shape), align_corners=False)
    return grid_sample(images, grid, mode=mode, padding_mode="zeros", align_corners=False)


def change_tone(images: Tensor, tone: Tensor) -> Tensor:
    """Change the brightness, contrast or gamma of images (K, C, H, W) by tone (K, 3): offset, factor, exponent.

    Gamma is x ** g for x in 0..1; values outside the intensity range are unchanged.
    """
    added, factor, exponent = (part.reshape(-1, 1, 1, 1) for part in tone.unbind(dim=1))
    mean = images.mean(dim=(1, 2, 3), keepdim=True)
    images = images * factor + (mean * (1 - factor) + added)
    inside = images.clamp(0, 1)
    return images - inside + inside.pow(exponent)


def blur(images: Tensor, taps: Tensor) -> Tensor:
    """Convolve each image (K, C, H, W) with its own separable kernel (K, 5); borders are replicated."""
    from torch.nn.functional import pad

    radius = TAPS // 2
    images = pad(images, (radius, radius, radius, radius), mode="replicate")
    weights = [part.reshape(-1, 1, 1, 1) for part in taps.unbind(dim=1)]
    for axis in (2, 3):
        size = images.shape[axis] - 2 * radius
        total = weights[0] * images.narrow(axis, 0, size)
        for tap, weight in enumerate(weights[1:], start=1):
            total = total + weight * images.narrow(axis, tap, size)
        images = total
    return images

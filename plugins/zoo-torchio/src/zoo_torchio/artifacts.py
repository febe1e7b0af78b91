"""Artifacts of MRI by the formulas of TorchIO 1.2 (Perez-Garcia et al. 2021), for whole batches on their device.

Images are float32 (B, C, H, W) or (B, C, D, H, W). Nothing is read back to the host, and no shape depends on a value,
so that a GPU can capture the step. The draws of an image, uniform in 0..1, replace TorchIO's random numbers.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

NUM_GHOSTS = (4, 10)
TIMES = (1 / 3, 2 / 3)  # of the two movements, as shares of the acquisition
TIME_SPREAD = 0.1
ORDER = 3  # of the polynomial of a bias field
NUM_COEFFICIENTS = math.comb(ORDER + 3, 3)


def add_ghosts(images: Tensor, draws: Tensor, *, share: float, intensity: float) -> Tensor:
    """Ghosting: every n-th plane of k-space along one axis is weakened, but not the central one.

    `draws` (B, 4): whether, n of 4 to 10, the axis, and the intensity, from half of `intensity` to all of it.
    """
    chosen, number, axis, strength = draws.unbind(1)
    low, high = NUM_GHOSTS
    number = (low + (high - low + 1) * number).floor().clamp(max=high)
    return mix_by(
        chosen < share, ghosts_of(images, number, pick_axis(axis, images), intensity * (1 + strength) / 2), images
    )


def ghosts_of(images: Tensor, number: Tensor, axis: Tensor, intensity: Tensor) -> Tensor:
    """Images (B, C, ...) with `number` ghosts along spatial axis `axis`, each (B,)."""
    import torch

    spectrum = to_k_space(images)
    for dim, length in enumerate(images.shape[2:]):
        planes = torch.arange(length, device=images.device)
        weakened = (planes % number[:, None] == 0) & (planes != length // 2) & (axis == dim)[:, None]  # (B, length)
        spectrum = spectrum * along(1 - intensity[:, None] * weakened, dim, images)
    return from_k_space(spectrum)


def add_spike(images: Tensor, draws: Tensor, *, share: float, intensity: float) -> Tensor:
    """Spike, or herringbone: one point of k-space is raised, which adds a wave to the image.

    `draws` (B, 5): whether, the strength, from a third of `intensity` to all of it, and the place of the spike. The
    strength is a multiple of the maximum of k-space.
    """
    strength = intensity * (1 + 2 * draws[:, 1]) / 3
    return mix_by(draws[:, 0] < share, spiked(images, draws[:, 2:], strength), images)


def spiked(images: Tensor, places: Tensor, intensity: Tensor) -> Tensor:
    """Images (B, C, ...) with a spike at `places` (B, 3), as shares of the sides of k-space."""
    import torch

    spectrum = to_k_space(images)
    axes = tuple(range(2, images.ndim))
    height = spectrum.abs().amax(dim=axes, keepdim=True) * along(intensity[:, None], 0, images)
    for dim, length in enumerate(images.shape[2:]):
        place = (places[:, dim] * length).floor().clamp(max=length - 1)
        height = height * along(torch.arange(length, device=images.device) == place[:, None], dim, images)
    return from_k_space(spectrum + height)


def add_bias_field(images: Tensor, draws: Tensor, *, share: float, coefficient: float) -> Tensor:
    """Bias field: a smooth factor, the exponential of a polynomial of the third order in the coordinates.

    `draws` (B, 21): whether, and the coefficients, from -`coefficient` to `coefficient`.
    """
    coefficients = coefficient * (2 * draws[:, 1:] - 1)
    return mix_by(draws[:, 0] < share, images * field_of(coefficients, images), images)


def field_of(coefficients: Tensor, images: Tensor) -> Tensor:
    """The bias field (B, 1, ...) of coefficients (B, NUM_COEFFICIENTS), for coordinates of -1 to 1 in the image."""
    import torch

    sides = images.shape[2:]
    places = [
        (torch.arange(length, device=images.device) - (length - 1) / 2) / max((length - 1) / 2, 0.5) for length in sides
    ]
    exponent = images.new_zeros((len(images), 1, *(1 for _ in sides)))
    number = 0
    for first in range(ORDER + 1):
        for second in range(ORDER + 1 - first):
            for third in range(ORDER + 1 - first - second):
                powers = (first, second, third)
                term = along(coefficients[:, number, None], 0, images)
                for dim, place in enumerate(places):
                    term = term * along((place ** powers[dim])[None], dim, images)
                if not any(powers[len(sides) :]):  # an image lies in the plane where the third coordinate is 0
                    exponent = exponent + term
                number += 1
    return exponent.exp()


def add_motion(images: Tensor, draws: Tensor, *, share: float, degrees: float, translation: float) -> Tensor:
    """Motion: k-space along the last axis is filled from the image before, at rest, and after two rigid movements.

    `draws` (B, 15): whether, the two times, and of each movement three angles of up to `degrees` and three translations
    of up to `translation`, a share of the side. As in TorchIO the image at rest fills the center of k-space.
    """
    chosen, times, moves = draws[:, 0], draws[:, 1:3], (2 * draws[:, 3:] - 1).reshape(-1, 2, 2, 3)
    shifted = times.new_tensor(TIMES) + TIME_SPREAD * (2 * times - 1)
    moved = [
        move_rigidly(images, moves[:, number, 0] * math.radians(degrees), moves[:, number, 1] * translation)
        for number in range(2)
    ]
    return mix_by(chosen < share, compose_motion(images, moved[0], moved[1], shifted), images)


def compose_motion(images: Tensor, before: Tensor, after: Tensor, times: Tensor) -> Tensor:
    """Images whose k-space along the last axis is that of `before`, `images` and `after`, changing at times (B, 2)."""
    import torch

    length = images.shape[-1]
    planes = torch.arange(length, device=images.device)
    ends = (times * length).floor()  # (B, 2)
    dim = images.ndim - 3
    is_first = along(planes < ends[:, :1], dim, images)
    is_last = along(planes >= ends[:, 1:], dim, images)
    spectrum = torch.where(is_first, to_k_space(before), to_k_space(images))
    return from_k_space(torch.where(is_last, to_k_space(after), spectrum))


def move_rigidly(images: Tensor, angles: Tensor, shifts: Tensor) -> Tensor:
    """Images rotated about their center by angles (B, 3) and shifted by shares (B, 3) of their sides.

    Places from outside have the minimum of the image. An image of two dimensions is rotated in its plane.
    """
    import torch
    from torch.nn.functional import affine_grid, grid_sample

    sides, count = images.shape[2:], images.ndim - 2
    turned = torch.eye(count, device=images.device).expand(len(images), count, count)
    for number, (one, other) in enumerate(((0, 1), (0, 2), (1, 2))):
        if other >= count:
            continue
        cosine, sine = angles[:, number].cos(), angles[:, number].sin()
        rotation = torch.eye(count, device=images.device).repeat(len(images), 1, 1)
        rotation[:, one, one] = rotation[:, other, other] = cosine
        rotation[:, one, other], rotation[:, other, one] = -sine, sine
        turned = turned @ rotation
    lengths = images.new_tensor(sides[::-1])  # grid_sample names the last axis first, and each runs from -1 to 1
    scaled = turned * (lengths / lengths[:, None])
    maps = torch.cat([scaled, 2 * shifts[:, :count].flip(1)[:, :, None]], dim=2)
    grid = affine_grid(maps, [len(images), 1, *sides], align_corners=False)
    lowest = images.amin(dim=tuple(range(2, images.ndim)), keepdim=True)
    return grid_sample(images - lowest, grid, mode="bilinear", padding_mode="zeros", align_corners=False) + lowest


# --- parts -----------------------------------------------------------------------------------------------------------
def pick_axis(draws: Tensor, images: Tensor) -> Tensor:
    count = images.ndim - 2
    return (draws * count).floor().clamp(max=count - 1)


def mix_by(chosen: Tensor, changed: Tensor, images: Tensor) -> Tensor:
    """The changed images where `chosen` (B,), else the given ones."""
    return changed.where(chosen.reshape(-1, *(1 for _ in images.shape[1:])), images)


def along(values: Tensor, dim: int, images: Tensor) -> Tensor:
    """Values (B, length) as a factor of images (B, C, ...) along their spatial axis `dim`."""
    shape = [len(values), 1, *(1 for _ in images.shape[2:])]
    shape[2 + dim] = values.shape[1]
    return values.reshape(shape)


def to_k_space(images: Tensor) -> Tensor:
    """The Fourier transform over the spatial axes, with the constant part in the middle."""
    import torch

    axes = tuple(range(2, images.ndim))
    spectrum: Tensor = torch.fft.fftshift(torch.fft.fftn(images, dim=axes), dim=axes)
    return spectrum


def from_k_space(spectrum: Tensor) -> Tensor:
    import torch

    axes = tuple(range(2, spectrum.ndim))
    images: Tensor = torch.fft.ifftn(torch.fft.ifftshift(spectrum, dim=axes), dim=axes).real
    return images

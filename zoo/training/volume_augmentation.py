"""Augment batches of volumes and their masks, with separate random parameters for each.

The parameters are drawn on the CPU, so they are the same on all devices. The device computes with fixed shapes and
without reading anything back to the host.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Generator, Tensor

MAX_TURN, VOLUME_ZOOM = 15.0, (0.85, 1.15)  # about and along each axis
GAINS, VALUE_SHIFT, GAMMAS = (0.75, 1.25), 0.2, (0.7, 1.5)  # of standardized values
MOVED_SHARE, TONED_SHARE = 0.5, 0.5  # of the patches
FLIPPED_AXES = {"hflip": 2, "vflip": 3}  # of a batch
PARTS = {"map": 12, "gain": 1, "shift": 1, "gamma": 1}
NUM_PARAMETERS = sum(PARTS.values())


def draw_parameters(count: int, lengths: Sequence[float], generator: Generator) -> Tensor:
    """Draw an affine map from output to input coordinates, a gain, a shift and an exponent for each of `count` patches.

    `lengths` are those of a patch along its three axes, in mm if known: the coordinates of `grid_sample` are -1 to 1
    along each, and a rotation in them would shear a patch that is no cube. Returns float32 (count, NUM_PARAMETERS), the
    identity for those that are not moved or not toned.
    """
    import torch

    share = torch.rand(count, 9, generator=generator)
    is_moved, is_toned = torch.rand(count, 2, generator=generator).lt(torch.tensor([MOVED_SHARE, TONED_SHARE])).T
    angles = (2 * share[:, :3] - 1) * math.radians(MAX_TURN)
    zooms = VOLUME_ZOOM[0] + (VOLUME_ZOOM[1] - VOLUME_ZOOM[0]) * share[:, 3:6]
    turned = torch.eye(3).expand(count, 3, 3)
    for axis in range(3):
        turned = turned @ rotation(angles[:, axis], axis)
    sides = torch.tensor(lengths[::-1], dtype=torch.float32)  # grid_sample names the last axis first
    scaled = turned / zooms[:, None] * (sides / sides[:, None])
    matrix = torch.where(is_moved[:, None, None], scaled, torch.eye(3))
    maps = torch.cat([matrix, torch.zeros(count, 3, 1)], dim=2).flatten(1)
    tone = torch.stack(
        [
            GAINS[0] + (GAINS[1] - GAINS[0]) * share[:, 6],
            (2 * share[:, 7] - 1) * VALUE_SHIFT,
            log_between(GAMMAS, share[:, 8]),
        ],
        1,
    )
    return torch.cat([maps, torch.where(is_toned[:, None], tone, torch.tensor([1.0, 0.0, 1.0]))], dim=1)


def log_between(bounds: tuple[float, float], share: Tensor) -> Tensor:
    """Values between two bounds, evenly on a logarithmic scale."""
    return bounds[0] * (bounds[1] / bounds[0]) ** share


def rotation(angles: Tensor, axis: int) -> Tensor:
    """Matrices (N, 3, 3) that rotate about an axis."""
    import torch

    first, second = (other for other in range(3) if other != axis)
    matrices = torch.eye(3).repeat(len(angles), 1, 1)
    matrices[:, first, first] = matrices[:, second, second] = torch.cos(angles)
    matrices[:, first, second], matrices[:, second, first] = -torch.sin(angles), torch.sin(angles)
    return matrices


def turn_volumes(volumes: Tensor, symmetries: Sequence[str], turns: Tensor) -> Tensor:
    """Apply each declared symmetry to volumes (B, C, ...) by its draws, uint8 (B, S) of 0 to 3, as to axial slices.

    `hflip` exchanges left and right, the first axis, and `vflip` front and back, the second. `rot90` turns about the
    third; a patch whose first two sides differ by half turns only.
    """
    import torch

    for number, symmetry in enumerate(symmetries):
        drawn = turns[:, number].reshape(-1, 1, 1, 1, 1)
        odd = drawn % 2 == 1
        if symmetry in FLIPPED_AXES:
            volumes = torch.where(odd, volumes.flip(FLIPPED_AXES[symmetry]), volumes)
            continue
        volumes = torch.where(drawn >= 2, volumes.flip((2, 3)), volumes)
        if volumes.shape[2] == volumes.shape[3]:
            volumes = torch.where(odd, volumes.rot90(1, (2, 3)), volumes)
    return volumes


def augment_volumes(volumes: Tensor, masks: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
    """Augment standardized volumes (B, C, ...), float32, and move their masks (B, 1, ...) with them.

    Voxels from outside the patch are 0, the mean of the volume or the middle of its window, and background.
    """
    from torch.nn.functional import affine_grid, grid_sample

    maps, gain, shift, gamma = parameters.split(list(PARTS.values()), dim=1)  # type: ignore[no-untyped-call]
    grid = affine_grid(maps.reshape(-1, 3, 4), [len(volumes), 1, *volumes.shape[2:]], align_corners=False)
    volumes = grid_sample(volumes, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    masks = grid_sample(masks, grid, mode="nearest", padding_mode="zeros", align_corners=False)
    gain, shift, gamma = (part.reshape(-1, 1, 1, 1, 1) for part in (gain, shift, gamma))
    low, high = volumes.amin(dim=(1, 2, 3, 4), keepdim=True), volumes.amax(dim=(1, 2, 3, 4), keepdim=True)
    spread = (high - low).clamp(min=1e-6)
    toned = ((volumes - low) / spread).clamp(0, 1) ** gamma * spread + low
    return toned * gain + shift, masks

"""The network's input of squares, and its blurred counterpart."""

from __future__ import annotations

from typing import TYPE_CHECKING

from zoo.arrays import Array
from zoo.trained.opening import OpenModel
from zoo.trained.predicting import pixels_of

if TYPE_CHECKING:
    from torch import Tensor

INPUTS_AT_ONCE = 32
BLUR = 1 / 16  # standard deviation of the blurred image, as a share of the input's side


def normalize_squares(model: OpenModel, squares: Array) -> Tensor:
    """The network's input (B, C, size, size) of squares; that of cubes, which are normalized, along three axes."""
    import torch

    if model.card.dims == 3:
        return torch.from_numpy(squares).movedim(-1, 1).to(model.device)
    pixels = pixels_of(model, squares)
    return pixels.normalize(pixels.batch(torch.arange(len(squares))))


def blur_inputs(images: Array) -> Array:
    """Blur images (..., H, W) so that no finding is visible."""
    from scipy.ndimage import gaussian_filter

    sigma = images.shape[-1] * BLUR
    blurred: Array = gaussian_filter(images, (0,) * (images.ndim - 2) + (sigma, sigma), mode="nearest")
    return blurred

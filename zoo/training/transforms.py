"""The transforms of the core: steps of preprocessing and of augmentation."""

from __future__ import annotations

from typing import TYPE_CHECKING

from zoo.images.contrast import equalize_locally
from zoo.specs.transform import TransformSpec

if TYPE_CHECKING:
    from torch import Tensor


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
TRANSFORMS = (CLAHE, CUTOUT)

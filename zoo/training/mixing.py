"""Mix pairs of images of a batch (mixup: Zhang et al. 2018, ICLR, arXiv:1710.09412)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from torch import Generator, Tensor


def draw_partners(num_batches: int, batch: int, alpha: float, generator: Generator) -> tuple[Tensor, Tensor]:
    """The partner of each image, int64 (n, B), and the share of the image itself, float32 (n, B), equal in a batch.

    Shares are drawn from Beta(alpha, alpha). The draws do not depend on how batches are grouped into calls.
    """
    import torch

    partners = torch.empty((num_batches, batch), dtype=torch.int64)
    shares = torch.empty((num_batches, batch))
    for number in range(num_batches):
        partners[number] = torch.randperm(batch, generator=generator)
        seed = int(torch.randint(2**62, (1,), generator=generator))
        shares[number] = float(np.random.default_rng(seed).beta(alpha, alpha))
    return partners, shares


def mix(images: Tensor, partners: Tensor, shares: Tensor) -> Tensor:
    """Mix each image of a batch (B, C, H, W) with its partner."""
    weights = shares.reshape(-1, *[1] * (images.ndim - 1))
    return images * weights + images.index_select(0, partners) * (1 - weights)

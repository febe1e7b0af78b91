"""Grad-CAM (Selvaraju et al. 2017, ICCV): a spatial map, weighted by the mean gradients of its channels.

With the evidence of a region it is Seg-Grad-CAM (Vinogradova et al. 2020, AAAI, arXiv:2002.11434).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from zoo.explaining.layers import EvidenceOf, SpatialLayer, recorded_outputs
from zoo.trained.modules import FeatureTap

if TYPE_CHECKING:
    from torch import Tensor


def grad_cam(tap: FeatureTap, images: Tensor, columns: Tensor, evidence: EvidenceOf, layer: SpatialLayer) -> Tensor:
    """Maps float32 (B, grid, grid), at least 0, of one column of the answers for each normalized image (B, C, H, W).

    Those of volumes (B, C, D, H, W) have three axes.
    """
    import torch

    with torch.enable_grad(), recorded_outputs(tap, images.ndim) as outputs:
        logits, _ = tap(images.detach().requires_grad_())
        explained = evidence(logits).gather(1, columns[:, None]).sum()
        values = outputs[layer.place][1]
    (gradient,) = torch.autograd.grad(explained, values)
    maps, slopes = layer.to_maps(values).detach().float(), layer.to_maps(gradient).float()
    return (slopes.mean(dim=tuple(range(2, slopes.ndim)), keepdim=True) * maps).sum(dim=1).clamp(min=0)

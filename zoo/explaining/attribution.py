"""Integrated gradients (Sundararajan et al. 2017) and occlusion (Zeiler & Fergus 2014), computed by captum."""

from __future__ import annotations

from typing import TYPE_CHECKING

from zoo.explaining.inputs import INPUTS_AT_ONCE, blur_inputs
from zoo.explaining.layers import EvidenceOf
from zoo.trained.modules import FeatureTap

if TYPE_CHECKING:
    from torch import Tensor

INTEGRATED_GRADIENTS = "integrated-gradients"
OCCLUSION = "occlusion"
PATH_STEPS = 32  # of the path from the blurred to the original image
WINDOWS = 8  # occluded squares to a side of the input, each moved by half its side


def attribute(method: str, tap: FeatureTap, images: Tensor, columns: Tensor, evidence: EvidenceOf) -> Tensor:
    """Maps float32 (B, size, size), at least 0, of one column of the answers for each normalized image (B, C, H, W).

    Both methods compare with the blurred image. The attributions of an image's channels are added, and evidence
    against the output is left out.
    """
    import torch
    from captum.attr import IntegratedGradients, Occlusion

    def forward(inputs: Tensor) -> Tensor:
        return evidence(tap(inputs)[0])

    blurred = torch.from_numpy(blur_inputs(images.cpu().numpy())).to(images.device)
    if method == INTEGRATED_GRADIENTS:
        parts = IntegratedGradients(forward).attribute(
            images, baselines=blurred, target=columns, n_steps=PATH_STEPS, internal_batch_size=INPUTS_AT_ONCE
        )
    else:
        side = max(1, images.shape[3] // WINDOWS)
        stride = max(1, side // 2)
        parts = Occlusion(forward).attribute(
            images,
            sliding_window_shapes=(images.shape[1], side, side),
            strides=(images.shape[1], stride, stride),
            baselines=blurred,
            target=columns,
            perturbations_per_eval=max(1, INPUTS_AT_ONCE // len(images)),
        )
    maps: Tensor = parts.detach().float().sum(dim=1).clamp(min=0)
    return maps

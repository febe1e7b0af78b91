"""Named sets of models."""

from __future__ import annotations

STARTER = (
    "resnet18",
    "resnet50",
    "densenet121",
    "efficientnet_b0",
    "mobilenetv3_large_100",
    "convnext_tiny",
    "vit_small_patch14_dinov2",
)
MODEL_SETS = {"starter": STARTER}

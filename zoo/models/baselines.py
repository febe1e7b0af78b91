"""The baselines of every board, as models: the class prior and 8x8 thumbnails; for masks, an empty mask and an atlas.

The `baseline` protocol fits the first two as linear probes. Without features, logistic regression is the class prior.
The others ignore the image.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from zoo.specs.model import BuildRequest, ModelSpec
from zoo.tasks.kinds import MASK_TASKS

if TYPE_CHECKING:
    from torch import Tensor, nn

BASELINE_SIDE = 8


def build_constant(request: BuildRequest) -> nn.Module:
    """A module whose only feature is zero for every image, so that only the intercept is fitted."""
    from torch import nn

    class Constant(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.classifier = nn.Linear(1, request.num_outputs)

        def forward(self, images: Tensor) -> Tensor:
            return self.classifier(images.new_zeros(len(images), 1))  # type: ignore[no-any-return]

    return Constant()


def build_thumbnails(request: BuildRequest) -> nn.Module:
    """A module that averages the image over an 8x8 grid, or a volume over 8x8x8, then applies a linear layer."""
    from collections import OrderedDict

    from torch import nn

    pool = nn.AdaptiveAvgPool2d if request.dims == 2 else nn.AdaptiveAvgPool3d
    return nn.Sequential(
        OrderedDict(
            pool=pool(BASELINE_SIDE),
            flatten=nn.Flatten(),
            classifier=nn.Linear(request.channels * BASELINE_SIDE**request.dims, request.num_outputs),
        )
    )


def build_atlas(request: BuildRequest) -> nn.Module:
    """A module that answers every image with one mask; background until `logits` (O, size, size) is fitted.

    The mask is resized to images of another size. That of volumes is predicted from `logits` plane by plane, as at the
    size of a large volume the logits of 100 labels would take 11 GB.
    """
    import torch
    from torch import nn
    from torch.nn.functional import interpolate

    class Atlas(nn.Module):
        logits: Tensor
        answers_alike = True

        def __init__(self) -> None:
            super().__init__()
            side = request.image_size if request.dims == 2 else 1
            logits = torch.zeros(request.num_outputs, *(side,) * request.dims)
            logits[0] = 1.0
            self.register_buffer("logits", logits)

        def forward(self, images: Tensor) -> Tensor:
            size, logits = images.shape[2:], self.logits
            if logits.shape[1:] != size:
                mode = "bilinear" if len(size) == 2 else "trilinear"
                logits = interpolate(logits[None], size, mode=mode, align_corners=False)[0]
            return logits.expand(len(images), *logits.shape)

    return Atlas()


CONSTANT = ModelSpec(
    name="constant",
    title="the class prior of train, for every image",
    family="baseline",
    build=build_constant,
    dims=(2, 3),
    channels=1,
    classifier="classifier",
)
THUMBNAILS = ModelSpec(
    name="thumbnails",
    title="logistic regression on 8x8 thumbnails",
    family="baseline",
    build=build_thumbnails,
    dims=(2, 3),
    channels=1,
    classifier="classifier",
    min_image_size=BASELINE_SIDE,
)
EMPTY = ModelSpec(
    name="empty",
    title="no mask, for every image",
    family="baseline",
    build=build_atlas,
    tasks=MASK_TASKS,
    dims=(2, 3),
    channels=1,
)
ATLAS = replace(
    EMPTY,
    name="atlas",
    title="the pixels with a label in enough masks of train, the share chosen on val; the image is not looked at",
)
BASELINES = (CONSTANT, THUMBNAILS, EMPTY, ATLAS)

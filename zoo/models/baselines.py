"""The baselines of every board, as models with trivial features: the class prior and 8x8 thumbnails.

The `baseline` protocol fits them as linear probes. Without features, logistic regression is the class prior.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from zoo.specs.model import BuildRequest, ModelSpec

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
    """A module that averages the image over an 8x8 grid, then applies a linear layer."""
    from collections import OrderedDict

    from torch import nn

    return nn.Sequential(
        OrderedDict(
            pool=nn.AdaptiveAvgPool2d(BASELINE_SIDE),
            flatten=nn.Flatten(),
            classifier=nn.Linear(request.channels * BASELINE_SIDE * BASELINE_SIDE, request.num_outputs),
        )
    )


CONSTANT = ModelSpec(
    name="constant",
    title="the class prior of train, for every image",
    family="baseline",
    build=build_constant,
    channels=1,
    classifier="classifier",
)
THUMBNAILS = ModelSpec(
    name="thumbnails",
    title="logistic regression on 8x8 thumbnails",
    family="baseline",
    build=build_thumbnails,
    channels=1,
    classifier="classifier",
    min_image_size=BASELINE_SIDE,
)
BASELINES = (CONSTANT, THUMBNAILS)

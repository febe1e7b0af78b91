"""The baselines of every board, as models: the class prior and 8x8 thumbnails; for masks, an empty mask and an atlas.

Where masks are of thin structures there is one more, the top-hat filter, which looks at the image but learns nothing.

The `baseline` protocol fits the first two as linear probes. Without features, logistic regression is the class prior.
The atlas and the empty mask ignore the image.
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


def build_top_hat(request: BuildRequest) -> nn.Module:
    """A module that marks the pixels whose response to a top-hat filter exceeds a threshold.

    `settings` has the channel, the sign (1: dark lines, -1: bright lines), the side of the filter's square in pixels,
    and the threshold, until it is fitted infinite: no mask.
    """
    import torch
    from torch import nn

    class TopHat(nn.Module):
        settings: Tensor

        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("settings", torch.tensor([0.0, 1.0, 1.0, torch.inf]))

        def respond(self, images: Tensor) -> Tensor:
            """The response of each pixel, (N, H, W)."""
            channel, sign, side, _ = self.settings.tolist()
            return top_hat(sign * images[:, int(channel)].float(), int(side))

        def forward(self, images: Tensor) -> Tensor:
            above = self.respond(images) - self.settings[3].clamp(max=torch.finfo(torch.float32).max)
            return torch.stack([torch.zeros_like(above), above], dim=1)

    assert request.num_outputs == 2
    return TopHat()


def top_hat(images: Tensor, side: int) -> Tensor:
    """The black top-hat of images (N, H, W) smoothed by a Gaussian: their closing by a square, minus themselves.

    It is large at lines and spots that are darker than their surroundings and narrower than the square, and zero at
    edges (Serra 1982, Image Analysis and Mathematical Morphology). The deviation of the Gaussian is an eighth of the
    side.
    """
    import torch
    from torch.nn.functional import conv2d, max_pool2d, pad

    reach = max(1, round(3 * side / 8))
    places = torch.arange(-reach, reach + 1, dtype=images.dtype, device=images.device)
    weights = torch.exp(-((8 * places / side) ** 2) / 2)
    weights /= weights.sum()
    smooth = images[:, None]
    smooth = conv2d(pad(smooth, (reach, reach, 0, 0), mode="replicate"), weights.view(1, 1, 1, -1))
    smooth = conv2d(pad(smooth, (0, 0, reach, reach), mode="replicate"), weights.view(1, 1, -1, 1))

    def dilate(values: Tensor) -> Tensor:
        rows = max_pool2d(values, (side, 1), 1, (side // 2, 0))  # perf: a square is a column, then a row
        return max_pool2d(rows, (1, side), 1, (0, side // 2))

    return (-dilate(-dilate(smooth)) - smooth)[:, 0]


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
TOP_HAT = replace(
    EMPTY,
    name="top-hat",
    title="lines darker or brighter than their surroundings, by a top-hat filter whose channel, side and threshold are "
    "chosen on train; nothing is learned",
    build=build_top_hat,
    dims=(2,),
)
BASELINES = (CONSTANT, THUMBNAILS, EMPTY, ATLAS, TOP_HAT)

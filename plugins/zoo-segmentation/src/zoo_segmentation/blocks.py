"""The blocks of U-Nets."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def two_convolutions(channels: int, width: int, norm: type[nn.Module]) -> nn.Sequential:
    """Build two blocks of a 3 x 3 convolution, a normalization and a leaky ReLU."""
    layers: list[nn.Module] = []
    for entering in (channels, width):
        convolution = nn.Conv2d(entering, width, 3, padding=1, bias=False)
        normalization = nn.InstanceNorm2d(width, affine=True) if norm is nn.InstanceNorm2d else norm(width)
        layers += [convolution, normalization, nn.LeakyReLU(0.01, inplace=True)]
    return nn.Sequential(*layers)


class Decoder(nn.Module):
    """Join maps of several sizes, the largest first, into one map of the largest size."""

    def __init__(self, channels: list[int], widths: list[int], norm: type[nn.Module]) -> None:
        super().__init__()
        entering = [channels[-1], *widths[:-1]]
        self.steps = nn.ModuleList(
            two_convolutions(below + skip, width, norm)
            for below, skip, width in zip(entering, channels[-2::-1], widths, strict=True)
        )

    def forward(self, maps: list[Tensor]) -> Tensor:
        joined = maps[-1]
        for step, skip in zip(self.steps, maps[-2::-1], strict=True):
            joined = step(torch.cat([enlarge(joined, skip), skip], dim=1))
        return joined


def enlarge(maps: Tensor, like: Tensor) -> Tensor:
    """Resize maps to the height and width of others, bilinear."""
    enlarged = nn.functional.interpolate(maps, like.shape[2:], mode="bilinear", align_corners=False)
    if enlarged.requires_grad and enlarged.device.type == "cpu":
        enlarged.register_hook(in_channels_last)  # type: ignore[no-untyped-call]
    return enlarged


def in_channels_last(gradient: Tensor) -> Tensor:
    """Copy a gradient that is a part of a larger tensor, as that of `torch.cat` is, to a layout of its own."""
    return gradient.contiguous(memory_format=torch.channels_last)

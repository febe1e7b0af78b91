"""Move a model to a device in its fastest memory layout."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from zoo.system.devices import device_kind

if TYPE_CHECKING:
    from torch import Tensor, nn


SMALL_IMAGE = 128  # pixels per side; see `place`


def place(module: nn.Module, device: str, precision: str, image_size: int) -> nn.Module:
    """Move a module to a device in channels_last layout, except for depthwise convolutions where it is slower.

    On a CPU, depthwise convolutions stay in float32 under bf16 autocast, where oneDNN is slower (mobilenet 0.8x). On
    CUDA, depthwise convolutions of small images are not in channels_last, for which cuDNN compiles kernels in every
    process: efficientnet_b0 on an H200 starts after 1 s instead of 17 s and takes 5.1 ms per step of 32 images at
    64 px instead of 6.4 ms; at 224 px it would take 18.8 ms instead of 9.4 ms.
    """
    import torch

    kind = device_kind(device)
    if kind == "cpu" and precision == "bf16":
        train_short_in_float32(module)
    if any(parameter.ndim > 4 for parameter in module.parameters()):  # of volumes
        return module.to(device)
    module = module.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    if kind == "cpu" and precision == "bf16":
        wrap_depthwise(module, in_float32)
    elif kind == "cuda" and image_size <= SMALL_IMAGE:
        wrap_depthwise(module, in_contiguous)
    return module


Forward = Callable[["Tensor"], "Tensor"]


def wrap_depthwise(module: nn.Module, wrap: Callable[[nn.Conv2d], Forward]) -> None:
    """Replace the forward of every depthwise convolution."""
    from torch import nn

    for part in module.modules():
        if isinstance(part, nn.Conv2d) and part.groups > 1 and part.groups == part.in_channels:
            part.forward = wrap(part)  # type: ignore[method-assign, assignment]


def in_float32(part: nn.Conv2d | nn.Conv3d) -> Forward:
    import torch

    own = part.forward

    def forward(images: Tensor) -> Tensor:
        with torch.autocast("cpu", enabled=False):
            return own(images.float())

    return forward


def train_short_in_float32(module: nn.Module) -> None:
    """Train every convolution in float32 on maps that are shorter than its kernel or its stride along an axis.

    There the weights at an edge of the kernel never see the map, and in bf16 oneDNN leaves their gradients unwritten:
    they are what the memory held before (torch 2.15, Conv3d and Conv2d), so that two runs of one seed differ.
    """
    from torch import nn

    for part in module.modules():
        if isinstance(part, (nn.Conv2d, nn.Conv3d)):
            part.forward = short_in_float32(part)  # type: ignore[method-assign, assignment]


def short_in_float32(part: nn.Conv2d | nn.Conv3d) -> Forward:
    import torch

    own, exact = part.forward, in_float32(part)
    reach = [
        max(dilation * (kernel - 1) + 1, stride)
        for kernel, stride, dilation in zip(part.kernel_size, part.stride, part.dilation, strict=True)
    ]

    def forward(maps: Tensor) -> Tensor:
        is_short = any(side < least for side, least in zip(maps.shape[-len(reach) :], reach, strict=True))
        return exact(maps) if is_short and torch.is_grad_enabled() else own(maps)

    return forward


def in_contiguous(part: nn.Conv2d) -> Forward:
    import torch

    own = part.forward
    with torch.no_grad():  # contiguous strides: to torch, (C, 1, k, k) in channels_last is both
        part.weight.set_(torch.empty(part.weight.shape, device=part.weight.device).copy_(part.weight))  # type: ignore[call-overload]

    def forward(images: Tensor) -> Tensor:
        return own(images.contiguous()).contiguous(memory_format=torch.channels_last)

    return forward

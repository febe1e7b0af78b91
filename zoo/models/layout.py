"""Move a model to a device in its fastest memory layout."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from zoo.system.devices import device_kind

if TYPE_CHECKING:
    from torch import Tensor, nn


SMALL_IMAGE = 128  # pixels per side; see `place`


def place(module: nn.Module, device: str, precision: str, image_size: int) -> nn.Module:
    """Move a module to a device in channels_last layout, except for depthwise convolutions where it is slower.

    On a CPU, convolutions that `needs_float32` names stay in float32 under bf16 autocast. On CUDA, depthwise
    convolutions of small images are not in channels_last, for which cuDNN compiles kernels in every process:
    efficientnet_b0 on an H200 starts after 1 s instead of 17 s and takes 5.1 ms per step of 32 images at 64 px instead
    of 6.4 ms; at 224 px it would take 18.8 ms instead of 9.4 ms.
    """
    import torch

    of_volumes = any(parameter.ndim > 4 for parameter in module.parameters())
    module = module.to(device) if of_volumes else module.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    kind = device_kind(device)
    if kind == "cpu" and precision == "bf16":
        for part in convolutions(module):
            part.forward = in_float32_where_needed(part)  # type: ignore[method-assign, assignment]
    elif kind == "cuda" and image_size <= SMALL_IMAGE and not of_volumes:
        for part in filter(is_depthwise, convolutions(module)):
            part.forward = in_contiguous(part)  # type: ignore[method-assign, assignment]
    return module


Forward = Callable[["Tensor"], "Tensor"]


def convolutions(module: nn.Module) -> Iterator[nn.Conv2d | nn.Conv3d]:
    from torch import nn

    return (part for part in module.modules() if isinstance(part, (nn.Conv2d, nn.Conv3d)))


def is_depthwise(part: nn.Conv2d | nn.Conv3d) -> bool:
    return part.groups > 1 and part.groups == part.in_channels and part.weight.ndim == 4


def needs_float32(part: nn.Conv2d | nn.Conv3d, sides: Sequence[int]) -> bool:
    """Whether a convolution of maps with these sides must not be computed in bf16 on a CPU.

    Depthwise ones of images are slower in bf16 (mobilenet 0.8x). In others oneDNN leaves parts of the gradient of the
    weights unwritten, or writes beside it, on CPUs with AVX512_BF16 but without AMX (torch 2.15): those of volumes
    with a side shorter than the kernel, such as the last stage of a ResNet on cubes of 48 voxels, and strided ones of
    images that are one pixel wide.
    """
    if is_depthwise(part):
        return True
    if len(sides) == 3:
        return any(side < length for side, length in zip(sides, part.kernel_size, strict=True))
    return sides[1] == 1 < part.kernel_size[1] and part.stride[1] > 1


def in_float32_where_needed(part: nn.Conv2d | nn.Conv3d) -> Forward:
    import torch

    own = part.forward

    def forward(images: Tensor) -> Tensor:
        if not needs_float32(part, images.shape[2:]):
            return own(images)
        with torch.autocast("cpu", enabled=False):
            return own(images.float())

    return forward


def in_contiguous(part: nn.Conv2d | nn.Conv3d) -> Forward:
    import torch

    own = part.forward
    with torch.no_grad():  # contiguous strides: to torch, (C, 1, k, k) in channels_last is both
        part.weight.set_(torch.empty(part.weight.shape, device=part.weight.device).copy_(part.weight))  # type: ignore[call-overload]

    def forward(images: Tensor) -> Tensor:
        return own(images.contiguous()).contiguous(memory_format=torch.channels_last)

    return forward

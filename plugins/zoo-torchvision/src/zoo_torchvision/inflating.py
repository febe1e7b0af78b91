"""ResNets for volumes: the 2-D network with its weights, inflated along depth.

The method is that of I3D (Carreira & Zisserman, CVPR 2017).
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from zoo import BuildRequest, ModelSpec
from zoo_torchvision.building import build_model

if TYPE_CHECKING:
    from torch import Tensor, nn

INFLATED = ("resnet18", "resnet50")
I3D = "Carreira & Zisserman 2017, CVPR, arXiv:1705.07750"
DERIVATION = "2-D kernels repeated along depth and divided by it (I3D); the first one summed over its input channels"


def inflate_spec(spec: ModelSpec) -> ModelSpec:
    """The spec of the 3-D network of a 2-D one, from the same files of weights."""
    return replace(
        spec,
        name=f"{spec.name}_3d",
        build=partial(build_inflated, spec.name),
        title=f"{spec.name} (torchvision) inflated to 3-D",
        dims=(3,),
        image_size=96,
        min_image_size=32,
        channels=1,
        mean=(0.0,),
        std=(1.0,),
        weights=tuple(replace(weights, mean=(0.0,), std=(1.0,)) for weights in spec.weights),
        weights_of=spec.name,
        derivation=DERIVATION,
        citation=f"{spec.citation}; {I3D}",
        version=1,
        first_conv="",
        code="",
    )


def build_inflated(name: str, request: BuildRequest) -> nn.Module:
    """Build the 2-D network with its weights, inflate it, and adapt the first convolution to the channels."""
    module = inflate(build_model(name, replace(request, dims=2, channels=3)))
    first: Any = module.conv1
    adapt_input(first, request.channels)
    return module


def inflate(module: nn.Module) -> nn.Module:
    """Replace the 2-D layers of a network by 3-D ones, in place: a cube for each square kernel.

    A volume whose slices are all equal gets the activations of the slice, but at the borders along depth, where the
    padding is seen.
    """
    for name, part in list(module.named_children()):
        setattr(module, name, inflate_layer(part))
    return module


def inflate_layer(part: nn.Module) -> nn.Module:
    from torch import nn

    if isinstance(part, nn.Conv2d):
        return inflate_convolution(part)
    if isinstance(part, nn.BatchNorm2d):
        normalization = nn.BatchNorm3d(part.num_features, eps=part.eps, momentum=part.momentum)
        normalization.load_state_dict(part.state_dict())
        return normalization
    if isinstance(part, nn.MaxPool2d):
        return nn.MaxPool3d(part.kernel_size, part.stride, part.padding)
    if isinstance(part, nn.AdaptiveAvgPool2d):
        return nn.AdaptiveAvgPool3d(1)
    return inflate(part)


def inflate_convolution(part: nn.Conv2d) -> nn.Conv3d:
    import torch
    from torch import nn

    def cube(sides: Any) -> tuple[int, int, int]:
        return (int(sides[0]),) * 3

    with torch.random.fork_rng(devices=[]):  # its own init is replaced
        inflated = nn.Conv3d(
            part.in_channels,
            part.out_channels,
            cube(part.kernel_size),
            stride=cube(part.stride),
            padding=cube(part.padding),
            dilation=cube(part.dilation),
            groups=part.groups,
            bias=part.bias is not None,
        )
    depth = inflated.kernel_size[0]
    with torch.no_grad():
        inflated.weight.copy_(part.weight[:, :, None].expand(-1, -1, depth, -1, -1) / depth)
        if part.bias is not None and inflated.bias is not None:
            inflated.bias.copy_(part.bias)
    return inflated


def adapt_input(convolution: nn.Conv3d, channels: int) -> None:
    """Adapt a convolution to `channels` as the core does in 2-D: sum over the input, or repeat and scale."""
    import torch
    from torch import nn

    weight: Tensor = convolution.weight.detach()
    if channels == 1:
        adapted = weight.sum(dim=1, keepdim=True)
    else:
        adapted = weight[:, torch.arange(channels) % weight.shape[1]] * (weight.shape[1] / channels)
    convolution.weight = nn.Parameter(adapted.contiguous())
    convolution.in_channels = channels

"""A U-Net decoder on the encoder of any convolutional classification model.

The maps that the decoder takes are found by one run of the encoder: the last one of each halving of the image.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from zoo import BuildRequest, ModelSpec, ZooError

if TYPE_CHECKING:
    from torch import Tensor, nn

WIDTHS = (256, 128, 64, 32, 16)  # of the decoder, from the smallest map to the image
MAX_LEVEL = 5  # halvings of the image
MIN_MAPS = 3


def build_on_encoder(spec: ModelSpec, request: BuildRequest) -> nn.Module:
    """Build the encoder with its weights, without its classifier, and a decoder with random init."""
    import torch
    from torch import nn

    from zoo_segmentation.blocks import Decoder, enlarge, two_convolutions

    class UNet(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = spec.build(request)
            size = request.image_size
            taps = find_maps(self.encoder, torch.zeros(2, spec.channels, size, size))
            if len(taps) < MIN_MAPS:
                raise ZooError(
                    f"model 'unet-{spec.name}': its encoder has maps of {len(taps)} sizes, expected {MIN_MAPS} or more",
                    fix="choose a convolutional encoder, such as unet-resnet18",
                    code="wrong-output",
                )
            self.maps: dict[str, Tensor] = {}
            self.taps = tuple(taps)
            for name in taps:
                # A hook would keep a GPU from capturing the step: what hooks do is unknown.
                tapped = self.encoder.get_submodule(name)
                tapped.forward = partial(keep_map, tapped.forward, self.maps, name)  # type: ignore[method-assign]
            channels = list(taps.values())
            self.decoder = Decoder(channels, list(WIDTHS[: len(channels) - 1]), nn.BatchNorm2d)
            last = WIDTHS[len(channels) - 1]
            self.last = two_convolutions(WIDTHS[len(channels) - 2] + request.channels, last, nn.BatchNorm2d)
            self.head = nn.Conv2d(last, request.num_outputs, 1)

        def forward(self, images: Tensor) -> Tensor:
            self.encoder(images)
            decoded = self.decoder([self.maps[name] for name in self.taps])
            self.maps.clear()
            # The largest map has half the image's side: small labels need the image itself.
            logits: Tensor = self.head(self.last(torch.cat([enlarge(decoded, images), images], dim=1)))
            return logits

    return UNet()


def keep_map(forward: Callable[..., Tensor], maps: dict[str, Tensor], name: str, *inputs: Any) -> Tensor:
    """Call a submodule's forward and keep what it returns."""
    maps[name] = forward(*inputs)
    return maps[name]


def find_maps(encoder: nn.Module, images: Tensor) -> dict[str, int]:
    """The submodule that computes the last map of each level, the largest first, and its channels.

    A map of level k has 1/2^k of the image's side. Without padding it is some pixels smaller: 147 of 299 is level 1.
    The modules that the encoder calls after the last of these maps, its classifier, become the identity, unless the
    encoder fails without them: branches of a map beyond the last level must fit each other.
    """
    import torch
    from torch import nn

    size = images.shape[-1]
    last: dict[int, tuple[str, int]] = {}  # by level
    later: list[str] = []  # modules with parameters that were called after the last map

    def note(module: nn.Module, inputs: object, output: object, *, name: str) -> None:  # noqa: ARG001
        is_map = isinstance(output, torch.Tensor) and output.ndim == 4 and output.shape[-2] == output.shape[-1]
        level = round(math.log2(size / output.shape[-1])) if is_map else 0  # type: ignore[union-attr]
        if 1 <= level <= MAX_LEVEL and has_convolution(module):
            last[level] = (name, output.shape[1])  # type: ignore[union-attr]
            later.clear()
        elif next(module.parameters(recurse=False), None) is not None:
            later.append(name)

    named = [(name, module) for name, module in encoder.named_modules() if name]
    hooks = [module.register_forward_hook(partial(note, name=name)) for name, module in named]
    was_training = encoder.training
    try:
        with torch.inference_mode():
            encoder.eval()(images)
            for hook in hooks:
                hook.remove()
            replaced = {name: encoder.get_submodule(name) for name in later}
            set_submodules(encoder, {name: nn.Identity() for name in later})
            try:
                encoder(images)
            except RuntimeError:
                set_submodules(encoder, replaced)
    finally:
        encoder.train(was_training)
    return {name: channels for _, (name, channels) in sorted(last.items())}


def set_submodules(module: nn.Module, parts: Mapping[str, nn.Module]) -> None:
    for name, part in parts.items():
        parent, _, own = name.rpartition(".")
        setattr(module.get_submodule(parent), own, part)


def has_convolution(module: nn.Module) -> bool:
    """Whether a module computes a convolution: the square maps of attention are not maps of an image."""
    from torch import nn

    return any(isinstance(part, nn.Conv2d) for part in module.modules())


def encoder_first(module: nn.Module) -> list[list[nn.Parameter]]:
    """The parameters of the encoder, then those of the decoder."""
    encoder = list(module.encoder.parameters())  # type: ignore[union-attr]
    own = {id(parameter) for parameter in encoder}
    return [encoder, [parameter for parameter in module.parameters() if id(parameter) not in own]]

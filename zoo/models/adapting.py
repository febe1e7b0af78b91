"""Adapt a model to a dataset: replace the head, the input channels and the stem."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from zoo.errors import RunError, UsageError
from zoo.specs.model import ModelSpec

if TYPE_CHECKING:
    from torch import Tensor, nn


def submodule(module: nn.Module, name: str) -> tuple[nn.Module, str, nn.Module]:
    """Return the parent, the attribute and the submodule of a dotted `name`."""
    parent_name, _, attribute = name.rpartition(".")
    parent = module.get_submodule(parent_name)
    return parent, attribute, getattr(parent, attribute)


def replace_head(module: nn.Module, name: str, num_outputs: int, std: float) -> None:
    """Replace the classifier, a linear layer or a 1x1 convolution, by a new one with `num_outputs`.

    Activations after the classifier are removed, because losses take logits, which may have either sign.
    """
    from torch import nn

    parent, attribute, old = submodule(module, name)
    new: nn.Linear | nn.Conv2d
    if isinstance(old, nn.Linear):
        new = nn.Linear(old.in_features, num_outputs)
    elif isinstance(old, nn.Conv2d):
        new = nn.Conv2d(old.in_channels, num_outputs, kernel_size=1)
    else:
        raise RunError(f"classifier {name!r} is a {type(old).__name__}; expected a linear layer or a 1x1 convolution")
    nn.init.normal_(new.weight, std=std)
    nn.init.zeros_(new.bias)  # type: ignore[arg-type]
    setattr(parent, attribute, new)
    drop_activations(parent, attribute)
    for owner in (module, parent):  # timm and SqueezeNet reshape by this number
        if hasattr(owner, "num_classes"):
            owner.num_classes = num_outputs  # type: ignore[assignment]


def drop_activations(parent: nn.Module, attribute: str) -> None:
    """Remove the activations after a head in its Sequential, such as the ReLU of SqueezeNet.

    After a ReLU no logit is negative: no multi-label probability is below 0.5, and a logit that is zero for every
    image gets no gradient. Features do not depend on it.
    """
    from torch import nn

    if not isinstance(parent, nn.Sequential):
        return
    names = [name for name, _ in parent.named_children()]
    for name in names[names.index(attribute) + 1 :]:
        # The module that defines ReLU defines all activations of torch.
        if type(getattr(parent, name)).__module__ == nn.ReLU.__module__:
            setattr(parent, name, nn.Identity())


def adapt_channels(module: nn.Module, spec: ModelSpec, channels: int, size: int) -> None:
    """Adapt the first convolutions of a spec to `channels`, or the module's inputs if its outputs would change.

    They change if the module uses the weights or the images otherwise, for instance if its forward standardizes the
    weights of the convolution.
    """
    import torch

    images = torch.rand(1, channels, size, size, generator=torch.Generator().manual_seed(0))
    expected = respond_or_none(module, fold_channels(images, spec.channels))
    undo = [adapt_first_conv(module, name, channels) for name in spec.first_conv.split(",")]
    if expected is None or not bool(torch.isfinite(expected).all()):
        return  # `check_output` reports it
    outputs = respond_or_none(module, images)
    # Summed and repeated weights differ by rounding: below .0001 of the largest output in 50 layers.
    atol = 0.01 * float(expected.abs().max())
    if outputs is None or not torch.allclose(outputs, expected, rtol=0.0, atol=atol, equal_nan=True):
        for restore in reversed(undo):
            restore()
        module.register_forward_pre_hook(partial(fold_inputs, channels=spec.channels))


def respond_or_none(module: nn.Module, images: Tensor) -> Tensor | None:
    """The outputs of a module, or None if it fails or returns no tensor; the random state is unchanged."""
    import torch

    try:
        with torch.random.fork_rng(devices=[]):
            outputs: object = respond(module, images)
    except Exception:  # a plugin's forward may raise anything
        return None
    return outputs if isinstance(outputs, torch.Tensor) else None


def adapt_first_conv(module: nn.Module, name: str, channels: int) -> Callable[[], None]:
    """Adapt the first convolution to `channels`, preserving its response; return a function that restores it.

    For one channel, sum the weights over the input channels: the output for a gray image equals that for the image
    repeated over the old channels. For more channels, repeat the weights cyclically and scale them by old / new, which
    preserves the response to a constant image. If the convolution transforms its weights (NFNet and BiT standardize
    them in every forward, `weight_norm` computes them), keep them and map its input to the old channels instead.
    """
    from torch import nn

    parent, _, old = submodule(module, name)
    if not isinstance(old, nn.Conv2d):
        raise RunError(f"first convolution {name!r} is a {type(old).__name__}; expected a 2-d convolution")
    owners = [owner for owner in (module, parent) if hasattr(owner, "in_chans")]
    old_channels, old_in_chans = old.in_channels, [owner.in_chans for owner in owners]
    old_weight = old._parameters.get("weight")  # None if computed; reading it may change buffers (spectral_norm)
    hook = None
    # Changed in place, because some models subclass Conv2d for their padding ("same").
    if old_weight is None or not adapt_weight(old, channels):
        hook = old.register_forward_pre_hook(partial(fold_inputs, channels=old_channels))
    for owner in owners:
        owner.in_chans = channels  # type: ignore[assignment]

    def restore() -> None:
        if hook:
            hook.remove()
        elif old_weight is not None:
            old.in_channels, old.weight = old_channels, old_weight
        for owner, number in zip(owners, old_in_chans, strict=True):
            owner.in_chans = number

    return restore


def adapt_weight(convolution: nn.Conv2d, channels: int) -> bool:
    """Adapt the weight to `channels` if this preserves the response; return whether it does."""
    import torch
    from torch import nn

    old_weight, old_channels = convolution.weight, convolution.in_channels
    weight = old_weight.detach()
    if channels == 1:
        adapted = weight.sum(dim=1, keepdim=True)
    else:
        order = torch.arange(channels) % weight.shape[1]
        adapted = weight[:, order] * (weight.shape[1] / channels)
    images = torch.rand(2, channels, *probe_size(convolution), generator=torch.Generator().manual_seed(0)).to(weight)
    expected = respond(convolution, fold_channels(images, old_channels))
    convolution.in_channels = channels
    convolution.weight = nn.Parameter(adapted.contiguous())
    if torch.allclose(respond(convolution, images), expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max())):
        return True
    convolution.in_channels, convolution.weight = old_channels, old_weight
    return False


def probe_size(convolution: nn.Conv2d) -> tuple[int, int]:
    """Height and width of an image for which a convolution has several outputs, including at the borders."""
    height, width = (2 * d * (k - 1) + 2 * s + 1 for k, s, d in zip(*window(convolution), strict=True))
    return height, width


def window(convolution: nn.Conv2d) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    return convolution.kernel_size, convolution.stride, convolution.dilation


def respond(module: nn.Module, images: Tensor) -> Tensor:
    """The outputs for some images, in eval mode so that no buffers change."""
    import torch

    was_training = module.training
    try:
        with torch.no_grad():
            outputs: Tensor = module.eval()(images)
    finally:
        module.train(was_training)
    return outputs


def fold_channels(images: Tensor, channels: int) -> Tensor:
    """Map images (N, n, H, W) to `channels`, equivalent to repeating weights cyclically and scaling by channels / n.

    A single channel is repeated. Otherwise channel c is added to channel c mod `channels`, times channels / n.
    """
    if images.shape[1] == 1:
        return images.expand(-1, channels, -1, -1)
    import torch

    order = torch.arange(images.shape[1], device=images.device) % channels
    shape = (len(images), channels, *images.shape[2:])
    folded = torch.zeros(shape, dtype=images.dtype, device=images.device).index_add(1, order, images)
    return folded * (channels / images.shape[1])


def fold_inputs(module: nn.Module, inputs: tuple[Tensor, ...], *, channels: int) -> tuple[Tensor, ...]:  # noqa: ARG001
    """The forward pre-hook of a convolution or a module that keeps its weights; only the first input is an image."""
    return (fold_channels(inputs[0], channels), *inputs[1:])


def use_small_stem(module: nn.Module, spec: ModelSpec) -> None:
    """Give a ResNet the CIFAR stem: a 3x3 stride-1 first convolution, no max-pooling (He et al. 2016, section 4.2)."""
    from torch import nn

    has_pool = isinstance(getattr(module, "maxpool", None), nn.Module)
    old = module.get_submodule(spec.first_conv) if has_pool and spec.first_conv else None
    if not isinstance(old, nn.Conv2d):
        raise UsageError(f"model {spec.name!r} has no ResNet stem to shrink", fix="use --set stem=own", code="stem")
    parent, attribute, _ = submodule(module, spec.first_conv)
    new = nn.Conv2d(old.in_channels, old.out_channels, kernel_size=3, stride=1, padding=1, bias=False)
    nn.init.kaiming_normal_(new.weight, mode="fan_out", nonlinearity="relu")
    setattr(parent, attribute, new)
    module.maxpool = nn.Identity()


def takes_repeated_gray(spec: ModelSpec, channels: int) -> bool:
    """Whether gray images are repeated, because the spec names no first convolution to adapt."""
    return channels == 1 and spec.channels != 1 and not spec.first_conv and bool(spec.classifier)

"""Find the spatial map of any network that Grad-CAM explains by one run: the last one, or the smallest of a U-Net."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import isqrt
from typing import TYPE_CHECKING, Any, Literal

from zoo.errors import RunError
from zoo.trained.card import ModelCard
from zoo.trained.modules import FeatureTap

if TYPE_CHECKING:
    from torch import Tensor, nn

EvidenceOf = Callable[["Tensor"], "Tensor"]  # logits (B, outputs) -> (B, columns)


@dataclass(frozen=True, kw_only=True)
class SpatialLayer:
    """An output of a module within a forward pass, and how its values lie on the image."""

    name: str  # of the module, dotted
    place: int  # among the outputs of a forward pass
    layout: Literal["NCHW", "NHWC", "tokens"]
    prefix: int  # tokens before those of the grid
    grid: int  # positions of a side
    axes: int = 2  # 3 of volumes

    def to_maps(self, values: Tensor) -> Tensor:
        """The values of the layer as (B, channels, grid, grid), or along three axes."""
        if self.layout == "NCHW":
            return values
        if self.layout == "NHWC":
            return values.movedim(3, 1)
        return values[:, self.prefix :].mT.reshape(len(values), -1, self.grid, self.grid)


def find_layer(tap: FeatureTap, images: Tensor, evidence: EvidenceOf, card: ModelCard) -> SpatialLayer:
    """Find the last map of positions that the answer depends on; for masks, the last of those with fewest positions.

    The latter is the bottleneck of a U-Net, as in Seg-Grad-CAM (Vinogradova et al. 2020, AAAI): the last map before the
    mask has the positions of the mask itself.

    After the last block of a ViT only the class token matters: maps whose positions have no gradient are left out. If
    maps have as many channels as the network has features, the last of them limits the number of positions, so that a
    matrix of attention between tokens is not taken for a map. Raises RunError if there is none.
    """
    import torch

    detach_caches(tap.module)
    with torch.enable_grad(), recorded_outputs(tap, images.ndim) as outputs:
        logits, features = tap(images.detach().requires_grad_())
        columns = evidence(logits)
        total = (columns * torch.arange(1, columns.shape[1] + 1, device=columns.device)).sum()  # a sum may cancel
    if not total.requires_grad:
        raise no_gradient(card)
    width, num_prefix = 0 if features is None else features.shape[1], prefix_of(tap.module)
    layers = [
        layer
        for place, (name, values) in enumerate(outputs)
        if values.requires_grad
        and len(values) == len(images)
        and (layer := as_layer(name, place, values, (width, num_prefix)))
    ]
    values_of_layers = [outputs[each.place][1] for each in layers]
    gradients = torch.autograd.grad(total, values_of_layers, allow_unused=True) if layers else ()
    used = [
        each
        for each, gradient in zip(layers, gradients, strict=True)
        if gradient is not None and bool(each.to_maps(gradient).any())
    ]
    if not used:
        raise no_map(card, "it has no map of positions that its answer depends on, so Grad-CAM cannot explain it")
    if card.task_kind.head.dense:
        return min(reversed(used), key=lambda each: each.grid)
    matching = [each.grid for each in used if each.to_maps(outputs[each.place][1]).shape[1] == width]
    return [each for each in used if not matching or each.grid <= matching[-1]][-1]


def check_gradient(tap: FeatureTap, images: Tensor, evidence: EvidenceOf, card: ModelCard) -> None:
    """Raise RunError if the answers do not have a gradient, as those of a vote of neighbors."""
    import torch

    detach_caches(tap.module)
    with torch.enable_grad():
        if not evidence(tap(images.detach().requires_grad_())[0]).requires_grad:
            raise no_gradient(card)


def detach_caches(module: nn.Module) -> None:
    """Copy buffers that a network made in inference mode (ConViT): autograd refuses them."""
    for part in module.modules():
        for name, value in list(part.named_buffers(recurse=False)):
            if value.is_inference():
                setattr(part, name, value.clone())


def no_gradient(card: ModelCard) -> RunError:
    return no_map(card, f"a head of method {card.method} has no gradient, which this method needs")


def no_map(card: ModelCard, problem: str) -> RunError:
    return RunError(f"{card.name}: {problem}", fix="use --method occlusion", code="no-map")


@contextmanager
def recorded_outputs(tap: FeatureTap, num_axes: int) -> Iterator[list[tuple[str, Tensor]]]:
    """Yield a list that fills with the name and output of every module up to the classifier, in order of their end.

    The outputs are tokens (B, N, C), or have as many axes as the network's input.
    """
    outputs: list[tuple[str, Tensor]] = []
    is_open = True

    def close(*_: Any) -> None:
        nonlocal is_open
        is_open = False

    def note(name: str) -> Callable[..., None]:
        def hook(_: nn.Module, __: Any, values: Any) -> None:
            if is_open and hasattr(values, "ndim") and values.ndim in (3, num_axes):
                outputs.append((name, values))

        return hook

    modules = dict(tap.module.named_modules())
    hooks = [part.register_forward_hook(note(name)) for name, part in modules.items() if name]
    if tap.name:
        hooks.append(modules[tap.name].register_forward_pre_hook(close))
    try:
        yield outputs
    finally:
        for hook in hooks:
            hook.remove()


def as_layer(name: str, place: int, values: Tensor, features: tuple[int, int | None]) -> SpatialLayer | None:
    """The layer of an output, or None if its positions are not a square or cube of more than one.

    `features` are their number, by which the axis of the channels is recognized, and the number of prefix tokens.
    """
    width, num_prefix = features
    shape = tuple(values.shape[1:])
    if len(shape) == 2:
        prefix = shape[0] - isqrt(shape[0]) ** 2 if num_prefix is None else num_prefix
        grid = isqrt(max(shape[0] - prefix, 0))
        fits = shape[1] == width and grid**2 + prefix == shape[0]
        return (
            SpatialLayer(name=name, place=place, layout="tokens", prefix=prefix, grid=grid)
            if fits and grid > 1
            else None
        )
    if len(shape) == 4:
        is_cube = len(set(shape[1:])) == 1 < shape[1]
        return SpatialLayer(name=name, place=place, layout="NCHW", prefix=0, grid=shape[1], axes=3) if is_cube else None
    is_last = shape[2] == width != shape[0]
    grid, other = shape[:2] if is_last else shape[1:]
    if grid != other or grid == 1:
        return None
    return SpatialLayer(name=name, place=place, layout="NHWC" if is_last else "NCHW", prefix=0, grid=grid)


def prefix_of(module: nn.Module) -> int | None:
    """The number of tokens before those of the grid (class token, registers), if the network states it."""
    stated: Sequence[Any] = [part.num_prefix_tokens for part in module.modules() if hasattr(part, "num_prefix_tokens")]
    return int(stated[0]) if stated else None

"""Transform specs: steps of preprocessing and of augmentation."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from zoo.arrays import Array
from zoo.errors import PluginError, ZooError, message_of
from zoo.specs.choice import Choice, ChoiceSpec


@dataclass(frozen=True, kw_only=True)
class TransformSpec(ChoiceSpec):
    """A step on images: `Protocol.transforms`. Exactly one of `prepare` and `augment` is set.

    `prepare(pixels, **options)` is applied once to each image as it was read, before it is resized: uint8 or uint16,
    (H, W) or (H, W, 3). It returns an image of the same shape and dtype, and does not write into its argument. The same
    step is applied to new images, so a trained model needs its plugin.

    `augment(images, draws, **options)` is applied to every batch of training on its device, after the augmentation of
    the protocol and before normalization: images float32 (B, C, H, W), 0..1 over the intensity range, and `draws`,
    float32 (B, num_draws), uniform in 0..1. It is deterministic, treats each image alone, and moves nothing that a mask
    would have to follow. A GPU captures it once and replays it: it may not read a value back, and its shapes are fixed.
    `severities` are options of severity 1, 2, ...: with them, `zoo robustness` changes test images by `augment`.
    With 3 in `dims` it also takes volumes and patches of volumes (B, C, D, H, W), each with its own range as 0..1.
    """

    prepare: Callable[..., Array] | None = None
    augment: Callable[..., Any] | None = None
    num_draws: int = 1
    dims: tuple[int, ...] = (2,)  # of the images that `augment` takes
    severities: tuple[Mapping[str, float], ...] = ()

    def __post_init__(self) -> None:
        if (self.prepare is None) == (self.augment is None):
            raise TypeError(f"transform {self.name!r}: set exactly one of prepare, augment")
        if self.severities and self.augment is None:
            raise TypeError(f"transform {self.name!r}: severities are of augment")
        if unknown := {name for each in self.severities for name in each} - set(self.options):
            raise TypeError(f"transform {self.name!r}: severities have {min(unknown)!r}, which is no option")


def prepare_pixels(pixels: Array, transforms: Iterable[Choice]) -> Array:
    """Apply the preprocessing steps among some transforms. Raises PluginError if one fails or changes the shape."""
    for transform in transforms:
        prepare = transform.spec.prepare
        if prepare is None:
            continue
        try:
            prepared: Array = prepare(pixels, **transform.options)
            fault = find_prepared_fault(pixels, prepared)
        except ZooError:
            raise
        except Exception as error:  # a plugin's code may raise anything
            fault = f"raised {type(error).__name__}: {message_of(error)}"
        if fault:
            raise PluginError(
                f"transform {transform.spec.name!r} of {transform.plugin} {fault}",
                fix="leave it out of --set transforms, or report this to the plugin's author",
                code="transform-failed",
            )
        pixels = prepared
    return pixels


def find_prepared_fault(pixels: Array, prepared: Array) -> str:
    """How the result of a preprocessing step differs in shape or dtype from the image, or ""."""
    shape, dtype = getattr(prepared, "shape", None), getattr(prepared, "dtype", None)
    if (shape, dtype) == (pixels.shape, pixels.dtype):
        return ""
    return f"returned {dtype} {shape} for an image of {pixels.dtype} {pixels.shape}"

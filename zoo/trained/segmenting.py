"""Predict the masks of new images with trained models, at the size of the images."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from zoo.arrays import Array
from zoo.evaluation.predict_masks import decide_mask, predict_logits
from zoo.images.placement import Placement
from zoo.system.devices import open_device
from zoo.system.replay import within_memory
from zoo.trained.card import ModelCard
from zoo.trained.inputs import NewImage, ReadImage
from zoo.trained.predicting import NewAnswer, pixels_of, read_batches

if TYPE_CHECKING:
    from torch import Tensor

    from zoo.trained.opening import OpenModel

LARGE_AT_ONCE = 4  # read in advance; they may be large where a network is trained on patches


@dataclass(frozen=True, kw_only=True, eq=False)
class NewMask(NewAnswer):
    """The mask of one image, or the reason why there is none."""

    mask: Array | None = None  # uint8 (height, width): 0 for background, k + 1 for label k
    file: str = ""  # where it was written


def by_answer(card: ModelCard) -> ModelCard:
    """The card by whose unit files are listed: each image has its own mask, also where scores are by patient."""
    return replace(card, unit="image") if card.task_kind.targets.spatial else card


def segment_images(models: Sequence[OpenModel], images: Iterable[NewImage]) -> Iterator[NewMask]:
    """Yield the masks in the order of the images; three small batches of images are in memory at most."""
    for batch in read_batches(models[0], images, LARGE_AT_ONCE):
        for each in batch:
            if each.pixels is None or each.placement is None:
                yield NewMask(name=each.image.name, refused=each.refused, fix=each.fix)
            else:
                yield segment_image(models, each, each.placement)


def segment_image(models: Sequence[OpenModel], read: ReadImage, placement: Placement) -> NewMask:
    return decide_outputs([predict_output(model, read, placement) for model in models], read, placement)


def decide_outputs(outputs: Sequence[Tensor], read: ReadImage, placement: Placement) -> NewMask:
    """The mask of an image from the logits of each seed."""
    if not all(bool(logits.isfinite().all()) for logits in outputs):
        fix = "name another seed by its run's id"
        return NewMask(name=read.image.name, refused=f"{read.image.name}: the model's output is not finite", fix=fix)
    return NewMask(
        name=read.image.name,
        mask=decide_mask(mean_output(outputs), placement),
        differs=(read.differs,) if read.differs else (),
        tags=read.image.tags,
    )


def predict_output(model: OpenModel, read: ReadImage, placement: Placement) -> Tensor:
    """The logits (O, height, width) of an image at the size of the input, whole or by tiles as in training."""
    assert read.pixels is not None
    patch = tuple(model.card.protocol_fields.get("patch", ()))
    pixels = replace(pixels_of(model, read.pixels[None]), patch=patch * 2 if len(patch) == 1 else patch)

    def attempt(batch: int) -> Tensor:
        (logits,) = predict_logits(
            model.module, pixels, np.zeros(1, np.int64), [placement], batch, model.card.precision
        )
        return logits

    return within_memory(attempt, open_device(model.device).dense_batch(pixels.input_bytes), model.device)[0]


def mean_output(outputs: Sequence[Tensor]) -> Tensor:
    """The output of one model, or the mean probabilities of several: the largest decides each pixel."""
    import torch

    return outputs[0] if len(outputs) == 1 else torch.stack([logits.softmax(dim=0) for logits in outputs]).mean(dim=0)

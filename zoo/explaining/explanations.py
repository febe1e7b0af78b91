"""Explain new images one by one: their answers, the explained outputs, and a map of each."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from zoo.arrays import Array
from zoo.explaining.explainer import Explainer, make_explainer
from zoo.explaining.locating import FindMask, Location, compare_with_mask
from zoo.explaining.outputs import ExplainedOutput, outputs_to_explain
from zoo.images.placement import Placement
from zoo.trained.inputs import ReadImage
from zoo.trained.opening import OpenModel
from zoo.trained.predicting import IMAGES_AT_ONCE, NewAnswer, answer_batch, find_rules, read_batches


@dataclass(frozen=True, kw_only=True)
class Request:
    """How answers are explained: by which method, which label instead of the decided ones, and where masks are."""

    method: str
    label: str = ""
    find_mask: FindMask | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Explanation:
    """The map of one output for one image."""

    output: ExplainedOutput
    map: Array  # float32 (size, size), at least 0, in the network's input
    location: Location | None  # None without a mask


@dataclass(frozen=True, kw_only=True, eq=False)
class ExplainedMask:
    """A predicted mask in the network's input, its reference, and where it is unsure."""

    decided: Array  # label map (size, size)
    reference: Array | None  # the same
    dice: Mapping[str, float]  # by label that one of the two has, at the size of the image; empty without a reference
    uncertainty: Mapping[str, Array]  # of `measure_uncertainty`: float32 (size, size), 0 to 1


@dataclass(frozen=True, kw_only=True, eq=False)
class ExplainedImage:
    """An image and the maps of its explained outputs; without them if it was refused."""

    answer: NewAnswer
    square: Array | None = None  # (size, size, channels); of a volume the network's input (size, size, size, channels)
    placement: Placement | None = None  # of the image in the square; None of a volume
    explanations: tuple[Explanation, ...] = ()
    mask: ExplainedMask | None = None  # of a model of masks


class ImageExplainer:
    """Explain images with the first of some seeds of a model; the layer is found on the first image."""

    kind: ClassVar[Literal["image", "mask", "volume"]] = "image"
    at_once = IMAGES_AT_ONCE

    def __init__(self, models: Sequence[OpenModel], request: Request) -> None:
        self.models, self.model, self.request = models, models[0], request
        self.rules = find_rules(models[:1])
        self.explainer: Explainer | None = None

    @property
    def has_maps(self) -> bool:
        """Whether the method can explain the model."""
        return True

    def explain_images(self, images: Iterable[Any]) -> Iterator[ExplainedImage]:
        """Yield the explained images in order; three batches are in memory at most."""
        for batch in read_batches(self.model, images, self.at_once):
            yield from self.explain_batch(batch)

    def explain_batch(self, batch: Sequence[ReadImage]) -> Iterator[ExplainedImage]:
        for read, answer in zip(batch, answer_batch([self.model], batch, self.rules), strict=True):
            if answer.refused or read.pixels is None or read.placement is None:
                yield ExplainedImage(answer=answer)
                continue
            outputs = outputs_to_explain(self.model.card, answer, self.request.label)
            maps = self.explain_square(read.pixels, [each.column for each in outputs])
            yield ExplainedImage(
                answer=answer,
                square=read.pixels,
                placement=read.placement,
                explanations=tuple(
                    Explanation(output=output, map=values, location=self.locate(answer.name, output, values, read))
                    for output, values in zip(outputs, maps, strict=True)
                ),
            )

    def explain_square(self, square: Array, columns: Sequence[int], decided: Array | None = None) -> Array:
        """The maps (n, size, size) of some columns for one square, with its label map if the columns are its labels."""
        squares = np.stack([square] * len(columns))
        if self.explainer is None:
            self.explainer = make_explainer(self.model, self.request.method, squares[:1], decided)
        return self.explainer.explain(squares, np.array(columns), decided)

    def locate(self, name: str, output: ExplainedOutput, values: Array, read: ReadImage) -> Location | None:
        assert read.placement is not None
        if self.request.find_mask is None:
            return None
        mask = self.request.find_mask(name, output.column, read.placement)
        if mask is None or not mask.any():
            return None
        return compare_with_mask(values, read.placement.mask_to_input(mask, len(values)), read.placement)

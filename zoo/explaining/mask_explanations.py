"""Explain the masks of new images one by one: where they are unsure, and the evidence for each label."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from zoo.arrays import Array
from zoo.explaining.explanations import ExplainedImage, ExplainedMask, Explanation, ImageExplainer
from zoo.explaining.outputs import labels_to_explain
from zoo.explaining.uncertainty import measure_uncertainty
from zoo.images.placement import Placement
from zoo.trained.inputs import ReadImage
from zoo.trained.predicting import NewAnswer
from zoo.trained.segmenting import LARGE_AT_ONCE, decide_outputs, predict_output


class MaskExplainer(ImageExplainer):
    """Explain the mean mask of some seeds; the evidence is that of the first."""

    kind = "mask"
    at_once = LARGE_AT_ONCE

    @property
    def has_maps(self) -> bool:
        """Whether the network takes whole images, not patches of them."""
        return not self.model.card.protocol_fields.get("patch")

    def explain_batch(self, batch: Sequence[ReadImage]) -> Iterator[ExplainedImage]:
        for read in batch:
            if read.pixels is None or read.placement is None:
                yield ExplainedImage(answer=NewAnswer(name=read.image.name, refused=read.refused, fix=read.fix))
                continue
            outputs = [predict_output(model, read, read.placement) for model in self.models]
            answer = decide_outputs(outputs, read, read.placement)
            if answer.mask is None:
                yield ExplainedImage(answer=answer)
                continue
            size, placement = len(read.pixels), read.placement
            uncertainty = measure_uncertainty(outputs)
            mask = ExplainedMask(
                decided=placement.mask_to_input(answer.mask, size),
                uncertainty={each: place_in_input(values, placement, size) for each, values in uncertainty.items()},
                **self.compare(answer.name, answer.mask, placement, size),
            )
            yield ExplainedImage(
                answer=answer,
                square=read.pixels,
                placement=placement,
                explanations=self.explain_labels(read, answer.mask, mask.decided) if self.has_maps else (),
                mask=mask,
            )

    def explain_labels(self, read: ReadImage, mask: Array, decided: Array) -> tuple[Explanation, ...]:
        """The evidence for each label of a mask that is large enough to be in the network's input."""
        assert read.pixels is not None
        outputs = labels_to_explain(self.model.card, mask, self.request.label)
        outputs = [each for each in outputs if (decided == each.column + 1).any()]
        if not outputs:
            return ()
        maps = self.explain_square(read.pixels, [each.column for each in outputs], decided)
        return tuple(
            Explanation(output=output, map=values, location=self.locate(read.image.name, output, values, read))
            for output, values in zip(outputs, maps, strict=True)
        )

    def compare(self, name: str, mask: Array, placement: Placement, size: int) -> dict[str, Any]:
        """The fields of an `ExplainedMask` that need a reference."""
        reference, dice = None, {}
        for column, label in enumerate(self.model.card.labels):
            drawn = self.request.find_mask(name, column, placement) if self.request.find_mask else None
            if drawn is None:
                continue
            if reference is None:
                reference = np.zeros((size, size), np.uint8)
            reference[placement.mask_to_input(drawn, size)] = column + 1
            predicted = mask == column + 1
            if both := int(drawn.sum()) + int(predicted.sum()):
                dice[label] = 2 * int((drawn & predicted).sum()) / both
        return {"reference": reference, "dice": dice}


def place_in_input(values: Array, placement: Placement, size: int) -> Array:
    """A map (height, width) of an image in the network's input (size, size), 0 in the padding."""
    (top, left), (height, width) = placement.offset, placement.resized
    placed = np.zeros((size, size), np.float32)
    placed[top : top + height, left : left + width] = values
    return placed

"""Explain the labels of volumes one by one, by maps of the cube that a volume is fitted into."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from zoo.arrays import Array
from zoo.data.volume_cubes import DecodedCube
from zoo.explaining.explanations import ExplainedImage, Explanation, ImageExplainer
from zoo.explaining.outputs import outputs_to_explain
from zoo.trained.classifying_volumes import answer_cube, cube_pixels, fit_into_cube
from zoo.trained.opening import OpenModel
from zoo.trained.predicting import NewAnswer
from zoo.trained.volume_inputs import NewVolume, answer_volumes, read_new_volume


def input_of(model: OpenModel, decoded: DecodedCube) -> Array:
    """A decoded volume as the network gets it: float32 (size, size, size, channels)."""
    import torch

    (values,) = cube_pixels(model, decoded).inputs(torch.zeros(1, dtype=torch.int64))
    cube: Array = values.movedim(0, -1).cpu().numpy()
    return cube


class VolumeExplainer(ImageExplainer):
    """Explain volumes with one model, by Grad-CAM."""

    kind = "volume"

    def explain_images(self, images: Iterable[NewVolume]) -> Iterator[ExplainedImage]:
        """Yield the explained volumes in order; one is in memory."""
        for volume in images:
            cubes: list[Array] = []

            def classify(volume: NewVolume, cubes: list[Array] = cubes) -> NewAnswer:
                read = read_new_volume(volume, self.model.card)
                decoded = fit_into_cube(self.model.card, read)
                cubes.append(input_of(self.model, decoded))
                return answer_cube([self.model], volume.name, read, decoded, self.rules)

            (answer,) = answer_volumes([volume], classify, NewAnswer)
            yield self.explain_cube(answer, cubes[0]) if not answer.refused else ExplainedImage(answer=answer)

    def explain_cube(self, answer: NewAnswer, cube: Array) -> ExplainedImage:
        outputs = outputs_to_explain(self.model.card, answer, self.request.label)
        maps = self.explain_square(cube, [each.column for each in outputs])
        return ExplainedImage(
            answer=answer,
            square=cube,
            explanations=tuple(
                Explanation(output=output, map=values, location=None)
                for output, values in zip(outputs, maps, strict=True)
            ),
        )

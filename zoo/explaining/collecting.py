"""Collect what the numbers are computed from: the location of every map with a mask, and all of some maps."""

from __future__ import annotations

from collections.abc import Callable

from zoo.explaining.explainer import Explainer
from zoo.explaining.explanations import ExplainedImage
from zoo.explaining.locating import Location
from zoo.explaining.numbers import MEASURED_MAPS, MapNumbers, MeasuredMap, measure_maps
from zoo.system.progress import Progress


class MapCollection:
    """The maps of some images that are measured: the first map of each of MEASURED_MAPS images, spread over all."""

    def __init__(self, num_images: int, owner_of: Callable[[str], str]) -> None:
        self.step, self.owner_of, self.num_explained = -(-num_images // MEASURED_MAPS) or 1, owner_of, 0
        self.measured: list[MeasuredMap] = []
        self.locations: dict[str, list[Location]] = {}

    def add(self, explained: ExplainedImage) -> None:
        """Keep what is needed of an image."""
        if explained.square is None or not explained.explanations:  # refused, or no map
            return
        is_measured = self.num_explained % self.step == 0
        self.num_explained += 1
        owner = self.owner_of(explained.answer.name)
        located = [each.location for each in explained.explanations if each.location]
        if located:
            self.locations.setdefault(owner, []).extend(located)
        if is_measured:
            first = explained.explanations[0]
            self.measured.append(
                MeasuredMap(
                    owner=owner,
                    column=first.output.column,
                    square=explained.square,
                    placement=explained.placement,
                    map=first.map,
                    decided=explained.mask.decided if explained.mask else None,
                )
            )

    def measure(self, explainer: Explainer | None, progress: Progress) -> MapNumbers:
        """The numbers about the maps; without an explainer no image was explained."""
        if explainer is None:
            return MapNumbers(maps=0, empty=0)
        return measure_maps(explainer, self.measured, self.locations, progress)

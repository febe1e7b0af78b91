"""Choose how the answers of a model are explained, by what it takes and predicts."""

from __future__ import annotations

from collections.abc import Sequence

from zoo.explaining.explanations import ImageExplainer, Request
from zoo.explaining.mask_explanations import MaskExplainer
from zoo.explaining.volume_explanations import VolumeExplainer
from zoo.trained.opening import OpenModel


def open_explainer(models: Sequence[OpenModel], request: Request) -> ImageExplainer:
    """The explainer of a model; of some seeds, the first is explained."""
    card = models[0].card
    kind = VolumeExplainer if card.dims == 3 else MaskExplainer if card.task_kind.targets.spatial else ImageExplainer
    return kind(models, request)

"""Make maps of where the evidence for an output is, by one of several methods."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from zoo.arrays import Array
from zoo.errors import UsageError
from zoo.explaining.attribution import INTEGRATED_GRADIENTS, OCCLUSION, attribute
from zoo.explaining.gradcam import grad_cam
from zoo.explaining.inputs import normalize_squares
from zoo.explaining.layers import EvidenceOf, SpatialLayer, check_gradient, find_layer
from zoo.trained.card import ModelCard
from zoo.trained.opening import OpenModel

if TYPE_CHECKING:
    from torch import Tensor

GRAD_CAM = "grad-cam"
MAP_METHODS = (GRAD_CAM, INTEGRATED_GRADIENTS, OCCLUSION)


@dataclass(frozen=True, kw_only=True, eq=False)
class Explainer:
    """A trained model and the way in which its answers are explained."""

    model: OpenModel
    method: str
    layer: SpatialLayer | None  # None: the method explains the input itself

    @property
    def card(self) -> ModelCard:
        return self.model.card

    def explain(self, squares: Array, columns: Array, decided: Array | None = None) -> Array:
        """Maps float32 (B, size, size), at least 0, of one column for each square (B, size, size, channels).

        Those of cubes (B, size, size, size, channels) have three axes.

        `decided` is the label map (size, size) of the squares, which are then those of one image; None without masks.
        """
        import torch

        images = normalize_squares(self.model, squares)
        chosen, evidence = torch.from_numpy(columns).to(images.device), evidence_of(self.card, decided)
        if self.layer is None:
            maps = attribute(self.method, self.model.tap, images, chosen, evidence)
        else:
            maps = enlarge(grad_cam(self.model.tap, images, chosen, evidence, self.layer), self.card.image_size)
        values: Array = np.nan_to_num(maps.cpu().numpy(), nan=0.0, posinf=0.0)  # a map that overflows is empty
        return values


def check_method(method: str) -> None:
    """Raise UsageError for an unknown method, and if a method needs a library that is not installed."""
    if method not in MAP_METHODS:
        raise UsageError(f"unknown method {method!r}", fix=f"the methods are {', '.join(MAP_METHODS)}")
    if method != GRAD_CAM and importlib.util.find_spec("captum") is None:
        raise UsageError(f"--method {method} needs captum", fix="pip install 'zoo-bench[captum]'", code="extra-missing")


def evidence_of(card: ModelCard, decided: Array | None) -> EvidenceOf:
    """What is explained of logits: the answer of an image, or each label within its region of a mask."""
    import torch

    answers = card.task_kind.answers
    if decided is None:
        return answers.evidence
    regions = torch.from_numpy(decided)
    return lambda logits: answers.region_evidence(logits, regions.to(logits.device))


def make_explainer(model: OpenModel, method: str, squares: Array, decided: Array | None = None) -> Explainer:
    """The explainer of a model; some squares (B, size, size, channels) show where the map is that Grad-CAM explains.

    Raises RunError if the method needs a gradient or a map that the network does not have.
    """
    images, evidence = normalize_squares(model, squares), evidence_of(model.card, decided)
    if method == INTEGRATED_GRADIENTS:
        check_gradient(model.tap, images, evidence, model.card)
    layer = find_layer(model.tap, images, evidence, model.card) if method == GRAD_CAM else None
    return Explainer(model=model, method=method, layer=layer)


def enlarge(maps: Tensor, size: int) -> Tensor:
    """Enlarge maps (B, grid, grid) to (B, size, size), bilinear; those of volumes along three axes, trilinear."""
    from torch.nn.functional import interpolate

    mode, sides = ("bilinear", (size, size)) if maps.ndim == 3 else ("trilinear", (size,) * 3)
    return interpolate(maps[:, None], size=sides, mode=mode, align_corners=False)[:, 0]

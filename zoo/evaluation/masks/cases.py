"""Compare the label maps of one case: one row of exact statistics per label."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from zoo.arrays import Array
from zoo.evaluation.masks.lesions import count_lesions
from zoo.evaluation.masks.rule import MaskRule
from zoo.evaluation.masks.skeletons import topology_precision
from zoo.evaluation.masks.surfaces import Separation, boundary_voxels, surface_elements

DistanceUnit = Literal["mm", "px"]
NONE = float("nan")


@dataclass(frozen=True, kw_only=True, eq=False)
class MaskCase:
    """Two label maps of one image, on the same grid.

    `spacing` is the size of a voxel along each axis in mm. If one is NaN, it is unknown: distances are in pixels then,
    and volumes in pixels or voxels. Raises ValueError if the shapes do not match, or if there are not 2 or 3 axes.
    """

    case: str
    patient: str
    reference: Array  # integers (H, W) or (D, H, W), 0 is background
    prediction: Array  # of the same shape
    spacing: tuple[float, ...]
    is_predicted: bool = True  # False: there is no prediction, and `prediction` is empty

    def __post_init__(self) -> None:
        shape = self.reference.shape
        if self.prediction.shape != shape:
            raise ValueError(f"{self.case}: the reference is {shape}, the prediction {self.prediction.shape}")
        if len(shape) not in (2, 3) or len(self.spacing) != len(shape):
            raise ValueError(
                f"{self.case}: {len(shape)} axes and {len(self.spacing)} spacings, expected 2 or 3 of each"
            )
        if any(size <= 0 or math.isinf(size) for size in self.spacing):
            raise ValueError(f"{self.case}: spacing {self.spacing}, expected positive numbers")

    @property
    def unit(self) -> DistanceUnit:
        return "px" if any(map(math.isnan, self.spacing)) else "mm"

    @property
    def voxel(self) -> tuple[float, ...]:
        """The size of a voxel in the unit of the distances."""
        return (1.0,) * len(self.spacing) if self.unit == "px" else self.spacing

    @property
    def diagonal(self) -> float:
        """The diagonal of the image: the worst distance."""
        return math.hypot(*(length * size for length, size in zip(self.reference.shape, self.voxel, strict=True)))


@dataclass(frozen=True, kw_only=True)
class CaseRow:
    """The statistics of one label of one case; NaN is undefined. Distances are in `unit`, volumes in its power.

    If both masks are empty, the distances are undefined. If one is empty, they are the diagonal of the image.
    """

    case: str
    patient: str
    label: str
    unit: str  # of distances: mm or px
    is_predicted: bool
    tp: int = 0  # voxels
    fp: int = 0
    fn: int = 0
    ref_volume: float = 0.0
    pred_volume: float = 0.0
    hd95: float = NONE
    assd: float = NONE
    nsd_num: float = 0.0  # boundary voxels of both masks within the tolerance of the other's
    nsd_den: float = 0.0  # boundary voxels of both masks
    nsd_surface_num: float = 0.0  # the same of surface elements, in mm2 (2-D: mm)
    nsd_surface_den: float = 0.0
    tprec: float = NONE  # the share of the prediction's skeleton in the reference
    tsens: float = NONE  # the share of the reference's skeleton in the prediction
    components_ref: int = 0
    components_pred: int = 0
    components_hit: int = 0  # of the reference, with a match
    components_false: int = 0  # of the prediction, without a match


def compare_case(case: MaskCase, labels: Mapping[str, int], rule: MaskRule) -> list[CaseRow]:
    """One row per label, which maps a name to the value in the label maps. Labels do not overlap."""
    values = list(labels.values())
    boxes = zip(find_boxes(case.reference, values), find_boxes(case.prediction, values), strict=True)
    return [
        compare_label(case, name, (value, join_boxes(pair)), rule)
        for (name, value), pair in zip(labels.items(), boxes, strict=True)
    ]


VoxelBox = tuple[slice, ...]


def find_boxes(label_map: Array, values: Sequence[int]) -> list[VoxelBox | None]:
    """The bounding box of each label, None if it does not occur."""
    from scipy.ndimage import find_objects

    boxes: list[VoxelBox | None] = find_objects(label_map, max_label=max(values, default=1))
    return [boxes[value - 1] for value in values]


def join_boxes(boxes: Sequence[VoxelBox | None]) -> VoxelBox | None:
    """The box around several boxes."""
    known = [box for box in boxes if box is not None]
    if not known:
        return None
    return tuple(slice(min(s.start for s in sides), max(s.stop for s in sides)) for sides in zip(*known, strict=True))


def compare_label(case: MaskCase, name: str, place: tuple[int, VoxelBox | None], rule: MaskRule) -> CaseRow:
    """The row of one label, whose voxels have a value and lie in a box."""
    value, box = place
    empty = CaseRow(case=case.case, patient=case.patient, label=name, unit=case.unit, is_predicted=case.is_predicted)
    if box is None:
        return empty
    reference, prediction = case.reference[box] == value, case.prediction[box] == value
    num_reference, num_predicted = int(np.count_nonzero(reference)), int(np.count_nonzero(prediction))
    tp = int(np.count_nonzero(reference & prediction))
    volume = math.prod(case.voxel)
    measured = measure_surfaces(case, reference, prediction, rule) | measure_parts(reference, prediction, rule)
    return replace(
        empty,
        tp=tp,
        fp=num_predicted - tp,
        fn=num_reference - tp,
        ref_volume=num_reference * volume,
        pred_volume=num_predicted * volume,
        **measured,
    )


def count_case(case: MaskCase, labels: Mapping[str, int]) -> list[CaseRow]:
    """The rows of `compare_case` without what depends on surfaces and lesions: numbers of voxels, and volumes."""
    size, volume = max(labels.values()) + 1, math.prod(case.voxel)
    pairs = case.reference.ravel().astype(np.intp) * size + case.prediction.ravel()
    table = np.bincount(pairs, minlength=size**2).reshape(size, size)  # by reference and prediction
    drawn, predicted = table.sum(axis=1).tolist(), table.sum(axis=0).tolist()
    return [
        CaseRow(
            case=case.case,
            patient=case.patient,
            label=name,
            unit=case.unit,
            is_predicted=case.is_predicted,
            tp=int(table[value, value]),
            fp=predicted[value] - int(table[value, value]),
            fn=drawn[value] - int(table[value, value]),
            ref_volume=drawn[value] * volume,
            pred_volume=predicted[value] * volume,
        )
        for name, value in labels.items()
    ]


def measure_surfaces(case: MaskCase, reference: Array, prediction: Array, rule: MaskRule) -> dict[str, Any]:
    """The fields of a row that come from distances between the surfaces of two masks, at least one not empty."""
    voxel = case.voxel
    voxels = Separation(boundary_voxels(reference), boundary_voxels(prediction), voxel)
    elements = Separation(surface_elements(reference, voxel), surface_elements(prediction, voxel), voxel)
    fields = {"nsd_den": voxels.total, "nsd_surface_den": elements.total}
    if not (reference.any() and prediction.any()):
        return {"hd95": case.diagonal, "assd": case.diagonal, **fields}
    return {
        "hd95": voxels.hd95(),
        "assd": voxels.assd(),
        "nsd_num": voxels.within(rule.tolerance),
        "nsd_surface_num": elements.within(rule.tolerance),
        **fields,
    }


def measure_parts(reference: Array, prediction: Array, rule: MaskRule) -> dict[str, Any]:
    """The fields of a row that come from lesions, and from skeletons if the rule wants them."""
    lesions = count_lesions(reference, prediction, rule)
    fields: dict[str, Any] = {
        "components_ref": lesions.reference,
        "components_pred": lesions.predicted,
        "components_hit": lesions.hit,
        "components_false": lesions.false,
    }
    if rule.skeletons:
        fields["tprec"] = topology_precision(prediction, reference)
        fields["tsens"] = topology_precision(reference, prediction)
    return fields

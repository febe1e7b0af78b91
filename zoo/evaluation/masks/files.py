"""Compare files of predicted masks with their references."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from zoo.errors import DataError, UsageError
from zoo.evaluation.masks.cases import CaseRow, MaskCase, compare_case
from zoo.evaluation.masks.records import CaseScores, to_case_scores
from zoo.evaluation.masks.rule import MaskRule
from zoo.images.label_maps import LabelMap, check_same_grid, read_declared_spacing, read_label_map
from zoo.sources.label_map_pairs import PairedCases


@dataclass(frozen=True, kw_only=True)
class MaskRequest:
    """What a comparison of mask files needs beside the files."""

    rule: MaskRule
    labels: Mapping[str, int] | None = None  # by name; None: every value that occurs, named by itself
    patients: Mapping[str, str] | None = None  # by case; None: every case is its own patient
    spacing: tuple[float, ...] | None = None  # in mm along the axes, of files that declare none


@dataclass(frozen=True, kw_only=True, eq=False)
class MaskComparison:
    """The case table of a comparison and what is not in it."""

    scores: CaseScores
    refused: tuple[DataError, ...]  # one per pair that could not be compared
    only_predicted: tuple[str, ...] = ()  # labels that occur in no reference
    unlisted: tuple[int, ...] = ()  # values in the files that are not among the requested labels
    without_patient: tuple[str, ...] = ()  # cases missing from the table of patients: each is its own patient


def compare_files(
    cases: PairedCases, request: MaskRequest, progress: Callable[[int, int | None], None]
) -> MaskComparison:
    """Read and compare every pair; a reference without a prediction is compared with an empty mask.

    Raises UsageError if all masks are empty, or if 255 is white in one file and a label in another.
    """
    rows: list[CaseRow] = []
    refused, read = [], []
    for done, (case, (reference_path, prediction_path)) in enumerate(cases.pairs.items(), start=1):
        try:
            reference = read_label_map(reference_path)
            prediction = None if prediction_path is None else read_label_map(prediction_path)
            opened = open_case(case, reference, prediction, request)
        except DataError as error:
            refused.append(error)
        else:
            found = sorted({*reference.values, *(prediction.values if prediction else ())})
            labels = request.labels or {str(value): value for value in found}
            present = {name: value for name, value in labels.items() if value in found}
            rows += [*compare_case(opened, present, request.rule), empty_row(opened)]
            read.append((forget_labels(reference), prediction and forget_labels(prediction)))
        progress(done, len(cases.pairs))
    references, predictions = [first for first, _ in read], [second for _, second in read if second]
    check_white(references)
    check_white(predictions)
    in_references, in_predictions = all_values(references), all_values(predictions)
    labels = request.labels or {str(value): value for value in sorted(in_references | in_predictions)}
    if read and not labels:
        raise UsageError(
            "every mask is empty, references and predictions", fix="name the labels: --labels 1", code="masks"
        )
    patients = request.patients
    return MaskComparison(
        scores=to_case_scores(fill_rows(rows, tuple(labels)), request.rule),
        refused=tuple(refused),
        only_predicted=tuple(n for n, value in labels.items() if value in in_predictions - in_references),
        unlisted=tuple(sorted((in_references | in_predictions) - set(labels.values()))),
        without_patient=() if patients is None else tuple(case for case in cases.pairs if case not in patients),
    )


def open_case(case: str, reference: LabelMap, prediction: LabelMap | None, request: MaskRequest) -> MaskCase:
    """The label maps of a case on one grid. Raises DataError if the grids differ."""
    if prediction is not None:
        check_same_grid(reference, prediction)
    num_axes = reference.labels.ndim
    spacing = reference.spacing or request.spacing or (math.nan,) * num_axes
    if len(spacing) != num_axes:
        raise DataError(
            f"{reference.path}: {num_axes} axes, but --spacing has {len(spacing)} numbers",
            fix="give the size of a voxel along each axis",
            code="geometry",
        )
    return MaskCase(
        case=case,
        patient=(request.patients or {}).get(case, case),
        reference=reference.labels,
        prediction=np.zeros_like(reference.labels) if prediction is None else prediction.labels,
        spacing=spacing,
        is_predicted=prediction is not None,
    )


def forget_labels(label_map: LabelMap) -> LabelMap:
    """A label map without its voxels, which would fill the memory."""
    return replace(label_map, labels=label_map.labels[:0], affine=None)


def all_values(label_maps: Sequence[LabelMap]) -> set[int]:
    return {value for label_map in label_maps for value in label_map.values}


def check_white(label_maps: Sequence[LabelMap]) -> None:
    """Raise UsageError if 255 was read as white in one file, and another of the same side has label numbers."""
    white = next((each for each in label_maps if each.is_white), None)
    numbered = next((each for each in label_maps if not each.is_white and set(each.values) - {1}), None)
    if white and numbered:
        raise UsageError(
            f"{white.path} has 0 and 255 only, but {numbered.path} has the label numbers "
            f"{', '.join(map(str, numbered.values[:6]))}: 255 may be white or a label",
            fix="save all masks in the same way",
            code="masks",
        )


def empty_row(case: MaskCase) -> CaseRow:
    """A row without a label: that of every label that does not occur in the case."""
    return CaseRow(case=case.case, patient=case.patient, label="", unit=case.unit, is_predicted=case.is_predicted)


def fill_rows(rows: Sequence[CaseRow], labels: Sequence[str]) -> list[CaseRow]:
    """One row per case and label; those of labels that do not occur in a case are made from its empty row."""
    by_place = {(row.case, row.label): row for row in rows}
    empties = [row for row in rows if row.label == ""]
    return [by_place.get((row.case, label), replace(row, label=label)) for row in empties for label in labels]


# --- spacing ---------------------------------------------------------------------------------------------------------
def find_voxel_size(cases: PairedCases, spacing: tuple[float, ...] | None) -> float:
    """The median of the spacings of all references along all axes, or 1 (pixel) if they are unknown.

    Raises UsageError if some references declare a spacing and others do not: their distances have different units.
    """
    declared = {}
    for reference, _ in cases.pairs.values():
        try:
            declared[reference] = read_declared_spacing(reference) or spacing
        except DataError:  # it is refused when it is compared
            continue
    known = [size for sizes in declared.values() if sizes for size in sizes]
    if known and (unknown := next((path for path, sizes in declared.items() if not sizes), None)):
        declaring = next(path for path, sizes in declared.items() if sizes)
        raise UsageError(
            f"{unknown}: its spacing is unknown, that of {declaring} is not",
            fix="give it: --spacing 0.5,0.5 (mm along each axis)",
            code="masks",
        )
    return float(f"{statistics.median(known):.6g}") if known else 1.0

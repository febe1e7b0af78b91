"""Find metadata and gray levels that predict the label without the image."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from zoo.arrays import Array
from zoo.auditing.findings import Finding, name_samples
from zoo.auditing.levels import find_associations
from zoo.auditing.scope import (
    COLUMN_FOLDS,
    rows_of_frequent_classes,
    why_no_predictive_columns,
)
from zoo.data.fingerprints import Fingerprints
from zoo.data.metadata import MAX_TEXT_VALUES
from zoo.data.opening import OpenDataset
from zoo.data.splits import draw_part
from zoo.sources.decimals import find_ambiguous_comma, to_number

PREDICTIVE_AUROC = 0.7
COLUMN_BINS = 10  # for a numeric column


def find_predictive_columns(source: OpenDataset, fingerprints: Fingerprints) -> Iterator[Finding]:
    """Report metadata that predicts the label without the pixels: scanner, folder, file format."""
    if why_no_predictive_columns(source):
        return
    rows, present = rows_of_frequent_classes(source)
    patients = source.patients[rows]
    classes = np.searchsorted(present, np.asarray(source.samples.targets)[rows])
    folds: list[tuple[Array, Array]] = []
    for what, cells in metadata_columns(source, fingerprints).items():
        values = bin_numbers(cells[rows])
        if not 2 <= len(np.unique(values)) <= MAX_TEXT_VALUES:
            continue
        folds = folds or draw_column_folds(classes, patients)
        area = predict_from_column(values, classes, folds)
        if area > PREDICTIVE_AUROC:
            yield Finding(
                check="metadata",
                verdict="warn",
                splits=(),
                samples=(),
                count=len(rows),
                message=f"{what} alone predicts the label: AUROC {area:.2f} on other patients",
            )


def metadata_columns(source: OpenDataset, fingerprints: Fingerprints) -> Mapping[str, Array]:
    """Return str arrays (N,) by description: metadata columns, the official split, image size, file type and color."""
    table = source.samples.table
    declared = dict.fromkeys((*source.spec.metadata, *source.spec.inputs))
    named = {f"column {name!r}": table[name] for name in declared if name in table.columns}
    columns = {what: cells.astype(str).to_numpy().astype(np.str_) for what, cells in named.items()}
    columns["the official split"] = source.splits
    columns["the image's width"], columns["the image's height"] = (
        fingerprints.widths.astype(str),
        fingerprints.heights.astype(str),
    )
    columns["whether a file is stored in color"] = fingerprints.channels.astype(str)
    if len(source.samples.files) == len(table):
        columns["the file's type"] = np.array([path.suffix.lower() for path in source.samples.files])
    return columns


def draw_column_folds(classes: Array, patients: Array) -> list[tuple[Array, Array]]:
    rows = np.arange(len(classes))
    parts = draw_part(np.ones(len(classes), bool), patients, classes, COLUMN_FOLDS)
    return [(np.setdiff1d(rows, part), part) for part in parts]


def predict_from_column(values: Array, classes: Array, folds: Sequence[tuple[Array, Array]]) -> float:
    """AUROC, macro over classes, of a column as the only predictor.

    The prediction for a value is its share of each class among other patients (five folds by patient). A value that
    does not occur among them predicts the prior.
    """
    from sklearn.metrics import roc_auc_score

    _, codes = np.unique(values, return_inverse=True)
    one_hot = np.eye(int(classes.max()) + 1)[classes]
    predicted = np.zeros_like(one_hot)
    for fitted, tested in folds:
        prior = one_hot[fitted].mean(axis=0)
        sums = np.zeros((codes.max() + 1, one_hot.shape[1]))
        np.add.at(sums, codes[fitted], one_hot[fitted])
        shares = (sums + prior) / (sums.sum(axis=1, keepdims=True) + 1)
        predicted[tested] = shares[codes[tested]]
    areas = [roc_auc_score(one_hot[:, i], predicted[:, i]) for i in range(one_hot.shape[1])]
    return float(np.mean(areas))


def bin_numbers(cells: Array) -> Array:
    """Cut a numeric column into deciles; blanks, words and text columns stay unchanged."""
    texts = cells.tolist()
    if find_ambiguous_comma(texts):
        return cells
    numbers = np.array([to_number(text) for text in texts], dtype=float)  # None becomes NaN
    known = np.isfinite(numbers)
    if 2 * known.sum() < len(cells) or len(np.unique(numbers[known])) <= COLUMN_BINS:
        return cells
    edges = np.unique(np.quantile(numbers[known], np.linspace(0, 1, COLUMN_BINS + 1)[1:-1]))
    return np.where(known, np.searchsorted(edges, numbers, side="right").astype(np.str_), cells)


def find_levels_by_label(source: OpenDataset) -> Iterator[Finding]:
    """Report groups of files whose levels and labels both differ: brightness alone then predicts the label."""
    for association in find_associations(source):
        yield Finding(
            check="levels",
            verdict="warn",
            splits=(),
            samples=name_samples(source, association.rows),
            count=len(association.rows),
            message=f"levels differ by {association.fact}, which is associated with {association.label} "
            f"(p = {association.p_value:.1g}): {len(association.rows)} of {len(source.sample_ids)} images are "
            f"{association.group!r}",
            fix="convert all files to one scale, or leave one group out",
        )

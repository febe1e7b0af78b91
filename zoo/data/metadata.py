"""Choose the metadata columns worth keeping, and read their values."""

from __future__ import annotations

import numpy as np

from zoo.arrays import Array
from zoo.data.inputs import texts_of
from zoo.data.opening import OpenDataset

MAX_TEXT_VALUES = 50  # in a column of texts; more values are likely to identify images
MAX_LENGTH = 60  # characters; longer texts are free text
MAX_DISTINCT = 0.9  # distinct whole numbers per known cell, or values of one patient only per patient; above: ids


def select_metadata(source: OpenDataset) -> dict[str, Array]:
    """Return the table columns stored with results for scores by group: neither ids nor free text.

    These are columns of numbers, or of at most 50 texts that several images share; "" where unknown.
    """
    table = source.samples.table
    columns = {}
    for name in source.spec.metadata:
        if name not in table.columns:
            continue
        values = texts_of(table[name])
        if is_grouping(values, source.patients):
            columns[name] = values
    return columns


def is_grouping(values: Array, patients: Array) -> bool:
    """Whether a column groups images and does not identify them or their patients."""
    values = blank_cells(values)
    has_value = values != ""
    distinct, codes = np.unique(values[has_value], return_inverse=True)
    if len(distinct) < 2 or max(map(len, distinct.tolist())) > MAX_LENGTH:
        return False
    numbers = read_numbers(distinct)
    if numbers is not None and (numbers != np.round(numbers)).any():
        return True
    owners = np.unique(patients[has_value], return_inverse=True)[1]
    one_patient_each = len(np.unique(codes * (owners.max() + 1) + owners)) == len(distinct)
    if one_patient_each and len(distinct) > MAX_DISTINCT * (owners.max() + 1):
        return False
    most = min(MAX_TEXT_VALUES, len(codes) / 2) if numbers is None else MAX_DISTINCT * len(codes)
    return bool(len(distinct) <= most)


def read_numbers(values: Array) -> Array | None:
    """Convert values to float, NaN where empty; None if one is not a finite number, or all are empty."""
    has_value = values != ""
    numbers = np.full(len(values), np.nan)
    try:
        numbers[has_value] = values[has_value].astype(np.float64)
    except ValueError:
        return None
    return numbers if has_value.any() and np.isfinite(numbers[has_value]).all() else None


NOT_KNOWN = frozenset({"na", "n/a", "nan", "none", "unknown", "?"})  # missing values in a column of numbers


def blank_cells(values: Array) -> Array:
    """Blank `NA` and similar cells in a column of numbers; return a column of texts unchanged."""
    blanked = np.where(says_unknown(values), "", values)
    return values if read_numbers(blanked) is None else blanked


def says_unknown(values: Array) -> Array:
    """Whether each cell (N,) is empty or a word for unknown."""
    return np.isin(np.char.lower(values), ["", *NOT_KNOWN])

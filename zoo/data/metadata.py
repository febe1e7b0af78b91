"""Choose the metadata columns worth keeping, and read their values."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from zoo.arrays import Array
from zoo.data.opening import OpenDataset

if TYPE_CHECKING:
    pass


MAX_GROUP_VALUES = 50  # of a column of texts; more name the image rather than say something of it
MAX_LENGTH = 60  # of a text; longer ones are somebody's sentences
MAX_DISTINCT = 0.9  # whole numbers a known cell, or values a patient that are that one's alone; above it they are ids


def select_metadata(source: OpenDataset) -> dict[str, Array]:
    """The columns of the table that results are kept with, so that they can be scored by group: no ids, no free text.

    A column of numbers, or of at most 50 texts that several images share; "" where unknown.
    """
    table = source.samples.table
    found = {}
    for name in source.spec.metadata:
        if name not in table.columns:
            continue
        cells = table[name]
        values = cells.astype(str).where(cells.notna(), "").str.strip().to_numpy().astype(np.str_)
        if says_something(values, source.patients):
            found[name] = values
    return found


def says_something(values: Array, patients: Array) -> bool:
    """Whether a column groups images, and neither names them nor their patients."""
    values = blank_cells(values)
    known = values != ""
    distinct, codes = np.unique(values[known], return_inverse=True)
    if len(distinct) < 2 or max(map(len, distinct.tolist())) > MAX_LENGTH:
        return False
    numbers = read_numbers(distinct)
    if numbers is not None and (numbers != np.round(numbers)).any():
        return True
    owners = np.unique(patients[known], return_inverse=True)[1]
    one_patient_each = len(np.unique(codes * (owners.max() + 1) + owners)) == len(distinct)
    if one_patient_each and len(distinct) > MAX_DISTINCT * (owners.max() + 1):
        return False
    most = min(MAX_GROUP_VALUES, len(codes) / 2) if numbers is None else MAX_DISTINCT * len(codes)
    return bool(len(distinct) <= most)


def read_numbers(values: Array) -> Array | None:
    """The values as float, NaN where empty; None where any is no finite number, or all are empty."""
    known = values != ""
    numbers = np.full(len(values), np.nan)
    try:
        numbers[known] = values[known].astype(np.float64)
    except ValueError:
        return None
    return numbers if known.any() and np.isfinite(numbers[known]).all() else None


NOT_KNOWN = frozenset({"na", "n/a", "nan", "none", "unknown", "?"})  # what stands in a column of numbers for no number


def blank_cells(values: Array) -> Array:
    """The values with empty cells where a column of numbers says `NA` or the like; texts stay as they are."""
    left = np.where(says_unknown(values), "", values)
    return values if read_numbers(left) is None else left


def says_unknown(values: Array) -> Array:
    """Whether each cell (N,) is empty or says that nothing is known."""
    return np.isin(np.char.lower(values), ["", *NOT_KNOWN])

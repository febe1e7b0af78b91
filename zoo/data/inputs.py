"""Read the cells of the columns that are a second input of models."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from zoo.arrays import Array
from zoo.errors import DataError, dataset_subject, nearest
from zoo.specs.dataset import DatasetSpec, Samples

if TYPE_CHECKING:
    import pandas


def select_inputs(spec: DatasetSpec, samples: Samples) -> dict[str, Array]:
    """The columns (N,) str of the dataset's `inputs`, "" where unknown. Raises DataError for one that is missing."""
    columns = {}
    for name in spec.inputs:
        if name not in samples.table.columns:
            raise DataError(
                f"inputs: no column {name!r}",
                subject=dataset_subject(spec.name),
                fix=f"{nearest(name, samples.table.columns)} Its columns are: "
                f"{', '.join(map(str, samples.table.columns))}".strip(),
                code="inputs",
            )
        columns[name] = texts_of(samples.table[name])
    return columns


def texts_of(cells: pandas.Series[Any]) -> Array:
    """The cells of a column as str (N,), "" where unknown."""
    return cells.astype(str).where(cells.notna(), "").str.strip().to_numpy().astype(np.str_)

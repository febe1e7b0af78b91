"""Code metadata columns as numbers for a network's second input; centers, spreads and categories come from train."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from zoo.arrays import Array
from zoo.data.metadata import MAX_TEXT_VALUES, blank_cells, read_numbers, says_unknown
from zoo.errors import DataError


@dataclass(frozen=True, kw_only=True)
class ColumnCoding:
    """One column: a standardized number, or one indicator per category; and an indicator of a missing value.

    A category that train lacks counts as missing, and so does a text in a column of numbers.
    """

    name: str
    center: float = 0.0
    spread: float = 1.0
    categories: tuple[str, ...] = ()  # empty: numbers

    @property
    def num_inputs(self) -> int:
        return (len(self.categories) or 1) + 1

    def encode(self, cells: Array) -> Array:
        """Cells (N,) str as float64 (N, num_inputs)."""
        if self.categories:
            flags = (cells[:, None] == np.array(self.categories)).astype(np.float64)
            return np.column_stack([flags, 1 - flags.sum(axis=1)])
        values = np.array([number_of(cell) for cell in cells.tolist()])
        missing = np.isnan(values)
        return np.column_stack([np.where(missing, 0.0, (values - self.center) / self.spread), missing])


@dataclass(frozen=True, kw_only=True)
class MetadataCoding:
    """All columns of the second input, in the order of the dataset's `inputs`."""

    columns: tuple[ColumnCoding, ...]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(column.name for column in self.columns)

    @property
    def num_inputs(self) -> int:
        return sum(column.num_inputs for column in self.columns)

    def encode(self, cells: Mapping[str, Array]) -> Array:
        """The cells of each column, (N,) str, as float32 (N, num_inputs). Raises DataError if a column is missing."""
        missing = [name for name in self.names if name not in cells]
        if missing:
            raise DataError(
                f"the model takes {', '.join(self.names)} beside the image, but there is no column {missing[0]!r}",
                fix="add the column; its cells may be empty where the value is unknown",
                code="inputs",
            )
        parts = [column.encode(cells[column.name]) for column in self.columns]
        return np.concatenate(parts, axis=1).astype(np.float32)

    def describe(self) -> list[dict[str, Any]]:
        return [asdict(column) for column in self.columns]


def read_coding(columns: Sequence[Mapping[str, Any]]) -> MetadataCoding:
    """Reverse `MetadataCoding.describe`."""
    made = [ColumnCoding(**{**column, "categories": tuple(column["categories"])}) for column in columns]
    return MetadataCoding(columns=tuple(made))


def number_of(cell: str) -> float:
    """The number in a cell; NaN if it has none."""
    try:
        value = float(cell)
    except ValueError:
        return np.nan
    return value if np.isfinite(value) else np.nan


def fit_coding(cells: Mapping[str, Array], train: Array) -> MetadataCoding:
    """Fit the coding of columns, (N,) str each, to the rows of train, bool (N,).

    Raises DataError for a column with too many categories in train, or without any value.
    """
    return MetadataCoding(columns=tuple(fit_column(name, values[train]) for name, values in cells.items()))


def fit_column(name: str, cells: Array) -> ColumnCoding:
    values = blank_cells(cells)
    numbers = read_numbers(values)
    if numbers is not None:
        known = numbers[~np.isnan(numbers)]
        # The deviation of three times 0.1 is 1.4e-17, by which 0.2 would become 7e15.
        spread = float(known.std()) if len(np.unique(known)) > 1 else 1.0
        return ColumnCoding(name=name, center=float(known.mean()), spread=spread)
    categories = sorted(set(values[~says_unknown(values)].tolist()))
    if not 1 <= len(categories) <= MAX_TEXT_VALUES:
        raise DataError(
            f"inputs: column {name!r} has {len(categories)} different texts in train, expected 1 to {MAX_TEXT_VALUES}",
            fix="leave it out of `inputs`",
            code="inputs",
        )
    return ColumnCoding(name=name, categories=tuple(categories))

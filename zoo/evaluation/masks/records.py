"""The case table: one row per case and label, from which every score of masks follows; its files."""

from __future__ import annotations

import csv
import io
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from zoo.arrays import Array
from zoo.errors import ResultsError
from zoo.evaluation.masks.cases import CaseRow
from zoo.evaluation.masks.rule import MaskRule
from zoo.system.files import written_whole

DTYPES: Mapping[str, Any] = {"str": np.str_, "bool": np.bool_, "int": np.int64, "float": np.float64}
CASE_COLUMNS: Mapping[str, Any] = {each.name: DTYPES[str(each.type)] for each in fields(CaseRow)}
RULE_COLUMNS: Mapping[str, Any] = {
    "tolerance": np.float64,
    "connectivity": np.str_,
    "lesion_iou": np.float64,
    "skeletons": np.bool_,
}


@dataclass(frozen=True, eq=False)
class CaseScores:
    """Rows of cases and labels, by column, and the rule that they were computed by.

    `columns` has one array (N,) per field of `CaseRow`. Every case has a row for every label.
    """

    rule: MaskRule
    columns: Mapping[str, Array]

    def __len__(self) -> int:
        return len(self.columns["case"])

    def __getitem__(self, column: str) -> Array:
        return self.columns[column]

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels, in the order of their first row."""
        return tuple(dict.fromkeys(self["label"].tolist()))

    def take(self, rows: Array) -> CaseScores:
        """The rows of a mask or of indices."""
        return CaseScores(self.rule, {name: column[rows] for name, column in self.columns.items()})


def to_case_scores(rows: Sequence[CaseRow], rule: MaskRule) -> CaseScores:
    """Build a table of rows. Raises ValueError if a case has not one row for every label, or if the units differ."""
    columns = {name: np.array([getattr(row, name) for row in rows], dtype) for name, dtype in CASE_COLUMNS.items()}
    scores = CaseScores(rule, columns)
    check_complete(scores)
    return scores


def check_complete(scores: CaseScores) -> None:
    cases = dict.fromkeys(scores["case"].tolist())
    places = set(zip(scores["case"].tolist(), scores["label"].tolist(), strict=True))
    if not len(scores) == len(places) == len(cases) * len(scores.labels):
        raise ValueError(
            f"{len(scores)} rows of {len(cases)} cases, expected one for each of {len(scores.labels)} labels"
        )
    if len(units := sorted(set(scores["unit"].tolist()))) > 1:
        raise ValueError(f"distances in {' and '.join(units)}, expected one unit")


# --- files -----------------------------------------------------------------------------------------------------------
def save_case_scores(path: Path, scores: CaseScores) -> None:
    """Write a `.csv` or a compressed `.npz` file; equal tables give equal bytes.

    The fields of the rule are columns too. In a CSV an undefined value is empty, and numbers have all their digits.
    """
    every = all_columns(scores)
    if path.suffix.lower() == ".npz":
        with written_whole(path) as temporary, open(temporary, "wb") as stream:
            np.savez_compressed(stream, allow_pickle=False, **every)
        return
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(every)
    writer.writerows(zip(*(map(to_cell, column.tolist()) for column in every.values()), strict=True))
    with written_whole(path) as temporary:
        temporary.write_text(text.getvalue(), encoding="utf-8", newline="")


def all_columns(scores: CaseScores) -> dict[str, Array]:
    rule = {name: np.array([getattr(scores.rule, name)] * len(scores), dtype) for name, dtype in RULE_COLUMNS.items()}
    return {**scores.columns, **rule}


def to_cell(value: Any) -> Any:
    """A value as it is written: "" if it is undefined, true or false, else itself."""
    if isinstance(value, bool):
        return str(value).lower()
    return "" if value != value else value


def load_case_scores(path: Path) -> CaseScores:
    """Read a file of `save_case_scores`. Raises ResultsError if it cannot be read or is no case table."""
    try:
        columns = read_npz(path) if path.suffix.lower() == ".npz" else read_csv_columns(path)
        rules = {tuple(row) for row in zip(*(columns.pop(name).tolist() for name in RULE_COLUMNS), strict=True)}
        if len(rules) != 1:
            raise ValueError(f"{len(rules)} rules (tolerance, connectivity, ...), expected one")
        scores = CaseScores(MaskRule(**dict(zip(RULE_COLUMNS, rules.pop(), strict=True))), columns)
        check_complete(scores)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ResultsError(f"{path}: not a case table: {error}", fix="write it again with zoo score --masks") from error
    return scores


def read_npz(path: Path) -> dict[str, Array]:
    with np.load(path, allow_pickle=False) as stored:
        columns = {name: stored[name] for name in (*CASE_COLUMNS, *RULE_COLUMNS)}
    for name, dtype in {**CASE_COLUMNS, **RULE_COLUMNS}.items():
        if columns[name].dtype.kind != np.dtype(dtype).kind or columns[name].ndim != 1:
            raise ValueError(f"column {name} is {columns[name].dtype} of shape {columns[name].shape}")
    return columns


def read_csv_columns(path: Path) -> dict[str, Array]:
    with open(path, encoding="utf-8-sig", newline="") as stream:
        header, *lines = csv.reader(stream, strict=True)
    cells = dict(zip(header, zip(*lines, strict=True), strict=True))
    return {
        name: np.array([from_cell(text, dtype) for text in cells[name]], dtype)
        for name, dtype in {**CASE_COLUMNS, **RULE_COLUMNS}.items()
    }


def from_cell(text: str, dtype: Any) -> Any:
    """Reverse `to_cell`."""
    if dtype is np.bool_:
        return {"true": True, "false": False}[text]
    return float("nan") if dtype is np.float64 and text == "" else dtype(text)

"""Read the training history of a stored run."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zoo.errors import ResultsError
from zoo.system.files import read_regular

HISTORY_FILE = "history.jsonl"


@dataclass(frozen=True, kw_only=True)
class Round:
    """One round of training; NaN where a value is undefined."""

    step: int
    loss: float  # mean over the round's batches
    val_score: float  # the primary metric on val


def load_rounds(folder: Path) -> list[Round]:
    """The rounds of a run; empty if it was not trained in rounds. Raises ResultsError for a damaged file."""
    path = folder / HISTORY_FILE
    if not path.exists():
        return []
    try:
        return [parse_round(json.loads(line)) for line in read_regular(path).splitlines()]
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ResultsError(f"{path}: cannot be read", fix="delete its folder and run again", code="history") from error


def parse_round(row: Mapping[str, Any]) -> Round:
    step = row["step"]
    if not isinstance(step, int):
        raise TypeError(f"step is {step!r}")
    return Round(step=step, loss=finite_or_nan(row.get("loss")), val_score=finite_or_nan(row.get("val_score")))


def finite_or_nan(value: Any) -> float:
    if value is None:
        return math.nan
    number = float(value)
    return number if math.isfinite(number) else math.nan

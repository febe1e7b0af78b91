"""Deviations of a run from its protocol."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

# A new kind needs a sentence in report/deviations.py and a higher RESULT_SCHEMA, because older versions refuse it.
DeviationKind = Literal[
    "no-weights",
    "local-weights",
    "image-size",
    "batch-size",
    "batch-parts",
    "leak-allowed",
    "other-predictions",
    "undeclared-fields",
    "imported",
    "unpredicted",
    "other",
]
NUM_DETAILS: Mapping[DeviationKind, int] = {
    "no-weights": 0,  # `--weights auto` found none
    "local-weights": 0,  # a weights file without mean and std
    "image-size": 2,  # used, requested
    "batch-size": 2,  # used, of the protocol
    "batch-parts": 2,  # batch size, size of the parts that fit into the memory
    "leak-allowed": 1,  # the reason given with `--allow-leak`
    "other-predictions": 2,  # origin of the weights, largest difference on val
    "undeclared-fields": 2,  # label of the protocol, names of the fields
    "imported": 0,  # predictions of another tool: nothing was trained
    "unpredicted": 2,  # test images without an imported prediction, all test images
    "other": 1,  # a sentence of a result of schema 1
}


@dataclass(frozen=True)
class Deviation:
    """A departure of a run from its protocol. `report.deviations` makes it a sentence."""

    kind: DeviationKind
    detail: tuple[str | int | float, ...] = ()

    def describe(self) -> dict[str, Any]:
        """Return the deviation as plain data for `result.json`."""
        return {"kind": self.kind, "detail": list(self.detail)}


def read_deviations(described: Sequence[Mapping[str, Any]]) -> tuple[Deviation, ...]:
    """Build deviations from `Deviation.describe`."""
    return tuple(Deviation(each["kind"], tuple(each["detail"])) for each in described)

"""Specs of metrics, and what a metric is given."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from zoo.tasks.kinds import Task

if TYPE_CHECKING:
    from zoo.arrays import Array
from zoo.specs.dataset import Unit

CLASSIFICATION = ("binary", "multiclass", "ordinal", "multilabel", "regression")


@dataclass(frozen=True, kw_only=True, eq=False)
class MetricRequest:
    """What a metric is computed from. L labels, N units (images or patients).

    `targets` and `probabilities` as in `zoo.Task`; `decisions` is int64 (N,), or bool (N, L) for multi-label,
    taken at thresholds chosen on val; None for regression. `positive` is the index of the positive class (binary).
    `log_odds`, log p/(1 - p) of the probabilities, are what to rank by where they are not None: probabilities of
    logits above 37 are all 1.
    """

    task: Task
    labels: tuple[str, ...]
    targets: Array
    probabilities: Array
    decisions: Array | None
    positive: int | None = None
    log_odds: Array | None = None

    def take(self, rows: Array) -> MetricRequest:
        """The request with these rows, in this order."""
        return replace(
            self,
            targets=self.targets[rows],
            probabilities=self.probabilities[rows],
            decisions=None if self.decisions is None else self.decisions[rows],
            log_odds=None if self.log_odds is None else self.log_odds[rows],
        )


@dataclass(frozen=True, kw_only=True)
class MetricSpec:
    """A number that says how good predictions are. `compute` raises `Undefined(reason)` where it does not exist.

    `resample`, optional, computes the metric for B resamples at once: (request, weights float (B, N)) -> (B,), NaN
    where undefined; without it the interval calls `compute` once a resample. `counts` gives (successes, trials) where
    the metric is a proportion, so that its interval can be Wilson's; it raises `Undefined` for a task where it is none.
    `curve` gives (positives, scores), both (N,), where it is one area under the ROC curve, so that its interval can be
    DeLong's; it raises `Undefined` where it is a mean of several.
    `influence`, optional, gives how fast the metric moves, times N, with the weight of each unit: (N,); without it the
    tests between models take that derivative through `resample`, or leave every unit out once.
    `noise`, optional, is for a metric that chance can only raise, as a sum of errors over bins: what chance alone makes
    of it in B resamples, (request, weights) -> (B,). Percentiles of `resample` would miss what such a metric estimates.
    `note`, optional, says what a reader must know of a value that is defined ("macro over 6 of 7 labels"), or "".
    """

    name: str
    compute: Callable[[MetricRequest], float]
    title: str = ""
    tasks: tuple[str, ...] = CLASSIFICATION
    higher_is_better: bool = True
    version: int = 1
    bounds: tuple[float | None, float | None] = (0.0, 1.0)
    citation: str = ""
    resample: Callable[[MetricRequest, Array], Array] | None = None
    counts: Callable[[MetricRequest], tuple[int, int]] | None = None
    curve: Callable[[MetricRequest], tuple[Array, Array]] | None = None
    note: Callable[[MetricRequest], str] | None = None
    influence: Callable[[MetricRequest], Array] | None = None
    noise: Callable[[MetricRequest, Array], Array] | None = None


@dataclass(frozen=True, kw_only=True)
class ScoringContext:
    """What scoring must know of a dataset."""

    task: Task
    labels: tuple[str, ...]
    positive: int | None = None  # binary: the index of the positive class
    unit: Unit = "image"
    has_patients: bool = False  # a patient key exists; else every image is its own
    val_unit: Unit | None = None  # of val, by which thresholds are chosen, where it is of another dataset than test

    def unit_of(self, split: str) -> Unit:
        """What is scored of a split: val's own where test is another dataset's."""
        return self.val_unit if split == "val" and self.val_unit else self.unit

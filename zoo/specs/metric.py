"""Metric specs, and the inputs of a metric."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from zoo.specs.dataset import Unit
from zoo.tasks.kinds import IMAGE_TASKS
from zoo.tasks.task import Task

if TYPE_CHECKING:
    from zoo.arrays import Array


@dataclass(frozen=True, kw_only=True, eq=False)
class MetricRequest:
    """The inputs of a metric: L labels, N units (images or patients).

    `targets` and `probabilities` are as in `zoo.Task`. `decisions` is int64 (N,), or bool (N, L) for multi-label,
    made at thresholds chosen on val; None for regression. `positive` is the index of the positive class (binary).
    Rank by `log_odds`, log p/(1 - p) of the probabilities, if it is not None: the probability of every logit above 37
    is 1.
    """

    task: Task
    labels: tuple[str, ...]
    targets: Array
    probabilities: Array
    decisions: Array | None
    positive: int | None = None
    log_odds: Array | None = None

    def take(self, rows: Array) -> MetricRequest:
        """A request of these rows, in this order."""
        return replace(
            self,
            targets=self.targets[rows],
            probabilities=self.probabilities[rows],
            decisions=None if self.decisions is None else self.decisions[rows],
            log_odds=None if self.log_odds is None else self.log_odds[rows],
        )


@dataclass(frozen=True, kw_only=True)
class MetricSpec:
    """A metric: a number that measures the quality of predictions.

    `compute` returns the value, or raises `Undefined(reason)`. The other callables are optional:

    - `resample` computes B resamples at once: (request, weights float (B, N)) -> (B,), NaN where undefined. Without
      it the interval calls `compute` for every resample.
    - `counts` returns (successes, trials) of a proportion, for a Wilson interval. It raises `Undefined` for a task in
      which the metric is not a proportion.
    - `curve` returns (positives, scores), both (N,), of a single area under the ROC curve, for a DeLong interval. It
      raises `Undefined` if the metric is a mean of several areas.
    - `influence` returns N times the derivative of the metric by the weight of each unit, (N,). Without it, tests
      between models compute the derivative through `resample`, or leave out each unit once.
    - `noise` is for a metric that chance can only increase, such as a sum of errors over bins. It returns the value
      due to chance alone in B resamples, (request, weights) -> (B,). Percentiles of `resample` would be biased.
    - `note` returns what a reader must know about a defined value ("macro over 6 of 7 labels"), or "".
    """

    name: str
    compute: Callable[[MetricRequest], float]
    title: str = ""
    tasks: tuple[str, ...] = IMAGE_TASKS
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
    """The facts about a dataset that scoring needs."""

    task: Task
    labels: tuple[str, ...]
    positive: int | None = None  # binary: the index of the positive class
    unit: Unit = "image"
    has_patients: bool = False  # whether there is a patient key; else every image is its own patient
    val_unit: Unit | None = None  # of val, on which thresholds are chosen, if it comes from another dataset than test

    def unit_of(self, split: str) -> Unit:
        """The unit of a split; that of val may differ in external validation."""
        return self.val_unit if split == "val" and self.val_unit else self.unit

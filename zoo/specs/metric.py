"""Metric specs, and the inputs of a metric."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from zoo.errors import Undefined
from zoo.specs.dataset import Unit
from zoo.tasks.kinds import IMAGE_TASKS
from zoo.tasks.task import Task

if TYPE_CHECKING:
    from zoo.arrays import Array

Value = TypeVar("Value")


@dataclass(frozen=True, kw_only=True, eq=False)
class MetricRequest:
    """The inputs of a metric: L labels, N units (images or patients).

    `targets` and `probabilities` are as in `zoo.Task`. `decisions` is int64 (N,), or bool (N, L) for multi-label,
    made at thresholds chosen on val; None for regression. `positive` is the index of the positive class (binary).
    Rank by `log_odds`, log p/(1 - p) of the probabilities, if it is not None: the probability of every logit above 37
    is 1.

    Metrics whose spec asks for them also receive `patients`, int64 (N,), a number that the units of one patient share,
    and `metadata`, str (N,) by column, "" where a value is unknown. Where the images of a unit differ, it is their mean
    if they are numbers, else "several".
    """

    task: Task
    labels: tuple[str, ...]
    targets: Array
    probabilities: Array
    decisions: Array | None
    positive: int | None = None
    log_odds: Array | None = None
    patients: Array | None = None
    metadata: Mapping[str, Array] = field(default_factory=dict)
    _resampled: dict[Any, Any] = field(init=False, repr=False, default_factory=dict)
    _known: dict[Any, Any] = field(init=False, repr=False, default_factory=dict)

    def compute_once(self, function: Callable[[MetricRequest], Value]) -> Value:
        """`function(self)`, computed at the first call.

        perf: the value, its note, its resamples and other metrics need the same arrays.
        """
        if function not in self._known:
            self._known[function] = function(self)
        known: Value = self._known[function]
        return known

    def resample_once(self, function: Callable[[MetricRequest, Array], Value], weights: Array) -> Value:
        """`function(self, weights)`, computed again for other weights than those of the last call.

        perf: the resampled values of a metric and their noise need the same arrays.
        """
        import numpy as np

        last: tuple[Array, Value] | None = self._resampled.get(function)
        if last is None or not np.array_equal(last[0], weights):
            self._resampled[function] = last = weights, function(self, weights)
        return last[1]

    def take(self, rows: Array) -> MetricRequest:
        """A request of these rows, in this order."""
        return replace(
            self,
            targets=self.targets[rows],
            probabilities=self.probabilities[rows],
            decisions=None if self.decisions is None else self.decisions[rows],
            log_odds=None if self.log_odds is None else self.log_odds[rows],
            patients=None if self.patients is None else self.patients[rows],
            metadata={name: values[rows] for name, values in self.metadata.items()},
        )


@dataclass(frozen=True, kw_only=True)
class MetricSpec:
    """A metric: a number that measures the quality of predictions.

    A metric that is a mean over units is one function, `per_unit`. It returns the value of each unit, float (N,), or
    of each unit and label, (N, L), NaN where it is undefined. The metric is the mean over the labels of the mean over
    the units, both without the undefined ones. `compute`, `resample`, `influence` and `note` follow from it.

    For any other metric, `compute` returns the value, or raises `Undefined(reason)`. The other callables are optional:

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

    With `patients` the metric reads `request.patients`, as a sensitivity by patient does. Resamples draw whole
    patients: one that is drawn twice is two patients in the request of `compute`, and the weights of `resample` are
    equal for all units of a patient. `counts` counts patients, and `curve` is not used. `metadata` names the columns
    that the metric reads, as a worst group does; it is `Undefined` where the stored predictions lack one.
    """

    name: str
    per_unit: Callable[[MetricRequest], Array] | None = None
    compute: Callable[[MetricRequest], float] = None  # type: ignore[assignment]  # set by __post_init__
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
    patients: bool = False
    metadata: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.per_unit is None:
            if self.compute is None:
                raise TypeError(f"metric {self.name!r} has neither `per_unit` nor `compute`")
            return
        for name, function in BY_UNIT.items():
            given = getattr(self, name)
            # `dataclasses.replace` passes on what followed from the former `per_unit`.
            if given is None or getattr(given, "func", None) is function:
                object.__setattr__(self, name, partial(function, per_unit=self.per_unit))


# --- metrics of one function -----------------------------------------------------------------------------------------
PerUnit = Callable[[MetricRequest], "Array"]


def unit_values(request: MetricRequest, per_unit: PerUnit) -> Array:
    """Call `per_unit` and return its values as float64 (N, L); L is 1 if it returns (N,)."""
    import numpy as np

    num_units = len(request.targets)
    if num_units == 0:
        raise Undefined("no images")
    values = np.asarray(per_unit(request), dtype=np.float64)
    if values.ndim not in (1, 2) or len(values) != num_units or values.size == 0:
        raise ValueError(f"per_unit gives the shape {values.shape}, expected ({num_units},) or ({num_units}, labels)")
    return values.reshape(num_units, -1)


def compute_mean(request: MetricRequest, *, per_unit: PerUnit) -> float:
    import numpy as np

    from zoo.statistics.units import mean_over_labels, means_by_label

    by_label = means_by_label(unit_values(request, per_unit))
    if np.isnan(by_label).all():
        raise Undefined("undefined for every unit")
    return float(mean_over_labels(by_label[None])[0])


def resample_mean(request: MetricRequest, weights: Array, *, per_unit: PerUnit) -> Array:
    from zoo.statistics.units import resampled_means

    return resampled_means(unit_values(request, per_unit), weights)


def mean_influence(request: MetricRequest, *, per_unit: PerUnit) -> Array:
    from zoo.statistics.units import influence_on_mean

    return influence_on_mean(unit_values(request, per_unit))


def mean_note(request: MetricRequest, *, per_unit: PerUnit) -> str:
    from zoo.statistics.units import means_by_label

    return labels_note(means_by_label(unit_values(request, per_unit)))


def labels_note(by_label: Array) -> str:
    """Note how many of the values by label (L,) were averaged ("macro over 6 of 7 labels"); "" if all were."""
    import numpy as np

    num_defined = int((~np.isnan(by_label)).sum())
    return f"macro over {num_defined} of {len(by_label)} labels" if num_defined < len(by_label) else ""


BY_UNIT: dict[str, Callable[..., object]] = {
    "compute": compute_mean,
    "resample": resample_mean,
    "influence": mean_influence,
    "note": mean_note,
}


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


def positive_index(card: MetricRequest | ScoringContext) -> int:
    """The index of the positive class of a binary task; 1 unless the dataset declares another."""
    return 1 if card.positive is None else card.positive

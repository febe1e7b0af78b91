"""Score stored predictions: a value with its interval, or the reason why there is none.

`runs[s][f]` are the predictions of seed s and fold f, by split; a single run is `[[run]]`. Thresholds are chosen on
val, everything else is computed on test. A metric that fails, or returns an invalid value, affects only its own score.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace

from zoo.arrays import Array
from zoo.errors import RunError, Undefined
from zoo.evaluation.intervals import add_interval, draw_patients
from zoo.evaluation.predictions import Predictions
from zoo.evaluation.reasons import Reason, describe_error
from zoo.evaluation.thresholds import DecidedTest, ThresholdRule, decide
from zoo.evaluation.values import DecidedRuns, Runs, Score, compute, decide_all, find_too_few, score_value
from zoo.registry.isolation import process_unchanged
from zoo.specs.dataset import Unit
from zoo.specs.metric import MetricSpec, ScoringContext


def score(
    runs: Runs,
    metrics: Mapping[str, MetricSpec],
    card: ScoringContext,
    *,
    threshold: ThresholdRule,
    unit: Unit | None = None,
    intervals: bool = True,
) -> dict[str, Score]:
    """Score each metric: compute it per fold, and average over the folds of a seed, then over seeds.

    The interval resamples the same patients for all seeds, averages each resample in the same way, and adds the
    variance between seeds. Raises ValueError without a seed, or with a seed without folds.
    """
    card = replace(card, unit=unit, val_unit=unit) if unit else card
    return score_decided(decide_all(runs, card, threshold), metrics, card, intervals=intervals)


def score_decided(
    tested: DecidedRuns, metrics: Mapping[str, MetricSpec], card: ScoringContext, *, intervals: bool = True
) -> dict[str, Score]:
    """Score each metric of decided runs, as `score` does."""
    if not tested or not all(tested):
        raise ValueError("nothing to score: expected at least one seed with at least one fold")
    too_few = find_too_few(tested[0], card)
    draws = draw_patients(tested) if intervals and not too_few else []
    return {
        name: score_metric(metric, tested, card, draws if intervals else None, too_few)
        for name, metric in metrics.items()
    }


@process_unchanged()
def score_metric(
    metric: MetricSpec,
    tested: Sequence[Sequence[DecidedTest]],
    card: ScoringContext,
    draws: Sequence[Array] | None,
    too_few: Reason | None,
) -> Score:
    """Score one metric, with an interval unless `draws` is None or there are too few patients.

    `process_unchanged` undoes changes that a plugin's metric makes to this process, so the next metric is unaffected.
    """
    result, seed_scores = score_value(metric, tested, card)
    if result.value is None or draws is None:
        return result
    if too_few:
        return replace(result, reason=too_few)
    return add_interval(result, seed_scores, metric, tested, draws, card)


@process_unchanged()
def deviate_by_seed(tested: DecidedRuns, metric: MetricSpec, card: ScoringContext) -> float | None:
    """Compute a metric's standard deviation between seeds; None for one seed, or if the metric is undefined."""
    _, seed_scores = score_value(metric, tested, card)
    return statistics.stdev(seed_scores.tolist()) if len(seed_scores) > 1 else None


def score_run(
    predictions: Mapping[str, Predictions],
    metrics: Mapping[str, MetricSpec],
    card: ScoringContext,
    *,
    threshold: ThresholdRule,
) -> dict[str, dict[str, Score]]:
    """Compute the contents of a run's `scores.json`.

    `scores` are by the dataset's unit; if that is the patient or the clip, `image_scores` are by image.
    """
    scores = {"scores": score([[predictions]], metrics, card, threshold=threshold)}
    if card.unit != "image":
        scores["image_scores"] = score([[predictions]], metrics, card, threshold=threshold, unit="image")
    return scores


@process_unchanged()
def val_score(val: Predictions, metric: MetricSpec, card: ScoringContext) -> float:
    """Score val at thresholds chosen on val, to select a round; errors are negated so that higher is better.

    NaN if the metric is undefined. Raises RunError if it fails.
    """
    decided = decide({"val": val, "test": val}, card, "val")
    try:
        value = compute(metric, decided.request_of(metric))
    except Undefined:
        return float("nan")
    except Exception as error:
        raise RunError(
            f"metric {metric.name!r} failed on val: {describe_error(error)}",
            fix="report it to the metric's author, or remove the metric from --metrics",
        ) from error
    return value if metric.higher_is_better else -value

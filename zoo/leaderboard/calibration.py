"""Measure how well probabilities are calibrated, raw and after temperature scaling.

All counts are of the scored unit. A run's temperature is fitted on its val split alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain
from typing import Any

import numpy as np

from zoo.arrays import Array
from zoo.evaluation.intervals import BOOTSTRAP_SEED
from zoo.evaluation.metrics.catalogue import METRICS
from zoo.evaluation.metrics.probabilities import confidences
from zoo.evaluation.predictions import LazyRun, SplitPredictions, join_parts
from zoo.evaluation.reasons import Reason
from zoo.evaluation.scoring import score
from zoo.evaluation.temperature import find_temperature, rescale
from zoo.evaluation.thresholds import decide
from zoo.evaluation.values import Runs, Score
from zoo.leaderboard.tables import Cell, ScoredRow, SectionRequest
from zoo.results.memo import RunsMemo
from zoo.specs.metric import MetricRequest, ScoringContext
from zoo.specs.section import Section
from zoo.statistics.calibration import NUM_BINS, equal_mass_bins
from zoo.statistics.intervals import bootstrap_weights, percentile_interval, wilson_interval
from zoo.statistics.weighted import ratio

CALIBRATION_METRICS = {spec.name: spec for spec in METRICS if spec.name in ("ece", "brier", "log_loss")}
CALIBRATION_COLUMNS = ("model", "temperature", "ECE", "ECE after", "Brier", "Brier after", "log loss", "log loss after")


def build_section(request: SectionRequest) -> Section | None:
    """Build the section `calibration`: ECE, Brier score and log loss of every row, reliability curves as details."""
    if not request.card.task.presentation.calibrated or not request.rows:
        return None
    labels = request.labels
    request = request.over_counted_labels()
    card = replace(request.card, unit="image", val_unit=None)  # units are rows from here on
    rows: list[tuple[Cell, ...]] = []
    temperatures: list[dict[str, Any]] = []
    curves: list[dict[str, Any]] = []
    reasons = []
    for row in request.rows:
        runs = [[LazyRun(partial(merge_units, run, request.card)) for run in folds] for folds in row.stored]
        with row.memo as memo:
            fitted = memo.find(f"temperatures, labels {labels}", partial(find_temperatures, runs, card))
            after = rescale_runs(runs, fitted, card)
            raw = measure(memo, runs, card, f"raw, labels {labels}")
            scaled = measure(memo, after, card, f"after, labels {labels}")
        missing = missing_reason(fitted)
        reasons += [f"{row.label}: no temperature: {missing}"] if missing else []
        none = Score(value=None, reason=Reason("undefined", (missing,)) if missing else None)
        both = [(raw.scores[name], scaled.scores.get(name, none)) for name in ("ece", "brier", "log_loss")]
        rows.append((row.label, mean_temperature(fitted), *chain.from_iterable(both)))
        temperatures += describe_temperatures(row, fitted)
        curves += describe_curves(row, raw.curves, card, "raw") + describe_curves(row, scaled.curves, card, "after")
    return Section(
        name="calibration",
        title="Calibration: do predicted probabilities match observed frequencies?",
        columns=CALIBRATION_COLUMNS,
        rows=tuple(rows),
        compact=CALIBRATION_COLUMNS[:6],
        notes=(
            f"ECE: mean distance between predicted probability and observed frequency, {NUM_BINS} bins of equal mass "
            f"{card.task.presentation.calibrated}; chance raises it, and its interval is corrected for that",
            "after: at the temperature that minimizes the log loss on val, fitted for each run; above 1 the model was "
            "overconfident; intervals hold it fixed",
            *reasons,
        ),
        details={"bins": NUM_BINS, "unit": request.card.unit, "temperatures": temperatures, "reliability": curves},
    )


@dataclass(frozen=True, kw_only=True)
class Calibrated:
    """The calibration of a row's runs, raw or after temperature scaling."""

    scores: Mapping[str, Score] = field(default_factory=dict)
    curves: Sequence[Sequence[Mapping[str, Any]]] = ()  # by seed and label: `find_points`


def measure(memo: RunsMemo, runs: Runs, card: ScoringContext, name: str) -> Calibrated:
    if not runs:
        return Calibrated()
    compute = partial(score, runs, card=card, threshold="half")
    return Calibrated(
        scores=memo.find_scores(f"calibration {name}", CALIBRATION_METRICS, compute),
        curves=memo.find(f"reliability {name}", lambda: [find_curves(folds, card) for folds in runs]),
    )


def merge_units(run: SplitPredictions, card: ScoringContext) -> SplitPredictions:
    return {split: part.by_unit(card.unit_of(split)) for split, part in run.items()}


# --- temperatures ----------------------------------------------------------------------------------------------------
def find_temperatures(runs: Runs, card: ScoringContext) -> list[list[float | str]]:
    return [[find_temperature(run, card) for run in folds] for folds in runs]


def rescale_runs(runs: Runs, fitted: Sequence[Sequence[float | str]], card: ScoringContext) -> Runs:
    """Rescale the test split of every run; empty if any run has no temperature, because a mean needs all runs."""
    rescaled = []
    for folds, temperatures in zip(runs, fitted, strict=True):
        parts = []
        for run, temperature in zip(folds, temperatures, strict=True):
            if isinstance(temperature, str):
                return []
            parts.append(LazyRun(partial(rescale_test, run, temperature, card)))
        rescaled.append(parts)
    return rescaled


def rescale_test(run: SplitPredictions, temperature: float, card: ScoringContext) -> SplitPredictions:
    return {"test": rescale(run["test"], temperature, card)}


def mean_temperature(fitted: Sequence[Sequence[float | str]]) -> float | None:
    every = [temperature for folds in fitted for temperature in folds]
    numbers = [temperature for temperature in every if not isinstance(temperature, str)]
    return float(np.mean(numbers)) if len(numbers) == len(every) else None


def missing_reason(fitted: Sequence[Sequence[float | str]]) -> str | None:
    """The reasons why runs of a row have no temperature, with the number of runs; None if all have one."""
    every = [temperature for folds in fitted for temperature in folds]
    counts = Counter(temperature for temperature in every if isinstance(temperature, str))
    reasons = [
        f"{reason} ({count} of {len(every)} runs)" if len(every) > 1 else reason for reason, count in counts.items()
    ]
    return "; ".join(reasons) or None


def describe_temperatures(row: ScoredRow, fitted: Sequence[Sequence[float | str]]) -> list[dict[str, Any]]:
    return [
        {
            "model": row.label,
            "seed": row.seeds[number],
            "fold": fold,
            "temperature": None if isinstance(result, str) else result,
            "reason": result if isinstance(result, str) else None,
        }
        for number, folds in enumerate(fitted)
        for fold, result in enumerate(folds)
    ]


# --- reliability -----------------------------------------------------------------------------------------------------
def describe_curves(
    row: ScoredRow, seeds: Sequence[Sequence[Mapping[str, Any]]], card: ScoringContext, kind: str
) -> list[dict[str, Any]]:
    """One reliability curve per seed, for multi-label tasks per seed and label."""
    return [
        {"model": row.label, "seed": row.seeds[number], "label": label, "kind": kind, **points}
        for number, curves in enumerate(seeds)
        for label, points in zip(curve_labels(card), curves, strict=True)
    ]


def find_curves(folds: Sequence[SplitPredictions], card: ScoringContext) -> list[dict[str, list[Any]]]:
    """The points of the curves of one seed, by label; its folds are joined."""
    test = join_parts([run["test"] for run in folds])
    return find_points(decide({"test": test}, card, "half").request, test.patients)


def curve_labels(card: ScoringContext) -> tuple[str | None, ...]:
    """The label of each curve; None: the label with the largest probability."""
    if not card.task.yes_no:
        return (None,)
    return tuple(card.labels[i] for i in card.task.targets.scored_labels(len(card.labels), card.positive))


def find_points(request: MetricRequest, patients: Array) -> list[dict[str, list[Any]]]:
    """The points of each curve, one per non-empty bin: count, mean predicted probability, observed share.

    The share's 95 % interval is Wilson's if each unit is a different patient, else a patient bootstrap; null if that
    gives none.
    """
    return [points_of(rows, claimed, true, patients) for rows, claimed, true in confidences(request)]


def points_of(rows: Array, claimed: Array, true: Array, patients: Array) -> dict[str, list[Any]]:
    points: dict[str, list[Any]] = {name: [] for name in ("count", "claimed", "share", "low", "high")}
    if not len(claimed):
        return points
    bins = equal_mass_bins(claimed)
    filled = np.unique(bins)
    inside = bins[:, None] == filled  # (n, K)
    count, hits = inside.sum(axis=0), (inside & true[:, None]).sum(axis=0)
    owners = patients[rows]
    if len(np.unique(owners)) == len(owners):
        bounds: list[tuple[float | None, float | None]] = [
            wilson_interval(int(h), int(n)) for h, n in zip(hits, count, strict=True)
        ]
    else:
        weights = bootstrap_weights(owners, seed=BOOTSTRAP_SEED).astype(np.float64)
        drawn = ratio(weights @ (inside & true[:, None]), weights @ inside)
        bounds = [(interval.low, interval.high) for interval in map(percentile_interval, drawn.T)]
    return {
        "count": count.tolist(),
        "claimed": (claimed @ inside / count).tolist(),
        "share": (hits / count).tolist(),
        "low": [low for low, _ in bounds],
        "high": [high for _, high in bounds],
    }

"""ROC, precision-recall and decision curves of a board's rows, with bands over patients.

A curve is the vertical average over seeds and folds (Fawcett 2006, Pattern Recognition Letters 27:861): the mean of
the y values at each x of a common grid. Its band holds the middle 95 % of the same average of resampled patients.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from zoo.arrays import Array
from zoo.evaluation.intervals import draw_patients
from zoo.evaluation.thresholds import DecidedTest, decide
from zoo.leaderboard.operating_points import Question, list_label_questions
from zoo.leaderboard.tables import ScoredRow, SectionRequest
from zoo.specs.metric import MetricRequest, positive_index

GRID = np.linspace(0.0, 1.0, 51)
THRESHOLDS = np.linspace(0.01, 0.99, 50)  # of decision curves
NUM_BAND_RESAMPLES = 200  # perf: percentiles of a band need fewer than a score's 2,000


@dataclass(frozen=True, kw_only=True)
class Curve:
    """A line with its band, all (G,): y and its bounds at each x; NaN where undefined."""

    x: Array
    y: Array
    low: Array
    high: Array


@dataclass(frozen=True, kw_only=True)
class RowCurves:
    """The curves of one row for one label."""

    row: str
    label: str
    prevalence: float
    roc: Curve
    precision_recall: Curve
    net_benefit: Curve


def compute_curves(
    request: SectionRequest, rows: Sequence[ScoredRow], labels: Collection[str] | None = None
) -> list[RowCurves]:
    """The curves of some rows and labels of a board; labels with one class only in test are left out."""
    if not request.card.task.labeled:
        return []
    questions = list_label_questions(replace(request, rows=rows))
    chosen = (question for question in questions if labels is None or question.label in labels)
    return [curves for question in chosen if (curves := curves_of(question))]


def curves_of(question: Question) -> RowCurves | None:
    tested = [[decide(run, question.card, "half") for run in folds] for folds in question.runs]
    parts = [part for folds in tested for part in folds]
    if any(len(np.unique(part.request.targets)) < 2 for part in parts):
        return None
    draws = [weights[:NUM_BAND_RESAMPLES].astype(np.float64) for weights in draw_patients(tested)]
    return RowCurves(
        row=question.row.label,
        label=question.label,
        prevalence=float(np.mean([np.mean(is_positive(part.request)) for part in tested[0]])),
        roc=average_curve(tested, draws, GRID, partial(ranking_points, points=roc_points)),
        precision_recall=average_curve(tested, draws, GRID, partial(ranking_points, points=precision_points)),
        net_benefit=average_curve(tested, draws, THRESHOLDS, decision_points),
    )


Points = Callable[[Array, Array, Array, Array], Array]  # positives, scores, weights (B, N), grid (G,) -> (B, G)


def ranking_points(request: MetricRequest, weights: Array, grid: Array, *, points: Points) -> Array:
    """Points of a curve that only needs an order: by log odds, which differ where probabilities round to 1."""
    scores = request.probabilities if request.log_odds is None else request.log_odds
    return points(is_positive(request), scores[:, positive_index(request)], weights, grid)


def decision_points(request: MetricRequest, weights: Array, grid: Array) -> Array:
    """Points of the decision curve, whose thresholds are probabilities."""
    return net_benefit_points(is_positive(request), request.probabilities[:, positive_index(request)], weights, grid)


def is_positive(request: MetricRequest) -> Array:
    """The units of the positive class, bool (N,)."""
    positives: Array = request.targets == positive_index(request)
    return positives


def average_curve(
    tested: Sequence[Sequence[DecidedTest]],
    draws: Sequence[Array],
    grid: Array,
    points: Callable[[MetricRequest, Array, Array], Array],
) -> Curve:
    """The mean over seeds and folds of `points(request, weights (B, N), grid) -> (B, G)`, with its band."""
    lines, bands = [], []
    for folds in tested:
        for part, weights in zip(folds, draws, strict=True):
            lines.append(points(part.request, np.ones((1, weights.shape[1])), grid)[0])
            bands.append(points(part.request, weights, grid))
    spread = np.mean(bands, axis=0)
    defined = ~np.isnan(spread).any(axis=1)  # a resample without one of the classes has no curve
    low, high = (
        np.percentile(spread[defined], [2.5, 97.5], axis=0) if defined.any() else np.full((2, len(grid)), np.nan)
    )
    return Curve(x=grid, y=np.mean(lines, axis=0), low=low, high=high)


def cumulate(positives: Array, scores: Array, weights: Array) -> tuple[Array, Array]:
    """Weight of positives and of negatives at or above each distinct score, from the highest: both (B, 1 + K)."""
    order = np.argsort(-scores, kind="stable")
    last = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)  # of each group of equal scores
    drawn = weights[:, order]
    hits = np.cumsum(drawn * positives[order], axis=1)[:, last]
    alarms = np.cumsum(drawn * ~positives[order], axis=1)[:, last]
    start = np.zeros((len(weights), 1))
    return np.hstack([start, hits]), np.hstack([start, alarms])


def roc_points(positives: Array, scores: Array, weights: Array, grid: Array) -> Array:
    """Sensitivity at each 1 - specificity of `grid`, (B, G), linear between the steps; NaN without both classes."""
    hits, alarms = cumulate(positives, scores, weights)
    values = np.full((len(weights), len(grid)), np.nan)
    for b in range(len(weights)):
        if hits[b, -1] and alarms[b, -1]:
            values[b] = np.interp(grid, alarms[b] / alarms[b, -1], hits[b] / hits[b, -1])
            values[b, 0] = (hits[b] / hits[b, -1])[alarms[b] == 0].max()
    return values


def precision_points(positives: Array, scores: Array, weights: Array, grid: Array) -> Array:
    """Precision at the highest threshold that reaches each recall of `grid`, (B, G); NaN without positives."""
    hits, alarms = cumulate(positives, scores, weights)
    values = np.full((len(weights), len(grid)), np.nan)
    for b in range(len(weights)):
        if hits[b, -1]:
            at = np.searchsorted(hits[b] / hits[b, -1], np.maximum(grid, 1e-9) - 1e-12)
            at = np.minimum(at, hits.shape[1] - 1)
            values[b] = hits[b, at] / (hits[b, at] + alarms[b, at])
    return values


def net_benefit_points(positives: Array, scores: Array, weights: Array, grid: Array) -> Array:
    """Net benefit at each threshold p of `grid`, (B, G): hits/N - alarms/N p/(1 - p) (Vickers & Elkin 2006)."""
    called = scores[:, None] >= grid  # (N, G)
    hits, alarms = weights @ (called & positives[:, None]), weights @ (called & ~positives[:, None])
    total = weights.sum(axis=1, keepdims=True)
    benefit: Array = (hits - alarms * grid / (1 - grid)) / total
    return benefit


def count_confusion(row: ScoredRow, request: SectionRequest) -> Array | None:
    """Units by true class (rows) and decided class (columns), the mean over seeds: (L, L); None without classes."""
    card = request.card
    if not card.task.classes or not row.stored:
        return None
    size = len(card.labels)
    counts = np.zeros((size, size))
    for folds in row.stored:
        for run in folds:
            decided = decide(run, card, request.rule_of(row)).request
            assert decided.decisions is not None
            np.add.at(counts, (decided.targets, decided.decisions), 1.0)
    return counts / len(row.stored)


def ratio_of_spreads(scores: Mapping[str, float], seed_sd: Mapping[str, float]) -> float | None:
    """SD between models over the root mean square SD between seeds: whether this set can rank models at all."""
    values, within = list(scores.values()), list(seed_sd.values())
    if len(values) < 3 or not within:
        return None
    noise = float(np.sqrt(np.mean(np.square(within))))
    return float(np.std(values, ddof=1)) / noise if noise else None

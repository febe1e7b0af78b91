"""The values of a metric over the test units: their mean, their median and the worst of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from zoo.arrays import Array
from zoo.errors import Undefined, plural_of
from zoo.evaluation.thresholds import decide
from zoo.leaderboard.tables import Cell, ScoredRow, SectionRequest
from zoo.specs.metric import MetricSpec, unit_values
from zoo.specs.section import Section
from zoo.statistics.units import means_by_label

WORST = 0.05  # the share of units beyond the bound of the worst twentieth
OF_CASES = ("model", "label", "units", "mean", "median", "worst twentieth", "worst", "undefined")


@dataclass(frozen=True, kw_only=True, eq=False)
class CaseValues:
    """The primary metric of each test unit for one label, mean over seeds; folds are joined."""

    row: str
    label: str
    values: Array  # (N,), NaN where the metric is undefined for every seed
    mean: float  # the label's part of the score on the board: over seeds, of the mean over folds and units

    @property
    def known(self) -> Array:
        known: Array = self.values[~np.isnan(self.values)]
        return known

    def worst_bound(self, metric: MetricSpec) -> float:
        """The value beyond which the worst twentieth of the units lies: a 5th or 95th percentile."""
        return float(np.quantile(self.known, WORST if metric.higher_is_better else 1 - WORST))


def list_case_values(row: ScoredRow, request: SectionRequest) -> list[CaseValues]:
    """The values of a row, one record per label; none for a task or a metric without values of single units."""
    metric, card = request.primary, request.card
    if "cases" not in card.task.presentation.figures or metric is None or metric.per_unit is None:
        return []
    seeds, means = [], []
    for folds in row.stored:
        of_folds = []
        for run in folds:
            in_order = np.argsort(run["test"].by_unit(card.unit).sample_ids)
            try:
                decided = decide(run, card, request.rule_of(row)).request_of(metric)
            except Undefined:  # it reads a column that is not stored
                return []
            of_folds.append(unit_values(decided, metric.per_unit)[in_order])
        seeds.append(np.concatenate(of_folds))
        means.append(means_by_label(np.stack([means_by_label(part) for part in of_folds])))
    stacked = np.stack(seeds)  # (S, N, L)
    known = ~np.isnan(stacked)
    total, count = np.where(known, stacked, 0).sum(axis=0), known.sum(axis=0)
    values = np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)
    if values.shape[1] != len(card.labels):
        return []  # a metric of all labels together
    mean = means_by_label(np.stack(means))
    return [
        CaseValues(row=row.label, label=label, values=values[:, i], mean=float(mean[i]))
        for i, label in enumerate(card.labels)
    ]


def build_section(request: SectionRequest) -> Section | None:
    """Build the section `cases`: a line per row and label with the mean, the median and the worst values."""
    found = [case for row in request.rows for case in list_case_values(row, request)]
    if not found or request.primary is None:
        return None
    better = request.primary.higher_is_better
    rows: list[tuple[Cell, ...]] = []
    for case in found:
        known = case.known
        shown: tuple[Cell, ...] = (None,) * 4
        if len(known):
            worst = float(known.min() if better else known.max())
            shown = case.mean, float(np.median(known)), case.worst_bound(request.primary), worst
        rows.append((case.row, case.label, len(known), *shown, len(case.values) - len(known)))
    side = f"{WORST * 100:g} % of {plural_of(request.unit_name)} are {'lower' if better else 'higher'}"
    return Section(
        name="cases",
        title=f"Cases: {request.primary.title} of each {request.unit_name}",
        columns=OF_CASES,
        rows=tuple(rows),
        compact=("model", "label", "mean", "median", "worst twentieth", "worst"),
        notes=(
            f"mean over seeds of each {request.unit_name}; worst twentieth: {side}",
            f"undefined: {plural_of(request.unit_name)} without the label in the reference and in every "
            "prediction; they are in "
            "no mean",
        ),
    )

"""Choose the labels of a multi-label test set that have enough cases to count in a mean over labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from zoo.arrays import Array
from zoo.evaluation.predictions import LazyRun, Predictions, SplitPredictions
from zoo.evaluation.values import MIN_CASES, Runs, count_cases
from zoo.specs.metric import ScoringContext


@dataclass(frozen=True, kw_only=True)
class LabelCases:
    """The test patients (images without a patient key) with and without a label, over all folds."""

    label: str
    positives: int
    negatives: int

    @property
    def suffice(self) -> bool:
        return min(self.positives, self.negatives) >= MIN_CASES


def count_label_cases(tests: Sequence[Predictions], card: ScoringContext) -> tuple[LabelCases, ...]:
    """Count the cases of each label in the test splits of all folds; none for other than multi-label tasks."""
    if card.task.targets.form != "flags" or not tests:
        return ()
    units = [test.by_unit(card.unit) for test in tests]
    positives, negatives = np.sum(
        [count_cases(unit.targets, unit.patients, len(card.labels)) for unit in units], axis=0
    )
    return tuple(
        LabelCases(label=label, positives=int(m), negatives=int(n))
        for label, m, n in zip(card.labels, positives, negatives, strict=True)
    )


def choose_labels(cases: Sequence[LabelCases]) -> tuple[int, ...]:
    """The positions of the labels that count; empty if all do, or if none has enough cases."""
    counted = tuple(position for position, each in enumerate(cases) if each.suffice)
    return counted if len(counted) < len(cases) else ()


def keep_labels(runs: Runs, card: ScoringContext, labels: Sequence[int]) -> tuple[Runs, ScoringContext]:
    """Reduce predictions of a task by label to the labels at these positions; without any, return them unchanged."""
    if not labels:
        return runs, card
    columns = list(labels)

    def reduce(part: Predictions) -> Predictions:
        odds: Array | None = part.log_odds
        return replace(
            part,
            targets=part.targets[:, columns],
            probabilities=card.task.answers.keep_labels(part.probabilities, columns),
            log_odds=None if odds is None else card.task.answers.keep_labels(odds, columns),
        )

    def reduce_run(run: SplitPredictions) -> SplitPredictions:
        return {split: reduce(part) for split, part in run.items()}

    reduced = [[LazyRun(partial(reduce_run, run)) for run in folds] for folds in runs]
    return reduced, replace(card, labels=tuple(card.labels[column] for column in columns))

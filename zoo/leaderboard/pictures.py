"""Choose the test images that show what a model does, by rule."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from zoo.arrays import Array
from zoo.data.masks import LabelMaps
from zoo.evaluation.predictions import SplitPredictions
from zoo.evaluation.thresholds import decide
from zoo.leaderboard.formatting import number
from zoo.leaderboard.tables import ScoredRow, SectionRequest
from zoo.tasks.task import PictureRule

PICTURES_PER_RULE = 2


@dataclass(frozen=True, kw_only=True)
class ChosenImage:
    """A test image chosen by a rule: its target and the answer, as a reader sees them."""

    rule: PictureRule
    row: str
    seed: int
    sample_id: str
    target: str
    answer: str
    confidence: float | None  # the probability of what was decided; None for numbers and masks
    mask: Array | None = field(default=None, compare=False)  # predicted, uint8 (H, W)


@dataclass(frozen=True, eq=False)
class Candidates:
    """The test images of one run: a value by which they are ordered, whether each answer is right (N,), and masks."""

    sample_ids: Array
    targets: Sequence[str]
    answers: Sequence[str]
    value: Array  # the confidence, the error or the score
    right: Array
    masks: LabelMaps | None = None


def choose_images(row: ScoredRow, request: SectionRequest) -> list[ChosenImage]:
    """Images of a row's first seed, by the rules of its task; equal ones are ordered by their sample id."""
    rules = request.card.task.presentation.pictures
    if not rules or not row.stored:
        return []
    parts = [list_candidates(run, request) for run in row.stored[0]]
    decided = request.card.task.decisions is not None
    masks = {str(name): (part.masks, i) for part in parts for i, name in enumerate(part.sample_ids) if part.masks}
    chosen = []
    for rule in rules:
        ordered = sorted(entry for part in parts for entry in order_candidates(part, rule))
        for value, sample_id, target, answer in ordered[:PICTURES_PER_RULE]:
            maps, i = masks.get(sample_id, (None, 0))
            chosen.append(
                ChosenImage(
                    rule=rule,
                    row=row.label,
                    seed=row.seeds[0],
                    sample_id=sample_id,
                    target=target,
                    answer=answer,
                    confidence=abs(value) if decided else None,
                    mask=None if maps is None else maps[i],
                )
            )
    return chosen


def order_candidates(part: Candidates, rule: PictureRule) -> Iterator[tuple[float, str, str, str]]:
    """The images that fit a rule, each with the value by which the smallest comes first."""
    fits = {"most confident, right": part.right, "most confident, wrong": ~part.right}.get(
        rule, np.ones(len(part.value), bool)
    )
    sign = 1 if rule in ("least confident", "smallest error", "lowest score", "median score") else -1
    known = fits & ~np.isnan(part.value)
    value = part.value
    if rule == "median score" and known.any():
        value = np.abs(value - np.median(value[known]))
    for i in np.flatnonzero(known).tolist():
        yield sign * float(value[i]), str(part.sample_ids[i]), part.targets[i], part.answers[i]


def list_candidates(run: SplitPredictions, request: SectionRequest) -> Candidates:
    """The test images of a run; images are decided one by one, also where patients are scored."""
    card, task, test = replace(request.card, unit="image", val_unit=None), request.card.task, run["test"]
    decisions = decide(run, card, request.threshold).request.decisions
    targets = [task.targets.describe(target, card.labels) for target in test.targets]
    if task.targets.spatial:
        scores = task.answers.of_target(test.probabilities, test.targets)
        answer = [f"{task.presentation.answer} {number(score, 2)}" for score in scores]
        return Candidates(test.sample_ids, targets, answer, scores, scores == 1, test.label_maps)
    if decisions is None:
        answers = test.probabilities[:, 0]
        error = np.abs(answers - test.targets)
        return Candidates(
            test.sample_ids, targets, [task.targets.describe(a, card.labels) for a in answers], error, error == 0
        )
    known = ~np.isnan(np.asarray(test.targets, float))
    right = ~((decisions != test.targets) & known).reshape(len(test), -1).any(axis=1)
    confidence = task.answers.of_target(test.probabilities, decisions.astype(test.targets.dtype))
    return Candidates(
        test.sample_ids, targets, [task.targets.describe(d, card.labels) for d in decisions], confidence, right
    )

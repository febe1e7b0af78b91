"""Score ensembles of a board's models: the mean probability over seeds, and over folds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from zoo.arrays import Array
from zoo.evaluation.metrics.catalogue import METRICS
from zoo.evaluation.predictions import Predictions, SplitPredictions, mean_log_odds
from zoo.evaluation.scoring import score
from zoo.evaluation.values import Runs
from zoo.leaderboard.tables import Cell, Section, SectionRequest
from zoo.specs.metric import MetricSpec
from zoo.statistics.means import mean_of_arrays

MIN_MEMBERS = 2
MOST_METRICS = 5  # of the task, including the primary one


def build_section(request: SectionRequest) -> Section | None:
    """Build the section `ensembles` if it is requested and a model has several seeds or folds."""
    request = request.over_counted_labels()
    # A mean of the statistics of several masks is no statistic of an ensemble's mask.
    if not request.options.ensembles or request.primary is None or request.card.task.targets.spatial:
        return None
    metrics = choose_ensemble_metrics(request)
    rows: list[tuple[Cell, ...]] = []
    for row in request.rows:
        if row.baseline:
            continue
        folds, described = ensembles_of(row.stored, request.facts)
        if not folds:
            continue
        rule = request.rule_of(row)
        scores = score([folds], metrics, request.card, threshold=rule)
        single = score(row.stored, {request.primary.name: request.primary}, request.card, threshold=rule)
        mean = replace(single[request.primary.name], low=None, high=None)
        rows.append((row.label, described, *scores.values(), mean))
    if not rows:
        return None
    return Section(
        name="ensembles",
        title="Ensembles: the mean probability of several trainings of one model",
        columns=("model", "ensemble of", *metrics, f"{request.primary.name} of its members"),
        rows=tuple(rows),
        notes=(
            "an ensemble costs as much as all its members, so it is not ranked among single models; its interval is "
            "over patients alone; thresholds are chosen on val from its mean probabilities",
        ),
    )


def choose_ensemble_metrics(request: SectionRequest) -> dict[str, MetricSpec]:
    assert request.primary is not None
    by_name = {spec.name: spec for spec in METRICS}
    names = [name for name in request.card.task.metrics[:MOST_METRICS] if name in by_name]
    return {request.primary.name: request.primary} | {n: by_name[n] for n in names if n != request.primary.name}


def ensembles_of(stored: Runs, facts: Mapping[str, Any]) -> tuple[list[SplitPredictions], str]:
    """The ensembles of one row, one per set of test images, and a description; none for fewer than two runs.

    In cross-validation only the models of one fold are tested on its images, so only its seeds are averaged. In
    external validation the models of all folds are tested on the same images.
    """
    num_folds = facts.get("external", {}).get("folds", 1)
    if num_folds > 1:
        members = [run for part in stored for run in part]
        described = f"{len(members) // num_folds} seeds x {num_folds} folds"
        return ([average(members)] if len(members) >= MIN_MEMBERS else []), described
    if len(stored) < MIN_MEMBERS:
        return [], ""
    return [average(parts) for parts in zip(*stored, strict=True)], f"{len(stored)} seeds"


def average(members: Sequence[SplitPredictions]) -> SplitPredictions:
    """Average runs into one. Members with different val images contribute separate parts to its val split."""
    parts: dict[bytes, list[Predictions]] = {}
    for run in members:
        if "val" in run:
            parts.setdefault(np.asarray(run["val"].sample_ids).tobytes(), []).append(run["val"])
    means = [mean_of(members_of_val) for members_of_val in parts.values()]
    test = mean_of([run["test"] for run in members])
    return {"val": join_folds(means), "test": test} if means else {"test": test}


def mean_of(parts: Sequence[Predictions]) -> Predictions:
    first = parts[0]
    if any(not np.array_equal(part.sample_ids, first.sample_ids) for part in parts):
        raise ValueError("the members were not tested on the same images in the same order")
    odds = log_odds_of(parts)
    owner = np.tile(np.arange(len(first)), len(parts))
    return replace(
        first,
        probabilities=mean_of_arrays([part.probabilities for part in parts]),
        log_odds=None if odds is None else mean_log_odds(odds, owner, len(first)),
    )


def log_odds_of(parts: Sequence[Predictions]) -> Array | None:
    """The log odds of all parts, concatenated; None if a part has none."""
    odds = [part.log_odds for part in parts if part.log_odds is not None]
    return np.concatenate(odds) if len(odds) == len(parts) else None


def join_folds(parts: Sequence[Predictions]) -> Predictions:
    """Concatenate parts. An image that is in val of several folds counts once per fold, as a different image."""
    if len(parts) == 1:
        return parts[0]
    names = [[f"{number}/{name}" for name in part.sample_ids] for number, part in enumerate(parts)]
    owners = [[f"{number}/{name}" for name in part.patients] for number, part in enumerate(parts)]
    return Predictions(
        sample_ids=np.concatenate([np.array(each) for each in names]),
        patients=np.concatenate([np.array(each) for each in owners]),
        targets=np.concatenate([part.targets for part in parts]),
        probabilities=np.concatenate([part.probabilities for part in parts]),
        log_odds=log_odds_of(parts),
    )

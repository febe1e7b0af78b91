"""Score ensembles of a board's models: the mean probability over seeds, over folds, and over several models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from zoo.arrays import Array
from zoo.errors import Undefined
from zoo.evaluation.evidence import weigh_evidence
from zoo.evaluation.methods import IntervalMethod
from zoo.evaluation.metrics.catalogue import METRICS
from zoo.evaluation.predictions import Predictions, SplitPredictions, mean_log_odds
from zoo.evaluation.scoring import score
from zoo.evaluation.values import Runs, Score
from zoo.leaderboard.significance import compare_rows
from zoo.leaderboard.tables import Cell, ScoredRow, SectionRequest, set_apart
from zoo.specs.metric import MetricSpec
from zoo.specs.section import Section
from zoo.statistics.means import exact_mean, mean_of_arrays

MIN_MEMBERS = 2
MOST_METRICS = 5  # of the task, including the primary one
MINUS_BEST, TRAIN_SECONDS = "minus best on val", "train seconds"
ALL_MODELS = "all"  # in --ensemble: every model of the board
DIFFERENCE = IntervalMethod(code="other", name="difference of means over patients, of these runs")


@dataclass(frozen=True, eq=False, kw_only=True)
class Ensemble:
    """Predictions to score as one model, and the rows that they are the mean of."""

    name: str
    described: str  # "3 seeds"
    folds: Sequence[SplitPredictions]  # one per set of test images
    members: Sequence[ScoredRow]


def build_section(request: SectionRequest) -> Section | None:
    """Build the section `ensembles` if it is requested and there are several seeds or folds of a model, or models."""
    request = request.over_counted_labels()
    options = request.options
    # A mean of the statistics of several masks is no statistic of an ensemble's mask.
    if not (options.ensembles or options.members) or request.primary is None or request.card.task.targets.spatial:
        return None
    metrics, name = choose_ensemble_metrics(request), request.primary.name
    found, notes = list_ensembles(request)
    if not found and not notes:
        return None
    first, last = ("model", "ensemble of"), (f"{name} of its members", MINUS_BEST, TRAIN_SECONDS, "seconds per image")
    columns = set_apart(metrics, {*first, *last})
    return Section(
        name="ensembles",
        title="Ensembles: the mean probability of several trainings of one model, or of several models",
        columns=(*first, *columns, *last),
        compact=(*first, columns[0], *last[:-1]),
        rows=tuple(score_ensemble(each, metrics, request) for each in found),
        notes=(
            "an ensemble costs as much as all its members, so it is not ranked among single models; its interval is "
            "over patients alone; thresholds are chosen on val from its mean probabilities",
            *(
                [f"{MINUS_BEST}: {name} of the ensemble minus that of its member with the best val score"]
                if found
                else []
            ),
            *notes,
        ),
    )


def list_ensembles(request: SectionRequest) -> tuple[list[Ensemble], list[str]]:
    """The requested ensembles, and why others cannot be made."""
    models = [row for row in request.rows if not row.baseline]
    found, notes = [], []
    for row in models if request.options.ensembles else ():
        folds, described = ensembles_of(row.stored, request.facts)
        if folds:
            found.append(Ensemble(name=row.label, described=described, folds=folds, members=[row]))
    for names in request.options.members:
        try:
            found.append(join_models(models if names == (ALL_MODELS,) else find_members(names, models), request.facts))
        except ValueError as error:
            notes.append(f"--ensemble {','.join(names)}: {error}")
    return found, notes


def find_members(names: Sequence[str], rows: Sequence[ScoredRow]) -> list[ScoredRow]:
    """The rows that these names mean. Raises ValueError for a name that the board lacks, or has several times."""
    members = []
    for name in names:
        matches = [row for row in rows if name == row.label] or [row for row in rows if name in row.names]
        if len(matches) != 1:
            labels = ", ".join(row.label for row in matches or rows)
            raise ValueError(f"{name!r} is {len(matches) or 'no'} row{'s' * (len(matches) > 1)} here: {labels}")
        members += matches
    return list(dict.fromkeys(members))


def join_models(members: Sequence[ScoredRow], facts: Mapping[str, Any]) -> Ensemble:
    """The ensemble of several models, each with the same weight however many seeds it has."""
    if len(members) < MIN_MEMBERS:
        raise ValueError(f"expected {MIN_MEMBERS} or more models")
    parts = [ensembles_of(row.stored, facts)[0] or first_seed(row.stored) for row in members]
    if len({len(folds) for folds in parts}) > 1:
        raise ValueError("its models do not have the same folds")
    return Ensemble(
        name=" + ".join(row.label for row in members),
        described=f"{len(members)} models, {sum(sum(map(len, row.stored)) for row in members)} runs",
        folds=[average(folds) for folds in zip(*parts, strict=True)],
        members=members,
    )


def first_seed(stored: Runs) -> list[SplitPredictions]:
    return list(stored[0])


def score_ensemble(ensemble: Ensemble, metrics: Mapping[str, MetricSpec], request: SectionRequest) -> tuple[Cell, ...]:
    """The cells of one ensemble."""
    assert request.primary is not None
    name, rule = request.primary.name, request.rule_of(ensemble.members[0])
    scores = score([ensemble.folds], metrics, request.card, threshold=rule)
    singles = [
        score(row.stored, {name: request.primary}, request.card, threshold=request.rule_of(row))[name]
        for row in ensemble.members
    ]
    values = [single.value for single in singles if single.value is not None]
    mean = exact_mean(values) if len(values) == len(singles) else None
    return (
        ensemble.name,
        ensemble.described,
        *scores.values(),
        replace(singles[0], value=mean, low=None, high=None),
        compare_with_best(ensemble, request),
        sum_cost(ensemble, "train_seconds"),
        sum_cost(ensemble, "latency_seconds", parts=len(ensemble.folds)),
    )


def compare_with_best(ensemble: Ensemble, request: SectionRequest) -> Score | None:
    """The primary metric of an ensemble minus that of its member with the best score of val: test chooses nothing.

    The interval is over patients: it is about these runs, not about other seeds. None if it cannot be tested.
    """
    metric, card = request.primary, request.card
    assert metric is not None
    known = [row for row in ensemble.members if row.val_score is not None]
    if len(known) < len(ensemble.members):
        return None
    best = max(known, key=lambda row: row.val_score or 0.0)
    rule = request.rule_of(best)
    try:
        own, other = (weigh_evidence(runs, metric, card, threshold=rule) for runs in ([ensemble.folds], best.stored))
    except Undefined:
        return None
    as_runs = [
        replace(each, deterministic=True, seed_scores=np.array([exact_mean(each.seed_scores)])) for each in (own, other)
    ]
    pair = compare_rows(as_runs, higher_is_better=True).find(0, 1)
    if pair is None:
        return None
    return Score(value=pair.difference, low=pair.low, high=pair.high, method=DIFFERENCE, version=metric.version)


def sum_cost(ensemble: Ensemble, name: str, *, parts: int = 1) -> float | None:
    """The cost of all runs of an ensemble's members, over `parts`; None if it is unknown of one.

    In cross-validation only the runs of one fold answer about an image.
    """
    costs = [(row.cost.get(name), sum(map(len, row.stored))) for row in ensemble.members]
    known = [cost * runs / parts for cost, runs in costs if cost is not None]
    return float(f"{sum(known):.4g}") if len(known) == len(costs) else None


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
        metadata={
            name: np.concatenate([part.metadata[name] for part in parts])
            for name in parts[0].metadata
            if all(name in part.metadata for part in parts)
        },
    )

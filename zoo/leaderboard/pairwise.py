"""Compare two models of a board: the difference, its uncertainty, and the images they disagree on.

A pure function of boards. Two rows are tested as on the board, by `significance.compare_rows`; see docs/statistics.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from zoo.arrays import Array
from zoo.errors import Undefined, UsageError, nearest
from zoo.evaluation.evidence import Evidence, weigh_evidence
from zoo.evaluation.label_cases import keep_labels
from zoo.evaluation.reasons import Reason, reason_for
from zoo.evaluation.thresholds import DecidedTest, ThresholdRule, decide
from zoo.leaderboard.boards import Board
from zoo.leaderboard.rows import Row
from zoo.leaderboard.sanity_checks import is_baseline, is_imported
from zoo.leaderboard.significance import MIN_SEEDS, Difference
from zoo.results.store import Result
from zoo.specs.metric import ScoringContext
from zoo.statistics.means import ROUNDING, exact_mean, mean_by_group, mean_of_arrays
from zoo.statistics.pairs import McNemar, mcnemar
from zoo.statistics.roc import Test, delong_covariance, z_test
from zoo.tasks.task import Answers

MAX_DISAGREEMENTS = 10
SINGLE_RUNS = "single runs: no statement on seeds"
BY_INFLUENCE = "influence"
BY_PROBABILITY = "probability of the true class"


@dataclass(frozen=True, kw_only=True)
class SingleRuns:
    """The test of one run of each model on the same test units: it concerns these runs, not the models."""

    seeds: tuple[int, int]
    method: str  # "paired DeLong", or its equivalent for other metrics and several units per patient
    difference: float
    low: float
    high: float
    statistic: float | None  # z; None if the difference has no variance
    p: float | None
    only_first: int | None  # units that only the first classified correctly
    only_second: int | None
    mcnemar: McNemar | None
    mcnemar_reason: str | None  # why there is none


@dataclass(frozen=True, kw_only=True)
class Disagreement:
    """A patient (or an image, without a patient key) on which the two models differ most."""

    case: str
    samples: tuple[str, ...]
    target: str
    first: float | None  # mean probability of the true class over seeds and images; regression: the predicted value
    second: float | None
    moves: float  # how much smaller the difference would be without this case, or first minus second


@dataclass(frozen=True, kw_only=True)
class Contrast:
    """Two rows of one board, by their positions."""

    board: Board
    first: int
    second: int
    tested: Difference | None  # over patients and seeds
    single: SingleRuns | None  # if one of the two has one seed
    reason: Reason | str | None  # why neither could be tested
    ordered_by: str
    disagreements: tuple[Disagreement, ...]

    @property
    def rows(self) -> tuple[Row, Row]:
        return self.board.rows[self.first], self.board.rows[self.second]


# --- selection -------------------------------------------------------------------------------------------------------
def select_results(results: Sequence[Result], dataset: str | None, protocol: str | None) -> list[Result]:
    """Select the results on one dataset and under one protocol (`finetune` or `finetune@1`), with their baselines."""
    labels = {name for r in results if not is_baseline(r.run) for name in names_of_protocol(r)}
    for kind, requested, names in (
        ("dataset", dataset, {r.run["dataset"] for r in results}),
        ("protocol", protocol, labels),
    ):
        if requested and requested not in names:
            hint = nearest(requested, names)
            raise UsageError(
                f"no stored result has the {kind} {requested!r}", fix=hint or f"there are: {', '.join(sorted(names))}"
            )
    return [
        r
        for r in results
        if dataset in (None, r.run["dataset"])
        and (protocol is None or protocol in names_of_protocol(r) or is_baseline(r.run) or is_imported(r.run))
    ]


def names_of_protocol(result: Result) -> tuple[str, str]:
    return result.run["protocol_label"], result.run["protocol"]["name"]


def find_label(boards: Sequence[Board], name: str) -> str:
    """Resolve a name to a row's label: a label itself, or the plain or qualified name of exactly one row."""
    rows = [row for board in boards for row in board.rows]
    labels = sorted({row.label for row in rows})
    if name in labels:
        return name
    matches = sorted({row.label for row in rows if name in (row.name, row.model, row.qualified)})
    if len(matches) == 1:
        return matches[0]
    if matches:
        raise UsageError(f"{name!r} is {len(matches)} rows: {', '.join(matches)}", fix="name one of them in full")
    hint = nearest(name, {*labels, *(row.model for row in rows)})
    fix = hint or f"there are: {', '.join(labels[:20])}" + (" ..." if len(labels) > 20 else "")
    raise UsageError(f"no board has a model {name!r}", fix=fix, code="unknown-model")


def compare_models(boards: Sequence[Board], first: str, second: str) -> list[Contrast]:
    """Compare two models on every board that has both; UsageError if a name is unknown or ambiguous."""
    boards = [board for board in boards if not board.is_control]
    one, other = find_label(boards, first), find_label(boards, second)
    if one == other:
        raise UsageError(f"{first!r} and {second!r} are the same model: {one}", fix="name two different ones")
    contrasts = []
    for board in boards:
        labels = [row.label for row in board.rows]
        if one in labels and other in labels:
            contrasts.append(contrast(board, labels.index(one), labels.index(other)))
    if not contrasts:
        places = {
            name: ", ".join(sorted({f"{b.dataset} {b.protocol}" for b in boards if name in {r.label for r in b.rows}}))
            for name in (one, other)
        }
        listed = "; ".join(f"{name}: {where}" for name, where in places.items())
        raise UsageError(f"no board has both {one!r} and {other!r}", fix=f"run both on one dataset ({listed})")
    return contrasts


def contrast(board: Board, first: int, second: int) -> Contrast:
    tested = board.comparisons.find(first, second)
    single: SingleRuns | None = None
    reason: Reason | str | None = None
    rows = board.rows[first], board.rows[second]
    if tested is None:
        reason = why_not(board, first, second)
        if reason is None:
            try:
                single = compare_runs(board, *rows)
            except Undefined as error:
                reason = reason_for(error, "undefined")
    ordered_by, disagreements = find_disagreements(board, *rows)
    return Contrast(
        board=board,
        first=first,
        second=second,
        tested=tested,
        single=single,
        reason=reason,
        ordered_by=ordered_by,
        disagreements=disagreements,
    )


def why_not(board: Board, first: int, second: int) -> Reason | str | None:
    """The reason why two rows cannot be tested at all; None if at least single runs can."""
    for row in (board.rows[first], board.rows[second]):
        if not isinstance(row.evidence, Evidence):
            return Reason("of", (row.label, row.evidence))
    if not same_cases(board.rows[first], board.rows[second]):
        return "they were not tested on the same patients"
    if min(len(board.rows[i].seeds) for i in (first, second)) >= MIN_SEEDS:
        return next(reason for i in (first, second) if (reason := board.comparisons.unranked[i]))
    return None


def same_cases(first: Row, second: Row) -> bool:
    """Whether both were tested on the same samples, fold by fold."""
    pairs = list(zip(first.stored[0], second.stored[0], strict=False)) if first.stored and second.stored else []
    return (
        bool(pairs)
        and len(first.stored[0]) == len(second.stored[0])
        and all(np.array_equal(a["test"].sample_ids, b["test"].sample_ids) for a, b in pairs)
    )


# --- one run of each -------------------------------------------------------------------------------------------------
def compare_runs(board: Board, first: Row, second: Row) -> SingleRuns:
    """Compare one run of each model, of a common seed if there is one; Undefined if the metric has no influence."""
    from scipy.special import ndtri

    common = [seed for seed in first.seeds if seed in second.seeds]
    seeds = (common[0], common[0]) if common else (first.seeds[0], second.seeds[0])
    stored = [row.stored[row.seeds.index(seed)] for row, seed in zip((first, second), seeds, strict=True)]
    runs, card = keep_labels(stored, board.card, board.labels)
    rules = [board.rule_of(row) for row in (first, second)]
    parts = [[decide(run, card, rule) for run in folds] for folds, rule in zip(runs, rules, strict=True)]
    method, difference, variance, test = test_scores(board, runs, parts, rules)
    half = float(ndtri(0.975)) * variance**0.5
    only_first, only_second, reason = count_discordant(parts)
    return SingleRuns(
        seeds=seeds,
        method=method,
        difference=difference,
        low=difference - half,
        high=difference + half,
        statistic=None if np.isnan(test.statistic) else test.statistic,
        p=None if np.isnan(test.p) else test.p,
        only_first=only_first,
        only_second=only_second,
        mcnemar=None if only_first is None or only_second is None else mcnemar(only_first, only_second),
        mcnemar_reason=reason,
    )


def test_scores(
    board: Board,
    runs: Sequence[Sequence[Any]],
    parts: Sequence[Sequence[DecidedTest]],
    rules: Sequence[ThresholdRule],
) -> tuple[str, float, float, Test]:
    """Method, difference of the primary metric, its variance, and the z test.

    DeLong's test, averaged over folds, if the metric is one area and each unit a different patient; otherwise the
    variance of the paired influence values by patient, its equivalent for other metrics and for clusters.
    """
    assert board.primary is not None
    curve = None if board.primary.patients else board.primary.curve
    if curve and all(len(np.unique(part.patients)) == len(part.patients) for part in parts[0]):
        try:
            curves = [[curve(part.request_of(board.primary)) for part in folds] for folds in parts]
        except Undefined:
            curves = []
        if curves:
            estimates = [delong_covariance(a[0], np.stack([a[1], b[1]])) for a, b in zip(*curves, strict=True)]
            difference = exact_mean(areas[0] - areas[1] for areas, _ in estimates)
            variances = [c[0, 0] + c[1, 1] - 2 * c[0, 1] for _, c in estimates]
            variance = max(float(np.sum(variances)), 0.0) / len(estimates) ** 2
            return "paired DeLong", difference, variance, z_test(difference, variance)
    _, card = keep_labels((), board.card, board.labels)
    a, b = (weigh_evidence([run], board.primary, card, threshold=rule) for run, rule in zip(runs, rules, strict=True))
    difference = float(a.seed_scores[0] - b.seed_scores[0])
    variance = float(np.var(a.influence - b.influence, ddof=1)) / len(a.influence)
    return "z of the paired influence by patient", difference, variance, z_test(difference, variance)


def count_discordant(parts: Sequence[Sequence[DecidedTest]]) -> tuple[int | None, int | None, str | None]:
    """Count the units that only one model classified correctly, over all folds; or why that is impossible."""
    if any(part.request.decisions is None or part.request.decisions.ndim > 1 for part in parts[0]):
        return None, None, "no single decision per unit"
    if any(len(np.unique(part.patients)) < len(part.patients) for part in parts[0]):
        return None, None, "several units per patient: McNemar's test needs independent units"
    right = [np.concatenate([part.request.decisions == part.request.targets for part in folds]) for folds in parts]
    return int((right[0] & ~right[1]).sum()), int((~right[0] & right[1]).sum()), None


# --- where they disagree ---------------------------------------------------------------------------------------------
def find_disagreements(board: Board, first: Row, second: Row) -> tuple[str, tuple[Disagreement, ...]]:
    """Return the order criterion and the cases with the largest paired difference.

    Cases are ordered by their influence on the difference of the scores: it works for every metric, and a model that is
    merely more confident everywhere does not fill the list. Without influence values (ECE, too few cases), they are
    ordered by the probability of the true class.
    """
    if not same_cases(first, second):
        return BY_PROBABILITY, ()
    tests = [part["test"] for part in first.stored[0]]
    patients = np.concatenate([test.patients for test in tests])
    samples = np.concatenate([test.sample_ids for test in tests])
    targets = np.concatenate([test.targets for test in tests])
    of_truths = [mean_of_targets(row, board.card.task.answers) for row in (first, second)]
    cases, owner = np.unique(patients, return_inverse=True)
    by_case = [mean_by_case(values, owner, len(cases)) for values in of_truths]
    a, b = first.evidence, second.evidence
    if isinstance(a, Evidence) and isinstance(b, Evidence):
        ordered_by, order = BY_INFLUENCE, np.argsort(a.patients)  # as `cases` are, over all folds
        moves = ((a.influence - b.influence) / len(a.patients))[order]
    else:
        ordered_by = BY_PROBABILITY
        moves = np.nan_to_num(by_case[0] - by_case[1])
    chosen = np.argsort(-np.abs(moves), kind="stable")[:MAX_DISAGREEMENTS]
    return ordered_by, tuple(
        Disagreement(
            case=str(cases[i]),
            samples=tuple(map(str, samples[owner == i])),
            target=describe_target(targets[owner == i], board.card),
            first=none_if_nan(by_case[0][i]),
            second=none_if_nan(by_case[1][i]),
            moves=float(moves[i]),
        )
        for i in chosen
        if abs(moves[i]) > ROUNDING
    )


def mean_of_targets(row: Row, answers: Answers) -> Array:
    """`Answers.of_target` of each tested image (N,), averaged over seeds; the folds follow one another."""
    folds = zip(*row.stored, strict=True)
    tests = [[part["test"] for part in seeds] for seeds in folds]
    return np.concatenate(
        [mean_of_arrays([answers.of_target(test.probabilities, test.targets) for test in seeds]) for seeds in tests]
    )


def mean_by_case(values: Array, owner: Array, num_cases: int) -> Array:
    """The mean of the defined values of each case; NaN if there are none."""
    defined = ~np.isnan(values)
    cases, group = np.unique(owner[defined], return_inverse=True)
    means = np.full(num_cases, np.nan)
    means[cases] = mean_by_group(values[defined], group, len(cases))
    return means


def describe_target(targets: Array, card: ScoringContext) -> str:
    """The target of a case's images; if they differ, each with its count."""
    kinds = [card.task.targets.describe(target, card.labels) for target in targets]
    names = dict.fromkeys(kinds)
    return kinds[0] if len(names) == 1 else "; ".join(f"{name} x {kinds.count(name)}" for name in names)


def none_if_nan(value: float) -> float | None:
    return None if np.isnan(value) else float(value)

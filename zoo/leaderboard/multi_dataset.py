"""Order models over several datasets: mean rank, win probability, and the tests that the data allow.

A pure function of boards. Raw scores are never averaged over datasets, and no mean is taken over what happens to exist:
a failure of the model's own is scored as the constant predictor; what was never run leaves its dataset out for all.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from zoo.arrays import Array
from zoo.evaluation.evidence import Evidence
from zoo.evaluation.values import Score
from zoo.leaderboard.boards import Board, Row
from zoo.leaderboard.significance import MIN_SEEDS
from zoo.leaderboard.tables import Cell, Section
from zoo.statistics.datasets import DatasetSamples, Order, datasets_needed, normalized_mean, order_models, wilcoxon_holm
from zoo.statistics.intervals import NUM_RESAMPLES
from zoo.statistics.means import exact_mean, rounded
from zoo.statistics.pairs import ALPHA

MIN_DATASETS = MIN_MODELS = 2
NORMALISED = "(score - chance)/(1 - chance)"
METHOD = f"patients within datasets and seeds within models, B={NUM_RESAMPLES}"


@dataclass(frozen=True, kw_only=True)
class DatasetScore:
    """One model on one dataset: its evidence, higher being better, and how many of its seeds the model itself lost."""

    evidence: Evidence
    num_faults: int
    num_seeds: int


@dataclass(frozen=True, kw_only=True)
class Across:
    """One order of models over the datasets of one protocol and kind of initial weights."""

    protocol: str
    init: str
    over: Literal["all", "common"]  # all datasets; those that every model has
    datasets: tuple[str, ...]
    models: tuple[str, ...]  # by mean rank, the best first
    section: Section
    pairs: tuple[tuple[str, str, float], ...]  # Holm-adjusted p of Wilcoxon's test; empty: too few datasets


# Models by dataset: what was tested, or why there is nothing.
ScoreTable = Mapping[str, Mapping[str, DatasetScore | str]]


def find_across(boards: Sequence[Board]) -> list[Across]:
    """The orders over every group of boards of one protocol and kind of initial weights, where it has two datasets.

    One over all datasets, of the models that have them all; and where a model lacks some, one of all models over the
    datasets that they have in common. Controls are left out, and tests elsewhere, whose seeds are another board's.
    """
    groups: dict[tuple[str, str], list[Board]] = {}
    for board in boards:
        if any(not row.baseline for row in board.rows) and not board.is_control and not board.is_external:
            groups.setdefault((board.protocol, board.init), []).append(board)
    found = []
    for group in groups.values():
        notes, chosen = choose_versions(group)
        chosen = tell_networks_apart(chosen)
        table: ScoreTable = {board.dataset: find_tested(board) for board in chosen}
        usable = [
            b for b in chosen if sum(isinstance(t, DatasetScore) for t in table[b.dataset].values()) >= MIN_MODELS
        ]
        models = list(dict.fromkeys(row.label for b in usable for row in b.rows if not row.baseline))
        complete = [model for model in models if len(having(model, usable, table)) == len(usable)]
        if len(usable) >= MIN_DATASETS and len(complete) >= MIN_MODELS:
            found.append(rank_across(usable, complete, table, "all", len(usable), notes))
        if len(complete) < len(models):
            several, common = share_datasets(models, usable, table)
            if several != complete and len(several) >= MIN_MODELS:
                found.append(rank_across(common, several, table, "common", len(usable), notes))
    return found


def choose_versions(boards: Sequence[Board]) -> tuple[list[str], list[Board]]:
    """One board a dataset: of several versions the one with most models, since their patients are the same people."""
    versions: dict[str, list[Board]] = {}
    for board in boards:
        versions.setdefault(board.dataset, []).append(board)
    notes, chosen = [], []
    for name, found in versions.items():
        best = max(found, key=lambda board: (sum(not row.baseline for row in board.rows), not board.bundle))
        chosen.append(best)
        if len(found) > 1:
            kept = f"content {best.facts['content_hash'][:8]}, split {best.facts['split_hash'][:8]}"
            notes.append(f"{name}: {len(found)} versions; used is the one with most models ({kept})")
    return notes, chosen


def tell_networks_apart(boards: Sequence[Board]) -> list[Board]:
    """The boards, with the network in the label of each model that is another network on another board."""
    networks: dict[str, set[str]] = {}
    for board in boards:
        for row in board.rows:
            networks.setdefault(row.label, set()).add(row.network)

    def tell_apart(row: Row) -> Row:
        if row.baseline or len(networks[row.label]) < 2:
            return row
        return replace(row, variant=", ".join(filter(None, (row.variant, f"network={row.network or 'unrecorded'}"))))

    return [replace(board, rows=tuple(map(tell_apart, board.rows))) for board in boards]


def find_tested(board: Board) -> dict[str, DatasetScore | str]:
    """Every model of a board with what is known of it there, or why it counts as not run."""
    constant = next((r.evidence for r in board.rows if r.model == "constant" and r.baseline), None)
    stand_in = constant if isinstance(constant, Evidence) else None
    found = {row.label: weigh_row(row, stand_in, board.higher_is_better) for row in board.rows if not row.baseline}
    first = next((tested for tested in found.values() if isinstance(tested, DatasetScore)), None)
    for label, tested in found.items():
        if isinstance(tested, DatasetScore) and first and not same_patients(tested.evidence, first.evidence):
            found[label] = "not tested on the patients of the others"
    return found


def weigh_row(row: Row, constant: Evidence | None, higher_is_better: bool) -> DatasetScore | str:
    """The row's evidence, with the constant predictor in place of each seed that the model itself lost."""
    lost, own = len(row.faults), row.evidence
    if isinstance(own, str) and (not lost or row.seeds):
        return "; ".join([own, *row.errors])
    if lost and constant is None:
        return "no constant predictor that could stand for its failures"
    parts = [own] * len(row.seeds) if isinstance(own, Evidence) else []
    parts += [constant] * lost if constant is not None else []
    if len(parts) < MIN_SEEDS:
        return "one seed is never ranked"
    if not all(same_patients(part, parts[0]) for part in parts):
        return "the constant predictor was not tested on its patients"
    sign = 1.0 if higher_is_better else -1.0
    scores = [] if isinstance(own, str) else [own.seed_scores]
    scores += [constant.seed_scores[:1]] * lost if constant is not None else []
    evidence = Evidence(
        patients=parts[0].patients,
        influence=sign * np.mean([part.influence for part in parts], axis=0),
        seed_scores=sign * np.concatenate(scores),
    )
    return DatasetScore(evidence=evidence, num_faults=lost, num_seeds=len(parts))


def same_patients(one: Evidence, other: Evidence) -> bool:
    return np.array_equal(one.patients, other.patients)


def having(model: str, boards: Sequence[Board], table: ScoreTable) -> list[Board]:
    return [board for board in boards if isinstance(table[board.dataset].get(model), DatasetScore)]


def share_datasets(models: Sequence[str], boards: Sequence[Board], table: ScoreTable) -> tuple[list[str], list[Board]]:
    """The models and the datasets that all of them have; the model with the fewest goes until there are two."""
    kept = list(models)
    while kept:
        common = [b for b in boards if all(isinstance(table[b.dataset].get(model), DatasetScore) for model in kept)]
        if len(common) >= MIN_DATASETS:
            return kept, common
        kept.remove(min(reversed(kept), key=lambda model: len(having(model, boards, table))))
    return [], []


# --- one order -------------------------------------------------------------------------------------------------------
def rank_across(
    boards: Sequence[Board],
    models: Sequence[str],
    table: ScoreTable,
    over: Literal["all", "common"],
    num_datasets: int,
    notes: Sequence[str],
) -> Across:
    tested = [[part for model in models if isinstance(part := table[b.dataset][model], DatasetScore)] for b in boards]
    measured = [measure_dataset(parts) for parts in tested]
    found = order_models(measured)
    normalised = normalize_score(boards, measured)
    best_first = np.argsort(found.mean_rank, kind="stable").tolist()
    names = tuple(models[i] for i in best_first)
    counts = {model: sum(isinstance(row.get(model), DatasetScore) for row in table.values()) for model in models}
    first = boards[0]
    weights = "pretrained weights" if first.init == "pretrained" else "random init"
    pairs = test_pairs(models, measured, normalised)
    section = Section(
        name="across",
        title=" · ".join(
            [f"across {len(boards)} datasets", first.protocol, weights]
            + ([f"those of {num_datasets} that all models have"] if over == "common" else [])
        ),
        columns=("model", "mean rank", "win probability", "P(rank 1)", f"mean {NORMALISED}", "datasets", "failures"),
        rows=tuple(
            describe_model(i, models[i], found, normalised, tested, f"{counts[models[i]]}/{num_datasets}")
            for i in best_first
        ),
        notes=(
            f"over {', '.join(board.dataset for board in boards)}; rank 1 is the best, equal scores share a mean rank",
            *tell_demonstrations(boards),
            f"intervals: 95 %, {METHOD}; the datasets stay, so nothing is said of other datasets",
            tell_test(pairs, len(boards), len(models)),
            *tell_other_orders(models, names, normalised, measured, tested),
            *notes,
            *tell_failures(boards, models, table),
            *tell_missing(models, table),
        ),
    )
    return Across(
        protocol=first.protocol,
        init=first.init,
        over=over,
        datasets=tuple(board.dataset for board in boards),
        models=names,
        section=section,
        pairs=pairs,
    )


def measure_dataset(tested: Sequence[DatasetScore]) -> DatasetSamples:
    return DatasetSamples(
        influence=np.stack([part.evidence.influence for part in tested]),
        seed_scores=[part.evidence.seed_scores for part in tested],
        steady=np.array([part.num_faults == 0 for part in tested]),
    )


def normalize_score(boards: Sequence[Board], measured: Sequence[DatasetSamples]) -> Array | None:
    """(score - chance)/(best - chance), datasets x models, chance being the constant predictor's score.

    Of an error, whose best is 0, it is the share of the constant predictor's error that is gone. None where a board has
    no constant predictor or its metric no best value.
    """
    rows = []
    for board, part in zip(boards, measured, strict=True):
        constant = next((r.scores.get(board.primary_metric) for r in board.rows if r.model == "constant"), None)
        best = board.primary.bounds[1 if board.higher_is_better else 0] if board.primary else None
        if constant is None or constant.value is None or best is None or constant.value == best:
            return None
        sign = 1.0 if board.higher_is_better else -1.0
        scores = np.array([sign * exact_mean(values) for values in part.seed_scores])
        rows.append((scores - constant.value) / (best - constant.value))
    return np.stack(rows)


def describe_model(
    i: int,
    model: str,
    found: Order,
    normalised: Array | None,
    tested: Sequence[Sequence[DatasetScore]],
    coverage: str,
) -> tuple[Cell, ...]:
    def spread(value: float, interval: Array) -> Score:
        return Score(value=float(value), low=float(interval[0]), high=float(interval[1]), method=METHOD)

    lost, seeds = sum(parts[i].num_faults for parts in tested), sum(parts[i].num_seeds for parts in tested)
    return (
        model,
        spread(found.mean_rank[i], found.mean_rank_interval[i]),
        spread(found.win_probability[i], found.win_probability_interval[i]),
        float(found.first_probability[i]),
        None if normalised is None else normalized_mean(normalised[:, i], np.zeros(len(normalised))),
        coverage,
        f"{lost} of {seeds} seeds" if lost else None,
    )


def test_pairs(
    models: Sequence[str], measured: Sequence[DatasetSamples], normalised: Array | None
) -> tuple[tuple[str, str, float], ...]:
    """Every pair with Holm's p of Wilcoxon's test over the datasets; none where they are too few.

    On the normalised scores where there are some: differences of several metrics are not of one size.
    """
    scores = normalised
    if scores is None:
        scores = np.array([[exact_mean(values) for values in part.seed_scores] for part in measured])
    p = wilcoxon_holm(scores)
    if p is None:
        return ()
    pairs = itertools.combinations(models, 2)  # in the order of numpy.triu_indices
    return tuple((first, second, float(value)) for (first, second), value in zip(pairs, p, strict=True))


def tell_test(pairs: Sequence[tuple[str, str, float]], num_datasets: int, num_models: int) -> str:
    num_pairs = num_models * (num_models - 1) // 2
    shown = f"{num_pairs} pair{'s' * (num_pairs != 1)}"
    if not pairs:
        return f"too few datasets to test: {num_datasets}; {shown} of models would need {datasets_needed(num_pairs)}"
    claimed = [f"{a} and {b} (p {p:.3g})" for a, b, p in pairs if p < ALPHA]
    test = f"Wilcoxon's test over the datasets, Holm over {shown}"
    return f"{test}: {'; '.join(claimed)} differ" if claimed else f"{test}: no detectable difference"


def tell_other_orders(
    models: Sequence[str],
    names: Sequence[str],
    normalised: Array | None,
    measured: Sequence[DatasetSamples],
    tested: Sequence[Sequence[DatasetScore]],
) -> list[str]:
    """The order by the mean normalised score, and without the datasets on which a model failed, where they differ."""
    lines = []
    if normalised is None:
        lines.append(f"no mean {NORMALISED}: a board has no constant predictor, or its metric no best value")
    else:
        means = [float(rounded(exact_mean(column))) for column in normalised.T]
        by_mean = sorted(models, key=lambda model: -means[models.index(model)])
        lines += tell_order(f"by the mean {NORMALISED}", by_mean, names)
    unfailed = [part for part, row in zip(measured, tested, strict=True) if not any(t.num_faults for t in row)]
    if MIN_DATASETS <= len(unfailed) < len(measured):
        ranks = order_models(unfailed, num_resamples=1).mean_rank
        others = sorted(models, key=lambda model: ranks[models.index(model)])
        lines += tell_order("without the datasets on which a model failed", others, names)
    return lines


def tell_order(way: str, order: Sequence[str], names: Sequence[str]) -> list[str]:
    return [f"{way} the order is another: {', '.join(order)}"] if list(order) != list(names) else []


def tell_demonstrations(boards: Sequence[Board]) -> list[str]:
    names = [board.dataset for board in boards if board.demonstration or board.facts["synthetic"]]
    return [f"demonstration: {', '.join(names)}: says nothing about patients"] if names else []


def tell_failures(boards: Sequence[Board], models: Sequence[str], table: ScoreTable) -> list[str]:
    lines = []
    for board in boards:
        for row in board.rows:
            if row.label in models and row.faults and isinstance(table[board.dataset][row.label], DatasetScore):
                seeds = f"seed{'s' * (len(row.faults) != 1)} {', '.join(map(str, row.faults))}"
                why = "; ".join(row.errors)
                lines.append(f"{row.label} on {board.dataset}: {seeds} scored as the constant predictor ({why})")
    return lines


def tell_missing(models: Sequence[str], table: ScoreTable) -> list[str]:
    """Who is not ranked here, or was not tested on a dataset, and why."""
    known = dict.fromkeys(model for row in table.values() for model in row)
    lines = []
    for model in known:
        reasons = [
            f"{dataset} ({row.get(model, 'not run')})"
            for dataset, row in table.items()
            if not isinstance(row.get(model), DatasetScore)
        ]
        if reasons:
            ranked = "" if model in models else "not ranked here; "
            lines.append(f"{model}: {ranked}not run: {', '.join(reasons)}")
    return lines

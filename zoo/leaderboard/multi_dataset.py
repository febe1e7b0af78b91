"""Order models over several datasets: mean rank, win probability, and the tests that the data allow.

A pure function of boards. Raw scores are never averaged over datasets, and every mean is over the same datasets: a
failure caused by the model is scored as the constant predictor; a missing run excludes its dataset for all models.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Literal

import numpy as np

from zoo.arrays import Array
from zoo.evaluation.evidence import Evidence
from zoo.evaluation.methods import IntervalMethod
from zoo.evaluation.reasons import Reason
from zoo.evaluation.values import Score
from zoo.leaderboard.boards import Board
from zoo.leaderboard.formatting import failure_text
from zoo.leaderboard.rows import Row
from zoo.leaderboard.significance import MIN_SEEDS
from zoo.leaderboard.tables import Cell
from zoo.specs.section import Section
from zoo.statistics.datasets import DatasetSamples, Order, datasets_needed, normalized_mean, order_models, wilcoxon_holm
from zoo.statistics.means import exact_mean, rounded
from zoo.statistics.pairs import ALPHA

MIN_DATASETS = MIN_MODELS = 2
NORMALIZED = "(score - chance)/(1 - chance)"
METHOD = IntervalMethod(code="datasets")
WEIGHTS_TEXT = {
    "pretrained": "pretrained weights",
    "random": "random init",
    "fixed": "no weights",
    "none": "imported predictions",
    "mixed": "pretrained weights and random init",
}


@dataclass(frozen=True, kw_only=True)
class DatasetScore:
    """One model on one dataset: its evidence, where higher is better, and its number of failed seeds."""

    evidence: Evidence
    num_faults: int
    num_seeds: int


@dataclass(frozen=True, kw_only=True)
class Across:
    """One order of models over the datasets of one protocol and kind of initial weights."""

    protocol: str
    init: str
    over: Literal["all", "common"]  # all datasets, or those that every model has
    datasets: tuple[str, ...]
    models: tuple[str, ...]  # by mean rank, the best first
    section: Section
    pairs: tuple[tuple[str, str, float], ...]  # Holm-adjusted p of Wilcoxon's test; empty: too few datasets


# Models by dataset: the score, or the reason why there is none.
ScoreTable = Mapping[str, Mapping[str, DatasetScore | Reason | str]]


def find_across(boards: Sequence[Board]) -> list[Across]:
    """Order the models of each group of boards with the same protocol and initial weights, if it has two datasets.

    Boards of recipes are one group. One order is over all datasets, of the models that have them all. If a model lacks
    some, another is of all models over their common datasets. Controls and external validations are excluded: the
    latter reuse another board's seeds.
    """
    groups: dict[tuple[str, str], list[Board]] = {}
    for board in boards:
        if any(not row.baseline for row in board.rows) and not board.is_control and not board.is_external:
            recipe = ("", "") if board.recipes else (board.protocol, board.init)
            groups.setdefault(recipe, []).append(board)
    orders = []
    for group in groups.values():
        notes, chosen = choose_versions(group)
        chosen = label_networks(chosen)
        table: ScoreTable = {board.dataset: score_models(board) for board in chosen}
        usable = [
            b for b in chosen if sum(isinstance(t, DatasetScore) for t in table[b.dataset].values()) >= MIN_MODELS
        ]
        models = list(dict.fromkeys(row.label for b in usable for row in b.rows if not row.baseline))
        complete = [model for model in models if len(list_scored(model, usable, table)) == len(usable)]
        if len(usable) >= MIN_DATASETS and len(complete) >= MIN_MODELS:
            orders.append(rank_across(usable, complete, table, "all", len(usable), notes))
        if len(complete) < len(models):
            several, common = share_datasets(models, usable, table)
            if several != complete and len(several) >= MIN_MODELS:
                orders.append(rank_across(common, several, table, "common", len(usable), notes))
    return orders


def choose_versions(boards: Sequence[Board]) -> tuple[list[str], list[Board]]:
    """Choose one board per dataset: of several versions, which share patients, the one with most models."""
    versions: dict[str, list[Board]] = {}
    for board in boards:
        versions.setdefault(board.dataset, []).append(board)
    notes, chosen = [], []
    for name, candidates in versions.items():
        best = max(candidates, key=lambda board: (sum(not row.baseline for row in board.rows), not board.bundle))
        chosen.append(best)
        if len(candidates) > 1:
            kept = f"content {best.facts['content_hash'][:8]}, split {best.facts['split_hash'][:8]}"
            notes.append(f"{name}: {len(candidates)} versions; used is the one with most models ({kept})")
    return notes, chosen


def label_networks(boards: Sequence[Board]) -> list[Board]:
    """Add the network to the label of each model that is a different network on another board."""
    networks: dict[str, set[str]] = {}
    for board in boards:
        for row in board.rows:
            networks.setdefault(row.label, set()).add(row.network)

    def label_network(row: Row) -> Row:
        if row.baseline or len(networks[row.label]) < 2:
            return row
        return replace(row, variant=", ".join(filter(None, (row.variant, f"network={row.network or 'unrecorded'}"))))

    return [replace(board, rows=tuple(map(label_network, board.rows))) for board in boards]


def score_models(board: Board) -> dict[str, DatasetScore | Reason | str]:
    """The score of each model on a board, or the reason why it counts as not run."""
    constant = next((r.evidence for r in board.rows if r.model == "constant" and r.baseline), None)
    stand_in = constant if isinstance(constant, Evidence) else None
    scores = {row.label: weigh_row(row, stand_in, board.higher_is_better) for row in board.rows if not row.baseline}
    first = next((tested for tested in scores.values() if isinstance(tested, DatasetScore)), None)
    for label, tested in scores.items():
        if isinstance(tested, DatasetScore) and first and not same_patients(tested.evidence, first.evidence):
            scores[label] = "not tested on the patients of the others"
    return scores


def weigh_row(row: Row, constant: Evidence | None, higher_is_better: bool) -> DatasetScore | Reason | str:
    """The row's evidence; each seed that failed because of the model counts as the constant predictor."""
    lost, own = len(row.faults), row.evidence
    if not isinstance(own, Evidence) and (not lost or row.seeds):
        return Reason("several", (own, *map(failure_text, row.failures)))
    if lost and constant is None:
        return "its failures cannot count as the constant predictor, which has no result"
    parts = [own] * len(row.seeds) if isinstance(own, Evidence) else []
    parts += [constant] * lost if constant is not None else []
    if len(parts) < MIN_SEEDS and not row.deterministic:
        return "one seed is never ranked"
    if not all(same_patients(part, parts[0]) for part in parts):
        return "the constant predictor was not tested on its patients"
    sign = 1.0 if higher_is_better else -1.0
    scores = [own.seed_scores] if isinstance(own, Evidence) else []
    scores += [constant.seed_scores[:1]] * lost if constant is not None else []
    evidence = Evidence(
        patients=parts[0].patients,
        influence=sign * np.mean([part.influence for part in parts], axis=0),
        seed_scores=sign * np.concatenate(scores),
    )
    return DatasetScore(evidence=evidence, num_faults=lost, num_seeds=len(parts))


def same_patients(one: Evidence, other: Evidence) -> bool:
    return np.array_equal(one.patients, other.patients)


def list_scored(model: str, boards: Sequence[Board], table: ScoreTable) -> list[Board]:
    """The boards on which a model has a score."""
    return [board for board in boards if isinstance(table[board.dataset].get(model), DatasetScore)]


def share_datasets(models: Sequence[str], boards: Sequence[Board], table: ScoreTable) -> tuple[list[str], list[Board]]:
    """The models and their common datasets; the model with the fewest is dropped until there are two."""
    kept = list(models)
    while kept:
        common = [b for b in boards if all(isinstance(table[b.dataset].get(model), DatasetScore) for model in kept)]
        if len(common) >= MIN_DATASETS:
            return kept, common
        kept.remove(min(reversed(kept), key=lambda model: len(list_scored(model, boards, table))))
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
    order = order_models(measured)
    normalized = normalize_score(boards, measured)
    best_first = np.argsort(order.mean_rank, kind="stable").tolist()
    names = tuple(models[i] for i in best_first)
    counts = {model: sum(isinstance(row.get(model), DatasetScore) for row in table.values()) for model in models}
    protocol = ", ".join(dict.fromkeys(label for board in boards for label in board.protocols))
    init = boards[0].init if len({board.init for board in boards}) == 1 else "mixed"
    pairs = test_pairs(models, measured, normalized)
    section = Section(
        name="across",
        title=" · ".join(
            [f"across {len(boards)} datasets", protocol, WEIGHTS_TEXT[init]]
            + ([f"those of {num_datasets} that all models have"] if over == "common" else [])
        ),
        columns=("model", "mean rank", "win probability", "P(rank 1)", f"mean {NORMALIZED}", "datasets", "failures"),
        rows=tuple(
            describe_model(i, models[i], order, normalized, tested, f"{counts[models[i]]}/{num_datasets}")
            for i in best_first
        ),
        notes=(
            f"over {', '.join(board.dataset for board in boards)}; rank 1 is the best, equal scores share a mean rank",
            *demonstration_notes(boards),
            f"intervals: 95 %, {METHOD.text}; the datasets are not resampled, so they say nothing about other datasets",
            test_note(pairs, len(boards), len(models)),
            *order_notes(models, names, normalized, measured, tested),
            *notes,
            *failure_notes(boards, models, table),
            *missing_notes(models, table),
        ),
    )
    return Across(
        protocol=protocol,
        init=init,
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
    """(score - chance)/(best - chance), shape (datasets, models); chance is the constant predictor's score.

    For an error, whose best value is 0, this is the share of the constant predictor's error that is removed. None if a
    board has no constant predictor or its metric no best value.
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
    order: Order,
    normalized: Array | None,
    tested: Sequence[Sequence[DatasetScore]],
    coverage: str,
) -> tuple[Cell, ...]:
    def spread(value: float, interval: Array) -> Score:
        return Score(value=float(value), low=float(interval[0]), high=float(interval[1]), method=METHOD)

    lost, seeds = sum(parts[i].num_faults for parts in tested), sum(parts[i].num_seeds for parts in tested)
    return (
        model,
        spread(order.mean_rank[i], order.mean_rank_interval[i]),
        spread(order.win_probability[i], order.win_probability_interval[i]),
        float(order.first_probability[i]),
        None if normalized is None else normalized_mean(normalized[:, i], np.zeros(len(normalized))),
        coverage,
        f"{lost} of {seeds} seeds" if lost else None,
    )


def test_pairs(
    models: Sequence[str], measured: Sequence[DatasetSamples], normalized: Array | None
) -> tuple[tuple[str, str, float], ...]:
    """Every pair with its Holm-adjusted p of Wilcoxon's test over the datasets; empty if they are too few.

    The normalized scores are tested if there are any, because differences of several metrics are not comparable.
    """
    scores = normalized
    if scores is None:
        scores = np.array([[exact_mean(values) for values in part.seed_scores] for part in measured])
    p = wilcoxon_holm(scores)
    if p is None:
        return ()
    pairs = itertools.combinations(models, 2)  # in the order of numpy.triu_indices
    return tuple((first, second, float(value)) for (first, second), value in zip(pairs, p, strict=True))


def test_note(pairs: Sequence[tuple[str, str, float]], num_datasets: int, num_models: int) -> str:
    num_pairs = num_models * (num_models - 1) // 2
    counted = f"{num_pairs} pair{'s' * (num_pairs != 1)}"
    if not pairs:
        return f"too few datasets to test: {num_datasets}; {counted} of models would need {datasets_needed(num_pairs)}"
    differing = [f"{a} and {b} (p {p:.3g})" for a, b, p in pairs if p < ALPHA]
    test = f"Wilcoxon's test over the datasets, Holm over {counted}"
    return f"{test}: {'; '.join(differing)} differ" if differing else f"{test}: no detectable difference"


def order_notes(
    models: Sequence[str],
    names: Sequence[str],
    normalized: Array | None,
    measured: Sequence[DatasetSamples],
    tested: Sequence[Sequence[DatasetScore]],
) -> list[str]:
    """The order by mean normalized score, and without datasets on which a model failed, if they differ."""
    lines = []
    if normalized is None:
        lines.append(f"no mean {NORMALIZED}: a board has no constant predictor, or its metric no best value")
    else:
        means = [float(rounded(exact_mean(column))) for column in normalized.T]
        by_mean = sorted(models, key=lambda model: -means[models.index(model)])
        lines += order_note(f"by the mean {NORMALIZED}", by_mean, names)
    unfailed = [part for part, row in zip(measured, tested, strict=True) if not any(t.num_faults for t in row)]
    if MIN_DATASETS <= len(unfailed) < len(measured):
        ranks = order_models(unfailed, num_resamples=1).mean_rank
        others = sorted(models, key=lambda model: ranks[models.index(model)])
        lines += order_note("without the datasets on which a model failed", others, names)
    return lines


def order_note(way: str, order: Sequence[str], names: Sequence[str]) -> list[str]:
    return [f"{way} the order is different: {', '.join(order)}"] if list(order) != list(names) else []


def demonstration_notes(boards: Sequence[Board]) -> list[str]:
    names = [board.dataset for board in boards if board.demonstration or board.facts["synthetic"]]
    return [f"demonstration: {', '.join(names)}: says nothing about patients"] if names else []


def failure_notes(boards: Sequence[Board], models: Sequence[str], table: ScoreTable) -> list[str]:
    lines = []
    for board in boards:
        for row in board.rows:
            if row.label in models and row.faults and isinstance(table[board.dataset][row.label], DatasetScore):
                seeds = f"seed{'s' * (len(row.faults) != 1)} {', '.join(map(str, row.faults))}"
                why = "; ".join(map(failure_text, row.failures))
                lines.append(f"{row.label} on {board.dataset}: {seeds} scored as the constant predictor ({why})")
    return lines


def missing_notes(models: Sequence[str], table: ScoreTable) -> list[Reason]:
    """The models that are not ranked here or not tested on a dataset, with reasons."""
    names = dict.fromkeys(model for row in table.values() for model in row)
    lines = []
    for model in names:
        missing = {
            dataset: why
            for dataset, row in table.items()
            if not isinstance(why := row.get(model, "not run"), DatasetScore)
        }
        if missing:
            ranked = "" if model in models else "not ranked here; "
            lines.append(Reason("not-run-on", (f"{model}: {ranked}", *chain.from_iterable(missing.items()))))
    return lines

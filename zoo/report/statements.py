"""The sentences beside a board's table that a reader needs to judge it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from zoo.errors import clean, plural_of
from zoo.evaluation.methods import PATIENTS_AND_SEEDS
from zoo.evaluation.thresholds import scale_of
from zoo.evaluation.values import MIN_CASES
from zoo.leaderboard.boards import Board
from zoo.leaderboard.formatting import failure_text, number, share
from zoo.leaderboard.multi_dataset import WEIGHTS_TEXT
from zoo.leaderboard.rows import Row
from zoo.leaderboard.significance import Difference
from zoo.report.deviations import deviation_text
from zoo.report.names import has_local_weights, weights_text
from zoo.report.reasons import reason_text
from zoo.results.pseudonyms import LEFT_OUT
from zoo.specs.dataset import parse_patient
from zoo.statistics.means import ROUNDING
from zoo.statistics.roc import cluster_size

BLANKS = rf":( {re.escape(LEFT_OUT)},?)+$"  # "10 images left out: [left out], [left out]"


def title(board: Board) -> str:
    """One line: dataset, task, images, patients, protocol, seeds and initial weights."""
    facts = board.facts
    splits = facts["splits"]
    if facts["num_folds"] > 1:
        tested, folds = splits["test"]["folds"], facts["num_folds"]
        how = f"each tested once in {folds} folds" if tested == folds else f"tested in {tested} of {folds} folds so far"
        images = f"{splits['test']['images']} images, {how}"
    else:
        images = " / ".join(f"{splits[name]['images']} {name}" for name in ("train", "val", "test")) + " images"
    cases = plural_of(parse_patient(facts["patient"]).word)
    unit = f"{splits['test']['patients']} test {cases}" if facts["has_patients"] else ""
    seeds = board.num_seeds
    counted = f"{seeds} seed{'s' * (seeds != 1)}" + (" (preliminary)" if 0 < seeds < 5 else "") if seeds else ""
    once = any(row.deterministic and not row.is_imported for row in board.rows)
    counted = "deterministic" if once and not seeds else counted
    counted = f"{seeds} shuffle{'s' * (seeds != 1)}" if board.is_control else counted
    parts = [clean(board.dataset), facts["task"], images, unit, board.protocol, counted, initial_weights(board)]
    parts += [f"ranked by {clean(board.primary_metric)}"] if board.is_reranked else []
    parts += [f"bundle {clean(board.bundle)}"] if board.bundle else []
    return " · ".join(part for part in parts if part)


def initial_weights(board: Board) -> str:
    if all(row.baseline for row in board.rows):
        return ""
    missing = ": no weights reachable" if has_missing_weights(board) else ""
    return WEIGHTS_TEXT[board.init] + (missing if board.init != "pretrained" else "")


def has_missing_weights(board: Board) -> bool:
    """Whether a row started from random init because its pretrained weights could not be found."""
    return any(deviation.kind == "no-weights" for row in board.rows for deviation in row.deviations)


def headings(board: Board) -> list[str]:
    """The lines above the table: demonstrations and controls."""
    lines = []
    if board.demonstration or board.facts["synthetic"]:
        what = "synthetic data" if board.facts["synthetic"] else "a demonstration recipe"
        lines.append(f"demonstration: {what}; these numbers say nothing about patients")
    if board.is_control:
        lines.append(
            "control: the labels of train and val were shuffled; these scores do not measure a model's quality"
        )
    lines += [
        f"CONTROL FAILED: {clean(verdict.model)}: {reason_text(verdict.text)}"
        for verdict in board.controls
        if verdict.passed is False
    ]
    return lines


def statements(board: Board) -> list[str]:
    """All sentences: unit, test set, split, hashes, weights, ranking, and the limits of the test."""
    lines = [test_statement(board), *label_statements(board), split_statement(board), *external_statements(board)]
    lines += boundary_statements(board)
    lines += [system_statement(board), *weights_statements(board)]
    lines += [*tuning_statements(board), *seed_statements(board), *import_statements(board)]
    lines += reader_statements(board)
    lines += usage_statements(board)
    lines += [f"control: {clean(verdict.model)}: {clean(reason_text(verdict.text))}" for verdict in board.controls]
    lines += state_notes(board)
    lines += [f"known issue: {clean(issue)}" for issue in board.facts["known_issues"]]
    lines += [interval_statement(board), *optimism_statements(board)]
    lines += [*rank_fault_statements(board), *ranking_statements(board), *baseline_statements(board)]
    if any(row.provenance == "recomputed" for row in board.rows):
        lines.append(PROVENANCE_TEXT["recomputed"])
    for row in board.rows:
        lines += row_statements(row, board)
    lines += [*note_statements(board.rows, board.metrics), *dropped_statements(board)]
    return [*lines, not_shown_statement(board)]


def dropped_statements(board: Board) -> list[str]:
    """The sections that a board lacks because they failed, each with its plugin."""
    return [f"section {clean(each.name)} of {clean(each.plugin)} is left out: {each.reason}" for each in board.dropped]


def boundary_statements(board: Board) -> list[str]:
    """How the distances between masks are measured."""
    rule = board.facts.get("boundaries")
    if not rule:
        return []
    within = f"{rule['tolerance']:g} {rule['unit']} ({rule.get('origin', 'one pixel')})"
    lines = [
        f"masks: compared at the size of their images; distances in {rule['unit']}, nsd within {within}; the distance "
        "of a missed mask is the diagonal of its image"
    ]
    if board.facts.get("dims") == 3:
        lines.append("latency and test images per second are those of one patch; a large volume is several patches")
    return lines


def state_notes(board: Board) -> list[str]:
    """How the dataset was read. The names that a bundle leaves out of a list are not shown as a list of blanks."""
    return [clean(re.sub(BLANKS, "", note)) for note in board.facts["notes"]]


def not_shown_statement(board: Board) -> str:
    """What no board shows."""
    others = "hospitals other than those of the two datasets" if board.is_external else "other hospitals"
    return NOT_SHOWN.format(others, "these" if board.recipes else "this one")


def interval_statement(board: Board) -> str:
    """The interval methods, or why there are no intervals."""
    scores = [row.scores[board.primary_metric] for row in board.rows if board.primary_metric in row.scores]
    methods = {score.method for score in scores if score.method}
    names = set()
    for method in methods:
        of_patients, with_seeds = (replace(method, with_seeds=added) for added in (False, True))
        both = of_patients in methods and with_seeds in methods  # the baselines have one seed
        names.add(f"{of_patients.text} ({PATIENTS_AND_SEEDS} where there are several)" if both else method.text)
    if names:
        named = "; ".join(sorted(names))
        return f"intervals: 95 %, {named}; overlapping intervals do not show that two models are equal"
    reason = shared_reason(board)
    return f"intervals: none{f': {clean(reason)}' if reason else ''}"


NEAR_ONE, FEW_PATIENTS = 0.9, 60
FEW_EFFECTIVE = 20  # below this, intervals of uneven clusters cover 90 % in some designs (simulate.py --what uneven)


def optimism_statements(board: Board) -> list[str]:
    """State where intervals of areas are too narrow: percentiles near 1 or of few patients, and uneven clusters."""
    if board.primary_metric != "auroc":
        return []
    lines = []
    few = board.facts["splits"]["test"]["patients"] < FEW_PATIENTS
    short = [
        row.label
        for row in board.rows
        if (score := row.scores.get("auroc")) and score.value is not None and score.method and score.method.is_bootstrap
        if few or max(score.value, 1 - score.value) > NEAR_ONE
    ]
    if short:
        why = f"under {FEW_PATIENTS} patients" if few else f"an area above {number(NEAR_ONE)}"
        names = ", ".join(map(clean, short))
        lines.append(
            f"intervals of {names} are too narrow: with {why}, the percentile bootstrap covers 78 to 90 % instead of "
            "95 %"
        )
    clustered = [
        row
        for row in board.rows
        if (score := row.scores.get("auroc")) and score.method and score.method.code == "clustered-newcombe"
    ]
    if clustered:
        patients, effective = count_effective_patients(clustered[0], board)
        if effective < min(FEW_EFFECTIVE, patients / 2):
            lines.append(
                f"intervals are optimistic: {patients} {plural_of(case_name(board))} count as {effective:.0f}, "
                "because a few "
                f"have most of the {plural_of(board.facts['unit'])}; such intervals cover 90 to 95 % instead of 95 %"
            )
    return lines


def count_effective_patients(row: Row, board: Board) -> tuple[int, float]:
    """The patients of one seed's test splits and their effective number, summed over folds."""
    parts = [run["test"].by_unit(board.card.unit).patients for run in row.stored[0]]
    return sum(len(np.unique(part)) for part in parts), sum(len(part) / cluster_size(part) for part in parts)


def shared_reason(board: Board) -> str:
    """The reason why no model has an interval, if all have the same one."""
    scores = [row.scores.get(board.primary_metric) for row in board.rows if not row.baseline]
    reasons = {reason_text(score.reason or "") if score else "" for score in scores}
    return reasons.pop() if len(reasons) == 1 else ""


NOT_SHOWN = "not shown: images of {}, devices and years; protocols other than {}; the benefit of a model for patients"


def test_statement(board: Board) -> str:
    """The test set: unit, counts, labels, prevalence and reference standard."""
    facts, test = board.facts, board.facts["splits"]["test"]
    unit = case_name(board) if facts["unit"] == "patient" else facts["unit"]
    parts = [f"unit: {unit}" + ("" if facts["has_patients"] else f" (patient key: {clean(facts['patient'])})")]
    counted = f"{test['images']} test images"
    parts.append(counted + (f" of {test['patients']} {plural_of(case_name(board))}" if facts["has_patients"] else ""))
    if "labels" in test:
        parts.append("images: " + list_counts(test["labels"]))
        if test.get("label_patients"):
            parts.append(f"{plural_of(case_name(board))}: " + list_counts(test["label_patients"]))
        if facts["unit"] == "clip" and test.get("label_units"):
            parts.append(f"{test['units']} clips: " + list_counts(test["label_units"]))
        if facts["positive"] is not None:
            parts.append(prevalence_of(facts["labels"][facts["positive"]], facts["unit"], test))
    if facts.get("reference_standard"):  # absent from the oldest results
        parts.append(f"reference standard: {clean(facts['reference_standard'])}")
    return "; ".join(parts)


def label_statements(board: Board) -> list[str]:
    """Multi-label: the labels that count in means over labels, and those with too few cases to count."""
    case = case_name(board)
    if board.cases and not any(each.suffice for each in board.cases):
        return [f"{no_label_statement(board)}: no intervals and no ranks"]
    if not board.labels:
        return []
    counted = [f"{clean(each.label)} ({each.positives})" for each in board.cases if each.suffice]
    others = [
        f"{clean(each.label)} ({each.positives} with it, {each.negatives} without)"
        for each in board.cases
        if not each.suffice
    ]
    return [
        f"every mean over labels, and the ranks, are over {len(counted)} of {len(board.cases)} labels, "
        f"by {plural_of(case)} that "
        f"have it: {', '.join(counted)}",
        f"labels that do not count, for under {MIN_CASES} {plural_of(case)} with it or under {MIN_CASES} without: "
        f"{', '.join(others)}",
    ]


def no_label_statement(board: Board) -> str:
    """Why a multi-label test set has no ranks: none of its labels has enough cases."""
    case = case_name(board)
    most = max(board.cases, key=lambda each: min(each.positives, each.negatives))
    return (
        f"no label has {MIN_CASES} test {plural_of(case)} with it and {MIN_CASES} without; {clean(most.label)} comes "
        f"closest, with {most.positives} and {most.negatives}"
    )


def prevalence_of(positive: str, unit: str, test: Mapping[str, Any]) -> str:
    """The positive class and its share of the scored units, or of the images if units were not counted."""
    counts, total, of_what = test["labels"], test["images"], ""
    if unit != "image" and test.get("label_units"):
        counts, total = test["label_units"], test["units"]
    elif unit != "image":
        of_what = " of images"
    return f"positive: {clean(positive)}, prevalence {number(counts[positive] / total, 2)}{of_what}"


def list_counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{clean(label)} {count}" for label, count in counts.items())


def split_statement(board: Board) -> str:
    facts = board.facts
    return f"split: {facts['split_origin']} ({facts['split_hash'][:8]}); dataset {facts['content_hash'][:8]}"


def external_statements(board: Board) -> list[str]:
    """External validation: the training and test datasets, their labels, and the source of the thresholds."""
    external = board.facts.get("external")
    if not external:
        return []
    labels = ", ".join(f"{clean(theirs)} as {clean(ours)}" for theirs, ours in external["labels"].items())
    trained, tested = clean(board.facts["name"]), clean(external["dataset"])
    lines = [
        f"external: trained on {trained}; tested on {tested} ({external['content_hash'][:8]}), its labels: {labels}"
    ]
    lines.append(f"thresholds are those of {trained}'s val; no image of {tested} was used to choose anything")
    if external["folds"] > 1:
        lines.append(
            f"the models of all {external['folds']} folds were tested on the same images: each counts as a seed"
        )
    return lines


def system_statement(board: Board) -> str:
    """Device, versions and dates of the runs."""
    first, last = board.dates
    day = f"; {first}" + (f" to {last}" if last != first else "") if first else ""
    versions = board.versions
    return f"{board.device}; torch {versions.get('torch', '?')}; zoo {versions.get('zoo-bench', '?')}{day}"


def weights_statements(board: Board) -> list[str]:
    """The plugin of each model, and whether its pretraining data may include images of this dataset."""
    by_data: dict[tuple[str, ...] | None, list[str]] = {}
    for row in board.rows:
        if not row.baseline and not row.is_imported:
            pretrained = row.init == "pretrained"
            tag = f" ({weights_text(row)})" if has_local_weights(row) else f".{row.weights}" * pretrained
            name = clean(f"{row.qualified}{tag}")
            by_data.setdefault(row.pretraining if pretrained else (), []).append(name)
    lines = []
    for data, names in by_data.items():
        models = ", ".join(dict.fromkeys(names))
        lines.append(f"models: {models}" + ("" if data == () else f": pretrained on {overlap_statement(data, board)}"))
    return lines


def overlap_statement(data: tuple[str, ...] | None, board: Board) -> str:
    """The pretraining data, and whether they are known to include images of this dataset."""
    if data is None:
        return "data that their plugin does not name: whether this set is among them is unknown"
    names = clean(", ".join(data))
    if shared := shared_pretraining(data, board):
        return f"{names}: THIS SET'S IMAGES ARE AMONG THEM ({', '.join(shared)})"
    if all(name.startswith("imagenet-") for name in data):
        return f"{names}: no overlap with this set is known"
    return f"{names}: collected from the web in part; whether this set is among them is unknown"


def shared_pretraining(data: Sequence[str] | None, board: Board) -> list[str]:
    """The pretraining datasets that contain images of the board's dataset."""
    own = {name.casefold() for name in (board.dataset, *board.facts.get("derived_from", ()))}
    return [clean(name) for name in data or () if name.casefold() in own]


def tuning_statements(board: Board) -> list[str]:
    models = [row for row in board.rows if not row.baseline]
    tried = sorted({row.num_tuning_runs for row in models if row.tuned})
    if tried:
        return [f"tuning: {' or '.join(map(str, tried))} runs per model with a separate seed, the best on val chosen"]
    return ["tuning: none, the protocol's values are unchanged"] if models else []


def seed_statements(board: Board) -> list[str]:
    """Warn if all seeds are equal: a deterministic protocol, which does not mean that the score is certain."""
    once = [row for row in board.rows if row.deterministic and not row.is_imported]
    if once:
        whose = "" if len(once) == sum(not row.baseline for row in board.rows) else f"{list_labels(once)}: "
        return [f"{whose}deterministic: a head on frozen features of given weights; every seed gives the same outcome"]
    models = [row for row in board.rows if not row.baseline and len(row.seeds) > 1]
    if models and all(predicts_alike(row) for row in models):
        return ["all seeds gave the same predictions: this protocol has no randomness"]
    return []


def import_statements(board: Board) -> list[str]:
    """What a comparison with imported predictions means."""
    imported = [row for row in board.rows if row.is_imported]
    if not imported:
        return []
    return [
        f"{list_labels(imported)}: only these masks are tested; how much another training of the tool would change "
        "them is unknown"
    ]


def reader_statements(board: Board) -> list[str]:
    """What the row of a second reader means."""
    return [
        f"{clean(row.label)}: the masks of a second reader, scored against those of the first; a model with this score "
        "differs from the first reader as much as the second does"
        for row in board.rows
        if row.is_second_reader
    ]


def list_labels(rows: Sequence[Row]) -> str:
    return ", ".join(clean(row.label) for row in rows)


def predicts_alike(row: Row) -> bool:
    """Whether all seeds gave the same probabilities. Equal scores are no proof: small test sets have few values."""
    if len(row.stored) < 2:
        return False
    first, *others = row.stored
    return all(
        np.array_equal(scale_of(one["test"])[1], scale_of(other["test"])[1])
        for folds in others
        for one, other in zip(first, folds, strict=True)
    )


def saturation_statement(row: Row) -> list[str]:
    """Count the outputs whose probabilities are exactly 0 or 1, and name what they are ranked by."""
    if row.outputs.saturated == 0:
        return []
    with_odds = row.outputs.has_log_odds
    ranked = "ranked by their log odds" if with_odds else "ranked as equal: `zoo bench --fresh` stores their log odds"
    counted = f"{row.outputs.saturated} of {row.outputs.num_outputs} predictions of test are 0 or 1 as probabilities"
    return [f"{clean(row.name)}: saturated: {counted}, and {ranked}"]


def usage_statements(board: Board) -> list[str]:
    """The number of configurations scored on this test set: the best of many looks better than it is."""
    times = board.num_configurations
    what = f"configuration{'s' * (times != 1)} (model x protocol x initial weights)"
    return [f"test set used by {times} {what} in this results folder"] if times else []


PROVENANCE_TEXT = {
    "recomputed": "recomputed: scores computed again from a bundle's predictions; the runs were not repeated",
    "reproduced": "reproduced: a run of this row was repeated here with the same predictions",
    "stated": "stated: the bundle holds no targets, so nothing was recomputed",
}


def rank_fault_statements(board: Board) -> list[str]:
    """Why the requested metric does not rank this board."""
    fault = board.rank_fault
    by = clean(board.primary_metric)
    return [f"ranked by {by}, not by {clean(fault.metric)}: {clean(fault.reason)}"] if fault else []


def ranking_statements(board: Board) -> list[str]:
    """The rank test, ties with the best model, the detectable difference, and how stable the winner is."""
    tests = board.comparisons
    models = [position for position, row in enumerate(board.rows) if not row.baseline]
    reasons = {board.rows[i].label: reason_text(reason) for i in models if (reason := tests.unranked[i]) is not None}
    if tests.winner is None:
        return [f"no ranks: {clean(reason)}" for reason in dict.fromkeys(reasons.values())]
    tied = [clean(name) for name in board.tied_with(tests.winner)]
    best = f"best score: {clean(board.rows[tests.winner].label)}"
    better, worse = directions(board)
    lines = [
        f"rank: 1 + the models that score detectably {better} (t test over patients and seeds, "
        f"Holm over {len(tests.pairs)} pair{'s' * (len(tests.pairs) != 1)})",
        f"{best}; no detectable difference from {', '.join(tied)}"
        if tied
        else f"{best}; every other one scores {worse}",
        f"this test set of {tests.num_patients} {plural_of(case_name(board))}, with these seeds, "
        + (none_detectable(board, tests.pairs) if tests.detectable is None else f"finds {detectable(tests.detectable)}")
        + (" (median of the pairs)" if len(tests.pairs) > 1 else ""),
        f"another model comes first in {share(tests.patients_change_winner)} of resampled test sets (the same seeds)",
        f"another model comes first in {share(tests.seeds_change_winner)} of redrawn seeds (the same test set)",
    ]
    return lines + [f"{clean(label)}: not ranked: {clean(reason)}" for label, reason in reasons.items()]


def baseline_statements(board: Board) -> list[str]:
    """Warn if no model scores higher than a baseline, whatever the order of the models."""
    baselines, best = find_unbeaten_baselines(board)
    if not baselines:
        return []
    names = ", ".join(f"{clean(row.label)} ({number(value)})" for row, value in baselines)
    what = "a baseline" if len(baselines) == 1 else "baselines"
    better = directions(board)[0].upper()
    return [f"NO MODEL SCORES {better} THAN {what.upper()}: {names}; the best model has {number(best)}"]


def directions(board: Board) -> tuple[str, str]:
    """The words for a better and for a worse score: an error is better if it is lower."""
    return ("higher", "lower") if board.higher_is_better else ("lower", "higher")


def find_unbeaten_baselines(board: Board) -> tuple[list[tuple[Row, float]], float | None]:
    """The baselines that no model beats in the primary metric, the best first; and the best model's value.

    A second reader is no baseline in this sense: to be worse than a person is no fault of a model.
    """
    sign = 1.0 if board.higher_is_better else -1.0
    values = [
        (sign * score.value, row)
        for row in board.rows
        if (score := row.scores.get(board.primary_metric)) and score.value is not None
    ]
    models = [value for value, row in values if not row.baseline]
    if board.is_control or not models:
        return [], None
    best = max(models)
    baselines = [(value, row) for value, row in values if row.baseline and not row.is_second_reader]
    unbeaten = [(value, row) for value, row in baselines if best - value <= ROUNDING]
    return [(row, sign * value) for value, row in sorted(unbeaten, key=lambda pair: -pair[0])], sign * best


def detectable(difference: float) -> str:
    return f"a difference of {number(difference)} with 80 % power"


def none_detectable(board: Board, pairs: Sequence[Difference]) -> str:
    """The sentence if the detectable difference exceeds the metric's range, or if most pairs do not vary."""
    if sum(pair.variance == 0 for pair in pairs) > len(pairs) / 2:
        return (
            "cannot determine the difference that is detected with 80 % power: the models differ by the same amount on "
            f"every {case_name(board)} and in every seed"
        )
    widest = board.comparisons.widest
    return f"could not find any difference with 80 % power: {clean(board.primary_metric)} differs by {widest:g} at most"


def case_name(board: Board) -> str:
    """The resampled unit in the dataset's word (patient, lesion, eye), or `image` without a patient key."""
    return clean(parse_patient(board.facts["patient"]).word) if board.facts["has_patients"] else "image"


def row_statements(row: Row, board: Board) -> list[str]:
    """Deviations, missing runs, errors and other peculiarities of a row."""
    name = clean(row.name)
    lines = [f"{name}: {PROVENANCE_TEXT[row.provenance]}"] if row.provenance not in ("", "recomputed") else []
    lines += [f"{name}: degenerate: {'; '.join(map(clean, row.degenerate))}"] if row.degenerate else []
    lines += saturation_statement(row)
    lines += [f"{name}: {clean(deviation_text(deviation))}" for deviation in row.deviations]
    if row.tuned:
        lines.append(f"{name}: {clean(row.tuned)}")
    if row.coverage[0] < row.coverage[1]:
        done = f"; {row.num_finished} are done, and a seed counts with all its folds"
        more = done if row.num_finished > row.coverage[0] else ""
        lines.append(f"{name}: {row.coverage[0]} of {row.coverage[1]} runs count{more}")
    lines += [f"{name}: {clean(failure_text(failure))}" for failure in row.failures]
    for metric in board.metrics[:1]:
        score = row.scores.get(metric)
        if score and score.reason and not row.baseline and reason_text(score.reason) != shared_reason(board):
            lines.append(f"{name}: {metric}: {clean(reason_text(score.reason))}")
    return lines


def note_statements(rows: Sequence[Row], metrics: Sequence[str]) -> list[str]:
    """The notes on defined values ("macro over 6 of 7 labels"), each once.

    The rows are named unless the note holds for all that have a value.
    """
    metrics_by_note: dict[tuple[str, str], list[str]] = {}
    for metric in metrics:
        scores = {row.label: row.scores[metric] for row in rows if metric in row.scores}
        noted = {label: score.note for label, score in scores.items() if score.value is not None}
        for note in dict.fromkeys(filter(None, noted.values())):
            having = [label for label, own in noted.items() if own == note]
            whose = "" if len(having) == len(noted) else f"{', '.join(map(clean, having))}: "
            metrics_by_note.setdefault((whose, clean(note)), []).append(metric)
    return [f"{whose}{', '.join(map(clean, names))}: {note}" for (whose, note), names in metrics_by_note.items()]

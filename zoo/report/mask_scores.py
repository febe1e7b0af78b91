"""Render scores of masks as lines of text."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from zoo.errors import clean
from zoo.evaluation.masks.files import MaskComparison
from zoo.evaluation.masks.records import CaseScores
from zoo.evaluation.masks.summary import LabelSummary, MaskScore, summarize_masks
from zoo.evaluation.reasons import Reason
from zoo.evaluation.values import MIN_CASES
from zoo.leaderboard.formatting import number
from zoo.report.reasons import reason_text
from zoo.report.text import table_lines
from zoo.runner.importing import Import
from zoo.sources.label_map_pairs import LabelMapFiles, PairedCases

NAMED_FILES = 5


def mask_score_lines(comparison: MaskComparison, has_patients: bool) -> list[str]:
    """Render the definitions, a table of every label and metric, and the counts of empty masks."""
    import numpy as np

    scores = comparison.scores
    summaries = summarize_masks(scores, has_patients)
    num_cases, num_patients = len(np.unique(scores["case"])), len(np.unique(scores["patient"]))
    unit = scores["unit"][0]
    people = f"{num_patients} patients" if has_patients else "every case taken as its own patient"
    rows = [score_line(summary, score, unit) for summary in summaries for score in summary.scores]
    refused = f", {len(comparison.refused)} refused and left out" if comparison.refused else ""
    missing = [s.score.reason for each in summaries for s in each.scores if s.score.reason and s.num_patients]
    method = next((s.score.method.text for each in summaries for s in each.scores if s.score.method), "")
    return [
        f"{num_cases} case{'s' * (num_cases != 1)}{refused}, {people}; distances in {unit}",
        *rule_lines(scores, unit),
        "",
        *table_lines(rows),
        "",
        *table_lines([count_row(summary) for summary in summaries if len(summary.labels) == 1]),
        "",
        *([f"intervals: {method}"] if method else []),
        *dict.fromkeys(map(interval_reason, missing)),
        "missed: the prediction is empty, the reference is not. false: the reverse. Both have the worst value: 0, or "
        "the diagonal of the image.",
        "undefined: both are empty; left out of the means. worst 5 %: a twentieth of the patients are worse.",
    ]


def interval_reason(reason: Reason) -> str:
    """Why an interval is missing, for all metrics alike."""
    if reason.code == "too-few":
        return f"no interval: fewer than {MIN_CASES} patients have a value"
    return reason_text(reason)


def rule_lines(scores: CaseScores, unit: str) -> Iterator[str]:
    rule = scores.rule
    neighbors = "diagonal neighbors" if rule.connectivity == "full" else "neighbors with a common face"
    match = f"an IoU above {rule.lesion_iou:g}" if rule.lesion_iou else "any overlap"
    yield (
        f"NSD at {rule.tolerance:g} {unit} of boundary voxels (NSD surface: of surface elements); lesions: components "
        f"of {neighbors}, matched by {match}"
    )
    if not rule.skeletons:
        yield "clDice was not computed: add --cldice"


def name_labels(summary: LabelSummary) -> str:
    return summary.labels[0] if len(summary.labels) == 1 else f"mean of {len(summary.labels)} labels"


def score_line(summary: LabelSummary, score: MaskScore, unit: str) -> dict[str, Any]:
    mean = score.score
    has_interval = mean.low is not None and mean.high is not None
    return {
        "label": name_labels(summary),
        "metric": score.metric.title + (f" ({unit})" if score.metric.is_distance else ""),
        "mean": number(mean.value),
        "95 % interval": f"[{number(mean.low)} {number(mean.high)}]" if has_interval else "-",
        "median": number(score.median),
        "worst 5 %": number(score.worst_twentieth),
        "patients": score.num_patients,
    }


def count_row(summary: LabelSummary) -> dict[str, Any]:
    return {
        "label": summary.labels[0],
        "cases": summary.num_cases,
        "missed": summary.num_missed,
        "false": summary.num_false,
        "undefined": summary.num_undefined,
    }


# --- what was left out -----------------------------------------------------------------------------------------------
def pairing_lines(cases: PairedCases, places: Iterable[LabelMapFiles]) -> list[str]:
    """Name every kind of file that is not part of a pair."""
    lines = []
    if cases.unpredicted:
        named = name_some([path.name for path in cases.unpredicted])
        share = f"{len(cases.unpredicted)} of {len(cases.pairs)}"
        lines.append(f"references without a prediction, counted as predicted empty: {share}: {named}")
    if cases.unmatched:
        named = name_some([path.name for path in cases.unmatched])
        lines.append(f"predictions without a reference, left out: {len(cases.unmatched)}: {named}")
    for place in places:
        if place.others:
            lines.append(f"{place.place}: files that are no masks, left out: {name_some(place.others)}")
    return [clean(line) for line in lines]


def comparison_lines(comparison: MaskComparison) -> list[str]:
    """Name what a comparison took differently than a reader may expect."""
    lines = []
    if comparison.only_predicted:
        lines.append(f"labels in predictions only: {name_some(comparison.only_predicted)}")
    if comparison.unlisted:
        values = name_some([str(value) for value in comparison.unlisted])
        lines.append(f"values that are not among --labels count as background: {values}")
    if comparison.without_patient:
        named = name_some(comparison.without_patient)
        lines.append(f"cases without a patient in --patients, each taken as its own patient: {named}")
    return [clean(line) for line in lines]


def name_some(names: Sequence[str]) -> str:
    more = len(names) - NAMED_FILES
    return ", ".join(names[:NAMED_FILES]) + (f" and {more} more" if more > 0 else "")


def import_lines(outcome: Import) -> list[str]:
    """Count the masks that were imported, and name the files that were not."""
    if outcome.refused:
        count = len(outcome.refused)
        return [f"nothing is stored: {count} mask{'s' * (count != 1)} cannot be used"]
    lines = [f"masks of {outcome.num_predicted} of {outcome.num_tested} test images, stored as a row of its board"]
    if outcome.num_predicted < outcome.num_tested:
        lines.append(f"test images without a mask count as empty: {outcome.num_tested - outcome.num_predicted}")
    if outcome.not_tested:
        named = name_some([path.name for path in outcome.not_tested])
        lines.append(f"masks of train and val images, left out: {len(outcome.not_tested)}: {named}")
    if outcome.unmatched:
        named = name_some([path.name for path in outcome.unmatched])
        lines.append(f"masks with the name of no image, left out: {len(outcome.unmatched)}: {named}")
    return [clean(line) for line in lines]

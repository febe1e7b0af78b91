"""Two models side by side, on a terminal and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from zoo.errors import clean, plural_of
from zoo.leaderboard.formatting import number, p_value, share, with_interval
from zoo.leaderboard.pairwise import BY_INFLUENCE, SINGLE_RUNS, Contrast, SingleRuns
from zoo.leaderboard.rows import Row
from zoo.leaderboard.tables import Cell
from zoo.report.cells import seed_cell
from zoo.report.deviations import deviation_text
from zoo.report.drawing import open_console, print_section, read_console
from zoo.report.reasons import describe_score, text_or_none
from zoo.report.statements import (
    case_name,
    detectable,
    headings,
    none_detectable,
    note_statements,
    row_statements,
    title,
)
from zoo.specs.section import Section

MAX_SAMPLES = 2  # per patient, on a terminal; JSON has all


# --- terminal --------------------------------------------------------------------------------------------------------
def pair_to_terminal(contrasts: Sequence[Contrast], width: int | None = None, color: bool = False) -> str:
    """Draw for each board the scores, the tested difference and the largest disagreements."""
    from rich.text import Text

    console = open_console(width or 120, color)
    for contrast in contrasts:
        for line in headings(contrast.board):
            console.print(Text(line, style="bold yellow"))
        print_section(scores_section(contrast), console)
        for line in difference_statements(contrast):
            console.print(Text(line), soft_wrap=True)
        lines = [line for row in contrast.rows for line in row_statements(row, contrast.board)]
        for line in [*lines, *note_statements(contrast.rows, [contrast.board.primary_metric])]:
            console.print(Text(line, style="dim"), soft_wrap=True)
        console.print()
        if contrast.disagreements:
            print_section(disagreements_section(contrast), console)
    return read_console(console)


def scores_section(contrast: Contrast) -> Section:
    metric = contrast.board.primary_metric
    rows = tuple(
        (
            clean(row.label),
            with_interval(row.scores.get(metric)),
            len(row.seeds),
            seed_cell(row, metric) if row.deterministic else row.seed_sd.get(metric),
        )
        for row in contrast.rows
    )
    return Section(name="scores", title=title(contrast.board), columns=("model", metric, "seeds", "seed SD"), rows=rows)


def difference_statements(contrast: Contrast) -> list[str]:
    """The sentences: the difference and its test, its sources of variance, and what would be needed to detect it."""
    board, names = contrast.board, [clean(row.label) for row in contrast.rows]
    better = "higher" if board.higher_is_better else "lower"
    what = f"{board.primary_metric} of {names[0]} minus {names[1]}"
    if contrast.single:
        return run_statements(contrast, contrast.single, f"{what} ({better} is better)")
    if contrast.tested is None:
        return [f"not tested: {clean(text_or_none(contrast.reason))}"]
    pair = contrast.tested
    pairs = len(board.comparisons.pairs)
    verdict = "no detectable difference"
    if pair.winner is not None:
        verdict = f"{names[0] if pair.winner == contrast.first else names[1]} is better"
    case, total = case_name(board), pair.variance
    lines = [
        f"{what}: {signed(pair.difference)} [{signed(pair.low)} {signed(pair.high)}] ({better} is better); "
        f"{p_value(pair.p)}, and {p_value(pair.p_holm)} after Holm over the board's {pairs} "
        f"pair{'s' * (pairs != 1)}: {verdict}",
    ]
    if total > 0:
        parts = f"{share(pair.patient_variance / total)} {plural_of(case)}, {share(pair.seed_variance / total)} seeds"
        lines.append(f"variance of the difference: {parts}")
    lines.append(
        f"these {board.comparisons.num_patients} {plural_of(case)} and these seeds "
        + (none_detectable(board, [pair]) if pair.detectable is None else f"detect {detectable(pair.detectable)}")
    )
    if pair.patients_needed is not None:
        lines.append(
            f"to detect a difference of this size with 80 % power and these seeds: {pair.patients_needed} "
            f"{plural_of(case)} in "
            "test"
        )
    elif not pair.difference:
        lines.append(f"no number of {plural_of(case)} would separate them: there is no difference")
    elif pair.winner is None or pair.patient_variance > 0:  # otherwise detected already, equal on all patients
        lines.append(
            f"no number of {plural_of(case)} gives 80 % power, because the variance between seeds is too "
            "large; run more seeds"
        )
    return lines


def run_statements(contrast: Contrast, single: SingleRuns, what: str) -> list[str]:
    seeds = f"seed {single.seeds[0]}" if len(set(single.seeds)) == 1 else f"seeds {single.seeds[0]}, {single.seeds[1]}"
    lines = [
        f"{SINGLE_RUNS} ({seeds})",
        f"{what}: {signed(single.difference)} [{signed(single.low)} {signed(single.high)}]; "
        f"{single.method}: {p_value(single.p)}" + ("" if single.p is not None else " (no variance)"),
    ]
    if single.mcnemar is None:
        return [*lines, f"no McNemar test of the decisions: {clean(single.mcnemar_reason)}"]
    names = [clean(row.label) for row in contrast.rows]
    return [
        *lines,
        f"correct only by {names[0]} {single.only_first}, only by {names[1]} {single.only_second}; McNemar: "
        f"mid-{p_value(single.mcnemar.mid)}, exact {p_value(single.mcnemar.exact)}",
    ]


def disagreements_section(contrast: Contrast) -> Section:
    board, case = contrast.board, case_name(contrast.board)
    first, second = (clean(row.label) for row in contrast.rows)
    several = any(len(part.samples) > 1 or part.samples[0] != part.case for part in contrast.disagreements)
    last = "moves the difference by" if contrast.ordered_by == BY_INFLUENCE else "first minus second"
    columns = (case, *(["images"] if several else []), "target", first, second, last)
    rows: list[tuple[Cell, ...]] = []
    for part in contrast.disagreements:
        more = len(part.samples) - MAX_SAMPLES
        images = ", ".join(part.samples[:MAX_SAMPLES]) + (f" and {more} more" if more > 0 else "")
        cells: list[Cell] = [part.case, *([images] if several else []), part.target, part.first, part.second]
        rows.append((*cells, signed(part.moves, 4)))
    value = board.card.task.presentation.answer
    return Section(
        name="disagreements",
        title=f"where they disagree most, of {board.facts['splits']['test']['images']} test images",
        columns=columns,
        rows=tuple(rows),
        notes=(f"of each model: mean {value}, over seeds and images; ordered by {contrast.ordered_by}",),
    )


def signed(value: float, digits: int = 3) -> str:
    return ("+" if value > 0 else "") + number(value, digits)


# --- json ------------------------------------------------------------------------------------------------------------
def pair_to_document(contrasts: Sequence[Contrast]) -> dict[str, Any]:
    """Return the document of `zoo compare --json`."""
    return {
        "schema": 1,
        "command": "compare",
        "models": [row.label for row in contrasts[0].rows] if contrasts else [],
        "boards": [describe_contrast(contrast) for contrast in contrasts],
    }


def describe_contrast(contrast: Contrast) -> dict[str, Any]:
    board, pair = contrast.board, contrast.tested
    described: dict[str, Any] = {
        "dataset": board.dataset,
        "content_hash": board.facts["content_hash"],
        "split_hash": board.facts["split_hash"],
        "protocol": board.protocol,
        "init": board.init,
        "bundle": board.bundle or None,
        "metric": board.primary_metric,
        "higher_is_better": board.higher_is_better,
        "case": case_name(board),
        "first": describe_paired_row(contrast.rows[0], board.primary_metric),
        "second": describe_paired_row(contrast.rows[1], board.primary_metric),
        "tested": None,
        "single_runs": None,
        "reason": text_or_none(contrast.reason),
        "ordered_by": contrast.ordered_by,
        "disagreements": [asdict(part) for part in contrast.disagreements],
    }
    if pair is not None:
        total = pair.variance
        winner = None if pair.winner is None else board.rows[pair.winner].label
        described["tested"] = {
            **asdict(pair),
            "first": contrast.rows[0].label,
            "second": contrast.rows[1].label,
            "winner": winner,
            "num_pairs": len(board.comparisons.pairs),
            "num_patients": board.comparisons.num_patients,
            "patient_share": pair.patient_variance / total if total else None,
            "seed_share": pair.seed_variance / total if total else None,
        }
    if contrast.single:
        described["single_runs"] = {**asdict(contrast.single), "statement": SINGLE_RUNS}
    return described


def describe_paired_row(row: Row, metric: str) -> dict[str, Any]:
    score = row.scores.get(metric)
    return {
        "model": row.label,
        "qualified": row.qualified,
        "baseline": row.baseline,
        "seeds": list(row.seeds),
        "seed_sd": row.seed_sd.get(metric),
        "deterministic": row.deterministic,
        "score": describe_score(score) if score else None,
        "deviations": list(map(deviation_text, row.deviations)),
        "degenerate": list(row.degenerate),
        "runs": list(row.run_ids),
    }

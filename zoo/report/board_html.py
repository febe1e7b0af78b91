"""A leaderboard as one self-contained HTML page: the answer first, then the board, then its details."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from zoo.errors import clean
from zoo.evaluation.metrics.catalogue import METRICS
from zoo.evaluation.reasons import Reason
from zoo.evaluation.scoring import score
from zoo.evaluation.values import Score
from zoo.leaderboard.boards import Board, Row, request_sections
from zoo.leaderboard.curves import (
    RowCurves,
    compute_curves,
    count_confusion,
    ratio_of_spreads,
)
from zoo.leaderboard.formatting import (
    amount,
    format_rounded,
    milliseconds,
    number,
    p_value,
    section_cell,
    with_interval,
)
from zoo.leaderboard.multi_dataset import find_across
from zoo.leaderboard.operating_points import list_label_questions
from zoo.leaderboard.tables import ReportOptions, ScoredRow, Section, SectionRequest
from zoo.report.cells import seed_cell
from zoo.report.charts import Axis, Line, Mark, draw_axis, draw_interval, draw_lines, draw_scatter, fit_axis
from zoo.report.formats import Layout
from zoo.report.html import render_page
from zoo.report.reasons import section_notes
from zoo.report.statements import case_name, ranking_statements, row_statements, statements, title
from zoo.report.summary import answer, outlook, warnings

MAX_CURVES = 4  # rows whose curves are drawn, the best first
MAX_CURVE_LABELS = 6
MAX_MATRIX_ROWS = 12  # rows of the matrix of differences
COST_AXES = (
    ("num_parameters", "parameters"),
    ("flops", "FLOPs per image"),
    ("latency_seconds", "latency at batch 1 (s)"),
    ("peak_memory_bytes", "peak memory (bytes)"),
    ("train_seconds", "training (s)"),
)
LABEL_METRICS = {spec.name: spec for spec in METRICS if spec.name in ("auroc", "average_precision")}
UNIT_AXIS = Axis(0.0, 1.0, (0.0, 0.25, 0.5, 0.75, 1.0))


def to_html(boards: Sequence[Board], layout: Layout | None = None) -> str:  # noqa: ARG001 - one width
    """The page of some boards; equal boards give equal bytes."""
    described = [describe_board(board, f"board-{number}") for number, board in enumerate(boards, start=1)]
    across = [describe_table(found.section) for found in find_across(boards)]
    names = ", ".join(dict.fromkeys(board.dataset for board in boards))
    return render_page(
        "board.html",
        script="board.js",
        title=f"Leaderboard: {names}" if names else "Leaderboard",
        boards=described,
        across=across,
    )


def describe_board(board: Board, anchor: str) -> dict[str, Any]:
    """What the template shows of one board."""
    request = request_sections(board, ReportOptions())
    models = [row for row in request.rows if not row.baseline]
    curves = compute_curves(request, models[:MAX_CURVES])
    return {
        "anchor": anchor,
        "dataset": board.dataset,
        "title": title(board),
        "answer": describe_answer(board),
        "table": describe_rows(board),
        "costs": describe_costs(board),
        "curves": draw_label_curves(curves),
        "labels": describe_labels(request, models[:MAX_CURVES]),
        "confusion": describe_confusion(request, models),
        "pairs": describe_matrix(board),
        "sections": [describe_table(section) for section in board.sections],
        "statements": statements(board),
        "facts": describe_origin(board),
    }


# --- the answer ------------------------------------------------------------------------------------------------------
def describe_answer(board: Board) -> dict[str, Any]:
    """Who wins or why nobody does, what would change it, and the warnings that change the reading."""
    models = [row for row in board.rows if not row.baseline]
    spread = ratio_of_spreads(
        {row.label: s.value for row in models if (s := row.scores.get(board.primary_metric)) and s.value is not None},
        {row.label: sd for row in models if (sd := row.seed_sd.get(board.primary_metric)) is not None},
    )
    tests = board.comparisons
    lines = ranking_statements(board)[1:] if tests.winner is not None else []
    return {
        "headline": answer(board),
        "lines": [line for line in (outlook(board), *lines[1:2], describe_spread(spread)) if line],
        "warnings": [*warnings(board), *(clean(issue) for issue in board.facts["known_issues"])],
    }


def describe_spread(ratio: float | None) -> str:
    if ratio is None:
        return ""
    verdict = (
        "the models differ more than seeds do"
        if ratio >= 2
        else "differences between models are hardly larger than chance"
    )
    return f"Spread between models is {ratio:.1f} times the spread between seeds: {verdict}."


# --- the board -------------------------------------------------------------------------------------------------------
def describe_rows(board: Board) -> dict[str, Any]:
    """Columns and rows of the main table; the primary metric as a dot with its interval on a common axis."""
    scores = [row.scores.get(board.primary_metric) for row in board.rows]
    values = [v for s in scores if s for v in (s.value, s.low, s.high) if v is not None]
    axis = fit_axis(values)
    references = [
        s.value for row, s in zip(board.rows, scores, strict=True) if row.baseline and s and s.value is not None
    ]
    rows = [describe_row(board, place, axis, references) for place in range(len(board.rows))]
    return {
        "metric": board.primary_metric,
        "axis": draw_axis(axis, f"axis of {board.primary_metric}"),
        "metrics": list(board.metrics[1:]),
        "rows": rows,
    }


def describe_row(board: Board, place: int, axis: Axis, references: Sequence[float]) -> dict[str, Any]:
    row = board.rows[place]
    score = row.scores.get(board.primary_metric) or Score(value=None, reason=Reason("not-run"))
    rank = board.rank(place)
    tied = board.tied_with(place)
    text = with_interval(score)
    return {
        "rank": "" if rank is None else str(rank),
        "tie": bool(tied),
        "label": row.label,
        "baseline": row.baseline,
        "plugin": row.qualified.partition(":")[0],
        "score": text,
        "sort": "" if score.value is None else f"{score.value:.12g}",
        "chart": draw_interval(
            score.value, (score.low, score.high), axis, references, f"{row.label}: {board.primary_metric} {text}"
        ),
        "seed_sd": seed_cell(row, board.primary_metric),
        "metrics": [number(row.scores[m].value) if m in row.scores else "-" for m in board.metrics[1:]],
        "params": "" if row.baseline else amount(row.cost["num_parameters"]),
        "latency": "" if row.baseline else milliseconds(row.cost["latency_seconds"]),
        "seconds": "" if row.baseline else format_rounded(row.cost["train_seconds"], 0),
        "coverage": f"{row.coverage[0]} of {row.coverage[1]}",
        "incomplete": row.coverage[0] < row.coverage[1],
        "details": describe_details(board, row, tied),
    }


def describe_details(board: Board, row: Row, tied: Sequence[str]) -> list[tuple[str, str]]:
    """The details of a row: its runs, the command that repeats it, its deviations."""
    details = [("runs", f"{row.coverage[0]} of {row.coverage[1]} count: {' '.join(run[:8] for run in row.run_ids)}")]
    if not row.baseline:
        details += [("repeat", repeat_command(board, row)), ("weights", row.weights)]
    if tied:
        details.append(("no detectable difference from", ", ".join(tied)))
    details += [("note", line.partition(": ")[2] or line) for line in row_statements(row, board)]
    return details


def repeat_command(board: Board, row: Row) -> str:
    protocol = row.protocol.partition("@")[0]
    weights = " --weights none" if row.weights == "random init" else ""
    seeds = ",".join(map(str, row.seeds)) or "0"
    return (
        f"zoo bench --models {row.qualified} --datasets {board.dataset} --protocol {protocol} --seeds {seeds}{weights}"
    )


# --- figures ---------------------------------------------------------------------------------------------------------
def describe_costs(board: Board) -> list[dict[str, str]]:
    """Quality against each cost that was measured, the Pareto front joined."""
    sign = 1.0 if board.higher_is_better else -1.0
    figures = []
    for name, label in COST_AXES:
        points = [
            (row.label, float(cost), score.value)
            for row in board.rows
            if not row.baseline
            and (cost := row.cost.get(name))
            and (score := row.scores.get(board.primary_metric))
            and score.value is not None
        ]
        if len(points) < 2:
            continue
        marks = [
            Mark(
                shown,
                x,
                y,
                not any(
                    (other <= x and sign * value >= sign * y) and (other < x or sign * value > sign * y)
                    for _, other, value in points
                ),
            )
            for shown, x, y in points
        ]
        front = ", ".join(mark.name for mark in sorted(marks, key=lambda mark: mark.x) if mark.best)
        text = f"{board.primary_metric} against {label}; on the Pareto front: {front}"
        chart = draw_scatter(marks, (label, board.primary_metric), text, log_x=True)
        figures.append({"name": name, "label": label, "chart": chart, "text": text})
    return figures


def draw_label_curves(curves: Sequence[RowCurves]) -> list[dict[str, Any]]:
    """ROC, precision-recall and decision curves by label."""
    figures = []
    for label in list(dict.fromkeys(c.label for c in curves))[:MAX_CURVE_LABELS]:
        own = [c for c in curves if c.label == label]
        prevalence = own[0].prevalence
        diagonal = Line("chance", UNIT, UNIT, kind="ref")
        flat = Line("prevalence", UNIT, np.full(2, prevalence), kind="ref")
        roc = [Line(c.row, c.roc.x, c.roc.y, c.roc.low, c.roc.high) for c in own]
        pr = [
            Line(c.row, c.precision_recall.x, c.precision_recall.y, c.precision_recall.low, c.precision_recall.high)
            for c in own
        ]
        benefit = [Line(c.row, c.net_benefit.x, c.net_benefit.y) for c in own]
        odds = own[0].net_benefit.x / (1 - own[0].net_benefit.x)
        everyone = Line("treat all", own[0].net_benefit.x, prevalence - (1 - prevalence) * odds, kind="ref")
        least = Axis(-0.05, max(prevalence, 0.05) * 1.05, tuple(round(prevalence * part, 3) for part in (0, 0.5, 1)))
        names = ", ".join(c.row for c in own)
        figures.append(
            {
                "label": label,
                "charts": [
                    draw_lines(
                        [*roc, diagonal],
                        ("1 - specificity", "sensitivity"),
                        f"ROC curves of {names} for {label}",
                        (UNIT_AXIS, UNIT_AXIS),
                    ),
                    draw_lines(
                        [*pr, flat],
                        ("recall", "precision"),
                        f"precision-recall curves of {names} for {label}; prevalence {number(prevalence)}",
                        (UNIT_AXIS, UNIT_AXIS),
                    ),
                    draw_lines(
                        [*benefit, everyone],
                        ("threshold probability", "net benefit"),
                        f"decision curves of {names} for {label}",
                        (UNIT_AXIS, least),
                    ),
                ],
            }
        )
    return figures


UNIT = np.array([0.0, 1.0])


def describe_labels(request: SectionRequest, models: Sequence[ScoredRow]) -> dict[str, Any] | None:
    """AUROC and average precision of every label of several, with the positives they rest on."""
    if not request.card.task.labeled or len(request.card.labels) < 3 or not models:
        return None
    rows = []
    for question in list_label_questions(replace(request, rows=models)):
        scores = score(question.runs, LABEL_METRICS, question.card, threshold="half")
        positives = sum(int((run["test"].targets == 1).sum()) for run in question.runs[0])
        cells = [with_interval(scores[name]) for name in LABEL_METRICS]
        rows.append([question.label, question.row.label, str(positives), *cells])
    rows.sort(key=lambda cells: request.card.labels.index(cells[0]))
    return {
        "name": "labels",
        "title": "Scores by label",
        "columns": ["label", "model", "positives", *(spec.title for spec in LABEL_METRICS.values())],
        "rows": rows,
        "notes": ["each label against all others; an interval needs 10 positives and 10 negatives"],
    }


def describe_confusion(request: SectionRequest, models: Sequence[ScoredRow]) -> dict[str, Any] | None:
    """The confusion matrix of the best model, as counts and as shares of each true class."""
    if not models or (counts := count_confusion(models[0], request)) is None:
        return None
    totals = counts.sum(axis=1, keepdims=True)
    shares = np.divide(counts, totals, out=np.zeros_like(counts), where=totals > 0)
    rows = [
        {
            "label": label,
            "cells": [
                {
                    "count": f"{counts[i, j]:.4g}",
                    "share": f"{100 * shares[i, j]:.0f} %",
                    "level": int(10 * shares[i, j]),
                }
                for j in range(len(counts))
            ],
        }
        for i, label in enumerate(request.card.labels)
    ]
    return {"model": models[0].label, "labels": list(request.card.labels), "rows": rows}


def describe_matrix(board: Board) -> dict[str, Any] | None:
    """The differences between ranked rows with their verdicts after Holm."""
    ranked = [place for place, row in enumerate(board.rows) if board.rank(place) is not None][:MAX_MATRIX_ROWS]
    if len(ranked) < 2:
        return None
    rows = []
    for one in ranked:
        cells: list[dict[str, str]] = []
        for other in ranked:
            pair = None if one == other else board.comparisons.find(one, other)
            if pair is None:
                cells.append({"text": "", "title": "", "kind": "self"})
                continue
            sign = "+" if pair.difference > 0 else "-" if pair.difference < 0 else ""
            kind = "tie" if pair.winner is None else "better" if pair.winner == one else "worse"
            words = {"tie": "not detectable", "better": "better", "worse": "worse"}[kind]
            cells.append(
                {
                    "text": f"{sign}{number(abs(pair.difference))}",
                    "title": f"{words}; 95 % {number(pair.low)} to {number(pair.high)}; Holm {p_value(pair.p_holm)}",
                    "kind": kind,
                }
            )
        rows.append({"label": board.rows[one].label, "cells": cells})
    return {"labels": [board.rows[place].label for place in ranked], "rows": rows, "metric": board.primary_metric}


def describe_table(section: Section) -> dict[str, Any]:
    """A section below a board as a table of texts."""
    return {
        "name": section.name,
        "title": section.title,
        "columns": list(section.columns),
        "rows": [[section_cell(cell) for cell in cells] for cells in section.rows],
        "notes": list(section_notes(section)),
    }


def describe_origin(board: Board) -> list[tuple[str, str]]:
    """How the board was made: hashes, splits, protocol, versions, dates."""
    facts, test = board.facts, board.facts["splits"]["test"]
    first, last = board.dates
    counts = ", ".join(f"{name} {facts['splits'][name]['images']}" for name in ("train", "val", "test"))
    described = [
        ("dataset", f"{board.dataset} ({facts['content_hash'][:16]})"),
        ("split", f"{facts['split_origin']} ({facts['split_hash'][:16]}): {counts} images"),
        ("unit", f"{case_name(board)}" + (f", {test['patients']} in test" if facts["has_patients"] else "")),
        ("protocol", board.protocol),
        ("license of the data", facts.get("license") or "not stated"),
        ("citation", facts.get("citation") or "not stated"),
        ("device", board.device),
        ("dates", first if first == last else f"{first} to {last}"),
        ("versions", ", ".join(f"{name} {version}" for name, version in sorted(board.versions.items()))),
    ]
    return [(name, clean(text)) for name, text in described if text]

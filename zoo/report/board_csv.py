"""Boards as CSV: one line per score, or one table: the boards' rows, or a section below them."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from zoo.errors import UsageError
from zoo.evaluation.metrics.labels import describe_formula
from zoo.evaluation.reasons import Reason
from zoo.evaluation.values import Score
from zoo.leaderboard.boards import Board
from zoo.leaderboard.formatting import disarm
from zoo.leaderboard.label_scores import score_labels
from zoo.leaderboard.multi_dataset import find_across
from zoo.leaderboard.rows import Row
from zoo.leaderboard.tables import set_apart
from zoo.report.cells import recipe_of
from zoo.report.deviations import deviation_text
from zoo.report.formats import Layout
from zoo.report.reasons import text_or_none
from zoo.report.statements import case_name, note_statements

SCORE_PARTS = ("_low", "_high", "_reason", "_seed_sd")  # of the columns beside that of a score
BOARD_TABLE = "board"  # the name by which `--table` requests the rows of the boards
LEVEL = 0.95  # of every interval
NOT_RUN = Score(value=None, reason=Reason("not-run"))


def to_csv(boards: Sequence[Board], layout: Layout | None = None) -> str:  # noqa: ARG001 - one width
    """Write one line per model, dataset, metric and label: tidy, so that each variable is a column.

    The lines of a whole task have no label. Text that reads as a formula gets a leading quote.
    """
    return write_lines(
        [line for board in boards for place in range(len(board.rows)) for line in lines_of(board, place)]
    )


def write_lines(lines: Sequence[Mapping[str, Any]]) -> str:
    """Write lines with the same keys, with a heading."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(lines[0] if lines else ())
    writer.writerows([disarm(cell) for cell in line.values()] for line in lines)
    return stream.getvalue()


def lines_of(board: Board, place: int) -> Iterator[dict[str, Any]]:
    """The lines of one row: every metric of the whole task, then of each label of a task by label."""
    row = board.rows[place]
    for metric in board.metrics:
        score, ranks = row.scores.get(metric, NOT_RUN), metric == board.primary_metric
        yield {
            **place_columns(board, row, metric, ""),
            **score_columns(score),
            **dict(zip(("positives", "negatives"), count_binary_cases(board), strict=True)),
            "label_counts": None,
            "seed_sd": row.seed_sd.get(metric),
            "deterministic": int(row.deterministic),
            "ranks": int(ranks),
            "rank": board.rank(place) if ranks else None,
            "tied_with": ("; " if board.recipes else " ").join(board.tied_with(place)) if ranks else "",
            "unranked": text_or_none(board.comparisons.unranked[place]) if ranks else "",
            **origin_columns(board, row, metric),
        }
    cases = {each.label: each for each in board.cases}
    for label, scores in score_labels(board, row).items():
        case = cases.get(label)
        for metric, score in scores.items():
            yield {
                **place_columns(board, row, metric, label),
                **score_columns(score),
                "positives": case and case.positives,
                "negatives": case and case.negatives,
                "label_counts": int(case is None or not board.labels or case.suffice),
                "seed_sd": None,
                "deterministic": int(row.deterministic),
                "ranks": 0,
                "rank": None,
                "tied_with": "",
                "unranked": "",
                **origin_columns(board, row, metric),
            }


def place_columns(board: Board, row: Row, metric: str, label: str) -> dict[str, Any]:
    """What a line is about."""
    return {
        "dataset": board.dataset,
        "task": board.facts["task"],
        **recipe_of(board, row),
        "model": row.model,
        "row": row.label,
        "baseline": int(row.baseline),
        "metric": metric,
        "label": label,
    }


def score_columns(score: Score) -> dict[str, Any]:
    return {
        "value": score.value,
        "low": score.low,
        "high": score.high,
        "level": None if score.low is None else LEVEL,
        "method": score.method.text if score.method else "",
        "reason_code": score.reason.code if score.reason else "",
        "reason": text_or_none(score.reason) or "",
        "note": score.note,
    }


def origin_columns(board: Board, row: Row, metric: str) -> dict[str, Any]:
    """How a score came about, and from which data."""
    facts, test = board.facts, board.facts["splits"]["test"]
    spec = board.specs[metric]
    return {
        "case": case_name(board),
        "cases": test["patients"] if facts["has_patients"] else test["images"],
        "unit": facts["unit"],
        "test_images": test["images"],
        "seeds": " ".join(map(str, row.seeds)),
        "coverage": f"{row.coverage[0]} of {row.coverage[1]}",
        "higher_is_better": int(spec.higher_is_better),
        "definition": describe_formula(spec),
        "version": spec.version,
        "qualified": row.qualified,
        "weights": row.weights,
        "network": row.network,
        "deviations": "; ".join(map(deviation_text, row.deviations)),
        "degenerate": "; ".join(row.degenerate),
        "provenance": row.provenance,
        "bundle": board.bundle,
        "content_hash": facts["content_hash"],
        "split_hash": facts["split_hash"],
        "runs": " ".join(row.run_ids),
    }


def count_binary_cases(board: Board) -> tuple[int | None, int | None]:
    """The test cases with and without the positive label of a binary task; None for other tasks."""
    facts, test = board.facts, board.facts["splits"]["test"]
    counts = test.get("label_patients") or test.get("labels")
    if facts["positive"] is None or not counts:
        return None, None
    positive, *others = sorted(facts["labels"], key=lambda label: label != facts["labels"][facts["positive"]])
    return counts[positive], sum(counts[label] for label in others)


def rows_to_csv(boards: Sequence[Board]) -> str:
    """Write one line per row of the boards, with every score and cost: a spreadsheet's form of the board."""
    metrics = list(dict.fromkeys(name for board in boards for name in board.metrics))
    return write_lines([wide_line(board, place, metrics) for board in boards for place in range(len(board.rows))])


def wide_line(board: Board, place: int, metrics: Sequence[str]) -> dict[str, Any]:
    """Return a row of a board as a dict, its keys in the order of the columns."""
    row, facts, test = board.rows[place], board.facts, board.facts["splits"]["test"]
    line: dict[str, Any] = {
        "dataset": board.dataset,
        "task": facts["task"],
        **recipe_of(board, row),
        "model": row.model,
        "qualified": row.qualified,
        "weights": row.weights,
        "baseline": int(row.baseline),
        "primary_metric": board.primary_metric,
        "seeds": len(row.seeds),
        "coverage": f"{row.coverage[0]} of {row.coverage[1]}",
        "deterministic": int(row.deterministic),
        "rank": board.rank(place),
        "tied_with": ("; " if board.recipes else " ").join(board.tied_with(place)),
    }
    rest = {
        **row.cost,
        "deviations": "; ".join(map(deviation_text, row.deviations)),
        "degenerate": "; ".join(row.degenerate),
        "notes": "; ".join(note_statements([row], metrics)),
        "provenance": row.provenance,
        "bundle": board.bundle,
        "content_hash": facts["content_hash"],
        "split_hash": facts["split_hash"],
        "unit": facts["unit"],
        "test_images": test["images"],
        "test_patients": test["patients"] if facts["has_patients"] else None,
        "configurations": board.num_configurations,
        "label": row.label,
        "patients_change_winner": board.comparisons.patients_change_winner,
        "seeds_change_winner": board.comparisons.seeds_change_winner,
        "runs": " ".join(row.run_ids),
    }
    for name, column in zip(metrics, set_apart(metrics, {*line, *rest, *list_parts(metrics)}), strict=True):
        score = row.scores.get(name)
        line |= {column: score and score.value, f"{column}_low": score and score.low}
        line |= {f"{column}_high": score and score.high, f"{column}_seed_sd": row.seed_sd.get(name)}
    return {**line, **rest}


def list_parts(names: Iterable[str]) -> list[str]:
    """The columns beside those of some scores."""
    return [f"{name}{part}" for name in names for part in SCORE_PARTS]


def table_to_csv(boards: Sequence[Board], name: str) -> str:
    """Write one table of all boards: their rows, or a section, in which a score takes four columns.

    Raises UsageError, with the names of the tables, if no board has one of this name.
    """
    if name == BOARD_TABLE:
        return rows_to_csv(boards)
    labeled = [((b.dataset, b.protocol, b.init), section) for b in boards for section in b.sections]
    labeled += [(("; ".join(part.datasets), part.protocol, part.init), part.section) for part in find_across(boards)]
    chosen = [(place, section) for place, section in labeled if section.name == name]
    if not chosen:
        names = sorted({BOARD_TABLE, *(section.name for _, section in labeled)})
        raise UsageError(f"no board has a table {name!r}", fix=f"there are: {', '.join(names)}")
    columns = list(dict.fromkeys(column for _, section in chosen for column in section.columns))
    wide = {
        section.columns[i]
        for _, section in chosen
        for cells in section.rows
        for i, cell in enumerate(cells)
        if isinstance(cell, Score)
    }
    first = ("dataset", "protocol", "init")
    shown = dict(zip(columns, set_apart(columns, {*first, *list_parts(wide)}, "table"), strict=True))
    parts = {
        column: (name, f"{name}_low", f"{name}_high", f"{name}_reason") if column in wide else (name,)
        for column, name in shown.items()
    }
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow([*first, *(disarm(part) for column in columns for part in parts[column])])
    for place, section in chosen:
        for cells in section.rows:
            line: list[Any] = list(place)
            by_column = dict(zip(section.columns, cells, strict=True))
            for column in columns:
                cell = by_column.get(column)
                if isinstance(cell, Score):
                    line += [cell.value, cell.low, cell.high, text_or_none(cell.reason)]
                else:
                    line += [cell] + [None] * (len(parts[column]) - 1)
            writer.writerow([disarm(cell) for cell in line])
    return stream.getvalue()

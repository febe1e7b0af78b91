"""Boards as CSV: one line per row, or one table below the boards."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Any

from zoo.errors import UsageError
from zoo.evaluation.values import Score
from zoo.leaderboard.boards import Board
from zoo.leaderboard.formatting import disarm
from zoo.leaderboard.multi_dataset import find_across
from zoo.report.cells import recipe_of
from zoo.report.deviations import deviation_text
from zoo.report.formats import Layout
from zoo.report.reasons import text_or_none
from zoo.report.statements import note_statements


def to_csv(boards: Sequence[Board], layout: Layout | None = None) -> str:  # noqa: ARG001 - one width
    """Write one line per row with every score and cost; text that reads as a formula gets a leading quote."""
    metrics = list(dict.fromkeys(name for board in boards for name in board.metrics))
    lines = [csv_line(board, place, metrics) for board in boards for place in range(len(board.rows))]
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(lines[0] if lines else ())
    writer.writerows([disarm(cell) for cell in line.values()] for line in lines)
    return stream.getvalue()


def csv_line(board: Board, place: int, metrics: Sequence[str]) -> dict[str, Any]:
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
    for name in metrics:
        score = row.scores.get(name)
        line |= {name: score and score.value, f"{name}_low": score and score.low, f"{name}_high": score and score.high}
        line[f"{name}_seed_sd"] = row.seed_sd.get(name)
    return {
        **line,
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


def section_to_csv(boards: Sequence[Board], name: str) -> str:
    """Write one section of all boards: one line per row; a score takes four columns (value, low, high, reason).

    Raises UsageError, with the names of the sections, if no board has one of this name.
    """
    labeled = [((b.dataset, b.protocol, b.init), section) for b in boards for section in b.sections]
    labeled += [(("; ".join(part.datasets), part.protocol, part.init), part.section) for part in find_across(boards)]
    chosen = [(place, section) for place, section in labeled if section.name == name]
    if not chosen:
        names = sorted({section.name for _, section in labeled})
        raise UsageError(f"no board has a table {name!r}", fix=f"there are: {', '.join(names) or 'none'}")
    columns = list(dict.fromkeys(column for _, section in chosen for column in section.columns))
    wide = {
        section.columns[i]
        for _, section in chosen
        for cells in section.rows
        for i, cell in enumerate(cells)
        if isinstance(cell, Score)
    }
    parts = {c: (c, f"{c}_low", f"{c}_high", f"{c}_reason") if c in wide else (c,) for c in columns}
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["dataset", "protocol", "init", *(disarm(part) for column in columns for part in parts[column])])
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

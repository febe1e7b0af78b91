"""The names of models as people read them: without the digest of a local weights file where that is clear."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from zoo.evaluation.reasons import Reason
from zoo.leaderboard.boards import Board
from zoo.leaderboard.rows import Row
from zoo.models.weights import LOCAL_TAG
from zoo.specs.section import FigureSeries, Section


def name_plainly(boards: Sequence[Board]) -> list[Board]:
    """The boards with plain names: `resnet50` for `resnet50.local-eb983dd8`.

    A row keeps its tag if another row of its board would have the same name, or if another board has the model with
    another local file. CSV and JSON have every name in full.
    """
    tags: dict[str, set[str]] = {}
    for row in (row for board in boards for row in board.rows if has_local_weights(row)):
        tags.setdefault(row.model, set()).add(row.weights)
    clear = {model for model, each in tags.items() if len(each) == 1}
    return [name_rows(board, clear) for board in boards]


def name_rows(board: Board, clear: set[str]) -> Board:
    """Name the rows of a board plainly where their model is `clear`, in its tables and verdicts too."""
    plain = [replace(row, untagged=has_local_weights(row) and row.model in clear) for row in board.rows]
    counts = Counter(row.label for row in plain)
    rows = tuple(new if counts[new.label] == 1 else replace(new, untagged=False) for new in plain)
    names = {old.label: new.label for old, new in zip(board.rows, rows, strict=True) if old.label != new.label}
    if not names:
        return board
    return replace(
        board,
        rows=rows,
        controls=tuple(replace(verdict, model=names.get(verdict.model, verdict.model)) for verdict in board.controls),
        sections=tuple(name_section(section, names) for section in board.sections),
    )


def name_section(section: Section, names: Mapping[str, str]) -> Section:
    """Replace the names in the texts of a section: cells, lines, figures, and the details of reasons."""
    longest_first = sorted(names, key=len, reverse=True)
    pattern = re.compile(rf"(?<![\w.-])({'|'.join(map(re.escape, longest_first))})")

    def replace_names(value: Any) -> Any:
        if isinstance(value, Reason):
            return replace(value, detail=tuple(map(replace_names, value.detail)))
        return pattern.sub(lambda match: names[match[0]], value) if isinstance(value, str) else value

    def name_series(each: FigureSeries) -> FigureSeries:
        return replace(each, name=replace_names(each.name), x=tuple(map(replace_names, each.x)))

    rows = tuple(tuple(map(replace_names, cells)) for cells in section.rows)
    figures = tuple(
        replace(figure, text=replace_names(figure.text), series=tuple(map(name_series, figure.series)))
        for figure in section.figures
    )
    notes = tuple(map(replace_names, section.notes))
    return replace(section, text=replace_names(section.text), rows=rows, notes=notes, figures=figures)


def has_local_weights(row: Row) -> bool:
    return row.weights.startswith(LOCAL_TAG)


def weights_text(row: Row) -> str:
    """The initial weights of a row in words: `local weights eb983dd8`, or the published tag."""
    return f"local weights {row.weights.removeprefix(LOCAL_TAG)}" if has_local_weights(row) else row.weights

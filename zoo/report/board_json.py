"""Boards as JSON: the document of `zoo report --format json`, and the rows of `zoo bench --json`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from zoo.evaluation.metrics.labels import describe_formula
from zoo.evaluation.reasons import Reason
from zoo.evaluation.values import Score
from zoo.leaderboard.boards import Board
from zoo.leaderboard.label_scores import score_labels
from zoo.leaderboard.multi_dataset import Across, find_across
from zoo.leaderboard.tables import Cell
from zoo.report.cells import recipe_of
from zoo.report.deviations import deviation_text
from zoo.report.formats import Layout
from zoo.report.json_records import (
    SCHEMA_NAME,
    SCHEMA_VERSION,
    AcrossPairRecord,
    AcrossRecord,
    BoardRecord,
    ComparisonsRecord,
    ControlRecord,
    LabelRecord,
    MetricRecord,
    PairRecord,
    RankFaultRecord,
    ReportRecord,
    RowRecord,
    ScoreValueRecord,
    SectionRecord,
)
from zoo.report.reasons import reason_text, section_notes, text_or_none
from zoo.report.statements import statements, title
from zoo.specs.section import Section


def to_json(boards: Sequence[Board], layout: Layout | None = None) -> str:  # noqa: ARG001 - one width
    """The whole document: boards with every statement and section, orders across datasets, and all rows."""
    report = ReportRecord(
        schema=SCHEMA_VERSION,
        command="report",
        boards=[record_board(board) for board in boards],
        across=[record_across(across) for across in find_across(boards)],
        leaderboard=[record_row(board, place) for board in boards for place in range(len(board.rows))],
    )
    document = {"$schema": SCHEMA_NAME, **asdict(report)}
    return json.dumps(document, indent=1, allow_nan=False, ensure_ascii=False) + "\n"


def leaderboard_items(boards: Sequence[Board]) -> list[dict[str, Any]]:
    """All rows as plain data."""
    return [asdict(record_row(board, place)) for board in boards for place in range(len(board.rows))]


def record_row(board: Board, place: int) -> RowRecord:
    row = board.rows[place]
    score = row.scores.get(board.primary_metric)
    return RowRecord(
        dataset=board.dataset,
        **recipe_of(board, row),
        model=row.model,
        label=row.label,
        qualified=row.qualified,
        weights=row.weights,
        baseline=row.baseline,
        rank=board.rank(place),
        tied_with=board.tied_with(place),
        unranked=text_or_none(board.comparisons.unranked[place]),
        metric=board.primary_metric,
        value=score.value if score else None,
        low=score.low if score else None,
        high=score.high if score else None,
        reason=text_or_none(score.reason if score else Reason("not-run")),
        seeds=len(row.seeds),
        seed_sd=row.seed_sd.get(board.primary_metric),
        deterministic=row.deterministic,
        coverage=f"{row.coverage[0]}/{row.coverage[1]}",
        scores={name: record_score(each) for name, each in row.scores.items()},
        label_scores={
            label: {name: record_score(each) for name, each in scores.items()}
            for label, scores in score_labels(board, row).items()
        },
        cost=dict(row.cost),
        deviations=list(map(deviation_text, row.deviations)),
        runs=list(row.run_ids),
        degenerate=list(row.degenerate),
        tuned=row.tuned,
        provenance=row.provenance or None,
        bundle=board.bundle or None,
        content_hash=board.facts["content_hash"],
        split_hash=board.facts["split_hash"],
    )


def record_score(score: Score) -> ScoreValueRecord:
    return ScoreValueRecord(
        value=score.value,
        low=score.low,
        high=score.high,
        method=score.method.text if score.method else "",
        reason_code=score.reason.code if score.reason else None,
        reason=text_or_none(score.reason),
        note=score.note,
        version=score.version,
    )


def record_board(board: Board) -> BoardRecord:
    return BoardRecord(
        title=title(board),
        statements=statements(board),
        dataset=dict(board.facts),
        ranked_by=board.primary_metric,
        rank_fault=RankFaultRecord(**asdict(board.rank_fault)) if board.rank_fault else None,
        metrics=[
            MetricRecord(
                name=name,
                version=spec.version,
                higher_is_better=spec.higher_is_better,
                definition=describe_formula(spec),
            )
            for name, spec in board.specs.items()
        ],
        labels=[
            LabelRecord(
                label=each.label,
                positives=each.positives,
                negatives=each.negatives,
                counts=not board.labels or each.suffice,
            )
            for each in board.cases
        ],
        configurations=board.num_configurations,
        is_control=board.is_control,
        controls=[
            ControlRecord(model=verdict.model, passed=verdict.passed, text=reason_text(verdict.text))
            for verdict in board.controls
        ],
        comparisons=record_comparisons(board),
        sections={section.name: record_section(section) for section in board.sections},
    )


def record_comparisons(board: Board) -> ComparisonsRecord:
    """The tests of a board, with rows by label."""

    def label(position: int | None) -> str | None:
        return None if position is None else board.rows[position].label

    tests = board.comparisons
    return ComparisonsRecord(
        winner=label(tests.winner),
        num_patients=tests.num_patients,
        detectable=tests.detectable,
        patients_change_winner=tests.patients_change_winner,
        seeds_change_winner=tests.seeds_change_winner,
        pairs=[
            PairRecord(
                **asdict(pair)
                | {
                    "first": board.rows[pair.first].label,
                    "second": board.rows[pair.second].label,
                    "winner": label(pair.winner),
                }
            )
            for pair in tests.pairs
        ],
    )


def record_section(section: Section) -> SectionRecord:
    """A section, each row a dict by column."""
    return SectionRecord(
        title=section.title,
        text=section.text,
        columns=list(section.columns),
        rows=[
            {column: record_cell(cell) for column, cell in zip(section.columns, cells, strict=True)}
            for cells in section.rows
        ],
        notes=list(section_notes(section)),
        figures=[asdict(figure) for figure in section.figures],
        details=dict(section.details),
    )


def record_cell(cell: Cell) -> Any:
    return record_score(cell) if isinstance(cell, Score) else cell


def record_across(across: Across) -> AcrossRecord:
    """One order over datasets."""
    return AcrossRecord(
        protocol=across.protocol,
        init=across.init,
        over=across.over,
        datasets=list(across.datasets),
        **vars(record_section(across.section)),
        pairs=[AcrossPairRecord(first=first, second=second, p_holm=p) for first, second, p in across.pairs],
    )

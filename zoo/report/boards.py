"""From boards to what people read: terminal, markdown, csv, json."""

from __future__ import annotations

import csv
import html
import io
import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Literal

from zoo.errors import UsageError, clean
from zoo.evaluation.intervals import PATIENTS_AND_SEEDS
from zoo.evaluation.values import Score
from zoo.leaderboard.boards import Board, Row
from zoo.leaderboard.formatting import (
    amount,
    disarm,
    format_rounded,
    milliseconds,
    number,
    print_section,
    shown_cell,
    with_interval,
)
from zoo.leaderboard.multi_dataset import Across, find_across
from zoo.leaderboard.tables import Section
from zoo.report.statements import headings, note_statements, statements, title

SHORT_NAMES = {
    "balanced_accuracy": "bal. acc",
    "f1_macro": "f1",
    "recall_macro": "recall",
    "average_precision": "AP",
    "sensitivity": "sens.",
    "specificity": "spec.",
    "cohen_kappa": "kappa",
}
TERMINAL_METRICS = 4  # beside the primary one; the other formats show them all


# --- cells -----------------------------------------------------------------------------------------------------------
def shown_model(row: Row) -> str:
    """The model as a row calls it, its weights tag with it, and a mark where something deviates."""
    mark = " *" if row.deviations or row.coverage[0] < row.coverage[1] else ""
    words = [*(["degenerate"] if row.degenerate else []), *([row.provenance] if row.provenance else [])]
    return clean(row.label) + mark + (f" ({', '.join(words)})" if words else "")


def shown_rank(board: Board, row: int) -> str:
    rank = board.rank(row)
    return "-" if rank is None else str(rank)


def scored_heading(board: Board) -> str:
    """The primary metric, and what its intervals let vary where that is more than the patients."""
    scores = [row.scores[board.primary_metric] for row in board.rows if board.primary_metric in row.scores]
    varied = any(PATIENTS_AND_SEEDS in score.method for score in scores)
    return f"{board.primary_metric} [{PATIENTS_AND_SEEDS}]" if varied else board.primary_metric


BASELINE_TEXT = {"constant": "baseline: class prior", "thumbnails": "baseline: a linear model on 8x8 images"}


# --- formats ---------------------------------------------------------------------------------------------------------
def to_terminal(boards: Sequence[Board], width: int | None = None, color: bool = False) -> str:
    """A table a board, and its sections below; drawn by rich, plain text where color is off."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    stream = io.StringIO()
    console = Console(file=stream, width=width or 120, force_terminal=color, no_color=not color, highlight=False)
    for board in boards:
        for line in headings(board):
            console.print(Text(line, style="bold yellow"))
        console.print(Text(title(board), style="bold"), soft_wrap=True)
        names = board.metrics[1 : 1 + TERMINAL_METRICS]
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
        columns = ["rank", "model", scored_heading(board), "seed SD", *(SHORT_NAMES.get(n, n) for n in names)]
        for column in (*columns, "train img/s", "params", "seconds"):
            justify: Literal["left", "right"] = "left" if column in {"rank", "model"} else "right"
            table.add_column(Text(column), justify=justify, no_wrap=column != "model")
        for position, row in enumerate(board.rows):
            cells = [shown_rank(board, position), shown_model(row)]
            cells.append(with_interval(row.scores.get(board.primary_metric)))
            cells.append(number(row.seed_sd.get(board.primary_metric)))
            cells += [number(row.scores[name].value) if name in row.scores else "-" for name in names]
            if row.baseline:
                cells += ["", "", ""]
            else:
                cells += [amount(row.cost["images_per_second"]), amount(row.cost["num_parameters"])]
                cells.append(format_rounded(row.cost["train_seconds"], 0))
            table.add_row(*(Text(cell) for cell in cells), style="dim" if row.baseline else "")
        console.print(table)
        for row in board.rows:
            if row.baseline:
                console.print(Text(f"- {row.model}: {BASELINE_TEXT.get(row.model, 'baseline')}", style="dim"))
        for line in statements(board):
            console.print(Text(line, style="dim"), soft_wrap=True)
        console.print()
        for section in board.sections:
            print_section(section, console)
    for found in find_across(boards):
        print_section(found.section, console)
    return "".join(f"{line.rstrip()}\n" for line in stream.getvalue().splitlines())


def escape(text: str) -> str:
    escaped = html.escape(clean(text), quote=False)
    for character in "\\`*_~[]|":
        escaped = escaped.replace(character, "\\" + character)
    return escaped


def section_lines(section: Section, level: str) -> list[str]:
    """A section in markdown."""
    lines = [f"{level} {escape(section.title)}", ""]
    lines += ["| " + " | ".join(map(escape, section.columns)) + " |", "|" + "---|" * len(section.columns)]
    lines += ["| " + " | ".join(escape(shown_cell(cell)) for cell in cells) + " |" for cells in section.rows]
    return [*lines, "", *(f"- {escape(line)}" for line in section.notes), ""]


def to_markdown(boards: Sequence[Board]) -> str:
    """A section and a table a board. Names from data and plugins cannot become markup."""

    lines = []
    for board in boards:
        lines += [f"## {escape(title(board))}", ""]
        lines += [f"**{escape(line)}**\n" for line in headings(board)]
        columns = ["rank", "model", scored_heading(board), "seed SD", *board.metrics[1:]]
        columns += ["train img/s", "test img/s", "latency", "peak memory", "params", "FLOPs", "seconds"]
        lines += ["| " + " | ".join(map(escape, columns)) + " |", "|" + "---|" * len(columns)]
        for position, row in enumerate(board.rows):
            cells = [shown_rank(board, position), shown_model(row) + (" (baseline)" if row.baseline else "")]
            cells += [
                with_interval(row.scores.get(board.primary_metric)),
                number(row.seed_sd.get(board.primary_metric)),
            ]
            cells += [number(row.scores[name].value) if name in row.scores else "-" for name in board.metrics[1:]]
            cells += [amount(row.cost["images_per_second"]), amount(row.cost["inference_images_per_second"])]
            cells += [milliseconds(row.cost["latency_seconds"]), amount(row.cost["peak_memory_bytes"], "B")]
            cells += [amount(row.cost["num_parameters"]), amount(row.cost["flops"])]
            cells.append(format_rounded(row.cost["train_seconds"], 1))
            lines.append("| " + " | ".join(escape(cell) for cell in cells) + " |")
        lines.append("")
        lines += [f"- {escape(line)}" for line in statements(board)]
        lines.append("")
        for section in board.sections:
            lines += section_lines(section, "###")
    for found in find_across(boards):
        lines += section_lines(found.section, "##")
    return "\n".join(lines)


def to_csv(boards: Sequence[Board]) -> str:
    """One line a row with every score and cost; a text a spreadsheet would take for a formula gets a quote in front."""
    metrics = list(dict.fromkeys(name for board in boards for name in board.metrics))
    lines = [csv_line(board, place, metrics) for board in boards for place in range(len(board.rows))]
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(lines[0] if lines else ())
    writer.writerows([disarm(cell) for cell in line.values()] for line in lines)
    return stream.getvalue()


def csv_line(board: Board, place: int, metrics: Sequence[str]) -> dict[str, Any]:
    """A row of a board by the names of the columns, in their order."""
    row, facts, test = board.rows[place], board.facts, board.facts["splits"]["test"]
    line: dict[str, Any] = {
        "dataset": board.dataset,
        "task": facts["task"],
        "protocol": board.protocol,
        "init": board.init,
        "model": row.model,
        "qualified": row.qualified,
        "weights": row.weights,
        "baseline": int(row.baseline),
        "primary_metric": board.primary_metric,
        "seeds": len(row.seeds),
        "coverage": f"{row.coverage[0]} of {row.coverage[1]}",
        "rank": board.rank(place),
        "tied_with": " ".join(board.tied_with(place)),
    }
    for name in metrics:
        found = row.scores.get(name)
        line |= {name: found and found.value, f"{name}_low": found and found.low, f"{name}_high": found and found.high}
        line[f"{name}_seed_sd"] = row.seed_sd.get(name)
    return {
        **line,
        **row.cost,
        "deviations": "; ".join(row.deviations),
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
    """One section of all boards, one line a row, each cell with an interval as three columns."""
    known = [((b.dataset, b.protocol, b.init), section) for b in boards for section in b.sections]
    known += [(("; ".join(part.datasets), part.protocol, part.init), part.section) for part in find_across(boards)]
    found = [(place, section) for place, section in known if section.name == name]
    if not found:
        names = sorted({section.name for _, section in known})
        raise UsageError(f"no board has a table {name!r}", fix=f"there are: {', '.join(names) or 'none'}")
    columns = list(dict.fromkeys(column for _, section in found for column in section.columns))
    wide = {
        section.columns[i]
        for _, section in found
        for cells in section.rows
        for i, cell in enumerate(cells)
        if isinstance(cell, Score)
    }
    parts = {c: (c, f"{c}_low", f"{c}_high", f"{c}_reason") if c in wide else (c,) for c in columns}
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["dataset", "protocol", "init", *(disarm(part) for column in columns for part in parts[column])])
    for place, section in found:
        for cells in section.rows:
            line: list[Any] = list(place)
            by_column = dict(zip(section.columns, cells, strict=True))
            for column in columns:
                cell = by_column.get(column)
                if isinstance(cell, Score):
                    line += [cell.value, cell.low, cell.high, cell.reason]
                else:
                    line += [cell] + [None] * (len(parts[column]) - 1)
            writer.writerow([disarm(cell) for cell in line])
    return stream.getvalue()


def leaderboard_items(boards: Sequence[Board]) -> list[dict[str, Any]]:
    """The rows as `--json` shows them. `rank` is null where `unranked` says why."""
    items = []
    for board in boards:
        for position, row in enumerate(board.rows):
            found = row.scores.get(board.primary_metric)
            items.append(
                {
                    "dataset": board.dataset,
                    "protocol": board.protocol,
                    "init": board.init,
                    "model": row.model,
                    "label": row.label,
                    "qualified": row.qualified,
                    "weights": row.weights,
                    "baseline": row.baseline,
                    "rank": board.rank(position),
                    "tied_with": board.tied_with(position),
                    "unranked": board.comparisons.unranked[position],
                    "metric": board.primary_metric,
                    "value": found.value if found else None,
                    "low": found.low if found else None,
                    "high": found.high if found else None,
                    "reason": found.reason if found else "no finished run",
                    "seeds": len(row.seeds),
                    "seed_sd": row.seed_sd.get(board.primary_metric),
                    "coverage": f"{row.coverage[0]}/{row.coverage[1]}",
                    "scores": {name: asdict(score) for name, score in row.scores.items()},
                    "cost": dict(row.cost),
                    "deviations": list(row.deviations),
                    "runs": list(row.run_ids),
                    "degenerate": list(row.degenerate),
                    "tuned": row.tuned,
                    "provenance": row.provenance or None,
                    "bundle": board.bundle or None,
                    "content_hash": board.facts["content_hash"],
                    "split_hash": board.facts["split_hash"],
                }
            )
    return items


def describe_comparisons(board: Board) -> dict[str, Any]:
    """The tests of a board as plain data, its rows by name."""
    found = asdict(board.comparisons)
    for pair in found["pairs"]:
        for side in ("first", "second", "winner"):
            pair[side] = None if pair[side] is None else board.rows[pair[side]].label
    winner = board.comparisons.winner
    kept = ("num_patients", "detectable", "patients_change_winner", "seeds_change_winner", "pairs")
    return {"winner": None if winner is None else board.rows[winner].label, **{name: found[name] for name in kept}}


def describe_section(section: Section) -> dict[str, Any]:
    """A section as plain data, its rows by column."""
    rows = [
        {
            column: asdict(cell) if isinstance(cell, Score) else cell
            for column, cell in zip(section.columns, cells, strict=True)
        }
        for cells in section.rows
    ]
    described = {"title": section.title, "columns": list(section.columns), "rows": rows, "notes": list(section.notes)}
    return described | ({"details": dict(section.details)} if section.details else {})


def describe_across(found: Across) -> dict[str, Any]:
    """One order over datasets as plain data."""
    return {
        "protocol": found.protocol,
        "init": found.init,
        "over": found.over,
        "datasets": list(found.datasets),
        **describe_section(found.section),
        "pairs": [{"first": first, "second": second, "p_holm": p} for first, second, p in found.pairs],
    }


def to_json(boards: Sequence[Board]) -> str:
    document = {
        "schema": 1,
        "command": "report",
        "boards": [
            {
                "title": title(board),
                "statements": statements(board),
                "dataset": dict(board.facts),
                "configurations": board.num_configurations,
                "is_control": board.is_control,
                "controls": [asdict(found) for found in board.controls],
                "comparisons": describe_comparisons(board),
                "sections": {section.name: describe_section(section) for section in board.sections},
            }
            for board in boards
        ],
        "across": [describe_across(found) for found in find_across(boards)],
        "leaderboard": leaderboard_items(boards),
    }
    return json.dumps(document, indent=1, allow_nan=False, ensure_ascii=False) + "\n"

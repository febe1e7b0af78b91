"""The main table of a board: ties as brackets, intervals on a common axis, and what each row opens to."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import Any

from zoo.errors import clean
from zoo.evaluation.values import Score
from zoo.leaderboard.boards import Board
from zoo.leaderboard.formatting import amount, format_rounded, milliseconds, number, with_interval
from zoo.leaderboard.multi_dataset import WEIGHTS_TEXT
from zoo.leaderboard.records import MissingRun
from zoo.leaderboard.rows import Row
from zoo.leaderboard.ties import group_ties, tied_rows
from zoo.report.cells import seed_cell
from zoo.report.charts import Axis, draw_axis, draw_interval, fit_axis
from zoo.report.deviations import deviation_text
from zoo.report.names import weights_text
from zoo.report.reasons import reason_text
from zoo.report.statements import row_statements
from zoo.report.summary import list_some
from zoo.results.runs import SHUFFLED

MAX_LANES = 4  # brackets side by side
MAX_MISSING = 40  # missing runs listed below the table; the others are counted
MAX_RUN_IDS = 5
MAX_OPENED = 30  # rows with their chart and all their details; the script makes those of the rows below
ANY_MODEL = "MODEL"
SHOWN_METRICS = 1  # beside the primary one, until others are chosen
LETTERS = "abcdefghijklmnopqrstuvwxyz"
COSTS_SHOWN = ("params", "latency")


def describe_rows(board: Board, anchor: str) -> dict[str, Any]:
    """Columns and rows of the main table; the primary metric as a dot with its interval on a common axis."""
    scores = [row.scores.get(board.primary_metric) for row in board.rows]
    axis = fit_axis([v for s in scores if s for v in (s.value, s.low, s.high) if v is not None])
    references = [
        (row.label, s.value)
        for row, s in zip(board.rows, scores, strict=True)
        if row.baseline and s and s.value is not None
    ]
    tied = tied_rows(board.comparisons)
    brackets, num_lanes, num_left_out = place_brackets(group_ties(tied))
    lines_id = f"{anchor}-lines" if references else ""
    rows = [
        describe_row(board, place)
        | {"brackets": brackets.get(place, []), **describe_opening(board, place, tied.get(place, []))}
        for place in range(len(board.rows))
    ]
    for row, score in zip(rows, scores, strict=True):
        row["chart"] = "" if row["model"] else draw_score(score, axis, board.primary_metric, lines_id)
    return {
        "metric": board.primary_metric,
        "low": f"{axis.low:g}",
        "high": f"{axis.high:g}",
        "lines": lines_id,
        "axis": draw_axis(axis, f"axis of {board.primary_metric}", references, lines_id),
        "columns": list_choices(board),
        "rows": rows,
        "num_lanes": num_lanes,
        "num_left_out": num_left_out,
        "missing": describe_missing(board),
        "repeat": repeat_command(board, None),
        "cite": cite_row(board, None),
        "num_unopened": sum(not row["details"] for row in rows),
    }


def list_choices(board: Board) -> list[dict[str, Any]]:
    """The columns that a reader can choose: their name, place in the table, and whether they are shown at first."""
    metrics = [(name, place < SHOWN_METRICS) for place, name in enumerate(board.metrics[1:])]
    costs = [(name, name in COSTS_SHOWN) for name in ("params", "FLOPs", "latency", "memory", "train s")]
    every = [("interval", True), ("seed SD", True), *metrics, *costs]
    return [{"name": name, "place": place, "shown": shown} for place, (name, shown) in enumerate(every, start=5)]


# --- ties ------------------------------------------------------------------------------------------------------------
def place_brackets(groups: Sequence[Sequence[int]]) -> tuple[dict[int, list[dict[str, Any]]], int, int]:
    """The brackets that cross each row, the lanes they need, and the groups left out because there are too many."""
    lanes: list[int] = []  # the last row of each lane's last bracket
    brackets: dict[int, list[dict[str, Any]]] = {}
    num_left_out = 0
    for position, group in enumerate(groups):
        lane = next((i for i, last in enumerate(lanes) if last < group[0]), len(lanes))
        if lane == MAX_LANES:
            num_left_out += 1
            continue
        lanes[lane : lane + 1] = [group[-1]]
        letter = LETTERS[position % len(LETTERS)]
        for row in group:
            ends = " ".join(name for name, end in (("first", group[0]), ("last", group[-1])) if row == end)
            brackets.setdefault(row, []).append({"lane": lane, "letter": letter, "ends": ends})
    return brackets, len(lanes), num_left_out


# --- rows ------------------------------------------------------------------------------------------------------------
def draw_score(score: Score | None, axis: Axis, metric: str, lines_id: str) -> str:
    """The primary metric of a row as a dot with its interval."""
    value, bounds = (score.value, (score.low, score.high)) if score else (None, (None, None))
    return draw_interval(value, bounds, axis, f"{metric} {with_interval(score)}", lines_id)


def describe_row(board: Board, place: int) -> dict[str, Any]:
    row = board.rows[place]
    rank = board.rank(place)
    cost = row.cost
    costs = ["-"] * 5
    if not row.baseline:
        costs = [amount(cost["num_parameters"]), amount(cost["flops"]), milliseconds(cost["latency_seconds"])]
        costs += [amount(cost["peak_memory_bytes"], "B"), format_rounded(cost["train_seconds"], 0)]
    return {
        "rank": "" if rank is None else str(rank),
        "label": row.label,
        "baseline": row.baseline,
        "facts": join_filter_facts(row),
        "score": with_interval(row.scores.get(board.primary_metric)),
        "seed_sd": seed_cell(row, board.primary_metric),
        "metrics": [number(row.scores[m].value) if m in row.scores else "-" for m in board.metrics[1:]],
        "costs": costs,
        "badges": describe_badges(row),
    }


def join_filter_facts(row: Row) -> str:
    """What the script filters rows by: family, plugin, weights and millions of parameters."""
    if row.baseline:
        return ""
    plugin = row.qualified.rpartition(":")[0]
    size = row.cost["num_parameters"]
    millions = "" if size is None else f"{size / 1e6:.6g}"
    return "|".join(
        clean(text).replace("|", "/") for text in (row.family or "not recorded", plugin, weights_text(row), millions)
    )


def describe_badges(row: Row) -> list[str]:
    """The words beside a model's name: baseline, failures, missing runs, no better than chance."""
    badges = ["imported"] if row.is_imported else []
    counted, expected = row.coverage
    if counted == 0 and not row.seeds:
        badges.append("failed" if row.failures else "not run")
    elif counted < expected:
        badges.append(f"{counted} of {expected} runs")
    if row.degenerate:
        badges.append("degenerate")
    if row.provenance not in ("", "recomputed"):  # all rows of a bundle are recomputed, which the record says
        badges.append(row.provenance)
    return badges


def describe_missing(board: Board) -> dict[str, Any]:
    """The runs that failed or were never started: the models, their seeds, and why."""
    rows, total = [], 0
    for row in board.rows:
        by_reason: dict[tuple[str, str], list[MissingRun]] = {}
        for run in row.missing:
            by_reason.setdefault((run.status, run.message), []).append(run)
        for (status, message), runs in by_reason.items():
            total += len(runs)
            seeds = ", ".join(dict.fromkeys(str(run.seed) for run in runs))
            folds = ", ".join(dict.fromkeys(str(run.fold) for run in runs)) if board.facts["num_folds"] > 1 else ""
            where = f"seed {seeds}" + (f", fold {folds}" if folds else "")
            rows.append([row.label, where, status, clean(message) or "-"])
    return {"rows": rows[:MAX_MISSING], "num_runs": total, "num_more": max(0, len(rows) - MAX_MISSING)}


# --- what a row opens to ---------------------------------------------------------------------------------------------
def describe_opening(board: Board, place: int, tied: Sequence[int]) -> dict[str, Any]:
    """The details of a row: as text, or for a plain row far down a long board as what the script makes them of.

    perf: 1,800 charts, and commands that are equal but for the model, would take 1.4 MB.
    """
    row = board.rows[place]
    notes = [line.partition(": ")[2] or line for line in row_statements(row, board)]
    plain = not notes and not row.missing and place >= MAX_OPENED and not row.baseline
    runs = " ".join(run[:8] for run in row.run_ids)
    return {
        "details": [] if plain else describe_details(board, place, tied, notes),
        "model": name_model(row) if plain else "",
        "runs": runs,
    }


def describe_details(board: Board, place: int, tied: Sequence[int], notes: Sequence[str]) -> list[tuple[str, str]]:
    """The runs of a row, the command that repeats them, what deviates, and how to cite the row."""
    row = board.rows[place]
    more = len(row.run_ids) - MAX_RUN_IDS
    ids = " ".join(run[:8] for run in row.run_ids[:MAX_RUN_IDS]) + (f" and {more} more" if more > 0 else "")
    found = [("runs", f"{row.coverage[0]} of {row.coverage[1]} count" + (f": {ids}" if ids else ""))]
    if board.rank(place) is not None:
        names = list_some([board.rows[other].label for other in tied]) or "no other model"
        found.append(("no detectable difference from", names))
    elif not row.baseline:
        reasons = dict(enumerate(board.comparisons.unranked))
        found.append(("not ranked", clean(reason_text(reasons.get(place) or "no reason recorded"))))
    deviations = [
        *map(override_text, row.label_parts[2:]),
        *(clean(deviation_text(deviation)) for deviation in row.deviations),
    ]
    found += [("note", line) for line in notes if line not in deviations]
    if not row.baseline:
        found.append(("initial weights", clean(weights_text(row))))
        published = "@".join(map(str, row.label_parts[:2])) or row.protocol
        found.append((f"deviations from {clean(published)}", clean("; ".join(deviations)) or "none"))
        found += [("repeat", repeat_command(board, row)), ("cite", cite_row(board, row))]
    return found


def override_text(override: tuple[str, str]) -> str:
    """A changed field of a protocol as `--set` takes it; "shuffled" for a control."""
    return "=".join(filter(None, override))


def name_model(row: Row | None) -> str:
    """The model with its plugin and weights, as `--models` takes it; a placeholder without a row."""
    if row is None:
        return ANY_MODEL
    return f"{row.qualified}.{row.weights}" if is_pretrained(row) else row.qualified


def is_pretrained(row: Row) -> bool:
    return row.init == "pretrained"


def repeat_command(board: Board, row: Row | None) -> str:
    """The command that carries out the runs of a row again; without a row, of any plain one."""
    if (row or board).init == "none":
        return import_command(board, row)
    facts, record = board.facts, board.record
    name, shuffled = facts["name"], board.is_control
    words = ["zoo", "bench", "--models", name_model(row), "--datasets", name.removesuffix("-resplit")]
    words += ["--resplit"] if name.endswith("-resplit") else []
    if board.is_external:
        words += ["--test-on", facts["external"]["dataset"]]
    parts = row.label_parts if row else board.label_parts
    words += ["--protocol", str(parts[0])]
    for override in parts[2:]:
        words += ["--shuffle-labels"] if override == SHUFFLED else ["--set", override_text(override)]
    if facts["num_folds"] > 1:
        words += ["--folds", str(facts["num_folds"])]
    if not shuffled:
        rows = board.rows if row is None else [row]
        models = [each for each in rows if not each.baseline and not each.is_imported]
        seeds = {seed for each in models for seed in (*each.seeds, *(r.seed for r in each.missing))}
        words += ["--seeds", ",".join(map(str, sorted(seeds))) or "0"]
    words += ["--weights", "pretrained" if (row or board).init == "pretrained" else "none"]
    for option, field in (("--threads", "threads"), ("--device", "device_kind")):
        if len(values := record.setup.get(field, ())) == 1 and values[0]:
            words += [option, str(values[0])]
    leaks = [deviation.detail[0] for deviation in row.deviations if deviation.kind == "leak-allowed"] if row else []
    words += ["--allow-leak", str(leaks[0])] if leaks else []
    return shlex.join(map(clean, words))


def import_command(board: Board, row: Row | None) -> str:
    """The command that imports the predictions of a row again."""
    name = board.facts["name"]
    words = ["zoo", "score", "--masks", "FOLDER", "--name", row.model if row else ANY_MODEL]
    words += ["--datasets", name.removesuffix("-resplit"), *(["--resplit"] if name.endswith("-resplit") else [])]
    words += ["--folds", str(board.facts["num_folds"])] if board.facts["num_folds"] > 1 else []
    return shlex.join(map(clean, words))


def cite_row(board: Board, row: Row | None) -> str:
    """A reference to a row: the model, the recipe, the data with hashes, and where it comes from."""
    zoo = " / ".join(map(str, board.record.versions.get("zoo-bench", ()))) or "of an unrecorded version"
    weights = WEIGHTS_TEXT[(row or board).init]
    parts = [
        f"{name_model(row)}, {weights}, {(row or board).protocol}",
        f"{board.dataset} (content {board.facts['content_hash'][:8]}, split {board.facts['split_hash'][:8]})",
        f"zoo-bench {zoo}",
        f"data: {board.facts.get('citation') or 'no citation recorded'}",
    ]
    return clean("; ".join(parts))

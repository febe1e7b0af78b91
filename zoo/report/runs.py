"""Stored runs as a list and on one screen, for `zoo list runs` and `zoo info runs`."""

from __future__ import annotations

import fnmatch
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.errors import ResultsError, clean, with_fix
from zoo.evaluation.reasons import Reason
from zoo.leaderboard.formatting import number, with_interval
from zoo.leaderboard.sanity_checks import is_imported
from zoo.registry.lookup import WILDCARDS
from zoo.report.deviations import deviation_text
from zoo.report.drawing import BREAKS, GAP, break_name, wrap, wrap_title
from zoo.report.reasons import reason_text
from zoo.specs.deviation import read_deviations

if TYPE_CHECKING:
    from zoo.results.store import Result

MIN_ID = 8  # characters of an id that a list shows
MIN_CELL = 7  # cells; a table is wider than the terminal before a column is narrower
IN_EVERY_TABLE = {"id", "score"}  # columns that stay, even if all runs share them


def list_runs(root: Path, pattern: str | None = None) -> list[dict[str, Any]]:
    """The stored runs, by dataset, model, protocol, seed and fold; a damaged one is a warning."""
    from zoo.results.lookup import stored_results

    if not root.is_dir():
        raise ResultsError(f"{root}: not a folder", fix="name one by --results, or run `zoo bench` first")
    items = [summarize_run(result) for result in stored_results(root)]
    items.sort(key=lambda item: tuple(str(item[key]) for key in ("dataset", "model", "protocol")) + order_of(item))
    return [item for item in items if not pattern or matches(item, pattern)]


def order_of(item: Mapping[str, Any]) -> tuple[str, ...]:
    return f"{item['seed']:020}", f"{item['fold']:06}", item["id"]


def summarize_run(result: Result) -> dict[str, Any]:
    run = result.run
    metric = result.details.get("primary_metric")
    return {
        "id": result.id,
        "dataset": f"{run['dataset']} -> {run['tested_on']}" if run.get("tested_on") else run["dataset"],
        "model": run["shown"],
        "weights": run["weights_tag"] or None,
        "protocol": run["protocol_label"],
        "purpose": run["purpose"],
        "seed": run["seed"],
        "fold": run["fold"],
        "folds": run["num_folds"],
        "status": result.status,
        "metric": metric,
        "score": read_value(result, metric),
        "date": result.created[:10],
        "folder": str(result.folder),
    }


def read_value(result: Result, metric: str | None) -> float | None:
    """The stored value of a metric; None if there is none or the file of scores is damaged."""
    try:
        score = result.scores().get(metric or "")
    except ResultsError:
        return None
    return score.value if score else None


def matches(item: Mapping[str, Any], pattern: str) -> bool:
    """Whether a glob, or a part of a text, fits the id, dataset, model, protocol, purpose or status of a run."""
    glob = pattern if any(character in pattern for character in WILDCARDS) else f"*{pattern}*"
    names = (item[key] for key in ("id", "dataset", "model", "protocol", "purpose", "status"))
    return any(fnmatch.fnmatchcase(str(name), glob) for name in names)


def table_of_runs(items: Sequence[Mapping[str, Any]], width: int) -> list[str]:
    """The lines of `zoo list runs`, at most `width` cells long: what all runs share, then a table of the rest.

    A name that is too long continues on the next line.
    """
    rows = [cells_of_run(item) for item in items]
    if not rows:
        return []
    shared = {
        name: cell
        for name, cell in rows[0].items()
        if name not in IN_EVERY_TABLE and all(row[name] == cell for row in rows)
    }
    columns = [name for name in rows[0] if name not in shared]
    above = " · ".join(f"{name} {cell}" for name, cell in shared.items() if cell)
    lines = [part for line in wrap_title(above, width).splitlines() for part in break_name(line, width).splitlines()]
    table = [columns, *([row[name] for name in columns] for row in rows)]
    widths = narrow_columns(table, width)
    return [*lines, *(line for row in table for line in row_lines(row, widths))]


def cells_of_run(item: Mapping[str, Any]) -> dict[str, str]:
    cells = {
        "id": item["id"][:MIN_ID],
        "dataset": item["dataset"],
        "model": item["model"],
        "protocol": item["protocol"],
        "seed": item["seed"],
        "fold": item["fold"] if item["folds"] > 1 else "",
        "status": item["status"],
        "metric": item["metric"] or "",
        "score": "-" if item["score"] is None else number(item["score"]),
        "date": item["date"],
    }
    return {name: clean(cell) for name, cell in cells.items()}


def narrow_columns(table: Sequence[Sequence[str]], width: int) -> list[int]:
    """The width of each column, narrowed until a row fits.

    It is the widest column that gives, as long as its names can be broken after a separator; then the column where
    the fewest have to be broken elsewhere.
    """
    from rich.cells import cell_len

    columns = list(zip(*table, strict=True))
    widths = [max(map(cell_len, column)) for column in columns]
    parts = [
        Counter(max((cell_len(part.rstrip()) for part in BREAKS.findall(cell)), default=0) for cell in column)
        for column in columns
    ]
    while sum(widths) + GAP * (len(widths) - 1) > width:
        wide = [i for i in range(1, len(widths)) if widths[i] > MIN_CELL]  # an id, the first, is never broken
        if not wide:
            break
        widths[min(wide, key=lambda i: (parts[i][widths[i]], -widths[i]))] -= 1
    return widths


def row_lines(cells: Sequence[str], widths: Sequence[int]) -> list[str]:
    """A row of a table, over as many lines as its tallest cell."""
    from rich.cells import set_cell_size

    parts = [break_name(cell, width).splitlines() for cell, width in zip(cells, widths, strict=True)]
    lines = zip_longest(*parts, fillvalue="")
    return [(" " * GAP).join(map(set_cell_size, line, widths)).rstrip() for line in lines]


def write_sentences(described: Mapping[str, Any]) -> dict[str, Any]:
    """Replace the facts in a run (`trace_run`) by sentences."""
    run = {**described["run"], "deviations": sentences_of(described["run"].get("deviations", ()))}
    scores = {
        kind: {name: {**score, "reason": reason_of_score(score)} for name, score in described[kind].items()}
        for kind in ("scores", "image_scores")
        if kind in described
    }
    return {**described, **scores, "run": run, "deviations": sentences_of(described["deviations"])}


def reason_of_score(score: Mapping[str, Any]) -> str | None:
    return score["reason"] and reason_text(Reason(**score["reason"]))


def sentences_of(deviations: Sequence[Mapping[str, Any]]) -> list[str]:
    return list(map(deviation_text, read_deviations(deviations)))


def run_lines(described: Mapping[str, Any], width: int) -> list[str]:
    """A run on one screen: what, data, protocol, weights, scores and warnings; `described` is by `write_sentences`."""
    lines = [f"run {described['id'][:MIN_ID]}: {described['status']}, {described['created'][:10]}"]
    for name, text in facts_of_run(described):
        lines += wrap(f"{name:11}{clean(text)}", width, " " * 11).splitlines()
    if error := described["error"]:
        text = with_fix(error["message"], error.get("fix", ""))
        lines += wrap(f"{'error':11}{clean(error['code'])}: {clean(text)}", width).splitlines()
    scores = described.get("scores", {})
    lines += ["", "scores on test (95 % interval)"] if scores else []
    longest = max(map(len, scores), default=0)
    for name, score in scores.items():
        lines.append(f"  {clean(name).ljust(longest)}  {score_text(score)}")
    warnings = warnings_of_run(described)
    lines += ["", "warnings"] if warnings else []
    for line in warnings:
        lines += wrap(f"  {clean(line)}", width, "    ").splitlines()
    return [*lines, "", f"All fields and how each number was computed: zoo info runs {described['id'][:MIN_ID]} --full"]


def facts_of_run(described: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Name and text of each line above the scores."""
    run, data, cost = described["run"], described["dataset"], described["cost"]
    fold = f", fold {run['fold'] + 1} of {run['num_folds']}" if run["num_folds"] > 1 else ""
    tested = f", tested on {run['tested_on']}" if run.get("tested_on") else ""
    purpose = "" if run["purpose"] == "score" else f", purpose {run['purpose']}"
    facts = [("model", f"{run['model']}, seed {run['seed']}{fold}{purpose}")]
    splits = data.get("splits", {})
    counts = " / ".join(f"{splits[name]['images']} {name}" for name in ("train", "val", "test") if name in splits)
    facts.append(("data", f"{run['dataset']}{tested} · {data.get('task', '')} · {counts} images"))
    if data.get("has_patients"):
        facts.append(("", f"{splits['test']['patients']} test patients, scored by {data['unit']}"))
    if is_imported(run):
        facts += [("protocol", run["protocol_label"]), ("masks", run["predictions"][:8])]
    else:
        patch = described["details"].get("patch")
        size = f"patches of {' x '.join(map(str, patch))} voxels" if patch else f"{run['image_size']} px"
        facts.append(("protocol", f"{run['protocol_label']}, {size}, {run['precision']}"))
        digest = f" ({run['weights_digest'][:8]})" if run["weights_digest"] else ""
        facts.append(("weights", f"{run['weights_tag'] or run['init']}{digest}"))
    details = described["details"]
    if details.get("selected_step") is not None:
        chosen = f"step {details['selected_step']} of {details.get('steps')}, {details.get('selected_by')}"
        facts.append(("checkpoint", chosen))
    if cost.get("train_seconds") is not None:
        system = described["system"]
        device = system.get("gpu") or system.get("processor") or system.get("machine")
        facts.append(("cost", f"{cost['train_seconds']:.0f} s on {device}"))
    for name, text in (described.get("thresholds") or {}).get("values", {}).items():
        facts.append(("threshold", f"{name} {number(text)}"))
    facts.append(("folder", described["folder"]))
    return facts


def score_text(score: Mapping[str, Any]) -> str:
    from zoo.evaluation.values import Score

    if score["value"] is None:
        return f"- ({clean(score['reason'])})"
    text = with_interval(Score(value=score["value"], low=score["low"], high=score["high"]))
    return f"{text}  {clean(score['note'])}".rstrip()


def warnings_of_run(described: Mapping[str, Any]) -> list[str]:
    """What must be known beside the scores: deviations, and the dataset's known issues and missing patients."""
    data = described["dataset"]
    lines = list(described["deviations"])
    if data.get("synthetic"):
        lines.append("synthetic data: the numbers say nothing about patients")
    if data and not data.get("has_patients"):
        lines.append("patients unknown: images count as independent")
    return [*lines, *(f"known issue: {issue}" for issue in data.get("known_issues", ()))]

"""The answer of a board: who wins or why nobody does, by how much, what would change it, its cost, and warnings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from zoo.errors import clean, plural_of
from zoo.leaderboard.boards import Board
from zoo.leaderboard.curves import ratio_of_spreads
from zoo.leaderboard.formatting import amount, format_rounded, milliseconds, number, p_value
from zoo.leaderboard.multi_dataset import WEIGHTS_TEXT
from zoo.leaderboard.rows import Row
from zoo.report.board_page.shortcuts import find_shortcuts
from zoo.report.board_page.tables import shorten_line
from zoo.report.pairs import signed
from zoo.report.statements import FEW_PATIENTS, case_name, detectable, none_detectable, optimism_statements, state_notes
from zoo.report.summary import answer, find_warnings, outlook

SEPARABLE = 2.0  # SD between models over SD between seeds from which the set is said to separate models


def describe_answers(boards: Sequence[Board], anchors: Sequence[str]) -> list[dict[str, Any]]:
    """One card per dataset; a dataset with several boards has an answer for each."""
    cards: dict[str, list[dict[str, Any]]] = {}
    for board, anchor in zip(boards, anchors, strict=True):
        cards.setdefault(board.dataset, []).append({"anchor": anchor, **describe_answer(board)})
    return [{"dataset": dataset, "answers": answers} for dataset, answers in cards.items()]


def describe_answer(board: Board) -> dict[str, Any]:
    if board.is_control:
        return {"headline": answer(board), "facts": [], "warnings": find_warnings(board)}
    facts = [
        ("what was compared", compared_statement(board)),
        ("by how much", lead_statement(board)),
        ("against the baselines", baseline_statement(board)),
        ("smallest difference it can show", detectable_statement(board)),
        ("what would change it", outlook(board) if board.comparisons.winner is not None else ""),
        ("can this set rank models?", spread_statement(board)),
        ("what it costs to run", cost_statement(board)),
        ("how the data were read", shorten_line("; ".join(state_notes(board)))),
    ]
    return {
        "headline": answer(board),
        "facts": [(name, text) for name, text in facts if text],
        "warnings": list_warnings(board),
    }


def compared_statement(board: Board) -> str:
    models = sum(not row.baseline for row in board.rows)
    test, baselines = board.facts["splits"]["test"], len(board.rows) - models
    seeds = f", {board.num_seeds} seed{'s' * (board.num_seeds != 1)} each" if board.num_seeds else ""
    tested = f"{test['images']} test images"
    tested += f" of {test['patients']} {plural_of(case_name(board))}" if board.facts["has_patients"] else ""
    counted = f"{models} model{'s' * (models != 1)} and {baselines} baseline{'s' * (baselines != 1)}"
    weights = WEIGHTS_TEXT[board.init]
    return f"{counted} by {clean(board.primary_metric)}, protocol {clean(board.protocol)}, {weights}{seeds}; {tested}"


def lead_statement(board: Board) -> str:
    """The difference of the best model and the next ranked one, with interval and test."""
    tests = board.comparisons
    if tests.winner is None:
        return ""
    rival = next((i for i, rank in enumerate(tests.ranks) if rank is not None and i != tests.winner), None)
    pair = None if rival is None else tests.find(tests.winner, rival)
    if pair is None:
        return ""
    verdict = "not detectable" if pair.winner is None else "detectable"
    pairs = len(tests.pairs)
    p, p_holm = (p_value(each).replace(" ", "\N{NO-BREAK SPACE}") for each in (pair.p, pair.p_holm))
    p_all = f", {p_holm} after Holm's correction for {pairs} comparisons" if pairs > 1 else ""
    return (
        f"{clean(board.rows[pair.first].label)} minus the next model, {clean(board.rows[pair.second].label)}: "
        f"{signed(pair.difference)} [{signed(pair.low)} {signed(pair.high)}]; {p}"
        f"{' for this pair alone' * (pairs > 1)}{p_all}: {verdict}"
    )


def baseline_statement(board: Board) -> str:
    """The best model's score beside that of each baseline; baselines are not tested."""
    best = best_model(board)
    if best is None:
        return ""
    own = best.scores[board.primary_metric].value
    listed = [
        f"{clean(row.label)} {number(score.value)}"
        for row in board.rows
        if row.baseline and (score := row.scores.get(board.primary_metric)) and score.value is not None
    ]
    if not listed:
        return "no baseline was run, so nothing shows that the images were needed"
    return f"{clean(best.label)} {number(own)}; {', '.join(listed)} (differences from baselines are not tested)"


def best_model(board: Board) -> Row | None:
    """The winner, else the model with the best score."""
    if board.comparisons.winner is not None:
        return board.rows[board.comparisons.winner]
    scored = (row for row in board.rows if not row.baseline and has_score(board, row))
    return next(scored, None)  # rows are in order of the primary metric


def has_score(board: Board, row: Row) -> bool:
    score = row.scores.get(board.primary_metric)
    return score is not None and score.value is not None


def detectable_statement(board: Board) -> str:
    """The smallest difference that the test set and the seeds can show."""
    tests = board.comparisons
    if not tests.pairs:
        return "unknown: this needs two models with at least two seeds each"
    case = case_name(board)
    what = (
        none_detectable(board, tests.pairs)
        if tests.detectable is None
        else f"show {detectable(tests.detectable)}" + (" (median of the pairs)" if len(tests.pairs) > 1 else "")
    )
    return f"{tests.num_patients} test {plural_of(case)} with these seeds {what}"


def spread_statement(board: Board) -> str:
    """The ratio of the spread between models to that between seeds, and what it means."""
    models = [row for row in board.rows if not row.baseline]
    ratio = ratio_of_spreads(
        {row.label: row.scores[board.primary_metric].value or 0.0 for row in models if has_score(board, row)},
        {row.label: sd for row in models if (sd := row.seed_sd.get(board.primary_metric)) is not None},
    )
    if ratio is None:
        return ""
    verdict = (
        "models differ more than seeds do"
        if ratio >= SEPARABLE
        else "differences between models are hardly larger than those between seeds"
    )
    return f"the spread between models is {ratio:.1f} times the spread between seeds: {verdict}"


def cost_statement(board: Board) -> str:
    """What the best model costs, and the smallest model that is not detectably worse."""
    best = best_model(board)
    if best is None:
        return ""
    text = f"{clean(best.label)}: {list_costs(best, board)}"
    winner = board.comparisons.winner
    tied = [] if winner is None else [board.rows[place] for place in board.comparisons.tied_with(winner)]
    sizes = [(row.cost["num_parameters"], row.label, row) for row in (best, *tied) if row.cost["num_parameters"]]
    smallest = min(sizes, default=(None, "", best))[2]
    if smallest is best:
        return text + ("; no smaller model is as good as far as this set can tell" if tied else "")
    return f"{text}. Not detectably worse and smaller: {clean(smallest.label)}: {list_costs(smallest, board)}"


def list_costs(row: Row, board: Board) -> str:
    cost = row.cost
    # Models of masks of volumes are timed on one patch.
    volume = "patch" if "boundaries" in board.facts else "volume"
    image = volume if board.facts.get("dims") == 3 else "image"
    parts = [
        (f"{amount(cost['num_parameters'])} parameters", cost["num_parameters"]),
        (f"{milliseconds(cost['latency_seconds'])} per {image}", cost["latency_seconds"]),
        (f"{amount(cost['peak_memory_bytes'], 'B')} peak memory", cost["peak_memory_bytes"]),
        (f"{format_rounded(cost['train_seconds'], 0)} s of training", cost["train_seconds"]),
    ]
    return ", ".join(text for text, value in parts if value is not None) or "not measured"


def list_warnings(board: Board) -> list[str]:
    """Everything that changes how the answer is read, each once, the gravest first."""
    shortcuts = {f"{clean(name)} alone predicts the label": area for name, area in find_shortcuts(board)}
    lines = find_warnings(board)
    lines += [
        f"{claim} of these images: AUROC {number(area, 2)} on other patients" for claim, area in shortcuts.items()
    ]
    test = board.facts["splits"]["test"]
    if test["patients"] < FEW_PATIENTS:
        lines.append(f"few {plural_of(case_name(board))}: {test['patients']} in test")
    if board.init == "random" and any(not row.baseline for row in board.rows):
        lines.append("random init: pretrained models may rank otherwise")
    lines += optimism_statements(board)
    issues = map(clean, board.facts["known_issues"])
    lines += [issue for issue in issues if not issue.startswith(tuple(shortcuts))]  # the audit's claim, measured above
    return list(dict.fromkeys(map(shorten_line, lines)))

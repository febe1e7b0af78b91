"""The answer of a board in at most three lines: who wins, what would change it, and warnings."""

from __future__ import annotations

from collections.abc import Sequence

from zoo.errors import clean, plural_of
from zoo.leaderboard.boards import Board
from zoo.leaderboard.formatting import number, share, with_interval
from zoo.leaderboard.prevalence import find_prevalence_shift
from zoo.leaderboard.significance import NO_OTHER_ROW, ONE_SEED
from zoo.report.reasons import reason_text
from zoo.report.statements import (
    case_name,
    directions,
    find_unbeaten_baselines,
    has_missing_weights,
    no_label_statement,
    optimism_statements,
    rank_fault_statements,
    shared_pretraining,
)
from zoo.report.text import join_names

MAX_NAMES = 3  # models named in one sentence; the others are counted
MAX_WARNINGS = 4
SETTLED = 0.05  # a winner that changes in fewer resamples looks certain to a reader
# What to do if no row could be ranked, by the reason.
ADVICE = {
    ONE_SEED: "To rank models, run more seeds: --seeds 5.",
    NO_OTHER_ROW: "To rank models, run several on the same data with at least 2 seeds each.",
}


def summarize_board(board: Board) -> list[str]:
    """The lines between the title and the table; a line with nothing to say is left out."""
    return [line for line in (answer(board), outlook(board), warning(board)) if line]


def answer(board: Board) -> str:
    """Which model is best, or why none is."""
    models = [row for row in board.rows if not row.baseline]
    metric, tests = clean(board.primary_metric), board.comparisons
    better, worse = directions(board)
    if board.is_control:
        return "No winner: the labels of train and val were shuffled."
    if not models:
        return "No winner: only baselines have finished."
    if all(row.scores.get(board.primary_metric) is None for row in models):
        return "No winner: no model has a score."
    baselines, best = find_unbeaten_baselines(board)
    if baselines:
        names = " and ".join(f"{clean(row.label)} ({number(value)})" for row, value in baselines)
        plural = "s" * (len(baselines) != 1)
        return f"No winner: no model scores {better} than the baseline{plural} {names}; best {metric}: {number(best)}."
    if tests.winner is None and len(models) == 1:
        score = with_interval(models[0].scores.get(board.primary_metric))
        return f"No ranking: {clean(models[0].label)} is the only model, {metric} {score}."
    if tests.winner is None and board.cases and not any(each.suffice for each in board.cases):
        return f"No winner: {no_label_statement(board)}."
    if tests.winner is None:
        reasons = [reason_text(tests.unranked[i] or "") for i, row in enumerate(board.rows) if not row.baseline]
        listed = "; ".join(clean(reason) for reason in dict.fromkeys(reasons))
        return f"No winner: {listed}."
    winner = board.rows[tests.winner]
    name, score = clean(winner.label), with_interval(winner.scores.get(board.primary_metric))
    tied = board.tied_with(tests.winner)
    if tied:
        return f"No clear winner: {name} has the best {metric}, {score}, not detectably better than {list_some(tied)}."
    return f"Winner: {name}, {metric} {score}; every other ranked model scores detectably {worse}."


def outlook(board: Board) -> str:
    """What would change the answer: other patients, other seeds, or more of either."""
    tests, case = board.comparisons, case_name(board)
    if board.is_control or find_unbeaten_baselines(board)[0]:
        return ""
    if tests.winner is None:
        return next((ADVICE[reason] for reason in tests.unranked if isinstance(reason, str) and reason in ADVICE), "")
    lines = stability(board)
    tied = tests.tied_with(tests.winner)
    pair = tests.find(tests.winner, tied[0]) if tied else None
    if pair is not None and pair.difference:
        rival = clean(board.rows[tied[0]].label)
        more = f"About {pair.patients_needed} test {plural_of(case)}"
        needed = "More seeds" if pair.patients_needed is None else more
        lines.append(f"{needed} would be needed to separate it from {rival}.")
    return " ".join(lines)


def stability(board: Board) -> list[str]:
    """How often another model comes first in resamples, and why a tie can look settled in them.

    Each share keeps the other source of variation as it was. The test adds both, uses Student's t, and corrects for the
    number of pairs.
    """
    tests = board.comparisons
    line = f"Another model comes first in {share(tests.patients_change_winner)} of resampled test sets"
    seeded = any(board.rank(place) is not None and not row.deterministic for place, row in enumerate(board.rows))
    line += f" and in {share(tests.seeds_change_winner)} of redrawn seeds." if seeded else "."
    most = max(tests.patients_change_winner or 0.0, tests.seeds_change_winner or 0.0)
    reasons = ["counts both kinds of chance together", "allows for few seeds"] if seeded else []
    reasons += [f"corrects for {len(tests.pairs)} comparisons"] if len(tests.pairs) > 1 else []
    if most >= SETTLED or not reasons or tests.winner is None or not tests.tied_with(tests.winner):
        return [line]
    return [line, f"Coming first is not a proven difference: the test also {join_names(reasons)}."]


def warning(board: Board) -> str:
    """The facts that change how the table is read, the gravest first."""
    parts = warnings(board)
    if not parts:
        return ""
    more = len(parts) - MAX_WARNINGS
    return f"Warning: {'; '.join(parts[:MAX_WARNINGS])}" + (f"; and {more} more" if more > 0 else "") + "."


def warnings(board: Board) -> list[str]:
    """The warnings of `find_warnings`, and counts of what is listed below the board."""
    parts = find_warnings(board)
    parts += ["some intervals are too narrow"] if optimism_statements(board) else []
    issues = len(board.facts["known_issues"])
    parts += [f"{issues} known issue{'s' * (issues != 1)} of the dataset"] if issues else []
    return parts


def find_warnings(board: Board) -> list[str]:
    """The facts about the runs and the test set that change how the board is read, the gravest first."""
    models = [row for row in board.rows if not row.baseline]
    parts = [
        f"CONTROL FAILED for {clean(verdict.model)}, which suggests a leak of test labels"
        for verdict in board.controls
        if verdict.passed is False
    ]
    if board.facts["synthetic"]:
        parts.append("synthetic data, so the numbers say nothing about patients")
    elif board.demonstration:
        parts.append("demonstration recipe, so the numbers say nothing about patients")
    leaks = [d.detail[0] for row in models for d in row.deviations if d.kind == "leak-allowed"]
    parts += [f"the audit refused this dataset ({clean(reason)})" for reason in dict.fromkeys(leaks)]
    seen = [row.label for row in models if shared_pretraining(row.pretraining, board)]
    parts += [f"pretrained on images of this dataset: {list_some(seen)}"] if seen else []
    beaten = bool(find_unbeaten_baselines(board)[0])  # the answer already reports it
    degenerate = [row.label for row in models if row.degenerate and not beaten]
    parts += [f"no better than the constant predictor: {list_some(degenerate)}"] if degenerate else []
    parts += ["no pretrained weights were found"] if has_missing_weights(board) else []
    incomplete = [
        f"{row.label} {row.coverage[0]} of {row.coverage[1]}" for row in models if is_incomplete(row.coverage)
    ]
    parts += [f"runs that count: {list_some(incomplete)}"] if incomplete else []
    parts += rank_fault_statements(board)
    if board.labels:
        rare = [each.label for each in board.cases if not each.suffice]
        parts.append(
            f"{len(rare)} of {len(board.cases)} labels do not count, for too few "
            f"{plural_of(case_name(board))}: {list_some(rare)}"
        )
    if shift := find_prevalence_shift(board):
        parts.append(
            f"{clean(shift.label)} is in {share(shift.val)} of val and {share(shift.test)} of test, so thresholds and "
            "calibration from val may not fit"
        )
    if not board.facts["has_patients"]:
        parts.append("patients unknown, so images count as independent")
    uses = board.num_configurations  # the best of many looks better than it is
    parts += [f"{uses} configurations were scored on this test set"] if uses > len(models) else []
    return parts


def is_incomplete(coverage: tuple[int, int]) -> bool:
    return coverage[0] < coverage[1]


def list_some(names: Sequence[str]) -> str:
    """List the first names and count the others."""
    more = len(names) - MAX_NAMES
    return ", ".join(map(clean, names[:MAX_NAMES])) + (f" and {more} more" if more > 0 else "")

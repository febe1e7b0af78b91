"""From stored results to boards, to two of their rows side by side, and to one order over several datasets."""

from zoo.leaderboard.across import Across, find_across
from zoo.leaderboard.comparison import Difference
from zoo.leaderboard.controls import SCORED, is_baseline
from zoo.leaderboard.pairing import BY_INFLUENCE, SINGLE_RUNS, Contrast, SingleRuns, compare_models, select_results
from zoo.leaderboard.ranking import SECTIONS, Board, Row, build_leaderboard

__all__ = [
    "BY_INFLUENCE",
    "SCORED",
    "SECTIONS",
    "SINGLE_RUNS",
    "Across",
    "Board",
    "Contrast",
    "Difference",
    "Row",
    "SingleRuns",
    "build_leaderboard",
    "compare_models",
    "find_across",
    "is_baseline",
    "select_results",
]

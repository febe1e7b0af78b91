"""Compare each model's score on its own test split with its score on another dataset."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from zoo.evaluation.methods import IntervalMethod
from zoo.evaluation.reasons import Reason
from zoo.evaluation.values import Score
from zoo.specs.section import Section
from zoo.statistics.intervals import independent_difference

NO_RUN = Score(value=None, reason=Reason("not-run"))
COLUMNS = ("model", "at home", "there", "drop")


@dataclass(frozen=True, kw_only=True)
class TestedTwice:
    """The scores of one row on the test split of its training dataset and on another dataset."""

    label: str
    home: Score
    there: Score
    seeds: tuple[tuple[int, ...], tuple[int, ...]]  # at home, there


def build_section(rows: Sequence[TestedTwice], metric: str, datasets: tuple[str, str], higher: bool) -> Section:
    """Build the section `external`: one line per model with both scores and the drop."""
    home, there = datasets
    return Section(
        name="external",
        title=f"{metric} at home ({home}) and there ({there})",
        columns=COLUMNS,
        rows=tuple((row.label, row.home, row.there, find_drop(row.home, row.there, higher)) for row in rows),
        notes=(
            f"drop: {'home less there' if higher else 'there less home'}, so above 0 is worse there; an interval that "
            "contains 0 shows no drop",
            "interval of the drop: 95 %, MOVER of the two intervals, because the patients differ",
            *(note for row in rows for note in seed_notes(row)),
        ),
        always=True,
    )


def find_drop(home: Score, there: Score, higher: bool) -> Score:
    """How much worse the score is there, with the interval of a difference of independent samples."""
    better, worse = (home, there) if higher else (there, home)
    if better.value is None or worse.value is None:
        return Score(value=None, reason=home.reason or there.reason)
    drop = Score(value=better.value - worse.value, reason=home.reason or there.reason)
    if better.low is None or better.high is None or worse.low is None or worse.high is None:
        return drop
    bounds = (better.low, better.high), (worse.low, worse.high)
    low, high, _ = independent_difference(better.value, worse.value, *bounds)
    with_seeds = any(score.method and score.method.with_seeds for score in (home, there))
    return replace(drop, low=low, high=high, method=IntervalMethod(code="mover", with_seeds=with_seeds))


def seed_notes(row: TestedTwice) -> list[str]:
    """The seeds of a row that was not tested with the same seeds on both datasets."""
    home, there = row.seeds
    if home == there or not (home and there):
        return []
    listed = (", ".join(map(str, seeds)) for seeds in (home, there))
    return ["{}: seeds {} at home, {} there".format(row.label, *listed)]

"""Test the order of a board's rows: pairs, ranks with ties, and how stable the winner is.

A pure function of arrays. Pairs are tested by `zoo.statistics.pairs.compare_pairs`; see docs/statistics.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from zoo.evaluation.evidence import Evidence
from zoo.evaluation.reasons import Reason
from zoo.statistics.datasets import DatasetSamples, resample_scores
from zoo.statistics.means import exact_mean, rounded
from zoo.statistics.pairs import (
    PairwiseTests,
    compare_pairs,
    detectable_difference,
    difference_intervals,
    find_better,
    patients_needed,
    rank_with_ties,
)

RESAMPLING_SEED = 20_250_102
MIN_SEEDS = 2
# Reasons why a row has no rank.
ONE_SEED, NO_OTHER_ROW = "one seed is never ranked", "no other row to rank it against"
OptionalBounds = tuple[float | None, float | None]


@dataclass(frozen=True, kw_only=True)
class Difference:
    """The tested difference of two rows, given by position: the metric of `first` minus that of `second`."""

    first: int
    second: int
    difference: float
    low: float  # 95 %, of this pair alone
    high: float
    p: float
    p_holm: float  # over all pairs of the board
    df: float | None  # None: no variance
    patient_variance: float
    seed_variance: float
    # detectable with 80 % power; None: larger than the metric can differ, or no variance
    detectable: float | None
    patients_needed: int | None  # for 80 % power; None: seed variance alone prevents it, or patients add none
    winner: int | None  # the better position after Holm's correction; None: no detectable difference

    @property
    def variance(self) -> float:
        return self.patient_variance + self.seed_variance


@dataclass(frozen=True, kw_only=True)
class Comparisons:
    """The tests of all rows, by position; without pairs if nothing could be tested."""

    ranks: tuple[int | None, ...] = ()
    unranked: tuple[Reason | str | None, ...] = ()  # why a row has no rank
    pairs: tuple[Difference, ...] = ()
    num_patients: int = 0
    detectable: float | None = None  # median over pairs; None: larger than the metric can differ
    widest: float | None = None  # the largest possible difference of the metric; None: unbounded
    winner: int | None = None  # the row with the best score
    patients_change_winner: float | None = None  # share of resampled test sets with another best row
    seeds_change_winner: float | None = None  # share of redrawn seeds with another best row

    def tied_with(self, row: int) -> tuple[int, ...]:
        """The rows without a detectable difference from this one."""
        pairs = [pair for pair in self.pairs if pair.winner is None and row in (pair.first, pair.second)]
        return tuple(pair.second if pair.first == row else pair.first for pair in pairs)

    def find(self, one: int, other: int) -> Difference | None:
        """The pair of two rows in this order, or None."""
        for pair in self.pairs:
            if (pair.first, pair.second) == (one, other):
                return pair
            if (pair.first, pair.second) == (other, one):
                reversed_pair = replace(pair, first=one, second=other, difference=-pair.difference)
                return replace(reversed_pair, low=-pair.high, high=-pair.low)
        return None


def compare_rows(
    evidence: Sequence[Evidence | Reason | str], higher_is_better: bool, bounds: OptionalBounds = (None, None)
) -> Comparisons:
    """Compare all rows that have evidence; for the others, `evidence` has the reason why there is none.

    Rows of one seed are not ranked unless they are deterministic, nor rows tested on other patients than the first.
    `bounds` are those of the metric, and limit the difference.
    """
    reasons: list[Reason | str | None] = [None if isinstance(each, Evidence) else each for each in evidence]
    weighed = {row: each for row, each in enumerate(evidence) if isinstance(each, Evidence)}
    for row, each in weighed.items():
        if len(each.seed_scores) < MIN_SEEDS and not each.deterministic:
            reasons[row] = ONE_SEED
    tested = {row: each for row, each in weighed.items() if reasons[row] is None}
    first = next(iter(tested.values()), None)
    for row, each in tested.items():
        if first is not None and not np.array_equal(each.patients, first.patients):
            reasons[row] = "not tested on the patients of the rows above"
    tested = {row: each for row, each in tested.items() if reasons[row] is None}
    rows = tuple(tested)
    if first is None or len(rows) < 2:
        alone = dict.fromkeys(rows, NO_OTHER_ROW)
        unranked = tuple(alone.get(row, reason) for row, reason in enumerate(reasons))
        return Comparisons(ranks=(None,) * len(unranked), unranked=unranked)
    sign = 1.0 if higher_is_better else -1.0
    influence = np.stack([sign * each.influence for each in tested.values()])
    seed_scores = [sign * each.seed_scores for each in tested.values()]
    pairs = compare_pairs(influence, seed_scores)
    better = find_better(pairs, len(rows))
    ranks = dict(zip(rows, rank_with_ties(better).tolist(), strict=True))
    leader = int(np.argmax(rounded(np.array([exact_mean(scores) for scores in seed_scores]))))
    measured = DatasetSamples(influence=influence, seed_scores=seed_scores)
    widest = widest_difference(bounds)
    return Comparisons(
        ranks=tuple(ranks.get(row) for row in range(len(evidence))),
        unranked=tuple(reasons),
        pairs=describe_pairs(pairs, rows, sign, len(first.patients), better, widest),
        num_patients=len(first.patients),
        detectable=within(np.median(detectable_difference(pairs)), widest),
        widest=widest,
        winner=rows[leader],
        patients_change_winner=winner_changes(measured, leader, patients=True),
        seeds_change_winner=winner_changes(measured, leader, seeds=True),
    )


def widest_difference(bounds: OptionalBounds) -> float | None:
    low, high = bounds
    return None if low is None or high is None else high - low


def within(detectable: float, widest: float | None) -> float | None:
    """The detectable difference; None if it exceeds the largest possible one, or if nothing varies."""
    possible = detectable > 0 and (widest is None or detectable <= widest)
    return float(detectable) if possible else None


def describe_pairs(
    pairs: PairwiseTests, rows: Sequence[int], sign: float, num_patients: int, better: np.ndarray, widest: float | None
) -> tuple[Difference, ...]:
    """One record per pair, in the metric's own direction."""
    low, high = difference_intervals(pairs)
    if sign < 0:
        low, high = -high, -low
    detectable, needed = detectable_difference(pairs), patients_needed(pairs, num_patients)
    differences = []
    for i in range(len(pairs)):
        a, b = int(pairs.first[i]), int(pairs.second[i])
        winner = rows[a] if better[a, b] else rows[b] if better[b, a] else None
        differences.append(
            Difference(
                first=rows[a],
                second=rows[b],
                difference=float(sign * pairs.difference[i]),
                low=float(low[i]),
                high=float(high[i]),
                p=float(pairs.p[i]),
                p_holm=float(pairs.p_holm[i]),
                df=float(pairs.df[i]) if np.isfinite(pairs.df[i]) else None,
                patient_variance=float(pairs.patient_variance[i]),
                seed_variance=float(pairs.seed_variance[i]),
                detectable=within(detectable[i], widest),
                patients_needed=int(needed[i]) if 0 < needed[i] < np.inf else None,
                winner=winner,
            )
        )
    return tuple(differences)


def winner_changes(measured: DatasetSamples, leader: int, *, patients: bool = False, seeds: bool = False) -> float:
    """Share of resamples in which another model leads; a tie counts half.

    Either patients or seeds are resampled; the other source of variation is kept.
    """
    scores = rounded(resample_scores(measured, (RESAMPLING_SEED,), patients=patients, seeds=seeds))
    others = np.delete(scores, leader, axis=1).max(axis=1)
    return float((others > scores[:, leader]).mean() + 0.5 * (others == scores[:, leader]).mean())

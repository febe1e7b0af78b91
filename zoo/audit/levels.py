"""Test whether groups of files that differ in levels differ in labels too: then levels alone predict the label."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from zoo.arrays import Array
from zoo.data.opening import OpenDataset
from zoo.specs.dataset import LEVELS_BY
from zoo.tasks.kinds import REGRESSION

MAX_P = 0.01  # over all labels together
MIN_STRENGTH = 0.1  # of Cramer's V, or of the correlation ratio: in a large set p alone finds trifles


@dataclass(frozen=True, eq=False)
class Association:
    """A fact that parts files into groups of different levels, and the label that goes with it."""

    fact: str  # "rescaling", "PhotometricInterpretation"
    label: str  # of several labels an image may have; else "the label"
    group: str  # the smallest one
    rows: Array  # its images
    p_value: float


def level_columns(source: OpenDataset) -> list[str]:
    """The columns of groups whose levels differ."""
    return [str(column) for column in source.samples.table.columns if str(column).startswith(LEVELS_BY)]


def find_associations(source: OpenDataset) -> Iterator[Association]:
    """The facts whose groups differ in a label by more than chance; of several labels, the one of the least p.

    An image counts once for each patient, group and answer, so that slices of one patient are no evidence of their own.
    """
    for column in level_columns(source):
        groups = source.samples.table[column].astype(str).to_numpy().astype(np.str_)
        tested = [(*test_independence(source, groups, answers), label) for label, answers in answers_of(source)]
        p_value, strength, label = min(tested)
        if p_value * len(tested) < MAX_P and strength >= MIN_STRENGTH:
            names, counts = np.unique(groups[groups != ""], return_counts=True)
            group = str(names[counts.argmin()])
            yield Association(column.removeprefix(LEVELS_BY), label, group, np.flatnonzero(groups == group), p_value)


def answers_of(source: OpenDataset) -> Iterator[tuple[str, Array]]:
    """Yield each label's name and its targets, (N,) float with NaN for unknown."""
    targets = np.asarray(source.samples.targets, dtype=float)
    if targets.ndim == 1:
        yield "the label", targets
        return
    for number, label in enumerate(source.spec.labels):
        yield repr(label), targets[:, number]


def test_independence(source: OpenDataset, groups: Array, answers: Array) -> tuple[float, float]:
    """The p-value and strength of the association of groups with answers; 1 and 0 where there is nothing to compare."""
    known = np.isfinite(answers) & (groups != "")
    counted = np.unique(np.array([source.patients[known], groups[known], answers[known].astype(str)]), axis=1)
    of_group = np.unique(counted[1], return_inverse=True)[1] if counted.size else np.zeros(0, int)
    values = counted[2].astype(float)
    if len(np.unique(of_group)) < 2 or len(np.unique(values)) < 2:
        return 1.0, 0.0
    if source.task == REGRESSION:
        return compare_quantities(of_group, values)
    return compare_counts(of_group, np.unique(values, return_inverse=True)[1])


def compare_counts(groups: Array, classes: Array) -> tuple[float, float]:
    """Fisher's exact test of two groups and two classes, else the chi-squared test; and Cramer's V."""
    from scipy.stats import chi2_contingency, fisher_exact
    from scipy.stats.contingency import association

    counts = np.zeros((groups.max() + 1, classes.max() + 1), int)
    np.add.at(counts, (groups, classes), 1)
    p_value = fisher_exact(counts)[1] if counts.shape == (2, 2) else chi2_contingency(counts)[1]
    return float(p_value), float(association(counts, method="cramer"))


def compare_quantities(groups: Array, values: Array) -> tuple[float, float]:
    """The Kruskal-Wallis test; and the correlation ratio of ranks."""
    from scipy.stats import kruskal, rankdata

    p_value = kruskal(*(values[groups == group] for group in np.unique(groups)))[1]
    ranks = rankdata(values)
    means = (np.bincount(groups, ranks) / np.bincount(groups))[groups]
    return float(p_value), float(means.std() / ranks.std())

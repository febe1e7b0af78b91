"""Test whether files stored in different ways also have different labels: then levels alone predict the label."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from zoo.arrays import Array
from zoo.data.opening import OpenDataset
from zoo.specs.dataset import LEVELS_BY

MAX_P = 0.01  # Bonferroni-corrected over the labels
MIN_STRENGTH = 0.1  # Cramer's V or correlation ratio: in large datasets p alone reports negligible effects


@dataclass(frozen=True, eq=False)
class Association:
    """A property of files that determines their levels, and the label associated with it."""

    fact: str  # "rescaling", "PhotometricInterpretation"
    label: str  # multi-label: the quoted label; else "the label"
    group: str  # the smallest group of files
    rows: Array  # (n,) its images
    p_value: float


def level_columns(source: OpenDataset) -> list[str]:
    """Return the columns that group files by how their levels are stored."""
    return [str(column) for column in source.samples.table.columns if str(column).startswith(LEVELS_BY)]


def find_associations(source: OpenDataset) -> Iterator[Association]:
    """Yield file properties associated with a label (multi-label: the label with the smallest p).

    Each combination of patient, group and target counts once, so that slices of one patient are not independent cases.
    """
    for column in level_columns(source):
        groups = source.samples.table[column].astype(str).to_numpy().astype(np.str_)
        tests = [(*test_independence(source, groups, targets), label) for label, targets in list_targets(source)]
        if not tests:
            return
        p_value, strength, label = min(tests)
        if p_value * len(tests) < MAX_P and strength >= MIN_STRENGTH:
            names, counts = np.unique(groups[groups != ""], return_counts=True)
            group = str(names[counts.argmin()])
            yield Association(column.removeprefix(LEVELS_BY), label, group, np.flatnonzero(groups == group), p_value)


def list_targets(source: OpenDataset) -> Iterator[tuple[str, Array]]:
    """Yield each label's name and targets, (N,) float with NaN for unknown."""
    targets = np.asarray(source.samples.targets)
    if targets.ndim == 1:
        yield "the label", targets.astype(float)
    elif source.task.labeled:
        for number, label in enumerate(source.spec.labels):
            yield repr(label), targets[:, number]


def test_independence(source: OpenDataset, groups: Array, targets: Array) -> tuple[float, float]:
    """Return the p-value and strength of the association of groups with targets; (1, 0) if either is constant."""
    known = np.isfinite(targets) & (groups != "")
    cases = np.unique(np.array([source.patients[known], groups[known], targets[known].astype(str)]), axis=1)
    group_index = np.unique(cases[1], return_inverse=True)[1] if cases.size else np.zeros(0, int)
    values = cases[2].astype(float)
    if len(np.unique(group_index)) < 2 or len(np.unique(values)) < 2:
        return 1.0, 0.0
    if not source.task.labeled:
        return compare_quantities(group_index, values)
    return compare_counts(group_index, np.unique(values, return_inverse=True)[1])


def compare_counts(groups: Array, classes: Array) -> tuple[float, float]:
    """p-value (Fisher's exact test for 2 x 2, else chi-squared test) and Cramer's V."""
    from scipy.stats import chi2_contingency, fisher_exact
    from scipy.stats.contingency import association

    counts = np.zeros((groups.max() + 1, classes.max() + 1), int)
    np.add.at(counts, (groups, classes), 1)
    p_value = fisher_exact(counts)[1] if counts.shape == (2, 2) else chi2_contingency(counts)[1]
    return float(p_value), float(association(counts, method="cramer"))


def compare_quantities(groups: Array, values: Array) -> tuple[float, float]:
    """p-value of the Kruskal-Wallis test, and the correlation ratio of ranks."""
    from scipy.stats import kruskal, rankdata

    p_value = kruskal(*(values[groups == group] for group in np.unique(groups)))[1]
    ranks = rankdata(values)
    means = (np.bincount(groups, ranks) / np.bincount(groups))[groups]
    return float(p_value), float(means.std() / ranks.std())

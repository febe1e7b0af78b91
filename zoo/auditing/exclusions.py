"""Choose the smallest set of images to leave out so that an official split no longer leaks or conflicts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from zoo.auditing.copies import conflicting_pairs
from zoo.auditing.findings import and_more, name_row
from zoo.data.fingerprints import Fingerprints
from zoo.data.opening import OpenDataset
from zoo.data.splits import connected_groups, drop_copies, look_alikes


@dataclass(frozen=True, kw_only=True, eq=False)
class Exclusions:
    """Sample ids to leave out, and the reasons."""

    sample_ids: frozenset[str]
    notes: tuple[str, ...]


def choose_exclusions(source: OpenDataset, fingerprints: Fingerprints) -> Exclusions:
    """Choose both images of every label conflict (test included), then the images that `--drop-leaks` removes.

    Both, because it is unknown which of the two labels is wrong. Copies of test leave train and val; copies of val
    leave train. Copies within a split, blank and unusually sized images stay: they are warnings only.
    """
    split_of = np.where(source.splits == "", "no split", source.splits)
    pairs = list(conflicting_pairs(source, split_of, fingerprints))
    rows = np.unique(np.array(pairs, dtype=int))
    notes = []
    if pairs:
        a, b = pairs[0]
        tested = int((source.splits[rows] == "test").sum())
        scores = "; scores are not those of the official test split" if tested else ""
        notes.append(
            "left out because of conflicting labels: "
            f"{name_row(source, split_of, a)} and {name_row(source, split_of, b)}"
            + and_more(len(pairs) - 1, "pair")
            + f", {len(rows)} images, {tested} of them in test{scores}"
        )
    remaining = source.splits.copy()
    remaining[rows] = ""
    if (remaining == "test").any():
        groups, _ = connected_groups(source, fingerprints)
        without_copies = drop_copies(remaining, groups, look_alikes(source, fingerprints), notes)
        rows = np.union1d(rows, np.flatnonzero((without_copies == "") & (remaining != "")))
    return Exclusions(sample_ids=frozenset(source.sample_ids[rows].tolist()), notes=tuple(notes))

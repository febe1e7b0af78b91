"""From an audited dataset to the images without which its own split can be trusted: the fewest that have to go."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from zoo.audit.leaks import and_more, called, conflicting_pairs
from zoo.data.fingerprints import Fingerprints
from zoo.data.opening import OpenDataset
from zoo.data.splits import connected_groups, drop_copies, look_alikes


@dataclass(frozen=True, kw_only=True, eq=False)
class Exclusions:
    """What to leave out, by sample id, and why."""

    sample_ids: frozenset[str]
    notes: tuple[str, ...]


def choose_exclusions(source: OpenDataset, fingerprints: Fingerprints) -> Exclusions:
    """Both images of every conflict of labels, of test too; then, of train and val, what `--drop-leaks` leaves out.

    One of two labels is wrong, and nobody here knows which. Of an official split train and val give way to test, train
    to val. Copies within one split, blank and odd images are not touched: they are no reason for a refusal.
    """
    given = np.where(source.splits == "", "no split", source.splits)
    pairs = list(conflicting_pairs(source, given, fingerprints))
    rows = np.unique(np.array(pairs, dtype=int))
    notes = []
    if pairs:
        a, b = pairs[0]
        tested = int((source.splits[rows] == "test").sum())
        scores = "; scores are no longer those of the official test split" if tested else ""
        notes.append(
            f"left out as one image with two labels: {called(source, given, a)} and {called(source, given, b)}"
            + and_more(len(pairs) - 1, "pair")
            + f", {len(rows)} images, {tested} of them of test{scores}"
        )
    kept = source.splits.copy()
    kept[rows] = ""
    if (kept == "test").any():
        left = drop_copies(kept, connected_groups(source, fingerprints)[0], look_alikes(source, fingerprints), notes)
        rows = np.union1d(rows, np.flatnonzero((left == "") & (kept != "")))
    return Exclusions(sample_ids=frozenset(source.sample_ids[rows].tolist()), notes=tuple(notes))

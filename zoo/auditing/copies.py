"""Find copies: identical images, near-duplicates, equal masks, and copies whose labels differ."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from itertools import combinations

import numpy as np

from zoo.arrays import Array
from zoo.auditing.findings import (
    LEAK_FIX,
    Finding,
    Verdict,
    and_more,
    describe_label,
    first_across,
    name_row,
    name_samples,
    named_pairs,
    sorted_splits,
)
from zoo.auditing.scope import why_no_near_duplicates
from zoo.data.fingerprints import Fingerprints
from zoo.data.opening import OpenDataset
from zoo.data.splits import Split

MAX_ALIKE = 0.005  # share of test images with a near-duplicate outside test; above it the split is refused
FIX_CONFLICT = (
    "`zoo audit --fix OUT.toml` leaves both out; to accept the pair, list it under `known_conflicts` in dataset.toml"
)


def find_copy_groups(fingerprints: Fingerprints, split_of: Array) -> Iterator[Array]:
    """Yield the rows of each group of identical images; blank images and images without a split are ignored."""
    rows = np.flatnonzero((split_of != "") & ~fingerprints.blank)
    order = rows[np.argsort(fingerprints.pixels[rows], kind="stable")]
    edges = np.flatnonzero(fingerprints.pixels[order][1:] != fingerprints.pixels[order][:-1]) + 1
    return (group for group in np.split(order, edges) if len(group) > 1)


def conflicting_pairs(source: OpenDataset, split_of: Array, fingerprints: Fingerprints) -> Iterator[tuple[int, int]]:
    """Yield pairs of rows with identical pixels but different labels, except `known_conflicts`."""
    accepted = {frozenset(pair) for pair in source.spec.known_conflicts}
    targets = np.asarray(source.samples.targets, dtype=float).reshape(len(split_of), -1)
    for group in find_copy_groups(fingerprints, split_of):
        for a, b in combinations(group.tolist(), 2):
            same = np.array_equal(targets[a], targets[b], equal_nan=True)
            if not same and frozenset((str(source.sample_ids[a]), str(source.sample_ids[b]))) not in accepted:
                yield a, b


def find_label_conflicts(source: OpenDataset, split_of: Array, fingerprints: Fingerprints) -> Iterator[Finding]:
    pairs_of: dict[Verdict, list[tuple[int, int]]] = {"refuse": [], "warn": []}
    for a, b in conflicting_pairs(source, split_of, fingerprints):
        pairs_of["refuse" if split_of[a] != split_of[b] else "warn"].append((a, b))
    for verdict, pairs in pairs_of.items():
        if pairs:
            (a, b), rows = pairs[0], [row for pair in pairs for row in pair]
            yield Finding(
                check="label-conflict",
                verdict=verdict,
                splits=sorted_splits(split_of[rows]),
                samples=name_samples(source, rows),
                count=len(pairs),
                message=f"{name_row(source, split_of, a)} and {name_row(source, split_of, b)} are the same image with "
                f"different labels, {describe_label(source, a)} and {describe_label(source, b)}"
                + and_more(len(pairs) - 1, "pair"),
                fix=FIX_CONFLICT,
                pairs=named_pairs(source, pairs),
            )


def find_identical(source: OpenDataset, split_of: Array, fingerprints: Fingerprints) -> Iterator[Finding]:
    """Report identical images in two splits and within one split."""
    across: list[Array] = []
    within: list[Array] = []
    for group in find_copy_groups(fingerprints, split_of):
        (across if len(set(split_of[group])) > 1 else within).append(group)
    if across:
        a, b = first_across(split_of, across[0])
        yield Finding(
            check="identical",
            verdict="refuse",
            splits=sorted_splits(split_of[np.concatenate(across)]),
            samples=name_samples(source, np.concatenate(across)),
            count=sum(map(len, across)),
            message=f"{name_row(source, split_of, a)} and {name_row(source, split_of, b)} are the same image"
            + and_more(len(across) - 1, "group"),
            fix=LEAK_FIX,
            pairs=named_pairs(source, [first_across(split_of, group) for group in across]),
        )
    if within:
        group = within[0]
        yield Finding(
            check="identical-within",
            verdict="warn",
            splits=sorted_splits(split_of[np.concatenate(within)]),
            samples=name_samples(source, np.concatenate(within)),
            count=sum(map(len, within)) - len(within),
            message=f"{name_row(source, split_of, group[0])} and {source.sample_ids[group[1]]} are the same image"
            + and_more(len(within) - 1, "group"),
            pairs=named_pairs(source, [(int(group[0]), int(group[1])) for group in within]),
        )


def find_near_duplicates(source: OpenDataset, split: Split, fingerprints: Fingerprints) -> Iterator[Finding]:
    """Report near-duplicates across splits (pHash within 8 of 64 bits, then correlation of at least .98).

    A split drawn by zoo has them only if they chain too many images into one group; then they are a warning.
    """
    split_of = split.folds[0]
    if why_no_near_duplicates(source, fingerprints) or not len(fingerprints.alike):
        return
    pairs = fingerprints.alike[(split_of[fingerprints.alike] != "").all(axis=1)]
    pairs = pairs[split_of[pairs[:, 0]] != split_of[pairs[:, 1]]]
    if not len(pairs):
        return
    tested = np.unique(pairs[split_of[pairs] == "test"])
    share = len(tested) / max(1, int((split_of == "test").sum()))
    a, b = pairs[0]
    yield Finding(
        check="near-duplicate",
        verdict="refuse" if share > MAX_ALIKE and split.origin == "official" else "warn",
        splits=sorted_splits(split_of[pairs].ravel()),
        samples=name_samples(source, pairs.ravel()),
        count=len(pairs),
        message=f"{name_row(source, split_of, a)} and {name_row(source, split_of, b)} are near-duplicates"
        + and_more(len(pairs) - 1, "pair")
        + f"; {share:.1%} of the test images have a near-duplicate in another split",
        fix=LEAK_FIX,
        pairs=named_pairs(source, pairs.tolist()),
    )


def find_copied_masks(source: OpenDataset, split_of: Array, fingerprints: Fingerprints) -> Iterator[Finding]:
    """Report equal masks of different images of different patients; empty masks are equal anyway."""
    rows_of: dict[str, list[int]] = defaultdict(list)
    for row, digest in enumerate(source.mask_digests):
        if np.any(source.samples.targets[row]) and split_of[row]:
            rows_of[digest].append(row)
    pairs = [
        (rows[0], row)
        for rows in rows_of.values()
        for row in rows[1:]
        if source.patients[row] != source.patients[rows[0]] and fingerprints.pixels[row] != fingerprints.pixels[rows[0]]
    ]
    if pairs:
        (a, b), rows = pairs[0], [row for pair in pairs for row in pair]
        yield Finding(
            check="mask-copied",
            verdict="warn",
            splits=sorted_splits(split_of[rows]),
            samples=name_samples(source, rows),
            count=len(pairs),
            message=f"{name_row(source, split_of, a)} and {name_row(source, split_of, b)} have the same mask, but are "
            "different images" + and_more(len(pairs) - 1, "pair"),
            fix="correct the masks, or leave the images out",
            pairs=named_pairs(source, pairs),
        )

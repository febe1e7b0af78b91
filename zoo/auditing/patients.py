"""Find patients in two splits, and patients spelled in several ways."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator

import numpy as np

from zoo.arrays import Array
from zoo.auditing.findings import (
    LEAK_FIX,
    MOST_NAMED,
    Finding,
    and_more,
    first_across,
    name_row,
    name_samples,
    named_pairs,
    sorted_splits,
)
from zoo.auditing.scope import BY_PLACE
from zoo.data.checks import patient_key
from zoo.data.opening import OpenDataset
from zoo.errors import plural_of
from zoo.sources.listing import one_form
from zoo.specs.dataset import SPLITS

SPELLINGS_SHOWN = 3  # pairs per message


def find_shared_patients(source: OpenDataset, split_of: Array) -> Iterator[Finding]:
    if not source.has_patients:
        return
    rows = np.flatnonzero(split_of != "")
    patients, inverse = np.unique(source.patients[rows], return_inverse=True)
    in_split = np.stack([np.bincount(inverse[split_of[rows] == name], minlength=len(patients)) for name in SPLITS])
    shared = np.flatnonzero((in_split > 0).sum(axis=0) > 1)
    if not len(shared):
        return
    affected = rows[np.isin(inverse, shared)]
    pairs = [first_across(split_of, rows[inverse == patient]) for patient in shared[:MOST_NAMED]]
    a, b = pairs[0]
    word = source.patient_word
    tested = int((in_split[2, shared]).sum())
    yield Finding(
        check="patient",
        verdict="refuse",
        splits=sorted_splits(split_of[affected]),
        samples=name_samples(source, affected),
        count=len(affected),
        message=f"{word} {str(patients[shared[0]])!r} is in two splits ({name_row(source, split_of, a)}, "
        f"{name_row(source, split_of, b)}); in total {len(shared)} of {len(patients)} {plural_of(word)}, "
        f"with {tested} test images",
        fix=LEAK_FIX,
        pairs=named_pairs(source, pairs),
    )


def find_spellings(source: OpenDataset, split_of: Array) -> Iterator[Finding]:
    """Report patients spelled in several ways: equal numbers count as one patient, similar names as several."""
    if not source.has_patients or source.spec.patient in BY_PLACE:
        return
    written = np.array([one_form(str(patient)) for patient in source.samples.table["patient"]])
    first_rows: dict[str, dict[str, int]] = defaultdict(dict)  # folded name -> spelling -> first row
    for row, patient in enumerate(written.tolist()):
        first_rows[fold_name(patient)].setdefault(patient, row)
    groups = [list(spellings.values()) for spellings in first_rows.values() if len(spellings) > 1]
    merged, distinct = (
        [group for group in groups if (len(set(source.patients[group].tolist())) == 1) == is_merged]
        for is_merged in (True, False)
    )
    word = source.patient_word
    if merged:
        what = f"{word} numbers spelled in several ways, each number read as one {word}"
        yield spelling_finding(source, split_of, written, merged, (what, f"spell each {word} in one way"))
    if distinct:
        what = f"{word} names that differ only in case, blanks or leading zeros, read as different {plural_of(word)}"
        yield spelling_finding(source, split_of, written, distinct, (what, f"if two are one {word}, spell them alike"))


def fold_name(patient: str) -> str:
    """Remove case, blanks, separators beside a letter, and leading zeros from a patient's name."""
    text = "".join(patient_key(patient).split()).casefold()
    text = re.sub(r"(?<=[^\W\d_])[-_.]+|[-_.]+(?=[^\W\d_])", "", text)
    return re.sub(r"(?<![\d.])0+(?=\d)", "", text)


def spelling_finding(
    source: OpenDataset, split_of: Array, written: Array, groups: list[list[int]], words: tuple[str, str]
) -> Finding:
    """Build the finding for groups of rows, one row per spelling; `words` is the message's start and the fix."""
    affected = np.flatnonzero(np.isin(written, written[[row for group in groups for row in group]]))
    groups.sort(key=lambda group: len(set(split_of[group])) < 2)  # groups that span splits first
    pairs = [(group[0], next((b for b in group if split_of[b] != split_of[group[0]]), group[1])) for group in groups]
    examples = ", ".join(
        " and ".join(f"{str(written[row])!r} of {name_row(source, split_of, row)}" for row in pair)
        for pair in pairs[:SPELLINGS_SHOWN]
    )
    return Finding(
        check="patient-spelling",
        verdict="warn",
        splits=sorted_splits(split_of[affected]),
        samples=name_samples(source, affected),
        count=len(affected),
        message=f"{words[0]}: {examples}" + and_more(len(pairs) - SPELLINGS_SHOWN, "pair"),
        fix=words[1],
        pairs=named_pairs(source, pairs),
    )

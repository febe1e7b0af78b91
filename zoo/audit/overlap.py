"""Find what a training set and an external test set share: images, look-alikes, patients."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from zoo.arrays import Array
from zoo.audit.external import External, keep
from zoo.audit.leaks import (
    MAX_ALIKE,
    Audit,
    Finding,
    find_identical,
    find_label_conflicts,
    find_odd_images,
    name_samples,
    note,
    worst_first,
)
from zoo.data.checks import patient_key
from zoo.data.fingerprints import FINGERPRINTS_VERSION, Fingerprints, find_alike_across
from zoo.data.opening import OpenDataset
from zoo.data.splits import Split
from zoo.system.files import hash_bytes, keep_arrays, kept_arrays
from zoo.system.progress import Progress

OVERLAP_FIX = "--drop-leaks leaves them out of {}; --allow-leak REASON goes on and stamps every result"
FIX_PATIENTS = "where equal names are other people, say so: --distinct-patients; else "


@dataclass(frozen=True, kw_only=True, eq=False)
class Overlap:
    """Pairs (M, 2): a row of train or val, in any fold, and a row of what is tested on."""

    identical: Array
    alike: Array
    patients: Array  # (K,) names in both
    skipped: str  # why look-alikes were not looked for, or ""


def check_overlap(
    trained: OpenDataset,
    split: Split,
    fingerprints: Fingerprints,
    external: External,
    cache: Path,
    *,
    drop: bool,
    distinct_patients: bool,
    progress: Progress | None = None,
) -> External:
    """The same with its findings; with `drop`, without the images that the models have seen the like of."""
    found = find_overlap(trained, split, fingerprints, external, cache, distinct_patients, progress)
    if drop:
        lost = touched(external, found)
        if lost.any():
            text = f"left out as copies of train or val of {trained.spec.name} (same patient, same pixels or alike)"
            external = keep(external, ~lost, f"{int(lost.sum())} images {text}")
            found = replace(found, identical=found.identical[:0], alike=found.alike[:0], patients=found.patients[:0])
    notes = external.notes
    if distinct_patients and trained.has_patients and external.source.has_patients:
        notes = (*notes, f"equal names of patients in {trained.spec.name} are said to be other people")
    return replace(external, notes=notes, findings=tuple(describe_overlap(trained, external, found, distinct_patients)))


def find_overlap(
    trained: OpenDataset,
    split: Split,
    fingerprints: Fingerprints,
    external: External,
    cache: Path,
    distinct_patients: bool,
    progress: Progress | None,
) -> Overlap:
    tested, others = external.source, external.fingerprints
    seen = np.any([(fold == "train") | (fold == "val") for fold in split.folds], axis=0)
    rows = np.flatnonzero(seen & ~fingerprints.blank)
    theirs = np.flatnonzero(~others.blank)
    first = dict(zip(fingerprints.pixels[rows][::-1].tolist(), rows[::-1].tolist(), strict=True))
    identical = [(first[pixels], row) for row in theirs.tolist() if (pixels := others.pixels[row]) in first]
    alike, skipped = find_alike_kept(trained, fingerprints, tested, others, cache, progress)
    patients: Array = np.array([], dtype=str)
    if trained.has_patients and tested.has_patients and not distinct_patients:
        known = set(map(patient_key, trained.patients[seen].tolist()))
        shared = {name for name in tested.patients.tolist() if patient_key(name) in known}
        patients = np.array(sorted(shared), dtype=str)
    return Overlap(
        identical=np.array(identical, dtype=np.int64).reshape(-1, 2),
        alike=alike[seen[alike[:, 0]]],
        patients=patients,
        skipped=skipped,
    )


def find_alike_kept(
    one: OpenDataset,
    its: Fingerprints,
    other: OpenDataset,
    others: Fingerprints,
    cache: Path,
    progress: Progress | None,
) -> tuple[Array, str]:
    """`find_alike_across`, remembered by what the images of both are."""
    key = hash_bytes(*its.pixels.tolist(), "and", *others.pixels.tolist())
    path = cache / "fingerprints" / f"{key[:20]}-across-v{FINGERPRINTS_VERSION}.npz"
    kept = kept_arrays(path)
    if kept is None or set(kept) != {"alike", "skipped"}:
        alike, skipped = find_alike_across(one, its, other, others, progress)
        keep_arrays(path, alike=alike, skipped=skipped)
        return alike, skipped
    return kept["alike"], str(kept["skipped"])


def touched(external: External, found: Overlap) -> Array:
    """Which images tested on are a copy, look like one, or are of a patient with such an image: bool (n,)."""
    source = external.source
    copies = np.zeros(len(source.sample_ids), bool)
    copies[found.identical[:, 1]] = True
    copies[found.alike[:, 1]] = True
    theirs: Array = np.isin(source.patients, np.concatenate([found.patients, source.patients[copies]]))
    return copies | theirs


def audit_external(dataset: str, external: External) -> Audit:
    """The audit of a pair of datasets."""
    return Audit(dataset=f"{dataset} -> {external.name}", findings=worst_first(external.findings), is_pair=True)


def describe_overlap(
    trained: OpenDataset, external: External, found: Overlap, distinct_patients: bool
) -> Iterator[Finding]:
    tested, fix = external.source, OVERLAP_FIX.format(external.name)
    both = f"{trained.spec.name} (train or val) and {external.name}"
    if len(found.identical):
        a, b = found.identical[0]
        yield Finding(
            check="identical",
            verdict="refuse",
            splits=(),
            samples=name_samples(tested, found.identical[:, 1]),
            count=len(found.identical),
            message=f"{trained.sample_ids[a]} and {tested.sample_ids[b]} are the same image: "
            f"{len(found.identical)} images are in {both}",
            fix=fix,
        )
    if len(found.patients):
        theirs = np.flatnonzero(np.isin(tested.patients, found.patients))
        word = tested.patient_word
        yield Finding(
            check="patient",
            verdict="refuse",
            splits=(),
            samples=name_samples(tested, theirs),
            count=len(theirs),
            message=f"{word} {str(found.patients[0])!r} is in {both}: {len(found.patients)} are, with {len(theirs)} "
            "images tested on",
            fix=FIX_PATIENTS + fix,
        )
    if len(found.alike):
        a, b = found.alike[0]
        tested_rows = np.unique(found.alike[:, 1])
        share = len(tested_rows) / len(tested.sample_ids)
        yield Finding(
            check="near-duplicate",
            verdict="refuse" if share > MAX_ALIKE else "warn",
            splits=(),
            samples=name_samples(tested, tested_rows),
            count=len(found.alike),
            message=f"{trained.sample_ids[a]} and {tested.sample_ids[b]} look alike: {share:.1%} of the images tested "
            f"on have such a neighbour in train or val of {trained.spec.name}",
            fix=fix,
        )
    everywhere = np.full(len(tested.sample_ids), "test")
    yield from find_label_conflicts(tested, everywhere, external.fingerprints)
    yield from find_identical(tested, everywhere, external.fingerprints)
    yield from find_odd_images(tested, external.fingerprints)
    if found.skipped:
        yield note("near-duplicate", f"copies that are not identical were not looked for: {found.skipped}")
    if not distinct_patients and not (trained.has_patients and tested.has_patients):
        yield note("patient", f"no patient key in both: whether a patient is in {both} cannot be known")

"""Find identical images, near-duplicates and patients shared by a training set and an external test set."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from zoo.arrays import Array
from zoo.auditing.copies import MAX_ALIKE, find_identical, find_label_conflicts
from zoo.auditing.external import External, keep
from zoo.auditing.files import find_odd_images
from zoo.auditing.findings import Audit, Finding, name_samples, note, worst_first
from zoo.data.checks import patient_key
from zoo.data.fingerprints import FINGERPRINTS_VERSION, find_alike_across
from zoo.data.lookup import SplitDataset
from zoo.data.opening import OpenDataset
from zoo.errors import plural_of
from zoo.system.files import hash_bytes, load_arrays, save_arrays
from zoo.system.progress import Progress

OVERLAP_FIX = "--drop-leaks removes them from {}; --allow-leak REASON continues and marks every result"
FIX_PATIENTS = "if equal names are different people, add --distinct-patients; else "


@dataclass(frozen=True, kw_only=True, eq=False)
class Overlap:
    """What train and val (in any fold) share with the external test set; pairs are (training row, test row)."""

    identical: Array  # (M, 2)
    alike: Array  # (M, 2) near-duplicates
    patients: Array  # (K,) names in both
    skipped: str  # why near-duplicates were not checked, or ""


@dataclass(frozen=True, kw_only=True, eq=False)
class OverlapRequest:
    """The training set and the external test set to compare."""

    dataset: SplitDataset  # trained on
    external: External
    distinct_patients: bool  # equal patient names in the two are different people
    cache: Path
    progress: Progress | None = None


def check_overlap(request: OverlapRequest, *, drop: bool) -> External:
    """Add the overlap's findings to the external test set; with `drop`, remove overlapping images and patients."""
    trained, external, distinct_patients = request.dataset.source, request.external, request.distinct_patients
    overlap = find_overlap(request)
    if drop:
        overlapping = find_overlapping(external, overlap)
        if overlapping.any():
            text = f"left out as copies of train or val of {trained.spec.name} (same patient, same pixels or alike)"
            external = keep(external, ~overlapping, f"{int(overlapping.sum())} images {text}")
            overlap = replace(
                overlap, identical=overlap.identical[:0], alike=overlap.alike[:0], patients=overlap.patients[:0]
            )
    notes = external.notes
    if distinct_patients and trained.has_patients and external.source.has_patients:
        notes = (
            *notes,
            f"equal patient names in {trained.spec.name} are declared to be different people (--distinct-patients)",
        )
    return replace(
        external, notes=notes, findings=tuple(describe_overlap(trained, external, overlap, distinct_patients))
    )


def find_overlap(request: OverlapRequest) -> Overlap:
    trained, fingerprints = request.dataset.source, request.dataset.fingerprints
    tested, others = request.external.source, request.external.fingerprints
    seen = np.any([(fold == "train") | (fold == "val") for fold in request.dataset.split.folds], axis=0)
    rows = np.flatnonzero(seen & ~fingerprints.blank)
    test_rows = np.flatnonzero(~others.blank)
    first = dict(zip(fingerprints.pixels[rows][::-1].tolist(), rows[::-1].tolist(), strict=True))
    identical = [(first[pixels], row) for row in test_rows.tolist() if (pixels := others.pixels[row]) in first]
    alike, skipped = find_alike_cached(request)
    patients: Array = np.array([], dtype=str)
    if trained.has_patients and tested.has_patients and not request.distinct_patients:
        trained_keys = set(map(patient_key, trained.patients[seen].tolist()))
        shared = {name for name in tested.patients.tolist() if patient_key(name) in trained_keys}
        patients = np.array(sorted(shared), dtype=str)
    return Overlap(
        identical=np.array(identical, dtype=np.int64).reshape(-1, 2),
        alike=alike[seen[alike[:, 0]]],
        patients=patients,
        skipped=skipped,
    )


def find_alike_cached(request: OverlapRequest) -> tuple[Array, str]:
    """Call `find_alike_across`, cached by the pixel hashes of both datasets."""
    trained, trained_prints = request.dataset.source, request.dataset.fingerprints
    tested, tested_prints = request.external.source, request.external.fingerprints
    key = hash_bytes(*trained_prints.pixels.tolist(), "and", *tested_prints.pixels.tolist())
    path = request.cache / "fingerprints" / f"{key[:20]}-across-v{FINGERPRINTS_VERSION}.npz"
    cached = load_arrays(path)
    if cached is None or set(cached) != {"alike", "skipped"}:
        alike, skipped = find_alike_across(trained, trained_prints, tested, tested_prints, request.progress)
        save_arrays(path, alike=alike, skipped=skipped)
        return alike, skipped
    return cached["alike"], str(cached["skipped"])


def find_overlapping(external: External, overlap: Overlap) -> Array:
    """Mark the test images that are duplicates or near-duplicates, or whose patient has one: bool (n,)."""
    source = external.source
    copies = np.zeros(len(source.sample_ids), bool)
    copies[overlap.identical[:, 1]] = True
    copies[overlap.alike[:, 1]] = True
    of_patients: Array = np.isin(source.patients, np.concatenate([overlap.patients, source.patients[copies]]))
    return copies | of_patients


def audit_external(dataset: str, external: External) -> Audit:
    """Return the audit of a training set and an external test set."""
    return Audit(dataset=f"{dataset} -> {external.name}", findings=worst_first(external.findings), is_pair=True)


def describe_overlap(
    trained: OpenDataset, external: External, overlap: Overlap, distinct_patients: bool
) -> Iterator[Finding]:
    tested, fix = external.source, OVERLAP_FIX.format(external.name)
    both = f"{trained.spec.name} (train or val) and {external.name}"
    if len(overlap.identical):
        a, b = overlap.identical[0]
        yield Finding(
            check="identical",
            verdict="refuse",
            splits=(),
            samples=name_samples(tested, overlap.identical[:, 1]),
            count=len(overlap.identical),
            message=f"{trained.sample_ids[a]} and {tested.sample_ids[b]} are the same image: "
            f"{len(overlap.identical)} images are in both {both}",
            fix=fix,
        )
    if len(overlap.patients):
        shared = np.flatnonzero(np.isin(tested.patients, overlap.patients))
        word = tested.patient_word
        yield Finding(
            check="patient",
            verdict="refuse",
            splits=(),
            samples=name_samples(tested, shared),
            count=len(shared),
            message=f"{word} {str(overlap.patients[0])!r} is in both {both}; in total {len(overlap.patients)} "
            f"{plural_of(word)}, with {len(shared)} test images",
            fix=FIX_PATIENTS + fix,
        )
    if len(overlap.alike):
        a, b = overlap.alike[0]
        tested_rows = np.unique(overlap.alike[:, 1])
        share = len(tested_rows) / len(tested.sample_ids)
        yield Finding(
            check="near-duplicate",
            verdict="refuse" if share > MAX_ALIKE else "warn",
            splits=(),
            samples=name_samples(tested, tested_rows),
            count=len(overlap.alike),
            message=f"{trained.sample_ids[a]} and {tested.sample_ids[b]} are near-duplicates; {share:.1%} of the "
            f"test images have a near-duplicate in train or val of {trained.spec.name}",
            fix=fix,
        )
    split_of = np.full(len(tested.sample_ids), "test")
    yield from find_label_conflicts(tested, split_of, external.fingerprints)
    yield from find_identical(tested, split_of, external.fingerprints)
    yield from find_odd_images(tested, external.fingerprints)
    if overlap.skipped:
        yield note("near-duplicate", f"near-duplicates were not checked: {overlap.skipped}")
    if not distinct_patients and not (trained.has_patients and tested.has_patients):
        yield note("patient", f"no patient key in both datasets: patients in both {both} cannot be detected")

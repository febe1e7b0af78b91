"""The scope of an audit: the checks that were made, and the reason for each that was skipped."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from zoo.auditing.levels import level_columns, list_targets
from zoo.data.fingerprints import Fingerprints
from zoo.data.opening import OpenDataset
from zoo.data.splits import unit_word
from zoo.errors import plural_of

MIN_AUDIT_CASES = 30  # images in each of two classes, for the check of predictive columns
COLUMN_FOLDS = 5
BY_PLACE = ("file", "row")  # patients identified by file or row only, not by name


@dataclass(frozen=True, kw_only=True)
class Scope:
    """The size of a dataset, the checks that apply to it, and the checks that were skipped."""

    num_images: int
    num_patients: int | None  # None without a patient key
    patient_word: str  # "patient", "lesion"
    checks: Mapping[str, str]  # check -> what it detects
    skipped: Mapping[str, str]  # check -> reason

    def describe(self, failed: Collection[str]) -> dict[str, Any]:
        """Return plain data for JSON; `failed` are the checks with a warning or refusal."""
        return {
            "images": self.num_images,
            "patients": self.num_patients,
            "clean": self.passed(failed),
            "not_looked_at": dict(self.skipped),
        }

    def passed(self, failed: Collection[str]) -> list[str]:
        return [check for check in self.checks if check not in self.skipped and check not in failed]

    def size(self) -> str:
        """Return for example `230 images of 110 patients`."""
        text = plural(self.num_images, "image")
        return text if self.num_patients is None else f"{text} of {plural(self.num_patients, self.patient_word)}"

    def summary(self, failed: Collection[str]) -> str:
        """Return for example `no duplicates across splits, ...; not checked: ...`."""
        passed = ", ".join(self.checks[check] for check in self.passed(failed))
        skipped = ", ".join(f"{self.checks[check]} ({reason})" for check, reason in self.skipped.items())
        parts = [f"no {passed}" if passed else "", f"not checked: {skipped}" if skipped else ""]
        return "; ".join(filter(None, parts))


def plural(count: int, word: str) -> str:
    return f"{count} {word if count == 1 else plural_of(word)}"


def find_scope(source: OpenDataset, fingerprints: Fingerprints, *, has_official: bool) -> Scope:
    """Determine which checks of docs/audit.md apply; checks without an input (a patient, a column) are omitted.

    `has_official`: the card has a checksum for at least one of the dataset's files.
    """
    word = source.patient_word
    checks = {
        "label-conflict": "conflicting labels",
        "identical": "duplicates across splits",
        "identical-within": "duplicates within a split",
        "patient": f"shared {plural_of(word)}" if source.has_patients else "patients",
        "patient-spelling": f"{plural_of(word)} spelled in several ways",
        "near-duplicate": "near-duplicates",
        "class-absent": "missing classes" if source.task.classes else "missing labels",
        "mask-copied": "copied masks",
        "blank": "blank images",
        "size": "unusual sizes",
        "metadata": "predictive columns",
        "levels": "levels by label",
        "checksum": "unofficial files",
    }
    if not source.has_patients or source.spec.patient in BY_PLACE:
        del checks["patient-spelling"]
    if not level_columns(source):
        del checks["levels"]
    if not source.mask_digests:
        del checks["mask-copied"]
    if not has_official:
        del checks["checksum"]
    reasons = {
        "patient": "" if source.has_patients else "no patient key",
        "near-duplicate": why_no_near_duplicates(source, fingerprints),
        "class-absent": "" if source.task.labeled else not_applicable(source),
        "metadata": why_no_predictive_columns(source),
        "levels": "" if any(list_targets(source)) or "levels" not in checks else not_applicable(source),
    }
    return Scope(
        num_images=len(source.sample_ids),
        num_patients=len(np.unique(source.patients)) if source.has_patients else None,
        patient_word=word,
        checks=checks,
        skipped={check: reason for check, reason in reasons.items() if reason},
    )


def not_applicable(source: OpenDataset) -> str:
    return f"does not apply to {source.task.presentation.title}"


def why_no_near_duplicates(source: OpenDataset, fingerprints: Fingerprints) -> str:
    """Return why near-duplicates were not checked, or ""."""
    return "ignored by its card" if source.spec.near_duplicates == "ignore" else fingerprints.skipped


def why_no_predictive_columns(source: OpenDataset) -> str:
    """Return why predictive columns cannot be checked, or ""."""
    if not source.task.classes:
        return not_applicable(source)
    rows, present = rows_of_frequent_classes(source)
    if len(present) < 2:
        return f"no two classes with {MIN_AUDIT_CASES} images each"
    too_few = len(np.unique(source.patients[rows])) < COLUMN_FOLDS
    return f"fewer than {COLUMN_FOLDS} {plural_of(unit_word(source))}" if too_few else ""


def rows_of_frequent_classes(source: OpenDataset) -> tuple[Any, Any]:
    """Return the rows of all classes with at least MIN_AUDIT_CASES images, and these classes."""
    targets = np.asarray(source.samples.targets)
    present = np.flatnonzero(np.bincount(targets, minlength=len(source.spec.labels)) >= MIN_AUDIT_CASES)
    return np.flatnonzero(np.isin(targets, present)), present

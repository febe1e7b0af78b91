"""The scope of an audit: what it looked at, what it could not look at, and why."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from zoo.audit.levels import level_columns
from zoo.data.fingerprints import Fingerprints
from zoo.data.opening import OpenDataset
from zoo.data.splits import unit_word
from zoo.tasks.kinds import REGRESSION

MIN_AUDIT_CASES = 30  # of two classes, before a column of metadata is said to predict them
COLUMN_FOLDS = 5
BY_PLACE = ("file", "row")  # patients that nobody named: the place of an image stands for them


@dataclass(frozen=True, kw_only=True)
class Scope:
    """What there is, what the checks of it look for, and why some were not made."""

    num_images: int
    num_patients: int | None  # None: there is no patient key
    patient_word: str  # "patient", "lesion"
    sought: Mapping[str, str]  # check -> what it looks for
    not_made: Mapping[str, str]  # check -> why

    def describe(self, found: Collection[str]) -> dict[str, Any]:
        """As plain data; `found` are the checks that found something."""
        return {
            "images": self.num_images,
            "patients": self.num_patients,
            "clean": self.found_clean(found),
            "not_looked_at": dict(self.not_made),
        }

    def found_clean(self, found: Collection[str]) -> list[str]:
        return [check for check in self.sought if check not in self.not_made and check not in found]

    def counted(self) -> str:
        """`230 images of 110 patients`."""
        text = plural(self.num_images, "image")
        return text if self.num_patients is None else f"{text} of {plural(self.num_patients, self.patient_word)}"

    def clean(self, found: Collection[str]) -> str:
        """`no copies across splits, ...; not looked at: ...`."""
        nothing = ", ".join(self.sought[check] for check in self.found_clean(found))
        skipped = ", ".join(f"{self.sought[check]} ({reason})" for check, reason in self.not_made.items())
        parts = [f"no {nothing}" if nothing else "", f"not looked at: {skipped}" if skipped else ""]
        return "; ".join(filter(None, parts))


def plural(count: int, word: str) -> str:
    return f"{count} {word}{'s' * (count != 1)}"


def find_scope(source: OpenDataset, fingerprints: Fingerprints, *, has_official: bool) -> Scope:
    """Which checks of docs/audit.md can be made; those that mean nothing of such a set are not named at all.

    `has_official`: the card has the checksum of one of its files at least.
    """
    word = unit_word(source) if source.has_patients else "patient"
    sought = {
        "label-conflict": "conflicting labels",
        "identical": "copies across splits",
        "identical-within": "copies within a split",
        "patient": f"shared {word}s" if source.has_patients else "patients",
        "patient-spelling": f"{word}s spelt in two ways",
        "near-duplicate": "look-alikes",
        "class-absent": "absent classes" if source.task.classes else "absent labels",
        "blank": "blank images",
        "size": "odd sizes",
        "metadata": "telling columns",
        "levels": "levels by label",
        "checksum": "unofficial files",
    }
    if not source.has_patients or source.spec.patient in BY_PLACE:
        del sought["patient-spelling"]
    if not level_columns(source):
        del sought["levels"]
    if source.task == REGRESSION:
        del sought["class-absent"]
    if not has_official:
        del sought["checksum"]
    reasons = {
        "patient": "" if source.has_patients else "no patient key",
        "near-duplicate": why_none_alike(source, fingerprints),
        "metadata": why_none_telling(source),
    }
    return Scope(
        num_images=len(source.sample_ids),
        num_patients=len(np.unique(source.patients)) if source.has_patients else None,
        patient_word=word,
        sought=sought,
        not_made={check: reason for check, reason in reasons.items() if reason},
    )


def why_none_alike(source: OpenDataset, fingerprints: Fingerprints) -> str:
    """Why images were not compared by what they look like; "" where they were."""
    return "its card says to ignore them" if source.spec.near_duplicates == "ignore" else fingerprints.skipped


def why_none_telling(source: OpenDataset) -> str:
    """Why no column can be said to stand for the label; "" where one can."""
    if source.task == REGRESSION:
        return "the label is a quantity"
    if not source.task.classes:
        return "an image may have several labels"
    rows, present = rows_of_frequent_classes(source)
    if len(present) < 2:
        return f"under {MIN_AUDIT_CASES} images of two classes"
    few = len(np.unique(source.patients[rows])) < COLUMN_FOLDS
    return f"under {COLUMN_FOLDS} {unit_word(source)}s" if few else ""


def rows_of_frequent_classes(source: OpenDataset) -> tuple[Any, Any]:
    """The images of the classes that have enough of them (n,), and these classes."""
    targets = np.asarray(source.samples.targets)
    present = np.flatnonzero(np.bincount(targets, minlength=len(source.spec.labels)) >= MIN_AUDIT_CASES)
    return np.flatnonzero(np.isin(targets, present)), present

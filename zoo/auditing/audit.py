"""Audit an opened, decoded and split dataset before training.

docs/audit.md lists the checks and their verdicts. A split drawn by zoo keeps patients and copies together, so only
official splits can leak.
"""

from __future__ import annotations

import numpy as np

from zoo.auditing.classes import count_empty_masks, find_missing_classes
from zoo.auditing.columns import find_levels_by_label, find_predictive_columns
from zoo.auditing.copies import find_copied_masks, find_identical, find_label_conflicts, find_near_duplicates
from zoo.auditing.files import (
    find_checksum_mismatches,
    find_odd_images,
    list_ambiguities,
    list_checksums,
    list_skipped_checks,
)
from zoo.auditing.findings import Audit, worst_first
from zoo.auditing.patients import find_shared_patients, find_spellings
from zoo.auditing.scope import find_scope
from zoo.data.fingerprints import Fingerprints
from zoo.data.opening import OpenDataset
from zoo.data.splits import Split


def run_audit(source: OpenDataset, split: Split, fingerprints: Fingerprints) -> Audit:
    """Check for leaks between splits, conflicting labels, and shortcuts that predict the label."""
    split_of = split.folds[0]
    # Images removed by --drop-leaks keep their label, which may conflict with that of their copy.
    official = np.where(split_of == "", source.splits, split_of)
    findings = [
        *find_label_conflicts(source, official, fingerprints),
        *find_identical(source, split_of, fingerprints),
        *find_shared_patients(source, split_of),
        *find_spellings(source, split_of),
        *find_near_duplicates(source, split, fingerprints),
        *find_missing_classes(source, split),
        *find_copied_masks(source, split_of, fingerprints),
        *find_odd_images(source, fingerprints),
        *find_predictive_columns(source, fingerprints),
        *find_levels_by_label(source),
        *find_checksum_mismatches(source),
        *count_empty_masks(source, split_of),
        *list_ambiguities(source),
        *list_skipped_checks(source, fingerprints),
    ]
    scope = find_scope(source, fingerprints, has_official=any(list_checksums(source)))
    return Audit(dataset=source.spec.name, findings=worst_first(findings), scope=scope)

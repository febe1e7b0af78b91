"""Find blank images, odd sizes, files that differ from their checksum, and files that could be read in two ways."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

import numpy as np

from zoo.auditing.findings import Finding, and_more, name_samples, note
from zoo.data.fingerprints import Fingerprints
from zoo.data.opening import OpenDataset
from zoo.system.files import cache_root, hash_file
from zoo.system.memo import FileMemo

ODD_SIDE = 4.0  # longest side: this many times longer or shorter than the median


def find_odd_images(source: OpenDataset, fingerprints: Fingerprints) -> Iterator[Finding]:
    blank = np.flatnonzero(fingerprints.blank)
    if len(blank):
        yield Finding(
            check="blank",
            verdict="warn",
            splits=(),
            samples=name_samples(source, blank),
            count=len(blank),
            message=f"{source.sample_ids[blank[0]]} is blank: all pixels are equal" + and_more(len(blank) - 1, "image"),
        )
    sides = np.maximum(fingerprints.widths, fingerprints.heights)
    middle = float(np.median(sides))
    odd = np.flatnonzero((sides > ODD_SIDE * middle) | (sides * ODD_SIDE < middle))
    if len(odd):
        row = int(odd[0])
        yield Finding(
            check="size",
            verdict="warn",
            splits=(),
            samples=name_samples(source, odd),
            count=len(odd),
            message=f"{source.sample_ids[row]} is {fingerprints.widths[row]} x {fingerprints.heights[row]}, "
            f"the median of the longest side is {middle:.0f}" + and_more(len(odd) - 1, "image"),
        )


def find_checksum_mismatches(source: OpenDataset) -> Iterator[Finding]:
    """Report files that differ from the card's checksums."""
    if not source.spec.checksums:
        return
    memo = FileMemo(cache_root(), what="md5", find=partial(hash_file, algorithm="md5"))
    try:
        for path, expected in list_checksums(source):
            if (md5 := memo(path)) != expected:
                yield Finding(
                    check="checksum",
                    verdict="warn",
                    splits=(),
                    samples=(),
                    count=1,
                    message=f"{path.name} is not the official file: its md5 is {md5}, expected {expected} by the card",
                )
    finally:
        memo.close()


def list_checksums(source: OpenDataset) -> Iterator[tuple[Path, str]]:
    """Yield each file for which the card has a checksum, with that checksum."""
    for path in dict.fromkeys((*source.samples.files, *source.samples.tables)) if source.spec.checksums else ():
        if expected := checksum_of(path, source.spec.checksums):
            yield path, expected


def checksum_of(path: Path, checksums: Mapping[str, str]) -> str:
    """Return a file's checksum by its name or its path below the root, or ""."""
    place = path.as_posix()
    return next((md5 for name, md5 in checksums.items() if place.endswith(f"/{name}")), "")


def list_ambiguities(source: OpenDataset) -> Iterator[Finding]:
    """Report ambiguities met while reading the files: images without a patient, unused tables."""
    for ambiguity in source.samples.doubts:
        yield Finding(
            check=ambiguity.check,
            verdict="warn",
            splits=(),
            samples=(),
            count=ambiguity.count,
            message=ambiguity.message,
            fix=ambiguity.fix,
        )


def list_skipped_checks(source: OpenDataset, fingerprints: Fingerprints) -> Iterator[Finding]:
    """Note each skipped check with its reason."""
    if fingerprints.skipped:
        yield note("near-duplicate", f"near-duplicates were not checked: {fingerprints.skipped}")
    if not source.has_patients:
        yield note("patient", "no patient key: patients in two splits cannot be detected")

"""Files that a pattern names to the images of the set among them: no reports, no screen captures, slices in order."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from zoo.errors import DataError
from zoo.images.reading import Header
from zoo.sources.cards import Captures
from zoo.sources.headers import Headers


@dataclass(frozen=True, eq=False)
class Screened:
    """The files of a set, and those that are no images of it, with what they are instead."""

    files: dict[str, Captures]
    spare: dict[str, Captures]  # secondary captures, localizers, ...: images after all where a row names them
    skipped: dict[str, str]  # file -> why; those without pixels and the spare ones
    notes: tuple[str, ...]


def screen(files: dict[str, Captures], headers: Headers) -> Screened:
    """What is left out is counted by reason. Where all images are of the same odd kind, they are the set."""
    telling = headers.tagged(files)
    files = in_series_order(files, telling)
    skipped = {file: header.skip for file, header in telling.items() if header.skip}
    spare = {file: files[file] for file in skipped if telling[file].width}
    kept = {file: captures for file, captures in files.items() if file not in skipped}
    notes = []
    if not kept and spare:
        kinds = ", ".join(sorted({skipped[file] for file in spare}))
        notes.append(f"all {len(spare)} images are of the kind {kinds}: they are read nevertheless")
        kept, spare = {file: files[file] for file in files if file in spare}, {}
        skipped = {file: why for file, why in skipped.items() if file not in kept}
    if not kept:
        file, why = next(iter(skipped.items()))
        raise DataError(
            f"{headers.root}: none of {len(skipped)} files is an image; {file}: {why}",
            fix="convert them to PNG, or name the folder that holds images",
        )
    notes += [f"{count} files left out: {why}" for why, count in Counter(skipped.values()).items()]
    return Screened(kept, spare, skipped, tuple(notes))


def in_series_order(files: dict[str, Captures], telling: Mapping[str, Header]) -> dict[str, Captures]:
    """DICOM slices by InstanceNumber, each series where its first file stands in its folder; others as they are."""
    place = {file: number for number, file in enumerate(files)}
    first: dict[tuple[str, str], int] = {}

    def key(file: str) -> tuple[int, int, int]:
        tags = telling[file].tags if file in telling else {}
        number = tags.get("InstanceNumber", "")
        if not tags.get("SeriesInstanceUID") or not re.fullmatch(r"-?\d{1,9}", number):
            return place[file], 0, 0
        series = (file.rpartition("/")[0], tags["SeriesInstanceUID"])
        return first.setdefault(series, place[file]), int(number), place[file]

    keys = {file: key(file) for file in files}
    return {file: files[file] for file in sorted(files, key=keys.__getitem__)}
